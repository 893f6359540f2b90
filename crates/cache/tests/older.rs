//! State directories of programs that knew no trees.

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use cache::{CacheBackend, CacheRecord, NewRecord, SnapshotId, StepRun, Store, StoreOptions};
use common::{Lookup, TestStore, build_steps, content, key, put_image};
use rusqlite::Connection;

/// Makes of a state directory what such a program would have made.
fn make_old(root: &Path) {
    let (new, old) = (root.join("cache-v1.db"), root.join("old.db"));
    let db = Connection::open(&old).unwrap();
    db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA foreign_keys = OFF;").unwrap();
    db.execute_batch(include_str!("common/older.sql")).unwrap();
    db.execute("ATTACH ?1 AS new", [new.to_str().unwrap()]).unwrap();
    let tables = "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> 'record_layers'";
    let tables: Vec<String> =
        db.prepare(tables).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    for table in tables {
        let columns: Vec<String> = db
            .prepare("SELECT name FROM pragma_table_info(?1, 'main')")
            .unwrap()
            .query_map([&table], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let columns = columns.join(", ");
        db.execute(&format!("INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}"), [])
            .unwrap();
    }
    db.execute_batch(
        "INSERT INTO record_layers (record, position, snapshot)
             WITH RECURSIVE below (record, tree, depth) AS (
                 SELECT id, tree, 0 FROM new.records WHERE tree IS NOT NULL
                 UNION ALL SELECT record, parent, depth + 1 FROM below JOIN new.trees ON id = tree WHERE parent IS NOT NULL
             )
             SELECT record, (SELECT max(depth) FROM below AS all_below WHERE all_below.record = below.record) - depth, snapshot
             FROM below JOIN new.trees ON id = tree;
         DETACH new; PRAGMA wal_checkpoint(TRUNCATE)",
    )
    .unwrap();
    drop(db);
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(root.join(format!("cache-v1.db{suffix}")));
        let _ = fs::remove_file(root.join(format!("old.db{suffix}")));
    }
    fs::rename(old, new).unwrap();
}

const STEPS: u64 = 5;

/// Builds that share layers, an image, and a result without a layer, as such a program left them.
fn old_store() -> TestStore {
    let test = TestStore::new();
    let session = test.store.session().unwrap();
    build_steps(&test.store, STEPS);
    put_image(&test, "app", "linux/amd64", b"layer").unwrap();
    let run = StepRun { started: UNIX_EPOCH, duration: Duration::ZERO };
    let record = |n: u64, layers: &[SnapshotId]| NewRecord {
        content: content(n),
        layers: layers.to_vec(),
        description: "RUN".into(),
        run,
    };
    let records = test.store.records();
    records.save(&[key(100)], &record(100, &[])).unwrap();
    let first = records.lookup(&key(0)).unwrap()[0].layers.clone();
    let other = test.layer(&first, |dir| fs::write(dir.join("other"), "").unwrap()).id();
    records.save(&[key(101), key(102)], &record(101, &[first[0], other])).unwrap();
    session.finish_durably().unwrap();
    make_old(test.dir.path());
    test
}

/// What is found under all keys.
fn found(store: &Store) -> Vec<Vec<CacheRecord>> {
    let keys = (0..STEPS).chain(100..103);
    keys.map(|n| store.records().lookup(&key(n)).unwrap()).collect()
}

