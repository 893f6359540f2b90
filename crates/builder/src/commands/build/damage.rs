//! What the store found damaged is thrown away, and the build done again: what is left is found, the rest is made anew.

use std::collections::BTreeSet;
use std::path::Path;

use cache::Store;

use super::{Args, done};
use crate::failure::Failure;
use crate::terminal;

/// Each time at least one thing was thrown away.
const MOST: usize = 100;

/// Does `build` until it does not fail because of damage any more. It hands out the store that it opened.
pub(super) fn until_sound(
    args: Args,
    build: impl Fn(Args, &mut Option<Store>) -> Result<u8, Failure>,
) -> Result<u8, Failure> {
    let mut told = BTreeSet::new();
    for _ in 0..MOST {
        let mut store = None;
        let result = build(args.clone(), &mut store);
        let damaged = store.map(|store| store.thrown_away()).unwrap_or_default();
        let again = result.is_err() && !damaged.is_empty() && can_be_done_again(&args);
        if !done::is_silent(args.progress()) {
            for what in damaged.into_iter().filter(|what| told.insert(what.clone())) {
                let then = if again { "; building again" } else { "" };
                terminal::tell(&format!("WARNING: {what} was damaged and thrown away{then}\n"));
            }
        }
        if !again {
            return result;
        }
    }
    build(args, &mut None)
}

/// Standard input is read once, and nothing that was written to standard output can be taken back.
fn can_be_done_again(args: &Args) -> bool {
    let is_input = |path: &Path| path.as_os_str() == "-";
    !is_input(&args.context)
        && !args.file.as_deref().is_some_and(is_input)
        && !args.output.iter().any(super::output::Output::uses_stdout)
}
