//! What a build that was recorded took from its context.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use files::{DirectoryTree, Ignoring, PathSelection, Selection};
use graph::{InputPart, Listing};
use insight::{BuildRecord, StepRecord};

use super::ignored::IgnoreFile;
use super::uses::{Use, Uses, Wanted};
use crate::commands::build::STANDARD_INPUT;
use crate::failure::Failure;

/// What the step is called that brings the build context.
const CONTEXT: &str = "[internal] load build context";

/// What the frontend calls the empty tree, which no record has.
const SCRATCH: &str = "scratch";

impl Uses {
    /// What the steps of a build used, file by file as far as that is known; what is new in the context is compared with what the
    /// Dockerfile asked for, roughly, as the record has it.
    pub(super) fn recorded(
        record: &BuildRecord,
        context: &Path,
        listing: &dyn Fn(&str) -> Option<Listing>,
    ) -> Result<Uses, Failure> {
        let mut uses = Vec::new();
        for (place, step) in record.steps.iter().enumerate() {
            for part in of_context(record, step) {
                let InputPart::Content { listing: name, files, .. } = part else { continue };
                let listed = name.as_deref().and_then(listing).unwrap_or_default();
                let file =
                    |(path, part): (String, graph::PathPart)| (PathBuf::from(path), part.mode().is_some());
                uses.push(Use {
                    step: place,
                    wanted: wanted(files.as_ref().and_then(graph::Files::text)),
                    files: listed.into_iter().map(file).collect::<HashMap<_, _>>(),
                    links: BTreeSet::new(),
                    rules_modes: step.title().contains("--chmod="),
                });
            }
        }
        let directory = record.invocation.as_ref().map_or(Path::new(""), |how| Path::new(&how.directory));
        let dockerfile = match record.dockerfile.as_str() {
            STANDARD_INPUT => PathBuf::from("-"),
            file => directory.join(file),
        };
        let ignore_file = IgnoreFile::of(&dockerfile, context);
        let ignore = ignore_file.patterns();
        let tree = DirectoryTree::context(context).map_err(|error| Failure::build(error.to_string()))?;
        let tree = Arc::new(Ignoring::new(tree, ignore.clone()));
        Ok(Uses { uses, tree, ignore: Some(Arc::new(ignore)), ignore_file })
    }
}

/// The parts of a step's key that are files of the build context.
fn of_context<'a>(record: &'a BuildRecord, step: &'a StepRecord) -> impl Iterator<Item = &'a InputPart> {
    let parts = step.parts.iter().flat_map(|parts| parts.inputs());
    let parts = parts.filter(|part| !matches!(part, InputPart::Vertex { name, .. } if name == SCRATCH));
    let of_context = |input: &insight::StepInput| record.steps[input.step].name == CONTEXT;
    parts.zip(&step.inputs).filter(move |(_, input)| of_context(input)).map(|(part, _)| part)
}

/// What a record says that a Dockerfile asked for: a pattern, and what of it is left out.
fn wanted(text: Option<&str>) -> Wanted {
    let Some(text) = text.filter(|text| !text.contains(['…', '\\'])) else { return Wanted::Unknown };
    let mut parts = text.split(" --exclude=");
    let pattern = parts.next().unwrap_or_default();
    let (pattern, include) = match pattern.split_once("/./") {
        Some((pattern, include)) => (pattern, Some(include.to_owned())),
        None if pattern == "." => ("", None),
        None => (pattern, None),
    };
    Wanted::Roughly(Selection::Path(PathSelection {
        wildcards: pattern.contains(['*', '?', '[']),
        include,
        exclude: parts.map(str::to_owned).collect(),
        ..PathSelection::exact(pattern)
    }))
}
