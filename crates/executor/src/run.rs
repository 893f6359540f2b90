//! The caller's side of a sandbox.

use std::io::{self, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio as Redirect};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mount::MountAttrFlags;
use rustix::process::{Pid, PidfdFlags};
use serde::Serialize;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::unix::pipe;
use tokio::sync::OnceCell;

use crate::cgroup::Wanted;
use crate::control::{self, Report, Task};
use crate::fault::Fault;
use crate::mount;
use crate::network::Lease;
use crate::outcome::Ended;
use crate::seccomp::Filter;
use crate::{
    Cause, Error, ExitStatus, Network, Outcome, PrivateNetwork, ProcessSpec, SANDBOX_ARGUMENT, Security,
    Stdio, Terminal, Times, sys,
};

/// How much output is read at once.
const CHUNK: usize = 64 * 1024;
/// How long dropping a run waits for its processes to be gone. They are killed at once; only a process that the kernel
/// cannot interrupt, such as one waiting for a dead network file system, takes longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a helper for the network may take to get ready.
const HELPER_PATIENCE: Duration = Duration::from_secs(10);
/// Flag of pidfd_send_signal(2), since Linux 6.9.
const PROCESS_GROUP: u32 = 1 << 2;

/// One of the two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Receives what a process writes, as it comes. It is called from an async task: it must not wait for long. While it
/// is in a call nothing more is read, so a slow sink slows the process.
pub trait OutputSink: Send + Sync {
    /// Takes the next bytes of one stream. They are cut anywhere, also within a character.
    fn write(&self, stream: OutputStream, bytes: &[u8]);
}

/// Runs processes.
#[async_trait]
pub trait Executor: Send + Sync {
    /// Runs one process to its end. Dropping the future kills it, with everything it started.
    async fn run(&self, spec: ProcessSpec, output: &dyn OutputSink) -> Result<Outcome, Error>;

    /// What a process with [`Network::Private`] gets. The network is made when this, or such a process, first asks for
    /// it, and lives as long as the executor. An executor that has none gives the host's.
    ///
    /// # Errors
    /// When something fails that is not a matter of what the machine has.
    async fn private_network(&self) -> Result<PrivateNetwork, Error> {
        Ok(PrivateNetwork::none("this executor has no private network"))
    }
}

/// Runs processes in namespaces of their own, under Docker's default capabilities and seccomp profile.
///
/// The binary that uses it must call [`crate::sandbox_init`] first thing in `main`.
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    idle: Arc<Idle>,
    /// The running binary, through a mount that cannot be written to: otherwise a process that executes
    /// `/proc/self/exe` could get hold of the host's file (CVE-2019-5736). Made when the first process starts.
    binary: Arc<OnceLock<OwnedFd>>,
    network: Arc<OnceCell<PrivateNetwork>>,
    /// Why there is no private network although there could be one.
    host_network: Option<Arc<str>>,
}

impl Sandbox {
    /// A sandbox in which nothing has run yet. Nothing is touched before something runs.
    pub fn new() -> Self {
        Self::default()
    }

    /// With the host's network in place of a private one, for this reason, which is said to the user.
    #[must_use]
    pub fn with_host_network(self, why: &str) -> Self {
        Self { host_network: Some(why.into()), ..self }
    }

    /// Prepares for running processes; cheap.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without CAP_SYS_ADMIN: call [`crate::enter_user_namespace`] first.
    pub fn prepare(&self) -> Result<(), Error> {
        self.binary().map(drop)
    }

    fn binary(&self) -> Result<&OwnedFd, Error> {
        if let Some(binary) = self.binary.get() {
            return Ok(binary);
        }
        let binary = mounted_binary().or_else(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Err(error),
            _ => copied_binary(),
        });
        match binary {
            Ok(binary) => Ok(self.binary.get_or_init(|| binary)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(Error::Unsupported(
                "sandboxes need CAP_SYS_ADMIN, at least in a user namespace".to_owned(),
            )),
            Err(source) => Err(Error::Io { action: "prepare the sandbox's program", source }),
        }
    }

