//! What is copied is what was selected.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{make, never, selected};
use files::{
    Attributes, CopyOptions, DirectoryTree, Error, FileTree, ModeChange, NoCache, OpaqueMark, Owners,
    TreeWriter, WriterOptions, digest, write_selected,
};
use hash::ContentDigest;

fn source(root: &Path) {
    make(
        root,
        &[
            "f d/a one",
            "f d/sub/c three",
            "l d/link a",
            "h d/hard d/a",
            "h d/sub/third d/a",
            "p d/pipe",
            "d d/empty",
            "f d/z z",
        ],
    );
    common::device(&root.join("d/dev"), 1, 3);
    common::xattr(&root.join("d/a"), "user.note", b"n");
    common::xattr(&root.join("d/sub"), "user.dir", b"d");
    common::mode(&root.join("d/a"), 0o4711);
    common::mode(&root.join("d/sub"), 0o1777);
    for path in ["d/sub/c", "d/link", "d/pipe", "d/dev", "d"] {
        std::os::unix::fs::lchown(root.join(path), Some(11), Some(22)).unwrap();
    }
    let old = std::time::UNIX_EPOCH + Duration::new(1_000_000, 42);
    for path in ["d/a", "d/sub", "d"] {
        fs::File::open(root.join(path)).unwrap().set_modified(old).unwrap();
    }
}

fn writer(root: &Path, owners: Owners) -> TreeWriter {
    let options =
        WriterOptions { owners, opaque: OpaqueMark::Trusted, parents: Attributes::with_mode(0o755) };
    TreeWriter::new(root, options).unwrap()
}

fn copy(
    tree: &dyn FileTree,
    pattern: &str,
    writer: &TreeWriter,
    options: &CopyOptions,
) -> Result<u64, Error> {
    let selected = selected(tree, pattern)?;
    let mut bytes = 0;
    for found in &selected.matches {
        bytes += write_selected(tree, found, writer, options, &never)?.bytes;
    }
    Ok(bytes)
}

fn content(tree: &dyn FileTree, pattern: &str) -> ContentDigest {
    digest(&selected(tree, pattern).unwrap(), tree, &NoCache, &never).unwrap().digest
}

#[test]
fn a_copy_has_the_digest_of_its_source() {
    let from = tempfile::tempdir().unwrap();
    source(from.path());
    let tree = DirectoryTree::open(from.path(), &Owners::Real).unwrap();
    let expected = content(&tree, "d");
    let to = tempfile::tempdir().unwrap();
    for owners in [Owners::Real, Owners::Recorded { sidecar: to.path().join("owners") }] {
        let root = to.path().join(if owners == Owners::Real { "real" } else { "recorded" });
        fs::create_dir(&root).unwrap();
        let writer = writer(&root, owners.clone());
        let options = CopyOptions { destination: "some/where".into(), ..CopyOptions::default() };
        assert_eq!(copy(&tree, "d", &writer, &options).unwrap(), 9);
        writer.finish().unwrap();
        let copied = DirectoryTree::open(&root, &owners).unwrap();
        assert_eq!(content(&copied, "some/where"), expected, "{owners:?}");
        // From a tree with recorded owners it can be copied on.
        let again = root.with_extension("again");
        fs::create_dir(&again).unwrap();
        let writer = self::writer(&again, Owners::Real);
        copy(
            &copied,
            "some/where",
            &writer,
            &CopyOptions { destination: "d".into(), ..CopyOptions::default() },
        )
        .unwrap();
        writer.finish().unwrap();
        let again = DirectoryTree::open(&again, &Owners::Real).unwrap();
        assert_eq!(content(&again, "d"), expected);
        for path in ["a", "sub", "link", ""] {
            let path =
                |top: &str| if path.is_empty() { PathBuf::from(top) } else { Path::new(top).join(path) };
            assert_eq!(
                tree.metadata(&path("d")).unwrap().unwrap().mtime,
                again.metadata(&path("d")).unwrap().unwrap().mtime
            );
        }
    }
}

#[test]
fn owner_and_mode_can_be_given() {
    let from = tempfile::tempdir().unwrap();
    source(from.path());
    let tree = DirectoryTree::open(from.path(), &Owners::Real).unwrap();
    let to = tempfile::tempdir().unwrap();
    fs::create_dir(to.path().join("top")).unwrap();
    chown(to.path().join("top"), Some(3), Some(3)).unwrap();
    common::mode(&to.path().join("top"), 0o701);
    let writer = writer(to.path(), Owners::Real);
    let options = CopyOptions {
        destination: "top".into(),
        owner: Some((8, 9)),
        mode: Some(ModeChange::Set(0o4640)),
        keep_top: true,
        ..CopyOptions::default()
    };
    copy(&tree, "d", &writer, &options).unwrap();
    writer.finish().unwrap();
    let stat = |path: &str| {
        let metadata = fs::symlink_metadata(to.path().join(path)).unwrap();
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
    };
    assert_eq!(stat("top"), (0o701, 3, 3));
    for path in ["top/a", "top/sub", "top/sub/c", "top/pipe", "top/dev"] {
        assert_eq!(stat(path), (0o4640, 8, 9), "{path}");
    }
    assert_eq!(stat("top/link"), (0o777, 8, 9));
    assert_eq!(fs::metadata(to.path().join("top/a")).unwrap().nlink(), 3);
}

