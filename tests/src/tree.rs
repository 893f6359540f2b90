//! File trees as values that can be compared: from a directory, from a tar.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use sha2::{Digest, Sha256};

/// What is at one path. Times are left out: they are no part of what a tree is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `directory`, `file`, `symlink`, `fifo`, `char 1:3`, `block 8:0`.
    pub kind: String,
    /// Permissions with setuid, setgid and sticky bit; 0 for a symlink, whose mode means nothing.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Digest of a file's content, or a symlink's target.
    pub content: String,
    /// `user.*` and file capabilities.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// The first path, in byte order, of the hard links of what has several.
    pub links: Option<String>,
}

/// Paths without a leading slash, to what is there. The root itself is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<String, Node>);

impl Tree {
    /// Reads a directory.
    ///
    /// # Panics
    /// When something in it cannot be read.
    pub fn from_dir(root: &Path) -> Self {
        let mut nodes = BTreeMap::new();
        let mut inodes: BTreeMap<(u64, u64), Vec<String>> = BTreeMap::new();
        walk(root, root, &mut nodes, &mut inodes);
        let mut tree = Self(nodes);
        tree.link(inodes.into_values());
        tree
    }

    /// Reads a tar, plain or gzip.
    ///
    /// # Panics
    /// When it is none.
    pub fn from_tar(bytes: &[u8]) -> Self {
        let mut plain = Vec::new();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain).expect("gzip");
        } else {
            plain = bytes.to_vec();
        }
        let mut tree = Self::default();
        let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut archive = tar::Archive::new(plain.as_slice());
        let mut extra = Extra::default();
        // Raw, because the tar crate cuts PAX records at newlines, which binary values may hold.
        for entry in archive.entries().expect("a tar").raw(true) {
            let mut entry = entry.expect("an entry");
            let header = entry.header().clone();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("an entry's content");
            if extra.take(header.entry_type(), &bytes) {
                continue;
            }
            let extra = std::mem::take(&mut extra);
            let path = clean(extra.get("path").unwrap_or(&header.path_bytes()));
            let link = extra
                .get("linkpath")
                .map(<[u8]>::to_vec)
                .or_else(|| header.link_name_bytes().map(Into::into));
            let link = String::from_utf8_lossy(&link.unwrap_or_default()).into_owned();
            let device = || {
                let major = header.device_major().ok().flatten().unwrap_or(0);
                let minor = header.device_minor().ok().flatten().unwrap_or(0);
                format!("{major}:{minor}")
            };
            let mut content = String::new();
            let kind = match header.entry_type() {
                tar::EntryType::Directory => "directory".to_owned(),
                tar::EntryType::Symlink => {
                    content = link;
                    "symlink".to_owned()
                }
                tar::EntryType::Fifo => "fifo".to_owned(),
                tar::EntryType::Char => format!("char {}", device()),
                tar::EntryType::Block => format!("block {}", device()),
                tar::EntryType::Link => {
                    let first = clean(link.as_bytes());
                    groups.entry(first.clone()).or_insert_with(|| vec![first]).push(path);
                    continue;
                }
                _ => {
                    content = sha256(&bytes);
                    "file".to_owned()
                }
            };
            let mode = if kind == "symlink" { 0 } else { header.mode().expect("a mode") & 0o7777 };
            let uid = extra.number("uid").unwrap_or_else(|| header.uid().expect("an owner"));
            let gid = extra.number("gid").unwrap_or_else(|| header.gid().expect("a group"));
            if !path.is_empty() {
                tree.0.insert(
                    path,
                    Node { kind, mode, uid, gid, content, xattrs: extra.xattrs(), links: None },
                );
            }
        }
        for (first, paths) in &groups {
            let node =
                tree.0.get(first).unwrap_or_else(|| panic!("a hard link to {first}, which is not there"));
            let node = node.clone();
            for path in paths {
                tree.0.insert(path.clone(), node.clone());
            }
        }
        tree.link(groups.into_values());
        tree
    }

    /// Notes the hard links.
    fn link(&mut self, groups: impl Iterator<Item = Vec<String>>) {
        for mut paths in groups.filter(|paths| paths.len() > 1) {
            paths.sort();
            for path in &paths {
                if let Some(node) = self.0.get_mut(path) {
                    node.links = Some(paths[0].clone());
                }
            }
        }
    }

    /// Leaves out the paths for which this holds.
    #[must_use]
    pub fn without(mut self, mut out: impl FnMut(&str) -> bool) -> Self {
        self.0.retain(|path, _| !out(path));
        self
    }

    /// What is at a path.
    ///
    /// # Panics
    /// When there is nothing.
    #[track_caller]
    pub fn at(&self, path: &str) -> &Node {
        self.0.get(path).unwrap_or_else(|| panic!("nothing at {path}"))
    }

    /// The differences to another tree, a line each.
    pub fn differences(&self, other: &Tree) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, ours) in &self.0 {
            match other.0.get(path) {
                None => lines.push(format!("{path}: only in the first: {ours:?}")),
                Some(theirs) if theirs != ours => {
                    lines.push(format!("{path}: {ours:?}\n    is not {theirs:?}"))
                }
                Some(_) => {}
            }
        }
        let only = other.0.iter().filter(|(path, _)| !self.0.contains_key(*path));
        lines.extend(only.map(|(path, theirs)| format!("{path}: only in the second: {theirs:?}")));
        lines
    }

    /// Fails unless both are the same.
    ///
    /// # Panics
    /// With the differences.
    #[track_caller]
    pub fn same(&self, other: &Tree, what: &str) {
        let differences = self.differences(other);
        assert!(
            differences.is_empty(),
            "{what}: {} differences\n{}",
            differences.len(),
            differences.iter().take(40).cloned().collect::<Vec<_>>().join("\n")
        );
        assert!(!self.0.is_empty(), "{what}: two empty trees prove nothing");
    }
}

