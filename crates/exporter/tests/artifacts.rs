//! What is kept like an image and is none, in layouts that have other things.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use exporter::{ArtifactFiles, ExportError, LayoutExporter};
use hash::Digest;
use image::{Descriptor, MemoryStore};
use serde_json::{Value, json};

const OURS: &str = "application/vnd.example.cache.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn manifest(config: &str) -> Vec<u8> {
    let config = json!({ "mediaType": config, "digest": Digest::of(b"{}"), "size": 2 });
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [] });
    manifest.to_string().into_bytes()
}

fn write(layout: &Path) -> Result<(), ExportError> {
    let bytes = manifest(OURS);
    let top = Descriptor::new(MANIFEST, Digest::of(&bytes), bytes.len() as u64);
    let artifact = ArtifactFiles {
        documents: BTreeMap::from([(top.digest, bytes), (Digest::of(b"{}"), b"{}".to_vec())]),
        top,
        blobs: Vec::new(),
        store: Arc::new(MemoryStore::default()),
        replaces: &[OURS],
    };
    let exporter = LayoutExporter::new(layout);
    let written = exporter.write_artifact(artifact, "cache");
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(written).map(drop)
}

fn index(layout: &Path) -> Value {
    serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap()
}

/// Gives the tag to a document of which `bytes` are there.
fn tag(layout: &Path, media_type: &str, document: &[u8], bytes: Option<&[u8]>) {
    let digest = Digest::of(document);
    let mut index = index(layout);
    let entry = &mut index["manifests"][0];
    (entry["mediaType"], entry["digest"]) = (json!(media_type), json!(digest));
    entry["size"] = json!(document.len());
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    let path = layout.join("blobs/sha256").join(digest.hex());
    let _ = fs::remove_file(&path);
    if let Some(bytes) = bytes {
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn only_its_own_kind_and_what_nobody_can_read_lose_their_tag() {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    write(&layout).unwrap();
    let old = json!({ "mediaType": "application/vnd.oci.artifact.manifest.v1+json", "blobs": [] });
    let schema_1 = json!({ "schemaVersion": 1, "name": "app", "fsLayers": [] });
    let image = manifest("application/vnd.oci.image.config.v1+json");
    for (media_type, document, what) in [
        ("application/vnd.oci.artifact.manifest.v1+json", old.to_string().into_bytes(), "something else"),
        (
            "application/vnd.docker.distribution.manifest.v1+json",
            schema_1.to_string().into_bytes(),
            "something else",
        ),
        (MANIFEST, b"no JSON".to_vec(), "something else"),
        (MANIFEST, image, "an image"),
    ] {
        tag(&layout, media_type, &document, Some(&document));
        let before = index(&layout);
        let refused = write(&layout).unwrap_err().to_string();
        assert!(refused.contains(&format!("its tag `cache` is that of {what} (sha256:")), "{refused}");
        assert_eq!(index(&layout), before);
        // Damaged, or gone.
        let other = vec![b' '; document.len()];
        for bytes in [Some(&other[..]), None] {
            tag(&layout, media_type, &document, bytes);
            write(&layout).unwrap();
        }
    }
    tag(&layout, MANIFEST, &manifest(OURS), Some(&manifest(OURS)));
    write(&layout).unwrap();
}
