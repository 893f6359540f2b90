//! What an image is: references, platforms, descriptors, manifests, configs, layers; and the seams through which
//! images are stored ([`ContentStore`]) and found ([`ImageResolver`]).
//!
//! No HTTP and no state directory here: those live in `registry` and `cache`, which implement the traits.

mod archive;
mod chunks;
mod compare;
mod compress;
mod config;
mod decompress;
mod descriptor;
pub mod layer;
pub mod layout;
mod manifest;
mod pack;
mod platform;
mod ratio;
mod reference;
mod resolve;
mod store;

pub use archive::{ArchivedImage, read_archive, read_directory};
pub use chunks::{ChunkMemory, LONGEST_PIECE, Piece};
pub use compare::{EntryChange, EntryDiff, LayerDiff, OpenTar, compare_layers};
pub use compress::{Compressor, check_level, seal};
pub use config::{ContainerConfig, Healthcheck, History, ImageConfig, RootFs};
pub use decompress::{StreamCompression, compression_of, decompress};
pub use descriptor::{Compression, Descriptor, Index, Manifest, MediaType};
pub use manifest::{
    Document, MAX_DOCUMENT, ManifestError, MediaTypes, NoMatch, PackedManifest, check_config_type,
    manifest_of, parse_document, resolved_from, select_manifest,
};
pub use pack::{LayerPacker, PackOptions};
pub use platform::{ParsePlatformError, Platform};
pub use ratio::set_unpack_limit;
pub use reference::{ParseReferenceError, Reference};
pub use resolve::{
    BlobSource, Documents, ImageResolver, ResolveError, ResolvedImage, ResolvedIndex, TransferProgress,
};
pub use store::{BlobReader, BlobWriter, ContentStore, MemoryStore, PartlyRead, Resume};

use hash::{Digest, StableHasher};

/// One layer of an image: its compressed form in a store or registry, and what it is uncompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The blob as images name it.
    pub descriptor: Descriptor,
    /// sha256 of the uncompressed tar (`rootfs.diff_ids` of the config).
    pub diff_id: Digest,
}

/// An image of one platform, ready to be exported.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// The config; its `rootfs.diff_ids` agree with `layers`.
    pub config: ImageConfig,
    /// Bottom layer first.
    pub layers: Vec<Layer>,
    /// What it runs on.
    pub platform: Platform,
}

/// The chain ids of a list of layers (image spec, `config.md`, "Layer ChainID"): the identity of each layer
/// together with all below it.
pub fn chain_ids<'a>(diff_ids: impl IntoIterator<Item = &'a Digest>) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::new();
    for diff_id in diff_ids {
        let id = match chain.last() {
            None => *diff_id,
            Some(parent) => Digest::of(format!("{parent} {diff_id}").as_bytes()),
        };
        chain.push(id);
    }
    chain
}

/// The content id of an image whose topmost chain id is `chain_id`; `None` stands for the empty tree (`scratch`).
pub fn content_id(chain_id: Option<&Digest>) -> hash::ContentId {
    hash::ContentId::from_bytes(StableHasher::new("image-content-v1").with(&chain_id.copied()).finish())
}
