use std::error::Error;
use std::io;
use std::time::Duration;

use image::ResolveError;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde::Deserialize;
use url::Url;

use crate::body;

/// What an error answer may say at most, in bytes.
const MAX_ERROR_BODY: usize = 64 << 10;

/// Why one try failed, and whether another makes sense. Becomes a [`ResolveError`] once the image's name is known.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    pub(crate) again: Again,
}

#[derive(Debug)]
pub(crate) enum Kind {
    NotFound,
    Denied,
    /// No connection came about, so nothing was sent: another scheme may be tried.
    NoConnection,
    Unreachable,
    Invalid,
    Io(io::Error),
}

/// Whether a failure may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    Never,
    Later,
    After(Duration),
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into(), again: Again::Never }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Invalid, message)
    }

    pub(crate) fn io(action: impl Into<String>, source: io::Error) -> Failure {
        Failure::new(Kind::Io(source), action)
    }

    /// A transfer that broke off and may be taken up again.
    pub(crate) fn broken(message: impl Into<String>) -> Failure {
        Failure { kind: Kind::Unreachable, message: message.into(), again: Again::Later }
    }

    /// A request to `url` that got no answer, or whose answer broke off.
    pub(crate) fn of_request(url: &Url, error: &reqwest::Error) -> Failure {
        let host = crate::config::authorities(url).into_iter().next().unwrap_or_default();
        let cause = Cause::of(error);
        let again = if cause.passes() && !(error.is_connect() && error.is_timeout()) {
            Again::Later
        } else {
            Again::Never
        };
        if error.is_connect() {
            let message = format!("cannot reach registry {host}: {}", cause.words(error, &host));
            return Failure { kind: Kind::NoConnection, message, again };
        }
        let message = format!("the connection to registry {host} broke: {}", cause.words(error, &host));
        Failure { kind: Kind::Unreachable, message, again }
    }

    /// An answer that is no success. Reads what the registry says about it.
    pub(crate) async fn of_answer(response: reqwest::Response) -> Failure {
        let (status, url) = (response.status(), response.url().clone());
        let after = retry_after(response.headers());
        let said = body::read(response, MAX_ERROR_BODY).await.ok().and_then(|bytes| said(&bytes));
        let host = crate::config::authorities(&url).into_iter().next().unwrap_or_default();
        let said = said.map(|said| format!(": {said}")).unwrap_or_default();
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Failure::new(Kind::NotFound, "not found"),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::new(
                Kind::Denied,
                format!("registry {host} denies access ({}){said}", status.as_u16()),
            ),
            StatusCode::TOO_MANY_REQUESTS => Failure {
                kind: Kind::Unreachable,
                message: format!("registry {host} limits the number of requests (429){said}"),
                again: after.map_or(Again::Later, Again::After),
            },
            _ if passes(status) => Failure {
                kind: Kind::Unreachable,
                message: format!("registry {host} answers {status}{said}"),
                again: after.map_or(Again::Later, Again::After),
            },
            _ => Failure::invalid(format!("registry {host} answers {status}{said}")),
        }
    }

    /// The same failure in the words of the seam; `name` is the image.
    pub(crate) fn of_image(self, name: &str) -> ResolveError {
        let (name, message) = (name.to_owned(), self.message);
        match self.kind {
            Kind::NotFound => ResolveError::NotFound(name),
            Kind::Denied => ResolveError::Denied { name, message },
            Kind::NoConnection | Kind::Unreachable => ResolveError::Unreachable { name, message },
            Kind::Invalid => ResolveError::Invalid { name, message },
            Kind::Io(source) => ResolveError::Io { action: message, source },
        }
    }
}

fn passes(status: StatusCode) -> bool {
    status == StatusCode::REQUEST_TIMEOUT
        || (status.is_server_error()
            && status != StatusCode::NOT_IMPLEMENTED
            && status != StatusCode::HTTP_VERSION_NOT_SUPPORTED)
}

