//! What is learned of each step on the way, for whoever keeps records of builds.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use cache::{CacheError, CacheRecord};
use graph::{KeyParts, Listing, MissReason, VertexId};
use hash::{CacheKey, ContentDigest, StableHash as _, StableHasher};

use crate::worker::Away;

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
    /// A result that was found elsewhere and is not here.
    pub away: Option<Away>,
    /// Why it was executed, if it was.
    pub why: Option<MissReason>,
}

impl Notes {
    /// What was learned, in topological order; nothing when the solution was cancelled.
    pub fn take(&self) -> Vec<StepNote> {
        std::mem::take(&mut *self.steps.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What was learned so far, in topological order.
    pub fn steps(&self) -> Vec<StepNote> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds what is new.
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

/// The name of the listing of a selection: without having made it, so that a build that finds everything need not.
pub(crate) fn listing_name(digest: &ContentDigest, modes: bool, sources: &[Vec<u8>]) -> String {
    let mut hasher = StableHasher::new("listing-name-v1").with(digest).with(&modes);
    (sources.len() as u64).stable_hash(&mut hasher);
    sources.iter().for_each(|source| hasher.bytes(source));
    CacheKey::from_bytes(hasher.finish()).to_string()
}

/// Whether a listing is remembered.
pub(crate) fn is_listed(cache: &dyn cache::CacheBackend, name: &str) -> Result<bool, CacheError> {
    Ok(cache.recall(&listing_key(name))?.is_some())
}

/// A listing as it is remembered.
pub(crate) fn remembered(name: &str, listing: &Listing) -> (CacheKey, Vec<u8>) {
    (listing_key(name), serde_json::to_vec(listing).unwrap_or_default())
}

/// The files that some step selected; `None` when they are not known any more.
pub fn listing(cache: &dyn cache::CacheBackend, name: &str) -> Option<Listing> {
    // What another version of this program has written, or a failing disk, says nothing.
    let bytes = cache.recall(&listing_key(name)).ok()??;
    serde_json::from_slice(&bytes).ok()
}
