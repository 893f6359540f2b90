//! State directories of version 1.

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use cache::{CacheBackend, CacheError, CacheRecord, NewRecord, SnapshotId, StepRun, Store, StoreOptions};
use common::{Lookup, TestStore, build_steps, content, key, put_image};
use rusqlite::Connection;

/// Makes of a state directory what a program of version 1 would have made.
fn make_old(root: &Path) {
    let (new, old) = (root.join("cache-v1.db"), root.join("old.db"));
    let db = Connection::open(&old).unwrap();
    db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA foreign_keys = OFF;").unwrap();
    db.execute_batch(include_str!("upgrade/version_1.sql")).unwrap();
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
    set_format(root, 2, 1);
}

fn set_format(root: &Path, from: u32, to: u32) {
    let path = root.join("format");
    let text = fs::read_to_string(&path).unwrap();
    let line = |format| format!("builder state {format}\n");
    assert!(text.starts_with(&line(from)), "{text}");
    fs::write(path, text.replace(&line(from), &line(to))).unwrap();
}

const STEPS: u64 = 5;

/// Builds that share layers, an image, and a result without a layer, as a program of version 1 left them.
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
fn results_of_version_1_are_found() {
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
    // Once more, it is of today's version.
    assert!(fs::read_to_string(test.dir.path().join("format")).unwrap().starts_with("builder state 2\n"));
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

/// Killed between the note in `format` and the change of the tables.
#[test]
fn an_upgrade_that_was_cut_short_is_made_again() {
    let test = old_store();
    set_format(test.dir.path(), 1, 2);
    assert!(found(&test.again()).iter().all(|records| records.len() == 1));
}

/// An older build knows nothing of what becomes of its tables.
#[test]
fn nothing_is_changed_below_an_older_build() {
    let test = old_store();
    let path = test.dir.path().join("session-v1.lock");
    let lock = fs::File::open(&path).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockShared).unwrap();
    let refused = Store::open(test.dir.path(), StoreOptions::default()).unwrap_err();
    assert!(matches!(refused, CacheError::Unusable { .. }), "{refused}");
    let text = refused.to_string();
    assert!(text.contains("made by an older version and is in use by"), "{text}");
    let version: i64 = test.database().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 1);
    assert!(fs::read_to_string(test.dir.path().join("format")).unwrap().starts_with("builder state 1\n"));
    drop(lock);
    assert!(found(&test.again()).iter().all(|records| records.len() == 1));
}
