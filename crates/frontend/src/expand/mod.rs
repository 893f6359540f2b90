//! Variable expansion: `$v`, `${v:-w}`, quotes and escapes, as BuildKit's shell lexer reads them
//! (`frontend/dockerfile/shell/lex.go`), which is a little less than a shell does.

mod pattern;
mod scan;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use scan::Scan;

/// The variables that an expansion may use.
pub trait Variables {
    /// The value of `name`; `None` when it is unset, which is not the same as empty.
    fn get(&self, name: &str) -> Option<&str>;
}

impl Variables for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// How text is expanded. The same value can be used for many words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expander {
    escape: char,
    quoting: bool,
    keep_quotes: bool,
    keep_unset: bool,
    /// Bytes of a result.
    longest: usize,
}

/// Doubling a variable forty times must not fill the memory.
const LONGEST: usize = 16 << 20;

/// No name of an image is nearly as long.
const LONGEST_NAME: usize = 1 << 10;

/// What an expansion gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The text, quotes and escapes resolved.
    pub text: String,
    /// The text split at blanks that were not quoted; blanks that come out of a variable count.
    pub words: Vec<String>,
    /// The variables that were asked for and are set.
    pub used: BTreeSet<String>,
    /// The variables that were asked for and are not set.
    pub unset: BTreeSet<String>,
}

/// Text that cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpandError {
    /// What is wrong, in one line.
    pub message: String,
    /// Where, in bytes of the text.
    pub range: Range<usize>,
    /// The result would be too long: much was done before that was seen.
    pub too_long: bool,
}

impl ExpandError {
    /// What it is taken to have cost, as bytes of text.
    pub(crate) const fn cost(&self) -> usize {
        if self.too_long { LONGEST } else { 0 }
    }
}

impl Expander {
    /// The ordinary expansion of words, with the file's escape character.
    pub const fn new(escape: char) -> Self {
        Self { escape, quoting: true, keep_quotes: false, keep_unset: false, longest: LONGEST }
    }

    /// The ordinary expansion of words that name something: images, stages, platforms.
    pub(crate) const fn for_names(escape: char) -> Self {
        Self { longest: LONGEST_NAME, ..Self::new(escape) }
    }

    /// For the bodies of heredocs: quotes mean nothing there, and the escape character is always the backslash.
    pub const fn for_heredoc() -> Self {
        Self { escape: '\\', quoting: false, keep_quotes: false, keep_unset: false, longest: LONGEST }
    }

    /// For showing a command to people: quotes stay, and so do variables that are not set.
    pub const fn for_display(escape: char) -> Self {
        Self { escape, quoting: true, keep_quotes: true, keep_unset: true, longest: LONGEST }
    }

    /// Expands `text`.
    ///
    /// # Errors
    /// Quotes or braces without an end, operators that do not exist, patterns with a bad escape, `${v:?message}`
    /// of an empty variable, results beyond 16 MiB, braces nested more than 64 deep.
    pub fn expand(&self, text: &str, variables: &dyn Variables) -> Result<Expanded, ExpandError> {
        if self.leaves(text) {
            let words = text.split_whitespace().map(str::to_owned).collect();
            return Ok(Expanded { text: text.to_owned(), words, ..Expanded::default() });
        }
        Scan::new(*self, text, variables, true).run()
    }

    /// The same for who needs no words: there are none in what it gives.
    pub(crate) fn expand_whole(
        &self,
        text: &str,
        variables: &dyn Variables,
    ) -> Result<Expanded, ExpandError> {
        if self.leaves(text) {
            return Ok(Expanded { text: text.to_owned(), ..Expanded::default() });
        }
        Scan::new(*self, text, variables, false).run()
    }

    /// The same for who needs the text alone.
    pub(crate) fn expand_text<'t>(
        &self,
        text: &'t str,
        variables: &dyn Variables,
    ) -> Result<Cow<'t, str>, ExpandError> {
        if self.leaves(text) {
            return Ok(text.into());
        }
        Scan::new(*self, text, variables, false).run().map(|expanded| expanded.text.into())
    }

    /// Whether nothing in `text` means anything.
    fn leaves(&self, text: &str) -> bool {
        !text.contains(|c| self.has_meaning(c))
    }

    fn has_meaning(&self, c: char) -> bool {
        matches!(c, '$' | '\'' | '"') || c == self.escape
    }
}

#[cfg(test)]
mod tests;
