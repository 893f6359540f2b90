use std::io;

use hash::Digest;

/// No piece is longer in a blob, in bytes: the largest that there are uncompressed, and what a frame adds to bytes that do not compress
/// (`ZSTD_COMPRESSBOUND` in zstd.h).
pub const LONGEST_PIECE: u64 = {
    let largest = crate::compress::LARGEST_PIECE as u64;
    largest + largest / 256 + 64
};

/// A piece of a compressed blob that means the same wherever it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Of what it is uncompressed, and how it was compressed.
    pub key: [u8; 32],
    /// Where it begins in the blob, in bytes.
    pub offset: u64,
    /// How long it is there, in bytes.
    pub length: u64,
    /// blake3 of its bytes there.
    pub seal: [u8; 32],
}

/// Remembers in which blobs compressed pieces stand, so that what did not change is not compressed again. Used by many threads at
/// once. It only saves work: the bytes of a blob are the same without it.
pub trait ChunkMemory: Send + Sync {
    /// The bytes of a piece and the seal that they were checked against; `None` where no blob has it any more.
    fn find(&self, key: &[u8; 32]) -> Option<(Vec<u8>, [u8; 32])>;

    /// Notes the pieces of a blob that is complete.
    fn remember(&self, blob: &Digest, pieces: &[Piece]) -> io::Result<()>;
}