    /// Starts a process. Returns as soon as it exists; that its program cannot be executed comes out of
    /// [`Running::wait`]. Must be called from a Tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// When the sandbox cannot be built.
    pub async fn start(&self, spec: &ProcessSpec) -> Result<Running, Error> {
        let lease = match spec.network {
            Network::Private => {
                let network = self.private_network().await?;
                let lease = network.lease(self).await?;
                Some((network, lease))
            }
            Network::Host | Network::None => None,
        };
        let mut running = self.launch(spec, lease)?;
        let mut early = Vec::new();
        while running.process.is_none() {
            match running.receive().await? {
                Some((Report::Started, Some(process))) => running.process = Some(Arc::new(process)),
                Some((Report::Terminal, Some(end))) => {
                    let terminal = Terminal::new(end).map_err(Error::io("open the process's terminal"))?;
                    running.terminal = Some(terminal);
                }
                Some((report, _)) => early.push(report),
                None => break,
            }
        }
        for report in early {
            running.verdict.take(report);
        }
        if running.process.is_none() {
            return Err(running.finish().await.err().unwrap_or_else(|| Error::Killed(String::new())));
        }
        Ok(running)
    }

    /// Starts something for a private network ([`control::HELPER`], [`control::TABLE`]) and waits until it is ready; it ends
    /// when the socket that is returned is closed.
    pub(crate) async fn assist(
        &self,
        kind: &[u8],
        task: &impl Serialize,
        namespace: Option<BorrowedFd<'_>>,
    ) -> Result<OwnedFd, Error> {
        let (ours, theirs) = control::pair().map_err(Error::io("create a socket"))?;
        let mut file = std::fs::File::from(
            rustix::fs::memfd_create(c"network-task", MemfdFlags::CLOEXEC)
                .map_err(Error::io("write a task"))?,
        );
        serde_json::to_writer(&file, task).map_err(Error::io("write a task"))?;
        file.rewind().map_err(Error::io("write a task"))?;
        let descriptors: Vec<_> = std::iter::once(file.as_fd()).chain(namespace).collect();
        let mut guard = self.spawn(theirs)?;
        // Nobody waits for it: that would keep its end until the caller's.
        std::thread::spawn(move || guard.wait());
        let control = watch(ours)?;
        control::send(control.get_ref().as_fd(), kind, &descriptors).map_err(Error::io("send a task"))?;
        let ready = async {
            let mut killed = String::new();
            loop {
                let packet =
                    control.async_io(Interest::READABLE, |socket| control::receive(socket.as_fd())).await;
                let Some((bytes, _)) = packet.map_err(Error::io("hear from the sandbox"))? else {
                    return Err(Error::Killed(killed));
                };
                let report = serde_json::from_slice(&bytes).map_err(Error::io("understand the sandbox"))?;
                match report {
                    Report::Started => return Ok(()),
                    Report::Fault(fault) => return Err(fault.into()),
                    Report::Killed(signal) => killed = format!(" by signal {signal}"),
                    _ => {}
                }
            }
        };
        match tokio::time::timeout(HELPER_PATIENCE, ready).await {
            Ok(Ok(())) => Ok(control.into_inner()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::Setup("connect a private network: it does not get ready".to_owned())),
        }
    }

