use std::collections::HashMap;
use std::io;
use std::sync::{Arc, OnceLock};

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, NoProxy, Proxy, Response, StatusCode, redirect};
use tokio::sync::Mutex;
use url::{Origin, Url};

use crate::config::{Config, authorities, is_loopback};
use crate::failure::Failure;
use crate::tls::{self, HostCertificates, SystemRoots};

const MAX_REDIRECTS: usize = 10;

/// Sends requests: one HTTP client a server, since trust and proxies differ; each is built when it is first needed.
pub(crate) struct Http {
    pub(crate) config: Config,
    roots: OnceLock<SystemRoots>,
    clients: Mutex<HashMap<String, reqwest::Client>>,
}

/// One request without a body.
pub(crate) struct Get {
    pub(crate) url: Url,
    /// Sent to the server of `url` only, never to one that it redirects to.
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) headers: HeaderMap,
    /// The answer is checked against a digest, so that a redirect from HTTPS to HTTP does no harm.
    pub(crate) verified: bool,
}

/// An answer, and whether the server that was asked gave it (or one that it redirected to).
pub(crate) struct Answer {
    pub(crate) response: Response,
    pub(crate) direct: bool,
}

impl Http {
    pub(crate) fn new(config: Config) -> Http {
        Http { config, roots: OnceLock::new(), clients: Mutex::new(HashMap::new()) }
    }

    /// Sends a GET and follows redirects.
    pub(crate) async fn get(self: &Arc<Self>, get: Get) -> Result<Answer, Failure> {
        let origin = get.url.origin();
        let mut url = get.url;
        let mut direct = true;
        for _ in 0..=MAX_REDIRECTS {
            let mut request =
                self.client(&url).await?.request(Method::GET, url.clone()).headers(get.headers.clone());
            // Once elsewhere, a redirect back gets no credentials either.
            if let Some(authorization) = get.authorization.as_ref().filter(|_| direct) {
                request = request.header(AUTHORIZATION, authorization.clone());
            }
            let response = request.send().await.map_err(|error| Failure::of_request(&url, &error))?;
            let Some(next) = redirect_of(&response, get.verified)? else {
                return Ok(Answer { response, direct });
            };
            direct &= same(&next.origin(), &origin);
            url = next;
        }
        Err(Failure::invalid(format!("the registry redirects more than {MAX_REDIRECTS} times")))
    }

    /// Sends a form. Redirects are not followed: it holds secrets.
    pub(crate) async fn post_form(
        self: &Arc<Self>,
        url: &Url,
        fields: &[(&str, &str)],
    ) -> Result<Response, Failure> {
        let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = self.client(url).await?.post(url.clone());
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
        request.send().await.map_err(|error| Failure::of_request(url, &error))
    }

    async fn client(self: &Arc<Self>, url: &Url) -> Result<reqwest::Client, Failure> {
        let Some(key) = authorities(url).pop() else {
            return Err(Failure::invalid("the registry redirects to an address without a host"));
        };
        let mut clients = self.clients.lock().await;
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let (this, url) = (Arc::clone(self), url.clone());
        let built = tokio::task::spawn_blocking(move || this.build(&url)).await;
        let client =
            built.map_err(|error| Failure::io("start an HTTP client", io::Error::other(error)))??;
        clients.insert(key, client.clone());
        Ok(client)
    }

    /// Reads certificate files, so it may block.
    fn build(&self, url: &Url) -> Result<reqwest::Client, Failure> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            Failure::io("start an HTTP client", io::Error::other(error))
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
            .read_timeout(config.idle_timeout)
            .http2_adaptive_window(true)
            .no_proxy();
        if !is_loopback(url) {
            for proxy in self.proxies()? {
                builder = builder.proxy(proxy);
            }
        }
        builder.build().map_err(|error| failed(error.into()))
    }

    fn proxies(&self) -> Result<Vec<Proxy>, Failure> {
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
                    Failure::invalid("the address of the proxy is not http[s]://[user:password@]host[:port]")
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

/// Where a redirect leads; `None` when the answer is none.
fn redirect_of(response: &Response, verified: bool) -> Result<Option<Url>, Failure> {
    if !matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    ) {
        return Ok(None);
    }
    let location =
        response.headers().get(LOCATION).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
    let next = location.and_then(|location| response.url().join(location).ok());
    let Some(next) = next.filter(|url| matches!(url.scheme(), "http" | "https")) else {
        return Err(Failure::invalid("the registry redirects to an address that is not HTTP"));
    };
    if next.scheme() == "http" && response.url().scheme() == "https" && !verified {
        return Err(Failure::invalid(
            "the registry redirects from HTTPS to HTTP, where the answer could be forged",
        ));
    }
    Ok(Some(next))
}

/// Same scheme, host and port; an opaque origin equals nothing.
fn same(a: &Origin, b: &Origin) -> bool {
    a.is_tuple() && a == b
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
        let http =
            Http::new(Config { proxies: Proxies { https, ..Proxies::default() }, ..Config::default() });
        let failure = http.build(&Url::parse("https://r.example/").unwrap()).unwrap_err();
        assert!(failure.message.contains("proxy") && !failure.message.contains("secret"));
        // Loopback never goes through it.
        http.build(&Url::parse("https://127.0.0.1:1/").unwrap()).unwrap();
    }
}
