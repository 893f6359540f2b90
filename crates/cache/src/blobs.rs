use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use hash::{Digest, DigestWriter, Sha256};
use image::{BlobReader, BlobWriter, ContentStore, Resume};
use rusqlite::{OptionalExtension, params};
use rustix::fs::Advice;

use crate::database::{from_sql, to_millis, to_sql};
use crate::layout::create_dir;
use crate::leases::Bucket;
use crate::partial::{self, Partial};
use crate::remove::remove_tree;
use crate::scratch::is_at;
use crate::store::Inner;
use crate::written::Stamp;
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

    /// Keeps blobs from being removed while there is a session: those that are read one after the other, by whoever reads the first.
    pub fn lease<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) -> Result<(), CacheError> {
        let mut digests = digests.into_iter();
        digests.try_for_each(|digest| self.inner.leases.hold(&self.inner.layout, Bucket::of_blob(digest)))
    }

    /// The blob's file and size, if the database knows it and the file has that size. Anything else is removed: the caller
    /// will fetch or make the blob again.
    fn locate(&self, digest: &Digest) -> io::Result<Option<(PathBuf, u64)>> {
        self.inner.leases.hold(&self.inner.layout, Bucket::of_blob(digest))?;
        let look_up = || {
            self.inner.database.read("look up a blob", |db| {
                db.prepare_cached("SELECT size FROM blobs WHERE digest = ?1")?
                    .query_row([digest.as_bytes()], |row| row.get(0))
                    .optional()
            })
        };
        let mut known = look_up()?;
        if known.is_none() && self.inner.leases.has_lost_blob(digest) {
            // Another thread may have brought it just now, so it is looked for once more.
            known = look_up()?;
            if known.is_none() {
                // Another process has thrown it away, and whoever counted on it has to begin again.
                self.inner.damage.note(format!("blob {digest}"));
            }
        }
        let Some(size) = known.map(from_sql) else { return Ok(None) };
        let path = self.inner.layout.blob(digest);
        let is_broken = |path: &Path| match fs::symlink_metadata(path) {
            Ok(metadata) => Ok(!metadata.is_file() || metadata.len() != size),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        };
        if is_broken(&path)? && self.inner.discard_blob(digest, &is_broken)? {
            self.inner.damage.note(format!("blob {digest}"));
            return Ok(None);
        }
        self.inner.leases.saw_blob(digest);
        Ok(Some((path, size)))
    }
}

impl Inner {
    /// Forgets a blob and removes its file, unless it is not broken any more: another process may have found the same, and brought a sound
    /// one. `false` then.
    pub(crate) fn discard_blob(
        &self,
        digest: &Digest,
        is_broken: &dyn Fn(&Path) -> io::Result<bool>,
    ) -> io::Result<bool> {
        let path = self.layout.blob(digest);
        // Whoever found this tells it himself.
        self.leases.has_lost_blob(digest);
        // Who brings one renames the file and then writes the row, for which it waits until this transaction has ended.
        self.database.write("remove a blob", |db| {
            match is_broken(&path) {
                Ok(true) => {}
                other => return Ok(other),
            }
            db.execute("DELETE FROM packed WHERE digest = ?1", [digest.as_bytes()])?;
            db.execute("DELETE FROM blobs WHERE digest = ?1", [digest.as_bytes()])?;
            Ok(self.remove_broken(&path, is_broken))
        })?
    }

    fn remove_broken(&self, path: &Path, is_broken: &dyn Fn(&Path) -> io::Result<bool>) -> io::Result<bool> {
        let Some(taken) = self.scratch.take_away(path)? else { return Ok(true) };
        if is_broken(&taken)? {
            remove_tree(&taken)?;
            return Ok(true);
        }
        // It came between the two looks, and has no row yet.
        fs::rename(&taken, path)?;
        Ok(false)
    }
}

impl ContentStore for BlobStore {
    fn open(&self, digest: &Digest) -> io::Result<Option<BlobReader>> {
        let Some((path, size)) = self.locate(digest)? else { return Ok(None) };
        let file = File::open(path)?;
        let proof = match self.inner.written.unchanged(digest, &file)? {
            Some(stamp) => Proof::Stamp(stamp),
            None => Proof::Hash(Box::new(Sha256::new())),
        };
        let reader = VerifyingReader { inner: self.inner.clone(), file, digest: *digest, left: size, proof };
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
        Ok(Box::new(Writer::new(self.inner.clone(), file, Place::Temporary(Temporary(path)))))
    }

