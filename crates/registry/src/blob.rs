use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use hash::Digest;
use image::{BlobSource, BlobWriter, ContentStore, Descriptor, ResolveError, Resume, TransferProgress};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use transport::header::CONTENT_RANGE;
use transport::{Response, StatusCode};

use crate::backoff::Backoff;
use crate::failure::{Failure, Kind};
use crate::host::Host;
use crate::repository::Repository;

/// Pieces that may wait for the disk; a piece is what the network gave at once.
const PIECES: usize = 32;
/// After so many bytes a broken transfer starts to count its failures anew.
const PROGRESS: u64 = 1 << 20;
/// Progress is told this often.
const TELL: Duration = Duration::from_millis(100);

#[async_trait]
impl BlobSource for Repository {
    async fn fetch(
        &self,
        blob: &Descriptor,
        store: &dyn ContentStore,
        progress: &dyn TransferProgress,
    ) -> Result<(), ResolveError> {
        self.fetch_blob(blob, store, progress).await.map_err(|failure| failure.of_image(&self.image))
    }
}

impl Repository {
    async fn fetch_blob(
        &self,
        blob: &Descriptor,
        store: &dyn ContentStore,
        progress: &dyn TransferProgress,
    ) -> Result<(), Failure> {
        let local = |error: io::Error| Failure::io(format!("store blob {}", blob.digest), error);
        if store.size(&blob.digest).map_err(local)?.is_some() {
            return Ok(());
        }
        let _claim = self.in_flight.claim(&blob.digest).await;
        if store.size(&blob.digest).map_err(local)?.is_some() {
            return Ok(());
        }
        let mut hosts = self.hosts.iter();
        loop {
            let Some(host) = hosts.next() else { return Err(Failure::invalid("it has no registry")) };
            match self.fetch_from(host, blob, store, progress).await {
                Err(failure) if hosts.len() > 0 && !matches!(failure.kind, Kind::Io(_)) => {
                    tracing::debug!(digest = %blob.digest, reason = failure.message, "a mirror does not help");
                }
                other => return other,
            }
        }
    }

    async fn fetch_from(
        &self,
        host: &Host,
        blob: &Descriptor,
        store: &dyn ContentStore,
        progress: &dyn TransferProgress,
    ) -> Result<(), Failure> {
        let local = |error: io::Error| Failure::io(format!("store blob {}", blob.digest), error);
        let _transfer = host.transfers.acquire().await;
        let resume = store.resume(&blob.digest, blob.size).map_err(local)?;
        let (writer, held) = resumed(resume, blob, progress).await.map_err(local)?;
        match self.bring(host, Transfer::new(blob, progress, writer, held)).await {
            // What an earlier transfer left is not the beginning (a power failure takes bytes that were written last), or the registry
            // gives no parts.
            Err(failure) if held > 0 && failure.is_answer() => {
                tracing::debug!(digest = %blob.digest, held, reason = failure.message, "it is fetched anew");
                self.bring(host, Transfer::new(blob, progress, store.create().map_err(local)?, 0)).await
            }
            other => other,
        }
    }

    /// Asks for what is missing until it is there, or breaks too often.
    async fn bring(&self, host: &Host, mut transfer: Transfer<'_>) -> Result<(), Failure> {
        let mut backoff = Backoff::new(&self.retry);
        let mut mark = transfer.received;
        while transfer.received < transfer.blob.size {
            let Err(failure) = self.receive(host, &mut transfer).await else { break };
            if transfer.received >= mark + PROGRESS {
                backoff.reset();
            }
            mark = transfer.received;
            if let Err(failure) = backoff.wait(failure).await {
                // A mirror goes on with what has come.
                transfer.sink.end().await;
                return Err(failure);
            }
        }
        transfer.finish().await
    }

    /// Asks for what is still missing and takes all that comes.
    async fn receive(&self, host: &Host, transfer: &mut Transfer<'_>) -> Result<(), Failure> {
        let response = host.ask(&self.blob_question(&transfer.blob.digest, transfer.received)).await?;
        transfer.receive(response).await
    }
}

/// One blob on its way into a store.
struct Transfer<'a> {
    blob: &'a Descriptor,
    progress: &'a dyn TransferProgress,
    told: Option<Instant>,
    /// Bytes given to the sink, or there before.
    received: u64,
    sink: Sink,
}

impl<'a> Transfer<'a> {
    /// Goes on after `held` bytes.
    fn new(
        blob: &'a Descriptor,
        progress: &'a dyn TransferProgress,
        writer: Box<dyn BlobWriter>,
        held: u64,
    ) -> Self {
        Transfer { blob, progress, told: None, received: held, sink: Sink::new(writer) }
    }

