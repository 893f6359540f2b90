use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hash::{CacheKey, ContentId};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::database::{bytes32, from_sql, to_millis};
use crate::record::{CacheBackend, CacheRecord, Claim, Eviction, NewRecord, Origins, RecordId, StepRun};
use crate::store::Inner;
use crate::trees::Trees;
use crate::{CacheError, SnapshotId, Store, claims, evictions, seals};

/// Results of vertices, on disk.
#[derive(Debug, Clone)]
pub struct Records {
    inner: Arc<Inner>,
}

impl Records {
    pub(crate) fn new(inner: Arc<Inner>) -> Records {
        Records { inner }
    }
}

/// A row of `records` with its layers, as read.
struct Row {
    record: CacheRecord,
    sealed: bool,
}

/// What is remembered of one step, in bytes; more is not.
const LARGEST_STEP: usize = 64 << 20;

impl CacheBackend for Records {
    fn candidates(&self, key: &CacheKey) -> Result<Vec<CacheRecord>, CacheError> {
        let rows = self.inner.database.read("look up a key", |db| rows_of_key(db, &self.inner.trees, key))?;
        let (sound, broken): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| row.sealed);
        for row in broken {
            self.inner.damage.note("the record of a cached step");
            self.inner.database.write("remove a broken record", |db| {
                db.execute("DELETE FROM records WHERE id = ?1", [row.record.id.0])
            })?;
        }
        Ok(sound.into_iter().map(|row| row.record).collect())
    }

    fn hold(&self, record: &CacheRecord) -> Result<bool, CacheError> {
        if !self.inner.all_there(&record.layers)? {
            return Ok(false);
        }
        let used: Option<i64> = self.inner.database.read("look when a result was used", |db| {
            db.prepare_cached("SELECT used FROM records WHERE id = ?1")?
                .query_row([record.id.0], |row| row.get(0))
                .optional()
        })?;
        let Some(used) = used else { return Ok(false) };
        record.layers.iter().for_each(|layer| self.inner.leases.saw_layer(*layer));
        self.inner.touch(used, to_millis(SystemTime::now()), |touched| {
            touched.records.insert(record.id.0);
            touched.snapshots.extend(record.layers.iter().map(|layer| layer.0));
        });
        Ok(true)
    }

    fn glance(&self, keys: &[CacheKey], trusted: &Origins) -> Result<Vec<Option<CacheRecord>>, CacheError> {
        self.inner.database.read("look at results", |db| {
            let first = |key| {
                let sealed = rows_of_key(db, &self.inner.trees, key)?.into_iter().filter(|row| row.sealed);
                Ok(CacheRecord::first_of(sealed.map(|row| row.record).collect(), trusted))
            };
            keys.iter().map(first).collect()
        })
    }

    fn save_from(
        &self,
        keys: &[CacheKey],
        record: &NewRecord,
        origins: &Origins,
    ) -> Result<CacheRecord, CacheError> {
        let started = record.run.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = to_millis(SystemTime::now());
        let saved = self.inner.database.write("save a result", |db| {
            let (tree, written) = self.inner.trees.find_or_write(db, &record.layers)?;
            db.prepare_cached(
                "INSERT INTO records (content, description, started, duration, used, tree) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                record.content.as_bytes(),
                record.description,
                nanos(started),
                nanos(record.run.duration),
                now,
                tree,
            ])?;
            let id = RecordId(db.last_insert_rowid());
            let mut insert =
                db.prepare_cached("INSERT INTO record_origins (record, origin) VALUES (?1, ?2)")?;
            for origin in origins {
                insert.execute(params![id.0, origin])?;
            }
            for key in keys {
                file_under(db, key, id, seals::of_record(key, id, &record.content, &record.layers, origins))?;
            }
            Ok((id, written))
        });
        if saved.is_err() {
            // A layer of it may have been thrown away meanwhile: that is noted.
            let store = Store::of(self.inner.clone());
            record.layers.iter().try_for_each(|layer| store.snapshot(*layer).map(drop))?;
        }
        let (id, written) = saved?;
        self.inner.trees.note(written);
        // Times as the database holds them, so that a record equals itself when it is read back.
        let run = StepRun {
            started: UNIX_EPOCH + Duration::from_nanos(from_sql(nanos(started))),
            duration: Duration::from_nanos(from_sql(nanos(record.run.duration))),
        };
        Ok(record.filed(id, run, origins))
    }

    fn alias(&self, record: RecordId, key: &CacheKey) -> Result<(), CacheError> {
        self.inner.database.write("file a result under one more key", |db| {
            let found = db
                .prepare_cached("SELECT content, tree FROM records WHERE id = ?1")?
                .query_row([record.0], |row| Ok((bytes32(row, 0)?, row.get(1)?)))
                .optional()?;
            // Removed meanwhile (one of its layers was found broken): then there is nothing to file.
            let Some((content, tree)) = found else { return Ok(()) };
            let layers = self.inner.trees.layers(db, tree)?;
            let seal = seals::of_record(
                key,
                record,
                &ContentId::from_bytes(content),
                &layers,
                &origins_of(db, record)?,
            );
            file_under(db, key, record, seal)
        })
    }

    fn supersede(
        &self,
        keys: &[CacheKey],
        record: &CacheRecord,
        trusted: &Origins,
    ) -> Result<(), CacheError> {
        let superseded: Vec<(CacheKey, RecordId)> =
            self.inner.database.read("look for superseded results", |db| {
                let mut superseded = Vec::new();
                for key in keys {
                    let others = rows_of_key(db, &self.inner.trees, key)?
                        .into_iter()
                        .map(|row| row.record)
                        .filter(|other| other.content != record.content && other.origins.is_subset(trusted));
                    superseded.extend(others.map(|other| (*key, other.id)));
                }
                Ok(superseded)
            })?;
        if superseded.is_empty() {
            return Ok(());
        }
        self.inner.database.write("forget superseded results", |db| {
            let mut forget = db.prepare_cached("DELETE FROM keys WHERE key = ?1 AND record = ?2")?;
            superseded
                .iter()
                .try_for_each(|(key, other)| forget.execute(params![key.as_bytes(), other.0]).map(drop))
        })
    }

    fn recall(&self, step: &CacheKey) -> Result<Option<Vec<u8>>, CacheError> {
        let packed: Option<Vec<u8>> = self.inner.database.read("recall a step", |db| {
            db.prepare_cached("SELECT parts FROM steps WHERE step = ?1")?
                .query_row([step.as_bytes()], |row| row.get(0))
                .optional()
        })?;
        // A damaged row explains nothing, and is no reason to fail.
        Ok(packed.and_then(|packed| zstd::bulk::decompress(&packed, LARGEST_STEP).ok()))
    }

    fn remember(&self, steps: &[(CacheKey, Vec<u8>)]) -> Result<(), CacheError> {
        let now = to_millis(SystemTime::now());
        let packed: Vec<_> = steps
            .iter()
            .filter(|(_, parts)| parts.len() <= LARGEST_STEP)
            .filter_map(|(step, parts)| Some((step, zstd::bulk::compress(parts, 1).ok()?)))
            .collect();
        self.inner.database.write("remember a step", |db| {
            let mut insert =
                db.prepare_cached("INSERT OR REPLACE INTO steps (step, parts, used) VALUES (?1, ?2, ?3)")?;
            for (step, parts) in &packed {
                insert.execute(params![step.as_bytes(), parts, now])?;
            }
            Ok(())
        })
    }

    fn eviction(&self, key: &CacheKey) -> Result<Option<Eviction>, CacheError> {
        Ok(self.recall(key)?.and_then(|noted| evictions::read(&noted)))
    }

    fn lost(&self) -> Result<Option<SystemTime>, CacheError> {
        let noted = self.recall(&evictions::key_of_loss())?.and_then(|noted| evictions::read(&noted));
        Ok(noted.map(|noted| noted.at).filter(|at| at.elapsed().unwrap_or_default() < evictions::LOSS_TOLD))
    }

    fn secret(&self) -> Result<[u8; 32], CacheError> {
        crate::secret::of_store(&self.inner)
    }

    fn try_claim(&self, key: &CacheKey) -> Result<Option<Box<dyn Claim>>, CacheError> {
        claims::try_claim(&self.inner.layout, key)
    }
}

