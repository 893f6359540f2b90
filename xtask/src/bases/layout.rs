//! Writes an image of one layer as an OCI image layout (image-spec 1.1, `image-layout.md`).

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::rootfs::Rootfs;
use crate::shell::Result;

/// `EPOCH` as RFC 3339.
const CREATED: &str = "2025-01-01T00:00:00Z";

/// Writes the layout to `dir`, tagged `latest`, and returns the digest of the manifest.
pub(super) fn write(dir: &Path, rootfs: &Rootfs, name: &str, command: &str) -> Result<String> {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let put = |media_type: &str, bytes: &[u8]| -> Result<Value> {
        let hex = sha256(bytes);
        fs::write(blobs.join(&hex), bytes)?;
        Ok(json!({ "mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len() }))
    };

    let tar = rootfs.write_tar(Vec::new())?;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::new(6));
    gzip.write_all(&tar)?;
    let layer = put("application/vnd.oci.image.layer.v1.tar+gzip", &gzip.finish()?)?;
    let config = json!({
        "created": CREATED,
        "architecture": architecture()?,
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": [command],
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&tar))] },
        "history": [{ "created": CREATED, "created_by": format!("cargo xtask bases # {name}") }],
    });
    let config = put("application/vnd.oci.image.config.v1+json", &serde_json::to_vec(&config)?)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [layer],
    });
    let mut manifest = put("application/vnd.oci.image.manifest.v1+json", &serde_json::to_vec(&manifest)?)?;
    let digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    fs::write(dir.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(digest)
}

/// The digest of the manifest that a layout of ours holds.
pub(super) fn digest(dir: &Path) -> Result<String> {
    let index: Value = serde_json::from_slice(&fs::read(dir.join("index.json"))?)?;
    let digest = index["manifests"][0]["digest"].as_str();
    Ok(digest.ok_or_else(|| format!("{} names no manifest", dir.display()))?.to_owned())
}

/// This machine's architecture under the name that OCI takes from Go.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => Err(format!("no base images for the architecture {other} yet").into()),
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
