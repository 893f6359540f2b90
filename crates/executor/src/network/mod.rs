//! A network of its own for the processes of a build: a namespace that a helper program connects to the host's network,
//! `slirp4netns` or `pasta`. Inside, it is 10.0.2.0/24, with a name server at 10.0.2.3 that asks those of the host.

mod helper;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) use helper::{Helper, attend};

use crate::userns::find_tool;
use crate::{Error, Network, ProcessSpec, Sandbox};

/// The name server inside.
const RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 3));

/// The helpers, the preferred one first, with further arguments to try. All: no way to the host's loopback.
const HELPERS: [(NetworkKind, &str, &[&str]); 3] = [
    (
        NetworkKind::Slirp4netns,
        "slirp4netns",
        &[
            "--configure",
            "--mtu=65520",
            "--disable-host-loopback",
            "--enable-sandbox",
            "--enable-seccomp",
            "--ready-fd=3",
            "--netns-type=path",
            "/proc/self/fd/0",
            "eth0",
        ],
    ),
    // Where it may not make a mount namespace for itself.
    (
        NetworkKind::Slirp4netns,
        "slirp4netns",
        &[
            "--configure",
            "--mtu=65520",
            "--disable-host-loopback",
            "--ready-fd=3",
            "--netns-type=path",
            "/proc/self/fd/0",
            "eth0",
        ],
    ),
    (
        NetworkKind::Pasta,
        "pasta",
        &[
            "--config-net",
            "--ipv4-only",
            "--no-map-gw",
            "--tcp-ports",
            "none",
            "--udp-ports",
            "none",
            "--tcp-ns",
            "none",
            "--udp-ns",
            "none",
            "--address",
            "10.0.2.100",
            "--netmask",
            "24",
            "--gateway",
            "10.0.2.2",
            "--dns-forward",
            "10.0.2.3",
            "--ns-ifname",
            "eth0",
            "--netns",
            "/proc/self/fd/0",
        ],
    ),
];

/// How a [`PrivateNetwork`] reaches others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkKind {
    /// By pasta (package passt).
    Pasta,
    /// By slirp4netns.
    Slirp4netns,
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
    /// Closing it ends the helper.
    _helper: Option<OwnedFd>,
    gateway: Option<IpAddr>,
    note: Option<String>,
    said: AtomicBool,
}

impl PrivateNetwork {
    /// The host's network, for this reason.
    pub(crate) fn none(why: &str) -> Self {
        let note = Some(format!("{why}: steps use the network of the host"));
        let gateway = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Self::new(NetworkKind::Host, None, gateway, note)
    }

    fn new(
        kind: NetworkKind,
        parts: Option<(OwnedFd, OwnedFd)>,
        gateway: Option<IpAddr>,
        note: Option<String>,
    ) -> Self {
        let (namespace, _helper) = parts.unzip();
        Self {
            inner: Arc::new(Inner { kind, namespace, _helper, gateway, note, said: AtomicBool::new(false) }),
        }
    }

    /// By the first helper that works.
    pub(crate) async fn open(sandbox: &Sandbox) -> Result<Self, Error> {
        let mut failures: Vec<String> = Vec::new();
        for (kind, name, args) in HELPERS {
            let Some(program) = find_tool(name) else { continue };
            // A new one each time: a helper that failed may have left a device in it.
            let namespace = match helper::new_namespace() {
                Ok(namespace) => namespace,
                Err(fault) => return Ok(Self::none(&Error::from(fault).to_string())),
            };
            let helper = Helper {
                program,
                args: args.iter().map(OsString::from).collect(),
                announces: kind == NetworkKind::Slirp4netns,
            };
            match sandbox.assist(&helper, namespace.as_fd()).await {
                Ok(socket) => return Ok(Self::new(kind, Some((namespace, socket)), host_address(), None)),
                Err(error) => failures.push(error.to_string()),
            }
        }
        failures.dedup();
        Ok(Self::none(&match failures.as_slice() {
            [] => "a private network needs pasta (package passt) or slirp4netns, and neither is installed"
                .to_owned(),
            failures => format!("a private network cannot be made: {}", failures.join("; ")),
        }))
    }

    /// How it reaches others.
    pub fn kind(&self) -> NetworkKind {
        self.inner.kind
    }

    /// The address at which its processes reach the host: what `host-gateway` stands for. `None` when the host has none
    /// but its loopback, which only those in the host's network reach.
    pub fn host_gateway(&self) -> Option<IpAddr> {
        self.inner.gateway
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
            spec.resolv_conf = Some(reachable_resolvers(text));
        }
        spec
    }
}

/// The helper that is tried first, where one is installed.
pub(crate) fn helper_program() -> Option<PathBuf> {
    HELPERS.iter().find_map(|(_, name, _)| find_tool(name))
}

/// The address from which the host reaches others. Nothing is sent.
fn host_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Any address that the default route leads to (RFC 5737 keeps this one for documentation).
    socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_loopback())
}

/// Takes out name servers on the host's loopback, which is another one inside. Where none is left, it is [`RESOLVER`].
fn reachable_resolvers(text: &str) -> String {
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
    if !has_one {
        lines.insert(0, format!("nameserver {RESOLVER}"));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_resolvers_are_replaced() {
        let reach = reachable_resolvers;
        assert_eq!(reach("nameserver 127.0.0.53\noptions edns0\n"), "nameserver 10.0.2.3\noptions edns0\n");
        assert_eq!(reach("nameserver ::1\nnameserver 9.9.9.9\n"), "nameserver 9.9.9.9\n");
        assert_eq!(reach("search x\n"), "nameserver 10.0.2.3\nsearch x\n");
    }
}
