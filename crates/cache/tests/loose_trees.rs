//! Rows of the table `trees` to which no result leads: a failing disk changed one.

mod common;

use std::fs;

use cache::{CacheBackend, NewRecord, PruneOptions, SnapshotId, StepRun, Store, StoreOptions};
use common::{Lookup, TestStore, build_steps, content, key};
use rusqlite::Connection;

fn count(db: &Connection, table: &str) -> i64 {
    db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

/// Of five results on one another the last one names another tree: it is no hit, and is removed. Its own tree has no result then.
fn with_loose_tree(tree: &str) -> TestStore {
    let test = TestStore::new();
    let session = test.store.session().unwrap();
    build_steps(&test.store, 5);
    session.finish_durably().unwrap();
    let change = format!("PRAGMA foreign_keys = OFF; UPDATE records SET tree = {tree} WHERE id = 5");
    test.database().execute_batch(&change).unwrap();
    assert!(test.again().records().candidates(&key(4)).unwrap().is_empty());
    test
}

#[test]
fn they_do_not_keep_a_lost_layer() {
    for tree in ["NULL", "3", "77"] {
        let test = with_loose_tree(tree);
        fs::remove_dir_all(test.dir.path().join("snapshots-v1/4")).unwrap();
        let found = test.again().records().lookup(&key(3));
        assert!(found.as_ref().is_ok_and(Vec::is_empty), "{tree}: {found:?}");
    }
}

/// The power failed before a layer was on the disk.
#[test]
fn they_do_not_keep_the_store_from_being_opened() {
    let test = with_loose_tree("NULL");
    test.database().execute("UPDATE snapshots SET boot = 'an earlier one' WHERE id = 4", []).unwrap();
    let store = Store::open(test.dir.path(), StoreOptions::default());
    assert!(store.is_ok(), "{}", store.unwrap_err());
}

#[test]
fn they_are_removed() {
    let test = with_loose_tree("NULL");
    let told = |repair| test.again().check(repair).unwrap().findings.len();
    assert_eq!((told(false), told(true), told(false)), (1, 1, 0));
    let test = with_loose_tree("NULL");
    let (store, db) = (test.again(), test.database());
    store.prune(PruneOptions::default()).unwrap();
    assert_eq!((count(&db, "trees"), count(&db, "snapshots")), (4, 4));
    store.prune(PruneOptions { all: true }).unwrap();
    assert_eq!((count(&db, "trees"), count(&db, "snapshots")), (0, 0));
}

/// `NULL NOT IN (nothing)` is true.
#[test]
fn a_result_without_layers_is_saved_where_no_tree_is() {
    let test = TestStore::new();
    let run = StepRun { started: std::time::UNIX_EPOCH, duration: std::time::Duration::ZERO };
    let record = NewRecord { content: content(1), layers: Vec::new(), description: "FROM".into(), run };
    test.store.records().save(&[key(1)], &record).unwrap();
    fs::write(test.dir.path().join("cache-v1.db.damaged"), "for a test\n").unwrap();
    let store = test.again();
    assert!(store.replaced().is_some());
    assert_eq!(store.records().lookup(&key(1)).unwrap().len(), 1);
}

/// All results stand on the first rows of the table. The index beside it has the same rows.
#[test]
fn a_damaged_page_of_trees_costs_no_result() {
    const RESULTS: u64 = 800;
    let test = TestStore::new();
    let base = test.layer(&[], |_| {}).id();
    let db = test.database();
    let run = StepRun { started: std::time::UNIX_EPOCH, duration: std::time::Duration::ZERO };
    for n in 0..RESULTS {
        let insert = "INSERT INTO snapshots (changes, entries, size, root, created, used) VALUES (zeroblob(32), 1, 10, 0, 0, 0)";
        db.execute(insert, []).unwrap();
        let layers = vec![base, SnapshotId(db.last_insert_rowid())];
        let record = NewRecord { content: content(n), layers, description: "RUN".into(), run };
        test.store.records().save(&[key(n)], &record).unwrap();
    }
    let root: u64 = db
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'trees'", [], |row| {
            row.get::<_, i64>(0).map(i64::unsigned_abs)
        })
        .unwrap();
    db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(db);
    let path = test.dir.path().join("cache-v1.db");
    let mut bytes = fs::read(&path).unwrap();
    // An interior page of a table (fileformat2.html, 1.6): the first cell begins with the number of the first leaf.
    let page = |number: u64| (number as usize - 1) * 4096;
    let at = page(root);
    assert_eq!(bytes[at], 5, "there are several leaves");
    let cell = at + usize::from(u16::from_be_bytes([bytes[at + 12], bytes[at + 13]]));
    let leaf = u32::from_be_bytes(bytes[cell..cell + 4].try_into().unwrap());
    bytes[page(leaf.into())..][..4096].fill(0xff);
    fs::write(&path, bytes).unwrap();
    fs::write(test.dir.path().join("cache-v1.db.damaged"), "for a test\n").unwrap();
    let store = test.again();
    assert_eq!(store.replaced().unwrap().records, RESULTS);
    let found = (0..RESULTS).filter(|n| !store.records().candidates(&key(*n)).unwrap().is_empty());
    assert_eq!(found.count() as u64, RESULTS);
}
