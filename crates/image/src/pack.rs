use std::io::{self, BufWriter, Read, Write};

use hash::DigestWriter;

use crate::layer::{Entry, LayerError, LayerWriter};
use crate::{BlobWriter, Compression, Compressor, ContentStore, Descriptor, Layer};

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
}

/// What follows the tar. An uncompressed layer is its own blob: it is hashed once, by the store.
enum Stream {
    Plain(Box<dyn BlobWriter>),
    Packed(DigestWriter<Compressor<Box<dyn BlobWriter>>>),
}

impl LayerPacker {
    /// Begins a layer; nothing is visible in `store` until [`LayerPacker::finish`].
    pub fn new(store: &dyn ContentStore, options: PackOptions) -> Result<LayerPacker, LayerError> {
        let blob = store.create().map_err(failed)?;
        let stream = match options.compression {
            Compression::None => {
                crate::check_level(options.compression, options.level)
                    .map_err(|reason| failed(io::Error::new(io::ErrorKind::InvalidInput, reason)))?;
                Stream::Plain(blob)
            }
            compression => {
                let compressor = Compressor::new(blob, compression, options.level).map_err(failed)?;
                Stream::Packed(DigestWriter::new(compressor))
            }
        };
        Ok(LayerPacker { tar: LayerWriter::new(BufWriter::with_capacity(256 << 10, stream)), options })
    }

    /// Appends an entry as [`LayerWriter::append`] does, its time adjusted as the options say.
    pub fn append(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), LayerError> {
        let mtime = self.options.epoch.unwrap_or(entry.mtime);
        if mtime == entry.mtime && entry.mtime_nanos == 0 {
            return self.tar.append(entry, content);
        }
        self.tar.append(&Entry { mtime, mtime_nanos: 0, ..entry.clone() }, content)
    }

    /// Completes the layer in the store.
    pub fn finish(self) -> Result<Layer, LayerError> {
        let stream = self.tar.finish()?.into_inner().map_err(|error| failed(error.into_error()))?;
        let (blob, diff_id) = match stream {
            Stream::Plain(blob) => (blob, None),
            Stream::Packed(hashed) => {
                let (compressor, diff_id, _) = hashed.finish();
                (compressor.finish().map_err(failed)?, Some(diff_id))
            }
        };
        let (digest, size) = blob.commit(None).map_err(failed)?;
        let descriptor = Descriptor::new(self.options.compression.layer_media_type(), digest, size);
        Ok(Layer { descriptor, diff_id: diff_id.unwrap_or(digest) })
    }
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
    use hash::Digest;

    use super::*;
    use crate::layer::{EntryKind, LayerReader};
    use crate::{MemoryStore, decompress};

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
