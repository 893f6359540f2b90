use files::ModeChange;
use hash::{StableHash, StableHasher};

use crate::{Exec, Source};

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
    /// `--link`: the layers of input 1 on top of the tree of input 0. Neither looks into the other.
    Merge,
    /// RUN. Input 0: the root; the others: what its mounts show.
    Exec(Exec),
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
    /// From `--chmod`, for files and directories.
    pub mode: Option<ModeChange>,
    /// Whether archives among the sources are unpacked (ADD).
    pub unpack: bool,
    /// Sources that are copied as they are although `unpack` is set: downloads beside local files. Positions among the sources,
    /// from 0, ascending.
    pub packed: Vec<usize>,
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
                let packed: Vec<u64> = copy.packed.iter().map(|index| *index as u64).collect();
                packed.stable_hash(hasher);
            }
            Op::Merge => "merge".stable_hash(hasher),
            Op::Exec(exec) => {
                "exec".stable_hash(hasher);
                exec.stable_hash(hasher);
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
