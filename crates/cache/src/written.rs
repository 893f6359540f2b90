use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, PoisonError};

use hash::Digest;

/// Smaller blobs are hashed again whenever they are read: that costs next to nothing.
const SMALLEST: u64 = 1 << 20;

/// What a file looked like when all of it had been written and hashed. No program sets a time of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(file: &File) -> io::Result<Stamp> {
        let found: Metadata = file.metadata()?;
        Ok(Stamp {
            device: found.dev(),
            inode: found.ino(),
            size: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// Large blobs that this process has written. Their bytes were hashed on the way, so that a reader hashes them again only if
/// the file is not what it was then. Whatever another process wrote is hashed by each that reads it.
#[derive(Debug, Default)]
pub(crate) struct Written(Mutex<HashMap<Digest, Stamp>>);

impl Written {
    /// Notes a blob that is in its place.
    pub(crate) fn note(&self, digest: &Digest, file: &File, size: u64) -> io::Result<()> {
        if size >= SMALLEST {
            let stamp = Stamp::of(file)?;
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(*digest, stamp);
        }
        Ok(())
    }

    /// What the file that was just opened looked like then, if it still does.
    pub(crate) fn unchanged(&self, digest: &Digest, file: &File) -> io::Result<Option<Stamp>> {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(digest).copied();
        let Some(noted) = noted else { return Ok(None) };
        Ok((Stamp::of(file)? == noted).then_some(noted))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn only_what_stays_as_it_was_is_believed() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 5000]).unwrap();
        let (written, digest) = (Written::default(), Digest::of(b"x"));
        assert_eq!(written.unchanged(&digest, &file).unwrap(), None);
        written.note(&digest, &file, SMALLEST - 1).unwrap();
        assert_eq!(written.unchanged(&digest, &file).unwrap(), None, "small ones are hashed");
        written.note(&digest, &file, SMALLEST).unwrap();
        assert_eq!(written.unchanged(&digest, &file).unwrap(), Some(Stamp::of(&file).unwrap()));
        let copy = tempfile::tempfile().unwrap();
        assert_eq!(written.unchanged(&digest, &copy).unwrap(), None, "another file");
        std::thread::sleep(std::time::Duration::from_millis(30));
        file.write_all(b"y").unwrap();
        assert_eq!(written.unchanged(&digest, &file).unwrap(), None);
    }
}
