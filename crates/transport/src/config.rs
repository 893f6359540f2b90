use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use url::{Host, Url};

/// How servers are talked to. [`Config::default`] trusts the machine's authorities and uses no proxy.
#[derive(Debug, Clone)]
pub struct Config {
    /// Servers, `host` or `host:port`, whose TLS certificate is not verified.
    pub insecure: Vec<String>,
    /// Whether `localhost`, `127.0.0.0/8` and `::1` count among the insecure ones.
    pub loopback_is_insecure: bool,
    /// Directories laid out as `/etc/docker/certs.d` (dockerd, "Verify repository client with certificates"):
    /// `HOST[:PORT]/*.crt` are further authorities, `*.cert` with `*.key` identify this client.
    pub certificates: Vec<PathBuf>,
    /// Proxies for everything but loopback.
    pub proxies: Proxies,
    /// A Unix socket that all connections go to, whatever the address says.
    pub unix_socket: Option<PathBuf>,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// For name resolution, TCP and TLS together.
    pub connect_timeout: Duration,
    /// For an answer to begin, and between two pieces of it.
    pub idle_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            insecure: Vec::new(),
            loopback_is_insecure: false,
            certificates: Vec::new(),
            proxies: Proxies::default(),
            unix_socket: None,
            user_agent: concat!("builder/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(60),
        }
    }
}

impl Config {
    /// Whether the server of `url` needs no valid certificate.
    pub fn is_insecure(&self, url: &Url) -> bool {
        (self.loopback_is_insecure && is_loopback(url))
            || authorities(url).iter().any(|authority| self.insecure.contains(authority))
    }
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

impl Proxies {
    /// What the environment says: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` in either case.
    pub fn from_env(variable: impl Fn(&str) -> Option<OsString>) -> Proxies {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| {
            set(name).or_else(|| set(&name.to_lowercase())).and_then(|value| value.into_string().ok())
        };
        Proxies {
            http: text("HTTP_PROXY").or_else(|| text("ALL_PROXY")),
            https: text("HTTPS_PROXY").or_else(|| text("ALL_PROXY")),
            except: text("NO_PROXY").unwrap_or_default(),
        }
    }
}

/// Whether a server is on this machine, judged by its name alone.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// The names of a server: `host:port` last, before it `host` alone when that means the same. Empty for a URL without a host.
pub fn authorities(url: &Url) -> Vec<String> {
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

    #[test]
    fn reads_the_environment() {
        let pairs = [("https_proxy", "p:1"), ("ALL_PROXY", "q:2"), ("NO_PROXY", "x"), ("HTTP_PROXY", "")];
        let proxies = Proxies::from_env(|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        });
        assert_eq!(proxies.https.as_deref(), Some("p:1"));
        assert_eq!(proxies.http.as_deref(), Some("q:2"));
        assert_eq!(proxies.except, "x");
    }

    #[test]
    fn knows_insecure_servers() {
        let config = Config {
            insecure: vec!["in.example:5000".into(), "plain.example".into()],
            loopback_is_insecure: true,
            ..Config::default()
        };
        let insecure = |url: &str| config.is_insecure(&Url::parse(url).unwrap());
        assert!(insecure("https://in.example:5000/v2/"));
        assert!(insecure("http://plain.example/"));
        assert!(!insecure("https://in.example/"));
        assert!(!insecure("https://plain.example:5000/"));
        assert!(insecure("https://127.8.9.1:5000/"));
        assert!(insecure("https://localhost:5000/"));
        assert!(insecure("https://[::1]:5000/"));
        assert!(!insecure("https://127.0.0.1.example/"));
        assert!(!Config::default().is_insecure(&Url::parse("https://127.0.0.1/").unwrap()));
    }
}