#[test]
fn a_single_file_lands_where_it_is_told() {
    let from = tempfile::tempdir().unwrap();
    source(from.path());
    let tree = DirectoryTree::context(from.path()).unwrap();
    let to = tempfile::tempdir().unwrap();
    let writer = writer(to.path(), Owners::Real);
    let options = CopyOptions { destination: "x/renamed".into(), ..CopyOptions::default() };
    copy(&tree, "d/link", &writer, &options).unwrap();
    writer.finish().unwrap();
    // The link was followed; contexts belong to root.
    let metadata = fs::symlink_metadata(to.path().join("x/renamed")).unwrap();
    assert!(metadata.is_file() && metadata.nlink() == 1 && metadata.uid() == 0);
}

#[test]
fn holes_are_not_filled() {
    use std::os::unix::fs::FileExt;
    const MIB: u64 = 1 << 20;
    let from = tempfile::tempdir().unwrap();
    // Where there is something, how much of it, and how long the file is.
    let files: [(&str, &[u64], u64, u64); 5] = [
        ("begins", &[0], 3 * MIB, 64 * MIB),
        ("ends", &[40 * MIB], MIB + 7, 41 * MIB + 7),
        ("between", &[MIB, 9 * MIB + 4096, 30 * MIB], 100_000, 64 * MIB + 1),
        ("nothing", &[], 0, 32 * MIB),
        ("whole", &[0], 2 * MIB, 2 * MIB),
    ];
    for (name, places, length, size) in files {
        let file = fs::File::create(from.path().join(name)).unwrap();
        let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8 + 1).collect();
        for place in places {
            file.write_all_at(&bytes, *place).unwrap();
        }
        file.set_len(size).unwrap();
    }
    let tree = DirectoryTree::context(from.path()).unwrap();
    let to = tempfile::tempdir().unwrap();
    let writer = writer(to.path(), Owners::Real);
    for (name, ..) in files {
        let options = CopyOptions { destination: name.into(), ..CopyOptions::default() };
        copy(&tree, name, &writer, &options).unwrap();
    }
    writer.finish().unwrap();
    for (name, places, length, size) in files {
        let (source, copy) = (from.path().join(name), to.path().join(name));
        assert!(fs::read(&copy).unwrap() == fs::read(&source).unwrap(), "{name}");
        let metadata = fs::metadata(&copy).unwrap();
        // Holes are nobody's on an overlay, where the tests may run.
        let is_overlay = rustix::fs::statfs(to.path()).unwrap().f_type as u32 == 0x794c_7630;
        let most = if is_overlay { u64::MAX } else { places.len() as u64 * (length + 16_384) };
        assert!(metadata.size() == size && metadata.blocks() * 512 <= most, "{name}: {metadata:?}");
    }
}

