use std::collections::VecDeque;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;

use flate2::{Compress, Crc, FlushCompress};
use hash::StableHasher;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::{ChunkMemory, Compression, Piece};

/// How much is compressed at a time at most, in bytes, independently of the rest. Part of the format: other sizes give other bytes.
pub(crate) const CHUNK: usize = 1 << 20;

/// Compresses what is written to it. The bytes that come out depend on the input and the level alone: not on the number of
/// threads, on time, or on how the input is cut into writes.
///
/// gzip is one member (RFC 1952) without name and time, its data compressed in parallel in independent pieces of at most 1 MiB, each
/// ended by an empty block; an empty last block ends the whole. zstd is one frame with a checksum. Memory is bounded by a few MiB a
/// thread.
pub struct Compressor<W: Write>(Inner<W>);

enum Inner<W: Write> {
    None(W),
    Gzip(Box<Gzip<W>>),
    Zstd(Box<zstd::Encoder<'static, W>>),
}

/// Fails when `compression` has no such level: gzip has 0 to 9, zstd 0 to 22 (0 is its default), no compression none.
pub fn check_level(compression: Compression, level: Option<u32>) -> Result<(), String> {
    let (name, max) = match compression {
        Compression::None => {
            return level.map_or(Ok(()), |_| Err("uncompressed layers have no level".to_owned()));
        }
        Compression::Gzip => ("gzip", 9),
        Compression::Zstd => ("zstd", 22),
    };
    match level {
        Some(level) if level > max => Err(format!("{name} has the levels 0 to {max}, not {level}")),
        _ => Ok(()),
    }
}

impl<W: Write> Compressor<W> {
    /// Compresses to `writer`. The default levels are 6 for gzip and 3 for zstd.
    ///
    /// # Errors
    /// A level that does not exist is of kind [`io::ErrorKind::InvalidInput`].
    pub fn new(writer: W, compression: Compression, level: Option<u32>) -> io::Result<Self> {
        Compressor::with_threads(writer, compression, level, threads(), None)
    }

    /// The same, taking pieces that were compressed before from where they are remembered.
    ///
    /// # Errors
    /// As [`Compressor::new`].
    pub fn with_memory(
        writer: W,
        compression: Compression,
        level: Option<u32>,
        memory: Option<Arc<dyn ChunkMemory>>,
    ) -> io::Result<Self> {
        Compressor::with_threads(writer, compression, level, threads(), memory)
    }

    fn with_threads(
        writer: W,
        compression: Compression,
        level: Option<u32>,
        threads: usize,
        memory: Option<Arc<dyn ChunkMemory>>,
    ) -> io::Result<Self> {
        check_level(compression, level)
            .map_err(|reason| io::Error::new(io::ErrorKind::InvalidInput, reason))?;
        Ok(Compressor(match compression {
            Compression::None => Inner::None(writer),
            Compression::Gzip => {
                Inner::Gzip(Box::new(Gzip::new(writer, level.unwrap_or(6), threads, memory)?))
            }
            Compression::Zstd => {
                let mut encoder = zstd::Encoder::new(writer, level.unwrap_or(3) as i32)?;
                encoder.include_checksum(true)?;
                // No workers at all would give other bytes than one or more.
                encoder.multithread(threads.max(1) as u32)?;
                Inner::Zstd(Box::new(encoder))
            }
        }))
    }

    /// Lets what comes next be compressed independently of what came before. Where that is done is part of the format: cut where the
    /// content says so, and what stands between two cuts gives the same bytes in every stream.
    pub fn cut(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Inner::Gzip(gzip) => gzip.submit(),
            Inner::None(_) | Inner::Zstd(_) => Ok(()),
        }
    }

    /// Ends the stream and hands the writer back.
    pub fn finish(self) -> io::Result<W> {
        self.finish_pieces().map(|(writer, _)| writer)
    }

