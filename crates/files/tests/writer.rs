//! What a writer leaves on disk, and what it refuses.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use files::{
    Attributes, DirectoryTree, Error, FileTree, Kind, OpaqueMark, Owners, TreeWriter, WriterOptions,
};

fn options(owners: Owners) -> WriterOptions {
    WriterOptions { owners, opaque: OpaqueMark::Trusted, parents: Attributes::with_mode(0o755) }
}

fn writer(root: &Path) -> TreeWriter {
    TreeWriter::new(root, options(Owners::Real)).unwrap()
}

fn attributes(mode: u32, uid: u32, mtime: i64) -> Attributes {
    Attributes { mode, uid, gid: uid + 1, mtime: Some((mtime, 123_456_789)), xattrs: BTreeMap::new() }
}

fn lstat(path: PathBuf) -> (u32, u32, u32, i64, i64) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.mode() & 0o7777, metadata.uid(), metadata.gid(), metadata.mtime(), metadata.mtime_nsec())
}

#[test]
fn every_kind_has_its_attributes() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let writer = writer(root);
    writer.directory(Path::new("d"), &attributes(0o2711, 10, 1000)).unwrap();
    let mut setuid = attributes(0o4755, 20, 2000);
    setuid.xattrs.insert("user.note".into(), b"n".to_vec());
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    setuid.xattrs.insert("security.capability".into(), capability.to_vec());
    assert_eq!(writer.file(Path::new("d/f"), &mut &b"content"[..], &setuid).unwrap(), 7);
    writer.symlink(Path::new("d/l"), Path::new("f"), &attributes(0o777, 30, 3000)).unwrap();
    writer.fifo(Path::new("d/p"), &attributes(0o620, 40, 4000)).unwrap();
    writer.device(Path::new("d/c"), Kind::CharDevice, (1, 7), &attributes(0o666, 50, 5000)).unwrap();
    writer.device(Path::new("d/b"), Kind::BlockDevice, (7, 99), &attributes(0o660, 60, 6000)).unwrap();
    writer.hard_link(Path::new("d/h"), Path::new("d/f")).unwrap();
    writer.directory(Path::new(""), &attributes(0o700, 0, 7000)).unwrap();
    writer.whiteout(Path::new("d/gone")).unwrap();
    writer.opaque(Path::new("d")).unwrap();
    writer.finish().unwrap();

    for (path, mode, uid, mtime) in [
        ("", 0o700, 0, 7000),
        ("d", 0o2711, 10, 1000),
        ("d/f", 0o4755, 20, 2000),
        ("d/l", 0o777, 30, 3000),
        ("d/p", 0o620, 40, 4000),
        ("d/c", 0o666, 50, 5000),
        ("d/b", 0o660, 60, 6000),
    ] {
        assert_eq!(lstat(root.join(path)), (mode, uid, uid + 1, mtime, 123_456_789), "{path}");
    }
    assert_eq!(fs::read(root.join("d/h")).unwrap(), b"content");
    assert_eq!(fs::metadata(root.join("d/h")).unwrap().nlink(), 2);
    assert_eq!(fs::read_link(root.join("d/l")).unwrap(), Path::new("f"));
    assert!(fs::symlink_metadata(root.join("d/p")).unwrap().file_type().is_fifo());
    let tree = DirectoryTree::open(root, &Owners::Real).unwrap();
    let device = |path: &str| {
        let metadata = tree.metadata(Path::new(path)).unwrap().unwrap();
        (metadata.kind, metadata.device)
    };
    assert_eq!(device("d/c"), (Kind::CharDevice, (1, 7)));
    assert_eq!(device("d/b"), (Kind::BlockDevice, (7, 99)));
    assert_eq!(device("d/gone"), (Kind::CharDevice, (0, 0)));
    assert_eq!(tree.xattrs(Path::new("d/f")).unwrap(), setuid.xattrs);
    assert_eq!(tree.xattrs(Path::new("d")).unwrap(), BTreeMap::new());
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(root.join("d"), "trusted.overlay.opaque", &mut value).unwrap();
    assert_eq!(&value[..length], b"y");
}

