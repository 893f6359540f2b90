//! Blobs: verified when read, complete or absent when written.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use common::TestStore;
use hash::Digest;
use image::ContentStore;

fn file_of(test: &TestStore, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    test.dir.path().join("blobs/sha256-v1").join(&hex[..2]).join(hex)
}

#[test]
fn blobs_come_back_as_they_were() {
    let test = TestStore::new();
    let store = test.store.blobs() as &dyn ContentStore;
    for bytes in [&b""[..], b"hello", &[5; 300_000]] {
        let digest = store.put(bytes).unwrap();
        assert_eq!(digest, Digest::of(bytes));
        assert_eq!(store.size(&digest).unwrap(), Some(bytes.len() as u64));
        assert_eq!(store.read(&digest, 1 << 20).unwrap().unwrap(), bytes);
        assert_eq!(fs::metadata(file_of(&test, &digest)).unwrap().permissions().mode() & 0o777, 0o444);
        assert_eq!(store.put(bytes).unwrap(), digest, "a second time is fine");
    }
    let missing = Digest::of(b"missing");
    assert!(store.open(&missing).unwrap().is_none());
    assert_eq!(store.size(&missing).unwrap(), None);
    assert_eq!(test.again().blobs().size(&Digest::of(b"hello")).unwrap(), Some(5));
}

#[test]
fn other_bytes_than_expected_are_not_kept() {
    let test = TestStore::new();
    let mut writer = test.store.blobs().create().unwrap();
    writer.write_all(b"evil").unwrap();
    let error = writer.commit(Some(&Digest::of(b"good"))).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    for bytes in [b"evil", b"good"] {
        assert_eq!(test.store.blobs().size(&Digest::of(bytes)).unwrap(), None);
    }
    let mut abandoned = test.store.blobs().create().unwrap();
    abandoned.write_all(&[1; 100_000]).unwrap();
    drop(abandoned);
    let usage = test.store.usage().unwrap();
    assert_eq!((usage.blobs.count, usage.temporary.bytes), (0, 4096), "an empty folder is left");
}

#[test]
fn a_changed_blob_is_reported_and_removed() {
    let test = TestStore::new();
    let store = test.store.blobs() as &dyn ContentStore;
    let bytes = vec![9; 200_000];
    let digest = store.put(&bytes).unwrap();
    let mut changed = bytes.clone();
    changed[150_000] ^= 1;
    fs::write(file_of(&test, &digest), &changed).unwrap();
    let mut reader = store.open(&digest).unwrap().unwrap();
    let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert!(reader.read(&mut [0; 10]).is_err(), "the error does not turn into an end");
    assert!(store.open(&digest).unwrap().is_none());
    assert!(!file_of(&test, &digest).exists());
    store.put(&bytes).unwrap();
    assert_eq!(store.read(&digest, 1 << 20).unwrap().unwrap(), bytes);
}

#[test]
fn a_truncated_or_vanished_blob_is_not_here() {
    let test = TestStore::new();
    let store = test.store.blobs() as &dyn ContentStore;
    let digest = store.put(b"some bytes").unwrap();
    fs::write(file_of(&test, &digest), b"some").unwrap();
    assert_eq!(store.size(&digest).unwrap(), None);
    store.put(b"some bytes").unwrap();
    fs::remove_file(file_of(&test, &digest)).unwrap();
    assert!(store.open(&digest).unwrap().is_none());
    // A file of which the database knows nothing is nothing: it may be half of what its name says.
    store.put(b"some bytes").unwrap();
    test.database().execute("DELETE FROM blobs", []).unwrap();
    assert_eq!(store.size(&digest).unwrap(), None);
}
