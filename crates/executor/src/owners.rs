//! Ownership where there is a single id: what a process asks for with chown(2) is recorded, not refused.
//!
//! In a user namespace with one id nothing can be given to another owner. There the kernel hands the calls of a step over
//! to the keeper (seccomp_unotify(2)), which writes the owner into an attribute of the file, from where it gets into the
//! layer, and lets the call succeed. Calls that look at a file show what is recorded.

mod place;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::PidfdFlags;

use crate::fault::{Context, Fault};
use crate::mount::{FileSystem, INERT};
use crate::sys::{self, Call, Instruction};
use place::Place;

/// Keeps an id as it is.
const SAME: u32 = u32::MAX;
/// The longest path that the kernel takes, with its final zero.
const LONGEST_PATH: usize = 4096;

/// Calls that change or show owners, of the native ABI only.
const CALLS: &[(libc::c_long, Form)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chown, Form::Path { follow: true }),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_lchown, Form::Path { follow: false }),
    (libc::SYS_fchown, Form::Descriptor),
    (libc::SYS_fchownat, Form::At),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_stat, Form::Stat { follow: true }),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_lstat, Form::Stat { follow: false }),
    (libc::SYS_fstat, Form::StatDescriptor),
    (libc::SYS_newfstatat, Form::StatAt),
    (libc::SYS_statx, Form::Statx),
];

/// Flags of calls that look at a file which do not matter here: of automounts and of remote file systems.
const LOOKING: i32 = libc::AT_NO_AUTOMOUNT | libc::AT_STATX_FORCE_SYNC | libc::AT_STATX_DONT_SYNC;

/// Where a call has its arguments.
#[derive(Clone, Copy)]
enum Form {
    Path { follow: bool },
    Descriptor,
    At,
    Stat { follow: bool },
    StatDescriptor,
    StatAt,
    Statx,
}

/// How a call ends.
enum Decision {
    /// With success: it is done.
    Done,
    /// As if it had not been handed over.
    Kernel,
}

/// Whether this process is in a user namespace with a single id.
pub(crate) fn are_recorded() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let mut fields = map.split_ascii_whitespace();
    fields.nth(2) == Some("1") && fields.next().is_none()
}

/// Has the kernel hand the calls of this process over; whoever holds the result decides them.
pub(crate) fn hand_over(audit: u32) -> std::io::Result<OwnedFd> {
    // As `seccomp::bpf`: load a word, jump if equal, return.
    let load = |offset| Instruction { code: 0x20, jump_true: 0, jump_false: 0, value: offset };
    let give = |value| Instruction { code: 0x06, jump_true: 0, jump_false: 0, value };
    let equal = |value, jump_true, jump_false| Instruction { code: 0x15, jump_true, jump_false, value };
    const ALLOW: u32 = 0x7fff_0000;
    let mut program = vec![load(4), equal(audit, 1, 0), give(ALLOW), load(0)];
    for (index, (number, _)) in CALLS.iter().enumerate() {
        let left = u8::try_from(CALLS.len() - index).map_err(std::io::Error::other)?;
        program.push(equal(u32::try_from(*number).map_err(std::io::Error::other)?, left, 0));
    }
    program.extend([give(ALLOW), give(libc::SECCOMP_RET_USER_NOTIF)]);
    sys::install_listener(&program)
}

/// Decides the calls of a step's processes.
pub(crate) struct Recorder {
    /// `/proc` of the pid namespace that this process is in, attached nowhere, or one from outside.
    processes: OwnedFd,
    /// Whether it has other numbers for the processes.
    outside: bool,
}

impl Recorder {
    /// `None` where there is no `/proc` at all: then owners stay as they are, and changing them fails.
    pub(crate) fn new() -> Option<Self> {
        if let Ok(processes) = FileSystem::open("proc").and_then(|proc| proc.mount(INERT)) {
            return Some(Self { processes, outside: false });
        }
        // Where parts of it are hidden, as in containers, no other can be mounted; the machine's will do.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let processes = rustix::fs::open("/proc", flags, Mode::empty()).ok()?;
        Some(Self { processes, outside: true })
    }

