//! COPY, ADD of local files, WORKDIR and inline files: layers that are written straight into their directory, without a mount.
//!
//! The destination is looked up in the tree below and in what the same instruction has placed so far, as BuildKit would see it in a
//! mounted tree (its `solver/llbsolver/file` and fsutil's `copy`).

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use cache::{ActiveSnapshot, Changes, Difference, Held, Holding, Listing, VersionName};
use files::{
    Attributes, CopyOptions, FileTree, Kind, Match, Metadata, ModeChange, Reading, Selected, TreeWriter,
    WriterOptions,
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

/// By what earlier versions of a copy's layer are found.
pub(crate) struct Versions {
    /// What the operation is, beside the content of its sources.
    pub(crate) identity: StableHasher,
    /// Whether all is to be written again, whatever there is.
    pub(crate) anew: bool,
}

/// Writes the layer of a COPY or ADD.
pub(crate) fn copy(
    op: &Copy,
    sources: &[Source],
    versions: &Versions,
    layer: &mut ActiveSnapshot,
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
        layer,
        anew: versions.anew,
        // Several matches may overwrite each other.
        version: (matches == 1).then(|| version_name(sources, &versions.identity, &owner)),
        written: None,
        holding: None,
        known: HashMap::new(),
        entries: 0,
        size: 0,
    };
    for (index, source) in sources.iter().enumerate() {
        let unpack = op.unpack && !op.packed.contains(&index);
        for found in &source.selected.matches {
            let archive = match unpack && found.kind() == Kind::File {
                true => open_archive(found, &*source.tree, cancelled)?,
                false => None,
            };
            match archive {
                Some(archive) => copier.unpack(found, archive, cancelled)?,
                None => copier.copy(found, &*source.tree, cancelled)?,
            }
        }
    }
    let Copier { entries, size, written, version, holding, known, .. } = copier;
    writer.finish()?;
    match holding {
        Some(holding) => layer.set_holding(holding),
        None => layer.look_at_holding(&known)?,
    }
    match (written, version) {
        (Some(Written::Changed(difference, own)), _) => layer.set_difference(&difference, own),
        (Some(Written::All(listing)), Some(name)) => layer.set_listing(name, listing),
        _ => {}
    }

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

/// A file, at its beginning, if it is an archive that ADD unpacks.
fn open_archive<'a>(
    found: &'a Match,
    tree: &'a dyn FileTree,
    cancelled: files::Cancelled<'_>,
) -> Result<Option<Reading<'a>>, WorkerError> {
    let mut file = Reading::open(tree, found)?;
    if is_archive(&mut file) {
        file.rewind()?;
        return Ok(Some(file));
    }
    // That it is none must not have been true of another file alone.
    file.finish(cancelled)?;
    Ok(None)
}

fn version_name(sources: &[Source], identity: &StableHasher, owner: &Option<(u32, u32)>) -> VersionName {
    let mut place = StableHasher::new("copy-place-v1");
    for source in sources {
        // A context is the same directory in each build; a tree of layers is a new one.
        let root = match source.tree.is_immutable() {
            false => source.tree.metadata(Path::new("")).ok().flatten(),
            true => None,
        };
        root.map(|root| (root.file_system, root.inode)).unwrap_or_default().stable_hash(&mut place);
    }
    VersionName { identity: identity.clone().with(owner).finish(), place: place.finish() }
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
    writer_with(layer, Attributes::with_mode(DIRECTORY_MODE))
}

/// The same for layers of images: directories that have no entry are as old on every machine.
pub(crate) fn writer_of_image(layer: &ActiveSnapshot) -> Result<TreeWriter, WorkerError> {
    writer_with(layer, Attributes { mtime: Some((0, 0)), ..Attributes::with_mode(DIRECTORY_MODE) })
}

fn writer_with(layer: &ActiveSnapshot, parents: Attributes) -> Result<TreeWriter, WorkerError> {
    let options = WriterOptions { owners: layer.owners().clone(), opaque: layer.opaque_mark(), parents };
    let writer = TreeWriter::new(layer.dir(), options)?;
    Ok(if layer.has_plain_copies() { writer.plain() } else { writer })
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
    layer: &'a ActiveSnapshot,
    /// By what earlier versions of the layer are found; `None` where it is written in full without looking for any.
    version: Option<VersionName>,
    anew: bool,
    written: Option<Written>,
    /// Of a layer with one match.
    holding: Option<Holding>,
    /// What files hold that were copied, where there are several matches.
    known: HashMap<Vec<u8>, [u8; 32]>,
    entries: u64,
    size: u64,
}

