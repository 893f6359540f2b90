use std::collections::HashSet;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::SystemTime;

use hash::Digest;
use rayon::prelude::*;

use crate::database::{Database, bytes32, damaged_databases, to_millis};
use crate::evict::{BATCH, remove_record};
use crate::layout::{names_in, owners_of};
use crate::leases::{Bucket, Unleased};
use crate::remove::remove_tree;
use crate::turn::Turn;
use crate::usage::measure;
use crate::{
    CacheError, Limits, SnapshotId, Store, claims, downloads, evictions, names, partial, room, trees,
};

/// What to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PruneOptions {
    /// Everything that nobody uses: results, layers, images, blobs, cache mounts. Otherwise only what nothing names, or what was kept for a
    /// time that is over.
    pub all: bool,
}

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Layers as directories, those without a row in the database included.
    pub snapshots: u64,
    /// Blobs, likewise.
    pub blobs: u64,
    /// Names of images.
    pub images: u64,
    /// Results of steps.
    pub records: u64,
    /// Cache mounts and git repositories.
    pub mounts: u64,
    /// What failed steps left.
    pub kept: u64,
    /// Bytes freed on the disk.
    pub bytes: u64,
    /// Layers and mounts that were to go as well, and stay because somebody is using them.
    pub in_use: u64,
}

impl AddAssign for Pruned {
    fn add_assign(&mut self, more: Pruned) {
        self.snapshots += more.snapshots;
        self.blobs += more.blobs;
        self.images += more.images;
        self.records += more.records;
        self.mounts += more.mounts;
        self.kept += more.kept;
        self.bytes += more.bytes;
        self.in_use += more.in_use;
    }
}

/// What went into the keys of a step is forgotten when the step has not run for so long.
const STEPS_KEPT_MILLIS: i64 = 90 * 24 * 3600 * 1000;

/// What a build is told that misses something.
const BY_PRUNE_ALL: &str = "by builder prune --all";

/// Layers that neither a result nor an image nor a failed step has.
const UNREFERENCED: &str = "
    NOT EXISTS (SELECT 1 FROM trees WHERE trees.snapshot = snapshots.id)
    AND NOT EXISTS (SELECT 1 FROM chains WHERE chains.snapshot = snapshots.id) AND id NOT IN (SELECT snapshot FROM held)";

/// Some have versions over them, which go first.
const VERSIONS_FIRST: [&str; 2] = [
    "id IN (SELECT snapshot FROM versions WHERE base IS NOT NULL)",
    "NOT EXISTS (SELECT 1 FROM versions WHERE versions.base = snapshots.id)",
];

/// Layers whose files lie among those of full ones, and among those of versions.
const IS_FULL: &str = "SELECT 1 FROM snapshots WHERE id = ?1
    AND NOT EXISTS (SELECT 1 FROM versions WHERE versions.snapshot = snapshots.id AND base IS NOT NULL)";
const IS_OVER: &str = "SELECT 1 FROM versions WHERE snapshot = ?1 AND base IS NOT NULL";

/// Results that no key leads to. With `--all` those without a layer go as well.
const LOST: &str = "NOT EXISTS (SELECT 1 FROM keys WHERE keys.record = records.id)";
const EMPTY: &str = "tree IS NULL";

