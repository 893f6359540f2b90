use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use transport::header::{
    ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, IF_RANGE, RANGE,
};
use transport::{Again, Redirects, Request, Response, StatusCode, Url, may_pass, retry_after};

use crate::client::Client;
use crate::error::Error;
use crate::sink::Sink;
use crate::validators::{Validators, modified, same_etag};

use super::{Download, Downloaded, Fetched};

/// After so many bytes more than ever before, failures are counted anew.
const PROGRESS: u64 = 1 << 20;
/// Progress is told this often.
const TELL: Duration = Duration::from_millis(100);

/// A download over all its tries.
pub(super) struct Transfer<'a> {
    client: &'a Client,
    download: &'a Download<'a>,
    url: Url,
    authorization: Option<HeaderValue>,
    to: PathBuf,
    sink: Option<Sink>,
    /// Bytes in the sink, and what the server said of the file that they belong to.
    received: u64,
    version: Validators,
    modified: Option<SystemTime>,
    /// The most that was ever in the sink, and at the last call of [`Transfer::has_progressed`].
    most: u64,
    mark: u64,
    /// Whether known files are still offered.
    conditional: bool,
    /// When progress was told last.
    told: Option<Instant>,
}

/// Why one try failed, and whether another makes sense.
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) again: Again,
}

/// How the transfer ended.
pub(super) enum Done {
    NotModified(usize),
    Complete,
}

/// What an answer turned out to be.
enum Answer {
    NotModified(usize),
    /// The file from its beginning.
    Whole,
    /// What was still missing.
    Rest,
    /// Of no use; asking without conditions will help.
    Nothing,
}

