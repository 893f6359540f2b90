//! From version 1 of the tables, which had a row for each layer of each result, to those of today.

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use crate::SnapshotId;
use crate::trees::Trees;

/// The version that is brought up to date.
pub(crate) const OLD: i64 = 1;

/// Brings the database up to date, as a whole or not at all. Results stay what they are, under the same keys. Nobody else may be using it:
/// an older program knows nothing of what becomes of its tables.
pub(crate) fn upgrade(path: &Path) -> rusqlite::Result<()> {
    let mut db = Connection::open(path)?;
    db.pragma_update(None, "foreign_keys", true)?;
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // It may be one of the first, which knew fewer tables.
    crate::database::add(&transaction)?;
    transaction.execute_batch(
        "DROP TRIGGER snapshots_gone; DROP TRIGGER base_gone;
         ALTER TABLE records ADD COLUMN tree INTEGER REFERENCES trees (id);",
    )?;
    transaction.execute_batch(include_str!("trees.sql"))?;
    plant(&transaction)?;
    transaction.execute_batch("DROP TABLE record_layers")?;
    crate::database::add(&transaction)?;
    transaction.pragma_update(None, "user_version", crate::database::COMPLETE)?;
    transaction.commit()
}

/// Makes trees of the layers of each result.
fn plant(db: &Transaction<'_>) -> rusqlite::Result<()> {
    let trees = Trees::default();
    let mut set = db.prepare("UPDATE records SET tree = ?2 WHERE id = ?1")?;
    let mut end = |record: i64, layers: &mut Vec<SnapshotId>| {
        let (tree, written) = trees.find_or_write(db, layers)?;
        trees.note(written);
        layers.clear();
        set.execute(params![record, tree])
    };
    let mut select = db.prepare("SELECT record, snapshot FROM record_layers ORDER BY record, position")?;
    let mut rows = select.query([])?;
    let (mut record, mut layers) = (None, Vec::new());
    while let Some(row) = rows.next()? {
        let next = row.get(0)?;
        if let Some(record) = record.replace(next).filter(|record| *record != next) {
            end(record, &mut layers)?;
        }
        layers.push(SnapshotId(row.get(1)?));
    }
    if let Some(record) = record {
        end(record, &mut layers)?;
    }
    Ok(())
}
