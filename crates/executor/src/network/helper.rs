//! The program that connects a network namespace to the host's network.
//!
//! It runs under a guard of its own, like a step: the init process of a pid namespace starts it, so that it ends with the
//! caller however that ends, and whatever it does to stay.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::process::WaitOptions;
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use crate::control::{self, Report};
use crate::fault::{Context, Fault};
use crate::{keeper, sys, wire};

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

/// A new network namespace with its loopback device.
pub(crate) fn new_namespace() -> Result<OwnedFd, Fault> {
    // A thread can be in a namespace of its own, and takes nobody along.
    let made = std::thread::spawn(|| {
        keeper::separate(UnshareFlags::NEWNET, "network")?;
        keeper::start_loopback()?;
        rustix::fs::open("/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .context(|| "open the private network")
    });
    made.join().map_err(|_| Fault::Setup("make a network namespace: the thread failed".to_owned()))?
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
            sys::reset_signals();
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
