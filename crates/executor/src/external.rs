//! Hands a furnished root file system over to a program outside of the sandbox that makes the process: an OCI runtime.
//!
//! Everything but `/proc` is mounted as for any other process; what the runtime does is in its configuration: namespaces,
//! capabilities, the seccomp filter, hidden paths, limits of each process, the user. It is started by the keeper, so that it and
//! what it starts end with the sandbox. Its bundle and its state lie in the keeper's scratch space, which nobody else sees
//! and which goes with it: nothing has to be deleted, also after a kill.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::control::{self, Report, Task};
use crate::fault::{Context, Fault};
use crate::guard::release_streams;
use crate::keeper::{Given, World};
use crate::mount::{self, FileSystem, INERT, Refused};
use crate::outcome::Ended;
use crate::system::CGROUP2;
use crate::times::Clock;
use crate::{Security, cgroup, program, sys, wire};

/// A program that makes the process in this one's stead, through the OCI runtime specification.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct External {
    /// The runtime.
    #[serde(with = "wire::bytes")]
    pub program: PathBuf,
    /// Arguments before those that every runtime takes.
    #[serde(with = "wire::list")]
    pub args: Vec<OsString>,
    /// Whether it puts the process into the step's control groups. Otherwise it is started in them, and finds no hierarchy of
    /// version 1, which such a runtime may refuse.
    pub enters_groups: bool,
    /// The bundle's `config.json`, without `root` and without what concerns control groups: the sandbox adds that. Of mounts
    /// it has those of `/proc` and of control groups only.
    pub config: String,
}

/// Where the bundle is for the runtime. Nothing of a build is there, and every machine has it.
const BUNDLE: &str = "/dev/shm";
/// The name of the only container of this state directory.
const NAME: &str = "step";
/// A runtime may start other programs.
const PATH: &[u8] = b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Has the runtime run the process to its end.
pub(crate) fn run(
    task: &Task,
    external: &External,
    world: &mut World,
    control: &OwnedFd,
    given: &Given,
    clock: &mut Clock,
) -> Result<Ended, Fault> {
    let name = external.program.display();
    if task.spec.security == Security::Default && world.records_owners {
        return Err(Fault::Unsupported(format!(
            "the runtime {name} cannot record owners, which takes a single user id: leave out --runtime, or give the \
             user a range in /etc/subuid and /etc/subgid"
        )));
    }
    // The bundle first: what lies in the image is looked up with the host's /proc.
    bundle(task, external, world, given)?;
    mount_proc(&name.to_string())?;
    let stdin = match &given.stdin {
        Some(stdin) => rustix::io::fcntl_dupfd_cloexec(stdin, 3).context(|| "pass on standard input")?,
        None => null()?,
    };
    if !external.enters_groups {
        show_unified_groups()?;
    }
    let streams = Streams::OfProcess { stdin };
    let call = Call { external, streams, groups: if external.enters_groups { &[] } else { &given.groups } };
    call.make("create", &["--bundle", BUNDLE, "--pid-file", &inside("pid"), NAME])?;
    let process = created().context(|| format!("read which process {name} made"))?;
    let watched = rustix::process::pidfd_open(process, PidfdFlags::empty()).context(|| "open the process")?;
    let call = Call { streams: Streams::Nobodys(null()?), ..call };
    call.make("start", &[NAME])?;
    clock.lap(|times| &mut times.process);
    release_streams(control);
    control::report(control.as_fd(), &Report::Started, Some(watched.as_fd()));
    // The runtime is gone: its process is a child of this one, the first of the pid namespace.
    sys::wait(process).context(|| format!("wait for the process that {name} made"))
}

fn inside(name: &str) -> String {
    format!("{BUNDLE}/{name}")
}

/// A runtime looks up its own processes, by the numbers that they have here.
fn mount_proc(name: &str) -> Result<(), Fault> {
    let describe = || "mount /proc for the runtime";
    let proc = match FileSystem::open("proc").and_then(|proc| proc.mount(INERT)) {
        Err(Refused { errno: Errno::PERM | Errno::ACCESS, .. }) => {
            return Err(Fault::Unsupported(format!(
                "the runtime {name} needs a /proc of its own, and this machine hides parts of /proc, so that no new one can \
                 be mounted: leave out --runtime"
            )));
        }
        other => other?,
    };
    let target = mount::open_path("/proc").context(describe)?;
    mount::attach(proc.as_fd(), target.as_fd()).context(describe)
}