impl Store {
    /// Removes what is not needed and what nobody uses; builds may run. Waits while others remove things.
    pub fn prune(&self, options: PruneOptions) -> Result<Pruned, CacheError> {
        let inner = &self.inner;
        let turn = Turn::wait(inner)?;
        let database = inner.database.apart()?;
        turn.begin()?;
        let mut pruned = self.forget_names(options.all)?;
        inner.database.write("remove loose trees", trees::remove_loose)?;
        let mut trash = Trash::new(self);
        if options.all {
            let (taken, left) = self.take_wanted(&database, &|_| true, Limits::default(), BY_PRUNE_ALL)?;
            pruned += taken;
            pruned.bytes += left.empty()?;
            pruned.records += self.take_records(&database, EMPTY, Some(BY_PRUNE_ALL))?;
        }
        pruned.records += self.take_records(&database, LOST, None)?;
        pruned += self.take_unreferenced(&database, &mut trash)?;
        pruned.blobs += self.take_unused_blobs(&database, &mut trash, i64::MAX)?;
        inner.database.write("forget pieces of blobs", |db| {
            db.execute("DELETE FROM chunks WHERE blob NOT IN (SELECT digest FROM blobs)", [])
        })?;
        pruned.snapshots += self.take_snapshots(&mut trash)?;
        pruned.blobs += self.take_blobs(&mut trash)?;
        self.take_logs(&mut trash)?;
        let mounts = self.prune_mounts(options.all)?;
        pruned.mounts += mounts.count;
        if options.all {
            trash.take_all_in(&inner.layout.stats())?;
            for path in damaged_databases(&inner.layout)? {
                trash.take(&path)?;
            }
            inner.database.vacuum()?;
            room::remove_reserve(&inner.layout)?;
        }
        claims::remove_unused(&inner.layout)?;
        turn.end()?;
        pruned.bytes += mounts.bytes + trash.empty()? + partial::remove_all(&inner.layout)?;
        inner.scratch.remove_leftovers()?;
        Ok(pruned)
    }

    /// Forgets what keeps things: failed steps and downloads whose time is over, or with `all` each of them, and the names of images.
    fn forget_names(&self, all: bool) -> Result<Pruned, CacheError> {
        let now = to_millis(SystemTime::now());
        let before = |time: i64| if all { i64::MAX } else { time };
        self.inner.database.write("prune", |db| {
            let kept = db.execute("DELETE FROM kept WHERE expires < ?1", [before(now)])? as u64;
            db.execute("DELETE FROM steps WHERE used < ?1", [now - STEPS_KEPT_MILLIS])?;
            db.execute("DELETE FROM downloads WHERE used < ?1", [before(downloads::oldest())])?;
            let mut images = 0;
            if all {
                images = db.execute("DELETE FROM images", [])? as u64;
                names::write(db, &self.inner.layout)?;
            }
            Ok(Pruned { kept, images, ..Pruned::default() })
        })
    }

    /// Forgets the results of which a condition is true: how many. A build that has found one goes on with its layers.
    fn take_records(
        &self,
        database: &Database,
        condition: &str,
        why: Option<&str>,
    ) -> Result<u64, CacheError> {
        let select = format!("SELECT id FROM records WHERE {condition}");
        let found: Vec<i64> = database
            .read("look for results", |db| db.prepare(&select)?.query_map([], |row| row.get(0))?.collect())?;
        let mut taken = 0;
        for records in found.chunks(BATCH) {
            taken += database.write("forget results", |db| {
                let mut again = db.prepare_cached(&format!("{select} AND id = ?1"))?;
                let mut taken = 0;
                for record in records {
                    if again.exists([record])? {
                        if let Some(why) = why {
                            evictions::note(db, &format!("record = {record}"), why)?;
                        }
                        taken += remove_record(db, *record)?;
                    }
                }
                Ok(taken)
            })?;
        }
        Ok(taken)
    }

    /// Takes away layers that nothing has and nobody uses.
    pub(crate) fn take_unreferenced(
        &self,
        database: &Database,
        trash: &mut Trash<'_>,
    ) -> Result<Pruned, CacheError> {
        let mut pruned = Pruned::default();
        for which in VERSIONS_FIRST {
            let select = format!("SELECT id FROM snapshots WHERE {UNREFERENCED} AND {which}");
            let unreferenced: Vec<SnapshotId> = database.read("look for unused layers", |db| {
                db.prepare(&select)?.query_map([], |row| row.get(0).map(SnapshotId))?.collect()
            })?;
            for ids in unreferenced.chunks(BATCH) {
                let unleased = Unleased::new(&self.inner.layout);
                // Nobody can begin to use these now, but since they were listed somebody may have done so, filed a result, and ended.
                let free = ids.iter().filter(|id| unleased.is_free(Bucket::of_layer(**id)));
                let going = database.read("look again for unused layers", |db| {
                    let mut again = db.prepare_cached(&format!("{select} AND id = ?1"))?;
                    let mut going = Vec::with_capacity(ids.len());
                    for id in free {
                        if again.exists([id.0])? {
                            going.push(*id);
                        }
                    }
                    Ok(going)
                })?;
                let is_free = |digest: &Digest| unleased.is_free(Bucket::of_blob(digest));
                pruned += self.take_layers(database, trash, &going, "", &is_free)?;
            }
        }
        Ok(pruned)
    }

