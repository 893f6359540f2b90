//! Files that versions of a layer share.

mod common;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use cache::{
    ActiveSnapshot, CacheBackend, NewRecord, PruneOptions, Snapshot, SnapshotId, StepRun, Store, StoreOptions,
};
use common::{TestStore, content};
use files::{Attributes, FileForm, SharedFiles, TreeWriter, WriterOptions};

fn attributes() -> Attributes {
    Attributes { mtime: Some((1_700_000_000, 5)), uid: 3, gid: 4, ..Attributes::with_mode(0o640) }
}

fn form(content: &str, attributes: &Attributes) -> FileForm {
    let digest = hash::StableHasher::new("test").with(content).finish();
    FileForm::new(digest, content.len() as u64, attributes).unwrap()
}

/// Writes files as a COPY does: linked where possible. Says which were.
fn copy(active: &ActiveSnapshot, files: &[(&str, &str)]) -> Vec<bool> {
    let options = WriterOptions {
        owners: active.owners().clone(),
        opaque: active.opaque_mark(),
        parents: Attributes::with_mode(0o755),
    };
    let writer = TreeWriter::new(active.dir(), options).unwrap();
    let linked = files.iter().map(|(path, content)| {
        let (path, attributes) = (Path::new(path), attributes());
        if let Some(parent) = path.parent().filter(|parent| *parent != Path::new("")) {
            writer.directory(parent, &Attributes::with_mode(0o755)).unwrap();
        }
        let form = form(content, &attributes);
        let objects = active.objects().unwrap();
        if objects.is_some_and(|objects| writer.share(path, &form, objects).unwrap()) {
            return true;
        }
        writer.file(path, &mut content.as_bytes(), &attributes).unwrap();
        if let Some(objects) = objects {
            writer.keep(path, &form, objects).unwrap();
        }
        false
    });
    let linked = linked.collect();
    writer.finish().unwrap();
    linked
}

fn layer(test: &TestStore, parents: &[SnapshotId], files: &[(&str, &str)]) -> (Snapshot, Vec<bool>) {
    let active = test.store.begin(parents).unwrap();
    let linked = copy(&active, files);
    let changes = active.changes().unwrap();
    (active.commit(&changes).unwrap(), linked)
}

fn inode(layer: &Snapshot, path: &str) -> u64 {
    fs::metadata(layer.dir().join(path)).unwrap().ino()
}

fn objects(test: &TestStore) -> u64 {
    test.store.usage().unwrap().objects.count
}

#[test]
fn versions_of_a_layer_share_what_is_the_same() {
    let test = TestStore::new();
    let base = test.layer(&[], |_| {}).id();
    let (first, linked) = layer(&test, &[base], &[("a", "one"), ("d/b", "two")]);
    assert_eq!(linked, [false, false]);
    let (second, linked) = layer(&test, &[base], &[("a", "one"), ("d/b", "changed"), ("d/moved", "two")]);
    assert_eq!(linked, [true, false, true]);
    assert_eq!(inode(&first, "a"), inode(&second, "a"));
    assert_eq!(inode(&first, "d/b"), inode(&second, "d/moved"));
    assert_ne!(inode(&first, "d/b"), inode(&second, "d/b"));
    let metadata = fs::metadata(second.dir().join("d/moved")).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.mtime_nsec()), (0o640, 3, 5));
    assert_eq!(fs::read_to_string(second.dir().join("d/moved")).unwrap(), "two");
    // The layer is the same as one that was copied, link or not.
    let (copied, linked) = layer(&test, &[base, second.id()], &[("a", "one"), ("d/b", "two")]);
    assert_eq!((linked, copied.changes()), (vec![false, false], first.changes()));
}

#[test]
fn no_two_paths_of_a_tree_are_one_file() {
    let test = TestStore::new();
    let base = test.layer(&[], |_| {}).id();
    let (first, _) = layer(&test, &[base], &[("a", "same"), ("b", "same")]);
    assert_ne!(inode(&first, "a"), inode(&first, "b"));
    let (again, linked) = layer(&test, &[base], &[("a", "same"), ("b", "same")]);
    assert_eq!(linked, [true, true], "each shares with its like");
    assert_ne!(inode(&again, "a"), inode(&again, "b"));
    let (above, linked) = layer(&test, &[base, first.id()], &[("c", "same")]);
    assert_eq!(linked, [false], "the layer below has both");
    let (other, linked) = layer(&test, &[base, again.id()], &[("c", "same"), ("d", "same")]);
    assert_eq!(linked, [true, false], "now there are three");
    let inodes: HashSet<u64> =
        [inode(&first, "a"), inode(&first, "b"), inode(&above, "c"), inode(&other, "d")].into();
    assert_eq!((inodes.len(), inode(&above, "c")), (4, inode(&other, "c")));
    // What may come to lie over anything shares with nobody.
    assert!(test.store.begin(&[]).unwrap().objects().unwrap().is_none());
    let copying = TestStore::copying();
    let base = copying.layer(&[], |_| {}).id();
    assert!(copying.store.begin(&[base]).unwrap().objects().unwrap().is_none());
    // A list that cannot be read might have left something out.
    fs::write(test.dir.path().join(format!("snapshots-v1/{}.objects", first.id())), "short").unwrap();
    assert!(test.store.begin(&[base, first.id()]).unwrap().objects().unwrap().is_none());
}

