//! What is learned of each step on the way, for whoever keeps records of builds.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use cache::CacheRecord;
use graph::{KeyParts, Listing, MissReason, VertexId};
use hash::{CacheKey, StableHasher};

/// Receives what is learned when [`crate::Solver::solve`] ends, also with a failure.
#[derive(Debug, Default)]
pub struct Notes {
    steps: Mutex<Vec<StepNote>>,
}

/// What is known of one vertex that is no source.
#[derive(Debug, Clone)]
pub struct StepNote {
    /// Which.
    pub vertex: VertexId,
    /// Its definition key.
    pub key: CacheKey,
    /// What went into that.
    pub parts: KeyParts,
    /// Its result, if there is one.
    pub record: Option<CacheRecord>,
    /// Why it was executed, if it was.
    pub why: Option<MissReason>,
}

impl Notes {
    /// What was learned, in topological order; nothing when the solution was cancelled.
    pub fn take(&self) -> Vec<StepNote> {
        std::mem::take(&mut *self.steps.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds what is new: a step may be solved again to show what it printed.
    pub(crate) fn put(&self, steps: Vec<StepNote>) {
        let mut known = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let seen: HashSet<VertexId> = known.iter().map(|step| step.vertex).collect();
        known.extend(steps.into_iter().filter(|step| !seen.contains(&step.vertex)));
    }
}

/// Under which key of [`cache::CacheBackend::remember`] a listing is.
fn listing_key(name: &str) -> CacheKey {
    CacheKey::from_bytes(StableHasher::new("listing-v1").with(name).finish())
}

/// A listing as it is remembered: its name, where and what.
pub(crate) fn remembered(listing: &Listing) -> (String, CacheKey, Vec<u8>) {
    let bytes = serde_json::to_vec(listing).unwrap_or_default();
    let name = CacheKey::from_bytes(StableHasher::new("listing-name-v1").with(&bytes).finish()).to_string();
    let key = listing_key(&name);
    (name, key, bytes)
}

/// The files that some step selected; `None` when they are not known any more.
pub fn listing(cache: &dyn cache::CacheBackend, name: &str) -> Option<Listing> {
    // What another version of this program has written, or a failing disk, says nothing.
    let bytes = cache.recall(&listing_key(name)).ok()??;
    serde_json::from_slice(&bytes).ok()
}
