//! What image formats have in common: manifests, the index, and the list of blobs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use hash::Digest;
use image::layout::{IMAGE_NAME, REF_NAME};
use image::{ContentStore, Descriptor, Index, MediaType, MediaTypes, PackedManifest, Reference, manifest_of};
use serde_json::{Value, json};

use crate::task::{Cancel, Cancellable};
use crate::{ExportError, Exported, Images};

/// The text of the file `oci-layout`.
pub(crate) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// Annotation with the time of creation.
const CREATED: &str = "org.opencontainers.image.created";

/// Images as documents and blobs, ready to be laid out.
pub(crate) struct Prepared {
    /// What the names point to: the manifest, or the index of several.
    pub(crate) top: Descriptor,
    /// Manifests, configs, and the index of several, by digest.
    pub(crate) documents: BTreeMap<Digest, Vec<u8>>,
    /// Layers in the store: digest and size.
    pub(crate) layers: BTreeSet<(Digest, u64)>,
    pub(crate) manifests: Vec<PackedManifest>,
}

impl Prepared {
    pub(crate) fn new(images: &Images, types: MediaTypes) -> Result<Prepared, ExportError> {
        let manifests: Vec<PackedManifest> = images
            .images
            .iter()
            .map(|image| manifest_of(image, types, &images.annotations))
            .collect::<Result<_, _>>()?;
        let mut documents = BTreeMap::new();
        let mut layers = BTreeSet::new();
        for packed in &manifests {
            documents.insert(packed.descriptor.digest, packed.manifest.clone());
            documents.insert(packed.config_descriptor.digest, packed.config.clone());
            layers.extend(packed.layers.iter().map(|layer| (layer.digest, layer.size)));
        }
        let mut top = match &manifests[..] {
            [] => return Err(ExportError::Empty),
            [only] => only.descriptor.clone(),
            several => {
                let (descriptor, bytes) = index_of(several, types);
                documents.insert(descriptor.digest, bytes);
                descriptor
            }
        };
        if let Some(created) = images.images.first().and_then(|image| image.config.created.clone()) {
            top.annotations.insert(CREATED.to_owned(), created);
        }
        Ok(Prepared { top, documents, layers, manifests })
    }

    /// Entries of `index.json`: one a name, or one without name.
    pub(crate) fn entries(&self, names: &[Reference]) -> Vec<Descriptor> {
        if names.is_empty() {
            return vec![self.top.clone()];
        }
        names.iter().map(|name| self.named(name)).collect()
    }

    fn named(&self, name: &Reference) -> Descriptor {
        let mut entry = self.top.clone();
        entry.annotations.insert(IMAGE_NAME.to_owned(), name.to_string());
        // The spec's annotation holds the tag alone; containerd puts a digest behind it.
        let tag = name.tag.clone().unwrap_or_default();
        let digest = name.digest.map(|digest| format!("@{digest}")).unwrap_or_default();
        entry.annotations.insert(REF_NAME.to_owned(), tag + &digest);
        entry
    }

    pub(crate) fn exported(&self) -> Exported {
        let config_digest = match &self.manifests[..] {
            [only] => Some(only.config_descriptor.digest),
            _ => None,
        };
        Exported { descriptor: Some(self.top.clone()), config_digest, warnings: Vec::new() }
    }
}

fn index_of(manifests: &[PackedManifest], types: MediaTypes) -> (Descriptor, Vec<u8>) {
    let media_type = match types {
        MediaTypes::Oci => MediaType::INDEX,
        MediaTypes::Docker => MediaType::DOCKER_INDEX,
    };
    let index = Index {
        schema_version: 2,
        media_type: Some(media_type.to_owned()),
        manifests: manifests.iter().map(|packed| packed.descriptor.clone()).collect(),
        annotations: BTreeMap::new(),
    };
    let bytes = json_bytes(&json!(index));
    (Descriptor::new(media_type, Digest::of(&bytes), bytes.len() as u64), bytes)
}

/// The bytes of `index.json`.
pub(crate) fn index_json(entries: &[Value]) -> Vec<u8> {
    json_bytes(&json!({ "schemaVersion": 2, "mediaType": MediaType::INDEX, "manifests": entries }))
}

pub(crate) fn json_bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// Where a blob stands in a layout.
pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Opens a layer's blob; reading fails when its bytes are not those of the digest.
pub(crate) fn open_blob<'a>(
    store: &dyn ContentStore,
    digest: &Digest,
    cancel: &'a Cancel,
) -> Result<impl Read + use<'a>, ExportError> {
    cancel.check()?;
    let blob = |source| ExportError::Blob { digest: *digest, source };
    let reader = store.open(digest).map_err(blob)?.ok_or(ExportError::MissingBlob(*digest))?;
    Ok(Cancellable { reader, cancel })
}
