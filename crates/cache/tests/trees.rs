//! Which layers results are made of, as rows that many of them share.

mod common;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, UNIX_EPOCH};

use cache::{CacheBackend, Limits, NewRecord, RecordId, SnapshotId, StepRun};
use common::{Random, TestStore, content, key};
use rusqlite::Connection;

fn record(n: u64, layers: &[SnapshotId]) -> NewRecord {
    let run = StepRun { started: UNIX_EPOCH, duration: Duration::ZERO };
    NewRecord { content: content(n), layers: layers.to_vec(), description: "RUN".into(), run }
}

fn count(db: &Connection, table: &str) -> i64 {
    db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

/// Rows of layers without files, with these numbers.
fn layers(db: &Connection, ids: impl Iterator<Item = i64>) {
    let insert = "INSERT INTO snapshots (id, changes, entries, size, root, created, used)
                  VALUES (?1, zeroblob(32), 1, 10, 0, 0, 0)";
    for id in ids {
        db.execute(insert, [id]).unwrap();
    }
}

/// A row a step, however many layers it stands on.
#[test]
fn a_chain_has_one_row_a_layer() {
    for steps in [20, 80] {
        let test = TestStore::new();
        common::build_steps(&test.store, steps);
        common::build_steps(&test.again(), steps);
        let db = test.database();
        assert_eq!((count(&db, "trees"), count(&db, "records")), (2 * steps as i64, 2 * steps as i64));
        // What is known of them, and what is not: another process has it written.
        let layers = test.store.records().candidates(&key(steps - 1)).unwrap()[1].layers.clone();
        for store in [&test.store, &test.again()] {
            store.records().save(&[key(1000)], &record(1000, &layers)).unwrap();
        }
        assert_eq!((count(&db, "trees"), count(&db, "records")), (2 * steps as i64, 2 * steps as i64 + 2));
        let found = test.again().records().candidates(&key(1000)).unwrap();
        assert!(found.len() == 2 && found.iter().all(|record| record.layers == layers));
    }
}

/// SQLite's triggers go a thousand deep.
#[test]
fn chains_are_of_any_length() {
    const LENGTH: i64 = 3000;
    let test = TestStore::new();
    let db = test.database();
    db.execute_batch("PRAGMA foreign_keys = ON; BEGIN").unwrap();
    layers(&db, 1..=LENGTH);
    db.execute_batch("COMMIT").unwrap();
    let chain: Vec<SnapshotId> = (1..=LENGTH).map(SnapshotId).collect();
    let records = test.store.records();
    for length in [1000, 2000, 3000] {
        records.save(&[key(length)], &record(length, &chain[..length as usize])).unwrap();
    }
    let found = test.again().records().candidates(&key(3000)).unwrap();
    assert_eq!(found[0].layers, chain);
    assert_eq!(count(&db, "trees"), LENGTH);
    db.execute("DELETE FROM records WHERE id = 3", []).unwrap();
    assert_eq!(count(&db, "trees"), 2000);
    db.execute("DELETE FROM snapshots WHERE id = 1500", []).unwrap();
    assert_eq!((count(&db, "trees"), count(&db, "records")), (1000, 1));
    db.execute("DELETE FROM snapshots WHERE id = 1", []).unwrap();
    assert_eq!((count(&db, "trees"), count(&db, "records")), (0, 0));
}

/// What a process knows may have been removed by another one, and written again since.
#[test]
fn what_is_known_may_be_gone() {
    let test = TestStore::new();
    let db = test.database();
    layers(&db, 1..=4);
    let chain = [1, 2, 3, 4].map(SnapshotId);
    let records = test.store.records();
    let first = records.save(&[key(1)], &record(1, &chain[..3])).unwrap();
    db.execute("DELETE FROM records", []).unwrap();
    assert_eq!(count(&db, "trees"), 0);
    records.save(&[key(2)], &record(2, &chain)).unwrap();
    assert_eq!(test.again().records().candidates(&key(2)).unwrap()[0].layers, chain);
    // A part of it.
    db.execute("DELETE FROM records", []).unwrap();
    test.again().records().save(&[key(3)], &record(3, &chain[..2])).unwrap();
    records.save(&[key(4)], &record(4, &chain)).unwrap();
    assert_eq!(count(&db, "trees"), 4);
    for (n, layers) in [(3, &chain[..2]), (4, &chain[..])] {
        assert_eq!(test.again().records().candidates(&key(n)).unwrap()[0].layers, layers);
        assert_eq!(records.candidates(&key(n)).unwrap()[0].layers, layers);
    }
    assert!(first.id < records.candidates(&key(4)).unwrap()[0].id);
}

/// What a failed save would have written is not known afterwards: somebody else may be given its number.
#[test]
fn what_was_not_saved_is_not_known() {
    let test = TestStore::new();
    let [a, b, c] = [(); 3].map(|()| test.layer(&[], |_| {}).id());
    let records = test.store.records();
    // There is no layer 99: its row is refused, and with it that of `b`, which came before.
    records.save(&[key(1)], &record(1, &[a, b, SnapshotId(99)])).unwrap_err();
    assert_eq!(count(&test.database(), "trees"), 0);
    let other = test.again();
    other.records().save(&[key(2)], &record(2, &[c])).unwrap();
    other.records().save(&[key(3)], &record(3, &[c, a])).unwrap();
    assert_eq!(records.candidates(&key(2)).unwrap()[0].layers, [c]);
    assert_eq!(records.candidates(&key(3)).unwrap()[0].layers, [c, a]);
    records.save(&[key(4)], &record(4, &[a, b])).unwrap();
    assert_eq!(test.again().records().candidates(&key(4)).unwrap()[0].layers, [a, b]);
}

/// The different beginnings of these lists of layers.
fn prefixes(results: &BTreeMap<RecordId, (u64, Vec<i64>)>) -> i64 {
    let of = |layers: &'_ Vec<i64>| (1..=layers.len()).map(|length| layers[..length].to_vec()).collect();
    let all: HashSet<Vec<i64>> =
        results.values().flat_map(|(_, layers)| -> Vec<Vec<i64>> { of(layers) }).collect();
    all.len() as i64
}

/// What is saved and removed, in any order and by several processes, against a table of what should be there.
#[test]
fn results_are_there_as_long_as_their_layers() {
    for seed in 0..30 {
        let mut random = Random::new(seed);
        let test = TestStore::new();
        let db = test.database();
        db.execute_batch("PRAGMA foreign_keys = ON").unwrap();
        let mut next = 9;
        layers(&db, 1..next);
        let mut alive: Vec<i64> = (1..next).collect();
        let mut expected: BTreeMap<RecordId, (u64, Vec<i64>)> = BTreeMap::new();
        let stores = [test.again(), test.again()];
        for n in 0..150 {
            match random.below(10) {
                0 => {
                    layers(&db, next..=next);
                    alive.push(next);
                    next += 1;
                }
                1 if alive.len() > 3 => {
                    let gone = alive.swap_remove(random.below(alive.len() as u64) as usize);
                    db.execute("DELETE FROM snapshots WHERE id = ?1", [gone]).unwrap();
                    expected.retain(|_, (_, layers)| !layers.contains(&gone));
                }
                2 | 3 if !expected.is_empty() => {
                    let of: Vec<RecordId> = expected.keys().copied().collect();
                    let gone = *random.pick(&of);
                    db.execute("DELETE FROM records WHERE id = ?1", [gone.0]).unwrap();
                    expected.remove(&gone);
                }
                _ => {
                    // On top of another result as a rule, as steps are.
                    let of: Vec<&Vec<i64>> = expected.values().map(|(_, layers)| layers).collect();
                    let mut chain = match of.is_empty() || random.one_in(4) {
                        true => Vec::new(),
                        false => (*random.pick(&of)).clone(),
                    };
                    for _ in 0..random.below(3) {
                        chain.push(*random.pick(&alive));
                    }
                    let ids: Vec<SnapshotId> = chain.iter().copied().map(SnapshotId).collect();
                    let saved = random.pick(&stores).records().save(&[key(n)], &record(n, &ids)).unwrap();
                    expected.insert(saved.id, (n, chain));
                }
            }
            assert_eq!(count(&db, "trees"), prefixes(&expected), "seed {seed}, step {n}");
            assert_eq!(count(&db, "records"), expected.len() as i64, "seed {seed}, step {n}");
        }
        let again = test.again();
        for store in stores.iter().chain([&again]) {
            for (id, (n, layers)) in &expected {
                let found = store.records().candidates(&key(*n)).unwrap();
                assert_eq!(found.len(), 1, "seed {seed}");
                let of: Vec<i64> = found[0].layers.iter().map(|layer| layer.0).collect();
                assert_eq!((found[0].id, &of), (*id, layers), "seed {seed}");
            }
        }
        let broken: Vec<String> = db
            .prepare("PRAGMA foreign_key_check")
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(broken, [""; 0]);
        // A collection takes some away, at last all.
        let bytes = 10 * alive.len() as u64;
        for keep in [bytes * 2 / 3, bytes / 3, 0] {
            again.evict(&|_| true, Limits { max_used_space: keep, ..Limits::default() }, "").unwrap();
            let left: BTreeSet<RecordId> = db
                .prepare("SELECT id FROM records WHERE tree IS NOT NULL")
                .unwrap()
                .query_map([], |row| row.get(0).map(RecordId))
                .unwrap()
                .map(Result::unwrap)
                .collect();
            expected.retain(|id, _| left.contains(id));
            assert_eq!(left.len(), expected.len(), "seed {seed}");
            assert_eq!(count(&db, "trees"), prefixes(&expected), "seed {seed}");
        }
        assert_eq!(count(&db, "trees"), 0, "seed {seed}");
    }
}
