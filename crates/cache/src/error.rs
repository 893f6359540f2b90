use std::io;
use std::path::{Path, PathBuf};

use crate::holders;
use crate::layout::Layout;

/// The state directory could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A file operation failed.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// The verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The database failed.
    #[error("{action} in the cache database {path}: {message}", path = path.display())]
    Database {
        /// The verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        message: String,
    },
    /// The state directory cannot be used as it is.
    #[error("state directory {path}: {reason}", path = path.display())]
    Unusable {
        /// Where.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// There is no state directory, and none was to be made.
    #[error("there is no state directory at {path}", path = path.display())]
    Absent {
        /// Where.
        path: PathBuf,
    },
    /// The database is damaged. It is left as it is until somebody opens it to repair it.
    #[error("the database of the state directory {path} is damaged ({why})", path = path.display())]
    Damaged {
        /// The state directory.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// Another process has replaced the damaged database since it was opened here.
    #[error("the database of the state directory {path} was damaged, and was replaced meanwhile", path = path.display())]
    Replaced {
        /// The state directory.
        path: PathBuf,
    },
    /// Other commands are using the state directory, and what was asked for needs it alone.
    #[error("state directory {path} is in use by {by}", path = path.display())]
    Busy {
        /// Where.
        path: PathBuf,
        /// Who is, in words.
        by: String,
    },
    /// Reading or writing a tree failed.
    #[error(transparent)]
    Tree(files::Error),
    /// A snapshot is not, or no longer, in this state directory.
    #[error("snapshot {0} is not in the state directory")]
    NoSnapshot(crate::SnapshotId),
}

impl CacheError {
    /// Others have the session lock.
    pub(crate) fn busy(layout: &Layout) -> CacheError {
        CacheError::Busy { path: layout.root().to_owned(), by: holders::in_words(&layout.session_lock()) }
    }
}

impl From<files::TreeError> for CacheError {
    fn from(error: files::TreeError) -> Self {
        CacheError::Io { action: error.action, path: error.path, source: error.source }
    }
}

impl From<files::Error> for CacheError {
    fn from(error: files::Error) -> Self {
        match error {
            files::Error::Tree(error) => error.into(),
            files::Error::Write { action, path, source } => CacheError::Io { action, path, source },
            other => CacheError::Tree(other),
        }
    }
}

impl From<CacheError> for io::Error {
    /// For seams that speak [`io::Error`]: the kind stays, the words say where.
    fn from(error: CacheError) -> Self {
        let kind = match &error {
            CacheError::Io { source, .. } => source.kind(),
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error.to_string())
    }
}

/// Adds verb and path to an I/O error.
pub(crate) trait At<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, CacheError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, CacheError> {
        self.map_err(|source| CacheError::Io { action, path: path.to_owned(), source: source.into() })
    }
}
