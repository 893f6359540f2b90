use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A socket: never part of a layer.
    Socket,
}

/// What `lstat` says, with the owner as the tree means it (which a single-id rootless store records elsewhere).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// What is there.
    pub kind: Kind,
    /// Permission, setuid, setgid and sticky bits (`0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a regular file or of a link's target.
    pub size: u64,
    /// Last change of the content: seconds since 1970, nanoseconds.
    pub mtime: (i64, u32),
    /// Last change of content or metadata: seconds since 1970, nanoseconds.
    pub ctime: (i64, u32),
    /// Major and minor number of a device, else zeros.
    pub device: (u32, u32),
    /// File system that holds it (`st_dev`).
    pub file_system: u64,
    /// Inode number within the file system.
    pub inode: u64,
    /// Number of names. More than one on a regular file means a possible hard-link group.
    pub links: u64,
}

impl Metadata {
    /// What the file system says of an open file.
    pub fn of_file(file: &File) -> io::Result<Metadata> {
        Ok(Metadata::from_stat(&rustix::fs::fstat(file)?))
    }

    pub(crate) fn from_stat(stat: &Stat) -> Metadata {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Socket => Kind::Socket,
            _ => Kind::File,
        };
        let device = match kind {
            Kind::CharDevice | Kind::BlockDevice => {
                (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
            }
            _ => (0, 0),
        };
        Metadata {
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size as u64,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
            ctime: (stat.st_ctime, stat.st_ctime_nsec as u32),
            device,
            file_system: stat.st_dev,
            inode: stat.st_ino,
            links: wide(stat.st_nlink),
        }
    }
}

/// The type differs between architectures.
fn wide(number: impl Into<u64>) -> u64 {
    number.into()
}

/// A tree of files, read only. Paths are relative to the root, lexically clean, without `.` and `..`; the empty path is the root.
/// No method follows a symbolic link in any component: a path that leads through one is absent. Following links is
/// [`crate`]'s own business, above this trait, inside the root.
pub trait FileTree: Send + Sync {
    /// What stands at `path`, `None` when nothing does.
    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, TreeError>;

    /// The names in a directory with what stands there, in no particular order.
    fn list(&self, path: &Path) -> Result<Vec<(OsString, Metadata)>, TreeError>;

    /// The target of a symbolic link, as it stands.
    fn read_link(&self, path: &Path) -> Result<PathBuf, TreeError>;

    /// Opens a regular file for reading.
    fn open(&self, path: &Path) -> Result<File, TreeError>;

    /// The extended attributes that belong to the file (not those with which a store keeps its own books).
    fn xattrs(&self, path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError>;

    /// The same for a regular file that is open already, which can be cheaper.
    fn xattrs_of(&self, path: &Path, _file: &File) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError> {
        self.xattrs(path)
    }

    /// The ignore pattern that hides `path`, for error messages; `None` when none does or the tree has none.
    fn hidden_by(&self, _path: &Path) -> Option<String> {
        None
    }

    /// Whether nothing can change what is read: a committed snapshot, not a user's directory. There a file that is linked
    /// elsewhere meanwhile (which moves its ctime) is no change.
    fn is_immutable(&self) -> bool {
        false
    }
}

impl<T: FileTree + ?Sized> FileTree for &T {
    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, TreeError> {
        (**self).metadata(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<(OsString, Metadata)>, TreeError> {
        (**self).list(path)
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, TreeError> {
        (**self).read_link(path)
    }

    fn open(&self, path: &Path) -> Result<File, TreeError> {
        (**self).open(path)
    }

    fn xattrs(&self, path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError> {
        (**self).xattrs(path)
    }

    fn xattrs_of(&self, path: &Path, file: &File) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError> {
        (**self).xattrs_of(path, file)
    }

    fn hidden_by(&self, path: &Path) -> Option<String> {
        (**self).hidden_by(path)
    }

    fn is_immutable(&self) -> bool {
        (**self).is_immutable()
    }
}

/// A tree could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}: {source}", path = path.display())]
pub struct TreeError {
    /// The verb: `open`, `list`, …
    pub action: &'static str,
    /// As the user knows it.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

impl TreeError {
    /// For trees that are made elsewhere.
    pub fn new(action: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> TreeError {
        TreeError { action, path: path.into(), source: source.into() }
    }
}
