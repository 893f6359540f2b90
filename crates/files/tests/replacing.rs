//! What stands in a directory that is written into stays whole until what takes its place is.

mod common;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use common::{make, never, selected};
use files::{
    Attributes, CopyOptions, DirectoryTree, Error, FileTree, Kind, OpaqueMark, Owners, TreeError, TreeWriter,
    WriterOptions, write_selected,
};

fn writer(root: &Path) -> TreeWriter {
    let parents = Attributes::with_mode(0o755);
    TreeWriter::new(root, WriterOptions { owners: Owners::Real, opaque: OpaqueMark::User, parents }).unwrap()
}

/// Every path below a directory, with its kind and what is in it.
fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for item in fs::read_dir(&directory).unwrap() {
            let path = item.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let text = match () {
                () if kind.is_dir() => "directory".to_owned(),
                () if kind.is_symlink() => format!("link {}", fs::read_link(&path).unwrap().display()),
                () if kind.is_file() => format!("file {}", fs::read_to_string(&path).unwrap()),
                () if kind.is_fifo() => "pipe".to_owned(),
                () => "device".to_owned(),
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), text);
            if kind.is_dir() {
                left.push(path);
            }
        }
    }
    found
}

/// Some bytes, and then no more of them can be read; what stands at a path meanwhile is looked at.
struct Failing<'a>(u32, &'a Path);

impl Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        assert_eq!(fs::read_to_string(self.1).unwrap(), "old");
        self.0 = self.0.checked_sub(1).ok_or_else(|| io::Error::other("the disk is broken"))?;
        buffer.fill(b'n');
        Ok(buffer.len())
    }
}

#[test]
fn a_file_that_cannot_be_completed_leaves_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let (root, path) = (dir.path(), Path::new("d/f"));
    make(root, &["f d/f old", "d source"]);
    common::mode(&root.join("d/f"), 0o640);
    let before = fs::metadata(root.join("d/f")).unwrap();
    let is_as_before = |what: &str| {
        let now = fs::metadata(root.join("d/f")).unwrap();
        assert_eq!(
            (now.ino(), now.mode(), now.mtime_nsec()),
            (before.ino(), before.mode(), before.mtime_nsec())
        );
        assert_eq!(
            describe(&root.join("d")),
            BTreeMap::from([("f".into(), "file old".to_owned())]),
            "{what}"
        );
    };
    let writer = writer(root);
    let plain = Attributes::with_mode(0o600);

    // Its content cannot be read.
    let error = writer.file(path, &mut Failing(3, &root.join("d/f")), &plain).unwrap_err();
    assert!(error.to_string().contains("the disk is broken"), "{error}");
    is_as_before("unreadable");
    // Somebody gives up, at the beginning or in the middle.
    let source = root.join("source/file");
    fs::write(&source, vec![b'n'; 20 << 20]).unwrap();
    for patience in 0..3 {
        let asked = std::sync::atomic::AtomicU32::new(0);
        let cancelled = || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) >= patience;
        let source = fs::File::open(&source).unwrap();
        let result = writer.file_from(path, &source, 20 << 20, &plain, &cancelled);
        assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
        is_as_before("cancelled");
    }
    // An attribute that no file system takes; of what cannot be opened, too.
    let mut odd = plain.clone();
    odd.xattrs.insert(OsString::from(format!("user.{}", "n".repeat(300))), vec![]);
    writer.file(path, &mut &b"new"[..], &odd).unwrap_err();
    is_as_before("attributes of a file");
    writer.fifo(path, &odd).unwrap_err();
    is_as_before("attributes of a pipe");
    writer.symlink(path, Path::new("target"), &odd).unwrap_err();
    is_as_before("attributes of a link");
    writer.device(path, Kind::CharDevice, (1, 3), &odd).unwrap_err();
    is_as_before("attributes of a device");
    writer.directory(path, &odd).unwrap_err();
    is_as_before("attributes of a directory");
    writer.hard_link(path, Path::new("absent")).unwrap_err();
    is_as_before("a link to nothing");
    writer.symlink(path, Path::new(&"t".repeat(5000)), &plain).unwrap_err();
    is_as_before("a target that is too long");
    // Where nothing was, nothing is.
    writer.file(Path::new("d/new"), &mut Failing(1, &root.join("d/f")), &plain).unwrap_err();
    writer.symlink(Path::new("d/new"), Path::new("target"), &odd).unwrap_err();
    writer.directory(Path::new("d/new"), &odd).unwrap_err();
    is_as_before("new");
    writer.finish().unwrap();
}

