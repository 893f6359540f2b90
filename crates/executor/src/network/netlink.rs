//! Messages to the kernel and its answers (netlink(7)).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

pub(crate) use rustix::net::netlink::NETFILTER;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

// linux/netlink.h
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
/// Flag of a message: all that there is.
pub(crate) const DUMP: u16 = 0x300;
/// Flag of a message: something that is not there yet.
pub(crate) const CREATE: u16 = 0x400;
/// Flag of a message: and must not be there.
pub(crate) const EXCLUSIVE: u16 = 0x200;
/// Flag of a message: behind those that are there.
pub(crate) const APPEND: u16 = 0x800;
/// Mark of an attribute that holds attributes.
const NESTED: u16 = 1 << 15;
/// Length of `struct nlmsghdr`.
const HEAD: usize = 16;
/// Length of `struct nlattr`.
const ATTRIBUTE: usize = 4;
/// The kernel answers at once, unless it does not.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than the kernel puts into one packet.
const PACKET: usize = 64 * 1024;

/// A list of attributes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    /// With another one.
    pub(crate) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        // What is put here is some dozens of bytes long.
        let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// With a number in the byte order of the network, as netfilter has them.
    pub(crate) fn with_number(self, kind: u16, value: u32) -> Self {
        self.with(kind, &value.to_be_bytes())
    }

    /// With a text that ends in a zero.
    pub(crate) fn with_text(self, kind: u16, text: &str) -> Self {
        self.with(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// With a list of attributes.
    pub(crate) fn with_list(self, kind: u16, list: Attributes) -> Self {
        self.with(kind | NESTED, &list.0)
    }

    /// With a list of attributes behind a fixed structure.
    pub(crate) fn with_list_behind(self, kind: u16, fixed: &[u8], list: Attributes) -> Self {
        self.with(kind | NESTED, &[fixed, &list.0].concat())
    }
}

/// One message.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    /// `fixed` is the structure that the messages of this kind begin with.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8], attributes: &Attributes) -> Self {
        Self { kind, flags, body: [fixed, &attributes.0].concat() }
    }
}

