//! Content digests: the table of what counts is in [`entry_fields`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::PoisonError;
use std::time::SystemTime;

use hash::{ContentDigest, StableHash, StableHasher};
use rayon::prelude::*;
use rustix::fs::SeekFrom;

use crate::beneath::is_absent;
use crate::error::check;
use crate::select::{Digests, Entry, Known, Match};
use crate::{Cancelled, Error, FileTree, Kind, Metadata, Selected, StatCache, StatIdentity, TreeError};

/// Digests of a [`Selected`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashed {
    /// Of all of it.
    pub digest: ContentDigest,
    /// Of each match.
    pub files: Vec<Digests>,
}

/// Hashes what was selected, in parallel: for each entry path, kind, mode, owner, size, link target, extended attributes, device
/// numbers, hard links and bytes. No times, no inode numbers. A file that `cache` knows is not opened.
///
/// # Errors
/// [`Error::Changed`] when a file is not what it was when it was selected.
pub fn digest(
    selected: &Selected,
    tree: &dyn FileTree,
    cache: &dyn StatCache,
    cancelled: Cancelled<'_>,
) -> Result<Hashed, Error> {
    digest_at(selected, tree, cache, cancelled, SystemTime::now())
}

/// The same with a given time at which reading begins.
pub(crate) fn digest_at(
    selected: &Selected,
    tree: &dyn FileTree,
    cache: &dyn StatCache,
    cancelled: Cancelled<'_>,
    began: SystemTime,
) -> Result<Hashed, Error> {
    let reader = Reader { tree, cache, cancelled, began };
    let files = selected.matches.iter().map(|found| reader.files(found)).collect::<Result<Vec<_>, _>>()?;
    let mut hasher = StableHasher::new("content-v1");
    (selected.matches.len() as u64).stable_hash(&mut hasher);
    let mut fields = Fields::default();
    for (found, files) in selected.matches.iter().zip(&files) {
        // A directory's name is not copied, only what is in it.
        fields.bytes(if found.kind() == Kind::Directory { b"" } else { found.base_name.as_bytes() });
        fields.number(found.len() as u64);
        for (entry, file) in found.entries().zip(files.iter()) {
            entry_fields(&mut fields, selected.modes, selected.owners, &entry, file.as_ref());
            if fields.0.len() > GATHERED {
                hasher.raw(&fields.0);
                fields.0.clear();
            }
        }
    }
    hasher.raw(&fields.0);
    Ok(Hashed { digest: ContentDigest::from_bytes(hasher.finish()), files })
}

/// All that counts of one entry, in this order.
pub(crate) fn entry_fields(
    fields: &mut Fields,
    modes: bool,
    owners: bool,
    entry: &Entry<'_>,
    file: Option<&[u8; 32]>,
) {
    let metadata = entry.metadata;
    fields.bytes(entry.path.as_os_str().as_bytes());
    fields.kind(metadata.kind);
    // A link's mode means nothing.
    if modes && metadata.kind != Kind::Symlink {
        fields.number(u64::from(metadata.mode));
    }
    if owners {
        fields.number(u64::from(metadata.uid));
        fields.number(u64::from(metadata.gid));
    }
    match metadata.kind {
        Kind::File => fields.number(metadata.size),
        Kind::Symlink => fields.bytes(entry.link_target.map_or(b"", |target| target.as_os_str().as_bytes())),
        Kind::CharDevice | Kind::BlockDevice => {
            fields.number(u64::from(metadata.device.0));
            fields.number(u64::from(metadata.device.1));
        }
        Kind::Directory | Kind::Fifo | Kind::Socket => {}
    }
    // A group is named by its first path, so that inode numbers do not count.
    fields.number(entry.hard_link.map_or(0, |first| first as u64 + 1));
    match file {
        Some(digest) => {
            fields.byte(1);
            fields.0.extend_from_slice(digest);
        }
        None => fields.byte(0),
    }
}

/// Fields in the encoding of [`StableHasher`], gathered: a hash takes large pieces faster.
#[derive(Default)]
pub(crate) struct Fields(Vec<u8>);

