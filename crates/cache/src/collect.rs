//! Keeps the cache within limits while builds run.
//!
//! Whoever makes something adds it up; over the limit, a thread removes what is cheap to make again for its bytes and was not used for long,
//! but nothing that a running build uses ([`crate::leases`]). One process collects at a time, and readers never wait for it.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hash::Digest;
use rustix::fs::{FlockOperation, flock};

use crate::database::{bytes32, from_sql, to_millis};
use crate::error::At;
use crate::evict::{CacheKind, CachePart, Layers, choose};
use crate::layout::open_lock_file;
use crate::leases::{Bucket, Unleased};
use crate::prune::Trash;
use crate::session::open_lock;
use crate::{CacheError, Limits, SnapshotId, Store};

/// A layer to which nothing leads yet may belong to a step that is about to be filed.
const SETTLED: Duration = Duration::from_secs(3600);

/// Mounts and repositories that were not used for so long go first where there is more than this in bytes (BuildKit's first rule).
const IDLE: Duration = Duration::from_secs(48 * 3600);
const IDLE_BYTES: u64 = 512_000_000;

/// So many bytes more are made before it is tried again to remove something: what could not be removed is in use.
const STEP: u64 = 64 << 20;

/// What a build is told that misses what was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whys {
    /// When there was more than [`Limits::max_used_space`]: `to keep under 10GB`.
    pub over: String,
    /// When there was less free than [`Limits::min_free_space`]: `to keep 5GB of the disk free`.
    pub full: String,
}

/// What an automatic collection has to keep to, and how far it is.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    limits: Mutex<Option<(Limits, Whys)>>,
    /// Bytes in layers and blobs, as far as this process knows.
    used: AtomicU64,
    /// At how many of them to begin.
    begin: AtomicU64,
    running: AtomicBool,
}

impl Store {
    /// Keeps the cache within limits from now on: at once, and whenever this process makes something. Returns at once; what fails is tried
    /// again later.
    pub fn keep_within(&self, limits: Limits, whys: Whys) {
        let collector = &self.inner.collector;
        *collector.limits.lock().unwrap_or_else(PoisonError::into_inner) = Some((limits, whys));
        collector.begin.store(0, Ordering::Release);
        self.collect_aside();
    }

