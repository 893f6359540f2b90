//! The process that builds the sandbox, and takes it down when the program has ended. It is the init process of the
//! pid namespace around the program's.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::process::{PidfdFlags, Signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::control::{self, Handed, Report, Task};
use crate::fault::{Context, Fault, reason};
use crate::guard::release_streams;
use crate::mount::{self, FileSystem};
use crate::outcome::Ended;
use crate::scratch::Scratch;
use crate::stubs::{Kind, Stubs, lexical};
use crate::times::Clock;
use crate::{
    HostDevice, Mount, MountKind, Network, ProcessSpec, Security, Stdio, external, owners, program, rootfs,
    sys, system,
};

/// Rows and columns of a terminal whose size nobody knows.
const USUAL_SIZE: (u16, u16) = (24, 80);

/// Everything that the program's process needs to enter the sandbox.
pub(crate) struct World {
    /// The root file system, with everything but `/proc` mounted.
    pub(crate) root: OwnedFd,
    /// Where `/proc` goes: it must be mounted from inside the program's pid namespace.
    pub(crate) proc: OwnedFd,
    pub(crate) scratch: Scratch,
    pub(crate) stubs: Stubs,
    /// The process's end of its terminal.
    pub(crate) terminal: Option<OwnedFd>,
    /// Flags of mounts in which there may be device nodes.
    nodes: MountAttrFlags,
    /// Whether there is a single id.
    pub(crate) records_owners: bool,
}

/// The descriptors that come with a task.
pub(crate) struct Given {
    /// The caller's standard input, where it is inherited.
    pub(crate) stdin: Option<OwnedFd>,
    /// The other streams, unless the process gets a terminal.
    pub(crate) stdout: Option<OwnedFd>,
    /// Likewise.
    pub(crate) stderr: Option<OwnedFd>,
    /// The network namespace, where it is a private one.
    pub(crate) network: Option<OwnedFd>,
    /// Where the program's process enters its control groups.
    pub(crate) groups: Vec<OwnedFd>,
    /// Whether these groups decide which devices can be used.
    pub(crate) devices: bool,
    /// The groups by the name that an OCI runtime takes, where it makes the process and there are any.
    pub(crate) cgroup: Option<String>,
}

/// Waits for a step, which comes over the socket `told`, runs it, and reports; returns the exit code of this process.
pub(crate) fn run(told: &OwnedFd, control: &OwnedFd, guard: &OwnedFd) -> i32 {
    if !follow(guard) {
        return 1;
    }
    let run = || {
        let packet = control::receive(told.as_fd()).context(|| "hear from the guard")?;
        let (packet, descriptors) = packet.unwrap_or_default();
        let (task, mut given) = Given::of(&packet, descriptors)?;
        let task = Task::read(task).context(|| "read the task")?;
        given.take_streams()?;
        keep(&task, control, &given)
    };
    match run() {
        Ok(ended) => {
            control::report(control.as_fd(), &Report::Exited(ended), None);
            0
        }
        Err(fault) => {
            control::report(control.as_fd(), &Report::Fault(fault), None);
            1
        }
    }
}

/// Has this process killed when the guard dies; `false` when it already has.
pub(crate) fn follow(guard: &OwnedFd) -> bool {
    if rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).is_err() {
        return false;
    }
    let mut events = [PollFd::new(guard, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut events, Some(&now)), Ok(0))
}

