//! The process that builds the sandbox, and takes it down when the program has ended. It is the init process of the
//! pid namespace around the program's.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::process::{PidfdFlags, Signal, WaitOptions};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::control::{self, Report, Task};
use crate::fault::{Context, Fault, reason};
use crate::guard::release_streams;
use crate::mount::{self, FileSystem};
use crate::scratch::Scratch;
use crate::stubs::{Kind, Stubs, lexical};
use crate::{ExitStatus, Mount, MountKind, Network, ProcessSpec, program, rootfs, sys, system};

/// Everything that the program's process needs to enter the sandbox.
pub(crate) struct World {
    /// The root file system, with everything but `/proc` mounted.
    pub(crate) root: OwnedFd,
    /// Where `/proc` goes: it must be mounted from inside the program's pid namespace.
    pub(crate) proc: OwnedFd,
    pub(crate) scratch: Scratch,
    pub(crate) stubs: Stubs,
}

/// Runs a task and reports; returns the exit code of this process.
pub(crate) fn run(task: &Task, control: &OwnedFd, stdin: Option<&OwnedFd>, guard: &OwnedFd) -> i32 {
    if !follow(guard) {
        return 1;
    }
    match keep(task, control, stdin) {
        Ok(status) => {
            control::report(control.as_fd(), &Report::Exited(status), None);
            0
        }
        Err(fault) => {
            control::report(control.as_fd(), &Report::Fault(fault), None);
            1
        }
    }
}

/// Has this process killed when the guard dies; `false` when it already has.
fn follow(guard: &OwnedFd) -> bool {
    if rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).is_err() {
        return false;
    }
    let mut events = [PollFd::new(guard, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut events, Some(&now)), Ok(0))
}

fn keep(task: &Task, control: &OwnedFd, stdin: Option<&OwnedFd>) -> Result<ExitStatus, Fault> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let home =
        rustix::fs::open("/proc/self/ns/mnt", flags, Mode::empty()).context(|| "open the mount namespace")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    separate(UnshareFlags::NEWNS, "mount")?;
    separate(UnshareFlags::NEWIPC, "ipc")?;
    separate(UnshareFlags::NEWUTS, "host name")?;
    separate(UnshareFlags::NEWCGROUP, "cgroup")?;
    if task.spec.network == Network::None {
        separate(UnshareFlags::NEWNET, "network")?;
        start_loopback()?;
    }
    rustix::system::sethostname(task.spec.hostname.as_bytes()).context(|| "set the host name")?;
    let mut world = World::open(&task.spec)?;
    let result = world.furnish(&task.spec).and_then(|()| run_program(task, &world, control, stdin));
    let cleaned = clean_up(world, &home);
    let status = result?;
    cleaned?;
    Ok(status)
}

/// Runs the program to its end.
fn run_program(
    task: &Task,
    world: &World,
    control: &OwnedFd,
    stdin: Option<&OwnedFd>,
) -> Result<ExitStatus, Fault> {
    separate(UnshareFlags::NEWPID, "process")?;
    let program = sys::fork(|| program::run(task, world, control.as_fd(), stdin))
        .context(|| "start the sandbox's process")?;
    let watched = rustix::process::pidfd_open(program, PidfdFlags::empty()).context(|| "open the process")?;
    control::report(control.as_fd(), &Report::Started, Some(watched.as_fd()));
    release_streams(control);

    // It is the init process of its pid namespace: once it is reaped, nothing in there is left.
    let ended = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(program), WaitOptions::empty()))
        .context(|| "wait for the process")?;
    let status = ended.map(|(_, status)| status);
    let signal = status.and_then(|status| status.terminating_signal()).map(ExitStatus::Signal);
    let code = status.and_then(|status| status.exit_status()).map(ExitStatus::Code);
    signal.or(code).ok_or_else(|| Fault::Setup("the process ended in no known way".to_owned()))
}

