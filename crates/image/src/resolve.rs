use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use hash::Digest;

use crate::{ContentStore, Descriptor, ImageConfig, Layer, Platform, Reference};

/// An image that was found: everything that can be known without fetching a layer.
#[derive(Clone)]
pub struct ResolvedImage {
    /// How it was asked for, for messages.
    pub name: String,
    /// Digest of the manifest of the chosen platform: what a definition key holds.
    pub manifest_digest: Digest,
    /// The manifest's own size in bytes, media type and annotations.
    pub manifest: Descriptor,
    /// The config, parsed. Its layers agree in number with `layers`.
    pub config: ImageConfig,
    /// Digest of the config's bytes.
    pub config_digest: Digest,
    /// The platform of the config.
    pub platform: Platform,
    /// Bottom layer first; the diff ids are what the config says, unverified until unpacked.
    pub layers: Vec<Layer>,
    /// The index that the name means, when the image was found through one elsewhere.
    pub index: Option<ResolvedIndex>,
    /// The bytes of manifest and config, when they came from elsewhere; `None` when they are in the local store.
    pub documents: Option<Documents>,
    /// Where the layers' blobs come from.
    pub blobs: Arc<dyn BlobSource>,
}

/// The index of an image of several platforms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedIndex {
    /// What points to it.
    pub descriptor: Descriptor,
    /// As it is hashed.
    pub bytes: Arc<[u8]>,
    /// The manifests that it lists, also through the indexes that led to the image.
    pub manifests: BTreeSet<Digest>,
}

/// Manifest and config of an image, as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    /// The manifest of the chosen platform.
    pub manifest: Arc<[u8]>,
    /// The config.
    pub config: Arc<[u8]>,
}

impl std::fmt::Debug for ResolvedImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResolvedImage")
            .field("name", &self.name)
            .field("manifest_digest", &self.manifest_digest)
            .field("layers", &self.layers.len())
            .finish_non_exhaustive()
    }
}

/// Narrow progress of a transfer: bytes done so far of one blob.
pub trait TransferProgress: Send + Sync {
    /// `current` of `total` bytes of `blob` have arrived.
    fn transferred(&self, blob: &Digest, current: u64, total: u64);
}

/// Where blobs of a resolved image come from: a registry's repository, a layout's folder, the local store.
#[async_trait]
pub trait BlobSource: Send + Sync {
    /// Brings a blob into `store`, verified against its digest and size; nothing is transferred when it is there.
    async fn fetch(
        &self,
        blob: &Descriptor,
        store: &dyn ContentStore,
        progress: &dyn TransferProgress,
    ) -> Result<(), ResolveError>;
}

/// Why an image or a blob could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The source answered that there is no such image, tag or blob.
    #[error("{0}: not found")]
    NotFound(String),
    /// The image exists, but not for this platform.
    #[error("{name}: no image for platform {platform}; it has {available}")]
    NoPlatform {
        /// The image.
        name: String,
        /// The platform asked for.
        platform: Box<Platform>,
        /// Comma-separated platforms that it has.
        available: String,
    },
    /// Credentials are missing or refused.
    #[error("{name}: {message}")]
    Denied {
        /// The image.
        name: String,
        /// What the registry said and what to do.
        message: String,
    },
    /// The source could not be reached or broke off.
    #[error("{name}: {message}")]
    Unreachable {
        /// The image.
        name: String,
        /// What failed, in words.
        message: String,
    },
    /// What came back is not a valid image.
    #[error("{name}: {message}")]
    Invalid {
        /// The image.
        name: String,
        /// What is wrong with it.
        message: String,
    },
    /// The local side failed.
    #[error("{action}: {source}")]
    Io {
        /// What was being done, with the path.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// Finds images by name.
#[async_trait]
pub trait ImageResolver: Send + Sync {
    /// Finds the image of `reference` for `platform`. Fetches at most manifests and the config.
    async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<ResolvedImage, ResolveError>;
}
