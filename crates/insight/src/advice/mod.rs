//! Advice about a build: checks that look at the whole of it, where those of [`frontend::rules`] look at one instruction.
//!
//! Each rule is a file, and has a page in `docs/checks` whose examples are its tests. A rule that is not certain is silent.

mod apt_get_update_alone;
mod arg_reaches_unrelated_run;
mod copy_before_expensive_run;
mod copy_overwritten;
mod large_unused_context_file;
mod listing;
mod packages;
mod rule;
mod shell;
mod steps;

use frontend::{Checks, Plan};
use parser::{Comment, Diagnostic, Parsed};

pub use listing::{ListedFile, Listing};
pub use rule::{Rule, rule, rules};

/// What advice is given about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The Dockerfile's text.
    pub source: &'a str,
    /// The same, parsed.
    pub parsed: &'a Parsed,
    /// The same, lowered.
    pub plan: &'a Plan,
    /// The files of the main build context, where they are known: without, some rules are silent and others careful.
    pub context: Option<&'a Listing>,
    /// Which rules are to be left out.
    pub checks: &'a Checks,
}

/// Warnings in the order of their places. Nothing is read but the arguments.
pub fn advise(subject: &Subject<'_>) -> Vec<Diagnostic> {
    let stages = steps::stages(subject);
    let mut advice = Advice { checks: subject.checks, found: Vec::new() };
    for stage in &stages {
        copy_before_expensive_run::look(subject, stage, &mut advice);
        apt_get_update_alone::look(stage, &mut advice);
        copy_overwritten::look(subject, stage, &mut advice);
        arg_reaches_unrelated_run::look(subject, stage, &mut advice);
    }
    large_unused_context_file::look(subject, &mut advice);
    advice.found.sort_by_key(|finding| finding.span.start);
    advice.found
}

/// What was found so far.
struct Advice<'a> {
    checks: &'a Checks,
    found: Vec<Diagnostic>,
}

impl Advice<'_> {
    /// Adds a finding unless the file skips its rule, or one of the instructions that it is about does in the comments above.
    fn give(&mut self, finding: Diagnostic, comments: &[&[Comment]]) {
        let skipped = |comments: &&[Comment]| !self.checks.with_comments(comments).allow(finding.rule);
        if self.checks.allow(finding.rule) && !comments.iter().any(skipped) {
            self.found.push(finding);
        }
    }
}

/// `a`, `a and b`, `a, b and c`.
fn listed(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [only] => only.clone(),
        [all @ .., last] => format!("{} and {last}", all.join(", ")),
    }
}