#[test]
fn their_results_are_found() {
    let test = old_store();
    let store = test.again();
    assert_eq!(store.replaced(), None);
    let after = found(&store);
    assert!(after.iter().all(|records| records.len() == 1), "{after:?}");
    let layers: Vec<usize> = after.iter().map(|records| records[0].layers.len()).collect();
    assert_eq!(layers, [1, 2, 3, 4, 5, 0, 2, 2]);
    assert_eq!(store.list_images().unwrap().len(), 1);
    assert_eq!(store.check(false).unwrap().findings, []);
    let db = test.database();
    let trees: i64 = db.query_row("SELECT count(*) FROM trees", [], |row| row.get(0)).unwrap();
    assert_eq!(trees, 6, "one a layer");
    // What goes takes its trees along, as in a new one.
    db.execute("DELETE FROM snapshots WHERE id = 1", []).unwrap();
    let left = |table: &str| -> i64 {
        db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    assert_eq!((left("trees"), left("records")), (0, 1));
    assert_eq!(test.again().replaced(), None);
}

#[test]
fn the_tables_are_those_of_a_new_store() {
    let (old, new) = (old_store(), TestStore::new());
    let schema = |test: &TestStore| -> Vec<(String, String)> {
        let db = test.database();
        let mut select = db
            .prepare("SELECT name, coalesce(sql, '') FROM sqlite_schema WHERE type <> 'table' ORDER BY name")
            .unwrap();
        select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    };
    let columns = |test: &TestStore| -> Vec<(String, String)> {
        let db = test.database();
        let mut select = db
            .prepare(
                "SELECT tables.name, columns.name FROM sqlite_schema AS tables, pragma_table_info(tables.name) AS columns
                 WHERE tables.type = 'table' ORDER BY 1, 2",
            )
            .unwrap();
        select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    };
    drop(old.again());
    assert_eq!(schema(&old), schema(&new));
    assert_eq!(columns(&old), columns(&new));
}

/// One that runs beside newer ones, and files a result.
#[test]
fn results_that_come_later_are_found_too() {
    let test = old_store();
    drop(test.again());
    let db = test.database();
    db.execute_batch(
        "PRAGMA foreign_keys = OFF;
         INSERT INTO record_layers (record, position, snapshot)
             SELECT records.id, 0, snapshot FROM records JOIN trees ON trees.id = tree WHERE records.id = 1;
         UPDATE records SET tree = NULL WHERE id = 1",
    )
    .unwrap();
    assert!(found(&test.again()).iter().all(|records| records.len() == 1));
    let rows: i64 = db.query_row("SELECT count(*) FROM record_layers", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 0);
}

/// A row that a failing disk changed costs the result that it belongs to, not the whole state directory.
#[test]
fn a_damaged_row_costs_one_result() {
    for damage in [
        "snapshot = 77 WHERE record = 5 AND position = 2",
        "snapshot = 'x' WHERE record = 5 AND position = 2",
        "record = 'x' WHERE record = 5 AND position = 2",
        "record = 77 WHERE record = 5 AND position = 4",
    ] {
        let test = old_store();
        let change = format!("PRAGMA foreign_keys = OFF; UPDATE record_layers SET {damage}");
        test.database().execute_batch(&change).unwrap();
        let store = Store::open(test.dir.path(), StoreOptions::default());
        let store = store.unwrap_or_else(|error| panic!("{damage}: {error}"));
        let found: Vec<usize> = found(&store).iter().map(Vec::len).collect();
        assert_eq!(found, [1, 1, 1, 1, 0, 1, 1, 1], "{damage}");
        let loose =
            "SELECT count(*) FROM trees WHERE id NOT IN (SELECT tree FROM records WHERE tree IS NOT NULL)
                         AND id NOT IN (SELECT parent FROM trees WHERE parent IS NOT NULL)";
        let loose: i64 = test.database().query_row(loose, [], |row| row.get(0)).unwrap();
        assert_eq!(loose, 0, "{damage}");
    }
}

#[test]
fn results_of_a_damaged_database_are_saved() {
    let test = old_store();
    fs::write(test.dir.path().join("cache-v1.db.damaged"), "for a test\n").unwrap();
    let store = test.again();
    assert!(store.replaced().is_some());
    let found: Vec<usize> = found(&store).iter().map(Vec::len).collect();
    assert_eq!(found, [1; 8], "{:?}", store.replaced());
}
