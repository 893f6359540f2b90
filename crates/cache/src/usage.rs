use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rusqlite::Connection;

use crate::database::{from_millis, from_sql};
use crate::error::At;
use crate::layout::names_in;
use crate::{CacheError, CacheMountInfo, SnapshotId, Store};

/// Number and bytes of things of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    /// How many.
    pub count: u64,
    /// Together. For snapshots and blobs the bytes of the files, for the rest those on the disk.
    pub bytes: u64,
}

/// What the state directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Layers as directories.
    pub snapshots: Amount,
    /// Blobs by digest.
    pub blobs: Amount,
    /// Names of images; their bytes are among the blobs.
    pub images: Amount,
    /// Results of steps; their bytes are among the snapshots.
    pub records: Amount,
    /// Stat caches.
    pub stat_caches: Amount,
    /// Cache mounts.
    pub cache_mounts: Amount,
    /// Git repositories.
    pub remotes: Amount,
    /// What steps printed.
    pub logs: Amount,
    /// Records and logs of builds.
    pub builds: Amount,
    /// What failed steps left; their bytes are among the snapshots.
    pub kept: Amount,
    /// Unfinished or left over.
    pub temporary: Amount,
    /// The database.
    pub database: Amount,
    /// Every layer, oldest first.
    pub layers: Vec<SnapshotUsage>,
}

impl Usage {
    /// Bytes of everything.
    pub fn total(&self) -> u64 {
        let apart = [
            self.snapshots,
            self.blobs,
            self.stat_caches,
            self.cache_mounts,
            self.remotes,
            self.logs,
            self.builds,
            self.temporary,
            self.database,
        ];
        apart.iter().map(|kind| kind.bytes).sum()
    }
}

/// One layer of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotUsage {
    /// Its name.
    pub id: SnapshotId,
    /// The step that made it; empty for a layer of a base image.
    pub description: String,
    /// Bytes of its files.
    pub size: u64,
    /// When it was made.
    pub created: SystemTime,
    /// When a build last used it, to the minute.
    pub last_used: SystemTime,
    /// Whether a step's result, an image's chain or a kept failed step names it: what nothing names goes with the next prune.
    pub referenced: bool,
}

/// A layer that a step made is the last of that step's layers; one that has no result any more is there for the versions over it.
const LAYERS: &str = "
    SELECT id, coalesce((SELECT own FROM versions WHERE snapshot = snapshots.id), size), created, used,
           coalesce((SELECT name FROM kept WHERE snapshot = snapshots.id),
                    (SELECT description FROM trees JOIN records ON tree = trees.id
                     WHERE trees.snapshot = snapshots.id ORDER BY records.id LIMIT 1),
                    (SELECT description FROM versions JOIN trees ON trees.snapshot = versions.snapshot JOIN records ON tree = trees.id
                     WHERE versions.base = snapshots.id ORDER BY records.id LIMIT 1), ''),
           EXISTS (SELECT 1 FROM trees WHERE trees.snapshot = snapshots.id)
             OR EXISTS (SELECT 1 FROM chains WHERE snapshot = snapshots.id)
             OR id IN (SELECT snapshot FROM held)
             OR id IN (SELECT base FROM versions WHERE base IS NOT NULL)
    FROM snapshots ORDER BY id";

