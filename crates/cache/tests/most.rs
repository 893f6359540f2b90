//! Where most results go, the tables are written anew: what stays is what it was, and what went is told.

mod common;
#[path = "common/filled.rs"]
mod filled;

use std::collections::HashSet;
use std::path::Path;

use cache::{CacheBackend, Limits, Store, StoreOptions};
use common::{Lookup, build_steps, key};
use filled::filled;
use hash::CacheKey;
use rusqlite::Connection;

/// Enough for it to be done this way.
const RECORDS: u64 = 20_000;

/// What is in a table.
fn rows(db: &Connection, table: &str) -> HashSet<String> {
    let mut select = db.prepare(&format!("SELECT * FROM {table}")).unwrap();
    let columns = select.column_count();
    let row = |row: &rusqlite::Row<'_>| {
        (0..columns).map(|place| row.get_ref(place).map(|value| format!("{value:?}"))).collect()
    };
    select.query_map([], row).unwrap().map(|row: Result<Vec<String>, _>| row.unwrap().join("|")).collect()
}

#[test]
fn what_stays_is_what_it_was() {
    let (dir, bytes) = filled(Path::new("/tmp"), RECORDS, 3);
    let db = Connection::open(dir.path().join("cache-v1.db")).unwrap();
    db.execute("INSERT INTO record_origins SELECT id, 'registry' FROM records", []).unwrap();
    let of_records = ["records", "trees", "keys", "record_origins"];
    let before = of_records.map(|table| rows(&db, table));
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let limits = Limits { max_used_space: bytes / 10, ..Limits::default() };
    let pruned = store.evict(&|_| true, limits, "to make room").unwrap();
    let count = |table: &str| -> u64 {
        db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
            .map(|rows: i64| rows as u64)
            .unwrap()
    };
    let left = count("records");
    assert_eq!((pruned.records, pruned.snapshots), (RECORDS - left, RECORDS - left));
    assert!((1..=RECORDS / 10).contains(&left), "{left}");
    for (table, before) in of_records.iter().zip(&before) {
        let after = rows(&db, table);
        assert!(
            !after.is_empty() && after.len() < before.len(),
            "{table}: {} of {}",
            after.len(),
            before.len()
        );
        assert!(after.is_subset(before), "{table}");
    }
    // All of what stays, and nothing that refers to what is gone.
    assert_eq!((count("record_origins"), count("keys")), (left, 2 * left));
    let text = |pragma: &str| -> Vec<String> {
        let mut told = db.prepare(pragma).unwrap();
        told.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(text("PRAGMA integrity_check"), ["ok"]);
    assert_eq!(text("PRAGMA foreign_key_check"), [""; 0]);
    // Each key that is gone says why.
    let told: Vec<Vec<u8>> = {
        let mut select = db.prepare("SELECT step FROM steps").unwrap();
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(told.len() as u64, 2 * (RECORDS - left));
    for key in &told[..10] {
        let gone = CacheKey::from_bytes(key.as_slice().try_into().unwrap());
        assert_eq!(store.records().eviction(&gone).unwrap().unwrap().why, "to make room");
        assert!(store.records().lookup(&gone).unwrap().is_empty());
    }
    // Numbers are not given again.
    build_steps(&store, 1);
    let newest: i64 = db.query_row("SELECT max(id) FROM records", [], |row| row.get(0)).unwrap();
    assert_eq!(newest as u64, RECORDS + 1);
    assert_eq!(store.records().lookup(&key(0)).unwrap().len(), 1);
}