    async fn receive(&mut self, mut response: Response) -> Result<(), Failure> {
        let mut skip = self.received - first_byte(&response, self.received)?;
        self.check_length(&response, skip)?;
        while let Some(mut piece) = response.chunk().await? {
            let known = skip.min(piece.len() as u64);
            skip -= known;
            let piece = piece.split_off(known as usize);
            if piece.len() as u64 > self.blob.size - self.received {
                return Err(self.wrong_size("more"));
            }
            self.received += piece.len() as u64;
            self.sink.write(piece, &self.blob.digest).await?;
            self.tell();
        }
        if self.received < self.blob.size {
            return Err(Failure::broken(format!(
                "the transfer of blob {} ended after {} of {} bytes",
                self.blob.digest, self.received, self.blob.size
            )));
        }
        Ok(())
    }

    /// A length that cannot be right is known before anything is transferred.
    fn check_length(&self, response: &Response, skip: u64) -> Result<(), Failure> {
        match response.content_length() {
            Some(length) if length > self.blob.size - self.received + skip => Err(self.wrong_size("more")),
            Some(length) if length < self.blob.size - self.received + skip => Err(self.wrong_size("fewer")),
            _ => Ok(()),
        }
    }

    fn wrong_size(&self, how: &str) -> Failure {
        let Descriptor { digest, size, .. } = self.blob;
        Failure::invalid(format!("the registry sends {how} than the {size} bytes that blob {digest} has"))
    }

    fn tell(&mut self) {
        let due = self.told.is_none_or(|told| told.elapsed() >= TELL);
        if due || self.received == self.blob.size {
            self.told = Some(Instant::now());
            self.progress.transferred(&self.blob.digest, self.received, self.blob.size);
        }
    }

    async fn finish(self) -> Result<(), Failure> {
        self.sink.commit(&self.blob.digest).await
    }
}

/// The offset at which an answer to a request from `wanted` on begins: servers may ignore ranges (RFC 9110 section 14.2).
fn first_byte(response: &Response, wanted: u64) -> Result<u64, Failure> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(0);
    }
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok());
    match first {
        Some(first) if first <= wanted => Ok(first),
        _ => Err(Failure::invalid(format!(
            "the registry was asked for bytes from {wanted} on and sends others"
        ))),
    }
}

/// Reads what there is of a blob while somebody is told how far that is: a gigabyte takes a second, or more.
async fn resumed(
    resume: Resume,
    blob: &Descriptor,
    progress: &dyn TransferProgress,
) -> io::Result<(Box<dyn BlobWriter>, u64)> {
    let read = Arc::new(AtomicU64::new(0));
    let reads = Arc::clone(&read);
    let mut reading =
        tokio::task::spawn_blocking(move || resume(&|bytes| reads.store(bytes, Ordering::Relaxed)));
    loop {
        tokio::select! {
            ended = &mut reading => return ended.map_err(io::Error::other)?,
            () = tokio::time::sleep(TELL) => {
                progress.transferred(&blob.digest, read.load(Ordering::Relaxed), blob.size);
            }
        }
    }
}

/// Writes to a store on a blocking thread. Dropping it ends the thread, in a moment, which drops the writer.
struct Sink {
    pieces: mpsc::Sender<Bytes>,
    writer: JoinHandle<io::Result<Box<dyn BlobWriter>>>,
}

impl Sink {
    fn new(mut writer: Box<dyn BlobWriter>) -> Sink {
        let (pieces, mut queue) = mpsc::channel::<Bytes>(PIECES);
        let writer = tokio::task::spawn_blocking(move || {
            while let Some(piece) = queue.blocking_recv() {
                writer.write_all(&piece)?;
            }
            Ok(writer)
        });
        Sink { pieces, writer }
    }

    async fn write(&mut self, piece: Bytes, digest: &Digest) -> Result<(), Failure> {
        if self.pieces.send(piece).await.is_ok() {
            return Ok(());
        }
        // The thread is gone only when writing failed.
        let error = match (&mut self.writer).await {
            Ok(Err(error)) => error,
            Ok(Ok(_)) => io::Error::other("the writer ended early"),
            Err(error) => io::Error::other(error),
        };
        Err(Failure::io(format!("store blob {digest}"), error))
    }

    /// Waits until all that came is written or refused, and drops the writer.
    async fn end(self) {
        drop(self.pieces);
        let _ = self.writer.await;
    }

    /// Makes the blob visible, if its bytes have the digest.
    async fn commit(self, digest: &Digest) -> Result<(), Failure> {
        let Sink { pieces, writer } = self;
        drop(pieces);
        let expected = *digest;
        let task = async {
            let writer = writer.await.map_err(io::Error::other)??;
            tokio::task::spawn_blocking(move || writer.commit(Some(&expected)))
                .await
                .map_err(io::Error::other)?
        };
        match task.await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(Failure::invalid(format!("blob {digest} is damaged: {error}")))
            }
            Err(error) => Err(Failure::io(format!("store blob {digest}"), error)),
        }
    }
}