/// What was written of a layer with one match.
enum Written {
    All(Listing),
    /// What is different from an earlier version, and the bytes of its files.
    Changed(Difference, u64),
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
        let copied = match &self.version {
            Some(name) => {
                let (copied, written, holding) =
                    self.write_version(name, found, tree, &options, cancelled)?;
                (self.written, self.holding) = (Some(written), holding);
                copied
            }
            None => {
                let copied = files::write_selected(tree, found, self.writer, &options, cancelled)?;
                self.remember(found, &options);
                copied
            }
        };
        self.entries += copied.entries;
        self.size += copied.bytes;
        Ok(())
    }

    /// Writes a match that is all there is in the layer: what is different from an earlier version, if there is one much like it.
    fn write_version(
        &self,
        name: &VersionName,
        found: &Match,
        tree: &dyn FileTree,
        options: &CopyOptions,
        cancelled: files::Cancelled<'_>,
    ) -> Result<(files::Copied, Written, Option<Holding>), WorkerError> {
        let Listed { listing, indices, holding } = listing(found, options, &self.placed);
        let difference = match self.anew {
            false => self.layer.difference(name, &listing)?,
            true => None,
        };
        let Some(difference) = difference else {
            let copied = files::write_selected(tree, found, self.writer, options, cancelled)?;
            return Ok((copied, Written::All(listing), holding));
        };
        let kept: Vec<bool> = indices.iter().map(|index| difference.kept[*index]).collect();
        let copied = files::write_changed(tree, found, self.writer, options, &kept, cancelled)?;
        for path in &difference.removed {
            self.writer.whiteout(path)?;
        }
        Ok((copied, Written::Changed(difference, copied.bytes - copied.kept), holding))
    }

    /// Keeps what the files of a match hold, for all matches have been written.
    fn remember(&mut self, found: &Match, options: &CopyOptions) {
        let Some(digests) = found.digests() else { return };
        for (entry, digest) in found.entries().zip(digests.iter()) {
            let path = place(options, &entry);
            match (entry.metadata.kind, digest) {
                (Kind::File, Some(digest)) => drop(self.known.insert(path, *digest)),
                _ => drop(self.known.remove(&path)),
            }
        }
    }

    /// Unpacks an archive into the destination, which becomes a directory. `--chmod` has no say in it, as upstream.
    fn unpack(
        &mut self,
        found: &Match,
        mut archive: Reading<'_>,
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
        let unpacked = unpacker.unpack(&mut archive, cancelled);
        // Half of one archive and half of another is none either: that it changed comes first.
        archive.finish(cancelled)?;
        unpacked?;
        // What was copied before it may be something else now.
        self.known.clear();
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

/// All that is in a layer with one match.
struct Listed {
    listing: Listing,
    /// Of each entry of the match, where it is in the listing.
    indices: Vec<usize>,
    /// What it holds, where that is known of all files.
    holding: Option<Holding>,
}

fn listing(found: &Match, options: &CopyOptions, placed: &Placed<'_>) -> Listed {
    let mut listing = Listing::with_capacity(found.len());
    let mut above: Vec<&Path> = placed.directories().collect();
    above.sort_unstable_by_key(|path| path.as_os_str().as_bytes());
    let mut holding = Holding::new();
    for path in &above {
        listing.push(path, Kind::Directory, None, 0, None);
        holding.push(path.as_os_str().as_bytes(), Held::Directory);
    }
    let is_above =
        above.last() == Some(&options.destination.as_path()) || options.destination.as_os_str().is_empty();
    let mut indices: Vec<usize> = Vec::with_capacity(found.len());
    let digests = found.digests();
    let mut is_known = digests.is_some();
    for (at, (entry, form)) in found.entries().zip(files::forms(found, options)).enumerate() {
        if entry.path.as_os_str().is_empty() && found.kind() == Kind::Directory && is_above {
            // The destination itself, which is among the directories above; the root of the tree is no entry.
            indices.push(listing.len().saturating_sub(1));
            continue;
        }
        let path = place(options, &entry);
        match held(&entry, options, digests.as_ref().and_then(|digests| digests.get(at)?.as_ref())) {
            Some(held) => holding.push(&path, held),
            None => is_known = false,
        }
        let group = entry.hard_link.map(|first| indices.get(first).copied().unwrap_or(listing.len()));
        let size = if entry.metadata.kind == Kind::File { entry.metadata.size } else { 0 };
        indices.push(listing.len());
        listing.push(Path::new(OsStr::from_bytes(&path)), entry.metadata.kind, form, size, group);
    }
    let holding = (is_known && listing.is_ordered()).then_some(holding);
    Listed { listing, indices, holding }
}

/// Where an entry of a match is in the layer.
fn place(options: &CopyOptions, entry: &files::Entry<'_>) -> Vec<u8> {
    let (destination, path) = (options.destination.as_os_str().as_bytes(), entry.path.as_os_str().as_bytes());
    let slash: &[u8] = if destination.is_empty() || path.is_empty() { b"" } else { b"/" };
    [destination, slash, path].concat()
}

/// What a layer holds of an entry, when the digest of a file is known.
fn held<'a>(
    entry: &files::Entry<'a>,
    options: &CopyOptions,
    digest: Option<&'a [u8; 32]>,
) -> Option<Held<'a>> {
    Some(match entry.metadata.kind {
        Kind::File => {
            let Attributes { mode, uid, gid, .. } = files::attributes(entry, options);
            Held::File { mode, uid, gid, content: digest? }
        }
        Kind::Directory => Held::Directory,
        Kind::Symlink => Held::Symlink(entry.link_target?.as_os_str().as_bytes()),
        Kind::CharDevice | Kind::BlockDevice => {
            Held::Device(entry.metadata.device.0, entry.metadata.device.1)
        }
        Kind::Fifo | Kind::Socket => Held::Other,
    })
}

/// An absolute path of an instruction as one relative to the root; links and `..` are for the caller to resolve.
fn relative(path: &str) -> PathBuf {
    Path::new(path)
        .components()
        .filter(|component| !matches!(component, Component::RootDir | Component::CurDir))
        .collect()
}

#[cfg(test)]
mod tests;
