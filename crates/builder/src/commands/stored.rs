//! Images of the local store, as several commands look at them.

use std::collections::BTreeMap;

use cache::{Store, StoredImage};
use exporter::Prepared;
use hash::Digest;
use image::{ContentStore, Descriptor, ImageConfig, Manifest, PackedManifest, Platform, Reference};

use crate::failure::Failure;

/// Fewer digits of an id are none: too many names look like that.
const SHORTEST_ID: usize = 4;
/// The largest manifest or config.
const DOCUMENT_LIMIT: u64 = 16 << 20;

/// What a name or an id on the command line means.
#[derive(Debug)]
pub(super) struct Found {
    /// One a platform; of an id, also one a name.
    pub(super) images: Vec<StoredImage>,
    /// Whether it was the id, or its beginning.
    pub(super) by_id: bool,
}

/// The images as people count them: one that was made without a name, and got one later, is no second image.
pub(super) fn listed(store: &Store) -> Result<Vec<StoredImage>, Failure> {
    let all = store.list_images()?;
    Ok(all.iter().filter(|image| !has_other_name(image, &all)).cloned().collect())
}

/// Whether an image that is kept under its id has a name by now. It stays there: a name may be given to another image, and this one is
/// without a name again.
pub(super) fn has_other_name(image: &StoredImage, all: &[StoredImage]) -> bool {
    let is_name = |other: &StoredImage| !super::is_id_name(&other.name) && is_same(image, other);
    super::is_id_name(&image.name) && all.iter().any(is_name)
}

fn is_same(image: &StoredImage, other: &StoredImage) -> bool {
    (image.config, &image.platform) == (other.config, &other.platform)
}

/// Finds images by name, id, digest, or the beginning of an id or digest.
pub(super) fn find(store: &Store, text: &str) -> Result<Found, Failure> {
    look_for(store, text)?.ok_or_else(|| not_there(store, text))
}

/// There is no such image, perhaps one that is called nearly so.
pub(super) fn not_there(store: &Store, text: &str) -> Failure {
    let shown = text.parse().map_or_else(|_| text.to_owned(), |name: Reference| name.familiar());
    let images = store.list_images().unwrap_or_default();
    let names: Vec<String> = images.iter().map(|image| image.name.familiar()).collect();
    let near = frontend::closest(&shown, names.iter().map(String::as_str));
    let meant = near.map(|near| format!("did you mean {}?", near.strip_suffix(":latest").unwrap_or(near)));
    Failure::build(format!("there is no image {shown}"))
        .hinted(meant)
        .hint("`builder images` lists those that are here")
}

/// The same for those to whom it may not be there.
pub(super) fn look_for(store: &Store, text: &str) -> Result<Option<Found>, Failure> {
    let name: Option<Reference> = text.parse().ok();
    if let Some(name) = &name {
        let mut images = store.images_named(name)?;
        if !images.is_empty() {
            let by_id = super::is_id_name(name);
            if by_id {
                let kept = std::mem::replace(&mut images, store.list_images()?);
                images.retain(|image| kept.iter().any(|kept| is_same(image, kept)));
            }
            return Ok(Some(Found { images, by_id }));
        }
        if let Some(digest) = name.digest
            && let Some(images) = of_index(store, digest, Some(name))?
        {
            return Ok(Some(Found { images, by_id: false }));
        }
    }
    let id = text.strip_prefix("sha256:").unwrap_or(text);
    if id.len() >= SHORTEST_ID && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let mut images = store.list_images()?;
        // By the digest of its manifest too, which is what registries, `--metadata-file` and Docker on containerd's store tell.
        let digests = |image: &StoredImage| [image.config, image.manifest.digest];
        images.retain(|image| digests(image).iter().any(|digest| digest.hex().starts_with(id)));
        let one = images.first().map(|image| image.config);
        if images.iter().any(|image| Some(image.config) != one) {
            return Err(Failure::usage(format!("several images have ids that begin with {id}")));
        }
        if !images.is_empty() {
            return Ok(Some(Found { images, by_id: true }));
        }
        if let Ok(digest) = format!("sha256:{id}").parse()
            && let Some(images) = of_index(store, digest, None)?
        {
            return Ok(Some(Found { images, by_id: true }));
        }
    }
    Ok(None)
}

