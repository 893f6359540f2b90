use std::io::{self, BufWriter, Read, Write};
use std::sync::Arc;

use hash::DigestWriter;

use crate::compress::largest_piece;
use crate::layer::{Entry, EntryKind, LayerError, LayerWriter};
use crate::{BlobWriter, ChunkMemory, Compression, Compressor, ContentStore, Descriptor, Layer};

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackOptions {
    /// How the blob is compressed.
    pub compression: Compression,
    /// As [`crate::check_level`] takes it; `None` is the default.
    pub level: Option<u32>,
    /// Seconds since 1970 that every file gets (`SOURCE_DATE_EPOCH`). `None` keeps the files' times in whole seconds, as containerd
    /// does: nanoseconds would cost a block or two for each file, and no peer has them in images.
    pub epoch: Option<i64>,
}

/// Entries → tar → blob in a store, with both digests computed on the way.
pub struct LayerPacker {
    tar: LayerWriter<BufWriter<Stream>>,
    options: PackOptions,
    memory: Option<Arc<dyn ChunkMemory>>,
    /// Bytes of entries since a piece began.
    since: u64,
}

/// Pieces do not end before they have so many bytes: smaller ones compress badly, and all together would take more than a hundredth more
/// than one stream.
const fn smallest_piece(compression: Compression, largest: u64) -> u64 {
    match compression {
        Compression::None | Compression::Gzip => largest / 2,
        Compression::Zstd => largest / 4 * 3,
    }
}

/// What follows the tar. An uncompressed layer is its own blob: it is hashed once, by the store.
enum Stream {
    Plain(Box<dyn BlobWriter>),
    Packed(DigestWriter<Compressor<Box<dyn BlobWriter>>>),
}

impl LayerPacker {
    /// Begins a layer; nothing is visible in `store` until [`LayerPacker::finish`].
    pub fn new(store: &dyn ContentStore, options: PackOptions) -> Result<LayerPacker, LayerError> {
        LayerPacker::with_memory(store, options, None)
    }

    /// The same, compressing only what is not remembered.
    pub fn with_memory(
        store: &dyn ContentStore,
        options: PackOptions,
        memory: Option<Arc<dyn ChunkMemory>>,
    ) -> Result<LayerPacker, LayerError> {
        let blob = store.create().map_err(failed)?;
        let stream = match options.compression {
            Compression::None => {
                crate::check_level(options.compression, options.level)
                    .map_err(|reason| failed(io::Error::new(io::ErrorKind::InvalidInput, reason)))?;
                Stream::Plain(blob)
            }
            compression => {
                let compressor = Compressor::with_memory(blob, compression, options.level, memory.clone())
                    .map_err(failed)?;
                Stream::Packed(DigestWriter::new(compressor))
            }
        };
        let tar = LayerWriter::new(BufWriter::with_capacity(256 << 10, stream));
        Ok(LayerPacker { tar, options, memory, since: 0 })
    }

    /// Tells what compressing takes, as [`Compressor::trace`] does.
    ///
    /// # Errors
    /// When what was written so far cannot be flushed.
    pub fn traced(mut self, scope: trace::Scope) -> Result<LayerPacker, LayerError> {
        if let Stream::Packed(hashed) = self.tar.flushed()?.get_mut() {
            hashed.get_mut().trace(scope);
        }
        Ok(self)
    }

    /// Appends an entry as [`LayerWriter::append`] does, its time adjusted as the options say.
    pub fn append(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), LayerError> {
        self.cut_before(entry)?;
        let mtime = self.options.epoch.unwrap_or(entry.mtime);
        if mtime == entry.mtime && entry.mtime_nanos == 0 {
            return self.tar.append(entry, content);
        }
        self.tar.append(&Entry { mtime, mtime_nanos: 0, ..entry.clone() }, content)
    }

    /// Begins a new piece where the entries say so, so that a change leaves all pieces but one or two as they were: before a file that
    /// fills one, and before every sixteenth path or so once there is enough. Part of the format.
    fn cut_before(&mut self, entry: &Entry) -> Result<(), LayerError> {
        let size = match entry.kind {
            EntryKind::File { size } => size,
            _ => 0,
        };
        let largest = largest_piece(self.options.compression, self.options.level) as u64;
        let smallest = smallest_piece(self.options.compression, largest);
        if self.since > 0 && (size >= largest || self.since >= smallest && divides(&entry.path)) {
            if let Stream::Packed(hashed) = self.tar.flushed()?.get_mut() {
                hashed.get_mut().cut().map_err(failed)?;
            }
            self.since = 0;
        }
        self.since = (self.since + 512 + size.next_multiple_of(512)) % largest;
        Ok(())
    }

