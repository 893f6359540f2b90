//! A network of its own for the processes of a build, through which they reach others.
//!
//! It is made when the first process asks for it. As root the kernel does everything ([`links`]); otherwise, and where a
//! firewall is in the way of that, a helper program does ([`helper`]); where there is none, it is the host's network.
//!
//! A process gets a *link*: a network namespace that is connected already, which it has for itself while it lives, and which
//! the next one gets. So there are as many as processes run at once, and entering one costs nothing.

mod addresses;
mod helper;
mod links;
mod netlink;
mod nftables;
mod resolvers;

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use addresses::host_address;
pub(crate) use helper::{Helper, attend};
use links::{Namespace, Refused, Router, Traces};

pub(crate) use nftables::Table;

use crate::{Error, Network, ProcessSpec, Sandbox, control};

/// How a [`PrivateNetwork`] reaches others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkKind {
    /// The machine forwards its packets, under its own address (NAT).
    Nat,
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
    way: Way,
    /// Links that nobody uses.
    idle: Mutex<Vec<Link>>,
    gateway: Option<IpAddr>,
    /// Why it is not of a better kind.
    reason: Option<String>,
    said: AtomicBool,
}

/// How further links are made.
#[derive(Debug)]
enum Way {
    None,
    Router {
        router: Router,
        /// Closing it ends the process that has the router's table.
        _table: OwnedFd,
    },
    Helper(Helper),
}

/// A connected namespace.
#[derive(Debug)]
struct Link {
    namespace: OwnedFd,
    traces: Traces,
    /// Closing it ends the helper.
    _helper: Option<OwnedFd>,
}

impl Link {
    fn new(namespace: Namespace, helper: Option<OwnedFd>) -> Self {
        let (namespace, traces) = namespace.into_parts();
        Self { namespace, traces, _helper: helper }
    }
}

/// A link in use. Dropped without [`Self::give_back`] nobody else gets it.
#[derive(Debug)]
pub(crate) struct Lease {
    network: PrivateNetwork,
    /// `None` where it is the host's network.
    link: Option<Link>,
}

impl Lease {
    /// The namespace, unless it is the host's.
    pub(crate) fn namespace(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(|link| link.namespace.as_fd())
    }

    /// Leaves the link to the next process. All that used it must be gone, and none of them may have changed it.
    pub(crate) fn give_back(self) {
        let Some(link) = self.link else { return };
        if !link.traces.are_in_the_way() {
            self.network.idle().push(link);
        }
    }
}

impl PrivateNetwork {
    /// The host's network, for this reason.
    pub(crate) fn none(why: &str) -> Self {
        Self::new(NetworkKind::Host, Way::None, None, Some(Ipv4Addr::LOCALHOST.into()), Some(why.to_owned()))
    }

    fn new(
        kind: NetworkKind,
        way: Way,
        first: Option<Link>,
        gateway: Option<IpAddr>,
        reason: Option<String>,
    ) -> Self {
        let idle = Mutex::new(first.into_iter().collect());
        Self { inner: Arc::new(Inner { kind, way, idle, gateway, reason, said: AtomicBool::new(false) }) }
    }

    /// By the first way that works.
    pub(crate) async fn open(sandbox: &Sandbox) -> Result<Self, Error> {
        let mut failures = Vec::new();
        match routed(sandbox).await? {
            Ok(network) => return Ok(network),
            Err(Refused::NotRoot) => {}
            Err(Refused::Because(why)) => failures.push(why),
        }
        let refused = failures.first().cloned();
        let mut is_installed = false;
        for (kind, helper) in Helper::installed() {
            is_installed = true;
            if let Err(fault) = helper::can_make_devices() {
                failures.push(Error::from(fault).to_string());
                break;
            }
            // A new namespace each time: a helper that failed may have left a device in it.
            let namespace = match in_background(Namespace::new).await? {
                Ok(namespace) => namespace,
                Err(fault) => return Ok(Self::none(&Error::from(fault).to_string())),
            };
            match assist(sandbox, &helper, &namespace).await {
                Ok(socket) => {
                    let link = Link::new(namespace, Some(socket));
                    return Ok(Self::new(kind, Way::Helper(helper), Some(link), host_address(), refused));
                }
                Err(error) => failures.push(error.to_string()),
            }
        }
        failures.dedup();
        let reasons = failures.join("; ");
        Ok(Self::none(&match (refused, is_installed) {
            (None, false) => {
                "a private network needs pasta (package passt) or slirp4netns, and neither is installed"
                    .to_owned()
            }
            (Some(why), false) => {
                format!("{why}, and neither pasta (package passt) nor slirp4netns is installed")
            }
            (_, true) => format!("a private network cannot be made: {reasons}"),
        }))
    }

