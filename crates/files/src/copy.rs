use std::collections::BTreeMap;
use std::fs::File;
use std::io::Seek;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use rustix::io::Errno;

use crate::digest::{directory_digest, ensure_unchanged, hash_file, vanished};
use crate::error::check;
use crate::select::Known;
use crate::{Attributes, Cancelled, Entry, Error, FileTree, Kind, Match, ModeChange, TreeWriter};

/// How a [`Match`] is copied.
#[derive(Debug, Clone, Default)]
pub struct CopyOptions {
    /// Where the match itself comes to stand in the written tree; empty for its root.
    pub destination: PathBuf,
    /// Owner and group of everything, instead of the source's.
    pub owner: Option<(u32, u32)>,
    /// What happens to the modes of everything but symbolic links.
    pub mode: Option<ModeChange>,
    /// Time of everything, instead of the source's: seconds since 1970, nanoseconds.
    pub mtime: Option<(i64, u32)>,
    /// Whether the directory at `destination` keeps its attributes: it was there before.
    pub keep_top: bool,
}

/// What a copy came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Paths written.
    pub entries: u64,
    /// Bytes of regular files.
    pub bytes: u64,
    /// Of these, bytes of files that were not written.
    pub kept: u64,
}

/// Copies one match of what was selected from `tree`, in parallel: kinds, modes, owners, times, extended attributes, devices, and
/// hard links within the match.
///
/// # Errors
/// [`Error::Changed`] when a file is not what it was when it was selected, or hashed since; and what the writer says.
pub fn write_selected(
    tree: &dyn FileTree,
    found: &Match,
    writer: &TreeWriter,
    options: &CopyOptions,
    cancelled: Cancelled<'_>,
) -> Result<Copied, Error> {
    write_changed(tree, found, writer, options, &[], cancelled)
}

/// The same but for the entries whose index is marked in `kept`: those are elsewhere already ([`forms`](crate::forms())), and are not even
/// opened. Of several names of one file all or none must be kept, of a directory with something that is written nothing but the rest.
///
/// # Errors
/// As [`write_selected`].
pub fn write_changed(
    tree: &dyn FileTree,
    found: &Match,
    writer: &TreeWriter,
    options: &CopyOptions,
    kept: &[bool],
    cancelled: Cancelled<'_>,
) -> Result<Copied, Error> {
    let known = found.known();
    let copy = Copy { tree, found, known, writer, options, cancelled, bytes: AtomicU64::new(0) };
    let mut kept_bytes = 0;
    let mut rest = Vec::with_capacity(found.len());
    let mut links = Vec::new();
    // By how far down they are.
    let mut directories: Vec<Vec<usize>> = Vec::new();
    for (index, entry) in found.entries().enumerate() {
        if kept.get(index).copied().unwrap_or(false) {
            let is_first = entry.hard_link.is_none_or(|first| first == index);
            if entry.metadata.kind == Kind::File && is_first {
                kept_bytes += entry.metadata.size;
            }
            continue;
        }
        match (entry.metadata.kind, entry.hard_link) {
            (Kind::Directory, _) => {
                let depth = depth(entry.path);
                directories.resize(directories.len().max(depth + 1), Vec::new());
                directories[depth].push(index);
            }
            (_, Some(first)) if first != index => links.push((index, first)),
            _ => rest.push(index),
        }
    }
    for level in directories {
        level.par_iter().with_min_len(16).try_for_each(|&index| copy.directory(index))?;
    }
    rest.par_iter().with_min_len(32).try_for_each(|&index| copy.entry(index))?;
    links.par_iter().with_min_len(32).try_for_each(|&(index, first)| copy.link(index, first))?;
    let bytes = copy.bytes.into_inner() + kept_bytes;
    Ok(Copied { entries: found.len() as u64, bytes, kept: kept_bytes })
}

/// The number of components.
pub(crate) fn depth(path: &Path) -> usize {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() { 0 } else { 1 + bytes.iter().filter(|&&byte| byte == b'/').count() }
}

struct Copy<'a> {
    tree: &'a dyn FileTree,
    found: &'a Match,
    known: Option<Known>,
    writer: &'a TreeWriter,
    options: &'a CopyOptions,
    cancelled: Cancelled<'a>,
    bytes: AtomicU64,
}

