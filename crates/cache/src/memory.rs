use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hash::CacheKey;

use crate::{CacheBackend, CacheError, CacheRecord, Claim, NewRecord, Origins, RecordId};

/// A [`CacheBackend`] in memory, for tests.
#[derive(Debug, Default, Clone)]
pub struct MemoryCache {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    records: Vec<CacheRecord>,
    keys: HashMap<CacheKey, Vec<RecordId>>,
    claimed: HashSet<CacheKey>,
    steps: HashMap<CacheKey, Vec<u8>>,
}

impl MemoryCache {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets all results, not what went into their keys: as if they had been evicted.
    pub fn evict(&self) {
        self.lock().keys.clear();
    }

    /// All that is remembered of steps.
    pub fn remembered(&self) -> Vec<Vec<u8>> {
        self.lock().steps.values().cloned().collect()
    }

    /// The number of claims that are held at present.
    pub fn claims(&self) -> usize {
        self.lock().claimed.len()
    }
}

impl CacheBackend for MemoryCache {
    fn candidates(&self, key: &CacheKey) -> Result<Vec<CacheRecord>, CacheError> {
        let state = self.lock();
        let ids = state.keys.get(key).map(Vec::as_slice).unwrap_or_default();
        Ok(ids.iter().rev().map(|id| state.records[id.0 as usize].clone()).collect())
    }

    fn hold(&self, _record: &CacheRecord) -> Result<bool, CacheError> {
        Ok(true)
    }

    fn save_from(
        &self,
        keys: &[CacheKey],
        record: &NewRecord,
        origins: &Origins,
    ) -> Result<CacheRecord, CacheError> {
        let mut state = self.lock();
        let id = RecordId(state.records.len() as i64);
        let record = record.filed(id, record.run, origins);
        state.records.push(record.clone());
        for key in keys {
            state.keys.entry(*key).or_default().push(id);
        }
        Ok(record)
    }

    fn alias(&self, record: RecordId, key: &CacheKey) -> Result<(), CacheError> {
        let mut state = self.lock();
        let ids = state.keys.entry(*key).or_default();
        if !ids.contains(&record) {
            ids.push(record);
        }
        Ok(())
    }

    fn supersede(
        &self,
        keys: &[CacheKey],
        record: &CacheRecord,
        trusted: &Origins,
    ) -> Result<(), CacheError> {
        let state = &mut *self.lock();
        for key in keys {
            state.keys.entry(*key).or_default().retain(|id| {
                let other = &state.records[id.0 as usize];
                other.content == record.content || !other.origins.is_subset(trusted)
            });
        }
        Ok(())
    }

    fn recall(&self, step: &CacheKey) -> Result<Option<Vec<u8>>, CacheError> {
        Ok(self.lock().steps.get(step).cloned())
    }

    fn remember(&self, steps: &[(CacheKey, Vec<u8>)]) -> Result<(), CacheError> {
        self.lock().steps.extend(steps.iter().cloned());
        Ok(())
    }

    fn secret(&self) -> Result<[u8; 32], CacheError> {
        Ok([7; 32])
    }

    fn try_claim(&self, key: &CacheKey) -> Result<Option<Box<dyn Claim>>, CacheError> {
        let free = self.lock().claimed.insert(*key);
        Ok(free.then(|| Box::new(MemoryClaim { cache: self.clone(), key: *key }) as Box<dyn Claim>))
    }
}

#[derive(Debug)]
struct MemoryClaim {
    cache: MemoryCache,
    key: CacheKey,
}

impl Claim for MemoryClaim {}

impl Drop for MemoryClaim {
    fn drop(&mut self) {
        self.cache.lock().claimed.remove(&self.key);
    }
}
