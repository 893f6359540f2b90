//! When and why results were removed, to be told when they are missed.
//!
//! Noted in the table `steps` under the keys of the results themselves: those are hashes with a domain of their own, so they meet no
//! other key there. What is noted is forgotten with all else in that table.

use std::io;
use std::time::SystemTime;

use rusqlite::{Transaction, params};
use serde::{Deserialize, Serialize};

use crate::Eviction;
use crate::database::{from_millis, to_millis};

#[derive(Serialize, Deserialize)]
struct Noted {
    evicted: i64,
    why: String,
}

/// Notes for each key of the records that `which` (the condition of a query on the table `keys`) selects that they are about to be
/// removed.
pub(crate) fn note(db: &Transaction<'_>, which: &str, why: &str) -> rusqlite::Result<()> {
    let now = to_millis(SystemTime::now());
    let noted = serde_json::to_vec(&Noted { evicted: now, why: why.to_owned() }).unwrap_or_default();
    let packed = zstd::bulk::compress(&noted, 1).map_err(failed)?;
    let insert = format!(
        "INSERT OR REPLACE INTO steps (step, parts, used) SELECT key, ?1, ?2 FROM keys WHERE {which}"
    );
    db.execute(&insert, params![packed, now]).map(drop)
}

pub(crate) fn read(noted: &[u8]) -> Option<Eviction> {
    let Noted { evicted, why } = serde_json::from_slice(noted).ok()?;
    Some(Eviction { at: from_millis(evicted), why })
}

fn failed(error: io::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}
