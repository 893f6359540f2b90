//! Which files of the context each step uses.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use files::{FileTree, Ignore, Ignoring, Kind, Selection};
use graph::{Op, Source};

use super::lone::Lone;
use crate::commands::build::{self, Examined};
use crate::failure::Failure;

/// What the frontend calls the build context.
const CONTEXT: &str = "context";

/// The uses of one Dockerfile.
pub(super) struct Uses {
    uses: Vec<Use>,
    ignore: Option<Arc<Ignore>>,
}

/// What one step takes from the context.
struct Use {
    /// Its place among the steps.
    step: usize,
    selection: Selection,
    /// What is selected now, but for directories.
    files: HashSet<PathBuf>,
}

impl Uses {
    pub(super) fn of(examined: &Examined) -> Result<Uses, Failure> {
        let definition = &examined.plan.definition;
        let mut uses = Vec::new();
        for (step, id) in build::needed(&examined.plan).into_iter().enumerate() {
            for input in &definition.vertex(id).inputs {
                let source = &definition.vertex(input.vertex).op;
                if !matches!(source, Op::Source(Source::Local { name }) if name == CONTEXT) {
                    continue;
                }
                let selected = files::select(&*examined.tree, &input.selection, &|| false);
                let selected = selected.map_err(|error| Failure::build(error.to_string()))?;
                let files = selected.matches.iter().flat_map(|found| {
                    let files = found.entries().filter(|entry| entry.metadata.kind != Kind::Directory);
                    files.map(|entry| found.source_of(&entry))
                });
                uses.push(Use { step, selection: input.selection.clone(), files: files.collect() });
            }
        }
        Ok(Uses { uses, ignore: examined.ignore.clone() })
    }

    /// All files that some step uses.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.uses.iter().flat_map(|used| &used.files)
    }

    /// The steps that an edit of a file hits; one that is not there comes into being, or was there once.
    pub(super) fn hit_by(&self, tree: &dyn FileTree, path: &Path) -> BTreeSet<usize> {
        let known: BTreeSet<usize> =
            self.uses.iter().filter(|used| used.files.contains(path)).map(|used| used.step).collect();
        if !known.is_empty() || tree.metadata(path).is_ok_and(|found| found.is_some()) {
            return known;
        }
        let lone = Ignoring::new(Lone::new(path), self.ignore.as_deref().cloned().unwrap_or_default());
        let selects = |used: &&Use| {
            let selected = files::select(&lone, &used.selection, &|| false);
            selected.is_ok_and(|selected| {
                let mut entries = selected.matches.iter().flat_map(|found| found.entries());
                entries.any(|entry| entry.metadata.kind == Kind::File)
            })
        };
        self.uses.iter().filter(selects).map(|used| used.step).collect()
    }
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
