use hash::{Digest, StableHash, StableHasher};
use image::Platform;

/// What a vertex does. The encoding of an operation for cache keys is its [`StableHash`]: only what changes the result goes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Brings a tree from outside.
    Source(Source),
    /// Files whose content stands in the Dockerfile (heredocs): a tree of its own, a source for a copy.
    Inline(Inline),
    /// WORKDIR: creates a directory with its parents where missing. Input 0: the tree.
    Mkdir(Mkdir),
    /// COPY, and ADD of local files. Input 0: the tree copied into; the others: the sources, each with its selection.
    Copy(Copy),
    /// RUN. Input 0: the root.
    Exec(Exec),
}

/// Where a tree comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nothing: `FROM scratch`.
    Scratch,
    /// An image, whatever it was resolved from; config values reach steps through their own fields.
    Image {
        /// As the user wrote it, for messages only.
        name: String,
        /// Digest of the platform's manifest.
        manifest: Digest,
        /// The platform.
        platform: Platform,
    },
    /// A directory given on the command line: the build context or a named one. Its consumers are keyed by content.
    Local {
        /// `context`, or the name of the named context.
        name: String,
    },
}

/// Files given as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inline {
    /// In the order of the Dockerfile.
    pub files: Vec<InlineFile>,
}

/// One file given as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineFile {
    /// Base name.
    pub name: String,
    /// `0o644` for COPY.
    pub mode: u32,
    /// Expanded content.
    pub content: Vec<u8>,
}

/// The directory of a WORKDIR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mkdir {
    /// Absolute, clean.
    pub path: String,
    /// Owner of what is created.
    pub owner: Owner,
}

/// A user or group as written: looked up in the tree's own `/etc/passwd` and `/etc/group`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnerId {
    /// A number.
    Number(u32),
    /// A name; unknown is an error.
    Name(String),
}

/// `user[:group]`. Without a group: a number is its own group in `--chown`, a name has its primary group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub user: OwnerId,
    /// The group, when given.
    pub group: Option<OwnerId>,
}

/// A copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Absolute; a trailing `/` (kept) means a directory.
    pub destination: String,
    /// From `--chown`; otherwise owners are kept, and are 0:0 from contexts and inline files.
    pub owner: Option<Owner>,
    /// From `--chmod`: octal, for files and directories.
    pub mode: Option<u32>,
    /// Whether archives among the sources are unpacked (ADD).
    pub unpack: bool,
}

/// A process in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// The program and its arguments, the shell included.
    pub args: Vec<String>,
    /// The whole environment: image ENV, declared ARGs, defaults; in the order of definition, names unique.
    pub env: Vec<(String, String)>,
    /// Set in the process but no part of the key: undeclared proxy variables.
    pub unkeyed_env: Vec<(String, String)>,
    /// Absolute.
    pub cwd: String,
    /// `user[:group]` as in USER; empty is root. Looked up in the tree when the step runs.
    pub user: String,
    /// Host name inside.
    pub hostname: String,
    /// Network asked for.
    pub network: Network,
    /// The platform whose programs run.
    pub platform: Platform,
    /// `name → address` lines for `/etc/hosts`; addresses are no part of the key.
    pub extra_hosts: Vec<(String, String)>,
}

/// Which network a process sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Network {
    /// The host's.
    Host,
    /// A loopback of its own, nothing else.
    None,
}

impl StableHash for Op {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        match self {
            Op::Source(source) => {
                "source".stable_hash(hasher);
                source.stable_hash(hasher);
            }
            Op::Inline(inline) => {
                "inline".stable_hash(hasher);
                (inline.files.len() as u64).stable_hash(hasher);
                for file in &inline.files {
                    file.name.stable_hash(hasher);
                    file.mode.stable_hash(hasher);
                    file.content.stable_hash(hasher);
                }
            }
            Op::Mkdir(mkdir) => {
                "mkdir".stable_hash(hasher);
                mkdir.path.stable_hash(hasher);
                mkdir.owner.stable_hash(hasher);
            }
            Op::Copy(copy) => {
                "copy".stable_hash(hasher);
                copy.destination.stable_hash(hasher);
                copy.owner.stable_hash(hasher);
                copy.mode.stable_hash(hasher);
                copy.unpack.stable_hash(hasher);
            }
            Op::Exec(exec) => {
                "exec".stable_hash(hasher);
                exec.args.stable_hash(hasher);
                exec.env.stable_hash(hasher);
                exec.cwd.stable_hash(hasher);
                exec.user.stable_hash(hasher);
                exec.hostname.stable_hash(hasher);
                matches!(exec.network, Network::None).stable_hash(hasher);
                exec.platform.stable_hash(hasher);
                let hosts: Vec<&String> = exec.extra_hosts.iter().map(|(name, _)| name).collect();
                hosts.stable_hash(hasher);
            }
        }
    }
}

impl StableHash for Source {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        match self {
            Source::Scratch => 0u8.stable_hash(hasher),
            Source::Image { name: _, manifest, platform } => {
                1u8.stable_hash(hasher);
                manifest.stable_hash(hasher);
                platform.stable_hash(hasher);
            }
            Source::Local { name } => {
                2u8.stable_hash(hasher);
                name.stable_hash(hasher);
            }
        }
    }
}

impl StableHash for Owner {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        self.user.stable_hash(hasher);
        self.group.stable_hash(hasher);
    }
}

impl StableHash for OwnerId {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        match self {
            OwnerId::Number(number) => {
                0u8.stable_hash(hasher);
                number.stable_hash(hasher);
            }
            OwnerId::Name(name) => {
                1u8.stable_hash(hasher);
                name.stable_hash(hasher);
            }
        }
    }
}
