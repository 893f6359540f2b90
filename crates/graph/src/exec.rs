use std::time::Duration;

use hash::{StableHash, StableHasher};
use image::Platform;
use serde::{Deserialize, Serialize};

use crate::Environment;

/// The host name of a process for which none was asked for, as BuildKit has it.
pub const HOSTNAME: &str = "buildkitsandbox";

/// A process in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The program and its arguments, the shell included.
    pub args: Vec<String>,
    /// The whole environment: image ENV, declared ARGs, defaults; in the order of definition, names unique.
    pub env: Environment,
    /// Set in the process but no part of the key: undeclared proxy variables.
    pub unkeyed_env: Vec<(String, String)>,
    /// Secrets that become variables.
    pub secret_env: Vec<SecretEnv>,
    /// Absolute.
    pub cwd: String,
    /// `user[:group]` as in USER; empty is root. Looked up in the tree when the step runs.
    pub user: String,
    /// Host name inside.
    pub hostname: String,
    /// Network asked for.
    pub network: Network,
    /// Privileges asked for.
    pub security: Security,
    /// `--device`, in order.
    pub devices: Vec<Device>,
    /// The platform whose programs run.
    pub platform: Platform,
    /// `name → address` lines for `/etc/hosts`; addresses are no part of the key.
    pub extra_hosts: Vec<(String, String)>,
    /// `--mount`, in order.
    pub mounts: Vec<Mount>,
    /// `--timeout`: how long a try may take. No part of the key.
    pub timeout: Option<Duration>,
    /// `--retry`: how many further tries a failure is given. No part of the key.
    pub retries: u32,
}

/// Which network a process sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Network {
    /// One of its own, through which it reaches others; the host's where the machine has no means for that.
    Default,
    /// One of its own, through which it reaches others.
    Private,
    /// The host's.
    Host,
    /// A loopback of its own, nothing else.
    None,
}

/// How much a process may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Security {
    /// What Docker's defaults allow.
    Sandbox,
    /// Everything that the builder may do.
    Insecure,
}

/// A device asked for by its CDI name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// `vendor/class=name`, a class, or a selector.
    pub name: String,
    /// Whether the step fails without it.
    pub required: bool,
}

/// A secret as a variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretEnv {
    /// Which secret.
    pub id: String,
    /// The variable's name.
    pub variable: String,
    /// Whether the step fails without it.
    pub required: bool,
    /// What the user says of its content: the only part of it that is in the key.
    pub version: Option<String>,
}

/// Something that a process sees at a path, and that is no part of its layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute, clean, never `/`.
    pub target: String,
    /// What is there.
    pub kind: MountKind,
    /// Whether writing to it fails.
    pub read_only: bool,
}

/// What a [`Mount`] shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A file or directory of another tree; what is written is thrown away.
    Bind {
        /// Index among the vertex's inputs. Its selection is one path without wildcards, always of a tree made of layers: what a
        /// context gives is copied to a tree of its own first.
        input: usize,
    },
    /// A directory that outlives the build.
    Cache(CacheMount),
    /// An empty file system in memory.
    Tmpfs {
        /// Limit in bytes.
        size: Option<u64>,
    },
    /// A secret as a file.
    Secret(SecretFile),
    /// The socket of an agent.
    Ssh(SecretFile),
}

/// A directory that outlives the build. Its content is no part of any key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheMount {
    /// Equal ids are the same directory; the name space of the build is part of it.
    pub id: String,
    /// Who else may use it at the same time.
    pub sharing: Sharing,
    /// What a new one begins with: index among the vertex's inputs, as in [`MountKind::Bind`].
    pub seed: Option<usize>,
    /// Permissions of a new one.
    pub mode: u32,
    /// Owner of a new one.
    pub uid: u32,
    /// Group of a new one.
    pub gid: u32,
}

/// Who may use a cache mount at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Sharing {
    /// Everybody.
    Shared,
    /// One; others get another directory.
    Private,
    /// One; others wait.
    Locked,
}

/// A secret or an agent's socket at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretFile {
    /// Which.
    pub id: String,
    /// Whether the step fails without it; otherwise there is just nothing.
    pub required: bool,
    /// What the user says of its content: the only part of it that is in the key.
    pub version: Option<String>,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl StableHash for Exec {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        self.args.stable_hash(hasher);
        self.env.stable_hash(hasher);
        self.secret_env.stable_hash(hasher);
        self.cwd.stable_hash(hasher);
        self.user.stable_hash(hasher);
        self.hostname.stable_hash(hasher);
        let network: u8 = match self.network {
            // Whatever the machine makes of it: keys are the same on all.
            Network::Default => 0,
            Network::None => 1,
            Network::Private => 2,
            Network::Host => 3,
        };
        network.stable_hash(hasher);
        matches!(self.security, Security::Insecure).stable_hash(hasher);
        self.devices.stable_hash(hasher);
        self.platform.stable_hash(hasher);
        let hosts: Vec<&String> = self.extra_hosts.iter().map(|(name, _)| name).collect();
        hosts.stable_hash(hasher);
        self.mounts.stable_hash(hasher);
    }
}

impl StableHash for Device {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        self.name.stable_hash(hasher);
        self.required.stable_hash(hasher);
    }
}

impl StableHash for SecretEnv {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        self.id.stable_hash(hasher);
        self.variable.stable_hash(hasher);
        self.required.stable_hash(hasher);
        self.version.stable_hash(hasher);
    }
}

impl StableHash for Mount {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        self.target.stable_hash(hasher);
        self.read_only.stable_hash(hasher);
        match &self.kind {
            MountKind::Bind { input } => {
                0u8.stable_hash(hasher);
                (*input as u64).stable_hash(hasher);
            }
            // Neither what is in it nor who shares it, so not which one it is.
            MountKind::Cache(cache) => {
                1u8.stable_hash(hasher);
                cache.seed.map(|input| input as u64).stable_hash(hasher);
            }
            MountKind::Tmpfs { size } => {
                2u8.stable_hash(hasher);
                size.stable_hash(hasher);
            }
            MountKind::Secret(file) => {
                3u8.stable_hash(hasher);
                file.stable_hash(hasher);
            }
            MountKind::Ssh(file) => {
                4u8.stable_hash(hasher);
                file.stable_hash(hasher);
            }
        }
    }
}

impl StableHash for SecretFile {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        self.id.stable_hash(hasher);
        self.required.stable_hash(hasher);
        self.version.stable_hash(hasher);
        self.mode.stable_hash(hasher);
        self.uid.stable_hash(hasher);
        self.gid.stable_hash(hasher);
    }
}
