use std::io::{self, Read};

use hash::{ContentDigest, StableHash, StableHasher};
use image::layer::{Entry, EntryKind};
use rayon::prelude::*;

use crate::error::At;
use crate::{CacheError, Entries};

/// What a layer amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changes {
    /// Digest of all that the layer says, without times.
    pub digest: ContentDigest,
    /// Number of entries.
    pub entries: u64,
    /// Bytes of files.
    pub size: u64,
}

impl Changes {
    /// Reads and hashes everything, in parallel.
    pub(crate) fn of(entries: &Entries) -> Result<Changes, CacheError> {
        let digests: Vec<[u8; 32]> =
            entries.entries().par_iter().map(|entry| digest_of(entries, entry)).collect::<Result<_, _>>()?;
        Ok(Changes {
            digest: digest(&digests),
            entries: entries.entries().len() as u64,
            size: entries.size(),
        })
    }
}

/// Of a layer with such entries.
pub(crate) fn digest(entries: &[[u8; 32]]) -> ContentDigest {
    ContentDigest::from_bytes(StableHasher::new("layer-changes-v1").with(entries).finish())
}

fn digest_of(entries: &Entries, entry: &Entry) -> Result<[u8; 32], CacheError> {
    let mut hasher = hasher(entry);
    if let EntryKind::File { size } = entry.kind {
        hash_content(entries, entry, size, &mut hasher)?;
    }
    Ok(hasher.finish())
}

/// Hashes an entry; the bytes of a file follow. A change here changes content keys: give the domains a new version.
pub(crate) fn hasher(entry: &Entry) -> StableHasher {
    let mut hasher = StableHasher::new("layer-entry-v1");
    hasher.bytes(&entry.path);
    entry.mode.stable_hash(&mut hasher);
    entry.uid.stable_hash(&mut hasher);
    entry.gid.stable_hash(&mut hasher);
    (entry.xattrs.len() as u64).stable_hash(&mut hasher);
    for (name, value) in &entry.xattrs {
        hasher.bytes(name);
        hasher.bytes(value);
    }
    match &entry.kind {
        EntryKind::File { size } => {
            0u8.stable_hash(&mut hasher);
            size.stable_hash(&mut hasher);
        }
        EntryKind::Directory => 1u8.stable_hash(&mut hasher),
        EntryKind::Symlink { target } => {
            2u8.stable_hash(&mut hasher);
            hasher.bytes(target);
        }
        EntryKind::Hardlink { target } => {
            3u8.stable_hash(&mut hasher);
            hasher.bytes(target);
        }
        EntryKind::CharDevice { major, minor } => {
            4u8.stable_hash(&mut hasher);
            (*major, *minor).stable_hash(&mut hasher);
        }
        EntryKind::BlockDevice { major, minor } => {
            5u8.stable_hash(&mut hasher);
            (*major, *minor).stable_hash(&mut hasher);
        }
        EntryKind::Fifo => 6u8.stable_hash(&mut hasher),
        EntryKind::Whiteout => 7u8.stable_hash(&mut hasher),
        EntryKind::Opaque => 8u8.stable_hash(&mut hasher),
    }
    hasher
}

/// The size goes in front, so the bytes need no length of their own.
pub(crate) fn hash_content(
    entries: &Entries,
    entry: &Entry,
    size: u64,
    hasher: &mut StableHasher,
) -> Result<(), CacheError> {
    let path = entries.host_path(entry);
    let mut file = entries.open(entry)?.take(size.saturating_add(1));
    let mut buffer = vec![0; usize::try_from(size.clamp(1, 1 << 17)).unwrap_or(1 << 17)];
    let mut seen = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                hasher.raw(&buffer[..read]);
                seen += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).at("read", &path),
        }
    }
    if seen != size {
        let source = io::Error::new(io::ErrorKind::InvalidData, "it changed while it was read");
        return Err(CacheError::Io { action: "read", path, source });
    }
    Ok(())
}
