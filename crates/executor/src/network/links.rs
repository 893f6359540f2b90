//! Links between network namespaces and the host's network: a pair of devices (veth(4)), the host as router.
//!
//! Nothing of it has to be cleaned up. A pair of devices ends with the namespace that has one of them, a namespace with its
//! last process and descriptor, and a [`Table`] with its socket: all of them end with the builder, even when it is killed.
//! Only a connection that a killed step left open in the middle keeps its namespace until the kernel gives it up, within two minutes.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
use rustix::thread::UnshareFlags;

use super::addresses::{ANYWHERE, Block, default_device, host_address, only_new_addresses};
use super::netlink::{Attributes, CREATE, EXCLUSIVE, Message, NETFILTER, Netlink, attribute};
use super::nftables::Table;
use super::resolvers::Resolvers;
use crate::fault::{Context, Fault};
use crate::keeper;
use crate::userns::setting;

/// How the names of the host's ends begin; the number of the link follows.
pub(crate) const DEVICE: &str = "builder";
/// The name of the other end.
const INSIDE: &str = "eth0";
/// How long to wait for what the kernel does at once, or never.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a packet may take from where it comes in to where it leaves: some firewalls ask a program.
const FORWARDING: Duration = Duration::from_millis(50);

// linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/veth.h
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const LINK_STATE: u16 = 16;
const LINK_INFO: u16 = 18;
const LINK_NAMESPACE: u16 = 28;
/// A value of `LINK_STATE` (RFC 2863).
const UP: u8 = 6;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const ADDRESS: u16 = 1;
const LOCAL_ADDRESS: u16 = 2;
const ROUTE_GATEWAY: u16 = 5;
const MAIN_TABLE: u8 = 254;
const BOOT_PROTOCOL: u8 = 3;
const UNICAST: u8 = 1;
const IPV4: u8 = 2;

/// A network namespace, with what is needed to work on it from outside.
#[derive(Debug)]
pub(crate) struct Namespace {
    namespace: OwnedFd,
    netlink: Netlink,
    /// Any socket in it.
    socket: OwnedFd,
    traces: Traces,
}

impl Namespace {
    /// A new one with its loopback device.
    pub(crate) fn new() -> Result<Self, Fault> {
        // A thread can be in a namespace of its own, and takes nobody along.
        let made = std::thread::spawn(|| {
            keeper::separate(UnshareFlags::NEWNET, "network")?;
            keeper::start_loopback()?;
            let describe = || "open the private network";
            let path = "/proc/thread-self/ns/net";
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            Ok(Self {
                namespace: rustix::fs::open(path, flags, Mode::empty()).context(describe)?,
                netlink: Netlink::open(None).context(describe)?,
                socket: stream().context(describe)?,
                traces: Traces::open().context(describe)?,
            })
        });
        made.join().map_err(|_| Fault::Setup("make a network namespace: the thread failed".to_owned()))?
    }

    /// The namespace itself, and what shows whether somebody was in it.
    pub(crate) fn into_parts(self) -> (OwnedFd, Traces) {
        (self.namespace, self.traces)
    }

    pub(crate) fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

/// What processes that are gone left behind in a namespace.
#[derive(Debug)]
pub(crate) struct Traces {
    counts: File,
    connections: Vec<File>,
}

/// First of the ports that connections get which ask for none (`net.ipv4.ip_local_port_range`).
const FIRST_EPHEMERAL: u16 = 32768;

impl Traces {
    /// Of the calling thread's namespace.
    fn open() -> io::Result<Self> {
        let open = |name: &str| File::open(format!("/proc/thread-self/net/{name}"));
        // A kernel may have no IPv6.
        let connections = ["tcp", "tcp6"].into_iter().filter_map(|name| open(name).ok()).collect();
        Ok(Self { counts: open("sockstat")?, connections })
    }

    /// Whether a port that a program would ask for is still taken: the kernel keeps those of closed connections for a
    /// minute.
    pub(crate) fn are_in_the_way(&self) -> bool {
        let Ok(counts) = read(&self.counts) else { return true };
        // To list connections the kernel walks those of all namespaces.
        has_connections(&counts)
            && self.connections.iter().any(|file| read(file).map_or(true, |list| has_taken_port(&list)))
    }
}

/// From its beginning: the kernel writes it anew each time.
fn read(file: &File) -> io::Result<String> {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match file.read_at(&mut buffer, text.len() as u64)? {
            0 => return Ok(String::from_utf8_lossy(&text).into_owned()),
            length => text.extend_from_slice(&buffer[..length]),
        }
    }
}

/// Of `sockstat`.
fn has_connections(counts: &str) -> bool {
    let Some(line) = counts.lines().find_map(|line| line.strip_prefix("TCP:")) else { return true };
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    ["inuse", "tw"]
        .iter()
        .any(|name| words.chunks_exact(2).find(|pair| pair[0] == *name).is_none_or(|pair| pair[1] != "0"))
}

