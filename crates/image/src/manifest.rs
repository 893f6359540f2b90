use std::collections::BTreeMap;
use std::sync::Arc;

use hash::Digest;
use serde_json::Value;

use crate::{
    BlobSource, Compression, Descriptor, Documents, Image, ImageConfig, Index, Layer, Manifest, MediaType,
    Platform, ResolveError, ResolvedImage,
};

/// The largest manifest, index or config that is read, in bytes. Registries agree on 4 MiB for manifests; configs with
/// long histories are the larger ones.
pub const MAX_DOCUMENT: u64 = 8 << 20;

/// What stands behind a digest or a tag: an image of one platform, or a list of further manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// An image of one platform.
    Manifest(Box<Manifest>),
    /// Images of several platforms, artifacts, further lists.
    Index(Index),
}

/// Reads a manifest or an index. `media_type` is what the source said about it (a `Content-Type`, a descriptor), if it
/// said anything; the document's own `mediaType` must not contradict it. `name` is for messages.
///
/// Documents that are both manifest and index are refused: two readers would see two images (CVE-2021-41190).
pub fn parse_document(name: &str, media_type: Option<&str>, bytes: &[u8]) -> Result<Document, ResolveError> {
    let invalid = |message: String| ResolveError::Invalid { name: name.to_owned(), message };
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| invalid(format!("the manifest is not valid JSON: {error}")))?;
    let own = value.get("mediaType").and_then(Value::as_str).filter(|text| !text.is_empty());
    // A header may carry parameters (`; charset=utf-8`); types that name no image format (`text/plain`) say nothing.
    let media_type = media_type.map(|text| text.split(';').next().unwrap_or_default().trim());
    let stated = media_type.filter(|text| is_index(text) || is_manifest(text));
    if let (Some(stated), Some(own)) = (stated, own)
        && stated != own
    {
        return Err(invalid(format!("the manifest was announced as {stated}, but calls itself {own}")));
    }
    let schema_1 =
        [own, media_type].into_iter().flatten().any(|text| text.contains("docker.distribution.manifest.v1+"));
    if schema_1 || value.get("schemaVersion").and_then(Value::as_u64) == Some(1) {
        return Err(invalid(
            "the image has Docker's old manifest format (schema 1), which is not supported: push it again with a \
             current client"
                .to_owned(),
        ));
    }
    let (has_config, has_list) = (value.get("config").is_some(), value.get("manifests").is_some());
    if has_list && (has_config || value.get("layers").is_some()) {
        return Err(invalid("the document is both a manifest and an index".to_owned()));
    }
    let read = |error: serde_json::Error| invalid(format!("the manifest is not valid: {error}"));
    match own.or(stated) {
        Some(text) if is_index(text) => serde_json::from_value(value).map(Document::Index).map_err(read),
        Some(text) if is_manifest(text) => {
            serde_json::from_value(value).map(Document::Manifest).map_err(read)
        }
        Some(other) => Err(invalid(format!("the media type `{other}` is not that of an image"))),
        None if has_list => serde_json::from_value(value).map(Document::Index).map_err(read),
        None => serde_json::from_value(value).map(Document::Manifest).map_err(read),
    }
}

fn is_index(media_type: &str) -> bool {
    matches!(media_type, MediaType::INDEX | MediaType::DOCKER_INDEX)
}

fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, MediaType::MANIFEST | MediaType::DOCKER_MANIFEST)
}

/// No entry of an index suits a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no image for platform {platform}; it has {available}")]
pub struct NoMatch {
    /// The platform asked for.
    pub platform: Platform,
    /// Comma-separated platforms that are there.
    pub available: String,
}

impl NoMatch {
    /// The same as an error of the image `name`.
    pub fn of(self, name: &str) -> ResolveError {
        ResolveError::NoPlatform {
            name: name.to_owned(),
            platform: Box::new(self.platform),
            available: self.available,
        }
    }
}