#[test]
fn a_file_that_changed_since_the_walk_is_not_copied() {
    let from = tempfile::tempdir().unwrap();
    source(from.path());
    let tree = DirectoryTree::context(from.path()).unwrap();
    let selected = selected(&tree, "d").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    fs::write(from.path().join("d/z"), "y").unwrap();
    let to = tempfile::tempdir().unwrap();
    let writer = writer(to.path(), Owners::Real);
    match write_selected(&tree, &selected.matches[0], &writer, &CopyOptions::default(), &never) {
        Err(Error::Changed { path }) => assert_eq!(path, Path::new("d/z")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_snapshot_may_be_linked_elsewhere_meanwhile() {
    let from = tempfile::tempdir().unwrap();
    source(from.path());
    let tree = DirectoryTree::open(from.path(), &Owners::Real).unwrap();
    let selected = selected(&tree, "d").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    fs::hard_link(from.path().join("d/z"), from.path().join("elsewhere")).unwrap();
    let to = tempfile::tempdir().unwrap();
    let writer = writer(to.path(), Owners::Real);
    write_selected(&tree, &selected.matches[0], &writer, &CopyOptions::default(), &never).unwrap();
}

#[test]
fn cancelling_stops_a_copy() {
    let from = tempfile::tempdir().unwrap();
    source(from.path());
    let tree = DirectoryTree::context(from.path()).unwrap();
    let selected = selected(&tree, "d").unwrap();
    let to = tempfile::tempdir().unwrap();
    let writer = writer(to.path(), Owners::Real);
    let result = write_selected(&tree, &selected.matches[0], &writer, &CopyOptions::default(), &|| true);
    assert!(matches!(result, Err(Error::Cancelled)));
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
}

/// Yields other bytes of the same length from the second opening on, with the same stat: what a change within one tick of the
/// file system's clock looks like.
struct Flickering {
    tree: DirectoryTree,
    other: PathBuf,
    opened: std::sync::atomic::AtomicBool,
}

impl FileTree for Flickering {
    fn metadata(&self, path: &Path) -> Result<Option<files::Metadata>, files::TreeError> {
        self.tree.metadata(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<(std::ffi::OsString, files::Metadata)>, files::TreeError> {
        self.tree.list(path)
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, files::TreeError> {
        self.tree.read_link(path)
    }

    fn open(&self, path: &Path) -> Result<fs::File, files::TreeError> {
        if path.ends_with("z") && self.opened.swap(true, std::sync::atomic::Ordering::Relaxed) {
            return Ok(fs::File::open(&self.other).unwrap());
        }
        self.tree.open(path)
    }

    fn xattrs(
        &self,
        path: &Path,
    ) -> Result<std::collections::BTreeMap<std::ffi::OsString, Vec<u8>>, files::TreeError> {
        self.tree.xattrs(path)
    }
}

#[test]
fn a_change_that_no_clock_shows_is_found() {
    let from = tempfile::tempdir().unwrap();
    source(from.path());
    let other = from.path().join("other");
    fs::write(&other, "Z").unwrap();
    let tree = Flickering { tree: DirectoryTree::context(from.path()).unwrap(), other, opened: false.into() };
    let selected = selected(&tree, "d").unwrap();
    digest(&selected, &tree, &NoCache, &never).unwrap();
    let to = tempfile::tempdir().unwrap();
    let writer = writer(to.path(), Owners::Real);
    match write_selected(&tree, &selected.matches[0], &writer, &CopyOptions::default(), &never) {
        Err(Error::Changed { path }) => assert_eq!(path, Path::new("d/z")),
        other => panic!("{other:?}"),
    }
}

/// A directory's times are those of its entries, so its attributes are compared instead.
#[test]
fn attributes_of_a_directory_that_change_after_hashing_are_found() {
    let from = tempfile::tempdir().unwrap();
    source(from.path());
    let flags = rustix::fs::XattrFlags::empty();
    let set = |value: &[u8]| rustix::fs::setxattr(from.path().join("d"), "user.note", value, flags).unwrap();
    let tree = DirectoryTree::context(from.path()).unwrap();
    let write = |change: &dyn Fn()| {
        let selected = selected(&tree, "d").unwrap();
        digest(&selected, &tree, &NoCache, &never).unwrap();
        change();
        let to = tempfile::tempdir().unwrap();
        let writer = writer(to.path(), Owners::Real);
        let written = write_selected(&tree, &selected.matches[0], &writer, &CopyOptions::default(), &never);
        let mut value = [0; 8];
        let copied =
            rustix::fs::getxattr(to.path(), "user.note", &mut value).map(|length| value[..length].to_vec());
        written.map(|_| copied.ok())
    };
    // One that had none is written as it was hashed.
    assert_eq!(write(&|| set(b"new")).unwrap(), None);
    assert!(matches!(write(&|| set(b"other")), Err(Error::Changed { .. })));
    assert_eq!(write(&|| {}).unwrap().unwrap(), b"other");
}

/// A tree that says which of its files are opened.
struct Watched {
    tree: DirectoryTree,
    opened: std::sync::Mutex<Vec<PathBuf>>,
}

impl FileTree for Watched {
    fn metadata(&self, path: &Path) -> Result<Option<files::Metadata>, files::TreeError> {
        self.tree.metadata(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<(std::ffi::OsString, files::Metadata)>, files::TreeError> {
        self.tree.list(path)
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, files::TreeError> {
        self.tree.read_link(path)
    }

    fn open(&self, path: &Path) -> Result<fs::File, files::TreeError> {
        self.opened.lock().unwrap().push(path.to_owned());
        self.tree.open(path)
    }

    fn xattrs(
        &self,
        path: &Path,
    ) -> Result<std::collections::BTreeMap<std::ffi::OsString, Vec<u8>>, files::TreeError> {
        self.tree.xattrs(path)
    }
}

#[test]
fn what_is_kept_is_not_opened_and_counts() {
    let from = tempfile::tempdir().unwrap();
    source(from.path());
    let tree = Watched { tree: DirectoryTree::context(from.path()).unwrap(), opened: Default::default() };
    let selected = selected(&tree, "d").unwrap();
    let options = CopyOptions { keep_top: true, ..CopyOptions::default() };
    digest(&selected, &tree, &NoCache, &never).unwrap();
    tree.opened.lock().unwrap().clear();
    let found = &selected.matches[0];
    let all = tempfile::tempdir().unwrap();
    let writer_of_all = writer(all.path(), Owners::Real);
    let whole = write_selected(&tree, found, &writer_of_all, &options, &never).unwrap();
    writer_of_all.finish().unwrap();
    tree.opened.lock().unwrap().clear();
    let kept: Vec<bool> = found
        .entries()
        .map(|entry| entry.metadata.kind != files::Kind::Directory && entry.path != Path::new("z"))
        .collect();
    let to = tempfile::tempdir().unwrap();
    let writer = writer(to.path(), Owners::Real);
    let copied = files::write_changed(&tree, found, &writer, &options, &kept, &never).unwrap();
    writer.finish().unwrap();
    assert_eq!(*tree.opened.lock().unwrap(), [PathBuf::from("d/z")]);
    assert_eq!((copied.entries, copied.bytes), (whole.entries, whole.bytes));
    assert_eq!((copied.kept, whole.kept), (whole.bytes - 1, 0));
    assert!(to.path().join("sub").is_dir() && to.path().join("z").exists());
    assert!(!to.path().join("a").exists() && !to.path().join("link").is_symlink());
}

#[test]
fn a_form_is_all_that_an_entry_is() {
    let forms = |change: &dyn Fn(&Path), options: &CopyOptions| {
        let dir = tempfile::tempdir().unwrap();
        source(dir.path());
        change(dir.path());
        let time = rustix::fs::Timespec { tv_sec: 7, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        let nofollow = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        for name in ["a", "dev", "empty", "hard", "link", "pipe", "sub/c", "sub/third", "sub", "z"] {
            let path = dir.path().join("d").join(name);
            if fs::symlink_metadata(&path).is_ok() {
                rustix::fs::utimensat(rustix::fs::CWD, path, &times, nofollow).unwrap();
            }
        }
        let tree = DirectoryTree::context(dir.path()).unwrap();
        let selected = selected(&tree, "d").unwrap();
        let found = &selected.matches[0];
        assert!(files::forms(found, options).all(|form| form.is_none()), "not hashed yet");
        digest(&selected, &tree, &NoCache, &never).unwrap();
        let forms: Vec<_> = files::forms(found, options).collect();
        found
            .entries()
            .zip(forms)
            .map(|(entry, form)| (entry.path.to_owned(), form))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let plain = CopyOptions { keep_top: true, ..CopyOptions::default() };
    let first = forms(&|_| {}, &plain);
    assert_eq!(first[Path::new("")], None, "whoever made it says what it is");
    assert!(first.iter().filter(|(path, _)| !path.as_os_str().is_empty()).all(|(_, form)| form.is_some()));
    assert_eq!(forms(&|_| {}, &plain), first);
    let differ = |change: &dyn Fn(&Path), options: &CopyOptions| -> Vec<String> {
        let other = forms(change, options);
        let differs = |path: &&PathBuf| other.get(*path) != first.get(*path);
        first.keys().filter(differs).map(|path| path.display().to_string()).collect()
    };
    let all: Vec<String> = first
        .keys()
        .filter(|path| !path.as_os_str().is_empty())
        .map(|path| path.display().to_string())
        .collect();
    let note = |path: &Path| {
        rustix::fs::lsetxattr(path, "user.note", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    };
    let mode = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o711)).unwrap();
    assert_eq!(differ(&|dir| fs::write(dir.join("d/z"), "y").unwrap(), &plain), ["z"]);
    assert_eq!(differ(&|dir| note(&dir.join("d/z")), &plain), ["z"]);
    assert_eq!(differ(&|dir| note(&dir.join("d/sub")), &plain), ["sub"]);
    assert_eq!(differ(&|dir| mode(&dir.join("d/sub")), &plain), ["sub"]);
    assert_eq!(differ(&|dir| mode(&dir.join("d/z")), &plain), ["z"]);
    let relink = |dir: &Path| {
        fs::remove_file(dir.join("d/link")).unwrap();
        std::os::unix::fs::symlink("elsewhere", dir.join("d/link")).unwrap();
    };
    assert_eq!(differ(&relink, &plain), ["link"]);
    // A name less, and all others are names of another file.
    let unlinked = differ(&|dir| fs::remove_file(dir.join("d/hard")).unwrap(), &plain);
    assert_eq!(unlinked, ["a", "hard", "sub/third"]);
    assert_eq!(differ(&|_| {}, &CopyOptions { owner: Some((5, 6)), ..plain.clone() }), all);
    assert_eq!(differ(&|_| {}, &CopyOptions { mtime: Some((9, 9)), ..plain.clone() }), all);
}
