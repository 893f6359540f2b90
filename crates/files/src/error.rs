use std::io;
use std::path::{Path, PathBuf};

use crate::TreeError;

/// Selecting, hashing or writing files failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tree could not be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A path without wildcards is not there.
    #[error("\"/{path}\": not found{reason}", path = path.display(), reason = excluded(hidden_by.as_deref()))]
    NotFound {
        /// As it was asked for, relative to the root.
        path: PathBuf,
        /// The ignore pattern that hides it, when one does.
        hidden_by: Option<String>,
    },
    /// A pattern of `filepath.Match` is malformed.
    #[error("invalid pattern `{pattern}`: {reason}")]
    BadPattern {
        /// As written.
        pattern: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A line of an ignore file is malformed.
    #[error("line {line}: invalid pattern `{pattern}`: {reason}")]
    BadIgnoreLine {
        /// 1-based.
        line: usize,
        /// As written.
        pattern: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Symbolic links lead in a circle, or there are more of them than anyone needs.
    #[error("resolve \"/{path}\": too many symbolic links", path = path.display())]
    LinkLoop {
        /// The path that was to be resolved.
        path: PathBuf,
    },
    /// A file is not what it was when the tree was walked.
    #[error("\"/{path}\" changed while it was read", path = path.display())]
    Changed {
        /// Relative to the root of the tree.
        path: PathBuf,
    },
    /// A name that would lead out of the tree that is written.
    #[error("write \"{path}\": {reason}", path = path.display())]
    Unsafe {
        /// As given.
        path: PathBuf,
        /// Why it is refused.
        reason: &'static str,
    },
    /// A tree could not be written.
    #[error("{action} {path}: {source}", path = path.display())]
    Write {
        /// The verb.
        action: &'static str,
        /// Where, on the host.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The caller gave up.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    pub(crate) fn write(
        action: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Error {
        Error::Write { action, path: path.into(), source: source.into() }
    }

    pub(crate) fn changed(path: &Path) -> Error {
        Error::Changed { path: path.to_owned() }
    }
}

fn excluded(pattern: Option<&str>) -> String {
    pattern.map(|pattern| format!(" (excluded by the ignore pattern `{pattern}`)")).unwrap_or_default()
}

/// Whether the caller gave up: asked before each entry and each MiB.
pub type Cancelled<'a> = &'a (dyn Fn() -> bool + Sync);

pub(crate) fn check(cancelled: Cancelled<'_>) -> Result<(), Error> {
    if cancelled() { Err(Error::Cancelled) } else { Ok(()) }
}
