use std::io;

use image::ResolveError;
use serde::Deserialize;
use transport::{Again, Response, StatusCode, retry_after};

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
    /// Denied for want of a login that is let in. Registries say so as well of what is not there.
    Login,
    /// No connection came about, so nothing was sent: another scheme may be tried.
    NoConnection,
    Unreachable,
    Invalid,
    Io(io::Error),
}

impl Failure {
    /// Whether somebody has answered, so that another question may have another answer.
    pub(crate) fn is_answer(&self) -> bool {
        !matches!(self.kind, Kind::NoConnection | Kind::Unreachable | Kind::Io(_))
    }

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

    /// An answer that is no success. Reads what the registry says about it.
    pub(crate) async fn of_answer(response: Response) -> Failure {
        let (status, url) = (response.status(), response.url().clone());
        let after = retry_after(response.headers());
        let said = response.read(MAX_ERROR_BODY).await.ok().and_then(|bytes| said(&bytes));
        let host = transport::authorities(&url).into_iter().next().unwrap_or_default();
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
            _ if transport::may_pass(status) => Failure {
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
            Kind::Login => ResolveError::Denied { name, message: format!("not found, or {message}") },
            Kind::NoConnection | Kind::Unreachable => ResolveError::Unreachable { name, message },
            Kind::Invalid => ResolveError::Invalid { name, message },
            Kind::Io(source) => ResolveError::Io { action: message, source },
        }
    }
}

impl From<transport::Error> for Failure {
    fn from(error: transport::Error) -> Failure {
        use transport::Error;
        let again = error.again();
        let (kind, message) = match error {
            Error::NoConnection { host, reason, .. } => {
                (Kind::NoConnection, format!("cannot reach registry {host}: {reason}"))
            }
            Error::Broken { host, reason, .. } => {
                (Kind::Unreachable, format!("the connection to registry {host} broke: {reason}"))
            }
            Error::Invalid { host, what } => (Kind::Invalid, format!("registry {host} {what}")),
            Error::Config(message) => (Kind::Invalid, message),
            Error::Io { action, source } => (Kind::Io(source), action),
        };
        Failure { kind, message, again }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_what_a_registry_says_on_one_line() {
        let bytes = br#"{"errors":[{"code":"DENIED","message":"no\u001b[31m\nway"}]}"#;
        assert_eq!(said(bytes).as_deref(), Some("no [31m way"));
        assert_eq!(said(br#"{"errors":[{"code":"DENIED"}]}"#).as_deref(), Some("DENIED"));
        assert_eq!(said(br#"{"details":"incorrect username"}"#).as_deref(), Some("incorrect username"));
        assert_eq!(said(b"<html>"), None);
    }
}
