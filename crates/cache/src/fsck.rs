//! Compares what lies in the state directory with what is known about it.
//!
//! | what | how |
//! |---|---|
//! | database | SQLite's own check, references between tables |
//! | records of steps | the seal of each |
//! | blobs | size and sha256 |
//! | layers | whether they can be read; the digest of all that they hold where it is known |
//! | images | whether their blobs are there |
//! | files that nothing leads to | listed |
//!
//! A layer's digest is known when a step wrote it. What a COPY wrote or an image brought is hashed by the first check, and compared by
//! those after it. Cache mounts are the programs' own and not looked into.

use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;

use hash::{CacheKey, Digest, Sha256};
use rayon::prelude::*;
use rusqlite::{OptionalExtension, params};
use rustix::fs::{FlockOperation, flock};

use crate::database::{bytes32, from_sql};
use crate::error::At;
use crate::layout::names_in;
use crate::prune::Trash;
use crate::session::open_lock;
use crate::{CacheError, Changes, SnapshotId, Store};

/// What was looked at and found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checked {
    /// Blobs whose bytes were compared.
    pub blobs: u64,
    /// Layers that were compared.
    pub layers: u64,
    /// Those of them whose digest was not known: it is from now on.
    pub unknown: u64,
    /// Records of steps.
    pub records: u64,
    /// Names of images.
    pub images: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// Which: a digest, a number, a name, a path.
    pub name: String,
    /// What is wrong with it.
    pub what: String,
    /// Whether it was removed.
    pub repaired: bool,
}

/// What a [`Finding`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingKind {
    /// The database as a whole.
    Database,
    /// The record of a step.
    Record,
    /// A blob.
    Blob,
    /// A layer.
    Layer,
    /// An image in the image store.
    Image,
    /// A file or directory that nothing leads to.
    Stray,
}

impl FindingKind {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            FindingKind::Database => "database",
            FindingKind::Record => "record",
            FindingKind::Blob => "blob",
            FindingKind::Layer => "layer",
            FindingKind::Image => "image",
            FindingKind::Stray => "stray",
        }
    }
}

impl Store {
    /// Checks everything, and with `repair` removes what is damaged: it is made or fetched again when it is needed.
    ///
    /// # Errors
    /// [`CacheError::Busy`] when `repair` is asked for while a build is running, and when the file system fails.
    pub fn check(&self, repair: bool) -> Result<Checked, CacheError> {
        let lock = open_lock(&self.inner.layout)?;
        let how = if repair {
            FlockOperation::NonBlockingLockExclusive
        } else {
            FlockOperation::NonBlockingLockShared
        };
        if flock(&lock, how).is_err() {
            return Err(CacheError::Busy { path: self.root().to_owned() });
        }
        let mut check = Check { store: self, repair, checked: Checked::default() };
        if !check.database()? {
            return Ok(check.checked);
        }
        check.records()?;
        check.blobs()?;
        check.layers()?;
        check.images()?;
        check.strays()?;
        Ok(check.checked)
    }
}

/// A check on its way.
struct Check<'a> {
    store: &'a Store,
    repair: bool,
    checked: Checked,
}

