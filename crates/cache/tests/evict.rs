//! What goes when the cache has to become smaller, and in which order.

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cache::{CacheBackend, CacheKind, CachePart, Limits, NewRecord, SnapshotId, StepRun, Whys};
use common::{Lookup, TestStore, content, key, put_image};
use image::{ContentStore, Descriptor, Layer, MediaType};

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

/// `COPY --link` of the same files, in one build and in both orders of two: each layer stands on the other, and on itself.
#[test]
fn layers_that_stand_on_one_another_go() {
    let test = TestStore::new();
    let [a, b, c] = [(); 3].map(|()| layer(&test, &[], 100_000));
    save(&test, 1, vec![a, b], 1);
    save(&test, 2, vec![b, a], 1);
    save(&test, 3, vec![c, a, c], 1);
    // All that stands on a layer that is not to go stays, and so does what that is on.
    let pruned = test.store.evict(&|part| part.id != a.0.to_string(), Limits::default(), "").unwrap();
    assert_eq!((pruned.records, pruned.snapshots), (0, 0), "{pruned:?}");
    let other = test.again();
    let session = other.session().unwrap();
    assert!(other.snapshot(b).unwrap().is_some());
    let pruned = test.store.evict(&all, Limits::default(), "").unwrap();
    assert_eq!((pruned.records, pruned.snapshots), (0, 0), "{pruned:?}");
    session.finish().unwrap();
    let pruned = test.store.evict(&all, Limits { max_used_space: 100_000, ..Limits::default() }, "").unwrap();
    assert_eq!((pruned.records, pruned.snapshots), (3, 2), "{pruned:?}");
    let pruned = test.store.evict(&all, Limits::default(), "").unwrap();
    assert_eq!((pruned.records, pruned.snapshots), (0, 1), "{pruned:?}");
    assert_eq!(test.store.check(false).unwrap().findings, []);
}

