//! Collecting diagnostics.

use crate::diagnostic::{Diagnostic, Severity};

/// What was found so far.
#[derive(Default)]
pub(crate) struct Findings {
    list: Vec<Diagnostic>,
    in_trigger: bool,
    broken_trigger: bool,
}

impl Findings {
    /// Collects what is found in an ONBUILD trigger. Its mistakes are warnings: they fail the builds that run it,
    /// not the one that stores it.
    pub(crate) fn of_trigger() -> Self {
        Self { in_trigger: true, ..Self::default() }
    }

    pub(crate) fn report(&mut self, diagnostic: Diagnostic) {
        if self.in_trigger && diagnostic.is_error() {
            self.broken_trigger = true;
            let diagnostic = Diagnostic { severity: Severity::Warning, ..diagnostic };
            self.list
                .push(diagnostic.with_note("this trigger fails every build that uses the image as its base"));
        } else {
            self.list.push(diagnostic);
        }
    }

    /// Reports a mistake that leaves the line unreadable, also in a trigger.
    pub(crate) fn report_unreadable(&mut self, diagnostic: Diagnostic) {
        self.broken_trigger = self.in_trigger;
        self.list.push(diagnostic);
    }

    /// Whether the trigger that these are about has mistakes.
    pub(crate) fn broken_trigger(&self) -> bool {
        self.broken_trigger
    }

    pub(crate) fn append(&mut self, other: Self) {
        self.list.extend(other.list);
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.list.iter().any(Diagnostic::is_error)
    }

    /// All of them, in order of their place.
    pub(crate) fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.list.sort_by_key(|diagnostic| diagnostic.span.start);
        self.list
    }
}
