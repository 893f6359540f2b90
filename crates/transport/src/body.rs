use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream;
use tokio::sync::mpsc;

/// What is sent at once, in bytes.
const PIECE: usize = 64 << 10;
/// Pieces that wait for the network.
const PIECES: usize = 8;

/// What a request sends. It can be sent again: after a redirect, after a login.
#[derive(Clone)]
pub struct Body {
    /// Where it is known; it is sent in chunks otherwise.
    length: Option<u64>,
    source: Source,
}

#[derive(Clone)]
enum Source {
    Bytes(Bytes),
    Reader(Arc<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync>),
}

impl Body {
    /// `length` bytes of what `open` gives, which is called on a thread that may block, once for each time it is sent.
    pub fn reader(
        length: u64,
        open: impl Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync + 'static,
    ) -> Body {
        Body { length: Some(length), source: Source::Reader(Arc::new(open)) }
    }

    /// All of what `open` gives, however much it is.
    pub fn stream(open: impl Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync + 'static) -> Body {
        Body { length: None, source: Source::Reader(Arc::new(open)) }
    }

    /// In bytes, where that is known.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    pub(crate) fn open(&self, sent: &Sent) -> reqwest::Body {
        let sent = sent.clone();
        match &self.source {
            Source::Bytes(bytes) => {
                let pieces = stream::unfold(bytes.clone(), move |mut rest| {
                    let piece = rest.split_to(rest.len().min(PIECE));
                    sent.add(piece.len());
                    async move { (!piece.is_empty()).then_some((Ok::<_, io::Error>(piece), rest)) }
                });
                reqwest::Body::wrap_stream(pieces)
            }
            Source::Reader(open) => {
                let (pieces, queue) = mpsc::channel(PIECES);
                let (open, length, told) = (Arc::clone(open), self.length, sent.clone());
                tokio::task::spawn_blocking(move || {
                    if let Err(error) = feed(&*open, length, &pieces) {
                        told.fail(io::Error::new(error.kind(), error.to_string()));
                        let _ = pieces.blocking_send(Err(error));
                    }
                });
                let pieces = stream::unfold(queue, move |mut queue| {
                    let sent = sent.clone();
                    async move {
                        let piece = queue.recv().await?;
                        sent.add(piece.as_ref().map_or(0, Bytes::len));
                        Some((piece, queue))
                    }
                });
                reqwest::Body::wrap_stream(pieces)
            }
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        Body { length: Some(bytes.len() as u64), source: Source::Bytes(bytes) }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("length", &self.length).finish_non_exhaustive()
    }
}

/// Reads until the end, or until nobody takes it.
fn feed(
    open: &(dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync),
    length: Option<u64>,
    pieces: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let mut reader = open()?.take(length.unwrap_or(u64::MAX));
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        (&mut reader).take(PIECE as u64).read_to_end(&mut piece)?;
        if piece.is_empty() {
            return match reader.limit() {
                0 => Ok(()),
                _ if length.is_none() => Ok(()),
                _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is shorter than it should be")),
            };
        }
        if pieces.blocking_send(Ok(piece.into())).is_err() {
            return Ok(());
        }
    }
}

/// How far a body is.
#[derive(Clone, Default)]
pub(crate) struct Sent(Arc<(AtomicU64, Mutex<Option<io::Error>>)>);

impl Sent {
    pub(crate) fn bytes(&self) -> u64 {
        self.0.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        self.0.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn fail(&self, error: io::Error) {
        *self.0.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    /// Why it could not be read.
    pub(crate) fn failure(&self) -> Option<io::Error> {
        self.0.1.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
