use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::Arc;

use hash::Digest;
use image::layout::{IMAGE_NAME, REF_NAME};
use image::{ContentStore, Descriptor, Document, MAX_DOCUMENT, parse_document};
use serde_json::{Value, json};

use crate::images::open_blob;
use crate::layout::{LayoutExporter, is_intact};
use crate::names::of_same_tag;
use crate::task::blocking;
use crate::{ExportError, Exported};

/// Something that is kept like an image and is none.
#[derive(Clone)]
pub struct ArtifactFiles {
    /// What points to its manifest.
    pub top: Descriptor,
    /// Manifest and config, by digest.
    pub documents: BTreeMap<Digest, Vec<u8>>,
    /// Its other blobs, which are in `store` or in the layout.
    pub blobs: Vec<Descriptor>,
    /// Where blobs are.
    pub store: Arc<dyn ContentStore>,
    /// Media types of configs, in a manifest or among the entries of an index: only such an entry of a layout loses its tag to this.
    pub replaces: &'static [&'static str],
}

impl LayoutExporter {
    /// Whether the layout has a blob, undamaged.
    pub fn has(&self, blob: &Descriptor) -> bool {
        is_intact(&self.path_of(&blob.digest), &blob.digest, blob.size)
    }

    /// Writes an artifact under a tag, as images are written: what of its kind has the tag is replaced, the rest stays.
    ///
    /// # Errors
    /// Something that is no layout, an image that has the tag, a blob that is neither here nor there, a full disk.
    pub async fn write_artifact(&self, artifact: ArtifactFiles, tag: &str) -> Result<Exported, ExportError> {
        let (exporter, mut entry) = (self.clone(), artifact.top.clone());
        entry.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
        blocking(move |cancel| {
            exporter.check_destination()?;
            let check = |old: &Value| exporter.check_replaced(old, &artifact);
            // Before anything is written, and once more when nobody else can.
            of_same_tag(&exporter.entries()?, &json!(entry)).into_iter().try_for_each(check)?;
            exporter.make_blobs()?;
            for blob in &artifact.blobs {
                exporter.put(&blob.digest, blob.size, cancel, || {
                    open_blob(&*artifact.store, &blob.digest, cancel)
                })?;
            }
            for (digest, bytes) in &artifact.documents {
                exporter.put(digest, bytes.len() as u64, cancel, || Ok(&bytes[..]))?;
            }
            exporter.publish(std::slice::from_ref(&entry), check)?;
            Ok(Exported { descriptor: Some(entry), config_digest: None, warnings: Vec::new() })
        })
        .await
    }

    /// What somebody keeps is not lost because something of another kind has got the same tag.
    fn check_replaced(&self, old: &Value, artifact: &ArtifactFiles) -> Result<(), ExportError> {
        let text = |key: &str| old["annotations"][key].as_str().unwrap_or_default();
        let digest = old["digest"].as_str().unwrap_or_default();
        let is_of_kind = |kind: &String| artifact.replaces.contains(&kind.as_str());
        let found = self.found(old);
        let may = match &found {
            Found::Nothing => text(IMAGE_NAME).is_empty(),
            Found::Kinds(kinds) => kinds.iter().any(is_of_kind),
            Found::Unknown => false,
        };
        if may {
            return Ok(());
        }
        let what = if matches!(found, Found::Unknown) { "something else" } else { "an image" };
        let (tag, name) = (text(REF_NAME), text(IMAGE_NAME));
        let name = if name.is_empty() { digest.to_owned() } else { format!("{name}, {digest}") };
        let reason = format!(
            "its tag `{tag}` is that of {what} ({name}), which would be lost: give another directory, or another tag (tag=…)"
        );
        Err(ExportError::destination(&self.path, reason))
    }

    fn found(&self, entry: &Value) -> Found {
        let Some(digest) = entry["digest"].as_str().and_then(|text| text.parse::<Digest>().ok()) else {
            return Found::Unknown;
        };
        let path = self.path_of(&digest);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Nothing,
            // A pipe would block, and is no blob.
            Ok(metadata) if !metadata.is_file() => return Found::Nothing,
            Ok(metadata) if metadata.len() <= MAX_DOCUMENT => {}
            _ => return Found::Unknown,
        }
        let Ok(bytes) = fs::read(&path) else { return Found::Unknown };
        if Digest::of(&bytes) != digest {
            return Found::Nothing;
        }
        match parse_document("", entry["mediaType"].as_str(), &bytes) {
            Ok(Document::Manifest(manifest)) => Found::Kinds(vec![manifest.config.media_type]),
            Ok(Document::Index(index)) => {
                Found::Kinds(index.manifests.into_iter().map(|one| one.media_type).collect())
            }
            Err(_) => Found::Unknown,
        }
    }
}

/// What an entry of a layout leads to.
enum Found {
    /// Nothing that anybody can read: it is gone, or its bytes are not those of its digest.
    Nothing,
    /// Configs of these media types: its own, or those that its index lists.
    Kinds(Vec<String>),
    /// Something that is not understood here, or cannot be looked at: that is not known to be worth nothing.
    Unknown,
}
