//! Collecting what there is to say.

use std::collections::HashSet;

use image::Platform;
use parser::{Diagnostic, Span};

use crate::lint::Checks;

/// Errors and warnings so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    all: Vec<Diagnostic>,
    known: HashSet<(Span, String)>,
}

impl Findings {
    pub(crate) fn new(parsed: &[Diagnostic], checks: &Checks) -> Self {
        let mut findings = Self::default();
        for diagnostic in parsed {
            if diagnostic.is_error() {
                findings.add(diagnostic.clone());
            } else {
                findings.lint(checks, diagnostic.clone());
            }
        }
        findings
    }

    /// Adds a finding unless it is there already: each platform is lowered on its own and finds the same things.
    pub(crate) fn add(&mut self, diagnostic: Diagnostic) {
        if self.known.insert((diagnostic.span, diagnostic.message.clone())) {
            self.all.push(diagnostic);
        }
    }

    /// Adds a warning unless `checks` skip its rule.
    pub(crate) fn lint(&mut self, checks: &Checks, diagnostic: Diagnostic) {
        if checks.allow(diagnostic.rule) {
            self.add(diagnostic);
        }
    }

    pub(crate) fn have_errors(&self) -> bool {
        self.all.iter().any(Diagnostic::is_error)
    }

    /// The names of the violated rules, each once.
    pub(crate) fn rules(&self) -> Vec<&'static str> {
        let mut rules: Vec<_> = self.all.iter().filter_map(|finding| finding.rule).collect();
        rules.sort_unstable();
        rules.dedup();
        rules
    }

    /// All of them in order of their place.
    pub(crate) fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.all.sort_by_key(|finding| finding.span.start);
        self.all
    }
}

/// An error about something that other builders do and this one does not.
pub(crate) fn unsupported(span: parser::Span, what: &str) -> Diagnostic {
    Diagnostic::error(span, format!("{what} is not supported"))
}

/// An error about a platform whose programs do not run here.
pub(crate) fn unsupported_platform(span: parser::Span, platform: &Platform) -> Diagnostic {
    unsupported(span, &format!("the platform `{platform}`"))
        .with_note("images for Linux are built here, on any architecture")
}
