use std::io::{self, BufReader, Cursor, Read};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

use crate::ratio::{Bounded, Counted};

const GZIP: &[u8] = &[0x1f, 0x8b, 0x08];
const ZSTD: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const BZIP2: &[u8] = b"BZh";
/// What follows `BZh` and a digit: the beginning of a block, or the end of a stream of none.
const BZIP2_BLOCKS: [&[u8]; 2] =
    [&[0x31, 0x41, 0x59, 0x26, 0x53, 0x59], &[0x17, 0x72, 0x45, 0x38, 0x50, 0x90]];

/// As many first bytes as [`compression_of`] wants.
const START: usize = 10;
const BUFFER: usize = 64 << 10;
/// `xz -9` asks for 65 MiB, and zstd's decoder takes 128 MiB at most.
const XZ_MEMORY: u64 = 128 << 20;

/// How a stream is compressed, told by its first bytes. Images know fewer ([`crate::Compression`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamCompression {
    /// Not at all, or in a way that is not known here.
    None,
    /// RFC 1952.
    Gzip,
    /// `bzip2(1)`.
    Bzip2,
    /// `xz(1)`, the `.xz` file format.
    Xz,
    /// RFC 8878.
    Zstd,
}

/// How a stream that begins with `start` is compressed. Ten bytes are enough to tell.
pub fn compression_of(start: &[u8]) -> StreamCompression {
    if start.starts_with(GZIP) {
        StreamCompression::Gzip
    } else if start.starts_with(&ZSTD) || is_skippable(start) {
        StreamCompression::Zstd
    } else if start.starts_with(XZ) {
        StreamCompression::Xz
    } else if is_bzip2(start) {
        StreamCompression::Bzip2
    } else {
        StreamCompression::None
    }
}

/// Uncompresses a layer or an archive, whatever its media type or name says: by its first bytes, as containerd does. Several
/// gzip members, bzip2 or xz streams, zstd frames (skippable ones included) may follow each other. Checksums are verified; a
/// cut-off stream is an error.
///
/// What comes out of little is limited: beyond 16 GiB it is at most 200 times what went in, and a bomb otherwise. The memory that
/// *decoding* needs is limited as well (128 MiB).
///
/// # Errors
/// When the first bytes cannot be read.
pub fn decompress<'a>(mut reader: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut start = Vec::with_capacity(START);
    reader.by_ref().take(START as u64).read_to_end(&mut start)?;
    let compression = compression_of(&start);
    let (reader, stored) = Counted::new(Cursor::new(start).chain(reader));
    let reader = BufReader::with_capacity(BUFFER, reader);
    Ok(match compression {
        StreamCompression::None => Box::new(reader),
        StreamCompression::Gzip => Box::new(Bounded::new(MultiGzDecoder::new(reader), stored)),
        StreamCompression::Bzip2 => Box::new(Bounded::new(MultiBzDecoder::new(reader), stored)),
        StreamCompression::Xz => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?;
            Box::new(Bounded::new(XzDecoder::new_stream(reader, stream), stored))
        }
        StreamCompression::Zstd => Box::new(Bounded::new(zstd::Decoder::with_buffer(reader)?, stored)),
    })
}

/// A frame that zstd skips (RFC 8878, 3.1.2).
fn is_skippable(start: &[u8]) -> bool {
    matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// More than the first letters: an uncompressed tar begins with a file name, which may be any.
fn is_bzip2(start: &[u8]) -> bool {
    let Some([b'1'..=b'9', rest @ ..]) = start.strip_prefix(BZIP2) else { return false };
    BZIP2_BLOCKS.iter().any(|block| rest.starts_with(block))
}
