//! Mounts as file descriptors: made detached, adjusted, then attached.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use rustix::path::Arg;

use crate::fault::{Context, Fault, reason};
use crate::sys::{MountChange, mount_setattr};

/// Flags of mounts in which there is nothing to execute and no device.
pub(crate) const INERT: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// A file system that is being configured (fsopen(2)).
#[derive(Debug)]
pub(crate) struct FileSystem {
    context: OwnedFd,
    kind: &'static str,
}

/// Why a file system was refused, with the number so that callers can fall back.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) errno: Errno,
    pub(crate) text: String,
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        Self::Setup(refused.text)
    }
}

impl FileSystem {
    pub(crate) fn open(kind: &'static str) -> Result<Self, Refused> {
        match fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC) {
            Ok(context) => Ok(Self { context, kind }),
            Err(errno) => {
                Err(Refused { errno, text: format!("open file system {kind}: {}", reason(&errno.into())) })
            }
        }
    }

    /// Sets an option with a value.
    pub(crate) fn set<V: Arg + Copy>(&self, key: &str, value: V) -> Result<&Self, Refused> {
        fsconfig_set_string(self.context.as_fd(), key, value).map_err(|errno| {
            let value = value.to_string_lossy();
            self.refused(errno, format_args!("set {key}={value} of"))
        })?;
        Ok(self)
    }

    /// Sets an option that has none.
    pub(crate) fn flag(&self, key: &str) -> Result<&Self, Refused> {
        fsconfig_set_flag(self.context.as_fd(), key)
            .map_err(|errno| self.refused(errno, format_args!("set {key} of")))?;
        Ok(self)
    }

    /// Creates it, as a mount that is attached nowhere.
    pub(crate) fn mount(&self, flags: MountAttrFlags) -> Result<OwnedFd, Refused> {
        fsconfig_create(self.context.as_fd())
            .and_then(|()| fsmount(self.context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags))
            .map_err(|errno| self.refused(errno, "mount"))
    }

    /// An error with what the kernel wrote to the context's log.
    fn refused(&self, errno: Errno, action: impl Display) -> Refused {
        let mut text = format!("{action} file system {}: {}", self.kind, reason(&errno.into()));
        let mut line = [0; 1024];
        while let Ok(length @ 1..) = rustix::io::read(self.context.as_fd(), &mut line) {
            let message = String::from_utf8_lossy(&line[..length]);
            text.push_str(" (");
            text.push_str(message.trim_start_matches(['e', 'w', 'i', ' ']).trim_end());
            text.push(')');
        }
        Refused { errno, text }
    }
}

/// Copies the mount at a path, attached nowhere.
pub(crate) fn clone_mount(dir: BorrowedFd<'_>, path: impl Arg, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    flags |= OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(dir, path, flags)?)
}

/// [`clone_mount`] of a path of the host.
pub(crate) fn clone_host(path: impl Arg, recursive: bool) -> io::Result<OwnedFd> {
    clone_mount(CWD, path, recursive)
}

/// Adds flags to a mount.
pub(crate) fn restrict(mount: BorrowedFd<'_>, flags: MountAttrFlags, recursive: bool) -> io::Result<()> {
    mount_setattr(mount, MountChange { set: flags.bits().into(), recursive, ..MountChange::default() })
}

/// Attaches a detached mount on what `target` refers to.
pub(crate) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}

/// Makes every mount of this namespace private: nothing that is mounted here is seen outside.
pub(crate) fn make_all_private() -> Result<(), Fault> {
    let root = open_path("/").context(|| "open /")?;
    let change = MountChange { propagation: libc::MS_PRIVATE, recursive: true, ..MountChange::default() };
    mount_setattr(root.as_fd(), change).context(|| "make the mounts private")
}

/// Opens a host path as a mere reference.
pub(crate) fn open_path(path: impl Arg) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// Whether a reference is to a directory.
pub(crate) fn is_directory(file: BorrowedFd<'_>) -> io::Result<bool> {
    let stat = rustix::fs::statat(file, "", AtFlags::EMPTY_PATH)?;
    Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
}
