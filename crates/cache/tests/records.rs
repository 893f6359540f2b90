//! Results, and who may compute them.

mod common;

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use cache::{CacheBackend, Limits, NewRecord, Origins, RecordId, SnapshotId, StepRun, Whys};
use common::{Lookup, TestStore, content, key};

fn record(n: u64, layers: &[SnapshotId]) -> NewRecord {
    let run = StepRun {
        started: UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789),
        duration: Duration::from_nanos(1_234_567),
    };
    NewRecord { content: content(n), layers: layers.to_vec(), description: format!("RUN {n}"), run }
}

#[test]
fn records_are_found_under_all_their_keys_newest_first() {
    let test = TestStore::new();
    let records = test.store.records();
    let layer = test.layer(&[], |_| {}).id();
    let first = records.save(&[key(1), key(2)], &record(1, &[layer])).unwrap();
    let second = records.save(&[key(2)], &record(2, &[])).unwrap();
    assert_eq!(records.lookup(&key(1)).unwrap(), std::slice::from_ref(&first));
    assert_eq!(records.lookup(&key(2)).unwrap(), [second.clone(), first.clone()]);
    assert_eq!(records.lookup(&key(3)).unwrap(), []);
    records.alias(second.id, &key(3)).unwrap();
    records.alias(second.id, &key(3)).unwrap();
    assert_eq!(test.again().records().lookup(&key(3)).unwrap(), [second]);
    assert_eq!(first.run, record(1, &[]).run);
    assert_eq!(first.layers, [layer]);
}

/// Builds with `--no-cache` file one result after another under the same keys, of which one is used.
#[test]
fn only_the_result_that_is_used_is_held() {
    let test = TestStore::new();
    let of_builds: Vec<SnapshotId> =
        (0..20).map(|_| test.layer(&[], |dir| fs::write(dir.join("f"), [1; 1000]).unwrap()).id()).collect();
    for layer in &of_builds {
        test.store.records().save(&[key(1)], &record(1, &[*layer])).unwrap();
    }
    let store = test.again();
    let _session = store.session().unwrap();
    let candidates = store.records().candidates(&key(1)).unwrap();
    assert_eq!(candidates.iter().map(|record| record.layers[0]).collect::<Vec<_>>(), reversed(&of_builds));
    assert!(store.records().hold(&candidates[0]).unwrap());
    let everything = Limits { max_used_space: 1, ..Limits::default() };
    test.again().collect(everything, &Whys { over: "o".into(), full: "f".into() }).unwrap();
    let left: Vec<SnapshotId> =
        test.again().records().lookup(&key(1)).unwrap().iter().map(|record| record.layers[0]).collect();
    assert_eq!(left, of_builds[19..]);
    // What went meanwhile is not there to be held.
    assert!(!store.records().hold(&candidates[1]).unwrap());
}

fn reversed(layers: &[SnapshotId]) -> Vec<SnapshotId> {
    layers.iter().rev().copied().collect()
}

#[test]
fn on_whose_word_a_result_rests_is_never_lost() {
    let test = TestStore::new();
    let records = test.store.records();
    let of = |names: &[&str]| -> Origins { names.iter().map(|name| (*name).to_owned()).collect() };
    let own = records.save(&[key(1)], &record(1, &[])).unwrap();
    let both = records.save_from(&[key(1), key(2)], &record(2, &[]), &of(&["b", "a"])).unwrap();
    assert_eq!((own.origins.clone(), both.origins.clone()), (of(&[]), of(&["a", "b"])));
    records.alias(both.id, &key(3)).unwrap();
    let again = test.again();
    for n in [2, 3] {
        assert_eq!(again.records().lookup(&key(n)).unwrap(), std::slice::from_ref(&both), "{n}");
    }
    assert_eq!(again.records().lookup(&key(1)).unwrap(), [both.clone(), own.clone()]);
    let glance = |trusted: &[&str]| again.records().glance(&[key(1), key(2)], &of(trusted)).unwrap();
    assert_eq!(glance(&[]), [Some(own.clone()), None]);
    assert_eq!(glance(&["a", "c"]), [Some(own.clone()), None]);
    assert_eq!(glance(&["a", "b", "c"]), [Some(both.clone()), Some(both)]);
    // The same on fewer words counts before what is newer, another result does not.
    let less = records.save_from(&[key(1), key(2)], &record(2, &[]), &of(&["b"])).unwrap();
    let other = records.save_from(&[key(1)], &record(2, &[]), &of(&["b", "c"])).unwrap();
    assert_eq!(glance(&["a", "b", "c"]), [Some(less.clone()), Some(less.clone())]);
    for RecordId(id) in [less.id, other.id] {
        test.database().execute("DELETE FROM records WHERE id = ?1", [id]).unwrap();
    }
    // A disk that forgets a part of it makes no result anybody's.
    test.database().execute("DELETE FROM record_origins WHERE origin = 'a'", []).unwrap();
    assert_eq!(test.again().records().lookup(&key(1)).unwrap(), [own]);
    assert_eq!(test.again().records().lookup(&key(2)).unwrap(), []);
}

