use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use hash::Digest;
use image::{BlobReader, ContentStore, Descriptor};
use transport::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RANGE};
use transport::{Again, Body, Method, Response, StatusCode, Url};

use crate::backoff::Backoff;
use crate::failure::{Failure, Kind};
use crate::host::{Call, Target};
use crate::push::Pusher;

/// A chunk, in bytes; it is held in memory.
const CHUNK: u64 = 8 << 20;
/// The largest chunk that a registry may insist on, in bytes.
const MAX_CHUNK: u64 = 64 << 20;

/// Distribution spec, "Pushing Blobs".
impl Pusher<'_> {
    /// Whether the registry has a blob.
    pub(crate) async fn has(&self, digest: &Digest) -> Result<bool, Failure> {
        let path = format!("{}/blobs/{digest}", self.name);
        let mut backoff = Backoff::new(&self.retry);
        loop {
            let failure = match self.call(Method::HEAD, Target::Path(path.clone())).await {
                Ok(response) if response.status().is_success() => return Ok(true),
                Ok(response) if response.status() == StatusCode::NOT_FOUND => return Ok(false),
                Ok(response) => self.host.failure(response).await,
                Err(failure) => failure,
            };
            backoff.wait(failure).await?;
        }
    }

    /// Whether the registry takes a blob from another of its repositories. If not, for whatever reason, it is sent.
    pub(crate) async fn mount(&self, digest: &Digest, from: &str) -> Result<bool, Failure> {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("mount", &digest.to_string())
            .append_pair("from", from)
            .finish();
        let path = format!("{}/blobs/uploads/?{query}", self.name);
        let response = match self.call(Method::POST, Target::Path(path)).await {
            Ok(response) => response,
            Err(failure) => {
                tracing::debug!(%digest, from, reason = failure.message, "cannot mount a blob");
                return Ok(false);
            }
        };
        if response.status() == StatusCode::ACCEPTED
            && let Ok(upload) = location(&response)
        {
            // It began an upload instead, which another one follows; what is left of it would be swept up some day.
            self.call(Method::DELETE, Target::Url(upload)).await.ok();
        }
        Ok(response.status() == StatusCode::CREATED)
    }

    /// Sends a blob: whole, and after a failure in chunks.
    pub(crate) async fn upload(&self, blob: &Descriptor) -> Result<(), Failure> {
        let mut backoff = Backoff::new(&self.retry);
        let mut chunked = false;
        loop {
            let tried = match chunked {
                false => self.send_whole(blob).await,
                true => self.send_chunks(blob).await,
            };
            let failure = match tried {
                Ok(()) => break,
                Err(failure) => failure,
            };
            if !chunked && matches!(failure.kind, Kind::Invalid) {
                // Too large for it, or for something before it.
                tracing::debug!(digest = %blob.digest, reason = failure.message, "sending in chunks");
            } else {
                backoff.wait(failure).await?;
            }
            chunked = true;
            // The answer may have been lost on its way, not the blob.
            if self.has(&blob.digest).await? {
                break;
            }
        }
        self.tell(blob, blob.size);
        Ok(())
    }

    fn tell(&self, blob: &Descriptor, sent: u64) {
        self.progress.transferred(&blob.digest, sent, blob.size);
    }

    async fn send_whole(&self, blob: &Descriptor) -> Result<(), Failure> {
        let begun = self.begin().await?;
        let (store, digest) = (Arc::clone(&self.store), blob.digest);
        let body = Body::reader(blob.size, move || open(&*store, &digest));
        let call = self.put(begun.url, &digest, body);
        let response = self.host.call(&call, &|sent| self.tell(blob, sent)).await?;
        self.check(response).await.map(drop)
    }

    /// Sends chunk after chunk. When one fails, the registry says how much it has.
    async fn send_chunks(&self, blob: &Descriptor) -> Result<(), Failure> {
        let Begun { mut url, smallest } = self.begin().await?;
        let mut backoff = Backoff::new(&self.retry);
        let mut reader = ChunkReader::new(Arc::clone(&self.store), blob.digest);
        let (mut at, mut most) = (0, 0);
        while at < blob.size {
            let chunk = reader.read(at, CHUNK.max(smallest).min(blob.size - at)).await?;
            let tried = match self.patch(&url, at, chunk.clone()).await {
                Ok(response) => next(&response, at + chunk.len() as u64),
                Err(failure) => self.progress_of(&url, &mut backoff, failure).await,
            };
            (url, at) = tried?;
            if at > blob.size {
                return Err(Failure::invalid("the registry has more of an upload than was sent"));
            }
            if at > most {
                most = at;
                backoff.reset();
                self.tell(blob, at);
            }
        }
        let call = self.put(url, &blob.digest, Bytes::new().into());
        let response = self.host.call(&call, &|_| {}).await?;
        self.check(response).await.map(drop)
    }

    /// Asks how far an upload is, after a failure. When there were too many, beginning another upload makes no sense either: each would have as many.
    async fn progress_of(
        &self,
        url: &Url,
        backoff: &mut Backoff<'_>,
        mut failure: Failure,
    ) -> Result<(Url, u64), Failure> {
        loop {
            backoff.wait(failure).await.map_err(|last| Failure { again: Again::Never, ..last })?;
            failure = match self.call(Method::GET, Target::Url(url.clone())).await {
                Ok(response) if response.status().is_success() => return next(&response, 0),
                // Another one is begun.
                Ok(response) if response.status() == StatusCode::NOT_FOUND => {
                    return Err(Failure::broken("the registry forgot an upload"));
                }
                Ok(response) => self.host.failure(response).await,
                Err(failure) => failure,
            };
        }
    }

    async fn patch(&self, url: &Url, at: u64, chunk: Bytes) -> Result<Response, Failure> {
        let range = HeaderValue::try_from(format!("{at}-{}", at + chunk.len() as u64 - 1))
            .map_err(|error| Failure::invalid(error.to_string()))?;
        let headers = HeaderMap::from_iter([(CONTENT_RANGE, range), octets()]);
        let target = Target::Url(url.clone());
        let body = Some(chunk.into());
        let call = Call { method: Method::PATCH, target, headers, body, ..self.bare() };
        let response = self.host.call(&call, &|_| {}).await?;
        // What it has is not what we think: it is asked.
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(Failure::broken("the registry has another part of the upload"));
        }
        self.check(response).await
    }

    /// Begins an upload.
    async fn begin(&self) -> Result<Begun, Failure> {
        let path = format!("{}/blobs/uploads/", self.name);
        let response = self.call(Method::POST, Target::Path(path)).await?;
        let response = self.check(response).await?;
        let smallest = response.headers().get("oci-chunk-min-length");
        let smallest = smallest.and_then(|text| text.to_str().ok()?.parse().ok()).unwrap_or(0);
        if smallest > MAX_CHUNK {
            let message =
                format!("the registry insists on chunks of {smallest} bytes, at most {MAX_CHUNK} are sent");
            return Err(Failure::invalid(message));
        }
        Ok(Begun { url: location(&response)?, smallest })
    }

    fn put(&self, mut url: Url, digest: &Digest, body: Body) -> Call<'_> {
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let headers = HeaderMap::from_iter([octets()]);
        Call { method: Method::PUT, target: Target::Url(url), headers, body: Some(body), ..self.bare() }
    }

    async fn call(&self, method: Method, target: Target) -> Result<Response, Failure> {
        // A POST without a length is refused by some.
        let body = (method == Method::POST).then(|| Bytes::new().into());
        self.host.call(&Call { method, target, body, ..self.bare() }, &|_| {}).await
    }

    fn bare(&self) -> Call<'_> {
        Call {
            scope: &self.scope,
            method: Method::GET,
            target: Target::Path(String::new()),
            headers: HeaderMap::new(),
            body: None,
            verified: false,
        }
    }

    async fn check(&self, response: Response) -> Result<Response, Failure> {
        if response.status().is_success() { Ok(response) } else { Err(self.host.failure(response).await) }
    }
}

