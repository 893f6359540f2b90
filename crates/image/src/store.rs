use std::collections::HashMap;
use std::io::{self, Cursor, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use hash::{Digest, DigestWriter};

/// A readable blob. Implementations verify the bytes against the digest by the time the end is reached, and
/// report a mismatch as [`io::ErrorKind::InvalidData`].
pub type BlobReader = Box<dyn Read + Send>;

/// Bytes by digest. Synchronous: call it from blocking threads.
pub trait ContentStore: Send + Sync {
    /// Opens a blob, `None` when it is not here.
    fn open(&self, digest: &Digest) -> io::Result<Option<BlobReader>>;

    /// The size of a blob in bytes, `None` when it is not here.
    fn size(&self, digest: &Digest) -> io::Result<Option<u64>>;

    /// Begins a blob. Nothing is visible until [`BlobWriter::commit`]; dropping the writer leaves nothing behind.
    fn create(&self) -> io::Result<Box<dyn BlobWriter>>;

    /// Begins a blob of `size` bytes that comes from afar, or goes on with what an earlier transfer brought of it, in a store that keeps
    /// that. Whether it is right turns out in [`BlobWriter::commit`]; if not, it is forgotten.
    fn resume(&self, digest: &Digest, size: u64) -> io::Result<Resume> {
        let _ = (digest, size);
        let writer = self.create()?;
        Ok(Box::new(move |_| Ok((writer, 0))))
    }
}

/// Reads what there is of a blob, on a thread that may take its time, and tells how many bytes it has read so far. Gives the writer, which
/// takes the bytes that follow, and how many there are.
pub type Resume = Box<dyn FnOnce(&dyn Fn(u64)) -> io::Result<(Box<dyn BlobWriter>, u64)> + Send>;

impl dyn ContentStore + '_ {
    /// Stores bytes that are at hand.
    pub fn put(&self, bytes: &[u8]) -> io::Result<Digest> {
        let mut writer = self.create()?;
        writer.write_all(bytes)?;
        Ok(writer.commit(None)?.0)
    }

    /// Reads a blob whole (manifests, configs), at most `limit` bytes.
    pub fn read(&self, digest: &Digest, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(reader) = self.open(digest)? else { return Ok(None) };
        let mut bytes = Vec::new();
        reader.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            let message = format!("blob {digest} is larger than {limit} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(Some(bytes))
    }
}

/// A blob that is being read by somebody who may stop before its end: then nobody knows yet whether it is what its name says.
pub struct PartlyRead<R> {
    blob: R,
    failed: bool,
}

impl<R: Read> PartlyRead<R> {
    /// Reads from `blob`.
    pub fn new(blob: R) -> Self {
        PartlyRead { blob, failed: false }
    }

    /// Reads what is left, for those who could make nothing of what they read: the blob may be damaged, which the store finds out at its
    /// end, and throws it away.
    ///
    /// # Errors
    /// When it is damaged, unless that was told while it was read.
    pub fn finish(mut self) -> io::Result<()> {
        if self.failed {
            return Ok(());
        }
        io::copy(&mut self.blob, &mut io::sink()).map(drop)
    }
}

impl<R: Read> Read for PartlyRead<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.blob.read(buffer);
        self.failed |= read.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::Interrupted);
        read
    }
}

/// A blob being written.
pub trait BlobWriter: Write + Send {
    /// Makes the blob visible under its digest and returns digest and size in bytes. With `expected`, other
    /// bytes are an error of kind [`io::ErrorKind::InvalidData`] and nothing is kept. A blob that exists already is fine.
    fn commit(self: Box<Self>, expected: Option<&Digest>) -> io::Result<(Digest, u64)>;
}

/// A [`ContentStore`] in memory, for tests.
#[derive(Debug, Default, Clone)]
pub struct MemoryStore {
    blobs: Arc<Mutex<HashMap<Digest, Arc<[u8]>>>>,
}

impl ContentStore for MemoryStore {
    fn open(&self, digest: &Digest) -> io::Result<Option<BlobReader>> {
        let blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(blobs.get(digest).map(|bytes| Box::new(Cursor::new(bytes.clone())) as BlobReader))
    }

    fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        let blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(blobs.get(digest).map(|bytes| bytes.len() as u64))
    }

    fn create(&self) -> io::Result<Box<dyn BlobWriter>> {
        Ok(Box::new(MemoryWriter { store: self.clone(), bytes: DigestWriter::new(Vec::new()) }))
    }
}

struct MemoryWriter {
    store: MemoryStore,
    bytes: DigestWriter<Vec<u8>>,
}

impl Write for MemoryWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter for MemoryWriter {
    fn commit(self: Box<Self>, expected: Option<&Digest>) -> io::Result<(Digest, u64)> {
        let (bytes, digest, size) = self.bytes.finish();
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            let message = format!("expected {expected}, the bytes are {digest}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let mut blobs = self.store.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        blobs.entry(digest).or_insert_with(|| bytes.into());
        Ok((digest, size))
    }
}