/// Moves this process (or its future children, for pid namespaces) to a new namespace.
pub(crate) fn separate(namespace: UnshareFlags, name: &str) -> Result<(), Fault> {
    sys::unshare(namespace).map_err(|error| {
        let reason = reason(&error);
        let text = match Errno::from_io_error(&error).unwrap_or(Errno::IO) {
            Errno::PERM => format!("create a {name} namespace: {reason} (CAP_SYS_ADMIN is needed)"),
            Errno::NOSPC => {
                format!("create a {name} namespace: a limit in /proc/sys/user/max_*_namespaces is reached")
            }
            Errno::INVAL => format!("create a {name} namespace: this kernel has none"),
            _ => format!("create a {name} namespace: {reason}"),
        };
        Fault::Unsupported(text)
    })
}

fn start_loopback() -> Result<(), Fault> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .context(|| "open a socket")?;
    sys::loopback_up(socket.as_fd()).context(|| "start the loopback device")
}

impl World {
    /// Mounts the root file system.
    fn open(spec: &ProcessSpec) -> Result<Self, Fault> {
        mount::make_all_private()?;
        let scratch = Scratch::mount()?;
        let rootfs::Root { dir: root, upper } = rootfs::mount(&spec.rootfs, &scratch)?;
        let own = rustix::io::fcntl_dupfd_cloexec(&root, 3).context(|| "open the root file system")?;
        let mut stubs = Stubs::new(own, upper)?;
        let proc = stubs.system_target(Path::new("/proc"))?;
        Ok(Self { root, proc, scratch, stubs })
    }

    /// Mounts everything in it but `/proc`.
    fn furnish(&mut self, spec: &ProcessSpec) -> Result<(), Fault> {
        let Self { scratch, stubs, .. } = self;
        system::mount_dev(stubs, scratch, spec.shm_size)?;
        system::mount_sys(stubs)?;
        for (path, contents) in [("/etc/hosts", &spec.hosts), ("/etc/resolv.conf", &spec.resolv_conf)] {
            let Some(contents) = contents else { continue };
            let contents = contents.clone().into_bytes();
            let kind = MountKind::File { contents, mode: 0o644, uid: 0, gid: 0 };
            add(&Mount { target: path.into(), kind, read_only: true }, stubs, scratch)?;
        }
        for mount in &spec.mounts {
            add(mount, stubs, scratch)?;
        }
        stubs.seal()
    }
}

/// Makes one further mount.
fn add(mount: &Mount, stubs: &mut Stubs, scratch: &mut Scratch) -> Result<(), Fault> {
    let target = mount.target.as_path();
    let describe = || format!("mount {}", target.display());
    // /proc is mounted later than this, from inside; over the root nothing of it would be left.
    if lexical(target).first().is_none_or(|first| first == "proc") {
        return Err(Fault::Setup(format!("{}: nothing can be mounted there", describe())));
    }
    let mut flags = MountAttrFlags::MOUNT_ATTR_NODEV;
    flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, mount.read_only);
    let made = match &mount.kind {
        MountKind::Bind { source } => {
            let describe = || format!("bind {} to {}", source.display(), target.display());
            let made = mount::clone_host(source.as_path(), false).context(describe)?;
            mount::restrict(made.as_fd(), flags, false).context(describe)?;
            made
        }
        MountKind::Tmpfs { size, mode } => {
            let file_system = FileSystem::open("tmpfs")?;
            file_system.set("mode", format!("{mode:o}").as_str())?;
            if let Some(size) = size {
                file_system.set("size", size.to_string().as_str())?;
            }
            file_system.mount(flags | MountAttrFlags::MOUNT_ATTR_NOSUID)?
        }
        MountKind::File { contents, mode, uid, gid } => {
            let made = scratch.file(contents, *mode, *uid, *gid).context(describe)?;
            mount::restrict(made.as_fd(), flags, false).context(describe)?;
            made
        }
    };
    let kind =
        if mount::is_directory(made.as_fd()).context(describe)? { Kind::Directory } else { Kind::File };
    let place = stubs.target(target, kind)?;
    mount::attach(made.as_fd(), place.as_fd()).context(describe)
}

/// Leaves the sandbox's mounts, which end with that, and removes what was made for them.
fn clean_up(world: World, home: &OwnedFd) -> Result<(), Fault> {
    let World { root, proc, scratch, stubs } = world;
    rustix::thread::move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Mount))
        .context(|| "leave the sandbox's mount namespace")?;
    drop((root, proc, scratch));
    stubs.remove()
}
