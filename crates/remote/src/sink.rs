use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use hash::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::error::Error;

/// Pieces that may wait for the disk; a piece is what the network gave at once.
const PIECES: usize = 32;

/// A file that a blocking thread writes and hashes. It stays only if [`Sink::finish`] says so: dropped before, or refused, it
/// is removed.
pub(crate) struct Sink {
    path: PathBuf,
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<io::Result<Option<Digest>>>,
}

enum Order {
    Write(Bytes),
    /// What was written so far is not of this file.
    Restart,
    /// Keep it, if it has this digest.
    Finish(Option<Digest>),
}

impl Sink {
    /// Creates or empties the file, with mode 0600.
    pub(crate) fn new(path: &Path) -> Sink {
        let (orders, queue) = mpsc::channel(PIECES);
        let own = path.to_owned();
        let thread = tokio::task::spawn_blocking(move || {
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&own)?;
            let written = write(file, queue);
            if !matches!(written, Ok(Written { kept: true, .. })) {
                fs::remove_file(&own)?;
            }
            written.map(|written| written.digest)
        });
        Sink { path: path.to_owned(), orders, thread }
    }

    pub(crate) async fn write(&mut self, piece: Bytes) -> Result<(), Error> {
        self.order(Order::Write(piece)).await
    }

    pub(crate) async fn restart(&mut self) -> Result<(), Error> {
        self.order(Order::Restart).await
    }

    /// The digest of the file. One that differs from `expected` is removed.
    pub(crate) async fn finish(mut self, expected: Option<Digest>) -> Result<Digest, Error> {
        self.order(Order::Finish(expected)).await?;
        match (&mut self.thread).await {
            Ok(Ok(Some(digest))) => Ok(digest),
            Ok(Ok(None)) => Err(self.failed(io::Error::other("the writer ended early"))),
            Ok(Err(error)) => Err(self.failed(error)),
            Err(error) => Err(self.failed(io::Error::other(error))),
        }
    }

    async fn order(&mut self, order: Order) -> Result<(), Error> {
        if self.orders.send(order).await.is_ok() {
            return Ok(());
        }
        // The thread is gone only when writing failed.
        let error = match (&mut self.thread).await {
            Ok(Err(error)) => error,
            Ok(Ok(_)) => io::Error::other("the writer ended early"),
            Err(error) => io::Error::other(error),
        };
        Err(self.failed(error))
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::io(format!("write {}", self.path.display()), error)
    }
}

struct Written {
    digest: Option<Digest>,
    kept: bool,
}

fn write(mut file: File, mut queue: mpsc::Receiver<Order>) -> io::Result<Written> {
    let mut hash = Sha256::new();
    while let Some(order) = queue.blocking_recv() {
        match order {
            Order::Write(piece) => {
                file.write_all(&piece)?;
                hash.update(&piece);
            }
            Order::Restart => {
                io::Seek::rewind(&mut file)?;
                file.set_len(0)?;
                hash = Sha256::new();
            }
            Order::Finish(expected) => {
                let digest = hash.finish();
                let kept = expected.is_none_or(|expected| expected == digest);
                return Ok(Written { digest: Some(digest), kept });
            }
        }
    }
    Ok(Written { digest: None, kept: false })
}
