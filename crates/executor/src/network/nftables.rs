//! The table of the kernel's packet filter (nftables) that a build has while it lasts: it lets links reach others under the
//! host's address, keeps links apart, and counts what tries whether the host forwards at all.
//!
//! The table belongs to the socket that made it (`NFT_TABLE_F_OWNER`, Linux 5.12): nobody else changes it, and the kernel
//! removes it when the socket is closed, which is when the builder ends, however it ends. The kernel takes some milliseconds
//! for that; so that nobody waits for them, the socket belongs to a process that ends just after the builder.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};

use super::addresses::{ANYWHERE, Block};
use super::netlink::{
    APPEND, Attributes, CREATE, DUMP, EXCLUSIVE, Message, NETFILTER, Netlink, attribute, attributes,
};
use crate::control::{self, Report};
use crate::fault::{Context, Fault};

// linux/netfilter/nfnetlink.h
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
// linux/netfilter/nf_tables.h; a group is numbered from 1 on, in the header's order.
const NEW_TABLE: u16 = 0;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const OWNER: u32 = 2;
const REGISTER: u32 = 1;
const VERDICT_REGISTER: u32 = 0;
const NETWORK_HEADER: u32 = 1;
const EQUAL: u32 = 0;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
// Places in the header of IPv4 (RFC 791).
const SOURCE: u32 = 12;
const TARGET: u32 = 16;
// linux/netfilter.h, linux/netfilter_ipv4.h
const IPV4: u8 = 2;
const POSTROUTING: u32 = 4;
/// Just before others translate addresses: the first to do so decides.
const PRIORITY: u32 = 99;

/// Its one chain. The kernel asks it what to do with the first packet of each connection that leaves the host, behind
/// everything that might drop what is forwarded.
const CHAIN: &str = "out";

/// A table to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Table {
    /// A name that no other table has: that of the device that leads to the first link.
    pub(crate) name: String,
    /// The addresses of all links.
    pub(crate) block: Block,
    /// The address of the first link, from which it is tried.
    pub(crate) first: Ipv4Addr,
}

impl Table {
    /// Makes it. It is gone when what is returned is dropped.
    pub(crate) fn make(&self) -> io::Result<Netlink> {
        let from = [load(SOURCE), mask(), equals(self.block.base())];
        let from_first = [load(SOURCE), equals(self.first)];
        let to_nobody = [load(TARGET), equals(ANYWHERE)];
        let to_others = [load(TARGET), mask(), equals(self.block.base())];
        let messages = [
            self.message(),
            self.chain(),
            // Counted here.
            self.rule([&from_first[..], &to_nobody, &[plain("counter"), verdict(DROP)]].concat()),
            // Counted in the table of another build.
            self.rule([&from[..], &to_nobody, &[verdict(ACCEPT)]].concat()),
            self.rule([&from[..], &to_others, &[verdict(DROP)]].concat()),
            self.rule([&from[..], &[plain("masq")]].concat()),
        ];
        let mut socket = Netlink::open(Some(NETFILTER))?;
        let [begin, end] = [BATCH_BEGIN, BATCH_END]
            .map(|kind| Message::new(kind, 0, &head(0, SUBSYSTEM), &Attributes::default()));
        socket.ask_between(Some(&begin), &messages, Some(&end))?;
        Ok(socket)
    }

    /// Makes it in a process of its own, reports, and stays until the caller is gone.
    pub(crate) fn attend(&self, control: &OwnedFd) -> Result<(), Fault> {
        let _made = self.make().context(|| "translate addresses with nftables")?;
        control::report(control.as_fd(), &Report::Started, None);
        // A hang-up is reported without being asked for.
        let mut events = [PollFd::new(control, PollFlags::empty())];
        rustix::io::retry_on_intr(|| poll(&mut events, None)).context(|| "watch the caller").map(drop)
    }

    /// How many connections from the first link to [`ANYWHERE`] came as far as where they would leave the host; they do
    /// not leave it.
    pub(crate) fn probes(&self, socket: &mut Netlink) -> io::Result<u64> {
        let wanted = Attributes::default().with_text(1, &self.name).with_text(2, CHAIN);
        let bodies = socket.list(&message(GET_RULE, DUMP, &wanted))?;
        // The structure in front is as long as an attribute's head.
        Ok(bodies.iter().filter_map(|body| packets(body.get(4..)?)).sum())
    }

    fn message(&self) -> Message {
        let attributes = Attributes::default().with_text(1, &self.name).with_number(2, OWNER);
        message(NEW_TABLE, CREATE | EXCLUSIVE, &attributes)
    }

    fn chain(&self) -> Message {
        let hook = Attributes::default().with_number(1, POSTROUTING).with_number(2, PRIORITY);
        let attributes = Attributes::default()
            .with_text(1, &self.name)
            .with_text(3, CHAIN)
            .with_list(4, hook)
            .with_text(7, "nat");
        message(NEW_CHAIN, CREATE, &attributes)
    }

    fn rule(&self, expressions: Vec<Attributes>) -> Message {
        let add = |list: Attributes, expression| list.with_list(1, expression);
        let list = expressions.into_iter().fold(Attributes::default(), add);
        let attributes =
            Attributes::default().with_text(1, &self.name).with_text(2, CHAIN).with_list(4, list);
        message(NEW_RULE, CREATE | APPEND, &attributes)
    }
}

/// The packets that the counter of a rule has seen.
fn packets(rule: &[u8]) -> Option<u64> {
    let expressions = attribute(rule, 4)?;
    attributes(expressions).find_map(|(_, expression)| {
        let counter = attribute(expression, 1)?.starts_with(b"counter\0");
        let data = attribute(expression, 2).filter(|_| counter)?;
        attribute(data, 2)?.first_chunk().map(|number| u64::from_be_bytes(*number))
    })
}

/// `struct nfgenmsg`.
fn head(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn message(kind: u16, flags: u16, attributes: &Attributes) -> Message {
    Message::new(SUBSYSTEM << 8 | kind, flags, &head(IPV4, 0), attributes)
}

fn plain(name: &str) -> Attributes {
    Attributes::default().with_text(1, name)
}

fn expression(name: &str, data: Attributes) -> Attributes {
    plain(name).with_list(2, data)
}

/// Puts an address of the packet into the register.
fn load(offset: u32) -> Attributes {
    let data = Attributes::default()
        .with_number(1, REGISTER)
        .with_number(2, NETWORK_HEADER)
        .with_number(3, offset)
        .with_number(4, 4);
    expression("payload", data)
}

/// Leaves of the register what all addresses of a block have in common.
fn mask() -> Attributes {
    let value = |bytes: [u8; 4]| Attributes::default().with(1, &bytes);
    let data = Attributes::default()
        .with_number(1, REGISTER)
        .with_number(2, REGISTER)
        .with_number(3, 4)
        .with_list(4, value(Block::MASK.octets()))
        .with_list(5, value([0; 4]));
    expression("bitwise", data)
}

/// Goes on when the register has this value.
fn equals(address: Ipv4Addr) -> Attributes {
    let value = Attributes::default().with(1, &address.octets());
    let data = Attributes::default().with_number(1, REGISTER).with_number(2, EQUAL).with_list(3, value);
    expression("cmp", data)
}

/// What becomes of the packet.
fn verdict(code: u32) -> Attributes {
    let verdict = Attributes::default().with_number(1, code);
    let data = Attributes::default()
        .with_number(1, VERDICT_REGISTER)
        .with_list(2, Attributes::default().with_list(2, verdict));
    expression("immediate", data)
}