    /// Completes the layer in the store.
    pub fn finish(self) -> Result<Layer, LayerError> {
        let stream = self.tar.finish()?.into_inner().map_err(|error| failed(error.into_error()))?;
        let (blob, diff_id, pieces) = match stream {
            Stream::Plain(blob) => (blob, None, Vec::new()),
            Stream::Packed(hashed) => {
                let (compressor, diff_id, _) = hashed.finish();
                let (blob, pieces) = compressor.finish_pieces().map_err(failed)?;
                (blob, Some(diff_id), pieces)
            }
        };
        let (digest, size) = blob.commit(None).map_err(failed)?;
        if let Some(memory) = self.memory {
            memory.remember(&digest, &pieces).map_err(failed)?;
        }
        let descriptor = Descriptor::new(self.options.compression.layer_media_type(), digest, size);
        Ok(Layer { descriptor, diff_id: diff_id.unwrap_or(digest) })
    }
}

/// Whether a path is one of those that pieces may begin at: FNV-1a, and four bits of that, mixed once more.
fn divides(path: &[u8]) -> bool {
    let hash = path.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60 == 0
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(blob) => blob.write(bytes),
            Stream::Packed(hashed) => hashed.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(blob) => blob.flush(),
            Stream::Packed(hashed) => hashed.flush(),
        }
    }
}

