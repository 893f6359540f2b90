//! Which files of the context each step uses.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use files::{DirectoryTree, FileTree, Ignore, Ignoring, Kind, Selected, Selection};
use graph::{Op, Source};
use insight::{Touch, Touched};

use super::ignored::IgnoreFile;
use super::links;
use super::lone::Lone;
use crate::commands::build::{self, Examined};
use crate::failure::Failure;

/// What the frontend calls the build context.
const CONTEXT: &str = "context";

/// The uses of one Dockerfile.
pub(super) struct Uses {
    pub(super) uses: Vec<Use>,
    /// The context without what is ignored.
    pub(super) tree: Arc<dyn FileTree>,
    pub(super) ignore: Option<Arc<Ignore>>,
    pub(super) ignore_file: IgnoreFile,
}

/// What one step takes from the context.
pub(super) struct Use {
    /// Its place among the steps.
    pub(super) step: usize,
    /// What the Dockerfile asks for.
    pub(super) wanted: Wanted,
    /// What is selected now, but for directories, and whether its mode counts.
    pub(super) files: HashMap<PathBuf, bool>,
    /// Links that lead there, and are no part of it.
    pub(super) links: BTreeSet<PathBuf>,
    /// Whether the step gives modes that follow a rule, so that other ones may come to the same.
    pub(super) rules_modes: bool,
}

/// What a Dockerfile asks for.
pub(super) enum Wanted {
    /// This.
    Exactly(Selection),
    /// Roughly this: of a build that was recorded.
    Roughly(Selection),
    /// Something that was not written down.
    Unknown,
}

/// What happens to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Change {
    /// Its bytes are others, or it comes or goes.
    Content,
    /// It may or may not be executed any more, and nothing else.
    Mode,
}

impl Uses {
    pub(super) fn of(examined: &Examined, ignore_file: IgnoreFile) -> Result<Uses, Failure> {
        let definition = &examined.plan.definition;
        let mut uses = Vec::new();
        for (step, id) in build::needed(&examined.plan).into_iter().enumerate() {
            let op = &definition.vertex(id).op;
            for input in &definition.vertex(id).inputs {
                let source = &definition.vertex(input.vertex).op;
                if !matches!(source, Op::Source(Source::Local { name }) if name == CONTEXT) {
                    continue;
                }
                let selected = files::select(&*examined.tree, &input.selection, &|| false);
                let selected = selected.map_err(|error| Failure::build(error.to_string()))?;
                let files = selected.matches.iter().flat_map(|found| {
                    let files = found.entries().filter(|entry| entry.metadata.kind != Kind::Directory);
                    files.map(|entry| (found.source_of(&entry), selected.modes))
                });
                let links = match &input.selection {
                    Selection::Path(path) => links::on_the_way(&*examined.tree, path),
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
        let (tree, ignore) = (examined.tree.clone(), examined.ignore.clone());
        Ok(Uses { uses, tree, ignore, ignore_file })
    }

    /// All files that some step uses.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.uses.iter().flat_map(|used| used.files.keys())
    }

    /// The steps that an edit of a file touches; one that is not there comes into being, or was there once.
    pub(super) fn touched_by(&self, path: &Path, change: Change) -> Touched {
        let kind = self.tree.metadata(path).ok().flatten().map(|found| found.kind);
        let touch = |used: &Use| Some((used.step, self.touch(used, path, kind, change)?));
        strongest(self.uses.iter().filter_map(touch))
    }

    fn touch(&self, used: &Use, path: &Path, kind: Option<Kind>, change: Change) -> Option<Touch> {
        let is_exact = matches!(used.wanted, Wanted::Exactly(_));
        let of_mode = |counts: bool| match (change, counts, used.rules_modes) {
            (Change::Content, ..) | (Change::Mode, true, false) => Some(Touch::Surely),
            (Change::Mode, true, true) => Some(Touch::Hidden),
            (Change::Mode, false, _) => None,
        };
        if let Some(counts) = used.files.get(path) {
            return of_mode(*counts);
        }
        if used.links.contains(path) {
            return Some(Touch::Perhaps);
        }
        match kind {
            // A repository inside of this one, or a file that has become a directory.
            Some(Kind::Directory) => {
                used.files.keys().any(|file| file.starts_with(path)).then_some(Touch::Perhaps)
            }
            // Where a link is what is asked for, what it leads to is taken.
            Some(Kind::Symlink) if is_exact => {
                self.selects(used, path, self.ignore.as_deref()).then_some(Touch::Perhaps)
            }
            Some(_) if is_exact => None,
            _ if !self.selects(used, path, self.ignore.as_deref()) => None,
            _ if is_exact => {
                of_mode(!matches!(&used.wanted, Wanted::Exactly(Selection::Path(path)) if !path.modes))
            }
            _ => Some(Touch::Perhaps),
        }
    }

    /// Whether a step would take a file at this path.
    fn selects(&self, used: &Use, path: &Path, ignore: Option<&Ignore>) -> bool {
        let selection = match &used.wanted {
            Wanted::Exactly(selection) | Wanted::Roughly(selection) => selection,
            Wanted::Unknown => return true,
        };
        let lone = Ignoring::new(Lone::new(path), ignore.cloned().unwrap_or_default());
        let selected = files::select(&lone, selection, &|| false);
        selected.is_ok_and(|selected| {
            let mut entries = selected.matches.iter().flat_map(|found| found.entries());
            entries.any(|entry| entry.metadata.kind == Kind::File)
        })
    }

    /// The steps that an edit of the ignore file touches, of which nothing else is known.
    pub(super) fn touched_by_ignoring(&self) -> Touched {
        self.uses.iter().map(|used| (used.step, Touch::Perhaps)).collect()
    }

    /// The steps that take other files of a context with these patterns than with those.
    pub(super) fn touched_between(&self, context: &Path, patterns: &[Ignore; 2]) -> Touched {
        let touch = |used: &Use| {
            let Wanted::Exactly(selection) = &used.wanted else { return Some((used.step, Touch::Perhaps)) };
            let [old, new] = patterns.each_ref().map(|ignore| taken(context, selection, ignore));
            (old != new).then_some((used.step, Touch::Surely))
        };
        strongest(self.uses.iter().filter_map(touch))
    }

    /// The steps that would take a file at this path with one of these patterns at least.
    pub(super) fn touched_under(&self, patterns: &[Ignore; 2], path: &Path) -> Touched {
        let is_taken = |used: &&Use| {
            let is_exact = matches!(used.wanted, Wanted::Exactly(_));
            is_exact && patterns.iter().any(|ignore| self.selects(used, path, Some(ignore)))
        };
        self.uses.iter().filter(is_taken).map(|used| (used.step, Touch::Surely)).collect()
    }
}

/// What counts of a selection besides what its files hold: their names. `None` where the build would fail.
fn taken(context: &Path, selection: &Selection, ignore: &Ignore) -> Option<Vec<(OsString, Vec<PathBuf>)>> {
    let tree = Ignoring::new(DirectoryTree::context(context).ok()?, ignore.clone());
    let Selected { matches, .. } = files::select(&tree, selection, &|| false).ok()?;
    let of_match = |found: files::Match| {
        let paths = found.entries().map(|entry| entry.path.to_owned()).collect();
        // A directory's name is not copied, only what is in it.
        (if found.kind() == Kind::Directory { OsString::new() } else { found.base_name }, paths)
    };
    Some(matches.into_iter().map(of_match).collect())
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
