//! resolv.conf(5) of a process: whom it asks for names.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

/// The host's own.
const OWN: &str = "/etc/resolv.conf";

/// Why a server of [`NameService::out_of_reach`] cannot be one, and what to do.
pub const OUT_OF_REACH: &str =
    "a private network has no way to this machine's loopback, and no IPv6; --network=host has both";

/// A process's `/etc/resolv.conf`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvConf {
    /// What is in it.
    pub text: String,
    /// Its name servers were chosen for the process, and are not the host's: a private network leaves them as they are.
    pub is_chosen: bool,
}

impl From<&str> for ResolvConf {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), is_chosen: false }
    }
}

/// What is said about name service in place of what the host's resolv.conf(5) says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameService {
    /// The servers to ask; none: the host's.
    pub servers: Vec<IpAddr>,
    /// Domains in which names are searched; none: the host's. A single `.` is none at all, as Docker has it.
    pub search: Vec<String>,
    /// Options such as `ndots:2`; none: the host's.
    pub options: Vec<String>,
}

impl NameService {
    /// The file of a process: the host's, with what is said in place of its own lines. A host without one has no name servers to offer.
    pub fn resolv_conf(&self) -> io::Result<ResolvConf> {
        let own = match std::fs::read(OWN) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let text = self.instead_of(&String::from_utf8_lossy(&own));
        Ok(ResolvConf { text, is_chosen: !self.servers.is_empty() })
    }

    /// The first of the servers to which no way leads from a private network: loopback is another one inside, and there is no IPv6.
    pub fn out_of_reach(&self) -> Option<IpAddr> {
        self.servers.iter().copied().find(|server| !is_reachable(server))
    }

    fn instead_of(&self, own: &str) -> String {
        let is_replaced = |line: &str| match line.split_ascii_whitespace().next() {
            Some("nameserver") => !self.servers.is_empty(),
            // The older word for a search in one domain; the later line counts.
            Some("search" | "domain") => !self.search.is_empty(),
            Some("options") => !self.options.is_empty(),
            _ => false,
        };
        let mut text: String = self.servers.iter().map(|server| format!("nameserver {server}\n")).collect();
        for line in own.lines().filter(|line| !is_replaced(line)) {
            text.push_str(line);
            text.push('\n');
        }
        if !self.search.is_empty() && self.search != ["."] {
            text.push_str(&format!("search {}\n", self.search.join(" ")));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

/// Whether a way leads there from a private network.
pub(crate) fn is_reachable(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if !address.is_loopback() && *address != Ipv4Addr::UNSPECIFIED)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str =
        "# by hand\nnameserver 127.0.0.53\nnameserver 9.9.9.9\nsearch lan\ndomain lan\noptions edns0\n";

    fn said(servers: &[&str], search: &[&str], options: &[&str]) -> NameService {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        NameService {
            servers: servers.iter().map(|server| server.parse().unwrap()).collect(),
            search: owned(search),
            options: owned(options),
        }
    }

    #[test]
    fn each_takes_the_place_of_its_own_lines() {
        let text = |servers: &[&str], search: &[&str], options: &[&str]| {
            said(servers, search, options).instead_of(HOST)
        };
        assert_eq!(text(&[], &[], &[]), HOST);
        assert_eq!(
            text(&["192.0.2.1", "192.0.2.2"], &[], &[]),
            "nameserver 192.0.2.1\nnameserver 192.0.2.2\n# by hand\nsearch lan\ndomain lan\noptions edns0\n"
        );
        assert_eq!(
            text(&[], &["a.example", "b.example"], &[]),
            "# by hand\nnameserver 127.0.0.53\nnameserver 9.9.9.9\noptions edns0\nsearch a.example b.example\n"
        );
        assert_eq!(
            text(&[], &["."], &[]),
            "# by hand\nnameserver 127.0.0.53\nnameserver 9.9.9.9\noptions edns0\n"
        );
        assert_eq!(
            text(&["192.0.2.1"], &["."], &["ndots:2", "timeout:1"]),
            "nameserver 192.0.2.1\n# by hand\noptions ndots:2 timeout:1\n"
        );
    }

    #[test]
    fn what_a_private_network_does_not_reach() {
        let first =
            |servers: &[&str]| said(servers, &[], &[]).out_of_reach().map(|server| server.to_string());
        assert_eq!(first(&[]), None);
        assert_eq!(first(&["192.0.2.1"]), None);
        assert_eq!(first(&["192.0.2.1", "127.0.0.53", "::1"]).as_deref(), Some("127.0.0.53"));
        assert_eq!(first(&["2001:db8::1"]).as_deref(), Some("2001:db8::1"));
    }
}
