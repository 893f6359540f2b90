//! `du --by`: what images, stages and cache mounts take, and what would be free without them.

use std::collections::{BTreeMap, BTreeSet};

use cache::{CacheKind, CachePart, Store};
use image::Reference;

use crate::failure::Failure;
use crate::progress::harmless;
use crate::{format, terminal};

/// What is added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum By {
    /// Images of the image store
    Image,
    /// Stages of Dockerfiles, by name
    Stage,
    /// Steps, one by one
    Step,
    /// Cache mounts and git repositories
    Mount,
}

/// The blobs of images. One that another image or a cached layer has as well is not freed with it.
pub(super) fn images(store: &Store) -> Result<String, Failure> {
    let mut rows = vec![["IMAGE", "PLATFORM", "SIZE", "FREES"].map(str::to_owned).to_vec()];
    for image in store.image_usage()? {
        let name = image.name.parse::<Reference>().map_or(image.name, |name| name.familiar());
        rows.push(vec![
            harmless(&name),
            harmless(&image.platform),
            format::bytes(image.bytes),
            format::bytes(image.frees),
        ]);
    }
    Ok(format::table_within(&rows, &[0], terminal::columns()))
}

/// Stages by name: Dockerfiles that name theirs alike are added up. Of `parts`, only what is `wanted` counts as a stage's; what stands on it
/// goes with it all the same.
pub(super) fn stages(parts: &[CachePart], wanted: &dyn Fn(&CachePart) -> bool) -> String {
    let above = above(parts);
    let mut stages: BTreeMap<&str, Vec<&CachePart>> = BTreeMap::new();
    for part in
        parts.iter().filter(|part| wanted(part) && matches!(part.kind, CacheKind::Step | CacheKind::Image))
    {
        stages.entry(stage(part)).or_default().push(part);
    }
    let mut rows = vec![["STAGE", "LAYERS", "SIZE", "FREES"].map(str::to_owned).to_vec()];
    for (name, own) in stages {
        rows.push(vec![
            harmless(name),
            own.len().to_string(),
            format::bytes(own.iter().map(|part| part.bytes).sum()),
            format::bytes(freed(&above, &own)),
        ]);
    }
    format::table_within(&rows, &[0], terminal::columns())
}

/// The stage of a step that is described as `[NAME 2/5] RUN …`.
fn stage(part: &CachePart) -> &str {
    // The layers of an image that was built here are steps all the same.
    if part.description.is_empty() {
        return "(images)";
    }
    let inside = part.description.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    // Numbers are filled up to the width of the last: `[NAME  9/10]`.
    let name = inside.and_then(|(inside, _)| inside.rsplit_once(' ')).map(|(name, _)| name.trim());
    name.filter(|name| !name.is_empty()).unwrap_or("(others)")
}

/// What stands directly on each layer.
type Above<'a> = BTreeMap<&'a str, Vec<&'a CachePart>>;

fn above(parts: &[CachePart]) -> Above<'_> {
    let mut above = Above::new();
    for part in parts {
        for parent in &part.parents {
            above.entry(parent).or_default().push(part);
        }
    }
    above
}

/// Bytes of these layers and of all that stands on them, except what is held.
fn freed<'a>(above: &Above<'a>, own: &[&'a CachePart]) -> u64 {
    let mut seen = BTreeSet::new();
    let mut waiting: Vec<&CachePart> = own.iter().copied().filter(|part| part.held.is_none()).collect();
    let mut bytes = 0;
    while let Some(part) = waiting.pop() {
        if seen.insert(part.id.as_str()) {
            bytes += part.bytes;
            waiting.extend(above.get(part.id.as_str()).into_iter().flatten());
        }
    }
    bytes
}
