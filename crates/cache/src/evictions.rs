//! When and why results were removed, to be told when they are missed.
//!
//! Noted in the table `steps` under the keys of the results themselves: those are hashes with a domain of their own, so they meet no
//! other key there. What is noted is forgotten with all else in that table.

use std::io;
use std::time::{Duration, SystemTime};

use hash::{CacheKey, StableHasher};
use rusqlite::{Transaction, params};
use serde::{Deserialize, Serialize};

use crate::database::{Database, from_millis, from_sql, to_millis};
use crate::evict::OF_RECORDS;
use crate::trees::BELOW_RESULTS;
use crate::{CacheError, Eviction};

#[derive(Serialize, Deserialize)]
struct Noted {
    evicted: i64,
    why: String,
}

/// Notes for each key of the records that `which` (the condition of a query on the table `keys`) selects that they are about to be
/// removed.
pub(crate) fn note(db: &Transaction<'_>, which: &str, why: &str) -> rusqlite::Result<()> {
    let (packed, now) = packed(why)?;
    let insert = format!(
        "INSERT OR REPLACE INTO steps (step, parts, used) SELECT key, ?1, ?2 FROM keys WHERE {which}"
    );
    db.execute(&insert, params![packed, now]).map(drop)
}

/// So many keys go in one transaction: tens of milliseconds.
const BATCH: usize = 8192;

