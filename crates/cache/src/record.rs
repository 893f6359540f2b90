use std::collections::{BTreeSet, HashMap};
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

/// The caches elsewhere on whose word a result rests: it came from there, or something that it was made of did. Empty when all of it
/// was made here.
pub type Origins = BTreeSet<String>;

/// How a step went when it ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepRun {
    /// When it began.
    pub started: SystemTime,
    /// Wall time; zero where nobody measured it, of a result that was made elsewhere.
    pub duration: Duration,
}

impl StepRun {
    /// The wall time, where it was measured.
    pub fn took(&self) -> Option<Duration> {
        (!self.duration.is_zero()).then_some(self.duration)
    }
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

impl NewRecord {
    /// As it is once it is saved.
    pub(crate) fn filed(&self, id: RecordId, run: StepRun, origins: &Origins) -> CacheRecord {
        let layers = self.layers.clone();
        CacheRecord { id, content: self.content, layers, run, origins: origins.clone() }
    }
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
    /// On whose word it rests. Whoever looks it up decides whether that is good enough.
    pub origins: Origins,
}

impl CacheRecord {
    /// Sorts what is newest first so that of equal results those come first that rest on the word of the fewest: the same may have been filed
    /// again when it stood on something that came from elsewhere, and whatever is made of it then rests on that, too. Results that differ
    /// stay in their order: the newest is what `--no-cache` asked for.
    pub fn prefer_fewest_origins(records: &mut [CacheRecord]) {
        let mut order = HashMap::new();
        for record in records.iter() {
            let next = order.len();
            order.entry(record.content).or_insert(next);
        }
        records.sort_by_key(|record| (order[&record.content], record.origins.len()));
    }

    /// The one that is tried first of what is newest first.
    pub(crate) fn first_of(mut records: Vec<CacheRecord>, trusted: &Origins) -> Option<CacheRecord> {
        records.retain(|record| record.origins.is_subset(trusted));
        CacheRecord::prefer_fewest_origins(&mut records);
        records.into_iter().next()
    }
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
    /// The results filed under `key`, newest first, as they are written down. A key can have several, of which one is used: that one is to
    /// be held.
    fn candidates(&self, key: &CacheKey) -> Result<Vec<CacheRecord>, CacheError>;

    /// Keeps what a result names from being removed as long as this cache is open, and notes that it was used. `false` when it is not there
    /// any more.
    fn hold(&self, record: &CacheRecord) -> Result<bool, CacheError>;

    /// The newest result filed under each key that rests on the word of none but `trusted` (of equal ones, on the fewest), as it is written
    /// down: nothing is looked after, and it does not count as used. To tell about results, not to use them.
    fn glance(&self, keys: &[CacheKey], trusted: &Origins) -> Result<Vec<Option<CacheRecord>>, CacheError> {
        keys.iter().map(|key| Ok(CacheRecord::first_of(self.candidates(key)?, trusted))).collect()
    }

    /// Files a result that was made here under all `keys`, in one transaction.
    fn save(&self, keys: &[CacheKey], record: &NewRecord) -> Result<CacheRecord, CacheError> {
        self.save_from(keys, record, &Origins::new())
    }

    /// The same of one that rests on the word of others.
    fn save_from(
        &self,
        keys: &[CacheKey],
        record: &NewRecord,
        origins: &Origins,
    ) -> Result<CacheRecord, CacheError>;

    /// Files an existing record under one more key.
    fn alias(&self, record: RecordId, key: &CacheKey) -> Result<(), CacheError>;

    /// Makes each of `keys` lead to `record`, under which it is filed, and no more to results that hold something else and rest on the word
    /// of none but `trusted`. Those stay under their other keys.
    fn supersede(&self, keys: &[CacheKey], record: &CacheRecord, trusted: &Origins)
    -> Result<(), CacheError>;

    /// What [`CacheBackend::remember`] was given last for a step; `None` when nothing was.
    fn recall(&self, step: &CacheKey) -> Result<Option<Vec<u8>>, CacheError>;

    /// Remembers what went into the keys of steps, to be compared with next time.
    fn remember(&self, steps: &[(CacheKey, Vec<u8>)]) -> Result<(), CacheError>;

    /// When and why the results filed under `key` were removed, if they were within the time for which that is remembered.
    fn eviction(&self, _key: &CacheKey) -> Result<Option<Eviction>, CacheError> {
        Ok(None)
    }

    /// When the records were lost with a damaged database, if that was within the time for which it is remembered: what was built before
    /// is then not known.
    fn lost(&self) -> Result<Option<SystemTime>, CacheError> {
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
