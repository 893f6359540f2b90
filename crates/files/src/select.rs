use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rayon::prelude::*;

use crate::error::check;
use crate::filter::{Filter, Judged, required};
use crate::pattern::has_wildcards;
use crate::{Cancelled, Error, FileTree, Kind, Metadata, Pattern, Selection, StatIdentity, resolve};

/// What a [`Selection`] of a tree holds, walked once: hashed and copied from here.
#[derive(Debug, Clone, Default)]
pub struct Selected {
    /// In the order of their paths, component by component.
    pub matches: Vec<Match>,
    /// Sockets, which are left out: relative to the root of the tree.
    pub sockets: Vec<PathBuf>,
    /// As in [`PathSelection`](crate::PathSelection).
    pub modes: bool,
    /// As in [`PathSelection`](crate::PathSelection).
    pub owners: bool,
}

/// For each entry of a match the digest of bytes and extended attributes; `None` where there are neither (links, pipes, devices).
pub type Digests = Arc<Vec<Option<[u8; 32]>>>;

/// What hashing found out.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) digests: Digests,
    /// When reading began; `None` in a tree that does not change.
    pub(crate) began: Option<SystemTime>,
}

impl Known {
    /// The digest that an entry must still have where times cannot be trusted: of files that were hashed so soon after they changed.
    pub(crate) fn doubtful(&self, index: usize, metadata: &Metadata) -> Option<[u8; 32]> {
        let digest = || *self.digests.get(index)?;
        StatIdentity::of(metadata).is_racy(self.began?).then(digest)?
    }
}

/// One source: a file, or a directory with all below it.
#[derive(Debug, Clone, Default)]
pub struct Match {
    /// Last component of the path that was asked for, links not followed: the name of a copied file. Empty for the root.
    pub base_name: OsString,
    /// Where it is, links followed: relative to the root of the tree.
    pub source: PathBuf,
    /// All paths, one after the other.
    paths: Vec<u8>,
    records: Vec<Record>,
    targets: Vec<PathBuf>,
    /// Once it was hashed.
    pub(crate) known: Arc<Mutex<Option<Known>>>,
}

/// Kept small: there may be millions.
#[derive(Debug, Clone)]
struct Record {
    start: u64,
    length: u32,
    /// Index of the first name of the same file, [`NONE`] without another name here.
    group: u32,
    /// Index of the link's target.
    target: u32,
    metadata: Metadata,
}

const NONE: u32 = u32::MAX;

/// One path of a [`Match`].
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Relative to the match; empty for the match itself.
    pub path: &'a Path,
    /// As it was when the tree was walked. Extended attributes are read when hashed or copied: few files have any.
    pub metadata: &'a Metadata,
    /// Where a symbolic link points to.
    pub link_target: Option<&'a Path>,
    /// For a regular file with several names in this match: the index of the first of them, which may be its own. For anything but a directory
    /// after [`Match::with_hard_links_of_all_kinds`].
    pub hard_link: Option<usize>,
}

impl Match {
    /// What the match itself is.
    pub fn kind(&self) -> Kind {
        self.records.first().map_or(Kind::Directory, |record| record.metadata.kind)
    }

