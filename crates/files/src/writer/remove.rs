//! Removing what stands in the way, without following anything.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::{Place, TreeWriter};
use crate::Error;

impl TreeWriter {
    /// Removes what stands at a place, with all below it.
    pub(super) fn clear(&self, place: &Place<'_>) -> Result<(), Error> {
        self.remove_at(place)?;
        self.sidecar().forget(place.path);
        Ok(())
    }

    /// The same; what is recorded of owners stays.
    pub(super) fn remove_at(&self, place: &Place<'_>) -> Result<(), Error> {
        let error = |source: Errno| self.error("remove", place.path, source);
        match rustix::fs::unlinkat(&*place.parent, place.name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {
                let name = CString::new(place.name.as_encoded_bytes()).map_err(|_| error(Errno::INVAL))?;
                remove_directory(place.parent.as_fd(), &name).map_err(error)?;
                self.parents.forget(place.path);
                self.times().retain(|path, _| !path.starts_with(place.path));
                self.implied_set().retain(|path| !path.starts_with(place.path));
            }
            Ok(()) | Err(Errno::NOENT) => {}
            Err(source) => return Err(error(source)),
        }
        Ok(())
    }
}

/// Removes a directory and all in it. Keeps the directories on the way down open, so depth is bounded by the limit of open files,
/// not by the stack.
pub(super) fn remove_directory(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let mut stack = vec![(name.to_owned(), open(parent, name)?)];
    while let Some((name, directory)) = stack.last() {
        match empty(directory.as_fd())? {
            Some(below) => {
                let opened = open(directory.as_fd(), &below)?;
                stack.push((below, opened));
            }
            None => {
                let name = name.clone();
                stack.pop();
                let at = stack.last().map_or(parent, |(_, directory)| directory.as_fd());
                rustix::fs::unlinkat(at, &*name, AtFlags::REMOVEDIR)?;
            }
        }
    }
    Ok(())
}

fn open(at: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// Removes the files of a directory; returns a directory in it, if there is one.
fn empty(directory: BorrowedFd<'_>) -> Result<Option<CString>, Errno> {
    rustix::fs::seek(directory, rustix::fs::SeekFrom::Start(0))?;
    let mut buffer = Vec::with_capacity(8 * 1024);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => return Ok(Some(name.to_owned())),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
