//! Opening the state directory: what is refused, what is repaired, what many processes do at once.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cache::{CacheBackend, CacheError, NewRecord, Store, StoreOptions};
use common::{Lookup, TestStore, changes, content, in_mount_namespace, index_of, key, mount, put_image};
use image::ContentStore;
use image::layer::EntryKind;

fn refusal(root: &Path, options: StoreOptions) -> String {
    match Store::open(root, options) {
        Err(CacheError::Unusable { reason, .. }) => reason,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was opened"),
    }
}

#[test]
fn refuses_what_is_not_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("letter.txt"), "").unwrap();
    assert!(refusal(&home, StoreOptions::default()).contains("letter.txt"));
    assert_eq!(fs::read_dir(&home).unwrap().count(), 1, "nothing was put there");

    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    std::os::unix::fs::chown(&other, Some(12345), None).unwrap();
    assert!(refusal(&other, StoreOptions::default()).contains("another user"));

    let open = dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(refusal(&open, StoreOptions::default()).contains("every user"));

    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(refusal(&file, StoreOptions::default()).contains("not a directory"));
    assert!(refusal(&file.join("below"), StoreOptions::default()).contains("not a directory"));
}

#[test]
fn refuses_another_format() {
    let test = TestStore::new();
    let format = test.dir.path().join("format");
    let userxattr = StoreOptions { userxattr: true, ..StoreOptions::default() };
    assert!(
        refusal(test.dir.path(), userxattr)
            .contains("it was made by root, without a user namespace, and is opened in a user")
    );
    let recorded = StoreOptions { recorded_owners: true, ..StoreOptions::default() };
    assert!(refusal(test.dir.path(), recorded).contains("opened in a user namespace with a single user id"));
    fs::write(&format, "builder state 2\n").unwrap();
    assert!(refusal(test.dir.path(), StoreOptions::default()).contains("newer version"));
    fs::write(&format, "something").unwrap();
    assert!(refusal(test.dir.path(), StoreOptions::default()).contains("something"));
    // A process that was killed between creating and writing the file.
    fs::write(&format, "").unwrap();
    Store::open(test.dir.path(), StoreOptions::default()).unwrap();
}

#[test]
fn refuses_read_only_directories_and_those_that_keep_no_attributes() {
    in_mount_namespace("refuses_read_only_directories_and_those_that_keep_no_attributes", || {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (disk, plain) = (at("disk"), at("plain"));
        mount("tmpfs", &disk, "mode=0755");
        Store::open(&disk.join("state"), StoreOptions::default()).unwrap();
        let flags = rustix::mount::MountFlags::RDONLY;
        rustix::mount::mount_remount(&disk, flags, c"").unwrap();
        assert!(refusal(&disk.join("state"), StoreOptions::default()).contains("read-only"));
        assert!(refusal(&disk.join("new"), StoreOptions::default()).contains("read-only"));

        mount("ramfs", &plain, "mode=0755");
        assert!(refusal(&plain.join("state"), StoreOptions::default()).contains("volume"));
    });
}

/// A directory may give permissions to all that is made below it, whatever the umask says (acl(5)). Steps are to see nothing of that.
#[test]
fn layers_inherit_no_permissions() {
    const DEFAULT: &str = "system.posix_acl_default";
    // As linux/posix_acl_xattr.h has it: version 2, then tag, permissions and id of each entry.
    let nobody = u32::MAX;
    let entries = [(1, 7, nobody), (4, 7, nobody), (8, 7, 1234), (16, 7, nobody), (32, 0, nobody)];
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        acl.extend([tag, 0, permissions, 0]);
        acl.extend(u32::to_le_bytes(id));
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("state");
    let set = |at: &Path| rustix::fs::setxattr(at, DEFAULT, &acl, rustix::fs::XattrFlags::empty()).unwrap();
    set(dir.path());
    let sees_nothing = || {
        let store = Store::open(&root, StoreOptions::default()).unwrap();
        let active = store.begin(&[]).unwrap();
        let found = rustix::fs::getxattr(active.dir(), DEFAULT, &mut [0_u8; 100]);
        assert_eq!(found, Err(rustix::io::Errno::NODATA));
    };
    sees_nothing();
    // A state directory of before.
    for name in ["", "tmp-v1", "mounts-v1"] {
        set(&root.join(name));
    }
    sees_nothing();
}