/// Notes for the keys of records that they are about to be removed, and removes them: from then on nobody finds these results. In the order
/// of the keys, which are hashes, so that each page of the tables is written about once; with the layers, a few hundred at a time, most
/// would be written again and again. Cut short, it has left records that the next collection finds as they are.
pub(crate) fn forget_keys(database: &Database, records: &[i64], why: &str) -> Result<(), CacheError> {
    let mut keys: Vec<(Vec<u8>, i64)> = database.read_together("list keys", |db| {
        let mut select = db.prepare_cached("SELECT key FROM keys WHERE record = ?1")?;
        let mut keys = Vec::with_capacity(2 * records.len());
        for record in records {
            for key in select.query_map([record], |row| row.get(0))? {
                keys.push((key?, *record));
            }
        }
        Ok(keys)
    })?;
    keys.sort_unstable();
    for keys in keys.chunks(BATCH) {
        database.write("forget results", |db| {
            let (packed, now) = packed(why)?;
            let mut note =
                db.prepare_cached("INSERT OR REPLACE INTO steps (step, parts, used) VALUES (?1, ?2, ?3)")?;
            let mut delete = db.prepare_cached("DELETE FROM keys WHERE key = ?1 AND record = ?2")?;
            for (key, record) in keys {
                note.execute(params![key, packed, now])?;
                delete.execute(params![key, record])?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// From so many results on it pays to write the tables anew ([`forget_most`]).
const MANY: usize = 10_000;

/// Whether so few results stay that it takes less time to write what stays than to take out what goes.
pub(crate) fn are_most(database: &Database, records: &[i64]) -> Result<bool, CacheError> {
    if records.len() < MANY {
        return Ok(false);
    }
    let all = database.read("count results", |db| {
        db.query_row("SELECT count(*) FROM records", [], |row| row.get(0).map(from_sql))
    })?;
    Ok(all < records.len() as u64 / 4 * 5)
}

/// Removes these records with all that refers to them, and notes for their keys why, in one go: what stays is put aside, the tables are
/// emptied, which SQLite does without looking at rows, and filled again. Other writers wait for it: half a second for 100,000 results in
/// chains of 60. Cut short, nothing has happened.
pub(crate) fn forget_most(database: &Database, records: &[i64], why: &str) -> Result<u64, CacheError> {
    database.write("forget most results", |db| {
        db.execute_batch(
            "CREATE TEMP TABLE IF NOT EXISTS forgotten (record INTEGER PRIMARY KEY); DELETE FROM forgotten",
        )?;
        let mut insert = db.prepare_cached("INSERT OR IGNORE INTO forgotten VALUES (?1)")?;
        for record in records {
            insert.execute([record])?;
        }
        let (packed, now) = packed(why)?;
        // In the order of the keys, as the table of the notes is.
        db.prepare_cached(
            "INSERT OR REPLACE INTO steps (step, parts, used)
                 SELECT key, ?1, ?2 FROM keys NOT INDEXED WHERE record IN (SELECT record FROM forgotten)",
        )?
        .execute(params![packed, now])?;
        let before = db.query_row("SELECT count(*) FROM records", [], |row| row.get(0).map(from_sql))?;
        // It would look at each row.
        let trigger: String = db.query_row(
            "SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND name = 'records_gone'",
            [],
            |row| row.get(0),
        )?;
        db.execute_batch("DROP TRIGGER records_gone")?;
        let of_records = OF_RECORDS.into_iter().chain([("records", "id")]);
        let stays = of_records
            .map(|(table, column)| (table, format!("{column} NOT IN (SELECT record FROM forgotten)")));
        for (table, stays) in stays.chain([("trees", format!("id IN ({BELOW_RESULTS})"))]) {
            db.execute_batch(&format!(
                "CREATE TEMP TABLE staying AS SELECT * FROM main.{table} WHERE {stays};
                 DELETE FROM main.{table};
                 INSERT INTO main.{table} SELECT * FROM staying;
                 DROP TABLE staying"
            ))?;
        }
        db.execute_batch(&trigger)?;
        let after: u64 = db.query_row("SELECT count(*) FROM records", [], |row| row.get(0).map(from_sql))?;
        db.execute_batch("DROP TABLE forgotten")?;
        Ok(before - after)
    })
}

/// For so long a step that is not known is said to have been lost, rather than never built.
pub(crate) const LOSS_TOLD: Duration = Duration::from_secs(7 * 24 * 3600);

/// Where it is noted that a damaged database was replaced.
pub(crate) fn key_of_loss() -> CacheKey {
    CacheKey::from_bytes(StableHasher::new("database-replaced-v1").finish())
}

/// Notes in a new database that it takes the place of a damaged one.
pub(crate) fn note_loss(db: &Transaction<'_>) -> rusqlite::Result<()> {
    let (packed, now) = packed("with the damaged cache database")?;
    db.execute(
        "INSERT OR REPLACE INTO steps (step, parts, used) VALUES (?1, ?2, ?3)",
        params![key_of_loss().as_bytes(), packed, now],
    )
    .map(drop)
}

/// A note, and when it is made.
fn packed(why: &str) -> rusqlite::Result<(Vec<u8>, i64)> {
    let now = to_millis(SystemTime::now());
    let noted = serde_json::to_vec(&Noted { evicted: now, why: why.to_owned() }).unwrap_or_default();
    Ok((zstd::bulk::compress(&noted, 1).map_err(failed)?, now))
}

pub(crate) fn read(noted: &[u8]) -> Option<Eviction> {
    let Noted { evicted, why } = serde_json::from_slice(noted).ok()?;
    Some(Eviction { at: from_millis(evicted), why })
}

fn failed(error: io::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Store, StoreOptions};

    #[test]
    fn tables_are_written_anew_where_four_of_five_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let database = &store.inner.database;
        let fill = "WITH RECURSIVE count(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM count WHERE i < 20000)
                    INSERT INTO records (id, content, description, started, duration, used)
                        SELECT i, zeroblob(32), '', 0, 0, 0 FROM count";
        database.write("fill", |db| db.execute_batch(fill)).unwrap();
        let most = |going: i64| are_most(database, &(1..=going).collect::<Vec<_>>()).unwrap();
        assert_eq!([9_999, 15_000, 16_500, 20_000].map(most), [false, false, true, true]);
        database.write("shrink", |db| db.execute("DELETE FROM records WHERE id > 9000", [])).unwrap();
        assert!(!most(9_000), "few take little time in either way");
    }
}