fn keep(task: &Task, control: &OwnedFd, given: &Given) -> Result<Ended, Fault> {
    let mut clock = Clock::start(task.spec.timed)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let home =
        rustix::fs::open("/proc/self/ns/mnt", flags, Mode::empty()).context(|| "open the mount namespace")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    separate_all(&[
        (UnshareFlags::NEWNS, "mount"),
        (UnshareFlags::NEWIPC, "ipc"),
        (UnshareFlags::NEWUTS, "host name"),
    ])?;
    match (task.spec.network, &given.network) {
        (Network::Host, _) => {}
        (Network::None, _) => {
            separate(UnshareFlags::NEWNET, "network")?;
            start_loopback()?;
        }
        (Network::Private, Some(network)) => {
            rustix::thread::move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
                .context(|| "enter the private network")?;
        }
        (Network::Private, None) => {
            return Err(Fault::Setup("enter the private network: there is none".to_owned()));
        }
    }
    match rustix::system::sethostname(task.spec.hostname.as_bytes()) {
        // The filter of a container may allow namespaces and not this.
        Err(Errno::PERM) if !task.spec.needs_hostname => {
            let note =
                "the host name cannot be set here: steps have that of the machine or container around them";
            control::report(control.as_fd(), &Report::Note(note.to_owned()), None);
        }
        other => other.context(|| "set the host name")?,
    }
    clock.lap(|times| &mut times.namespaces);
    let mut world = World::open(&task.spec, given.devices)?;
    let result = world.furnish(&task.spec, control).and_then(|()| {
        clock.lap(|times| &mut times.mounts);
        match &task.spec.external {
            Some(external) => external::run(task, external, &mut world, control, given, &mut clock),
            None => run_program(task, &world, control, given, &mut clock),
        }
    });
    clock.resume();
    let cleaned = clean_up(world, &home);
    clock.lap(|times| &mut times.unmount);
    let ended = result?;
    cleaned?;
    clock.report(control);
    Ok(ended)
}

/// Runs the program to its end.
fn run_program(
    task: &Task,
    world: &World,
    control: &OwnedFd,
    given: &Given,
    clock: &mut Clock,
) -> Result<Ended, Fault> {
    // In a privileged step chown may fail: it is to see things as they are.
    let recorder = match task.spec.security {
        Security::Default if world.records_owners => owners::Recorder::new(),
        _ => None,
    };
    let (calls, hand_over) = match &recorder {
        Some(_) => control::channel().map(|(ours, theirs)| (Some(ours), Some(theirs))),
        None => Ok((None, None)),
    }
    .context(|| "create a socket")?;
    let program = sys::fork_init(|| program::run(task, world, control.as_fd(), given, hand_over, clock))
        .map_err(|error| inseparable("process", &error))?;
    clock.lap(|times| &mut times.process);
    let watched = rustix::process::pidfd_open(program, PidfdFlags::empty()).context(|| "open the process")?;
    control::report(control.as_fd(), &Report::Started, Some(watched.as_fd()));
    release_streams(control);
    if let (Some(recorder), Some(calls)) = (&recorder, calls)
        && let Some((_, descriptors)) = control::receive(calls.as_fd()).context(|| "hear from the process")?
        && let Some(calls) = descriptors.first()
        && let Some(lost) = recorder.attend(calls, watched.as_fd())?
    {
        control::report(control.as_fd(), &Report::Note(lost.to_owned()), None);
    }

    // Its mount goes with this process: by itself it would take the kernel a grace period.
    std::mem::forget(recorder);

    // It is the init process of its pid namespace: once it is reaped, nothing in there is left.
    sys::wait(program).context(|| "wait for the process")
}

/// Moves this process (or its future children, for pid namespaces) to a new namespace.
pub(crate) fn separate(namespace: UnshareFlags, name: &str) -> Result<(), Fault> {
    sys::unshare(namespace).map_err(|error| inseparable(name, &error))
}

/// As [`separate`], for several at once, which costs the kernel hardly more than one.
fn separate_all(namespaces: &[(UnshareFlags, &str)]) -> Result<(), Fault> {
    let all = namespaces.iter().fold(UnshareFlags::empty(), |all, (one, _)| all | *one);
    match sys::unshare(all) {
        Ok(()) => Ok(()),
        // Which of them it is.
        Err(_) => namespaces.iter().try_for_each(|(one, name)| separate(*one, name)),
    }
}

/// Why a namespace cannot be made.
pub(crate) fn inseparable(name: &str, error: &std::io::Error) -> Fault {
    let reason = reason(error);
    let text = match Errno::from_io_error(error).unwrap_or(Errno::IO) {
        Errno::PERM => format!("create a {name} namespace: {reason} (CAP_SYS_ADMIN is needed)"),
        Errno::NOSPC => {
            format!("create a {name} namespace: a limit in /proc/sys/user/max_*_namespaces is reached")
        }
        Errno::INVAL => format!("create a {name} namespace: this kernel has none"),
        _ => format!("create a {name} namespace: {reason}"),
    };
    Fault::Unsupported(text)
}

