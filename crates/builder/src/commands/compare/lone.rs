//! A tree with one file, to ask whether a pattern would select it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use files::{DirectoryTree, FileTree, Kind, Metadata, PathSelection, TreeError};

use super::links;

/// A directory, as far as it matters for a file that may come into being there. Each directory in it is looked at once.
pub(super) struct Surroundings {
    tree: DirectoryTree,
    held: Mutex<HashMap<PathBuf, Arc<Held>>>,
}

/// What a directory holds.
#[derive(Default)]
struct Held {
    links: Vec<Link>,
    /// All of it; `None` where it cannot be read.
    names: Option<Vec<OsString>>,
}

/// A symbolic link that is there.
struct Link {
    name: OsString,
    metadata: Metadata,
    /// It and those that it leads to.
    followed: BTreeSet<PathBuf>,
    /// Where they lead in the end.
    target: PathBuf,
}

impl Surroundings {
    pub(super) fn new(tree: DirectoryTree) -> Surroundings {
        Surroundings { tree, held: Mutex::default() }
    }

    fn held(&self, directory: &Path) -> Arc<Held> {
        let known = || self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = known().get(directory) {
            return held.clone();
        }
        let held = Arc::new(match self.tree.metadata(directory) {
            Ok(Some(found)) if found.kind == Kind::Directory => self.look(directory),
            Ok(Some(_)) | Err(_) => Held::default(),
            Ok(None) => Held { names: Some(Vec::new()), ..Held::default() },
        });
        known().insert(directory.to_owned(), held.clone());
        held
    }

    /// What cannot be read holds nothing that is known.
    fn look(&self, directory: &Path) -> Held {
        let Ok(entries) = self.tree.list(directory) else { return Held::default() };
        let names = entries.iter().map(|(name, _)| name.clone()).collect();
        let link = |(name, metadata): (OsString, Metadata)| {
            let path = directory.join(&name);
            let target = files::resolve(&self.tree, &path, true).ok()?;
            let followed = links::on_the_way(&self.tree, &PathSelection::exact(path.to_str()?));
            Some(Link { name, metadata, followed, target })
        };
        let found = entries.into_iter().filter(|(_, metadata)| metadata.kind == Kind::Symlink);
        Held { links: found.filter_map(link).collect(), names: Some(names) }
    }

    /// The names of all that a directory holds: nothing where there is none, `None` where it cannot be read.
    pub(super) fn names(&self, directory: &Path) -> Option<Vec<OsString>> {
        self.held(directory).names.clone()
    }
}

impl FileTree for Surroundings {
    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, TreeError> {
        self.tree.metadata(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<(OsString, Metadata)>, TreeError> {
        self.tree.list(path)
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, TreeError> {
        self.tree.read_link(path)
    }

    fn open(&self, path: &Path) -> Result<File, TreeError> {
        self.tree.open(path)
    }

    fn xattrs(&self, path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError> {
        self.tree.xattrs(path)
    }
}

/// One file with the directories that lead to it, and the links of its surroundings that do. It can be looked at, not read.
pub(super) struct Lone<'a> {
    path: PathBuf,
    around: &'a Surroundings,
}

impl Lone<'_> {
    pub(super) fn new<'a>(path: &Path, around: &'a Surroundings) -> Lone<'a> {
        Lone { path: path.to_owned(), around }
    }

    fn at(&self, path: &Path) -> Option<Metadata> {
        let kind = match self.path.starts_with(path) {
            true if self.path == path => Kind::File,
            true => Kind::Directory,
            false => return None,
        };
        Some(Metadata {
            kind,
            mode: 0o755,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: (0, 0),
            ctime: (0, 0),
            device: (0, 0),
            file_system: 0,
            inode: 0,
            links: 1,
        })
    }

    /// Others may lead to what is not in this tree.
    fn leads_here(&self, link: &Link) -> bool {
        self.path.starts_with(&link.target) || link.followed.contains(&self.path)
    }
}

impl FileTree for Lone<'_> {
    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, TreeError> {
        match self.at(path) {
            Some(metadata) => Ok(Some(metadata)),
            None => Ok(self.around.metadata(path)?.filter(|found| found.kind == Kind::Symlink)),
        }
    }

    fn list(&self, path: &Path) -> Result<Vec<(OsString, Metadata)>, TreeError> {
        let rest = self.path.strip_prefix(path).ok();
        let Some(name) = rest.and_then(|rest| rest.components().next()) else { return Ok(Vec::new()) };
        let name = name.as_os_str();
        let held = self.around.held(path);
        let links = held.links.iter().filter(|link| link.name != name && self.leads_here(link));
        let links = links.map(|link| (link.name.clone(), link.metadata));
        Ok(self
            .at(&path.join(name))
            .map(|metadata| (name.to_owned(), metadata))
            .into_iter()
            .chain(links)
            .collect())
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, TreeError> {
        self.around.read_link(path)
    }

    fn open(&self, path: &Path) -> Result<File, TreeError> {
        Err(TreeError::new("open", path, io::ErrorKind::NotFound))
    }

    fn xattrs(&self, _path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError> {
        Ok(BTreeMap::new())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use files::{Ignore, Ignoring, PathSelection, Selection};

    fn around(dir: &Path) -> Surroundings {
        Surroundings::new(DirectoryTree::context(dir).unwrap())
    }

    #[test]
    fn a_pattern_selects_it_or_not() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("releases/1/x")).unwrap();
        symlink("releases/latest", dir.path().join("current")).unwrap();
        symlink("1", dir.path().join("releases/latest")).unwrap();
        symlink("nowhere", dir.path().join("dangling")).unwrap();
        let around = around(dir.path());
        let selects = |pattern: &str, ignore: &str, path: &str| {
            let tree =
                Ignoring::new(Lone::new(Path::new(path), &around), Ignore::parse(ignore.as_bytes()).unwrap());
            let selection = PathSelection { wildcards: true, ..PathSelection::exact(pattern) };
            let selected = files::select(&tree, &Selection::Path(selection), &|| false);
            selected.is_ok_and(|selected| !selected.matches.is_empty())
        };
        assert!(
            selects("", "", "a/b.txt") && selects("a", "", "a/b.txt") && selects("a/*.txt", "", "a/b.txt")
        );
        assert!(!selects("b", "", "a/b.txt") && !selects("*.txt", "", "a/b.txt"));
        assert!(!selects("a/b.txt", "**/*.txt", "a/b.txt"));
        // Through links that are there.
        let new = "releases/1/new";
        assert!(selects("current", "", new) && selects("curr*", "", new) && selects("current/n*", "", new));
        assert!(selects("current/x", "", "releases/1/x/new") && selects("*", "", new));
        assert!(
            !selects("current/x", "", new) && !selects("d*", "", new) && !selects("current", "current", new)
        );
        assert!(selects("curr*", "", "releases/latest"), "the second of two links");
    }
}
