use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;

use async_trait::async_trait;
use hash::Digest;
use image::layer::{Entry, EntryKind, LayerError, LayerWriter};
use image::{ContentStore, MediaTypes, Platform, Reference};
use serde_json::{Value, json};

use crate::images::{LAYOUT, Prepared, blob_path, index_json, json_bytes, open_blob};
use crate::task::{Cancel, blocking};
use crate::{ExportError, Exported, Exporter, Images, Needs, Output, Product};

/// Writes images as one tar: an OCI layout, or what `docker load` reads (which is a layout as well).
///
/// Equal images give equal bytes: entries are sorted by name and carry no owners and no times.
#[derive(Debug, Clone)]
pub struct ArchiveExporter {
    output: Output,
    types: MediaTypes,
    docker: bool,
    left_out: BTreeSet<Digest>,
}

impl ArchiveExporter {
    /// An OCI layout as a tar (`type=oci`).
    pub fn oci(output: Output) -> ArchiveExporter {
        ArchiveExporter { output, types: MediaTypes::Oci, docker: false, left_out: BTreeSet::new() }
    }

    /// A Docker archive (`type=docker`): one platform, Docker's media types, layers uncompressed or gzip.
    pub fn docker(output: Output) -> ArchiveExporter {
        ArchiveExporter { output, types: MediaTypes::Docker, docker: true, left_out: BTreeSet::new() }
    }

    /// Other media types than those of the format (`oci-mediatypes=`).
    pub fn with_types(self, types: MediaTypes) -> ArchiveExporter {
        ArchiveExporter { types, ..self }
    }

    /// Without these blobs, for somebody who has them: manifests name them all the same.
    pub fn without(self, left_out: BTreeSet<Digest>) -> ArchiveExporter {
        ArchiveExporter { left_out, ..self }
    }
}

#[async_trait]
impl Exporter for ArchiveExporter {
    fn needs(&self) -> Needs {
        Needs::Images
    }

    async fn export(&self, product: Product) -> Result<Exported, ExportError> {
        let Product::Images(images) = product else { return Err(ExportError::WrongProduct(Needs::Images)) };
        let exporter = self.clone();
        blocking(move |cancel| exporter.write(&images, cancel)).await
    }
}

/// What a file of the archive holds.
enum Content {
    Bytes(Vec<u8>),
    Layer(Digest, u64),
}

/// An image of an archive that holds several.
#[derive(Debug, Clone)]
pub struct ArchiveImage {
    /// The image.
    pub image: Prepared,
    /// Its names; may be empty.
    pub names: Vec<Reference>,
}

impl ArchiveExporter {
    /// Writes images that are written down already, each with names of its own, into one archive. Blobs are read from `store`.
    ///
    /// # Errors
    /// Whatever goes wrong; a file is then not there.
    pub async fn export_several(
        &self,
        images: Vec<ArchiveImage>,
        store: Arc<dyn ContentStore>,
    ) -> Result<(), ExportError> {
        let exporter = self.clone();
        blocking(move |cancel| exporter.write_several(&images, &*store, cancel)).await
    }

    fn write(&self, images: &Images, cancel: &Cancel) -> Result<Exported, ExportError> {
        if self.docker && images.images.len() > 1 {
            return Err(ExportError::SeveralPlatforms(images.images.len()));
        }
        let prepared = Prepared::new(images, self.types)?;
        let exported = prepared.exported();
        let image = ArchiveImage { image: prepared, names: images.names.clone() };
        self.write_several(&[image], &*images.store, cancel)?;
        Ok(exported)
    }

    fn write_several(
        &self,
        images: &[ArchiveImage],
        store: &dyn ContentStore,
        cancel: &Cancel,
    ) -> Result<(), ExportError> {
        let files = self.files(images);
        self.output.write(|out| write_archive(out, store, &files, cancel))
    }

    fn files(&self, images: &[ArchiveImage]) -> BTreeMap<String, Content> {
        let mut files = BTreeMap::new();
        let mut entries: Vec<Value> = Vec::new();
        for ArchiveImage { image, names } in images {
            for (digest, bytes) in &image.documents {
                files.insert(blob_path(digest), Content::Bytes(bytes.clone()));
            }
            for (digest, size) in
                image.layers().into_iter().filter(|(digest, _)| !self.left_out.contains(digest))
            {
                files.insert(blob_path(&digest), Content::Layer(digest, size));
            }
            entries.extend(image.entries(names).iter().map(|entry| json!(entry)));
        }
        files.insert("index.json".to_owned(), Content::Bytes(index_json(&entries)));
        files.insert("oci-layout".to_owned(), Content::Bytes(LAYOUT.to_vec()));
        if self.docker {
            files.insert("manifest.json".to_owned(), Content::Bytes(docker_manifest(images)));
        }
        files
    }
}

/// The file by which `docker load` finds everything. Of several platforms that are one image it knows only one, this machine's where it is
/// there, as with `docker save`: the last one would have the names.
fn docker_manifest(images: &[ArchiveImage]) -> Vec<u8> {
    let one = |packed: &image::PackedManifest, names: &[Reference]| {
        let mut tags: Vec<String> = Vec::new();
        for name in names.iter().filter(|name| name.tag.is_some()).map(Reference::familiar) {
            if !tags.contains(&name) {
                tags.push(name);
            }
        }
        let layers: Vec<String> = packed.layers.iter().map(|layer| blob_path(&layer.digest)).collect();
        let tags = if tags.is_empty() { Value::Null } else { json!(tags) };
        json!({ "Config": blob_path(&packed.config_descriptor.digest), "RepoTags": tags, "Layers": layers })
    };
    let host = Platform::host();
    // As the index spells its platforms, which need not be their normal form; the first of those that fit as well.
    let rank = |packed: &&image::PackedManifest| {
        let platform = packed.descriptor.platform.as_ref();
        platform.and_then(|platform| host.rank(platform)).unwrap_or(usize::MAX)
    };
    let all = images.iter().filter_map(|ArchiveImage { image, names }| {
        let packed = image.manifests.iter().min_by_key(rank)?;
        Some(one(packed, names))
    });
    json_bytes(&Value::Array(all.collect()))
}

fn write_archive(
    out: &mut dyn Write,
    store: &dyn ContentStore,
    files: &BTreeMap<String, Content>,
    cancel: &Cancel,
) -> Result<(), ExportError> {
    let mut tar = LayerWriter::archive(out);
    let mut append = |path: &str, kind: EntryKind, mode: u32, content: &mut dyn std::io::Read| {
        tar.append(&Entry { kind, mode, ..Entry::whiteout(path) }, content)
    };
    for directory in ["blobs", "blobs/sha256"] {
        append(directory, EntryKind::Directory, 0o755, &mut std::io::empty())?;
    }
    for (path, content) in files {
        match content {
            Content::Bytes(bytes) => {
                append(path, EntryKind::File { size: bytes.len() as u64 }, 0o444, &mut &bytes[..])?;
            }
            Content::Layer(digest, size) => {
                let mut blob = open_blob(store, digest, cancel)?;
                append(path, EntryKind::File { size: *size }, 0o444, &mut blob).map_err(
                    |error| match error {
                        LayerError::Content { source, .. } => ExportError::Blob { digest: *digest, source },
                        other => other.into(),
                    },
                )?;
            }
        }
    }
    tar.finish()?;
    Ok(())
}
