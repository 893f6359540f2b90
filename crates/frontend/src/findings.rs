//! Collecting what there is to say.

use std::borrow::Cow;
use std::collections::HashSet;

use graph::{Definition, SecretValues};
use image::Platform;
use parser::{Diagnostic, Span};

use crate::lint::{Checks, OWN};

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

    /// The names of upstream's rules that are violated, each once.
    pub(crate) fn rules(&self) -> Vec<&'static str> {
        let rules = self.all.iter().filter_map(|finding| finding.rule);
        let mut rules: Vec<_> = rules.filter(|rule| !OWN.contains(rule)).collect();
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

/// Takes values out of messages that nobody should read: those of a definition as far as it was begun.
pub(crate) fn conceal(findings: &mut [Diagnostic], definition: &Definition) {
    if findings.is_empty() {
        return;
    }
    let hidden = SecretValues::of(definition);
    for finding in findings {
        let related = finding.related.iter_mut().map(|label| &mut label.text);
        let texts = [&mut finding.message, &mut finding.label].into_iter().chain(related);
        for text in texts.chain(&mut finding.notes).chain(&mut finding.help) {
            if let Cow::Owned(concealed) = hidden.conceal(text) {
                *text = concealed;
            }
        }
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
