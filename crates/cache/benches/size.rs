//! What a large cache costs: to open it, to find a build in it, to make it smaller. `cargo bench -p cache`.
//!
//! The records of other builds are written straight into the database ([`filled`]).

#[path = "../tests/common/directories.rs"]
mod directories;
#[path = "../tests/common/filled.rs"]
mod filled;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, UNIX_EPOCH};

use cache::{CacheBackend, Limits, NewRecord, SnapshotId, StepRun, Store, StoreOptions, Whys};
use directories::directories;
use filled::filled;
use hash::{CacheKey, ContentId, StableHasher};

/// Steps of a build.
const STEPS: u64 = 60;

fn main() {
    if std::env::args().any(|argument| argument == "collect") {
        return collect();
    }
    for records in [100, 10_000, 1_000_000] {
        let (dir, _) = filled(&std::env::temp_dir(), records, 10);
        println!("open, {records:>7} records: {:?}", fastest(20, || drop(open(dir.path()))));
    }
    let (dir, _) = filled(&std::env::temp_dir(), 100_000, STEPS);
    println!("a build of {STEPS} cached steps among 100000 records: {:?}", look_up(dir.path()));
    collect();
}

fn collect() {
    // Of the rows alone there is least to remove where each result has one layer, and no directory.
    for (steps, has_directories) in [(STEPS, true), (STEPS, false), (1, false)] {
        let of = if has_directories { "with directories" } else { "rows alone" };
        println!("collect of 100000 records in chains of {steps}, {of}:");
        collect_of(steps, has_directories);
    }
    let dir = tempfile::tempdir().expect("a directory");
    // What nobody can do without: directories with a file have to be removed one by one.
    let others = dir.path().join("others");
    fs::create_dir(&others).expect("make a directory");
    directories(&others, 50_000);
    let begin = Instant::now();
    let removed = Command::new("rm").arg("-rf").arg(&others).status();
    println!("`rm -rf` of 50000 such layers: {:?}, {removed:?}", begin.elapsed());
}

/// User and system time of this process: what stays the same where others compute, too (`proc(5)`, fields 14 and 15, 100 a second).
fn cpu_time() -> Duration {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split(' ').skip(12).take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
    Duration::from_millis(ticks * 10)
}

fn collect_of(steps: u64, has_directories: bool) {
    // How many tenths of the bytes may stay.
    let ways: [&[(&str, u64)]; 2] =
        [&[("a tenth", 9), ("four more", 5), ("the rest", 0)], &[("all at once", 0)]];
    for way in ways {
        let (dir, bytes) = filled(&std::env::temp_dir(), 100_000, steps);
        if has_directories {
            directories(&dir.path().join("snapshots-v1"), 100_000);
        }
        let store = open(dir.path());
        for (name, tenths) in way {
            let limits = Limits { max_used_space: (bytes / 10 * tenths).max(1), ..Limits::default() };
            let (begin, before) = (Instant::now(), cpu_time());
            let left = store.collect(limits, &Whys { over: "to keep".into(), full: String::new() });
            let used = cpu_time() - before;
            println!("    {name}: {:?}, {used:?} of processors, {left:?} bytes left", begin.elapsed());
        }
    }
}

fn open(root: &Path) -> Store {
    Store::open(root, StoreOptions::default()).expect("open the store")
}

fn fastest(times: u32, mut what: impl FnMut()) -> Duration {
    let once = |_| {
        let begin = Instant::now();
        what();
        begin.elapsed()
    };
    (0..times).map(once).min().unwrap_or_default()
}

fn key(step: u64) -> CacheKey {
    CacheKey::from_bytes(StableHasher::new("bench").with(&step).finish())
}

/// What a build of cached steps asks: for the result of the last, and for what is known of the others.
fn look_up(root: &Path) -> Duration {
    let store = open(root);
    let session = store.session().expect("begin a session");
    let mut layers: Vec<SnapshotId> = Vec::new();
    for step in 0..STEPS {
        let active = store.begin(&layers).expect("begin a layer");
        fs::write(active.dir().join(step.to_string()), "").expect("write a file");
        let changes = active.changes().expect("read the layer");
        layers.push(active.commit(&changes).expect("commit a layer").id());
        let run = StepRun { started: UNIX_EPOCH, duration: Duration::ZERO };
        let content = ContentId::from_bytes(StableHasher::new("content").with(&step).finish());
        let record = NewRecord { content, layers: layers.clone(), description: "RUN step".to_owned(), run };
        store.records().save(&[key(step)], &record).expect("save a record");
    }
    drop(session);
    drop(store);
    fastest(10, || {
        let store = open(root);
        let session = store.session().expect("begin a session");
        let found = &store.records().candidates(&key(STEPS - 1)).expect("look up")[0];
        assert_eq!(found.layers.len(), STEPS as usize);
        assert!(store.records().hold(found).expect("hold"));
        let keys: Vec<CacheKey> = (0..STEPS - 1).map(key).collect();
        assert!(
            store
                .records()
                .glance(&keys, &cache::Origins::new())
                .expect("glance")
                .iter()
                .all(Option::is_some)
        );
        session.finish().expect("end the session");
    })
}