/// Run by [`a_full_disk_leaves_the_old_file`].
#[test]
fn helper_on_a_small_disk() {
    let Some(root) = std::env::var_os("PLACE").map(PathBuf::from) else { return };
    make(&root, &["f f old"]);
    let before = describe(&root);
    let writer = writer(&root);
    let attributes = Attributes::with_mode(0o644);
    for path in ["f", "new"] {
        let written = writer.file(Path::new(path), &mut io::repeat(b'n').take(2 << 20), &attributes);
        let error = written.unwrap_err().to_string();
        assert!(error.contains("No space left on device"), "{error}");
        let source = tempfile::tempfile().unwrap();
        source.set_len(2 << 20).unwrap();
        rustix::io::pwrite(&source, &[b'n'; 1 << 20], 1 << 20).unwrap();
        rustix::io::pwrite(&source, &[b'n'; 1 << 20], 0).unwrap();
        writer.file_from(Path::new(path), &source, 2 << 20, &attributes, &never).unwrap_err();
        assert_eq!(describe(&root), before);
    }
    // There is room again.
    writer.file(Path::new("f"), &mut &b"new"[..], &attributes).unwrap();
    assert_eq!(describe(&root), BTreeMap::from([("f".into(), "file new".to_owned())]));
}

#[test]
fn a_full_disk_leaves_the_old_file() {
    in_mount("mount -t tmpfs -o size=1m none \"$PLACE\"", "helper_on_a_small_disk");
}