/// What overlay would mark is recorded, in versions of layers as well; another program than the one that made it sees the same.
#[test]
fn an_overlay_holds_layers() {
    in_mount_namespace("an_overlay_holds_layers", || {
        let dir = tempfile::tempdir().unwrap();
        let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        });
        let options =
            format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        mount("overlay", &merged, &options);
        let home = merged.join("state");
        let open = || Store::open(&home, StoreOptions::default()).unwrap();
        let step = |parents: &[cache::SnapshotId], work: &dyn Fn(&Path)| {
            let root = open().begin_root(parents).unwrap();
            let cache::RootForm::Directory(tree) = root.form().clone() else {
                panic!("no overlay can be here")
            };
            work(&tree);
            let layer = root.finish([]).unwrap();
            let changes = layer.changes().unwrap();
            layer.commit(&changes).unwrap().id()
        };
        let base = step(&[], &|tree| {
            fs::create_dir_all(tree.join("d/e")).unwrap();
            fs::create_dir(tree.join("gone")).unwrap();
            for name in ["f", "d/f", "d/e/f", "gone/f"] {
                fs::write(tree.join(name), name).unwrap();
            }
            fs::write(tree.join("empty"), "").unwrap();
        });
        let next = step(&[base], &|tree| {
            fs::remove_file(tree.join("f")).unwrap();
            fs::remove_dir_all(tree.join("gone")).unwrap();
            fs::remove_dir_all(tree.join("d")).unwrap();
            fs::create_dir(tree.join("d")).unwrap();
            fs::write(tree.join("d/new"), "").unwrap();
        });
        let seen = step(&[base, next], &|tree| {
            let names = |dir: &Path| {
                let mut names: Vec<_> =
                    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
                names.sort();
                names
            };
            assert_eq!(names(tree), ["d", "empty"]);
            assert_eq!(names(&tree.join("d")), ["new"]);
        });
        let store = open();
        let entries = |layer| store.snapshot(layer).unwrap().unwrap().entries().unwrap();
        let said: Vec<(String, bool)> = entries(next)
            .entries()
            .iter()
            .map(|entry| {
                let marks = matches!(entry.kind, EntryKind::Whiteout | EntryKind::Opaque);
                (String::from_utf8_lossy(&entry.path).into_owned(), marks)
            })
            .collect();
        let said: Vec<(&str, bool)> = said.iter().map(|(path, marks)| (path.as_str(), *marks)).collect();
        assert_eq!(said, [("d", false), ("d", true), ("d/new", false), ("f", true), ("gone", true)]);
        assert!(entries(seen).entries().is_empty());
    });
}

