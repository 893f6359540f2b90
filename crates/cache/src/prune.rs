use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::SystemTime;

use rayon::prelude::*;
use rustix::fs::FlockOperation;

use crate::database::{bytes32, damaged_databases, from_sql, to_millis};
use crate::layout::{names_in, owners_of};
use crate::lock::Lock;
use crate::remove::remove_tree;
use crate::session::open_lock;
use crate::usage::measure;
use crate::{CacheError, SnapshotId, Store, claims, downloads, evictions, names};

/// What to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PruneOptions {
    /// Everything: results, layers, images, blobs, cache mounts. Otherwise only what nothing names, or what was kept for a
    /// time that is over.
    pub all: bool,
    /// Whether to wait for running builds instead of failing with [`CacheError::Busy`]. A caller with a
    /// [`crate::Session`] of its own would wait for itself.
    pub wait: bool,
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
}

/// What went into the keys of a step is forgotten when the step has not run for so long.
const STEPS_KEPT_MILLIS: i64 = 90 * 24 * 3600 * 1000;

const EVERYTHING: &str = "
    DELETE FROM images; DELETE FROM packed; DELETE FROM chains; DELETE FROM records;
    DELETE FROM snapshots; DELETE FROM blobs; DELETE FROM kept; DELETE FROM downloads; DELETE FROM chunks;";

/// Records without a key cannot be found; layers without a record or a chain neither, but some have versions over them, which go first;
/// blobs serve packed layers and images.
const UNREFERENCED: &str = "
    DELETE FROM records WHERE id NOT IN (SELECT record FROM keys);
    DELETE FROM snapshots WHERE id NOT IN (SELECT snapshot FROM record_layers) AND id NOT IN (SELECT snapshot FROM chains)
        AND id NOT IN (SELECT snapshot FROM held)
        AND id IN (SELECT snapshot FROM versions WHERE base IS NOT NULL);
    DELETE FROM snapshots WHERE id NOT IN (SELECT snapshot FROM record_layers) AND id NOT IN (SELECT snapshot FROM chains)
        AND id NOT IN (SELECT snapshot FROM held)
        AND id NOT IN (SELECT base FROM versions WHERE base IS NOT NULL);
    DELETE FROM blobs WHERE digest NOT IN (SELECT digest FROM packed) AND digest NOT IN (SELECT digest FROM image_blobs)
        AND digest NOT IN (SELECT digest FROM downloads);
    DELETE FROM chunks WHERE blob NOT IN (SELECT digest FROM blobs);";

impl Store {
    /// Removes what is not needed. Nothing is removed while a build is running, in whatever process; a build that starts
    /// meanwhile waits for a moment, not for the disk: things are moved out of sight first.
    pub fn prune(&self, options: PruneOptions) -> Result<Pruned, CacheError> {
        let inner = &self.inner;
        let lock = self.alone(options.wait)?;
        let mut pruned = self.remove_rows(options.all)?;
        let mut trash = Trash::new(self);
        pruned.snapshots = self.take_snapshots(&mut trash)?;
        pruned.blobs = self.take_blobs(&mut trash)?;
        self.take_logs(&mut trash)?;
        let mounts = self.prune_mounts(options.all)?;
        pruned.mounts = mounts.count;
        if options.all {
            trash.take_all_in(&inner.layout.stats())?;
            for path in damaged_databases(&inner.layout)? {
                trash.take(&path)?;
            }
            inner.database.vacuum()?;
        }
        claims::remove_unused(&inner.layout)?;
        drop(lock);
        pruned.bytes = mounts.bytes + trash.empty()?;
        inner.scratch.remove_leftovers()?;
        Ok(pruned)
    }

    /// Keeps builds from running while the value lives.
    ///
    /// # Errors
    /// [`CacheError::Busy`] when one is running and `wait` is false; those of [`Store::session`].
    pub(crate) fn alone(&self, wait: bool) -> Result<Lock, CacheError> {
        let layout = &self.inner.layout;
        let operation =
            if wait { FlockOperation::LockExclusive } else { FlockOperation::NonBlockingLockExclusive };
        let lock = Lock::attempt(open_lock(layout)?, operation, &layout.session_lock())?;
        let lock = lock.ok_or_else(|| CacheError::Busy { path: self.root().to_owned() })?;
        // What another database has rows for would be taken for rubbish.
        self.inner.check_usable()?;
        Ok(lock)
    }

    /// Rows first: what has no row is found again by the next prune, should this one be killed.
    fn remove_rows(&self, all: bool) -> Result<Pruned, CacheError> {
        self.inner.database.write("prune", |db| {
            let count = |table: &str| -> rusqlite::Result<u64> {
                db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0).map(from_sql))
            };
            let before = (count("images")?, count("records")?, count("kept")?);
            db.execute("DELETE FROM kept WHERE expires < ?1", [to_millis(SystemTime::now())])?;
            db.execute(
                "DELETE FROM steps WHERE used < ?1",
                [to_millis(SystemTime::now()) - STEPS_KEPT_MILLIS],
            )?;
            db.execute("DELETE FROM downloads WHERE used < ?1", [downloads::oldest()])?;
            if all {
                evictions::note(db, "true", "by builder prune --all")?;
            }
            db.execute_batch(if all { EVERYTHING } else { UNREFERENCED })?;
            if all {
                names::write(db, &self.inner.layout)?;
            }
            Ok(Pruned {
                images: before.0 - count("images")?,
                records: before.1 - count("records")?,
                kept: before.2 - count("kept")?,
                ..Pruned::default()
            })
        })
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
        for ((dir, names), known) in [snapshots, versions].iter().zip(named).zip([full, over]) {
            for name in names {
                let beside = name.strip_suffix(".owners").or_else(|| name.strip_suffix(".files"));
                let (stem, is_layer) = match beside {
                    Some(stem) => (stem, false),
                    None => (name.as_str(), true),
                };
                if stem.parse::<i64>().is_ok_and(|id| known.contains(&id)) {
                    continue;
                }
                trash.take(&dir.join(&name))?;
                taken += u64::from(is_layer);
            }
        }
        Ok(taken)
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
            let digest = |row: &rusqlite::Row<'_>| bytes32(row, 0).map(hash::Digest::from_bytes);
            let mut select = db.prepare("SELECT digest FROM blobs")?;
            select
                .query_map([], digest)?
                .map(|digest| digest.map(|digest| self.inner.layout.blob(&digest)))
                .collect()
        })
    }

    fn take_blobs(&self, trash: &mut Trash<'_>) -> Result<u64, CacheError> {
        let strays = self.stray_blobs(true)?;
        strays.iter().try_for_each(|path| trash.take(path))?;
        Ok(strays.len() as u64)
    }
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

    /// All that belongs to a layer.
    pub(crate) fn take_layer(&mut self, id: SnapshotId) -> Result<(), CacheError> {
        let (layout, scratch) = (&self.store.inner.layout, &self.store.inner.scratch);
        let mut dir = layout.snapshot(id);
        let mut taken = scratch.take_away(&dir)?;
        if taken.is_none() {
            dir = layout.version(id);
            taken = scratch.take_away(&dir)?;
        }
        self.taken.extend(taken);
        if self.store.inner.options.recorded_owners {
            self.take(&owners_of(&dir))?;
        }
        self.take(&layout.layer_files(id))?;
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