    /// Starts the helper's program, with nothing of this one's surroundings.
    fn spawn(&self, control: OwnedFd) -> Result<Child, Error> {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.binary()?.as_raw_fd()));
        command.arg0("builder").arg(SANDBOX_ARGUMENT).env_clear();
        command.stdin(control).stdout(Redirect::null()).stderr(Redirect::null());
        command.spawn().map_err(Error::io("start the sandbox"))
    }

    /// A guard that has nothing to do, started when there is none.
    fn guard(&self) -> Result<Guard, Error> {
        if let Some(guard) = self.idle.take() {
            return Ok(guard);
        }
        let (control, theirs) = control::pair().map_err(Error::io("create a socket"))?;
        Ok(Guard { process: self.spawn(theirs)?, control, settles: false })
    }

    fn launch(&self, spec: &ProcessSpec, private: Option<(PrivateNetwork, Lease)>) -> Result<Running, Error> {
        let (network, lease) = private.unzip();
        let filter = Filter::default_profile().map_err(Error::Unsupported)?;
        let adapted = network.as_ref().map(|network| network.adapt(spec));
        let task = Task::write(adapted.as_ref().unwrap_or(spec), filter)
            .map_err(Error::io("write the sandbox's task"))?;
        let mut pipes = [None, None];
        let mut descriptors = vec![task.as_fd()];
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let ends;
        match spec.stdio {
            Stdio::Inherit => descriptors.extend([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]),
            Stdio::Captured => {
                let ((stdout, stdout_end), (stderr, stderr_end)) = (output_pipe()?, output_pipe()?);
                ends = [stdout_end, stderr_end];
                descriptors.extend(ends.iter().map(OwnedFd::as_fd));
                pipes = [Some(stdout), Some(stderr)];
            }
            Stdio::Joined => {
                let (output, end) = output_pipe()?;
                ends = [second_end(&end)?, end];
                descriptors.extend(ends.iter().map(OwnedFd::as_fd));
                pipes = [Some(output), None];
            }
            Stdio::Terminal => {}
        }
        descriptors.extend(lease.as_ref().and_then(Lease::namespace));
        let Guard { process: guard, control, settles } = self.guard()?;
        let mut running = Running {
            control: Some(watch(control)?),
            guard: Some(guard),
            idle: self.idle.clone(),
            settles,
            ends_with_program: Wanted::of(spec).lets_reuse(),
            finished: false,
            process: None,
            pipes,
            terminal: None,
            deadline: spec.timeout.map(|timeout| (Instant::now(), timeout)),
            verdict: Verdict::default(),
            lease: None,
            may_change_network: spec.security == Security::Insecure,
        };
        running.verdict.notes.extend(network.as_ref().and_then(PrivateNetwork::take_note));
        if let Some(control) = &running.control {
            let sent = control::send(control.get_ref().as_fd(), control::STEP, &descriptors);
            // A helper that failed at once has said why, or is gone; both come out of waiting for it.
            running.verdict.unsent = sent.is_err();
        }
        running.lease = lease;
        Ok(running)
    }
}

#[async_trait]
impl Executor for Sandbox {
    async fn run(&self, spec: ProcessSpec, output: &dyn OutputSink) -> Result<Outcome, Error> {
        self.start(&spec).await?.wait(output).await
    }

    async fn private_network(&self) -> Result<PrivateNetwork, Error> {
        let open = async || match &self.host_network {
            Some(why) => Ok(PrivateNetwork::none(why)),
            None => PrivateNetwork::open(self).await,
        };
        self.network.get_or_try_init(open).await.cloned()
    }
}

/// The outermost process of a sandbox.
#[derive(Debug)]
struct Guard {
    process: Child,
    /// Closing it ends it.
    control: OwnedFd,
    /// Whether it has not said yet that it is done with the step before.
    settles: bool,
}

/// Guards that wait for their next step. They end with the value.
#[derive(Debug, Default)]
struct Idle(Mutex<Vec<Guard>>);

/// So many are kept: more run at once only where somebody asks for it.
const MOST_IDLE: usize = 8;

impl Idle {
    fn guards(&self) -> MutexGuard<'_, Vec<Guard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that is still there.
    fn take(&self) -> Option<Guard> {
        let mut guards = self.guards();
        std::iter::from_fn(|| guards.pop()).find_map(|mut guard| {
            let lives = matches!(guard.process.try_wait(), Ok(None));
            lives.then_some(guard)
        })
    }

