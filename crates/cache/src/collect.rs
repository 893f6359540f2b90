//! Keeps the cache within limits while builds run.
//!
//! Whoever makes something adds it up; over the limit, a thread removes what is cheap to make again for its bytes and was not used for long,
//! but nothing that a running build uses ([`crate::leases`]). One process removes things at a time ([`crate::turn`]), and readers never wait for it.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hash::Digest;
use rusqlite::Connection;

use crate::database::{Database, bytes32, from_sql, to_millis};
use crate::evict::{BATCH, CacheKind, CachePart, UNUSED_BLOB, choose, forget_blobs};
use crate::layers::Layers;
use crate::leases::{Bucket, Glance, Unleased};
use crate::prune::Trash;
use crate::turn::Turn;
use crate::{Amount, CacheError, Limits, Pruned, SnapshotId, Store, evictions, partial, room};

/// A layer to which nothing leads yet may belong to a step that is about to be filed.
const SETTLED: Duration = Duration::from_secs(3600);

/// Mounts and repositories that were not used for so long go first where there is more than this in bytes (BuildKit's first rule).
const IDLE: Duration = Duration::from_secs(48 * 3600);
const IDLE_BYTES: u64 = 512_000_000;

/// So many bytes more are made before it is tried again to remove something: what could not be removed is in use.
const STEP: u64 = 64 << 20;

/// With fewer bytes free the disk is as good as full.
const SHORT: u64 = 1 << 30;

/// How long a build waits on such a disk before it begins.
const FULL_DISK_PATIENCE: Duration = Duration::from_secs(2);

/// Choices that are made before the rest is left to the next collection.
pub(crate) const ROUNDS: usize = 3;

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

impl Collector {
    fn is_due(&self) -> bool {
        self.used.load(Ordering::Acquire) >= self.begin.load(Ordering::Acquire)
    }

    /// A collection has found that `used` bytes are there. When it began there seemed to be `before`, and what was made since may be among
    /// them or not.
    fn corrected(&self, before: u64, used: u64, limits: Limits) {
        // Far from the limit nothing is asked for long; close to it, or over it, after every few files.
        let room = limits.max_used_space.saturating_sub(used);
        let next = if limits.min_free_space > 0 { room.min(1 << 30) } else { room };
        let least = match limits.max_used_space {
            0 => STEP,
            most => STEP.min(most / 16),
        };
        self.begin.store(used + next.max(least), Ordering::Release);
        let with_new = |now: u64| Some(used + now.saturating_sub(before));
        let _ = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, with_new);
    }
}