#[test]
fn parents_are_made_and_what_is_in_the_way_goes() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    common::make(
        root,
        &["f was-file x", "f was-dir/deep/er x", "l was-link /etc", "d stays/here", "f old/deep/x y"],
    );
    let writer = writer(root);
    let file = Attributes::with_mode(0o644);
    writer.file(Path::new("a/b/c/f"), &mut &b"1"[..], &file).unwrap();
    writer.directory(Path::new("was-file"), &Attributes::with_mode(0o750)).unwrap();
    writer.file(Path::new("was-dir"), &mut &b"2"[..], &file).unwrap();
    writer.directory(Path::new("was-link"), &Attributes::with_mode(0o711)).unwrap();
    writer.directory(Path::new("stays"), &Attributes::with_mode(0o700)).unwrap();
    // A directory whose handle is known is replaced: what follows must go into the new one.
    writer.file(Path::new("old/deep/one"), &mut &b"3"[..], &file).unwrap();
    writer.remove(Path::new("old")).unwrap();
    writer.remove(Path::new("never")).unwrap();
    writer.file(Path::new("old/deep/two"), &mut &b"4"[..], &file).unwrap();
    writer.symlink(Path::new("a/b/c/f"), Path::new("new"), &file).unwrap();
    writer.finish().unwrap();

    assert_eq!(lstat(root.join("a/b")).0, 0o755);
    assert_eq!(lstat(root.join("was-file")).0, 0o750);
    assert_eq!(fs::read(root.join("was-dir")).unwrap(), b"2");
    assert_eq!((lstat(root.join("was-link")).0, root.join("was-link").is_symlink()), (0o711, false));
    assert!(root.join("stays/here").is_dir());
    assert_eq!(lstat(root.join("stays")).0, 0o700);
    assert_eq!(fs::read_dir(root.join("old/deep")).unwrap().count(), 1);
    assert_eq!(fs::read_link(root.join("a/b/c/f")).unwrap(), Path::new("new"));
}

#[test]
fn nothing_leads_out_of_the_root() {
    let outside = tempfile::tempdir().unwrap();
    common::make(outside.path(), &["f victim v", "d dir"]);
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    symlink(outside.path(), root.join("out")).unwrap();
    symlink(outside.path().join("victim"), root.join("link")).unwrap();
    symlink("..", root.join("up")).unwrap();
    fs::write(root.join("plain"), "").unwrap();
    let writer = writer(&root);
    let file = Attributes::with_mode(0o644);
    for path in [
        "..",
        "../x",
        "a/../../x",
        "a/..",
        ".",
        "./a",
        "a/./b",
        "/etc/x",
        "/",
        "a//b",
        "a/",
        "nul\0byte",
        "out/x",
        "out/dir/x",
        "up/x",
        "link/x",
        "plain/x",
    ] {
        let path = Path::new(path);
        let refused = [
            writer.file(path, &mut &b"bad"[..], &file).map(drop),
            writer.symlink(path, Path::new("t"), &file),
            writer.fifo(path, &file),
            writer.whiteout(path),
            writer.hard_link(Path::new("new"), path),
            writer.hard_link(path, Path::new("plain")),
            writer.remove(path),
            writer.directory(path, &file),
        ];
        for (index, result) in refused.into_iter().enumerate() {
            assert!(matches!(result, Err(Error::Unsafe { .. })), "{path:?}, operation {index}: {result:?}");
        }
        assert!(writer.opaque(path).is_err(), "{path:?}");
    }
    // A link itself is replaced, not followed.
    writer.file(Path::new("link"), &mut &b"new"[..], &file).unwrap();
    writer.directory(Path::new("out"), &attributes(0o700, 77, 1)).unwrap();
    writer.finish().unwrap();
    assert_eq!(fs::read(outside.path().join("victim")).unwrap(), b"v");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 2);
    assert_ne!(lstat(outside.path().to_owned()).1, 77);
    assert!(!dir.path().join("x").exists());
}

