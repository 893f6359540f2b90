//! Trees for tests.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use files::{DirectoryTree, Error, FileTree, NoCache, PathSelection, Selected, Selection, digest, select};
use hash::ContentDigest;

/// Makes entries from lines: `d path`, `f path content`, `l path target`, `h path existing`, `p path`, `s path`.
pub(crate) fn make(root: &Path, lines: &[&str]) {
    for line in lines {
        let mut words = line.splitn(3, ' ');
        let (kind, path, rest) =
            (words.next().unwrap(), root.join(words.next().unwrap()), words.next().unwrap_or(""));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match kind {
            "d" => fs::create_dir_all(&path).unwrap(),
            "f" => fs::write(&path, rest).unwrap(),
            "l" => symlink(rest, &path).unwrap(),
            "h" => fs::hard_link(root.join(rest), &path).unwrap(),
            "p" => rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap(),
            "s" => drop(std::os::unix::net::UnixListener::bind(&path).unwrap()),
            _ => panic!("{line}"),
        }
    }
}

pub(crate) fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn device(path: &Path, major: u32, minor: u32) {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    mknodat(CWD, path, FileType::CharacterDevice, Mode::RUSR, makedev(major, minor)).unwrap();
}

pub(crate) fn xattr(path: &Path, name: &str, value: &[u8]) {
    let name = CString::new(name).unwrap();
    rustix::fs::setxattr(path, &*name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

pub(crate) fn path(pattern: &str) -> Selection {
    Selection::Path(PathSelection { wildcards: true, ..PathSelection::exact(pattern) })
}

pub(crate) fn never() -> bool {
    false
}

pub(crate) fn selected(tree: &dyn FileTree, pattern: &str) -> Result<Selected, Error> {
    select(tree, &path(pattern), &never)
}

/// The digest of what a pattern selects of a host directory taken as a snapshot.
pub(crate) fn digest_of(root: &Path, pattern: &str) -> ContentDigest {
    let tree = DirectoryTree::open(root, &files::Owners::Real).unwrap();
    digest(&selected(&tree, pattern).unwrap(), &tree, &NoCache, &never).unwrap().digest
}

/// `base_name: path path …` for each match.
pub(crate) fn listing(selected: &Selected) -> Vec<String> {
    selected
        .matches
        .iter()
        .map(|found| {
            let paths: Vec<String> = found.entries().map(|entry| entry.path.display().to_string()).collect();
            format!("{}:{}", found.base_name.display(), paths.join(" "))
        })
        .collect()
}

/// A tree that remembers what it is asked for.
pub(crate) struct Watched<T> {
    inner: T,
    listed: std::sync::Mutex<Vec<std::path::PathBuf>>,
    opened: std::sync::Mutex<Vec<std::path::PathBuf>>,
}

impl<T> Watched<T> {
    pub(crate) fn new(inner: T) -> Watched<T> {
        Watched { inner, listed: Default::default(), opened: Default::default() }
    }

    pub(crate) fn listed(&self) -> Vec<std::path::PathBuf> {
        let mut listed = std::mem::take(&mut *self.listed.lock().unwrap());
        listed.sort();
        listed
    }

    pub(crate) fn opened(&self) -> Vec<std::path::PathBuf> {
        let mut opened = std::mem::take(&mut *self.opened.lock().unwrap());
        opened.sort();
        opened
    }
}

impl<T: FileTree> FileTree for Watched<T> {
    fn metadata(&self, path: &Path) -> Result<Option<files::Metadata>, files::TreeError> {
        self.inner.metadata(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<(std::ffi::OsString, files::Metadata)>, files::TreeError> {
        self.listed.lock().unwrap().push(path.to_owned());
        self.inner.list(path)
    }

    fn read_link(&self, path: &Path) -> Result<std::path::PathBuf, files::TreeError> {
        self.inner.read_link(path)
    }

    fn open(&self, path: &Path) -> Result<fs::File, files::TreeError> {
        self.opened.lock().unwrap().push(path.to_owned());
        self.inner.open(path)
    }

    fn xattrs(
        &self,
        path: &Path,
    ) -> Result<std::collections::BTreeMap<std::ffi::OsString, Vec<u8>>, files::TreeError> {
        self.opened.lock().unwrap().push(path.to_owned());
        self.inner.xattrs(path)
    }
}