impl Check<'_> {
    fn found(&mut self, kind: FindingKind, name: impl Into<String>, what: impl Into<String>) {
        let (name, what) = (name.into(), what.into());
        self.checked.findings.push(Finding { kind, name, what, repaired: self.repair });
    }

    /// Whether the database can be relied on.
    fn database(&mut self) -> Result<bool, CacheError> {
        let database = &self.store.inner.database;
        let told = database.read("check", |db| {
            let mut told: Vec<String> = db
                .prepare("PRAGMA integrity_check")?
                .query_map([], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            told.retain(|line| line != "ok");
            let mut lost = db.prepare("PRAGMA foreign_key_check")?;
            let lost =
                lost.query_map([], |row| Ok(format!("a row of {} leads nowhere", row.get::<_, String>(0)?)))?;
            for line in lost {
                told.push(line?);
            }
            Ok(told)
        });
        let told = match told {
            Ok(told) => told,
            Err(error) if database.is_damaged() => vec![error.to_string()],
            Err(error) => return Err(error),
        };
        let path = database.path().display().to_string();
        let sound = told.is_empty();
        if let Some(first) = told.into_iter().next() {
            self.found(FindingKind::Database, path, first);
            if self.repair {
                database.give_up("check");
            }
        }
        Ok(sound)
    }

    fn records(&mut self) -> Result<(), CacheError> {
        let inner = &self.store.inner;
        let keys: Vec<[u8; 32]> = inner.database.read("list records", |db| {
            db.prepare("SELECT DISTINCT key FROM keys")?.query_map([], |row| bytes32(row, 0))?.collect()
        })?;
        for key in keys {
            let key = CacheKey::from_bytes(key);
            let broken = inner.database.read("check a record", |db| crate::records::broken(db, &key))?;
            self.checked.records += 1;
            for id in broken {
                self.found(FindingKind::Record, id.to_string(), "it is not what was filed");
                if self.repair {
                    inner.database.write("remove a broken record", |db| {
                        db.execute("DELETE FROM records WHERE id = ?1", [id])
                    })?;
                }
            }
        }
        Ok(())
    }

    fn blobs(&mut self) -> Result<(), CacheError> {
        let inner = &self.store.inner;
        let known: Vec<(Digest, u64)> = inner.database.read("list blobs", |db| {
            let blob =
                |row: &rusqlite::Row<'_>| Ok((Digest::from_bytes(bytes32(row, 0)?), from_sql(row.get(1)?)));
            db.prepare("SELECT digest, size FROM blobs ORDER BY id")?.query_map([], blob)?.collect()
        })?;
        let wrong: Vec<(Digest, String)> = known
            .par_iter()
            .filter_map(|(digest, size)| {
                Some((*digest, wrong_blob(inner.layout.blob(digest), digest, *size)?))
            })
            .collect();
        self.checked.blobs = known.len() as u64;
        for (digest, what) in wrong {
            self.found(FindingKind::Blob, digest.to_string(), what);
            if self.repair {
                inner.discard_blob(&digest).at("remove", &inner.layout.blob(&digest))?;
            }
        }
        Ok(())
    }

    fn layers(&mut self) -> Result<(), CacheError> {
        let inner = &self.store.inner;
        let ids: Vec<i64> = inner.database.read("list layers", |db| {
            db.prepare("SELECT id FROM snapshots ORDER BY id")?.query_map([], |row| row.get(0))?.collect()
        })?;
        for id in ids.into_iter().map(SnapshotId) {
            self.checked.layers += 1;
            let what = match self.store.stored_snapshot(id)? {
                None => Some("its files are gone".to_owned()),
                Some(snapshot) => match snapshot.entries().and_then(|entries| Changes::of(&entries)) {
                    // It cannot be read, which is what was to be found out.
                    Err(error) => Some(error.to_string()),
                    Ok(here) => self.compare(id, snapshot.changes(), &here)?,
                },
            };
            let Some(what) = what else { continue };
            self.found(FindingKind::Layer, id.to_string(), what);
            if self.repair {
                inner.database.write("remove a damaged layer", |db| {
                    db.execute("DELETE FROM snapshots WHERE id = ?1", [id.0])
                })?;
            }
        }
        Ok(())
    }

    /// What is wrong with a layer that holds `here`.
    fn compare(
        &mut self,
        id: SnapshotId,
        recorded: &Changes,
        here: &Changes,
    ) -> Result<Option<String>, CacheError> {
        let database = &self.store.inner.database;
        let known = database.read("look up a layer's digest", |db| {
            db.query_row("SELECT digest FROM sums WHERE snapshot = ?1", [id.0], |row| bytes32(row, 0))
                .optional()
        })?;
        let digest = *here.digest.as_bytes();
        match known {
            Some(known) => Ok((known != digest).then(|| "its files are not what was written".to_owned())),
            None if *recorded.digest.as_bytes() == digest => Ok(None),
            None => {
                self.checked.unknown += 1;
                database.write("note a layer's digest", |db| {
                    db.execute(
                        "INSERT OR REPLACE INTO sums (snapshot, digest) VALUES (?1, ?2)",
                        params![id.0, digest],
                    )
                })?;
                Ok(None)
            }
        }
    }

    fn images(&mut self) -> Result<(), CacheError> {
        let images = self.store.list_images()?;
        self.checked.images = images.len() as u64;
        let lost: HashSet<String> = self.store.inner.database.read("check images", |db| {
            db.prepare(
                "SELECT DISTINCT name FROM image_blobs WHERE digest NOT IN (SELECT digest FROM blobs)",
            )?
            .query_map([], |row| row.get(0))?
            .collect()
        })?;
        for image in images.into_iter().filter(|image| lost.contains(&image.name.to_string())) {
            self.found(FindingKind::Image, image.name.familiar(), "a blob of it is not there");
            if self.repair {
                self.store.remove_image(&image.name)?;
            }
        }
        Ok(())
    }

    /// What has no row in the database. A build that is running may be about to write one for a blob, so those are left alone then.
    fn strays(&mut self) -> Result<(), CacheError> {
        let store = self.store;
        let layout = &store.inner.layout;
        let mut strays = store.stray_layers()?;
        if self.repair {
            strays.extend(store.stray_blobs()?);
        }
        let mut trash = Trash::new(store);
        for path in strays {
            let name = path.strip_prefix(layout.root()).unwrap_or(&path).display().to_string();
            self.found(FindingKind::Stray, name, "nothing leads to it");
            if self.repair {
                trash.take(&path)?;
            }
        }
        trash.empty().map(drop)
    }
}

