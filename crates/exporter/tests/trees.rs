//! Exported trees.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use exporter::{
    DirectoryExporter, DirectoryMode, ExportError, Exported, Exporter, Output, Product, TarExporter, Trees,
};
use files::{Attributes, DirectoryTree, FileTree, OpaqueMark, Owners, TreeWriter, WriterOptions};
use image::Platform;
use image::layer::{EntryKind, LayerReader};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat};

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// A tree with everything in it. Needs root, as the tests of this project do.
fn make(root: &Path) {
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir_all(root.join("tmp")).unwrap();
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(root.join("bin/su"), "su").unwrap();
    std::os::unix::fs::chown(root.join("bin/su"), Some(7), Some(8)).unwrap();
    fs::set_permissions(root.join("bin/su"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::hard_link(root.join("bin/su"), root.join("twin")).unwrap();
    fs::write(root.join("bin/ping"), "ping").unwrap();
    set_xattr(&root.join("bin/ping"), "security.capability", CAPABILITY);
    set_xattr(&root.join("bin/ping"), "user.note", b"a\nb=c");
    set_xattr(&root.join("bin"), "user.directory", b"d");
    symlink("/etc/passwd", root.join("link")).unwrap();
    mknodat(CWD, root.join("null"), FileType::CharacterDevice, Mode::from(0o666), makedev(1, 3)).unwrap();
    mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::from(0o644), 0).unwrap();
    for name in ["link", "null", "pipe"] {
        fs::hard_link(root.join(name), root.join("bin").join(name)).unwrap();
    }
    // No layer could hold it, a plain tar can.
    fs::write(root.join(".wh.real"), "w").unwrap();
    fs::write(root.join("big"), vec![b'b'; 3 << 20]).unwrap();
    for path in ["bin/su", "bin/ping", "big"] {
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 5);
        fs::File::options().append(true).open(root.join(path)).unwrap().set_modified(time).unwrap();
    }
}

fn tree(root: &Path) -> Arc<dyn FileTree> {
    Arc::new(DirectoryTree::open(root, &Owners::Real).unwrap())
}

fn product(root: &Path, epoch: Option<i64>) -> Product {
    Product::Trees(Trees { trees: vec![(Platform::host(), tree(root))], split: false, epoch })
}

fn export(exporter: &dyn Exporter, product: Product) -> Result<Exported, ExportError> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(exporter.export(product))
}

fn tar(product: Product) -> Vec<u8> {
    let bytes: Arc<Mutex<Vec<u8>>> = Arc::default();
    export(&TarExporter::new(Output::Stream(bytes.clone())), product).unwrap();
    std::mem::take(&mut *bytes.lock().unwrap())
}

fn copy(from: &Path, to: &Path, mode: DirectoryMode) -> Result<Exported, ExportError> {
    export(&DirectoryExporter::new(to, mode), product(from, None))
}

/// Path, kind, mode, link target or content, attributes and time of everything below a directory, and optionally the owner.
fn describe(root: &Path, owners: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for item in fs::read_dir(&directory).unwrap() {
            let path = item.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            let content = match () {
                () if found.is_symlink() => fs::read_link(&path).unwrap().display().to_string(),
                () if found.is_file() => hash::Digest::of(&fs::read(&path).unwrap()).to_string(),
                () => found.rdev().to_string(),
            };
            let mut names = vec![0; 4096];
            let length = rustix::fs::llistxattr(&path, &mut names).unwrap();
            let names = String::from_utf8_lossy(&names[..length]).into_owned();
            let mut xattrs: Vec<_> = names
                .split_terminator('\0')
                .map(|name| {
                    let mut value = vec![0; 4096];
                    let length = rustix::fs::lgetxattr(&path, name, &mut value).unwrap();
                    value.truncate(length);
                    (name, value)
                })
                .collect();
            xattrs.sort();
            let owner = if owners { (found.uid(), found.gid()) } else { (0, 0) };
            let relative = path.strip_prefix(root).unwrap().display().to_string();
            let (mode, links) = (found.mode(), if found.is_dir() { 0 } else { found.nlink() });
            let time = if found.is_file() { found.mtime() } else { 0 };
            lines.push(format!("{relative} {mode:o} {links} {owner:?} {time} {content} {xattrs:?}"));
            if found.is_dir() {
                left.push(path);
            }
        }
    }
    lines.sort();
    lines
}