impl Inner {
    /// Whether all layers' directories stand. A missing one is forgotten, and with it every record that has it.
    fn all_there(&self, layers: &[SnapshotId]) -> Result<bool, CacheError> {
        for layer in layers {
            if !self.is_there(*layer)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn rows_of_key(db: &Connection, trees: &Trees, key: &CacheKey) -> rusqlite::Result<Vec<Row>> {
    let mut select = db.prepare_cached(
        "SELECT record, seal, content, started, duration, tree, EXISTS (SELECT 1 FROM record_origins WHERE record = records.id)
         FROM keys JOIN records ON records.id = record WHERE key = ?1 ORDER BY record DESC",
    )?;
    let mut rows = select.query([key.as_bytes()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let id = RecordId(row.get(0)?);
        let content = ContentId::from_bytes(bytes32(row, 2)?);
        let layers = trees.layers(db, row.get(5)?)?;
        let origins = if row.get(6)? { origins_of(db, id)? } else { Origins::new() };
        let seal = seals::of_record(key, id, &content, &layers, &origins);
        let sealed = row.get_ref(1)?.as_bytes().is_ok_and(|found| found == seal);
        let run = StepRun {
            started: UNIX_EPOCH + Duration::from_nanos(from_sql(row.get(3)?)),
            duration: Duration::from_nanos(from_sql(row.get(4)?)),
        };
        let record = CacheRecord { id, content, layers, run, origins };
        found.push(Row { record, sealed });
    }
    Ok(found)
}

/// The records filed under a key that are not what was filed.
pub(crate) fn broken(db: &Connection, trees: &Trees, key: &CacheKey) -> rusqlite::Result<Vec<i64>> {
    let rows = rows_of_key(db, trees, key)?.into_iter();
    Ok(rows.filter(|row| !row.sealed).map(|row| row.record.id.0).collect())
}

fn origins_of(db: &Connection, record: RecordId) -> rusqlite::Result<Origins> {
    db.prepare_cached("SELECT origin FROM record_origins WHERE record = ?1")?
        .query_map([record.0], |row| row.get(0))?
        .collect()
}

fn file_under(
    db: &Transaction<'_>,
    key: &CacheKey,
    record: RecordId,
    seal: [u8; 16],
) -> rusqlite::Result<()> {
    // It is there again, so that it was removed once explains nothing any more.
    db.prepare_cached("DELETE FROM steps WHERE step = ?1")?.execute([key.as_bytes()])?;
    db.prepare_cached("INSERT OR IGNORE INTO keys (key, record, seal) VALUES (?1, ?2, ?3)")?
        .execute(params![key.as_bytes(), record.0, seal])
        .map(drop)
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
