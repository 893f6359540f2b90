//! Questions about builds, answered without running them.
//!
//! [`Picture`] is the graph of a build with what the cache knows of each step, drawn as text, DOT, Mermaid, JSON or SVG. [`advise()`]
//! says what a build could do better. Nothing here runs a step, reads a file or knows a terminal.

mod advice;
mod picture;

pub use advice::{ListedFile, Listing, Rule, Subject, advise, rule, rules};
pub use picture::{CacheState, Edge, Format, Lane, Picture, Step};
