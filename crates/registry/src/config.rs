use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use url::{Host, Url};

/// How registries are talked to. [`Config::default`] is a machine without proxies and credentials.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who the user is, for registries that ask.
    pub credentials: Credentials,
    /// Registries, `host` or `host:port` as in image names, whose TLS certificate is not verified and which may speak
    /// plain HTTP when they do not speak TLS.
    pub insecure: Vec<String>,
    /// Whether `localhost`, `127.0.0.0/8` and `::1` count among the insecure ones, as Docker has it.
    pub loopback_is_insecure: bool,
    /// Directories laid out as `/etc/docker/certs.d` (dockerd, "Verify repository client with certificates"):
    /// `HOST[:PORT]/*.crt` are further authorities, `*.cert` with `*.key` identify this client.
    pub certificates: Vec<PathBuf>,
    /// Proxies for everything but loopback.
    pub proxies: Proxies,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// For name resolution, TCP and TLS together.
    pub connect_timeout: Duration,
    /// For an answer to begin, and between two pieces of it.
    pub idle_timeout: Duration,
    /// What happens after failures that may pass.
    pub retry: Retry,
    /// Blobs transferred at once from one registry.
    pub parallel: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            credentials: Credentials::Anonymous,
            insecure: Vec::new(),
            loopback_is_insecure: true,
            certificates: vec![PathBuf::from("/etc/docker/certs.d")],
            proxies: Proxies::default(),
            user_agent: concat!("builder/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(60),
            retry: Retry::default(),
            parallel: 6,
        }
    }
}

impl Config {
    /// The default with what the environment says: `DOCKER_CONFIG` or `HOME` for the credentials,
    /// `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` in either case.
    ///
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` are read later, together with the system's authorities, which they replace.
    pub fn from_env(variable: impl Fn(&str) -> Option<OsString>) -> Config {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| {
            set(name).or_else(|| set(&name.to_lowercase())).and_then(|value| value.into_string().ok())
        };
        let directory = set("DOCKER_CONFIG")
            .or_else(|| Some(PathBuf::from(set("HOME")?).join(".docker").into_os_string()));
        Config {
            credentials: match directory {
                Some(directory) => Credentials::DockerConfig(PathBuf::from(directory).join("config.json")),
                None => Credentials::Anonymous,
            },
            proxies: Proxies {
                http: text("HTTP_PROXY").or_else(|| text("ALL_PROXY")),
                https: text("HTTPS_PROXY").or_else(|| text("ALL_PROXY")),
                except: text("NO_PROXY").unwrap_or_default(),
            },
            ..Config::default()
        }
    }

    /// Whether the server of `url` needs no valid certificate and no TLS.
    pub(crate) fn is_insecure(&self, url: &Url) -> bool {
        (self.loopback_is_insecure && is_loopback(url))
            || authorities(url).iter().any(|authority| self.insecure.contains(authority))
    }
}

/// Where user names and passwords come from. They are read when a registry asks, not before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// None are ever sent.
    Anonymous,
    /// Docker's `config.json`: `auths`, `credHelpers`, `credsStore`. A missing file is an empty one.
    DockerConfig(PathBuf),
}

/// HTTP proxies by the scheme of what is fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Address of the proxy for `http://`; `host:port` means `http://host:port`.
    pub http: Option<String>,
    /// Address of the proxy for `https://`.
    pub https: Option<String>,
    /// `NO_PROXY`: comma-separated hosts, domains, addresses and networks, or `*`.
    pub except: String,
}

/// Waits between tries: the delay doubles from `first_delay` to `max_delay`; a registry's `Retry-After` wins when it is longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Tries in all, the first included.
    pub attempts: u32,
    /// After the first failure.
    pub first_delay: Duration,
    /// The longest delay of our own.
    pub max_delay: Duration,
    /// The longest `Retry-After` that is obeyed; a longer one ends the matter.
    pub max_retry_after: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            attempts: 5,
            first_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(8),
            max_retry_after: Duration::from_secs(60),
        }
    }
}

/// Whether a server is on this machine, judged by its name alone.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// The names under which a server may be configured: `host:port`, and `host` at the scheme's default port.
pub(crate) fn authorities(url: &Url) -> Vec<String> {
    let Some(host) = url.host_str() else { return Vec::new() };
    let mut names = Vec::new();
    if url.port().is_none() {
        names.push(host.to_owned());
    }
    names.extend(url.port_or_known_default().map(|port| format!("{host}:{port}")));
    names
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
        assert_eq!(config.proxies.https.as_deref(), Some("p:1"));
        assert_eq!(config.proxies.http.as_deref(), Some("q:2"));
        assert_eq!(config.proxies.except, "x");
        let config = from(&[("HOME", "/home/u"), ("DOCKER_CONFIG", "/d")]);
        assert_eq!(config.credentials, Credentials::DockerConfig("/d/config.json".into()));
        assert_eq!(from(&[("HOME", "")]).credentials, Credentials::Anonymous);
    }

    #[test]
    fn knows_insecure_registries() {
        let config =
            Config { insecure: vec!["in.example:5000".into(), "plain.example".into()], ..Config::default() };
        let insecure = |url: &str| config.is_insecure(&Url::parse(url).unwrap());
        assert!(insecure("https://in.example:5000/v2/"));
        assert!(insecure("http://plain.example/"));
        assert!(!insecure("https://in.example/"));
        assert!(!insecure("https://plain.example:5000/"));
        assert!(insecure("https://127.8.9.1:5000/"));
        assert!(insecure("https://localhost:5000/"));
        assert!(insecure("https://[::1]:5000/"));
        assert!(!insecure("https://127.0.0.1.example/"));
    }
}