    /// Decides until the process ends. Returns what could not be recorded.
    pub(crate) fn attend(
        &self,
        calls: &OwnedFd,
        process: BorrowedFd<'_>,
    ) -> Result<Option<&'static str>, Fault> {
        let mut lost = None;
        loop {
            let mut events =
                [PollFd::new(calls, PollFlags::IN), PollFd::from_borrowed_fd(process, PollFlags::IN)];
            rustix::io::retry_on_intr(|| poll(&mut events, None)).context(|| "watch the process")?;
            if events[0].revents().contains(PollFlags::IN) {
                // An error: the caller was killed meanwhile.
                if let Ok(call) = sys::receive_call(calls.as_fd()) {
                    let answer = self.decide(calls, &call);
                    if matches!(answer, Err(Errno::OPNOTSUPP)) {
                        lost = Some(
                            "owners of devices, and of files on file systems without attributes, are not recorded",
                        );
                    }
                    let errno = match answer {
                        Ok(Decision::Done) | Err(Errno::OPNOTSUPP) => Some(0),
                        Ok(Decision::Kernel) => None,
                        Err(errno) => Some(errno.raw_os_error()),
                    };
                    let _killed = sys::answer_call(calls.as_fd(), call.id, errno);
                }
            } else if !events[1].revents().is_empty() || !events[0].revents().is_empty() {
                return Ok(lost);
            }
        }
    }

    fn decide(&self, calls: &OwnedFd, call: &Call) -> Result<Decision, Errno> {
        let form = CALLS.iter().find(|(number, _)| *number == libc::c_long::from(call.number));
        let (_, form) = form.ok_or(Errno::NOSYS)?;
        let word = |index: usize| call.args[index] as u32;
        let (file, uid, gid) = match form {
            Form::Descriptor => {
                let file = self.of_process(call, &format!("fd/{}", word(0)))?;
                (file, word(1), word(2))
            }
            Form::Path { follow } => {
                let file = self.look_up(calls, call, libc::AT_FDCWD, call.args[0], *follow, false)?;
                (file, word(1), word(2))
            }
            Form::At => {
                let flags = word(4).cast_signed();
                if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
                    return Err(Errno::INVAL);
                }
                let (follow, empty) =
                    (flags & libc::AT_SYMLINK_NOFOLLOW == 0, flags & libc::AT_EMPTY_PATH != 0);
                let file = self.look_up(calls, call, word(0).cast_signed(), call.args[1], follow, empty)?;
                (file, word(2), word(3))
            }
            // What fails here fails in the kernel too, with the right error.
            Form::Stat { .. } | Form::StatDescriptor | Form::StatAt | Form::Statx => {
                return Ok(self.show(calls, call, *form).unwrap_or(Decision::Kernel));
            }
        };
        // Numbers of processes are used again: what was opened is of the caller only if that still waits.
        if !sys::call_is_valid(calls.as_fd(), call.id) {
            return Err(Errno::SRCH);
        }
        self.record(&file, uid, gid).map(|()| Decision::Done)
    }

    /// Answers a call that looks at a file, where an owner is recorded for it.
    fn show(&self, calls: &OwnedFd, call: &Call, form: Form) -> Result<Decision, Errno> {
        let word = |index: usize| call.args[index] as u32;
        let at = |flags: u32| {
            let flags = flags.cast_signed();
            if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH | LOOKING) != 0 {
                return Err(Errno::INVAL);
            }
            let (follow, empty) = (flags & libc::AT_SYMLINK_NOFOLLOW == 0, flags & libc::AT_EMPTY_PATH != 0);
            self.look_up(calls, call, word(0).cast_signed(), call.args[1], follow, empty)
        };
        let (file, address) = match form {
            Form::StatDescriptor => (self.of_process(call, &format!("fd/{}", word(0)))?, call.args[1]),
            Form::StatAt => (at(word(3))?, call.args[2]),
            Form::Statx => (at(word(2))?, call.args[4]),
            Form::Stat { follow } => {
                (self.look_up(calls, call, libc::AT_FDCWD, call.args[0], follow, false)?, call.args[1])
            }
            Form::Path { .. } | Form::Descriptor | Form::At => return Err(Errno::INVAL),
        };
        let Some(owner) = self.recorded(&file)?.filter(|owner| *owner != (0, 0)) else {
            return Ok(Decision::Kernel);
        };
        let stat = match form {
            Form::Statx => sys::statx_as(file.as_fd(), word(3), owner),
            _ => sys::stat_as(file.as_fd(), owner),
        };
        let stat = stat.map_err(|_| Errno::IO)?;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let memory = File::from(self.open_of_process(call, "mem", flags)?);
        if !sys::call_is_valid(calls.as_fd(), call.id) {
            return Err(Errno::SRCH);
        }
        memory.write_all_at(&stat, address).map_err(|_| Errno::FAULT)?;
        Ok(Decision::Done)
    }

    /// The owner that is recorded for a file.
    fn recorded(&self, file: &OwnedFd) -> Result<Option<(u32, u32)>, Errno> {
        let Some(place) = Place::of(&rustix::fs::statat(file, "", AtFlags::EMPTY_PATH)?) else {
            return Ok(None);
        };
        self.among_processes(|| place.read(&format!("self/fd/{}", file.as_raw_fd())))
    }

    /// Does something with the directory of processes as working directory: some calls take no descriptor, and none of
    /// a file that was not opened for reading.
    fn among_processes<T>(&self, work: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let own = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        rustix::process::fchdir(&self.processes)?;
        let done = work();
        rustix::process::fchdir(&own)?;
        done
    }

    /// Opens something in the directory of the calling process in `/proc`.
    fn of_process(&self, call: &Call, name: &str) -> Result<OwnedFd, Errno> {
        match self.open_of_process(call, name, OFlags::PATH | OFlags::CLOEXEC) {
            Err(Errno::NOENT) => Err(Errno::BADF),
            other => other,
        }
    }

    fn open_of_process(&self, call: &Call, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let number = if self.outside { self.number_outside(call)? } else { call.process.to_string() };
        rustix::fs::openat(&self.processes, format!("{number}/{name}"), flags, Mode::empty())
    }

    /// The number of the calling process in a `/proc` from outside, which tells it of descriptors of processes.
    fn number_outside(&self, call: &Call) -> Result<String, Errno> {
        // PIDFD_THREAD, of Linux 6.9: what called is a thread. Older kernels know the first of a process, and refuse the others.
        let thread = PidfdFlags::from_bits_retain(OFlags::EXCL.bits());
        let process = i32::try_from(call.process).ok().and_then(rustix::process::Pid::from_raw);
        let process = process.ok_or(Errno::SRCH)?;
        let process = match rustix::process::pidfd_open(process, thread) {
            Err(Errno::INVAL) => rustix::process::pidfd_open(process, PidfdFlags::empty()),
            other => other,
        };
        let process = process.map_err(|error| if error == Errno::INVAL { Errno::PERM } else { error })?;
        let name = format!("self/fdinfo/{}", process.as_raw_fd());
        let info =
            rustix::fs::openat(&self.processes, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let text = std::io::read_to_string(File::from(info)).map_err(|_| Errno::IO)?;
        let number = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<u32>().ok());
        // 0 where it has none there, and no number when it has ended.
        number.filter(|number| *number > 0).map(|number| number.to_string()).ok_or(Errno::SRCH)
    }

    /// Finds a file as the calling process does: with its root and its directory. Nothing of the host can be reached
    /// with them: this process is in the same mount namespace, and it is the process's own view.
    fn look_up(
        &self,
        calls: &OwnedFd,
        call: &Call,
        dir: i32,
        address: u64,
        follow: bool,
        empty: bool,
    ) -> Result<OwnedFd, Errno> {
        let path = self.path(call, address)?;
        let start = match dir {
            libc::AT_FDCWD => self.of_process(call, "cwd")?,
            dir if path.starts_with(b"/") || dir >= 0 => {
                let name = if path.starts_with(b"/") { "cwd".to_owned() } else { format!("fd/{dir}") };
                self.of_process(call, &name)?
            }
            _ => return Err(Errno::BADF),
        };
        if path.is_empty() {
            return if empty { Ok(start) } else { Err(Errno::NOENT) };
        }
        let root = self.of_process(call, "root")?;
        if !sys::call_is_valid(calls.as_fd(), call.id) {
            return Err(Errno::SRCH);
        }
        let own = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        enter(&root)?;
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        flags.set(OFlags::NOFOLLOW, !follow);
        let found = rustix::fs::openat(&start, path.as_slice(), flags, Mode::empty());
        enter(&own)?;
        match (found, own_descriptor(&path)) {
            (Err(Errno::NOENT), Some(number)) if follow => self.of_process(call, &format!("fd/{number}")),
            (found, _) => found,
        }
    }

    /// A string in the memory of the calling process.
    fn path(&self, call: &Call, address: u64) -> Result<Vec<u8>, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let memory = File::from(self.open_of_process(call, "mem", flags)?);
        let mut path = Vec::new();
        while path.len() < LONGEST_PATH {
            // Not across a page: the next one may not be there.
            let at = address.checked_add(path.len() as u64).ok_or(Errno::FAULT)?;
            let mut piece = vec![0; usize::try_from(256 - at % 256).map_err(|_| Errno::FAULT)?];
            let length = memory.read_at(&mut piece, at).map_err(|_| Errno::FAULT)?;
            if length == 0 {
                return Err(Errno::FAULT);
            }
            if let Some(end) = piece[..length].iter().position(|byte| *byte == 0) {
                path.extend(&piece[..end]);
                return Ok(path);
            }
            path.extend(&piece[..length]);
        }
        Err(Errno::NAMETOOLONG)
    }

    /// Writes the owner down, and does what else the kernel does with a file that changes hands.
    fn record(&self, file: &OwnedFd, uid: u32, gid: u32) -> Result<(), Errno> {
        let stat = rustix::fs::statat(file, "", AtFlags::EMPTY_PATH)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let path = format!("self/fd/{}", file.as_raw_fd());
        let Some(place) = Place::of(&stat) else {
            return if (uid, gid) == (0, 0) { Ok(()) } else { Err(Errno::OPNOTSUPP) };
        };
        self.among_processes(|| {
            let before = place.read(&path)?.unwrap_or((0, 0));
            let chosen = |new, old| if new == SAME { old } else { new };
            let owner = (chosen(uid, before.0), chosen(gid, before.1));
            if owner != before {
                place.write(&path, owner)?;
            }
            let changed = (uid, gid) != (SAME, SAME);
            let mode = stat.st_mode & 0o7777;
            let kept = if mode & 0o010 != 0 { mode & !0o6000 } else { mode & !0o4000 };
            if kind == FileType::RegularFile && changed && kept != mode {
                rustix::fs::chmod(path.as_str(), Mode::from_raw_mode(kept))?;
            }
            Ok(())
        })
    }
}

/// Makes a directory the root of this process, and enters it.
fn enter(root: &OwnedFd) -> Result<(), Errno> {
    rustix::process::fchdir(root)?;
    rustix::process::chroot(".")
}

/// The number of the descriptor that a path means to whoever says it. In the step's `/proc` there is no `self` for this process, which is
/// of another pid namespace.
fn own_descriptor(path: &[u8]) -> Option<u32> {
    let number = match path {
        b"/dev/stdin" => b"0",
        b"/dev/stdout" => b"1",
        b"/dev/stderr" => b"2",
        _ => path.strip_prefix(b"/proc/self/fd/").or_else(|| path.strip_prefix(b"/dev/fd/"))?,
    };
    std::str::from_utf8(number).ok()?.parse().ok()
}