#[test]
fn owners_and_devices_can_be_recorded() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    are_recorded(capabilities(None).unwrap().effective.contains(CapabilitySet::SETFCAP));
    // Where attributes of links are refused; only this thread may not set them.
    let refused = || {
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::SETFCAP);
        set_capabilities(None, sets).unwrap();
        are_recorded(false);
    };
    std::thread::scope(|scope| scope.spawn(refused).join().unwrap());
}

fn are_recorded(links_carry_it: bool) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("tree");
    fs::create_dir(&root).unwrap();
    let owners = Owners::Recorded { sidecar: dir.path().join("tree.owners") };
    let writer = TreeWriter::new(&root, options(owners.clone())).unwrap();
    let owned = attributes(0o640, 5, 9);
    writer.directory(Path::new("d"), &owned).unwrap();
    writer.file(Path::new("d/f"), &mut &b"x"[..], &owned).unwrap();
    writer.file(Path::new("d/root"), &mut &b"x"[..], &Attributes::with_mode(0o600)).unwrap();
    writer.symlink(Path::new("d/l"), Path::new("f"), &owned).unwrap();
    writer.symlink(Path::new("d/replaced"), Path::new("f"), &owned).unwrap();
    writer.file(Path::new("d/replaced"), &mut &b""[..], &Attributes::with_mode(0o600)).unwrap();
    writer.fifo(Path::new("d/p"), &owned).unwrap();
    // As the owner 5:6 is recorded.
    let mut claimed = Attributes::with_mode(0o777);
    claimed
        .xattrs
        .insert("security.capability".into(), b"\0\0\0\x02\x05\0\0\0\x06\0\0\0bown\0\0\0\0".to_vec());
    writer.symlink(Path::new("d/claims"), Path::new("f"), &claimed).unwrap();
    writer.device(Path::new("d/c"), Kind::CharDevice, (1, 3), &owned).unwrap();
    writer.hard_link(Path::new("d/l2"), Path::new("d/l")).unwrap();
    writer.directory(Path::new("back"), &owned).unwrap();
    writer.directory(Path::new("back"), &Attributes::with_mode(0o700)).unwrap();
    writer.finish().unwrap();

    for path in ["d", "d/f", "d/l", "d/c"] {
        assert_eq!(lstat(root.join(path)).1, 0, "{path} is owned by us");
    }
    // A later writer keeps what is recorded.
    let writer = TreeWriter::new(&root, options(owners.clone())).unwrap();
    writer.remove(Path::new("d/l2")).unwrap();
    writer.finish().unwrap();
    let tree = DirectoryTree::open(&root, &owners).unwrap();
    let owner = |path: &str| {
        let metadata = tree.metadata(Path::new(path)).unwrap().unwrap();
        (metadata.uid, metadata.gid)
    };
    for (path, expected) in [
        ("", (0, 0)),
        ("d", (5, 6)),
        ("d/f", (5, 6)),
        ("d/root", (0, 0)),
        ("d/l", (5, 6)),
        ("d/replaced", (0, 0)),
        ("d/p", (5, 6)),
        ("d/claims", (0, 0)),
        ("d/c", (5, 6)),
        ("back", (0, 0)),
    ] {
        assert_eq!(owner(path), expected, "{path}");
    }
    for (name, metadata) in tree.list(Path::new("d")).unwrap() {
        let path = Path::new("d").join(name);
        assert_eq!(tree.metadata(&path).unwrap().unwrap(), metadata);
        assert_eq!(tree.xattrs(&path).unwrap(), BTreeMap::new());
    }
    let beside = fs::read(dir.path().join("tree.owners")).unwrap();
    let expected: &[u8] = match links_carry_it {
        true => b"builder-owners-v1\0",
        false => b"builder-owners-v1\x005:6 d/l\x005:6 d/p\0",
    };
    assert_eq!(beside, expected);
    if links_carry_it {
        // The same file by another name, whoever gave it that.
        fs::hard_link(root.join("d/p"), root.join("d/further")).unwrap();
        fs::rename(root.join("d/l"), root.join("d/moved")).unwrap();
        assert_eq!([owner("d/further"), owner("d/moved")], [(5, 6), (5, 6)]);
    }
    let device = tree.metadata(Path::new("d/c")).unwrap().unwrap();
    assert_eq!((device.kind, device.device, device.mode), (Kind::CharDevice, (1, 3), 0o640));
}