    /// Ends the stream; hands back the writer, and the pieces that are worth remembering.
    pub(crate) fn finish_pieces(self) -> io::Result<(W, Vec<Piece>)> {
        match self.0 {
            Inner::None(writer) => Ok((writer, Vec::new())),
            Inner::Gzip(gzip) => gzip.finish(),
            Inner::Zstd(encoder) => Ok((encoder.finish()?, Vec::new())),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::None(writer) => writer.write(bytes),
            Inner::Gzip(gzip) => gzip.write(bytes),
            Inner::Zstd(encoder) => encoder.write(bytes),
        }
    }

    /// Does nothing: a flush in the middle would change the bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Gzip<W: Write> {
    writer: W,
    level: u32,
    /// Input that makes no whole chunk yet.
    chunk: Vec<u8>,
    /// Chunks that are being compressed, in order.
    pending: VecDeque<Receiver<Option<Packed>>>,
    max_pending: usize,
    crc: Crc,
    /// Bytes written.
    offset: u64,
    memory: Option<Arc<dyn ChunkMemory>>,
    pieces: Vec<Piece>,
}

/// A compressed chunk.
struct Packed {
    deflated: Vec<u8>,
    crc: Crc,
    /// Key and seal, where somebody remembers them.
    names: Option<([u8; 32], [u8; 32])>,
}

impl<W: Write> Gzip<W> {
    fn new(
        mut writer: W,
        level: u32,
        threads: usize,
        memory: Option<Arc<dyn ChunkMemory>>,
    ) -> io::Result<Self> {
        let extra = match level {
            9 => 2,
            1 => 4,
            _ => 0,
        };
        // RFC 1952, 2.3: magic, deflate, no flags, no time, hint about the level, unknown system.
        let header = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, extra, 255];
        writer.write_all(&header)?;
        Ok(Gzip {
            writer,
            level,
            chunk: Vec::new(),
            pending: VecDeque::new(),
            max_pending: if threads > 1 { threads * 2 } else { 0 },
            crc: Crc::new(),
            offset: header.len() as u64,
            memory,
            pieces: Vec::new(),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.chunk.capacity() == 0 {
            self.chunk.reserve_exact(CHUNK);
        }
        let taken = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        if self.chunk.len() == CHUNK {
            self.submit()?;
        }
        Ok(taken)
    }

    fn submit(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.chunk);
        let level = self.level;
        let pool = if self.max_pending > 0 { pool() } else { None };
        let Some(pool) = pool else {
            let packed = pack(&chunk, level, self.memory.as_deref());
            return self.emit(packed);
        };
        while self.pending.len() >= self.max_pending {
            self.emit_next()?;
        }
        let (sender, receiver) = sync_channel(1);
        let memory = self.memory.clone();
        pool.spawn_fifo(move || {
            // The receiver is gone when writing failed: then nobody needs the chunk.
            let _ = sender.send(pack(&chunk, level, memory.as_deref()));
        });
        self.pending.push_back(receiver);
        Ok(())
    }

    fn emit_next(&mut self) -> io::Result<()> {
        match self.pending.pop_front() {
            // The pool's threads never wait for anything, so this ends.
            Some(receiver) => self.emit(receiver.recv().ok().flatten()),
            None => Ok(()),
        }
    }

    fn emit(&mut self, packed: Option<Packed>) -> io::Result<()> {
        let packed = packed.ok_or_else(|| io::Error::other("compressing a layer failed"))?;
        self.crc.combine(&packed.crc);
        self.writer.write_all(&packed.deflated)?;
        let length = packed.deflated.len() as u64;
        if let Some((key, seal)) = packed.names {
            self.pieces.push(Piece { key, offset: self.offset, length, seal });
        }
        self.offset += length;
        Ok(())
    }

