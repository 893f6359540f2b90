use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use files::{Attributes, Owners};
use hash::{CacheKey, StableHasher};
use rustix::fs::{FlockOperation, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Anew, CacheMount, Sharing};
use crate::copying::set_attributes;
use crate::error::At;
use crate::layout::{create_dir, names_in, open_lock_file};
use crate::lock::Lock;
use crate::remove::remove_tree;
use crate::scratch::is_at;
use crate::{CacheError, Store};

/// Which directory it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Name {
    pub(super) id: String,
    pub(super) seed: Option<String>,
}

impl Name {
    fn file_name(&self) -> String {
        let hasher = StableHasher::new("cache-mount-v1").with(&self.id).with(&self.seed);
        CacheKey::from_bytes(hasher.finish()).to_string()
    }
}

/// All instances of one name.
#[derive(Debug)]
pub(super) struct Folder {
    store: Store,
    pub(super) path: PathBuf,
    pub(super) name: Name,
}

/// What was found among the instances.
enum Choice {
    Free(CacheMount),
    /// There are some, and somebody else works there.
    Taken,
    Nothing,
}

impl Folder {
    /// The folder of a name, made when it is missing.
    pub(super) fn open(store: &Store, parent: &Path, name: Name) -> Result<Folder, CacheError> {
        let path = parent.join(name.file_name());
        let folder = Folder { store: store.clone(), path, name };
        folder.create()?;
        Ok(folder)
    }

    /// The folder of a path that was listed; `None` when it is gone or not readable as one.
    pub(super) fn existing(store: &Store, path: PathBuf) -> Option<Folder> {
        let name = serde_json::from_slice(&fs::read(path.join("name")).ok()?).ok()?;
        Some(Folder { store: store.clone(), path, name })
    }

    /// Complete from the moment it is visible.
    fn create(&self) -> Result<(), CacheError> {
        if self.path.join("name").exists() {
            return Ok(());
        }
        let fresh = self.store.inner.scratch.fresh()?;
        create_dir(&fresh, 0o700)?;
        let text = serde_json::to_vec(&self.name).map_err(io::Error::from);
        let name = fresh.join("name");
        text.and_then(|text| fs::write(&name, text)).at("write", &name)?;
        match rename_new(&fresh, &self.path) {
            Ok(()) => Ok(()),
            // Somebody else was faster. A power failure may have left one without its name.
            Err(Errno::EXIST | Errno::NOTEMPTY) => {
                let target = self.path.join("name");
                let renamed = if target.exists() { Ok(()) } else { fs::rename(&name, &target) };
                remove_tree(&fresh)?;
                renamed.at("rename", &name)
            }
            Err(error) => Err(error).at("rename", &fresh),
        }
    }

