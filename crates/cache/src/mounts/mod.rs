//! Directories that outlive builds and that nobody keys: cache mounts, and repositories fetched from elsewhere.
//!
//! ```text
//! mounts-v1/<hash of id and seed>/
//!   name            which one it is, as JSON
//!   lock            flock, for moments: an instance is being chosen, put in place or removed
//!   making          flock: an instance is being made that others wait for
//!   <n>/            an instance; it is renamed to here when it is complete
//!     tree/         the directory
//!     owners        as beside a layer
//!     lock          flock: shared or exclusive, as long as somebody works in the tree
//!     uses          a byte for each use; its time is that of the last, that of `lock` is when the instance was made
//!     retired       if it is there: nobody gets this instance any more
//! ```
//!
//! There is no row in the database: a directory that is worth hours should not go with a broken one.

mod folder;
mod manage;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use files::{Attributes, DirectoryTree, Owners};

use crate::lock::Lock;
use crate::{CacheError, Store};
use folder::{Folder, Name};
pub use manage::{CacheMountInfo, ReadableCacheMount};

/// Who may use a directory at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// Everybody who shares.
    Shared,
    /// One; others get another directory.
    Private,
    /// One; others wait.
    Locked,
}

/// Which cache mount is wanted, and how.
#[derive(Debug, Clone)]
pub struct CacheMountOptions {
    /// Equal ids (and seeds) are the same directory.
    pub id: String,
    /// Names what a new one begins with; a mount that began otherwise is another one.
    pub seed: Option<String>,
    /// Who else may use it meanwhile.
    pub sharing: Sharing,
    /// Permissions of a new one, `0o7777`.
    pub mode: u32,
    /// Owner of a new one.
    pub uid: u32,
    /// Group of a new one.
    pub gid: u32,
    /// For `--no-cache`: what the build has begun anew.
    pub anew: Option<Anew>,
}

impl CacheMountOptions {
    /// Shared, mode 0755, owned by root, empty at first.
    pub fn new(id: impl Into<String>) -> CacheMountOptions {
        CacheMountOptions {
            id: id.into(),
            seed: None,
            sharing: Sharing::Shared,
            mode: 0o755,
            uid: 0,
            gid: 0,
            anew: None,
        }
    }
}

/// The mounts that a build with `--no-cache` has begun anew. When it asks for one first, those that are there are given to nobody any
/// more; from then on it gets what others get. No clock is asked: file systems and processes tell different times, and times jump.
#[derive(Debug, Clone, Default)]
pub struct Anew(Arc<Mutex<HashSet<PathBuf>>>);

impl Anew {
    /// The folders of those mounts. Whoever else of the build wants to choose waits.
    fn begun(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A directory to work in; while the value lives it is not removed, and used by others as its sharing says. The lock ends with
/// the process.
#[derive(Debug)]
pub struct CacheMount {
    folder: PathBuf,
    owners: Owners,
    _lock: Lock,
}

impl CacheMount {
    /// The directory.
    pub fn dir(&self) -> PathBuf {
        self.folder.join("tree")
    }

    /// How it keeps owners.
    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    /// Reads it.
    pub fn tree(&self) -> Result<DirectoryTree, CacheError> {
        Ok(DirectoryTree::open(&self.dir(), &self.owners)?)
    }
}

/// A kind of thing that is fetched from elsewhere and kept as a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RemoteKind {
    /// A git repository; its name is the address.
    Git,
}

impl RemoteKind {
    fn name(self) -> &'static str {
        match self {
            RemoteKind::Git => "git",
        }
    }
}

/// How long to leave a lock alone that somebody else holds: doubling from the first to the second.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

impl Store {
    /// A cache mount, `None` while another user or maker must be waited for. `seed` fills a new one, given its directory (empty, with
    /// the mode and owner asked for) and how it keeps owners; nobody sees it before `seed` has returned `Ok`.
    ///
    /// # Errors
    /// Those of `seed`, and when the state directory cannot be used.
    pub fn try_cache_mount<E: From<CacheError>>(
        &self,
        options: &CacheMountOptions,
        seed: impl FnOnce(&Path, &Owners) -> Result<(), E>,
    ) -> Result<Option<CacheMount>, E> {
        let name = Name { id: options.id.clone(), seed: options.seed.clone() };
        let root =
            Attributes { uid: options.uid, gid: options.gid, ..Attributes::with_mode(options.mode & 0o7777) };
        let folder = Folder::open(self, &self.inner.layout.mounts(), name)?;
        folder.acquire(options.sharing, options.anew.as_ref(), &root, seed)
    }

    /// Likewise, and waits, asking `cancelled` meanwhile: `None` once that is true. Blocks: call it where that is allowed.
    ///
    /// # Errors
    /// As [`Store::try_cache_mount`].
    pub fn cache_mount<E: From<CacheError>>(
        &self,
        options: &CacheMountOptions,
        mut seed: impl FnMut(&Path, &Owners) -> Result<(), E>,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Option<CacheMount>, E> {
        wait(cancelled, || self.try_cache_mount(options, &mut seed))
    }

    /// A directory for one user at a time, in which something from elsewhere is kept between builds: `None` while another has it.
    /// Empty at first.
    pub fn try_remote_dir(&self, kind: RemoteKind, name: &str) -> Result<Option<CacheMount>, CacheError> {
        let name = Name { id: name.to_owned(), seed: Some(kind.name().to_owned()) };
        let folder = Folder::open(self, &self.inner.layout.remotes(), name)?;
        folder.acquire(Sharing::Locked, None, &Attributes::with_mode(0o700), |_, _| Ok(()))
    }

    /// Likewise, and waits as [`Store::cache_mount`] does.
    pub fn remote_dir(
        &self,
        kind: RemoteKind,
        name: &str,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Option<CacheMount>, CacheError> {
        wait(cancelled, || self.try_remote_dir(kind, name))
    }
}

fn wait<T, E>(
    cancelled: &dyn Fn() -> bool,
    mut attempt: impl FnMut() -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    let (mut pause, longest) = BACK_OFF;
    while !cancelled() {
        if let Some(found) = attempt()? {
            return Ok(Some(found));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(longest);
    }
    Ok(None)
}
