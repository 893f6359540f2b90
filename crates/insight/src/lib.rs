//! Questions about builds, answered without running them.
//!
//! [`Picture`] is the graph of a build with what the cache knows of each step, drawn as text, DOT, Mermaid, JSON or SVG. [`advise()`]
//! says what a build could do better. A [`BuildRecord`] is what is kept of a build; an [`Explanation`] says why its steps ran. A
//! [`Comparison`] says which steps edits rerun under one order of instructions and another. [`Timings`] say what a build waited for. Nothing here runs a step, reads a file or
//! knows a terminal.

mod advice;
mod compare;
mod explain;
mod picture;
mod record;
mod timings;
mod words;

pub use advice::{ListedFile, Listing, Rule, Subject, advise, rule, rules};
pub use compare::{
    Comparison, Cost, Edit, Effect, Expected, OrderedStep, Ordering, Prediction, Touch, Touched,
};
pub use explain::{Cause, Explanation};
pub use picture::{CacheState, Edge, Format, Lane, Picture, Step};
pub use record::{
    BuildRecord, BuildResult, GivenImage, Invocation, RECORD_VERSION, StepInput, StepOutcome, StepRecord,
};
pub use timings::{Subjects, Timings};
pub use words::{LEAST, fit, in_columns, start, widths};
