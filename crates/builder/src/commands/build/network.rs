//! The network of RUN steps, as the command line has it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use executor::Sandbox;
use graph::Network;

use crate::failure::Failure;

/// What `--network` says.
pub(super) fn parse(mode: Option<&str>) -> Result<Network, Failure> {
    match mode {
        None | Some("default") => Ok(Network::Default),
        Some("private") => Ok(Network::Private),
        Some("host") => Ok(Network::Host),
        Some("none") => Ok(Network::None),
        Some(other) => Err(Failure::usage(format!(
            "--network={other} is not supported; use default, private, host or none"
        ))),
    }
}

/// Where steps run. A proxy on this machine's loopback is one that the user wants them to reach.
pub(super) fn sandbox(options: &frontend::Options) -> Sandbox {
    match loopback_proxy(&options.build_args) {
        Some(name) if options.network == Network::Default => Sandbox::new().with_host_network(&format!(
            "the proxy in --build-arg {name} listens on this machine's loopback, which a private network cannot reach"
        )),
        _ => Sandbox::new(),
    }
}

/// The name of the build argument with such a proxy. The Dockerfile has no say in it.
fn loopback_proxy(build_args: &BTreeMap<String, String>) -> Option<&str> {
    let is_proxy = |name: &str| {
        ["http_proxy", "https_proxy", "ftp_proxy", "all_proxy"]
            .iter()
            .any(|proxy| name.eq_ignore_ascii_case(proxy))
    };
    build_args
        .iter()
        .find(|(name, value)| is_proxy(name) && is_loopback(host_of(value)))
        .map(|(name, _)| name.as_str())
}

/// The host of a proxy: `[scheme://][user[:password]@]host[:port][/…]`.
fn host_of(proxy: &str) -> &str {
    let rest = proxy.split_once("://").map_or(proxy, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    match host.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

fn is_loopback(host: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_on_the_loopback_are_recognised() {
        let found = |name: &str, value: &str| {
            let args = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            loopback_proxy(&args).is_some()
        };
        for value in [
            "http://127.0.0.1:3128",
            "http://user:p%40ss@localhost:8080/",
            "LOCALHOST",
            "127.8.9.1:80",
            "socks5://[::1]:1080",
            "http://[::ffff:127.0.0.1]",
            "http://a.localhost.",
        ] {
            assert!(found("http_proxy", value) && found("HTTPS_PROXY", value), "{value}");
        }
        for value in
            ["", "http://proxy.example:3128", "http://localhost.example", "http://127.0.0.1@proxy.example"]
        {
            assert!(!found("http_proxy", value), "{value}");
        }
        assert!(!found("no_proxy", "localhost,127.0.0.1"));
        assert!(!found("MIRROR", "http://127.0.0.1"));
    }
}