    /// Waits for a collection that this process has begun, but not for longer than `patience`: one that is cut short leaves its work to
    /// the next.
    pub fn wait_for_collection(&self, patience: Duration) {
        let end = Instant::now() + patience;
        while self.inner.collector.running.load(Ordering::Acquire) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Something was made.
    pub(crate) fn grew(&self, bytes: u64) {
        let collector = &self.inner.collector;
        let used = collector.used.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if used >= collector.begin.load(Ordering::Acquire) {
            self.collect_aside();
        }
    }

    /// Collects in a thread of its own, unless one is at it.
    fn collect_aside(&self) {
        let limits = self.inner.collector.limits.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some((limits, whys)) = limits else { return };
        if self.inner.collector.running.swap(true, Ordering::AcqRel) {
            return;
        }
        let store = self.clone();
        std::thread::spawn(move || {
            let collector = &store.inner.collector;
            // What fails now is tried again when more was made.
            let used =
                store.collect(limits, &whys).unwrap_or_else(|_| collector.used.load(Ordering::Acquire));
            collector.used.store(used, Ordering::Release);
            // Far from the limit nothing is asked for long; close to it, or over it, after every few files.
            let room = limits.max_used_space.saturating_sub(used);
            let next = if limits.min_free_space > 0 { room.min(1 << 30) } else { room };
            collector.begin.store(used + next.max(STEP.min(limits.max_used_space / 16)), Ordering::Release);
            collector.running.store(false, Ordering::Release);
        });
    }

    /// Removes what is over the limits and what nobody uses; builds may run. Returns the bytes of layers and blobs that are left. Does nothing
    /// while another process collects or prunes.
    ///
    /// # Errors
    /// When the database or the file system fails; the store is sound all the same.
    pub fn collect(&self, limits: Limits, whys: &Whys) -> Result<u64, CacheError> {
        let layout = &self.inner.layout;
        let used = || self.inner.database.read("add up the cache", bytes_used);
        let path = layout.collector_lock();
        let one = open_lock_file(&path).at("open", &path)?;
        // A prune wants nobody to be building, and this is something like it.
        let session = open_lock(layout)?;
        let is_held = |file, how| flock(file, how).is_ok();
        if !is_held(&one, FlockOperation::NonBlockingLockExclusive)
            || !is_held(&session, FlockOperation::NonBlockingLockShared)
        {
            return used();
        }
        let state = one.metadata().at("examine", &path)?;
        // Cut short, it has left files that nothing leads to; mounts have to be measured, which is not done every time.
        let cut_short = state.len() > 0;
        let touched = state.modified().at("examine", &path)?;
        let is_due = limits.max_used_space > 0 && touched.elapsed().unwrap_or_default() > SETTLED;
        if !cut_short && !is_due && !self.is_over(limits, used()?)? {
            return used();
        }
        self.inner.database.write("forget failed steps", |db| {
            db.execute("DELETE FROM kept WHERE expires < ?1", [to_millis(SystemTime::now())])
        })?;
        let layers = self.inner.database.read("list layers", Layers::read)?;
        let mut parts = self.with_mounts(layers.plain_parts())?;
        self.add_blobs(&mut parts)?;
        let unleased = Unleased::new(layout);
        let newest = SystemTime::now().checked_sub(SETTLED);
        let can_go = |part: &CachePart| match layer_of(part) {
            // Mounts have locks of their own.
            None => true,
            Some(id) => {
                let is_new = !layers.is_referenced(id) && part.created > newest;
                !is_new && unleased.is_free(Bucket::of_layer(id))
            }
        };
        let idle_since = SystemTime::now().checked_sub(IDLE);
        let is_idle = |part: &CachePart| layer_of(part).is_none() && Some(part.last_used) < idle_since;
        let mut chosen = choose(&layers, &parts, &is_idle, IDLE_BYTES);
        let gone: BTreeSet<*const CachePart> = chosen.iter().map(|part| std::ptr::from_ref(*part)).collect();
        let left: Vec<CachePart> =
            parts.iter().filter(|part| !gone.contains(&std::ptr::from_ref(*part))).cloned().collect();
        chosen.extend(choose(&layers, &left, &can_go, self.kept(limits, &left)?));
        let total: u64 = parts.iter().map(|part| part.bytes).sum();
        let is_over = limits.max_used_space > 0 && total > limits.max_used_space;
        let why = if is_over { &whys.over } else { &whys.full };
        if cut_short || !chosen.is_empty() {
            fs::write(&path, "unfinished\n").at("write", &path)?;
            let trash = self.take(&chosen, &layers, &unleased, why)?;
            // Nobody waits for the disk.
            drop(unleased);
            self.take_mounts(&chosen)?;
            trash.empty()?;
        }
        // This also notes the time.
        one.set_len(0).and_then(|()| one.set_modified(SystemTime::now())).at("write", &path)?;
        used()
    }

    fn is_over(&self, limits: Limits, used: u64) -> Result<bool, CacheError> {
        if limits.max_used_space > 0 && used > limits.max_used_space {
            return Ok(true);
        }
        let disk = rustix::fs::statvfs(self.root()).at("examine the file system of", self.root())?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        Ok(free < limits.min_free_space && used > limits.reserved_space)
    }

    /// Counts with each layer the blobs that go with it.
    fn add_blobs(&self, parts: &mut [CachePart]) -> Result<(), CacheError> {
        let packed: std::collections::HashMap<i64, i64> =
            self.inner.database.read("list packed layers", |db| {
                db.prepare(&format!("SELECT snapshot, sum(size) FROM {OWN_BLOBS} GROUP BY snapshot"))?
                    .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect()
            })?;
        for part in parts {
            let id = layer_of(part).map(|id| id.0);
            part.bytes += id.and_then(|id| packed.get(&id)).map_or(0, |bytes| from_sql(*bytes));
        }
        Ok(())
    }

    /// Takes things out of sight, rows first.
    fn take(
        &self,
        chosen: &[&CachePart],
        layers: &Layers,
        unleased: &Unleased<'_>,
        why: &str,
    ) -> Result<Trash<'_>, CacheError> {
        let ids: Vec<SnapshotId> = chosen.iter().filter_map(|part| layer_of(part)).collect();
        let blobs = self.blobs_of(&ids)?;
        self.remove_layers(chosen, layers, why)?;
        let mut trash = Trash::new(self);
        self.take_snapshots(&mut trash)?;
        self.take_logs(&mut trash)?;
        let free: Vec<Digest> =
            blobs.into_iter().filter(|digest| unleased.is_free(Bucket::of_blob(digest))).collect();
        for digest in self.forget_blobs(free)? {
            trash.take(&self.inner.layout.blob(&digest))?;
        }
        Ok(trash)
    }

