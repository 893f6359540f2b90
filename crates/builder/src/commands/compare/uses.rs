//! Which files of the contexts each step uses.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use files::{FileTree, Kind, Selection};
use graph::{Op, Source};
use insight::{Touch, Touched};

use super::context_view::{Change, ContextView, Use, Wanted};
use super::ignored::IgnoreFile;
use super::links;
use super::whole::Whole;
use crate::commands::build::{self, Examined};
use crate::failure::Failure;

/// What the frontend calls the build context.
const CONTEXT: &str = "context";

/// The uses of one Dockerfile.
pub(super) struct Uses {
    /// The main context, and the named ones that have to do with it.
    pub(super) contexts: Vec<ContextView>,
}

impl Uses {
    pub(super) fn of(examined: &Examined, dockerfile: &Path, main: &Path) -> Result<Uses, Failure> {
        let directory =
            |(name, path): (&String, &PathBuf)| (name.clone(), path.clone(), IgnoreFile::within(path, main));
        let named = examined.directories.iter().filter(|(name, _)| *name != CONTEXT).map(directory);
        let first = (CONTEXT.to_owned(), main.to_owned(), IgnoreFile::of(dockerfile, main));
        let mut contexts = Vec::new();
        for (name, directory, ignore_file) in std::iter::once(first).chain(named) {
            let Some(mut seen) = ContextView::open(&directory, main, ignore_file)? else { continue };
            for used in of_context(examined, &name, seen.tree())? {
                seen.add(used);
            }
            contexts.push(seen);
        }
        Ok(Uses { contexts })
    }

    /// All files of the main context that some step uses.
    pub(super) fn files(&self) -> impl Iterator<Item = PathBuf> {
        self.contexts.iter().flat_map(ContextView::files)
    }

    /// The steps that an edit of a file touches; one that is not there comes into being, or was there once.
    pub(super) fn touched_by(&self, path: &Path, change: Change, whole: &Whole) -> Touched {
        strongest(self.contexts.iter().flat_map(|seen| seen.touched_by(path, change, whole)))
    }

    /// The steps that it touches because it is an ignore file, of which nothing else is known.
    pub(super) fn touched_by_ignoring(&self, path: &Path) -> Touched {
        let ignored = self.contexts.iter().filter(|seen| seen.ignore_file.is(path));
        strongest(ignored.flat_map(ContextView::touched_by_ignoring))
    }
}

/// What steps take from the context of a name.
fn of_context(examined: &Examined, context: &str, tree: &dyn FileTree) -> Result<Vec<Use>, Failure> {
    let definition = &examined.plan.definition;
    let mut uses = Vec::new();
    for (step, id) in build::needed(&examined.plan).into_iter().enumerate() {
        let op = &definition.vertex(id).op;
        for input in &definition.vertex(id).inputs {
            let source = &definition.vertex(input.vertex).op;
            if !matches!(source, Op::Source(Source::Local { name }) if name == context) {
                continue;
            }
            let selected = files::select(tree, &input.selection, &|| false);
            let selected = selected.map_err(|error| Failure::build(error.to_string()))?;
            let files = selected.matches.iter().flat_map(|found| {
                let files = found.entries().filter(|entry| entry.metadata.kind != Kind::Directory);
                files.map(|entry| (found.source_of(&entry), selected.modes))
            });
            let links = match &input.selection {
                Selection::Path(path) => links::on_the_way(tree, path),
                Selection::Whole => BTreeSet::new(),
            };
            uses.push(Use {
                step,
                files: files.collect(),
                links,
                rules_modes: matches!(op, Op::Copy(copy) if copy.mode.is_some()),
                wanted: Wanted::Exactly(input.selection.clone()),
            });
        }
    }
    Ok(uses)
}

/// A step may use the context more than once.
pub(super) fn strongest(touches: impl IntoIterator<Item = (usize, Touch)>) -> Touched {
    let mut touched = Touched::new();
    for (step, touch) in touches {
        let known = touched.entry(step).or_insert(touch);
        *known = touch.max(*known);
    }
    touched
}

/// Whether what is new in the files that an operation uses is new in its result for sure.
pub(super) fn shows(op: &Op) -> bool {
    match op {
        // An archive may be another one, and unpack to the same.
        Op::Copy(copy) => !copy.unpack,
        Op::Merge | Op::Mkdir(_) | Op::Inline(_) => true,
        Op::Exec(_) | Op::Source(_) => false,
    }
}
