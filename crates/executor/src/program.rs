//! The process that becomes the program: the init process of its pid namespace.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{Access, AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, StatxFlags, Uid};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::process::{Resource, Rlimit};
use rustix::thread::UnshareFlags;

use crate::control::{self, Report, Task};
use crate::fault::{Context, Fault, reason};
use crate::keeper::{Given, World};
use crate::seccomp::{self, DEFAULT_CAPABILITIES};
use crate::stubs::Stubs;
use crate::times::Clock;
use crate::{ProcessSpec, Security, dumps, keeper, mount, owners, sys, system};

/// Soft limit of open files; the hard one is the caller's. Docker's daemon has the same.
pub(crate) const OPEN_FILES: u64 = 1024;
/// More mounts than can lie over the root file system.
const MOST_COVERS: usize = 8;
/// Where home directories are listed.
const PASSWD: &str = "/etc/passwd";
/// Most of it that is read.
const LONGEST_PASSWD: u64 = 4 << 20;

/// Enters the sandbox and executes the program; returns the exit code of this process when that fails.
pub(crate) fn run(
    task: &Task,
    world: &World,
    control: BorrowedFd<'_>,
    given: &Given,
    hand_over: Option<OwnedFd>,
    clock: &Clock,
) -> i32 {
    let begin = Instant::now();
    let failed = |fault| {
        control::report(control, &Report::Fault(fault), None);
        1
    };
    if let Err(fault) = enter(&task.spec, world, control, given, hand_over) {
        return failed(fault);
    }
    clock.entered(begin);
    // From here on no descriptor of the host may be left: a path such as /proc/self/fd/7 would lead out.
    let Err(error) = sys::without_other_descriptors(control, |control| {
        let Err(fault) = execute(task);
        control::report(control, &Report::Fault(fault), None);
        sys::exit(1)
    });
    failed(Fault::Setup(format!("close descriptors: {}", reason(&error))))
}

/// Everything that needs the host's files.
fn enter(
    spec: &ProcessSpec,
    world: &World,
    control: BorrowedFd<'_>,
    given: &Given,
    hand_over: Option<OwnedFd>,
) -> Result<(), Fault> {
    // First of all: whatever fails to be limited must not run.
    for group in &given.groups {
        rustix::io::write(group, b"0").context(|| "enter the step's cgroup")?;
    }
    rustix::process::setsid().context(|| "start a session")?;
    let insecure = spec.security == Security::Insecure;
    if let Some(note) = system::mount_proc(world.proc.as_fd(), insecure)? {
        control::report(control, &Report::Note(note), None);
    }
    // The process's own group is the top of what it sees.
    keeper::separate(UnshareFlags::NEWCGROUP, "cgroup")?;
    system::mount_cgroup(&world.stubs, insecure);
    if !insecure {
        system::protect(&world.stubs, &world.scratch)?;
    }
    if let Some(stdin) = &given.stdin {
        rustix::stdio::dup2_stdin(stdin).context(|| "pass on standard input")?;
    }
    if let Some(terminal) = &world.terminal {
        control_terminal(terminal, &spec.user).context(|| "take the terminal")?;
    }
    change_root(&world.root)?;
    if let Some(socket) = hand_over {
        let audit = seccomp::native_audit().unwrap_or_default();
        owners::hand_over(audit)
            .and_then(|calls| control::send(socket.as_fd(), b"calls", &[calls.as_fd()]))
            .context(|| "hand over the changes of owners")?;
    }
    Ok(())
}

/// Makes a terminal the controlling one of this session, and all three streams.
fn control_terminal(terminal: &OwnedFd, user: &crate::User) -> Result<(), Errno> {
    rustix::process::ioctl_tiocsctty(terminal)?;
    // As runc: else the user could not open /dev/stdout. A user that is not mapped is refused later.
    let _optional = rustix::fs::fchown(terminal, Some(Uid::from_raw(user.uid)), None);
    rustix::stdio::dup2_stdin(terminal)?;
    rustix::stdio::dup2_stdout(terminal)?;
    rustix::stdio::dup2_stderr(terminal)
}