#[test]
fn every_attribute_counts() {
    let test = TestStore::new();
    let base = test.layer(&[], |_| {}).id();
    layer(&test, &[base], &[("a", "one")]);
    let plain = form("one", &attributes());
    let others = [
        FileForm { content: [1; 32], ..plain },
        FileForm { size: 4, ..plain },
        FileForm { mode: 0o644, ..plain },
        FileForm { uid: 4, gid: 3, ..plain },
        FileForm { gid: 5, ..plain },
        FileForm { mtime: (1_700_000_000, 6), ..plain },
        FileForm { mtime: (1_700_000_001, 5), ..plain },
    ];
    let active = test.store.begin(&[base]).unwrap();
    let dir = fs::File::open(active.dir()).unwrap();
    let objects = active.objects().unwrap().unwrap();
    let link = |form: &FileForm| objects.link(form, dir.as_fd(), OsStr::new("f")).unwrap();
    for other in &others {
        assert!(!link(other), "{other:?}");
    }
    // What is there is left to the writer; a refusal does not use the object up.
    fs::write(active.dir().join("f"), "there").unwrap();
    assert!(!link(&plain));
    fs::remove_file(active.dir().join("f")).unwrap();
    assert!(link(&plain));
    assert_eq!(FileForm::new([1; 32], 1, &Attributes { mtime: None, ..attributes() }), None);
}

#[test]
fn sharing_can_be_switched_off() {
    let test = TestStore::new();
    let base = test.layer(&[], |_| {}).id();
    let (first, _) = layer(&test, &[base], &[("a", "one")]);
    let options = StoreOptions { separate_files: true, ..StoreOptions::default() };
    let store = Store::open(test.dir.path(), options).unwrap();
    let active = store.begin(&[base]).unwrap();
    assert!(active.objects().unwrap().is_none());
    copy(&active, &[("a", "one")]);
    let changes = active.changes().unwrap();
    let second = active.commit(&changes).unwrap();
    assert_eq!(second.changes(), first.changes());
    assert_ne!(inode(&second, "a"), inode(&first, "a"));
}

#[test]
fn an_object_that_is_not_what_it_was_is_not_used() {
    let test = TestStore::new();
    let base = test.layer(&[], |_| {}).id();
    let (first, _) = layer(&test, &[base], &[("a", "one")]);
    fs::write(first.dir().join("a"), "longer than before").unwrap();
    let (second, linked) = layer(&test, &[base], &[("a", "one")]);
    assert_eq!(linked, [false]);
    assert_eq!(fs::read_to_string(second.dir().join("a")).unwrap(), "one");
    // The good one took its place.
    let (third, linked) = layer(&test, &[base], &[("a", "one")]);
    assert_eq!((linked, inode(&third, "a")), (vec![true], inode(&second, "a")));
    fs::set_permissions(third.dir().join("a"), fs::Permissions::from_mode(0o4755)).unwrap();
    let (fourth, linked) = layer(&test, &[base], &[("a", "one")]);
    assert_eq!(linked, [false]);
    assert_eq!(fs::metadata(fourth.dir().join("a")).unwrap().mode() & 0o7777, 0o640);
    chown(fourth.dir().join("a"), Some(7), Some(7)).unwrap();
    assert_eq!(layer(&test, &[base], &[("a", "one")]).1, [false]);
}

#[test]
fn objects_without_a_layer_and_those_of_another_boot_go() {
    let test = TestStore::new();
    let base = test.layer(&[], |_| {}).id();
    layer(&test, &[base], &[("a", "one"), ("b", "two")]);
    assert_eq!(objects(&test), 2);
    let other = test.dir.path().join("objects-v1/another-boot/ab");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("cd"), "perhaps lost").unwrap();
    test.store.prune(PruneOptions::default()).unwrap();
    assert_eq!(objects(&test), 0);
    assert!(!other.exists());
    assert_eq!(fs::read_dir(test.dir.path().join("snapshots-v1")).unwrap().count(), 0, "no list is left");
}

