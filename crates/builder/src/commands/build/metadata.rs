//! What a build tells in files: the image's id, and metadata in upstream's words (buildx, `commands/build.go`).

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use exporter::ExportError;
use image::Reference;
use serde_json::json;

use super::deliver::Delivered;
use crate::failure::Failure;

/// Takes the id of an earlier build away: whoever reads the file after one that failed must not take it for this one's. What is no file is
/// left alone, as is one that cannot go.
pub(super) fn forget(path: Option<&Path>) {
    if let Some(path) = path
        && std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
    {
        let _ = std::fs::remove_file(path);
    }
}

/// Upstream's keys. Of several images the last counts, as there, but with the names of all.
pub(super) fn text(images: &[Delivered], build: &str) -> String {
    let mut metadata = BTreeMap::from([("buildx.build.ref", json!(build))]);
    if let Some(last) = images.last() {
        if let Some(config) = &last.config {
            metadata.insert("containerimage.config.digest", json!(config));
        }
        metadata.insert("containerimage.descriptor", json!(last.top));
        metadata.insert("containerimage.digest", json!(last.top.digest));
        let mut names: Vec<String> = Vec::new();
        for name in images.iter().flat_map(|image| &image.names).map(Reference::to_string) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if !names.is_empty() {
            metadata.insert("image.name", json!(names.join(",")));
        }
    }
    format!("{:#}\n", json!(metadata))
}

/// Replaces a file in one step where that can be done, as it can not where the file is a mount or its directory another user's.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let file = exporter::Output::File(path.to_owned());
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    match file.write(|out| out.write_all(bytes).map_err(ExportError::Stream)) {
        Err(ExportError::Io { source, .. }) if !full.contains(&source.kind()) => {
            std::fs::write(path, bytes).map_err(|error| Failure::io("write", path, &error))
        }
        written => Ok(written?),
    }
}
