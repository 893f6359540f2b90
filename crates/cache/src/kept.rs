use std::time::{Duration, SystemTime};

use hash::ContentDigest;
use rusqlite::{OptionalExtension, params};

use crate::database::{from_millis, from_sql, to_millis};
use crate::leases::{Bucket, Glance};
use crate::{ActiveSnapshot, CacheError, Changes, Limits, SnapshotId, Store};

/// Names what a failed step left, in this state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeptId(pub i64);

/// What a failed step left, so that somebody can look into it later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptStep {
    /// Its name.
    pub id: KeptId,
    /// The whole tree as the step left it: layers bottom first, the last one with what the step changed. For [`Store::begin_root`].
    pub layers: Vec<SnapshotId>,
    /// For people: the instruction.
    pub name: String,
    /// What is needed to run something there, as JSON; whoever kept it knows its form.
    pub spec: String,
    /// When it failed.
    pub created: SystemTime,
    /// After this time it may go.
    pub expires: SystemTime,
}

impl ActiveSnapshot {
    /// Keeps what a failed step wrote over `parents` (bottom first) for `time`, not as a result that could be found, but for
    /// [`Store::kept_step`]. `shown` are further layers that are needed to run something there: those that its mounts show. `spec` must be
    /// JSON; secrets do not belong there.
    pub fn keep(
        self,
        parents: &[SnapshotId],
        shown: &[SnapshotId],
        name: &str,
        spec: &str,
        time: Duration,
    ) -> Result<KeptStep, CacheError> {
        let store = self.store().clone();
        let entries = self.entries()?;
        // No key depends on it, so nobody needs the digest, which takes reading everything.
        let changes = Changes {
            digest: ContentDigest::from_bytes([0; 32]),
            entries: entries.entries().len() as u64,
            size: entries.size(),
        };
        drop(entries);
        let snapshot = self.commit(&changes)?.id();
        let layers = [parents, &[snapshot]].concat();
        let created = SystemTime::now();
        let (now, end) = (to_millis(created), to_millis(created + time));
        let id = store.inner.database.write("keep a failed step", |db| {
            db.execute(
                "INSERT INTO kept (snapshot, layers, name, spec, created, expires) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![snapshot.0, to_json(&layers), name, spec, now, end],
            )?;
            let id = KeptId(db.last_insert_rowid());
            for layer in shown {
                db.execute("INSERT OR IGNORE INTO pins (kept, snapshot) VALUES (?1, ?2)", [id.0, layer.0])?;
            }
            Ok(id)
        })?;
        let (created, expires) = (from_millis(now), from_millis(end));
        Ok(KeptStep { id, layers, name: name.to_owned(), spec: spec.to_owned(), created, expires })
    }
}

const COLUMNS: &str = "SELECT id, layers, name, spec, created, expires FROM kept";

impl Store {
    /// What a failed step left; `None` when it, or a layer below it, is gone. It stays while a [`crate::Session`] lives.
    pub fn kept_step(&self, id: KeptId) -> Result<Option<KeptStep>, CacheError> {
        let found = self.inner.database.read("look up a kept step", |db| {
            db.query_row(&format!("{COLUMNS} WHERE id = ?1"), [id.0], from_row).optional()
        })?;
        let Some(found) = found else { return Ok(None) };
        let shown: Vec<SnapshotId> = self.inner.database.read("look up what a kept step shows", |db| {
            db.prepare("SELECT snapshot FROM pins WHERE kept = ?1")?
                .query_map([id.0], |row| row.get(0).map(SnapshotId))?
                .collect()
        })?;
        for layer in found.layers.iter().chain(&shown) {
            if self.snapshot(*layer)?.is_none() {
                self.forget_kept_step(id)?;
                return Ok(None);
            }
        }
        Ok(Some(found))
    }

    /// All of them, oldest first.
    pub fn kept_steps(&self) -> Result<Vec<KeptStep>, CacheError> {
        self.inner.database.read("list kept steps", |db| {
            db.prepare(&format!("{COLUMNS} ORDER BY id"))?.query_map([], from_row)?.collect()
        })
    }

    /// Forgets failed steps, oldest first, until `used` bytes of the cache without what they left keep the limits; only those whose own layer
    /// may go and nobody uses. Says how many.
    pub(crate) fn forget_failed(
        &self,
        limits: Limits,
        used: u64,
        may_go: &dyn Fn(SnapshotId) -> bool,
    ) -> Result<u64, CacheError> {
        let kept: Vec<(i64, SnapshotId, u64)> = self.inner.database.read("list kept steps", |db| {
            db.prepare("SELECT kept.id, snapshot, size FROM kept JOIN snapshots ON snapshots.id = snapshot ORDER BY kept.id")?
                .query_map([], |row| Ok((row.get(0)?, SnapshotId(row.get(1)?), from_sql(row.get(2)?))))?
                .collect()
        })?;
        let glance = Glance::new(&self.inner.layout);
        let (mut gone, mut freed, free) = (Vec::new(), 0, self.free()?);
        for (id, layer, bytes) in kept {
            if !limits.are_over(used - freed, free + freed) {
                break;
            }
            if may_go(layer) && glance.was_free(Bucket::of_layer(layer)) {
                freed = (freed + bytes).min(used);
                gone.push(id);
            }
        }
        if gone.is_empty() {
            return Ok(0);
        }
        self.inner.database.write("forget failed steps", |db| {
            let mut forget = db.prepare_cached("DELETE FROM kept WHERE id = ?1")?;
            gone.iter().map(|id| forget.execute([id]).map(|rows| rows as u64)).sum()
        })
    }

    /// Lets it go with the next prune, unless a record has its layers.
    pub fn forget_kept_step(&self, id: KeptId) -> Result<(), CacheError> {
        self.inner
            .database
            .write("forget a kept step", |db| db.execute("DELETE FROM kept WHERE id = ?1", [id.0]).map(drop))
    }
}

fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<KeptStep> {
    let layers: String = row.get(1)?;
    Ok(KeptStep {
        id: KeptId(row.get(0)?),
        // A damaged row has no layers, and nothing can be begun on them that would be wrong.
        layers: from_json(&layers),
        name: row.get(2)?,
        spec: row.get(3)?,
        created: from_millis(row.get(4)?),
        expires: from_millis(row.get(5)?),
    })
}

fn to_json(layers: &[SnapshotId]) -> String {
    let numbers: Vec<i64> = layers.iter().map(|layer| layer.0).collect();
    serde_json::Value::from(numbers).to_string()
}

fn from_json(text: &str) -> Vec<SnapshotId> {
    serde_json::from_str::<Vec<i64>>(text).unwrap_or_default().into_iter().map(SnapshotId).collect()
}
