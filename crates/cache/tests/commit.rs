//! However a process's changes are caught, the layer is the same.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use cache::{ActiveSnapshot, Changes, RootForm, Snapshot, SnapshotId, TreeView};
use common::{Random, TestStore, in_mount_namespace, mount};
use files::FileTree;
use image::layer::{Entry, EntryKind};
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

/// Runs `work` in the tree of `parents`, as a RUN would.
fn run(test: &TestStore, parents: &[SnapshotId], work: impl FnOnce(&Path)) -> ActiveSnapshot {
    let root = test.store.begin_root(parents).unwrap();
    match root.form().clone() {
        RootForm::Directory(dir) => work(&dir),
        RootForm::Overlay { lower, upper, work: scratch, .. } => {
            let target = tempfile::tempdir().unwrap();
            let lower: Vec<String> = lower.iter().map(|dir| dir.display().to_string()).collect();
            let options = format!(
                "lowerdir={},upperdir={},workdir={},redirect_dir=off,metacopy=off,index=off,volatile",
                lower.join(":"),
                upper.display(),
                scratch.display()
            );
            mount("overlay", target.path(), &options);
            work(target.path());
            rustix::mount::unmount(target.path(), rustix::mount::UnmountFlags::empty()).unwrap();
        }
    }
    root.finish([]).unwrap()
}

/// What shell scripts do, apart from renaming directories (which overlay refuses) and touching files that have several names
/// in a lower layer (where the two snapshotters differ: overlay breaks the link).
fn work_randomly(dir: &Path, random: &mut Random) {
    for _ in 0..10 + random.below(40) {
        let path = dir.join(random.path());
        let other = dir.join(random.path());
        let Some(parent) = path.parent() else { continue };
        let there = fs::symlink_metadata(&path);
        let is_file = there.as_ref().is_ok_and(|metadata| metadata.is_file());
        let is_dir = there.as_ref().is_ok_and(|metadata| metadata.is_dir());
        match random.below(13) {
            // What fails in one tree fails in the other.
            0 => drop(fs::create_dir_all(&path)),
            // Writing to a pipe would wait for a reader.
            1 | 2 if is_file || there.is_err() => {
                drop(
                    fs::create_dir_all(parent)
                        .and_then(|()| fs::write(&path, random.below(1000).to_string())),
                );
            }
            3 if is_file => drop(fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more")),
            4 if is_dir => fs::remove_dir_all(&path).unwrap(),
            4 if is_file => fs::remove_file(&path).unwrap(),
            5 if is_file || is_dir => {
                let mode = *random.pick(&[0o755, 0o644, 0o700, 0o4711]);
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
            6 if there.is_ok() => {
                std::os::unix::fs::lchown(&path, Some(random.below(3) as u32), None).unwrap()
            }
            7 => drop(symlink("target", &path)),
            8 => drop(rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0)),
            9 if is_file => drop(fs::hard_link(&path, &other)),
            10 if is_file && !other.is_dir() => drop(fs::rename(&path, &other)),
            11 if is_file || is_dir => {
                rustix::fs::lsetxattr(
                    &path,
                    "user.note",
                    random.below(9).to_string().as_bytes(),
                    XattrFlags::empty(),
                )
                .unwrap();
            }
            12 if is_dir => {
                // Replaced by one of the same name.
                fs::remove_dir_all(&path).unwrap();
                fs::create_dir(&path).unwrap();
                fs::write(path.join("new"), "").unwrap();
            }
            _ => {}
        }
    }
}

fn without_times(entries: &[Entry]) -> Vec<Entry> {
    entries.iter().cloned().map(|entry| Entry { mtime: 0, mtime_nanos: 0, ..entry }).collect()
}

#[test]
fn overlay_and_copying_give_equal_layers() {
    in_mount_namespace("overlay_and_copying_give_equal_layers", || {
        let (mut different, mut total) = (std::collections::HashSet::new(), 0);
        let (overlay, copying) = (TestStore::new(), TestStore::copying());
        for seed in 1..=60 {
            let (mut below_overlay, mut below_copying) = (Vec::new(), Vec::new());
            for step in 0..3 {
                let work = |dir: &Path| {
                    work_randomly(dir, &mut Random::new(seed * 100 + step));
                    // A later step must not find files with several names in its lower layers.
                    if step < 2 {
                        split_links(dir);
                    }
                };
                let first = run(&overlay, &below_overlay, work);
                let second = run(&copying, &below_copying, work);
                let commit = |active: ActiveSnapshot| -> (Changes, Snapshot) {
                    let changes = active.changes().unwrap();
                    (changes, active.commit(&changes).unwrap())
                };
                let ((first_changes, first), (second_changes, second)) = (commit(first), commit(second));
                assert_eq!(
                    without_times(first.entries().unwrap().entries()),
                    without_times(second.entries().unwrap().entries()),
                    "seed {seed}, step {step}"
                );
                assert_eq!(first_changes, second_changes, "seed {seed}, step {step}");
                total += first_changes.entries;
                different.insert(first_changes.digest);
                below_overlay.push(first.id());
                below_copying.push(second.id());
            }
        }
        assert!(
            total > 1000 && different.len() > 100,
            "too little happened: {total} entries, {}",
            different.len()
        );
    });
}

/// Gives every name a file of its own.
fn split_links(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            split_links(&path);
        } else if metadata.is_file() && std::os::unix::fs::MetadataExt::nlink(&metadata) > 1 {
            let bytes = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            fs::write(&path, bytes).unwrap();
        }
    }
}