    /// Keeps it, or gives it back.
    fn put(&self, guard: Guard) -> (Option<Child>, Option<OwnedFd>) {
        let mut guards = self.guards();
        if guards.len() < MOST_IDLE {
            guards.push(guard);
            return (None, None);
        }
        (Some(guard.process), Some(guard.control))
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let guards = std::mem::take(&mut *self.guards());
        let processes: Vec<Child> = guards.into_iter().map(|guard| guard.process).collect();
        // Nothing is left for them to do but to see that nobody is there any more.
        for mut process in processes {
            let _gone = process.wait();
        }
    }
}

/// The running binary's file, through a read-only mount.
fn mounted_binary() -> io::Result<OwnedFd> {
    // Not by the link itself: that leads to the mount it was started from, which may be of another namespace.
    let path = std::fs::read_link("/proc/self/exe")?;
    let binary = mount::clone_host(path.as_path(), false)?;
    let same = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    let running = rustix::fs::stat("/proc/self/exe")?;
    if same(rustix::fs::statat(&binary, "", AtFlags::EMPTY_PATH)?) != same(running) {
        return Err(io::ErrorKind::NotFound.into());
    }
    mount::restrict(
        binary.as_fd(),
        MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID,
        false,
    )?;
    Ok(binary)
}

/// A sealed copy in memory, for a binary whose file was replaced while it runs.
fn copied_binary() -> io::Result<OwnedFd> {
    let mut from = std::fs::File::open("/proc/self/exe")?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut copy = std::fs::File::from(rustix::fs::memfd_create(c"builder", flags)?);
    io::copy(&mut from, &mut copy)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    // Executing needs a descriptor that nobody can write through.
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    Ok(std::fs::File::open(path)?.into())
}

