//! Has an external OCI runtime (runc, crun, or another that takes their command line) make the processes of steps.
//!
//! [`Runtime`] is an [`Executor`] with the results of [`executor::Sandbox`]: that one mounts the root file system with all
//! that belongs in it, guards the step and removes what it leaves; the runtime gets a bundle whose `config.json` says the
//! rest: namespaces, capabilities, seccomp profile, hidden paths, user, limits, control groups. It is called with `create` and
//! `start`; its state lies in memory that goes with the step.
//!
//! | who | makes |
//! |---|---|
//! | sandbox | overlay, `/dev`, `/sys`, mounts of the step, `/etc/hosts`, `/etc/resolv.conf`, network, ipc namespace, groups with limits |
//! | runtime | pid, mount, uts and cgroup namespaces, `/proc`, root change, capabilities, seccomp, hidden and read-only paths, device rules, user, limits of each process, keyring |
//!
//! The crate knows nothing of builds. What a runtime is not made to do (terminals, text that is not UTF-8) is an error that
//! says so.

#![warn(missing_docs)]

mod config;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use executor::{
    Defaults, Executor, External, Outcome, OutputSink, PrivateNetwork, ProcessSpec, Sandbox, Stdio,
};

use config::Config;

/// Names of runtimes that are known to work, the quicker one first.
pub const KNOWN: [&str; 2] = ["crun", "runc"];

/// Where programs are that only root calls, which a user's `PATH` may lack.
const FURTHER: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Why a runtime cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No program of this name is there.
    #[error("there is no runtime {0}: it is not in PATH")]
    Unknown(String),
    /// The path leads to no program.
    #[error("there is no runtime {path}: {reason}", path = path.display())]
    Unusable {
        /// What was named.
        path: PathBuf,
        /// Why it is none.
        reason: String,
    },
}

/// Runs processes through an OCI runtime.
#[derive(Clone, Debug)]
pub struct Runtime {
    program: PathBuf,
    sandbox: Sandbox,
}

impl Runtime {
    /// The runtime of a name in `PATH`, or at an absolute or relative path (anything with a slash).
    ///
    /// # Errors
    /// When there is no such program.
    pub fn find(name: &Path) -> Result<Self, Error> {
        let program = if name.as_os_str().as_encoded_bytes().contains(&b'/') {
            let unusable = |reason: String| Error::Unusable { path: name.to_owned(), reason };
            let program = name.canonicalize().map_err(|error| unusable(error.to_string()))?;
            if !is_program(&program) {
                return Err(unusable("it is no program".to_owned()));
            }
            program
        } else {
            search(name).ok_or_else(|| Error::Unknown(name.display().to_string()))?
        };
        Ok(Self { program, sandbox: Sandbox::new() })
    }

    /// The program's file.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The same process, to be made by the runtime.
    fn handed_over(&self, mut spec: ProcessSpec) -> Result<ProcessSpec, executor::Error> {
        if spec.stdio == Stdio::Terminal {
            return Err(self.cannot("a terminal of the process's own"));
        }
        let config = Config::new(&spec, Defaults::new()?).map_err(|what| self.cannot(&what))?;
        let config = serde_json::to_string(&config).map_err(|error| self.cannot(&error.to_string()))?;
        let enters_groups = self.enters_groups();
        let args = if enters_groups { Vec::new() } else { vec!["--cgroup-manager=disabled".into()] };
        spec.external = Some(External { program: self.program.clone(), args, enters_groups, config });
        Ok(spec)
    }

    /// crun refuses machines that have control groups of both versions, as long as it has to do with them.
    fn enters_groups(&self) -> bool {
        self.program.file_name().is_none_or(|name| name != "crun") || config::is_unified()
    }

    fn cannot(&self, what: &str) -> executor::Error {
        let program = self.program.display();
        executor::Error::Unsupported(format!(
            "the runtime {program} is not given {what}: leave out --runtime"
        ))
    }
}

#[async_trait]
impl Executor for Runtime {
    async fn run(&self, spec: ProcessSpec, output: &dyn OutputSink) -> Result<Outcome, executor::Error> {
        self.sandbox.run(self.handed_over(spec)?, output).await
    }

    async fn private_network(&self) -> Result<PrivateNetwork, executor::Error> {
        self.sandbox.private_network().await
    }
}

/// Those of [`KNOWN`] that are installed.
pub fn installed() -> Vec<PathBuf> {
    KNOWN.iter().filter_map(|name| search(Path::new(name))).collect()
}

fn search(name: &Path) -> Option<PathBuf> {
    let further = FURTHER.iter().map(|dir| Path::new(dir).join(name));
    executor::find_tool(name).into_iter().chain(further).find(|path| path.is_absolute() && is_program(path))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths() {
        let error = |name: &str| Runtime::find(Path::new(name)).unwrap_err().to_string();
        assert_eq!(error("no-such-runtime"), "there is no runtime no-such-runtime: it is not in PATH");
        assert!(
            error("./no-such-runtime").starts_with("there is no runtime ./no-such-runtime: No such file")
        );
        assert_eq!(error("/dev/null"), "there is no runtime /dev/null: it is no program");
        assert_eq!(
            Runtime::find(Path::new("/bin/sh")).unwrap().program(),
            Path::new("/bin/sh").canonicalize().unwrap()
        );
    }
}