fn failed(source: io::Error) -> LayerError {
    LayerError::Io { action: "write layer", source }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hash::Digest;

    use super::*;
    use crate::layer::LayerReader;
    use crate::{MemoryStore, Piece, decompress};

    /// Pieces in memory.
    #[derive(Default)]
    struct Remembered {
        pieces: Mutex<HashMap<[u8; 32], Vec<u8>>>,
        found: AtomicUsize,
        asked: AtomicUsize,
        store: MemoryStore,
    }

    impl ChunkMemory for Remembered {
        fn find(&self, key: &[u8; 32]) -> Option<(Vec<u8>, [u8; 32])> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let found = self.pieces.lock().unwrap().get(key).cloned()?;
            self.found.fetch_add(1, Ordering::Relaxed);
            let seal = crate::seal(&found);
            Some((found, seal))
        }

        fn remember(&self, blob: &Digest, pieces: &[Piece]) -> io::Result<()> {
            let bytes = (&self.store as &dyn ContentStore).read(blob, 1 << 30)?.unwrap();
            for piece in pieces {
                let piece_bytes = &bytes[piece.offset as usize..][..piece.length as usize];
                assert_eq!(crate::seal(piece_bytes), piece.seal);
                self.pieces.lock().unwrap().insert(piece.key, piece_bytes.to_vec());
            }
            Ok(())
        }
    }

    /// Files of some 7 kB and a large one, or of `scale` times as much.
    fn tree(scale: usize, changed: Option<usize>) -> Vec<(Entry, Vec<u8>)> {
        let content = |seed: usize, size: usize| -> Vec<u8> {
            let mut state = seed as u32 + 1;
            let next = |_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                b'a' + (state >> 28) as u8
            };
            (0..size).map(next).collect()
        };
        let mut entries: Vec<_> = (0..600)
            .map(|n| {
                let seed = if changed == Some(n) { 10_000 } else { n };
                let content = content(seed, scale * (5_000 + n * 7));
                (file(format!("dir/f{n:04}").as_bytes(), content.len() as u64), content)
            })
            .collect();
        let large = content(7_777, scale * 3_500_000);
        entries.insert(300, (file(b"dir/f0299-large", large.len() as u64), large));
        entries
    }

    fn pack_tree(
        entries: &[(Entry, Vec<u8>)],
        compression: Compression,
        memory: Option<Arc<Remembered>>,
    ) -> (Layer, MemoryStore) {
        let store = memory.as_ref().map(|memory| memory.store.clone()).unwrap_or_default();
        let options = PackOptions { compression, level: None, epoch: Some(0) };
        let memory = memory.map(|memory| memory as Arc<dyn ChunkMemory>);
        let mut packer = LayerPacker::with_memory(&store, options, memory).unwrap();
        for (entry, content) in entries {
            packer.append(entry, &mut content.as_slice()).unwrap();
        }
        (packer.finish().unwrap(), store)
    }

    #[test]
    fn only_changed_pieces_are_compressed_and_the_bytes_are_the_same() {
        for (compression, scale) in [(Compression::Gzip, 1), (Compression::Zstd, 5)] {
            let memory = Arc::new(Remembered::default());
            let counts =
                || (memory.asked.swap(0, Ordering::Relaxed), memory.found.swap(0, Ordering::Relaxed));
            let pack_with = |entries: &_| pack_tree(entries, compression, Some(memory.clone()));
            let pack_without = |entries: &_| pack_tree(entries, compression, None).0;
            let tree = |changed| tree(scale, changed);
            let same = tree(None);
            let (first, _) = pack_with(&same);
            let (asked, found) = counts();
            assert!(asked > 8 && found == 0, "{asked} {found}");
            assert_eq!(pack_without(&same), first);
            assert_eq!(pack_with(&same).0, first);
            assert_eq!(counts(), (asked, asked));
            // One that changed its content, one that is new and one that is gone.
            let mut inserted = same.clone();
            inserted.insert(450, (file(b"dir/f0448-new", 9_999), vec![7; 9_999]));
            let mut removed = same;
            removed.remove(100);
            for entries in [tree(Some(50)), tree(Some(599)), inserted, removed] {
                let (with, store) = pack_with(&entries);
                let (asked, found) = counts();
                assert!(found + 3 >= asked && found < asked, "{found} of {asked}");
                assert_eq!(pack_without(&entries), with);
                let blob =
                    (&store as &dyn ContentStore).read(&with.descriptor.digest, 1 << 30).unwrap().unwrap();
                let mut tar = Vec::new();
                decompress(&blob[..]).unwrap().read_to_end(&mut tar).unwrap();
                assert_eq!(Digest::of(&tar), with.diff_id);
            }
        }
    }

    /// A change here changes the digest of every layer that is built: where pieces end, how they are compressed, or what is in the tar.
    #[test]
    fn golden_digests() {
        let forms = [(Compression::None, 1), (Compression::Gzip, 1), (Compression::Zstd, 5)];
        let digests = forms.map(|(compression, scale)| {
            pack_tree(&tree(scale, None), compression, None).0.descriptor.digest.to_string()
        });
        assert_eq!(
            digests,
            [
                "sha256:c331ee5448ae69fca29d62b8ec3e6b0f38d7a6682a46c892ad4c04a3a007ccc3",
                "sha256:e02f255289e5a015cb7f547d379cb0c1f9d35d81aa31a144a9ee7bdcf80c368b",
                "sha256:82c264c9590b53ea293847b47792ec57e2e8fead0166210b0bc194e82054cb43",
            ]
        );
    }

    fn entry() -> Entry {
        Entry { mtime: 7, mtime_nanos: 9, ..file(b"a/b", 3) }
    }

    fn file(path: &[u8], size: u64) -> Entry {
        Entry { kind: EntryKind::File { size }, mode: 0o644, ..Entry::whiteout(path) }
    }

    fn pack(compression: Compression, epoch: Option<i64>) -> (Layer, Vec<u8>) {
        let store = MemoryStore::default();
        let mut packer = LayerPacker::new(&store, PackOptions { compression, level: None, epoch }).unwrap();
        packer.append(&entry(), &mut &b"abc"[..]).unwrap();
        let layer = packer.finish().unwrap();
        let blob = (&store as &dyn ContentStore).read(&layer.descriptor.digest, 1 << 20).unwrap().unwrap();
        (layer, blob)
    }

    #[test]
    fn both_digests_are_those_of_the_bytes() {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let (layer, blob) = pack(compression, None);
            assert_eq!(layer.descriptor.digest, Digest::of(&blob));
            assert_eq!(layer.descriptor.size, blob.len() as u64);
            assert_eq!(layer.descriptor.media_type, compression.layer_media_type());
            let mut tar = Vec::new();
            decompress(&blob[..]).unwrap().read_to_end(&mut tar).unwrap();
            assert_eq!(layer.diff_id, Digest::of(&tar));
            let read = LayerReader::new(&tar[..]).next_entry().unwrap().unwrap();
            assert_eq!(read, Entry { mtime_nanos: 0, ..entry() }, "whole seconds");
        }
    }

    #[test]
    fn an_epoch_replaces_every_time() {
        let (layer, blob) = pack(Compression::None, Some(1_600_000_000));
        let read = LayerReader::new(&blob[..]).next_entry().unwrap().unwrap();
        assert_eq!((read.mtime, read.mtime_nanos), (1_600_000_000, 0));
        assert_ne!(layer.diff_id, pack(Compression::None, None).0.diff_id);
    }

    #[test]
    fn a_failed_layer_leaves_nothing() {
        let store = MemoryStore::default();
        let options = PackOptions { compression: Compression::Gzip, level: None, epoch: None };
        let mut packer = LayerPacker::new(&store, options).unwrap();
        let error = packer.append(&file(b"x", 10), &mut &b"short"[..]).unwrap_err().to_string();
        assert!(error.starts_with("x: ") && error.contains("5 of 10"), "{error}");
        assert!(packer.append(&file(b"y", 0), &mut io::empty()).is_err());
        assert!(packer.finish().is_err());
    }
}
