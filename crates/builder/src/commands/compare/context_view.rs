//! A directory that is a context: what the steps take of it, and what an edit does to that.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use files::{DirectoryTree, FileTree, Ignore, Ignoring, Kind, Selected, Selection};
use insight::{Touch, Touched};

use super::ignored::IgnoreFile;
use super::lone::{Lone, Surroundings};
use super::uses::strongest;
use super::whole::Whole;
use crate::failure::Failure;

/// A context, as steps see it. Its own paths begin in it; those that come in and go out begin in the main one.
pub(super) struct ContextView {
    uses: Vec<Use>,
    /// Without what is ignored.
    tree: Ignoring<Surroundings>,
    ignore: Ignore,
    pub(super) ignore_file: IgnoreFile,
    /// Where it lies in the main context; empty if it is that one.
    within: PathBuf,
    /// Where the main context lies in it, likewise.
    around: PathBuf,
}

/// What one step takes from a context.
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
    /// It comes or goes, and with it directories that hold nothing else.
    Presence,
    /// Its bytes are others.
    Content,
    /// It may or may not be executed any more, and nothing else.
    Mode,
}

/// A file of a context that is edited.
struct Edited {
    path: PathBuf,
    /// It, or the directory that comes or goes with it.
    with: PathBuf,
    change: Change,
}

impl ContextView {
    /// A directory that is the main context or has to do with it: none of the others' files is edited.
    pub(super) fn open(
        directory: &Path,
        main: &Path,
        ignore_file: IgnoreFile,
    ) -> Result<Option<ContextView>, Failure> {
        let real = |path: &Path| path.canonicalize().map_err(|error| Failure::io("find", path, &error));
        let (directory, main) = (real(directory)?, real(main)?);
        let between = |a: &Path, b: &Path| a.strip_prefix(b).map(Path::to_owned).ok();
        let (within, around) = match (between(&directory, &main), between(&main, &directory)) {
            (Some(within), _) => (within, PathBuf::new()),
            (None, Some(around)) => (PathBuf::new(), around),
            (None, None) => return Ok(None),
        };
        let tree = DirectoryTree::context(&directory).map_err(|error| Failure::build(error.to_string()))?;
        let ignore = ignore_file.patterns();
        let tree = Ignoring::new(Surroundings::new(tree), ignore.clone());
        Ok(Some(ContextView { uses: Vec::new(), tree, ignore, ignore_file, within, around }))
    }

    pub(super) fn tree(&self) -> &impl FileTree {
        &self.tree
    }

    pub(super) fn add(&mut self, used: Use) {
        self.uses.push(used);
    }

    /// What a path of the main context is called here.
    fn inner(&self, path: &Path) -> Option<PathBuf> {
        let rest = path.strip_prefix(&self.within).ok()?;
        // Nothing is in a directory by an empty name.
        Some(if self.around.as_os_str().is_empty() { rest.to_owned() } else { self.around.join(rest) })
    }

    /// What becomes of a path of the main context here.
    fn edited(&self, path: &Path, change: Change, whole: &Whole) -> Option<Edited> {
        let inner = self.inner(path)?;
        let with = match change {
            // The context itself is always there.
            Change::Presence => self
                .inner(whole.with(path))
                .filter(|with| !with.as_os_str().is_empty())
                .or_else(|| inner.components().next().map(|first| PathBuf::from(first.as_os_str())))?,
            Change::Content | Change::Mode => inner.clone(),
        };
        Some(Edited { path: inner, with, change })
    }

    /// The files of the main context that some step uses.
    pub(super) fn files(&self) -> impl Iterator<Item = PathBuf> {
        let outer = |path: &PathBuf| Some(self.within.join(path.strip_prefix(&self.around).ok()?));
        self.uses.iter().flat_map(|used| used.files.keys()).filter_map(outer)
    }