/// `Retry-After` (RFC 9110 section 10.2.3): seconds or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(date.duration_since(jiff::Timestamp::now()).try_into().unwrap_or_default())
}

/// The first error of a registry's answer (distribution spec, "Error Codes"), as one short line.
fn said(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        errors: Vec<Entry>,
        /// What token servers say instead.
        details: Option<String>,
    }
    #[derive(Deserialize)]
    struct Entry {
        code: Option<String>,
        message: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(bytes).ok()?;
    let text = match answer.errors.into_iter().next() {
        Some(Entry { message: Some(message), .. }) if !message.is_empty() => message,
        Some(Entry { code, .. }) => code?,
        None => answer.details?,
    };
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    Some(line.trim().to_owned())
}

/// What is at the bottom of an error of the HTTP library.
struct Cause<'a> {
    io: Option<&'a io::Error>,
    tls: Option<&'a rustls::Error>,
    last: String,
}

impl<'a> Cause<'a> {
    fn of(error: &'a reqwest::Error) -> Cause<'a> {
        let mut cause = Cause { io: None, tls: None, last: String::new() };
        let mut next: Option<&(dyn Error + 'static)> = error.source();
        while let Some(error) = next {
            cause.last = error.to_string();
            cause.tls = cause.tls.or(error.downcast_ref());
            next = match error.downcast_ref::<io::Error>() {
                // `source` of an I/O error skips the error that it wraps.
                Some(io) => {
                    cause.io = Some(io);
                    io.get_ref().map(|inner| inner as &(dyn Error + 'static))
                }
                None => error.source(),
            };
        }
        cause
    }

    fn passes(&self) -> bool {
        let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        self.tls.is_none() && !self.io.is_some_and(refused) && !self.is_lookup()
    }

    /// Whether the host's name has no address. The HTTP library has no type for that.
    fn is_lookup(&self) -> bool {
        self.last.contains("lookup address")
    }

    fn words(&self, error: &reqwest::Error, host: &str) -> String {
        use rustls::{CertificateError, Error as Tls};
        if error.is_timeout() {
            return "no answer in time".to_owned();
        }
        match self.tls {
            Some(Tls::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                return format!(
                    "its certificate is signed by an authority that this machine does not know \
                     (one more can be put into /etc/docker/certs.d/{host}/ca.crt)"
                );
            }
            Some(Tls::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) => {
                return "its certificate has expired".to_owned();
            }
            Some(Tls::InvalidMessage(_)) => return "it does not speak TLS".to_owned(),
            Some(other) => return other.to_string(),
            None => {}
        }
        match self.io.map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
            Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => "connection reset".to_owned(),
            Some(io::ErrorKind::UnexpectedEof) => "the connection was closed early".to_owned(),
            Some(io::ErrorKind::NetworkUnreachable) => "the network is unreachable".to_owned(),
            Some(io::ErrorKind::HostUnreachable) => "the host is unreachable".to_owned(),
            _ if self.is_lookup() => "its name cannot be resolved".to_owned(),
            _ if self.last.is_empty() => error.to_string(),
            _ => self.last.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn reads_both_forms_of_retry_after() {
        let after = |text: &'static str| {
            retry_after(&HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]))
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert!(after("Wed, 06 Nov 2250 08:49:37 GMT") > Some(Duration::from_secs(1 << 30)));
        assert_eq!(after("soon"), None);
    }

    #[test]
    fn repeats_what_a_registry_says_on_one_line() {
        let bytes = br#"{"errors":[{"code":"DENIED","message":"no\u001b[31m\nway"}]}"#;
        assert_eq!(said(bytes).as_deref(), Some("no [31m way"));
        assert_eq!(said(br#"{"errors":[{"code":"DENIED"}]}"#).as_deref(), Some("DENIED"));
        assert_eq!(said(br#"{"details":"incorrect username"}"#).as_deref(), Some("incorrect username"));
        assert_eq!(said(b"<html>"), None);
    }
}
