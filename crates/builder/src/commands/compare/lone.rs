//! A tree with one file, to ask whether a pattern would select it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use files::{FileTree, Kind, Metadata, TreeError};

/// One file with the directories that lead to it. It can be looked at, not read.
pub(super) struct Lone {
    path: PathBuf,
}

impl Lone {
    pub(super) fn new(path: &Path) -> Lone {
        Lone { path: path.to_owned() }
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
}

impl FileTree for Lone {
    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, TreeError> {
        Ok(self.at(path))
    }

    fn list(&self, path: &Path) -> Result<Vec<(OsString, Metadata)>, TreeError> {
        let rest = self.path.strip_prefix(path).ok();
        let name = rest.and_then(|rest| rest.components().next()).map(|name| name.as_os_str().to_owned());
        let entry = name.and_then(|name| self.at(&path.join(&name)).map(|metadata| (name, metadata)));
        Ok(entry.into_iter().collect())
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, TreeError> {
        Err(TreeError::new("read the link", path, io::ErrorKind::InvalidInput))
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
    use super::*;
    use files::{Ignore, Ignoring, PathSelection, Selection};

    #[test]
    fn a_pattern_selects_it_or_not() {
        let selects = |pattern: &str, ignore: &str, path: &str| {
            let tree = Ignoring::new(Lone::new(Path::new(path)), Ignore::parse(ignore.as_bytes()).unwrap());
            let selection = PathSelection { wildcards: true, ..PathSelection::exact(pattern) };
            let selected = files::select(&tree, &Selection::Path(selection), &|| false);
            selected.is_ok_and(|selected| !selected.matches.is_empty())
        };
        assert!(
            selects("", "", "a/b.txt") && selects("a", "", "a/b.txt") && selects("a/*.txt", "", "a/b.txt")
        );
        assert!(!selects("b", "", "a/b.txt") && !selects("*.txt", "", "a/b.txt"));
        assert!(!selects("a/b.txt", "**/*.txt", "a/b.txt"));
    }
}
