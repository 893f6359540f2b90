use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
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
    /// Media types of the configs of what may lose its tag to it, in a manifest or among the entries of an index.
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
        let may = match self.kinds(old) {
            Some(kinds) => kinds.iter().any(is_of_kind),
            // Nobody can read it any more.
            None => text(IMAGE_NAME).is_empty(),
        };
        if may {
            return Ok(());
        }
        let (tag, name) = (text(REF_NAME), text(IMAGE_NAME));
        let name = if name.is_empty() { digest.to_owned() } else { format!("{name}, {digest}") };
        let reason = format!(
            "its tag `{tag}` is that of an image ({name}), which would be lost: give another directory, or another tag (tag=…)"
        );
        Err(ExportError::destination(&self.path, reason))
    }

    /// Media types of configs that an entry leads to: its own, or those that its index lists. `None`: it leads to nothing.
    fn kinds(&self, entry: &Value) -> Option<Vec<String>> {
        let digest: Digest = entry["digest"].as_str()?.parse().ok()?;
        let path = self.path_of(&digest);
        // A pipe would block.
        if !fs::metadata(&path).ok()?.is_file() {
            return None;
        }
        // What cannot be looked at is not known to be worth nothing.
        let Ok(file) = File::open(&path) else { return Some(Vec::new()) };
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT).read_to_end(&mut bytes).ok()?;
        match parse_document("", entry["mediaType"].as_str(), &bytes).ok()? {
            Document::Manifest(manifest) => Some(vec![manifest.config.media_type]),
            Document::Index(index) => Some(index.manifests.into_iter().map(|one| one.media_type).collect()),
        }
    }
}
