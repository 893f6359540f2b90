//! What to run, and in what surroundings.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::wire;
use crate::{External, HostDevice, Limits, ResolvConf, Ulimit};

/// One process and everything it can see.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// The program and its arguments. A first argument without a slash is looked up in the `PATH` of [`Self::env`],
    /// inside the root file system.
    #[serde(with = "wire::list")]
    pub args: Vec<OsString>,
    /// The whole environment; nothing is inherited. `HOME` is added from the root file system's `/etc/passwd` (else
    /// `/`) when it is missing.
    #[serde(with = "wire::pairs")]
    pub env: Vec<(OsString, OsString)>,
    /// Absolute working directory inside the root file system. It is created (mode 0755, owned by root) when it is
    /// missing, and stays.
    #[serde(with = "wire::bytes")]
    pub cwd: PathBuf,
    /// Who runs it.
    pub user: User,
    /// Host name in the sandbox.
    pub hostname: String,
    /// Whether it fails where that cannot be set; else it has the name of the machine or container around it, and a note says so.
    #[serde(default)]
    pub needs_hostname: bool,
    /// The root file system.
    pub rootfs: Rootfs,
    /// Further mounts, made in this order, after `/proc`, `/dev` and `/sys`.
    pub mounts: Vec<Mount>,
    /// Contents of a read-only `/etc/hosts`; `None` leaves the image's.
    pub hosts: Option<String>,
    /// A read-only `/etc/resolv.conf`; `None` leaves the image's.
    pub resolv_conf: Option<ResolvConf>,
    /// Which network it sees.
    pub network: Network,
    /// Where its standard streams go.
    pub stdio: Stdio,
    /// Size of `/dev/shm` in bytes; `None` is 64 MiB, as Docker has it.
    pub shm_size: Option<u64>,
    /// How much it may do.
    pub security: Security,
    /// Limits of each of its processes (setrlimit(2)), over the defaults.
    pub ulimits: Vec<Ulimit>,
    /// Limits of all of its processes together.
    pub limits: Limits,
    /// Devices of the machine, besides those that every process has.
    pub devices: Vec<HostDevice>,
    /// How long it may take; then all of it is killed, and the outcome says so. Needs a Tokio runtime with time.
    pub timeout: Option<Duration>,
    /// A program that makes the process; `None`: it is made here.
    pub external: Option<External>,
    /// Rows and columns of the terminal at the start, for [`Stdio::Terminal`]; `None` is 24 and 80.
    pub terminal_size: Option<(u16, u16)>,
    /// Whether the outcome tells what the sandbox's parts took ([`crate::Outcome::times`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed: bool,
}

impl ProcessSpec {
    /// A process with Docker's usual surroundings: root in `/`, an empty environment, the host's network, captured
    /// output, no further mounts.
    pub fn new(rootfs: Rootfs, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            user: User::default(),
            hostname: "buildkitsandbox".to_owned(),
            needs_hostname: false,
            rootfs,
            mounts: Vec::new(),
            hosts: None,
            resolv_conf: None,
            network: Network::Host,
            stdio: Stdio::Captured,
            shm_size: None,
            security: Security::Default,
            ulimits: Vec::new(),
            limits: Limits::default(),
            devices: Vec::new(),
            timeout: None,
            external: None,
            terminal_size: None,
            timed: false,
        }
    }
}

/// How much a process may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    /// What Docker's defaults allow.
    #[default]
    Default,
    /// As BuildKit's `security.insecure`: every capability that the caller has, no seccomp filter, nothing masked,
    /// `/sys` and the cgroup tree writable, every device usable. As root of the machine, that is everything.
    Insecure,
}

/// Numeric identity of a process. The default is root with no additional groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub additional_gids: Vec<u32>,
}