pub(crate) fn start_loopback() -> Result<(), Fault> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .context(|| "open a socket")?;
    sys::loopback_up(socket.as_fd()).context(|| "start the loopback device")
}

impl Given {
    /// Takes apart what the guard has sent: the task, and this.
    fn of(packet: &[u8], descriptors: Vec<OwnedFd>) -> Result<(OwnedFd, Self), Fault> {
        let handed: Handed = serde_json::from_slice(packet)
            .map_err(std::io::Error::from)
            .context(|| "understand the guard")?;
        let mut descriptors = descriptors.into_iter();
        let mut expect = |expected: bool| if expected { descriptors.next() } else { None };
        let task = expect(true);
        let has_streams = handed.stdio != Stdio::Terminal;
        let given = Self {
            stdin: expect(handed.stdio == Stdio::Inherit),
            stdout: expect(has_streams),
            stderr: expect(has_streams),
            network: expect(handed.network == Network::Private),
            groups: descriptors.collect(),
            devices: handed.devices,
            cgroup: handed.cgroup,
        };
        match task {
            Some(task) if given.groups.len() == handed.groups => Ok((task, given)),
            _ => Err(Fault::Setup("a descriptor of the step is missing".to_owned())),
        }
    }

    /// Makes the streams those of this process, from which they are inherited.
    fn take_streams(&mut self) -> Result<(), Fault> {
        if let Some(stdout) = self.stdout.take() {
            rustix::stdio::dup2_stdout(stdout).context(|| "set standard output")?;
        }
        if let Some(stderr) = self.stderr.take() {
            rustix::stdio::dup2_stderr(stderr).context(|| "set standard error")?;
        }
        Ok(())
    }
}

impl World {
    /// Mounts the root file system.
    fn open(spec: &ProcessSpec, devices: bool) -> Result<Self, Fault> {
        mount::make_all_private()?;
        let mut scratch = Scratch::mount()?;
        let nodes = node_flags(spec, devices);
        let rootfs::Root { dir: root, upper } = rootfs::mount(&spec.rootfs, &mut scratch, nodes)?;
        let own = rustix::io::fcntl_dupfd_cloexec(&root, 3).context(|| "open the root file system")?;
        let mut stubs = Stubs::new(own, upper)?;
        let proc = stubs.system_target(Path::new("/proc"))?;
        let records_owners = owners::are_recorded();
        Ok(Self { root, proc, scratch, stubs, terminal: None, nodes, records_owners })
    }

    /// Mounts everything in it but `/proc`.
    fn furnish(&mut self, spec: &ProcessSpec, control: &OwnedFd) -> Result<(), Fault> {
        let Self { scratch, stubs, nodes, records_owners, .. } = self;
        let insecure = spec.security == Security::Insecure;
        let dev = system::mount_dev(stubs, scratch, spec.shm_size, *nodes)?;
        if insecure {
            dev.add_privileged(scratch)?;
        }
        if spec.stdio == Stdio::Terminal {
            let terminal = dev.terminal(spec.terminal_size.unwrap_or(USUAL_SIZE))?;
            control::report(control.as_fd(), &Report::Terminal, Some(terminal.controller.as_fd()));
            self.terminal = Some(terminal.user);
        }
        system::mount_sys(stubs, insecure)?;
        for device in &spec.devices {
            add_device(device, stubs, scratch)?;
        }
        let apt = Path::new(APT_SETTINGS).parent();
        let has_apt = || apt.is_some_and(|dir| stubs.find(dir, ResolveFlags::empty()).is_ok());
        let is_told = *records_owners && has_apt();
        for (path, contents) in [
            ("/etc/hosts", spec.hosts.as_deref()),
            ("/etc/resolv.conf", spec.resolv_conf.as_ref().map(|file| file.text.as_str())),
            (APT_SETTINGS, is_told.then_some("APT::Sandbox::User \"root\";\n")),
        ] {
            let Some(contents) = contents else { continue };
            let kind = MountKind::File { contents: contents.into(), mode: 0o644, uid: 0, gid: 0 };
            add(&Mount { target: path.into(), kind, read_only: true }, stubs, scratch, *nodes)?;
        }
        for mount in &spec.mounts {
            add(mount, stubs, scratch, *nodes)?;
        }
        stubs.seal()
    }
}