fn output_pipe() -> Result<(pipe::Receiver, OwnedFd), Error> {
    let (read, write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(Error::io("create a pipe"))?;
    let read = pipe::Receiver::from_owned_fd(read).map_err(Error::io("watch a pipe"))?;
    Ok((read, write))
}

/// The end of a pipe that is written to, opened once more: a program that makes one of its streams non-blocking has not asked for that of
/// the other.
fn second_end(end: &OwnedFd) -> Result<OwnedFd, Error> {
    let path = format!("/proc/self/fd/{}", end.as_raw_fd());
    rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(Error::io("open a pipe"))
}

fn watch(descriptor: OwnedFd) -> Result<AsyncFd<OwnedFd>, Error> {
    sys::watch(descriptor, Interest::READABLE).map_err(Error::io("watch the sandbox"))
}

/// A process that was started in a sandbox. Dropping it kills the process with everything it started, and waits until
/// that is done (two seconds at most).
#[derive(Debug)]
pub struct Running {
    /// Closing it tells the guard to kill the sandbox.
    control: Option<AsyncFd<OwnedFd>>,
    /// `None` once it is reaped, or has gone there:
    guard: Option<Child>,
    /// Where the guard goes when nothing of the process is left.
    idle: Arc<Idle>,
    /// Whether what the guard says now is still about the step before.
    settles: bool,
    /// Whether nothing more is learned after the program's end, when its mounts are gone: what follows is the end of the sandbox's own
    /// process, which nobody has to wait for.
    ends_with_program: bool,
    /// Whether the guard is done with the step.
    finished: bool,
    process: Option<Arc<OwnedFd>>,
    /// Standard output and error.
    pipes: [Option<pipe::Receiver>; 2],
    terminal: Option<Terminal>,
    /// When it began, and how long it may take.
    deadline: Option<(Instant, Duration)>,
    verdict: Verdict,
    /// Its place in the private network.
    lease: Option<Lease>,
    /// Whether the process may leave that in another state.
    may_change_network: bool,
}

/// What is known of the end.
#[derive(Debug, Default)]
struct Verdict {
    ended: Option<Ended>,
    fault: Option<Fault>,
    killed: Option<i32>,
    cause: Option<Cause>,
    notes: Vec<String>,
    times: Option<Times>,
    unsent: bool,
}

impl Verdict {
    fn take(&mut self, report: Report) {
        match report {
            Report::Started | Report::Terminal | Report::Finished => {}
            Report::OutOfMemory(limit) => self.cause = Some(Cause::OutOfMemory { limit }),
            Report::Times(times) => self.times = Some(times),
            Report::Note(note) => self.notes.push(note),
            Report::Exited(ended) => self.ended = Some(ended),
            Report::Killed(signal) => self.killed = Some(signal),
            // The first is the cause of the others.
            Report::Fault(fault) => self.fault = self.fault.take().or(Some(fault)),
        }
    }

    /// `guard` says how the outermost process ended, where it has.
    fn result(self, guard: Option<std::process::ExitStatus>) -> Result<Outcome, Error> {
        if let Some(fault) = self.fault {
            return Err(fault.into());
        }
        match self.ended {
            Some(Ended { status, cpu }) => {
                // It may have ended by itself just before it was killed.
                let cause = self.cause.filter(|cause| {
                    !matches!(cause, Cause::TimedOut { .. }) || status == ExitStatus::Signal(libc::SIGKILL)
                });
                Ok(Outcome { status, cause, notes: self.notes, cpu, times: self.times })
            }
            None => {
                let guard = guard.map(|guard| format!(" ({guard})")).unwrap_or_default();
                Err(Error::Killed(match self.killed {
                    _ if self.unsent => format!(" before it began{guard}"),
                    Some(signal) => format!(" by signal {signal}"),
                    None => guard,
                }))
            }
        }
    }
}

/// Sends signals to a running process, also while [`Running::wait`] waits.
#[derive(Clone, Debug)]
pub struct Signaller {
    process: Option<Arc<OwnedFd>>,
}

impl Signaller {
    /// Sends a signal to the process. It is the init process of its pid namespace: but for SIGKILL and SIGSTOP, it
    /// ignores signals that it has no handler for (see [`Signaller::heeds`]). A process that has ended is no error.
    ///
    /// # Errors
    /// For a number that is no signal.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        self.send(signal, 0).map_err(Error::io("send a signal"))
    }

    /// Sends a signal to the process and to what it started in its process group, as a terminal does. Kernels before
    /// 6.9 have no way to do that which cannot hit a stranger; there it goes to the process alone.
    ///
    /// # Errors
    /// For a number that is no signal.
    pub fn signal_group(&self, signal: i32) -> Result<(), Error> {
        match self.send(signal, PROCESS_GROUP) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.signal(signal),
            other => other.map_err(Error::io("send a signal")),
        }
    }

    /// Whether what is typed at its terminal reaches the process, and not a job that it started.
    pub fn is_in_foreground(&self, terminal: &crate::Terminal) -> bool {
        let foreground = terminal.foreground().map(|group| group.as_raw_nonzero().to_string());
        foreground.is_some() && foreground == self.pid()
    }

    /// Its number here.
    fn pid(&self) -> Option<String> {
        let process = self.process.as_ref()?;
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd())).ok()?;
        field(&info, "Pid:").map(str::to_owned)
    }

    /// Whether the process catches a signal or has chosen to ignore it. Of any other the kernel keeps the default
    /// action from init processes, which this is. True when it cannot be told.
    pub fn heeds(&self, signal: i32) -> bool {
        let status = self.pid().and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok());
        let chosen = status.and_then(|status| chosen_signals(&status));
        chosen.is_none_or(|chosen| {
            u32::try_from(signal)
                .ok()
                .and_then(|signal| 1_u64.checked_shl(signal.checked_sub(1)?))
                .is_none_or(|bit| chosen & bit != 0)
        })
    }

    fn send(&self, signal: i32, flags: u32) -> io::Result<()> {
        let Some(process) = &self.process else { return Ok(()) };
        match sys::pidfd_send_signal(process.as_fd(), signal, flags) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other,
        }
    }
}