#[test]
fn many_threads_write_at_once() {
    use rayon::prelude::*;
    let dir = tempfile::tempdir().unwrap();
    let writer = writer(dir.path());
    // More directories than are kept open.
    (0..3000).into_par_iter().for_each(|n| {
        let path = format!("d{}/e{}/f{n}", n % 7, n % 400);
        writer.file(Path::new(&path), &mut path.as_bytes(), &Attributes::with_mode(0o644)).unwrap();
    });
    writer.finish().unwrap();
    for n in 0..3000 {
        let path = format!("d{}/e{}/f{n}", n % 7, n % 400);
        assert_eq!(fs::read_to_string(dir.path().join(&path)).unwrap(), path);
    }
}

#[test]
fn errors_say_what_where_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let writer = writer(root);
    let name = "n".repeat(300);
    let error = writer.file(Path::new(&name), &mut &b""[..], &Attributes::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("create {}: File name too long (os error 36)", root.join(&name).display())
    );
    let error = writer.hard_link(Path::new("x"), Path::new("absent")).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("stat {}: No such file or directory (os error 2)", root.join("absent").display())
    );
    let mut attributes = Attributes::with_mode(0o644);
    let odd = format!("user.{}", "n".repeat(300));
    attributes.xattrs.insert(odd.clone().into(), vec![]);
    let error = writer.file(Path::new("f"), &mut &b""[..], &attributes).unwrap_err().to_string();
    assert!(error.contains("set attributes of") && error.contains(&odd), "{error}");
    assert!(TreeWriter::new(&root.join("absent"), options(Owners::Real)).is_err());
}

/// A removal means the layers below: in one layer, it does not matter what comes first.
#[test]
fn removals_spare_what_the_layer_itself_has() {
    let dir = tempfile::tempdir().unwrap();
    let writer = writer(dir.path());
    let mode = Attributes::with_mode(0o755);
    let is_opaque = |name: &str| {
        rustix::fs::getxattr(dir.path().join(name), "trusted.overlay.opaque", &mut [0; 8]) == Ok(1)
    };
    writer.file(Path::new("file"), &mut &b"kept"[..], &mode).unwrap();
    writer.whiteout(Path::new("file")).unwrap();
    writer.file(Path::new("before/file"), &mut &b"kept"[..], &mode).unwrap();
    writer.whiteout(Path::new("before")).unwrap();
    writer.whiteout(Path::new("after")).unwrap();
    writer.directory(Path::new("after"), &mode).unwrap();
    writer.directory(Path::new("plain"), &mode).unwrap();
    assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"kept");
    assert_eq!(fs::read(dir.path().join("before/file")).unwrap(), b"kept");
    assert!(is_opaque("before") && is_opaque("after") && !is_opaque("plain"));
    // The mark itself is nothing that can be copied from anywhere.
    let error = writer.device(Path::new("file"), files::Kind::CharDevice, (0, 0), &mode).unwrap_err();
    assert!(matches!(error, Error::Unsafe { .. }), "{error}");
}

