//! What this process may do here, and where its state lives.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cache::{CacheError, Opening, OverlayTrial, Snapshotter, Store, StoreOptions};
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
    /// How RUN's trees are made in it.
    snapshotter: OnceLock<Snapshotter>,
}

impl Machine {
    /// Enters the user namespace of an ordinary user. Call it before any thread starts.
    pub(crate) fn enter() -> Result<Machine, Failure> {
        // Inside the namespace everybody is root: ask before.
        let home = home()?;
        let identity = enter_user_namespace()??;
        Ok(Machine::of(identity, home))
    }

    /// This machine for whoever it was entered as, with its state elsewhere.
    pub(crate) fn of(identity: Identity, home: PathBuf) -> Machine {
        Machine { identity, home, snapshotter: OnceLock::new() }
    }

    /// What does not work here although builds do, in one line.
    pub(crate) fn warning(&self) -> Option<String> {
        let Identity::SingleId { reason } = &self.identity else { return None };
        let user = executor::SubordinateIds::of_caller().user;
        Some(format!(
            "{reason}, so there is one user id for everything: owners of files are only recorded, and programs in RUN \
             cannot become another user. For more ids, {}.",
            crate::commands::info::how_to_get_ids(&user)
        ))
    }

    /// Opens the state directory for a build: made when it is missing, and what is damaged of its database replaced, which the build
    /// tells. Call it before any thread starts.
    pub(crate) fn store(&self) -> Result<Store, Failure> {
        self.store_as(&self.home, Opening::Repair)
    }

    /// Opens it for something else that may be the first to be put there. Call it before any thread starts.
    pub(crate) fn store_or_new(&self) -> Result<Store, Failure> {
        self.store_as(&self.home, Opening::New)
    }

    /// Opens it for those who ask what is there. Call it before any thread starts.
    pub(crate) fn existing_store(&self) -> Result<Store, Failure> {
        self.store_as(&self.home, Opening::Existing)
    }

    /// The same for those who remove something of it, also on a full disk.
    pub(crate) fn store_to_remove(&self) -> Result<Store, Failure> {
        self.store_as(&self.home, Opening::ToRemove)
    }

    /// The same for those who can do something about what is wrong with it.
    pub(crate) fn try_existing_store(&self) -> Result<Result<Store, CacheError>, Failure> {
        self.open(&self.home, Opening::Existing)
    }

    /// Opens another state directory for a build. Call it before any thread starts.
    pub(crate) fn store_at(&self, home: &Path) -> Result<Store, Failure> {
        self.store_as(home, Opening::Repair)
    }

    fn store_as(&self, home: &Path, opening: Opening) -> Result<Store, Failure> {
        Ok(self.open(home, opening)??)
    }

    fn open(&self, home: &Path, opening: Opening) -> Result<Result<Store, CacheError>, Failure> {
        let userxattr = self.identity.needs_userxattr();
        let recorded_owners = matches!(self.identity, Identity::SingleId { .. });
        let disabled = Disabled::from_env()?;
        let mut opening = opening;
        if matches!(opening, Opening::Existing | Opening::ToRemove) && !Store::is_at(home) {
            // A path that somebody wrote may be mistyped. In the usual place there is simply nothing yet.
            if variable("BUILDER_HOME").is_some() {
                return Ok(Err(CacheError::Absent { path: home.to_owned() }));
            }
            opening = Opening::New;
        }
        let options = StoreOptions {
            userxattr,
            recorded_owners,
            separate_versions: disabled.versions,
            forget_chunks: disabled.chunks,
            plain_copies: disabled.reflink,
            snapshotter: match () {
                () if disabled.overlay => Snapshotter::Copying,
                () if home == self.home => self.snapshotter.get_or_init(|| self.snapshotter(home)).clone(),
                () => self.snapshotter(home),
            },
        };
        Ok(Store::open_as(home, options, opening))
    }

