//! Limits as data: of each process, and of all of a step's processes together.

use std::path::PathBuf;

use rustix::process::{Resource, Rlimit};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::fault::{Fault, reason};

/// A limit of each process (setrlimit(2)), named as in `docker --ulimit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `core`, `cpu`, `data`, `fsize`, `locks`, `memlock`, `msgqueue`, `nice`, `nofile`, `nproc`, `rss`, `rtprio`,
    /// `rttime`, `sigpending` or `stack`; `as` too, which Docker lacks.
    pub name: String,
    /// What a process gets at first; `u64::MAX` is none.
    pub soft: u64,
    /// Up to where it may raise that.
    pub hard: u64,
}

impl Ulimit {
    /// Says whether the kernel has such a limit and its values make sense.
    ///
    /// # Errors
    /// [`Error::Setup`] names what is wrong.
    pub fn check(&self) -> Result<(), Error> {
        self.resource().map(drop).map_err(Error::from)
    }

    fn resource(&self) -> Result<Resource, Fault> {
        let fail = |why: &str| Fault::Setup(format!("set the ulimit {}: {why}", self.name));
        let known = NAMES.iter().find(|(name, _)| *name == self.name);
        let (_, resource) = known.ok_or_else(|| fail("there is no such limit"))?;
        if self.soft > self.hard {
            return Err(fail("the soft limit is above the hard one"));
        }
        Ok(*resource)
    }

    /// Takes this process under it.
    pub(crate) fn apply(&self) -> Result<(), Fault> {
        let value = |number: u64| (number != u64::MAX).then_some(number);
        let limit = Rlimit { current: value(self.soft), maximum: value(self.hard) };
        rustix::process::setrlimit(self.resource()?, limit).map_err(|error| {
            let text = format!(
                "set the ulimit {} to {}:{}: {}",
                self.name,
                self.soft,
                self.hard,
                reason(&error.into())
            );
            match error {
                rustix::io::Errno::PERM => {
                    Fault::Unsupported(format!("{text} (only root may go above the limit of this program)"))
                }
                _ => Fault::Setup(text),
            }
        })
    }
}

const NAMES: [(&str, Resource); 16] = [
    ("as", Resource::As),
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

/// Limits of all processes of a step together, enforced by cgroups. `None` is the surroundings' limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes, page cache included.
    pub memory: Option<u64>,
    /// Memory and swap together in bytes; -1 is no limit. `None` with a memory limit is twice that, as Docker has it,
    /// where the machine counts swap.
    pub memory_swap: Option<i64>,
    /// Weight against other groups, 2 to 262144; 1024 is usual.
    pub cpu_shares: Option<u64>,
    /// Length of a scheduling period in microseconds.
    pub cpu_period: Option<u64>,
    /// Processor time in such a period, in microseconds; -1 is no limit.
    pub cpu_quota: Option<i64>,
    /// Which processors: `0-3,7`.
    pub cpuset_cpus: Option<String>,
    /// Which memory nodes.
    pub cpuset_mems: Option<String>,
    /// Number of processes and threads.
    pub pids: Option<u64>,
    /// Where the group is made: a path from the top of each hierarchy. `None` is below the caller's own group on
    /// version 1; on version 2 below it or the nearest one above it whose children have the controllers, and that the caller may use; where there is
    /// none they are enabled, for which the processes of the caller's group move to one below it, `builder-callers`.
    pub cgroup_parent: Option<PathBuf>,
}

impl Limits {
    /// Whether anything is limited, or a place asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_limits_that_make_no_sense() {
        let limit = |name: &str, soft, hard| Ulimit { name: name.to_owned(), soft, hard };
        assert!(limit("nofile", 10, 20).check().is_ok());
        let error = limit("nofile", 30, 20).check().unwrap_err().to_string();
        assert_eq!(error, "set the ulimit nofile: the soft limit is above the hard one");
        let error = limit("files", 1, 1).check().unwrap_err().to_string();
        assert_eq!(error, "set the ulimit files: there is no such limit");
    }
}
