use std::fs::{self, File};
use std::path::PathBuf;

use hash::CacheKey;
use rustix::fs::FlockOperation;

use crate::CacheError;
use crate::error::At;
use crate::layout::{Layout, open_lock_file};
use crate::lock::Lock;
use crate::record::Claim;
use crate::scratch::is_at;

/// A lock on a file named by the key. The lock ends with the value or the process; the file goes with the value.
#[derive(Debug)]
struct FileClaim {
    path: PathBuf,
    _lock: Lock,
}

impl Claim for FileClaim {}

impl Drop for FileClaim {
    fn drop(&mut self) {
        // While locked: whoever locks the unlinked file next sees that it is not at its path any more, and starts over.
        let _ = fs::remove_file(&self.path);
    }
}

/// Claims `key`, `None` while somebody else has it.
pub(crate) fn try_claim(layout: &Layout, key: &CacheKey) -> Result<Option<Box<dyn Claim>>, CacheError> {
    let path = layout.claim(key);
    loop {
        let file = open_lock_file(&path).at("open", &path)?;
        let Some(lock) = Lock::attempt(file, FlockOperation::NonBlockingLockExclusive, &path)? else {
            return Ok(None);
        };
        if is_at(lock.file(), &path)? {
            return Ok(Some(Box::new(FileClaim { path, _lock: lock })));
        }
    }
}

/// Removes the files of claims that nobody holds: those of killed processes.
pub(crate) fn remove_unused(layout: &Layout) -> Result<(), CacheError> {
    let dir = layout.claims();
    for entry in fs::read_dir(&dir).at("list", &dir)? {
        let path = entry.at("list", &dir)?.path();
        let Ok(file) = File::open(&path) else { continue };
        if let Some(lock) = Lock::attempt(file, FlockOperation::NonBlockingLockExclusive, &path)?
            && is_at(lock.file(), &path)?
        {
            fs::remove_file(&path).at("remove", &path)?;
        }
    }
    Ok(())
}
