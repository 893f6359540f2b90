//! Addresses for private networks that nothing on this machine uses, and what the machine's routes say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use serde::{Deserialize, Serialize};

/// Where to look for room: private addresses (RFC 1918) that neither Docker, Podman, libvirt nor Kubernetes begins with.
const BLOCKS: [Block; 4] = [
    Block { base: Ipv4Addr::new(10, 213, 0, 0) },
    Block { base: Ipv4Addr::new(10, 71, 0, 0) },
    Block { base: Ipv4Addr::new(172, 30, 0, 0) },
    Block { base: Ipv4Addr::new(192, 168, 0, 0) },
];

/// An address that any default route leads to; nobody has it (RFC 5737 keeps it for documentation).
pub(crate) const ANYWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Likewise (RFC 3849).
const ANYWHERE_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// 65536 addresses. The second is the host's, and each further one that of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Block {
    base: Ipv4Addr,
}

impl Block {
    /// Length of the part that all of its addresses have in common.
    pub(crate) const PREFIX: u8 = 16;
    /// That part.
    pub(crate) const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 0, 0);
    /// Numbers of links.
    pub(crate) const LINKS: std::ops::Range<u16> = 2..0xffff;

    /// The first that no route of the machine leads to, but those of links.
    pub(crate) fn find() -> Option<Self> {
        let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
        Self::choose(&Route::parse(&routes))
    }

    fn choose(routes: &[Route]) -> Option<Self> {
        let is_free = |block: &Block| {
            !routes.iter().any(|route| {
                let common = route.mask & u32::from(Self::MASK);
                let is_default = route.mask == 0;
                let is_link = route.device.starts_with(super::links::DEVICE);
                !is_default && !is_link && route.target & common == u32::from(block.base) & common
            })
        };
        BLOCKS.into_iter().find(is_free)
    }

    /// Its first address.
    pub(crate) fn base(self) -> Ipv4Addr {
        self.base
    }

    /// The address of the host.
    pub(crate) fn gateway(self) -> Ipv4Addr {
        self.link(1)
    }

    /// The address of a link.
    pub(crate) fn link(self, number: u16) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) | u32::from(number))
    }
}

/// A line of `/proc/net/route`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Route {
    device: String,
    target: u32,
    mask: u32,
}

impl Route {
    fn parse(text: &str) -> Vec<Self> {
        let number = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::from_be);
        text.lines()
            .skip(1)
            .filter_map(|line| {
                let fields: Vec<&str> = line.split_ascii_whitespace().collect();
                Some(Self {
                    device: (*fields.first()?).to_owned(),
                    target: number(fields.get(1)?)?,
                    mask: number(fields.get(7)?)?,
                })
            })
            .collect()
    }
}

/// The device that leads to others.
pub(crate) fn default_device() -> Option<String> {
    let routes = Route::parse(&std::fs::read_to_string("/proc/net/route").ok()?);
    routes.into_iter().find(|route| route.mask == 0).map(|route| route.device)
}

/// The address from which the host reaches others. Nothing is sent.
pub(crate) fn host_address() -> Option<IpAddr> {
    address_towards(ANYWHERE.into())
}

/// Whether others can be reached, but not by the addresses that private networks have.
pub(crate) fn only_new_addresses() -> bool {
    host_address().is_none() && address_towards(ANYWHERE_6.into()).is_some()
}

fn address_towards(target: IpAddr) -> Option<IpAddr> {
    let own: IpAddr =
        if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((own, 0)).ok()?;
    socket.connect((target, 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";

    /// Routes as the kernel of this machine shows them.
    fn routes(lines: &[(&str, [u8; 4], [u8; 4])]) -> Vec<Route> {
        let number = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        let lines = lines.iter().map(|(device, target, mask)| {
            format!("{device}\t{}\t0\t0001\t0\t0\t0\t{}\t0\t0\t0\n", number(*target), number(*mask))
        });
        Route::parse(&(HEAD.to_owned() + &lines.collect::<String>()))
    }

    #[test]
    fn blocks_in_use_are_left_alone() {
        let choose = |lines: &[_]| Block::choose(&routes(lines)).map(Block::base);
        let default = ("eth0", [0; 4], [0; 4]);
        assert_eq!(choose(&[default]), Some(BLOCKS[0].base));
        assert_eq!(choose(&[]), Some(BLOCKS[0].base));
        // A route to a part of it, and one to much more.
        assert_eq!(choose(&[default, ("tun0", [10, 213, 7, 0], [255, 255, 255, 0])]), Some(BLOCKS[1].base));
        assert_eq!(choose(&[("tun0", [10, 0, 0, 0], [255, 0, 0, 0])]), Some(BLOCKS[2].base));
        // Those of other builds.
        let link = ("builder7", [10, 213, 0, 7], [255; 4]);
        assert_eq!(choose(&[default, link]), Some(BLOCKS[0].base));
        let all = [("a", [10, 0, 0, 0], [255, 0, 0, 0]), ("b", [172, 16, 0, 0], [255, 240, 0, 0])];
        assert_eq!(choose(&[all[0], all[1], ("c", [192, 168, 0, 0], [255, 255, 0, 0])]), None);
    }

    #[test]
    fn links_have_addresses_of_their_own() {
        let block = BLOCKS[0];
        assert_eq!(block.gateway(), Ipv4Addr::new(10, 213, 0, 1));
        assert_eq!(block.link(2), Ipv4Addr::new(10, 213, 0, 2));
        assert_eq!(block.link(Block::LINKS.end - 1), Ipv4Addr::new(10, 213, 255, 254));
    }
}