impl Copy<'_> {
    fn directory(&self, index: usize) -> Result<(), Error> {
        check(self.cancelled)?;
        let entry = &self.found.entry(index);
        if self.options.keep_top && entry.path.as_os_str().is_empty() {
            return Ok(());
        }
        let mut attributes = attributes(entry, self.options);
        let expected = self.digest(index);
        // One without attributes is written without; what it may have got since it was hashed is not wanted.
        if expected != Some(directory_digest(&BTreeMap::new())) {
            let source = self.found.source_of(entry);
            attributes.xattrs = self.tree.xattrs(&source).map_err(|error| vanished(error, &source))?;
            if expected.is_some_and(|expected| directory_digest(&attributes.xattrs) != expected) {
                return Err(Error::changed(&source));
            }
        }
        self.writer.directory(&self.target(entry), &attributes)
    }

    fn digest(&self, index: usize) -> Option<[u8; 32]> {
        *self.known.as_ref()?.digests.get(index)?
    }

    fn entry(&self, index: usize) -> Result<(), Error> {
        check(self.cancelled)?;
        let entry = &self.found.entry(index);
        let target = self.target(entry);
        let attributes = attributes(entry, self.options);
        let metadata = entry.metadata;
        match metadata.kind {
            Kind::File => self.file(index, entry, &target, attributes),
            Kind::Symlink => {
                self.writer.symlink(&target, entry.link_target.unwrap_or(Path::new("")), &attributes)
            }
            Kind::Fifo => self.writer.fifo(&target, &attributes),
            Kind::CharDevice | Kind::BlockDevice => {
                self.writer.device(&target, metadata.kind, metadata.device, &attributes)
            }
            // Directories are there already, sockets are never selected.
            Kind::Directory | Kind::Socket => Ok(()),
        }
    }

    fn file(
        &self,
        index: usize,
        entry: &Entry<'_>,
        target: &Path,
        mut attributes: Attributes,
    ) -> Result<(), Error> {
        let size = entry.metadata.size;
        let source = self.found.source_of(entry);
        let file = self.tree.open(&source).map_err(|error| vanished(error, &source))?;
        // Before, so that nothing of another file is read; after, so that nothing changed on the way.
        ensure_unchanged(self.tree, &source, entry.metadata, &file)?;
        attributes.xattrs = self.tree.xattrs_of(&source, &file)?;
        let known = self.known.as_ref();
        let xattrs = &attributes.xattrs;
        // Before it takes the place of what is there.
        let check = |mut copy: &File, written: u64| {
            ensure_unchanged(self.tree, &source, entry.metadata, &file)?;
            if written != size {
                return Err(Error::changed(&source));
            }
            let Some(expected) = known.and_then(|known| known.doubtful(index, entry.metadata)) else {
                return Ok(());
            };
            copy.rewind().map_err(|error| Error::write("read", target, error))?;
            let hashed = hash_file(&source, copy, xattrs, size, &mut Vec::new(), self.cancelled)?;
            if hashed == expected { Ok(()) } else { Err(Error::changed(&source)) }
        };
        let written = self.writer.file_checked(target, &file, size, &attributes, self.cancelled, check)?;
        self.bytes.fetch_add(written, Ordering::Relaxed);
        Ok(())
    }

    /// One more name of what was copied; a copy of its own where the file system allows no more names, or none of links and the like.
    fn link(&self, index: usize, first: usize) -> Result<(), Error> {
        check(self.cancelled)?;
        let entry = self.found.entry(index);
        let existing = self.target(&self.found.entry(first));
        let linked = self.writer.hard_link(&self.target(&entry), &existing);
        let Err(Error::Write { source, .. }) = &linked else { return linked };
        match Errno::from_io_error(source) {
            Some(Errno::MLINK) => self.entry(index),
            Some(Errno::PERM | Errno::OPNOTSUPP) if entry.metadata.kind != Kind::File => self.entry(index),
            _ => linked,
        }
    }

    fn target(&self, entry: &Entry<'_>) -> PathBuf {
        let destination = &self.options.destination;
        if entry.path.as_os_str().is_empty() { destination.clone() } else { destination.join(entry.path) }
    }
}

/// What is set on the copy of an entry, but for extended attributes.
pub fn attributes(entry: &Entry<'_>, options: &CopyOptions) -> Attributes {
    let mut attributes = Attributes::of(entry.metadata, Default::default());
    if let Some((uid, gid)) = options.owner {
        (attributes.uid, attributes.gid) = (uid, gid);
    }
    if let Some(change) = &options.mode {
        let is_directory = entry.metadata.kind == Kind::Directory;
        attributes.mode = change.apply(attributes.mode, is_directory);
    }
    if options.mtime.is_some() {
        attributes.mtime = options.mtime;
    }
    attributes
}