/// The root file system of a process. Mount points made for the sandbox (`/proc`, `/etc/hosts`, [`Mount`]s, …) leave
/// no trace in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Rootfs {
    /// An overlay of directories, mounted for this one process.
    Overlay {
        /// Read-only directories, topmost first; at least one, at most 500 (the kernel's limit).
        #[serde(with = "wire::list")]
        lower: Vec<PathBuf>,
        /// Directory that receives what the process changes.
        #[serde(with = "wire::bytes")]
        upper: PathBuf,
        /// Empty directory on the same file system as `upper`, for the kernel's use.
        #[serde(with = "wire::bytes")]
        work: PathBuf,
        /// Keep overlay's marks in `user.overlay.*` attributes instead of `trusted.overlay.*`. Required in a user
        /// namespace.
        userxattr: bool,
        /// Leave out every sync of `upper` (the mount option of that name): much faster for programs that call
        /// fsync, such as dpkg. Without it the kernel also syncs the whole file system below when the run ends.
        /// Whoever keeps `upper` syncs it. `work` cannot be used again.
        volatile: bool,
    },
    /// A directory, used as it is, by one process at a time.
    Directory(#[serde(with = "wire::bytes")] PathBuf),
}

/// A further mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside the root file system; symbolic links are followed inside it. It may be missing: it is
    /// then made for the run, and removed afterwards. Must not lie in `/proc`. Inside of another mount it is made too,
    /// and stays: an empty file or directory (mode 0755, owned by root) in what that mount shows, where other sandboxes may be using it.
    #[serde(with = "wire::bytes")]
    pub target: PathBuf,
    /// What is mounted.
    pub kind: MountKind,
    /// Whether the process is kept from writing to it.
    pub read_only: bool,
}

/// What a [`Mount`] shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum MountKind {
    /// A file, directory or socket of the host, without the mounts below it.
    Bind {
        /// Path on the host.
        #[serde(with = "wire::bytes")]
        source: PathBuf,
    },
    /// A file or directory of a tree of layers.
    Layers {
        /// Directories, topmost first; at least one, at most 500. A single one that is not written to is used as it
        /// is, without overlay.
        #[serde(with = "wire::list")]
        lower: Vec<PathBuf>,
        /// Receives what is written, for the caller to throw away. `None`: nothing can be written, whatever
        /// [`Mount::read_only`] says.
        writable: Option<Writable>,
        /// As in [`Rootfs::Overlay`].
        userxattr: bool,
        /// What of the tree is mounted. Symbolic links are followed inside the tree, and `..` does not leave it.
        #[serde(with = "wire::bytes")]
        path: PathBuf,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Limit in bytes; `None` leaves the kernel's default, half of the memory.
        size: Option<u64>,
        /// Permission bits; `None`: those of the directory that it is mounted on, 1777 for one that was not there.
        mode: Option<u32>,
    },
    /// A file with these contents, in memory: it never reaches a disk.
    File {
        /// Its bytes.
        #[serde(with = "wire::bytes")]
        contents: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// Where the writes to a tree of layers go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writable {
    /// An empty directory.
    #[serde(with = "wire::bytes")]
    pub upper: PathBuf,
    /// An empty directory on the same file system, for the kernel's use.
    #[serde(with = "wire::bytes")]
    pub work: PathBuf,
}

/// Which network a process sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// That of the caller.
    Host,
    /// A new one with nothing but a loopback device.
    None,
    /// One of its own, through which it reaches others, and which the next process gets when this one has ended; see
    /// [`crate::Executor::private_network`]. Where none can be had, that of the caller, and the outcome has a note.
    Private,
}

/// Where the standard streams of a process go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// Standard input is `/dev/null`; output and errors go to the [`crate::OutputSink`].
    Captured,
    /// The same through one pipe, so that what was written to one and to the other comes in the order in which it was written; all of it as
    /// standard output.
    Joined,
    /// All three are those of the caller. The process has its own session, so that a terminal's signals reach the
    /// caller only, which passes them on with [`crate::Signaller`].
    Inherit,
    /// A terminal of its own, which is the process's controlling one. Its output goes to the [`crate::OutputSink`] as
    /// standard output; [`crate::Running::terminal`] takes input and changes of size. Switching the caller's own
    /// terminal to raw mode is the caller's.
    Terminal,
}

impl Stdio {
    /// Whether output and errors go to the [`crate::OutputSink`] through pipes.
    pub(crate) fn is_piped(self) -> bool {
        matches!(self, Stdio::Captured | Stdio::Joined)
    }
}