#[test]
fn directories_that_nobody_wrote_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let writer = writer(dir.path());
    let mode = Attributes::with_mode(0o755);
    writer.directory(Path::new("said"), &mode).unwrap();
    for path in ["said/implied/file", "a/b/file", "gone/file"] {
        writer.file(Path::new(path), &mut &b""[..], &mode).unwrap();
    }
    writer.file(Path::new("gone"), &mut &b""[..], &mode).unwrap();
    writer.directory(Path::new("a"), &mode).unwrap();
    assert_eq!(writer.implied(), [Path::new("a/b"), Path::new("said/implied")]);
}

#[test]
fn attributes_of_the_store_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let writer = writer(dir.path());
    let mut attributes = Attributes::with_mode(0o755);
    for name in
        ["trusted.overlay.opaque", "trusted.overlay.redirect", "user.overlay.opaque", "user.builder.owner"]
    {
        attributes.xattrs.insert(name.into(), b"y".to_vec());
    }
    writer.directory(Path::new("d"), &attributes).unwrap();
    writer.fifo(Path::new("p"), &attributes).unwrap();
    for name in ["d", "p"] {
        assert_eq!(rustix::fs::llistxattr(dir.path().join(name), &mut [0u8; 256]), Ok(0), "{name}");
    }
}

#[test]
fn files_of_all_sizes_are_copied() {
    let dir = tempfile::tempdir().unwrap();
    let writer = writer(dir.path());
    for size in [0, 1, 65_536, 65_537, 300_000, 20_000_000] {
        let content: Vec<u8> = (0..size).map(|n: u32| (n % 251) as u8).collect();
        let source = dir.path().join("source");
        fs::write(&source, &content).unwrap();
        let file = fs::File::open(&source).unwrap();
        let attributes = Attributes::with_mode(0o644);
        let path = Path::new("copy");
        let written = writer.file_from(path, &file, size.into(), &attributes, &common::never).unwrap();
        assert_eq!(written, u64::from(size));
        assert!(fs::read(dir.path().join("copy")).unwrap() == content, "{size}");
    }
    let file = fs::File::open(dir.path().join("source")).unwrap();
    let result = writer.file_from(Path::new("c"), &file, 20_000_000, &Attributes::default(), &|| true);
    assert!(matches!(result, Err(Error::Cancelled)));
}

/// What is not there takes no room, and reads as it should.
#[test]
fn zeros_become_holes() {
    let dir = tempfile::tempdir().unwrap();
    let writer = writer(dir.path());
    let block = 64 << 10;
    let zeros = |length: usize| vec![0; length];
    let cases = [
        zeros(0),
        zeros(1),
        zeros(block),
        zeros(40 * block),
        [zeros(20 * block), b"x".to_vec()].concat(),
        [b"x".to_vec(), zeros(20 * block)].concat(),
        [zeros(block), vec![1; block], zeros(10 * block), vec![1; 7], zeros(block + 3)].concat(),
    ];
    for (number, bytes) in cases.iter().enumerate() {
        let name = PathBuf::from(number.to_string());
        let written = writer.file(&name, &mut &bytes[..], &attributes(0o644, 0, 5)).unwrap();
        assert_eq!(written, bytes.len() as u64);
        assert!(fs::read(dir.path().join(&name)).unwrap() == *bytes, "{number}");
        let blocks = fs::metadata(dir.path().join(&name)).unwrap().blocks() * 512;
        assert!(blocks <= 3 * block as u64, "{number}: {blocks} bytes of {}", bytes.len());
    }
}

#[test]
fn a_single_id_is_enough_to_record_owners() {
    let inside = |test: &str| {
        let output = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (passed, output) = inside("owners_and_devices_can_be_recorded");
    assert!(passed && output.contains("1 passed"), "{output}");
    // There, no other owner can be set and no device made: the test above proves something.
    let (passed, output) = inside("every_kind_has_its_attributes");
    assert!(!passed, "{output}");
}
