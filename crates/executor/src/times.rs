//! Where the time goes that the sandbox itself takes.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use serde::{Deserialize, Serialize};

use crate::control::{self, Report};
use crate::fault::{Context, Fault};

/// What parts of the sandbox's own work took. Between them a program is executed and runs; with an [`crate::External`] program, all that it does is
/// [`Self::process`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Making namespaces, or entering that of the network.
    pub namespaces: Duration,
    /// Mounting the root file system and all that goes into it but `/proc`.
    pub mounts: Duration,
    /// Making the process.
    pub process: Duration,
    /// What the process does before it can reach nothing but the sandbox: it enters its control groups, mounts `/proc`, hides parts of it, and
    /// changes its root. Its filter, its user and the execution of its program come later.
    pub enter: Duration,
    /// Taking down the mounts when the process is gone.
    pub unmount: Duration,
}

/// Takes the [`Times`] of a step.
pub(crate) struct Clock {
    times: Times,
    /// When the last part ended.
    last: Instant,
    /// Where the program's process leaves its own, where anybody wants to know.
    entered: Option<OwnedFd>,
}

impl Clock {
    pub(crate) fn start(wanted: bool) -> Result<Self, Fault> {
        let last = Instant::now();
        let made = wanted.then(|| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)).transpose();
        Ok(Self { times: Times::default(), last, entered: made.context(|| "make a clock")? })
    }

    /// A part ended.
    pub(crate) fn lap(&mut self, part: fn(&mut Times) -> &mut Duration) {
        let now = Instant::now();
        *part(&mut self.times) = now - self.last;
        self.last = now;
    }

    /// A part begins that does not follow the last one.
    pub(crate) fn resume(&mut self) {
        self.last = Instant::now();
    }

    /// In the process that entered the sandbox, and began to at `begin`.
    pub(crate) fn entered(&self, begin: Instant) {
        let Some(entered) = &self.entered else { return };
        let nanoseconds = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(0);
        let _optional = rustix::io::write(entered, &nanoseconds.to_ne_bytes());
    }

    /// Tells the caller, where it asked.
    pub(crate) fn report(mut self, control: &OwnedFd) {
        let Some(entered) = &self.entered else { return };
        let mut nanoseconds = [0; 8];
        // Nothing is there where another program made the process.
        if rustix::io::read(entered, &mut nanoseconds).is_ok() {
            self.times.enter = Duration::from_nanos(u64::from_ne_bytes(nanoseconds));
        }
        control::report(control.as_fd(), &Report::Times(self.times), None);
    }
}
