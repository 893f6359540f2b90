//! The two keys of a vertex.
//!
//! | key | of a source | of any other vertex |
//! |---|---|---|
//! | definition | the operation (an image's manifest digest and platform) | the operation; for each input its definition key and the selection |
//! | content | – | the operation; for each input the content id of the whole tree, or the content digest of the selection |
//!
//! A selection of a local context enters both by content, with the kind of selection (whether modes and owners
//! count) but without its path: the operation has what the path means. An operation's own encoding is its
//! [`StableHash`] in crate `graph`, and so is the version of both keys. The environment of a process enters by a hash of its own
//! ([`graph::Environment`]), which a thousand steps share.

use files::Selection;
use graph::{KEY_VERSION, Op};
use hash::{CacheKey, ContentDigest, ContentId, StableHash, StableHasher};

/// One input's part of a definition key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefinitionInput<'a> {
    /// A vertex that has a definition key.
    Vertex {
        /// Its key.
        key: CacheKey,
        /// What is used of it.
        selection: &'a Selection,
    },
    /// A selection of a local context.
    Content(ContentDigest),
}

/// One input's part of a content key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentInput {
    /// The whole tree.
    Whole(ContentId),
    /// A selection.
    Selected(ContentDigest),
}

/// The definition key of a vertex.
pub fn definition_key(op: &Op, inputs: &[DefinitionInput<'_>]) -> CacheKey {
    let mut hasher = StableHasher::new(KEY_VERSION).with("D").with(op);
    (inputs.len() as u64).stable_hash(&mut hasher);
    for input in inputs {
        match input {
            DefinitionInput::Vertex { key, selection } => {
                0u8.stable_hash(&mut hasher);
                key.stable_hash(&mut hasher);
                selection.stable_hash(&mut hasher);
            }
            DefinitionInput::Content(digest) => {
                1u8.stable_hash(&mut hasher);
                digest.stable_hash(&mut hasher);
            }
        }
    }
    CacheKey::from_bytes(hasher.finish())
}

/// The content key of a vertex.
pub fn content_key(op: &Op, inputs: &[ContentInput]) -> CacheKey {
    let mut hasher = StableHasher::new(KEY_VERSION).with("C").with(op);
    (inputs.len() as u64).stable_hash(&mut hasher);
    for input in inputs {
        match input {
            ContentInput::Whole(id) => {
                0u8.stable_hash(&mut hasher);
                id.stable_hash(&mut hasher);
            }
            ContentInput::Selected(digest) => {
                1u8.stable_hash(&mut hasher);
                digest.stable_hash(&mut hasher);
            }
        }
    }
    CacheKey::from_bytes(hasher.finish())
}
