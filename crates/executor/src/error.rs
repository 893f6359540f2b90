//! Why a process could not be run.

use std::io;

/// A failure of the executor. A process that ran and failed is not one: see [`crate::Outcome`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The program of the specification cannot be executed in its root file system. `code` is what a shell would
    /// return: 126 when it is there but cannot be executed, 127 when it is not there.
    #[error("{message}")]
    Program {
        /// 126 or 127.
        code: i32,
        /// What runc says: `exec: "x": executable file not found in $PATH`.
        message: String,
    },
    /// This machine or the caller's rights do not allow a sandbox. The text names the setting that forbids it.
    #[error("{0}")]
    Unsupported(String),
    /// Something in the sandbox could not be set up: verb, path and the system's reason.
    #[error("{0}")]
    Setup(String),
    /// A mount of the specification cannot be where it is wanted.
    #[error("{0}")]
    Target(String),
    /// Something on the caller's side of the sandbox failed.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The sandbox's own processes were killed from outside; nothing of the run is left.
    #[error("the sandbox was killed from outside{0} (out of memory?)")]
    Killed(String),
}

impl Error {
    /// For `map_err`: what was tried.
    pub(crate) fn io<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Io { action, source: error.into() }
    }
}
