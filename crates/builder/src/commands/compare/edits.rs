//! The edits that are asked about.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};

use files::{DirectoryTree, FileTree as _};
use insight::{Edit, Touched};

use super::context_view::{Change, ContextView};
use super::lone::Surroundings;
use super::uses::{Uses, strongest};
use super::whole::{Since, Whole};
use crate::failure::Failure;
use crate::progress::harmless;
use crate::{format, terminal};

/// For each ordering, the steps that an edit touches.
type Hits = Vec<Touched>;

/// What a change of an ignore file touches, by what it was and is, under each ordering and in each of its contexts.
type Ignoring = HashMap<(Option<String>, Option<String>, [usize; 2]), Touched>;

/// Makes edits.
pub(super) struct Edits<'a> {
    /// The context.
    path: &'a Path,
    around: Surroundings,
    uses: &'a [Uses],
}

impl Edits<'_> {
    pub(super) fn new<'a>(path: &'a Path, uses: &'a [Uses]) -> Result<Edits<'a>, Failure> {
        let tree = DirectoryTree::context(path).map_err(|error| Failure::build(error.to_string()))?;
        Ok(Edits { path, around: Surroundings::new(tree), uses })
    }

    /// What `--change` names: each a path, or several with commas.
    pub(super) fn of_changes(&self, changes: &[String]) -> Result<Vec<(Edit, Hits)>, Failure> {
        changes
            .iter()
            .map(|change| {
                let paths = change.split(',').filter(|path| !path.is_empty());
                let paths = paths.map(|path| Ok(self.real(&self.relative(Path::new(path))?)));
                let paths = paths.collect::<Result<Vec<PathBuf>, Failure>>()?;
                // A directory stands for its files.
                let files = self.files();
                let files_of = |path| files.iter().filter(move |file| file.starts_with(path));
                let whole = self.new_among(paths.iter().chain(paths.iter().flat_map(files_of)));
                let mut hits = vec![Touched::new(); self.uses.len()];
                for path in &paths {
                    let mut of_path = self.edited(path, &whole);
                    for file in files_of(path) {
                        add(&mut of_path, self.edited(file, &whole));
                    }
                    if !self.is_there(path) {
                        self.warn_of_nothing(path, of_path.iter().all(Touched::is_empty));
                    }
                    add(&mut hits, of_path);
                }
                Ok((Edit { name: change.clone(), weight: 1 }, hits))
            })
            .collect()
    }

    /// One for each directory all of whose files behave alike, and for the others one for those files that do. What lies beside all that any
    /// step uses behaves otherwise.
    pub(super) fn of_directories(&self) -> Vec<(Edit, Hits)> {
        let files = self.files();
        let alone = |file: &PathBuf| self.edited(file, &self.new_among([file]));
        let files: Vec<(&PathBuf, Hits)> = files.iter().map(|file| (file, alone(file))).collect();
        let top = files.iter().filter_map(|(file, _)| file.parent()).reduce(common).unwrap_or(Path::new(""));
        let mut directories: HashMap<&Path, Option<&Hits>> = HashMap::new();
        for (file, hits) in &files {
            for directory in file.ancestors().skip(1).take_while(|directory| directory.starts_with(top)) {
                let all = directories.entry(directory).or_insert(Some(hits));
                if *all != Some(hits) {
                    *all = None;
                }
            }
        }
        let mut groups: BTreeMap<(PathBuf, &Hits), Vec<&Path>> = BTreeMap::new();
        for (file, hits) in &files {
            let is_uniform = |directory: &&Path| directories.get(directory).is_some_and(Option::is_some);
            let uniform = file.ancestors().skip(1).filter(is_uniform).last();
            let directory = uniform.or(file.parent()).unwrap_or(Path::new(""));
            groups.entry((directory.to_owned(), hits)).or_default().push(file);
        }
        let name = |directory: &Path, files: &[&Path]| {
            let shown = match directory.as_os_str().is_empty() {
                true => "./".to_owned(),
                false => format!("{}/", directory.display()),
            };
            match (directories.get(directory), files) {
                (_, [file]) => file.display().to_string(),
                (Some(Some(_)), _) => shown,
                (_, files) => format!("{} of {shown}", format::count(files.len() as u64, "file")),
            }
        };
        let edit = |((directory, hits), files): ((PathBuf, &Hits), Vec<&Path>)| {
            (Edit { name: name(&directory, &files), weight: 1 }, hits.clone())
        };
        let mut edits: Vec<(Edit, Hits)> = groups.into_iter().map(edit).collect();
        edits.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        edits
    }

    /// The last commits; those that rerun the same are one.
    pub(super) fn of_history(&self, count: usize) -> Result<Vec<(Edit, Hits)>, Failure> {
        let commits = remote::commits(self.path, count).map_err(Failure::usage)?;
        let mut known: HashMap<(PathBuf, Change), Hits> = HashMap::new();
        let mut ignoring = Ignoring::new();
        let mut since = Since::default();
        let mut groups: Vec<(Hits, Vec<String>)> = Vec::new();
        for commit in commits {
            let come_or_go = || commit.changes.iter().filter(|change| kind_of(change) == Change::Presence);
            let paths = come_or_go().map(|change| change.path.clone()).collect();
            let whole = Whole::of(&paths, &self.around, &since);
            let mut hits = vec![Touched::new(); self.uses.len()];
            for change in &commit.changes {
                let of_path = match kind_of(change) {
                    // What else comes with it is another matter in each commit.
                    kind @ Change::Presence => self.hit_by(&change.path, kind, &whole),
                    kind => known
                        .entry((change.path.clone(), kind))
                        .or_insert_with_key(|(path, kind)| self.hit_by(path, *kind, &whole))
                        .clone(),
                };
                add(&mut hits, of_path);
                if kind_of(change) != Change::Mode {
                    add(&mut hits, self.ignored_otherwise(change, &commit, &whole, &mut ignoring));
                }
            }
            come_or_go().for_each(|change| since.undo(&change.path, change.old.is_some()));
            let name = format!("{} {}", commit.id, commit.subject);
            match groups.iter_mut().find(|(known, _)| *known == hits) {
                Some((_, names)) => names.push(name),
                None => groups.push((hits, vec![name])),
            }
        }
        groups.sort_by_key(|(_, names)| std::cmp::Reverse(names.len()));
        let edit = |(hits, names): (Hits, Vec<String>)| {
            let name = match names.as_slice() {
                [one] => one.clone(),
                [first, rest @ ..] => format!("{first} and {} more", rest.len()),
                [] => String::new(),
            };
            (Edit { name, weight: names.len() as u64 }, hits)
        };
        Ok(groups.into_iter().map(edit).collect())
    }

    /// All files that some step of either uses. A recorded build names directories, too, which are nothing that is edited.
    fn files(&self) -> BTreeSet<PathBuf> {
        let mut files: BTreeSet<PathBuf> = self.uses.iter().flat_map(Uses::files).collect();
        let directories: Vec<PathBuf> = files
            .iter()
            .zip(files.iter().skip(1))
            .filter(|(path, next)| next.starts_with(path))
            .map(|(path, _)| path.clone())
            .collect();
        for directory in directories {
            files.remove(&directory);
        }
        files
    }

    fn hit_by(&self, path: &Path, change: Change, whole: &Whole) -> Hits {
        self.uses.iter().map(|uses| uses.touched_by(path, change, whole)).collect()
    }

    /// The directories that come with those of the files that are not there.
    fn new_among<'a>(&self, files: impl IntoIterator<Item = &'a PathBuf>) -> Whole {
        let new = files.into_iter().filter(|file| !self.is_there(file)).cloned().collect();
        Whole::of(&new, &self.around, &Since::default())
    }

    /// An edit of a file of which nothing else is known. One of an ignore file may let in or keep out anything.
    fn edited(&self, path: &Path, whole: &Whole) -> Hits {
        let change = if self.is_there(path) { Change::Content } else { Change::Presence };
        let mut hits = self.hit_by(path, change, whole);
        add(&mut hits, self.uses.iter().map(|uses| uses.touched_by_ignoring(path)).collect());
        hits
    }

    /// What a commit touches by changing an ignore file: what is selected now is selected again with what it was before and after.
    fn ignored_otherwise(
        &self,
        change: &remote::Change,
        commit: &remote::Commit,
        whole: &Whole,
        known: &mut Ignoring,
    ) -> Hits {
        let id = |version: &Option<remote::Version>| version.as_ref().map(|version| version.id.clone());
        let mut of_context = |seen: &ContextView, place: [usize; 2]| {
            if !seen.ignore_file.is(&change.path) {
                return Touched::new();
            }
            let Some(patterns) = seen.ignore_file.versions(change) else { return seen.touched_by_ignoring() };
            let mut touched = known
                .entry((id(&change.old), id(&change.new), place))
                .or_insert_with(|| seen.touched_between(&patterns))
                .clone();
            // What the same commit did to other files counts where it was or is let in.
            for other in commit.changes.iter().filter(|other| !other.is_of_mode_only()) {
                let more = seen.touched_under(&patterns, &other.path, kind_of(other), whole);
                touched = strongest(touched.into_iter().chain(more));
            }
            touched
        };
        let of_ordering = |(ordering, uses): (usize, &Uses)| {
            let contexts = uses.contexts.iter().enumerate();
            strongest(contexts.flat_map(|(context, seen)| of_context(seen, [ordering, context])))
        };
        self.uses.iter().enumerate().map(of_ordering).collect()
    }

    /// Whether the context has such a path, be it one that no build looks at.
    fn is_there(&self, path: &Path) -> bool {
        self.around.metadata(path).is_ok_and(|found| found.is_some())
    }

    /// A file may well come into being, also one that nobody uses. More often its name is misspelt.
    fn warn_of_nothing(&self, path: &Path, is_unused: bool) {
        let path = path.display().to_string();
        let files = self.files();
        let names: BTreeSet<String> =
            files.iter().flat_map(|file| file.ancestors()).map(|path| path.display().to_string()).collect();
        let hint = match frontend::closest(&path, names.iter().map(String::as_str)) {
            Some(name) => format!("; did you mean {name}?"),
            None => String::new(),
        };
        let then = match is_unused {
            true => ", and neither Dockerfile would use it",
            false => "; it counts as a new one",
        };
        terminal::tell(&harmless(&format!(
            "warning: --change {path}: the context has no such file{then}{hint}"
        )));
        terminal::tell("\n");
    }

    /// What a path means whose directories are links, as steps see them: an absolute target begins where the context does.
    fn real(&self, path: &Path) -> PathBuf {
        files::resolve(&self.around, path, false).unwrap_or_else(|_| path.to_owned())
    }

    /// A path that a user gives, relative to the context; as in a Dockerfile, `/` is the context.
    fn relative(&self, path: &Path) -> Result<PathBuf, Failure> {
        let mut clean = PathBuf::new();
        for component in path.components() {
            match component {
                Component::Normal(name) => clean.push(name),
                Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
                Component::ParentDir => {
                    return Err(Failure::usage(format!(
                        "--change {}: give a path relative to the context, without `..`",
                        path.display()
                    )));
                }
            }
        }
        Ok(clean)
    }
}

/// What a commit did to a file.
fn kind_of(change: &remote::Change) -> Change {
    match (&change.old, &change.new) {
        _ if change.is_of_mode_only() => Change::Mode,
        (Some(_), Some(_)) => Change::Content,
        _ => Change::Presence,
    }
}

fn add(hits: &mut Hits, more: Hits) {
    for (hits, more) in hits.iter_mut().zip(more) {
        *hits = strongest(std::mem::take(hits).into_iter().chain(more));
    }
}

/// The directory in which both lie.
fn common<'a>(a: &'a Path, b: &'a Path) -> &'a Path {
    a.ancestors().find(|directory| b.starts_with(directory)).unwrap_or(Path::new(""))
}
