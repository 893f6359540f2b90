//! Looks up or runs every vertex of a build once, in parallel.
//!
//! Each vertex has two keys ([`keys`]): the *definition key*, known before anything runs, and the *content key*, known once its
//! inputs are there. A result is found by either. What an operation means is the [`Worker`]'s; nothing here knows files,
//! mounts or containers, so that the tests can run arithmetic.

mod history;
pub mod keys;
mod notes;
mod solve;
mod worker;

pub use notes::{Notes, StepNote, listing};
pub use solve::{Peeked, SolveError, Solved, Solver};
pub use worker::{Arrived, Away, Executed, SelectedPath, SourceTree, Worker};
