//! Images of the local store, as several commands look at them.

use std::collections::BTreeMap;

use cache::{Store, StoredImage};
use exporter::Prepared;
use hash::Digest;
use image::{ContentStore, Descriptor, ImageConfig, Index, Manifest, PackedManifest, Platform, Reference};

use crate::failure::Failure;

/// Fewer digits of an id are none: too many names look like that.
pub(super) const SHORTEST_ID: usize = 4;
/// The largest manifest or config.
const DOCUMENT_LIMIT: u64 = 16 << 20;

/// What a name or an id on the command line means.
#[derive(Debug)]
pub(super) struct Found {
    /// One a platform; of an id, also one a name.
    pub(super) images: Vec<StoredImage>,
    /// Whether it was the id, or its beginning.
    pub(super) by_id: bool,
    /// The index that is meant, and not one of its images alone.
    pub(super) index: Option<Descriptor>,
}

impl Found {
    /// Without those that only have another name.
    pub(super) fn one_a_platform(&self) -> Vec<StoredImage> {
        let mut images: Vec<StoredImage> = Vec::new();
        for image in &self.images {
            if !images.iter().any(|other| other.platform == image.platform) {
                images.push(image.clone());
            }
        }
        images
    }
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
            let asked = if by_id { name.tag.as_deref().and_then(digest_of) } else { name.digest };
            let index = index_of(&images).filter(|index| asked.is_none_or(|asked| index.digest == asked));
            if by_id {
                let kept = std::mem::replace(&mut images, store.list_images()?);
                images.retain(|image| kept.iter().any(|kept| is_same(image, kept)));
            }
            return Ok(Some(Found { images, by_id, index }));
        }
        if let Some(digest) = name.digest
            && let Some(images) = by_synthesized_index(store, digest, Some(name))?
        {
            return Ok(Some(Found { images, by_id: false, index: None }));
        }
    }
    let id = text.strip_prefix("sha256:").unwrap_or(text);
    if id.len() >= SHORTEST_ID && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let mut found = by_beginning(store.list_images()?, id)?;
        if found.is_none()
            && let Some(digest) = digest_of(id)
        {
            let made = by_synthesized_index(store, digest, None)?;
            found = made.map(|images| Found { images, by_id: true, index: None });
        }
        return Ok(found);
    }
    Ok(None)
}

fn digest_of(hex: &str) -> Option<Digest> {
    format!("sha256:{hex}").parse().ok()
}

/// The images whose id begins so, or the digest of whose manifest or index, which is what registries, `--metadata-file` and Docker on
/// containerd's store tell.
fn by_beginning(images: Vec<StoredImage>, id: &str) -> Result<Option<Found>, Failure> {
    let begins = |digest: &Digest| digest.hex().starts_with(id);
    let index = |image: &StoredImage| image.index.as_ref().map(|index| index.digest).filter(begins);
    let meant = |image: &StoredImage| match [image.config, image.manifest.digest].iter().any(begins) {
        true => Some(image.config),
        false => index(image),
    };
    let found: Vec<(Digest, StoredImage)> =
        images.into_iter().filter_map(|image| Some((meant(&image)?, image))).collect();
    let Some((first, _)) = found.first() else { return Ok(None) };
    if found.iter().any(|(meant, _)| meant != first) {
        return Err(Failure::usage(format!("several images have ids that begin with {id}")));
    }
    let is_index = found.iter().all(|(meant, image)| index(image) == Some(*meant));
    let images: Vec<StoredImage> = found.into_iter().map(|(_, image)| image).collect();
    let index = index_of(&images).filter(|_| is_index);
    Ok(Some(Found { images, by_id: true, index }))
}

/// The index that all of them are of.
fn index_of(images: &[StoredImage]) -> Option<Descriptor> {
    let mut indexes = images.iter().map(|image| image.index.as_ref());
    let first = indexes.next()??;
    indexes.all(|index| index.is_some_and(|index| index.digest == first.digest)).then(|| first.clone())
}

/// The images of several platforms, put under one name one by one, for which a push makes the index of this digest: of the repository of a
/// name, where one is given.
fn by_synthesized_index(
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
        if is_of && one_by_one(store, &images).is_ok_and(|index| index.top.digest == digest) {
            return Ok(Some(images));
        }
    }
    Ok(None)
}

/// What the name of an image means: the digest of its index, if it is of one, else that of its manifest.
pub(super) fn digest(image: &StoredImage) -> Digest {
    image.index.as_ref().unwrap_or(&image.manifest).digest
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

/// The documents of what was found, as they are stored: with its index where all that it lists is here, else as [`one_by_one`] has them.
pub(super) fn prepared(store: &Store, found: &Found) -> Result<Prepared, Failure> {
    match whole(store, found)? {
        Some(prepared) => Ok(prepared),
        None => one_by_one(store, &found.images),
    }
}

/// The index that was found and what it says, where it can be read: without it images are still those of their platforms.
pub(super) fn index<'a>(store: &Store, found: &'a Found) -> Option<(&'a Descriptor, Vec<u8>)> {
    let index = found.index.as_ref()?;
    Some((index, read(store, index).ok()?))
}

/// The documents of the index that was found and of all that it lists, if all of it is here.
pub(super) fn whole(store: &Store, found: &Found) -> Result<Option<Prepared>, Failure> {
    let Some((index, bytes)) = self::index(store, found) else { return Ok(None) };
    let listed: Index = parse(&bytes, index)?;
    let mut manifests = Vec::new();
    for descriptor in listed.manifests {
        let image = found.images.iter().find(|image| image.manifest.digest == descriptor.digest);
        let Some(image) = image else { return Ok(None) };
        manifests.push(PackedManifest { descriptor, ..packed(store, image)? });
    }
    Ok(Some(Prepared::of_index(index.clone(), bytes, manifests)?))
}

/// The documents of images; of several, with an index on top that is made of them.
pub(super) fn one_by_one(store: &Store, images: &[StoredImage]) -> Result<Prepared, Failure> {
    let packed = images.iter().map(|image| packed(store, image)).collect::<Result<Vec<_>, _>>()?;
    Ok(Prepared::of_manifests(packed, None)?)
}

fn packed(store: &Store, image: &StoredImage) -> Result<PackedManifest, Failure> {
    let manifest = read(store, &image.manifest)?;
    let parsed: Manifest = parse(&manifest, &image.manifest)?;
    let config = read(store, &parsed.config)?;
    store.blobs().lease(parsed.layers.iter().map(|layer| &layer.digest))?;
    let descriptor = Descriptor { platform: Some(image.platform.clone()), ..image.manifest.clone() };
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