#[test]
fn at_the_limit_of_links_files_are_copied() {
    let test = TestStore::new();
    let base = test.layer(&[], |_| {}).id();
    let (first, _) = layer(&test, &[base], &[("a", "one")]);
    let crowd = tempfile::tempdir_in(test.dir.path()).unwrap();
    let file = first.dir().join("a");
    let limit = (0..70_000).find(|n| fs::hard_link(&file, crowd.path().join(n.to_string())).is_err());
    let (second, linked) = layer(&test, &[base], &[("a", "one")]);
    // ext4 allows 65,000 names; other file systems have no limit worth testing.
    assert_eq!(linked, [limit.is_none()]);
    assert_eq!(fs::read_to_string(second.dir().join("a")).unwrap(), "one");
    let (third, linked) = layer(&test, &[base], &[("a", "one")]);
    assert_eq!(linked, [true], "the copy is the object now");
    assert_eq!(inode(&third, "a"), inode(&second, "a"));
}

#[test]
fn many_at_once() {
    let test = TestStore::new();
    let base = test.layer(&[], |_| {}).id();
    let names: Vec<(String, String)> = (0..200).map(|n| (format!("f{n}"), format!("{}", n % 150))).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|(path, text)| (&**path, &**text)).collect();
    let layers: Vec<Snapshot> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| layer(&test, &[base], &files).0)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for layer in &layers {
        let inodes: HashSet<_> = names.iter().map(|(path, _)| inode(layer, path)).collect();
        assert_eq!(inodes.len(), names.len());
        for (path, text) in &names {
            assert_eq!(&fs::read_to_string(layer.dir().join(path)).unwrap(), text);
        }
    }
    // Four threads that find nothing at the same time may each number theirs otherwise.
    assert!((200..=300).contains(&objects(&test)), "{}", objects(&test));
}

const CHILD: &str = "CACHE_TEST_OBJECTS_IN";

/// Version `n` of a layer: every file says in its name what is in it.
fn version(n: u64) -> Vec<(String, String)> {
    (0..30).map(|file| (format!("f{file}-{}", n * file % 7), format!("text {}", n * file % 7))).collect()
}

#[test]
fn killed_at_random_no_layer_has_a_wrong_file() {
    if let Some(root) = std::env::var_os(CHILD) {
        let start: u64 = std::env::var("CACHE_TEST_START").unwrap().parse().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Path::new(&root), StoreOptions::default()).unwrap();
        let test = TestStore { store, dir };
        for n in start.. {
            let session = test.store.session().unwrap();
            let base = test.layer(&[], |_| {}).id();
            let files = version(n);
            let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (&**path, &**text)).collect();
            let made = layer(&test, &[base], &files).0.id();
            let run = StepRun { started: UNIX_EPOCH, duration: Duration::ZERO };
            let layers = vec![base, made];
            let record = NewRecord { content: content(n), layers, description: String::new(), run };
            test.store.records().save(&[common::key(n)], &record).unwrap();
            drop(session);
            if n % 7 == 0 {
                let _ = test.store.prune(PruneOptions { all: n % 3 == 0, wait: false });
            }
        }
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("state");
    let mut random = common::Random::new(3);
    let mut found = 0;
    for round in 0..10u64 {
        let start = |worker: u64| (round * 2 + worker) * 10_000;
        let mut children: Vec<_> = (0..2)
            .map(|worker| {
                Command::new(std::env::current_exe().unwrap())
                    .args(["killed_at_random_no_layer_has_a_wrong_file", "--exact"])
                    .env(CHILD, &root)
                    .env("CACHE_TEST_START", start(worker).to_string())
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        std::thread::sleep(Duration::from_millis(50 + random.below(150)));
        for child in &mut children {
            child.kill().unwrap();
        }
        for child in children {
            let output = child.wait_with_output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.code().is_none(), "it failed before it was killed: {errors}");
        }
        let store = Store::open(&root, StoreOptions::default()).unwrap();
        for n in (0..2).flat_map(|worker| start(worker)..start(worker) + 200) {
            let Some(record) = store.records().lookup(&common::key(n)).unwrap().pop() else { continue };
            let layer = store.snapshot(record.layers[1]).unwrap().unwrap();
            let mut inodes = HashSet::new();
            for (path, text) in version(n) {
                assert_eq!(fs::read_to_string(layer.dir().join(&path)).unwrap(), text);
                assert!(inodes.insert(inode(&layer, &path)), "two paths of one layer are one file");
            }
            found += 1;
        }
    }
    assert!(found > 5, "the children did too little");
    let store = Store::open(&root, StoreOptions::default()).unwrap();
    store.prune(PruneOptions { all: true, wait: true }).unwrap();
    assert_eq!(store.usage().unwrap().objects.count, 0);
}
