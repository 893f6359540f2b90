use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use hash::{Digest, DigestWriter, Sha256};
use image::{BlobReader, BlobWriter, ContentStore};
use rusqlite::{OptionalExtension, params};

use crate::database::{from_sql, to_millis, to_sql};
use crate::layout::create_dir;
use crate::leases::Bucket;
use crate::store::Inner;
use crate::{CacheError, Store};

/// Blobs as files named by digest. A file counts only when the database knows it, which is told after the file is complete.
#[derive(Debug, Clone)]
pub struct BlobStore {
    inner: Arc<Inner>,
}

impl BlobStore {
    pub(crate) fn new(inner: Arc<Inner>) -> BlobStore {
        BlobStore { inner }
    }

    /// The blob's file and size, if the database knows it and the file has that size. Anything else is removed: the caller
    /// will fetch or make the blob again.
    fn locate(&self, digest: &Digest) -> io::Result<Option<(PathBuf, u64)>> {
        self.inner.leases.hold(&self.inner.layout, Bucket::of_blob(digest))?;
        let known = self.inner.database.read("look up a blob", |db| {
            db.prepare_cached("SELECT size FROM blobs WHERE digest = ?1")?
                .query_row([digest.as_bytes()], |row| row.get(0))
                .optional()
        })?;
        let Some(size) = known.map(from_sql) else { return Ok(None) };
        let path = self.inner.layout.blob(digest);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() && metadata.len() == size => Ok(Some((path, size))),
            Ok(_) => {
                self.inner.damage.note(format!("blob {digest}"));
                self.inner.discard_blob(digest).map(|()| None)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.inner.damage.note(format!("blob {digest}"));
                self.inner.discard_blob(digest).map(|()| None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Inner {
    /// Forgets a blob and removes its file.
    pub(crate) fn discard_blob(&self, digest: &Digest) -> io::Result<()> {
        self.database.write("remove a blob", |db| {
            db.execute("DELETE FROM packed WHERE digest = ?1", [digest.as_bytes()])?;
            db.execute("DELETE FROM blobs WHERE digest = ?1", [digest.as_bytes()])
        })?;
        match fs::remove_file(self.layout.blob(digest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl ContentStore for BlobStore {
    fn open(&self, digest: &Digest) -> io::Result<Option<BlobReader>> {
        let Some((path, size)) = self.locate(digest)? else { return Ok(None) };
        let file = File::open(path)?;
        let reader = VerifyingReader {
            inner: self.inner.clone(),
            file,
            digest: *digest,
            left: size,
            hash: Some(Sha256::new()),
        };
        Ok(Some(Box::new(reader)))
    }

    fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        Ok(self.locate(digest)?.map(|(_, size)| size))
    }

    fn create(&self) -> io::Result<Box<dyn BlobWriter>> {
        let path = self.inner.scratch.fresh()?;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| during("create", &path, &error))?;
        let temporary = Temporary(path);
        let writer = DigestWriter::new(BufWriter::with_capacity(1 << 16, file));
        Ok(Box::new(Writer { inner: self.inner.clone(), writer, temporary }))
    }
}

/// Hashes while reading. The last bytes are handed out only once the whole is known to be right.
struct VerifyingReader {
    inner: Arc<Inner>,
    file: File,
    digest: Digest,
    left: u64,
    /// `None` once verified.
    hash: Option<Sha256>,
}

impl VerifyingReader {
    fn broken(&mut self, what: &str) -> io::Error {
        // A reader that is asked again after an error must not answer "end".
        self.left = u64::MAX;
        self.inner.damage.note(format!("blob {}", self.digest));
        let removed = match self.inner.discard_blob(&self.digest) {
            Ok(()) => "it was removed".to_owned(),
            Err(error) => format!("it could not be removed: {error}"),
        };
        io::Error::new(io::ErrorKind::InvalidData, format!("blob {} {what}; {removed}", self.digest))
    }
}

impl Read for VerifyingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let read = self.file.read(buffer)?;
        if read == 0 && self.left != 0 {
            return Err(self.broken("is shorter than it was"));
        }
        if read as u64 > self.left {
            return Err(self.broken("is longer than it was"));
        }
        self.left -= read as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(&buffer[..read]);
        }
        if self.left == 0
            && let Some(hash) = self.hash.take()
            && hash.finish() != self.digest
        {
            return Err(self.broken("does not hold what its name says"));
        }
        Ok(read)
    }
}

/// A temporary file that goes unless it was renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

struct Writer {
    inner: Arc<Inner>,
    writer: DigestWriter<BufWriter<File>>,
    temporary: Temporary,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes).map_err(|error| during("write", &self.temporary.0, &error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush().map_err(|error| during("write", &self.temporary.0, &error))
    }
}

impl BlobWriter for Writer {
    fn commit(self: Box<Self>, expected: Option<&Digest>) -> io::Result<(Digest, u64)> {
        let Writer { inner, writer, temporary } = *self;
        let (buffer, digest, size) = writer.finish();
        let path = &temporary.0;
        let file = buffer.into_inner().map_err(|error| during("write", path, error.error()))?;
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            let message = format!("expected {expected}, the bytes are {digest}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        file.set_permissions(Permissions::from_mode(0o444))?;
        drop(file);
        let target = inner.layout.blob(&digest);
        if let Some(folder) = target.parent() {
            create_dir(folder, 0o700)?;
        }
        inner.leases.hold(&inner.layout, Bucket::of_blob(&digest))?;
        // Over an existing file too: that one may be broken.
        fs::rename(path, &target).map_err(|error| during("rename", path, &error))?;
        inner.record_blob(&digest, size)?;
        Store::of(inner).grew(size);
        Ok((digest, size))
    }
}

impl Inner {
    /// Makes a complete blob known.
    fn record_blob(&self, digest: &Digest, size: u64) -> Result<(), CacheError> {
        let now = to_millis(SystemTime::now());
        // A row of before may be durable while its file was just replaced by one that is not yet.
        self.database.write("add a blob", |db| {
            db.prepare_cached("DELETE FROM blobs WHERE digest = ?1")?.execute([digest.as_bytes()])?;
            db.prepare_cached("INSERT INTO blobs (digest, size, created, boot) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![digest.as_bytes(), to_sql(size), now, self.boot])
        })?;
        self.made_something();
        Ok(())
    }
}

fn during(action: &str, path: &std::path::Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{action} {}: {error}", path.display()))
}
