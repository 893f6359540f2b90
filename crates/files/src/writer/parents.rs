//! Open directories, so that writing many files into one costs one look-up.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Place, TreeWriter, check_path};
use crate::Error;
use crate::beneath::{open_beneath, split};

/// Well below the usual limit of 1,024 open files, which all parts of a program share.
const MOST_OPEN: usize = 128;

#[derive(Debug, Default)]
pub(super) struct Parents(RwLock<HashMap<PathBuf, Arc<OwnedFd>>>);

impl Parents {
    fn read(&self) -> RwLockReadGuard<'_, HashMap<PathBuf, Arc<OwnedFd>>> {
        self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<PathBuf, Arc<OwnedFd>>> {
        self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Forgets a directory that is removed, and all below it.
    pub(super) fn forget(&self, path: &Path) {
        self.write().retain(|known, _| !known.starts_with(path));
    }

    /// Opens a directory of the tree, making it and what is missing above it.
    pub(super) fn open(&self, writer: &TreeWriter, path: &Path) -> Result<Arc<OwnedFd>, Error> {
        if let Some(known) = self.read().get(path) {
            return Ok(known.clone());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let opened = match open_beneath(writer.root.as_fd(), path, flags) {
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {
                self.make_all(writer, path)?;
                open_beneath(writer.root.as_fd(), path, flags)
            }
            opened => opened,
        };
        let opened = opened.map_err(|source| match Errno::from_io_error(&source) {
            Some(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => {
                Error::Unsafe { path: path.to_owned(), reason: "a parent is a link or no directory" }
            }
            _ => writer.error("open", path, source),
        })?;
        let opened = Arc::new(opened);
        let mut known = self.write();
        if known.len() >= MOST_OPEN {
            known.clear();
        }
        known.insert(path.to_owned(), opened.clone());
        Ok(opened)
    }

    /// Makes the directories that are missing, from the root on.
    fn make_all(&self, writer: &TreeWriter, path: &Path) -> Result<(), Error> {
        let mut ancestors: Vec<&Path> =
            path.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
        ancestors.reverse();
        for path in ancestors {
            let Some((parent, name)) = split(path) else { continue };
            // The one above was made in the round before, so this does not come back here.
            let parent = self.open(writer, parent)?;
            match rustix::fs::mkdirat(&*parent, name, Mode::RWXU) {
                Ok(()) => {
                    writer.directory(path, &writer.options.parents)?;
                    writer.implied_set().insert(path.to_owned());
                }
                Err(Errno::EXIST) => {}
                Err(source) => return Err(writer.error("make directory", path, source)),
            }
        }
        Ok(())
    }
}

impl TreeWriter {
    /// Where a path is, with its parent made when missing.
    pub(super) fn place<'a>(&self, path: &'a Path) -> Result<Place<'a>, Error> {
        check_path(path)?;
        let Some((parent, name)) = split(path) else {
            return Err(Error::Unsafe { path: path.to_owned(), reason: "it is the root" });
        };
        Ok(Place { parent: self.parents.open(self, parent)?, name, path })
    }
}
