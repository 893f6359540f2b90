//! Checksums over rows that lead from one thing to the bytes of another: one that a failing disk changed leads nowhere.
//!
//! They came later than the tables that have them ([`crate::database`]): a row of an older program has none, and is believed.

use hash::{CacheKey, ContentDigest, ContentId, StableHash, StableHasher};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Row, Transaction, params_from_iter};

use crate::database::{bytes32, from_sql};
use crate::record::{Origins, RecordId};
use crate::{Changes, SnapshotId};

/// Half a hash is plenty against accidents.
pub(crate) type Seal = [u8; 16];

/// Of a result under a key. A program that knows no origins finds those broken that have some, and does not use them.
pub(crate) fn of_record(
    key: &CacheKey,
    record: RecordId,
    content: &ContentId,
    layers: &[SnapshotId],
    origins: &Origins,
) -> Seal {
    let mut hasher = StableHasher::new("record-seal-v1").with(key).with(&record.0).with(content);
    (layers.len() as u64).stable_hash(&mut hasher);
    for layer in layers {
        layer.0.stable_hash(&mut hasher);
    }
    for origin in origins {
        origin.stable_hash(&mut hasher);
    }
    half(hasher)
}

/// Of the layer that stands for a chain of image layers.
pub(crate) fn of_chain(chain: &[u8; 32], snapshot: i64) -> Seal {
    half(StableHasher::new("chain-seal-v1").with(chain).with(&snapshot))
}

/// Of the blob that a layer was packed to.
pub(crate) fn of_packed(
    snapshot: i64,
    form: &str,
    digest: &[u8; 32],
    diff_id: &[u8; 32],
    descriptor: &str,
) -> Seal {
    let hasher = StableHasher::new("packed-seal-v1").with(&snapshot).with(form);
    half(hasher.with(digest).with(diff_id).with(descriptor))
}

/// Of what is known about a layer.
pub(crate) fn of_layer(snapshot: i64, changes: &Changes, describes_root: bool, created: i64) -> Seal {
    let hasher = StableHasher::new("layer-seal-v1").with(&snapshot).with(changes.digest.as_bytes());
    half(hasher.with(&changes.entries).with(&changes.size).with(&describes_root).with(&created))
}

/// Of what a version lies over; of a full layer there is no `base`.
pub(crate) fn of_version(snapshot: i64, base: Option<i64>) -> Seal {
    half(StableHasher::new("version-seal-v1").with(&snapshot).with(&base))
}

/// Whether a row has this seal, or none.
pub(crate) fn is_intact(found: ValueRef<'_>, seal: Seal) -> bool {
    match found {
        ValueRef::Null => true,
        ValueRef::Blob(found) => found == seal,
        _ => false,
    }
}

/// A row that is not what was written.
pub(crate) struct Broken {
    /// What it is, for people.
    pub(crate) name: String,
    pub(crate) remove: Removal,
}

/// How it goes.
pub(crate) struct Removal {
    statement: &'static str,
    key: Vec<Value>,
}

impl Removal {
    pub(crate) fn execute(&self, db: &Transaction<'_>) -> rusqlite::Result<usize> {
        db.execute(self.statement, params_from_iter(&self.key))
    }
}

/// All rows with seals that are not theirs, but those of results ([`crate::records::broken`]).
pub(crate) fn broken(db: &Connection) -> rusqlite::Result<Vec<Broken>> {
    let mut found = Vec::new();
    let mut select = db.prepare("SELECT chain, snapshot, seal FROM chains")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (chain, snapshot) = (bytes32(row, 0)?, row.get(1)?);
        if !is_intact(row.get_ref(2)?, of_chain(&chain, snapshot)) {
            let statement = "DELETE FROM chains WHERE chain = ?1";
            let remove = Removal { statement, key: vec![chain.to_vec().into()] };
            found.push(Broken { name: format!("unpacked layer {snapshot}"), remove });
        }
    }
    let mut select = db.prepare("SELECT snapshot, form, digest, diff_id, descriptor, seal FROM packed")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (snapshot, form, descriptor): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(4)?);
        let seal = of_packed(snapshot, &form, &bytes32(row, 2)?, &bytes32(row, 3)?, &descriptor);
        if !is_intact(row.get_ref(5)?, seal) {
            let statement = "DELETE FROM packed WHERE snapshot = ?1 AND form = ?2";
            let remove = Removal { statement, key: vec![snapshot.into(), form.into()] };
            found.push(Broken { name: format!("packed layer {snapshot}"), remove });
        }
    }
    let mut select = db.prepare(
        "SELECT id, changes, entries, size, root, created, seal FROM snapshots WHERE seal IS NOT NULL",
    )?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (snapshot, changes): (i64, _) = (row.get(0)?, changes(row, 1)?);
        if !is_intact(row.get_ref(6)?, of_layer(snapshot, &changes, row.get(4)?, row.get(5)?)) {
            let statement = "DELETE FROM snapshots WHERE id = ?1";
            let remove = Removal { statement, key: vec![snapshot.into()] };
            found.push(Broken { name: format!("layer {snapshot}"), remove });
        }
    }
    let mut select = db.prepare("SELECT snapshot, base, seal FROM versions")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (snapshot, base): (i64, _) = (row.get(0)?, row.get(1)?);
        if !is_intact(row.get_ref(2)?, of_version(snapshot, base)) {
            let statement = "DELETE FROM snapshots WHERE id = ?1";
            let remove = Removal { statement, key: vec![snapshot.into()] };
            found.push(Broken { name: format!("version {snapshot}"), remove });
        }
    }
    Ok(found)
}

/// Digest, number of entries and size of a layer, from this column on.
pub(crate) fn changes(row: &Row<'_>, column: usize) -> rusqlite::Result<Changes> {
    Ok(Changes {
        digest: ContentDigest::from_bytes(bytes32(row, column)?),
        entries: from_sql(row.get(column + 1)?),
        size: from_sql(row.get(column + 2)?),
    })
}

fn half(hasher: StableHasher) -> Seal {
    let mut seal = [0; 16];
    seal.copy_from_slice(&hasher.finish()[..16]);
    seal
}
