//! COPY, ADD of local files, WORKDIR and inline files: layers that are written straight into their directory, without a mount.
//!
//! The destination is looked up in the tree below and in what the same instruction has placed so far, as BuildKit would see it in a
//! mounted tree (its `solver/llbsolver/file` and fsutil's `copy`).

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use cache::{ActiveSnapshot, Changes};
use files::{
    Attributes, CopyOptions, FileTree, Kind, Match, Metadata, Selected, TreeError, TreeWriter, WriterOptions,
};
use graph::{Copy, Inline, Mkdir};
use hash::{ContentDigest, StableHash, StableHasher};

use crate::WorkerError;
use crate::users::UserDatabase;

/// Mode of directories that a copy has to make and nobody said anything about.
const DIRECTORY_MODE: u32 = 0o755;

/// One source of a copy: what was selected of which tree, and the digest of that selection.
pub(crate) struct Source {
    pub(crate) tree: Arc<dyn FileTree>,
    pub(crate) selected: Arc<Selected>,
    pub(crate) digest: ContentDigest,
}

/// Writes the layer of a COPY or ADD.
pub(crate) fn copy(
    op: &Copy,
    sources: &[Source],
    layer: &ActiveSnapshot,
    cancelled: files::Cancelled<'_>,
) -> Result<Changes, WorkerError> {
    let owner = match &op.owner {
        None => None,
        Some(owner) => Some(UserDatabase::read(layer.below())?.owner(owner)?),
    };
    let writer = writer_of(layer)?;
    let matches: usize = sources.iter().map(|source| source.selected.matches.len()).sum();
    let mut copier = Copier {
        placed: Placed::new(layer.below(), matches > 1),
        writer: &writer,
        owner,
        mode: op.mode.as_ref().and_then(files::ModeChange::fixed),
        destination: &op.destination,
        many: matches > 1,
        entries: 0,
        size: 0,
    };
    for source in sources {
        for found in &source.selected.matches {
            if op.unpack && found.kind() == Kind::File && is_archive(&*source.tree, &found.source)? {
                let name = found.source.display();
                return Err(WorkerError::Unsupported(format!(
                    "ADD of an archive (\"/{name}\"), which unpacks it,"
                )));
            }
            copier.copy(found, &*source.tree, cancelled)?;
        }
    }
    let (entries, size) = (copier.entries, copier.size);
    writer.finish()?;

    // Equal operations on equal sources over equal trees make equal layers: nothing needs to be read again to know.
    let mut hasher = StableHasher::new("copy-changes-v1").with(&op.destination).with(&owner).with(&op.mode);
    (sources.len() as u64).stable_hash(&mut hasher);
    for source in sources {
        source.digest.stable_hash(&mut hasher);
    }
    Ok(Changes { digest: ContentDigest::from_bytes(hasher.finish()), entries, size })
}

/// Writes the layer of a WORKDIR: the directory with its parents, where missing.
pub(crate) fn make_directory(
    op: &Mkdir,
    layer: &ActiveSnapshot,
    unknown: &mut dyn FnMut(WorkerError),
) -> Result<Changes, WorkerError> {
    let owner = UserDatabase::read(layer.below())?.owner_or_root(&op.owner, unknown);
    let writer = writer_of(layer)?;
    let mut placed = Placed::new(layer.below(), false);
    let path = files::resolve(&placed, &relative(&op.path), true)?;
    let attributes = Attributes { uid: owner.0, gid: owner.1, ..Attributes::with_mode(DIRECTORY_MODE) };
    match placed.metadata(&path)? {
        Some(metadata) if metadata.kind == Kind::Directory => {}
        _ => ensure_directory(&path, &attributes, &mut placed, &writer)?,
    }
    writer.finish()?;
    Ok(layer.changes()?)
}

/// Writes the files of heredocs into a tree of their own.
pub(crate) fn write_inline(op: &Inline, layer: &ActiveSnapshot) -> Result<Changes, WorkerError> {
    let writer = writer_of(layer)?;
    for file in &op.files {
        writer.file(
            Path::new(&file.name),
            &mut file.content.as_slice(),
            &Attributes::with_mode(file.mode),
        )?;
    }
    writer.finish()?;
    Ok(layer.changes()?)
}

pub(crate) fn writer_of(layer: &ActiveSnapshot) -> Result<TreeWriter, WorkerError> {
    let parents = Attributes::with_mode(DIRECTORY_MODE);
    let options = WriterOptions { owners: layer.owners().clone(), opaque: layer.opaque_mark(), parents };
    Ok(TreeWriter::new(layer.dir(), options)?)
}

