//! Entries that take the place of others: what is there stays, whole, until the new one is.

use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use super::aside::Aside;
use super::{Place, TreeWriter};
use crate::Error;
use crate::owners::Owner;

/// An entry that is being made: under its own name where nothing stood there, else under a temporary one beside it, in the same directory.
/// Dropped before it has its place, it is removed: nobody finds half of one.
pub(super) struct Pending<'a> {
    writer: &'a TreeWriter,
    place: Place<'a>,
    /// What it is called until then, where that is not its own name.
    temporary: Option<OsString>,
    /// Its owner, where that is written down beside the tree.
    owner: Option<Owner>,
    in_place: bool,
}

impl TreeWriter {
    /// Makes an entry with `make`, which is given a directory and a name and must refuse a name that is taken.
    pub(super) fn begin<'a, T>(
        &'a self,
        place: Place<'a>,
        action: &'static str,
        make: impl Fn(BorrowedFd<'_>, &OsStr) -> io::Result<T>,
    ) -> Result<(T, Pending<'a>), Error> {
        let (made, temporary) = match make(place.parent.as_fd(), place.name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let name = temporary_name();
                (make(place.parent.as_fd(), &name), Some(name))
            }
            made => (made, None),
        };
        let made = made.map_err(|source| self.error(action, place.path, source))?;
        Ok((made, self.pending(place, temporary)))
    }

    /// An entry that was made, under its own name or a temporary one.
    pub(super) fn pending<'a>(&'a self, place: Place<'a>, temporary: Option<OsString>) -> Pending<'a> {
        Pending { writer: self, place, temporary, owner: None, in_place: false }
    }
}

impl<'a> Pending<'a> {
    /// Where it is to stand.
    pub(super) fn place(&self) -> &Place<'a> {
        &self.place
    }

    /// The directory that it is in.
    pub(super) fn at(&self) -> BorrowedFd<'_> {
        self.place.parent.as_fd()
    }

    /// What it is called for now.
    pub(super) fn name(&self) -> &OsStr {
        self.temporary.as_deref().unwrap_or(self.place.name)
    }

    /// Whether there is something whose place it takes.
    pub(super) fn replaces(&self) -> bool {
        self.temporary.is_some()
    }

    /// Has its owner written down beside the tree, once it has its place.
    pub(super) fn record(&mut self, owner: Owner) {
        self.owner = Some(owner);
    }

    /// Gives it its place, in one step. A directory that was there goes with all in it.
    pub(super) fn put(mut self) -> Result<(), Error> {
        if let Some(temporary) = &self.temporary {
            match rustix::fs::renameat(self.at(), temporary, self.at(), self.place.name) {
                // A directory, or what is to become one.
                Err(Errno::ISDIR | Errno::NOTDIR | Errno::EXIST | Errno::NOTEMPTY) => self.swap(temporary)?,
                renamed => renamed.map_err(|source| self.error(source))?,
            }
        }
        self.settle();
        Ok(())
    }

    /// What is recorded of the owner is that of what stands there now.
    fn settle(&mut self) {
        self.in_place = true;
        if self.temporary.is_some() {
            self.writer.sidecar().forget(self.place.path);
        }
        if let Some(owner) = self.owner {
            self.writer.sidecar().set(self.place.path, owner);
        }
    }

    /// A directory's: what is there is no directory, and is not removed yet.
    pub(super) fn put_beside(mut self, aside: &Aside) -> Result<(), Error> {
        match &self.temporary {
            Some(temporary) if exchange(&self.place, temporary).is_ok() => {
                aside.push(self.place.path, temporary.clone());
                self.settle();
                Ok(())
            }
            _ => self.put(),
        }
    }

    /// Gives it its place where one of both is a directory.
    fn swap(&self, temporary: &OsStr) -> Result<(), Error> {
        let remove = |name| self.writer.remove_at(&Place { name, ..self.place.clone() });
        match exchange(&self.place, temporary) {
            Ok(()) => remove(temporary).inspect_err(|_| {
                // What is left of it is found where it was.
                let _ = exchange(&self.place, temporary);
            }),
            // Not every file system can do that.
            Err(Errno::INVAL | Errno::NOSYS | Errno::XDEV | Errno::OPNOTSUPP) => {
                remove(self.place.name)?;
                let renamed = rustix::fs::renameat(self.at(), temporary, self.at(), self.place.name);
                renamed.map_err(|source| self.error(source))
            }
            Err(source) => Err(self.error(source)),
        }
    }

    fn error(&self, source: Errno) -> Error {
        self.writer.error("replace", self.place.path, source)
    }
}

/// Gives each of two entries the other's name.
fn exchange(place: &Place<'_>, other: &OsStr) -> Result<(), Errno> {
    rustix::fs::renameat_with(&*place.parent, other, &*place.parent, place.name, RenameFlags::EXCHANGE)
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if self.in_place {
            return;
        }
        // What went wrong is said already. A directory is empty still.
        if rustix::fs::unlinkat(self.at(), self.name(), AtFlags::empty()) == Err(Errno::ISDIR) {
            let _ = rustix::fs::unlinkat(self.at(), self.name(), AtFlags::REMOVEDIR);
        }
    }
}

/// A name that nothing else has, however many write there. As long for every file, so that it is not too long where the file's own is not.
fn temporary_name() -> OsString {
    // 64 bits: the hash of nothing, with keys of which each thread begins with other random ones and counts on.
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    format!(".builder-{random:016x}.tmp").into()
}