#[test]
fn a_tar_holds_the_tree() {
    let directory = tempfile::tempdir().unwrap();
    let (from, to) = (directory.path().join("from"), directory.path().join("to"));
    make(&from);
    let bytes = tar(product(&from, None));
    assert!(bytes == tar(product(&from, None)));
    fs::create_dir(&to).unwrap();
    fs::write(directory.path().join("a.tar"), &bytes).unwrap();
    let status = Command::new("tar")
        .args(["-xpf", "a.tar", "-C", "to", "--xattrs", "--xattrs-include=*", "--numeric-owner"])
        .current_dir(directory.path())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(describe(&to, true), describe(&from, true));

    let mut reader = LayerReader::new(&bytes[..]);
    let first = reader.next_entry().unwrap().unwrap();
    assert_ne!(first.path, b"", "no entry for the root");
}

#[test]
fn an_epoch_sets_every_time() {
    let directory = tempfile::tempdir().unwrap();
    let (from, to) = (directory.path().join("from"), directory.path().join("to"));
    make(&from);
    fs::remove_file(from.join(".wh.real")).unwrap();
    let bytes = tar(product(&from, Some(1_234)));
    let mut reader = LayerReader::new(&bytes[..]);
    let mut count = 0;
    while let Some(entry) = reader.next_entry().unwrap() {
        assert_eq!((entry.mtime, entry.mtime_nanos), (1_234, 0));
        count += 1;
    }
    assert!(count > 8);
    export(&DirectoryExporter::new(&to, DirectoryMode::Copy), product(&from, Some(1_234))).unwrap();
    for path in ["bin", "bin/su", "twin", "link", "pipe", "tmp"] {
        assert_eq!(fs::symlink_metadata(to.join(path)).unwrap().mtime(), 1_234, "{path}");
    }
}

#[test]
fn several_platforms_have_directories_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let from = directory.path().join("from");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("one"), "1").unwrap();
    fs::hard_link(from.join("one"), from.join("two")).unwrap();
    let platforms = ["linux/amd64", "linux/arm/v7"];
    let trees: Vec<_> = platforms.iter().map(|one| (one.parse().unwrap(), tree(&from))).collect();
    let product = Product::Trees(Trees { trees, split: true, epoch: None });
    let bytes = tar(product.clone());
    let mut reader = LayerReader::new(&bytes[..]);
    let mut seen = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        if let EntryKind::Hardlink { target } = &entry.kind {
            assert_eq!(target, &[entry.path.strip_suffix(b"two").unwrap(), b"one"].concat());
        }
        seen.push(String::from_utf8(entry.path).unwrap());
    }
    let expected = [
        "linux_amd64",
        "linux_amd64/one",
        "linux_amd64/two",
        "linux_arm_v7",
        "linux_arm_v7/one",
        "linux_arm_v7/two",
    ];
    assert_eq!(seen, expected);
    let to = directory.path().join("to");
    export(&DirectoryExporter::new(&to, DirectoryMode::Copy), product).unwrap();
    assert_eq!(fs::read_to_string(to.join("linux_arm_v7/two")).unwrap(), "1");
}

#[test]
fn a_directory_holds_the_tree_and_belongs_to_the_user() {
    let directory = tempfile::tempdir().unwrap();
    let (from, to) = (directory.path().join("from"), directory.path().join("deep/to"));
    make(&from);
    let exported = copy(&from, &to, DirectoryMode::Copy).unwrap();
    assert_eq!(exported.warnings, Vec::<String>::new());
    let without_owner = describe(&from, false);
    assert_eq!(describe(&to, false), without_owner);
    let su = fs::metadata(to.join("bin/su")).unwrap();
    let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    assert_eq!((su.uid(), su.gid()), me);
    // Again over itself: nothing doubles, nothing is left behind.
    copy(&from, &to, DirectoryMode::Copy).unwrap();
    assert_eq!(describe(&to, false), without_owner);
}

#[test]
fn other_files_stay_or_go_as_asked() {
    let directory = tempfile::tempdir().unwrap();
    let (from, to) = (directory.path().join("from"), directory.path().join("to"));
    fs::create_dir_all(from.join("shared")).unwrap();
    fs::write(from.join("shared/new"), "n").unwrap();
    fs::create_dir_all(to.join("shared/old")).unwrap();
    fs::create_dir_all(to.join("mine/deep")).unwrap();
    fs::write(to.join("mine/deep/f"), "m").unwrap();
    let outside = directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "p").unwrap();
    symlink(&outside, to.join("away")).unwrap();
    fs::set_permissions(&to, fs::Permissions::from_mode(0o700)).unwrap();

    copy(&from, &to, DirectoryMode::Copy).unwrap();
    assert!(
        to.join("mine/deep/f").exists() && to.join("shared/old").exists() && to.join("shared/new").exists()
    );
    copy(&from, &to, DirectoryMode::Delete).unwrap();
    assert_eq!(describe(&to, false), describe(&from, false));
    assert!(outside.join("precious").exists(), "links are removed, not followed");
    assert_eq!(fs::metadata(&to).unwrap().mode() & 0o777, 0o700, "the destination keeps its mode");
}