impl Fields {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(crate) fn kind(&mut self, kind: Kind) {
        self.byte(match kind {
            Kind::File => 1,
            Kind::Directory => 2,
            Kind::Symlink => 3,
            Kind::Fifo => 4,
            Kind::CharDevice => 5,
            Kind::BlockDevice => 6,
            Kind::Socket => 7,
        });
    }

    pub(crate) fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }
}

/// Bytes of fields hashed at once: large pieces are hashed in parallel lanes.
const GATHERED: usize = 1024 * 1024;
/// Entries that one thread takes at once, so that its buffer and the look-ups in one directory are used well.
const BATCH: usize = 64;
pub(crate) const BUFFER: usize = 256 * 1024;

struct Reader<'a> {
    tree: &'a dyn FileTree,
    cache: &'a dyn StatCache,
    cancelled: Cancelled<'a>,
    began: SystemTime,
}

impl Reader<'_> {
    /// A digest for each entry that has bytes or attributes.
    fn files(&self, found: &Match) -> Result<Digests, Error> {
        // Written in place: there may be a million, and they are kept.
        let mut digests = vec![None; found.len()];
        digests.par_chunks_mut(BATCH).enumerate().try_for_each_init(
            Vec::new,
            |buffer, (batch, digests)| {
                for (index, digest) in digests.iter_mut().enumerate() {
                    let index = batch * BATCH + index;
                    let entry = found.entry(index);
                    // Other names of a file are filled in below.
                    let is_first = entry.hard_link.is_none_or(|first| first == index);
                    *digest = match entry.metadata.kind {
                        Kind::File if is_first => Some(self.file(found, &entry, buffer)?),
                        Kind::Directory => Some(self.directory(found, &entry)?),
                        _ => None,
                    };
                }
                Ok::<(), Error>(())
            },
        )?;
        for index in 0..digests.len() {
            if let Some(first) = found.entry(index).hard_link {
                digests[index] = digests[first];
            }
        }
        let digests = Digests::new(digests);
        let known =
            Known { digests: digests.clone(), began: (!self.tree.is_immutable()).then_some(self.began) };
        *found.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        Ok(digests)
    }

    fn file(&self, found: &Match, entry: &Entry<'_>, buffer: &mut Vec<u8>) -> Result<[u8; 32], Error> {
        self.cached(entry.metadata, || {
            check(self.cancelled)?;
            let path = found.source_of(entry);
            let file = self.tree.open(&path).map_err(|error| vanished(error, &path))?;
            if !self.tree.is_immutable() {
                wait_for_writers(&path, &file)?;
            }
            let xattrs = self.tree.xattrs_of(&path, &file)?;
            let digest = hash_file(&path, &file, &xattrs, entry.metadata.size, buffer, self.cancelled)?;
            ensure_unchanged(self.tree, &path, entry.metadata, &file)?;
            Ok(digest)
        })
    }

    fn directory(&self, found: &Match, entry: &Entry<'_>) -> Result<[u8; 32], Error> {
        let compute = || {
            check(self.cancelled)?;
            let path = found.source_of(entry);
            let xattrs = self.tree.xattrs(&path).map_err(|error| vanished(error, &path))?;
            Ok(directory_digest(&xattrs))
        };
        // The root of a context shows no attributes, so what it has must not be taken from another reading.
        if found.source_of(entry).as_os_str().is_empty() {
            compute()
        } else {
            self.cached(entry.metadata, compute)
        }
    }

    fn cached(
        &self,
        metadata: &Metadata,
        compute: impl FnOnce() -> Result<[u8; 32], Error>,
    ) -> Result<[u8; 32], Error> {
        let identity = StatIdentity::of(metadata);
        if identity.is_racy(self.began) {
            return compute();
        }
        if let Some(digest) = self.cache.get(&identity) {
            return Ok(digest);
        }
        let digest = compute()?;
        self.cache.put(&identity, digest);
        Ok(digest)
    }
}

