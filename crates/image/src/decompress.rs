use std::io::{self, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use crate::Compression;

const GZIP: &[u8] = &[0x1f, 0x8b, 0x08];
const ZSTD: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
const BUFFER: usize = 64 << 10;

/// Uncompresses a layer, whatever its media type says: by its first bytes, as containerd does. gzip may have several members,
/// zstd several frames, skippable ones included. Checksums are verified; a cut-off stream is an error.
///
/// What comes out is not limited: a small blob can hold a huge layer, and the caller knows what it can take. The memory that
/// *decoding* needs is limited (128 MiB for zstd).
///
/// # Errors
/// When the first bytes cannot be read.
pub fn decompress<'a>(mut reader: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut start = Vec::with_capacity(4);
    reader.by_ref().take(4).read_to_end(&mut start)?;
    let compression = detect(&start);
    let reader = BufReader::with_capacity(BUFFER, Cursor::new(start).chain(reader));
    Ok(match compression {
        Compression::None => Box::new(reader),
        Compression::Gzip => Box::new(MultiGzDecoder::new(reader)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(reader)?),
    })
}

fn detect(start: &[u8]) -> Compression {
    if start.starts_with(GZIP) {
        Compression::Gzip
    } else if start.starts_with(&ZSTD) || is_skippable(start) {
        Compression::Zstd
    } else {
        Compression::None
    }
}

/// A frame that zstd skips (RFC 8878, 3.1.2).
fn is_skippable(start: &[u8]) -> bool {
    matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}
