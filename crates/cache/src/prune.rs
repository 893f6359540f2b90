use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rayon::prelude::*;
use rustix::fs::FlockOperation;

use crate::database::{bytes32, from_sql, to_millis};
use crate::layout::names_in;
use crate::lock::Lock;
use crate::remove::remove_tree;
use crate::session::open_lock;
use crate::usage::measure;
use crate::{CacheError, Store, claims, downloads, evictions};

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
        AND id NOT IN (SELECT value FROM kept, json_each(kept.layers))
        AND id IN (SELECT snapshot FROM versions WHERE base IS NOT NULL);
    DELETE FROM snapshots WHERE id NOT IN (SELECT snapshot FROM record_layers) AND id NOT IN (SELECT snapshot FROM chains)
        AND id NOT IN (SELECT value FROM kept, json_each(kept.layers))
        AND id NOT IN (SELECT base FROM versions WHERE base IS NOT NULL);
    DELETE FROM blobs WHERE digest NOT IN (SELECT digest FROM packed) AND digest NOT IN (SELECT digest FROM image_blobs)
        AND digest NOT IN (SELECT digest FROM downloads);
    DELETE FROM chunks WHERE blob NOT IN (SELECT digest FROM blobs);";

impl Store {
    /// Removes what is not needed. Nothing is removed while a build is running, in whatever process; a build that starts
    /// meanwhile waits for a moment, not for the disk: things are moved out of sight first.
    pub fn prune(&self, options: PruneOptions) -> Result<Pruned, CacheError> {
        self.prune_after(options, || Ok(Pruned::default()))
    }

    /// The same after something else that wants nobody to be building; what that removed is added.
    pub(crate) fn prune_after(
        &self,
        options: PruneOptions,
        first: impl FnOnce() -> Result<Pruned, CacheError>,
    ) -> Result<Pruned, CacheError> {
        let inner = &self.inner;
        let lock = open_lock(&inner.layout)?;
        let operation = if options.wait {
            FlockOperation::LockExclusive
        } else {
            FlockOperation::NonBlockingLockExclusive
        };
        let Some(lock) = Lock::attempt(lock, operation, &inner.layout.session_lock())? else {
            return Err(CacheError::Busy { path: self.root().to_owned() });
        };
        let before = first()?;
        let mut pruned = self.remove_rows(options.all)?;
        let mut trash = Trash::new(self);
        pruned.snapshots = self.take_snapshots(&mut trash)?;
        pruned.blobs = self.take_blobs(&mut trash)?;
        self.take_logs(&mut trash)?;
        let mounts = self.prune_mounts(options.all)?;
        pruned.mounts = before.mounts + mounts.count;
        pruned.records += before.records;
        if options.all {
            trash.take_all_in(&inner.layout.stats())?;
            inner.database.vacuum()?;
        }
        claims::remove_unused(&inner.layout)?;
        drop(lock);
        pruned.bytes = before.bytes + mounts.bytes + trash.empty()?;
        inner.scratch.remove_leftovers()?;
        Ok(pruned)
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
        let known = self.known_blobs()?;
        let mut taken = 0;
        let dir = self.inner.layout.blobs();
        for folder in names_in(&dir)? {
            let folder = dir.join(folder);
            for name in names_in(&folder)? {
                let path = folder.join(name);
                if !known.contains(&path) {
                    trash.take(&path)?;
                    taken += 1;
                }
            }
        }
        Ok(taken)
    }
}

/// Things on their way out.
pub(crate) struct Trash<'a> {
    store: &'a Store,
    taken: Vec<PathBuf>,
}

impl<'a> Trash<'a> {
    pub(crate) fn new(store: &'a Store) -> Trash<'a> {
        Trash { store, taken: Vec::new() }
    }

    pub(crate) fn take(&mut self, path: &Path) -> Result<(), CacheError> {
        self.taken.extend(self.store.inner.scratch.take_away(path)?);
        Ok(())
    }

    fn take_all_in(&mut self, dir: &Path) -> Result<(), CacheError> {
        for name in names_in(dir)? {
            self.take(&dir.join(name))?;
        }
        Ok(())
    }

    /// Removes everything; returns the bytes freed.
    pub(crate) fn empty(self) -> Result<u64, CacheError> {
        self.taken
            .par_iter()
            .map(|path| {
                let bytes = measure(path)?.bytes;
                remove_tree(path)?;
                Ok(bytes)
            })
            .sum()
    }
}
