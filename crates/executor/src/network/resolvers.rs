//! Name servers in resolv.conf(5) that a private network can reach.

use std::net::IpAddr;

use crate::resolv_conf::is_reachable;

/// Where programs that put a name server of their own on the loopback keep the real ones: systemd-resolved, then
/// NetworkManager (with dnsmasq).
const UPSTREAM: [&str; 2] = ["/run/systemd/resolve/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf"];

/// What the host's programs use.
const OWN: &str = "/etc/resolv.conf";

/// Those of the host, for a network in which its loopback cannot be reached, and nothing asks in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resolvers {
    /// Its own ones, as far as they can be reached.
    Own,
    /// These, for those on its loopback, as Docker has it.
    Upstream(Vec<IpAddr>),
    /// It asks itself, and nobody says whom that asks.
    Unreachable,
}

impl Resolvers {
    /// Looks at the machine.
    pub(crate) fn find() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self::choose(&read(OWN), UPSTREAM.map(read))
    }

    fn choose(own: &str, upstream: [String; 2]) -> Self {
        let reachable = |text: &str| servers(text).filter(is_reachable).collect::<Vec<IpAddr>>();
        if servers(own).next().is_none() || !reachable(own).is_empty() {
            return Self::Own;
        }
        let upstream = upstream.iter().map(|text| reachable(text)).find(|servers| !servers.is_empty());
        upstream.map_or(Self::Unreachable, Self::Upstream)
    }

    /// A resolv.conf with these.
    pub(crate) fn rewrite(&self, text: &str) -> String {
        match self {
            Self::Own | Self::Unreachable => replace(text, &[]),
            Self::Upstream(servers) => replace(text, servers),
        }
    }
}

/// Takes out the name servers that a private network cannot reach. Where none is left, it is these.
pub(crate) fn replace(text: &str, others: &[IpAddr]) -> String {
    let keep = |line: &&str| match server(line) {
        Some(address) => address.is_some_and(|address| is_reachable(&address)),
        None => true,
    };
    let kept: Vec<&str> = text.lines().filter(keep).collect();
    let has_one = kept.iter().any(|line| server(line).is_some());
    let others = if has_one { &[] } else { others };
    let added = others.iter().map(|address| format!("nameserver {address}\n"));
    added.chain(kept.iter().map(|line| format!("{line}\n"))).collect()
}

/// This name server, which asks the host's first one, in place of that. pasta gives the answers of that one as its own, so
/// that whoever asked it directly does not take them.
pub(crate) fn put_first(text: &str, server_inside: IpAddr) -> String {
    let text = replace(text, &[]);
    let first = text.lines().position(|line| server(line).is_some());
    let kept = text.lines().enumerate().filter(|(index, _)| Some(*index) != first);
    let kept = kept.map(|(_, line)| format!("{line}\n"));
    std::iter::once(format!("nameserver {server_inside}\n")).chain(kept).collect()
}

fn servers(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(server).flatten()
}

/// The address in a line that names a server; `Some(None)` where it is none.
fn server(line: &str) -> Option<Option<IpAddr>> {
    let mut words = line.split_ascii_whitespace();
    (words.next() == Some("nameserver")).then(|| words.next()?.split('%').next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn servers_on_the_loopback_are_replaced() {
        let dns = [IpAddr::V4(Ipv4Addr::new(10, 0, 2, 3))];
        let reach = |text| replace(text, &dns);
        assert_eq!(reach("nameserver 127.0.0.53\noptions edns0\n"), "nameserver 10.0.2.3\noptions edns0\n");
        assert_eq!(reach("nameserver ::1\nnameserver 9.9.9.9\n"), "nameserver 9.9.9.9\n");
        assert_eq!(reach("nameserver fe80::1%eth0\nnameserver\n"), "nameserver 10.0.2.3\n");
        assert_eq!(reach("search x\n"), "nameserver 10.0.2.3\nsearch x\n");
        assert_eq!(replace("search x\n", &[]), "search x\n");
    }

    #[test]
    fn one_inside_takes_the_place_of_the_first() {
        let put = |text| put_first(text, IpAddr::V4(Ipv4Addr::new(10, 0, 2, 3)));
        assert_eq!(
            put("search x\nnameserver 9.9.9.9\nnameserver 8.8.8.8\n"),
            "nameserver 10.0.2.3\nsearch x\nnameserver 8.8.8.8\n"
        );
        assert_eq!(put("nameserver 127.0.0.53\noptions edns0\n"), "nameserver 10.0.2.3\noptions edns0\n");
        assert_eq!(put(""), "nameserver 10.0.2.3\n");
    }

    #[test]
    fn the_real_ones_are_found() {
        let choose = |own: &str, first: &str, second: &str| {
            Resolvers::choose(own, [first.to_owned(), second.to_owned()])
        };
        let stub = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n";
        let real = "nameserver 192.0.2.1\nnameserver 2001:db8::1\n";
        let resolvers = choose(stub, real, "");
        assert_eq!(resolvers, Resolvers::Upstream(vec!["192.0.2.1".parse().unwrap()]));
        assert_eq!(resolvers.rewrite(stub), "nameserver 192.0.2.1\noptions edns0 trust-ad\nsearch lan\n");
        assert_eq!(choose(stub, "nameserver 127.0.0.1\n", real), resolvers);
        assert_eq!(choose(stub, "", "nameserver ::1\n"), Resolvers::Unreachable);
        // One that can be reached is enough, and none at all is not this network's fault.
        assert_eq!(choose("nameserver 127.0.0.1\nnameserver 9.9.9.9\n", real, ""), Resolvers::Own);
        assert_eq!(choose("", real, ""), Resolvers::Own);
        assert_eq!(
            Resolvers::Own.rewrite("nameserver 127.0.0.1\nnameserver 9.9.9.9\n"),
            "nameserver 9.9.9.9\n"
        );
    }
}
