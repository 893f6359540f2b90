//! What had to make room for directories: it stands beside them until all is written, and comes back where that never happens.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use rustix::fs::{AtFlags, OFlags, RenameFlags};
use rustix::io::Errno;

use super::remove::remove_directory;
use crate::beneath::{open_beneath, split};

#[derive(Debug)]
pub(super) struct Aside {
    root: OwnedFd,
    /// Directories, and under which names beside them stands what was there.
    list: Mutex<Vec<(PathBuf, OsString)>>,
}

impl Aside {
    pub(super) fn new(root: OwnedFd) -> Aside {
        Aside { root, list: Mutex::default() }
    }

    fn list(&self) -> MutexGuard<'_, Vec<(PathBuf, OsString)>> {
        self.list.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn push(&self, path: &Path, name: OsString) {
        self.list().push((path.to_owned(), name));
    }

    /// Removes all of it: what took its place is complete, and stays whatever goes wrong here.
    ///
    /// # Errors
    /// With the path of the first that could not be removed.
    pub(super) fn settle(&self) -> Result<(), (PathBuf, Errno)> {
        let list = std::mem::take(&mut *self.list());
        let mut first = Ok(());
        for (path, name) in list.into_iter().rev() {
            let Some((parent, _)) = self.parent(&path) else { continue };
            let removed = match rustix::fs::unlinkat(&parent, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(error) => Err((path.with_file_name(name), error)),
            };
            first = first.and(removed);
        }
        first
    }

    fn parent<'a>(&self, path: &'a Path) -> Option<(OwnedFd, &'a OsStr)> {
        let (parent, name) = split(path)?;
        Some((open_beneath(self.root.as_fd(), parent, OFlags::PATH | OFlags::DIRECTORY).ok()?, name))
    }
}

impl Drop for Aside {
    /// Puts back what was not settled; what went wrong then is said already.
    fn drop(&mut self) {
        while let Some((path, aside)) = self.list().pop() {
            let Some((parent, name)) = self.parent(&path) else { continue };
            if rustix::fs::renameat_with(&parent, &aside, &parent, name, RenameFlags::EXCHANGE).is_ok()
                && let Ok(aside) = std::ffi::CString::new(aside.into_encoded_bytes())
            {
                let _ = remove_directory(parent.as_fd(), &aside);
            }
        }
    }
}