impl Store {
    /// Keeps the cache within limits from now on: looks when this process makes something, the first time and whenever that has become
    /// much. Who only reads has nothing to wait for, unless the disk is as good as full.
    pub fn keep_within(&self, limits: Limits, whys: Whys) {
        let collector = &self.inner.collector;
        *collector.limits.lock().unwrap_or_else(PoisonError::into_inner) = Some((limits, whys));
        collector.begin.store(0, Ordering::Release);
        if self.free().is_ok_and(|free| free < SHORT.min(limits.min_free_space)) {
            self.collect_aside();
            self.wait_for_collection(FULL_DISK_PATIENCE);
        }
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
        collector.used.fetch_add(bytes, Ordering::AcqRel);
        if collector.is_due() {
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
            loop {
                let before = collector.used.load(Ordering::Acquire);
                // What fails now is tried again when more was made.
                let used = store.collect(limits, &whys).unwrap_or(before);
                collector.corrected(before, used, limits);
                collector.running.store(false, Ordering::Release);
                // What was made meanwhile has found somebody at it, and may have come too late for that.
                let is_more = collector.used.load(Ordering::Acquire) > used;
                if !is_more || !collector.is_due() || collector.running.swap(true, Ordering::AcqRel) {
                    return;
                }
            }
        });
    }

    /// Removes what is over the limits and what nobody uses; builds may run. Returns the bytes of layers and blobs that are left. Does nothing
    /// while another process removes things.
    ///
    /// # Errors
    /// When the database or the file system fails; the store is sound all the same.
    pub fn collect(&self, limits: Limits, whys: &Whys) -> Result<u64, CacheError> {
        room::keep_reserve(&self.inner.layout);
        // The builds of this process do not wait for it.
        let database = self.inner.database.apart()?;
        let used = || database.read("add up the cache", bytes_used);
        let before = used()?;
        let Some(turn) = Turn::attempt(&self.inner)? else { return Ok(before) };
        // Cut short, it has left files that nothing leads to; mounts have to be measured, which is not done every time.
        let cut_short = turn.was_cut_short;
        let is_due = limits.max_used_space > 0 && turn.last.elapsed().unwrap_or_default() > SETTLED;
        // That one can look into a failed step is worth less than any result. But a disk on which others leave little room is no reason.
        let short = Limits { reserved_space: 0, min_free_space: limits.min_free_space.min(SHORT), ..limits };
        let mut free = self.free()?;
        // Less than any result the beginnings of blobs are worth, which can be fetched again.
        if free < short.min_free_space && partial::remove_all(&self.inner.layout)? > 0 {
            free = self.free()?;
        }
        let is_short = short.are_over(before, free);
        if !cut_short && !is_due && !is_short && !limits.are_over(before, free) {
            return Ok(before);
        }
        self.inner.database.write("forget failed steps", |db| {
            db.execute("DELETE FROM kept WHERE expires < ?1", [to_millis(SystemTime::now())])
        })?;
        let mut trash = Trash::unmeasured(self);
        if cut_short || is_due {
            turn.begin()?;
            self.take_snapshots(&mut trash)?;
            self.take_logs(&mut trash)?;
        }
        if is_short && self.forget_failed(short, before, &|id| !self.inner.has_written(id))? > 0 {
            turn.begin()?;
            self.take_unreferenced(&database, &mut trash)?;
        }
        let settled = SystemTime::now().checked_sub(SETTLED).map_or(0, to_millis);
        self.take_unused_blobs(&database, &mut trash, settled)?;
        for _ in 0..ROUNDS {
            let choice = self.choose_over(&database, limits, whys)?;
            if choice.is_empty() {
                break;
            }
            turn.begin()?;
            let (_, all_went) = self.take_chosen(&database, &mut trash, &choice)?;
            self.remove_chosen_mounts(&choice)?;
            if all_went {
                break;
            }
        }
        // Nobody waits for the disk.
        trash.begin_emptying();
        database.fold()?;
        trash.empty()?;
        // Only a look at everything is the next one's last.
        if cut_short || is_due {
            turn.end()?
        } else {
            turn.leave()?
        }
        used()
    }

    /// What goes so that the limits are kept.
    fn choose_over(&self, database: &Database, limits: Limits, whys: &Whys) -> Result<Choice, CacheError> {
        let (newest_record, layers) = database.read("list layers", newest_and_layers)?;
        let parts = self.with_mounts(layers.plain_parts())?;
        let settled = SystemTime::now().checked_sub(SETTLED);
        let glance = Glance::new(&self.inner.layout);
        let can_go = |part: &CachePart| match part.layer() {
            // Mounts have locks of their own.
            None => true,
            Some(id) => {
                // What came from elsewhere was made there long ago, but is used from the moment that it has a row.
                let newest = part.created.max(Some(part.last_used));
                let is_new = !layers.is_referenced(id) && newest > settled;
                !is_new && glance.was_free(Bucket::of_layer(id))
            }
        };
        let idle_since = SystemTime::now().checked_sub(IDLE);
        let is_idle = |part: &CachePart| part.layer().is_none() && Some(part.last_used) < idle_since;
        let mut chosen = match parts.iter().any(is_idle) {
            true => choose(&layers, &parts, &is_idle, IDLE_BYTES),
            false => Vec::new(),
        };
        let gone: BTreeSet<*const CachePart> = chosen.iter().map(|part| std::ptr::from_ref(*part)).collect();
        let rest: Vec<CachePart>;
        let left = if gone.is_empty() {
            &parts
        } else {
            let stays = |part: &&CachePart| !gone.contains(&std::ptr::from_ref(*part));
            rest = parts.iter().filter(stays).cloned().collect();
            &rest
        };
        chosen.extend(choose(&layers, left, &can_go, self.kept(limits, left)?));
        let total: u64 = parts.iter().map(|part| part.bytes).sum();
        let is_over = limits.max_used_space > 0 && total > limits.max_used_space;
        let why = if is_over { &whys.over } else { &whys.full };
        Ok(Choice::of(&layers, &chosen, why, newest_record))
    }

    /// Takes the chosen layers out of sight, few at a time, so that builds that begin meanwhile wait for milliseconds. `false` when
    /// something of them is used by now: then what lies below it must stay, and there is another choice to be made.
    pub(crate) fn take_chosen(
        &self,
        database: &Database,
        trash: &mut Trash<'_>,
        choice: &Choice,
    ) -> Result<(Pruned, bool), CacheError> {
        let mut pruned = Pruned::default();
        let chosen: HashSet<SnapshotId> = choice.layers.iter().copied().collect();
        let first_built_on = |ids: &[SnapshotId]| {
            database.read_together("look for new results", |db| choice.first_built_on(db, ids, &chosen))
        };
        // Some may be used in a moment, and stay: then their results are missed, no more.
        let glance = Glance::new(&self.inner.layout);
        if choice.layers.iter().all(|id| glance.was_free(Bucket::of_layer(*id)))
            && first_built_on(&choice.layers)?.is_none()
        {
            match evictions::are_most(database, &choice.results)? {
                true => pruned.records += evictions::forget_most(database, &choice.results, &choice.why)?,
                false => evictions::forget_keys(database, &choice.results, &choice.why)?,
            }
        }
        for ids in choice.layers.chunks(BATCH) {
            let unleased = Unleased::new(&self.inner.layout);
            let free = ids.iter().take_while(|id| unleased.is_free(Bucket::of_layer(**id))).count();
            let going = &ids[..first_built_on(&ids[..free])?.unwrap_or(free)];
            let is_free = |digest: &Digest| unleased.is_free(Bucket::of_blob(digest));
            pruned += self.take_layers(database, trash, going, &choice.why, &is_free)?;
            if going.len() < ids.len() {
                return Ok((pruned, false));
            }
        }
        Ok((pruned, true))
    }

    /// Removes the chosen cache mounts and repositories.
    pub(crate) fn remove_chosen_mounts(&self, choice: &Choice) -> Result<Amount, CacheError> {
        let mounts = self.remove_mounts(false, &choice.mounts)?;
        let repositories = self.remove_mounts(true, &choice.repositories)?;
        Ok(Amount { count: mounts.count + repositories.count, bytes: mounts.bytes + repositories.bytes })
    }

    /// Takes blobs away to which nothing leads, and that were made before `settled` (milliseconds since 1970): of images that lost their
    /// name, of layers that were packed in another way. Says how many.
    pub(crate) fn take_unused_blobs(
        &self,
        database: &Database,
        trash: &mut Trash<'_>,
        settled: i64,
    ) -> Result<u64, CacheError> {
        let mut taken = 0;
        let unused: Vec<Digest> = database.read("look for unused blobs", |db| {
            db.prepare(&format!("SELECT digest FROM blobs WHERE created < ?1 AND {UNUSED_BLOB}"))?
                .query_map([settled], |row| bytes32(row, 0).map(Digest::from_bytes))?
                .collect()
        })?;
        for blobs in unused.chunks(BATCH) {
            let unleased = Unleased::new(&self.inner.layout);
            let free =
                blobs.iter().copied().filter(|digest| unleased.is_free(Bucket::of_blob(digest))).collect();
            for digest in database.write("forget blobs", |db| forget_blobs(db, free))? {
                trash.take(&self.inner.layout.blob(&digest))?;
                taken += 1;
            }
        }
        Ok(taken)
    }
}

