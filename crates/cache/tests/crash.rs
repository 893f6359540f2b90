//! A process that is killed at any instant leaves a store that works and tells no lies.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use cache::{CacheBackend, Limits, NewRecord, PruneOptions, StepRun, Store, StoreOptions, TreeView, Whys};
use common::{Lookup, Random, content, key};
use files::FileTree;
use hash::Digest;
use image::ContentStore;

const CHILD: &str = "CACHE_TEST_CRASH_IN";
const FILES: u64 = 20;

/// Builds for as long as it lives: each step a layer of files that say which step wrote them, a blob and a record.
fn build(root: &Path, mut n: u64) {
    let store = Store::open(root, StoreOptions::default()).unwrap();
    loop {
        let session = store.session().unwrap();
        let mut layers = Vec::new();
        for _ in 0..3 {
            n += 1;
            let claim = store.records().try_claim(&key(n)).unwrap();
            let active = store.begin_root(&layers).unwrap().finish([]).unwrap();
            for file in 0..FILES {
                fs::write(active.dir().join(format!("{n}-{file}")), n.to_string()).unwrap();
            }
            let changes = active.changes().unwrap();
            layers.push(active.commit(&changes).unwrap().id());
            (store.blobs() as &dyn ContentStore).put(n.to_string().repeat(1000).as_bytes()).unwrap();
            let run = StepRun { started: UNIX_EPOCH, duration: Duration::ZERO };
            let record =
                NewRecord { content: content(n), layers: layers.clone(), description: n.to_string(), run };
            store.records().save(&[key(n), key(n + 1_000_000_000)], &record).unwrap();
            drop(claim);
        }
        session.finish().unwrap();
        if n.is_multiple_of(4) {
            let limits = Limits { max_used_space: 100, ..Limits::default() };
            store.collect(limits, &Whys { over: "to keep".into(), full: String::new() }).unwrap();
        }
        if n.is_multiple_of(5) {
            let _ = store.prune(PruneOptions { all: n.is_multiple_of(2) });
        }
    }
}

#[test]
fn killed_at_random() {
    if let Some(root) = std::env::var_os(CHILD) {
        let start = std::env::var("CACHE_TEST_START").unwrap().parse().unwrap();
        build(Path::new(&root), start);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("state");
    let mut random = Random::new(11);
    let (mut hits, mut blobs) = (0, 0);
    // On a busy machine a round may end before its children have done anything: more rounds, and longer ones.
    for round in 0..200u64 {
        if round >= 25 && hits > 20 && blobs > 20 {
            break;
        }
        let start = |worker: u64| (round * 2 + worker) * 10_000;
        let mut children: Vec<_> = (0..2)
            .map(|worker| {
                Command::new(std::env::current_exe().unwrap())
                    .args(["killed_at_random", "--exact"])
                    .env(CHILD, &root)
                    .env("CACHE_TEST_START", start(worker).to_string())
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        std::thread::sleep(Duration::from_millis((10 + random.below(200)) * (1 + round / 25)));
        for child in &mut children {
            child.kill().unwrap();
        }
        for child in children {
            let output = child.wait_with_output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.code().is_none(), "it failed before it was killed: {errors}");
        }
        let store = Store::open(&root, StoreOptions::default()).unwrap();
        assert_eq!(store.replaced(), None);
        for worker in 0..2 {
            for n in start(worker)..start(worker) + 100 {
                hits += check_record(&store, n);
                let digest = Digest::of(n.to_string().repeat(1000).as_bytes());
                let blob = (store.blobs() as &dyn ContentStore).read(&digest, 1 << 20).unwrap();
                blobs += u64::from(blob.is_some());
                assert!(
                    store.records().try_claim(&key(n)).unwrap().is_some(),
                    "a claim outlived its process"
                );
            }
        }
    }
    assert!(hits > 20 && blobs > 20, "the children did too little: {hits} hits, {blobs} blobs");
    let store = Store::open(&root, StoreOptions::default()).unwrap();
    store.prune(PruneOptions { all: true }).unwrap();
    drop(store);
    for folder in ["snapshots-v1", "tmp-v1", "claims-v1"] {
        assert_eq!(fs::read_dir(root.join(folder)).unwrap().count(), 0, "{folder}");
    }
}

/// A record that is found is found under both keys, and its tree holds all that its steps wrote.
fn check_record(store: &Store, n: u64) -> u64 {
    let found = store.records().lookup(&key(n)).unwrap();
    assert_eq!(found, store.records().lookup(&key(n + 1_000_000_000)).unwrap());
    let Some(record) = found.first() else { return 0 };
    assert_eq!(record.content, content(n));
    let view = TreeView::new(store, &record.layers).unwrap();
    let steps = record.layers.len() as u64;
    for step in (n + 1 - steps)..=n {
        for file in 0..FILES {
            let text =
                std::io::read_to_string(view.open(Path::new(&format!("{step}-{file}"))).unwrap()).unwrap();
            assert_eq!(text, step.to_string());
        }
    }
    assert_eq!(view.list(Path::new("")).unwrap().len() as u64, steps * FILES);
    1
}
