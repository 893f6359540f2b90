use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use files::{FileTree, Kind, Metadata, TreeError};
use image::layer::{Entry, EntryKind};
use rayon::prelude::*;
use rustix::io::Errno;

use crate::CacheError;
use crate::upper::{UpperDir, is_whiteout};

/// What a layer says, entry by entry, as it goes into a tar: a directory before what it holds, names sorted by their bytes,
/// whiteouts among them, an opaque mark right after its directory. Sockets are left out; of several names of one file, the later
/// ones are hard links to the first. A layer that is a version of another one says what it would say in full.
#[derive(Debug)]
pub struct Entries {
    /// Top first.
    uppers: Vec<UpperDir>,
    entries: Vec<Entry>,
    sockets: Vec<PathBuf>,
    /// The files of each directory but the last: what is in none of them is in that.
    places: Vec<HashSet<Vec<u8>>>,
}

impl Entries {
    /// Reads a layer's directories, top first. The root directory is an entry only with `root`.
    pub(crate) fn read(uppers: Vec<UpperDir>, root: bool) -> Result<Entries, CacheError> {
        let root = match uppers.first() {
            Some(top) if root => match top.tree.metadata(Path::new(""))? {
                Some(metadata) => Some(describe(top, 0, Path::new(""), &metadata)?),
                None => None,
            },
            _ => None,
        };
        let mut found = read_all(&uppers, root)?;
        let sockets =
            found.extract_if(.., |found| found.socket).map(|found| path_of(&found.entry).to_owned());
        let sockets = sockets.collect();
        let mut places = vec![HashSet::new(); uppers.len().saturating_sub(1)];
        for Found { entry, place, .. } in &found {
            if let (EntryKind::File { .. }, Some(place)) = (&entry.kind, places.get_mut(*place)) {
                place.insert(entry.path.clone());
            }
        }
        Ok(Entries { uppers, entries: link(found), sockets, places })
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
        Ok(self.upper_of(entry).tree.open(path_of(entry))?)
    }

    /// Where the entry lies on the host, for messages.
    pub(crate) fn host_path(&self, entry: &Entry) -> PathBuf {
        self.upper_of(entry).path.join(path_of(entry))
    }

