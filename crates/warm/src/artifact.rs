//! How a document is kept in a registry or a layout, and how it is found there.

use std::sync::Arc;

use async_trait::async_trait;
use hash::Digest;
use image::{
    BlobSource, Compression, Descriptor, Document as ImageDocument, ImageConfig, Index, MAX_DOCUMENT,
    Manifest, MediaType, MediaTypes, ResolveError, parse_document,
};

use crate::document::{Document, LARGEST};

/// The media type of a document that stands by itself.
pub const CONFIG: &str = "application/vnd.builder.cache.config.v1+json";

/// Where the config of an image has the document of its layers.
pub const INLINE: &str = "builder.cache.v1";

/// What BuildKit calls its own.
const OF_BUILDKIT: &str = "application/vnd.buildkit.cacheconfig.v0";

/// Media types of configs of caches, ours and BuildKit's: only such an entry of a layout loses its tag to a cache that is written there.
pub const REPLACED: &[&str] = &[CONFIG, OF_BUILDKIT];

/// So many images of one index are looked into.
const MOST_IMAGES: usize = 32;

/// How a cache is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArtifactForm {
    /// Whether it looks like an image's manifest (else like an index that lists layers, as BuildKit did at first).
    pub image_manifest: bool,
    /// Whose media types it has.
    pub types: MediaTypes,
}

/// A cache as documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedCache {
    /// What points to the manifest.
    pub top: Descriptor,
    /// The manifest or index.
    pub manifest: Vec<u8>,
    /// What points to the document.
    pub config: Descriptor,
    /// The document.
    pub document: Vec<u8>,
    /// The layers' blobs, each once.
    pub layers: Vec<Descriptor>,
}

/// Writes a cache down.
pub fn pack(document: &Document, form: ArtifactForm) -> PackedCache {
    let bytes = document.to_bytes();
    let config = Descriptor::new(CONFIG, Digest::of(&bytes), bytes.len() as u64);
    // As it is written: sorted, without what nobody needs.
    let document = Document::from_bytes(&bytes).unwrap_or_default();
    let mut layers: Vec<Descriptor> = Vec::with_capacity(document.layers.len());
    for layer in &document.layers {
        let descriptor = &layer.layer.descriptor;
        if layers.iter().all(|known| known.digest != descriptor.digest) {
            let media_type = media_type(&descriptor.media_type, form.types);
            layers.push(Descriptor::new(media_type, descriptor.digest, descriptor.size));
        }
    }
    let (media_type, manifest) = match (form.image_manifest, form.types) {
        (true, types) => {
            let media_type = match types {
                MediaTypes::Oci => MediaType::MANIFEST,
                MediaTypes::Docker => MediaType::DOCKER_MANIFEST,
            };
            let manifest = Manifest {
                schema_version: 2,
                media_type: Some(media_type.to_owned()),
                config: config.clone(),
                layers: layers.clone(),
                annotations: Default::default(),
            };
            (media_type, serde_json::to_vec(&manifest))
        }
        (false, types) => {
            let media_type = match types {
                MediaTypes::Oci => MediaType::INDEX,
                MediaTypes::Docker => MediaType::DOCKER_INDEX,
            };
            let index = Index {
                schema_version: 2,
                media_type: Some(media_type.to_owned()),
                manifests: layers.iter().chain([&config]).cloned().collect(),
                annotations: Default::default(),
            };
            (media_type, serde_json::to_vec(&index))
        }
    };
    let manifest = manifest.unwrap_or_default();
    let top = Descriptor::new(media_type, Digest::of(&manifest), manifest.len() as u64);
    PackedCache { top, manifest, config, document: bytes, layers }
}

/// The same layer's type in another family; what that has no word for stays.
fn media_type(own: &str, types: MediaTypes) -> String {
    match (types, Compression::of_layer(own)) {
        (MediaTypes::Docker, Some(Compression::Gzip)) => MediaType::DOCKER_LAYER.to_owned(),
        (MediaTypes::Docker, Some(Compression::None)) => MediaType::DOCKER_LAYER_PLAIN.to_owned(),
        _ => own.to_owned(),
    }
}

/// Puts the document into an image's config, or takes away that of another image, which came with the base.
pub fn inline(config: &mut ImageConfig, document: Option<&Document>) {
    config.extra.remove(INLINE);
    if let Some(document) = document {
        config.extra.insert(INLINE.to_owned(), document.to_value());
    }
}

/// What a name stands for, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopDocument {
    /// What the source says that it is.
    pub media_type: Option<String>,
    /// The manifest or index.
    pub bytes: Vec<u8>,
}

/// Where a cache is: one name of a registry or layout.
#[async_trait]
pub trait Origin: Send + Sync {
    /// What it is called, for messages.
    fn name(&self) -> String;

    /// What it is known by from build to build: results that it gave are used by builds that name it. Whoever can write one place with
    /// this name can write every other one with it.
    fn identity(&self) -> String {
        self.name()
    }

    /// What its name stands for now.
    async fn top(&self) -> Result<TopDocument, ResolveError>;

