use std::error::Error as StdError;
use std::io;

use url::Url;

use crate::config::{Config, authorities};
use crate::retry::Again;

/// Why a request got no answer, or why its answer broke off.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection came about, so nothing was sent.
    #[error("cannot reach {host}: {reason}")]
    NoConnection {
        /// `host`, with a port that is not the scheme's own.
        host: String,
        /// In a few words.
        reason: String,
        /// Whether it may pass.
        again: Again,
    },
    /// The connection ended before the answer did.
    #[error("the connection to {host} broke: {reason}")]
    Broken {
        /// `host`, with a port that is not the scheme's own.
        host: String,
        /// In a few words.
        reason: String,
        /// Whether it may pass.
        again: Again,
    },
    /// The server answers what cannot be followed or is too long.
    #[error("{host} {what}")]
    Invalid {
        /// `host`, with a port that is not the scheme's own.
        host: String,
        /// What it does: `redirects …`.
        what: String,
    },
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(String),
    /// This machine fails.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried: `read PATH`.
        action: String,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    /// Whether the same request may succeed later.
    pub fn again(&self) -> Again {
        match self {
            Error::NoConnection { again, .. } | Error::Broken { again, .. } => *again,
            Error::Invalid { .. } | Error::Config(_) | Error::Io { .. } => Again::Never,
        }
    }

    pub(crate) fn io(action: impl Into<String>, source: io::Error) -> Error {
        Error::Io { action: action.into(), source }
    }

    pub(crate) fn invalid(url: &Url, what: impl Into<String>) -> Error {
        Error::Invalid { host: host(url), what: what.into() }
    }

    /// A server that neither takes nor gives anything.
    pub(crate) fn silent(url: &Url) -> Error {
        Error::Broken { host: host(url), reason: "no answer in time".to_owned(), again: Again::Later }
    }

    /// A request to `url` that got no answer, or whose answer broke off.
    pub(crate) fn of_request(url: &Url, config: &Config, error: &reqwest::Error) -> Error {
        let host = host(url);
        let cause = Cause::of(error);
        let passes = cause.passes() && !(error.is_connect() && error.is_timeout());
        let again = if passes { Again::Later } else { Again::Never };
        let reason = cause.words(error, &host, config);
        if error.is_connect() {
            Error::NoConnection { host, reason, again }
        } else {
            Error::Broken { host, reason, again }
        }
    }
}

/// The shorter name of a server, for messages.
fn host(url: &Url) -> String {
    authorities(url).into_iter().next().unwrap_or_default()
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
        let mut next: Option<&(dyn StdError + 'static)> = error.source();
        while let Some(error) = next {
            cause.last = error.to_string();
            cause.tls = cause.tls.or(error.downcast_ref());
            next = match error.downcast_ref::<io::Error>() {
                // `source` of an I/O error skips the error that it wraps.
                Some(io) => {
                    cause.io = Some(io);
                    io.get_ref().map(|inner| inner as &(dyn StdError + 'static))
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

    fn words(&self, error: &reqwest::Error, host: &str, config: &Config) -> String {
        use rustls::{CertificateError, Error as Tls};
        if error.is_timeout() {
            return "no answer in time".to_owned();
        }
        match self.tls {
            Some(Tls::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                let known = "its certificate is signed by an authority that this machine does not know";
                return match config.certificates.first() {
                    Some(directory) => {
                        let file = directory.join(host).join("ca.crt");
                        format!("{known} (one more can be put into {})", file.display())
                    }
                    None => known.to_owned(),
                };
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