/// Covers the machine's control groups with the hierarchy of version 2 alone, where there are others.
fn show_unified_groups() -> Result<(), Fault> {
    const GROUPS: &str = "/sys/fs/cgroup";
    let describe = || "mount control groups for the runtime";
    if rustix::fs::statfs(GROUPS).is_ok_and(|found| found.f_type == CGROUP2) {
        return Ok(());
    }
    let Some(top) = cgroup::Hierarchies::find().unified() else {
        return Err(Fault::Unsupported(
            "the runtime needs control groups of version 2: leave out --runtime".to_owned(),
        ));
    };
    // A user namespace may show a mount again that it could not make.
    let unified = mount::clone_host(top.as_path(), false).context(describe)?;
    let target = mount::open_path(GROUPS).context(describe)?;
    mount::attach(unified.as_fd(), target.as_fd()).context(describe)
}

/// Makes the bundle.
fn bundle(task: &Task, external: &External, world: &mut World, given: &Given) -> Result<(), Fault> {
    let describe = || format!("make a bundle in {BUNDLE}");
    // Away from `/`: a runtime that changes its root leaves the file system that was there, but not what covers it, and `/..`
    // would lead out.
    world.scratch.move_to(BUNDLE)?;
    for name in ["rootfs", "state"] {
        world.scratch.directory(name)?;
    }
    let root = mount::clone_mount(world.root.as_fd(), "", true).context(describe)?;
    let target = mount::open_path(inside("rootfs")).context(describe)?;
    mount::attach(root.as_fd(), target.as_fd()).context(describe)?;
    let config = complete(task, &external.config, world, given)?;
    std::fs::write(inside("config.json"), config.to_string()).context(describe)
}

/// The configuration with what only the sandbox knows.
fn complete(task: &Task, config: &str, world: &World, given: &Given) -> Result<Value, Fault> {
    let mut config: Value = serde_json::from_str(config)
        .map_err(std::io::Error::from)
        .context(|| "read the runtime's configuration")?;
    config["root"] = json!({"path": inside("rootfs"), "readonly": false});
    if let Some(env) = config["process"]["env"].as_array_mut() {
        // Runtimes differ in what they take for the home of a user who has none.
        let set = |entry: &&Value| {
            entry.as_str().is_some_and(|entry| entry.len() > 5 && entry.starts_with("HOME="))
        };
        if !env.iter().any(|entry| set(&entry)) {
            env.retain(|entry| entry != "HOME=");
            env.push(
                format!("HOME={}", program::home_below(&world.stubs, task.spec.user.uid).display()).into(),
            );
        }
    }
    if let Some(mounts) = config["mounts"].as_array_mut() {
        // What is mounted there already: a runtime makes devices where nothing is.
        let dev = inside("rootfs/dev");
        let mut options = vec!["rbind", "nosuid"];
        if !given.devices && task.spec.security == Security::Default {
            options.push("nodev");
        }
        mounts.push(json!({"destination": "/dev", "type": "bind", "source": dev, "options": options}));
    }
    if let Some(group) = &given.cgroup {
        config["linux"]["cgroupsPath"] = group.as_str().into();
        let devices = match task.spec.security {
            Security::Default => cgroup::device_rules(&task.spec.devices)?,
            Security::Insecure => json!([{"allow": true, "access": "rwm"}]),
        };
        config["linux"]["resources"] = json!({"devices": devices});
    }
    Ok(config)
}

/// The process that the runtime says it made.
fn created() -> std::io::Result<Pid> {
    let text = std::fs::read_to_string(inside("pid"))?;
    let number: i32 = text.trim().parse().map_err(std::io::Error::other)?;
    Pid::from_raw(number).ok_or_else(|| std::io::Error::other("it is none"))
}

fn null() -> Result<OwnedFd, Fault> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).context(|| "open /dev/null")
}

/// What the runtime's standard streams are.
enum Streams {
    /// Those of the process that it makes, which inherits them; output and errors are this process's.
    OfProcess { stdin: OwnedFd },
    /// What it reads and writes concerns nobody.
    Nobodys(OwnedFd),
}

impl Streams {
    fn take(&self) -> Result<(), Errno> {
        match self {
            Self::OfProcess { stdin } => rustix::stdio::dup2_stdin(stdin),
            Self::Nobodys(null) => {
                rustix::stdio::dup2_stdin(null)?;
                rustix::stdio::dup2_stdout(null)?;
                rustix::stdio::dup2_stderr(null)
            }
        }
    }
}

