//! A view of a chain of layers shows what overlayfs shows.

mod common;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use cache::{RootForm, TreeView};
use common::{Random, TestStore, in_mount_namespace, mount};
use files::{DirectoryTree, FileTree, Kind, Owners};
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

/// Fills an upper directory with anything that a layer can hold.
fn write_randomly(dir: &Path, random: &mut Random) {
    for _ in 0..=random.below(14) {
        let path = dir.join(random.path());
        // A parent may be a file or a whiteout by now.
        if fs::create_dir_all(path.parent().unwrap()).is_err() || fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        match random.below(9) {
            0 | 1 => fs::write(&path, format!("{}", random.below(1000))).unwrap(),
            2 => fs::create_dir(&path).unwrap(),
            3 => {
                fs::create_dir(&path).unwrap();
                rustix::fs::lsetxattr(&path, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
            }
            4 => symlink(random.pick(&["a", "../b", "/etc/passwd", "missing"]), &path).unwrap(),
            5 | 6 => {
                rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
                continue;
            }
            7 => {
                let device = rustix::fs::makedev(1, 3);
                rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::RUSR, device).unwrap();
            }
            _ => rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap(),
        }
        let metadata = fs::symlink_metadata(&path).unwrap();
        std::os::unix::fs::lchown(&path, Some(random.below(3) as u32), Some(random.below(3) as u32)).unwrap();
        if !metadata.is_symlink() {
            let mode = *random.pick(&[0o755, 0o644, 0o4755, 0o1777, 0o000]);
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        if (metadata.is_dir() || metadata.is_file()) && random.one_in(3) {
            let value = random.below(100).to_string();
            rustix::fs::lsetxattr(&path, "user.note", value.as_bytes(), XattrFlags::empty()).unwrap();
        }
    }
    if random.one_in(4) {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).unwrap();
    }
}

/// Everything that a tree says, apart from inode numbers, sizes of directories and numbers of links.
fn describe(tree: &dyn FileTree) -> BTreeMap<PathBuf, String> {
    fn visit(tree: &dyn FileTree, path: &Path, all: &mut BTreeMap<PathBuf, String>) {
        let metadata = tree.metadata(path).unwrap().unwrap();
        let content = match metadata.kind {
            Kind::File => {
                let mut text = String::new();
                tree.open(path).unwrap().read_to_string(&mut text).unwrap();
                text
            }
            Kind::Symlink => tree.read_link(path).unwrap().display().to_string(),
            _ => String::new(),
        };
        let size = if metadata.kind == Kind::Directory { 0 } else { metadata.size };
        let files::Metadata { kind, mode, uid, gid, mtime, device, .. } = metadata;
        let line = format!(
            "{kind:?} {mode:o} {uid}:{gid} {size} {mtime:?} {device:?} {content:?} {:?}",
            tree.xattrs(path).unwrap()
        );
        all.insert(path.to_owned(), line);
        if kind == Kind::Directory {
            let listing = tree.list(path).unwrap();
            let names: std::collections::BTreeSet<OsString> =
                listing.iter().map(|(name, _)| name.clone()).collect();
            assert_eq!(names.len(), listing.len(), "a name is listed twice in {}", path.display());
            for (name, listed) in listing {
                let path = path.join(name);
                let found = tree.metadata(&path).unwrap().unwrap();
                assert_eq!((listed.kind, listed.mode, listed.size), (found.kind, found.mode, found.size));
                visit(tree, &path, all);
            }
        }
    }
    let mut all = BTreeMap::new();
    visit(tree, Path::new(""), &mut all);
    all
}

