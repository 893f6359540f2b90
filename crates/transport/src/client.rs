use std::collections::HashMap;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, NoProxy, Proxy, StatusCode, redirect};
use tokio::sync::Mutex;
use tokio::time::timeout;
use url::Url;

use crate::body::{Body, Sent};
use crate::config::{Config, authorities, is_loopback};
use crate::error::Error;
use crate::tls::{self, HostCertificates, SystemRoots};

const MAX_REDIRECTS: usize = 10;
/// How often it is told how much was sent.
const TELL: Duration = Duration::from_millis(100);

/// Sends requests: one HTTP client a server, since trust and proxies differ; each is built when it is first needed.
/// Clones share connections.
#[derive(Clone)]
pub struct Transport(Arc<Shared>);

struct Shared {
    config: Config,
    roots: OnceLock<SystemRoots>,
    /// By server, and by whether something is sent to it.
    clients: Mutex<HashMap<(String, bool), reqwest::Client>>,
}

/// What is asked of a server.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET` in most cases.
    pub method: Method,
    /// `http` or `https`.
    pub url: Url,
    /// Sent to the server of `url` only, never to one that it redirects to.
    pub authorization: Option<HeaderValue>,
    /// All others.
    pub headers: HeaderMap,
    /// What is sent.
    pub body: Option<Body>,
    /// Which ones are followed.
    pub redirects: Redirects,
}

impl Request {
    /// A `GET` without headers that follows redirects as long as they are encrypted.
    pub fn get(url: Url) -> Request {
        Request {
            method: Method::GET,
            url,
            authorization: None,
            headers: HeaderMap::new(),
            body: None,
            redirects: Redirects::Encrypted,
        }
    }
}

/// Which redirects are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redirects {
    /// None: the redirect is the answer.
    Never,
    /// Not from HTTPS to HTTP, where the answer could be forged.
    Encrypted,
    /// Also from HTTPS to HTTP.
    Any,
}

/// An answer whose body is still to come.
#[derive(Debug)]
pub struct Response {
    inner: reqwest::Response,
    direct: bool,
    transport: Transport,
}

impl Response {
    /// The status.
    pub fn status(&self) -> StatusCode {
        self.inner.status()
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    /// Where it came from, after redirects.
    pub fn url(&self) -> &Url {
        self.inner.url()
    }

    /// How many bytes the body has, where the server says so.
    pub fn content_length(&self) -> Option<u64> {
        self.inner.content_length()
    }

    /// Whether the server that was asked gave it, not one that it redirected to.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// The next piece of the body as it was sent, without undoing a `Content-Encoding`; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let config = &self.transport.0.config;
        let url = self.inner.url().clone();
        self.inner.chunk().await.map_err(|error| Error::of_request(&url, config, &error))
    }

