use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use hash::Digest;
use image::layout::REF_NAME;
use image::{ContentStore, Descriptor};

use crate::images::open_blob;
use crate::layout::LayoutExporter;
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
}

impl LayoutExporter {
    /// Whether the layout has a blob already, as far as its name and its size tell.
    pub fn has(&self, blob: &Descriptor) -> bool {
        let found = fs::metadata(self.path_of(&blob.digest));
        found.is_ok_and(|found| found.is_file() && found.len() == blob.size)
    }

    /// Writes an artifact under a tag, as images are written: what has the tag is replaced, the rest stays.
    ///
    /// # Errors
    /// Another thing that stands there, a blob that is neither here nor there, a full disk.
    pub async fn write_artifact(&self, artifact: ArtifactFiles, tag: &str) -> Result<Exported, ExportError> {
        let (exporter, tag) = (self.clone(), tag.to_owned());
        blocking(move |cancel| {
            exporter.check_destination()?;
            exporter.make_blobs()?;
            for blob in &artifact.blobs {
                exporter.put(&blob.digest, blob.size, cancel, || {
                    open_blob(&*artifact.store, &blob.digest, cancel)
                })?;
            }
            for (digest, bytes) in &artifact.documents {
                exporter.put(digest, bytes.len() as u64, cancel, || Ok(&bytes[..]))?;
            }
            let mut entry = artifact.top.clone();
            entry.annotations.insert(REF_NAME.to_owned(), tag);
            exporter.publish(std::slice::from_ref(&entry))?;
            Ok(Exported { descriptor: Some(entry), config_digest: None, warnings: Vec::new() })
        })
        .await
    }
}