fn walk(
    root: &Path,
    dir: &Path,
    nodes: &mut BTreeMap<String, Node>,
    inodes: &mut BTreeMap<(u64, u64), Vec<String>>,
) {
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("list {}: {error}", dir.display())) {
        let path = entry.expect("an entry").path();
        let relative = path.strip_prefix(root).expect("below the root");
        let name = String::from_utf8_lossy(relative.as_os_str().as_bytes()).into_owned();
        let metadata = fs::symlink_metadata(&path).expect("stat");
        let file_type = metadata.file_type();
        let device =
            || format!("{}:{}", rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
        let mut content = String::new();
        let kind = if file_type.is_dir() {
            "directory".to_owned()
        } else if file_type.is_symlink() {
            let target = fs::read_link(&path).expect("read a symlink");
            content = String::from_utf8_lossy(target.as_os_str().as_bytes()).into_owned();
            "symlink".to_owned()
        } else if file_type.is_fifo() {
            "fifo".to_owned()
        } else if file_type.is_char_device() {
            format!("char {}", device())
        } else if file_type.is_block_device() {
            format!("block {}", device())
        } else {
            content =
                sha256(&fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display())));
            "file".to_owned()
        };
        if !file_type.is_dir() {
            inodes.entry((metadata.dev(), metadata.ino())).or_default().push(name.clone());
        }
        let node = Node {
            mode: if file_type.is_symlink() { 0 } else { metadata.mode() & 0o7777 },
            uid: metadata.uid().into(),
            gid: metadata.gid().into(),
            xattrs: xattrs_of_path(&path),
            kind,
            content,
            links: None,
        };
        nodes.insert(name, node);
        if file_type.is_dir() {
            walk(root, &path, nodes, inodes);
        }
    }
}

/// The attributes that belong to a tree: others describe the machine or the store.
fn wanted(name: &str) -> bool {
    name.starts_with("user.") && !name.starts_with("user.overlay.") || name == "security.capability"
}

fn xattrs_of_path(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 65_536];
    // A file system without attributes has none.
    let Ok(length) = rustix::fs::llistxattr(path, &mut names[..]) else { return BTreeMap::new() };
    let names = String::from_utf8_lossy(&names[..length]).into_owned();
    let mut all = BTreeMap::new();
    for name in names.split('\0').filter(|name| wanted(name)) {
        let mut value = vec![0; 65_536];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).expect("read an attribute");
        value.truncate(length);
        all.insert(name.to_owned(), value);
    }
    all
}

/// What headers in front of an entry say about it: PAX records (POSIX.1-2017, pax) and GNU's long names.
#[derive(Default)]
struct Extra(BTreeMap<String, Vec<u8>>);

impl Extra {
    /// Takes an entry that is about the next one; `false` for any other.
    fn take(&mut self, entry_type: tar::EntryType, bytes: &[u8]) -> bool {
        let text = || bytes.strip_suffix(b"\0").unwrap_or(bytes).to_vec();
        match entry_type {
            tar::EntryType::GNULongName => _ = self.0.insert("path".to_owned(), text()),
            tar::EntryType::GNULongLink => _ = self.0.insert("linkpath".to_owned(), text()),
            tar::EntryType::XHeader => self.records(bytes),
            _ => return false,
        }
        true
    }

    /// `LENGTH KEY=VALUE\n`, where the length counts the whole record.
    fn records(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let blank = bytes.iter().position(|byte| *byte == b' ').expect("a PAX record has a length");
            let length: usize =
                String::from_utf8_lossy(&bytes[..blank]).parse().expect("a PAX record's length");
            let (record, rest) = bytes.split_at(length);
            let record = record[blank + 1..].strip_suffix(b"\n").expect("a PAX record ends its line");
            let equals = record.iter().position(|byte| *byte == b'=').expect("a PAX record has a key");
            let key = String::from_utf8_lossy(&record[..equals]).into_owned();
            self.0.insert(key, record[equals + 1..].to_vec());
            bytes = rest;
        }
    }

    fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.get(key).map(|value| String::from_utf8_lossy(value).parse().expect("a number in a PAX record"))
    }

    fn xattrs(&self) -> BTreeMap<String, Vec<u8>> {
        let named = self.0.iter().filter_map(|(key, value)| {
            let name = key.strip_prefix("SCHILY.xattr.").filter(|name| wanted(name))?;
            Some((name.to_owned(), value.clone()))
        });
        named.collect()
    }
}

fn clean(path: &[u8]) -> String {
    let path = String::from_utf8_lossy(path);
    path.trim_start_matches("./").trim_start_matches('/').trim_end_matches('/').to_owned()
}

/// The digest of bytes in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
