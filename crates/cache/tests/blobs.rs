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

/// A large blob of this process is not hashed again, as long as its file stays what it was.
#[test]
fn a_large_blob_that_changes_is_noticed() {
    use std::os::unix::fs::{FileExt, PermissionsExt};
    let test = TestStore::new();
    let store = test.store.blobs() as &dyn ContentStore;
    let bytes = vec![7; 3 << 20];
    let change = |digest: &Digest| {
        // Longer than what a clock of a kernel takes for one moment.
        std::thread::sleep(std::time::Duration::from_millis(30));
        let path = file_of(&test, digest);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[8], 2 << 20).unwrap();
    };
    let digest = store.put(&bytes).unwrap();
    let read = |digest: &Digest| {
        let mut read = Vec::new();
        store.open(digest).unwrap().unwrap().read_to_end(&mut read).map(|_| read)
    };
    assert!(read(&digest).unwrap() == bytes);
    change(&digest);
    assert_eq!(read(&digest).unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    assert!(store.open(&digest).unwrap().is_none(), "it is gone");
    // While it is read as well.
    store.put(&bytes).unwrap();
    let mut reader = store.open(&digest).unwrap().unwrap();
    reader.read_exact(&mut vec![0; 1 << 20]).unwrap();
    change(&digest);
    let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    // Another process has to hash what this one wrote.
    store.put(&bytes).unwrap();
    let other = test.again();
    let mut read = Vec::new();
    (other.blobs() as &dyn ContentStore).open(&digest).unwrap().unwrap().read_to_end(&mut read).unwrap();
    assert!(read == bytes);
}

/// Two processes that need the same blob bring it both: the later one takes the name of the file that the other is reading.
#[test]
fn a_blob_that_is_brought_again_while_it_is_read_is_sound() {
    let test = TestStore::new();
    let (first, other) = (test.store.blobs() as &dyn ContentStore, test.again());
    let bytes = vec![7; 3 << 20];
    let digest = first.put(&bytes).unwrap();
    let mut reader = first.open(&digest).unwrap().unwrap();
    let mut read = vec![0; 1 << 20];
    reader.read_exact(&mut read).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(30));
    (other.blobs() as &dyn ContentStore).put(&bytes).unwrap();
    reader.read_to_end(&mut read).unwrap();
    assert!(read == bytes);
    assert_eq!(test.store.thrown_away(), Vec::<String>::new());
    assert!((other.blobs() as &dyn ContentStore).open(&digest).unwrap().is_some(), "the other's is there");
}

/// A process that reads a damaged blob to its end after another has brought a sound one does not throw that away.
#[test]
fn what_took_the_place_of_a_damaged_blob_stays() {
    let test = TestStore::new();
    let store = test.store.blobs() as &dyn ContentStore;
    let bytes = vec![9; 200_000];
    let digest = store.put(&bytes).unwrap();
    fs::write(file_of(&test, &digest), vec![8; 200_000]).unwrap();
    let mut slow = store.open(&digest).unwrap().unwrap();
    slow.read_exact(&mut [0; 1000]).unwrap();
    let other = test.again();
    let other = other.blobs() as &dyn ContentStore;
    assert!(other.read(&digest, 1 << 20).is_err());
    other.put(&bytes).unwrap();
    let error = slow.read_to_end(&mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("replaced"), "{error}");
    assert_eq!(test.store.thrown_away().len(), 1, "who read it has to read it again");
    assert_eq!(other.read(&digest, 1 << 20).unwrap().unwrap(), bytes);
}

/// A build that has seen a blob, and misses it since another process found it damaged, is told so: it has to be done again.
#[test]
fn what_another_process_throws_away_is_noted() {
    let test = TestStore::new();
    let store = test.store.blobs() as &dyn ContentStore;
    let digest = store.put(b"some bytes").unwrap();
    let other = test.again();
    let throw_away = || {
        fs::remove_file(file_of(&test, &digest)).unwrap();
        assert_eq!(ContentStore::size(other.blobs(), &digest).unwrap(), None);
    };
    let session = test.store.session().unwrap();
    assert_eq!(store.size(&digest).unwrap(), Some(10));
    throw_away();
    for told in [1, 0] {
        assert_eq!(store.size(&digest).unwrap(), None);
        assert_eq!(test.store.thrown_away().len(), told);
    }
    store.put(b"some bytes").unwrap();
    session.finish().unwrap();
    // Between builds anything may go.
    throw_away();
    let session = test.store.session().unwrap();
    assert_eq!(store.size(&digest).unwrap(), None);
    session.finish().unwrap();
    assert_eq!(test.store.thrown_away().len(), 0);
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
