use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::Metadata;

/// What is set on an entry that is written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Permission, setuid, setgid and sticky bits (`0o7777`); without meaning on symbolic links.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content: seconds since 1970, nanoseconds; `None` leaves the time of writing.
    pub mtime: Option<(i64, u32)>,
    /// By full name: `user.x`, `security.capability`.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

impl Attributes {
    /// A mode, owned by 0:0, with the time of writing.
    pub fn with_mode(mode: u32) -> Attributes {
        Attributes { mode, ..Attributes::default() }
    }

    /// Those of an existing entry; extended attributes are read apart from the rest.
    pub fn of(metadata: &Metadata, xattrs: BTreeMap<OsString, Vec<u8>>) -> Attributes {
        Attributes {
            mode: metadata.mode,
            uid: metadata.uid,
            gid: metadata.gid,
            mtime: Some(metadata.mtime),
            xattrs,
        }
    }
}

/// How a tree on disk keeps owners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owners {
    /// As the file system does.
    Real,
    /// The same in a user namespace, which makes no devices: these are recorded, as empty files with an extended attribute.
    Mapped,
    /// In a user namespace with a single id, where no other owner can be set: recorded in extended attributes of files and
    /// directories, and in one file beside the tree for what cannot carry them. What has no record is owned by 0:0.
    Recorded {
        /// The file for symbolic links and pipes; it need not exist.
        sidecar: PathBuf,
    },
}

/// The extended attribute with which overlay marks a directory that hides what lies below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpaqueMark {
    /// `trusted.overlay.opaque`: mounted by root.
    Trusted,
    /// `user.overlay.opaque`: mounted in a user namespace with `userxattr`.
    User,
}

impl OpaqueMark {
    /// Its full name; the value is `y`.
    pub fn xattr(self) -> &'static str {
        match self {
            OpaqueMark::Trusted => "trusted.overlay.opaque",
            OpaqueMark::User => "user.overlay.opaque",
        }
    }
}
