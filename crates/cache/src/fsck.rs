//! Compares what lies in the state directory with what is known about it.
//!
//! | what | how |
//! |---|---|
//! | database | SQLite's own check, references between tables, rows of images |
//! | records of steps, of packed and unpacked layers | the seal of each |
//! | blobs | size and sha256 |
//! | layers | whether they can be read; what they hold, but for times |
//! | images | whether their blobs are there, and sound; one that lost its index alone keeps its name |
//! | files that nothing leads to | listed, in each place |
//!
//! What a layer holds is noted when it is written ([`crate::Sum`]). Where it was not, by an older program or of what a failed step left, it is hashed by the first
//! check, and compared by those after it. Cache mounts are the programs' own and not looked into.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::PathBuf;

use hash::{CacheKey, Digest, Sha256};
use rayon::prelude::*;
use rusqlite::{OptionalExtension, params};
use rustix::fs::FlockOperation;

use crate::database::{bytes32, from_sql};
use crate::error::At;
use crate::layout::open_lock_file;
use crate::leases::Bucket;
use crate::lock::Lock;
use crate::prune::Trash;
use crate::session::open_lock;
use crate::store::Inner;
use crate::strays::Stray;
use crate::trees::{self, ABOVE, Trees};
use crate::{CacheError, Changes, SnapshotId, Store, Sum};

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
    /// Something at the top of the state directory that this program did not make: nothing is wrong, and it stays.
    Foreign,
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
            FindingKind::Foreign => "foreign",
        }
    }
}

impl Store {
    /// Checks everything, and with `repair` removes what is damaged: it is made or fetched again when it is needed. Without, builds may be
    /// running.
    ///
    /// # Errors
    /// [`CacheError::Busy`] when `repair` is asked for while there is a [`crate::Session`] somewhere, and when the file system fails.
    pub fn check(&self, repair: bool) -> Result<Checked, CacheError> {
        let (lock, path) = (open_lock(&self.inner.layout)?, self.inner.layout.session_lock());
        let _lock = if repair {
            Lock::attempt(lock, FlockOperation::NonBlockingLockExclusive, &path)?
                .ok_or_else(|| CacheError::busy(&self.inner.layout))?
        } else {
            Lock::wait(lock, FlockOperation::LockShared, &path)?
        };
        self.inner.database.check_in_place()?;
        let mut check = Check { store: self, repair, checked: Checked::default(), bad_blobs: HashSet::new() };
        if !check.database()? {
            return Ok(check.checked);
        }
        match (check.contents(), self.inner.database.damage()) {
            (Ok(()), _) => {}
            // What is wrong with it showed where its rows were read: a column that has another name, say.
            (Err(_), Some(why)) => check.found(FindingKind::Database, check.database_name(), why),
            (Err(error), None) => return Err(error),
        }
        Ok(check.checked)
    }
}

/// What was found out of a layer.
enum Compared {
    /// Whether it is what was written.
    Known(bool),
    /// What it holds, where it is not known what it should.
    Unknown(Changes),
}

/// A check on its way.
struct Check<'a> {
    store: &'a Store,
    repair: bool,
    checked: Checked,
    /// The digests of the blobs that are not what they should be.
    bad_blobs: HashSet<[u8; 32]>,
}

