//! What image formats have in common: manifests, the index, and the list of blobs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use hash::Digest;
use image::layout::{IMAGE_NAME, REF_NAME};
use image::{
    ContentStore, Descriptor, ImageConfig, Index, MediaType, MediaTypes, PackedManifest, Reference,
    manifest_of,
};
use serde_json::{Value, json};

use crate::annotations::AnnotationPlace;
use crate::task::{Cancel, Cancellable};
use crate::{ExportError, Exported, Images};

/// The text of the file `oci-layout`.
pub(crate) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// Annotation with the time of creation.
const CREATED: &str = "org.opencontainers.image.created";

/// Images written down as documents and blobs, ready to be laid out or sent.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// What the names point to: the manifest, or the index of several.
    pub top: Descriptor,
    /// Manifests, configs, and the index of several, by digest.
    pub documents: BTreeMap<Digest, Vec<u8>>,
    /// One a platform.
    pub manifests: Vec<PackedManifest>,
    /// When the first image was made, as its config says it.
    created: Option<String>,
}

impl Prepared {
    /// Writes down manifests and, for several images or where it is wanted, their index.
    ///
    /// # Errors
    /// No image at all, layers that have no media type there, annotations that have no place.
    pub fn new(images: &Images, types: MediaTypes) -> Result<Prepared, ExportError> {
        let with_index = images.with_index || images.images.len() > 1;
        let platforms: Vec<_> = images.images.iter().map(|image| &image.platform).collect();
        images.annotations.check(&platforms, with_index, types)?;
        let mut manifests = Vec::new();
        for image in &images.images {
            let at = |place| images.annotations.at(place, Some(&image.platform));
            let mut packed = manifest_of(image, types, &at(AnnotationPlace::Manifest))?;
            packed.descriptor.annotations = at(AnnotationPlace::ManifestDescriptor);
            manifests.push(packed);
        }
        let index = with_index.then(|| images.annotations.at(AnnotationPlace::Index, None));
        let mut prepared = Prepared::of_manifests(manifests, index)?;
        if with_index {
            prepared.top.annotations = images.annotations.at(AnnotationPlace::IndexDescriptor, None);
        }
        Ok(prepared)
    }

    /// The same of manifests that are written already, as images of a store are. `index`: the annotations of an index on top of them,
    /// which several need.
    ///
    /// # Errors
    /// No manifest at all.
    pub fn of_manifests(
        manifests: Vec<PackedManifest>,
        index: Option<BTreeMap<String, String>>,
    ) -> Result<Prepared, ExportError> {
        match &manifests[..] {
            [only] if index.is_none() => Prepared::on_top(only.descriptor.clone(), None, manifests),
            _ => {
                let (descriptor, bytes) = index_of(&manifests, index.unwrap_or_default());
                Prepared::of_index(descriptor, bytes, manifests)
            }
        }
    }

    /// The same with an index that is written already. `manifests` are what it lists, with the descriptors that it has.
    ///
    /// # Errors
    /// No manifest at all.
    pub fn of_index(
        index: Descriptor,
        bytes: Vec<u8>,
        manifests: Vec<PackedManifest>,
    ) -> Result<Prepared, ExportError> {
        Prepared::on_top(index, Some(bytes), manifests)
    }

    fn on_top(
        top: Descriptor,
        index: Option<Vec<u8>>,
        manifests: Vec<PackedManifest>,
    ) -> Result<Prepared, ExportError> {
        let mut documents = BTreeMap::new();
        for packed in &manifests {
            documents.insert(packed.descriptor.digest, packed.manifest.clone());
            documents.insert(packed.config_descriptor.digest, packed.config.clone());
        }
        documents.extend(index.map(|bytes| (top.digest, bytes)));
        let first = manifests.first().ok_or(ExportError::Empty)?;
        let created = serde_json::from_slice::<ImageConfig>(&first.config).ok();
        let created = created.and_then(|config| config.created);
        Ok(Prepared { top, documents, manifests, created })
    }

    /// The index, where there is one.
    pub fn index(&self) -> Option<&Descriptor> {
        let is_manifest = self.manifests.iter().any(|packed| packed.descriptor.digest == self.top.digest);
        (!is_manifest).then_some(&self.top)
    }

    /// Layers in the store: digest and size.
    pub(crate) fn layers(&self) -> BTreeSet<(Digest, u64)> {
        let layers = self.manifests.iter().flat_map(|packed| &packed.layers);
        layers.map(|layer| (layer.digest, layer.size)).collect()
    }

    /// Entries of `index.json`: one a name, or one without name.
    pub(crate) fn entries(&self, names: &[Reference]) -> Vec<Descriptor> {
        let top = self.entry();
        if names.is_empty() {
            return vec![top];
        }
        let mut entries: Vec<Descriptor> = Vec::with_capacity(names.len());
        for name in names {
            let entry = named(top.clone(), name);
            // `-t app -t app:latest` is one name.
            if !entries.contains(&entry) {
                entries.push(entry);
            }
        }
        entries
    }

    /// What points to it from a layout.
    fn entry(&self) -> Descriptor {
        let mut entry = self.top.clone();
        if let Some(created) = &self.created {
            entry.annotations.entry(CREATED.to_owned()).or_insert_with(|| created.clone());
        }
        entry
    }

    pub(crate) fn exported(&self) -> Exported {
        let config_digest = match &self.manifests[..] {
            [only] => Some(only.config_descriptor.digest),
            _ => None,
        };
        Exported { descriptor: Some(self.entry()), config_digest, warnings: Vec::new() }
    }
}

fn named(mut entry: Descriptor, name: &Reference) -> Descriptor {
    entry.annotations.insert(IMAGE_NAME.to_owned(), name.to_string());
    // The spec's annotation holds the tag alone; containerd puts a digest behind it.
    let tag = name.tag.clone().unwrap_or_default();
    let digest = name.digest.map(|digest| format!("@{digest}")).unwrap_or_default();
    entry.annotations.insert(REF_NAME.to_owned(), tag + &digest);
    entry
}

/// The index of manifests: of Docker's kind when all of them are.
fn index_of(manifests: &[PackedManifest], annotations: BTreeMap<String, String>) -> (Descriptor, Vec<u8>) {
    let of_docker = |packed: &PackedManifest| packed.descriptor.media_type == MediaType::DOCKER_MANIFEST;
    let media_type = match manifests.iter().all(of_docker) {
        true => MediaType::DOCKER_INDEX,
        false => MediaType::INDEX,
    };
    let index = Index {
        schema_version: 2,
        media_type: Some(media_type.to_owned()),
        manifests: manifests.iter().map(|packed| packed.descriptor.clone()).collect(),
        annotations,
    };
    // Laid out for people, as BuildKit has it.
    let bytes = serde_json::to_vec_pretty(&index).unwrap_or_default();
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
