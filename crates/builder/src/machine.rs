//! What this process may do here, and where its state lives.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use cache::{Snapshotter, Store, StoreOptions};
use executor::Identity;

use crate::disabled::Disabled;
use crate::failure::Failure;
use crate::terminal;

/// The machine as this process may use it.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Root, or root of a user namespace.
    pub(crate) identity: Identity,
    /// The state directory.
    pub(crate) home: PathBuf,
}

impl Machine {
    /// Enters the user namespace of an ordinary user. Call it before any thread starts.
    pub(crate) fn enter() -> Result<Machine, Failure> {
        // Inside the namespace everybody is root: ask before.
        let home = home()?;
        let identity = executor::enter_user_namespace()?;
        Ok(Machine { identity, home })
    }

    /// What does not work here although builds do, in one line.
    pub(crate) fn warning(&self) -> Option<String> {
        let Identity::SingleId { reason } = &self.identity else { return None };
        Some(format!(
            "{reason}, so there is one user id for everything: owners of files are only recorded, and programs in RUN \
             cannot become another user. For more ids install uidmap, and add the line USER:100000:65536 to /etc/subuid and \
             /etc/subgid."
        ))
    }

    /// Opens the state directory. Call it before any thread starts.
    pub(crate) fn store(&self) -> Result<Store, Failure> {
        self.store_at(&self.home)
    }

    /// Opens another state directory. Call it before any thread starts.
    pub(crate) fn store_at(&self, home: &Path) -> Result<Store, Failure> {
        let userxattr = self.identity.needs_userxattr();
        let recorded_owners = matches!(self.identity, Identity::SingleId { .. });
        let disabled = Disabled::from_env()?;
        let options = StoreOptions {
            userxattr,
            recorded_owners,
            forget_chunks: disabled.chunks,
            snapshotter: if disabled.overlay { Snapshotter::Copying } else { self.snapshotter(home) },
        };
        Ok(Store::open(home, options)?)
    }

    /// How the trees that RUN writes to are made: by overlay wherever it can be mounted. Root can; for others it depends on the kernel
    /// and on what keeps them in.
    fn snapshotter(&self, home: &Path) -> Snapshotter {
        if self.identity == Identity::Root {
            return Snapshotter::Overlay;
        }
        // Where it cannot even be tried the store says what is wrong with the place.
        let Ok(trial) = trial(home) else { return Snapshotter::Overlay };
        match executor::try_overlay(trial.path(), self.identity.needs_userxattr()) {
            Ok(()) => Snapshotter::Overlay,
            Err(error) => {
                terminal::tell(&format!(
                    "WARNING: overlay cannot be mounted here ({error}): every RUN works in a full copy of its file system, which \
                     is slow.\n"
                ));
                Snapshotter::Copying
            }
        }
    }
}

/// A directory of the state directory for something that is tried there.
fn trial(home: &Path) -> std::io::Result<tempfile::TempDir> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(home)?;
    tempfile::Builder::new().prefix("trial-").tempdir_in(home)
}

/// The state directory: `$BUILDER_HOME`, else where the machine keeps such things.
pub(crate) fn home() -> Result<PathBuf, Failure> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(home) = variable("BUILDER_HOME") {
        return std::path::absolute(&home).map_err(|error| Failure::io("resolve", &home, &error));
    }
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/builder"));
    }
    // The XDG specification wants relative paths ignored.
    if let Some(data) = variable("XDG_DATA_HOME").filter(|path| path.is_absolute()) {
        return Ok(data.join("builder"));
    }
    match variable("HOME") {
        Some(home) => Ok(home.join(".local/share/builder")),
        None => Err(Failure::machine(
            "neither BUILDER_HOME nor HOME is set: there is no place for the state directory",
        )
        .hint("set BUILDER_HOME to a directory on a local disk")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_id_is_worth_a_warning() {
        let machine = |identity| Machine { identity, home: PathBuf::from("/x") };
        assert_eq!(machine(Identity::Root).warning(), None);
        let single = Identity::SingleId { reason: "/etc/subuid has no range for ann".to_owned() };
        let warning = machine(single).warning().unwrap();
        assert!(warning.starts_with("/etc/subuid has no range for ann"), "{warning}");
        assert!(warning.contains("uidmap") && !warning.contains('\n'), "{warning}");
    }
}
