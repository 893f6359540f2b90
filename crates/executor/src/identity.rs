//! Who the process is, in terms of what it may do with other ids.

/// A range of user or group ids that can be used inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// First id, as seen inside.
    pub inside: u32,
    /// The same id outside.
    pub outside: u32,
    /// Number of ids.
    pub count: u32,
}

/// What the process is after [`crate::enter_user_namespace`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Root of the machine: every id can be used, overlay keeps its marks in `trusted.*`.
    Root,
    /// Root of a user namespace with a range of ids. Overlay must use `user.*` attributes.
    Rootless {
        /// User ids, in ascending order of `inside`.
        uids: Vec<IdRange>,
        /// Group ids, likewise.
        gids: Vec<IdRange>,
    },
    /// Root of a user namespace with only the caller's own id, which is 0 inside. Every other owner must be recorded
    /// elsewhere, and a process can only run as 0.
    SingleId {
        /// Why there is no range, for the user: names the file or program that is missing.
        reason: String,
    },
}

impl Identity {
    /// Whether overlay must be mounted with `userxattr`.
    pub fn needs_userxattr(&self) -> bool {
        !matches!(self, Self::Root)
    }

    /// Whether files can be given this owner and processes run as it.
    pub fn can_use(&self, uid: u32, gid: u32) -> bool {
        let within = |ranges: &[IdRange], id: u32| {
            ranges.iter().any(|range| id.checked_sub(range.inside).is_some_and(|offset| offset < range.count))
        };
        match self {
            Self::Root => true,
            Self::Rootless { uids, gids } => within(uids, uid) && within(gids, gid),
            Self::SingleId { .. } => uid == 0 && gid == 0,
        }
    }
}
