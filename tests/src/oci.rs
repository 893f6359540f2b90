//! Reads OCI image layouts, independently of the code under test.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::tree::sha256;
use crate::{Tree, json, run, tempdir, tool};

/// The one image of an OCI layout.
pub struct Image {
    /// The layout's directory.
    pub layout: PathBuf,
    /// `sha256:…` of the manifest.
    pub digest: String,
    /// The manifest.
    pub manifest: Value,
    /// The image config.
    pub config: Value,
    _dir: Option<TempDir>,
}

impl Image {
    /// Reads a layout. Every digest on the way is checked.
    ///
    /// # Panics
    /// When the layout is none, holds other than one image, or a digest is wrong.
    #[track_caller]
    pub fn open(layout: PathBuf, dir: Option<TempDir>) -> Self {
        let version = json(&layout.join("oci-layout"));
        assert_eq!(version["imageLayoutVersion"], "1.0.0", "the layout's version");
        let index = json(&layout.join("index.json"));
        let manifests = index["manifests"].as_array().expect("an index lists manifests");
        assert_eq!(manifests.len(), 1, "one image in the index: {index:#}");
        let digest = manifests[0]["digest"].as_str().expect("a digest").to_owned();
        let manifest = blob_json(&layout, &manifests[0]);
        let config = blob_json(&layout, &manifest["config"]);
        Self { layout, digest, manifest, config, _dir: dir }
    }

    /// The config's digest: the image's id.
    pub fn id(&self) -> &str {
        self.manifest["config"]["digest"].as_str().expect("a digest")
    }

    /// The layers' tars, uncompressed. That each is what the config says is checked.
    ///
    /// # Panics
    /// When one is not.
    pub fn layers(&self) -> Vec<Vec<u8>> {
        let descriptors = self.manifest["layers"].as_array().expect("a manifest lists layers");
        let diff_ids = self.config["rootfs"]["diff_ids"].as_array().expect("a config lists diff ids");
        assert_eq!(descriptors.len(), diff_ids.len(), "as many layers as diff ids");
        let read = |(descriptor, diff_id): (&Value, &Value)| {
            let bytes = blob(&self.layout, descriptor);
            let media_type = descriptor["mediaType"].as_str().unwrap_or_default();
            let mut tar = Vec::new();
            match media_type {
                gzip if gzip.ends_with("gzip") => {
                    let mut members = flate2::read::MultiGzDecoder::new(bytes.as_slice());
                    members.read_to_end(&mut tar).expect("a gzip layer");
                }
                zstd if zstd.ends_with("zstd") => {
                    let frames = zstd::stream::read::Decoder::new(bytes.as_slice());
                    frames.and_then(|mut frames| frames.read_to_end(&mut tar)).expect("a zstd layer");
                }
                _ => tar = bytes,
            }
            assert_eq!(format!("sha256:{}", sha256(&tar)), diff_id.as_str().expect("a diff id"), "diff id");
            tar
        };
        descriptors.iter().zip(diff_ids).map(read).collect()
    }

    /// The tree, unpacked by umoci.
    ///
    /// # Panics
    /// When umoci refuses the layout.
    pub fn tree(&self) -> Tree {
        unpack(&self.layout)
    }
}

/// Unpacks the only image of a layout with umoci and reads the tree.
///
/// # Panics
/// When umoci refuses it.
#[track_caller]
pub fn unpack(layout: &Path) -> Tree {
    let dir = tempdir();
    let rootfs = dir.path().join("rootfs");
    // umoci takes a tag only; a copy under a known one leaves the layout as it is.
    let copy = dir.path().join("copy");
    let from = format!("oci:{}", layout.display());
    let to = format!("oci:{}:latest", copy.display());
    run(tool("skopeo").args(["--insecure-policy", "copy", "--quiet", &from, &to])).ok();
    run(tool("umoci")
        .args(["raw", "unpack", "--image"])
        .arg(format!("{}:latest", copy.display()))
        .arg(&rootfs))
    .ok();
    Tree::from_dir(&rootfs)
}

fn blob(layout: &Path, descriptor: &Value) -> Vec<u8> {
    let digest = descriptor["digest"].as_str().unwrap_or_else(|| panic!("no digest in {descriptor}"));
    let hex =
        digest.strip_prefix("sha256:").unwrap_or_else(|| panic!("a digest of an unknown kind: {digest}"));
    let path = layout.join("blobs/sha256").join(hex);
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    assert_eq!(sha256(&bytes), hex, "the content of {}", path.display());
    assert_eq!(descriptor["size"].as_u64(), Some(bytes.len() as u64), "the size of {digest}");
    bytes
}

fn blob_json(layout: &Path, descriptor: &Value) -> Value {
    serde_json::from_slice(&blob(layout, descriptor)).expect("JSON in a blob")
}
