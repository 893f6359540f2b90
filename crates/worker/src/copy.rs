//! COPY, ADD of local files, WORKDIR and inline files: layers that are written straight into their directory, without a mount.
//!
//! The destination is looked up in the tree below and in what the same instruction has placed so far, as BuildKit would see it in a
//! mounted tree (its `solver/llbsolver/file` and fsutil's `copy`).

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use cache::{ActiveSnapshot, Changes};
use files::{
    Attributes, CopyOptions, FileTree, Kind, Match, Metadata, ModeChange, Selected, TreeWriter, WriterOptions,
};
use graph::{Copy, Inline, Mkdir};
use hash::{ContentDigest, StableHash, StableHasher};

use crate::WorkerError;
use crate::archive::{Unpacker, is_archive};
use crate::placed::{Placed, ensure_directory, join};
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
        placed: Placed::new(layer.below(), matches > 1 || op.unpack),
        writer: &writer,
        owner,
        mode: op.mode.as_ref(),
        destination: &op.destination,
        many: matches > 1,
        entries: 0,
        size: 0,
    };
    for (index, source) in sources.iter().enumerate() {
        let unpack = op.unpack && !op.packed.contains(&index);
        for found in &source.selected.matches {
            if unpack && found.kind() == Kind::File && is_archive(&*source.tree, &found.source)? {
                copier.unpack(found, &*source.tree, cancelled)?;
            } else {
                copier.copy(found, &*source.tree, cancelled)?;
            }
        }
    }
    let (entries, size) = (copier.entries, copier.size);
    writer.finish()?;

    // Equal operations on equal sources over equal trees make equal layers: nothing needs to be read again to know.
    let mut hasher = StableHasher::new("copy-changes-v2").with(&op.destination).with(&owner).with(&op.mode);
    hasher = hasher.with(&op.unpack);
    let packed: Vec<u64> = op.packed.iter().map(|index| *index as u64).collect();
    packed.stable_hash(&mut hasher);
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
    mode: Option<&'a ModeChange>,
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
        // The directories that were there before: only what is in them can be in the way.
        let mut existing = HashSet::from([Path::new("")]);
        for entry in found.entries() {
            if existing.contains(entry.path.parent().unwrap_or(Path::new("")))
                && self.check(&target, entry.path, entry.metadata)? == Some(Kind::Directory)
            {
                existing.insert(entry.path);
            }
            if self.placed.remembers() {
                self.placed.put(join(&target, entry.path), entry.metadata, entry.link_target);
            }
        }
        // A directory's contents are copied, not the directory itself.
        let (owner, mode) = (self.owner, self.mode.cloned());
        let options =
            CopyOptions { destination: target, owner, mode, keep_top: true, ..CopyOptions::default() };
        let copied = files::write_selected(tree, found, self.writer, &options, cancelled)?;
        self.entries += copied.entries;
        self.size += copied.bytes;
        Ok(())
    }

    /// Unpacks an archive into the destination, which becomes a directory. `--chmod` has no say in it, as upstream.
    fn unpack(
        &mut self,
        found: &Match,
        tree: &dyn FileTree,
        cancelled: files::Cancelled<'_>,
    ) -> Result<(), WorkerError> {
        let target = self.resolve()?;
        let (uid, gid) = self.owner.unwrap_or_default();
        let attributes = Attributes { uid, gid, ..Attributes::with_mode(DIRECTORY_MODE) };
        ensure_directory(&target, &attributes, &mut self.placed, self.writer)?;
        let name = format!("/{}", found.source.display());
        let mut unpacker = Unpacker {
            name: &name,
            root: &target,
            placed: &mut self.placed,
            writer: self.writer,
            owner: self.owner,
            entries: 0,
            size: 0,
        };
        unpacker.unpack(tree.open(&found.source)?, cancelled)?;
        self.entries += unpacker.entries;
        self.size += unpacker.size;
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
        // A symbolic mode has nothing to work on here.
        let mode = self.mode.and_then(ModeChange::fixed).unwrap_or(DIRECTORY_MODE);
        let attributes = Attributes { uid, gid, ..Attributes::with_mode(mode) };
        ensure_directory(path, &attributes, &mut self.placed, self.writer)
    }

    /// Directories merge with directories, anything else replaces anything else, and the two never replace each other. Returns what is
    /// there.
    fn check(&self, target: &Path, path: &Path, metadata: &Metadata) -> Result<Option<Kind>, WorkerError> {
        let place = join(target, path);
        let Some(existing) = self.placed.metadata(&place)? else { return Ok(None) };
        match (metadata.kind == Kind::Directory, existing.kind == Kind::Directory) {
            (true, false) => {
                Err(WorkerError::Copy(format!("cannot copy to non-directory: /{}", place.display())))
            }
            (false, true) => {
                Err(WorkerError::Copy(format!("cannot replace to directory /{} with file", place.display())))
            }
            _ => Ok(Some(existing.kind)),
        }
    }
}

/// An absolute path of an instruction as one relative to the root; links and `..` are for the caller to resolve.
fn relative(path: &str) -> PathBuf {
    Path::new(path)
        .components()
        .filter(|component| !matches!(component, Component::RootDir | Component::CurDir))
        .collect()
}