    /// The directory that has a file.
    fn upper_of(&self, entry: &Entry) -> &UpperDir {
        let place = self.places.iter().position(|files| files.contains(&entry.path));
        &self.uppers[place.unwrap_or(self.places.len())]
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
    /// The index of the upper directory that has it.
    place: usize,
    inode: Option<(u64, u64)>,
    /// Something that cannot be in a layer: no entry in truth.
    socket: bool,
}

fn path_of(entry: &Entry) -> &Path {
    Path::new(OsStr::from_bytes(&entry.path))
}

/// A directory that is still to be read. It is one in each of `places`, the indices of upper directories, top first.
struct Directory {
    path: PathBuf,
    places: Vec<usize>,
}

/// Kept small, as [`Found`] is: there may be millions.
struct Node {
    found: Found,
    /// Whether it is a directory that hides what lies below the layer.
    opaque: bool,
    /// Of a directory: the number of its own entries.
    below: Option<usize>,
}

/// What a name in a directory stands for; where that is a directory, also this.
type ReadEntry = (Node, Option<Box<Directory>>);

/// Everything below the root, behind the root itself where that counts. Level by level: a step may nest directories as deep as it likes.
fn read_all(uppers: &[UpperDir], root: Option<Found>) -> Result<Vec<Found>, TreeError> {
    let mut directories: Vec<Vec<Node>> = Vec::new();
    let mut level = vec![Directory { path: PathBuf::new(), places: (0..uppers.len()).collect() }];
    while !level.is_empty() {
        let read: Vec<Vec<ReadEntry>> =
            level.par_iter().map(|directory| read_one(uppers, directory)).collect::<Result<_, _>>()?;
        // Directories are numbered as they come: those of this level, then those below them.
        let first = directories.len() + level.len();
        level.clear();
        for nodes in read {
            let nodes = nodes.into_iter().map(|(mut node, directory)| {
                node.below = directory.as_ref().map(|_| first + level.len());
                level.extend(directory.map(|directory| *directory));
                node
            });
            directories.push(nodes.collect());
        }
    }
    Ok(in_order(root, directories))
}

/// What is in one directory. It alone may have most of the layer's files.
fn read_one(uppers: &[UpperDir], directory: &Directory) -> Result<Vec<ReadEntry>, TreeError> {
    let items = list(uppers, directory)?;
    items.into_par_iter().with_min_len(BATCH).map(|item| read(uppers, &directory.path, item)).collect()
}

/// So many files are worth another thread.
const BATCH: usize = 64;

/// A directory before what it holds.
fn in_order(root: Option<Found>, mut directories: Vec<Vec<Node>>) -> Vec<Found> {
    let opaque = |nodes: &Vec<Node>| nodes.iter().filter(|node| node.opaque).count();
    let count: usize = directories.iter().map(|nodes| nodes.len() + opaque(nodes)).sum();
    let mut all = Vec::with_capacity(count + 1);
    all.extend(root);
    let mut open = vec![std::mem::take(&mut directories[0]).into_iter()];
    while let Some(nodes) = open.last_mut() {
        let Some(Node { found, opaque, below }) = nodes.next() else {
            open.pop();
            continue;
        };
        let mark = opaque.then(|| mark(path_of(&found.entry), EntryKind::Opaque));
        all.push(found);
        all.extend(mark);
        open.extend(below.map(|below| std::mem::take(&mut directories[below]).into_iter()));
    }
    all
}

/// The longest path that a layer may have, in bytes: one more than the kernel takes at once.
const LONGEST_IN_LAYER: usize = 4096;

/// What a name in the directory at `path` stands for.
fn read(uppers: &[UpperDir], path: &Path, item: Item) -> Result<ReadEntry, TreeError> {
    let path = path.join(&item.name);
    if path.as_os_str().len() > LONGEST_IN_LAYER {
        return Err(TreeError::new("put into a layer", path, Errno::NAMETOOLONG));
    }
    let place = item.places[0];
    let upper = &uppers[place];
    let found = describe(upper, place, &path, &item.metadata)?;
    if item.metadata.kind != Kind::Directory {
        return Ok((Node { found, opaque: false, below: None }, None));
    }
    let (shown, opaque) = shown(uppers, &item.places, &path)?;
    let places = shown.to_vec();
    Ok((Node { found, opaque, below: None }, Some(Box::new(Directory { path, places }))))
}

/// A name in a directory.
struct Item {
    name: OsString,
    /// Of what shows.
    metadata: Metadata,
    /// Where that is; of a directory, all that make it up.
    places: Vec<usize>,
}

/// What is in a directory, sorted.
fn list(uppers: &[UpperDir], Directory { path, places }: &Directory) -> Result<Vec<Item>, TreeError> {
    let item = |(name, metadata), place| Item { name, metadata, places: vec![place] };
    let mut items: Vec<Item> = Vec::new();
    for &place in places {
        items.extend(uppers[place].tree.list(path)?.into_iter().map(|listed| item(listed, place)));
    }
    // Stable: of one name, the topmost stays first.
    items.sort_by(|a, b| a.name.cmp(&b.name));
    items.dedup_by(|lower, upper| {
        let same = lower.name == upper.name;
        let merges = |item: &Item| item.metadata.kind == Kind::Directory;
        if same && merges(upper) && merges(lower) {
            upper.places.append(&mut lower.places);
        }
        // What it removes was in the layer itself.
        if same && is_whiteout(&upper.metadata) {
            upper.places.clear();
        }
        same
    });
    items.retain(|item| !item.places.is_empty());
    Ok(items)
}

/// Of the places of a directory those that show, and whether the lowest of them hides what lies below the layer.
fn shown<'a>(
    uppers: &[UpperDir],
    places: &'a [usize],
    path: &Path,
) -> Result<(&'a [usize], bool), TreeError> {
    for (index, place) in places.iter().enumerate() {
        if uppers[*place].is_opaque(path)? {
            return Ok((&places[..=index], true));
        }
    }
    Ok((places, false))
}

fn describe(upper: &UpperDir, place: usize, path: &Path, metadata: &Metadata) -> Result<Found, TreeError> {
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
    Ok(Found { entry, place, inode, socket: metadata.kind == Kind::Socket })
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
    Found { entry, place: 0, inode: None, socket: false }
}

/// Turns further names of a file into hard links. Names in other layers, or outside of any, do not count.
fn link(found: Vec<Found>) -> Vec<Entry> {
    let mut first: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    let link = |Found { mut entry, inode, .. }: Found| {
        if let Some(inode) = inode {
            match first.get(&inode) {
                Some(target) => entry.kind = EntryKind::Hardlink { target: target.clone() },
                None => {
                    first.insert(inode, entry.path.clone());
                }
            }
        }
        entry
    };
    found.into_iter().map(link).collect()
}
