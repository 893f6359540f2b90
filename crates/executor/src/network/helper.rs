//! The program that connects a network namespace to the host's network, `slirp4netns` or `pasta`. Inside, it is 10.0.2.0/24,
//! with a name server at 10.0.2.3 that asks those of the host.
//!
//! It runs under a guard of its own, like a step: the init process of a pid namespace starts it, so that it ends with the
//! caller however that ends, and whatever it does to stay.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{Access, MemfdFlags};
use rustix::process::WaitOptions;
use serde::{Deserialize, Serialize};

use super::NetworkKind;
use crate::control::{self, Report};
use crate::fault::{Context, Fault};
use crate::userns::find_tool;
use crate::{keeper, sys, wire};

/// The name server inside.
pub(crate) const RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 3));

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
            // Root would become nobody, who may not enter the namespace.
            "--runas",
            "0",
            // The path is that of its standard input, which is another process's once it is in the background.
            "--no-netns-quit",
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

/// A helper program with its arguments. Its standard input is the namespace.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Helper {
    #[serde(with = "wire::bytes")]
    pub(crate) program: PathBuf,
    #[serde(with = "wire::list")]
    pub(crate) args: Vec<OsString>,
    /// Whether it writes to descriptor 3 when it is ready. Otherwise it goes on in the background then, and the process
    /// that was started ends with success.
    pub(crate) announces: bool,
}

impl Helper {
    /// Those that are installed, the preferred one first.
    pub(crate) fn installed() -> impl Iterator<Item = (NetworkKind, Self)> {
        HELPERS.iter().filter_map(|(kind, name, args)| {
            let helper = Self {
                program: find_tool(name)?,
                args: args.iter().map(OsString::from).collect(),
                announces: *kind == NetworkKind::Slirp4netns,
            };
            Some((*kind, helper))
        })
    }
}

/// Whether a helper would get as far as making its device. It opens this file as the user who builds; some machines keep it for root.
pub(crate) fn can_make_devices() -> Result<(), Fault> {
    const TUN: &str = "/dev/net/tun";
    rustix::fs::access(TUN, Access::READ_OK | Access::WRITE_OK).context(|| format!("open {TUN}"))
}

/// Runs as the init process of the pid namespace: starts the helper and stays until nothing of it is left.
pub(crate) fn attend(helper: &Helper, namespace: &OwnedFd, control: &OwnedFd, guard: &OwnedFd) -> i32 {
    if !keeper::follow(guard) {
        return 1;
    }
    if let Err(fault) = start(helper, namespace) {
        control::report(control.as_fd(), &Report::Fault(fault), None);
        return 1;
    }
    control::report(control.as_fd(), &Report::Started, None);
    // It may have left a process that goes on in the background, which is a child of this one then.
    while rustix::io::retry_on_intr(|| rustix::process::wait(WaitOptions::empty())).is_ok() {}
    1
}

/// Returns once the helper is ready.
fn start(helper: &Helper, namespace: &OwnedFd) -> Result<(), Fault> {
    let describe = || format!("start {}", helper.program.display());
    // Whatever it says; a pipe could fill, or break.
    let words = rustix::fs::memfd_create(c"helper", MemfdFlags::CLOEXEC).context(describe)?;
    let (ready, ready_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context(describe)?;
    let child = sys::fork(|| {
        let streams = rustix::stdio::dup2_stdin(namespace)
            .and_then(|()| rustix::stdio::dup2_stdout(&words))
            .and_then(|()| rustix::stdio::dup2_stderr(&words));
        if streams.is_ok() {
            let _failed = execute(helper, ready_end.as_fd());
        }
        127
    })
    .context(describe)?;
    drop(ready_end);
    if helper.announces && File::from(ready).read(&mut [0]).context(describe)? == 1 {
        return Ok(());
    }
    let ended = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(child), WaitOptions::empty()))
        .context(describe)?;
    if !helper.announces && ended.is_some_and(|(_, status)| status.exit_status() == Some(0)) {
        return Ok(());
    }
    let mut text = Vec::new();
    let mut words = File::from(words);
    let _partial = words.rewind().and_then(|()| words.take(4096).read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it ended at once");
    Err(Fault::Setup(format!("{}: {}", describe(), last.trim())))
}

fn execute(helper: &Helper, ready: BorrowedFd<'_>) -> Option<std::io::Error> {
    let text = |text: &OsStr| CString::new(text.as_bytes()).ok();
    let program = text(helper.program.as_os_str())?;
    let mut args = vec![program.clone()];
    for arg in &helper.args {
        args.push(text(arg)?);
    }
    let ready = helper.announces.then_some(ready);
    Some(sys::execve_with(&program, &args, ready))
}