    fn resume(&self, digest: &Digest, size: u64) -> io::Result<Resume> {
        let open = || Partial::open(&self.inner.layout, digest, size).ok().flatten();
        // It saves time, no more. Two that want the same blob do not wait for each other.
        let Some(partial) = (size >= partial::LEAST).then(open).flatten() else {
            let writer = self.create()?;
            return Ok(Box::new(move |_| Ok((writer, 0))));
        };
        let inner = self.inner.clone();
        Ok(Box::new(move |told| {
            let writer = Writer::resume(inner, partial, told)?;
            let held = writer.writer.size();
            Ok((Box::new(writer) as Box<dyn BlobWriter>, held))
        }))
    }
}

/// How it is known that the bytes are those of the digest.
enum Proof {
    /// They are hashed while they are read.
    Hash(Box<Sha256>),
    /// This process hashed them when it wrote them, and the file stays as it was.
    Stamp(Stamp),
    /// All have been read, and are right.
    Done,
}

/// The last bytes are handed out only once the whole is known to be right.
struct VerifyingReader {
    inner: Arc<Inner>,
    file: File,
    digest: Digest,
    left: u64,
    proof: Proof,
}

impl VerifyingReader {
    fn broken(&mut self, what: &str) -> io::Error {
        // A reader that is asked again after an error must not answer "end".
        self.left = u64::MAX;
        self.inner.damage.note(format!("blob {}", self.digest));
        let is_this = |path: &Path| Ok(is_at(&self.file, path)?);
        let removed = match self.inner.discard_blob(&self.digest, &is_this) {
            Ok(true) => "it was removed".to_owned(),
            Ok(false) => "it was replaced meanwhile".to_owned(),
            Err(error) => format!("it could not be removed: {error}"),
        };
        io::Error::new(io::ErrorKind::InvalidData, format!("blob {} {what}; {removed}", self.digest))
    }

