//! Beginnings of blobs that come from afar, so that a transfer that was ended need not begin anew: the next one goes on, also in
//! another process. Whether the bytes are right is seen when all are there, by the digest.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hash::Digest;
use rustix::fs::FlockOperation;

use crate::CacheError;
use crate::error::At;
use crate::layout::{Layout, names_in, open_lock_file};
use crate::lock::Lock;
use crate::remove::remove_tree;
use crate::scratch::is_at;

/// Less than this is not kept, in bytes.
pub(crate) const LEAST: u64 = 1 << 20;

/// So long after its last byte came nobody goes on with it.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The file `partial-v1/<digest>`, locked as long as a transfer writes to it.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    lock: Lock,
    /// What becomes of the file with the value.
    end: End,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    /// It stays for the next transfer.
    Kept,
    Removed,
    /// It has another name by now.
    Renamed,
}

impl Partial {
    /// That of a blob of `size` bytes, empty where there is none. `None` while another transfer writes to it.
    pub(crate) fn open(layout: &Layout, digest: &Digest, size: u64) -> Result<Option<Partial>, CacheError> {
        let path = layout.partial(digest);
        loop {
            let lock = match take(open_lock_file(&path).at("open", &path)?, &path)? {
                Taken::Free(lock) => lock,
                Taken::InUse => return Ok(None),
                Taken::Gone => continue,
            };
            let partial = Partial { path, lock, end: End::Kept };
            if partial.held().at("examine", &partial.path)? > size {
                partial.file().set_len(0).at("empty", &partial.path)?;
            }
            return Ok(Some(partial));
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// To read what there is, and then to write what follows: at first it stands at its beginning.
    pub(crate) fn file(&self) -> &File {
        self.lock.file()
    }

    /// The file goes with the value: its bytes are wrong, or there is no room for them.
    pub(crate) fn give_up(&mut self) {
        self.end = End::Removed;
    }

    pub(crate) fn rename(mut self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        self.end = End::Renamed;
        Ok(())
    }

    fn held(&self) -> io::Result<u64> {
        Ok(self.file().metadata()?.len())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let is_small = || self.held().is_ok_and(|held| held < LEAST);
        if self.end == End::Removed || self.end == End::Kept && is_small() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

enum Taken {
    Free(Lock),
    InUse,
    /// It was removed, or has become the blob, since it was opened.
    Gone,
}

fn take(file: File, path: &Path) -> Result<Taken, CacheError> {
    Ok(match Lock::attempt(file, FlockOperation::NonBlockingLockExclusive, path)? {
        None => Taken::InUse,
        Some(lock) if is_at(lock.file(), path)? => Taken::Free(lock),
        Some(_) => Taken::Gone,
    })
}

/// Removes a beginning to which nobody writes, if nothing was added to it since `since`. Returns the bytes freed on the disk.
fn remove(path: &Path, since: Option<SystemTime>) -> Result<u64, CacheError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other.at("open", path)?,
    };
    let metadata = file.metadata().at("examine", path)?;
    if since.is_some_and(|since| metadata.modified().is_ok_and(|modified| modified >= since)) {
        return Ok(0);
    }
    let Taken::Free(_lock) = take(file, path)? else { return Ok(0) };
    remove_tree(path)?;
    Ok(metadata.blocks() * 512)
}

/// Removes the beginning of a blob that came in another way.
pub(crate) fn remove_one(layout: &Layout, digest: &Digest) -> Result<(), CacheError> {
    remove(&layout.partial(digest), None).map(drop)
}

/// Removes all to which nobody writes. Returns the bytes freed on the disk.
pub(crate) fn remove_all(layout: &Layout) -> Result<u64, CacheError> {
    remove_older(layout, None)
}

/// Removes those with which nobody goes on.
pub(crate) fn remove_old(layout: &Layout) -> Result<(), CacheError> {
    remove_older(layout, SystemTime::now().checked_sub(KEPT)).map(drop)
}

fn remove_older(layout: &Layout, since: Option<SystemTime>) -> Result<u64, CacheError> {
    let dir = layout.partials();
    names_in(&dir)?.iter().map(|name| remove(&dir.join(name), since)).sum()
}
