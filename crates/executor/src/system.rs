//! `/dev`, `/sys` and `/proc` of a sandbox, as Docker has them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::fault::{Context, Fault, reason};
use crate::mount::{self, FileSystem, INERT, Refused};
use crate::scratch::{DEVICES, Node, Scratch, make_devices};
use crate::stubs::Stubs;

/// Hidden: an empty directory or `/dev/null` lies over each (Moby's `oci/defaults.go`).
pub(crate) const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Read-only (likewise).
pub(crate) const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Links in `/dev`.
const LINKS: [(&str, &str); 6] = [
    ("core", "/proc/kcore"),
    ("fd", "/proc/self/fd"),
    ("ptmx", "pts/ptmx"),
    ("stderr", "/proc/self/fd/2"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
];

/// Further character devices of insecure steps (BuildKit's `util/entitlements/security`).
const PRIVILEGED: [(&str, (u32, u32)); 6] = [
    ("kmsg", (1, 11)),
    ("cuse", (10, 203)),
    ("fuse", (10, 229)),
    ("kvm", (10, 232)),
    ("net/tun", (10, 200)),
    ("loop-control", (10, 237)),
];

/// `CGROUP2_SUPER_MAGIC` of linux/magic.h.
pub(crate) const CGROUP2: i64 = 0x6367_7270;

/// 64 MiB, Docker's.
const DEFAULT_SHM: u64 = 64 << 20;

/// `/dev` as far as others need it.
pub(crate) struct Dev {
    dir: OwnedFd,
    terminals: OwnedFd,
}

/// Mounts `/dev` with its nodes, links and file systems. `flags` say whether new nodes made in it work.
pub(crate) fn mount_dev(
    stubs: &mut Stubs,
    scratch: &Scratch,
    shm_size: Option<u64>,
    flags: MountAttrFlags,
) -> Result<Dev, Fault> {
    let target = stubs.system_target(Path::new("/dev"))?;
    let flags = flags | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    let dev = FileSystem::open("tmpfs")?.set("mode", "755")?.set("size", "64m")?.mount(flags)?;
    mount::attach(dev.as_fd(), target.as_fd()).context(|| "mount /dev")?;
    // As runc: nodes of its own. Where a mount must not have any, or nobody can make them, each is mounted.
    let has_nodes = !flags.contains(MountAttrFlags::MOUNT_ATTR_NODEV) && make_devices(&dev, &DEVICES)?;
    let mounted = if has_nodes { &DEVICES[..0] } else { &DEVICES[..] };
    scratch.make_devices(if has_nodes { &DEVICES[..1] } else { &DEVICES[..] })?;
    for &(name, _, _) in mounted {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        drop(
            rustix::fs::openat(&dev, name, flags, Mode::from_raw_mode(0o666))
                .context(|| format!("make /dev/{name}"))?,
        );
        attach_in(&dev, name, &scratch.device(name)?)?;
    }
    // As runc: only where it leads somewhere.
    let links = LINKS.iter().filter(|(name, target)| *name != "core" || Path::new(target).exists());
    for (name, target) in links {
        rustix::fs::symlinkat(*target, &dev, *name).context(|| format!("make /dev/{name}"))?;
    }
    for name in ["mqueue", "pts", "shm"] {
        rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755))
            .context(|| format!("make /dev/{name}"))?;
    }
    let terminals = devpts()?;
    attach_in(&dev, "pts", &terminals)?;
    let size = shm_size.unwrap_or(DEFAULT_SHM).to_string();
    let shm = FileSystem::open("tmpfs")?.set("mode", "1777")?.set("size", size.as_str())?.mount(INERT)?;
    attach_in(&dev, "shm", &shm)?;
    // A kernel may be built without message queues.
    match FileSystem::open("mqueue").and_then(|queues| queues.mount(INERT)) {
        Ok(queues) => attach_in(&dev, "mqueue", &queues)?,
        Err(Refused { errno: Errno::NODEV, .. }) => {}
        Err(refused) => return Err(refused.into()),
    }
    Ok(Dev { dir: dev, terminals })
}

