use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hash::StableHasher;
use libdeflater::CompressionLvl;
use rayon::{ThreadPool, ThreadPoolBuilder};
use trace::{Scope, Work};

use crate::{ChunkMemory, Compression, Piece};

/// The most that is compressed at a time in any form, in bytes.
pub(crate) const LARGEST_PIECE: usize = 64 << 20;

/// How much is compressed at a time at most, in bytes, independently of the rest: so much that all pieces together take less than a
/// hundredth more than one stream, which for gzip looks back 32 KiB, for zstd 2 MiB at its default level and further at those that take their
/// time. Part of the format: other sizes give other bytes.
pub(crate) const fn largest_piece(compression: Compression, level: Option<u32>) -> usize {
    match (compression, level) {
        (Compression::None | Compression::Gzip, _) => 1 << 20,
        (Compression::Zstd, None | Some(0..5)) => 5 << 20,
        (Compression::Zstd, Some(5..9)) => 8 << 20,
        (Compression::Zstd, Some(9..16)) => 16 << 20,
        (Compression::Zstd, Some(16..ULTRA)) => 32 << 20,
        (Compression::Zstd, Some(_)) => LARGEST_PIECE,
    }
}

/// Compresses what is written to it. The bytes that come out depend on the input and the level alone: not on the number of
/// threads, on time, or on how the input is cut into writes.
///
/// Pieces of limited size are compressed in parallel, each for itself. With gzip a piece is a member (RFC 1952) without name and time, with
/// zstd a frame (RFC 8878) with a checksum; whoever reads gzip reads members that follow each other as one stream (section 2.2 there), and
/// frames likewise (section 3). Memory is bounded by two pieces or so a thread; at the levels of zstd that need much themselves few are
/// compressed at once.
pub struct Compressor<W: Write>(Inner<W>);

enum Inner<W: Write> {
    None(W),
    Pieces(Box<Pieces<W>>),
}

/// How a piece is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coder {
    Gzip(u32),
    Zstd(u32),
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
        Compressor::with_threads(writer, compression, level, Coder::threads, None)
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
        Compressor::with_threads(writer, compression, level, Coder::threads, memory)
    }

    fn with_threads(
        writer: W,
        compression: Compression,
        level: Option<u32>,
        threads: impl FnOnce(Coder) -> usize,
        memory: Option<Arc<dyn ChunkMemory>>,
    ) -> io::Result<Self> {
        check_level(compression, level)
            .map_err(|reason| io::Error::new(io::ErrorKind::InvalidInput, reason))?;
        let coder = match compression {
            Compression::None => return Ok(Compressor(Inner::None(writer))),
            Compression::Gzip => Coder::Gzip(level.unwrap_or(6)),
            Compression::Zstd => Coder::Zstd(level.unwrap_or(3)),
        };
        Ok(Compressor(Inner::Pieces(Box::new(Pieces::new(writer, coder, threads(coder), memory)))))
    }

    /// Lets what comes next be compressed independently of what came before. Where that is done is part of the format: cut where the
    /// content says so, and what stands between two cuts gives the same bytes in every stream.
    pub fn cut(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Inner::Pieces(pieces) => pieces.submit(),
            Inner::None(_) => Ok(()),
        }
    }

    /// Tells what compressing takes.
    pub fn trace(&mut self, scope: Scope) {
        if let Inner::Pieces(pieces) = &mut self.0 {
            pieces.scope = scope;
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
            Inner::Pieces(pieces) => pieces.finish(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::None(writer) => writer.write(bytes),
            Inner::Pieces(pieces) => pieces.write(bytes),
        }
    }

    /// Does nothing: a flush in the middle would change the bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Pieces<W: Write> {
    writer: W,
    coder: Coder,
    /// Input that makes no whole chunk yet.
    chunk: Vec<u8>,
    /// Chunks that are being compressed, in order.
    pending: VecDeque<Receiver<Option<Packed>>>,
    max_pending: usize,
    /// Bytes written.
    offset: u64,
    memory: Option<Arc<dyn ChunkMemory>>,
    pieces: Vec<Piece>,
    buffers: Arc<Buffers>,
    /// For what.
    scope: Scope,
}

/// Buffers that are free again. The kernel gives memory page by page and zeroes it: of a layer of 1 GB that would be a tenth of the time.
struct BufferPool {
    free: Mutex<Vec<Vec<u8>>>,
    /// So many are kept. Pieces that are found bring buffers of their own, and nobody takes one for them.
    most: usize,
}

impl BufferPool {
    fn new(most: usize) -> BufferPool {
        BufferPool { free: Mutex::default(), most }
    }

    /// An empty buffer, with room in it if one is free.
    fn take(&self) -> Vec<u8> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.most {
            free.push(buffer);
        }
    }
}