/// What is wrong with a blob's file.
fn wrong_blob(path: PathBuf, digest: &Digest, size: u64) -> Option<String> {
    let mut file = match File::open(&path) {
        Err(error) => return Some(format!("its file cannot be opened: {error}")),
        Ok(file) => file,
    };
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 17];
    let mut read = 0;
    loop {
        match std::io::Read::read(&mut file, &mut buffer) {
            Ok(0) => break,
            Ok(more) => {
                hash.update(&buffer[..more]);
                read += more as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Some(format!("it cannot be read: {error}")),
        }
    }
    match hash.finish() == *digest {
        true if read == size => None,
        _ if read != size => Some(format!("it has {read} bytes instead of {size}")),
        _ => Some("its bytes are not what its name says".to_owned()),
    }
}

impl Store {
    /// Directories of layers, files beside them and logs that no layer has.
    fn stray_layers(&self) -> Result<Vec<PathBuf>, CacheError> {
        let layout = &self.inner.layout;
        let mut strays = Vec::new();
        for dir in [layout.snapshots(), layout.versions(), layout.logs()] {
            // Names first: a layer is known before it has a name, and builds may be running.
            let names = names_in(&dir)?;
            let known = self.known_snapshots()?;
            let number = |name: &String| name.split('.').next().and_then(|stem| stem.parse::<i64>().ok());
            let is_stray = |name: &String| !number(name).is_some_and(|id| known.contains(&id));
            strays.extend(names.into_iter().filter(is_stray).map(|name| dir.join(name)));
        }
        Ok(strays)
    }

    fn stray_blobs(&self) -> Result<Vec<PathBuf>, CacheError> {
        let dir = self.inner.layout.blobs();
        let mut strays = Vec::new();
        let known = self.known_blobs()?;
        for folder in names_in(&dir)? {
            let folder = dir.join(folder);
            let paths = names_in(&folder)?.into_iter().map(|name| folder.join(name));
            strays.extend(paths.filter(|path| !known.contains(path)));
        }
        Ok(strays)
    }
}
