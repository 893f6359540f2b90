//! Blobs: verified when read, complete or absent when written.

mod common;

use std::cell::Cell;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cache::{CacheBackend, Limits, NewRecord, PruneOptions, StepRun, Store, StoreOptions, Whys};
use common::{Lookup, Over, TestStore, content, in_mount_namespace, key, mount};
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

/// A thread that looks for a blob at the moment at which another one of the same build brings it misses nothing that was there.
#[test]
fn what_comes_while_it_is_looked_for_was_not_thrown_away() {
    let test = TestStore::new();
    let session = test.store.session().unwrap();
    let over = AtomicBool::new(false);
    let current = std::sync::Mutex::new(Digest::of(b"none"));
    std::thread::scope(|scope| {
        let _over = Over(&over);
        let look = || {
            while !over.load(Ordering::Relaxed) {
                let digest = *current.lock().unwrap();
                test.store.blobs().size(&digest).unwrap();
            }
        };
        for _ in 0..3 {
            scope.spawn(look);
        }
        for number in 0..1500u32 {
            let bytes = number.to_be_bytes();
            *current.lock().unwrap() = Digest::of(&bytes);
            (test.store.blobs() as &dyn ContentStore).put(&bytes).unwrap();
        }
    });
    assert_eq!(test.store.thrown_away(), [""; 0]);
    session.finish().unwrap();
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

/// Bytes that are not all the same.
fn long(length: usize) -> Vec<u8> {
    (0..length).map(|n| ((n / 997) ^ n) as u8).collect()
}

fn partial(test: &TestStore, digest: &Digest) -> PathBuf {
    test.dir.path().join("partial-v1").join(digest.hex())
}

/// Begins or goes on with a blob, and writes some of its bytes: how many were there.
fn bring(test: &TestStore, bytes: &[u8], upto: usize) -> (Box<dyn image::BlobWriter>, usize) {
    let resume = test.again().blobs().resume(&Digest::of(bytes), bytes.len() as u64).unwrap();
    let told = Cell::new(0);
    let (mut writer, held) = resume(&|read| told.set(read)).unwrap();
    assert_eq!(told.get(), held);
    let held = usize::try_from(held).unwrap();
    writer.write_all(&bytes[held..upto]).unwrap();
    (writer, held)
}

#[test]
fn what_was_brought_of_a_blob_is_gone_on_with() {
    let test = TestStore::new();
    let bytes = long(5_000_000);
    let digest = Digest::of(&bytes);
    let mut held = 0;
    for upto in [1_500_000, 1_500_000, 3_000_001, bytes.len()] {
        let (writer, was_held) = bring(&test, &bytes, upto);
        assert_eq!(was_held, held);
        assert_eq!(test.store.blobs().size(&digest).unwrap(), None);
        drop(writer);
        held = upto;
    }
    // All that is left is to see whether it is right.
    let (writer, was_held) = bring(&test, &bytes, bytes.len());
    assert_eq!(was_held, bytes.len());
    assert_eq!(writer.commit(Some(&digest)).unwrap(), (digest, bytes.len() as u64));
    let store = test.store.blobs() as &dyn ContentStore;
    assert_eq!(store.read(&digest, 1 << 30).unwrap().unwrap(), bytes);
    assert!(!partial(&test, &digest).exists());
    assert_eq!(test.store.check(false).unwrap().findings, []);
}

#[test]
fn a_beginning_that_is_wrong_is_forgotten() {
    let test = TestStore::new();
    let bytes = long(3_000_000);
    let digest = Digest::of(&bytes);
    drop(bring(&test, &bytes, 2_000_000));
    // As after a power failure: the length is right, the last bytes are not.
    let path = partial(&test, &digest);
    let mut torn = fs::read(&path).unwrap();
    torn[1_900_000..].fill(0);
    fs::write(&path, torn).unwrap();
    let (writer, held) = bring(&test, &bytes, bytes.len());
    assert_eq!(held, 2_000_000);
    let error = writer.commit(Some(&digest)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert_eq!(bring(&test, &bytes, 0).1, 0);
    // More than there is of it: it is no beginning.
    fs::write(&path, vec![0; bytes.len() + 1]).unwrap();
    let (writer, held) = bring(&test, &bytes, bytes.len());
    assert_eq!(held, 0);
    writer.commit(Some(&digest)).unwrap();
    let store = test.store.blobs() as &dyn ContentStore;
    assert_eq!(store.read(&digest, 1 << 30).unwrap().unwrap(), bytes);
}

#[test]
fn two_who_bring_the_same_do_not_wait_for_each_other() {
    let test = TestStore::new();
    let bytes = long(3_000_000);
    let digest = Digest::of(&bytes);
    let (first, _) = bring(&test, &bytes, 2_000_000);
    let (second, held) = bring(&test, &bytes, bytes.len());
    assert_eq!(held, 0);
    test.store.prune(PruneOptions { all: true }).unwrap();
    assert!(partial(&test, &digest).exists(), "it is being brought");
    second.commit(Some(&digest)).unwrap();
    let mut first = first;
    first.write_all(&bytes[2_000_000..]).unwrap();
    first.commit(Some(&digest)).unwrap();
    let store = test.store.blobs() as &dyn ContentStore;
    assert_eq!(store.read(&digest, 1 << 30).unwrap().unwrap(), bytes);
}

#[test]
fn beginnings_do_not_stay_for_ever() {
    let test = TestStore::new();
    let bytes = long(3_000_000);
    let path = partial(&test, &Digest::of(&bytes));
    let day_old = || {
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(25 * 3600)).unwrap();
    };
    drop(bring(&test, &bytes, 1_000_000));
    assert!(!path.exists(), "too little to be worth a file");
    drop(bring(&test, &bytes, 2_000_000));
    assert!(test.store.usage().unwrap().temporary.bytes >= 2_000_000);
    // A session that has made something waits for what is removed beside it.
    let session_goes_by = |n: u64| {
        let session = test.store.session().unwrap();
        (test.store.blobs() as &dyn ContentStore).put(&n.to_le_bytes()).unwrap();
        session.finish().unwrap();
    };
    session_goes_by(1);
    assert!(path.exists(), "it is new");
    day_old();
    let (writer, _) = bring(&test, &bytes, 2_000_000);
    session_goes_by(2);
    assert!(path.exists(), "it is gone on with");
    drop(writer);
    day_old();
    session_goes_by(3);
    assert!(!path.exists());
    drop(bring(&test, &bytes, 2_000_000));
    let pruned = test.store.prune(PruneOptions::default()).unwrap();
    assert!(pruned.bytes >= 2_000_000 && !path.exists(), "{pruned:?}");
    drop(bring(&test, &bytes, 2_000_000));
    let pruned = test.store.evict(&|_| false, Limits::default(), "").unwrap();
    assert!(pruned.bytes >= 2_000_000 && !path.exists(), "{pruned:?}");
    // The blob comes in another way.
    drop(bring(&test, &bytes, 2_000_000));
    (test.store.blobs() as &dyn ContentStore).put(&bytes).unwrap();
    assert!(!path.exists());
}

#[test]
fn on_a_full_disk_there_is_no_beginning() {
    in_mount_namespace("on_a_full_disk_there_is_no_beginning", || {
        let disk = tempfile::tempdir().unwrap();
        mount("tmpfs", disk.path(), "size=24m,mode=0755");
        let store = Store::open(&disk.path().join("state"), StoreOptions::default()).unwrap();
        let bytes = long(28 << 20);
        let path = disk.path().join("state/partial-v1").join(Digest::of(&bytes).hex());
        let begin = || {
            let resume = store.blobs().resume(&Digest::of(&bytes), bytes.len() as u64).unwrap();
            resume(&|_| ()).unwrap().0
        };
        let mut writer = begin();
        let error = writer.write_all(&bytes).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
        drop(writer);
        assert!(!path.exists());
        // Results are worth more than it.
        let run = StepRun { started: UNIX_EPOCH, duration: Duration::ZERO };
        let active = store.begin(&[]).unwrap();
        fs::write(active.dir().join("f"), [1; 10_000]).unwrap();
        let changes = active.changes().unwrap();
        let layers = vec![active.commit(&changes).unwrap().id()];
        let record = NewRecord { content: content(1), layers, description: String::new(), run };
        store.records().save(&[key(1)], &record).unwrap();
        begin().write_all(&bytes[..10_000_000]).unwrap();
        assert!(path.exists());
        let limits = Limits { min_free_space: 16 << 20, ..Limits::default() };
        store.collect(limits, &Whys { over: String::new(), full: String::new() }).unwrap();
        assert!(!path.exists());
        assert_eq!(store.records().lookup(&key(1)).unwrap().len(), 1);
    });
}