    pub(crate) fn take_snapshots(&self, trash: &mut Trash<'_>) -> Result<u64, CacheError> {
        let (snapshots, versions) = (self.inner.layout.snapshots(), self.inner.layout.versions());
        // Names first: a layer is known before it has a name, and builds may be running.
        let named = [names_in(&snapshots)?, names_in(&versions)?];
        let over: HashSet<i64> = self.inner.database.read("list versions", |db| {
            let mut select = db.prepare("SELECT snapshot FROM versions WHERE base IS NOT NULL")?;
            select.query_map([], |row| row.get(0))?.collect()
        })?;
        let full: HashSet<i64> = self.known_snapshots()?.difference(&over).copied().collect();
        let mut taken = 0;
        let places = [(snapshots, IS_FULL, full), (versions, IS_OVER, over)];
        for ((dir, is_known, known), names) in places.into_iter().zip(named) {
            let id_of = |name: &str| beside(name).unwrap_or(name).parse::<i64>().ok();
            let strays: Vec<String> =
                names.into_iter().filter(|name| id_of(name).is_none_or(|id| !known.contains(&id))).collect();
            for names in strays.chunks(BATCH) {
                let unleased = Unleased::new(&self.inner.layout);
                for name in names {
                    if let Some(id) = id_of(name)
                        && !self.is_nobodys(&unleased, SnapshotId(id), is_known)?
                    {
                        continue;
                    }
                    trash.take(&dir.join(name))?;
                    taken += u64::from(beside(name).is_none());
                }
            }
        }
        Ok(taken)
    }

    /// Whether a number is no layer's, and will be none's while `unleased` lives: after a power failure numbers are given once more.
    fn is_nobodys(
        &self,
        unleased: &Unleased<'_>,
        id: SnapshotId,
        is_known: &str,
    ) -> Result<bool, CacheError> {
        Ok(unleased.is_free(Bucket::of_layer(id))
            && !self
                .inner
                .database
                .read("look for a layer", |db| db.prepare_cached(is_known)?.exists([id.0]))?)
    }

    /// A log goes with its layer.
    pub(crate) fn take_logs(&self, trash: &mut Trash<'_>) -> Result<(), CacheError> {
        let dir = self.inner.layout.logs();
        let names = names_in(&dir)?;
        let known = self.known_snapshots()?;
        for name in names {
            if !name.parse::<i64>().is_ok_and(|id| known.contains(&id)) {
                trash.take(&dir.join(&name))?;
            }
        }
        Ok(())
    }

    pub(crate) fn known_snapshots(&self) -> Result<HashSet<i64>, CacheError> {
        self.inner.database.read("list snapshots", |db| {
            db.prepare("SELECT id FROM snapshots")?.query_map([], |row| row.get(0))?.collect()
        })
    }

    /// The files of blobs.
    pub(crate) fn known_blobs(&self) -> Result<HashSet<PathBuf>, CacheError> {
        self.inner.database.read("list blobs", |db| {
            let digest = |row: &rusqlite::Row<'_>| bytes32(row, 0).map(Digest::from_bytes);
            let mut select = db.prepare("SELECT digest FROM blobs")?;
            select
                .query_map([], digest)?
                .map(|digest| digest.map(|digest| self.inner.layout.blob(&digest)))
                .collect()
        })
    }

    /// Takes away files that are no known blobs. One that is being brought gets its row when it is in its place, and is leased before.
    fn take_blobs(&self, trash: &mut Trash<'_>) -> Result<u64, CacheError> {
        let mut taken = 0;
        for paths in self.stray_blobs(true)?.chunks(BATCH) {
            let unleased = Unleased::new(&self.inner.layout);
            for path in paths {
                if let Some(digest) = digest_of(path)
                    && (!unleased.is_free(Bucket::of_blob(&digest)) || self.is_blob(&digest)?)
                {
                    continue;
                }
                trash.take(path)?;
                taken += 1;
            }
        }
        Ok(taken)
    }