    /// Keeps others from choosing, placing and removing instances. Only for moments.
    pub(super) fn lock(&self) -> Result<Lock, CacheError> {
        let path = self.path.join("lock");
        loop {
            let file = match open_lock_file(&path) {
                // Removed since, with all that was in it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.create()?;
                    continue;
                }
                other => other.at("open", &path)?,
            };
            let lock = Lock::wait(file, FlockOperation::LockExclusive, &path)?;
            if is_at(lock.file(), &path)? {
                return Ok(lock);
            }
        }
    }

    pub(super) fn acquire<E: From<CacheError>>(
        &self,
        sharing: Sharing,
        anew: Option<&Anew>,
        root: &Attributes,
        seed: impl FnOnce(&Path, &Owners) -> Result<(), E>,
    ) -> Result<Option<CacheMount>, E> {
        match self.choose(sharing, anew)? {
            Choice::Free(mount) => return Ok(Some(mount)),
            Choice::Taken if sharing == Sharing::Locked => return Ok(None),
            Choice::Taken | Choice::Nothing => {}
        }
        // Whoever wants the same one waits until it is made. A private one is nobody else's business.
        let _making = if sharing == Sharing::Private {
            None
        } else {
            let Some(file) = self.try_making()? else { return Ok(None) };
            match self.choose(sharing, anew)? {
                Choice::Free(mount) => return Ok(Some(mount)),
                Choice::Taken if sharing == Sharing::Locked => return Ok(None),
                Choice::Taken | Choice::Nothing => {}
            }
            Some(file)
        };
        self.make(sharing, root, seed).map(Some)
    }

    /// Keeps others from making an instance; `None` when somebody does, or the folder was removed meanwhile.
    fn try_making(&self) -> Result<Option<Lock>, CacheError> {
        let path = self.path.join("making");
        match try_lock(&path, FlockOperation::NonBlockingLockExclusive) {
            Ok(Some(lock)) => Ok(is_at(lock.file(), &path)?.then_some(lock)),
            Ok(None) => Ok(None),
            Err(CacheError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts a new instance in the place of all others.
    pub(super) fn replace(
        &self,
        root: &Attributes,
        seed: impl FnOnce(&Path, &Owners) -> Result<(), CacheError>,
    ) -> Result<(), CacheError> {
        let mount = self.make(Sharing::Private, root, seed)?;
        let _lock = self.lock()?;
        for number in self.instances()? {
            let instance = self.path.join(number.to_string());
            if instance != mount.folder {
                self.retire(&instance)?;
            }
        }
        Ok(())
    }

    /// The first instance that is free. Those who wait for each other all take the same: the oldest.
    fn choose(&self, sharing: Sharing, anew: Option<&Anew>) -> Result<Choice, CacheError> {
        let mut begun = anew.map(Anew::begun);
        let _lock = self.lock()?;
        let begins = begun.as_mut().is_some_and(|begun| begun.insert(self.path.clone()));
        let mut taken = false;
        for number in self.instances()? {
            let instance = self.path.join(number.to_string());
            if instance.join("retired").exists() {
                self.take_away(&instance)?;
                continue;
            }
            if begins {
                self.retire(&instance)?;
                continue;
            }
            if let Some(lock) = try_lock(&instance.join("lock"), operation(sharing))? {
                note_use(&instance)?;
                return Ok(Choice::Free(self.mount(instance, lock)));
            }
            taken = true;
            if sharing == Sharing::Locked {
                break;
            }
        }
        Ok(if taken { Choice::Taken } else { Choice::Nothing })
    }

    /// While the folder is locked. What is in use stays until it is not.
    fn retire(&self, instance: &Path) -> Result<(), CacheError> {
        if self.take_away(instance)?.is_none() {
            let mark = instance.join("retired");
            fs::write(&mark, "").at("create", &mark)?;
        }
        Ok(())
    }

    /// Moves an instance that nobody uses out of sight, while the folder is locked: where it is now.
    pub(super) fn take_away(&self, instance: &Path) -> Result<Option<PathBuf>, CacheError> {
        match try_lock(&instance.join("lock"), FlockOperation::NonBlockingLockExclusive)? {
            Some(_lock) => self.store.inner.scratch.take_away(instance),
            None => Ok(None),
        }
    }

    /// A new instance, complete and locked before others can see it.
    fn make<E: From<CacheError>>(
        &self,
        sharing: Sharing,
        root: &Attributes,
        seed: impl FnOnce(&Path, &Owners) -> Result<(), E>,
    ) -> Result<CacheMount, E> {
        let fresh = Unfinished(self.store.inner.scratch.fresh()?);
        let tree = fresh.0.join("tree");
        create_dir(&fresh.0, 0o700)?;
        create_dir(&tree, 0o700)?;
        let owners = self.store.inner.owners_beside(&fresh.0.join("owners"));
        set_attributes(&tree, root, &owners, self.store.inner.marks())?;
        seed(&tree, &owners)?;
        Ok(self.place(&fresh.0, sharing)?)
    }

    fn place(&self, fresh: &Path, sharing: Sharing) -> Result<CacheMount, CacheError> {
        let lock_path = fresh.join("lock");
        let file = open_lock_file(&lock_path).at("create", &lock_path)?;
        let lock = Lock::wait(file, operation(sharing), &lock_path)?;
        note_use(fresh)?;
        let _lock = self.lock()?;
        let mut number = self.instances()?.last().map_or(1, |last| last + 1);
        loop {
            let instance = self.path.join(number.to_string());
            match rename_new(fresh, &instance) {
                Ok(()) => return Ok(self.mount(instance, lock)),
                Err(Errno::EXIST | Errno::NOTEMPTY) => number += 1,
                Err(error) => return Err(error).at("rename", fresh),
            }
        }
    }

    fn mount(&self, instance: PathBuf, lock: Lock) -> CacheMount {
        let owners = self.store.inner.owners_beside(&instance.join("owners"));
        CacheMount { folder: instance, owners, _lock: lock }
    }

    /// The numbers of the instances, oldest first.
    pub(super) fn instances(&self) -> Result<Vec<u64>, CacheError> {
        let mut numbers: Vec<u64> =
            names_in(&self.path)?.iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Removes the folder if it has no instances and nobody is making one.
    pub(super) fn remove_if_empty(&self) -> Result<(), CacheError> {
        let _lock = self.lock()?;
        let making = self.path.join("making");
        let Some(_making) = try_lock(&making, FlockOperation::NonBlockingLockExclusive)? else {
            return Ok(());
        };
        if self.instances()?.is_empty()
            && let Some(taken) = self.store.inner.scratch.take_away(&self.path)?
        {
            remove_tree(&taken)?;
        }
        Ok(())
    }
}

/// A folder that goes unless it was renamed.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = remove_tree(&self.0);
    }
}

fn operation(sharing: Sharing) -> FlockOperation {
    match sharing {
        Sharing::Shared => FlockOperation::NonBlockingLockShared,
        Sharing::Private | Sharing::Locked => FlockOperation::NonBlockingLockExclusive,
    }
}

/// `None` while somebody else has it.
pub(super) fn try_lock(path: &Path, operation: FlockOperation) -> Result<Option<Lock>, CacheError> {
    Lock::attempt(open_lock_file(path).at("open", path)?, operation, path)
}

fn rename_new(from: &Path, to: &Path) -> rustix::io::Result<()> {
    renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, RenameFlags::NOREPLACE)
}

/// When an instance was made: its lock is never written to.
pub(super) fn made(instance: &Path) -> Option<SystemTime> {
    fs::metadata(instance.join("lock")).and_then(|metadata| metadata.modified()).ok()
}

fn note_use(instance: &Path) -> Result<(), CacheError> {
    let path = instance.join("uses");
    let open = OpenOptions::new().append(true).create(true).open(&path);
    open.and_then(|mut file| file.write_all(b".")).at("write", &path)
}
