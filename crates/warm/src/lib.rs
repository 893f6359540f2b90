//! Results of steps that travel between machines: what is written down of them ([`Document`]), how that is kept in registries and
//! layouts ([`pack`], [`find`]), and the caches that a build may take results from ([`Caches`]).
//!
//! ```text
//! manifest or index ──▶ config: the document   records: keys ─▶ layers
//!        │                                     layers:  digest, diff id, digest of the changes, time
//!        └────────────▶ layers: blobs as any image has them
//! ```
//!
//! All that is known about a cache is one document, so that one question tells what it has. Its layers are blobs that are fetched when
//! somebody needs the files. An image may carry the document of its own layers in its config ([`INLINE`]).
//!
//! Whoever can write a cache decides what a step's result is: that layers have their digests is checked, that a key leads to the right
//! ones cannot be. Everything else about a document is suspected here.
//!
//! Not here: the state directory, unpacking, HTTP, which step needs what.

mod artifact;
mod caches;
mod document;
mod layout;

pub use artifact::{
    ArtifactForm, CONFIG, INLINE, Origin, PackedCache, REPLACED, TopDocument, find, inline, pack,
};
pub use caches::{AwayLayer, AwayRecord, Caches, Import, Imported, Number, Watcher};
pub use document::{CachedLayer, Document, Invalid, Record};
pub use layout::LayoutOrigin;