/// Both ends of a terminal.
pub(crate) struct Terminal {
    pub(crate) controller: OwnedFd,
    pub(crate) user: OwnedFd,
}

impl Dev {
    /// Makes a terminal, which is `/dev/console` too.
    pub(crate) fn terminal(&self, (rows, columns): (u16, u16)) -> Result<Terminal, Fault> {
        let describe = || "open a terminal";
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let controller =
            rustix::fs::openat(&self.terminals, "ptmx", flags, Mode::empty()).context(describe)?;
        rustix::pty::unlockpt(&controller).context(describe)?;
        let open = rustix::pty::OpenptFlags::RDWR
            | rustix::pty::OpenptFlags::NOCTTY
            | rustix::pty::OpenptFlags::CLOEXEC;
        let user = rustix::pty::ioctl_tiocgptpeer(&controller, open).context(describe)?;
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&controller, size).context(describe)?;
        // It is the first of a new file system.
        let bound = mount::clone_mount(self.terminals.as_fd(), "0", false).context(describe)?;
        self.file("console")?;
        attach_in(&self.dir, "console", &bound)?;
        Ok(Terminal { controller, user })
    }

    fn file(&self, name: &str) -> Result<(), Fault> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&self.dir, name, flags, Mode::from_raw_mode(0o666));
        made.map(drop).context(|| format!("make /dev/{name}"))
    }

    /// Adds the devices that BuildKit gives to insecure steps.
    pub(crate) fn add_privileged(&self, scratch: &mut Scratch) -> Result<(), Fault> {
        let loops = std::fs::read_dir("/sys/block").map_or(0, |names| {
            let numbers = names.filter_map(|name| {
                name.ok()?.file_name().to_str()?.strip_prefix("loop")?.parse::<u32>().ok()
            });
            numbers.max().map_or(0, |last| last + 1)
        });
        let characters =
            PRIVILEGED.iter().map(|&(name, number)| (name.to_owned(), FileType::CharacterDevice, number));
        let blocks = (0..loops + 8).map(|index| (format!("loop{index}"), FileType::BlockDevice, (7, index)));
        rustix::fs::mkdirat(&self.dir, "net", Mode::from_raw_mode(0o755)).context(|| "make /dev/net")?;
        for (name, kind, (major, minor)) in characters.chain(blocks) {
            let device = rustix::fs::makedev(major, minor);
            let node = Node { kind, device, mode: 0o666, owner: (0, 0) };
            let Some(mount) = scratch.node(&node).context(|| format!("make the device {name}"))? else {
                // In a user namespace; BuildKit gives none there.
                return Ok(());
            };
            self.file(&name)?;
            attach_in(&self.dir, &name, &mount)?;
        }
        Ok(())
    }
}

fn attach_in(dir: &OwnedFd, name: &str, mount: &OwnedFd) -> Result<(), Fault> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
        .map_err(std::io::Error::from)
        .and_then(|target| mount::attach(mount.as_fd(), target.as_fd()))
        .context(|| format!("mount /dev/{name}"))
}

/// Terminals. Group 5 is `tty` everywhere; a user namespace may lack it.
fn devpts() -> Result<OwnedFd, Refused> {
    let configured = |gid: Option<&str>| {
        let file_system = FileSystem::open("devpts")?;
        file_system.flag("newinstance")?.set("ptmxmode", "0666")?.set("mode", "0620")?;
        if let Some(gid) = gid {
            file_system.set("gid", gid)?;
        }
        file_system.mount(MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC)
    };
    configured(Some("5")).or_else(|_| configured(None))
}

