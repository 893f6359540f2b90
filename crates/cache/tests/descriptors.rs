//! A large cache is made smaller with the descriptors that a process usually may have. One test, since the limit is of the whole process.

mod common;
#[path = "common/directories.rs"]
mod directories;
#[path = "common/filled.rs"]
mod filled;

use std::path::Path;

use cache::{Limits, PruneOptions, Store, StoreOptions, Whys};
use directories::directories;
use filled::filled;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More than there are leases, and several times as many as go at once.
const RECORDS: u64 = 3000;

/// Fewer than the usual 1,024: a builder has connections and other files besides.
const DESCRIPTORS: u64 = 800;

#[test]
fn few_files_are_open_at_once() {
    let limit = Rlimit { current: Some(DESCRIPTORS), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).unwrap();
    type Removal = fn(&Store, u64);
    let removals: [Removal; 4] = [
        |store, bytes| {
            let whys = Whys { over: "to keep".into(), full: String::new() };
            store.collect(Limits { max_used_space: bytes / 4, ..Limits::default() }, &whys).unwrap();
        },
        |store, bytes| {
            let limits = Limits { max_used_space: bytes / 4, ..Limits::default() };
            store.evict(&|_| true, limits, "").unwrap();
        },
        |store, _| assert!(store.prune(PruneOptions { all: true }).unwrap().snapshots > 0),
        |store, _| assert_eq!(store.cache_parts().unwrap().len() as u64, RECORDS),
    ];
    for removal in removals {
        let (dir, bytes) = filled(Path::new("/tmp"), RECORDS, 3);
        directories(&dir.path().join("snapshots-v1"), RECORDS as u32);
        removal(&Store::open(dir.path(), StoreOptions::default()).unwrap(), bytes);
    }
}
