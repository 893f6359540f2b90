use std::io;
use std::path::{Path, PathBuf};

use cache::KeptId;
use executor::{Cause, ExitStatus};

/// An operation could not be performed.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A process of a RUN did not succeed.
    #[error("process \"{command}\" did not complete successfully: {}", describe(.status, .cause.as_ref()))]
    Exit {
        /// The program and its arguments.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// Why, where it was not by itself.
        cause: Option<Cause>,
        /// What the step left, where that is kept.
        kept: Option<KeptId>,
    },
    /// Programs of this platform do not run here.
    #[error(
        "programs for {platform} do not run on this machine ({host}): install an emulator that the kernel knows \
         (Debian: apt-get install qemu-user-static binfmt-support)"
    )]
    Foreign {
        /// What they are for.
        platform: String,
        /// This machine.
        host: String,
    },
    /// A secret or an ssh agent cannot be had.
    #[error("{0}")]
    Secret(String),
    /// A file or repository from elsewhere cannot be had.
    #[error(transparent)]
    Remote(#[from] remote::Error),
    /// A name is not in the tree's user database.
    #[error("unable to find {kind} {name}: no such entry in the image's {file}")]
    UnknownUser {
        /// `user` or `group`.
        kind: &'static str,
        /// As written.
        name: String,
        /// Where it was looked for.
        file: &'static str,
    },
    /// A copy cannot be made as asked.
    #[error("{0}")]
    Copy(String),
    /// What this version cannot do; the message names it.
    #[error("{0} is not supported yet")]
    Unsupported(String),
    /// A layer of an image is not what it claims to be.
    #[error("{image}: layer {layer}: {reason}")]
    Layer {
        /// The image's name.
        image: String,
        /// The blob.
        layer: hash::Digest,
        /// What is wrong.
        reason: String,
    },
    /// A layer could not be packed.
    #[error("pack a layer: {0}")]
    Pack(String),
    /// An image or a blob could not be had.
    #[error(transparent)]
    Image(#[from] image::ResolveError),
    /// Files could not be selected, read or written.
    #[error(transparent)]
    Files(#[from] files::Error),
    /// The state directory could not be used.
    #[error(transparent)]
    Cache(#[from] cache::CacheError),
    /// The sandbox could not be set up.
    #[error(transparent)]
    Sandbox(#[from] executor::Error),
    /// Another file operation failed.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// The verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A thread of this program broke down: a defect, not the user's mistake.
    #[error("internal error: {0}")]
    Internal(String),
}

impl From<files::TreeError> for WorkerError {
    fn from(error: files::TreeError) -> WorkerError {
        WorkerError::Files(error.into())
    }
}

impl WorkerError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> WorkerError {
        WorkerError::Io { action, path: path.to_owned(), source }
    }
}

fn describe(status: &ExitStatus, cause: Option<&Cause>) -> String {
    if let Some(cause) = cause {
        return cause.to_string();
    }
    match status {
        ExitStatus::Code(code) => format!("exit code: {code}"),
        ExitStatus::Signal(signal) => format!("killed by signal {signal}"),
    }
}