/// The entry of an index that fits `platform` best, as containerd chooses: an exact match, else older variants of the
/// processor, else its 32-bit sibling; among equals the first. When no entry says a platform and there is only one, it
/// is that one (its config tells later). Nested indexes count as entries: the caller reads on.
pub fn select_manifest<'a>(index: &'a Index, platform: &Platform) -> Result<&'a Descriptor, NoMatch> {
    let images = || index.manifests.iter().filter(|one| is_image_entry(one));
    let ranked = images().filter_map(|one| Some((platform.rank(one.platform.as_ref()?)?, one)));
    if let Some((_, best)) = ranked.min_by_key(|(rank, _)| *rank) {
        return Ok(best);
    }
    let mut silent = images().filter(|one| one.platform.is_none());
    if let (Some(only), None) = (silent.next(), silent.next()) {
        return Ok(only);
    }
    let mut available: Vec<String> = images()
        .map(|one| one.platform.as_ref().map_or("unknown".to_owned(), |platform| platform.to_string()))
        .collect();
    available.sort();
    available.dedup();
    let available = if available.is_empty() { "none".to_owned() } else { available.join(", ") };
    Err(NoMatch { platform: platform.clone(), available })
}

/// Attestations and other artifacts stand in indexes too, with the platform `unknown/unknown` or media types of their own.
fn is_image_entry(entry: &Descriptor) -> bool {
    let unknown = entry.platform.as_ref().is_some_and(|platform| platform.os == "unknown");
    (is_manifest(&entry.media_type) || is_index(&entry.media_type)) && !unknown
}

/// Puts together what is known of an image from the bytes of its manifest and config, both verified against their
/// digests and sizes. `manifest` describes `manifest_bytes`.
///
/// Refused by name: manifests of artifacts that are no images, layers in unknown formats, layers that must be fetched from
/// addresses of their own (`urls`), configs whose number of diff ids is not that of the layers.
pub fn resolved_from(
    name: &str,
    manifest: &Descriptor,
    manifest_bytes: &[u8],
    config_bytes: &[u8],
    blobs: Arc<dyn BlobSource>,
) -> Result<ResolvedImage, ResolveError> {
    let invalid = |message: String| ResolveError::Invalid { name: name.to_owned(), message };
    verify(name, "manifest", manifest, manifest_bytes)?;
    let Document::Manifest(parsed) = parse_document(name, Some(&manifest.media_type), manifest_bytes)? else {
        return Err(invalid("expected the manifest of one platform, found an index".to_owned()));
    };
    check_config_type(name, &parsed)?;
    verify(name, "config", &parsed.config, config_bytes)?;
    let config: ImageConfig = serde_json::from_slice(config_bytes)
        .map_err(|error| invalid(format!("the config {} is not valid: {error}", parsed.config.digest)))?;
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != parsed.layers.len() {
        return Err(invalid(format!(
            "the manifest has {} layers, the config has {} diff ids",
            parsed.layers.len(),
            diff_ids.len()
        )));
    }
    for layer in &parsed.layers {
        if Compression::of_layer(&layer.media_type).is_none() {
            return Err(invalid(format!(
                "layer {} has the media type `{}`, which is not supported",
                layer.digest, layer.media_type
            )));
        }
        if !layer.urls.is_empty() {
            return Err(invalid(format!(
                "layer {} is foreign (it must be fetched from {}), which is not supported",
                layer.digest, layer.urls[0]
            )));
        }
    }
    let layers = parsed
        .layers
        .into_iter()
        .zip(diff_ids)
        .map(|(descriptor, diff_id)| Layer { descriptor, diff_id: *diff_id })
        .collect();
    Ok(ResolvedImage {
        name: name.to_owned(),
        manifest_digest: manifest.digest,
        manifest: manifest.clone(),
        platform: platform_of(&config),
        config,
        config_digest: parsed.config.digest,
        layers,
        index: None,
        documents: Some(Documents { manifest: manifest_bytes.into(), config: config_bytes.into() }),
        blobs,
    })
}

/// Fails when a manifest's config is not that of a container image: Helm charts, attestations, signatures, …
pub fn check_config_type(name: &str, manifest: &Manifest) -> Result<(), ResolveError> {
    match manifest.config.media_type.as_str() {
        MediaType::CONFIG | MediaType::DOCKER_CONFIG => Ok(()),
        // What old clients pushed to Docker's hub, and Docker still takes.
        "application/octet-stream" | "application/json" | "text/html" | "" => Ok(()),
        other => Err(ResolveError::Invalid {
            name: name.to_owned(),
            message: format!("it is not a container image: its config has the media type `{other}`"),
        }),
    }
}

