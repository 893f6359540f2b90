//! Questions about builds, answered without running them.
//!
//! [`Picture`] is the graph of a build with what the cache knows of each step, drawn as text, DOT, Mermaid, JSON or SVG. Nothing here
//! runs a step, reads a file or knows a terminal.

mod picture;

pub use picture::{CacheState, Edge, Format, Lane, Picture, Step};