    fn is_blob(&self, digest: &Digest) -> Result<bool, CacheError> {
        self.inner.database.read("look for a blob", |db| {
            db.prepare_cached("SELECT 1 FROM blobs WHERE digest = ?1")?.exists([digest.as_bytes()])
        })
    }
}

/// The name of the layer that a file stands beside.
fn beside(name: &str) -> Option<&str> {
    name.strip_suffix(".owners").or_else(|| name.strip_suffix(".files"))
}

/// What a file is called that holds a blob.
fn digest_of(path: &Path) -> Option<Digest> {
    format!("sha256:{}", path.file_name()?.to_str()?).parse().ok()
}

/// Things on their way out.
pub(crate) struct Trash<'a> {
    store: &'a Store,
    taken: Vec<PathBuf>,
    /// Whether somebody asks how many bytes were freed, which takes a look at each file more.
    is_measured: bool,
    /// What removes while more is taken.
    remover: Option<Remover>,
}

struct Remover {
    taken: mpsc::Sender<Vec<PathBuf>>,
    thread: JoinHandle<Result<u64, CacheError>>,
}

impl<'a> Trash<'a> {
    pub(crate) fn new(store: &'a Store) -> Trash<'a> {
        Trash { store, taken: Vec::new(), is_measured: true, remover: None }
    }

    /// Of which [`Self::empty`] does not say how much it was.
    pub(crate) fn unmeasured(store: &'a Store) -> Trash<'a> {
        Trash { store, taken: Vec::new(), is_measured: false, remover: None }
    }

    pub(crate) fn take(&mut self, path: &Path) -> Result<(), CacheError> {
        self.taken.extend(self.store.inner.scratch.take_away(path)?);
        Ok(())
    }

    /// All that belongs to a layer. Only what `is_version`, of another one or for later ones, has files that other layers do not: to look for
    /// what is not there takes as long as to move what is.
    pub(crate) fn take_layer(&mut self, id: SnapshotId, is_version: bool) -> Result<(), CacheError> {
        let (layout, scratch) = (&self.store.inner.layout, &self.store.inner.scratch);
        let mut dir = layout.snapshot(id);
        let mut taken = scratch.take_away(&dir)?;
        if taken.is_none() && is_version {
            dir = layout.version(id);
            taken = scratch.take_away(&dir)?;
        }
        self.taken.extend(taken);
        if self.store.inner.options.recorded_owners {
            self.take(&owners_of(&dir))?;
        }
        if is_version {
            self.take(&layout.layer_files(id))?;
        }
        self.take(&layout.log(id))
    }

    fn take_all_in(&mut self, dir: &Path) -> Result<(), CacheError> {
        for name in names_in(dir)? {
            self.take(&dir.join(name))?;
        }
        Ok(())
    }

    /// Removes what was taken so far while the caller takes more.
    pub(crate) fn begin_emptying(&mut self) {
        let is_measured = self.is_measured;
        let remover = self.remover.get_or_insert_with(|| {
            let (taken, waiting) = mpsc::channel::<Vec<PathBuf>>();
            let remove_all = move || waiting.iter().map(|paths| remove(&paths, is_measured)).sum();
            Remover { taken, thread: std::thread::spawn(remove_all) }
        });
        // One that has failed takes no more, and says so in the end; what is left goes with the folder.
        let _ = remover.taken.send(std::mem::take(&mut self.taken));
    }

    /// Removes everything; returns the bytes freed, where they are measured.
    pub(crate) fn empty(mut self) -> Result<u64, CacheError> {
        let freed = remove(&self.taken, self.is_measured)?;
        let Some(Remover { taken, thread }) = self.remover.take() else { return Ok(freed) };
        drop(taken);
        match thread.join() {
            Ok(before) => Ok(before? + freed),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

fn remove(paths: &[PathBuf], is_measured: bool) -> Result<u64, CacheError> {
    let remove = |path: &PathBuf| {
        let bytes = if is_measured { measure(path)?.bytes } else { 0 };
        remove_tree(path)?;
        Ok(bytes)
    };
    paths.par_iter().map(remove).sum()
}

impl Drop for Trash<'_> {
    /// Whoever has failed does not leave somebody behind who still removes.
    fn drop(&mut self) {
        if let Some(Remover { taken, thread }) = self.remover.take() {
            drop(taken);
            let _ = thread.join();
        }
    }
}
