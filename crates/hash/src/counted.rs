use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static SHA256: AtomicU64 = AtomicU64::new(0);
static BLAKE3: AtomicU64 = AtomicU64::new(0);

/// How many bytes were hashed. Work in proportion to what changed shows in this: bytes that are hashed twice need not be read twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HashedBytes {
    /// For digests as OCI has them.
    pub sha256: u64,
    /// For keys and content digests.
    pub blake3: u64,
}

impl HashedBytes {
    /// By this process so far, in hashes that were finished.
    pub fn so_far() -> HashedBytes {
        HashedBytes { sha256: SHA256.load(Relaxed), blake3: BLAKE3.load(Relaxed) }
    }
}

pub(crate) fn sha256(bytes: u64) {
    SHA256.fetch_add(bytes, Relaxed);
}

pub(crate) fn blake3(bytes: u64) {
    BLAKE3.fetch_add(bytes, Relaxed);
}