    fn finish(mut self) -> io::Result<(W, Vec<Piece>)> {
        self.submit()?;
        while !self.pending.is_empty() {
            self.emit_next()?;
        }
        // The last block, with nothing in it (RFC 1951, 3.2.6), so that it matters to no piece whether it is the last.
        self.writer.write_all(&[3, 0])?;
        // The size is modulo 2^32 (RFC 1952, 2.3.1), as `amount` counts.
        self.writer.write_all(&self.crc.sum().to_le_bytes())?;
        self.writer.write_all(&self.crc.amount().to_le_bytes())?;
        Ok((self.writer, self.pieces))
    }
}

/// Compresses one chunk, or finds it compressed.
fn pack(chunk: &[u8], level: u32, memory: Option<&dyn ChunkMemory>) -> Option<Packed> {
    let mut crc = Crc::new();
    crc.update(chunk);
    let Some(memory) = memory else {
        return Some(Packed { deflated: deflate(chunk, level)?, crc, names: None });
    };
    let mut hasher = StableHasher::new("gzip-chunk-v1").with(&u64::from(level));
    hasher.bytes(chunk);
    let key = hasher.finish();
    let deflated = match memory.find(&key) {
        Some(deflated) => deflated,
        None => deflate(chunk, level)?,
    };
    let names = Some((key, seal(&deflated)));
    Some(Packed { deflated, crc, names })
}

/// What tells whether a compressed piece is still what it was.
pub fn seal(bytes: &[u8]) -> [u8; 32] {
    let mut hasher = StableHasher::new("chunk-seal-v1");
    hasher.bytes(bytes);
    hasher.finish()
}

/// Compresses one chunk by itself. It ends with an empty stored block, on a byte boundary, so that chunks can be strung together. `None`
/// when the compressor fails, which it does only out of memory.
fn deflate(chunk: &[u8], level: u32) -> Option<Vec<u8>> {
    // A fresh one a chunk: zlib-rs is not to be trusted after a reset.
    let mut compress = Compress::new(flate2::Compression::new(level), false);
    let mut deflated = Vec::with_capacity(chunk.len() / 2 + 1024);
    loop {
        let read = usize::try_from(compress.total_in()).ok()?;
        if deflated.capacity() - deflated.len() < 1024 {
            deflated.reserve(chunk.len() / 4 + 4096);
        }
        compress.compress_vec(chunk.get(read..)?, &mut deflated, FlushCompress::Sync).ok()?;
        if deflated.len() < deflated.capacity() && compress.total_in() == chunk.len() as u64 {
            return Some(deflated);
        }
    }
}

/// As many threads as there are processors, within reason.
fn threads() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get).min(16)
}

