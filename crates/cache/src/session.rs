use std::collections::HashSet;
use std::fs::File;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rusqlite::params;
use rustix::fs::FlockOperation;

use crate::database::to_millis;
use crate::error::At;
use crate::layout::Layout;
use crate::lock::Lock;
use crate::store::Inner;
use crate::{CacheError, names, partial};

/// How stale a "last used" may get: refreshing it is a write, and a build that changes nothing should write nothing.
pub(crate) const USED_GRAIN_MILLIS: i64 = 60 * 1000;

/// A build is running: while the value lives, nothing that this process has asked for is removed, by whomever, and nobody repairs the store.
/// What else is in it may go.
///
/// What a build made survives a power failure once it was written through to the disk. That costs a `syncfs`, which also writes
/// what every other program has not written yet, so a build waits for it only where the user was promised something
/// ([`Session::finish_durably`]). The rest is written through beside a later session, a minute after it was made, and would be
/// forgotten after a power failure before that: it is built again.
#[derive(Debug)]
pub struct Session {
    inner: Arc<Inner>,
    /// Shared.
    _lock: Lock,
    /// Ends when what killed processes left is removed.
    tidying: Mutex<Receiver<()>>,
    finished: bool,
}

/// How long a build that has made something waits at its end until what killed processes left is gone. Who made nothing has no time for that.
const TIDYING_TIME: Duration = Duration::from_secs(5);

impl Session {
    /// Waits while the store is repaired. Where that was its database, it has to be opened anew.
    pub(crate) fn begin(inner: Arc<Inner>) -> Result<Session, CacheError> {
        let path = inner.layout.session_lock();
        let lock = Lock::wait(open_lock(&inner.layout)?, FlockOperation::LockShared, &path)?;
        inner.check_usable()?;
        inner.leases.begin();
        let tidying = Mutex::new(tidy(inner.clone()));
        Ok(Session { inner, _lock: lock, tidying, finished: false })
    }

    fn wait_for_tidying(&mut self) {
        let tidying = self.tidying.get_mut().unwrap_or_else(PoisonError::into_inner);
        if self.inner.dirty.load(Ordering::Acquire) {
            // Nothing ever comes: the other end goes.
            let _ = tidying.recv_timeout(TIDYING_TIME);
        }
    }

    /// Ends the session: notes what was used. Dropping it does the same, where errors are lost.
    pub fn finish(mut self) -> Result<(), CacheError> {
        self.wait_for_tidying();
        self.finished = true;
        note_used(&self.inner)
    }

    /// Ends the session, and returns when all that was made is on the disk.
    pub fn finish_durably(mut self) -> Result<(), CacheError> {
        self.wait_for_tidying();
        self.finished = true;
        note_used(&self.inner)?;
        match self.inner.dirty.swap(false, Ordering::AcqRel) {
            true => write_through(&self.inner, newest(&self.inner, i64::MAX)?),
            false => Ok(()),
        }
    }
}

/// After this time the kernel has written nearly everything by itself (`vm.dirty_expire_centisecs`), and a `syncfs` is cheap.
const SETTLED_MILLIS: i64 = 60 * 1000;

/// Removes what killed processes left, then writes through what is old enough, in the background: what fails is tried again beside the next
/// session. The receiver's other end goes with the first of the two.
fn tidy(inner: Arc<Inner>) -> Receiver<()> {
    let (removing, tidying) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = inner.scratch.remove_leftovers();
        let _ = partial::remove_old(&inner.layout);
        drop(removing);
        let _ = settle(&inner);
    });
    tidying
}

/// Writes through what earlier sessions made and left to a later one.
fn settle(inner: &Inner) -> Result<(), CacheError> {
    match newest(inner, to_millis(SystemTime::now()) - SETTLED_MILLIS)? {
        (0, 0) => Ok(()),
        rows => write_through(inner, rows),
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.finished {
            let _ = note_used(&self.inner);
        }
        self.inner.leases.end();
    }
}

pub(crate) fn open_lock(layout: &Layout) -> Result<File, CacheError> {
    let path = layout.session_lock();
    crate::layout::open_lock_file(&path).at("open", &path)
}

/// Rows whose "last used" is out of date.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    pub(crate) records: HashSet<i64>,
    pub(crate) snapshots: HashSet<i64>,
}

/// One write for all that a build used.
fn note_used(inner: &Inner) -> Result<(), CacheError> {
    let touched = std::mem::take(&mut *inner.touched.lock().unwrap_or_else(PoisonError::into_inner));
    if touched.records.is_empty() && touched.snapshots.is_empty() {
        return Ok(());
    }
    let now = to_millis(SystemTime::now());
    inner.database.write("note what was used", |db| {
        let mut update = db.prepare_cached("UPDATE records SET used = ?1 WHERE id = ?2")?;
        for id in &touched.records {
            update.execute(params![now, id])?;
        }
        let mut update = db.prepare_cached("UPDATE snapshots SET used = ?1 WHERE id = ?2")?;
        for id in &touched.snapshots {
            update.execute(params![now, id])?;
        }
        Ok(())
    })
}

/// The last layer and the last blob of those that may not be on the disk yet and were made before `before` (milliseconds since 1970); 0 is
/// none.
fn newest(inner: &Inner, before: i64) -> Result<(i64, i64), CacheError> {
    let last = |table: &str| {
        format!(
            "SELECT coalesce(max(id), 0) FROM {table} WHERE boot IS NOT NULL AND boot = ?1 AND created < ?2"
        )
    };
    inner.database.read("find what is new", |db| {
        Ok((
            db.query_row(&last("snapshots"), params![inner.boot, before], |row| row.get(0))?,
            db.query_row(&last("blobs"), params![inner.boot, before], |row| row.get(0))?,
        ))
    })
}

/// Makes rows durable, up to these. They are so once `syncfs` was called after they were made: what they name was complete before them. The
/// names of images go with them.
fn write_through(inner: &Inner, (snapshot, blob): (i64, i64)) -> Result<(), CacheError> {
    // Not while somebody is changing it: it is written before the transaction ends.
    let names = inner
        .database
        .write("look for the names of images", |_| Ok(names::Listed::open(&inner.layout)))??;
    let root = inner.layout.root();
    let directory = File::open(root).at("open", root)?;
    rustix::fs::syncfs(&directory).at("write through", root)?;
    // Of what is not noted as being there the next boot believes that it was lost.
    inner.database.write_durably("note what is on disk", |db| {
        db.execute(
            "UPDATE snapshots SET boot = NULL WHERE boot = ?1 AND id <= ?2",
            params![inner.boot, snapshot],
        )?;
        db.execute("UPDATE blobs SET boot = NULL WHERE boot = ?1 AND id <= ?2", params![inner.boot, blob])?;
        Ok(())
    })?;
    names.as_ref().map_or(Ok(()), names::Listed::are_on_disk)
}
