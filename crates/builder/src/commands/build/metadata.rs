//! What a build tells in files: the image's id, and metadata in upstream's words (buildx, `commands/build.go`).

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use exporter::ExportError;
use graph::Vertex;
use image::Reference;
use parser::Diagnostic;
use serde_json::{Value, json};

use super::call;
use super::deliver::{Delivered, Ids};
use super::done::Notices;
use super::provenance::{Detail, Known};
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

/// What there is to tell, beside the images.
pub(super) struct About<'a> {
    pub(super) known: Known<'a>,
    /// Whether the result is an index, also of a single platform.
    pub(super) with_index: bool,
    pub(super) notices: &'a Notices,
}

/// Writes the id that is told where it is asked for.
pub(super) fn write_id(path: Option<&Path>, ids: Option<&Ids>) -> Result<(), Failure> {
    match path.zip(ids) {
        Some((path, ids)) => write_file(path, ids.told.to_string().as_bytes()),
        None => Ok(()),
    }
}

impl About<'_> {
    /// Writes what is known of the images.
    pub(super) fn write(&self, path: &Path, images: &[Delivered]) -> Result<(), Failure> {
        let metadata = self.metadata(images, |name| std::env::var(name).ok());
        write_file(path, format!("{:#}\n", json!(metadata)).as_bytes())
    }

    /// Upstream's keys. Of several images the last counts, as there, but with the names of all.
    fn metadata(
        &self,
        images: &[Delivered],
        variable: impl Fn(&str) -> Option<String>,
    ) -> BTreeMap<String, Value> {
        let mut metadata = BTreeMap::new();
        let mut tell = |key: &str, value: Value| drop(metadata.insert(key.to_owned(), value));
        tell("buildx.build.ref", json!(self.known.build));
        if let Some(last) = images.last() {
            if let Some(config) = &last.config {
                tell("containerimage.config.digest", json!(config));
            }
            tell("containerimage.descriptor", json!(last.top));
            tell("containerimage.digest", json!(last.top.digest));
        }
        let mut names: Vec<String> = Vec::new();
        for name in images.iter().flat_map(|image| &image.names).map(Reference::to_string) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if !names.is_empty() {
            tell("image.name", json!(names.join(",")));
        }
        if let Some(detail) = Detail::of(variable("BUILDX_METADATA_PROVENANCE").as_deref()) {
            for target in &self.known.plan.targets {
                let platform = if self.with_index { format!("/{}", target.platform) } else { String::new() };
                let predicate = self.known.predicate(target, detail);
                tell(&format!("buildx.build.provenance{platform}"), predicate);
            }
        }
        let wants_warnings = variable("BUILDX_METADATA_WARNINGS").and_then(|text| parser::parse_bool(&text));
        let warnings = if wants_warnings == Some(true) { self.warnings() } else { Vec::new() };
        if !warnings.is_empty() {
            tell("buildx.build.warnings", warnings.into());
        }
        metadata
    }

    /// What is said when a build has ended, as BuildKit's client has it (`VertexWarning` in `client/graph.go`; bytes are base64).
    fn warnings(&self) -> Vec<Value> {
        let Known { request, plan, .. } = &self.known;
        let source = &request.dockerfile;
        let finding = |finding: &Diagnostic| {
            let (first, last) = call::lines(finding.span, &source.text);
            let short = match finding.rule {
                Some(rule) => format!("{rule}: {} (line {first})", finding.message),
                None => format!("{} (line {first})", finding.message),
            };
            let mut warning = json!({
                "level": 1, "short": STANDARD.encode(short), "sourceInfo": call::source_info(source),
                "range": [{ "start": { "line": first }, "end": { "line": last } }],
            });
            if let Some((description, url)) = finding.rule.and_then(call::rule) {
                warning["detail"] = json!([STANDARD.encode(description)]);
                if let Some(url) = url {
                    warning["url"] = url.into();
                }
            }
            let is_there =
                |vertex: &Vertex| vertex.lines.is_some_and(|(from, to)| (from..=to).contains(&first));
            if let Some((id, _)) = plan.definition.iter().find(|(_, vertex)| is_there(vertex)) {
                // As `--progress=rawjson` names it.
                warning["vertex"] = format!("blake3:{}", plan.definition.digest(id)).into();
            }
            warning
        };
        let mut warnings: Vec<Value> = self.notices.warnings.iter().map(finding).collect();
        if !self.notices.unused_build_args.is_empty() {
            let names = self.notices.unused_build_args.join(" ");
            let short = STANDARD.encode(format!("One or more build-args [{names}] were not consumed"));
            warnings.push(json!({ "level": 1, "short": short, "sourceInfo": call::source_info(source) }));
        }
        warnings
    }
}

/// Replaces a file in one step where that can be done, as it can not where the file is a mount or its directory another user's.
fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let file = exporter::Output::File(path.to_owned());
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    match file.write(|out| out.write_all(bytes).map_err(ExportError::Stream)) {
        Err(ExportError::Io { source, .. }) if !full.contains(&source.kind()) => {
            std::fs::write(path, bytes).map_err(|error| Failure::io("write", path, &error))
        }
        written => Ok(written?),
    }
}
