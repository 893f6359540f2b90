use std::collections::HashMap;
use std::sync::RwLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::Metadata;

/// What must be equal for a file to be taken as unchanged without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatIdentity {
    /// File system that holds it (`st_dev`).
    pub file_system: u64,
    /// Inode number.
    pub inode: u64,
    /// In bytes.
    pub size: u64,
    /// Seconds since 1970, nanoseconds.
    pub mtime: (i64, u32),
    /// Seconds since 1970, nanoseconds.
    pub ctime: (i64, u32),
}

/// A change within this time before a reading began may leave the times as they are: clocks of file systems are coarse, and
/// those of network file systems run apart.
const RACY: Duration = Duration::from_secs(2);

impl StatIdentity {
    /// The identity that `metadata` speaks of.
    pub fn of(metadata: &Metadata) -> StatIdentity {
        StatIdentity {
            file_system: metadata.file_system,
            inode: metadata.inode,
            size: metadata.size,
            mtime: metadata.mtime,
            ctime: metadata.ctime,
        }
    }

    /// Whether a change could have gone unseen when reading began at `began`: such an identity is neither stored nor looked up.
    pub fn is_racy(&self, began: SystemTime) -> bool {
        let Some(limit) = began.checked_sub(RACY).and_then(|limit| limit.duration_since(UNIX_EPOCH).ok())
        else {
            return true;
        };
        let limit = (i64::try_from(limit.as_secs()).unwrap_or(i64::MAX), limit.subsec_nanos());
        self.mtime >= limit || self.ctime >= limit
    }
}

/// Remembers what files held, so that an unchanged file is never read again. Many threads call it at once, `get` for every
/// file of a tree: it must not touch a disk. The value covers bytes and extended attributes. Callers apply the rule of
/// [`StatIdentity::is_racy`]; implementations just store.
pub trait StatCache: Send + Sync {
    /// The digest stored for exactly this identity.
    fn get(&self, identity: &StatIdentity) -> Option<[u8; 32]>;

    /// Stores a digest. May be kept back and written in one go later.
    fn put(&self, identity: &StatIdentity, digest: [u8; 32]);
}

/// Remembers nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCache;

impl StatCache for NoCache {
    fn get(&self, _identity: &StatIdentity) -> Option<[u8; 32]> {
        None
    }

    fn put(&self, _identity: &StatIdentity, _digest: [u8; 32]) {}
}

/// Remembers for as long as it lives.
#[derive(Debug, Default)]
pub struct MemoryStatCache(RwLock<HashMap<StatIdentity, [u8; 32]>>);

impl MemoryStatCache {
    /// With nothing in it.
    pub fn new() -> MemoryStatCache {
        MemoryStatCache::default()
    }

    /// The number of digests remembered.
    pub fn len(&self) -> usize {
        self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner()).len()
    }

    /// Whether none are.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl StatCache for MemoryStatCache {
    fn get(&self, identity: &StatIdentity) -> Option<[u8; 32]> {
        self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner()).get(identity).copied()
    }

    fn put(&self, identity: &StatIdentity, digest: [u8; 32]) {
        self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(*identity, digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(mtime: i64, ctime: i64) -> StatIdentity {
        StatIdentity { file_system: 1, inode: 2, size: 3, mtime: (mtime, 0), ctime: (ctime, 0) }
    }

    #[test]
    fn recent_and_future_times_are_racy() {
        let began = UNIX_EPOCH + Duration::from_secs(1000);
        assert!(!identity(900, 997).is_racy(began));
        assert!(identity(900, 998).is_racy(began));
        assert!(identity(998, 900).is_racy(began));
        assert!(identity(900, 2000).is_racy(began));
        assert!(identity(-5, -5).is_racy(UNIX_EPOCH));
        assert!(!identity(-5, -5).is_racy(began));
    }

    #[test]
    fn memory_keeps_exact_identities_apart() {
        let cache = MemoryStatCache::new();
        cache.put(&identity(1, 2), [7; 32]);
        assert_eq!(cache.get(&identity(1, 2)), Some([7; 32]));
        assert_eq!(cache.get(&identity(1, 3)), None);
        assert_eq!(NoCache.get(&identity(1, 2)), None);
    }
}
