//! Plans for Dockerfiles whose images nobody has: each image is invented as it is asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use frontend::{ImageRequest, Lowered, Options, Plan, lower};
use hash::Digest;
use image::{
    BlobSource, Compression, ContentStore, Descriptor, ImageConfig, Layer, MediaType, ResolveError,
    ResolvedImage, TransferProgress,
};
use parser::{Diagnostic, Parsed};

/// Options as `--check` has them.
pub(crate) fn options() -> Options {
    Options { build_platform: "linux/amd64".parse().unwrap(), only_checks: true, ..Options::default() }
}

/// Lowers a file.
pub(crate) fn plan(parsed: &Parsed, options: &Options) -> Result<Plan, Vec<Diagnostic>> {
    let mut images = BTreeMap::new();
    loop {
        match lower(parsed, options, &images)? {
            Lowered::Plan(plan) => return Ok(*plan),
            Lowered::Missing(missing) => {
                images.extend(missing.into_iter().map(|missing| {
                    let image = image(&missing.request, &missing.name);
                    (missing.request, image)
                }));
            }
        }
    }
}

/// An image of one layer. One whose name ends in `-amd64` is for nothing else, whoever asks.
fn image(request: &ImageRequest, name: &str) -> Arc<ResolvedImage> {
    let platform = match name.ends_with("-amd64") {
        true => "linux/amd64".parse().unwrap(),
        false => request.platform.clone(),
    };
    let config = serde_json::json!({
        "os": platform.os, "architecture": platform.architecture, "variant": platform.variant,
        "config": { "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [] },
    });
    let config: ImageConfig = serde_json::from_value(config).unwrap();
    let descriptor = |media_type: String| Descriptor {
        media_type,
        digest: Digest::of(name.as_bytes()),
        size: 1,
        urls: Vec::new(),
        annotations: BTreeMap::new(),
        platform: None,
    };
    Arc::new(ResolvedImage {
        name: name.to_owned(),
        manifest_digest: Digest::of(format!("{name} {platform}").as_bytes()),
        manifest: descriptor(MediaType::MANIFEST.to_owned()),
        config,
        config_digest: Digest::of(b"config"),
        layers: vec![Layer {
            descriptor: descriptor(Compression::Gzip.layer_media_type()),
            diff_id: Digest::of(name.as_bytes()),
        }],
        platform,
        index: None,
        documents: None,
        blobs: Arc::new(NoBlobs),
    })
}

/// Nothing is fetched.
struct NoBlobs;

#[async_trait]
impl BlobSource for NoBlobs {
    async fn fetch(
        &self,
        blob: &Descriptor,
        _store: &dyn ContentStore,
        _progress: &dyn TransferProgress,
    ) -> Result<(), ResolveError> {
        Err(ResolveError::NotFound(blob.digest.to_string()))
    }
}
