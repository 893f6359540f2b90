//! Digests and the stable encoding that cache keys are made of.
//!
//! Two families, never mixed: [`Digest`] is what OCI demands (sha256, written `sha256:<hex>`); the newtypes
//! made with blake3 ([`CacheKey`], [`ContentDigest`], [`ContentId`], [`VertexDigest`]) are ours, one a meaning, so that
//! one cannot be passed for another. [`StableHash`] feeds values into a [`StableHasher`] in an encoding that is
//! the same on every machine and in every version of this program that names the same domain.

mod clock;
mod counted;
mod digest;
mod newtypes;
mod stable;

pub use clock::{Clock, FixedClock, SystemClock};
pub use counted::HashedBytes;
pub use digest::{Digest, DigestReader, DigestWriter, ParseDigestError, Sha256};
pub use newtypes::{CacheKey, ContentDigest, ContentId, ParseHexError, VertexDigest};
pub use stable::{StableHash, StableHasher};