#[test]
fn every_kind_of_change_is_an_entry() {
    in_mount_namespace("every_kind_of_change_is_an_entry", || {
        for test in [TestStore::new(), TestStore::copying()] {
            let base = test.layer(&[], |dir| {
                fs::create_dir_all(dir.join("d/sub")).unwrap();
                fs::create_dir(dir.join("replaced")).unwrap();
                for name in ["d/kept", "d/gone", "replaced/old", "modes", "now-a-socket", "d/sub/deep"] {
                    fs::write(dir.join(name), name).unwrap();
                }
            });
            let active = run(&test, &[base.id()], |dir| {
                fs::remove_file(dir.join("d/gone")).unwrap();
                fs::remove_dir_all(dir.join("replaced")).unwrap();
                fs::create_dir(dir.join("replaced")).unwrap();
                fs::write(dir.join("replaced/new"), "new").unwrap();
                fs::set_permissions(dir.join("modes"), fs::Permissions::from_mode(0o600)).unwrap();
                fs::write(dir.join("x"), "linked").unwrap();
                fs::hard_link(dir.join("x"), dir.join("y")).unwrap();
                rustix::fs::mknodat(CWD, dir.join("p"), FileType::Fifo, Mode::RUSR, 0).unwrap();
                fs::hard_link(dir.join("p"), dir.join("q")).unwrap();
                symlink("target", dir.join("l")).unwrap();
                fs::hard_link(dir.join("l"), dir.join("m")).unwrap();
                rustix::fs::mknodat(CWD, dir.join("socket"), FileType::Socket, Mode::RUSR, 0).unwrap();
                fs::remove_file(dir.join("now-a-socket")).unwrap();
                rustix::fs::mknodat(CWD, dir.join("now-a-socket"), FileType::Socket, Mode::RUSR, 0).unwrap();
            });
            let changes = active.changes().unwrap();
            let snapshot = active.commit(&changes).unwrap();
            let entries = snapshot.entries().unwrap();
            let listed: Vec<(String, EntryKind)> = entries
                .entries()
                .iter()
                .map(|entry| (String::from_utf8(entry.path.clone()).unwrap(), entry.kind.clone()))
                .collect();
            let expected = [
                ("d", EntryKind::Directory),
                ("d/gone", EntryKind::Whiteout),
                ("l", EntryKind::Symlink { target: b"target".to_vec() }),
                ("m", EntryKind::Hardlink { target: b"l".to_vec() }),
                ("modes", EntryKind::File { size: 5 }),
                ("now-a-socket", EntryKind::Whiteout),
                ("p", EntryKind::Fifo),
                ("q", EntryKind::Hardlink { target: b"p".to_vec() }),
                ("replaced", EntryKind::Directory),
                ("replaced", EntryKind::Opaque),
                ("replaced/new", EntryKind::File { size: 3 }),
                ("x", EntryKind::File { size: 6 }),
                ("y", EntryKind::Hardlink { target: b"x".to_vec() }),
            ];
            assert_eq!(listed, expected.map(|(path, kind)| (path.to_owned(), kind)));
            assert_eq!(changes.size, 14);
            let view = TreeView::new(&test.store, &[base.id(), snapshot.id()]).unwrap();
            assert!(view.metadata(Path::new("d/sub/deep")).unwrap().is_some());
            for gone in ["replaced/old", "socket", "now-a-socket"] {
                assert!(view.metadata(Path::new(gone)).unwrap().is_none(), "{gone}");
            }
        }
    });
}

