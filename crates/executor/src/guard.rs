//! The outermost process of a sandbox: it sees to it that nothing outlives the caller.
//!
//! It runs one step after the other: starting it costs more than all that a small step does. While the caller does something else
//! between two steps, it makes the keeper of the next.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use serde::de::DeserializeOwned;

use crate::cgroup::{Groups, Wanted};
use crate::control::{self, Handed, Order, Report};
use crate::fault::{Context, Fault};
use crate::network::{Helper, Table, attend};
use crate::{SANDBOX_ARGUMENT, keeper, sys};

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
    // Whatever the caller has, for all that is started from here on.
    sys::reset_signals();
    let mut steps = Steps::default();
    let served = serve(control, &mut steps);
    steps.forget();
    served
}

/// Does what the caller says, until it is gone.
fn serve(control: &OwnedFd, steps: &mut Steps) -> Result<(), Fault> {
    let mut ran = 0_usize;
    while let Some((kind, descriptors)) = control::receive(control.as_fd()).context(|| "receive the task")? {
        let mut descriptors = descriptors.into_iter();
        let Some(task) = descriptors.next() else {
            return Err(Fault::Setup(format!("{SANDBOX_ARGUMENT} is for internal use")));
        };
        match kind.as_slice() {
            control::HELPER => return guard_helper(control, task, descriptors.next()),
            control::TABLE => return read::<Table>(task)?.attend(control),
            _ => steps.run(control, task, descriptors)?,
        }
        control::report(control.as_fd(), &Report::Finished, None);
        ran += 1;
        // After a second one comes a third; a program that is run alone is the only one.
        if ran > 1 {
            steps.prepare(control);
        }
    }
    Ok(())
}

/// What is kept from one step to the next.
#[derive(Default)]
struct Steps {
    groups: Option<(Wanted, Groups)>,
    /// Waits for the next step.
    keeper: Option<Keeper>,
}

impl Steps {
    /// Guards a step to its end. `descriptors` are the streams of its process, and the private network.
    fn run(
        &mut self,
        control: &OwnedFd,
        task: OwnedFd,
        descriptors: impl Iterator<Item = OwnedFd>,
    ) -> Result<(), Fault> {
        let order = Order::read(&task).context(|| "read the task")?;
        let keeper = match self.keeper.take() {
            Some(keeper) => keeper,
            None => Keeper::start(control)?,
        };
        let groups = self.groups(order.groups)?;
        let entrances = groups.entrances()?;
        let handed = Handed {
            stdio: order.stdio,
            network: order.network,
            groups: entrances.len(),
            devices: groups.devices,
            cgroup: groups.common.clone(),
        };
        let descriptors: Vec<_> = std::iter::once(task).chain(descriptors).chain(entrances).collect();
        keeper.hand(&handed, &descriptors)?;
        // With the copies here, nobody would see the end of the streams.
        drop(descriptors);
        let ran = keeper.child.attend(control, "keeper");
        if let Some(limit) = groups.out_of_memory() {
            control::report(control.as_fd(), &Report::OutOfMemory(limit), None);
        }
        if !self.groups.as_ref().is_some_and(|(wanted, _)| wanted.lets_reuse()) {
            self.forget();
        }
        ran
    }

    /// Makes the keeper of a step that may come. Where that fails, it fails again, and is told, when the step comes.
    fn prepare(&mut self, control: &OwnedFd) {
        self.keeper = Keeper::start(control).ok();
    }

    /// The groups of the last step where they will do, else new ones.
    fn groups(&mut self, wanted: Wanted) -> Result<&Groups, Fault> {
        if self.groups.as_ref().is_none_or(|(has, _)| *has != wanted) {
            self.forget();
        }
        match &mut self.groups {
            Some((_, groups)) => Ok(groups),
            none => {
                let groups = Groups::make(&wanted)?;
                Ok(&none.insert((wanted, groups)).1)
            }
        }
    }

    fn forget(&mut self) {
        if let Some((_, groups)) = self.groups.take() {
            groups.remove();
        }
    }
}

