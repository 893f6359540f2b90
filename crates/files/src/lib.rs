//! Selects, walks, ignores, hashes and writes trees of files.
//!
//! Everything that has files is a [`FileTree`]: a build context, the result of a stage. A [`Selection`] of a tree is walked once into a
//! [`Selected`]; the same `Selected` is hashed and copied, so that the two cannot disagree.
//! Nothing here knows Dockerfiles, the cache or tar.

mod attributes;
mod beneath;
mod copy;
mod digest;
mod directory;
mod error;
mod filter;
mod forms;
mod git_modes;
mod glob;
mod ignore;
mod ignoring;
mod mode;
mod owners;
mod paths;
mod pattern;
mod reading;
mod resolve;
mod select;
mod selection;
mod stat_cache;
mod tree;
mod writer;
mod xattrs;

pub use attributes::{Attributes, OpaqueMark, Owners};
pub use copy::{Copied, CopyOptions, attributes, write_changed, write_selected};
pub use digest::{Hashed, content_hasher, digest};
pub use directory::DirectoryTree;
pub use error::{Cancelled, Error};
pub use forms::forms;
pub use git_modes::GitModes;
pub use ignore::{Ignore, Verdict};
pub use ignoring::Ignoring;
pub use mode::{BadMode, ModeChange, SymbolicMode};
pub use paths::{HashedPath, hashed_paths};
pub use pattern::{Pattern, has_wildcards};
pub use reading::Reading;
pub use resolve::resolve;
pub use select::{Digests, Entry, Match, Selected, select};
pub use selection::{PathSelection, Selection};
pub use stat_cache::{MemoryStatCache, NoCache, StatCache, StatIdentity};
pub use tree::{FileTree, Kind, Metadata, TreeError};
pub use writer::{TreeWriter, WriterOptions};