/// How the runtime is called.
struct Call<'a> {
    external: &'a External,
    streams: Streams,
    /// What it enters before it is executed.
    groups: &'a [OwnedFd],
}

impl Call<'_> {
    /// Calls it, and waits for it.
    fn make(&self, verb: &str, args: &[&str]) -> Result<(), Fault> {
        let name = self.external.program.display();
        let describe = || format!("start the runtime {name}");
        let log = inside(&format!("{verb}.log"));
        let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(std::io::Error::other);
        let program = text(self.external.program.as_os_str()).context(describe)?;
        let mut line = vec![program.clone()];
        for arg in &self.external.args {
            line.push(text(arg).context(describe)?);
        }
        let state = inside("state");
        let usual = ["--root", &state, "--log", &log, "--log-format", "json", verb];
        for arg in usual.iter().chain(args) {
            line.push(text(OsStr::new(arg)).context(describe)?);
        }
        let env = [text(OsStr::from_bytes(PATH)).context(describe)?];
        let child = sys::fork(|| {
            // First of all: whatever fails to be limited must not run.
            let limited = self.groups.iter().all(|group| rustix::io::write(group, b"0").is_ok());
            let entered = rustix::process::chdir(BUNDLE).and_then(|()| self.streams.take());
            if limited && entered.is_ok() && sys::close_on_exec_from(3).is_ok() {
                let _failed = sys::execve(&program, &line, &env);
            }
            127
        })
        .context(describe)?;
        let ended = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(child), WaitOptions::empty()))
            .context(|| format!("wait for the runtime {name}"))?;
        let status = ended.map(|(_, status)| status);
        if status.is_some_and(|status| status.exit_status() == Some(0)) {
            return Ok(());
        }
        let why = match std::fs::read_to_string(&log).ok().as_deref().and_then(last_error) {
            Some(message) => message,
            None => match status.and_then(|status| status.exit_status()) {
                Some(127) => "it cannot be executed".to_owned(),
                Some(code) => format!("it ended with exit code {code}"),
                None => "it was killed".to_owned(),
            },
        };
        Err(refusal(&self.external.program, verb, &why))
    }
}

/// The last error in a runtime's log, of which each line is JSON.
fn last_error(log: &str) -> Option<String> {
    let mut lines = log.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let line = lines.find(|line| line["level"] == "error" || line["level"] == "fatal")?;
    line["msg"].as_str().map(str::to_owned)
}

/// Tells a program that cannot be executed, which is the user's mistake, from anything else.
fn refusal(program: &Path, verb: &str, why: &str) -> Fault {
    const NOT_FOUND: [&str; 2] = ["executable file", "no such file or directory"];
    let lower = why.to_lowercase();
    let about = lower
        .find("exec: ")
        .or_else(|| lower.find("executable file"))
        .or_else(|| lower.find("open executable"));
    if let Some(about) = about {
        let found = lower.contains("permission denied") || lower.contains("is a directory");
        let missing = NOT_FOUND.iter().any(|text| lower.contains(text));
        let message = why.get(about..).unwrap_or(why).to_owned();
        let message = if message.starts_with("exec: ") { message } else { format!("exec: {message}") };
        return Fault::Program { code: if missing && !found { 127 } else { 126 }, message };
    }
    Fault::Setup(format!("{} {verb}: {why}", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_runtime_says_of_programs() {
        let code = |why: &str| match refusal(Path::new("/r"), "create", why) {
            Fault::Program { code, message } => (code, message),
            other => panic!("{other:?}"),
        };
        let runc = "runc create failed: unable to start container process: exec: \"x\": executable file not found in $PATH";
        assert_eq!(code(runc), (127, "exec: \"x\": executable file not found in $PATH".to_owned()));
        let runc = "runc create failed: unable to start container process: exec: \"/d\": permission denied";
        assert_eq!(code(runc), (126, "exec: \"/d\": permission denied".to_owned()));
        let crun = "executable file `x` not found in $PATH: No such file or directory";
        assert_eq!(code(crun), (127, format!("exec: {crun}")));
        let other = refusal(Path::new("/r"), "create", "mkdir /x: no such file or directory");
        assert!(
            matches!(other, Fault::Setup(text) if text == "/r create: mkdir /x: no such file or directory")
        );
    }

    #[test]
    fn the_last_error_counts() {
        let log = "{\"level\":\"warning\",\"msg\":\"a\"}\n{\"level\":\"error\",\"msg\":\"b\"}\nnoise\n";
        assert_eq!(last_error(log).as_deref(), Some("b"));
        assert_eq!(last_error(""), None);
    }
}