/// A process that waits for the step that it is to keep. It ends with the value.
struct Keeper {
    child: InitProcess,
    /// Where it hears of the step.
    tell: OwnedFd,
}

impl Keeper {
    fn start(control: &OwnedFd) -> Result<Self, Fault> {
        let (tell, told) = control::channel().context(|| "create a socket")?;
        let child = InitProcess::start("keeper", |guard| keeper::run(&told, control, guard))?;
        Ok(Self { child, tell })
    }

    fn hand(&self, handed: &Handed, descriptors: &[OwnedFd]) -> Result<(), Fault> {
        let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        let packet = serde_json::to_vec(handed).map_err(std::io::Error::from);
        let sent = packet.and_then(|packet| control::send(self.tell.as_fd(), &packet, &descriptors));
        match sent {
            // It was killed; how, comes out of waiting for it.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => other.context(|| "hand over the step"),
        }
    }
}

/// Guards the program that connects a private network.
fn guard_helper(control: &OwnedFd, task: OwnedFd, namespace: Option<OwnedFd>) -> Result<(), Fault> {
    let helper: Helper = read(task)?;
    let namespace = namespace.ok_or_else(|| Fault::Setup("connect a network: there is none".to_owned()))?;
    let work = |own: &OwnedFd| attend(&helper, &namespace, control, own);
    InitProcess::start("network helper", work)?.attend(control, "network helper")
}

fn read<T: DeserializeOwned>(task: OwnedFd) -> Result<T, Fault> {
    serde_json::from_reader(File::from(task)).map_err(std::io::Error::from).context(|| "read the task")
}

/// The init process of a new pid namespace: once it is reaped, nothing in there is left. Dropping the value kills it.
struct InitProcess {
    /// `None` once it is reaped.
    pid: Option<Pid>,
    watched: OwnedFd,
}

impl InitProcess {
    /// Starts it; `work` is given a descriptor of this process, whose end it has to follow.
    fn start(name: &str, work: impl FnOnce(&OwnedFd) -> i32) -> Result<Self, Fault> {
        let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
            .context(|| "open the sandbox's guard")?;
        let made = sys::fork_init(|| work(&own));
        let pid = made.map_err(|error| keeper::inseparable("process", &error))?;
        let watched = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .context(|| format!("watch the sandbox's {name}"))?;
        Ok(Self { pid: Some(pid), watched })
    }

    /// Waits for its end, or brings it about when the caller is gone.
    fn attend(mut self, control: &OwnedFd, name: &str) -> Result<(), Fault> {
        // A hang-up is reported without being asked for.
        let mut events =
            [PollFd::new(&self.watched, PollFlags::IN), PollFd::new(control, PollFlags::empty())];
        rustix::io::retry_on_intr(|| poll(&mut events, None)).context(|| "watch the sandbox")?;
        if !events[1].revents().is_empty() {
            self.kill();
        }
        let ended = self.reap().context(|| format!("wait for the sandbox's {name}"))?;
        if let Some(signal) = ended.and_then(rustix::process::WaitStatus::terminating_signal) {
            control::report(control.as_fd(), &Report::Killed(signal), None);
        }
        Ok(())
    }

    fn kill(&self) {
        let _already_gone = rustix::process::pidfd_send_signal(&self.watched, Signal::KILL);
    }

    fn reap(&mut self) -> rustix::io::Result<Option<rustix::process::WaitStatus>> {
        let Some(pid) = self.pid.take() else { return Ok(None) };
        let ended = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(pid), WaitOptions::empty()))?;
        Ok(ended.map(|(_, status)| status))
    }
}

impl Drop for InitProcess {
    fn drop(&mut self) {
        if self.pid.is_some() {
            self.kill();
            let _reaped = self.reap();
        }
    }
}

/// Lets go of the output pipes, whose end the caller waits for.
pub(crate) fn release_streams(control: &OwnedFd) {
    let _kept = rustix::stdio::dup2_stdin(control);
    let _kept = rustix::stdio::dup2_stdout(control);
    let _kept = rustix::stdio::dup2_stderr(control);
}