    /// The number of entries, the match itself included.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none; never so for what [`select`] returns, except for a socket.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// All entries, sorted by the bytes of their paths: a directory comes before what is in it.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry<'_>> {
        self.records.iter().map(|record| self.view(record))
    }

    /// The entry of an index.
    ///
    /// # Panics
    /// When there is none.
    pub fn entry(&self, index: usize) -> Entry<'_> {
        self.view(&self.records[index])
    }

    fn view<'a>(&'a self, record: &'a Record) -> Entry<'a> {
        let start = record.start as usize;
        let path = &self.paths[start..start + record.length as usize];
        Entry {
            path: Path::new(OsStr::from_bytes(path)),
            metadata: &record.metadata,
            link_target: self.targets.get(record.target as usize).map(PathBuf::as_path),
            hard_link: (record.group != NONE).then_some(record.group as usize),
        }
    }

    /// Where an entry is, relative to the root of the tree.
    pub fn source_of(&self, entry: &Entry<'_>) -> PathBuf {
        if entry.path.as_os_str().is_empty() { self.source.clone() } else { self.source.join(entry.path) }
    }

    /// The digests of the entries, once they were hashed.
    pub fn digests(&self) -> Option<Digests> {
        self.known().map(|known| known.digests)
    }

    pub(crate) fn known(&self) -> Option<Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn push(&mut self, path: &[u8], metadata: Metadata, target: Option<PathBuf>) {
        let target = target.map_or(NONE, |target| {
            self.targets.push(target);
            (self.targets.len() - 1) as u32
        });
        let start = self.paths.len() as u64;
        self.paths.extend_from_slice(path);
        self.records.push(Record { start, length: path.len() as u32, group: NONE, target, metadata });
    }

    /// Leaves out the entries that are not taken, but for directories that lead to one that is.
    fn retain(&mut self, taken: &[bool]) {
        let path_of = |record: &Record| &self.paths[record.start as usize..][..record.length as usize];
        let mut leading: HashSet<&[u8]> = HashSet::new();
        for (record, _) in self.records.iter().zip(taken).filter(|(_, taken)| **taken) {
            let mut path = path_of(record);
            while let Some(slash) = path.iter().rposition(|&byte| byte == b'/') {
                path = &path[..slash];
                if !leading.insert(path) {
                    break;
                }
            }
        }
        let kept = self.records.iter().zip(taken);
        let kept: Vec<bool> =
            kept.map(|(record, taken)| *taken || leading.contains(path_of(record))).collect();
        let mut kept = kept.into_iter();
        self.records.retain(|_| kept.next().unwrap_or(false));
    }

    /// Also groups links, pipes and devices that are hard links of one another. [`crate::select()`] groups files only, since COPY makes each of
    /// the others anew.
    #[must_use]
    pub fn with_hard_links_of_all_kinds(mut self) -> Match {
        self.group(|kind| kind != Kind::Directory);
        self
    }

    /// Finds what has several names.
    fn group(&mut self, counts: impl Fn(Kind) -> bool) {
        let mut first_names: HashMap<(u64, u64), usize> = HashMap::new();
        for index in 0..self.records.len() {
            let metadata = &self.records[index].metadata;
            if !counts(metadata.kind) || metadata.links < 2 {
                continue;
            }
            let first = *first_names.entry((metadata.file_system, metadata.inode)).or_insert(index);
            if first != index {
                self.records[first].group = first as u32;
                self.records[index].group = first as u32;
            }
        }
    }
}

/// Walks what `selection` names, in parallel; the result does not depend on the order in which directories are read.
///
/// As BuildKit copies: links are followed in the part of the path before the first wildcard, and where a match itself is a
/// link, always inside the root; not within what is selected. A wildcard that matches nothing selects nothing.
///
/// # Errors
/// [`Error::NotFound`] for a path without wildcards that is not there; [`Error::BadPattern`].
pub fn select(
    tree: &dyn FileTree,
    selection: &Selection,
    cancelled: Cancelled<'_>,
) -> Result<Selected, Error> {
    let (names, modes, owners, filter) = match selection {
        Selection::Whole => (vec![PathBuf::new()], true, true, None),
        Selection::Path(path) => {
            let pattern = path.pattern.trim_matches('/');
            let names = if path.wildcards { expand(tree, pattern)? } else { vec![PathBuf::from(pattern)] };
            if let Some(required) = required(path) {
                ensure_exists(tree, &Path::new(pattern).join(required.trim_matches('/')))?;
            }
            (names, path.modes, path.owners, Filter::of(path)?)
        }
    };
    let mut selected =
        Selected { matches: Vec::with_capacity(names.len()), sockets: Vec::new(), modes, owners };
    for name in names {
        check(cancelled)?;
        let source = resolve(tree, &name, true)?;
        let Some(metadata) = tree.metadata(&source)? else {
            let hidden_by = tree.hidden_by(&source);
            return Err(Error::NotFound { path: name, hidden_by });
        };
        let is_directory = metadata.kind == Kind::Directory;
        // What `--parents` looks for is below a match, and below a file there is nothing.
        if !is_directory && filter.as_ref().is_some_and(Filter::looks_below) {
            continue;
        }
        let base_name = name.file_name().unwrap_or_default().to_owned();
        let mut found = Match { base_name, source, ..Match::default() };
        if metadata.kind == Kind::Socket {
            selected.sockets.push(found.source);
            continue;
        }
        found.push(b"", metadata, None);
        if is_directory {
            let walk = Walk { tree, root: &found.source.clone(), filter: filter.as_ref(), cancelled };
            walk.below(&mut found, &mut selected.sockets)?;
            found.group(|kind| kind == Kind::File);
        }
        selected.matches.push(found);
    }
    Ok(selected)
}

