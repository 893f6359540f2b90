//! The system calls that no safe wrapper covers. This is the only place of the workspace with `unsafe` code.
#![expect(unsafe_code, reason = "raw system calls; each block says why it is sound")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr;
use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::UnshareFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::ExitStatus;
use crate::outcome::Ended;

/// Turns the return value of a libc call into a result.
fn check(value: libc::c_long) -> io::Result<libc::c_long> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Starts a copy of this process, which runs `child` and exits with what it returns (101 when it panics).
///
/// # Errors
/// When this process has more than one thread: locks that another thread holds would never be released in the copy.
pub(crate) fn fork(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    require_one_thread()?;
    // SAFETY: the process has one thread, so the copy is complete and consistent, and may do what the original may.
    run_copy(unsafe { libc::fork() }.into(), child)
}

/// As [`fork`], with the copy as the init process of a new pid namespace. Unlike after unshare(2), the next copy can be that of
/// another one.
pub(crate) fn fork_init(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    require_one_thread()?;
    let flags = libc::c_long::from(libc::CLONE_NEWPID | libc::SIGCHLD);
    let none: libc::c_long = 0;
    // Flags and stack change places there; all other arguments are nothing, in whatever order.
    let (first, second) = if cfg!(target_arch = "s390x") { (none, flags) } else { (flags, none) };
    // SAFETY: as above. Without a stack of its own, and without shared memory, the copy goes on where this process is. The C library
    // is not told; what it keeps of a process's identity is the thread's number, which is used to tell threads apart, and there is
    // one.
    run_copy(unsafe { libc::syscall(libc::SYS_clone, first, second, none, none, none) }, child)
}

/// Locks that another thread holds would never be released in a copy.
fn require_one_thread() -> io::Result<()> {
    // Like every directory it has two links and one for each directory in it.
    if rustix::fs::stat("/proc/self/task")?.st_nlink != 3 {
        return Err(io::Error::other("cannot fork a process with several threads"));
    }
    Ok(())
}

/// What both processes do after a copy was made: `answer` is what the call returned.
fn run_copy(answer: libc::c_long, child: impl FnOnce() -> i32) -> io::Result<Pid> {
    match answer {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = catch_unwind(AssertUnwindSafe(child)).unwrap_or(101);
            exit(code)
        }
        pid => i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other("fork returned no process id")),
    }
}

/// Moves this process (or its future children, for pid namespaces) to new namespaces.
pub(crate) fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    if namespaces.contains(UnshareFlags::FILES) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the flag refused above is the one that is unsafe: it makes descriptors mean different files in different
    // threads.
    Ok(unsafe { rustix::thread::unshare_unsafe(namespaces) }?)
}

/// Ends the process at once, without running exit handlers: they belong to the process that was copied.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: _exit has no preconditions and does not return.
    unsafe { libc::_exit(code) }
}

/// Waits for a child to end, and for what the kernel adds up of it and of those that it waited for (wait4(2)). An init process has
/// waited for all that ended in its pid namespace.
pub(crate) fn wait(child: Pid) -> io::Result<Ended> {
    let mut status = 0;
    // SAFETY: all-zero bytes are a valid `rusage`.
    let mut used: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: the kernel writes one number and one `rusage`.
        let waited = unsafe { libc::wait4(child.as_raw_nonzero().get(), &raw mut status, 0, &raw mut used) };
        match check(waited.into()) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // Microseconds are below a million, and neither is negative.
    let time = |time: libc::timeval| {
        Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_usec).unwrap_or(0) * 1000)
    };
    let status = match libc::WIFSIGNALED(status) {
        true => ExitStatus::Signal(libc::WTERMSIG(status)),
        false => ExitStatus::Code(libc::WEXITSTATUS(status)),
    };
    Ok(Ended { status, cpu: time(used.ru_utime) + time(used.ru_stime) })
}

/// Replaces the program of this process; returns only on failure.
pub(crate) fn execve(path: &CString, args: &[CString], env: &[CString]) -> io::Error {
    let list = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };
    let (args, env) = (list(args), list(env));
    // SAFETY: all pointers are to NUL-terminated strings that live until the call returns, in lists that end in null.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// As [`execve`] with an empty environment, with a descriptor as number 3 where there is one, and no others but the
/// standard streams.
pub(crate) fn execve_with(path: &CString, args: &[CString], third: Option<BorrowedFd<'_>>) -> io::Error {
    let number = third.map(|third| third.as_raw_fd());
    if let Err(error) = close_on_exec_from(3) {
        return error;
    }
    // SAFETY: what had this number is closed, but nothing that owns it is used again: the process becomes another
    // program, or ends when the only caller returns. Descriptor 3 itself is only unmarked.
    let handed = match number {
        Some(3) => unsafe { libc::fcntl(3, libc::F_SETFD, 0) },
        Some(number) => unsafe { libc::dup2(number, 3) },
        None => 0,
    };
    if handed < 0 {
        return io::Error::last_os_error();
    }
    execve(path, args, &[])
}

