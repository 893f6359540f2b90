//! Claims exclude each other, whoever asks and whatever is removed meanwhile; and what a session uses is not collected.

mod common;

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use cache::{CacheBackend, Limits, NewRecord, PruneOptions, SnapshotId, StepRun, Store, StoreOptions, Whys};
use common::{Lookup, Random, TestStore, content, key};
use hash::Digest;
use image::{Compression, ContentStore, Descriptor, Layer};
use proptest::prelude::*;

/// What one holder does: with which key, for how long, and whether it cleans up afterwards.
#[derive(Debug, Clone, Copy)]
struct Turn {
    key: u64,
    micros: u64,
    prunes: bool,
}

fn turns() -> impl Strategy<Value = Vec<Vec<Turn>>> {
    let turn = (0..3u64, 0..200u64, prop::bool::weighted(0.05)).prop_map(|(key, micros, prunes)| Turn {
        key,
        micros,
        prunes,
    });
    prop::collection::vec(prop::collection::vec(turn, 1..40), 2..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 0, ..ProptestConfig::default() })]

    /// Each thread has a store of its own, as each process has.
    #[test]
    fn at_most_one_holds_a_claim(turns in turns()) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("state");
        let held = [const { AtomicBool::new(false) }; 3];
        let got = AtomicUsize::new(0);
        let wanted: usize = turns.iter().map(Vec::len).sum();
        std::thread::scope(|scope| {
            for turns in &turns {
                let (root, held, got) = (&root, &held, &got);
                scope.spawn(move || {
                    let store = Store::open(root, StoreOptions::default()).unwrap();
                    for turn in turns {
                        let claim = loop {
                            if let Some(claim) = store.records().try_claim(&key(turn.key)).unwrap() {
                                break claim;
                            }
                            std::thread::yield_now();
                        };
                        let held = &held[turn.key as usize];
                        assert!(!held.swap(true, Ordering::SeqCst), "two hold it");
                        std::thread::sleep(Duration::from_micros(turn.micros));
                        got.fetch_add(1, Ordering::Relaxed);
                        assert!(held.swap(false, Ordering::SeqCst), "another let it go");
                        drop(claim);
                        if turn.prunes {
                            // Removes the files of claims that nobody holds.
                            let _ = store.prune(PruneOptions::default());
                        }
                    }
                });
            }
        });
        // Nobody waited in vain.
        assert_eq!(got.load(Ordering::Relaxed), wanted);
        assert_eq!(fs::read_dir(root.join("claims-v1")).unwrap().count(), 0);
    }
}

fn save(store: &Store, n: u64, layers: &[SnapshotId]) {
    let run = StepRun { started: UNIX_EPOCH, duration: Duration::from_millis(n % 7) };
    let record = NewRecord { content: content(n), layers: layers.to_vec(), description: n.to_string(), run };
    store.records().save(&[key(n)], &record).unwrap();
}

fn whys() -> Whys {
    Whys { over: "to keep it small".to_owned(), full: "to keep the disk free".to_owned() }
}

/// Sessions look for chains of layers, make what is not there and read it all again at their end, while a collector leaves as little as it
/// can.
#[test]
fn what_a_session_uses_is_not_collected() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("state");
    let over = AtomicBool::new(false);
    let (hits, misses) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let end = Instant::now() + Duration::from_secs(4);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4u64)
            .map(|worker| {
                let (root, hits, misses) = (&root, &hits, &misses);
                scope.spawn(move || {
                    let mut random = Random::new(worker);
                    while Instant::now() < end {
                        let store = Store::open(root, StoreOptions::default()).unwrap();
                        let session = store.session().unwrap();
                        let mut layers = Vec::new();
                        let chain = random.below(3) * 10;
                        for step in 0..5 {
                            let n = chain + step;
                            let claim = store.records().try_claim(&key(n)).unwrap();
                            if let Some(found) = store.records().lookup(&key(n)).unwrap().first()
                                && found.layers[..found.layers.len() - 1] == layers[..]
                            {
                                hits.fetch_add(1, Ordering::Relaxed);
                                layers.clone_from(&found.layers);
                                continue;
                            }
                            misses.fetch_add(1, Ordering::Relaxed);
                            let active = store.begin(&layers).unwrap();
                            fs::write(active.dir().join(n.to_string()), vec![1; 10_000]).unwrap();
                            let changes = active.changes().unwrap();
                            layers.push(active.commit(&changes).unwrap().id());
                            save(&store, n, &layers);
                            drop(claim);
                        }
                        for layer in &layers {
                            let snapshot = store.snapshot(*layer).unwrap().expect("nobody takes it away");
                            assert_eq!(snapshot.entries().unwrap().entries().len(), 1);
                        }
                        session.finish().unwrap();
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let store = Store::open(&root, StoreOptions::default()).unwrap();
            while !over.load(Ordering::Relaxed) {
                store.collect(Limits { max_used_space: 1, ..Limits::default() }, &whys()).unwrap();
            }
        });
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        over.store(true, Ordering::Relaxed);
    });
    let (hits, misses) = (hits.into_inner(), misses.into_inner());
    assert!(hits > 10 && misses > 10, "{hits} hits and {misses} misses");
}

#[test]
fn a_collection_that_was_cut_short_is_finished_by_the_next() {
    let test = TestStore::new();
    let layer = test.layer(&[], |dir| fs::write(dir.join("f"), vec![1; 1000]).unwrap()).id();
    save(&test.store, 1, &[layer]);
    // Rows first: so this is what a kill leaves.
    test.database().execute("DELETE FROM records", []).unwrap();
    test.database().execute("DELETE FROM snapshots", []).unwrap();
    fs::write(test.store.root().join("collector-v1.lock"), "unfinished\n").unwrap();
    test.store.collect(Limits { max_used_space: 1_000_000, ..Limits::default() }, &whys()).unwrap();
    assert_eq!(fs::read_dir(test.store.root().join("snapshots-v1")).unwrap().count(), 0);
    assert_eq!(fs::read(test.store.root().join("collector-v1.lock")).unwrap(), b"");
}

/// Equal layers are packed into the same blob: it stays as long as one of them does.
#[test]
fn a_collection_leaves_the_blob_of_a_layer_that_stays() {
    let test = TestStore::new();
    let store = test.store.blobs() as &dyn ContentStore;
    let digest = store.put(b"packed").unwrap();
    let packed = Layer {
        descriptor: Descriptor::new(Compression::Gzip.layer_media_type(), digest, 6),
        diff_id: Digest::of(b"tar"),
    };
    let layers: Vec<SnapshotId> = (0..2)
        .map(|n| {
            let id = test.layer(&[], |dir| fs::write(dir.join("f"), vec![1; 100_000]).unwrap()).id();
            save(&test.store, n, &[id]);
            test.store.set_packed(id, "gzip:6", &packed).unwrap();
            id
        })
        .collect();
    test.store.collect(Limits { max_used_space: 150_000, ..Limits::default() }, &whys()).unwrap();
    let left: Vec<_> =
        layers.iter().filter_map(|layer| test.store.packed(*layer, "gzip:6").unwrap()).collect();
    assert_eq!((left, store.size(&digest).unwrap()), (vec![packed], Some(6)));
    test.store.collect(Limits { max_used_space: 1, ..Limits::default() }, &whys()).unwrap();
    assert_eq!(store.size(&digest).unwrap(), None, "nothing has it any more");
}