    /// The whole body, at most `limit` bytes; a longer one is refused.
    pub async fn read(mut self, limit: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if bytes.len() + chunk.len() > limit {
                return Err(Error::invalid(self.url(), format!("sends more than {limit} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

impl Transport {
    /// Costs nothing: certificates and connections wait for the first request.
    pub fn new(config: Config) -> Transport {
        Transport(Arc::new(Shared { config, roots: OnceLock::new(), clients: Mutex::default() }))
    }

    /// What it was made with.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Sends a request once and follows redirects. Answers of any status are answers.
    pub async fn send(&self, request: Request) -> Result<Response, Error> {
        self.send_telling(request, &|_| {}).await
    }

    /// Like [`Transport::send`], and tells how many bytes of the body are on their way, ten times a second.
    pub async fn send_telling(
        &self,
        request: Request,
        told: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Response, Error> {
        let origin = request.url.clone();
        let Request { mut method, mut url, authorization, headers, mut body, redirects } = request;
        let mut direct = true;
        for _ in 0..=MAX_REDIRECTS {
            let client = self.client(&url, body.is_some()).await?;
            let mut sent = client.request(method.clone(), url.clone()).headers(headers.clone());
            // Once elsewhere, a redirect back gets no credentials either.
            if let Some(authorization) = authorization.as_ref().filter(|_| direct) {
                sent = sent.header(AUTHORIZATION, authorization.clone());
            }
            let inner = match &body {
                None => sent.send().await.map_err(|error| Error::of_request(&url, &self.0.config, &error))?,
                Some(body) => self.upload(&url, sent, body, told).await?,
            };
            let Some(next) = redirect_of(&inner, redirects)? else {
                return Ok(Response { inner, direct, transport: self.clone() });
            };
            let keeps_method =
                matches!(inner.status(), StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
            if !keeps_method && method != Method::HEAD {
                (method, body) = (Method::GET, None);
            }
            // A name and a password in the address itself take the place of ours.
            direct &= is_same_server(&origin, &next) && next.username().is_empty();
            url = next;
        }
        Err(Error::invalid(&origin, format!("redirects more than {MAX_REDIRECTS} times")))
    }

    /// Waits for the answer as long as something goes out.
    async fn upload(
        &self,
        url: &Url,
        request: reqwest::RequestBuilder,
        body: &Body,
        told: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<reqwest::Response, Error> {
        let sent = Sent::default();
        let request = match body.length() {
            Some(length) => request.header(CONTENT_LENGTH, length),
            None => request,
        };
        let request = request.body(body.open(&sent));
        let answer = request.send();
        tokio::pin!(answer);
        let (mut before, mut since) = (0, Instant::now());
        loop {
            if let Ok(answer) = timeout(TELL, &mut answer).await {
                return answer.map_err(|error| match sent.failure() {
                    Some(failure) => Error::io("read what is to be sent", failure),
                    None => Error::of_request(url, &self.0.config, &error),
                });
            }
            let bytes = sent.bytes();
            if bytes != before {
                (before, since) = (bytes, Instant::now());
                told(bytes);
            } else if since.elapsed() >= self.0.config.idle_timeout {
                return Err(Error::silent(url));
            }
        }
    }

    async fn client(&self, url: &Url, sends: bool) -> Result<reqwest::Client, Error> {
        let Some(server) = authorities(url).pop() else {
            return Err(Error::Config(format!("`{}` is not the address of a server", url.scheme())));
        };
        let key = (server, sends);
        let mut clients = self.0.clients.lock().await;
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let (shared, url) = (Arc::clone(&self.0), url.clone());
        let built = tokio::task::spawn_blocking(move || shared.build(&url, sends)).await;
        let client = built.map_err(|error| Error::io("start an HTTP client", io::Error::other(error)))??;
        clients.insert(key, client.clone());
        Ok(client)
    }
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

impl Shared {
    /// Reads certificate files, so it may block.
    fn build(&self, url: &Url, sends: bool) -> Result<reqwest::Client, Error> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::io("start an HTTP client", io::Error::other(error))
        };
        let config = &self.config;
        let verify = !config.is_insecure(url);
        let roots = verify.then(|| self.roots.get_or_init(SystemRoots::load));
        let certificates = HostCertificates::read(&config.certificates, &authorities(url))?;
        let tls = tls::client_config(roots, certificates).map_err(|error| failed(error.into()))?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(redirect::Policy::none())
            .referer(false)
            .user_agent(config.user_agent.as_str())
            .connect_timeout(config.connect_timeout)
            .http2_adaptive_window(true)
            .no_proxy();
        // It runs from the moment of asking, so that it would end what takes long to send.
        if !sends {
            builder = builder.read_timeout(config.idle_timeout);
        }
        if let Some(socket) = &config.unix_socket {
            builder = builder.unix_socket(socket.as_path());
        } else if !is_loopback(url) {
            for proxy in self.proxies()? {
                builder = builder.proxy(proxy);
            }
        }
        builder.build().map_err(|error| failed(error.into()))
    }

    fn proxies(&self) -> Result<Vec<Proxy>, Error> {
        let proxies = &self.config.proxies;
        let mut made = Vec::new();
        for (address, make) in [
            (&proxies.http, Proxy::http::<Url> as fn(Url) -> reqwest::Result<Proxy>),
            (&proxies.https, Proxy::https::<Url>),
        ] {
            let Some(address) = address else { continue };
            let proxy = proxy_url(address)
                .and_then(|url| make(url).ok())
                // The address may hold a password, so it is not repeated.
                .ok_or_else(|| {
                    let form = "http[s]://[user:password@]host[:port]";
                    Error::Config(format!("the address of the proxy is not {form}"))
                })?;
            made.push(proxy.no_proxy(NoProxy::from_string(&proxies.except)));
        }
        Ok(made)
    }
}

fn proxy_url(address: &str) -> Option<Url> {
    let url =
        if address.contains("://") { Url::parse(address) } else { Url::parse(&format!("http://{address}")) };
    url.ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// Where a redirect leads; `None` when the answer is none, or none is followed.
fn redirect_of(response: &reqwest::Response, redirects: Redirects) -> Result<Option<Url>, Error> {
    let is_redirect = matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    if !is_redirect || redirects == Redirects::Never {
        return Ok(None);
    }
    let location =
        response.headers().get(LOCATION).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
    let next = location.and_then(|location| response.url().join(location).ok());
    let Some(next) = next.filter(|url| matches!(url.scheme(), "http" | "https")) else {
        return Err(Error::invalid(response.url(), "redirects to an address that is not HTTP"));
    };
    if next.scheme() == "http" && response.url().scheme() == "https" && redirects == Redirects::Encrypted {
        let what = "redirects from HTTPS to HTTP, where the answer could be forged";
        return Err(Error::invalid(response.url(), what));
    }
    Ok(Some(next))
}

/// Same scheme, host and port, or the encrypted port of the same host instead of the plain one.
fn is_same_server(asked: &Url, next: &Url) -> bool {
    let upgraded = asked.scheme() == "http"
        && next.scheme() == "https"
        && asked.host_str() == next.host_str()
        && (asked.port(), next.port()) == (None, None);
    let (asked, next) = (asked.origin(), next.origin());
    // An opaque origin equals nothing.
    upgraded || (asked.is_tuple() && asked == next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Proxies;

    #[test]
    fn reads_proxy_addresses() {
        assert_eq!(proxy_url("p.example:3128").unwrap().as_str(), "http://p.example:3128/");
        assert_eq!(proxy_url("https://u:p@p.example").unwrap().host_str(), Some("p.example"));
        assert_eq!(proxy_url("socks5://p.example"), None);
        assert_eq!(proxy_url(""), None);
    }

    #[test]
    fn an_unknown_proxy_is_refused_without_its_password() {
        let https = Some("socks5://u:secret@p.example".to_owned());
        let config = Config { proxies: Proxies { https, ..Proxies::default() }, ..Config::default() };
        let transport = Transport::new(config);
        let error =
            transport.0.build(&Url::parse("https://r.example/").unwrap(), false).unwrap_err().to_string();
        assert!(error.contains("proxy") && !error.contains("secret"));
        // Loopback never goes through it.
        transport.0.build(&Url::parse("https://127.0.0.1:1/").unwrap(), true).unwrap();
    }

    #[test]
    fn credentials_stay_with_their_server() {
        let same = |a: &str, b: &str| is_same_server(&Url::parse(a).unwrap(), &Url::parse(b).unwrap());
        assert!(same("https://a.example/x", "https://a.example:443/y"));
        assert!(same("http://a.example/x", "https://a.example/x"));
        assert!(!same("https://a.example/x", "http://a.example/x"));
        assert!(!same("http://a.example:81/x", "https://a.example/x"));
        assert!(!same("https://a.example/x", "https://b.a.example/x"));
        assert!(!same("https://a.example/x", "https://a.example:444/x"));
    }
}