#[test]
fn digests_follow_the_content_and_nothing_else() {
    let test = TestStore::new();
    let digest = |write: &dyn Fn(&Path)| {
        let active = test.store.begin(&[]).unwrap();
        fs::write(active.dir().join("f"), "same").unwrap();
        fs::create_dir(active.dir().join("d")).unwrap();
        write(active.dir());
        active.changes().unwrap().digest
    };
    let plain = digest(&|_| {});
    assert_eq!(
        plain,
        digest(&|dir| fs::File::open(dir.join("f")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap())
    );
    assert_eq!(
        plain,
        digest(&|dir| {
            // The books of overlay are no content.
            for name in ["trusted.overlay.impure", "trusted.overlay.origin", "user.overlay.opaque"] {
                rustix::fs::lsetxattr(dir.join("d"), name, b"y", XattrFlags::empty()).unwrap();
            }
        })
    );
    let different: [&dyn Fn(&Path); 9] = [
        &|dir| fs::write(dir.join("f"), "Same").unwrap(),
        &|dir| fs::set_permissions(dir.join("f"), fs::Permissions::from_mode(0o600)).unwrap(),
        &|dir| std::os::unix::fs::chown(dir.join("f"), Some(5), None).unwrap(),
        &|dir| rustix::fs::lsetxattr(dir.join("f"), "user.x", b"1", XattrFlags::empty()).unwrap(),
        &|dir| fs::rename(dir.join("f"), dir.join("g")).unwrap(),
        &|dir| fs::hard_link(dir.join("f"), dir.join("g")).unwrap(),
        &|dir| assert_eq!(fs::copy(dir.join("f"), dir.join("g")).unwrap(), 4),
        &|dir| rustix::fs::mknodat(CWD, dir.join("w"), FileType::CharacterDevice, Mode::empty(), 0).unwrap(),
        &|dir| {
            rustix::fs::lsetxattr(dir.join("d"), "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap()
        },
    ];
    let mut seen = std::collections::HashSet::from([plain]);
    for (index, write) in different.iter().enumerate() {
        assert!(seen.insert(digest(write)), "change {index} is not seen");
    }
}

/// A change of this value changes content keys on every machine: give the domains a new version.
#[test]
fn the_digest_is_stable() {
    let test = TestStore::new();
    let active = test.store.begin(&[]).unwrap();
    let dir = active.dir();
    fs::create_dir(dir.join("d")).unwrap();
    fs::write(dir.join("d/f"), "content").unwrap();
    symlink("f", dir.join("d/l")).unwrap();
    for (path, mode) in [("d", 0o755), ("d/f", 0o644)] {
        fs::set_permissions(dir.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    assert_eq!(
        active.changes().unwrap().digest.to_string(),
        "a710aa3a5fc7fb358f9759c227864dc1e6203dc0d774fec688b4054472e7e7e2"
    );
}

#[test]
fn an_active_snapshot_that_is_dropped_leaves_nothing() {
    let test = TestStore::new();
    let active = test.store.begin_root(&[]).unwrap();
    let RootForm::Overlay { upper, .. } = active.form().clone() else { panic!("no overlay") };
    fs::create_dir(upper.join("d")).unwrap();
    fs::set_permissions(upper.join("d"), fs::Permissions::from_mode(0o000)).unwrap();
    drop(active);
    assert!(!upper.exists());
    let path: PathBuf = test.dir.path().join("tmp-v1");
    drop(test.store);
    assert_eq!(fs::read_dir(path).unwrap().count(), 0);
}
