//! Syntax tree and options to a build plan.
//!
//! ```text
//! Parsed ─ GlobalArgs ─▶ Stages ───────────────▶ Lowering ─────────────────▶ Plan
//!          ARG before     what each name means,   one stage after another:
//!          the first FROM which stages are needed, instructions to vertices,
//!                         what triggers add        config and history
//! ```
//!
//! [`lower()`] is a pure function. The config of a base image decides what its stage does, so images come first:
//! [`Lowered::Missing`] says which, and the caller calls again with them. Images of stages that the target does not need are
//! never asked for.
//!
//! What is here follows BuildKit's frontend (`frontend/dockerfile/dockerfile2llb`), down to names of steps and history
//! entries, so that results can be compared. Where its reference and its source disagree about ENV and ARG of the same name,
//! the reference counts: ENV wins.
//!
//! There is no disk, no network, no environment variable here, and nothing is run.

mod args;
mod chain;
mod epoch;
mod expand;
mod findings;
mod git;
mod go;
mod lint;
mod lower;
mod names;
mod options;
mod outline;
mod paths;
mod plan;
mod shown;
mod stage;
mod stages;
mod suggest;
mod url;

pub use epoch::{EpochSource, EpochTime, epoch_source};
pub use expand::{ExpandError, Expanded, Expander, Variables};
pub use git::GitReference;
pub use lint::{Checks, Rule, rule, rules};
pub use lower::lower;
pub use options::{ImageOrigin, ImageRequest, NamedContext, NoCache, Options};
pub use outline::{Outline, OutlineArg, OutlineMount, TargetInfo, targets};
pub use plan::{BaseImage, Lowered, MissingImage, Plan, Target};
pub use suggest::closest;