/// The threads that compress. Their own, because callers wait for them: waiting for rayon's global threads *on* one of them
/// would be a deadlock. `None` when no threads can be had; then chunks are compressed by the caller.
fn pool() -> Option<&'static ThreadPool> {
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    POOL.get_or_init(|| {
        let named = ThreadPoolBuilder::new().thread_name(|n| format!("compress-{n}"));
        named.num_threads(threads()).build().ok()
    })
    .as_ref()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use hash::Digest;

    use super::*;
    use crate::decompress;

    /// Something like a layer: runs, text, noise; the same everywhere.
    fn sample(size: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut bytes = Vec::with_capacity(size + 64);
        while bytes.len() < size {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match state >> 30 {
                0 => bytes.extend_from_slice(&[0; 40]),
                1 => bytes.extend_from_slice(b"the quick brown fox "),
                _ => bytes.extend_from_slice(&state.to_be_bytes()),
            }
        }
        bytes.truncate(size);
        bytes
    }

    fn compress(bytes: &[u8], how: Compression, level: Option<u32>, threads: usize, step: usize) -> Vec<u8> {
        let mut compressor = Compressor::with_threads(Vec::new(), how, level, threads, None).unwrap();
        for piece in bytes.chunks(step) {
            compressor.write_all(piece).unwrap();
            compressor.flush().unwrap();
        }
        compressor.finish().unwrap()
    }

    fn restore(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        decompress(bytes).unwrap().read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn the_bytes_depend_on_nothing_but_the_input() {
        let sizes = [0, 1, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK + 77];
        for how in [Compression::None, Compression::Gzip, Compression::Zstd] {
            for size in sizes {
                let bytes = sample(size);
                let one = compress(&bytes, how, None, 1, size.max(1));
                assert_eq!(restore(&one), bytes, "{how:?} {size}");
                for (threads, step) in [(2, 4096), (3, 70_001), (8, CHUNK), (64, 9_999)] {
                    assert!(
                        compress(&bytes, how, None, threads, step) == one,
                        "{how:?} {size} {threads} {step}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_level_works() {
        let bytes = sample(CHUNK + 5000);
        for level in 0..=9 {
            assert!(
                restore(&compress(&bytes, Compression::Gzip, Some(level), 2, 999_999)) == bytes,
                "{level}"
            );
        }
        for level in [0, 1, 3, 9, 19] {
            assert!(
                restore(&compress(&bytes, Compression::Zstd, Some(level), 2, 999_999)) == bytes,
                "{level}"
            );
        }
        assert!(Compressor::new(Vec::new(), Compression::Gzip, Some(10)).is_err());
        assert!(Compressor::new(Vec::new(), Compression::Zstd, Some(23)).is_err());
        assert!(Compressor::new(Vec::new(), Compression::None, Some(1)).is_err());
    }

    /// A change here changes the digest of every layer that is built: it needs a reason, and a line in the change log.
    #[test]
    fn golden_digests() {
        let bytes = sample(3 * CHUNK + 12_345);
        let digest = |how| Digest::of(&compress(&bytes, how, None, 2, 8192)).to_string();
        assert_eq!(
            digest(Compression::Gzip),
            "sha256:3f1721fc370a10c23e6d6768995433a4fcac8a4738dd03278d64924d3b5539ab"
        );
        assert_eq!(
            digest(Compression::Zstd),
            "sha256:ff269b4bf6ed2b4388d85d01d47c8191aaf4364902cf0e959d9992d942e6d8cc"
        );
    }

    #[test]
    fn several_members_and_frames_are_one_stream() {
        for how in [Compression::Gzip, Compression::Zstd] {
            let mut bytes = compress(b"one ", how, None, 1, 100);
            bytes.extend(compress(b"", how, None, 1, 100));
            bytes.extend(compress(b"two", how, None, 1, 100));
            assert_eq!(restore(&bytes), b"one two", "{how:?}");
        }
        // A skippable frame in front, as zstd:chunked and pzstd write them.
        let mut bytes = vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9];
        bytes.extend(compress(b"three", Compression::Zstd, None, 1, 100));
        assert_eq!(restore(&bytes), b"three");
    }

    #[test]
    fn damage_is_an_error() {
        let bytes = sample(300_000);
        for how in [Compression::Gzip, Compression::Zstd] {
            let packed = compress(&bytes, how, None, 1, 100_000);
            let fails = |packed: &[u8]| {
                decompress(packed).and_then(|mut reader| io::copy(&mut reader, &mut io::sink())).is_err()
            };
            assert!(!fails(&packed));
            for cut in [5, packed.len() / 2, packed.len() - 1] {
                assert!(fails(&packed[..cut]), "{how:?} cut at {cut}");
            }
            let mut flipped = packed.clone();
            flipped[packed.len() / 2] ^= 0x10;
            assert!(fails(&flipped), "{how:?}");
        }
    }

    #[test]
    fn a_slow_pipe_is_recognised() {
        struct Trickle<'a>(&'a [u8]);
        impl Read for Trickle<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let one = buffer.len().min(1);
                self.0.read(&mut buffer[..one])
            }
        }
        for how in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let packed = compress(b"hello", how, None, 1, 100);
            let mut out = Vec::new();
            decompress(Trickle(&packed)).unwrap().read_to_end(&mut out).unwrap();
            assert_eq!(out, b"hello", "{how:?}");
        }
    }
}