/// For what goes in, and for what comes out.
struct Buffers {
    chunks: BufferPool,
    packed: BufferPool,
}

/// A compressed chunk.
struct Packed {
    bytes: Vec<u8>,
    /// Key and seal, where somebody remembers them.
    names: Option<([u8; 32], [u8; 32])>,
}

impl<W: Write> Pieces<W> {
    fn new(writer: W, coder: Coder, threads: usize, memory: Option<Arc<dyn ChunkMemory>>) -> Self {
        let max_pending = coder.max_pending(threads);
        // Besides the chunk that is read.
        let most = max_pending + 1;
        Pieces {
            writer,
            coder,
            chunk: Vec::new(),
            pending: VecDeque::new(),
            max_pending,
            offset: 0,
            memory,
            pieces: Vec::new(),
            buffers: Arc::new(Buffers { chunks: BufferPool::new(most), packed: BufferPool::new(most) }),
            scope: Scope::none(),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let largest = self.coder.largest();
        if self.chunk.capacity() == 0 {
            self.chunk = self.buffers.chunks.take();
            self.chunk.reserve_exact(largest);
        }
        let taken = bytes.len().min(largest - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        if self.chunk.len() == largest {
            self.submit()?;
        }
        Ok(taken)
    }

    fn submit(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.chunk);
        let coder = self.coder;
        let pool = if self.max_pending > 0 { coder.pool() } else { None };
        let Some(pool) = pool else {
            let packed = pack(chunk, coder, self.memory.as_deref(), &self.buffers, &self.scope);
            return self.emit(packed);
        };
        while self.pending.len() >= self.max_pending {
            self.emit_next()?;
        }
        let (sender, receiver) = sync_channel(1);
        let (memory, buffers, scope) = (self.memory.clone(), self.buffers.clone(), self.scope.clone());
        pool.spawn_fifo(move || {
            // The receiver is gone when writing failed: then nobody needs the chunk.
            let _ = sender.send(pack(chunk, coder, memory.as_deref(), &buffers, &scope));
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
        self.writer.write_all(&packed.bytes)?;
        let length = packed.bytes.len() as u64;
        if let Some((key, seal)) = packed.names {
            self.pieces.push(Piece { key, offset: self.offset, length, seal });
        }
        self.offset += length;
        self.buffers.packed.give_back(packed.bytes);
        Ok(())
    }

    fn finish(mut self) -> io::Result<(W, Vec<Piece>)> {
        self.submit()?;
        while !self.pending.is_empty() {
            self.emit_next()?;
        }
        if self.offset == 0 {
            // Of nothing too there is a member or frame: no bytes at all are neither gzip nor zstd.
            self.emit(pack(Vec::new(), self.coder, None, &self.buffers, &self.scope))?;
        }
        Ok((self.writer, self.pieces))
    }
}

/// Compresses one chunk, or finds it compressed.
fn pack(
    chunk: Vec<u8>,
    coder: Coder,
    memory: Option<&dyn ChunkMemory>,
    buffers: &Buffers,
    scope: &Scope,
) -> Option<Packed> {
    let compress = || {
        let mut timed = scope.begin(Work::Compress, "compress");
        timed.add(chunk.len() as u64);
        let mut bytes = buffers.packed.take();
        coder.compress(&chunk, &mut bytes)?;
        Some(bytes)
    };
    let packed = match memory {
        None => Packed { bytes: compress()?, names: None },
        Some(memory) => {
            let key = coder.key(&chunk);
            let (bytes, seal) = match memory.find(&key) {
                Some(found) => found,
                None => {
                    let bytes = compress()?;
                    let seal = seal(&bytes);
                    (bytes, seal)
                }
            };
            Packed { bytes, names: Some((key, seal)) }
        }
    };
    buffers.chunks.give_back(chunk);
    Some(packed)
}

impl Coder {
    fn largest(self) -> usize {
        match self {
            Coder::Gzip(level) => largest_piece(Compression::Gzip, Some(level)),
            Coder::Zstd(level) => largest_piece(Compression::Zstd, Some(level)),
        }
    }

    /// How many chunks may be compressed, or wait for it, while others are read; none where the caller does it.
    fn max_pending(self, threads: usize) -> usize {
        match self {
            _ if threads < 2 => 0,
            Coder::Gzip(_) => threads + threads.min(4),
            Coder::Zstd(..16) => threads + 1,
            // Each takes 0.15 GB, and from the next on 0.75 GB.
            Coder::Zstd(16..ULTRA) => threads,
            Coder::Zstd(_) => threads.min(2),
        }
    }

    /// Threads that compress at most. All of a command is to take less than 100 MB at the default levels on any number of processors, and each
    /// thread keeps room for a chunk. More would not be faster: sha256 goes over all bytes on one.
    fn most_threads(self) -> usize {
        match self {
            Coder::Gzip(_) => 16,
            Coder::Zstd(_) => 4,
        }
    }

    /// How many threads there are to compress; one where the caller does it.
    fn threads(self) -> usize {
        self.pool().map_or(1, ThreadPool::current_num_threads)
    }

    /// The threads that compress: as many as rayon's others, which is one a processor or what `RAYON_NUM_THREADS` says, within reason. Their own,
    /// because callers wait for them: waiting for rayon's global threads *on* one of them would be a deadlock. `None` when no threads can be
    /// had; then chunks are compressed by the caller.
    fn pool(self) -> Option<&'static ThreadPool> {
        static GZIP: OnceLock<Option<ThreadPool>> = OnceLock::new();
        static ZSTD: OnceLock<Option<ThreadPool>> = OnceLock::new();
        let make = || {
            let named = ThreadPoolBuilder::new().thread_name(|n| format!("compress-{n}"));
            named.num_threads(rayon::current_num_threads().min(self.most_threads())).build().ok()
        };
        let pool = match self {
            Coder::Gzip(_) => &GZIP,
            Coder::Zstd(_) => &ZSTD,
        };
        pool.get_or_init(make).as_ref()
    }

    /// Under which a compressed chunk is remembered.
    fn key(self, chunk: &[u8]) -> [u8; 32] {
        let (form, level) = match self {
            Coder::Gzip(level) => ("gzip-chunk-v2", level),
            Coder::Zstd(level) => ("zstd-chunk-v2", level),
        };
        let mut hasher = StableHasher::new(form).with(&u64::from(level));
        hasher.bytes(chunk);
        hasher.finish()
    }

    /// Makes `packed` a member or a frame. `None` for a level that does not exist, or when the compressor fails, which it does not while there
    /// is room.
    fn compress(self, chunk: &[u8], packed: &mut Vec<u8>) -> Option<()> {
        match self {
            Coder::Gzip(level) => member(chunk, level, packed),
            Coder::Zstd(level) => frame(chunk, level, packed).ok(),
        }
    }
}

/// What tells whether a compressed piece is still what it was.
pub fn seal(bytes: &[u8]) -> [u8; 32] {
    let mut hasher = StableHasher::new("chunk-seal-v1");
    hasher.bytes(bytes);
    hasher.finish()
}

/// Compresses one chunk to a gzip member: no flags, no time, unknown system (RFC 1952, 2.3), its checksum behind it.
fn member(chunk: &[u8], level: u32, member: &mut Vec<u8>) -> Option<()> {
    let mut compressor = libdeflater::Compressor::new(effort(level)?);
    member.resize(compressor.gzip_compress_bound(chunk.len()), 0);
    let length = compressor.gzip_compress(chunk, member).ok()?;
    member.truncate(length);
    Some(())
}

/// Compresses one chunk to a zstd frame with its size in front and its checksum behind it. Each time with a compressor of its own: what one
/// has compressed before is not to have a say in what it makes.
fn frame(chunk: &[u8], level: u32, frame: &mut Vec<u8>) -> io::Result<()> {
    let mut compressor = zstd::bulk::Compressor::new(i32::try_from(level).map_err(io::Error::other)?)?;
    compressor.include_checksum(true)?;
    // All of the piece is at hand, so that looking back to its beginning costs nothing: it makes good for much of what pieces do not share.
    if level < ULTRA {
        let reach = chunk.len().next_power_of_two().ilog2();
        compressor.window_log(reach.clamp(LEAST_WINDOW, MOST_WINDOW))?;
    }
    frame.reserve(zstd::zstd_safe::compress_bound(chunk.len()));
    compressor.compress_to_buffer(chunk, frame)?;
    Ok(())
}

/// The logarithm of the shortest window that zstd takes, and of the longest that every reader is recommended to take: 8 MiB (RFC 8878, 3.1.1.1.2).
const LEAST_WINDOW: u32 = 10;
const MOST_WINDOW: u32 = 23;
/// From this level on zstd looks further back by itself, and whoever wants it wants that.
const ULTRA: u32 = 20;

/// The level of libdeflate that makes no more than zlib's level of that number, within a hundredth, also where pieces lose what
/// they do not share.
fn effort(level: u32) -> Option<CompressionLvl> {
    let level = match level {
        4 | 5 => level + 1,
        _ => level,
    };
    CompressionLvl::new(i32::try_from(level).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use hash::Digest;

    use super::*;
    use crate::decompress;

    const MIB: usize = 1 << 20;

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
        let mut compressor = Compressor::with_threads(Vec::new(), how, level, |_| threads, None).unwrap();
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
        for how in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let piece = largest_piece(how, None);
            for size in [0, 1, 1000, piece - 1, piece, piece + 1, 2 * piece, 5 * piece + 77] {
                let bytes = sample(size);
                let one = compress(&bytes, how, None, 1, size.max(1));
                assert_eq!(restore(&one), bytes, "{how:?} {size}");
                for (threads, step) in [(2, 4096), (3, 70_001), (8, piece), (64, 9_999)] {
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
        let bytes = sample(MIB + 5000);
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

    /// A change here changes the digest of every layer that is built: it needs a reason, and another name of the form in which layers are kept.
    #[test]
    fn golden_digests() {
        let digest =
            |how, size| Digest::of(&compress(&sample(size + 12_345), how, None, 2, 8192)).to_string();
        assert_eq!(
            digest(Compression::Gzip, 3 * MIB),
            "sha256:153e61f34c09593931ce4de08a2cca0f7903626aad1eed076357e6d5bf613b07"
        );
        assert_eq!(
            digest(Compression::Zstd, 9 * MIB),
            "sha256:504a2c709d60db6b61b319cb7bf91b52233974f6d6c3f3ecbfed7a241a9a1804"
        );
    }

    /// Knows every piece.
    struct Found(Vec<u8>);

    impl ChunkMemory for Found {
        fn find(&self, _: &[u8; 32]) -> Option<(Vec<u8>, [u8; 32])> {
            Some((self.0.clone(), seal(&self.0)))
        }

        fn remember(&self, _: &Digest, _: &[Piece]) -> io::Result<()> {
            Ok(())
        }
    }

    /// A layer of which little changed takes no more memory than one that is new.
    #[test]
    fn what_is_found_is_not_kept() {
        for (how, threads) in [(Compression::Gzip, 1), (Compression::Gzip, 2), (Compression::Zstd, 2)] {
            let coder = match how {
                Compression::Zstd => Coder::Zstd(3),
                _ => Coder::Gzip(1),
            };
            let memory: Arc<dyn ChunkMemory> = Arc::new(Found(b"a piece".to_vec()));
            let mut pieces = Pieces::new(Vec::new(), coder, threads, Some(memory));
            let piece = vec![0; coder.largest()];
            for _ in 0..20 {
                assert_eq!(pieces.write(&piece).unwrap(), piece.len());
            }
            let buffers = Arc::clone(&pieces.buffers);
            assert_eq!(pieces.finish().unwrap().1.len(), 20);
            for pool in [&buffers.chunks, &buffers.packed] {
                let kept = pool.free.lock().unwrap().len();
                assert!(kept <= coder.max_pending(threads) + 1, "{how:?} {threads}: {kept}");
            }
        }
    }

    /// A member or frame for each piece, also where there is nothing.
    #[test]
    fn each_piece_stands_for_itself() {
        for (size, level, members) in [(0, 6, 1), (1, 6, 1), (MIB, 1, 1), (MIB + 1, 9, 2), (5 * MIB, 0, 5)] {
            let packed = compress(&sample(size), Compression::Gzip, Some(level), 2, 77_777);
            let mut rest = &packed[..];
            let mut seen = 0;
            while !rest.is_empty() {
                // Magic, deflate, no flags, no time; the hint about the level is anything; unknown system.
                assert_eq!(rest[..8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0], "{size}");
                assert_eq!(rest[9], 255, "{size}");
                let mut one = flate2::bufread::GzDecoder::new(rest);
                io::copy(&mut one, &mut io::sink()).unwrap();
                rest = one.into_inner();
                seen += 1;
            }
            assert_eq!(seen, members, "{size}");
        }
        for (size, level, frames) in [
            (0, 3, 1),
            (1, 3, 1),
            (5 * MIB, 1, 1),
            (5 * MIB + 1, 4, 2),
            (8 * MIB + 1, 5, 2),
            (16 * MIB + 1, 9, 2),
            (11 * MIB, 0, 3),
        ] {
            let packed = compress(&sample(size), Compression::Zstd, Some(level), 2, 77_777);
            let mut rest = &packed[..];
            let mut seen = 0;
            while !rest.is_empty() {
                // Magic, and in the descriptor the bit of the checksum (RFC 8878, 3.1.1.1.1).
                assert_eq!(rest[..4], [0x28, 0xb5, 0x2f, 0xfd], "{size}");
                assert_eq!(rest[4] & 4, 4, "{size}");
                let mut one = zstd::Decoder::with_buffer(rest).unwrap().single_frame();
                io::copy(&mut one, &mut io::sink()).unwrap();
                rest = one.finish();
                seen += 1;
            }
            assert_eq!(seen, frames, "{size}");
        }
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
