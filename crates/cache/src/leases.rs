//! What running builds use, so that others can be collected meanwhile.
//!
//! A layer or blob that a session has asked for is leased until the session ends, in whatever process: a shared `flock` on one of a few
//! hundred files, chosen by its name. Who wants to remove something locks that file exclusively, without waiting; where that fails, somebody
//! may be using it. The lock is taken before it is checked that the thing is there, and held by the collector until both row and file are
//! gone. So there are never more open files than buckets, and a killed process leases nothing.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use hash::Digest;
use rustix::fs::{FlockOperation, flock};

use crate::error::At;
use crate::layout::{Layout, open_lock_file};
use crate::lock::Lock;
use crate::{CacheError, SnapshotId};

/// A build uses far fewer layers: what else is in their buckets stays for once.
const BUCKETS: u64 = 512;

/// The file that leases of something are locks on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Bucket(String);

impl Bucket {
    pub(crate) fn of_layer(id: SnapshotId) -> Bucket {
        Bucket(format!("layer-{:03x}", id.0.unsigned_abs() % BUCKETS))
    }

    pub(crate) fn of_blob(digest: &Digest) -> Bucket {
        Bucket(format!("blob-{}", &digest.hex()[..2]))
    }

    fn open(&self, layout: &Layout) -> Result<(File, PathBuf), CacheError> {
        let path = layout.leases().join(&self.0);
        Ok((open_lock_file(&path).at("open", &path)?, path))
    }
}

/// The leases of this process.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    sessions: usize,
    files: HashMap<Bucket, Lock>,
    /// What was there.
    blobs: HashSet<Digest>,
    layers: HashSet<SnapshotId>,
}

impl Leases {
    pub(crate) fn begin(&self) {
        self.held().sessions += 1;
    }

    /// Ends a session; with the last one, all leases.
    pub(crate) fn end(&self) {
        let mut held = self.held();
        held.sessions = held.sessions.saturating_sub(1);
        if held.sessions == 0 {
            held.files.clear();
            held.blobs.clear();
            held.layers.clear();
        }
    }

    /// Notes that a leased blob is there.
    pub(crate) fn saw_blob(&self, digest: &Digest) {
        let mut held = self.held();
        if held.sessions > 0 {
            held.blobs.insert(*digest);
        }
    }

    /// Whether a blob that is not there was there before in this session: no collector took it, so somebody found it damaged. Told once.
    pub(crate) fn has_lost_blob(&self, digest: &Digest) -> bool {
        self.held().blobs.remove(digest)
    }

    /// As [`Leases::saw_blob`].
    pub(crate) fn saw_layer(&self, id: SnapshotId) {
        let mut held = self.held();
        if held.sessions > 0 {
            held.layers.insert(id);
        }
    }

    /// As [`Leases::has_lost_blob`].
    pub(crate) fn has_lost_layer(&self, id: SnapshotId) -> bool {
        self.held().layers.remove(&id)
    }

    /// Leases what is in a bucket, when there is a session. Waits while something of it is being removed, which takes milliseconds.
    pub(crate) fn hold(&self, layout: &Layout, bucket: Bucket) -> Result<(), CacheError> {
        if self.is_settled(&bucket) {
            return Ok(());
        }
        // Others of this process do not wait meanwhile.
        let (file, path) = bucket.open(layout)?;
        let lock = Lock::wait(file, FlockOperation::LockShared, &path)?;
        self.keep(bucket, lock);
        Ok(())
    }

    /// The same without waiting: `false` while something of the bucket is being removed. For those whom the remover may be waiting for.
    pub(crate) fn try_hold(&self, layout: &Layout, bucket: Bucket) -> Result<bool, CacheError> {
        if self.is_settled(&bucket) {
            return Ok(true);
        }
        let (file, path) = bucket.open(layout)?;
        let lock = Lock::attempt(file, FlockOperation::NonBlockingLockShared, &path)?;
        Ok(lock.map(|lock| self.keep(bucket, lock)).is_some())
    }

    /// Whether a bucket is leased, or nobody is there for whom it would be.
    fn is_settled(&self, bucket: &Bucket) -> bool {
        let held = self.held();
        held.sessions == 0 || held.files.contains_key(bucket)
    }

    fn keep(&self, bucket: Bucket, lock: Lock) {
        let mut held = self.held();
        if held.sessions > 0 {
            held.files.insert(bucket, lock);
        }
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Unleased<'_> {
    fn drop(&mut self) {
        for file in self.buckets.get_mut().values().flatten() {
            let _ = flock(file, FlockOperation::Unlock);
        }
    }
}

/// A look at what is in use, bucket by bucket: it may be otherwise in a moment. While two look at the same bucket in the same moment, each may
/// take the other for a user.
pub(crate) struct Glance<'a> {
    layout: &'a Layout,
    buckets: RefCell<HashMap<Bucket, bool>>,
}

impl<'a> Glance<'a> {
    pub(crate) fn new(layout: &'a Layout) -> Glance<'a> {
        Glance { layout, buckets: RefCell::default() }
    }

    /// Whether nobody used anything of a bucket when this was first asked. No file stays open for it.
    pub(crate) fn was_free(&self, bucket: Bucket) -> bool {
        let mut buckets = self.buckets.borrow_mut();
        if let Some(known) = buckets.get(&bucket) {
            return *known;
        }
        let file = bucket.open(self.layout).ok();
        let was_free = file.is_some_and(|(file, _)| {
            let free = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
            // Not left to be so when the file is closed: a program that is just being started may have it open.
            let _ = flock(&file, FlockOperation::Unlock);
            free
        });
        buckets.insert(bucket, was_free);
        was_free
    }
}

/// The locks of a collector: nobody can begin to use what is in these buckets while the value lives.
pub(crate) struct Unleased<'a> {
    layout: &'a Layout,
    buckets: RefCell<HashMap<Bucket, Option<File>>>,
}

impl<'a> Unleased<'a> {
    pub(crate) fn new(layout: &'a Layout) -> Unleased<'a> {
        Unleased { layout, buckets: RefCell::default() }
    }

    /// Whether nobody uses anything of a bucket, from now on.
    pub(crate) fn is_free(&self, bucket: Bucket) -> bool {
        let mut buckets = self.buckets.borrow_mut();
        let lock = |bucket: &Bucket| {
            let (file, _) = bucket.open(self.layout).ok()?;
            flock(&file, FlockOperation::NonBlockingLockExclusive).ok().map(|()| file)
        };
        let locked = lock_once(&mut buckets, bucket, lock);
        locked.is_some()
    }
}

fn lock_once(
    buckets: &mut HashMap<Bucket, Option<File>>,
    bucket: Bucket,
    lock: impl FnOnce(&Bucket) -> Option<File>,
) -> &Option<File> {
    if !buckets.contains_key(&bucket) {
        let locked = lock(&bucket);
        buckets.insert(bucket.clone(), locked);
    }
    &buckets[&bucket]
}