    /// Removes cache mounts and repositories, which have locks of their own.
    fn take_mounts(&self, chosen: &[&CachePart]) -> Result<(), CacheError> {
        for (kind, repositories) in [(CacheKind::Mount, false), (CacheKind::Repository, true)] {
            let named = chosen.iter().filter(|part| part.kind == kind).map(|part| part.named()).collect();
            self.remove_mounts(repositories, &named)?;
        }
        Ok(())
    }

    /// The blobs that these layers have, and neither an image nor a download.
    fn blobs_of(&self, layers: &[SnapshotId]) -> Result<Vec<Digest>, CacheError> {
        self.inner.database.read("list packed layers", |db| {
            let mut select =
                db.prepare(&format!("SELECT packed.digest FROM {OWN_BLOBS} AND packed.snapshot = ?1"))?;
            let mut found = BTreeSet::new();
            for id in layers {
                for digest in select.query_map([id.0], |row| bytes32(row, 0))? {
                    found.insert(Digest::from_bytes(digest?));
                }
            }
            Ok(found.into_iter().collect())
        })
    }

    /// Forgets those that nothing else has, and says which.
    fn forget_blobs(&self, blobs: Vec<Digest>) -> Result<Vec<Digest>, CacheError> {
        if blobs.is_empty() {
            return Ok(blobs);
        }
        self.inner.database.write("forget blobs", |db| {
            let mut delete = db.prepare(
                "DELETE FROM blobs WHERE digest = ?1 AND digest NOT IN (SELECT digest FROM packed WHERE digest = ?1)
                     AND digest NOT IN (SELECT digest FROM image_blobs WHERE digest = ?1)
                     AND digest NOT IN (SELECT digest FROM downloads WHERE digest = ?1)",
            )?;
            let mut gone = Vec::with_capacity(blobs.len());
            for digest in &blobs {
                if delete.execute([digest.as_bytes()])? > 0 {
                    gone.push(*digest);
                }
            }
            db.execute("DELETE FROM chunks WHERE blob NOT IN (SELECT digest FROM blobs)", [])?;
            Ok(gone)
        })
    }
}

/// Blobs made of layers, or that layers were made of, which neither an image nor a download has.
const OWN_BLOBS: &str = "packed JOIN blobs ON blobs.digest = packed.digest
     WHERE packed.digest NOT IN (SELECT digest FROM image_blobs) AND packed.digest NOT IN (SELECT digest FROM downloads)";

/// Images that have a name are no cache.
fn bytes_used(db: &rusqlite::Connection) -> rusqlite::Result<u64> {
    db.query_row(
        "SELECT (SELECT coalesce(sum(coalesce(own, size)), 0) FROM snapshots LEFT JOIN versions ON versions.snapshot = snapshots.id)
              + (SELECT coalesce(sum(size), 0) FROM blobs WHERE digest NOT IN (SELECT digest FROM image_blobs))",
        [],
        |row| row.get(0).map(from_sql),
    )
}

fn layer_of(part: &CachePart) -> Option<SnapshotId> {
    match part.kind {
        CacheKind::Step | CacheKind::Image => part.id.parse().ok().map(SnapshotId),
        CacheKind::Mount | CacheKind::Repository => None,
    }
}