    /// A link for one process.
    pub(crate) async fn lease(&self, sandbox: &Sandbox) -> Result<Lease, Error> {
        let waiting = self.idle().pop();
        let link = match (waiting, &self.inner.way) {
            (Some(link), _) => Some(link),
            (None, Way::None) => None,
            (None, Way::Router { .. }) => {
                let network = self.clone();
                let connect = move || match &network.inner.way {
                    Way::Router { router, .. } => router.link().map(Some),
                    _ => Ok(None),
                };
                in_background(connect).await??.map(|namespace| Link::new(namespace, None))
            }
            (None, Way::Helper(helper)) => {
                let namespace = in_background(Namespace::new).await??;
                let socket = assist(sandbox, helper, &namespace).await?;
                Some(Link::new(namespace, Some(socket)))
            }
        };
        Ok(Lease { network: self.clone(), link })
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Link>> {
        self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Why it is not of a better kind.
    pub fn reason(&self) -> Option<&str> {
        self.inner.reason.as_deref()
    }

    /// Where it is the host's: that, and why. One that is private has nothing that somebody who runs programs would have to know. The
    /// outcome of the first process that uses the network has it too.
    pub fn note(&self) -> Option<String> {
        let why = self.reason().filter(|_| self.kind() == NetworkKind::Host)?;
        Some(format!("{why}: steps use the network of the host"))
    }

    /// [`Self::note`] the first time, then nothing.
    pub(crate) fn take_note(&self) -> Option<String> {
        let said = self.inner.said.swap(true, Ordering::Relaxed);
        self.note().filter(|_| !said)
    }

    /// A process as it must be for this network: with name servers that it can reach.
    pub(crate) fn adapt(&self, spec: &ProcessSpec) -> ProcessSpec {
        let mut spec = spec.clone();
        let of_host = |text: &str| match &self.inner.way {
            Way::None => text.to_owned(),
            Way::Router { router, .. } => router.resolvers.rewrite(text),
            Way::Helper(_) if self.inner.kind == NetworkKind::Pasta => {
                resolvers::put_first(text, helper::RESOLVER)
            }
            Way::Helper(_) => resolvers::replace(text, &[helper::RESOLVER]),
        };
        if let Some(file) = spec.resolv_conf.as_mut().filter(|file| !file.is_chosen) {
            file.text = of_host(&file.text);
        }
        if matches!(self.inner.way, Way::None) {
            spec.network = Network::Host;
        }
        spec
    }
}

/// By the kernel.
async fn routed(sandbox: &Sandbox) -> Result<Result<PrivateNetwork, Refused>, Error> {
    let (router, first) = match in_background(Router::open).await? {
        Ok(opened) => opened,
        Err(refused) => return Ok(Err(refused)),
    };
    let because = |error: Error| Ok(Err(Refused::Because(error.to_string())));
    let table = match sandbox.assist(control::TABLE, &first.table, None).await {
        Ok(table) => table,
        Err(error) => return because(error),
    };
    let tried = in_background(move || first.gets_through().map(|well| (well, first))).await?;
    match tried {
        Ok((true, first)) => {
            let gateway = Some(router.gateway().into());
            let link = Link::new(first.namespace, None);
            let way = Way::Router { router, _table: table };
            Ok(Ok(PrivateNetwork::new(NetworkKind::Nat, way, Some(link), gateway, None)))
        }
        Ok((false, _)) => {
            Ok(Err(Refused::Because("a firewall of this machine drops what it should forward".to_owned())))
        }
        Err(fault) => because(fault.into()),
    }
}

/// By a program.
async fn assist(sandbox: &Sandbox, helper: &Helper, namespace: &Namespace) -> Result<OwnedFd, Error> {
    sandbox.assist(control::HELPER, helper, Some(namespace.as_fd())).await
}

/// Something that waits for the kernel.
async fn in_background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::Setup(format!("make a private network: {error}")))
}
