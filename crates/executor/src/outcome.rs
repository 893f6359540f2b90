//! How a process ended.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Times;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It returned this code, 0 to 255.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl ExitStatus {
    /// The code a shell would report: the process's own, or 128 plus the signal.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }

    /// Whether it returned 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

/// A run that came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How the process ended.
    pub status: ExitStatus,
    /// Why it ended, where it was not by itself.
    pub cause: Option<Cause>,
    /// What this machine could not give, and what was done instead; one sentence each, usually none.
    pub notes: Vec<String>,
    /// Processor time of the process and of all that it started, in user and system mode, also of what became a child of its only
    /// because its parent had ended. Without that of processes which still ran when it ended, and were killed.
    pub cpu: Duration,
    /// What the sandbox itself took, where [`crate::ProcessSpec::timed`] asks for it.
    pub times: Option<Times>,
}

/// How a process ended, as whoever waited for it knows.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// As [`Outcome::cpu`].
    pub(crate) cpu: Duration,
}

/// Why a process did not end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The kernel killed at least one of its processes, because together they needed more memory than
    /// [`crate::Limits::memory`]: this many bytes.
    OutOfMemory {
        /// The limit in bytes.
        limit: u64,
    },
    /// It took longer than [`crate::ProcessSpec::timeout`], and was killed.
    TimedOut {
        /// The time it was given.
        after: Duration,
    },
}

impl std::fmt::Display for Cause {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OutOfMemory { limit } => {
                write!(formatter, "killed for want of memory: its limit is {}", size(*limit))
            }
            Self::TimedOut { after } => write!(formatter, "killed after its timeout of {after:?}"),
        }
    }
}

/// Bytes as people give them: in the largest unit of which it is a whole number.
fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let whole = units.iter().find(|(_, shift)| bytes >> shift > 0 && bytes.trailing_zeros() >= *shift);
    whole.map_or_else(|| format!("{bytes} bytes"), |(unit, shift)| format!("{} {unit}", bytes >> shift))
}