/// Where there is a single id, `apt-get` must not become the user that it downloads as. Other settings of the image come after this one.
const APT_SETTINGS: &str = "/etc/apt/apt.conf.d/00builder-single-id";

/// A process may call mknod. Unless its control group decides which devices can be used, nothing but these flags stops
/// it from reaching the machine's disks.
fn node_flags(spec: &ProcessSpec, guarded: bool) -> MountAttrFlags {
    if guarded || spec.security == Security::Insecure {
        MountAttrFlags::empty()
    } else {
        MountAttrFlags::MOUNT_ATTR_NODEV
    }
}

/// Makes a device of the machine usable.
fn add_device(device: &HostDevice, stubs: &mut Stubs, scratch: &mut Scratch) -> Result<(), Fault> {
    let describe = || format!("add the device {}", device.target.display());
    refuse_proc(&device.target)?;
    let node = scratch.host_device(&device.path)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    mount::restrict(node.as_fd(), flags, false).context(describe)?;
    let place = stubs.target(&device.target, Kind::File)?;
    mount::attach(node.as_fd(), place.as_fd()).context(describe)
}

/// `/proc` is mounted later than everything else, from inside; over the root nothing of it would be left.
fn refuse_proc(target: &Path) -> Result<(), Fault> {
    let path = lexical(target);
    let refused = match path.first() {
        None => true,
        Some(first) => first == "proc" || (first == "dev" && path.len() == 1),
    };
    if refused {
        return Err(Fault::Target(format!("mount {}: nothing can be mounted there", target.display())));
    }
    Ok(())
}

/// Mode of a tmpfs where nothing was before, as runc has it.
const NEW_TMPFS: u32 = 0o1777;

/// The permission bits of what is at a mount's target, unless an earlier sandbox may have made and left it.
fn existing_mode(target: &Path, stubs: &Stubs) -> Option<u32> {
    let found = stubs.find(target, ResolveFlags::empty()).ok()?;
    if stubs.is_left(found.as_fd()).unwrap_or(false) {
        return None;
    }
    rustix::fs::fstat(found).ok().map(|stat| stat.st_mode & 0o7777)
}

/// Makes one further mount.
fn add(mount: &Mount, stubs: &mut Stubs, scratch: &mut Scratch, nodes: MountAttrFlags) -> Result<(), Fault> {
    let target = mount.target.as_path();
    let describe = || format!("mount {}", target.display());
    refuse_proc(target)?;
    let mut flags = nodes;
    flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, mount.read_only);
    let made = match &mount.kind {
        MountKind::Bind { source } => {
            let describe = || format!("bind {} to {}", source.display(), target.display());
            let made = mount::clone_host(source.as_path(), false).context(describe)?;
            mount::restrict(made.as_fd(), flags, false).context(describe)?;
            made
        }
        MountKind::Layers { lower, writable, userxattr, path } => {
            let tree = rootfs::mount_layers(lower, writable.as_ref(), *userxattr, scratch, nodes)?;
            let describe = || format!("mount {} of a tree to {}", path.display(), target.display());
            let tree = Stubs::new(tree, None)?;
            let part = tree.find(path, ResolveFlags::empty()).context(describe)?;
            let made = mount::clone_mount(part.as_fd(), "", false).context(describe)?;
            flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, mount.read_only || writable.is_none());
            mount::restrict(made.as_fd(), flags, false).context(describe)?;
            made
        }
        MountKind::Tmpfs { size, mode } => {
            let file_system = FileSystem::open("tmpfs")?;
            let mode = mode.unwrap_or_else(|| existing_mode(target, stubs).unwrap_or(NEW_TMPFS));
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
    let World { root, proc, scratch, stubs, .. } = world;
    stubs.uncover()?;
    rustix::thread::move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Mount))
        .context(|| "leave the sandbox's mount namespace")?;
    drop((root, proc, scratch));
    stubs.remove()
}
