use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, IFlags, flock};

use crate::CacheError;
use crate::error::At;
use crate::layout::create_dir;
use crate::remove::remove_tree;

/// Suffix of the lock file that stands beside a process's folder.
const LOCK: &str = "lock";

/// Room for unfinished things of this process: `tmp-v1/NAME/`, with the lock file `tmp-v1/NAME.lock` held as long as the
/// process lives. The lock file is there before the folder and goes after it, so a folder whose lock is free or absent is a
/// dead process's.
///
/// What one process makes is far from what another made or removed ([`spread`]).
#[derive(Debug)]
pub(crate) struct Scratch {
    parent: PathBuf,
    mine: Mutex<Option<Mine>>,
    next: AtomicU64,
    removals: Arc<Removals>,
}

/// How many removals go on.
#[derive(Debug, Default)]
struct Removals {
    number: Mutex<usize>,
    fewer: Condvar,
}

impl Removals {
    fn number(&self) -> MutexGuard<'_, usize> {
        self.number.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) {
        let mut number = self.number();
        while *number > 0 {
            number = self.fewer.wait(number).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[derive(Debug)]
struct Mine {
    folder: PathBuf,
    lock_path: PathBuf,
    /// Held until dropped.
    _lock: File,
}

impl Scratch {
    pub(crate) fn new(parent: PathBuf) -> Scratch {
        Scratch { parent, mine: Mutex::new(None), next: AtomicU64::new(1), removals: Arc::default() }
    }

    /// A path at which nothing stands yet, on the same file system as everything else here.
    pub(crate) fn fresh(&self) -> Result<PathBuf, CacheError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Ok(self.folder()?.join(number.to_string()))
    }

    /// Removes something that [`Self::fresh`] has named, while the caller goes on.
    pub(crate) fn discard(&self, path: PathBuf) {
        let removals = self.removals.clone();
        *removals.number() += 1;
        rayon::spawn(move || {
            // What is left goes with the folder.
            let _ = remove_tree(&path);
            *removals.number() -= 1;
            removals.fewer.notify_all();
        });
    }

    /// Moves a file or tree out of sight at once; removing it may take longer.
    pub(crate) fn take_away(&self, path: &Path) -> Result<Option<PathBuf>, CacheError> {
        let target = self.fresh()?;
        match fs::rename(path, &target) {
            Ok(()) => Ok(Some(target)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("rename", path),
        }
    }

    fn folder(&self) -> Result<PathBuf, CacheError> {
        let mut mine = self.mine.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mine) = &*mine {
            return Ok(mine.folder.clone());
        }
        let made = claim_folder(&self.parent)?;
        Ok(mine.insert(made).folder.clone())
    }

    /// Removes what killed processes left. Returns the bytes and files freed.
    pub(crate) fn remove_leftovers(&self) -> Result<(), CacheError> {
        for entry in fs::read_dir(&self.parent).at("list", &self.parent)? {
            let path = entry.at("list", &self.parent)?.path();
            if path.extension().is_some_and(|extension| extension == LOCK) {
                remove_if_dead(&path)?;
            } else if !path.with_extension(LOCK).exists() {
                remove_tree(&path)?;
            }
        }
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.removals.wait();
        let mine = self.mine.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(mine) = mine.take()
            && remove_tree(&mine.folder).is_ok()
        {
            let _ = fs::remove_file(&mine.lock_path);
        }
    }
}

fn claim_folder(parent: &Path) -> Result<Mine, CacheError> {
    loop {
        let file = tempfile::Builder::new()
            .prefix(&format!("{}-", std::process::id()))
            .suffix(".lock")
            .tempfile_in(parent)
            .at("create a file in", parent)?;
        let (lock, lock_path) = file.keep().map_err(|error| error.error).at("keep", parent)?;
        flock(&lock, FlockOperation::LockExclusive).at("lock", &lock_path)?;
        // Between creation and locking somebody may have taken it for a dead process's.
        if !is_at(&lock, &lock_path)? {
            continue;
        }
        let folder = lock_path.with_extension("");
        spread(parent);
        create_dir(&folder, 0o700)?;
        return Ok(Mine { folder, lock_path, _lock: lock });
    }
}

/// Tells ext4 that what is in the folders of a directory has nothing to do with each other (`chattr +T`, `EXT4_TOPDIR_FL`): each new one then
/// gets a part of the disk of its own. Otherwise they all crowd where the directory is, and where much was removed a moment ago, by
/// a prune or the build before, each new file costs a look at every inode that was freed there within the last minutes
/// (`recently_deleted` in fs/ext4/ialloc.c, where there is no journal): several times what making the file costs. Other file systems refuse the flag or
/// have no use for it.
fn spread(directory: &Path) {
    let Ok(opened) = File::open(directory) else { return };
    if let Ok(flags) = rustix::fs::ioctl_getflags(&opened)
        && !flags.contains(IFlags::TOPDIR)
    {
        let _ = rustix::fs::ioctl_setflags(&opened, flags | IFlags::TOPDIR);
    }
}

fn remove_if_dead(lock_path: &Path) -> Result<(), CacheError> {
    let lock = match File::open(lock_path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.at("open", lock_path)?,
    };
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() || !is_at(&lock, lock_path)? {
        return Ok(());
    }
    remove_tree(&lock_path.with_extension(""))?;
    fs::remove_file(lock_path).at("remove", lock_path)
}

/// Whether `path` still names the open file: a lock on a file that was unlinked meanwhile protects nothing.
pub(crate) fn is_at(file: &File, path: &Path) -> Result<bool, CacheError> {
    let open = file.metadata().at("examine", path)?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).at("examine", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_discarded_is_gone_before_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(dir.path().to_owned());
        for _ in 0..20 {
            let path = scratch.fresh().unwrap();
            fs::create_dir_all(path.join("a/b")).unwrap();
            scratch.discard(path);
        }
        drop(scratch);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn leftovers_go_and_the_living_stay() {
        let dir = tempfile::tempdir().unwrap();
        let parent = dir.path().to_owned();
        let living = Scratch::new(parent.clone());
        let path = living.fresh().unwrap();
        fs::create_dir(&path).unwrap();
        fs::create_dir_all(parent.join("7-dead/1/upper")).unwrap();
        fs::write(parent.join("7-dead.lock"), "").unwrap();
        fs::create_dir_all(parent.join("8-lockless/1")).unwrap();
        Scratch::new(parent.clone()).remove_leftovers().unwrap();
        assert!(path.exists());
        assert_eq!(fs::read_dir(&parent).unwrap().count(), 2);
        drop(living);
        assert_eq!(fs::read_dir(&parent).unwrap().count(), 0);
    }
    #[test]
    fn what_processes_make_is_kept_apart() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(dir.path().to_owned());
        scratch.fresh().unwrap();
        // tmpfs and others know no such flag; there is nothing to see then.
        let opened = File::open(dir.path()).unwrap();
        if let Ok(flags) = rustix::fs::ioctl_getflags(&opened)
            && rustix::fs::ioctl_setflags(&opened, flags | IFlags::TOPDIR).is_ok()
        {
            assert!(flags.contains(IFlags::TOPDIR));
        }
    }
}
