//! The form in which layers lie on disk: that of overlayfs' upper directories. See the kernel's
//! `Documentation/filesystems/overlayfs.rst`, "whiteouts and opaque directories".

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use files::{DirectoryTree, FileTree, Kind, Metadata, OpaqueMark, Owners, TreeError};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, XattrFlags};
use rustix::io::Errno;

use crate::CacheError;
use crate::error::At;
use crate::layout::PROBE;

/// How layers say what they remove: as overlayfs does, in the attributes that it keeps its books in, or in a way of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marks(OpaqueMark);

impl fmt::Display for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            OpaqueMark::Trusted => "trusted",
            OpaqueMark::User => "user",
            OpaqueMark::Recorded => "recorded",
        })
    }
}

impl Marks {
    /// Those of an overlay.
    pub(crate) fn new(userxattr: bool) -> Marks {
        Marks(if userxattr { OpaqueMark::User } else { OpaqueMark::Trusted })
    }

    /// For file systems that take none of overlay's.
    pub(crate) const RECORDED: Marks = Marks(OpaqueMark::Recorded);

    /// Whether layers can be mounted as those of an overlay.
    pub(crate) fn are_overlays(self) -> bool {
        self != Marks::RECORDED
    }

    pub(crate) fn opaque(self) -> OpaqueMark {
        self.0
    }

    /// Refuses a directory whose file system cannot hold layers.
    pub(crate) fn probe(self, root: &Path) -> Result<(), CacheError> {
        let probe =
            tempfile::Builder::new().prefix(PROBE).tempdir_in(root).at("create a directory in", root)?;
        let unusable = |what: &str, error: Errno| CacheError::Unusable {
            path: root.to_owned(),
            reason: format!(
                "its file system cannot hold {what} ({error}); name a directory on another one, inside a container on a volume"
            ),
        };
        self.set_opaque(probe.path()).map_err(|error| unusable("the marks of layers", error))?;
        self.make_whiteout(&probe.path().join("whiteout")).map_err(|error| unusable("whiteouts", error))?;
        let link = probe.path().join("link");
        symlink("target", &link).at("create", &link)
    }

    /// Nothing is here, whatever lies below.
    pub(crate) fn make_whiteout(self, path: &Path) -> rustix::io::Result<()> {
        self.0.make_whiteout(CWD, path)
    }

    pub(crate) fn set_opaque(self, directory: &Path) -> rustix::io::Result<()> {
        rustix::fs::lsetxattr(directory, self.0.xattr(), b"y", XattrFlags::empty())
    }

    pub(crate) fn clear_opaque(self, directory: &Path) -> rustix::io::Result<()> {
        match rustix::fs::lremovexattr(directory, self.0.xattr()) {
            Err(Errno::NODATA) => Ok(()),
            other => other,
        }
    }
}

/// Puts the time of a directory back.
pub(crate) fn set_time(directory: &Path, (seconds, nanos): (i64, u32)) -> Result<(), CacheError> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos.into() },
    };
    rustix::fs::utimensat(CWD, directory, &times, AtFlags::SYMLINK_NOFOLLOW).at("set the time of", directory)
}

pub(crate) fn is_whiteout(metadata: &Metadata) -> bool {
    metadata.kind == Kind::CharDevice && metadata.device == (0, 0)
}

/// A layer's directory, opened. As a [`FileTree`] it still shows whiteouts. One open file a layer: chains can be long.
#[derive(Debug)]
pub(crate) struct UpperDir {
    pub(crate) tree: DirectoryTree,
    pub(crate) path: PathBuf,
    marks: Marks,
}

impl UpperDir {
    pub(crate) fn open(path: &Path, owners: &Owners, marks: Marks) -> Result<UpperDir, TreeError> {
        Ok(UpperDir { tree: DirectoryTree::open(path, owners)?, path: path.to_owned(), marks })
    }

    /// Whether `path`, known to be a directory of this layer, hides what lies below it.
    pub(crate) fn is_opaque(&self, path: &Path) -> Result<bool, TreeError> {
        let mut value = [0; 8];
        let host_path = self.path.join(path);
        let name = self.marks.0.xattr();
        // No component is a link: the caller came here through directories, and nobody else writes in the store.
        let read = match rustix::fs::lgetxattr(&host_path, name, &mut value) {
            Err(Errno::NAMETOOLONG) => {
                rustix::fs::fgetxattr(self.tree.open_directory(path)?, name, &mut value)
            }
            read => read,
        };
        match read {
            Ok(length) => Ok(value[..length] == *b"y"),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
            Err(error) => {
                Err(TreeError { action: "read the overlay marks of", path: host_path, source: error.into() })
            }
        }
    }

    /// The attributes of what is known to be a file or directory of this layer.
    pub(crate) fn xattrs(&self, path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError> {
        let host_path = self.path.join(path);
        // Most have none: one call says so, where reading takes six. Longer paths and longer lists are for the tree.
        if rustix::fs::llistxattr(&host_path, &mut [0_u8; 1]) == Ok(0) {
            return Ok(BTreeMap::new());
        }
        self.tree.xattrs(path)
    }

    /// What the layer says about its root directory.
    pub(crate) fn root_attributes(&self) -> Result<files::Attributes, TreeError> {
        let root = Path::new("");
        let metadata = self.tree.metadata(root)?.ok_or_else(|| TreeError {
            action: "stat",
            path: self.path.clone(),
            source: Errno::NOENT.into(),
        })?;
        Ok(files::Attributes { mtime: None, ..files::Attributes::of(&metadata, self.tree.xattrs(root)?) })
    }
}

/// Removes a file; none is fine.
pub(crate) fn remove_file_if_there(path: &Path) -> Result<(), CacheError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).at("remove", path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::near::Near;

    #[test]
    fn marks_are_read_however_long_the_path_is() {
        let dir = tempfile::tempdir().unwrap();
        let marks = Marks::new(true);
        let upper = UpperDir::open(dir.path(), &Owners::Real, marks).unwrap();
        let mut path = PathBuf::new();
        for depth in 0..20 {
            path.push("n".repeat(250));
            let near = Near::of(&upper.tree, &path).unwrap();
            fs::create_dir(&*near).unwrap();
            if depth % 2 == 0 {
                marks.set_opaque(&near).unwrap();
            }
        }
        for (above, path) in path.ancestors().take(20).enumerate() {
            assert_eq!(upper.is_opaque(path).unwrap(), above % 2 == 1, "{above}");
            assert_eq!(upper.xattrs(path).unwrap(), BTreeMap::new());
        }
        let gone = upper.is_opaque(&path.join("gone")).unwrap_err().to_string();
        assert!(gone.contains("/nnn") && gone.contains("/gone: "), "{gone}");
    }
}