/// The signals that a process ignores or catches, one bit each (`SigIgn` and `SigCgt` of proc_pid_status(5)).
fn chosen_signals(status: &str) -> Option<u64> {
    let mask = |name: &str| u64::from_str_radix(field(status, name)?, 16).ok();
    Some(mask("SigIgn:")? | mask("SigCgt:")?)
}

/// The value of a field in one of the files of `/proc` that have one a line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

impl Running {
    /// A handle for signals.
    pub fn signaller(&self) -> Signaller {
        Signaller { process: self.process.clone() }
    }

    /// The other end of its terminal, where it has one of its own ([`Stdio::Terminal`]).
    pub fn terminal(&self) -> Option<Terminal> {
        self.terminal.clone()
    }

    /// Waits for the end of the process, and of everything it started; its mounts are gone then. Dropping the future
    /// kills it.
    ///
    /// # Errors
    /// [`Error::Program`] when the program cannot be executed, others when the sandbox cannot be built.
    pub async fn wait(mut self, output: &dyn OutputSink) -> Result<Outcome, Error> {
        let [mut stdout, mut stderr] = std::mem::take(&mut self.pipes);
        let (mut out, mut err) = (vec![0; CHUNK], vec![0; CHUNK]);
        let mut typed = self.terminal.clone();
        let mut screen = vec![0; if typed.is_some() { CHUNK } else { 0 }];
        let mut deadline = self.deadline;
        loop {
            tokio::select! {
                report = self.receive() => match report? {
                    Some((report, _)) => self.verdict.take(report),
                    None => break,
                },
                read = read(&mut stdout, &mut out) => pass_on(&mut stdout, OutputStream::Stdout, read, &out, output)?,
                read = read(&mut stderr, &mut err) => pass_on(&mut stderr, OutputStream::Stderr, read, &err, output)?,
                read = read_terminal(typed.as_ref(), &mut screen) => pass_on(&mut typed, OutputStream::Stdout, read, &screen, output)?,
                after = expire(deadline) => {
                    deadline = None;
                    self.verdict.cause = Some(Cause::TimedOut { after });
                    self.signaller().signal(libc::SIGKILL)?;
                }
            }
        }
        // Everything that could write is gone: what is in the pipes now is the rest.
        drain(stdout, OutputStream::Stdout, &mut out, output)?;
        drain(stderr, OutputStream::Stderr, &mut err, output)?;
        if let Some(terminal) = typed {
            loop {
                match terminal.read_now(&mut screen).map_err(Error::io("read the process's output"))? {
                    0 => break,
                    length => output.write(OutputStream::Stdout, &screen[..length]),
                }
            }
        }
        self.finish().await
    }

    /// The next report; `None` when the rest does not matter, or all of the sandbox's processes are gone, but perhaps the guard.
    async fn receive(&mut self) -> Result<Option<(Report, Option<OwnedFd>)>, Error> {
        loop {
            let is_over = self.finished || self.is_prompt();
            let Some(control) = self.control.as_ref().filter(|_| !is_over) else { return Ok(None) };
            let packet = control
                .async_io(Interest::READABLE, |socket| control::receive(socket.as_fd()))
                .await
                .map_err(Error::io("hear from the sandbox"))?;
            let Some((bytes, descriptors)) = packet else { return Ok(None) };
            let report = serde_json::from_slice(&bytes)
                .map_err(io::Error::from)
                .map_err(Error::io("understand the sandbox"))?;
            match report {
                Report::Finished if self.settles => self.settles = false,
                _ if self.settles => {}
                Report::Finished => self.finished = true,
                report => return Ok(Some((report, descriptors.into_iter().next()))),
            }
        }
    }

    /// Whether the end of the program is known, and all that matters.
    fn is_prompt(&self) -> bool {
        self.ends_with_program && self.verdict.ended.is_some()
    }

