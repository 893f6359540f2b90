//! The outermost process of a sandbox: it sees to it that nothing outlives the caller.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{PidfdFlags, Signal, WaitOptions};
use rustix::thread::UnshareFlags;
use serde::de::DeserializeOwned;

use crate::cgroup::Groups;
use crate::control::{self, Report, Task};
use crate::fault::{Context, Fault};
use crate::keeper::Given;
use crate::network::{Helper, Table, attend};
use crate::{Network, SANDBOX_ARGUMENT, Stdio, keeper, sys};

/// Turns this process into the sandbox helper when its first argument is [`SANDBOX_ARGUMENT`], and then does not
/// return. Otherwise it does nothing. Call it first thing in `main`, before any thread exists.
pub fn sandbox_init() {
    if std::env::args_os().nth(1).is_none_or(|argument| argument != SANDBOX_ARGUMENT) {
        return;
    }
    let code = match rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3) {
        Ok(control) => match guard(&control) {
            Ok(()) => 0,
            Err(fault) => {
                control::report(control.as_fd(), &Report::Fault(fault), None);
                1
            }
        },
        Err(_) => 2,
    };
    sys::exit(code);
}

fn guard(control: &OwnedFd) -> Result<(), Fault> {
    // A session of its own: a terminal's signals are for the caller, who decides.
    rustix::process::setsid().context(|| "start a session")?;
    let (kind, mut descriptors) = match control::receive(control.as_fd()).context(|| "receive the task")? {
        Some((kind, descriptors)) => (kind, descriptors.into_iter()),
        None => return Ok(()),
    };
    let Some(task) = descriptors.next() else {
        return Err(Fault::Setup(format!("{SANDBOX_ARGUMENT} is for internal use")));
    };
    if kind == control::HELPER {
        return guard_helper(control, task, descriptors.next());
    }
    if kind == control::TABLE {
        release_streams(control);
        return read::<Table>(task)?.attend(control);
    }
    let task = Task::read(task).context(|| "read the task")?;
    let mut expect = |expected: bool| if expected { descriptors.next() } else { None };
    let mut given = Given {
        stdin: expect(task.spec.stdio == Stdio::Inherit),
        network: expect(task.spec.network == Network::Private),
        groups: Vec::new(),
        devices: false,
        cgroup: None,
    };
    let groups = Groups::make(&task.spec)?;
    let run = groups.entrances().and_then(|entrances| {
        given.groups = entrances;
        given.devices = groups.devices;
        given.cgroup = groups.common.clone();
        watch(control, "keeper", |own| keeper::run(&task, control, &given, own))
    });
    if let Some(limit) = groups.out_of_memory() {
        control::report(control.as_fd(), &Report::OutOfMemory(limit), None);
    }
    groups.remove();
    run
}

/// Guards the program that connects a private network.
fn guard_helper(control: &OwnedFd, task: OwnedFd, namespace: Option<OwnedFd>) -> Result<(), Fault> {
    let helper: Helper = read(task)?;
    let namespace = namespace.ok_or_else(|| Fault::Setup("connect a network: there is none".to_owned()))?;
    watch(control, "network helper", |own| attend(&helper, &namespace, control, own))
}

fn read<T: DeserializeOwned>(task: OwnedFd) -> Result<T, Fault> {
    serde_json::from_reader(File::from(task)).map_err(std::io::Error::from).context(|| "read the task")
}

/// Runs something as the init process of a new pid namespace, to its end or to the caller's.
fn watch(control: &OwnedFd, name: &str, work: impl FnOnce(&OwnedFd) -> i32) -> Result<(), Fault> {
    let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
        .context(|| "open the sandbox's guard")?;
    keeper::separate(UnshareFlags::NEWPID, "process")?;
    let child = sys::fork(|| work(&own)).context(|| format!("start the sandbox's {name}"))?;
    release_streams(control);

    let watched = rustix::process::pidfd_open(child, PidfdFlags::empty())
        .context(|| format!("watch the sandbox's {name}"))?;
    // A hang-up is reported without being asked for.
    let mut events = [PollFd::new(&watched, PollFlags::IN), PollFd::new(control, PollFlags::empty())];
    rustix::io::retry_on_intr(|| poll(&mut events, None)).context(|| "watch the sandbox")?;
    if !events[1].revents().is_empty() {
        let _already_gone = rustix::process::pidfd_send_signal(&watched, Signal::KILL);
    }
    // It is the init process of a pid namespace: once it is reaped, nothing in there is left.
    let ended = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(child), WaitOptions::empty()))
        .context(|| format!("wait for the sandbox's {name}"))?;
    if let Some(signal) = ended.and_then(|(_, status)| status.terminating_signal()) {
        control::report(control.as_fd(), &Report::Killed(signal), None);
    }
    Ok(())
}

/// Lets go of the output pipes, whose end the caller waits for.
pub(crate) fn release_streams(control: &OwnedFd) {
    let _kept = rustix::stdio::dup2_stdin(control);
    let _kept = rustix::stdio::dup2_stdout(control);
    let _kept = rustix::stdio::dup2_stderr(control);
}
