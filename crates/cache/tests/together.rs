//! Those who remove things do not wait for each other for ever.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use cache::{CacheError, Limits, PruneOptions, Store, Whys};
use common::{TestStore, build_steps};

/// A way to remove things. Those that need the store for themselves say when they cannot have it.
type Removal = fn(&Store) -> Result<(), CacheError>;

#[test]
fn a_repair_a_prune_and_a_collection_take_turns() {
    const ROUNDS: u32 = 60;
    let whys = || Whys { over: "to keep".into(), full: String::new() };
    let removals: [(&str, Removal); 4] = [
        ("prune", |store| store.prune(PruneOptions { all: false }).map(drop)),
        ("fsck --repair", |store| store.check(true).map(drop)),
        ("evict", |store| {
            store.evict(&|_| true, Limits { max_used_space: 1, ..Limits::default() }, "").map(drop)
        }),
        ("a build", |store| {
            let session = store.session()?;
            build_steps(store, 2);
            session.finish().map(drop)
        }),
    ];
    let test = TestStore::new();
    static ENDED: AtomicBool = AtomicBool::new(false);
    let (done, all_done) = mpsc::channel();
    for (name, removal) in removals {
        let (store, done) = (test.again(), done.clone());
        std::thread::spawn(move || {
            let mut times = 0;
            while times < ROUNDS && !ENDED.load(Ordering::Acquire) {
                match removal(&store) {
                    Ok(()) => times += 1,
                    Err(CacheError::Busy { .. }) => std::thread::sleep(Duration::from_millis(1)),
                    Err(error) => panic!("{name}: {error}"),
                }
            }
            done.send((name, times)).unwrap();
        });
    }
    // And the one that goes on while builds do.
    let store = test.again();
    std::thread::spawn(move || {
        while !ENDED.load(Ordering::Acquire) {
            store.collect(Limits { max_used_space: 1, ..Limits::default() }, &whys()).unwrap();
        }
    });
    for left in (1..=removals.len()).rev() {
        let ended = all_done.recv_timeout(Duration::from_secs(100));
        let (name, times) = ended.unwrap_or_else(|_| panic!("{left} wait for each other"));
        assert_eq!(times, ROUNDS, "{name}");
    }
    ENDED.store(true, Ordering::Release);
}
