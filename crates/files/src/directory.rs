use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rustix::fs::{AtFlags, Mode, OFlags, RawDir};
use rustix::io::Errno;

use crate::beneath::{is_absent, open_beneath, proc_path, split};
use crate::owners::{self, Sidecar};
use crate::{FileTree, Kind, Metadata, Owners, TreeError, xattrs};

/// More names than this in one directory are asked for in parallel.
const MANY: usize = 512;

/// A directory of the host: a build context, or a snapshot. Nothing outside of it can be reached, whatever links it holds and
/// whoever changes it meanwhile.
#[derive(Debug)]
pub struct DirectoryTree {
    root: OwnedFd,
    path: PathBuf,
    ownership: Ownership,
}

#[derive(Debug)]
enum Ownership {
    Real,
    Mapped,
    Recorded(Sidecar),
    Context,
}

impl DirectoryTree {
    /// Opens a tree that was written with the same `owners`. It is taken as immutable.
    pub fn open(root: &Path, owners: &Owners) -> Result<DirectoryTree, TreeError> {
        let ownership = match owners {
            Owners::Real => Ownership::Real,
            Owners::Mapped => Ownership::Mapped,
            Owners::Recorded { sidecar } => Ownership::Recorded(
                Sidecar::load(sidecar).map_err(|source| TreeError::new("read", sidecar, source))?,
            ),
        };
        DirectoryTree::with(root, ownership)
    }

    /// Opens a user's directory as a build context. Everything in it is owned by 0:0, and its root has mode 0755 and no
    /// attributes, so that neither the builder's account nor how the directory was made counts.
    pub fn context(root: &Path) -> Result<DirectoryTree, TreeError> {
        DirectoryTree::with(root, Ownership::Context)
    }

    fn with(root: &Path, ownership: Ownership) -> Result<DirectoryTree, TreeError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(root, flags, Mode::empty())
            .map_err(|source| TreeError::new("open", root, source))?;
        Ok(DirectoryTree { root: opened, path: root.to_owned(), ownership })
    }

    /// The directory, as it was called when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a directory of the tree for reading, however long its path is: for what a tree does not tell.
    ///
    /// # Errors
    /// Also where a component of the path is a link.
    pub fn open_directory(&self, path: &Path) -> Result<OwnedFd, TreeError> {
        let opened = self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY);
        opened.map_err(|source| self.error("open", path, source))
    }

    fn error(&self, action: &'static str, path: &Path, source: impl Into<io::Error>) -> TreeError {
        // `join` of an empty path would add a slash.
        let path = if path.as_os_str().is_empty() { self.path.clone() } else { self.path.join(path) };
        TreeError::new(action, path, source)
    }

    fn open_at(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        open_beneath(self.root.as_fd(), path, flags)
    }

    /// What stands under `name` in an open directory; `None` when nothing does.
    fn stat(&self, directory: BorrowedFd<'_>, parent: &Path, name: &OsStr) -> io::Result<Option<Metadata>> {
        let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            stat => stat?,
        };
        let mut metadata = Metadata::from_stat(&stat);
        match &self.ownership {
            Ownership::Real => {}
            Ownership::Mapped => owners::apply_device(&mut metadata, |attribute| {
                xattrs::get_at(&proc_path(directory, name), attribute)
            })?,
            Ownership::Context => (metadata.uid, metadata.gid) = (0, 0),
            Ownership::Recorded(sidecar) => {
                owners::apply(&mut metadata, &parent.join(name), sidecar, |attribute| {
                    xattrs::get_at(&proc_path(directory, name), attribute)
                })?;
            }
        }
        Ok(Some(metadata))
    }

    fn stat_root(&self) -> io::Result<Metadata> {
        let mut metadata = Metadata::from_stat(&rustix::fs::fstat(&self.root)?);
        match &self.ownership {
            Ownership::Real | Ownership::Mapped => {}
            Ownership::Context => {
                metadata.mode = 0o755;
                (metadata.uid, metadata.gid) = (0, 0);
            }
            Ownership::Recorded(sidecar) => {
                owners::apply(&mut metadata, Path::new(""), sidecar, |attribute| {
                    xattrs::get(self.root.as_fd(), OsStr::new(attribute))
                })?;
            }
        }
        Ok(metadata)
    }

    fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        let mut buffer = Vec::with_capacity(32 * 1024);
        let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name.to_vec()));
            }
        }
        Ok(names)
    }
}

impl FileTree for DirectoryTree {
    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, TreeError> {
        let error = |source| self.error("stat", path, source);
        let Some((parent, name)) = split(path) else {
            return self.stat_root().map(Some).map_err(error);
        };
        if parent.as_os_str().is_empty() {
            return self.stat(self.root.as_fd(), parent, name).map_err(error);
        }
        match self.open_at(parent, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(directory) => self.stat(directory.as_fd(), parent, name).map_err(error),
            Err(source) if is_absent(&source) => Ok(None),
            Err(source) => Err(error(source)),
        }
    }

    fn list(&self, path: &Path) -> Result<Vec<(OsString, Metadata)>, TreeError> {
        let error = |source| self.error("list", path, source);
        let directory = self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(error)?;
        let names = DirectoryTree::names(directory.as_fd()).map_err(error)?;
        // A name that vanished since is left out, as if it had been gone before.
        let stat = |name: OsString| -> Option<Result<(OsString, Metadata), TreeError>> {
            match self.stat(directory.as_fd(), path, &name) {
                Ok(metadata) => metadata.map(|metadata| Ok((name, metadata))),
                Err(source) => Some(Err(self.error("stat", &path.join(name), source))),
            }
        };
        if names.len() > MANY {
            names.into_par_iter().with_min_len(MANY / 4).filter_map(stat).collect()
        } else {
            names.into_iter().filter_map(stat).collect()
        }
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, TreeError> {
        let error = |source| self.error("read link", path, source);
        let (parent, name) = split(path).ok_or_else(|| error(Errno::INVAL.into()))?;
        let parent = self.open_at(parent, OFlags::PATH | OFlags::DIRECTORY).map_err(error)?;
        let target =
            rustix::fs::readlinkat(&parent, name, Vec::new()).map_err(|source| error(source.into()))?;
        Ok(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
    }

    fn open(&self, path: &Path) -> Result<File, TreeError> {
        let error = |source| self.error("open", path, source);
        // Not blocking: a pipe put there meanwhile must not hold the build.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(self.open_at(path, flags).map_err(error)?);
        let metadata = Metadata::of_file(&file).map_err(error)?;
        if metadata.kind != Kind::File {
            return Err(error(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        Ok(file)
    }

    fn xattrs(&self, path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError> {
        let is_root = path.as_os_str().is_empty();
        if is_root && matches!(self.ownership, Ownership::Context) {
            return Ok(BTreeMap::new());
        }
        // Nothing else can carry attributes of the kinds that belong to a file, and opening a device may do things.
        let kind = self.metadata(path)?.map(|metadata| metadata.kind);
        if !matches!(kind, Some(Kind::File | Kind::Directory)) {
            return Ok(BTreeMap::new());
        }
        let error = |source| self.error("read extended attributes of", path, source);
        let file = self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).map_err(error)?;
        xattrs::read(file.as_fd()).map_err(error)
    }

    fn xattrs_of(&self, path: &Path, file: &File) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError> {
        xattrs::read(file.as_fd()).map_err(|source| self.error("read extended attributes of", path, source))
    }

    fn is_immutable(&self) -> bool {
        !matches!(self.ownership, Ownership::Context)
    }
}