    /// The digest of all that is in the file, which stands at its end afterwards.
    fn hash_all(&mut self) -> io::Result<Digest> {
        self.file.rewind()?;
        let mut writer = DigestWriter::new(io::sink());
        io::copy(&mut self.file, &mut writer)?;
        let (_, digest, _) = writer.finish();
        Ok(digest)
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
        if let Proof::Hash(hash) = &mut self.proof {
            hash.update(&buffer[..read]);
        }
        if self.left > 0 {
            return Ok(read);
        }
        let is_right = match std::mem::replace(&mut self.proof, Proof::Done) {
            Proof::Hash(hash) => hash.finish() == self.digest,
            // Another process that brought the same blob meanwhile took this file's name, which changes its stamp and not its bytes.
            Proof::Stamp(stamp) => Stamp::of(&self.file)? == stamp || self.hash_all()? == self.digest,
            Proof::Done => true,
        };
        if !is_right {
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

/// After so many bytes of a blob the kernel is told to begin writing them to the disk, and so on.
const EARLY: u64 = 16 << 20;

/// A file whose bytes begin their way to the disk while others still come, so that there is little left to wait for where an image is to survive
/// a power failure (`Session::finish_durably`).
struct Early {
    file: File,
    /// In bytes, of which writing through was begun.
    written: u64,
    begun: u64,
}

impl Write for Early {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.written += written as u64;
        let length = NonZeroU64::new(self.written - self.begun).filter(|length| length.get() >= EARLY);
        if length.is_some() {
            // Linux begins to write what is new in a range that is said not to be needed, and keeps it until that is done; no promise hangs on it
            // (mm/fadvise.c; sync_file_range(2) is the call for that, which needs unsafe code).
            let _ = rustix::fs::fadvise(&self.file, self.begun, length, Advice::DontNeed);
            self.begun = self.written;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Where a blob is until it is complete.
enum Place {
    Temporary(Temporary),
    Partial(Partial),
}

impl Place {
    fn path(&self) -> &Path {
        match self {
            Place::Temporary(temporary) => &temporary.0,
            Place::Partial(partial) => partial.path(),
        }
    }

    /// Nothing is left unless it is renamed.
    fn give_up(&mut self) {
        match self {
            Place::Temporary(_) => {}
            Place::Partial(partial) => partial.give_up(),
        }
    }

    fn rename(self, target: &Path) -> io::Result<()> {
        match self {
            Place::Temporary(temporary) => fs::rename(&temporary.0, target),
            Place::Partial(partial) => partial.rename(target),
        }
    }
}

struct Writer {
    inner: Arc<Inner>,
    /// Writes what it still has when it is dropped, before the place goes.
    writer: DigestWriter<BufWriter<Early>>,
    place: Place,
}

impl Writer {
    fn new(inner: Arc<Inner>, file: File, place: Place) -> Writer {
        let early = Early { file, written: 0, begun: 0 };
        let writer = DigestWriter::new(BufWriter::with_capacity(1 << 16, early));
        Writer { inner, writer, place }
    }

    /// Hashes what is there, and goes on behind it.
    fn resume(inner: Arc<Inner>, partial: Partial, told: &dyn Fn(u64)) -> io::Result<Writer> {
        // Where this is read to is where the other, which shares its position, writes.
        let mut beginning = partial.file().try_clone()?;
        let file = partial.file().try_clone()?;
        let mut resumed = Writer::new(inner, file, Place::Partial(partial));
        let mut buffer = vec![0; 1 << 17];
        loop {
            match beginning.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => resumed.writer.add(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    resumed.place.give_up();
                    return Err(during("read", resumed.place.path(), &error));
                }
            }
            told(resumed.writer.size());
        }
        let held = resumed.writer.size();
        let early = resumed.writer.get_mut().get_mut();
        (early.written, early.begun) = (held, held);
        Ok(resumed)
    }

    /// A full disk is not to stay full.
    fn failed(&mut self, error: &io::Error) -> io::Error {
        self.place.give_up();
        during("write", self.place.path(), error)
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes).map_err(|error| self.failed(&error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush().map_err(|error| self.failed(&error))
    }
}

impl BlobWriter for Writer {
    fn commit(mut self: Box<Self>, expected: Option<&Digest>) -> io::Result<(Digest, u64)> {
        self.flush()?;
        let Writer { inner, writer, mut place } = *self;
        let (buffer, digest, size) = writer.finish();
        let path = place.path().to_owned();
        let Early { file, .. } =
            buffer.into_inner().map_err(|error| during("write", &path, error.error()))?;
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            place.give_up();
            let message = format!("expected {expected}, the bytes are {digest}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        file.set_permissions(Permissions::from_mode(0o444))?;
        let target = inner.layout.blob(&digest);
        if let Some(folder) = target.parent() {
            create_dir(folder, 0o700)?;
        }
        inner.leases.hold(&inner.layout, Bucket::of_blob(&digest))?;
        if size <= SMALL && inner.has(&digest)? {
            place.give_up();
            return Ok((digest, size));
        }
        let is_whole = matches!(place, Place::Temporary(_)) && size >= partial::LEAST;
        // Over an existing file too: that one may be broken.
        place.rename(&target).map_err(|error| during("rename", &path, &error))?;
        inner.written.note(&digest, &file, size)?;
        drop(file);
        inner.record_blob(&digest, size)?;
        if is_whole {
            // Nobody needs its beginning any more. If it stays, it goes within a day.
            let _ = partial::remove_one(&inner.layout, &digest);
        }
        Store::of(inner).grew(size);
        Ok((digest, size))
    }
}

/// Whether a blob of so many bytes is there already is looked at: manifests and configs come again with each build, and what was not written
/// has not to be waited for until it is on the disk. To read a larger one again would take as long as to replace it.
const SMALL: u64 = 1 << 20;

impl Inner {
    /// Whether a blob is there, and all its bytes are right.
    fn has(self: &Arc<Self>, digest: &Digest) -> io::Result<bool> {
        let Some(mut reader) = BlobStore::new(self.clone()).open(digest)? else { return Ok(false) };
        match io::copy(&mut reader, &mut io::sink()) {
            Ok(_) => Ok(true),
            // It was thrown away for that.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(false),
            Err(error) => Err(error),
        }
    }

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
        self.leases.saw_blob(digest);
        Ok(())
    }
}

fn during(action: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{action} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::StoreOptions;

    /// Another process finds the same blob damaged, removes it and brings a sound one, whenever that is.
    #[test]
    fn a_sound_blob_that_comes_in_between_stays() {
        let bytes = b"some bytes";
        for looks in 0..3 {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
            let blobs: &dyn ContentStore = store.blobs();
            let digest = blobs.put(bytes).unwrap();
            let path = store.inner.layout.blob(&digest);
            let replace = |bytes: &[u8]| {
                let fresh = dir.path().join("fresh");
                fs::write(&fresh, bytes).unwrap();
                fs::rename(&fresh, &path).unwrap();
            };
            replace(b"damaged");
            let looked = Cell::new(0);
            let is_broken = |path: &Path| {
                let is_broken = fs::read(path)? != bytes;
                // Just after it was looked at.
                looked.set(looked.get() + 1);
                if looked.get() == looks {
                    replace(bytes);
                }
                Ok(is_broken)
            };
            if looks == 0 {
                replace(bytes);
            }
            // After the first look it is taken away and found sound; after the second the broken one is away.
            let is_gone = looks == 2;
            assert_eq!(store.inner.discard_blob(&digest, &is_broken).unwrap(), is_gone, "{looks}");
            assert_eq!(fs::read(&path).unwrap(), bytes, "{looks}");
        }
    }
}