#[test]
fn a_record_without_its_layer_is_none() {
    let test = TestStore::new();
    let records = test.store.records();
    let kept = test.layer(&[], |_| {});
    let lost = test.layer(&[kept.id()], |_| {});
    records.save(&[key(1)], &record(1, &[kept.id()])).unwrap();
    records.save(&[key(1), key(2)], &record(2, &[kept.id(), lost.id()])).unwrap();
    fs::remove_dir_all(lost.dirs().next().unwrap()).unwrap();
    let found: Vec<_> = records.lookup(&key(1)).unwrap().iter().map(|record| record.content).collect();
    assert_eq!(found, [content(1)]);
    assert_eq!(records.lookup(&key(2)).unwrap(), []);
    assert_eq!(test.store.usage().unwrap().records.count, 1);
    // A record that names a layer that is not there cannot be saved.
    assert!(records.save(&[key(4)], &record(4, &[lost.id()])).is_err());
    assert_eq!(records.lookup(&key(4)).unwrap(), []);
}

#[test]
fn a_row_that_the_disk_changed_is_no_hit() {
    for change in [
        "UPDATE keys SET record = (SELECT max(id) FROM records)",
        "UPDATE records SET content = zeroblob(32)",
        "UPDATE records SET tree = NULL",
        "UPDATE trees SET snapshot = 2",
        "UPDATE trees SET parent = NULL",
        "UPDATE trees SET parent = id",
        "PRAGMA foreign_keys = OFF; UPDATE trees SET parent = id + 1",
        "PRAGMA foreign_keys = OFF; DELETE FROM trees",
        "UPDATE keys SET seal = 'x'",
    ] {
        let test = TestStore::new();
        let records = test.store.records();
        let layers = [test.layer(&[], |_| {}).id(), test.layer(&[], |_| {}).id()];
        records.save(&[key(1)], &record(1, &layers)).unwrap();
        records.save(&[], &record(2, &[])).unwrap();
        assert_eq!(records.lookup(&key(1)).unwrap().len(), 1);
        test.database().execute_batch(change).unwrap();
        let other = test.again();
        assert_eq!(other.records().lookup(&key(1)).unwrap(), [], "{change}");
        assert_eq!(other.records().lookup(&key(1)).unwrap(), [], "{change}");
    }
}

