//! Layers of older programs, which shared unchanged files between versions by hard links. What stands above such a layer sees numbers
//! of links that the image does not have, so they are forgotten once.

use rustix::fs::FlockOperation;

use crate::CacheError;
use crate::layout::names_in;
use crate::lock::Lock;
use crate::remove::remove_tree;
use crate::session::open_lock;
use crate::store::Inner;

/// The list of shared files in a layer stood beside it under this suffix.
const LIST: &str = ".objects";

/// Forgets layers whose files have other names in the store. Left to a later session while others use the store.
pub(crate) fn forget_shared(inner: &Inner) -> Result<(), CacheError> {
    let shared = inner.layout.shared_files();
    if !shared.exists() {
        return Ok(());
    }
    let (path, exclusive) = (inner.layout.session_lock(), FlockOperation::NonBlockingLockExclusive);
    let Some(_lock) = Lock::attempt(open_lock(&inner.layout)?, exclusive, &path)? else { return Ok(()) };
    inner.check_usable()?;
    let snapshots = inner.layout.snapshots();
    let names = names_in(&snapshots)?;
    let lists: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix(LIST)).collect();
    inner.database.write("forget layers that share files", |db| {
        let mut delete = db.prepare("DELETE FROM snapshots WHERE id = ?1")?;
        for id in lists.iter().filter_map(|id| id.parse::<i64>().ok()) {
            delete.execute([id])?;
        }
        Ok(())
    })?;
    // Last what says that there is something to do; the layers' directories go with the next prune.
    for id in lists {
        let list = snapshots.join(format!("{id}{LIST}"));
        crate::upper::remove_file_if_there(&list)?;
    }
    match inner.scratch.take_away(&shared)? {
        Some(taken) => remove_tree(&taken),
        None => Ok(()),
    }
}
