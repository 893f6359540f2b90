use hash::{StableHash, StableHasher};

/// Which part of a tree an operation uses. One value drives the hash and the copy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Selection {
    /// All of it, by identity: the root of a RUN, the base of a COPY.
    Whole,
    /// The source of a COPY or ADD: a path, or a pattern of Go's `filepath.Match` in each component.
    Path {
        /// Relative to the root of the tree, cleaned; empty means the root.
        pattern: String,
        /// Whether `*`, `?`, `[` and `\` in `pattern` are wildcards.
        wildcards: bool,
        /// Whether the mode bits count (not when the copy sets them).
        modes: bool,
        /// Whether owners count (not when the copy sets them, nor for contexts).
        owners: bool,
    },
}

impl StableHash for Selection {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        match self {
            Selection::Whole => 0u8.stable_hash(hasher),
            Selection::Path { pattern, wildcards, modes, owners } => {
                1u8.stable_hash(hasher);
                pattern.stable_hash(hasher);
                wildcards.stable_hash(hasher);
                modes.stable_hash(hasher);
                owners.stable_hash(hasher);
            }
        }
    }
}