/// Of `tcp` and `tcp6`.
fn has_taken_port(list: &str) -> bool {
    list.lines().skip(1).any(|line| {
        let local = line.split_ascii_whitespace().nth(1).and_then(|local| local.rsplit(':').next());
        local.and_then(|port| u16::from_str_radix(port, 16).ok()).is_none_or(|port| port < FIRST_EPHEMERAL)
    })
}

/// The host's side of all links of a build.
#[derive(Debug)]
pub(crate) struct Router {
    block: Block,
    mtu: Option<u32>,
    pub(crate) resolvers: Resolvers,
}

/// Why there are no links.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Only root of the machine may.
    NotRoot,
    /// What this machine lacks.
    Because(String),
}

/// The first link of a router. It needs a table.
#[derive(Debug)]
pub(crate) struct First {
    pub(crate) namespace: Namespace,
    pub(crate) table: Table,
}

impl Router {
    /// Makes a first link, where this machine can have links.
    pub(crate) fn open() -> Result<(Self, First), Refused> {
        let because = |text: &str| Err(Refused::Because(text.to_owned()));
        // First: what follows is of no interest to somebody who may not have links anyway.
        if !may_configure() {
            return Err(Refused::NotRoot);
        }
        let resolvers = Resolvers::find();
        if setting("net/ipv4/ip_forward").is_none_or(|value| value != "1") {
            return because("sysctl net.ipv4.ip_forward is not 1, so this machine forwards nothing");
        }
        if resolvers == Resolvers::Unreachable {
            return because("the name servers in /etc/resolv.conf answer this machine only");
        }
        if only_new_addresses() {
            return because("this machine reaches others by IPv6 only");
        }
        let Some(block) = Block::find() else {
            return because("every block of addresses that could be taken is used already");
        };
        let router = Self { block, mtu: longest_packet(), resolvers };
        let (namespace, number) = router.connect().map_err(|fault| match fault {
            Fault::Unsupported(_) => Refused::NotRoot,
            other => Refused::Because(crate::Error::from(other).to_string()),
        })?;
        let table = Table { name: format!("{DEVICE}{number}"), block, first: block.link(number) };
        Ok((router, First { namespace, table }))
    }

    /// A further link.
    pub(crate) fn link(&self) -> Result<Namespace, Fault> {
        self.connect().map(|(namespace, _)| namespace)
    }

    /// The host's address.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        self.block.gateway()
    }

    /// A namespace with a link to the host, and the number of that.
    fn connect(&self) -> Result<(Namespace, u16), Fault> {
        let describe = || "connect a private network";
        let mut inside = Namespace::new()?;
        let mut outside = Netlink::open(None).context(describe)?;
        let number = make_pair(&mut outside, &inside.namespace, self.mtu)?;
        let name = format!("{DEVICE}{number}");
        // Otherwise it gets an address by itself, at which the host's services can be reached.
        let _without = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        let socket = stream().context(describe)?;
        let index = netdevice::name_to_index(&socket, &name).context(describe)?;
        let (gateway, own) = (self.block.gateway(), self.block.link(number));
        outside.ask(&[up(index)]).context(describe)?;
        let index_inside = netdevice::name_to_index(&inside.socket, INSIDE).context(describe)?;
        inside
            .netlink
            .ask(&[address(index_inside, own, own, Block::PREFIX), up(index_inside), default_route(gateway)])
            .context(describe)?;
        // The end that was first to be up waits for a thread of the kernel, and loses what is sent until then.
        wait_until(|| Ok(device(&mut outside, index, LINK_STATE)?.first() == Some(&UP))).context(describe)?;
        // This waits for that thread to let go of the devices.
        outside.ask(&[address(index, gateway, own, 32)]).context(describe)?;
        Ok((inside, number))
    }
}

impl First {
    /// Whether the first packet of a connection gets as far as where it would leave the host. The table must be there.
    pub(crate) fn gets_through(&self) -> Result<bool, Fault> {
        let describe = || "try a private network";
        if host_address().is_none() {
            // A machine without a way to others forwards nothing, and the steps miss nothing.
            return Ok(true);
        }
        // Port 443: a firewall that lets only some kinds through lets this one through.
        match rustix::net::connect(&self.namespace.socket, &SocketAddrV4::new(ANYWHERE, 443)) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            // Refused already.
            Err(_) => return Ok(false),
        }
        let mut socket = Netlink::open(Some(NETFILTER)).context(describe)?;
        let mut came = None;
        let mut left = false;
        wait_until(|| {
            let probes = self.table.probes(&mut socket)?;
            left = probes.left > 0;
            if probes.came > 0 {
                came.get_or_insert_with(Instant::now);
            }
            Ok(left || came.is_some_and(|came| came.elapsed() > FORWARDING))
        })
        .context(describe)?;
        Ok(left)
    }
}