impl Check<'_> {
    fn found(&mut self, kind: FindingKind, name: impl Into<String>, what: impl Into<String>) {
        let (name, what) = (name.into(), what.into());
        self.checked.findings.push(Finding { kind, name, what, repaired: self.repair });
    }

    /// All that is known, and all that is there.
    fn contents(&mut self) -> Result<(), CacheError> {
        self.records()?;
        self.sealed()?;
        self.blobs()?;
        self.layers()?;
        self.images()?;
        self.strays()
    }

    fn database_name(&self) -> String {
        self.store.inner.database.path().display().to_string()
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
            // An image whose row says nothing is an image without a name.
            crate::names::all(db)?;
            Ok(told)
        });
        let told = match told {
            Ok(told) => told,
            Err(error) => match database.damage() {
                Some(why) => vec![why],
                None => return Err(error),
            },
        };
        let sound = told.is_empty();
        if let Some(why) = told.into_iter().next() {
            self.found(FindingKind::Database, self.database_name(), why.clone());
            if self.repair {
                database.give_up(&why);
            }
        }
        Ok(sound)
    }

    fn records(&mut self) -> Result<(), CacheError> {
        let inner = &self.store.inner;
        let keys: Vec<[u8; 32]> = inner.database.read("list records", |db| {
            db.prepare("SELECT DISTINCT key FROM keys")?.query_map([], |row| bytes32(row, 0))?.collect()
        })?;
        // As the disk has them, whatever was read before.
        let known = Trees::default();
        for key in keys {
            let key = CacheKey::from_bytes(key);
            let broken =
                inner.database.read("check a record", |db| crate::records::broken(db, &known, &key))?;
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
        let loose = inner.database.read("look for loose trees", trees::count_loose)?;
        if loose > 0 {
            self.found(FindingKind::Record, format!("{loose} trees"), "no result leads to them");
            if self.repair {
                inner.database.write("remove loose trees", trees::remove_loose)?;
            }
        }
        Ok(())
    }

    /// What leads from one thing to the bytes of another.
    fn sealed(&mut self) -> Result<(), CacheError> {
        let database = &self.store.inner.database;
        let broken = database.read("check seals", crate::seals::broken)?;
        for broken in broken {
            self.found(FindingKind::Record, broken.name, "it is not what was filed");
            if self.repair {
                database.write("remove a broken record", |db| broken.remove.execute(db))?;
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
        let wrong: Vec<Digest> = known
            .par_iter()
            .filter(|(digest, size)| wrong_blob(inner.layout.blob(digest), digest, *size).is_some())
            .map(|(digest, _)| *digest)
            .collect();
        self.checked.blobs = known.len() as u64;
        for digest in wrong {
            let again = || still_wrong_blob(inner, &digest);
            let Some(what) = leased(inner, Bucket::of_blob(&digest), again)? else { continue };
            self.bad_blobs.insert(*digest.as_bytes());
            self.found(FindingKind::Blob, digest.to_string(), what);
            if self.repair {
                inner.discard_blob(&digest, &|_| Ok(true)).at("remove", &inner.layout.blob(&digest))?;
            }
        }
        Ok(())
    }

    fn layers(&mut self) -> Result<(), CacheError> {
        let inner = &self.store.inner;
        let ids: Vec<i64> = inner.database.read("list layers", |db| {
            db.prepare("SELECT id FROM snapshots ORDER BY id")?.query_map([], |row| row.get(0))?.collect()
        })?;
        self.checked.layers = ids.len() as u64;
        for id in ids.into_iter().map(SnapshotId) {
            if self.wrong_layer(id)?.is_none() {
                continue;
            }
            let again = || self.still_wrong_layer(id);
            let Some(mut what) = leased(inner, Bucket::of_layer(id), again)? else { continue };
            let results: i64 = inner.database.read("count results", |db| {
                let count = format!("{ABOVE} SELECT count(*) FROM records WHERE tree IN above");
                db.query_row(&count, [id.0], |row| row.get(0))
            })?;
            if results > 0 {
                what += &format!("; cached steps that need it: {results}");
            }
            self.found(FindingKind::Layer, id.to_string(), what);
            if self.repair {
                self.remove_layer(id)?;
            }
        }
        Ok(())
    }

    /// What is wrong with a layer.
    fn wrong_layer(&mut self, id: SnapshotId) -> Result<Option<String>, CacheError> {
        let Some(snapshot) = self.store.stored_snapshot(id)? else {
            return Ok(Some("its files are gone".to_owned()));
        };
        let database = &self.store.inner.database;
        let known = database.read("look up a layer's sum", |db| Sum::find(db, id))?;
        let compared = snapshot.entries().and_then(|entries| match known {
            Some(known) => known.matches(&entries).map(Compared::Known),
            None => Changes::of(&entries).map(Compared::Unknown),
        });
        match compared {
            // It cannot be read, which is what was to be found out.
            Err(error) => Ok(Some(error.to_string())),
            Ok(Compared::Known(matches)) => {
                Ok((!matches).then(|| "its files are not what was written".to_owned()))
            }
            Ok(Compared::Unknown(here)) => self.note(id, snapshot.changes(), &here).map(|()| None),
        }
    }

    /// The same of one that is leased.
    fn still_wrong_layer(&mut self, id: SnapshotId) -> Result<Option<String>, CacheError> {
        let is_led_to = "SELECT EXISTS (SELECT 1 FROM trees WHERE snapshot = snapshots.id)
                             OR EXISTS (SELECT 1 FROM chains WHERE snapshot = id)
                             OR EXISTS (SELECT 1 FROM kept WHERE snapshot = id)
                             OR EXISTS (SELECT 1 FROM versions WHERE base = id)
                         FROM snapshots WHERE id = ?1";
        let database = &self.store.inner.database;
        let is_led_to = database.read("look up a layer", |db| {
            db.query_row(is_led_to, [id.0], |row| row.get::<_, bool>(0)).optional()
        })?;
        match is_led_to {
            None => Ok(None),
            // It is just being made, its row first; or whoever made it was killed.
            Some(false) if !self.store.stands(id)? => match self.repair {
                true => self.remove_layer(id).map(|()| None),
                false => Ok(None),
            },
            Some(_) => self.wrong_layer(id),
        }
    }

    fn remove_layer(&self, id: SnapshotId) -> Result<(), CacheError> {
        self.store.inner.database.write("remove a damaged layer", |db| {
            db.execute("DELETE FROM snapshots WHERE id = ?1", [id.0]).map(drop)
        })
    }

    /// Notes what a layer holds of which that was not known.
    fn note(&mut self, id: SnapshotId, recorded: &Changes, here: &Changes) -> Result<(), CacheError> {
        if recorded.digest == here.digest {
            return Ok(());
        }
        // It may have been removed meanwhile.
        let note =
            "INSERT OR REPLACE INTO sums (snapshot, digest) SELECT id, ?2 FROM snapshots WHERE id = ?1";
        let database = &self.store.inner.database;
        let noted = database
            .write("note a layer's digest", |db| db.execute(note, params![id.0, here.digest.as_bytes()]))?;
        self.checked.unknown += noted as u64;
        Ok(())
    }

    fn images(&mut self) -> Result<(), CacheError> {
        let images = self.store.list_images()?;
        self.checked.images = images.len() as u64;
        let inner = &self.store.inner;
        let lost: HashMap<String, HashSet<Digest>> = inner.database.read("check images", |db| {
            let mut select =
                db.prepare("SELECT name, digest, digest IN (SELECT digest FROM blobs) FROM image_blobs")?;
            let mut rows = select.query([])?;
            let mut lost: HashMap<String, HashSet<Digest>> = HashMap::new();
            while let Some(row) = rows.next()? {
                let digest = bytes32(row, 1)?;
                if !row.get::<_, bool>(2)? || self.bad_blobs.contains(&digest) {
                    lost.entry(row.get(0)?).or_default().insert(Digest::from_bytes(digest));
                }
            }
            Ok(lost)
        })?;
        if self.repair && !lost.is_empty() {
            inner.database.write("forget lost indexes", |db| {
                crate::images::forget_lost_indexes(db)?;
                crate::names::write(db, &inner.layout)
            })?;
        }
        let indexes: HashSet<Digest> =
            images.iter().filter_map(|image| Some(image.index.as_ref()?.digest)).collect();
        for image in images {
            let Some(lost) = lost.get(&image.name.to_string()) else { continue };
            let is_whole = lost.is_subset(&indexes);
            let what = match is_whole {
                true => "its index is damaged or gone",
                false => "a blob of it is damaged or gone",
            };
            self.found(FindingKind::Image, image.name.familiar(), what);
            if self.repair && !is_whole {
                self.store.forget_image(&image.name)?;
            }
        }
        Ok(())
    }

    /// What has no row in the database. A build that is running may be about to write one for a blob, so those are left alone then.
    fn strays(&mut self) -> Result<(), CacheError> {
        let store = self.store;
        let layout = &store.inner.layout;
        // What a collector takes has no row for a moment before its file goes.
        let (path, shared) = (layout.collector_lock(), FlockOperation::LockShared);
        let collector = Lock::wait(open_lock_file(&path).at("open", &path)?, shared, &path)?;
        let strays = store.strays(self.repair)?;
        drop(collector);
        let mut trash = Trash::new(store);
        for Stray { path, is_ours } in strays {
            let name = path.strip_prefix(layout.root()).unwrap_or(&path).display().to_string();
            if is_ours {
                self.found(FindingKind::Stray, name, "nothing leads to it");
            } else {
                let what = "it does not belong here; if nobody needs it, remove it yourself".to_owned();
                let kind = FindingKind::Foreign;
                self.checked.findings.push(Finding { kind, name, what, repaired: false });
            }
            if self.repair && is_ours {
                trash.take(&path)?;
            }
        }
        trash.empty()?;
        if self.repair {
            // What killed processes left is no damage.
            store.inner.scratch.remove_leftovers()?;
        }
        Ok(())
    }
}

/// Looks again at what was found wrong: a running build's collector may have removed it meanwhile. While this looks it does not.
fn leased<T>(
    inner: &Inner,
    bucket: Bucket,
    look: impl FnOnce() -> Result<T, CacheError>,
) -> Result<T, CacheError> {
    inner.leases.begin();
    let seen = inner.leases.hold(&inner.layout, bucket).and_then(|()| look());
    inner.leases.end();
    seen
}

/// What is wrong with a blob that is leased.
fn still_wrong_blob(inner: &Inner, digest: &Digest) -> Result<Option<String>, CacheError> {
    let size = inner.database.read("look up a blob", |db| {
        db.query_row("SELECT size FROM blobs WHERE digest = ?1", [digest.as_bytes()], |row| row.get(0))
            .optional()
    })?;
    Ok(size.and_then(|size| wrong_blob(inner.layout.blob(digest), digest, from_sql(size))))
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