/// Waits until the calls that write to a file have ended, of which its times tell only that they began, however long ago (one may write 2 GiB
/// to a slow disk): what is read afterwards is not half of what one of them writes. To look for data takes the lock that a writer holds, on ext4, btrfs, F2FS and overlays; XFS has readers
/// wait of itself.
fn wait_for_writers(path: &Path, mut file: &File) -> Result<(), Error> {
    // An empty file has none.
    if rustix::fs::seek(file, SeekFrom::Data(0)).is_ok_and(|first| first > 0) {
        file.rewind().map_err(|source| TreeError::new("read", path, source))?;
    }
    Ok(())
}

/// The digest of an open file's bytes and attributes.
///
/// # Errors
/// [`Error::Changed`] when it has not `size` bytes.
pub(crate) fn hash_file(
    path: &Path,
    mut file: &File,
    xattrs: &BTreeMap<OsString, Vec<u8>>,
    size: u64,
    buffer: &mut Vec<u8>,
    cancelled: Cancelled<'_>,
) -> Result<[u8; 32], Error> {
    // One byte more than there should be, to see the end.
    let needed = usize::try_from(size).unwrap_or(BUFFER).min(BUFFER - 1) + 1;
    buffer.resize(buffer.len().max(needed), 0);
    let mut hasher = content_hasher(pairs(xattrs), size);
    let mut total = 0;
    loop {
        match file.read(buffer) {
            Ok(0) => break,
            Ok(length) => {
                hasher.raw(&buffer[..length]);
                total += length as u64;
                // A short read that completes a file is its end: no further call is needed to know.
                if length < buffer.len() && total >= size {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(TreeError::new("read", path, source).into()),
        }
        check(cancelled)?;
    }
    if total == size { Ok(hasher.finish()) } else { Err(Error::changed(path)) }
}

/// The digest of a directory's attributes.
pub(crate) fn directory_digest(xattrs: &BTreeMap<OsString, Vec<u8>>) -> [u8; 32] {
    start("directory-v1", pairs(xattrs)).finish()
}

/// Hashes what a file holds as [`digest`] does: `xattrs` in the order of their names, and `size` bytes that follow ([`StableHasher::raw`]).
pub fn content_hasher<'a>(
    xattrs: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])>,
    size: u64,
) -> StableHasher {
    start("file-v1", xattrs).with(&size)
}

fn start<'a>(domain: &str, xattrs: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])>) -> StableHasher {
    let mut hasher = StableHasher::new(domain);
    (xattrs.len() as u64).stable_hash(&mut hasher);
    for (name, value) in xattrs {
        hasher.bytes(name);
        hasher.bytes(value);
    }
    hasher
}

pub(crate) fn pairs(xattrs: &BTreeMap<OsString, Vec<u8>>) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
    xattrs.iter().map(|(name, value)| (name.as_bytes(), &value[..]))
}

fn is_other(a: &Metadata, b: &Metadata) -> bool {
    (a.file_system, a.inode) != (b.file_system, b.inode)
}

/// A file that was there when the tree was walked.
pub(crate) fn vanished(error: TreeError, path: &Path) -> Error {
    if is_absent(&error.source) { Error::changed(path) } else { error.into() }
}

/// Fails when an open file, which has been read, is not (or no more) what was there when the tree was walked.
pub(crate) fn ensure_unchanged(
    tree: &dyn FileTree,
    path: &Path,
    walked: &Metadata,
    file: &File,
) -> Result<(), Error> {
    let now = Metadata::of_file(file).map_err(|source| TreeError::new("stat", path, source))?;
    let same = |now: &Metadata| {
        let (walked, now) = (StatIdentity::of(walked), StatIdentity::of(now));
        // In an immutable tree another link may be made to a file, which moves its ctime.
        walked == now || tree.is_immutable() && walked == StatIdentity { ctime: walked.ctime, ..now }
    };
    // A tree may open a file that stands elsewhere than what it describes; then its own word counts.
    if same(&now) || is_other(&now, walked) && tree.metadata(path)?.is_some_and(|now| same(&now)) {
        Ok(())
    } else {
        Err(Error::changed(path))
    }
}
