use std::fs::File;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::CacheError;
use crate::error::At;

/// A file with a `flock` on it, which ends with the value or the process.
///
/// It is released, not left to be so when the file is closed: a child process that was forked a moment ago, and has not yet become its
/// program, has the file open, too.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// Waits for it. `path` is for messages.
    pub(crate) fn wait(file: File, operation: FlockOperation, path: &Path) -> Result<Lock, CacheError> {
        flock(&file, operation).at("lock", path)?;
        Ok(Lock(file))
    }

    /// `None` while somebody else has it: for operations that do not wait.
    pub(crate) fn attempt(
        file: File,
        operation: FlockOperation,
        path: &Path,
    ) -> Result<Option<Lock>, CacheError> {
        match flock(&file, operation) {
            Ok(()) => Ok(Some(Lock(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error).at("lock", path),
        }
    }

    pub(crate) fn file(&self) -> &File {
        &self.0
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_that_was_inherited_holds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let open = || crate::layout::open_lock_file(&path).unwrap();
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        let lock = Lock::attempt(open(), exclusive, &path).unwrap().unwrap();
        // As fork does it.
        let inherited = lock.file().try_clone().unwrap();
        assert!(Lock::attempt(open(), exclusive, &path).unwrap().is_none());
        drop(lock);
        assert!(Lock::attempt(open(), exclusive, &path).unwrap().is_some());
        drop(inherited);
    }
}