struct Copier<'a> {
    placed: Placed<'a>,
    writer: &'a TreeWriter,
    owner: Option<(u32, u32)>,
    mode: Option<u32>,
    /// Absolute, a trailing `/` kept.
    destination: &'a str,
    /// Whether there are several things to copy.
    many: bool,
    entries: u64,
    size: u64,
}

impl Copier<'_> {
    fn copy(
        &mut self,
        found: &Match,
        tree: &dyn FileTree,
        cancelled: files::Cancelled<'_>,
    ) -> Result<(), WorkerError> {
        let target = match found.kind() {
            Kind::Directory => self.directory_target()?,
            _ => self.file_target(found)?,
        };
        for entry in found.entries() {
            self.check(&target, entry.path, entry.metadata)?;
            self.placed.put(join(&target, entry.path), entry.metadata, entry.link_target);
        }
        // A directory's contents are copied, not the directory itself.
        let (owner, mode) = (self.owner, self.mode);
        let options =
            CopyOptions { destination: target, owner, mode, keep_top: true, ..CopyOptions::default() };
        let copied = files::write_selected(tree, found, self.writer, &options, cancelled)?;
        self.entries += copied.entries;
        self.size += copied.bytes;
        Ok(())
    }

    /// A directory's contents go into the destination. What exists keeps its metadata, what does not is made.
    fn directory_target(&mut self) -> Result<PathBuf, WorkerError> {
        let target = self.resolve()?;
        self.ensure(&target)?;
        Ok(target)
    }

    /// A file goes into the destination when that is a directory or was written with a trailing slash; otherwise the destination is
    /// its name.
    fn file_target(&mut self, found: &Match) -> Result<PathBuf, WorkerError> {
        let target = self.resolve()?;
        let existing = self.placed.metadata(&target)?;
        let is_directory = existing.is_some_and(|metadata| metadata.kind == Kind::Directory);
        if is_directory || self.names_directory() {
            self.ensure(&target)?;
            return Ok(target.join(&found.base_name));
        }
        if self.many {
            let destination = self.destination;
            return Err(WorkerError::Copy(format!(
                "several files cannot be copied to {destination}, which is not a directory; write {destination}/ to make it one"
            )));
        }
        if let Some(parent) = target.parent() {
            self.ensure(parent)?;
        }
        Ok(target)
    }

    fn names_directory(&self) -> bool {
        self.destination.ends_with('/') || self.destination.ends_with("/.")
    }

    /// The destination with links followed inside the tree, the last component included.
    fn resolve(&self) -> Result<PathBuf, WorkerError> {
        Ok(files::resolve(&self.placed, &relative(self.destination), true)?)
    }

    fn ensure(&mut self, path: &Path) -> Result<(), WorkerError> {
        let (uid, gid) = self.owner.unwrap_or_default();
        let attributes =
            Attributes { uid, gid, ..Attributes::with_mode(self.mode.unwrap_or(DIRECTORY_MODE)) };
        ensure_directory(path, &attributes, &mut self.placed, self.writer)
    }

    /// Directories merge with directories, anything else replaces anything else, and the two never replace each other.
    fn check(&self, target: &Path, path: &Path, metadata: &Metadata) -> Result<(), WorkerError> {
        let place = join(target, path);
        let Some(existing) = self.placed.metadata(&place)? else { return Ok(()) };
        match (metadata.kind == Kind::Directory, existing.kind == Kind::Directory) {
            (true, false) => {
                Err(WorkerError::Copy(format!("cannot copy to non-directory: /{}", place.display())))
            }
            (false, true) => {
                Err(WorkerError::Copy(format!("cannot replace to directory /{} with file", place.display())))
            }
            _ => Ok(()),
        }
    }
}

/// Makes a directory and its parents part of the layer: as they are below where they exist, else with `attributes`.
fn ensure_directory(
    path: &Path,
    attributes: &Attributes,
    placed: &mut Placed<'_>,
    writer: &TreeWriter,
) -> Result<(), WorkerError> {
    let mut ancestors: Vec<&Path> = path.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
    ancestors.reverse();
    for directory in ancestors {
        let copied = placed.copied(directory).map(|(metadata, _)| *metadata);
        if placed.directories.contains_key(directory)
            || copied.is_some_and(|copied| copied.kind == Kind::Directory)
        {
            continue;
        }
        let existing = match copied {
            Some(copied) => Some(copied),
            None => placed.below.metadata(directory)?,
        };
        let metadata = match existing {
            None => {
                writer.directory(directory, attributes)?;
                new_directory(attributes)
            }
            Some(metadata) if metadata.kind == Kind::Directory => {
                writer.directory(directory, &Attributes::of(&metadata, placed.below.xattrs(directory)?))?;
                metadata
            }
            Some(_) => {
                return Err(WorkerError::Copy(format!(
                    "cannot make the directory /{}: /{} is not a directory",
                    path.display(),
                    directory.display()
                )));
            }
        };
        placed.directories.insert(directory.to_owned(), metadata);
    }
    Ok(())
}