/// Longer names than the system takes at once, and a file that makes room for a directory.
#[test]
fn what_is_deep_stays_or_goes_as_asked() {
    let directory = tempfile::tempdir().unwrap();
    let [from, more, to] = ["from", "more", "to"].map(|name| directory.path().join(name));
    let deep: std::path::PathBuf = (0..25).map(|_| "n".repeat(250)).collect();
    let mode = Attributes::with_mode(0o755);
    for (root, names) in [(&from, &["kept"][..]), (&more, &["kept", "gone"])] {
        fs::create_dir(root).unwrap();
        let options = WriterOptions { owners: Owners::Real, opaque: OpaqueMark::User, parents: mode.clone() };
        let writer = TreeWriter::new(root, options).unwrap();
        for name in names {
            writer.file(&deep.join(name), &mut name.as_bytes(), &mode).unwrap();
        }
        writer.finish().unwrap();
    }
    fs::create_dir(&to).unwrap();
    fs::write(to.join("n".repeat(250)), "in the way").unwrap();
    for (from, mode, expected) in [
        (&more, DirectoryMode::Delete, &["gone", "kept"][..]),
        (&from, DirectoryMode::Copy, &["gone", "kept"]),
        (&from, DirectoryMode::Delete, &["kept"]),
    ] {
        copy(from, &to, mode).unwrap();
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
        let list = DirectoryTree::open(&to, &Owners::Real).unwrap().list(&deep).unwrap();
        let mut names: Vec<_> = list.into_iter().map(|(name, _)| name).collect();
        names.sort();
        assert_eq!(names, expected);
    }
}

#[test]
fn links_in_the_destination_are_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let (from, to) = (directory.path().join("from"), directory.path().join("to"));
    let outside = directory.path().join("outside");
    fs::create_dir_all(from.join("etc")).unwrap();
    fs::write(from.join("etc/passwd"), "evil").unwrap();
    fs::create_dir(&to).unwrap();
    fs::create_dir(&outside).unwrap();
    // What an earlier image may have left there.
    symlink(&outside, to.join("etc")).unwrap();
    copy(&from, &to, DirectoryMode::Copy).unwrap();
    assert!(!outside.join("passwd").exists());
    assert_eq!(fs::read_to_string(to.join("etc/passwd")).unwrap(), "evil");
}

#[test]
fn a_destination_that_is_a_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let from = directory.path().join("from");
    fs::create_dir(&from).unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = copy(&from, &path, DirectoryMode::Copy).unwrap_err().to_string();
        assert!(error.contains("not a directory"), "{error}");
    }
    let empty = Product::Trees(Trees { trees: vec![], split: false, epoch: None });
    let exporter = DirectoryExporter::new(directory.path().join("to"), DirectoryMode::Copy);
    assert!(matches!(export(&exporter, empty), Err(ExportError::Empty)));
}

/// The part of the next test that runs as an ordinary user.
#[test]
fn helper_without_privilege() {
    let (Some(from), Some(to)) = (std::env::var_os("EXPORT_FROM"), std::env::var_os("EXPORT_TO")) else {
        return;
    };
    let exported = copy(Path::new(&from), Path::new(&to), DirectoryMode::Copy).unwrap();
    fs::write(Path::new(&to).join("warnings"), exported.warnings.join("\n")).unwrap();
}

#[test]
fn what_a_user_may_not_create_is_left_out_with_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let (from, to) = (directory.path().join("from"), directory.path().join("to"));
    make(&from);
    // The test program may stand where nobody else can read it.
    let program = directory.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["--exact", "helper_without_privilege"])
        .env("EXPORT_FROM", &from)
        .env("EXPORT_TO", &to)
        .env("TMPDIR", directory.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let warnings = fs::read_to_string(to.join("warnings")).unwrap();
    assert!(warnings.contains("2 device(s), as /bin/null"), "{warnings}");
    assert!(warnings.contains("security.capability of 1 file(s), as /bin/ping"), "{warnings}");
    assert!(!to.join("null").exists());
    let su = fs::metadata(to.join("bin/su")).unwrap();
    assert_eq!((su.uid(), su.mode() & 0o7777, su.nlink()), (65534, 0o4755, 2));
    let mut note = vec![0; 100];
    let length = rustix::fs::lgetxattr(to.join("bin/ping"), "user.note", &mut note).unwrap();
    assert_eq!(&note[..length], b"a\nb=c");
    assert_eq!(fs::read_link(to.join("link")).unwrap().as_os_str().as_bytes(), b"/etc/passwd");
}
