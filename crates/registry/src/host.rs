use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Semaphore;
use transport::Url;
use transport::header::{ACCEPT, HeaderMap, HeaderValue, RANGE};
use transport::{Response, StatusCode};

use crate::auth::{Authenticator, Scope};
use crate::challenge;
use crate::failure::{Failure, Kind};
use crate::http::{Get, Http};

/// One registry: where it is, how it lets us in, how much is asked of it at once.
pub(crate) struct Host {
    /// One permit a blob in transfer.
    pub(crate) transfers: Semaphore,
    secure: Url,
    /// Only for insecure registries: what is tried when no TLS connection comes about.
    plain: Option<Url>,
    /// Set once the plain address answered.
    is_plain: AtomicBool,
    authenticator: Authenticator,
    http: Arc<Http>,
}

/// A path below `/v2/` and how it is asked for.
pub(crate) struct Question<'a> {
    pub(crate) scope: &'a Scope,
    /// `NAME/manifests/REFERENCE`, `NAME/blobs/DIGEST`.
    pub(crate) path: String,
    /// Media types.
    pub(crate) accept: Option<&'static str>,
    /// The first byte wanted.
    pub(crate) offset: u64,
    /// The path holds the digest of what comes.
    pub(crate) verified: bool,
}

impl Host {
    /// The registry of a name; `docker.io` stands for the host that serves it.
    pub(crate) fn new(name: &str, http: Arc<Http>) -> Result<Host, Failure> {
        let authority = if name == "docker.io" { "registry-1.docker.io" } else { name };
        let secure = address("https", authority)?;
        let plain =
            if http.config.transport.is_insecure(&secure) { Some(address("http", authority)?) } else { None };
        Ok(Host {
            transfers: Semaphore::new(http.config.parallel.max(1)),
            secure,
            plain,
            is_plain: AtomicBool::new(false),
            authenticator: Authenticator::new(name),
            http,
        })
    }

    /// Asks once, logging in where needed. Gives successful answers only.
    pub(crate) async fn ask(&self, question: &Question<'_>) -> Result<Response, Failure> {
        let Some(plain) = &self.plain else { return self.ask_at(&self.secure, question).await };
        if !self.is_plain.load(Ordering::Relaxed) {
            match self.ask_at(&self.secure, question).await {
                Err(Failure { kind: Kind::NoConnection, .. }) => {}
                other => return other,
            }
        }
        let answer = self.ask_at(plain, question).await;
        let connected = !matches!(answer, Err(Failure { kind: Kind::NoConnection, .. }));
        self.is_plain.fetch_or(connected, Ordering::Relaxed);
        answer
    }

    async fn ask_at(&self, base: &Url, question: &Question<'_>) -> Result<Response, Failure> {
        let url = base.join(&question.path).map_err(|error| Failure::invalid(error.to_string()))?;
        let used = self.authenticator.header(question.scope);
        let mut response = self.send(&url, question, used.clone()).await?;
        if response.is_direct() && response.status() == StatusCode::UNAUTHORIZED {
            let challenge = challenge::choose(response.headers());
            self.authenticator.answer(&self.http, question.scope, &url, challenge, used.as_ref()).await?;
            let header = self.authenticator.header(question.scope);
            response = self.send(&url, question, header).await?;
        }
        let direct = response.is_direct();
        if response.status().is_success() {
            return Ok(response);
        }
        let failure = Failure::of_answer(response).await;
        if direct && matches!(failure.kind, Kind::Denied) {
            return Err(self.authenticator.refused(&self.http.config, Some(failure)).await);
        }
        Err(failure)
    }

    async fn send(
        &self,
        url: &Url,
        question: &Question<'_>,
        authorization: Option<HeaderValue>,
    ) -> Result<Response, Failure> {
        let mut headers = HeaderMap::new();
        if let Some(accept) = question.accept {
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
        }
        if question.offset > 0
            && let Ok(range) = HeaderValue::try_from(format!("bytes={}-", question.offset))
        {
            headers.insert(RANGE, range);
        }
        self.http.get(Get { url: url.clone(), authorization, headers, verified: question.verified }).await
    }
}

/// `SCHEME://AUTHORITY/v2/`, if that is what a URL parser makes of it.
fn address(scheme: &str, authority: &str) -> Result<Url, Failure> {
    let text = format!("{scheme}://{authority}/v2/");
    let url = Url::parse(&text).ok().filter(|url| {
        url.has_host() && url.username().is_empty() && url.password().is_none() && url.path() == "/v2/"
    });
    url.ok_or_else(|| Failure::invalid(format!("`{authority}` is not the name of a registry")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn host(name: &str) -> Result<Host, Failure> {
        Host::new(name, Arc::new(Http::new(Config::default())))
    }

    #[test]
    fn knows_where_registries_are() {
        let hub = host("docker.io").unwrap();
        assert_eq!((hub.secure.as_str(), hub.plain), ("https://registry-1.docker.io/v2/", None));
        let local = host("localhost:5000").unwrap();
        assert_eq!(local.secure.as_str(), "https://localhost:5000/v2/");
        assert_eq!(local.plain.unwrap().as_str(), "http://localhost:5000/v2/");
    }

    #[test]
    fn refuses_names_that_lead_elsewhere() {
        for name in ["u@h.example", "u:p@h.example", "h.example?x", "h.example#", "h.example:port", "a b", ""]
        {
            assert!(host(name).is_err(), "{name}");
        }
    }
}
