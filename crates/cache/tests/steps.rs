//! What is remembered of steps, and the secret that goes with it.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use cache::{CacheBackend, MemoryCache, PruneOptions};
use common::{TestStore, key};

fn check(cache: &dyn CacheBackend) {
    assert_eq!(cache.recall(&key(1)).unwrap(), None);
    cache.remember(&[(key(1), vec![7; 100_000]), (key(2), Vec::new())]).unwrap();
    cache.remember(&[(key(2), b"two".to_vec())]).unwrap();
    assert_eq!(cache.recall(&key(1)).unwrap(), Some(vec![7; 100_000]));
    assert_eq!(cache.recall(&key(2)).unwrap().as_deref(), Some(&b"two"[..]));
    assert_eq!(cache.secret().unwrap(), cache.secret().unwrap());
}

#[test]
fn on_disk_and_in_memory() {
    check(&MemoryCache::default());
    let test = TestStore::new();
    check(&test.store.records());
    assert!(test.again().records().recall(&key(1)).unwrap().is_some());
    // It is no result: only its age removes it, or a prune of everything.
    test.store.prune(PruneOptions::default()).unwrap();
    assert!(test.store.records().recall(&key(1)).unwrap().is_some());
    test.database().execute("UPDATE steps SET parts = x'00ff'", []).unwrap();
    assert_eq!(test.store.records().recall(&key(1)).unwrap(), None, "damaged");
    test.database().execute("UPDATE steps SET used = 0", []).unwrap();
    test.store.prune(PruneOptions::default()).unwrap();
    let rows: i64 = test.database().query_row("SELECT count(*) FROM steps", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 0);
}

#[test]
fn each_store_has_its_own_secret() {
    let (a, b) = (TestStore::new(), TestStore::new());
    let secret = a.store.records().secret().unwrap();
    assert_eq!(a.again().records().secret().unwrap(), secret);
    assert_ne!(b.store.records().secret().unwrap(), secret);
    let path = a.dir.path().join("secret-v1");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(&path, "cut off").unwrap();
    assert_ne!(a.store.records().secret().unwrap(), secret);
    let threads: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn({
                let store = b.again();
                move || store.records().secret().unwrap()
            })
        })
        .collect();
    let secret = b.store.records().secret().unwrap();
    assert!(threads.into_iter().all(|thread| thread.join().unwrap() == secret));
}