    /// The steps that an edit of a file touches; one that is not there comes into being, or was there once.
    pub(super) fn touched_by(&self, path: &Path, change: Change, whole: &Whole) -> Touched {
        let Some(edited) = self.edited(path, change, whole) else { return Touched::new() };
        let kind = self.tree.metadata(&edited.path).ok().flatten().map(|found| found.kind);
        let touch = |used: &Use| Some((used.step, self.touch(used, &edited, kind)?));
        strongest(self.uses.iter().filter_map(touch))
    }

    fn touch(&self, used: &Use, edited: &Edited, kind: Option<Kind>) -> Option<Touch> {
        let Edited { path, change, .. } = edited;
        let is_exact = matches!(used.wanted, Wanted::Exactly(_));
        let of_mode = |counts: bool| match (*change, counts, used.rules_modes) {
            (Change::Presence | Change::Content, ..) | (Change::Mode, true, false) => Some(Touch::Surely),
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
                self.selects(used, edited, &self.ignore).then_some(Touch::Perhaps)
            }
            // It is left out, and nothing comes or goes but it.
            Some(_) if is_exact && *change != Change::Presence => None,
            _ if !self.selects(used, edited, &self.ignore) => None,
            _ if is_exact => {
                of_mode(!matches!(&used.wanted, Wanted::Exactly(Selection::Path(path)) if !path.modes))
            }
            _ => Some(Touch::Perhaps),
        }
    }

    /// Whether a step would take a file at this path, or a directory that comes and goes with it.
    fn selects(&self, used: &Use, edited: &Edited, ignore: &Ignore) -> bool {
        let selection = match &used.wanted {
            Wanted::Exactly(selection) | Wanted::Roughly(selection) => selection,
            Wanted::Unknown => return true,
        };
        let around = self.tree.inner();
        let lone = Ignoring::new(Lone::new(&edited.path, around), ignore.clone());
        let selected = files::select(&lone, selection, &|| false);
        selected.is_ok_and(|selected| {
            let mut found = selected.matches.iter();
            found.any(|found| found.entries().any(|entry| found.source_of(&entry).starts_with(&edited.with)))
        })
    }

    /// The steps that an edit of the ignore file touches, of which nothing else is known.
    pub(super) fn touched_by_ignoring(&self) -> Touched {
        self.uses.iter().map(|used| (used.step, Touch::Perhaps)).collect()
    }

    /// The steps that take other files of the context with these patterns than with those.
    pub(super) fn touched_between(&self, patterns: &[Ignore; 2]) -> Touched {
        let touch = |used: &Use| {
            let Wanted::Exactly(selection) = &used.wanted else { return Some((used.step, Touch::Perhaps)) };
            let [old, new] = patterns.each_ref().map(|ignore| taken(self.tree.inner(), selection, ignore));
            (old != new).then_some((used.step, Touch::Surely))
        };
        strongest(self.uses.iter().filter_map(touch))
    }

    /// The steps that would take a file at this path with one of these patterns at least.
    pub(super) fn touched_under(
        &self,
        patterns: &[Ignore; 2],
        path: &Path,
        change: Change,
        whole: &Whole,
    ) -> Touched {
        let Some(edited) = self.edited(path, change, whole) else { return Touched::new() };
        let is_taken = |used: &&Use| {
            let is_exact = matches!(used.wanted, Wanted::Exactly(_));
            is_exact && patterns.iter().any(|ignore| self.selects(used, &edited, ignore))
        };
        self.uses.iter().filter(is_taken).map(|used| (used.step, Touch::Surely)).collect()
    }
}

/// What counts of a selection besides what its files hold: their names. `None` where the build would fail.
fn taken(
    context: &dyn FileTree,
    selection: &Selection,
    ignore: &Ignore,
) -> Option<Vec<(OsString, Vec<PathBuf>)>> {
    let tree = Ignoring::new(context, ignore.clone());
    let Selected { matches, .. } = files::select(&tree, selection, &|| false).ok()?;
    let of_match = |found: files::Match| {
        let paths = found.entries().map(|entry| entry.path.to_owned()).collect();
        // A directory's name is not copied, only what is in it.
        (if found.kind() == Kind::Directory { OsString::new() } else { found.base_name }, paths)
    };
    Some(matches.into_iter().map(of_match).collect())
}
