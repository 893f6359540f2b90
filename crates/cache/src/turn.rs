//! Whose turn it is to remove things: one process at a time, beside builds, whose things are leased ([`crate::leases`]).

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use rustix::fs::FlockOperation;

use crate::CacheError;
use crate::error::At;
use crate::layout::open_lock_file;
use crate::lock::Lock;
use crate::session::open_lock;
use crate::store::Inner;

/// The turn of this process, until the value goes.
pub(crate) struct Turn {
    lock: Lock,
    path: PathBuf,
    /// Shared, as a build's: nobody has the store for himself, or replaces its database.
    _session: Lock,
    /// Whether the last one was cut short: it has left files that nothing leads to.
    pub(crate) was_cut_short: bool,
    /// When the last one ended.
    pub(crate) last: SystemTime,
}

impl Turn {
    /// Waits for others who are removing things.
    pub(crate) fn wait(inner: &Inner) -> Result<Turn, CacheError> {
        let (path, session) = (inner.layout.collector_lock(), inner.layout.session_lock());
        // In the order in which a check takes them, which has the session's when it comes to look for strays.
        let session = Lock::wait(open_lock(&inner.layout)?, FlockOperation::LockShared, &session)?;
        let file = open_lock_file(&path).at("open", &path)?;
        let lock = Lock::wait(file, FlockOperation::LockExclusive, &path)?;
        Turn::of(inner, lock, path, session)
    }

    /// `None` where it would have to wait.
    pub(crate) fn attempt(inner: &Inner) -> Result<Option<Turn>, CacheError> {
        let (path, session) = (inner.layout.collector_lock(), inner.layout.session_lock());
        let file = open_lock_file(&path).at("open", &path)?;
        let Some(lock) = Lock::attempt(file, FlockOperation::NonBlockingLockExclusive, &path)? else {
            return Ok(None);
        };
        let shared = FlockOperation::NonBlockingLockShared;
        let Some(session) = Lock::attempt(open_lock(&inner.layout)?, shared, &session)? else {
            return Ok(None);
        };
        Turn::of(inner, lock, path, session).map(Some)
    }

    fn of(inner: &Inner, lock: Lock, path: PathBuf, session: Lock) -> Result<Turn, CacheError> {
        // What another database has rows for would be taken for rubbish.
        inner.check_usable()?;
        let state = lock.file().metadata().at("examine", &path)?;
        let last = state.modified().at("examine", &path)?;
        Ok(Turn { lock, path, _session: session, was_cut_short: state.len() > 0, last })
    }

    /// Notes that files may be left from now on to which nothing leads.
    pub(crate) fn begin(&self) -> Result<(), CacheError> {
        fs::write(&self.path, "unfinished\n").at("write", &self.path)
    }

    /// Nothing is left. This also notes the time.
    pub(crate) fn end(self) -> Result<(), CacheError> {
        self.ended_at(SystemTime::now())
    }

    /// What this one began is done; what one that was cut short has left is still there, and it is not later for the next that looks at everything.
    pub(crate) fn leave(self) -> Result<(), CacheError> {
        if self.was_cut_short {
            return Ok(());
        }
        self.ended_at(self.last)
    }

    fn ended_at(&self, time: SystemTime) -> Result<(), CacheError> {
        let file = self.lock.file();
        file.set_len(0).and_then(|()| file.set_modified(time)).at("write", &self.path)
    }
}
