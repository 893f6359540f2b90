use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Semaphore;

use transport::header::{ACCEPT, HeaderMap, HeaderValue, RANGE};
use transport::{Body, Method, Redirects, Request, Response, StatusCode, Url};

use crate::auth::{Authenticator, Scope};
use crate::challenge;
use crate::failure::{Failure, Kind};
use crate::http::Http;

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

/// One request.
pub(crate) struct Call<'a> {
    pub(crate) scope: &'a Scope,
    pub(crate) method: Method,
    pub(crate) target: Target,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Option<Body>,
    /// What comes is checked against a digest.
    pub(crate) verified: bool,
}

/// Where a request goes.
pub(crate) enum Target {
    /// Below `/v2/`.
    Path(String),
    /// What the registry gave as `Location`; on another server, we are nobody.
    Url(Url),
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
        let mut headers = HeaderMap::new();
        if let Some(accept) = question.accept {
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
        }
        if question.offset > 0
            && let Ok(range) = HeaderValue::try_from(format!("bytes={}-", question.offset))
        {
            headers.insert(RANGE, range);
        }
        let call = Call {
            scope: question.scope,
            method: Method::GET,
            target: Target::Path(question.path.clone()),
            headers,
            body: None,
            verified: question.verified,
        };
        let response = self.call(&call, &|_| {}).await?;
        if response.status().is_success() { Ok(response) } else { Err(self.failure(response).await) }
    }

    /// Calls once, logging in where needed. Gives answers of any status. `told`: how much of a body is on its way.
    pub(crate) async fn call(
        &self,
        call: &Call<'_>,
        told: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Response, Failure> {
        let path = match &call.target {
            Target::Path(path) => path,
            Target::Url(url) => {
                let bases = [Some(&self.secure), self.plain.as_ref()];
                let is_ours = bases.into_iter().flatten().any(|base| base.origin() == url.origin());
                return self.call_at(url, is_ours, call, told).await;
            }
        };
        let join = |base: &Url| base.join(path).map_err(|error| Failure::invalid(error.to_string()));
        let Some(plain) = &self.plain else {
            return self.call_at(&join(&self.secure)?, true, call, told).await;
        };
        if !self.is_plain.load(Ordering::Relaxed) {
            match self.call_at(&join(&self.secure)?, true, call, told).await {
                Err(Failure { kind: Kind::NoConnection, .. }) => {}
                other => return other,
            }
        }
        let answer = self.call_at(&join(plain)?, true, call, told).await;
        let connected = !matches!(answer, Err(Failure { kind: Kind::NoConnection, .. }));
        self.is_plain.fetch_or(connected, Ordering::Relaxed);
        answer
    }

    /// `is_ours`: it is the registry itself, which may see who we are.
    async fn call_at(
        &self,
        url: &Url,
        is_ours: bool,
        call: &Call<'_>,
        told: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Response, Failure> {
        let used = self.authenticator.header(call.scope).filter(|_| is_ours);
        let response = self.send(url, call, used.clone(), told).await?;
        if !(is_ours && response.is_direct() && response.status() == StatusCode::UNAUTHORIZED) {
            return Ok(response);
        }
        let challenge = challenge::choose(response.headers());
        self.authenticator.answer(&self.http, call.scope, url, challenge, used.as_ref()).await?;
        self.send(url, call, self.authenticator.header(call.scope), told).await
    }

    async fn send(
        &self,
        url: &Url,
        call: &Call<'_>,
        authorization: Option<HeaderValue>,
        told: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Response, Failure> {
        let request = Request {
            method: call.method.clone(),
            url: url.clone(),
            authorization,
            headers: call.headers.clone(),
            body: call.body.clone(),
            redirects: if call.verified { Redirects::Any } else { Redirects::Encrypted },
        };
        Ok(self.http.transport.send_telling(request, told).await?)
    }

    /// What an answer that is no success means.
    pub(crate) async fn failure(&self, response: Response) -> Failure {
        let direct = response.is_direct();
        let failure = Failure::of_answer(response).await;
        if direct && matches!(failure.kind, Kind::Denied) {
            return self.authenticator.refused(&self.http.config, Some(failure)).await;
        }
        failure
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
