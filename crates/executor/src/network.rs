//! A network of its own for the processes of a build.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Network, ProcessSpec};

/// How a [`PrivateNetwork`] reaches others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkKind {
    /// There is none; it is the host's.
    Host,
}

/// What a process with [`Network::Private`] gets. Copies are of the same network, which ends with the last one.
#[derive(Clone, Debug)]
pub struct PrivateNetwork {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    kind: NetworkKind,
    namespace: Option<OwnedFd>,
    gateway: Option<IpAddr>,
    /// Name server to use where the host's is out of reach.
    resolver: Option<IpAddr>,
    note: Option<String>,
    said: AtomicBool,
}

impl PrivateNetwork {
    /// The host's network, for this reason.
    pub(crate) fn none(why: &str) -> Self {
        let note = format!("{why}: steps use the network of the host");
        Self {
            inner: Arc::new(Inner {
                kind: NetworkKind::Host,
                namespace: None,
                gateway: None,
                resolver: None,
                note: Some(note),
                said: AtomicBool::new(false),
            }),
        }
    }

    pub(crate) async fn open() -> Result<Self, Error> {
        Ok(Self::none("a private network cannot be made"))
    }

    /// How it reaches others.
    pub fn kind(&self) -> NetworkKind {
        self.inner.kind
    }

    /// The address at which its processes reach the host: what `host-gateway` stands for. `None` where the set-up keeps
    /// them from it.
    pub fn host_gateway(&self) -> Option<IpAddr> {
        match self.inner.kind {
            NetworkKind::Host => self.inner.gateway.or(Some(IpAddr::from([127, 0, 0, 1]))),
        }
    }

    /// What was not to be had, and what was done instead. The outcome of the first process that uses the network has
    /// it too.
    pub fn note(&self) -> Option<&str> {
        self.inner.note.as_deref()
    }

    /// [`Self::note`] the first time, then nothing.
    pub(crate) fn take_note(&self) -> Option<String> {
        let said = self.inner.said.swap(true, Ordering::Relaxed);
        self.inner.note.clone().filter(|_| !said)
    }

    /// The namespace, unless it is the host's.
    pub(crate) fn namespace(&self) -> Option<BorrowedFd<'_>> {
        self.inner.namespace.as_ref().map(OwnedFd::as_fd)
    }

    /// A process as it must be for this network: with name servers that it can reach.
    pub(crate) fn adapt(&self, spec: &ProcessSpec) -> ProcessSpec {
        let mut spec = spec.clone();
        if self.inner.namespace.is_none() {
            spec.network = Network::Host;
        } else if let Some(text) = &spec.resolv_conf {
            spec.resolv_conf = Some(reachable_resolvers(text, self.inner.resolver));
        }
        spec
    }
}

/// Replaces name servers on the host's loopback, which is another one inside, by `resolver`.
fn reachable_resolvers(text: &str, resolver: Option<IpAddr>) -> String {
    let is_loopback = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        words.next() == Some("nameserver")
            && words
                .next()
                .and_then(|address| address.split('%').next()?.parse().ok())
                .is_some_and(|address: IpAddr| address.is_loopback())
    };
    let mut lines: Vec<String> = text.lines().filter(|line| !is_loopback(line)).map(str::to_owned).collect();
    let has_one = lines.iter().any(|line| line.split_ascii_whitespace().next() == Some("nameserver"));
    if let Some(resolver) = resolver.filter(|_| !has_one) {
        lines.insert(0, format!("nameserver {resolver}"));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_resolvers_are_replaced() {
        let own = Some(IpAddr::from([10, 0, 2, 3]));
        let reach = |text| reachable_resolvers(text, own);
        assert_eq!(reach("nameserver 127.0.0.53\noptions edns0\n"), "nameserver 10.0.2.3\noptions edns0\n");
        assert_eq!(reach("nameserver ::1\nnameserver 9.9.9.9\n"), "nameserver 9.9.9.9\n");
        assert_eq!(reach("search x\n"), "nameserver 10.0.2.3\nsearch x\n");
        assert_eq!(reachable_resolvers("nameserver 127.0.0.1\n", None), "");
    }
}
