//! What goes when the cache has to become smaller, and in which order.

mod common;

use std::fs;
use std::time::{Duration, Instant, UNIX_EPOCH};

use cache::{CacheBackend, CacheKind, CachePart, Limits, NewRecord, SnapshotId, StepRun};
use common::{TestStore, content, key};

fn save(test: &TestStore, n: u64, layers: Vec<SnapshotId>, seconds: u64) {
    let run = StepRun { started: UNIX_EPOCH, duration: Duration::from_secs(seconds) };
    let record = NewRecord { content: content(n), layers, description: format!("RUN {n}"), run };
    test.store.records().save(&[key(n)], &record).unwrap();
}

fn layer(test: &TestStore, parents: &[SnapshotId], bytes: usize) -> SnapshotId {
    test.layer(parents, |dir| fs::write(dir.join("f"), vec![1; bytes]).unwrap()).id()
}

fn is_there(test: &TestStore, n: u64) -> bool {
    !test.store.records().lookup(&key(n)).unwrap().is_empty()
}

fn all(_: &CachePart) -> bool {
    true
}

/// A chain 1 ← 2 ← 3, and 4 on 1. All have the same size; 3 took long, 4 did not.
fn tree() -> TestStore {
    let test = TestStore::new();
    let a = layer(&test, &[], 100_000);
    let b = layer(&test, &[a], 100_000);
    let c = layer(&test, &[a, b], 100_000);
    let d = layer(&test, &[a], 100_000);
    save(&test, 1, vec![a], 1);
    save(&test, 2, vec![a, b], 1);
    save(&test, 3, vec![a, b, c], 1000);
    save(&test, 4, vec![a, d], 1);
    test
}

#[test]
fn ends_first_and_what_is_cheap() {
    let test = tree();
    let limits = Limits { max_used_space: 300_000, ..Limits::default() };
    let pruned = test.store.evict(&all, limits, "to keep under 300kB").unwrap();
    assert_eq!((pruned.records, pruned.snapshots), (1, 1), "{pruned:?}");
    assert_eq!([1, 2, 3, 4].map(|n| is_there(&test, n)), [true, true, true, false]);
    let eviction = test.store.records().eviction(&key(4)).unwrap().unwrap();
    assert_eq!(eviction.why, "to keep under 300kB");
    assert_eq!(test.store.records().eviction(&key(3)).unwrap(), None);

    // What is expensive holds what is below it.
    let limits = Limits { max_used_space: 250_000, ..Limits::default() };
    test.store.evict(&all, limits, "").unwrap();
    assert_eq!([1, 2, 3].map(|n| is_there(&test, n)), [true, true, false]);
    let pruned = test.store.evict(&all, Limits::default(), "").unwrap();
    assert_eq!((pruned.records, pruned.snapshots), (2, 2));
    assert_eq!(test.store.usage().unwrap().snapshots.count, 0);
}

#[test]
fn what_is_not_wanted_gone_stays_with_all_below_it() {
    let test = tree();
    test.store.evict(&|part| part.description != "RUN 2", Limits::default(), "").unwrap();
    assert_eq!([1, 2, 3, 4].map(|n| is_there(&test, n)), [true, true, false, false]);
    let limits = Limits { max_used_space: 1_000_000, ..Limits::default() };
    let pruned = test.store.evict(&all, limits, "").unwrap();
    assert_eq!(pruned.records, 0, "it fits");
}

#[test]
fn parts_say_what_goes_with_them() {
    let test = tree();
    let parts = test.store.cache_parts().unwrap();
    let told: Vec<(&str, u64, u64, usize)> =
        parts.iter().map(|part| (&*part.description, part.bytes, part.frees, part.parents.len())).collect();
    assert_eq!(
        told,
        [
            ("RUN 1", 100_000, 400_000, 0),
            ("RUN 2", 100_000, 200_000, 1),
            ("RUN 3", 100_000, 100_000, 1),
            ("RUN 4", 100_000, 100_000, 1)
        ]
    );
    assert!(parts.iter().all(|part| part.kind == CacheKind::Step && !part.in_use && !part.shared));
}

#[test]
fn a_running_build_is_not_disturbed() {
    let test = tree();
    let session = test.again().session().unwrap();
    assert!(matches!(test.store.evict(&all, Limits::default(), ""), Err(cache::CacheError::Busy { .. })));
    session.finish().unwrap();
    assert!(is_there(&test, 3));
}

/// Many results: choosing among them takes no time to speak of.
#[test]
fn many_results() {
    let test = TestStore::new();
    let below = layer(&test, &[], 10);
    save(&test, 0, vec![below], 1);
    let count = 20_000;
    {
        let mut db = test.database();
        let all = db.transaction().unwrap();
        for n in 1..count {
            let id = 1000 + n;
            all.execute(
                "INSERT INTO snapshots (id, changes, entries, size, root, created, used) VALUES (?1, zeroblob(32), 1, 10, 0, 0, ?1)",
                [id],
            )
            .unwrap();
            all.execute(
                "INSERT INTO records (id, content, description, started, duration, used) VALUES (?1, zeroblob(32), 'RUN', 0, 1, 0)",
                [id],
            )
            .unwrap();
            all.execute("INSERT INTO record_layers VALUES (?1, 0, ?2)", [id, below.0]).unwrap();
            all.execute("INSERT INTO record_layers VALUES (?1, 1, ?1)", [id]).unwrap();
            all.execute("INSERT INTO keys VALUES (randomblob(32), ?1, zeroblob(16))", [id]).unwrap();
        }
        all.commit().unwrap();
    }
    let began = Instant::now();
    let limits = Limits { max_used_space: 100_000, ..Limits::default() };
    let pruned = test.store.evict(&all, limits, "").unwrap();
    assert_eq!(pruned.records, 10_000);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
