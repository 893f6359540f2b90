use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use transport::{Proxies, Retry};

/// How registries are talked to. [`Config::default`] is a machine without proxies and credentials; loopback is insecure, as
/// Docker has it.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who the user is, for registries that ask.
    pub credentials: Credentials,
    /// Trust, proxies and time-outs. Of the insecure servers, one may also speak plain HTTP when it does not speak TLS.
    pub transport: transport::Config,
    /// Other registries, `host` or `host:port`, that are asked for images of one, in this order, before it is asked itself. Each
    /// has its own credentials and its own trust. Nothing is pushed to them.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// What happens after failures that may pass.
    pub retry: Retry,
    /// Blobs transferred at once from one registry.
    pub parallel: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            credentials: Credentials::Anonymous,
            transport: transport::Config {
                loopback_is_insecure: true,
                certificates: vec![PathBuf::from("/etc/docker/certs.d")],
                ..transport::Config::default()
            },
            mirrors: BTreeMap::new(),
            retry: Retry::default(),
            parallel: 6,
        }
    }
}

impl Config {
    /// The default with what the environment says: `DOCKER_CONFIG` or `HOME` for the credentials,
    /// the proxies as [`Proxies::from_env`] has them.
    ///
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` are read later, together with the system's authorities, which they replace.
    pub fn from_env(variable: impl Fn(&str) -> Option<OsString>) -> Config {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let directory = set("DOCKER_CONFIG")
            .or_else(|| Some(PathBuf::from(set("HOME")?).join(".docker").into_os_string()));
        let default = Config::default();
        Config {
            credentials: match directory {
                Some(directory) => Credentials::DockerConfig(PathBuf::from(directory).join("config.json")),
                None => Credentials::Anonymous,
            },
            transport: transport::Config { proxies: Proxies::from_env(&variable), ..default.transport },
            ..default
        }
    }
}

/// Where user names and passwords come from. They are read when a registry asks, not before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// None are ever sent.
    Anonymous,
    /// Docker's `config.json`: `auths`, `credHelpers`, `credsStore`. A missing file is an empty one.
    DockerConfig(PathBuf),
    /// These, for every registry that asks.
    Given {
        /// The user's name.
        user: String,
        /// The password, or a token in its place.
        password: Password,
    },
}

/// A password, which is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> Config {
        Config::from_env(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn reads_the_environment() {
        let config =
            from(&[("HOME", "/home/u"), ("https_proxy", "p:1"), ("ALL_PROXY", "q:2"), ("NO_PROXY", "x")]);
        assert_eq!(config.credentials, Credentials::DockerConfig("/home/u/.docker/config.json".into()));
        assert_eq!(config.transport.proxies.https.as_deref(), Some("p:1"));
        let config = from(&[("HOME", "/home/u"), ("DOCKER_CONFIG", "/d")]);
        assert_eq!(config.credentials, Credentials::DockerConfig("/d/config.json".into()));
        assert_eq!(from(&[("HOME", "")]).credentials, Credentials::Anonymous);
    }
}
