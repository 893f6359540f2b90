//! The store of an ordinary user: overlay's marks in `user.` attributes, owners recorded beside the files.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::Path;

use cache::{RootForm, Snapshotter, Store, StoreOptions, TreeView};
use common::{in_user_namespace, mount};
use files::{Attributes, FileTree, Kind, TreeWriter, WriterOptions};
use image::layer::EntryKind;

fn owned(mode: u32, uid: u32, gid: u32) -> Attributes {
    Attributes { uid, gid, ..Attributes::with_mode(mode) }
}

fn write(store: &Store, parents: &[cache::SnapshotId], fill: impl FnOnce(&TreeWriter)) -> cache::Snapshot {
    let active = store.begin(parents).unwrap();
    let options = WriterOptions {
        owners: active.owners().clone(),
        opaque: active.opaque_mark(),
        parents: Attributes::with_mode(0o755),
    };
    let writer = TreeWriter::new(active.dir(), options).unwrap();
    fill(&writer);
    writer.finish().unwrap();
    let changes = active.changes().unwrap();
    active.commit(&changes).unwrap()
}

fn names(tree: &dyn FileTree, path: &Path, all: &mut BTreeSet<String>) {
    for (name, metadata) in tree.list(path).unwrap() {
        let path = path.join(name);
        all.insert(path.display().to_string());
        if metadata.kind == Kind::Directory {
            names(tree, &path, all);
        }
    }
}

#[test]
fn owners_and_marks_survive() {
    in_user_namespace("owners_and_marks_survive", || {
        for snapshotter in [Snapshotter::Overlay, Snapshotter::Copying] {
            let dir = tempfile::tempdir().unwrap();
            let options = StoreOptions {
                snapshotter,
                userxattr: true,
                recorded_owners: true,
                ..StoreOptions::default()
            };
            let store = Store::open(dir.path(), options).unwrap();
            let base = write(&store, &[], |writer| {
                writer.directory(Path::new(""), &owned(0o711, 3, 4)).unwrap();
                writer.directory(Path::new("d"), &owned(0o750, 5, 6)).unwrap();
                writer.file(Path::new("d/f"), &mut &b"text"[..], &owned(0o644, 7, 8)).unwrap();
                writer.symlink(Path::new("d/l"), Path::new("f"), &owned(0o777, 9, 10)).unwrap();
                writer.device(Path::new("null"), Kind::CharDevice, (1, 3), &owned(0o666, 1, 1)).unwrap();
                writer.directory(Path::new("hidden"), &owned(0o755, 0, 0)).unwrap();
                writer.file(Path::new("hidden/old"), &mut &b""[..], &owned(0o644, 0, 0)).unwrap();
            });
            let top = write(&store, &[base.id()], |writer| {
                writer.directory(Path::new("hidden"), &owned(0o755, 2, 2)).unwrap();
                writer.opaque(Path::new("hidden")).unwrap();
                writer.whiteout(Path::new("null")).unwrap();
            });
            assert!(
                base.entries()
                    .unwrap()
                    .entries()
                    .iter()
                    .any(|entry| { entry.path == b"d/l" && (entry.uid, entry.gid) == (9, 10) })
            );
            assert!(base.entries().unwrap().entries().iter().any(|entry| {
                entry.path == b"null" && entry.kind == EntryKind::CharDevice { major: 1, minor: 3 }
            }));
            let chain = [base.id(), top.id()];
            let view = TreeView::new(&store, &chain).unwrap();
            for (path, owner) in
                [("", (3, 4)), ("d", (5, 6)), ("d/f", (7, 8)), ("d/l", (9, 10)), ("hidden", (2, 2))]
            {
                let found = view.metadata(Path::new(path)).unwrap().unwrap();
                assert_eq!((found.uid, found.gid), owner, "{path}");
                assert!(view.xattrs(Path::new(path)).unwrap().is_empty(), "{path}");
            }
            let mut expected = BTreeSet::new();
            names(&view, Path::new(""), &mut expected);
            assert_eq!(
                expected.iter().map(String::as_str).collect::<Vec<_>>(),
                ["d", "d/f", "d/l", "hidden"]
            );

            let root = store.begin_root(&chain).unwrap();
            let work = |tree: &Path| {
                let mut found = BTreeSet::new();
                names(
                    &files::DirectoryTree::open(tree, &files::Owners::Real).unwrap(),
                    Path::new(""),
                    &mut found,
                );
                assert_eq!(found, expected);
                fs::write(tree.join("d/new"), "new").unwrap();
                fs::remove_dir_all(tree.join("hidden")).unwrap();
            };
            match root.form().clone() {
                RootForm::Directory(tree) => work(&tree),
                RootForm::Overlay { lower, upper, work: scratch, userxattr, .. } => {
                    assert!(userxattr);
                    let target = tempfile::tempdir().unwrap();
                    let lower: Vec<String> = lower.iter().map(|dir| dir.display().to_string()).collect();
                    let options = format!(
                        "lowerdir={},upperdir={},workdir={},userxattr",
                        lower.join(":"),
                        upper.display(),
                        scratch.display()
                    );
                    mount("overlay", target.path(), &options);
                    work(target.path());
                    rustix::mount::unmount(target.path(), rustix::mount::UnmountFlags::empty()).unwrap();
                }
            }
            let active = root.finish([]).unwrap();
            let changes = active.changes().unwrap();
            let snapshot = active.commit(&changes).unwrap();
            let listed: Vec<(Vec<u8>, EntryKind, u32)> = snapshot
                .entries()
                .unwrap()
                .entries()
                .iter()
                .map(|entry| (entry.path.clone(), entry.kind.clone(), entry.uid))
                .collect();
            // The directory keeps its recorded owner although a process wrote into it.
            assert_eq!(
                listed,
                [
                    (b"d".to_vec(), EntryKind::Directory, 5),
                    (b"d/new".to_vec(), EntryKind::File { size: 3 }, 0),
                    (b"hidden".to_vec(), EntryKind::Whiteout, 0),
                ]
            );
            let view = TreeView::new(&store, &[base.id(), top.id(), snapshot.id()]).unwrap();
            let mut text = String::new();
            view.open(Path::new("d/new")).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "new");
            store.prune(cache::PruneOptions { all: true }).unwrap();
        }
    });
}
