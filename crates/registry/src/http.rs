use transport::header::{HeaderMap, HeaderName, HeaderValue};
use transport::{Method, Redirects, Request, Response, Transport, Url};

use crate::config::Config;
use crate::failure::Failure;

/// Sends requests, and knows how the client is configured.
pub(crate) struct Http {
    pub(crate) config: Config,
    pub(crate) transport: Transport,
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

impl Http {
    pub(crate) fn new(config: Config) -> Http {
        let transport = Transport::new(config.transport.clone());
        Http { config, transport }
    }

    /// Sends a GET and follows redirects.
    pub(crate) async fn get(&self, get: Get) -> Result<Response, Failure> {
        let Get { url, authorization, headers, verified } = get;
        let redirects = if verified { Redirects::Any } else { Redirects::Encrypted };
        Ok(self.transport.send(Request { authorization, headers, redirects, ..Request::get(url) }).await?)
    }

    /// Sends a form. Redirects are not followed: it holds secrets.
    pub(crate) async fn post_form(&self, url: &Url, fields: &[(&str, &str)]) -> Result<Response, Failure> {
        let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        let request = Request {
            method: Method::POST,
            headers: HeaderMap::from_iter([(HeaderName::from_static("content-type"), kind)]),
            body: Some(bytes::Bytes::from(form).into()),
            redirects: Redirects::Never,
            ..Request::get(url.clone())
        };
        Ok(self.transport.send(request).await?)
    }
}