/// Makes `root` the root of this mount namespace, and takes off everything that the host's root has become part of.
fn change_root(root: &OwnedFd) -> Result<(), Fault> {
    let mount_of = |path: &str| -> Result<u64, Fault> {
        let found = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)
            .context(|| "look at the root file system")?;
        Ok(found.stx_mnt_id)
    };
    let old = mount::open_path("/").context(|| "open /")?;
    rustix::process::fchdir(root).context(|| "enter the root file system")?;
    // The old root comes to lie over the new one (pivot_root(2), "pivot_root(\".\", \".\")").
    rustix::process::pivot_root(".", ".").context(|| "change the root file system")?;
    // With the old root goes what is mounted in it and on it, as the scratch space is.
    rustix::process::fchdir(&old).context(|| "enter the old root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).context(|| "leave the host's file systems")?;
    rustix::process::chdir("/").context(|| "enter the root file system")?;
    let own = mount_of("/")?;
    // As long as something is left, `/..` leads to it, and each unmount takes off only what is on top.
    for _ in 0..MOST_COVERS {
        if mount_of("/..")? == own {
            return Ok(());
        }
        rustix::mount::unmount(".", UnmountFlags::DETACH).context(|| "leave the host's file systems")?;
    }
    Err(Fault::Setup("leave the host's file systems: they are still there".to_owned()))
}

/// Everything after: this process can reach nothing but the sandbox.
fn execute(task: &Task) -> Result<Infallible, Fault> {
    let spec = &task.spec;
    if spec.stdio.is_piped() {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .context(|| "open /dev/null")?;
        rustix::stdio::dup2_stdin(&null).context(|| "set standard input")?;
        own_streams(&spec.user);
    }
    dumps::as_usual();
    limit_open_files();
    spec.ulimits.iter().try_for_each(crate::Ulimit::apply)?;
    enter_working_directory(&spec.cwd)?;
    let env = environment(spec)?;
    // Best effort: keys are scarce, and a machine may have none.
    let _optional = sys::new_session_keyring();
    // Before capabilities go: without no_new_privs it needs CAP_SYS_ADMIN.
    if spec.security == Security::Default {
        sys::install_filter(&task.filter.program).context(|| "install the seccomp filter")?;
    }
    become_user(spec)?;

    let program = find_program(spec)?;
    let path = c_string(program.as_os_str())?;
    let args = spec.args.iter().map(|arg| c_string(arg)).collect::<Result<Vec<_>, _>>()?;
    sys::close_on_exec_from(3).context(|| "close descriptors")?;
    let error = sys::execve(&path, &args, &env);
    let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    Err(Fault::Program { code, message: format!("exec {}: {}", program.display(), lower(&error)) })
}

/// Lets the user open `/dev/stdout` and `/dev/stderr`, which are pipes made by the caller.
fn own_streams(user: &crate::User) {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    for stream in [rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let _optional = rustix::fs::fchown(stream, Some(uid), Some(gid));
    }
}

fn limit_open_files() {
    let now = rustix::process::getrlimit(Resource::Nofile);
    let soft = now.maximum.map_or(OPEN_FILES, |hard| hard.min(OPEN_FILES));
    let _optional =
        rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum: now.maximum });
}

/// Makes the working directory where it is missing, and enters it.
fn enter_working_directory(cwd: &Path) -> Result<(), Fault> {
    let describe = || format!("enter the working directory {}", cwd.display());
    if !cwd.is_absolute() {
        return Err(Fault::Setup(format!("{}: it is not absolute", describe())));
    }
    match rustix::process::chdir(cwd) {
        Err(Errno::NOENT) => {
            std::fs::create_dir_all(cwd)
                .context(|| format!("create the working directory {}", cwd.display()))?;
            rustix::process::chdir(cwd).context(describe)?;
        }
        other => other.context(describe)?,
    }
    // The kernel says "(unreachable)" of a directory that is not below the root.
    let here = rustix::process::getcwd(Vec::new()).context(describe)?;
    if here.as_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(Fault::Setup(format!("{}: it is outside of the root file system", describe())))
    }
}

