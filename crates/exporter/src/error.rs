use std::io;
use std::path::{Path, PathBuf};

use hash::Digest;
use image::ManifestError;
use image::layer::LayerError;

use crate::Needs;

/// An export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
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
    /// The stream that it goes to takes no more.
    #[error("write to the stream: {0}")]
    Stream(#[source] io::Error),
    /// The destination cannot be written to as it is.
    #[error("{path}: {reason}", path = path.display())]
    Destination {
        /// As given.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// A layer is not in the store.
    #[error("layer {0} is not in the store")]
    MissingBlob(Digest),
    /// A blob of the store cannot be read, or its bytes are not what they were.
    #[error("read blob {digest}: {source}")]
    Blob {
        /// Which.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// The image cannot be written in this format.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// An entry cannot be archived, or the archive cannot be written.
    #[error(transparent)]
    Archive(#[from] LayerError),
    /// A tree could not be read or written.
    #[error(transparent)]
    Files(#[from] files::Error),
    /// An annotation has no place in the result.
    #[error("annotation {key}: {reason}")]
    Annotation {
        /// Its key.
        key: String,
        /// Why not.
        reason: String,
    },
    /// The format holds one image only.
    #[error("a Docker archive holds one platform, not {0}: choose one, or use type=oci")]
    SeveralPlatforms(usize),
    /// Two platforms have a file at the same place, and no directories of their own.
    #[error("{path} is in the files of {one} and of {other}: leave platform-split=false out", path = path.display())]
    Collision {
        /// Within the trees.
        path: PathBuf,
        /// A platform.
        one: String,
        /// The other platform.
        other: String,
    },
    /// There is nothing to export.
    #[error("there is nothing to export")]
    Empty,
    /// The exporter was given what it does not write.
    #[error("the exporter needs {0:?}")]
    WrongProduct(Needs),
    /// The caller gave up.
    #[error("cancelled")]
    Cancelled,
    /// The task that wrote it broke down.
    #[error("the export broke down: {0}")]
    Crashed(String),
}

impl ExportError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ExportError {
        let path = path.to_owned();
        move |source| ExportError::Io { action, path, source }
    }

    pub(crate) fn destination(path: &Path, reason: impl Into<String>) -> ExportError {
        ExportError::Destination { path: path.to_owned(), reason: reason.into() }
    }
}
