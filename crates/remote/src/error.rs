use std::io;

use hash::Digest;

/// Why something could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is asked for makes no sense, or is refused as dangerous.
    #[error("{0}")]
    Invalid(String),
    /// The file is another one than was asked for. Nothing of it is kept.
    #[error("{url} has the checksum {found}, not {expected}")]
    Checksum {
        /// Where it came from.
        url: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The commit is another one than was asked for.
    #[error("{reference} of {remote} is commit {found}, which does not begin with the checksum {expected}")]
    Commit {
        /// The repository, without credentials.
        remote: String,
        /// What was resolved.
        reference: String,
        /// What was asked for.
        expected: String,
        /// The commit's id; of an annotated tag, its own id as well.
        found: String,
    },
    /// The file is larger than allowed. Nothing of it is kept.
    #[error("{url} is larger than {limit} bytes, the most that is downloaded")]
    TooLarge {
        /// Where it comes from.
        url: String,
        /// [`crate::Config::max_size`]
        limit: u64,
    },
    /// The server has no such thing, does not let us in, cannot be reached, or breaks off again and again.
    #[error("cannot fetch {url}: {message}")]
    Fetch {
        /// What was asked for, without credentials.
        url: String,
        /// Why not, in words.
        message: String,
    },
    /// The git program is not installed.
    #[error(
        "cannot fetch {remote}: the program `{program}` is needed for it, and this machine does not have it"
    )]
    NoGit {
        /// The repository, without credentials.
        remote: String,
        /// [`crate::GitConfig::program`]
        program: String,
    },
    /// This machine fails.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried: `write PATH`.
        action: String,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(action: impl Into<String>, source: io::Error) -> Error {
        Error::Io { action: action.into(), source }
    }
}
