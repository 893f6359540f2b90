use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use files::{StatCache, StatIdentity};
use hash::StableHasher;

use crate::error::At;
use crate::store::Inner;
use crate::{CacheError, Store};

/// Names the format; a file that begins otherwise is no stat cache of this version.
const HEADING: &[u8; 16] = b"builder-stat-v1\n";
/// File system, inode, size, mtime, ctime: what a record is sorted by.
const KEY: usize = 8 + 8 + 8 + 12 + 12;
const RECORD: usize = KEY + 32;
/// Heading and checksum.
const HEADER: usize = HEADING.len() + 32;

/// Digests that a build did not ask for are kept up to this number, or that of those it did ask for: they belong to files that
/// are gone, or that another Dockerfile of the same context uses.
const MIN_IDLE: usize = 10_000;

/// Remembers what the files of one context held, in one file: a heading, a checksum, then records of fixed size, sorted, integers
/// big-endian so that records compare as bytes.
#[derive(Debug)]
pub struct DiskStatCache {
    inner: Arc<Inner>,
    path: PathBuf,
    /// The file as it was.
    bytes: Vec<u8>,
    /// One bit a record: asked for by this build.
    asked: Vec<AtomicU64>,
    fresh: RwLock<HashMap<[u8; KEY], [u8; 32]>>,
}

impl Store {
    /// The stat cache of a context; `name` is whatever identifies the context on this machine (its absolute path). A cache that is
    /// missing, broken or of another version is empty.
    pub fn stat_cache(&self, name: &[u8]) -> Result<DiskStatCache, CacheError> {
        let mut hasher = StableHasher::new("stat-cache-name-v1");
        hasher.bytes(name);
        let file = hash::CacheKey::from_bytes(hasher.finish()).to_string();
        let path = self.inner.layout.stats().join(file);
        let bytes = match fs::read(&path) {
            Ok(bytes) if is_valid(&bytes) => bytes,
            Ok(_) => Vec::new(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).at("read", &path),
        };
        let words = records(&bytes).len().div_ceil(RECORD * 64);
        let asked = (0..words).map(|_| AtomicU64::new(0)).collect();
        Ok(DiskStatCache { inner: self.inner.clone(), path, bytes, asked, fresh: RwLock::default() })
    }
}

impl DiskStatCache {
    /// The number of digests remembered.
    pub fn len(&self) -> usize {
        records(&self.bytes).len() / RECORD + self.fresh.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether none are.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the file, if anything was added. Of two builds that end at once, the later one's is kept.
    pub fn save(&self) -> Result<(), CacheError> {
        let fresh = self.fresh.read().unwrap_or_else(PoisonError::into_inner);
        if fresh.is_empty() {
            return Ok(());
        }
        // References, and blocks of bytes: there may be millions, and the build still holds all that it selected.
        let mut merged: Vec<(&[u8; KEY], &[u8; 32])> = self.kept();
        merged.extend(fresh.iter());
        // Of equal keys the added one comes last and wins.
        merged.sort_by_key(|(key, _)| *key);
        merged.reverse();
        merged.dedup_by_key(|(key, _)| *key);
        merged.reverse();
        let mut hasher = start_checksum(merged.len() * RECORD);
        for block in blocks(&merged) {
            hasher.raw(&block);
        }
        let checksum = hasher.finish();
        let temporary = self.inner.scratch.fresh()?;
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| {
                file.write_all(HEADING)?;
                file.write_all(&checksum)?;
                blocks(&merged).try_for_each(|block| file.write_all(&block))
            })
            .and_then(|()| fs::rename(&temporary, &self.path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written.at("write", &self.path)
    }

    fn kept(&self) -> Vec<(&[u8; KEY], &[u8; 32])> {
        let all = records(&self.bytes).chunks_exact(RECORD);
        let was_asked =
            |index: usize| self.asked[index / 64].load(Ordering::Relaxed) & 1 << (index % 64) != 0;
        let asked = (0..all.len()).filter(|index| was_asked(*index)).count();
        let keep_idle = all.len() - asked <= asked.max(MIN_IDLE);
        all.enumerate()
            .filter(|(index, _)| keep_idle || was_asked(*index))
            .filter_map(|(_, record)| {
                let (key, digest) = record.split_first_chunk::<KEY>()?;
                Some((key, digest.first_chunk::<32>()?))
            })
            .collect()
    }

    fn find(&self, key: &[u8; KEY]) -> Option<(usize, [u8; 32])> {
        let records = records(&self.bytes);
        let record = |index: usize| &records[index * RECORD..(index + 1) * RECORD];
        let (mut low, mut high) = (0, records.len() / RECORD);
        while low < high {
            let middle = low + (high - low) / 2;
            match record(middle)[..KEY].cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some((middle, record(middle)[KEY..].try_into().ok()?)),
            }
        }
        None
    }
}

impl StatCache for DiskStatCache {
    fn get(&self, identity: &StatIdentity) -> Option<[u8; 32]> {
        let key = key_of(identity);
        let fresh = self.fresh.read().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        fresh.or_else(|| {
            let (index, digest) = self.find(&key)?;
            self.asked[index / 64].fetch_or(1 << (index % 64), Ordering::Relaxed);
            Some(digest)
        })
    }

    fn put(&self, identity: &StatIdentity, digest: [u8; 32]) {
        self.fresh.write().unwrap_or_else(PoisonError::into_inner).insert(key_of(identity), digest);
    }
}

/// The records of a valid or empty file.
fn records(bytes: &[u8]) -> &[u8] {
    bytes.get(HEADER..).unwrap_or_default()
}

fn is_valid(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER
        && (bytes.len() - HEADER).is_multiple_of(RECORD)
        && bytes.starts_with(HEADING)
        && bytes[HEADING.len()..HEADER] == checksum(&bytes[HEADER..])
}

fn checksum(records: &[u8]) -> [u8; 32] {
    let mut hasher = start_checksum(records.len());
    hasher.raw(records);
    hasher.finish()
}

/// What has yet to be added is `length` bytes of records.
fn start_checksum(length: usize) -> StableHasher {
    StableHasher::new("stat-cache-v1").with(&(length as u64))
}

/// The bytes of records, so many at a time that calls are few.
fn blocks<'a>(records: &'a [(&[u8; KEY], &[u8; 32])]) -> impl Iterator<Item = Vec<u8>> + 'a {
    records.chunks(4096).map(|records| {
        let mut block = Vec::with_capacity(records.len() * RECORD);
        for (key, digest) in records {
            block.extend_from_slice(*key);
            block.extend_from_slice(*digest);
        }
        block
    })
}

fn key_of(identity: &StatIdentity) -> [u8; KEY] {
    let mut key = [0; KEY];
    key[..8].copy_from_slice(&identity.file_system.to_be_bytes());
    key[8..16].copy_from_slice(&identity.inode.to_be_bytes());
    key[16..24].copy_from_slice(&identity.size.to_be_bytes());
    for (at, (seconds, nanos)) in [(24, identity.mtime), (36, identity.ctime)] {
        key[at..at + 8].copy_from_slice(&seconds.to_be_bytes());
        key[at + 8..at + 12].copy_from_slice(&nanos.to_be_bytes());
    }
    key
}