/// Runs a test of this file where something is mounted on a directory that `$PLACE` names, which nobody else sees.
fn in_mount(script: &str, test: &str) {
    let dir = tempfile::tempdir().unwrap();
    let output = std::process::Command::new("unshare")
        .args(["--mount", "--", "sh", "-ec"])
        .arg(format!("{script} && exec \"$1\" --exact {test}"))
        .arg("sh")
        .arg(std::env::current_exe().unwrap())
        .env("PLACE", dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// Run by [`directories_that_cannot_be_renamed_make_room`].
#[test]
fn helper_on_an_overlay() {
    let Some(root) = std::env::var_os("PLACE").map(PathBuf::from) else { return };
    let attributes = Attributes::with_mode(0o755);
    // What is below can be copied up, but is not moved.
    let moved = rustix::fs::renameat(rustix::fs::CWD, root.join("one"), rustix::fs::CWD, root.join("moved"));
    assert_eq!(moved, Err(rustix::io::Errno::XDEV));
    let writer = writer(&root).with_rollback().unwrap();
    writer.file(Path::new("one"), &mut &b"new"[..], &attributes).unwrap();
    writer.symlink(Path::new("two"), Path::new("new"), &attributes).unwrap();
    writer.directory(Path::new("file"), &attributes).unwrap();
    writer.file(Path::new("kept"), &mut &b"new"[..], &attributes).unwrap();
    writer.finish().unwrap();
    let expected = [("file", "directory"), ("kept", "file new"), ("one", "file new"), ("two", "link new")];
    assert_eq!(describe(&root), expected.map(|(path, text)| (path.into(), text.to_owned())).into());
}

#[test]
fn directories_that_cannot_be_renamed_make_room() {
    let script = "cd \"$PLACE\" && mount -t tmpfs none . && cd \"$PLACE\" && mkdir -p lower/one/deep lower/two/deep upper work merged && \
                  echo old > lower/one/deep/file && echo old > lower/two/deep/file && echo old > lower/file && echo old > lower/kept && \
                  mount -t overlay -o redirect_dir=off,lowerdir=lower,upperdir=upper,workdir=work none merged && export PLACE=\"$PLACE/merged\"";
    in_mount(script, "helper_on_an_overlay");
}

/// Whatever stands there, of whatever kind the new one is.
#[test]
fn every_kind_takes_the_place_of_every_other() {
    const OLD: [&str; 7] =
        ["f X old", "d X", "f X/deep/er/file old", "l X target", "l X absent", "p X", "h X keep"];
    // The longest name that there may be.
    for name in ["short".to_owned(), "n".repeat(255)] {
        for old in OLD {
            for new in ["file", "copy", "directory", "link", "pipe", "device", "name"] {
                let dir = tempfile::tempdir().unwrap();
                let root = dir.path();
                make(root, &["f keep kept", "f target outside", &old.replace('X', &name)]);
                let (path, attributes) = (Path::new(&name), Attributes::with_mode(0o755));
                let writer = writer(root);
                let expected = match new {
                    "file" => {
                        writer.file(path, &mut &b"new"[..], &attributes).unwrap();
                        "file new"
                    }
                    "copy" => {
                        let source = fs::File::open(root.join("keep")).unwrap();
                        writer.file_from(path, &source, 4, &attributes, &never).unwrap();
                        "file kept"
                    }
                    "directory" => {
                        writer.directory(path, &attributes).unwrap();
                        "directory"
                    }
                    "link" => {
                        writer.symlink(path, Path::new("new"), &attributes).unwrap();
                        "link new"
                    }
                    "pipe" => {
                        writer.fifo(path, &attributes).unwrap();
                        "pipe"
                    }
                    "device" => {
                        writer.device(path, Kind::CharDevice, (1, 3), &attributes).unwrap();
                        "device"
                    }
                    _ => {
                        writer.hard_link(path, Path::new("keep")).unwrap();
                        assert_eq!(fs::metadata(root.join("keep")).unwrap().nlink(), 2);
                        "file kept"
                    }
                };
                // What was in a directory stays in what is one still.
                let stays = new == "directory" && old.contains("deep");
                // Into what is there now, and not into what was known of it.
                if new == "directory" {
                    writer.file(&path.join("deep/new"), &mut &b"new"[..], &attributes).unwrap();
                }
                writer.finish().unwrap();
                let mut all = BTreeMap::from([
                    (PathBuf::from("keep"), "file kept".to_owned()),
                    (PathBuf::from("target"), "file outside".to_owned()),
                    (PathBuf::from(&name), expected.to_owned()),
                ]);
                let mut below = |below: &str, text: &str| all.insert(path.join(below), text.to_owned());
                if new == "directory" {
                    below("deep", "directory");
                    below("deep/new", "file new");
                }
                if stays {
                    below("deep/er", "directory");
                    below("deep/er/file", "file old");
                }
                assert_eq!(describe(root), all, "{old} became a {new}");
            }
        }
    }
}

#[test]
fn names_of_one_file_are_replaced_by_names_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let from = tempfile::tempdir().unwrap();
    make(from.path(), &["f d/one new", "h d/two d/one", "h d/three d/one"]);
    let write = || {
        let tree = DirectoryTree::open(from.path(), &Owners::Real).unwrap();
        let found = selected(&tree, "d").unwrap();
        let writer = writer(root);
        write_selected(&tree, &found.matches[0], &writer, &CopyOptions::default(), &never).unwrap();
        writer.finish().unwrap();
    };
    // Into nothing, and over what the same gave before.
    for _ in 0..3 {
        write();
        let inodes: Vec<(u64, u64)> = ["one", "two", "three"]
            .map(|name| fs::metadata(root.join(name)).unwrap())
            .iter()
            .map(|found| (found.ino(), found.nlink()))
            .collect();
        assert_eq!(inodes, [(inodes[0].0, 3); 3]);
        assert_eq!(describe(root).len(), 3);
    }
    // A name that it has already, twice, and in the other direction.
    let writer = writer(root);
    writer.hard_link(Path::new("two"), Path::new("one")).unwrap();
    writer.hard_link(Path::new("one"), Path::new("two")).unwrap();
    assert_eq!(describe(root).len(), 3);
    // Of a file that stands in a directory that goes.
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/inner"), "inner").unwrap();
    writer.hard_link(Path::new("d"), Path::new("d/inner")).unwrap();
    assert_eq!(describe(root)[Path::new("d")], "file inner");
}

#[test]
fn owners_that_are_recorded_are_those_of_the_new_entry() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let owners = Owners::Recorded { sidecar: dir.path().join("owners") };
    let parents = Attributes::with_mode(0o755);
    let options = WriterOptions { owners: owners.clone(), opaque: OpaqueMark::User, parents };
    let owned = |uid| Attributes { uid, gid: uid, ..Attributes::with_mode(0o755) };
    // Where links carry no attributes, owners stand beside the tree.
    let write = move || {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective.remove(rustix::thread::CapabilitySet::SETFCAP);
        rustix::thread::set_capabilities(None, sets).unwrap();
        let writer = TreeWriter::new(&root, options).unwrap();
        let path = Path::new;
        writer.symlink(path("link"), path("target"), &owned(5)).unwrap();
        for name in ["was-directory/file", "also/file"] {
            writer.file(path(name), &mut &b""[..], &owned(6)).unwrap();
        }
        writer.hard_link(path("also"), path("link")).unwrap();
        writer.symlink(path("was-directory"), path("target"), &owned(7)).unwrap();
        writer.symlink(path("link"), path("target"), &owned(8)).unwrap();
        // What stays keeps its owner, whatever was to take its place.
        writer.symlink(path("stays"), path("target"), &owned(9)).unwrap();
        let mut odd = owned(10);
        odd.xattrs.insert(OsString::from(format!("user.{}", "n".repeat(300))), vec![]);
        writer.file(path("stays"), &mut &b""[..], &odd).unwrap_err();
        writer.fifo(path("stays"), &odd).unwrap_err();
        writer.finish().unwrap();
        let tree = DirectoryTree::open(&root, &owners).unwrap();
        for (name, uid) in [("also", 5), ("was-directory", 7), ("link", 8), ("stays", 9)] {
            assert_eq!(tree.metadata(path(name)).unwrap().unwrap().uid, uid, "{name}");
        }
    };
    std::thread::spawn(write).join().unwrap();
}