/// Marks every descriptor from `first` on to be closed by exec.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: only changes descriptor flags; no descriptor is closed while the process goes on.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// Runs `rest`, which does not return, after closing every descriptor from 3 on except `keep`.
pub(crate) fn without_other_descriptors<Never>(
    keep: BorrowedFd<'_>,
    rest: impl FnOnce(BorrowedFd<'_>) -> Never,
) -> io::Result<Never> {
    let close = |first: libc::c_int, last: libc::c_uint| {
        // SAFETY: the owners of the closed descriptors are never used or dropped again: this is the last thing that
        // the only caller, a forked process, does: `rest` does not return, and an error leads to `exit` straightaway.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }
    };
    let kept = keep.as_raw_fd();
    if kept > 3 && check(close(3, kept.unsigned_abs() - 1)).is_err() {
        return Err(io::Error::last_os_error());
    }
    if check(close(kept + 1, libc::c_uint::MAX)).is_err() {
        return Err(io::Error::last_os_error());
    }
    Ok(rest(keep))
}

/// What [`mount_setattr`] changes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MountChange {
    /// `MOUNT_ATTR_*` flags to set.
    pub(crate) set: u64,
    /// Propagation type to give, such as `MS_PRIVATE`; 0 leaves it.
    pub(crate) propagation: u64,
    /// Whether mounts below are changed too.
    pub(crate) recursive: bool,
}

/// Changes the flags of the mount at `mount` (mount_setattr(2)).
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, change: MountChange) -> io::Result<()> {
    let attr =
        libc::mount_attr { attr_set: change.set, attr_clr: 0, propagation: change.propagation, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if change.recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated constant and `attr` is valid for the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}

/// One instruction of a classic BPF program, as the kernel wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jump_true: u8,
    pub(crate) jump_false: u8,
    pub(crate) value: u32,
}

/// Installs a seccomp filter in this thread, for good (seccomp(2)). Needs CAP_SYS_ADMIN, because the filter must not
/// come with `no_new_privs`, which would disarm setuid programs.
pub(crate) fn install_filter(program: &[Instruction]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // As runc: without SPEC_ALLOW kernels before 5.16 turn on a costly mitigation for every filtered process.
    // SAFETY: `Instruction` has the layout of `struct sock_filter`; the kernel reads `len` of them and keeps a copy.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const program,
        )
    })?;
    Ok(())
}

/// As [`install_filter`], for a filter that hands calls over; whoever holds the result is asked.
pub(crate) fn install_listener(program: &[Instruction]) -> io::Result<OwnedFd> {
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: as above. On success a new descriptor is returned, which nobody else owns.
    unsafe {
        let number = check(libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const program,
        ))?;
        Ok(OwnedFd::from_raw_fd(i32::try_from(number).map_err(io::Error::other)?))
    }
}

/// A call that was handed over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) id: u64,
    /// Who calls, as numbered in this process's pid namespace.
    pub(crate) process: u32,
    pub(crate) number: i32,
    pub(crate) args: [u64; 6],
}

// `SECCOMP_IOCTL_NOTIF_*` of linux/seccomp.h.
const RECEIVE: u32 = 0xc050_2100;
const ANSWER: u32 = 0xc018_2101;
const IS_VALID: u32 = 0x4008_2102;

/// Takes the next call (seccomp_unotify(2)).
pub(crate) fn receive_call(listener: BorrowedFd<'_>) -> io::Result<Call> {
    // SAFETY: all-zero bytes are a valid `seccomp_notif`, and the kernel wants it so.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `seccomp_notif`, whose size is part of the request's number.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE as _, &raw mut call) }.into())?;
    Ok(Call { id: call.id, process: call.pid, number: call.data.nr, args: call.data.args })
}

/// Ends a call with an error, or with success for 0; `None` has the kernel do what it would have done.
pub(crate) fn answer_call(listener: BorrowedFd<'_>, id: u64, errno: Option<i32>) -> io::Result<()> {
    // SECCOMP_USER_NOTIF_FLAG_CONTINUE
    let flags = if errno.is_none() { 1 } else { 0 };
    let answer = libc::seccomp_notif_resp { id, val: 0, error: -errno.unwrap_or(0), flags };
    // SAFETY: the kernel reads one `seccomp_notif_resp`, whose size is part of the request's number.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), ANSWER as _, &raw const answer) }.into())?;
    Ok(())
}

/// The bytes of a `struct stat` of a file, as if it belonged to someone.
pub(crate) fn stat_as(file: BorrowedFd<'_>, (uid, gid): (u32, u32)) -> io::Result<Vec<u8>> {
    // SAFETY: all-zero bytes are a valid `stat`.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the path is an empty constant, and the kernel writes one `stat`.
    check(unsafe {
        libc::fstatat(file.as_raw_fd(), c"".as_ptr(), &raw mut stat, libc::AT_EMPTY_PATH).into()
    })?;
    (stat.st_uid, stat.st_gid) = (uid, gid);
    Ok(bytes_of(&stat))
}

