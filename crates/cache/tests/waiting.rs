//! Nobody waits for those who make the cache smaller.

mod common;
#[path = "common/directories.rs"]
mod directories;
#[path = "common/filled.rs"]
mod filled;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cache::{CacheError, Limits, PruneOptions, Store, StoreOptions, Whys};
use common::{Lookup, build_steps, key};
use directories::directories;
use filled::filled;

/// Records of others.
const RECORDS: u64 = 20_000;
/// Steps of a build.
const STEPS: u64 = 20;

fn open(root: &Path) -> Store {
    Store::open(root, StoreOptions::default()).unwrap()
}

/// What others do meanwhile, each from the opening of the store to its end, with the name of the slowest.
fn slowest_reader(root: &Path, is_over: &dyn Fn() -> bool) -> (Duration, &'static str, usize) {
    let mut slowest = (Duration::ZERO, "");
    let mut rounds = 0;
    let mut timed = |name, what: &dyn Fn(&Store)| {
        let begin = Instant::now();
        what(&open(root));
        slowest = slowest.max((begin.elapsed(), name));
    };
    while rounds == 0 || !is_over() {
        timed("du", &|store| drop(store.usage().unwrap()));
        timed("history ls", &|store| drop(store.builds().unwrap()));
        timed("a cached build", &|store| {
            let session = store.session().unwrap();
            for step in 0..STEPS {
                assert_eq!(store.records().lookup(&key(step)).unwrap().len(), 1);
            }
            session.finish().unwrap();
        });
        rounds += 1;
    }
    (slowest.0, slowest.1, rounds)
}

/// A way to make the cache smaller.
type Removal<'a> = dyn Fn(&Store) -> Result<(), CacheError> + Sync + 'a;

/// Where the machine keeps somebody waiting it is another the next time; whoever waits for who removes does so each time.
#[test]
fn readers_never_wait() {
    let told: Vec<String> = (0..3).map_while(|_| slow_reader()).collect();
    assert!(told.len() < 3, "{told:#?}");
}

/// What is wrong.
fn slow_reader() -> Option<String> {
    let mut wrong = None;
    // In memory: a disk on which others write keeps everybody waiting.
    let memory = Path::new("/dev/shm");
    let (dir, bytes) = filled(if memory.is_dir() { memory } else { Path::new("/tmp") }, RECORDS, STEPS);
    directories(&dir.path().join("snapshots-v1"), RECORDS as u32);
    let root = dir.path();
    // A build goes on all the time, so that what it found stays.
    let running = open(root);
    let session = running.session().unwrap();
    build_steps(&running, STEPS);
    let (alone, ..) = slowest_reader(root, &|| true);
    let whys = Whys { over: "to keep".into(), full: String::new() };
    let within = |bytes| Limits { max_used_space: bytes, ..Limits::default() };
    let removals: [(&str, &Removal<'_>); 4] = [
        ("collect", &|store| store.collect(within(bytes / 4 * 3), &whys).map(drop)),
        ("evict", &|store| store.evict(&|_| true, within(bytes / 2), "").map(drop)),
        ("prune", &|store| store.prune(PruneOptions { all: false }).map(drop)),
        ("prune --all", &|store| store.prune(PruneOptions { all: true }).map(drop)),
    ];
    for (name, removal) in removals {
        let is_over = AtomicBool::new(false);
        let (took, (slowest, reader, rounds)) = std::thread::scope(|scope| {
            let remover = scope.spawn(|| {
                let begin = Instant::now();
                removal(&open(root)).unwrap();
                is_over.store(true, Ordering::Release);
                begin.elapsed()
            });
            let told = slowest_reader(root, &|| is_over.load(Ordering::Acquire));
            (remover.join().unwrap(), told)
        });
        println!("{name}: {took:?}, {rounds} rounds beside it, the slowest {slowest:?} ({reader})");
        // Where the machine is busy both take longer; who waited would have done so until the end.
        let most = Duration::from_millis(500).max(10 * alone).max(took / 3);
        if slowest >= most {
            wrong = Some(format!("{reader} took {slowest:?} beside {name} ({took:?}), {alone:?} alone"));
        }
    }
    // What the build uses, and what has the same leases.
    let left = open(root).cache_parts().unwrap().len() as u64;
    assert!((STEPS..RECORDS / 10).contains(&left), "{left} left");
    session.finish().unwrap();
    wrong
}
