//! Reading the files of a layer while those before are packed.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use cache::{Entries, Sum};
use hash::StableHasher;
use image::layer::{Entry, EntryKind};

use crate::WorkerError;
use crate::beside::read_beside;
use crate::cancel::Cancel;

/// Larger files are read where they are needed.
const SMALL: u64 = 256 << 10;
/// Still larger ones by a thread of their own.
const LARGE: u64 = 4 << 20;
/// A batch has no more bytes than this and one small file, and no more entries than that.
const BATCH_BYTES: usize = 512 << 10;
const BATCH_ENTRIES: usize = 256;
/// Batches that wait to be packed.
const AHEAD: usize = 3;

/// The content of an entry.
enum Content {
    /// It has none.
    None,
    /// One byte more than the entry says when there is more.
    Bytes(Vec<u8>),
    File(File),
}

/// An entry that was read, or is to be read.
struct Ahead {
    content: Content,
    /// Of what was read, and of what is to be read.
    hasher: Option<StableHasher>,
}

type Batch = Result<Vec<Ahead>, WorkerError>;

/// A hash for each entry that has one.
type Hashes = Vec<Option<[u8; 32]>>;

/// Calls `take` with each entry and its content, in order. Files are read by another thread, a little ahead, and hashed there as `sum` wants
/// it; with `None` nothing is.
pub(crate) fn each_entry(
    entries: &Entries,
    sum: Option<&Sum>,
    cancel: &Cancel,
    mut take: impl FnMut(&Entry, &mut dyn Read) -> Result<(), WorkerError>,
) -> Result<Hashes, WorkerError> {
    thread::scope(|scope| {
        let (sender, batches) = sync_channel(AHEAD);
        thread::Builder::new()
            .name("read-ahead".to_owned())
            .spawn_scoped(scope, move || read(entries, sum, cancel, &sender))
            .map_err(no_thread)?;
        // Gone before the scope ends: the reader must not wait for a place in it.
        drain(entries, &batches, cancel, &mut take)
    })
}

fn no_thread(error: io::Error) -> WorkerError {
    WorkerError::Pack(format!("start a thread: {error}"))
}

fn drain(
    entries: &Entries,
    batches: &Receiver<Batch>,
    cancel: &Cancel,
    take: &mut impl FnMut(&Entry, &mut dyn Read) -> Result<(), WorkerError>,
) -> Result<Hashes, WorkerError> {
    let mut left = entries.entries().iter();
    let mut hashes = Hashes::with_capacity(left.len());
    for batch in batches {
        for (Ahead { content, mut hasher }, entry) in batch?.into_iter().zip(&mut left) {
            match content {
                Content::None => take(entry, &mut io::empty())?,
                Content::Bytes(bytes) => take(entry, &mut Cursor::new(bytes))?,
                Content::File(file) => {
                    let mut file = Hashing { source: Cancellable { file, cancel }, hasher: hasher.as_mut() };
                    match entry.kind {
                        EntryKind::File { size } if size > LARGE => {
                            read_beside(&mut file, |reader| take(entry, reader)).map_err(no_thread)??;
                        }
                        _ => take(entry, &mut file)?,
                    }
                }
            }
            hashes.push(hasher.map(|hasher| hasher.finish()));
        }
    }
    match left.next() {
        None => Ok(hashes),
        Some(_) => Err(files::Error::Cancelled.into()),
    }
}

fn read(entries: &Entries, sum: Option<&Sum>, cancel: &Cancel, sender: &SyncSender<Batch>) {
    let mut batch = Vec::new();
    let mut bytes = 0;
    for entry in entries.entries() {
        if cancel.is_cancelled() {
            let _ = sender.send(Err(files::Error::Cancelled.into()));
            return;
        }
        let content = match content(entries, entry) {
            Ok(content) => content,
            Err(error) => {
                let _ = sender.send(Err(error));
                return;
            }
        };
        let is_file = matches!(content, Content::File(_));
        let mut hasher = sum.and_then(|sum| sum.hasher(entry));
        if let Content::Bytes(content) = &content {
            bytes += content.len();
            hasher.iter_mut().for_each(|hasher| hasher.raw(content));
        }
        batch.push(Ahead { content, hasher });
        // Of files that are only opened there must not be many at a time.
        if is_file || bytes >= BATCH_BYTES || batch.len() >= BATCH_ENTRIES {
            bytes = 0;
            // Nobody listens any more after an error.
            if sender.send(Ok(std::mem::take(&mut batch))).is_err() {
                return;
            }
        }
    }
    let _ = sender.send(Ok(batch));
}

fn content(entries: &Entries, entry: &Entry) -> Result<Content, WorkerError> {
    let EntryKind::File { size } = entry.kind else { return Ok(Content::None) };
    let file = entries.open(entry)?;
    if size > SMALL {
        return Ok(Content::File(file));
    }
    let unreadable = |error| {
        let path = String::from_utf8_lossy(&entry.path);
        WorkerError::Pack(format!("read /{path}: {error}"))
    };
    // With room for one byte too many.
    let mut bytes = vec![0; size as usize + 1];
    let mut filled = 0;
    loop {
        match (&file).read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(length) => {
                filled += length;
                // A short read that completes a file is its end: no further call is needed to know.
                if filled as u64 >= size {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
    bytes.truncate(filled);
    Ok(Content::Bytes(bytes))
}

/// Hashes what is read.
struct Hashing<'a, R> {
    source: R,
    hasher: Option<&'a mut StableHasher>,
}

impl<R: Read> Read for Hashing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.raw(&buffer[..length]);
        }
        Ok(length)
    }
}

/// A file that cannot be read any more once nobody waits for it: one file may take seconds.
struct Cancellable<'a, R> {
    file: R,
    cancel: &'a Cancel,
}

impl<R: Read> Read for Cancellable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        self.file.read(buffer)
    }
}
