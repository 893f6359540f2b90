//! What opening a store costs does not grow with what is in it; what a look-up costs hardly does. Counted, not timed (`cargo bench -p cache`).
//!
//! One test, so that it has a process of its own.

mod common;
#[path = "common/filled.rs"]
mod filled;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use cache::{CacheBackend, Limits, Store, StoreOptions, Whys};
use common::{Lookup, build_steps, key};
use filled::filled;

/// Steps of a build.
const STEPS: u64 = 60;

/// So often this process has read, and so many bytes (`proc_pid_io(5)`), with one look at it.
fn reads() -> [u64; 2] {
    let mut bytes = [0; 1024];
    let length = fs::File::open("/proc/self/io").unwrap().read(&mut bytes).unwrap();
    let text = std::str::from_utf8(&bytes[..length]).unwrap();
    ["syscr: ", "rchar: "].map(|name| {
        text.lines().find_map(|line| line.strip_prefix(name)).expect("a line").parse().expect("a number")
    })
}

fn counted(what: impl FnOnce()) -> [u64; 2] {
    let before = reads();
    what();
    let after = reads();
    [after[0] - before[0], after[1] - before[1]]
}

/// Reads of an opening, and of a cached build after it.
fn costs(root: &Path) -> [[u64; 2]; 2] {
    let open = || Store::open(root, StoreOptions::default()).unwrap();
    let mut store = None;
    let opening = counted(|| store = Some(open()));
    let store = store.unwrap();
    let session = store.session().unwrap();
    let whys = Whys { over: String::new(), full: String::new() };
    let look_up = counted(|| {
        // Nothing of a cached build adds up what is there.
        store.keep_within(Limits { max_used_space: 1 << 30, ..Limits::default() }, whys);
        assert_eq!(store.records().lookup(&key(STEPS - 1)).unwrap()[0].layers.len() as u64, STEPS);
        let keys: Vec<_> = (0..STEPS - 1).map(key).collect();
        let found = store.records().glance(&keys, &cache::Origins::new()).unwrap();
        assert!(found.iter().all(Option::is_some));
        store.wait_for_collection(Duration::from_secs(30));
    });
    session.finish().unwrap();
    [opening, look_up]
}

#[test]
fn nothing_is_read_of_what_nobody_asks_for() {
    let found = [100, 100_000].map(|records| {
        let (dir, _) = filled(&std::env::temp_dir(), records, 2);
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let session = store.session().unwrap();
        build_steps(&store, STEPS);
        session.finish_durably().unwrap();
        let db = rusqlite::Connection::open(dir.path().join("cache-v1.db")).unwrap();
        let fold = || db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        fold();
        let settled = costs(dir.path());
        // All of it was made a moment ago, and is perhaps not on the disk yet.
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        db.execute("UPDATE snapshots SET boot = ?1", [boot.trim()]).unwrap();
        fold();
        let [fresh, _] = costs(dir.path());
        println!(
            "{records} records: opening {:?}, after a build {fresh:?}, look-up {:?}",
            settled[0], settled[1]
        );
        (settled, fresh)
    });
    let [(small, small_fresh), (large, large_fresh)] = found;
    let pages = |[_, bytes]: [u64; 2]| bytes / 4096;
    assert_eq!((small[0][0], pages(small[0])), (large[0][0], pages(large[0])), "opening");
    // The way to the first and the last row of an index is longer in a larger one.
    assert!(
        pages(large_fresh) <= pages(small_fresh) + 4,
        "{large_fresh:?}, and {small_fresh:?} of few records"
    );
    // Each key is a way through an index, of which the lower end is read for it alone.
    assert!(
        pages(large[1]) <= pages(small[1]) + 2 * STEPS,
        "{:?}, and {:?} of few records",
        large[1],
        small[1]
    );
}