/// What goes, in the order in which it can.
pub(crate) struct Choice {
    pub(crate) layers: Vec<SnapshotId>,
    /// The records that have one of them on top.
    results: Vec<i64>,
    pub(crate) mounts: BTreeSet<(String, u64)>,
    pub(crate) repositories: BTreeSet<(String, u64)>,
    why: String,
    /// Results that came later are not known to it.
    newest_record: i64,
}

impl Choice {
    /// These parts of the cache, in the order in which they can go.
    pub(crate) fn of(layers: &Layers, chosen: &[&CachePart], why: &str, newest_record: i64) -> Choice {
        let named = |kind| chosen.iter().filter(|part| part.kind == kind).map(|part| part.named()).collect();
        let ids: Vec<SnapshotId> = chosen.iter().filter_map(|part| part.layer()).collect();
        Choice {
            results: layers.results_on(&ids.iter().copied().collect()),
            layers: ids,
            mounts: named(CacheKind::Mount),
            repositories: named(CacheKind::Repository),
            why: why.to_owned(),
            newest_record,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.layers.is_empty() && self.mounts.is_empty() && self.repositories.is_empty()
    }

    /// The place of the first of these layers on which something came to stand since. A result that has a version does not list what that
    /// lies over; those versions that were known are `chosen` too, and go first.
    fn first_built_on(
        &self,
        db: &Connection,
        ids: &[SnapshotId],
        chosen: &HashSet<SnapshotId>,
    ) -> rusqlite::Result<Option<usize>> {
        let under_results: HashSet<SnapshotId> = db
            .prepare_cached(
                "WITH RECURSIVE below (id) AS (
                     SELECT tree FROM records WHERE id > ?1 AND tree IS NOT NULL
                     UNION SELECT parent FROM below JOIN trees USING (id) WHERE parent IS NOT NULL
                 )
                 SELECT snapshot FROM below JOIN trees USING (id)",
            )?
            .query_map([self.newest_record], |row| row.get(0).map(SnapshotId))?
            .collect::<Result<_, _>>()?;
        // By a step that failed since, and is kept to be looked into.
        let held: HashSet<SnapshotId> = db
            .prepare_cached("SELECT snapshot FROM held")?
            .query_map([], |row| row.get(0).map(SnapshotId))?
            .collect::<Result<_, _>>()?;
        let mut versions = db.prepare_cached("SELECT snapshot FROM versions WHERE base = ?1")?;
        for (place, id) in ids.iter().enumerate() {
            let over: Vec<SnapshotId> =
                versions.query_map([id.0], |row| row.get(0).map(SnapshotId))?.collect::<Result<_, _>>()?;
            if under_results.contains(id)
                || held.contains(id)
                || over.iter().any(|version| !chosen.contains(version))
            {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }
}

/// The last result, and the layers that can be removed. In this order: what is saved between the two is newer.
pub(crate) fn newest_and_layers(db: &Connection) -> rusqlite::Result<(i64, Layers)> {
    let newest_record = "SELECT coalesce(max(id), 0) FROM records";
    Ok((db.query_row(newest_record, [], |row| row.get(0))?, Layers::read(db)?))
}

/// Images that have a name are no cache.
fn bytes_used(db: &Connection) -> rusqlite::Result<u64> {
    db.query_row(
        "SELECT (SELECT coalesce(sum(coalesce(own, size)), 0) FROM snapshots LEFT JOIN versions ON versions.snapshot = snapshots.id)
              + (SELECT coalesce(sum(size), 0) FROM blobs WHERE digest NOT IN (SELECT digest FROM image_blobs))",
        [],
        |row| row.get(0).map(from_sql),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::StoreOptions;

    /// Layer 1, and a version of it, 2, with a result: record 5.
    fn with_version(dir: &std::path::Path) -> Store {
        let store = Store::open(dir, StoreOptions::default()).unwrap();
        let rows = "INSERT INTO snapshots (id, changes, entries, size, root, created, used)
                        VALUES (1, zeroblob(32), 1, 10, 0, 0, 0), (2, zeroblob(32), 1, 10, 0, 0, 0);
                    INSERT INTO versions (snapshot, base, own) VALUES (2, 1, 1);
                    INSERT INTO trees (id, snapshot) VALUES (3, 2);
                    INSERT INTO records (id, content, description, started, duration, used, tree)
                        VALUES (5, zeroblob(32), 'COPY', 0, 1, 0, 3);";
        store.inner.database.write("fill", |db| db.execute_batch(rows)).unwrap();
        fs::create_dir(store.inner.layout.snapshot(SnapshotId(1))).unwrap();
        fs::create_dir(store.inner.layout.version(SnapshotId(2))).unwrap();
        store
    }

    fn stand(store: &Store) -> [bool; 2] {
        let layout = &store.inner.layout;
        [layout.snapshot(SnapshotId(1)).is_dir(), layout.version(SnapshotId(2)).is_dir()]
    }

    fn choice(ids: &[i64], newest_record: i64) -> Choice {
        Choice {
            layers: ids.iter().copied().map(SnapshotId).collect(),
            results: vec![5],
            mounts: BTreeSet::new(),
            repositories: BTreeSet::new(),
            why: String::new(),
            newest_record,
        }
    }

    /// Whether all that was chosen went.
    fn take(store: &Store, choice: &Choice) -> bool {
        let mut trash = Trash::new(store);
        let (_, all_went) = store.take_chosen(&store.inner.database, &mut trash, choice).unwrap();
        trash.empty().unwrap();
        all_went
    }

    #[test]
    fn a_layer_that_a_version_came_to_lie_over_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = with_version(dir.path());
        let take = |choice: &Choice| take(&store, choice);
        // Chosen before the version was made; with the version, but before its result.
        assert!(!take(&choice(&[1], 4)));
        assert!(!take(&choice(&[2, 1], 4)));
        assert_eq!(stand(&store), [true, true]);
        assert!(take(&choice(&[2, 1], 5)));
        assert_eq!(stand(&store), [false, false]);
    }

    #[test]
    fn a_layer_that_came_to_be_kept_with_a_failed_step_stays() {
        for (under, kept) in [("[1]", "a layer"), ("[2]", "a version, and what it lies over")] {
            let dir = tempfile::tempdir().unwrap();
            let store = with_version(dir.path());
            let keep = "INSERT INTO kept (snapshot, layers, name, spec, created, expires)
                            VALUES (1, ?1, 'RUN', '{}', 0, 9999999999999)";
            store.inner.database.write("keep", |db| db.execute(keep, [under])).unwrap();
            assert!(!take(&store, &choice(&[2, 1], 5)), "{kept}");
            assert!(stand(&store)[0], "{kept}");
            store.inner.database.write("forget", |db| db.execute("DELETE FROM kept", [])).unwrap();
            assert!(take(&store, &choice(&[2, 1], 5)), "{kept}");
        }
    }

    #[test]
    fn the_files_of_versions_go_with_what_they_lie_over() {
        let dir = tempfile::tempdir().unwrap();
        let store = with_version(dir.path());
        let mut trash = Trash::new(&store);
        let database = store.inner.database.apart().unwrap();
        let pruned = store.take_layers(&database, &mut trash, &[SnapshotId(1)], "", &|_| true).unwrap();
        trash.empty().unwrap();
        assert_eq!((pruned.snapshots, pruned.records), (2, 1));
        assert_eq!(stand(&store), [false, false]);
    }
}
