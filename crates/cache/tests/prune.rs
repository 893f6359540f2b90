//! What prune removes, and what it leaves alone.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

use cache::{CacheBackend, CacheError, NewRecord, PruneOptions, StepRun, Store, StoreOptions};
use common::{Lookup, TestStore, content, key};
use files::StatCache;
use image::ContentStore;

const ALL: PruneOptions = PruneOptions { all: true, wait: false };

fn save(test: &TestStore, n: u64, layers: Vec<cache::SnapshotId>) {
    let run = StepRun { started: UNIX_EPOCH, duration: Duration::ZERO };
    let record = NewRecord { content: content(n), layers, description: format!("RUN {n}"), run };
    test.store.records().save(&[key(n)], &record).unwrap();
}

#[test]
fn all_means_all() {
    let test = TestStore::new();
    let layer = test.layer(&[], |dir| {
        fs::create_dir_all(dir.join("closed/inner")).unwrap();
        fs::write(dir.join("closed/inner/file"), vec![1; 100_000]).unwrap();
        fs::set_permissions(dir.join("closed/inner"), fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(dir.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    });
    save(&test, 1, vec![layer.id()]);
    (test.store.blobs() as &dyn ContentStore).put(&[1; 50_000]).unwrap();
    let stats = test.store.stat_cache(b"c").unwrap();
    let identity = files::StatIdentity { file_system: 1, inode: 1, size: 1, mtime: (1, 1), ctime: (1, 1) };
    stats.put(&identity, [1; 32]);
    stats.save().unwrap();

    let usage = test.store.usage().unwrap();
    let counts = [usage.snapshots, usage.blobs, usage.records, usage.stat_caches].map(|kind| kind.count);
    assert_eq!(counts, [1, 1, 1, 1]);
    assert_eq!(usage.layers[0].description, "RUN 1");
    assert_eq!(usage.layers[0].size, 100_000);
    assert!(usage.total() > 150_000);

    let pruned = test.store.prune(ALL).unwrap();
    assert_eq!((pruned.snapshots, pruned.blobs, pruned.records), (1, 1, 1));
    assert!(pruned.bytes > 150_000, "{pruned:?}");
    let usage = test.store.usage().unwrap();
    let counts = [usage.snapshots, usage.blobs, usage.records, usage.stat_caches].map(|kind| kind.count);
    assert_eq!(counts, [0, 0, 0, 0]);
    assert!(usage.total() < 300_000, "{usage:?}");
    assert_eq!(test.store.records().lookup(&key(1)).unwrap(), []);
    // An id is never given twice: a name of before must not mean something else.
    assert!(test.layer(&[], |_| {}).id() > layer.id());
}

#[test]
fn what_is_referenced_stays() {
    let test = TestStore::new();
    let kept = test.layer(&[], |dir| fs::write(dir.join("f"), "").unwrap());
    let stray = test.layer(&[], |_| {});
    save(&test, 1, vec![kept.id()]);
    let orphan = test.dir.path().join("snapshots-v1/999");
    fs::create_dir(&orphan).unwrap();
    let half = test.dir.path().join("blobs/sha256-v1/ab/abcd");
    fs::create_dir_all(half.parent().unwrap()).unwrap();
    fs::write(&half, "half").unwrap();
    let pruned = test.store.prune(PruneOptions::default()).unwrap();
    assert_eq!((pruned.snapshots, pruned.blobs, pruned.records), (2, 1, 0));
    assert!(!orphan.exists() && !half.exists() && !stray.dirs().next().unwrap().exists());
    assert_eq!(test.store.records().lookup(&key(1)).unwrap().len(), 1);
    assert!(kept.dirs().next().unwrap().join("f").exists());
}

#[test]
fn a_running_build_is_not_disturbed() {
    let test = TestStore::new();
    let session = test.again().session().unwrap();
    let layer = test.layer(&[], |_| {});
    assert!(matches!(test.store.prune(ALL), Err(CacheError::Busy { .. })));
    assert!(layer.dirs().next().unwrap().exists());
    let waiting = std::thread::spawn({
        let store = test.store.clone();
        move || store.prune(PruneOptions { all: true, wait: true }).unwrap()
    });
    std::thread::sleep(Duration::from_millis(100));
    assert!(layer.dirs().next().unwrap().exists());
    drop(session);
    assert_eq!(waiting.join().unwrap().snapshots, 1);
    assert!(!layer.dirs().next().unwrap().exists());
}

#[test]
fn a_killed_build_blocks_nobody_and_its_leftovers_go() {
    const CHILD: &str = "CACHE_TEST_SESSION_IN";
    if let Some(root) = std::env::var_os(CHILD) {
        let store = Store::open(root.as_ref(), StoreOptions::default()).unwrap();
        let _session = store.session().unwrap();
        let active = store.begin(&[]).unwrap();
        fs::create_dir(active.dir().join("closed")).unwrap();
        fs::set_permissions(active.dir().join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        let _claim = store.records().try_claim(&key(1)).unwrap();
        println!("ready");
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let test = TestStore::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["a_killed_build_blocks_nobody_and_its_leftovers_go", "--exact", "--nocapture"])
        .env(CHILD, test.dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(lines.map(Result::unwrap).any(|line| line.ends_with("ready")));
    assert!(matches!(test.store.prune(ALL), Err(CacheError::Busy { .. })));
    let temporary = || fs::read_dir(test.dir.path().join("tmp-v1")).unwrap().count();
    assert_eq!(temporary(), 2);
    child.kill().unwrap();
    child.wait().unwrap();
    // The next build removes them in the background.
    let session = test.store.session().unwrap();
    let begin = Instant::now();
    while temporary() > 0 {
        assert!(begin.elapsed() < Duration::from_secs(10), "leftovers stay");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(session);
    test.store.prune(ALL).unwrap();
    assert_eq!(fs::read_dir(test.dir.path().join("claims-v1")).unwrap().count(), 0);
}