/// Mounts `/sys`. It shows the devices of the network namespace that it is mounted in; who does not own
/// that one (a user namespace with the host's network) gets a copy of the host's mount.
pub(crate) fn mount_sys(stubs: &mut Stubs, writable: bool) -> Result<(), Fault> {
    let target = stubs.system_target(Path::new("/sys"))?;
    let mut flags = INERT;
    flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, !writable);
    match FileSystem::open("sysfs").and_then(|sysfs| sysfs.mount(flags)) {
        Ok(sysfs) => mount::attach(sysfs.as_fd(), target.as_fd()).context(|| "mount /sys"),
        Err(Refused { errno: Errno::PERM | Errno::ACCESS, .. }) => {
            let sysfs = mount::clone_host("/sys", true).context(|| "bind /sys")?;
            mount::restrict(sysfs.as_fd(), flags, true).context(|| "restrict /sys")?;
            mount::attach(sysfs.as_fd(), target.as_fd()).context(|| "bind /sys")
        }
        Err(refused) => Err(refused.into()),
    }
}

/// The process's own cgroup, where the machine has the unified hierarchy: programs read their limits
/// there. Without it they do without, so a failure is none.
pub(crate) fn mount_cgroup(stubs: &Stubs, writable: bool) {
    const PLACE: &str = "/sys/fs/cgroup";
    let unified = rustix::fs::statfs(PLACE).is_ok_and(|found| found.f_type == CGROUP2);
    if !unified {
        return;
    }
    let Ok(target) = stubs.find(Path::new(PLACE), ResolveFlags::NO_SYMLINKS) else { return };
    let mut flags = INERT;
    flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, !writable);
    if let Ok(cgroup) = FileSystem::open("cgroup2").and_then(|cgroup| cgroup.mount(flags)) {
        let _optional = mount::attach(cgroup.as_fd(), target.as_fd());
    }
}

/// Mounts `/proc` of the pid namespace of the calling process, on `target`. Returns a note when that is not possible
/// and the host's had to do, which only an insecure step may write to: there are files of the user's other processes in it, such as how
/// likely the kernel kills them for want of memory, for which being that user is enough.
pub(crate) fn mount_proc(target: BorrowedFd<'_>, insecure: bool) -> Result<Option<String>, Fault> {
    match FileSystem::open("proc").and_then(|proc| proc.mount(INERT)) {
        Ok(proc) => {
            mount::attach(proc.as_fd(), target).context(|| "mount /proc")?;
            Ok(None)
        }
        Err(Refused { errno: Errno::PERM | Errno::ACCESS, .. }) => {
            let proc = mount::clone_host("/proc", true).context(|| "bind /proc")?;
            let mut flags = INERT;
            flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, !insecure);
            mount::restrict(proc.as_fd(), flags, true).context(|| "restrict /proc")?;
            mount::attach(proc.as_fd(), target).context(|| "bind /proc")?;
            let note = "this machine hides parts of /proc, so that no new one can be mounted: steps see the \
                        processes outside of the sandbox in /proc, and steps that run at the same time are not shielded \
                        from each other";
            Ok(Some(note.to_owned()))
        }
        Err(refused) => Err(refused.into()),
    }
}

/// Hides and protects the parts of `/proc` and `/sys` that concern the whole machine.
pub(crate) fn protect(stubs: &Stubs, scratch: &Scratch) -> Result<(), Fault> {
    for path in MASKED {
        let describe = || format!("hide {path}");
        let Some(target) = existing(stubs, path).context(describe)? else { continue };
        let cover = if mount::is_directory(target.as_fd()).context(describe)? {
            scratch.empty_directory().context(describe)?
        } else {
            scratch.device("null")?
        };
        mount::attach(cover.as_fd(), target.as_fd()).context(describe)?;
    }
    for path in READ_ONLY {
        let describe = || format!("make {path} read-only");
        let Some(target) = existing(stubs, path).context(describe)? else { continue };
        let copy = mount::clone_mount(target.as_fd(), "", true).context(describe)?;
        mount::restrict(copy.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, true).context(describe)?;
        mount::attach(copy.as_fd(), target.as_fd()).context(describe)?;
    }
    Ok(())
}

/// A path that this kernel may lack.
fn existing(stubs: &Stubs, path: &str) -> std::io::Result<Option<OwnedFd>> {
    match stubs.find(Path::new(path), ResolveFlags::NO_SYMLINKS) {
        Ok(target) => Ok(Some(target)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(std::io::Error::other(reason(&error.into()))),
    }
}