/// The images of several platforms whose index has a digest: of the repository of a name, where one is given. It is what a build and a push
/// tell; here they are kept one by one.
fn of_index(
    store: &Store,
    digest: Digest,
    of: Option<&Reference>,
) -> Result<Option<Vec<StoredImage>>, Failure> {
    let mut by_name: BTreeMap<Reference, Vec<StoredImage>> = BTreeMap::new();
    for image in store.list_images()? {
        by_name.entry(image.name.clone()).or_default().push(image);
    }
    for (name, images) in by_name.into_iter().filter(|(_, images)| images.len() > 1) {
        let is_of = of.is_none_or(|of| (&of.registry, &of.repository) == (&name.registry, &name.repository));
        // One that is damaged is not looked for here.
        if is_of && prepared(store, &images).is_ok_and(|index| index.top.digest == digest) {
            return Ok(Some(images));
        }
    }
    Ok(None)
}

/// The image of one platform: the one asked for, else this machine's, else the only one.
pub(super) fn of_platform(
    found: &Found,
    text: &str,
    platform: Option<&Platform>,
) -> Result<StoredImage, Failure> {
    let host = Platform::host();
    let wanted = platform.unwrap_or(&host);
    let image = found.images.iter().find(|image| image.platform == *wanted);
    match (image, platform, &found.images[..]) {
        (Some(image), _, _) => Ok(image.clone()),
        (None, None, [only]) => Ok(only.clone()),
        (None, None, [first, others @ ..]) if others.iter().all(|other| other.config == first.config) => {
            Ok(first.clone())
        }
        _ => {
            let available: Vec<String> =
                found.images.iter().map(|image| image.platform.to_string()).collect();
            Err(Failure::build(format!("{text} has no image for {wanted}; it has {}", available.join(", ")))
                .hint("--platform chooses one"))
        }
    }
}

/// The documents of images as they are stored; of several, with an index on top.
pub(super) fn prepared(store: &Store, images: &[StoredImage]) -> Result<Prepared, Failure> {
    let packed = images.iter().map(|image| packed(store, image)).collect::<Result<Vec<_>, _>>()?;
    Ok(Prepared::of_manifests(packed, None)?)
}

fn packed(store: &Store, image: &StoredImage) -> Result<PackedManifest, Failure> {
    let manifest = read(store, &image.manifest)?;
    let parsed: Manifest = parse(&manifest, &image.manifest)?;
    let config = read(store, &parsed.config)?;
    store.blobs().lease(parsed.layers.iter().map(|layer| &layer.digest))?;
    let descriptor = Descriptor {
        platform: Some(image.platform.clone()),
        annotations: Default::default(),
        ..image.manifest.clone()
    };
    Ok(PackedManifest {
        manifest,
        descriptor,
        config,
        config_descriptor: parsed.config,
        layers: parsed.layers,
    })
}

/// Manifest and config of a stored image.
pub(super) fn documents(store: &Store, image: &StoredImage) -> Result<(Manifest, ImageConfig), Failure> {
    let manifest: Manifest = parse(&read(store, &image.manifest)?, &image.manifest)?;
    let config = parse(&read(store, &manifest.config)?, &manifest.config)?;
    Ok((manifest, config))
}

/// A document as it stands.
pub(super) fn document(store: &Store, blob: &Descriptor) -> Result<serde_json::Value, Failure> {
    parse(&read(store, blob)?, blob)
}

fn read(store: &Store, blob: &Descriptor) -> Result<Vec<u8>, Failure> {
    let blobs: &dyn ContentStore = store.blobs();
    let read = blobs
        .read(&blob.digest, DOCUMENT_LIMIT)
        .map_err(|error| Failure::build(format!("read blob {}: {error}", blob.digest)))?;
    read.ok_or_else(|| Failure::build(format!("blob {} is not in the store any more", blob.digest)))
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], blob: &Descriptor) -> Result<T, Failure> {
    serde_json::from_slice(bytes)
        .map_err(|error| Failure::build(format!("blob {} is damaged: {error}", blob.digest)))
}

/// A platform as it is typed.
pub(super) fn platform(text: &str) -> Result<Platform, String> {
    text.parse().map_err(|error: image::ParsePlatformError| error.to_string())
}