#[test]
fn a_full_disk_gives_an_error_and_nothing_half_done() {
    in_mount_namespace("a_full_disk_gives_an_error_and_nothing_half_done", || {
        let disk = tempfile::tempdir().unwrap();
        mount("tmpfs", disk.path(), "size=8m,mode=0755");
        let root = disk.path().join("state");
        let store = Store::open(&root, StoreOptions::default()).unwrap();
        let kept = (store.blobs() as &dyn ContentStore).put(&[1; 1000]).unwrap();
        let error = (store.blobs() as &dyn ContentStore).put(&vec![2; 16 << 20]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
        assert!(error.to_string().contains(root.to_str().unwrap()), "{error}");
        assert_eq!(store.usage().unwrap().temporary.bytes, 0);

        // With the rest filled up, a record cannot be saved, or it can; never half of it.
        let mut chunk = 1 << 20;
        let mut fillers = 0;
        while chunk >= 4096 {
            let path = disk.path().join(format!("filler{fillers}"));
            fillers += 1;
            if fs::write(path, vec![3; chunk]).is_err() {
                chunk /= 2;
            }
        }
        let run = cache::StepRun { started: std::time::UNIX_EPOCH, duration: Default::default() };
        let mut failed = 0;
        for n in 0..2000 {
            let record =
                NewRecord { content: content(n), layers: vec![], description: "x".repeat(2000), run };
            let saved = store.records().save(&[key(n), key(n + 100_000)], &record);
            failed += u64::from(saved.is_err());
            let found = [key(n), key(n + 100_000)].map(|key| store.records().lookup(&key).unwrap().len());
            assert_eq!(found, if saved.is_ok() { [1, 1] } else { [0, 0] });
            if let Err(error) = saved {
                assert!(error.to_string().contains("full"), "{error}");
                break;
            }
        }
        assert!(failed > 0, "the disk did not fill up");
        for filler in 0..fillers {
            let _ = fs::remove_file(disk.path().join(format!("filler{filler}")));
        }
        drop(store);
        let store = Store::open(&root, StoreOptions::default()).unwrap();
        assert_eq!((store.blobs() as &dyn ContentStore).read(&kept, 2000).unwrap().unwrap(), [1; 1000]);
        let record = NewRecord { content: content(1), layers: vec![], description: String::new(), run };
        store.records().save(&[key(1_000_000)], &record).unwrap();
    });
}

#[test]
fn a_broken_database_is_replaced() {
    let test = TestStore::new();
    let snapshot = test.layer(&[], |dir| fs::write(dir.join("f"), "old").unwrap());
    assert_eq!(test.store.replaced(), None);
    let TestStore { store, dir } = test;
    drop(store);
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(dir.path().join(format!("cache-v1.db{suffix}")));
    }
    fs::write(dir.path().join("cache-v1.db"), vec![b'x'; 10_000]).unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    assert!(store.replaced().is_some());
    assert!(store.snapshot(snapshot.id()).unwrap().is_none());
    // The new database does not give the old id again: logs and records of builds may still name it.
    let test = TestStore { store, dir };
    let again = test.layer(&[], |dir| fs::write(dir.join("g"), "new").unwrap());
    assert!(again.id() > snapshot.id());
}

#[test]
fn what_another_boot_did_not_sync_is_forgotten() {
    let test = TestStore::new();
    let store = test.store.blobs() as &dyn ContentStore;
    let session = test.store.session().unwrap();
    let synced = test.layer(&[], |_| {});
    let synced_blob = store.put(b"synced").unwrap();
    session.finish_durably().unwrap();
    let lost = test.layer(&[], |_| {});
    let lost_blob = store.put(b"lost").unwrap();
    let run = cache::StepRun { started: std::time::UNIX_EPOCH, duration: Default::default() };
    for (n, layers) in [(1, vec![synced.id()]), (2, vec![synced.id(), lost.id()])] {
        let record = NewRecord { content: content(n), layers, description: String::new(), run };
        test.store.records().save(&[key(n)], &record).unwrap();
    }
    // In the same boot everything counts.
    let again = test.again();
    assert_eq!([1, 2].map(|n| again.records().lookup(&key(n)).unwrap().len()), [1, 1]);
    assert!(again.blobs().size(&lost_blob).unwrap().is_some());
    // As if the rows had been written in another boot.
    let database = test.database();
    for table in ["snapshots", "blobs"] {
        database.execute(&format!("UPDATE {table} SET boot = 'another' WHERE boot IS NOT NULL"), []).unwrap();
    }
    let after = test.again();
    assert_eq!([1, 2].map(|n| after.records().lookup(&key(n)).unwrap().len()), [1, 0]);
    assert!(after.snapshot(lost.id()).unwrap().is_none());
    assert!(after.blobs().size(&lost_blob).unwrap().is_none());
    assert!(after.blobs().size(&synced_blob).unwrap().is_some());
    assert_eq!(test.layer(&[], |_| {}).changes().entries, 0);
    assert_eq!(changes().entries, 1);
}

