//! Runs one process in a sandbox.
//!
//! [`Sandbox`] starts the running binary again as a single-threaded helper (`/proc/self/exe` with
//! [`SANDBOX_ARGUMENT`]), which builds namespaces, mounts and `/dev`, drops capabilities, installs Docker's seccomp
//! profile and executes the program. Nothing of that happens in the calling process: it is safe beside threads and
//! its cost does not depend on the caller's memory.
//!
//! ```text
//!  caller ──control socket──▶ guard ──fork──▶ keeper (pid 1 of an outer pid namespace)
//!     ▲                        watches           mounts, stubs ──fork──▶ the program (pid 1 of its own)
//!     └──── stdout, stderr ────────────────────────────────────────────────┘
//! ```
//!
//! The guard watches the control socket: when the caller dies or drops the run, it kills the keeper. The keeper is
//! the init process of a pid namespace that contains the program's: when it dies, for whatever reason, the kernel
//! kills everything inside. So no process outlives a run, whatever it does to hide.
//!
//! The guard also makes the control groups of a step (limits, devices), and removes them. Where there is a single id, the
//! keeper answers the step's calls that change or show owners. What connects a private network runs below a guard of its
//! own; a step enters a namespace that is connected already, and the next step of a [`Sandbox`] gets the same.
//!
//! Where an [`External`] program is to make the process, an OCI runtime, the keeper hands the furnished root file system over to it
//! and waits for what it makes.
//!
//! A program that uses this crate calls [`sandbox_init`] first thing in `main`, then [`enter_user_namespace`]
//! before it starts a thread.
//!
//! The crate knows nothing of snapshots, vertices, image configs or the state directory: it is told directories and
//! bytes. It does not resolve user names.

#![warn(missing_docs)]

mod cdi;
mod cgroup;
mod control;
mod defaults;
mod device;
mod dumps;
mod error;
mod external;
mod fault;
mod guard;
mod identity;
mod keeper;
mod limits;
mod lsm;
mod mount;
mod network;
mod outcome;
mod owners;
mod probe;
mod program;
mod resolv_conf;
mod rootfs;
mod run;
mod scratch;
mod seccomp;
mod spec;
mod stubs;
mod sys;
mod system;
mod terminal;
mod times;
mod trial;
mod userns;
mod wire;

pub use cdi::{Cdi, DeviceEdits};
pub use defaults::Defaults;
pub use device::HostDevice;
pub use dumps::leave_memory_out_of_core_dumps;
pub use error::Error;
pub use external::External;
pub use guard::sandbox_init;
pub use identity::{IdRange, Identity};
pub use limits::{Limits, Ulimit};
pub use network::{NetworkKind, PrivateNetwork};
pub use outcome::{Cause, ExitStatus, Outcome};
pub use probe::{Feature, Machine, describe_network, probe};
pub use resolv_conf::{NameService, OUT_OF_REACH, ResolvConf};
pub use rootfs::MAXIMUM_LOWER;
pub use run::{Executor, OutputSink, OutputStream, Running, Sandbox, Signaller};
pub use spec::{Mount, MountKind, Network, ProcessSpec, Rootfs, Security, Stdio, User, Writable};
pub use terminal::Terminal;
pub use times::Times;
pub use trial::{SubordinateIds, try_overlay, try_user_namespace};
pub use userns::{enter_new_user_namespace, enter_user_namespace, find_tool};

/// The hidden first argument that makes a binary the sandbox helper; see [`sandbox_init`].
pub const SANDBOX_ARGUMENT: &str = "sandbox-init";