/// The environment, with HOME.
fn environment(spec: &ProcessSpec) -> Result<Vec<CString>, Fault> {
    let mut env = Vec::with_capacity(spec.env.len() + 1);
    for (name, value) in &spec.env {
        env.push(variable(name, value)?);
    }
    let has_home = spec.env.iter().any(|(name, value)| name == "HOME" && !value.is_empty());
    if !has_home {
        env.retain(|entry| !entry.as_bytes().starts_with(b"HOME="));
        env.push(variable(OsStr::new("HOME"), home(spec.user.uid).as_os_str())?);
    }
    Ok(env)
}

fn variable(name: &OsStr, value: &OsStr) -> Result<CString, Fault> {
    let mut entry = OsString::from(name);
    entry.push("=");
    entry.push(value);
    c_string(&entry)
}

fn c_string(text: &OsStr) -> Result<CString, Fault> {
    CString::new(text.as_bytes())
        .map_err(|_| Fault::Setup(format!("pass on {text:?}: it has a zero byte in it")))
}

/// The home directory of a user in the root file system's `/etc/passwd`, else `/`.
fn home(uid: u32) -> PathBuf {
    home_in(&passwd().unwrap_or_default(), uid).unwrap_or_else(|| PathBuf::from("/"))
}

/// As [`home`], by a process whose root is another one.
pub(crate) fn home_below(stubs: &Stubs, uid: u32) -> PathBuf {
    let found = stubs.find(Path::new(PASSWD), ResolveFlags::empty()).map_err(io::Error::from);
    let text = found.and_then(|file| read_passwd(&format!("/proc/self/fd/{}", file.as_raw_fd())));
    home_in(&text.unwrap_or_default(), uid).unwrap_or_else(|| PathBuf::from("/"))
}

fn passwd() -> io::Result<Vec<u8>> {
    read_passwd(PASSWD)
}

/// Not more than a file: the image may have put a pipe there, or an endless device.
fn read_passwd(path: &str) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let mut contents = Vec::new();
    if file.metadata()?.is_file() {
        file.take(LONGEST_PASSWD).read_to_end(&mut contents)?;
    }
    Ok(contents)
}

fn home_in(passwd: &[u8], uid: u32) -> Option<PathBuf> {
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        let found: u32 = std::str::from_utf8(fields.get(2)?).ok()?.trim().parse().ok()?;
        let home = fields.get(5).filter(|home| !home.is_empty())?;
        (found == uid).then(|| PathBuf::from(OsString::from_vec(home.to_vec())))
    })
}

