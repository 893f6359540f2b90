//! Writes what was built: images as OCI layouts and Docker archives, trees as directories and tars.
//!
//! An exporter says what it [`needs`](Exporter::needs), so that nothing is packed for a directory and no tree is put together for
//! an archive. Archives appear whole or not at all: they are written beside their destination and renamed.

mod annotations;
mod archive;
mod artifact;
mod convert;
mod error;
mod images;
mod layout;
mod names;
mod output;
mod task;
mod trees;

use std::sync::Arc;

use async_trait::async_trait;
use files::FileTree;
use hash::Digest;
use image::{ContentStore, Descriptor, Image, Platform, Reference};

pub use annotations::{Annotation, AnnotationPlace, Annotations};
pub use archive::{ArchiveExporter, ArchiveImage};
pub use artifact::ArtifactFiles;
pub use convert::recompressed;
pub use error::ExportError;
pub use images::Prepared;
pub use layout::LayoutExporter;
pub use output::Output;
pub use trees::{DirectoryExporter, DirectoryMode, TarExporter};

/// Writes a result somewhere.
#[async_trait]
pub trait Exporter: Send + Sync {
    /// Which kind of [`Product`] it writes.
    fn needs(&self) -> Needs;

    /// Writes `product`. Dropping the future ends the work at the next file or MiB; an archive is then not there.
    ///
    /// # Errors
    /// [`ExportError::WrongProduct`] for a product that it did not ask for, and whatever goes wrong.
    async fn export(&self, product: Product) -> Result<Exported, ExportError>;
}

/// What an exporter works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// [`Product::Images`]: layers packed into blobs.
    Images,
    /// [`Product::Trees`]: merged trees of files.
    Trees,
}

/// What is exported.
#[derive(Clone)]
pub enum Product {
    /// Images with their names.
    Images(Images),
    /// Trees of files.
    Trees(Trees),
}

/// Images to be exported.
#[derive(Clone)]
pub struct Images {
    /// One a platform, at least one.
    pub images: Vec<Image>,
    /// All names that the result gets; may be empty.
    pub names: Vec<Reference>,
    /// For manifests, index, and what points to them.
    pub annotations: Annotations,
    /// Whether there is an index on top of a single image as well.
    pub with_index: bool,
    /// Holds the blobs of all layers.
    pub store: Arc<dyn ContentStore>,
}

/// Trees to be exported.
#[derive(Clone)]
pub struct Trees {
    /// One a platform, at least one.
    pub trees: Vec<(Platform, Arc<dyn FileTree>)>,
    /// Whether each goes into a directory of its own, as `linux_amd64`. Without, the files of all are written over one another.
    pub split: bool,
    /// The time of every file, in seconds since 1970 (`SOURCE_DATE_EPOCH`); `None` keeps the files' own.
    pub epoch: Option<i64>,
}

/// What came of an export.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exported {
    /// For images: the manifest, or the index of several.
    pub descriptor: Option<Descriptor>,
    /// For an image of one platform: its config, whose digest Docker calls image id.
    pub config_digest: Option<Digest>,
    /// What could not be kept, in words.
    pub warnings: Vec<String>,
}
