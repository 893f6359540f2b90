use std::fmt;
use std::time::{Duration, SystemTime};

use hash::{CacheKey, ContentId};

use crate::CacheError;

/// Names a committed snapshot (one layer made or unpacked here) in this state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub i64);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a record in this state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(pub i64);

/// How a step went when it ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepRun {
    /// When it began.
    pub started: SystemTime,
    /// Wall time.
    pub duration: Duration,
}

/// A result of a vertex, to be saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// What the whole tree holds.
    pub content: ContentId,
    /// The layers made here, bottom first. What lies below them (an image's layers) is no part of the record: it comes from the
    /// present build's resolution of the image.
    pub layers: Vec<SnapshotId>,
    /// For people: the instruction.
    pub description: String,
    /// How it went.
    pub run: StepRun,
}

/// A saved result of a vertex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRecord {
    /// Its name here.
    pub id: RecordId,
    /// What the whole tree holds.
    pub content: ContentId,
    /// The layers made here, bottom first.
    pub layers: Vec<SnapshotId>,
    /// How it went.
    pub run: StepRun,
}

/// When and why results were removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// When.
    pub at: SystemTime,
    /// By whom or what for: `by builder prune`, `to keep under 10GB`.
    pub why: String,
}

/// Where results of vertices are remembered. Synchronous: call it from blocking threads.
pub trait CacheBackend: Send + Sync {
    /// The results filed under `key`, newest first. A key can have several; each is a candidate that the caller verifies.
    fn lookup(&self, key: &CacheKey) -> Result<Vec<CacheRecord>, CacheError>;

    /// The newest result filed under each key, as it is written down: nothing is looked after, and it does not count as used. To tell
    /// about results, not to use them.
    fn glance(&self, keys: &[CacheKey]) -> Result<Vec<Option<CacheRecord>>, CacheError> {
        keys.iter().map(|key| Ok(self.lookup(key)?.into_iter().next())).collect()
    }

    /// Files a result under all `keys`, in one transaction.
    fn save(&self, keys: &[CacheKey], record: &NewRecord) -> Result<CacheRecord, CacheError>;

    /// Files an existing record under one more key.
    fn alias(&self, record: RecordId, key: &CacheKey) -> Result<(), CacheError>;

    /// What [`CacheBackend::remember`] was given last for a step; `None` when nothing was.
    fn recall(&self, step: &CacheKey) -> Result<Option<Vec<u8>>, CacheError>;

    /// Remembers what went into the keys of steps, to be compared with next time.
    fn remember(&self, steps: &[(CacheKey, Vec<u8>)]) -> Result<(), CacheError>;

    /// When and why the results filed under `key` were removed, if they were within the time for which that is remembered.
    fn eviction(&self, _key: &CacheKey) -> Result<Option<Eviction>, CacheError> {
        Ok(None)
    }

    /// Bytes that nobody else knows, with which values are hashed that must not be guessed from what is remembered.
    fn secret(&self) -> Result<[u8; 32], CacheError>;

    /// Claims the right to compute `key`, `None` while another holder (of this process or another) has it. The claim ends when
    /// the value is dropped or the process dies.
    fn try_claim(&self, key: &CacheKey) -> Result<Option<Box<dyn Claim>>, CacheError>;
}

/// A claim on a key; ends when dropped.
pub trait Claim: Send + Sync + fmt::Debug {}
