use std::time::Duration;

use transport::{Config, Transport, Url};

use crate::{DaemonError, Endpoint};

/// A client for a daemon, and what its paths are relative to.
pub(crate) fn connection(endpoint: &Endpoint) -> Result<(Transport, Url), DaemonError> {
    // A daemon that unpacks a large layer says nothing for long.
    let config = Config { idle_timeout: Duration::from_secs(600), ..Config::default() };
    let (config, base) = match endpoint {
        Endpoint::Unix(path) => {
            // The name of the host is of no consequence; Docker's command line says this one.
            let base = Url::parse("http://localhost/").map_err(|error| DaemonError::Unreachable {
                endpoint: endpoint.to_string(),
                reason: error.to_string(),
            })?;
            (Config { unix_socket: Some(path.clone()), ..config }, base)
        }
        Endpoint::Tcp(url) => (config, url.clone()),
    };
    Ok((Transport::new(config), base))
}