/// A socket to the kernel, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// `None` is the protocol for devices, addresses and routes (rtnetlink(7)).
    pub(crate) fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends messages, and waits until each is done. After a failure the socket is of no use any more.
    ///
    /// # Errors
    /// The first failure.
    pub(crate) fn ask(&mut self, messages: &[Message]) -> io::Result<()> {
        self.ask_between(None, messages, None)
    }

    /// As [`Self::ask`], with messages around that are not answered.
    pub(crate) fn ask_between(
        &mut self,
        before: Option<&Message>,
        messages: &[Message],
        after: Option<&Message>,
    ) -> io::Result<()> {
        let mut packet = Vec::new();
        if let Some(message) = before {
            self.put(&mut packet, message, 0);
        }
        for message in messages {
            self.put(&mut packet, message, ACK);
        }
        if let Some(message) = after {
            self.put(&mut packet, message, 0);
        }
        self.send(&packet)?;
        let mut missing = messages.len();
        while missing > 0 {
            for answer in self.receive()? {
                if answer.kind == ERROR {
                    answer.failure()?;
                    missing = missing.saturating_sub(1);
                }
            }
        }
        Ok(())
    }

    /// The body of the one answer to a message.
    pub(crate) fn get(&mut self, message: &Message) -> io::Result<Vec<u8>> {
        let mut packet = Vec::new();
        self.put(&mut packet, message, 0);
        self.send(&packet)?;
        let answer = self.receive()?.into_iter().next().ok_or(io::ErrorKind::InvalidData)?;
        if answer.kind == ERROR {
            answer.failure()?;
        }
        Ok(answer.body)
    }

    /// The bodies of all answers to a message that asks for all that there is.
    pub(crate) fn list(&mut self, message: &Message) -> io::Result<Vec<Vec<u8>>> {
        let mut packet = Vec::new();
        self.put(&mut packet, message, 0);
        self.send(&packet)?;
        let mut bodies = Vec::new();
        loop {
            for answer in self.receive()? {
                match answer.kind {
                    DONE => return Ok(bodies),
                    ERROR => answer.failure()?,
                    _ => bodies.push(answer.body),
                }
            }
        }
    }

    fn put(&mut self, packet: &mut Vec<u8>, message: &Message, flags: u16) {
        self.sequence += 1;
        let length = u32::try_from(HEAD + message.body.len()).unwrap_or(u32::MAX);
        packet.extend(length.to_ne_bytes());
        packet.extend(message.kind.to_ne_bytes());
        packet.extend((message.flags | flags | REQUEST).to_ne_bytes());
        packet.extend(self.sequence.to_ne_bytes());
        packet.extend([0; 4]);
        packet.extend(&message.body);
        packet.resize(packet.len().next_multiple_of(4), 0);
    }

    fn send(&self, packet: &[u8]) -> io::Result<()> {
        sendto(&self.socket, packet, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    fn receive(&self) -> io::Result<Vec<Answer>> {
        let mut packet = vec![0; PACKET];
        let (_, length) =
            rustix::io::retry_on_intr(|| recv(self.socket.as_fd(), &mut packet[..], RecvFlags::empty()))?;
        packet.truncate(length);
        answers(&packet).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

struct Answer {
    kind: u16,
    body: Vec<u8>,
}

impl Answer {
    /// An error message begins with the number, negative, or 0 for success.
    fn failure(&self) -> io::Result<()> {
        match self.body.first_chunk().map(|number| i32::from_ne_bytes(*number)) {
            Some(0) => Ok(()),
            Some(number) => Err(io::Error::from_raw_os_error(-number)),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn answers(mut packet: &[u8]) -> Option<Vec<Answer>> {
    let mut answers = Vec::new();
    while !packet.is_empty() {
        let length = usize::try_from(u32::from_ne_bytes(*packet.first_chunk()?)).ok()?;
        let kind = u16::from_ne_bytes(*packet.get(4..)?.first_chunk()?);
        answers.push(Answer { kind, body: packet.get(HEAD..length)?.to_owned() });
        packet = packet.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(answers)
}

/// The value of the first attribute of a kind in a list of attributes.
pub(crate) fn attribute(list: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(list).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// All attributes of a list, as far as it can be understood.
pub(crate) fn attributes(mut list: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*list.first_chunk()?));
        let kind = u16::from_ne_bytes(*list.get(2..)?.first_chunk()?);
        let value = list.get(ATTRIBUTE..length)?;
        list = list.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & !NESTED, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back() {
        let inner = Attributes::default().with_text(1, "masq").with_number(2, 7);
        let list = Attributes::default().with(9, &[1, 2, 3]).with_list(4, inner);
        assert_eq!(list.0.len() % 4, 0);
        assert_eq!(attribute(&list.0, 9), Some(&[1, 2, 3][..]));
        let inner = attribute(&list.0, 4).unwrap();
        assert_eq!(attribute(inner, 1), Some(&b"masq\0"[..]));
        assert_eq!(attribute(inner, 2), Some(&[0, 0, 0, 7][..]));
        assert_eq!(attribute(inner, 3), None);
        // Cut short, it is not read beyond its end.
        for length in 0..list.0.len() {
            attributes(&list.0[..length]).for_each(drop);
        }
    }

    #[test]
    fn nonsense_is_no_answer() {
        assert!(answers(&[1, 0, 0]).is_none());
        assert!(answers(&[255; 40]).is_none());
        // A length of nothing would never end.
        assert!(answers(&[0; 16]).is_none());
    }

    #[test]
    fn the_kernel_says_what_is_wrong() {
        let mut socket = Netlink::open(None).unwrap();
        // RTM_NEWLINK of a device with an index that nothing has.
        let mut fixed = [0; 16];
        fixed[4..8].copy_from_slice(&i32::MAX.to_ne_bytes());
        let error = socket.ask(&[Message::new(16, 0, &fixed, &Attributes::default())]).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EPERM)), "{error}");
    }
}