#[test]
fn shows_what_overlayfs_shows() {
    in_mount_namespace("shows_what_overlayfs_shows", || {
        let test = TestStore::new();
        let mut sizes = 0;
        for seed in 1..=150 {
            let mut random = Random::new(seed);
            let mut chain = Vec::new();
            for _ in 0..=random.below(5) {
                let layer = test.layer(&chain, |dir| write_randomly(dir, &mut random));
                chain.push(layer.id());
                if random.one_in(6) {
                    // The same layer twice.
                    chain.push(*random.pick(&chain.clone()));
                }
            }
            let root = test.store.begin_root(&chain).unwrap();
            let RootForm::Overlay { lower, upper, work, .. } = root.form() else { panic!("no overlay") };
            let target = tempfile::tempdir().unwrap();
            let lower: Vec<String> = lower.iter().map(|dir| dir.display().to_string()).collect();
            let options = format!(
                "lowerdir={},upperdir={},workdir={},redirect_dir=off,metacopy=off,index=off,volatile",
                lower.join(":"),
                upper.display(),
                work.display()
            );
            mount("overlay", target.path(), &options);
            let expected = describe(&DirectoryTree::open(target.path(), &Owners::Real).unwrap());
            let view = TreeView::new(&test.store, &chain).unwrap();
            let mut actual = describe(&view);
            // The upper directory of the mount is new.
            let without_time = |line: &str| line.split(' ').take(4).map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(
                without_time(&actual[Path::new("")]),
                without_time(&expected[Path::new("")]),
                "seed {seed}"
            );
            actual.insert(PathBuf::new(), expected[Path::new("")].clone());
            assert_eq!(actual, expected, "seed {seed}");
            for path in ["a/b/c/d", "nothing", "a/nothing/b"] {
                let path = Path::new(path);
                assert_eq!(
                    view.metadata(path).unwrap().is_some(),
                    expected.contains_key(path),
                    "seed {seed}"
                );
            }
            sizes += expected.len();
            rustix::mount::unmount(target.path(), rustix::mount::UnmountFlags::empty()).unwrap();
        }
        assert!(sizes > 1000, "the trees are too small to show anything: {sizes}");
    });
}

#[test]
fn links_in_layers_lead_nowhere() {
    let test = TestStore::new();
    let below = test.layer(&[], |dir| {
        fs::create_dir(dir.join("d")).unwrap();
        fs::write(dir.join("d/f"), "inside").unwrap();
    });
    let above = test.layer(&[below.id()], |dir| {
        symlink("/etc", dir.join("etc")).unwrap();
        symlink("d", dir.join("link")).unwrap();
    });
    let view = TreeView::new(&test.store, &[below.id(), above.id()]).unwrap();
    assert!(view.metadata(Path::new("etc/passwd")).unwrap().is_none());
    assert!(view.metadata(Path::new("link/f")).unwrap().is_none());
    assert!(view.open(Path::new("etc/passwd")).is_err());
    assert!(view.open(Path::new("link/f")).is_err());
    assert!(view.list(Path::new("link")).is_err());
    assert!(view.open(Path::new("d/f")).is_ok());
}

#[test]
fn a_layer_without_a_word_about_the_root_leaves_it() {
    let test = TestStore::new();
    let base = test.layer(&[], |dir| fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap());
    let link = test.layer(&[], |dir| fs::write(dir.join("f"), "").unwrap());
    let view = TreeView::new(&test.store, &[base.id(), link.id()]).unwrap();
    assert_eq!(view.metadata(Path::new("")).unwrap().unwrap().mode, 0o700);
    assert!(base.entries().unwrap().entries()[0].path.is_empty());
    assert_eq!(link.entries().unwrap().entries().len(), 1);
}

#[test]
fn an_opaque_root_hides_all_that_is_below() {
    let test = TestStore::new();
    let base = test.layer(&[], |dir| {
        fs::create_dir(dir.join("both")).unwrap();
        fs::write(dir.join("both/old"), "").unwrap();
        fs::write(dir.join("gone"), "").unwrap();
    });
    let top = test.layer(&[base.id()], |dir| {
        fs::create_dir(dir.join("both")).unwrap();
        fs::write(dir.join("both/new"), "").unwrap();
        rustix::fs::lsetxattr(dir, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    });
    let view = TreeView::new(&test.store, &[base.id(), top.id()]).unwrap();
    let paths: Vec<_> = describe(&view).into_keys().collect();
    assert_eq!(paths, ["", "both", "both/new"].map(PathBuf::from));
}

#[test]
fn the_view_of_no_layers_is_an_empty_root() {
    let test = TestStore::new();
    let view = TreeView::new(&test.store, &[]).unwrap();
    assert_eq!(view.list(Path::new("")).unwrap(), []);
    assert_eq!(view.metadata(Path::new("")).unwrap().unwrap().mode, 0o755);
    assert!(view.metadata(Path::new("x")).unwrap().is_none());
}
