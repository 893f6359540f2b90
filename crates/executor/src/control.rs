//! What the caller and the sandbox's processes say to each other.
//!
//! The caller sends a packet. For a step it has a descriptor of a memory file with the [`Task`], the standard streams of the process
//! (standard input only where that is inherited), and the private network where there is one. The sandbox answers with [`Report`]s, of
//! which [`Report::Finished`] is the last; the next step may be sent before it has come. Packets keep their boundaries, so that all of the
//! sandbox's processes can report over one socket.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::MemfdFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::cgroup::Wanted;
use crate::fault::Fault;
use crate::outcome::Ended;
use crate::seccomp::Filter;
use crate::{Network, ProcessSpec, Stdio, Times};

/// Longest packet. Reports are a sentence; only a path of the specification makes them long.
const PACKET: usize = 16 * 1024;
/// Most descriptors in one packet: a task, three streams, a network, and a control group in each of the first version's hierarchies,
/// of which kernels know 14.
const DESCRIPTORS: usize = 20;

/// The caller's packet is one of these: a step, or for the private network a helper program or a table of the packet
/// filter.
pub(crate) const STEP: &[u8] = b"step";
pub(crate) const HELPER: &[u8] = b"helper";
pub(crate) const TABLE: &[u8] = b"table";

/// What the sandbox tells the caller.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The process exists; its pidfd comes with the packet.
    Started,
    /// The process has a terminal; the other end of it comes with the packet.
    Terminal,
    /// Something was done in another way than usual.
    Note(String),
    /// The process could not be run.
    Fault(Fault),
    /// The kernel killed something of it for want of memory; the limit in bytes.
    OutOfMemory(u64),
    /// What the sandbox took, where the caller asked.
    Times(Times),
    /// The process ended, and everything is cleaned up.
    Exited(Ended),
    /// The process that prepares and cleans up was killed by this signal.
    Killed(i32),
    /// Nothing of the step is left.
    Finished,
}

/// Sends a packet with descriptors.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors in one packet"));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a packet; `None` when the other side is gone.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let answer = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    });
    let received = match answer {
        Err(rustix::io::Errno::CONNRESET) => return Ok(None),
        other => other?,
    };
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::other("a packet is too long"));
    }
    bytes.truncate(received.bytes);
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok(if bytes.is_empty() && descriptors.is_empty() { None } else { Some((bytes, descriptors)) })
}

/// Sends a report, with a descriptor where it has one. A caller that is gone is no error: the guard notices.
pub(crate) fn report(socket: BorrowedFd<'_>, report: &Report, descriptor: Option<BorrowedFd<'_>>) {
    let mut bytes = serde_json::to_vec(report).unwrap_or_default();
    if bytes.len() > PACKET {
        let fault = Fault::Setup("the sandbox failed with a reason that is too long to tell".to_owned());
        bytes = serde_json::to_vec(&Report::Fault(fault)).unwrap_or_default();
    }
    let _gone = send(socket, &bytes, descriptor.as_slice());
}

/// What the guard needs to know of a step. It outlives the step, and should not remember what that was told, such as secrets.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) stdio: Stdio,
    pub(crate) network: Network,
    pub(crate) groups: Wanted,
}

impl Order {
    /// Reads what [`Task::write`] has written.
    pub(crate) fn read(file: &OwnedFd) -> io::Result<Self> {
        Ok(serde_json::from_slice(&read_part(&mut File::from(file.try_clone()?))?)?)
    }
}

/// What the guard says to the keeper of a step, with descriptors in this order: the task, the streams of the process, the private
/// network, and where the process enters its control groups.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Handed {
    pub(crate) stdio: Stdio,
    pub(crate) network: Network,
    /// How many there are.
    pub(crate) groups: usize,
    /// Whether they decide which devices can be used.
    pub(crate) devices: bool,
    /// Their name, where an OCI runtime takes part.
    pub(crate) cgroup: Option<String>,
}

/// Everything the sandbox's other processes need to know.
pub(crate) struct Task {
    pub(crate) spec: ProcessSpec,
    pub(crate) filter: Filter,
}

impl Task {
    /// Writes a task to a new memory file: an [`Order`], the specification, each after its length, and the filter.
    pub(crate) fn write(spec: &ProcessSpec, filter: &Filter) -> io::Result<OwnedFd> {
        let order = Order { stdio: spec.stdio, network: spec.network, groups: Wanted::of(spec) };
        let mut bytes = Vec::new();
        for part in [serde_json::to_vec(&order)?, serde_json::to_vec(spec)?] {
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part);
        }
        bytes.extend(filter.to_bytes());
        let mut file = File::from(rustix::fs::memfd_create(c"sandbox-task", MemfdFlags::CLOEXEC)?);
        file.write_all(&bytes)?;
        file.rewind()?;
        Ok(file.into())
    }

    /// Reads a task back, after its [`Order`].
    pub(crate) fn read(file: OwnedFd) -> io::Result<Self> {
        let mut file = File::from(file);
        let spec = serde_json::from_slice(&read_part(&mut file)?)?;
        let mut filter = Vec::new();
        file.read_to_end(&mut filter)?;
        let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
        Ok(Self { spec, filter: Filter::from_bytes(&filter).ok_or_else(cut)? })
    }
}

/// Reads something that comes after its length.
fn read_part(file: &mut File) -> io::Result<Vec<u8>> {
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let mut part = Vec::new();
    let length = u64::from_le_bytes(length);
    if file.take(length).read_to_end(&mut part)? as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(part)
}

/// As [`pair`], for two processes of the sandbox: both ends block.
pub(crate) fn channel() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// A pair of connected sockets that keep packet boundaries: the caller's end, which does not block, and the
/// sandbox's.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = channel()?;
    let flags = rustix::fs::fcntl_getfl(ours.as_fd())?;
    rustix::fs::fcntl_setfl(ours.as_fd(), flags | rustix::fs::OFlags::NONBLOCK)?;
    Ok((ours, theirs))
}