struct Begun {
    url: Url,
    /// `OCI-Chunk-Min-Length`
    smallest: u64,
}

fn octets() -> (HeaderName, HeaderValue) {
    (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
}

fn location(response: &Response) -> Result<Url, Failure> {
    let text = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let url = text.and_then(|text| response.url().join(text).ok());
    let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
    let plain = |url: &Url| url.scheme() == "http" && response.url().scheme() == "https";
    url.filter(|url| !plain(url)).ok_or_else(|| {
        Failure::invalid("the registry does not say where an upload goes, or not to an encrypted address")
    })
}

/// Where the next chunk goes and with which byte it begins; `otherwise` where the answer does not say.
fn next(response: &Response, otherwise: u64) -> Result<(Url, u64), Failure> {
    let range = response.headers().get(RANGE).and_then(|value| value.to_str().ok());
    let last =
        range.and_then(|range| range.trim_start_matches("bytes=").split_once('-')?.1.parse::<u64>().ok());
    let at = match last {
        // Registries say `0-0` of nothing as well; chunks are larger than a byte.
        Some(0) if otherwise != 1 => 0,
        Some(last) => last.saturating_add(1),
        None => otherwise,
    };
    let url = match response.headers().contains_key(LOCATION) {
        true => location(response)?,
        false => response.url().clone(),
    };
    Ok((url, at))
}

fn open(store: &dyn ContentStore, digest: &Digest) -> io::Result<BlobReader> {
    store.open(digest)?.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it is not in the store"))
}

/// Reads a blob piece by piece, and from its beginning when an earlier piece is wanted again.
struct ChunkReader {
    store: Arc<dyn ContentStore>,
    digest: Digest,
    open: Option<(u64, BlobReader)>,
}

impl ChunkReader {
    fn new(store: Arc<dyn ContentStore>, digest: Digest) -> ChunkReader {
        ChunkReader { store, digest, open: None }
    }

    async fn read(&mut self, at: u64, length: u64) -> Result<Bytes, Failure> {
        let (store, digest, opened) = (Arc::clone(&self.store), self.digest, self.open.take());
        let reading = tokio::task::spawn_blocking(move || {
            let (mut position, mut reader) = match opened {
                Some((position, reader)) if position <= at => (position, reader),
                _ => (0, open(&*store, &digest)?),
            };
            position += io::copy(&mut (&mut reader).take(at - position), &mut io::sink())?;
            let mut bytes = Vec::with_capacity(length as usize);
            (&mut reader).take(length).read_to_end(&mut bytes)?;
            if position != at || bytes.len() as u64 != length {
                let message = "it is shorter than it should be";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
            }
            Ok((Bytes::from(bytes), (at + length, reader)))
        });
        let failed = |error| Failure::io(format!("read blob {digest}"), error);
        let (bytes, open) =
            reading.await.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)?;
        self.open = Some(open);
        Ok(bytes)
    }
}