/// The bytes of a `struct statx` of a file, as if it belonged to someone.
pub(crate) fn statx_as(file: BorrowedFd<'_>, mask: u32, (uid, gid): (u32, u32)) -> io::Result<Vec<u8>> {
    // SAFETY: all-zero bytes are a valid `statx`.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is an empty constant, and the kernel writes one `statx`.
    check(unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, mask, &raw mut stat).into()
    })?;
    (stat.stx_uid, stat.stx_gid) = (uid, gid);
    Ok(bytes_of(&stat))
}

/// A copy of a structure's memory.
fn bytes_of<T: Copy>(value: &T) -> Vec<u8> {
    // SAFETY: the callers' structures were zeroed whole before the kernel wrote to them, so that padding is defined too.
    unsafe { std::slice::from_raw_parts(ptr::from_ref(value).cast::<u8>(), size_of::<T>()) }.to_vec()
}

/// Whether the caller still waits for its answer.
pub(crate) fn call_is_valid(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the kernel reads one number.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), IS_VALID as _, &raw const id) }.into()).is_ok()
}

/// One instruction of an extended BPF program, as the kernel wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Code {
    pub(crate) code: u8,
    /// The register written to in the lower half, the one read in the upper.
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) value: i32,
}

/// Has a program decide over the use of devices in a group of version 2 (bpf(2)).
pub(crate) fn guard_devices(group: &Path, program: &[Code]) -> io::Result<()> {
    const LOAD: libc::c_int = 5;
    const ATTACH: libc::c_int = 8;
    const CGROUP_DEVICE_PROGRAM: u32 = 15;
    const CGROUP_DEVICE_HOOK: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    /// The head of `union bpf_attr` for loading.
    #[repr(C)]
    struct Load {
        kind: u32,
        length: u32,
        code: u64,
        license: u64,
        log: [u64; 2],
        version_and_flags: [u32; 2],
    }
    /// Likewise for attaching.
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        hook: u32,
        flags: u32,
    }
    let load = Load {
        kind: CGROUP_DEVICE_PROGRAM,
        length: u32::try_from(program.len()).map_err(io::Error::other)?,
        code: program.as_ptr().expose_provenance() as u64,
        license: c"Apache".as_ptr().expose_provenance() as u64,
        log: [0; 2],
        version_and_flags: [0; 2],
    };
    // SAFETY: the structure and what it points to live through the call; the kernel keeps copies. On success a new
    // descriptor is returned, which nobody else owns.
    let loaded = unsafe {
        let number = check(libc::syscall(libc::SYS_bpf, LOAD, &raw const load, size_of::<Load>()))?;
        OwnedFd::from_raw_fd(i32::try_from(number).map_err(io::Error::other)?)
    };
    let group = std::fs::File::open(group)?;
    let attach = Attach {
        target: group.as_raw_fd().cast_unsigned(),
        program: loaded.as_raw_fd().cast_unsigned(),
        hook: CGROUP_DEVICE_HOOK,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the structure lives through the call, and both descriptors are open.
    check(unsafe { libc::syscall(libc::SYS_bpf, ATTACH, &raw const attach, size_of::<Attach>()) })?;
    Ok(())
}

/// Gives every signal its default action and unblocks all of them.
pub(crate) fn reset_signals() {
    // What the kernel reads: handler (0 is the default action), flags, restorer, mask. The C library's own function
    // leaves out two signals that it uses itself.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: no handler is installed, and the array is as long as the kernel's structure on every 64-bit
        // architecture. Signals that cannot be changed give an error, which is of no interest.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null_mut::<u64>(), 8_usize)
        };
    }
    // SAFETY: a zeroed set is an empty set, and it outlives the call.
    unsafe {
        let empty: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, ptr::null_mut());
    }
}

/// Drops a capability from the bounding set; `false` when the kernel does not know it.
pub(crate) fn drop_bounding_capability(capability: u32) -> io::Result<bool> {
    // SAFETY: prctl with integer arguments only.
    match check(
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) }.into(),
    ) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives this process a new, empty session keyring, so that it does not share the caller's keys.
pub(crate) fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    check(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, ptr::null::<libc::c_char>())
    })?;
    Ok(())
}

/// Brings the loopback device of this network namespace up.
pub(crate) fn loopback_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = (*from).cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: `request` is what SIOCSIFFLAGS reads, and lives through the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) }.into())?;
    Ok(())
}

/// Sends any signal number, also the real-time ones that safe wrappers leave out. `flags` are those of
/// pidfd_send_signal(2).
pub(crate) fn pidfd_send_signal(process: BorrowedFd<'_>, signal: i32, flags: u32) -> io::Result<()> {
    // SAFETY: a null `siginfo` asks the kernel to fill it as kill(2) does.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            flags,
        )
    })?;
    Ok(())
}

/// Watches a descriptor. Must be called from a Tokio runtime.
pub(crate) fn watch(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the value owns its descriptor, which stays open and the same for as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, interest) }?)
}