/// Whether this process may change the network that it is in.
fn may_configure() -> bool {
    // Asks to leave the loopback device as it is.
    let nothing = Message::new(NEW_LINK, 0, &link_head(1, 0), &Attributes::default());
    let tried = Netlink::open(None).and_then(|mut netlink| netlink.ask(&[nothing]));
    !tried.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// Makes a pair of devices, of which the namespace has one, under the first number that is free: the kernel sees to it
/// that no name is taken twice.
fn make_pair(outside: &mut Netlink, namespace: &OwnedFd, mtu: Option<u32>) -> Result<u16, Fault> {
    let with_mtu = |list: Attributes| match mtu {
        Some(mtu) => list.with(LINK_MTU, &mtu.to_ne_bytes()),
        None => list,
    };
    for number in Block::LINKS {
        let peer = with_mtu(Attributes::default())
            .with_text(LINK_NAME, INSIDE)
            .with(LINK_NAMESPACE, &namespace.as_raw_fd().to_ne_bytes());
        let data = Attributes::default().with_list_behind(VETH_PEER, &link_head(0, 0), peer);
        let info = Attributes::default().with_text(INFO_KIND, "veth").with_list(INFO_DATA, data);
        let list = with_mtu(Attributes::default())
            .with_text(LINK_NAME, &format!("{DEVICE}{number}"))
            .with_list(LINK_INFO, info);
        match outside.ask(&[Message::new(NEW_LINK, CREATE | EXCLUSIVE, &link_head(0, 0), &list)]) {
            Ok(()) => return Ok(number),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Fault::Unsupported("make a pair of network devices: not allowed".to_owned()));
            }
            Err(error) => return Err(error).context(|| "make a pair of network devices"),
        }
    }
    Err(Fault::Setup("make a pair of network devices: there are too many".to_owned()))
}

/// The longest packet that the way to others takes, where the machine says so. Longer ones get lost where somebody on the
/// way keeps silent about it.
fn longest_packet() -> Option<u32> {
    let index = netdevice::name_to_index(stream().ok()?, &default_device()?).ok()?;
    let mtu = device(&mut Netlink::open(None).ok()?, index, LINK_MTU).ok()?;
    mtu.first_chunk().map(|mtu| u32::from_ne_bytes(*mtu))
}

/// What the kernel says of a device; empty where it says nothing.
fn device(netlink: &mut Netlink, index: u32, attribute_kind: u16) -> io::Result<Vec<u8>> {
    let body = netlink.get(&Message::new(GET_LINK, 0, &link_head(index, 0), &Attributes::default()))?;
    let list = body.get(link_head(0, 0).len()..).unwrap_or_default();
    Ok(attribute(list, attribute_kind).unwrap_or_default().to_owned())
}

/// `struct ifinfomsg`.
fn link_head(index: u32, flags: u32) -> [u8; 16] {
    let mut head = [0; 16];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..16].copy_from_slice(&flags.to_ne_bytes());
    head
}

fn up(index: u32) -> Message {
    Message::new(NEW_LINK, 0, &link_head(index, libc::IFF_UP.cast_unsigned()), &Attributes::default())
}

/// `other` is whom the device leads to.
fn address(index: u32, own: Ipv4Addr, other: Ipv4Addr, prefix: u8) -> Message {
    let mut head = [IPV4, prefix, 0, 0, 0, 0, 0, 0];
    head[4..].copy_from_slice(&index.to_ne_bytes());
    let list = Attributes::default().with(LOCAL_ADDRESS, &own.octets()).with(ADDRESS, &other.octets());
    Message::new(NEW_ADDRESS, CREATE | EXCLUSIVE, &head, &list)
}

fn default_route(gateway: Ipv4Addr) -> Message {
    let head = [IPV4, 0, 0, 0, MAIN_TABLE, BOOT_PROTOCOL, 0, UNICAST, 0, 0, 0, 0];
    let list = Attributes::default().with(ROUTE_GATEWAY, &gateway.octets());
    Message::new(NEW_ROUTE, CREATE | EXCLUSIVE, &head, &list)
}

fn stream() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?)
}

/// Whether something holds before long.
fn wait_until(mut holds: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    let begin = Instant::now();
    while !holds()? {
        if begin.elapsed() > PATIENCE {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_closed_connections_are_in_the_way() {
        let quiet = "sockets: used 5\nTCP: inuse 0 orphan 0 tw 0 alloc 1 mem 0\nUDP: inuse 0 mem 0\n";
        assert!(!has_connections(quiet));
        assert!(has_connections(&quiet.replace("tw 0", "tw 3")));
        assert!(has_connections(&quiet.replacen("inuse 0", "inuse 1", 1)));
        assert!(has_connections("of another kind\n"));
        let list = |port: &str| {
            format!("  sl  local_address rem_address   st\n   0: 0100007F:{port} 0100007F:D431 06 0 0\n")
        };
        assert!(has_taken_port(&list("1F90")) && !has_taken_port(&list("D430")));
        assert!(!has_taken_port("  sl  local_address rem_address   st\n"));
    }
}