#[test]
fn what_made_room_for_a_directory_comes_back_unless_all_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    make(root, &["f file old", "l sub/link target", "f sub/other other"]);
    let before = describe(root);
    let attributes = Attributes::with_mode(0o755);
    let write = || {
        let writer = writer(root).with_rollback().unwrap();
        for name in ["file", "file/below", "sub/link"] {
            writer.directory(Path::new(name), &attributes).unwrap();
        }
        writer.file(Path::new("file/below/new"), &mut &b"new"[..], &attributes).unwrap();
        writer
    };
    drop(write());
    assert_eq!(describe(root), before);
    write().finish().unwrap();
    let names: Vec<PathBuf> = describe(root).into_keys().collect();
    assert_eq!(
        names,
        ["file", "file/below", "file/below/new", "sub", "sub/link", "sub/other"].map(PathBuf::from)
    );
    // The time that a directory was given is not that of its clearing.
    let old = tempfile::tempdir().unwrap();
    make(old.path(), &["f d/file old"]);
    let rolling = writer(old.path()).with_rollback().unwrap();
    rolling.directory(Path::new("d"), &Attributes { mtime: Some((1000, 0)), ..attributes.clone() }).unwrap();
    rolling.directory(Path::new("d/file"), &attributes).unwrap();
    rolling.finish().unwrap();
    assert_eq!(fs::metadata(old.path().join("d")).unwrap().mtime(), 1000);
}

/// All is written then.
#[test]
fn what_cannot_be_removed_undoes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    make(root, &["f a old", "f b old", "f c old"]);
    let attributes = Attributes::with_mode(0o755);
    let writer = writer(root).with_rollback().unwrap();
    let mut stuck = PathBuf::new();
    for name in ["a", "b", "c"] {
        let before = describe(root);
        writer.directory(Path::new(name), &attributes).unwrap();
        writer.file(&Path::new(name).join("new"), &mut &b"new"[..], &attributes).unwrap();
        if name == "b" {
            let aside =
                describe(root).into_keys().find(|path| !before.contains_key(path) && !path.starts_with(name));
            stuck = root.join(aside.unwrap());
        }
    }
    fs::remove_file(&stuck).unwrap();
    make(&stuck, &["f somebody's file"]);
    let error = writer.finish().unwrap_err().to_string();
    assert!(error.contains(stuck.to_str().unwrap()), "{error}");
    fs::remove_dir_all(&stuck).unwrap();
    let names: Vec<PathBuf> = describe(root).into_keys().collect();
    assert_eq!(names, ["a", "a/new", "b", "b/new", "c", "c/new"].map(PathBuf::from));
}

/// Changes a file once somebody looked whether it is what it was.
struct Changing {
    tree: DirectoryTree,
    changes: PathBuf,
}

impl FileTree for Changing {
    fn metadata(&self, path: &Path) -> Result<Option<files::Metadata>, TreeError> {
        self.tree.metadata(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<(OsString, files::Metadata)>, TreeError> {
        self.tree.list(path)
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, TreeError> {
        self.tree.read_link(path)
    }

    fn open(&self, path: &Path) -> Result<fs::File, TreeError> {
        self.tree.open(path)
    }

    fn xattrs(&self, path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError> {
        self.tree.xattrs(path)
    }

    fn xattrs_of(&self, path: &Path, file: &fs::File) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError> {
        fs::write(&self.changes, "changed while it was copied").unwrap();
        self.tree.xattrs_of(path, file)
    }
}

#[test]
fn a_source_that_changes_leaves_the_old_file() {
    let from = tempfile::tempdir().unwrap();
    make(from.path(), &["f d/f source"]);
    let context = DirectoryTree::context(from.path()).unwrap();
    let tree = Changing { tree: context, changes: from.path().join("d/f") };
    let found = selected(&tree, "d").unwrap();
    let to = tempfile::tempdir().unwrap();
    make(to.path(), &["f f old"]);
    let writer = writer(to.path());
    let written = write_selected(&tree, &found.matches[0], &writer, &CopyOptions::default(), &never);
    assert!(matches!(written, Err(Error::Changed { .. })), "{written:?}");
    assert_eq!(describe(to.path()), BTreeMap::from([("f".into(), "file old".to_owned())]));
}
