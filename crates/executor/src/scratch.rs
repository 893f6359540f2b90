//! A small file system in memory that holds what a sandbox is built from: files to bind, device nodes, mount points.
//!
//! It is mounted over `/` of the sandbox's mount namespace: that hides nothing, because a process looks paths up from
//! its root *below* that mount, and it needs no directory of the host. The process never sees it: `pivot_root`
//! leaves it behind, together with the host's file systems.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dev, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::fault::{Context, Fault};
use crate::mount::{self, FileSystem, INERT};

/// See the module.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: OwnedFd,
    entries: u32,
}

/// A directory of the scratch space to mount something on.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) dir: OwnedFd,
}

/// A device node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub(crate) kind: FileType,
    pub(crate) device: Dev,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
}

/// A character device: name, major and minor number (Documentation/admin-guide/devices.txt).
pub(crate) type Device = (&'static str, u32, u32);

/// Those of every sandbox.
pub(crate) const DEVICES: [Device; 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Makes nodes that everybody may use; `false`, and none of them, in a user namespace, where the kernel refuses that: there the host's
/// are used, whose owner is not mapped.
pub(crate) fn make_devices(dir: &OwnedFd, devices: &[Device]) -> Result<bool, Fault> {
    for (index, (name, major, minor)) in devices.iter().enumerate() {
        let device = rustix::fs::makedev(*major, *minor);
        let all = Mode::from_raw_mode(0o666);
        match rustix::fs::mknodat(dir, *name, FileType::CharacterDevice, all, device) {
            // The umask took bits away.
            Ok(()) => rustix::fs::chmodat(dir, *name, all, AtFlags::empty())
                .context(|| format!("make the device {name}"))?,
            // A security module may refuse some of them only.
            Err(Errno::PERM) => {
                for (name, _, _) in &devices[..index] {
                    rustix::fs::unlinkat(dir, *name, AtFlags::empty())
                        .context(|| format!("remove the device {name}"))?;
                }
                return Ok(false);
            }
            Err(error) => return Err(error).context(|| format!("make the device {name}")),
        }
    }
    Ok(true)
}

impl Scratch {
    /// Mounts it. The mount namespace must be a private one already.
    pub(crate) fn mount() -> Result<Self, Fault> {
        let dir = FileSystem::open("tmpfs")?
            .set("mode", "700")?
            .set("size", "16m")?
            .mount(MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
        let root = mount::open_path("/").context(|| "open /")?;
        mount::attach(dir.as_fd(), root.as_fd()).context(|| "mount the sandbox's scratch space")?;
        rustix::fs::mkdirat(&dir, "empty", Mode::from_raw_mode(0o755))
            .context(|| "create the sandbox's scratch space")?;
        Ok(Self { dir, entries: 0 })
    }

    /// Moves it from `/` to a directory of the host, where a path leads to it.
    pub(crate) fn move_to(&self, path: &str) -> Result<(), Fault> {
        let target = mount::open_path(path).context(|| format!("open {path}"))?;
        mount::attach(self.dir.as_fd(), target.as_fd())
            .context(|| format!("move the sandbox's scratch space to {path}"))
    }

    /// A new directory of this name.
    pub(crate) fn directory(&self, name: &str) -> Result<(), Fault> {
        rustix::fs::mkdirat(&self.dir, name, Mode::from_raw_mode(0o755))
            .context(|| "create a directory in the sandbox's scratch space")
    }

    /// A new directory whose name begins like this.
    pub(crate) fn place(&mut self, name: &str) -> Result<Place, Fault> {
        let name = self.name(name);
        let describe = || "create a place in the sandbox's scratch space";
        rustix::fs::mkdirat(&self.dir, &name, Mode::from_raw_mode(0o755)).context(describe)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&self.dir, &name, flags, Mode::empty()).context(describe)?;
        Ok(Place { name, dir })
    }

    /// What a place shows now, with what is mounted on it.
    pub(crate) fn reopen(&self, name: &str) -> io::Result<OwnedFd> {
        Ok(rustix::fs::openat(&self.dir, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
    }

    fn name(&mut self, prefix: &str) -> String {
        self.entries += 1;
        format!("{prefix}{}", self.entries)
    }

    /// A detached mount of a new file.
    pub(crate) fn file(&mut self, contents: &[u8], mode: u32, uid: u32, gid: u32) -> io::Result<OwnedFd> {
        let name = self.name("file");
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&self.dir, &name, flags, Mode::from_raw_mode(0o600))?);
        file.write_all(contents)?;
        if uid != 0 || gid != 0 {
            // Each for itself: where nobody in here has such an id or can become its owner, it stays root's.
            for (uid, gid) in [(Some(Uid::from_raw(uid)), None), (None, Some(Gid::from_raw(gid)))] {
                match rustix::fs::fchown(&file, uid, gid) {
                    Ok(()) | Err(Errno::INVAL) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o7777))?;
        let mount = mount::clone_mount(self.dir.as_fd(), name, false)?;
        mount::restrict(mount.as_fd(), INERT, false)?;
        Ok(mount)
    }

    /// A detached, read-only mount of an empty directory.
    pub(crate) fn empty_directory(&self) -> io::Result<OwnedFd> {
        let mount = mount::clone_mount(self.dir.as_fd(), "empty", false)?;
        mount::restrict(mount.as_fd(), INERT | MountAttrFlags::MOUNT_ATTR_RDONLY, false)?;
        Ok(mount)
    }

    /// Makes nodes to mount, so that a sandbox cannot change the host's; see [`make_devices`].
    pub(crate) fn make_devices(&self, devices: &[Device]) -> Result<(), Fault> {
        make_devices(&self.dir, devices).map(drop)
    }

    /// A detached mount of a new node like that of the host at `path`, with its owner and permissions; the host's own
    /// where none can be made.
    pub(crate) fn host_device(&mut self, path: &Path) -> Result<OwnedFd, Fault> {
        let describe = || format!("bind the device {}", path.display());
        let found = rustix::fs::stat(path).context(describe)?;
        let kind = FileType::from_raw_mode(found.st_mode);
        if !matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
            return Err(Fault::Setup(format!("{}: it is no device", describe())));
        }
        let node =
            Node { kind, device: found.st_rdev, mode: found.st_mode, owner: (found.st_uid, found.st_gid) };
        match self.node(&node).context(describe)? {
            Some(mount) => Ok(mount),
            None => mount::clone_host(path, false).context(describe),
        }
    }

    /// A detached mount of a new node; `None` where the kernel lets nobody make nodes.
    pub(crate) fn node(&mut self, node: &Node) -> io::Result<Option<OwnedFd>> {
        let name = self.name("node");
        let mode = Mode::from_raw_mode(node.mode & 0o7777);
        match rustix::fs::mknodat(&self.dir, &name, node.kind, mode, node.device) {
            Err(Errno::PERM) => return Ok(None),
            other => other?,
        }
        let (uid, gid) = (Uid::from_raw(node.owner.0), Gid::from_raw(node.owner.1));
        rustix::fs::chownat(&self.dir, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::chmodat(&self.dir, &name, mode, AtFlags::empty())?;
        mount::clone_mount(self.dir.as_fd(), name, false).map(Some)
    }

    /// A detached mount of one of [`DEVICES`]: our own, else the host's.
    pub(crate) fn device(&self, name: &str) -> Result<OwnedFd, Fault> {
        let mount = match mount::clone_mount(self.dir.as_fd(), name, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                mount::clone_host(format!("/dev/{name}"), false)
            }
            other => other,
        };
        mount.context(|| format!("bind the device {name}"))
    }
}