    /// How the trees that RUN writes to are made: by overlay wherever it can be mounted. Root can on what machines usually have; for
    /// others, and elsewhere, as on a container's own files, it depends on the kernel and on what keeps them in.
    fn snapshotter(&self, home: &Path) -> Snapshotter {
        if self.identity == Identity::Root && is_usual(home) {
            return Snapshotter::Overlay;
        }
        let (home, userxattr) = (home.to_owned(), self.identity.needs_userxattr());
        Snapshotter::Tried(OverlayTrial::new(move || {
            // Where it cannot even be tried the store says what is wrong with the place.
            let Ok(trial) = trial(&home) else { return Ok(()) };
            executor::try_overlay(trial.path(), userxattr).map_err(|error| error.to_string())
        }))
    }
}

/// Tells why steps are slow, where overlay was tried for one and cannot be mounted.
pub(crate) fn tell_refused_overlay(store: &Store) {
    if let Some(error) = store.overlay_refusal() {
        terminal::tell(&format!(
            "WARNING: overlay cannot be mounted here ({error}): every RUN works in a full copy of its file system, which is slow.\n"
        ));
    }
}

/// Whether a directory, or the nearest one above it that is there, is on a file system whose directories an overlay can consist of.
fn is_usual(home: &Path) -> bool {
    // The magic numbers of ext4, xfs, btrfs and tmpfs (statfs(2)).
    const USUAL: [u32; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994];
    let found = home.ancestors().find_map(|path| rustix::fs::statfs(path).ok());
    found.is_some_and(|found| USUAL.contains(&(found.f_type as u32)))
}

/// A directory of the state directory for something that is tried there.
fn trial(home: &Path) -> std::io::Result<tempfile::TempDir> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(home)?;
    tempfile::Builder::new().prefix("trial-").tempdir_in(home)
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The state directory: `$BUILDER_HOME`, else where the machine keeps such things.
pub(crate) fn home() -> Result<PathBuf, Failure> {
    if let Some(home) = variable("BUILDER_HOME") {
        return std::path::absolute(&home).map_err(|error| Failure::io("resolve", &home, &error));
    }
    if rustix::process::geteuid().is_root() {
        // Layers of the one kind cannot be read as those of the other.
        let name = if wants_user_namespace()? { "builder-userns" } else { "builder" };
        return Ok(Path::new("/var/lib").join(name));
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

/// Makes this process able to mount, root also by a user namespace of its own where `BUILDER_USERNS` asks for one. Call it before any
/// thread starts.
///
/// # Errors
/// Of usage, when the variable says neither yes nor no; inside, why it cannot be.
pub(crate) fn enter_user_namespace() -> Result<Result<Identity, executor::Error>, Failure> {
    Ok(if wants_user_namespace()? {
        executor::enter_new_user_namespace()
    } else {
        executor::enter_user_namespace()
    })
}

fn wants_user_namespace() -> Result<bool, Failure> {
    const VARIABLE: &str = "BUILDER_USERNS";
    match std::env::var_os(VARIABLE).unwrap_or_default().to_string_lossy().as_ref() {
        "" | "0" | "false" => Ok(false),
        "1" | "true" => Ok(true),
        other => Err(Failure::usage(format!("{VARIABLE}: {other:?} says neither yes nor no"))
            .hint("1 has root build in a user namespace as well")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_id_is_worth_a_warning() {
        let machine = |identity| Machine::of(identity, PathBuf::from("/x"));
        assert_eq!(machine(Identity::Root).warning(), None);
        let single = Identity::SingleId { reason: "/etc/subuid has no range for ann".to_owned() };
        let warning = machine(single).warning().unwrap();
        assert!(warning.starts_with("/etc/subuid has no range for ann"), "{warning}");
        assert!(warning.contains("uidmap") && !warning.contains('\n'), "{warning}");
        let user = executor::SubordinateIds::of_caller().user;
        assert!(warning.contains(&format!("100000-165535 {user}.")), "{warning}");
    }
}