impl Store {
    /// What the state directory holds. Reads the database, and lists what is temporary.
    pub fn usage(&self) -> Result<Usage, CacheError> {
        let layout = &self.inner.layout;
        let (layers, blobs, images, records, kept) = self.inner.database.read("add up", |db| {
            let layers: Vec<SnapshotUsage> = db
                .prepare_cached(LAYERS)?
                .query_map([], |row| {
                    Ok(SnapshotUsage {
                        id: SnapshotId(row.get(0)?),
                        size: from_sql(row.get(1)?),
                        created: from_millis(row.get(2)?),
                        last_used: from_millis(row.get(3)?),
                        description: row.get(4)?,
                        referenced: row.get(5)?,
                    })
                })?
                .collect::<Result<_, _>>()?;
            let blobs = amount(db, "SELECT count(*), coalesce(sum(size), 0) FROM blobs")?;
            let images = amount(db, "SELECT count(*), 0 FROM images")?;
            let records = amount(db, "SELECT count(*), 0 FROM records")?;
            let kept = amount(
                db,
                "SELECT count(*), coalesce(sum(size), 0) FROM kept JOIN snapshots ON snapshots.id = kept.snapshot",
            )?;
            Ok((layers, blobs, images, records, kept))
        })?;
        let snapshots =
            Amount { count: layers.len() as u64, bytes: layers.iter().map(|layer| layer.size).sum() };
        let mut database = Amount { count: 1, bytes: 0 };
        for suffix in ["", "-wal", "-shm"] {
            let mut path = layout.database().into_os_string();
            path.push(suffix);
            database.bytes += measure(Path::new(&path))?.bytes;
        }
        let inside = |dirs: &[PathBuf]| -> Result<Amount, CacheError> {
            let mut amount = Amount::default();
            for dir in dirs {
                for name in names_in(dir)? {
                    amount.count += 1;
                    amount.bytes += measure(&dir.join(name))?.bytes;
                }
            }
            Ok(amount)
        };
        Ok(Usage {
            snapshots,
            blobs,
            images,
            records,
            stat_caches: inside(&[layout.stats()])?,
            cache_mounts: together(&self.cache_mounts()?),
            remotes: together(&self.remote_dirs()?),
            logs: inside(&[layout.logs()])?,
            builds: self.measure_builds()?,
            kept,
            temporary: inside(&[layout.scratch(), layout.partials()])?,
            database,
            layers,
        })
    }
}

/// An image of the store and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUsage {
    /// Its name, as it is kept.
    pub name: String,
    /// What it runs on.
    pub platform: String,
    /// Bytes of its blobs.
    pub bytes: u64,
    /// Bytes of those blobs that nothing else has, neither another image nor a cached layer: they go when it loses its name.
    pub frees: u64,
}

impl Store {
    /// What images take, by name and platform.
    pub fn image_usage(&self) -> Result<Vec<ImageUsage>, CacheError> {
        let query = "
            SELECT name, platform, coalesce(sum(size), 0), coalesce(sum(CASE
                WHEN EXISTS (SELECT 1 FROM image_blobs AS other WHERE other.digest = own.digest
                             AND (other.name, other.platform) <> (own.name, own.platform))
                  OR EXISTS (SELECT 1 FROM packed WHERE packed.digest = own.digest)
                  OR EXISTS (SELECT 1 FROM downloads WHERE downloads.digest = own.digest)
                THEN 0 ELSE size END), 0)
            FROM image_blobs AS own JOIN blobs ON blobs.digest = own.digest GROUP BY name, platform";
        self.inner.database.read("add up images", |db| {
            db.prepare(query)?
                .query_map([], |row| {
                    Ok(ImageUsage {
                        name: row.get(0)?,
                        platform: row.get(1)?,
                        bytes: from_sql(row.get(2)?),
                        frees: from_sql(row.get(3)?),
                    })
                })?
                .collect()
        })
    }
}

fn together(mounts: &[CacheMountInfo]) -> Amount {
    Amount { count: mounts.len() as u64, bytes: mounts.iter().map(|mount| mount.size.bytes).sum() }
}

fn amount(db: &Connection, query: &str) -> rusqlite::Result<Amount> {
    db.query_row(query, [], |row| Ok(Amount { count: from_sql(row.get(0)?), bytes: from_sql(row.get(1)?) }))
}

/// Entries and bytes on disk of what stands at `path`; nothing when nothing does, or while it vanishes. What cannot be read
/// is left out, and what lies deeper than the kernel takes paths: this is for people.
pub(crate) fn measure(path: &Path) -> Result<Amount, CacheError> {
    let mut amount = Amount::default();
    let mut rest = vec![path.to_owned()];
    while let Some(at) = rest.pop() {
        let metadata = match fs::symlink_metadata(&at) {
            Ok(metadata) => metadata,
            Err(error) if at == path && error.kind() != io::ErrorKind::NotFound => {
                return Err(error).at("stat", path);
            }
            Err(_) => continue,
        };
        amount.count += 1;
        amount.bytes += metadata.blocks() * 512;
        if metadata.is_dir()
            && let Ok(entries) = fs::read_dir(&at)
        {
            rest.extend(entries.filter_map(Result::ok).map(|entry| entry.path()));
        }
    }
    Ok(amount)
}