fn ensure_exists(tree: &dyn FileTree, path: &Path) -> Result<(), Error> {
    let resolved = resolve(tree, path, true)?;
    if tree.metadata(&resolved)?.is_some() {
        return Ok(());
    }
    Err(Error::NotFound { path: path.to_owned(), hidden_by: tree.hidden_by(&resolved) })
}

/// The paths that match a pattern, each component on its own.
fn expand(tree: &dyn FileTree, pattern: &str) -> Result<Vec<PathBuf>, Error> {
    let components: Vec<&str> = pattern.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    let fixed = components.iter().take_while(|name| !has_wildcards(name)).count();
    let patterns =
        components[fixed..].iter().map(|name| Pattern::new(name)).collect::<Result<Vec<_>, _>>()?;
    let prefix = literal_prefix(tree, &components[..fixed])?;
    if patterns.is_empty() {
        return Ok(vec![prefix]);
    }
    let resolved = resolve(tree, &prefix, true)?;
    match tree.metadata(&resolved)?.map(|metadata| metadata.kind) {
        Some(Kind::Directory) => {}
        Some(_) => return Ok(Vec::new()),
        None => {
            let hidden_by = tree.hidden_by(&resolved);
            return Err(Error::NotFound { path: prefix, hidden_by });
        }
    }
    let mut found = vec![resolved];
    for (depth, pattern) in patterns.iter().enumerate() {
        let is_last = depth + 1 == patterns.len();
        let mut next = Vec::new();
        for directory in &found {
            let mut names = matching(tree, directory, pattern)?;
            names.retain(|(_, kind)| is_last || *kind == Kind::Directory);
            names.sort();
            next.extend(names.into_iter().map(|(name, _)| directory.join(name)));
        }
        found = next;
    }
    Ok(found)
}

fn matching(
    tree: &dyn FileTree,
    directory: &Path,
    pattern: &Pattern,
) -> Result<Vec<(OsString, Kind)>, Error> {
    if let Some(literal) = pattern.as_literal() {
        let name = OsStr::from_bytes(literal);
        let metadata = tree.metadata(&directory.join(name))?;
        return Ok(metadata.map(|metadata| (name.to_owned(), metadata.kind)).into_iter().collect());
    }
    let entries = tree.list(directory)?.into_iter();
    Ok(entries
        .filter(|(name, _)| pattern.matches(name.as_bytes()))
        .map(|(name, metadata)| (name, metadata.kind))
        .collect())
}

/// The components before the first wildcard. A backslash in them stands for itself when such a file is there, as in BuildKit;
/// otherwise it takes the meaning from what follows, as `filepath.Match` has it.
fn literal_prefix(tree: &dyn FileTree, components: &[&str]) -> Result<PathBuf, Error> {
    let written: PathBuf = components.iter().collect();
    if !components.iter().any(|name| name.contains('\\'))
        || tree.metadata(&resolve(tree, &written, true)?)?.is_some()
    {
        return Ok(written);
    }
    let mut path = PathBuf::new();
    for name in components {
        let pattern = Pattern::new(name)?;
        path.push(pattern.as_literal().map_or(OsStr::new(name), OsStr::from_bytes));
    }
    Ok(path)
}

/// What a directory holds, as the walk finds it.
struct Item {
    /// The name, with a `/` after it for what stands for all below a directory: so sorted, whole paths are.
    name: Vec<u8>,
    node: Node,
}

enum Node {
    Entry {
        metadata: Metadata,
        target: Option<PathBuf>,
        taken: bool,
    },
    /// Index of the directory, once it has one, and what the patterns say of it.
    Below(usize, Judged),
}