/// Results are forgotten before their layers go: whoever is killed in between leaves layers that nobody finds, and the next one takes them.
#[test]
fn results_that_were_only_forgotten_go_the_next_time() {
    let test = tree();
    test.database().execute("DELETE FROM keys WHERE record IN (3, 4)", []).unwrap();
    assert_eq!([1, 2, 3, 4].map(|n| is_there(&test, n)), [true, true, false, false]);
    let limits = Limits { max_used_space: 200_000, ..Limits::default() };
    let whys = Whys { over: "to keep under 200kB".into(), full: String::new() };
    test.store.collect(limits, &whys).unwrap();
    let rows = |table: &str| -> i64 {
        let count = format!("SELECT count(*) FROM {table}");
        test.database().query_row(&count, [], |row| row.get(0)).unwrap()
    };
    assert_eq!((rows("records"), rows("snapshots"), rows("trees")), (2, 2, 2));
    let dirs = fs::read_dir(test.dir.path().join("snapshots-v1")).unwrap().count();
    assert_eq!(dirs, 2);
    assert_eq!(test.store.check(false).unwrap().findings, []);
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
    // Once it was built again, that is history.
    save(&test, 4, vec![], 1);
    assert_eq!(test.store.records().eviction(&key(4)).unwrap(), None);
    test.database().execute("DELETE FROM records WHERE description = 'RUN 4'", []).unwrap();

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
fn what_a_running_build_uses_stays() {
    let test = tree();
    let build = test.again();
    let session = build.session().unwrap();
    assert_eq!(build.records().lookup(&key(2)).unwrap().len(), 1);
    let in_use = |store: &cache::Store| -> Vec<bool> {
        store.cache_parts().unwrap().iter().map(|part| part.in_use).collect()
    };
    assert_eq!(in_use(&test.store), [true, true, false, false]);
    let pruned = test.store.evict(&all, Limits::default(), "").unwrap();
    assert_eq!((pruned.records, pruned.snapshots, pruned.in_use), (2, 2, 2), "{pruned:?}");
    assert_eq!([1, 2, 3, 4].map(|n| is_there(&test, n)), [true, true, false, false]);
    // Of what fits nothing is missed.
    let limits = Limits { max_used_space: 200_000, ..Limits::default() };
    assert_eq!(test.store.evict(&all, limits, "").unwrap(), cache::Pruned::default());
    session.finish().unwrap();
    let pruned = test.store.evict(&all, Limits::default(), "").unwrap();
    assert_eq!((pruned.records, pruned.snapshots, pruned.in_use), (2, 2, 0), "{pruned:?}");
}

#[test]
fn nothing_else_goes() {
    let test = tree();
    let unused = layer(&test, &[], 10);
    let blob = (test.store.blobs() as &dyn ContentStore).put(b"nothing leads here").unwrap();
    let pruned = test.store.evict(&|part| part.description == "RUN 4", Limits::default(), "").unwrap();
    assert_eq!((pruned.records, pruned.snapshots, pruned.blobs), (1, 1, 0), "{pruned:?}");
    assert!(pruned.bytes >= 100_000, "{pruned:?}");
    assert!(test.store.snapshot(unused).unwrap().is_some());
    assert!((test.store.blobs() as &dyn ContentStore).size(&blob).unwrap().is_some());
    assert_eq!(test.store.check(true).unwrap().findings, [], "no file is left of what went");
}

/// Of an image that lost its name, or a layer that was packed otherwise.
#[test]
fn blobs_to_which_nothing_leads_are_collected() {
    let test = TestStore::new();
    let blobs = test.store.blobs() as &dyn ContentStore;
    let (old, new, named) = (blobs.put(b"old").unwrap(), blobs.put(b"new").unwrap(), b"named");
    put_image(&test, "app", "linux/amd64", named).unwrap();
    let age = "UPDATE blobs SET created = 0 WHERE digest <> ?1";
    test.database().execute(age, [new.as_bytes()]).unwrap();
    let whys = Whys { over: String::new(), full: String::new() };
    // One that is in use stays.
    let other = test.again();
    let session = other.session().unwrap();
    assert!((other.blobs() as &dyn ContentStore).size(&old).unwrap().is_some());
    let limits = Limits { max_used_space: 1, ..Limits::default() };
    test.store.collect(limits, &whys).unwrap();
    assert!(blobs.size(&old).unwrap().is_some());
    session.finish().unwrap();
    test.store.collect(limits, &whys).unwrap();
    assert_eq!(blobs.size(&old).unwrap(), None);
    assert!(blobs.size(&new).unwrap().is_some(), "whoever made it may be about to name it");
    assert!(blobs.size(&hash::Digest::of(named)).unwrap().is_some());
}

#[test]
fn what_is_packed_of_a_layer_counts_with_it() {
    let test = tree();
    let blob = (test.store.blobs() as &dyn ContentStore).put(&[1; 5000]).unwrap();
    let packed = Layer { descriptor: Descriptor::new(MediaType::LAYER, blob, 5000), diff_id: blob };
    test.store.set_packed(SnapshotId(4), "form", &packed).unwrap();
    let parts = test.store.cache_parts().unwrap();
    assert_eq!((parts[3].bytes, parts[3].frees, parts[0].frees), (105_000, 105_000, 405_000));
    let pruned = test.store.evict(&|part| part.id == "4", Limits::default(), "").unwrap();
    assert_eq!((pruned.snapshots, pruned.blobs), (1, 1));
}

/// What an import or an image brings was made long ago. Until its result is filed only its age here protects it.
#[test]
fn what_just_came_from_elsewhere_is_not_collected() {
    let test = TestStore::new();
    let active = test.store.begin(&[]).unwrap();
    fs::write(active.dir().join("f"), vec![1; 100_000]).unwrap();
    let changes = active.changes().unwrap();
    let id = test.store.import(active, &changes, UNIX_EPOCH, false).unwrap();
    let limits = Limits { max_used_space: 1, ..Limits::default() };
    let whys = Whys { over: String::new(), full: String::new() };
    test.again().collect(limits, &whys).unwrap();
    assert!(test.store.snapshot(id).unwrap().is_some());
    test.database().execute("UPDATE snapshots SET used = 0", []).unwrap();
    test.again().collect(limits, &whys).unwrap();
    assert!(test.store.snapshot(id).unwrap().is_none());
}

/// While a build goes on, and whatever it goes on to do: what others have left goes as soon as there is too much.
#[test]
fn limits_are_kept_while_a_session_lives() {
    let test = tree();
    let build = test.again();
    let session = build.session().unwrap();
    let limits = Limits { max_used_space: 450_000, ..Limits::default() };
    build.keep_within(limits, Whys { over: "to keep under 450kB".into(), full: String::new() });
    build.wait_for_collection(Duration::from_secs(120));
    assert_eq!([1, 2, 3, 4].map(|n| is_there(&test, n)), [true; 4], "it fits");
    // Who finds everything makes nothing smaller, and waits for nothing, whatever there is.
    let reader = test.again();
    reader.keep_within(
        Limits { max_used_space: 1, ..limits },
        Whys { over: String::new(), full: String::new() },
    );
    let results = [1, 2, 3, 4].map(|n| reader.records().lookup(&key(n)).unwrap().len());
    reader.wait_for_collection(Duration::from_secs(30));
    assert_eq!(results, [1; 4]);
    drop(reader);
    assert_eq!([1, 2, 3, 4].map(|n| is_there(&test, n)), [true; 4]);
    let make = |bytes| {
        let active = build.begin(&[]).unwrap();
        fs::write(active.dir().join("f"), vec![1; bytes]).unwrap();
        let changes = active.changes().unwrap();
        active.commit(&changes).unwrap().id()
    };
    let own = make(100_000);
    let eventually = |want: [bool; 4]| {
        let begin = Instant::now();
        while [1, 2, 3, 4].map(|n| is_there(&test, n)) != want {
            assert!(begin.elapsed() < Duration::from_secs(120), "{want:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    // The cheapest of those on which nothing stands.
    eventually([true, true, true, false]);
    assert_eq!(test.store.records().eviction(&key(4)).unwrap().unwrap().why, "to keep under 450kB");
    let more = make(400_000);
    eventually([false; 4]);
    // What the session has made stays, also when it is more than the limit.
    assert!([own, more].into_iter().all(|layer| build.snapshot(layer).unwrap().is_some()));
    session.finish().unwrap();
}

/// BuildKit's first rule: of a cache of more than 512 MB, mounts and repositories go that nobody used for two days.
#[test]
fn idle_mounts_go_first() {
    let test = TestStore::new();
    let id = layer(&test, &[], 10);
    save(&test, 1, vec![id], 1);
    let hours = |hours: u64| SystemTime::now() - Duration::from_secs(hours * 3600);
    let age =
        |path: &Path, time| fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    let folder = |mount: &cache::CacheMount| mount.dir().parent().unwrap().to_owned();
    let mount = |id: &str| -> cache::CacheMount {
        let fill = |dir: &Path, _: &_| {
            fs::write(dir.join("f"), vec![1; 10_000]).unwrap();
            Ok::<_, cache::CacheError>(())
        };
        test.store.try_cache_mount(&cache::CacheMountOptions::new(id), fill).unwrap().unwrap()
    };
    let used = |id: &str, time| age(&folder(&mount(id)).join("uses"), time);
    let remote = || test.store.try_remote_dir(cache::RemoteKind::Git, "git://old").unwrap().unwrap();
    let in_use = mount("in use");
    age(&folder(&in_use).join("uses"), hours(49));
    used("idle", hours(49));
    used("young", hours(47));
    age(&folder(&remote()).join("uses"), hours(49));
    let collect = || {
        // Once an hour mounts are looked at, whatever is used.
        let lock = test.dir.path().join("collector-v1.lock");
        fs::File::options().create(true).append(true).open(&lock).unwrap();
        age(&lock, hours(2));
        let limits = Limits { max_used_space: 1 << 40, ..Limits::default() };
        test.store.collect(limits, &Whys { over: String::new(), full: String::new() }).unwrap();
        let names = |mounts: Vec<cache::CacheMountInfo>| mounts.into_iter().map(|mount| mount.id);
        let mounts =
            names(test.store.cache_mounts().unwrap()).chain(names(test.store.remote_dirs().unwrap()));
        mounts.collect::<Vec<String>>()
    };
    // Counted together with layers, as upstream does.
    let layers_take = |bytes: i64| {
        test.database().execute("UPDATE snapshots SET size = ?1, seal = NULL", [bytes]).unwrap();
    };
    layers_take(511_000_000);
    assert_eq!(collect(), ["idle", "in use", "young", "git://old"]);
    layers_take(512_000_000);
    assert_eq!(collect(), ["in use", "young"]);
    drop(in_use);
    assert_eq!(collect(), ["young"]);
    assert!(is_there(&test, 1), "layers have a limit of their own");
}

/// Many results: to choose among them and to forget half of them takes about as long as to write them did. Were each compared with the
/// others, or the tables searched for each, it would be a hundred times that.
#[test]
fn many_results() {
    let test = TestStore::new();
    let below = layer(&test, &[], 10);
    save(&test, 0, vec![below], 1);
    let count = 20_000;
    let began = Instant::now();
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
                "INSERT INTO trees (id, parent, snapshot) SELECT ?1, id, ?1 FROM trees WHERE snapshot = ?2",
                [id, below.0],
            )
            .unwrap();
            all.execute(
                "INSERT INTO records (id, content, description, started, duration, used, tree) VALUES (?1, zeroblob(32), 'RUN', 0, 1, 0, ?1)",
                [id],
            )
            .unwrap();
            all.execute("INSERT INTO keys VALUES (randomblob(32), ?1, zeroblob(16))", [id]).unwrap();
        }
        all.commit().unwrap();
    }
    let writing = began.elapsed();
    let began = Instant::now();
    let limits = Limits { max_used_space: 100_000, ..Limits::default() };
    let pruned = test.store.evict(&all, limits, "").unwrap();
    assert_eq!(pruned.records, 10_000);
    let evicting = began.elapsed();
    println!("written in {writing:?}, half of them evicted in {evicting:?}");
    // The machine may do something else beside it.
    assert!(evicting < Duration::from_secs(60), "{evicting:?}");
}

/// Every hour a collection looks at everything. What takes only a part away does not put that off.
#[test]
fn taking_a_part_away_is_no_look_at_everything() {
    let test = tree();
    let lock = test.dir.path().join("collector-v1.lock");
    let long_ago = SystemTime::now() - Duration::from_secs(7200);
    fs::File::create(&lock).unwrap().set_modified(long_ago).unwrap();
    let last = || fs::metadata(&lock).unwrap().modified().unwrap();
    let pruned = test.store.evict(&all, Limits { max_used_space: 200_000, ..Limits::default() }, "").unwrap();
    assert!(pruned.snapshots > 0 && last() == long_ago, "{pruned:?}");
    let whys = Whys { over: "to keep".into(), full: String::new() };
    let within = |bytes| Limits { max_used_space: bytes, ..Limits::default() };
    let recently = SystemTime::now() - Duration::from_secs(60);
    fs::File::options().write(true).open(&lock).unwrap().set_modified(recently).unwrap();
    let rows = test.store.cache_parts().unwrap().len();
    test.store.collect(within(100_000), &whys).unwrap();
    assert!(test.store.cache_parts().unwrap().len() < rows && last() == recently);
    fs::File::options().write(true).open(&lock).unwrap().set_modified(long_ago).unwrap();
    test.store.collect(within(1_000_000), &whys).unwrap();
    assert!(last() > recently);
}
