use std::io::{self, Read};

use serde::Deserialize;
use transport::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use transport::{Body, Method, Redirects, Request};

use crate::connection::connection;
use crate::{DaemonError, Endpoint};

/// What a daemon may say, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// Sends an archive (as `docker save` writes it) to the daemon, which unpacks it while it comes. `open` gives the archive; it may be called again
/// when it has to be sent again. `told`: how many bytes are on their way. Returns what the daemon says about it.
pub async fn load(
    endpoint: &Endpoint,
    open: impl Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync + 'static,
    told: &(dyn Fn(u64) + Send + Sync),
) -> Result<String, DaemonError> {
    let unreachable = |reason: String| DaemonError::Unreachable { endpoint: endpoint.to_string(), reason };
    let (transport, base) = connection(endpoint)?;
    let url = base.join("images/load?quiet=1").map_err(|error| unreachable(error.to_string()))?;
    let request = Request {
        method: Method::POST,
        headers: HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/x-tar"))]),
        body: Some(Body::stream(open)),
        redirects: Redirects::Never,
        ..Request::get(url)
    };
    let sent = transport.send_telling(request, told).await;
    let answer = sent.map_err(|error| unreachable(error.to_string()))?;
    let status = answer.status();
    let bytes = answer.read(MAX_ANSWER).await.map_err(|error| unreachable(error.to_string()))?;
    let refused = |reason: String| DaemonError::Refused { endpoint: endpoint.to_string(), reason };
    if !status.is_success() {
        #[derive(Deserialize)]
        struct Said {
            message: String,
        }
        let said = serde_json::from_slice::<Said>(&bytes).ok().map(|said| said.message);
        return Err(refused(said.unwrap_or_else(|| format!("it answers {status}"))));
    }
    said(&bytes).map_err(refused)
}

/// A stream of JSON objects, of which one that has `error` means that all was in vain although the status said otherwise.
fn said(bytes: &[u8]) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Line {
        stream: Option<String>,
        error: Option<String>,
    }
    let mut text = String::new();
    for line in serde_json::Deserializer::from_slice(bytes).into_iter::<Line>() {
        let Ok(line) = line else { break };
        if let Some(error) = line.error {
            return Err(error);
        }
        text.push_str(&line.stream.unwrap_or_default());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_come_with_a_good_status() {
        let good = br#"{"stream":"Loaded image: a:1\n"}
            {"stream":"Loaded image: b:1\n"}"#;
        assert_eq!(said(good).unwrap(), "Loaded image: a:1\nLoaded image: b:1\n");
        let bad = br#"{"stream":"x"}{"errorDetail":{"message":"no space"},"error":"no space"}"#;
        assert_eq!(said(bad).unwrap_err(), "no space");
        assert_eq!(said(b"").unwrap(), "");
        // Whatever came instead is no reason to end.
        for at in 0..bad.len() {
            let _ = said(&bad[at..]);
            let _ = said(&bad[..at]);
            for byte in [0, b'"', b'{', b'[', b'\\', 0xff] {
                let mut damaged = bad.to_vec();
                damaged[at] = byte;
                let _ = said(&damaged);
            }
        }
    }
}