impl<'a> Transfer<'a> {
    pub(super) fn new(
        client: &'a Client,
        download: &'a Download<'a>,
        url: Url,
        authorization: Option<HeaderValue>,
        to: &Path,
    ) -> Transfer<'a> {
        Transfer {
            client,
            download,
            url,
            authorization,
            to: to.to_owned(),
            sink: None,
            received: 0,
            version: Validators::default(),
            modified: None,
            most: 0,
            mark: 0,
            conditional: true,
            told: None,
        }
    }

    /// Whether much more came than ever before, since the last call.
    pub(super) fn has_progressed(&mut self) -> bool {
        let has = self.most >= self.mark + PROGRESS;
        self.mark = self.most;
        has
    }

    /// Asks for what is missing and takes all that comes.
    pub(super) async fn attempt(&mut self) -> Result<Done, Failure> {
        loop {
            let response = self.ask().await?;
            match self.judge(&response)? {
                Answer::NotModified(known) => return Ok(Done::NotModified(known)),
                Answer::Nothing => {
                    self.forget().await?;
                    self.conditional = false;
                }
                Answer::Whole => {
                    self.forget().await?;
                    self.version = Validators::of(response.headers());
                    self.modified = modified(response.headers());
                    return self.receive(response).await;
                }
                Answer::Rest => return self.receive(response).await,
            }
        }
    }

    pub(super) async fn finish(self, done: Done) -> Result<Downloaded, Error> {
        if let Done::NotModified(known) = done {
            return Ok(Downloaded::NotModified(known));
        }
        let sink = self.sink.unwrap_or_else(|| Sink::new(&self.to));
        let digest = sink.finish(self.download.checksum).await?;
        match self.download.checksum {
            Some(expected) if expected != digest => {
                Err(Error::Checksum { url: self.url.to_string(), expected, found: digest })
            }
            _ => Ok(Downloaded::File(Fetched {
                digest,
                size: self.received,
                modified: self.modified,
                validators: self.version,
            })),
        }
    }

    async fn ask(&self) -> Result<Response, Failure> {
        // Bytes are kept as they come, so none that a server compressed on the way are wanted.
        let identity = HeaderValue::from_static("identity");
        let mut headers = HeaderMap::from_iter([(ACCEPT_ENCODING, identity)]);
        match self.version.strong().filter(|_| self.received > 0) {
            Some(version) => {
                insert(&mut headers, RANGE, &format!("bytes={}-", self.received));
                insert(&mut headers, IF_RANGE, version);
            }
            None => self.offer(&mut headers),
        }
        let authorization = self.authorization.clone();
        // As every client has it, a server may send us on to plain HTTP.
        let redirects = Redirects::Any;
        let request = Request { authorization, headers, redirects, ..Request::get(self.url.clone()) };
        self.client.transport.send(request).await.map_err(|error| self.broken(error))
    }

    /// Says what is known. One time is offered only where there is no ETag at all.
    fn offer(&self, headers: &mut HeaderMap) {
        let etags: Vec<&str> = self.offered_etags().map(|(_, etag)| etag).collect();
        if !etags.is_empty() {
            insert(headers, IF_NONE_MATCH, &etags.join(", "));
        } else if let Some((_, time)) = self.offered_time() {
            insert(headers, IF_MODIFIED_SINCE, time);
        }
    }

    /// Files that could be the answer, with their ETags. One with another digest than is asked for cannot.
    fn offered_etags(&self) -> impl Iterator<Item = (usize, &'a str)> {
        let wanted = self.conditional && self.download.checksum.is_none();
        let known = self.download.known.iter().enumerate().filter(move |_| wanted);
        known.filter_map(|(place, known)| Some((place, known.validators.etag.as_deref()?)))
    }

    fn offered_time(&self) -> Option<(usize, &'a str)> {
        let wanted = self.conditional && self.download.checksum.is_none();
        let mut known = self.download.known.iter().enumerate().filter(|_| wanted);
        known.find_map(|(place, known)| Some((place, known.validators.last_modified.as_deref()?)))
    }

    fn judge(&self, response: &Response) -> Result<Answer, Failure> {
        let resuming = self.received > 0 && self.version.strong().is_some();
        let etag = response.headers().get(ETAG).and_then(|etag| etag.to_str().ok());
        match response.status() {
            StatusCode::NOT_MODIFIED if !resuming && self.conditional => {
                let mut offered = self.offered_etags();
                let found = match (etag, offered.next(), offered.next()) {
                    // Servers leave the ETag out when there is only one to mean (against RFC 9110 section 15.4.5).
                    (None, Some((place, _)), None) => Some(place),
                    (None, None, _) => self.offered_time().map(|(place, _)| place),
                    (etag, ..) => self.place_of(etag),
                };
                Ok(found.map_or(Answer::Nothing, Answer::NotModified))
            }
            StatusCode::PARTIAL_CONTENT if resuming && self.is_rest(response, etag) => Ok(Answer::Rest),
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if resuming => {
                Ok(Answer::Nothing)
            }
            status if status.is_success() && status != StatusCode::PARTIAL_CONTENT => {
                // Some servers send ETags and do not look at those they get: the body need not be read then.
                Ok(self.place_of(etag).filter(|_| !resuming).map_or(Answer::Whole, Answer::NotModified))
            }
            _ => Err(self.refused(response)),
        }
    }

    fn place_of(&self, etag: Option<&str>) -> Option<usize> {
        let etag = etag?;
        self.offered_etags().find(|(_, offered)| same_etag(offered, etag)).map(|(place, _)| place)
    }

    /// Whether a partial answer goes on exactly where the last one ended, in the same version.
    fn is_rest(&self, response: &Response, etag: Option<&str>) -> bool {
        let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let first =
            range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok());
        first == Some(self.received) && (etag.is_none() || etag == self.version.etag.as_deref())
    }

    async fn receive(&mut self, mut response: Response) -> Result<Done, Failure> {
        let total = response.content_length().map(|length| self.received.saturating_add(length));
        let limit = self.client.config.max_size;
        let too_large = |url: &Url| Failure {
            error: Error::TooLarge { url: url.to_string(), limit },
            again: Again::Never,
        };
        if total.is_some_and(|total| total > limit) {
            return Err(too_large(&self.url));
        }
        let sink = self.sink.get_or_insert_with(|| Sink::new(&self.to));
        loop {
            let piece = match response.chunk().await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(error) => return Err(self.broken(error)),
            };
            if self.received + piece.len() as u64 > limit {
                return Err(too_large(&self.url));
            }
            self.received += piece.len() as u64;
            self.most = self.most.max(self.received);
            sink.write(piece).await?;
            if self.told.is_none_or(|told| told.elapsed() >= TELL) {
                self.told = Some(Instant::now());
                (self.download.progress)(self.received, total);
            }
        }
        (self.download.progress)(self.received, total);
        Ok(Done::Complete)
    }

    /// Begins anew.
    async fn forget(&mut self) -> Result<(), Failure> {
        if let Some(sink) = self.sink.as_mut().filter(|_| self.received > 0) {
            sink.restart().await?;
        }
        self.received = 0;
        self.version = Validators::default();
        Ok(())
    }

    fn broken(&self, error: transport::Error) -> Failure {
        let again = error.again();
        Failure { error: Error::Fetch { url: self.url.to_string(), message: error.to_string() }, again }
    }

    fn refused(&self, response: &Response) -> Failure {
        let status = response.status();
        let asked = retry_after(response.headers()).map_or(Again::Later, Again::After);
        let passes = status == StatusCode::TOO_MANY_REQUESTS || may_pass(status);
        let host = self.url.host_str().unwrap_or_default();
        let mut message = format!("the server answers {status}");
        if !response.is_direct() {
            message = format!("{}, to which it redirects, answers {status}", response.url());
        } else if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            message += match &self.authorization {
                Some(_) => " to the credentials that it was sent",
                None => "",
            };
            if self.authorization.is_none() {
                message += &format!(" (a token for it can be given as the secret HTTP_AUTH_TOKEN_{host})");
            }
        }
        let error = Error::Fetch { url: self.url.to_string(), message };
        Failure { error, again: if passes { asked } else { Again::Never } }
    }
}

impl From<Error> for Failure {
    /// What this machine fails at stays.
    fn from(error: Error) -> Failure {
        Failure { error, again: Again::Never }
    }
}

/// Values come from earlier answers or are made here; one that is no header is left out.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}
