use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::fs::{FileType, Mode, OFlags, XattrFlags};
use rustix::path::Arg;

use crate::{Kind, Metadata, owners};

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
    /// In a user namespace with a single id, where no other owner can be set: recorded in extended attributes, and in one file beside
    /// the tree for what cannot carry them. What has no record is owned by 0:0.
    Recorded {
        /// The file for symbolic links and pipes on a file system that refuses the attributes of theirs; it need not exist.
        sidecar: PathBuf,
    },
}

/// How a layer's directory says what hides or removes what lies below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpaqueMark {
    /// As overlay does that root mounts: `trusted.overlay.opaque`, and character devices 0:0.
    Trusted,
    /// As overlay does in a user namespace with `userxattr`: `user.overlay.opaque`, and character devices 0:0.
    User,
    /// Where the file system takes none of overlay's marks, as one that is an overlay itself: `user.builder.opaque`, and recorded
    /// devices 0:0, as of [`Owners::Mapped`].
    Recorded,
}

impl OpaqueMark {
    /// The full name of the attribute that an opaque directory has; the value is `y`.
    pub fn xattr(self) -> &'static str {
        match self {
            OpaqueMark::Trusted => "trusted.overlay.opaque",
            OpaqueMark::User => "user.overlay.opaque",
            OpaqueMark::Recorded => "user.builder.opaque",
        }
    }

    /// Makes what says that a path of the lower layers is removed. Nothing may stand there.
    pub fn make_whiteout(self, at: impl AsFd, name: impl Arg + Copy) -> rustix::io::Result<()> {
        if self != OpaqueMark::Recorded {
            return rustix::fs::mknodat(at, name, FileType::CharacterDevice, Mode::empty(), 0);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(at, name, flags, Mode::RUSR | Mode::WUSR)?;
        let text = owners::encode_device(Kind::CharDevice, (0, 0));
        rustix::fs::fsetxattr(&file, owners::DEVICE, text.as_bytes(), XattrFlags::empty())
    }
}
