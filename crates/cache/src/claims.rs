use std::fs::{self, File};
use std::path::PathBuf;

use hash::CacheKey;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::CacheError;
use crate::error::At;
use crate::layout::{Layout, open_lock_file};
use crate::record::Claim;
use crate::scratch::is_at;

/// A lock on a file named by the key. The lock ends with the value or the process; the file goes with the value.
#[derive(Debug)]
struct FileClaim {
    path: PathBuf,
    /// Locked; closing it unlocks.
    _file: File,
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
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error).at("lock", &path),
        }
        if is_at(&file, &path)? {
            return Ok(Some(Box::new(FileClaim { path, _file: file })));
        }
    }
}

/// Removes the files of claims that nobody holds: those of killed processes.
pub(crate) fn remove_unused(layout: &Layout) -> Result<(), CacheError> {
    let dir = layout.claims();
    for entry in fs::read_dir(&dir).at("list", &dir)? {
        let path = entry.at("list", &dir)?.path();
        let Ok(file) = File::open(&path) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() && is_at(&file, &path)? {
            fs::remove_file(&path).at("remove", &path)?;
        }
    }
    Ok(())
}
