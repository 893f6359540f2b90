use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use files::{FileTree, Kind, Metadata, TreeError};
use image::layer::{Entry, EntryKind};
use rayon::prelude::*;

use crate::CacheError;
use crate::upper::{UpperDir, is_whiteout};

/// What a layer says, entry by entry, as it goes into a tar: a directory before what it holds, names sorted by their bytes,
/// whiteouts among them, an opaque mark right after its directory. Sockets are left out; of several names of one file, the later
/// ones are hard links to the first.
#[derive(Debug)]
pub struct Entries {
    upper: UpperDir,
    entries: Vec<Entry>,
    sockets: Vec<PathBuf>,
}

impl Entries {
    /// Reads a layer's directory. The root directory is an entry only with `root`.
    pub(crate) fn read(upper: UpperDir, root: bool) -> Result<Entries, CacheError> {
        let mut found = Vec::new();
        if root && let Some(metadata) = upper.tree.metadata(Path::new(""))? {
            found.push(describe(&upper, Path::new(""), &metadata)?);
        }
        found.extend(read_directory(&upper, Path::new(""))?);
        let sockets =
            found.extract_if(.., |found| found.socket).map(|found| path_of(&found.entry).to_owned());
        let sockets = sockets.collect();
        Ok(Entries { upper, entries: link(found), sockets })
    }

    /// Where the directory has sockets, which no layer can have.
    pub(crate) fn sockets(&self) -> &[PathBuf] {
        &self.sockets
    }

    /// The entries in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Opens the content of an [`EntryKind::File`] (or of a hard link to one).
    pub fn open(&self, entry: &Entry) -> Result<File, CacheError> {
        Ok(self.upper.tree.open(path_of(entry))?)
    }

    /// Where the entry lies on the host, for messages.
    pub(crate) fn host_path(&self, entry: &Entry) -> PathBuf {
        self.upper.path.join(path_of(entry))
    }

    /// Bytes of all files, those with several names counted once.
    pub fn size(&self) -> u64 {
        let size = |entry: &Entry| match entry.kind {
            EntryKind::File { size } => size,
            _ => 0,
        };
        self.entries.iter().map(size).sum()
    }
}

/// An entry, and the inode when the file has further names.
struct Found {
    entry: Entry,
    inode: Option<(u64, u64)>,
    /// Something that cannot be in a layer: no entry in truth.
    socket: bool,
}

fn path_of(entry: &Entry) -> &Path {
    Path::new(OsStr::from_bytes(&entry.path))
}

/// Everything below `path`, not `path` itself.
fn read_directory(upper: &UpperDir, path: &Path) -> Result<Vec<Found>, TreeError> {
    let mut names: Vec<(OsString, Metadata)> = upper.tree.list(path)?;
    names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let read = |(name, metadata): &(OsString, Metadata)| -> Result<Vec<Found>, TreeError> {
        let path = path.join(name);
        let mut found = vec![describe(upper, &path, metadata)?];
        if metadata.kind == Kind::Directory {
            if upper.is_opaque(&path)? {
                found.push(mark(&path, EntryKind::Opaque));
            }
            found.extend(read_directory(upper, &path)?);
        }
        Ok(found)
    };
    let parts: Vec<Vec<Found>> = names.par_iter().map(read).collect::<Result<_, _>>()?;
    Ok(parts.into_iter().flatten().collect())
}

fn describe(upper: &UpperDir, path: &Path, metadata: &Metadata) -> Result<Found, TreeError> {
    if is_whiteout(metadata) {
        return Ok(mark(path, EntryKind::Whiteout));
    }
    let (major, minor) = metadata.device;
    let kind = match metadata.kind {
        Kind::File | Kind::Socket => EntryKind::File { size: metadata.size },
        Kind::Directory => EntryKind::Directory,
        Kind::Symlink => {
            EntryKind::Symlink { target: upper.tree.read_link(path)?.into_os_string().into_vec() }
        }
        Kind::Fifo => EntryKind::Fifo,
        Kind::CharDevice => EntryKind::CharDevice { major, minor },
        Kind::BlockDevice => EntryKind::BlockDevice { major, minor },
    };
    let xattrs = match metadata.kind {
        Kind::File | Kind::Directory => upper.xattrs(path)?,
        // Nothing else carries any that belong to a layer.
        _ => Default::default(),
    };
    let entry = Entry {
        path: path.as_os_str().as_bytes().to_vec(),
        kind,
        mode: if metadata.kind == Kind::Symlink { 0o777 } else { metadata.mode },
        uid: metadata.uid,
        gid: metadata.gid,
        mtime: metadata.mtime.0,
        mtime_nanos: metadata.mtime.1,
        xattrs: xattrs.into_iter().map(|(name, value)| (name.into_vec(), value)).collect(),
    };
    // Anything but a directory can have several names, also a symbolic link.
    let shared = metadata.kind != Kind::Directory && metadata.links > 1;
    let inode = shared.then_some((metadata.file_system, metadata.inode));
    Ok(Found { entry, inode, socket: metadata.kind == Kind::Socket })
}

fn mark(path: &Path, kind: EntryKind) -> Found {
    let entry = Entry {
        path: path.as_os_str().as_bytes().to_vec(),
        kind,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: 0,
        mtime_nanos: 0,
        xattrs: Default::default(),
    };
    Found { entry, inode: None, socket: false }
}

/// Turns further names of a file into hard links. Names in other layers, or outside of any, do not count.
fn link(found: Vec<Found>) -> Vec<Entry> {
    let mut first: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    let mut entries = Vec::with_capacity(found.len());
    for Found { mut entry, inode, .. } in found {
        if let Some(inode) = inode {
            match first.get(&inode) {
                Some(target) => entry.kind = EntryKind::Hardlink { target: target.clone() },
                None => {
                    first.insert(inode, entry.path.clone());
                }
            }
        }
        entries.push(entry);
    }
    entries
}
