use hash::{StableHash, StableHasher};

/// Which part of a tree an operation uses. One value drives the hash and the copy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Selection {
    /// All of it, by identity: the root of a RUN, the base of a COPY.
    Whole,
    /// The source of a COPY, ADD or bind mount.
    Path(PathSelection),
}

/// A path, or a pattern of Go's `filepath.Match` in each component, and what of it counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathSelection {
    /// Relative to the root of the tree, cleaned; empty means the root.
    pub pattern: String,
    /// Whether `*`, `?`, `[` and `\` in `pattern` are wildcards.
    pub wildcards: bool,
    /// Of `COPY --parents`: only what matches this pattern below each match, with the directories that lead there. Its syntax is
    /// that of an ignore file (`**` spans directories). Without wildcards it has to exist.
    pub include: Option<String>,
    /// Of `--exclude`: patterns of an ignore file, relative to each match; what they match is left out.
    pub exclude: Vec<String>,
    /// Whether the mode bits count (not when the copy sets them).
    pub modes: bool,
    /// Whether owners count (not when the copy sets them, nor for contexts).
    pub owners: bool,
}

impl PathSelection {
    /// One path without wildcards, modes and owners counting.
    pub fn exact(pattern: impl Into<String>) -> PathSelection {
        PathSelection {
            pattern: pattern.into(),
            wildcards: false,
            include: None,
            exclude: Vec::new(),
            modes: true,
            owners: true,
        }
    }
}

impl StableHash for Selection {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        match self {
            Selection::Whole => 0u8.stable_hash(hasher),
            Selection::Path(path) => {
                // 1 was also that of `--parents` when it still took files as if they were below themselves.
                let kind: u8 = if path.include.is_some() { 2 } else { 1 };
                kind.stable_hash(hasher);
                path.pattern.stable_hash(hasher);
                path.wildcards.stable_hash(hasher);
                path.include.stable_hash(hasher);
                path.exclude.stable_hash(hasher);
                path.modes.stable_hash(hasher);
                path.owners.stable_hash(hasher);
            }
        }
    }
}