    /// A manifest that an index lists. Whoever asks verifies it.
    async fn manifest(&self, manifest: &Descriptor) -> Result<Vec<u8>, ResolveError>;

    /// A blob in memory, which has at most `limit` bytes. Whoever asks verifies it.
    async fn blob(&self, blob: &Descriptor, limit: u64) -> Result<Vec<u8>, ResolveError>;

    /// Where the layers come from.
    fn blobs(&self) -> Arc<dyn BlobSource>;
}

/// The documents behind a name: one of a cache, one an image of those that carry theirs; none of an image that carries nothing.
///
/// # Errors
/// What cannot be had, and what is damaged, malformed or something else.
pub async fn find(origin: &dyn Origin) -> Result<Vec<Document>, ResolveError> {
    let name = origin.name();
    let top = origin.top().await?;
    match parse_document(&name, top.media_type.as_deref(), &top.bytes)? {
        ImageDocument::Manifest(manifest) => Ok(of_manifest(origin, &manifest).await?.into_iter().collect()),
        ImageDocument::Index(index) => {
            refuse_other(&name, index.manifests.iter())?;
            if let Some(config) = index.manifests.iter().find(|entry| entry.media_type == CONFIG) {
                return Ok(vec![standing(origin, config).await?]);
            }
            let is_image = |entry: &&Descriptor| {
                matches!(&*entry.media_type, MediaType::MANIFEST | MediaType::DOCKER_MANIFEST)
            };
            let mut found = Vec::new();
            for entry in index.manifests.iter().filter(is_image).take(MOST_IMAGES) {
                if entry.size > MAX_DOCUMENT {
                    return Err(invalid(&name, format!("manifest {} is too large", entry.digest)));
                }
                let bytes = origin.manifest(entry).await.map_err(|error| incomplete(&name, entry, error))?;
                let bytes = verified(&name, entry, bytes)?;
                if let ImageDocument::Manifest(manifest) =
                    parse_document(&name, Some(&entry.media_type), &bytes)?
                {
                    found.extend(of_manifest(origin, &manifest).await?);
                }
            }
            Ok(found)
        }
    }
}

async fn of_manifest(origin: &dyn Origin, manifest: &Manifest) -> Result<Option<Document>, ResolveError> {
    let name = origin.name();
    refuse_other(&name, [&manifest.config].into_iter())?;
    match manifest.config.media_type.as_str() {
        CONFIG => standing(origin, &manifest.config).await.map(Some),
        MediaType::CONFIG | MediaType::DOCKER_CONFIG => {
            let bytes = read(origin, &manifest.config, MAX_DOCUMENT).await?;
            let config: ImageConfig = serde_json::from_slice(&bytes)
                .map_err(|error| invalid(&name, format!("the image's config is not valid: {error}")))?;
            let Some(value) = config.extra.get(INLINE) else { return Ok(None) };
            let bytes = serde_json::to_vec(value).unwrap_or_default();
            document(&name, &bytes).map(Some)
        }
        other => Err(invalid(&name, format!("it is no cache: its config has the media type `{other}`"))),
    }
}

fn refuse_other<'a>(
    name: &str,
    mut entries: impl Iterator<Item = &'a Descriptor>,
) -> Result<(), ResolveError> {
    match entries.any(|entry| entry.media_type == OF_BUILDKIT) {
        true => Err(invalid(name, "it is a cache of BuildKit, which only BuildKit can use".to_owned())),
        false => Ok(()),
    }
}

async fn standing(origin: &dyn Origin, config: &Descriptor) -> Result<Document, ResolveError> {
    document(&origin.name(), &read(origin, config, LARGEST).await?)
}

fn document(name: &str, bytes: &[u8]) -> Result<Document, ResolveError> {
    Document::from_bytes(bytes).map_err(|error| invalid(name, format!("the cache cannot be used: {error}")))
}

async fn read(origin: &dyn Origin, blob: &Descriptor, limit: u64) -> Result<Vec<u8>, ResolveError> {
    if blob.size > limit {
        let message = format!("blob {} has {} bytes, more than {limit}", blob.digest, blob.size);
        return Err(invalid(&origin.name(), message));
    }
    let bytes =
        origin.blob(blob, blob.size).await.map_err(|error| incomplete(&origin.name(), blob, error))?;
    verified(&origin.name(), blob, bytes)
}

fn verified(name: &str, blob: &Descriptor, bytes: Vec<u8>) -> Result<Vec<u8>, ResolveError> {
    let digest = Digest::of(&bytes);
    if digest == blob.digest && bytes.len() as u64 == blob.size {
        return Ok(bytes);
    }
    Err(invalid(name, format!("blob {} is damaged: what came has the digest {digest}", blob.digest)))
}

/// That a part is not there is another thing than that there is nothing.
fn incomplete(name: &str, part: &Descriptor, error: ResolveError) -> ResolveError {
    match error {
        ResolveError::NotFound(_) => invalid(name, format!("it is incomplete: {} is not there", part.digest)),
        other => other,
    }
}

fn invalid(name: &str, message: String) -> ResolveError {
    ResolveError::Invalid { name: name.to_owned(), message }
}
