//! What is kept of builds.

use std::time::{Duration, SystemTime};

use cache::{BuildId, Store, StoreOptions};

#[test]
fn the_newest_builds_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    assert_eq!(store.builds().unwrap(), []);
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let ids: Vec<BuildId> =
        (0..203).map(|second| BuildId::new(start + Duration::from_secs(second))).collect();
    for id in &ids {
        store.put_build(id, id.name().as_bytes(), b"said").unwrap();
    }
    let mut kept = ids[3..].to_vec();
    kept.reverse();
    assert_eq!(store.builds().unwrap(), kept);
    assert_eq!(store.build_record(&ids[0]).unwrap(), None);
    assert_eq!(store.build_log(&ids[0]).unwrap(), None);
    let id = &ids[100];
    assert_eq!(store.build_record(id).unwrap().as_deref(), Some(id.name().as_bytes()));
    assert_eq!(store.build_log(id).unwrap().as_deref(), Some(&b"said"[..]));
    assert_eq!(id.started(), start + Duration::from_secs(100));
    store.remove_build(id).unwrap();
    store.remove_build(id).unwrap();
    assert_eq!(store.build_record(id).unwrap(), None);
    assert_eq!(store.builds().unwrap().len(), 199);
}

#[test]
fn what_is_damaged_is_an_error_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let id = BuildId::new(SystemTime::now());
    store.put_build(&id, b"record", b"").unwrap();
    let builds = dir.path().join("builds-v1");
    for file in std::fs::read_dir(&builds).unwrap() {
        std::fs::write(file.unwrap().path(), "damaged").unwrap();
    }
    std::fs::write(builds.join("notes.txt"), "").unwrap();
    assert_eq!(store.builds().unwrap(), std::slice::from_ref(&id));
    assert!(store.build_record(&id).is_err());
}
