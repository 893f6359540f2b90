use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::{FileTree, Ignore, Kind, Metadata, TreeError, Verdict};

/// A tree without what an ignore file excludes. An excluded directory is there all the same when something below it is not
/// excluded.
#[derive(Debug)]
pub struct Ignoring<T> {
    tree: T,
    ignore: Ignore,
    /// Whether an excluded directory holds something included, where that was looked up.
    looked_into: Mutex<HashMap<PathBuf, bool>>,
}

impl<T: FileTree> Ignoring<T> {
    /// Hides from `tree` what `ignore` excludes.
    pub fn new(tree: T, ignore: Ignore) -> Ignoring<T> {
        Ignoring { tree, ignore, looked_into: Mutex::default() }
    }

    /// The tree with nothing hidden.
    pub fn inner(&self) -> &T {
        &self.tree
    }

    /// Whether an excluded directory holds something that is not.
    fn holds_included(&self, directory: &Path, verdict: Verdict) -> Result<bool, TreeError> {
        if let Some(&known) = self.looked_into().get(directory) {
            return Ok(known);
        }
        let mut pending = vec![(directory.to_owned(), verdict)];
        let mut empty = Vec::new();
        while let Some((path, verdict)) = pending.pop() {
            if !self.ignore.may_include_below(&path, &verdict) {
                continue;
            }
            let entries = match self.tree.list(&path) {
                // What is excluded may be closed to us: nothing was asked for there by name.
                Err(error) if error.source.kind() == io::ErrorKind::PermissionDenied => continue,
                entries => entries?,
            };
            for (name, metadata) in entries {
                let path = path.join(name);
                let verdict = self.ignore.judge(&path, &verdict);
                if !verdict.is_excluded() {
                    self.looked_into().insert(directory.to_owned(), true);
                    return Ok(true);
                }
                if metadata.kind == Kind::Directory {
                    pending.push((path, verdict));
                }
            }
            empty.push(path);
        }
        let mut looked_into = self.looked_into();
        looked_into.insert(directory.to_owned(), false);
        looked_into.extend(empty.into_iter().map(|path| (path, false)));
        Ok(false)
    }

    fn looked_into(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, bool>> {
        self.looked_into.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Fails as if nothing were there when a file is hidden.
    fn visible(&self, action: &'static str, path: &Path) -> Result<(), TreeError> {
        if self.ignore.is_empty()
            || !self.ignore.judge_whole(path).is_excluded()
            || self.metadata(path)?.is_some()
        {
            return Ok(());
        }
        Err(TreeError::new(action, path, io::Error::from(io::ErrorKind::NotFound)))
    }
}

impl<T: FileTree> FileTree for Ignoring<T> {
    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, TreeError> {
        let verdict = self.ignore.judge_whole(path);
        let Some(metadata) = self.tree.metadata(path)? else { return Ok(None) };
        let visible = !verdict.is_excluded()
            || metadata.kind == Kind::Directory && self.holds_included(path, verdict)?;
        Ok(visible.then_some(metadata))
    }

    fn list(&self, path: &Path) -> Result<Vec<(OsString, Metadata)>, TreeError> {
        let mut entries = self.tree.list(path)?;
        if self.ignore.is_empty() {
            return Ok(entries);
        }
        let verdict = self.ignore.judge_whole(path);
        let mut child = path.as_os_str().as_bytes().to_vec();
        if !child.is_empty() {
            child.push(b'/');
        }
        let parent = child.len();
        let mut failed = None;
        entries.retain(|(name, metadata)| {
            child.truncate(parent);
            child.extend_from_slice(name.as_bytes());
            if !self.ignore.excludes_below(&child, &verdict) {
                return true;
            }
            if metadata.kind != Kind::Directory {
                return false;
            }
            let child = path.join(name);
            let verdict = self.ignore.judge(&child, &verdict);
            self.holds_included(&child, verdict).unwrap_or_else(|error| {
                failed.get_or_insert(error);
                false
            })
        });
        match failed {
            Some(error) => Err(error),
            None => Ok(entries),
        }
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, TreeError> {
        self.visible("read link", path)?;
        self.tree.read_link(path)
    }

    fn open(&self, path: &Path) -> Result<File, TreeError> {
        self.visible("open", path)?;
        self.tree.open(path)
    }

    fn xattrs(&self, path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError> {
        self.tree.xattrs(path)
    }

    fn xattrs_of(&self, path: &Path, file: &File) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError> {
        self.tree.xattrs_of(path, file)
    }

    fn hidden_by(&self, path: &Path) -> Option<String> {
        // What does not exist is not hidden.
        self.tree.metadata(path).ok().flatten()?;
        if self.metadata(path).ok()?.is_some() {
            return None;
        }
        let verdict = self.ignore.judge_whole(path);
        self.ignore.reason(&verdict).map(str::to_owned).or_else(|| self.tree.hidden_by(path))
    }

    fn is_immutable(&self) -> bool {
        self.tree.is_immutable()
    }
}
