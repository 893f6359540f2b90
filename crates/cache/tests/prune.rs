//! What prune removes, and what it leaves alone.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use cache::{CacheBackend, CacheError, NewRecord, PruneOptions, StepRun, Store, StoreOptions};
use common::{Lookup, TestStore, content, key, put_image};
use files::StatCache;
use image::ContentStore;

const ALL: PruneOptions = PruneOptions { all: true };

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
fn what_a_running_build_uses_stays() {
    let test = TestStore::new();
    let unused = test.layer(&[], |dir| fs::write(dir.join("f"), vec![1; 10_000]).unwrap());
    let (found, other) = (test.layer(&[], |_| {}).id(), test.layer(&[], |_| {}).id());
    save(&test, 1, vec![found]);
    save(&test, 2, vec![other]);
    put_image(&test, "app", "linux/amd64", b"a layer").unwrap();
    let build = test.again();
    let session = build.session().unwrap();
    assert_eq!(build.records().lookup(&key(1)).unwrap().len(), 1);
    let image = build.load_image(&build.list_images().unwrap()[0]).unwrap();
    let own = build.begin(&[found]).unwrap();
    let changes = own.changes().unwrap();
    let own = own.commit(&changes).unwrap().id();
    let blobs = build.blobs() as &dyn ContentStore;
    let blob = blobs.put(b"not named yet").unwrap();
    let is_there = |n| !test.store.records().lookup(&key(n)).unwrap().is_empty();

    let pruned = test.store.prune(PruneOptions::default()).unwrap();
    assert_eq!((pruned.snapshots, pruned.records, pruned.images), (1, 0, 0), "{pruned:?}");
    assert!(pruned.bytes >= 10_000 && !unused.dirs().next().unwrap().exists());
    assert_eq!([1, 2].map(is_there), [true, true]);
    let pruned = test.store.prune(ALL).unwrap();
    assert_eq!((pruned.snapshots, pruned.records, pruned.images), (1, 1, 1), "{pruned:?}");
    assert_eq!(pruned.in_use, 2, "{pruned:?}");
    assert_eq!([1, 2].map(is_there), [true, false]);
    // An image that lost its name meanwhile can still be read.
    assert_eq!(blobs.read(&image.layers[0].descriptor.digest, 100).unwrap().unwrap(), b"a layer");
    assert_eq!(blobs.read(&blob, 100).unwrap().unwrap(), b"not named yet");
    let run = StepRun { started: UNIX_EPOCH, duration: Duration::ZERO };
    let layers = vec![found, own];
    let record = NewRecord { content: content(3), layers: layers.clone(), description: String::new(), run };
    build.records().save(&[key(3)], &record).unwrap();
    session.finish().unwrap();
    assert_eq!(test.store.records().lookup(&key(3)).unwrap()[0].layers, layers);
    assert_eq!(test.store.check(false).unwrap().findings, []);
    let pruned = test.store.prune(ALL).unwrap();
    assert_eq!((pruned.snapshots, pruned.records, pruned.in_use), (2, 2, 0), "{pruned:?}");
    assert_eq!(test.store.check(false).unwrap().findings, []);
}

/// A layer is leased before others can see it: until its result is filed nothing else leads to it.
#[test]
fn a_layer_that_is_being_committed_stays() {
    let test = TestStore::new();
    let prunes = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let builds = scope.spawn(|| {
            let store = test.again();
            // However slow the disk is, some of them are beside a prune.
            for n in (0..10_000).take_while(|n| *n < 100 || prunes.load(Ordering::Relaxed) < 5) {
                let session = store.session().unwrap();
                let layers: Vec<_> = (0..5)
                    .map(|_| {
                        let active = store.begin(&[]).unwrap();
                        let changes = active.changes().unwrap();
                        active.commit(&changes).unwrap().id()
                    })
                    .collect();
                let run = StepRun { started: UNIX_EPOCH, duration: Duration::ZERO };
                let record = NewRecord {
                    content: content(n),
                    layers: layers.clone(),
                    description: String::new(),
                    run,
                };
                store.records().save(&[key(n)], &record).unwrap();
                assert!(layers.iter().all(|layer| store.snapshot(*layer).unwrap().is_some()), "{n}");
                session.finish().unwrap();
            }
        });
        let store = test.again();
        while !builds.is_finished() {
            let all = prunes.load(Ordering::Relaxed).is_multiple_of(2);
            store.prune(PruneOptions { all }).unwrap();
            prunes.fetch_add(1, Ordering::Relaxed);
        }
    });
    assert!(prunes.into_inner() >= 5);
}

#[test]
fn a_repair_says_who_is_in_its_way() {
    let test = TestStore::new();
    let session = test.again().session().unwrap();
    let busy = test.store.check(true).unwrap_err();
    assert!(matches!(busy, CacheError::Busy { .. }));
    let told = busy.to_string();
    assert!(told.contains("is in use by `prune-"), "{told}");
    assert!(told.ends_with(&format!("(process {})", std::process::id())), "{told}");
    session.finish().unwrap();
    assert_eq!(test.store.check(true).unwrap().findings, []);
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
        std::thread::sleep(Duration::from_secs(600));
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
    let temporary = || fs::read_dir(test.dir.path().join("tmp-v1")).unwrap().count();
    assert_eq!(temporary(), 2);
    test.store.prune(ALL).unwrap();
    let others = fs::read_dir(test.dir.path().join("tmp-v1")).unwrap().filter(|entry| {
        entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(&format!("{}-", child.id()))
    });
    assert_eq!(others.count(), 2, "it lives");
    assert!(test.store.records().try_claim(&key(1)).unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
    // The next build removes them in the background.
    let session = test.store.session().unwrap();
    let begin = Instant::now();
    while temporary() > 0 {
        assert!(begin.elapsed() < Duration::from_secs(120), "leftovers stay");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(session);
    test.store.prune(ALL).unwrap();
    assert_eq!(fs::read_dir(test.dir.path().join("claims-v1")).unwrap().count(), 0);
}
