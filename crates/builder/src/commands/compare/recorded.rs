//! What a build that was recorded took from its context.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use files::{PathSelection, Selection};
use graph::{InputPart, Listing};
use insight::{BuildRecord, Invocation, StepRecord};

use super::context_view::{ContextView, Use, Wanted};
use super::ignored::IgnoreFile;
use super::uses::Uses;
use crate::commands::build::{self, STANDARD_INPUT};
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
        let how = record.invocation.as_ref().and_then(ParsedInvocation::of);
        let dockerfile = match record.dockerfile.as_str() {
            STANDARD_INPUT => PathBuf::from("-"),
            // Where none is named, the ignore file of one that is called `Dockerfile` counts.
            _ if how.as_ref().is_some_and(|how| how.arguments.file.is_none()) => context.join("Dockerfile"),
            file => {
                let directory = record.invocation.as_ref().map_or("", |how| &how.directory);
                Path::new(directory).join(file)
            }
        };
        let main = (CONTEXT.to_owned(), context.to_owned(), IgnoreFile::of(&dockerfile, context));
        let named = how.iter().flat_map(|how| how.named(context)).map(|(name, directory)| {
            let ignore_file = IgnoreFile::within(&directory, context);
            (format!("[context {name}] load from client"), directory, ignore_file)
        });
        let mut contexts = Vec::new();
        for (name, directory, ignore_file) in std::iter::once(main).chain(named) {
            let Some(mut seen) = ContextView::open(&directory, context, ignore_file)? else { continue };
            for (step, part) in of_context(record, &name) {
                let InputPart::Content { listing: name, files, .. } = part else { continue };
                let listed = name.as_deref().and_then(listing).unwrap_or_default();
                let file =
                    |(path, part): (String, graph::PathPart)| (PathBuf::from(path), part.mode().is_some());
                seen.add(Use {
                    step,
                    wanted: wanted(files.as_ref().and_then(graph::Files::text)),
                    files: listed.into_iter().map(file).collect::<HashMap<_, _>>(),
                    links: BTreeSet::new(),
                    rules_modes: record.steps[step].title().contains("--chmod="),
                });
            }
            contexts.push(seen);
        }
        Ok(Uses { contexts })
    }
}

/// How a build was asked for, with its arguments parsed.
struct ParsedInvocation {
    directory: PathBuf,
    arguments: build::Args,
}

impl ParsedInvocation {
    fn of(how: &Invocation) -> Option<ParsedInvocation> {
        let arguments = build::Args::parsed(&how.arguments).ok()?;
        Some(ParsedInvocation { directory: PathBuf::from(&how.directory), arguments })
    }

    /// The directories that were contexts by a name. One that lay in the main one lies in this one.
    fn named(&self, context: &Path) -> Vec<(String, PathBuf)> {
        let real = |path: &Path| {
            let path = self.directory.join(path);
            path.canonicalize().unwrap_or_else(|_| path.components().collect())
        };
        let main = real(&self.arguments.context);
        let named = self.arguments.build_context.iter().map(|(name, source)| {
            let source = real(Path::new(source));
            let within = source.strip_prefix(&main).map(|within| context.join(within));
            (name.clone(), within.unwrap_or(source))
        });
        named.filter(|(_, directory)| directory.is_dir()).collect()
    }
}

/// The steps whose keys have files of a context, and what they say of those.
fn of_context<'a>(record: &'a BuildRecord, name: &'a str) -> impl Iterator<Item = (usize, &'a InputPart)> {
    let of_step = move |(place, step): (usize, &'a StepRecord)| {
        let parts = step.parts.iter().flat_map(|parts| parts.inputs());
        let parts = parts.filter(|part| !matches!(part, InputPart::Vertex { name, .. } if name == SCRATCH));
        let of_context = move |input: &insight::StepInput| record.steps[input.step].name == name;
        parts
            .zip(&step.inputs)
            .filter(move |(_, input)| of_context(input))
            .map(move |(part, _)| (place, part))
    };
    record.steps.iter().enumerate().flat_map(of_step)
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
