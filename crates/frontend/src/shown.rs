//! Values that nobody should read, where people read: names of steps and an image's history.
//!
//! Whoever substitutes knows whose value it is. A search for the value in what came out would find it in words that were
//! written so.

use std::borrow::Cow;
use std::cell::Cell;

use crate::{ExpandError, Expanded, Expander, Variables};

/// What stands for a value.
const STARS: &str = "***";

/// A value, and what of it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Text {
    pub(crate) value: String,
    /// `None` when everybody may read it.
    shown: Option<String>,
}

impl Text {
    /// A value with what is shown in its place, when that is something else.
    pub(crate) fn new(value: String, shown: Option<String>) -> Self {
        let shown = shown.filter(|shown| *shown != value);
        Self { value, shown }
    }

    /// The value of a variable: one with a secret-like name is not shown at all.
    #[must_use]
    pub(crate) fn of_variable(self, name: &str) -> Self {
        if !self.value.is_empty() && graph::is_secret_like(name) { self.concealed() } else { self }
    }

    fn concealed(self) -> Self {
        Self { shown: Some(STARS.to_owned()), ..self }
    }

    /// For people.
    pub(crate) fn shown(&self) -> &str {
        self.shown.as_deref().unwrap_or(&self.value)
    }

    /// What is shown in its place.
    pub(crate) fn instead(&self) -> Option<&str> {
        self.shown.as_deref()
    }
}

impl From<String> for Text {
    fn from(value: String) -> Self {
        Self { value, shown: None }
    }
}

/// Variables some of which nobody should read.
pub(crate) trait Secretive: Variables {
    /// The value of `name`, and what is shown in its place if that is something else.
    fn with_shown(&self, name: &str) -> Option<(&str, Option<&str>)>;
}

/// The variables as people may see them.
pub(crate) struct Shown<'a>(pub(crate) &'a dyn Secretive);

impl Variables for Shown<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.with_shown(name).map(|(value, shown)| shown.unwrap_or(value))
    }
}

/// The variables as they are, and whether one of those that were asked for is not shown.
struct Watched<'a> {
    variables: &'a dyn Secretive,
    hidden: Cell<bool>,
}

impl Variables for Watched<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let (value, shown) = self.variables.with_shown(name)?;
        if shown.is_some() {
            self.hidden.set(true);
        }
        Some(value)
    }
}

/// How much of an expansion somebody needs.
type Expand = fn(&Expander, &str, &dyn Variables) -> Result<Expanded, ExpandError>;

/// Expands a text with `expand`, and once more for people where a value went into it that nobody should read.
pub(crate) fn expand(
    expander: Expander,
    expand: Expand,
    text: &str,
    variables: &dyn Secretive,
) -> Result<(Expanded, Option<String>), ExpandError> {
    let watched = Watched { variables, hidden: Cell::new(false) };
    let expanded = expand(&expander, text, &watched);
    if !watched.hidden.get() {
        return expanded.map(|expanded| (expanded, None));
    }
    let shown = expander.expand_text(text, &Shown(variables)).map(Cow::into_owned);
    match (expanded, shown) {
        (Ok(expanded), shown) => {
            // As it is written, where stars cannot stand.
            let shown = shown.unwrap_or_else(|_| text.to_owned());
            Ok((expanded, Some(shown)))
        }
        // The message may quote values.
        (Err(error), shown) => Err(ExpandError {
            message: shown.err().map_or_else(|| STARS.to_owned(), |shown| shown.message),
            ..error
        }),
    }
}