/// The walk through one directory.
struct Walk<'a> {
    tree: &'a dyn FileTree,
    root: &'a Path,
    filter: Option<&'a Filter>,
    cancelled: Cancelled<'a>,
}

impl Walk<'_> {
    /// Adds all below the directory: one level of directories after the other, each level in parallel, so that no depth of nesting
    /// costs stack.
    fn below(&self, found: &mut Match, sockets: &mut Vec<PathBuf>) -> Result<(), Error> {
        let mut directories: Vec<Vec<Item>> = vec![Vec::new()];
        let mut level = vec![(0, self.root.to_owned(), Judged::default())];
        while !level.is_empty() {
            let listed: Vec<Result<Vec<Item>, Error>> =
                level.par_iter().map(|(_, path, judged)| self.list(path, judged)).collect();
            let mut next = Vec::new();
            for ((index, path, _), items) in level.into_iter().zip(listed) {
                let mut items = items?;
                for item in &mut items {
                    match &mut item.node {
                        Node::Below(directory, judged) => {
                            *directory = directories.len();
                            directories.push(Vec::new());
                            let name = OsStr::from_bytes(item.name.strip_suffix(b"/").unwrap_or(&item.name));
                            next.push((*directory, path.join(name), std::mem::take(judged)));
                        }
                        Node::Entry { metadata, taken: true, .. } if metadata.kind == Kind::Socket => {
                            sockets.push(path.join(OsStr::from_bytes(&item.name)));
                        }
                        Node::Entry { .. } => {}
                    }
                }
                directories[index] = items;
            }
            level = next;
        }
        let taken = flatten(directories, found);
        if self.filter.is_some() {
            found.retain(&taken);
        }
        sockets.sort();
        Ok(())
    }

    /// The sorted items of one directory.
    fn list(&self, path: &Path, above: &Judged) -> Result<Vec<Item>, Error> {
        check(self.cancelled)?;
        let entries = self.tree.list(path)?;
        let mut items = Vec::with_capacity(entries.len());
        for (name, metadata) in entries {
            let mut judged = Judged::default();
            let mut taken = true;
            let mut look_below = metadata.kind == Kind::Directory;
            if let Some(filter) = self.filter {
                let below = path.join(&name);
                // All that is listed is below the root.
                let below = below.strip_prefix(self.root).unwrap_or(&below);
                (taken, judged) = filter.judge(below, above);
                look_below = look_below && filter.may_take_below(below, &judged);
                if !taken && !look_below {
                    continue;
                }
            }
            let target = match metadata.kind {
                Kind::Symlink => Some(self.tree.read_link(&path.join(&name))?),
                _ => None,
            };
            let name = name.into_encoded_bytes();
            if look_below {
                let below = [&name[..], b"/"].concat();
                items.push(Item { name: below, node: Node::Below(0, judged) });
            }
            items.push(Item { name, node: Node::Entry { metadata, target, taken } });
        }
        items.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(items)
    }
}

/// Adds the items in the order of whole paths; says for each entry of the match whether it is taken.
fn flatten(directories: Vec<Vec<Item>>, found: &mut Match) -> Vec<bool> {
    let mut directories: Vec<_> = directories.into_iter().map(Vec::into_iter).collect();
    let mut all_taken = vec![true; found.len()];
    let mut path = Vec::new();
    // Directories entered, each with the length of its path.
    let mut entered = vec![(0, 0)];
    while let Some(&(directory, length)) = entered.last() {
        path.truncate(length);
        let Some(item) = directories[directory].next() else {
            // Its memory goes now: what it held stands in the match.
            directories[directory] = Vec::new().into_iter();
            entered.pop();
            continue;
        };
        path.extend_from_slice(&item.name);
        match item.node {
            Node::Below(below, _) => entered.push((below, path.len())),
            Node::Entry { metadata, .. } if metadata.kind == Kind::Socket => {}
            Node::Entry { metadata, target, taken } => {
                found.push(&path, metadata, target);
                all_taken.push(taken);
            }
        }
    }
    all_taken
}