    /// Waits for the guard to have told all, or to end.
    async fn finish(mut self) -> Result<Outcome, Error> {
        while let Some((report, _)) = self.receive().await? {
            self.verdict.take(report);
        }
        let mut status = None;
        let control = self.control.take().map(AsyncFd::into_inner);
        let can_go_on = self.finished || self.is_prompt();
        let (process, control) = match (self.guard.take(), control.filter(|_| can_go_on)) {
            (Some(process), Some(control)) => {
                self.idle.put(Guard { process, control, settles: !self.finished })
            }
            other => other,
        };
        // Without it, it ends.
        drop(control);
        self.guard = process;
        if let Some(guard) = &mut self.guard {
            let ended = watch(descriptor(guard)?)?;
            let _ready = ended.readable().await.map_err(Error::io("wait for the sandbox"))?;
            status = Some(guard.wait().map_err(Error::io("wait for the sandbox"))?);
            self.guard = None;
        }
        if let Some(lease) = self.lease.take().filter(|_| !self.may_change_network) {
            lease.give_back();
        }
        std::mem::take(&mut self.verdict).result(status)
    }
}

fn descriptor(process: &Child) -> Result<OwnedFd, Error> {
    let pid = process.id().try_into().ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Error::Killed(String::new()))?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(Error::io("watch the sandbox"))
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut process) = self.guard.take() else { return };
        // The guard kills everything and ends.
        self.control = None;
        if let Ok(guard) = descriptor(&process) {
            let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
            let mut events = [PollFd::new(&guard, PollFlags::IN)];
            let _waited = rustix::io::retry_on_intr(|| poll(&mut events, Some(&patience)));
        }
        if !matches!(process.try_wait(), Ok(Some(_))) {
            let _already_gone = process.kill();
            let _reaped = process.try_wait();
        }
    }
}

async fn read(pipe: &mut Option<pipe::Receiver>, buffer: &mut [u8]) -> io::Result<usize> {
    match pipe {
        Some(pipe) => pipe.read(buffer).await,
        None => std::future::pending().await,
    }
}

async fn read_terminal(terminal: Option<&Terminal>, buffer: &mut [u8]) -> io::Result<usize> {
    match terminal {
        Some(terminal) => terminal.read(buffer).await,
        None => std::future::pending().await,
    }
}

/// Ends when the time is over.
async fn expire(deadline: Option<(Instant, Duration)>) -> Duration {
    match deadline.and_then(|(begin, after)| Some((begin.checked_add(after)?, after))) {
        Some((end, after)) => {
            tokio::time::sleep_until(end.into()).await;
            after
        }
        None => std::future::pending().await,
    }
}

fn pass_on<Source>(
    pipe: &mut Option<Source>,
    stream: OutputStream,
    read: io::Result<usize>,
    buffer: &[u8],
    output: &dyn OutputSink,
) -> Result<(), Error> {
    match read.map_err(Error::io("read the process's output"))? {
        0 => *pipe = None,
        length => output.write(stream, &buffer[..length]),
    }
    Ok(())
}

fn drain(
    pipe: Option<pipe::Receiver>,
    stream: OutputStream,
    buffer: &mut [u8],
    output: &dyn OutputSink,
) -> Result<(), Error> {
    let Some(pipe) = pipe else { return Ok(()) };
    loop {
        match rustix::io::read(&pipe, &mut *buffer) {
            Ok(0) | Err(rustix::io::Errno::AGAIN) => return Ok(()),
            Ok(length) => output.write(stream, &buffer[..length]),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::io("read the process's output")(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_a_process_has_an_opinion_on() {
        let status =
            "Name:\tsh\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000006\nSigCgt:\t0000000000004001\n";
        assert_eq!(chosen_signals(status), Some(0x4007));
        assert_eq!(chosen_signals("Name:\tsh\n"), None);
    }
}