fn verify(name: &str, what: &str, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), ResolveError> {
    let digest = Digest::of(bytes);
    if digest == descriptor.digest && bytes.len() as u64 == descriptor.size {
        return Ok(());
    }
    let message = format!(
        "the {what} {} of {} bytes is damaged: what came has the digest {digest} and {} bytes",
        descriptor.digest,
        descriptor.size,
        bytes.len()
    );
    Err(ResolveError::Invalid { name: name.to_owned(), message })
}

/// The platform of a config; very old ones leave it out and mean Linux on this machine's processor.
fn platform_of(config: &ImageConfig) -> Platform {
    let host = Platform::host();
    let or = |text: &str, fallback: String| if text.is_empty() { fallback } else { text.to_owned() };
    Platform {
        os_version: config.os_version.clone(),
        ..Platform::new(
            &or(&config.os, host.os),
            &or(&config.architecture, host.architecture),
            config.variant.as_deref(),
        )
    }
}

/// Which family of media types a manifest is written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaTypes {
    /// The image spec's.
    Oci,
    /// Docker's schema 2.
    Docker,
}

/// The manifest and the config of an image as bytes, ready to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedManifest {
    /// The manifest.
    pub manifest: Vec<u8>,
    /// What points to the manifest, with the platform.
    pub descriptor: Descriptor,
    /// The config.
    pub config: Vec<u8>,
    /// What points to the config.
    pub config_descriptor: Descriptor,
    /// The layers as the manifest lists them, bottom first.
    pub layers: Vec<Descriptor>,
}

/// An image cannot be written down as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The image contradicts itself.
    #[error("the config lists other layers than the image has")]
    Layers,
    /// The layer's format has no media type there.
    #[error("layer {digest} (`{media_type}`) cannot be described with {family} media types")]
    MediaType {
        /// The layer.
        digest: Digest,
        /// What it is.
        media_type: String,
        /// `Docker` or `OCI`.
        family: &'static str,
    },
}

/// Writes down an image: config, manifest and descriptors, with `annotations` in the manifest. Equal images give equal
/// bytes. Layers' media types are translated to the family asked for.
pub fn manifest_of(
    image: &Image,
    types: MediaTypes,
    annotations: &BTreeMap<String, String>,
) -> Result<PackedManifest, ManifestError> {
    if !image.config.rootfs.diff_ids.iter().eq(image.layers.iter().map(|layer| &layer.diff_id)) {
        return Err(ManifestError::Layers);
    }
    let (manifest_type, config_type) = match types {
        MediaTypes::Oci => (MediaType::MANIFEST, MediaType::CONFIG),
        MediaTypes::Docker => (MediaType::DOCKER_MANIFEST, MediaType::DOCKER_CONFIG),
    };
    let layers: Vec<Descriptor> =
        image.layers.iter().map(|layer| layer_descriptor(layer, types)).collect::<Result<_, _>>()?;
    let config = to_bytes(&image.config, false);
    let config_descriptor = Descriptor::new(config_type, Digest::of(&config), config.len() as u64);
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(manifest_type.to_owned()),
        config: config_descriptor.clone(),
        layers: layers.clone(),
        annotations: annotations.clone(),
    };
    let manifest = to_bytes(&manifest, true);
    let mut descriptor = Descriptor::new(manifest_type, Digest::of(&manifest), manifest.len() as u64);
    descriptor.platform = Some(image.platform.clone());
    Ok(PackedManifest { manifest, descriptor, config, config_descriptor, layers })
}

fn layer_descriptor(layer: &Layer, types: MediaTypes) -> Result<Descriptor, ManifestError> {
    let unsupported = |family| ManifestError::MediaType {
        digest: layer.descriptor.digest,
        media_type: layer.descriptor.media_type.clone(),
        family,
    };
    let compression = Compression::of_layer(&layer.descriptor.media_type);
    let media_type = match (types, compression) {
        (MediaTypes::Oci, Some(compression)) => compression.layer_media_type(),
        (MediaTypes::Oci, None) => return Err(unsupported("OCI")),
        (MediaTypes::Docker, Some(Compression::None)) => MediaType::DOCKER_LAYER_PLAIN.to_owned(),
        (MediaTypes::Docker, Some(Compression::Gzip)) => MediaType::DOCKER_LAYER.to_owned(),
        (MediaTypes::Docker, Some(Compression::Zstd) | None) => return Err(unsupported("Docker")),
    };
    Ok(Descriptor { media_type, ..layer.descriptor.clone() })
}

