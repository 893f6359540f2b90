//! Claims exclude each other, whoever asks and whatever is removed meanwhile; and what a session uses is not collected.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
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

/// One session: looks for a chain of layers, makes what is not there with a blob each, and reads it all again at its end. Says how many were
/// there, and how many were not.
fn build(root: &Path, random: &mut Random) -> (usize, usize) {
    let store = Store::open(root, StoreOptions::default()).unwrap();
    let session = store.session().unwrap();
    let (mut layers, mut blobs) = (Vec::new(), Vec::new());
    let (mut hits, mut misses) = (0, 0);
    let chain = random.below(3) * 10;
    for step in 0..5 {
        let n = chain + step;
        let claim = store.records().try_claim(&key(n)).unwrap();
        if let Some(found) = store.records().lookup(&key(n)).unwrap().first()
            && found.layers[..found.layers.len() - 1] == layers[..]
        {
            hits += 1;
            layers.clone_from(&found.layers);
            continue;
        }
        misses += 1;
        let active = store.begin(&layers).unwrap();
        fs::write(active.dir().join(n.to_string()), vec![1; 10_000]).unwrap();
        let changes = active.changes().unwrap();
        layers.push(active.commit(&changes).unwrap().id());
        blobs.push((store.blobs() as &dyn ContentStore).put(&vec![n as u8; 1000]).unwrap());
        save(&store, n, &layers);
        drop(claim);
    }
    for layer in &layers {
        let snapshot = store.snapshot(*layer).unwrap().expect("nobody takes it away");
        assert_eq!(snapshot.entries().unwrap().entries().len(), 1);
    }
    for blob in &blobs {
        assert!((store.blobs() as &dyn ContentStore).read(blob, 1000).unwrap().is_some());
    }
    assert_eq!(store.thrown_away(), [""; 0]);
    session.finish().unwrap();
    (hits, misses)
}

/// Removes all that it can, in each way in turn.
fn remove(store: &Store, turn: usize) {
    let limits = Limits { max_used_space: 1, ..Limits::default() };
    match turn % 5 {
        0 => drop(store.collect(limits, &whys()).unwrap()),
        1 => drop(store.evict(&|_| true, Limits::default(), "").unwrap()),
        2 => drop(store.evict(&|part| part.id.len() % 2 == 0, limits, "").unwrap()),
        3 => drop(store.prune(PruneOptions { all: false }).unwrap()),
        _ => drop(store.prune(PruneOptions { all: true }).unwrap()),
    }
}

const CHILD: &str = "CACHE_TEST_CLAIMS_IN";

/// Builds and those who remove things, each in a process of its own.
#[test]
fn processes_take_nothing_from_each_other() {
    if let Some(root) = std::env::var_os(CHILD) {
        let (root, role) = (Path::new(&root), std::env::var("CACHE_TEST_ROLE").unwrap());
        // On a busy machine, or a slow disk, longer: until enough is done.
        let begin = Instant::now();
        let goes_on = |done: usize| begin.elapsed() < Duration::from_secs(if done > 10 { 3 } else { 120 });
        let mut done = 0;
        match role.parse::<u64>() {
            Ok(worker) => {
                let mut random = Random::new(worker);
                while goes_on(done) {
                    build(root, &mut random);
                    done += 1;
                }
            }
            Err(_) => {
                let store = Store::open(root, StoreOptions::default()).unwrap();
                while goes_on(done) {
                    remove(&store, done);
                    done += 1;
                }
            }
        }
        assert!(done > 10, "{role}: {done}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let start = |role: &str| {
        Command::new(std::env::current_exe().unwrap())
            .args(["processes_take_nothing_from_each_other", "--exact"])
            .env(CHILD, dir.path().join("state"))
            .env("CACHE_TEST_ROLE", role)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = ["1", "2", "3", "removes", "removes"].into_iter().map(start).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
    }
    let store = Store::open(&dir.path().join("state"), StoreOptions::default()).unwrap();
    assert_eq!(store.check(false).unwrap().findings, []);
}

/// The same in threads, where each has a store of its own as well.
#[test]
fn what_a_session_uses_is_not_collected() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("state");
    let over = AtomicBool::new(false);
    let (hits, misses) = (AtomicUsize::new(0), AtomicUsize::new(0));
    // On a busy machine, or a slow disk, longer: until enough is done.
    let begin = Instant::now();
    let goes_on = || {
        let is_enough = [&hits, &misses].iter().all(|number| number.load(Ordering::Relaxed) > 10);
        begin.elapsed() < Duration::from_secs(if is_enough { 4 } else { 120 })
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4u64)
            .map(|worker| {
                let (root, hits, misses, goes_on) = (&root, &hits, &misses, &goes_on);
                scope.spawn(move || {
                    let mut random = Random::new(worker);
                    while goes_on() {
                        let (hit, missed) = build(root, &mut random);
                        hits.fetch_add(hit, Ordering::Relaxed);
                        misses.fetch_add(missed, Ordering::Relaxed);
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