#[test]
fn last_used_is_noted_at_the_end_and_not_too_often() {
    let test = TestStore::new();
    let layer = test.layer(&[], |_| {}).id();
    test.store.records().save(&[key(1)], &record(1, &[layer])).unwrap();
    let used = || test.store.usage().unwrap().layers[0].last_used;
    let set = |millis: i64| {
        for table in ["records", "snapshots"] {
            test.database().execute(&format!("UPDATE {table} SET used = ?1"), [millis]).unwrap();
        }
    };
    set(1000);
    let session = test.store.session().unwrap();
    test.store.records().lookup(&key(1)).unwrap();
    assert_eq!(used(), UNIX_EPOCH + Duration::from_secs(1));
    session.finish().unwrap();
    assert!(used().elapsed().unwrap() < Duration::from_secs(60));
    let recent = used() - Duration::from_secs(20);
    set(i64::try_from(recent.duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap());
    let session = test.store.session().unwrap();
    test.store.records().lookup(&key(1)).unwrap();
    session.finish().unwrap();
    assert_eq!(used(), recent);
}

#[test]
fn one_claim_a_key() {
    let test = TestStore::new();
    let records = test.store.records();
    let claim = records.try_claim(&key(1)).unwrap().unwrap();
    assert!(records.try_claim(&key(1)).unwrap().is_none());
    assert!(test.again().records().try_claim(&key(1)).unwrap().is_none());
    assert!(records.try_claim(&key(2)).unwrap().is_some());
    drop(claim);
    assert!(records.try_claim(&key(1)).unwrap().is_some());
    assert_eq!(fs::read_dir(test.dir.path().join("claims-v1")).unwrap().count(), 0);
}

#[test]
fn one_claimant_at_a_time_however_many_try() {
    let test = TestStore::new();
    let holders = std::sync::atomic::AtomicU32::new(0);
    let turns = std::sync::atomic::AtomicU32::new(0);
    let open_files = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open_files();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let records = test.store.records();
                for _ in 0..300 {
                    if let Some(claim) = records.try_claim(&key(1)).unwrap() {
                        use std::sync::atomic::Ordering::SeqCst;
                        assert_eq!(holders.fetch_add(1, SeqCst), 0);
                        turns.fetch_add(1, SeqCst);
                        std::thread::yield_now();
                        holders.fetch_sub(1, SeqCst);
                        drop(claim);
                    }
                }
            });
        }
    });
    assert!(turns.into_inner() > 10);
    // Other tests of this process open files too, but not hundreds.
    assert!(open_files() < before + 200);
}

#[test]
fn a_claim_ends_with_its_process() {
    const CHILD: &str = "CACHE_TEST_CLAIM_IN";
    if let Some(root) = std::env::var_os(CHILD) {
        let store = cache::Store::open(root.as_ref(), cache::StoreOptions::default()).unwrap();
        let claim = store.records().try_claim(&key(1)).unwrap();
        println!("claimed: {}", claim.is_some());
        std::thread::sleep(Duration::from_secs(600));
        return;
    }
    let test = TestStore::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["a_claim_ends_with_its_process", "--exact", "--nocapture"])
        .env(CHILD, test.dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(output.map(Result::unwrap).any(|line| line.ends_with("claimed: true")));
    assert!(test.store.records().try_claim(&key(1)).unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(test.store.records().try_claim(&key(1)).unwrap().is_some());
}

/// A build that counts on a layer, and misses it since another process found it damaged, is told so: it has to be done again.
#[test]
fn a_layer_that_another_process_throws_away_is_noted() {
    let test = TestStore::new();
    let layer = test.layer(&[], |_| {}).id();
    test.store.records().save(&[key(1)], &record(1, &[layer])).unwrap();
    let session = test.store.session().unwrap();
    assert_eq!(test.store.records().lookup(&key(1)).unwrap().len(), 1);
    test.database().execute_batch("PRAGMA foreign_keys = ON; DELETE FROM snapshots").unwrap();
    test.store.records().save(&[key(2)], &record(2, &[layer])).unwrap_err();
    assert_eq!(test.store.thrown_away().len(), 1);
    // An image's, and one that this build has made.
    let chain = hash::Digest::of(b"chain");
    let of_image = test.layer(&[], |_| {}).id();
    test.store.set_chain(&chain, of_image).unwrap();
    session.finish().unwrap();
    let session = test.store.session().unwrap();
    assert_eq!(test.store.chain(&chain).unwrap(), Some(of_image));
    let made = test.layer(&[], |_| {}).id();
    test.database().execute_batch("PRAGMA foreign_keys = ON; DELETE FROM snapshots").unwrap();
    for layer in [of_image, made] {
        assert!(test.store.snapshot(layer).unwrap().is_none());
        assert_eq!(test.store.thrown_away().len(), 1, "{layer}");
    }
    session.finish().unwrap();
}