/// Without its index an image is still the one of its platform.
#[test]
fn a_name_stays_whose_index_alone_another_boot_did_not_sync() {
    let test = TestStore::new();
    let session = test.store.session().unwrap();
    let manifest = put_image(&test, "app", "linux/amd64", b"layer").unwrap();
    session.finish_durably().unwrap();
    let (index, _) = index_of(&test, &[&manifest]);
    let named = [("linux/amd64".parse().unwrap(), manifest)];
    test.store.name_images(&"app".parse().unwrap(), &named, Some(&index)).unwrap();
    let another = "UPDATE blobs SET boot = 'another' WHERE boot IS NOT NULL";
    assert_eq!(test.database().execute(another, []).unwrap(), 1);
    let images = test.again().list_images().unwrap();
    assert_eq!(images.iter().map(|image| &image.index).collect::<Vec<_>>(), [&None]);
    assert_eq!(test.again().check(false).unwrap().findings, []);
}

#[test]
fn what_a_build_made_is_synced_beside_a_later_one() {
    let test = TestStore::new();
    let session = test.store.session().unwrap();
    test.layer(&[], |_| {});
    session.finish().unwrap();
    let database = test.database();
    let unsynced = || -> i64 {
        let count = "SELECT count(*) FROM snapshots WHERE boot IS NOT NULL";
        database.query_row(count, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(unsynced(), 1, "a build does not wait for the disk");
    database.execute("UPDATE snapshots SET created = created - 120000", []).unwrap();
    let _later = test.store.session().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while unsynced() > 0 {
        assert!(std::time::Instant::now() < deadline, "the later session writes it through");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn many_open_a_new_directory_at_once() {
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("deep/state");
        std::thread::scope(|scope| {
            for n in 0..8 {
                let root = &root;
                scope.spawn(move || {
                    let store = Store::open(root, StoreOptions::default()).unwrap();
                    let _session = store.session().unwrap();
                    let active = store.begin(&[]).unwrap();
                    fs::write(active.dir().join("f"), n.to_string()).unwrap();
                    let changes = active.changes().unwrap();
                    let snapshot = active.commit(&changes).unwrap();
                    let run = cache::StepRun { started: std::time::UNIX_EPOCH, duration: Default::default() };
                    let record = NewRecord {
                        content: content(n),
                        layers: vec![snapshot.id()],
                        description: String::new(),
                        run,
                    };
                    store.records().save(&[key(n)], &record).unwrap();
                });
            }
        });
        let store = Store::open(&root, StoreOptions::default()).unwrap();
        for n in 0..8 {
            let found = store.records().lookup(&key(n)).unwrap();
            let snapshot = store.snapshot(found[0].layers[0]).unwrap().unwrap();
            assert_eq!(fs::read_to_string(snapshot.dirs().next().unwrap().join("f")).unwrap(), n.to_string());
        }
    }
}

/// Older programs shared files between versions of a layer, which shows in the number of links.
#[test]
fn layers_that_share_files_are_forgotten_once_nobody_else_is_there() {
    let test = TestStore::new();
    let (plain, sharing) = (test.layer(&[], |_| {}), test.layer(&[], |_| {}));
    let objects = test.dir.path().join("objects-v1");
    std::fs::create_dir_all(objects.join("boot/ab")).unwrap();
    let list = test.dir.path().join(format!("snapshots-v1/{}.objects", sharing.id()));
    std::fs::write(&list, [0; 32]).unwrap();
    let other = test.again();
    let busy = {
        std::fs::rename(&objects, objects.with_extension("away")).unwrap();
        let session = other.session().unwrap();
        std::fs::rename(objects.with_extension("away"), &objects).unwrap();
        session
    };
    drop(test.store.session().unwrap());
    assert!(test.store.snapshot(sharing.id()).unwrap().is_some(), "somebody may be using it");
    drop(busy);
    drop(test.store.session().unwrap());
    assert!(test.store.snapshot(sharing.id()).unwrap().is_none());
    assert!(test.store.snapshot(plain.id()).unwrap().is_some());
    assert!(!objects.exists() && !list.exists());
}