/// Takes the user's ids and Docker's default capabilities.
fn become_user(spec: &ProcessSpec) -> Result<(), Fault> {
    use rustix::thread::{CapabilitySet, CapabilitySets};
    let user = &spec.user;
    let granted = match spec.security {
        Security::Default => CapabilitySet::from_bits_retain(DEFAULT_CAPABILITIES),
        Security::Insecure => rustix::thread::capabilities(None).context(|| "read capabilities")?.permitted,
    };
    for capability in 0..64 {
        let keep = granted.bits() >> capability & 1 == 1;
        if !keep && !sys::drop_bounding_capability(capability).context(|| "drop capabilities")? {
            break;
        }
    }
    rustix::thread::set_keep_capabilities(true).context(|| "keep capabilities")?;
    // The primary group is one of them: else a program could shed it, and with it a group's lack of access to a file
    // that others may read (CVE-2022-2989).
    let mut groups = vec![Gid::from_raw(user.gid)];
    groups.extend(user.additional_gids.iter().filter(|gid| **gid != user.gid).map(|gid| Gid::from_raw(*gid)));
    match rustix::thread::set_thread_groups(&groups) {
        // In a user namespace with a single id, groups cannot be changed.
        Err(Errno::PERM) if user.additional_gids.is_empty() => {}
        other => other.map_err(|error| cannot_be(spec, error))?,
    }
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(|error| cannot_be(spec, error))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(|error| cannot_be(spec, error))?;
    rustix::thread::set_keep_capabilities(false).context(|| "keep capabilities")?;
    let insecure = spec.security == Security::Insecure;
    let inheritable = if insecure { granted } else { CapabilitySet::empty() };
    let sets = CapabilitySets { effective: granted, permitted: granted, inheritable };
    rustix::thread::set_capabilities(None, sets).context(|| "set capabilities")?;
    if insecure {
        // So that they outlive exec for users other than root.
        return granted
            .iter()
            .try_for_each(|one| rustix::thread::configure_capability_in_ambient_set(one, true))
            .context(|| "set ambient capabilities");
    }
    match rustix::thread::clear_ambient_capability_set() {
        Err(Errno::INVAL) => Ok(()),
        other => other.context(|| "clear ambient capabilities"),
    }
}

fn cannot_be(spec: &ProcessSpec, error: Errno) -> Fault {
    let crate::User { uid, gid, additional_gids } = &spec.user;
    let groups = if additional_gids.is_empty() { String::new() } else { format!(" and {additional_gids:?}") };
    let text = format!("run as user {uid} with group {gid}{groups}: {}", reason(&error.into()));
    match error {
        Errno::INVAL | Errno::PERM => Fault::Unsupported(format!(
            "{text} (the user namespace has no such id: give the user a range in /etc/subuid and /etc/subgid, and \
             install newuidmap and newgidmap)"
        )),
        _ => Fault::Setup(text),
    }
}

/// Looks the program up, as the user who runs it. The words are those of runc.
fn find_program(spec: &ProcessSpec) -> Result<PathBuf, Fault> {
    let Some(name) = spec.args.first().filter(|name| !name.is_empty()) else {
        return Err(Fault::Program { code: 127, message: "exec: no command".to_owned() });
    };
    let fail = |code, what: String| Fault::Program { code, message: format!("exec: {name:?}: {what}") };
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return match executable(&path) {
            Ok(()) => Ok(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(fail(127, format!("stat {}: {}", path.display(), lower(&error))))
            }
            Err(error) => Err(fail(126, lower(&error))),
        };
    }
    let path = spec.env.iter().rev().find(|(key, _)| key == "PATH").map(|(_, value)| value.as_bytes());
    let mut denied = false;
    for dir in path.unwrap_or_default().split(|byte| *byte == b':').filter(|dir| dir.starts_with(b"/")) {
        let candidate = Path::new(OsStr::from_bytes(dir)).join(name);
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) => denied |= error.kind() == io::ErrorKind::PermissionDenied,
        }
    }
    if denied {
        return Err(fail(126, "permission denied".to_owned()));
    }
    Err(fail(127, "executable file not found in $PATH".to_owned()))
}

fn executable(path: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok(rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?)
}

/// The system's reason, as Go writes it.
fn lower(error: &io::Error) -> String {
    reason(error).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_homes() {
        let passwd =
            b"root:x:0:0:root:/root:/bin/sh\nbroken\n:::\nx:x:5:5::: \nweb:x:33:33:,,:/srv/\xff:/bin/sh";
        assert_eq!(home_in(passwd, 0), Some(PathBuf::from("/root")));
        assert_eq!(home_in(passwd, 33), Some(PathBuf::from(OsString::from_vec(b"/srv/\xff".to_vec()))));
        assert_eq!(home_in(passwd, 5), None, "an empty one is none");
        assert_eq!(home_in(passwd, 1), None);
    }
}