/// JSON of a type of this crate: manifests are laid out for people, as every registry client does, configs are not.
fn to_bytes(value: &impl serde::Serialize, pretty: bool) -> Vec<u8> {
    let bytes = if pretty { serde_json::to_vec_pretty(value) } else { serde_json::to_vec(value) };
    // Only maps with keys that are no strings and failing `Serialize` implementations can fail; there are none here.
    bytes.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::{ContentStore, TransferProgress};

    struct NoBlobs;

    #[async_trait]
    impl BlobSource for NoBlobs {
        async fn fetch(
            &self,
            blob: &Descriptor,
            _: &dyn ContentStore,
            _: &dyn TransferProgress,
        ) -> Result<(), ResolveError> {
            Err(ResolveError::NotFound(blob.digest.to_string()))
        }
    }

    fn image(layers: &[Compression]) -> Image {
        let layers: Vec<Layer> = layers
            .iter()
            .enumerate()
            .map(|(n, compression)| Layer {
                descriptor: Descriptor::new(compression.layer_media_type(), Digest::of(&[n as u8]), 7),
                diff_id: Digest::of(&[n as u8, 1]),
            })
            .collect();
        let mut config =
            ImageConfig { os: "linux".into(), architecture: "arm".into(), ..ImageConfig::default() };
        config.variant = Some("v7".into());
        config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id).collect();
        Image { config, layers, platform: "linux/arm".parse().unwrap() }
    }

    fn entry(platform: Option<&str>, seed: u8) -> Descriptor {
        let mut entry = Descriptor::new(MediaType::MANIFEST, Digest::of(&[seed]), 1);
        entry.platform = platform.map(|text| match text {
            "unknown" => Platform::new("unknown", "unknown", None),
            text => text.parse().unwrap(),
        });
        entry
    }

    fn select(entries: &[Option<&str>], platform: &str) -> Result<usize, String> {
        let manifests: Vec<Descriptor> =
            entries.iter().zip(0..).map(|(one, seed)| entry(*one, seed)).collect();
        let index = Index { schema_version: 2, media_type: None, manifests, annotations: BTreeMap::new() };
        let chosen =
            select_manifest(&index, &platform.parse().unwrap()).map_err(|error| error.to_string())?;
        Ok(index.manifests.iter().position(|one| one == chosen).unwrap())
    }

    #[test]
    fn the_best_platform_is_selected() {
        let both = [Some("linux/386"), Some("unknown"), Some("linux/amd64"), Some("linux/amd64")];
        assert_eq!(select(&both, "linux/amd64"), Ok(2));
        assert_eq!(select(&both, "linux/386"), Ok(0));
        assert_eq!(select(&both[..2], "linux/amd64"), Ok(0));
        assert_eq!(select(&[Some("linux/arm/v5"), Some("linux/arm/v6")], "linux/arm/v7"), Ok(1));
        assert_eq!(select(&[Some("unknown"), None], "linux/amd64"), Ok(1));
        assert_eq!(
            select(&both, "linux/arm64"),
            Err("no image for platform linux/arm64; it has linux/386, linux/amd64".to_owned())
        );
        assert!(select(&[None, None], "linux/arm64").is_err(), "which one would be a guess");
        assert!(select(&[], "linux/arm64").unwrap_err().contains("it has none"));
    }

    #[test]
    fn an_image_written_is_resolved_again() {
        for types in [MediaTypes::Oci, MediaTypes::Docker] {
            let image = image(&[Compression::None, Compression::Gzip]);
            let packed = manifest_of(&image, types, &BTreeMap::new()).unwrap();
            let resolved =
                resolved_from("x", &packed.descriptor, &packed.manifest, &packed.config, Arc::new(NoBlobs))
                    .unwrap();
            assert_eq!(resolved.config, image.config);
            assert_eq!(resolved.platform, image.platform);
            assert_eq!(resolved.layers.len(), 2);
            assert_eq!(resolved.config_digest, packed.config_descriptor.digest);
            assert_eq!(packed.manifest, manifest_of(&image, types, &BTreeMap::new()).unwrap().manifest);
            // Back to OCI types, whatever they were.
            let back = Image { layers: resolved.layers, ..image.clone() };
            assert_eq!(
                manifest_of(&back, MediaTypes::Oci, &BTreeMap::new()).unwrap(),
                manifest_of(&image, MediaTypes::Oci, &BTreeMap::new()).unwrap()
            );
        }
    }

    #[test]
    fn what_cannot_be_written_is_an_error() {
        let zstd = image(&[Compression::Zstd]);
        assert!(manifest_of(&zstd, MediaTypes::Oci, &BTreeMap::new()).is_ok());
        let error = manifest_of(&zstd, MediaTypes::Docker, &BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains("zstd") && error.contains("Docker"), "{error}");
        let mut torn = image(&[Compression::Gzip]);
        torn.config.rootfs.diff_ids.clear();
        assert_eq!(manifest_of(&torn, MediaTypes::Oci, &BTreeMap::new()), Err(ManifestError::Layers));
    }

    #[test]
    fn an_image_without_layers_has_an_empty_list() {
        let packed = manifest_of(&image(&[]), MediaTypes::Oci, &BTreeMap::new()).unwrap();
        assert!(String::from_utf8(packed.manifest).unwrap().contains(r#""layers": []"#));
    }

    fn refusal(change: impl Fn(&mut Manifest, &mut ImageConfig)) -> String {
        let image = image(&[Compression::Gzip]);
        let packed = manifest_of(&image, MediaTypes::Oci, &BTreeMap::new()).unwrap();
        let mut manifest: Manifest = serde_json::from_slice(&packed.manifest).unwrap();
        let mut config = image.config;
        change(&mut manifest, &mut config);
        let config = serde_json::to_vec(&config).unwrap();
        let media_type = manifest.config.media_type;
        manifest.config = Descriptor::new(media_type, Digest::of(&config), config.len() as u64);
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let descriptor = Descriptor::new(MediaType::MANIFEST, Digest::of(&bytes), bytes.len() as u64);
        match resolved_from("img", &descriptor, &bytes, &config, Arc::new(NoBlobs)) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn inconsistent_images_are_refused_by_name() {
        assert_eq!(refusal(|_, _| ()), "accepted");
        assert!(refusal(|_, config| config.rootfs.diff_ids.clear()).contains("1 layers"));
        assert!(
            refusal(|manifest, _| manifest.layers[0].media_type = "x/encrypted".into())
                .contains("x/encrypted")
        );
        assert!(refusal(|manifest, _| manifest.layers[0].urls.push("ftp://h".into())).contains("foreign"));
        let helm = "application/vnd.cncf.helm.config.v1+json";
        assert!(refusal(|manifest, _| manifest.config.media_type = helm.into()).contains(helm));
        assert!(
            refusal(|manifest, _| manifest.media_type = Some(MediaType::INDEX.into())).contains("announced")
        );
    }

    #[test]
    fn damaged_documents_are_refused() {
        let packed = manifest_of(&image(&[]), MediaTypes::Oci, &BTreeMap::new()).unwrap();
        let blobs = || Arc::new(NoBlobs);
        let with = |manifest: &[u8], config: &[u8]| {
            resolved_from("img", &packed.descriptor, manifest, config, blobs())
                .map(|_| ())
                .unwrap_err()
                .to_string()
        };
        assert!(with(b"{}", &packed.config).contains("manifest"));
        assert!(with(&packed.manifest, b"{}").contains("config"));
    }

    #[test]
    fn documents_are_told_apart() {
        let parse = |media_type, text: &str| parse_document("i", media_type, text.as_bytes());
        let index = r#"{"schemaVersion":2,"manifests":null}"#;
        assert!(matches!(parse(None, index), Ok(Document::Index(_))));
        assert!(matches!(parse(Some("text/plain"), index), Ok(Document::Index(_))));
        let header = format!("{}; charset=utf-8", MediaType::INDEX);
        assert!(matches!(parse(Some(&header), index), Ok(Document::Index(_))));
        assert!(parse(Some(MediaType::MANIFEST), index).is_err());
        let one = r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#;
        assert!(parse(None, one).unwrap_err().to_string().contains("schema 1"));
        let old = Some("application/vnd.docker.distribution.manifest.v1+prettyjws");
        assert!(parse(old, "{}").unwrap_err().to_string().contains("schema 1"));
        let both = r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
        assert!(parse(None, both).unwrap_err().to_string().contains("both"));
        let artifact = r#"{"schemaVersion":2,"mediaType":"application/x"}"#;
        assert!(parse(None, artifact).unwrap_err().to_string().contains("application/x"));
        assert!(parse(None, "nonsense").is_err());
        assert!(parse(None, "{}").is_err());
    }
}