fn new_directory(attributes: &Attributes) -> Metadata {
    Metadata {
        kind: Kind::Directory,
        mode: attributes.mode,
        uid: attributes.uid,
        gid: attributes.gid,
        size: 0,
        mtime: (0, 0),
        ctime: (0, 0),
        device: (0, 0),
        file_system: 0,
        inode: 0,
        links: 2,
    }
}

/// Whether ADD would unpack a file: by content, as upstream decides.
fn is_archive(tree: &dyn FileTree, path: &Path) -> Result<bool, WorkerError> {
    let io = |source| WorkerError::io("read", path, source);
    let mut start = Vec::new();
    tree.open(path)?.take(BLOCK).read_to_end(&mut start).map_err(io)?;
    // bzip2 and xz are not looked into: a compressed file that is no archive is rare, and an error is better than a guess.
    if start.starts_with(b"BZh") || start.starts_with(b"\xfd7zXZ\0") {
        return Ok(true);
    }
    if start.starts_with(&[0x1f, 0x8b]) || start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let Ok(reader) = image::decompress(Box::new(tree.open(path)?)) else { return Ok(false) };
        start.clear();
        // What cannot be unpacked is copied as it is.
        if reader.take(BLOCK).read_to_end(&mut start).is_err() {
            return Ok(false);
        }
    }
    Ok(is_tar_header(&start))
}

/// Bytes of a tar header (POSIX ustar).
const BLOCK: u64 = 512;

/// A header's checksum is the sum of its bytes, the checksum's own taken as blanks; `tar(5)`.
fn is_tar_header(block: &[u8]) -> bool {
    if block.len() < BLOCK as usize {
        return false;
    }
    let field = block[148..156].iter().filter(|byte| (b'0'..=b'7').contains(*byte));
    let stated = field.fold(0u64, |sum, digit| sum * 8 + u64::from(digit - b'0'));
    let byte = |(at, byte): (usize, &u8)| u64::from(if (148..156).contains(&at) { b' ' } else { *byte });
    stated != 0 && stated == block.iter().enumerate().map(byte).sum::<u64>()
}

/// The tree below with what was placed over it so far.
struct Placed<'a> {
    below: &'a dyn FileTree,
    /// The directories that were made part of the layer on the way to a destination.
    directories: HashMap<PathBuf, Metadata>,
    /// All that was copied; kept only when there is more to come that must see it.
    copied: Option<HashMap<PathBuf, (Metadata, Option<PathBuf>)>>,
}

impl<'a> Placed<'a> {
    fn new(below: &'a dyn FileTree, remember: bool) -> Placed<'a> {
        Placed { below, directories: HashMap::new(), copied: remember.then(HashMap::new) }
    }

    fn put(&mut self, path: PathBuf, metadata: &Metadata, link_target: Option<&Path>) {
        if let Some(copied) = &mut self.copied
            && !path.as_os_str().is_empty()
        {
            copied.insert(path, (*metadata, link_target.map(Path::to_owned)));
        }
    }

    fn copied(&self, path: &Path) -> Option<&(Metadata, Option<PathBuf>)> {
        self.copied.as_ref()?.get(path)
    }
}

impl FileTree for Placed<'_> {
    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, TreeError> {
        match self.copied(path).map(|(metadata, _)| metadata).or_else(|| self.directories.get(path)) {
            Some(metadata) => Ok(Some(*metadata)),
            None => self.below.metadata(path),
        }
    }

    fn list(&self, path: &Path) -> Result<Vec<(OsString, Metadata)>, TreeError> {
        self.below.list(path)
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, TreeError> {
        match self.copied(path) {
            Some((_, Some(target))) => Ok(target.clone()),
            _ => self.below.read_link(path),
        }
    }

    fn open(&self, path: &Path) -> Result<File, TreeError> {
        self.below.open(path)
    }

    fn xattrs(&self, path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError> {
        self.below.xattrs(path)
    }
}

/// An absolute path of an instruction as one relative to the root; links and `..` are for the caller to resolve.
fn relative(path: &str) -> PathBuf {
    Path::new(path)
        .components()
        .filter(|component| !matches!(component, Component::RootDir | Component::CurDir))
        .collect()
}

/// `join` of an empty path would add a slash.
fn join(directory: &Path, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { directory.to_owned() } else { directory.join(path) }
}
