//! What the store found damaged is thrown away, and the build done again: what is left is found, the rest is made anew.

use std::collections::BTreeSet;
use std::path::Path;

use cache::Store;

use super::foreground::Foreground;
use super::{Args, done};
use crate::failure::{Failure, INTERRUPTED};
use crate::terminal;

/// Each time at least one thing was thrown away.
const MOST: usize = 100;

/// What a build leaves behind for the one that may follow.
#[derive(Default)]
pub(super) struct Attempt {
    /// The store that it opened.
    pub(super) store: Option<Store>,
    /// What that has already said of damage.
    pub(super) damaged: Vec<String>,
    /// Whether the program of a step failed: it would once more.
    pub(super) step_failed: bool,
}

/// Does `build` until it does not fail because of damage any more.
pub(super) fn until_sound(
    args: Args,
    build: impl Fn(Args, &mut Foreground, &mut Attempt) -> Result<u8, Failure>,
) -> Result<u8, Failure> {
    let mut foreground = Foreground::default();
    let result = attempts(args, |args, attempt| build(args, &mut foreground, attempt));
    foreground.end();
    result
}

fn attempts(
    args: Args,
    mut build: impl FnMut(Args, &mut Attempt) -> Result<u8, Failure>,
) -> Result<u8, Failure> {
    let mut told = BTreeSet::new();
    for _ in 0..MOST {
        let mut attempt = Attempt::default();
        let result = build(args.clone(), &mut attempt);
        let mut damaged = attempt.damaged;
        damaged.extend(attempt.store.iter().flat_map(Store::thrown_away));
        let may_be_damage =
            result.as_ref().is_err_and(|failure| failure.code() != INTERRUPTED) && !attempt.step_failed;
        let again = may_be_damage && !damaged.is_empty() && can_be_done_again(&args);
        if !done::is_silent(args.progress()) {
            for what in damaged.into_iter().filter(|what| told.insert(what.clone())) {
                let then = if again { "; building again" } else { "" };
                terminal::tell(&format!("WARNING: {what}{then}\n"));
            }
        }
        if !again {
            return result;
        }
    }
    build(args, &mut Attempt::default())
}

/// Standard input is read once, and nothing that was written to standard output can be taken back.
pub(super) fn can_be_done_again(args: &Args) -> bool {
    let is_input = |path: &Path| path.as_os_str() == "-";
    !is_input(&args.context)
        && !args.file.as_deref().is_some_and(is_input)
        && !args.output.iter().any(super::output::Output::uses_stdout)
}
