//! Places in the source text.

use std::fmt;
use std::ops::{Deref, Range};

use serde::Serialize;

/// A range of bytes of the source text, `start` inclusive, `end` exclusive. Both lie on character
/// boundaries, and a byte-order mark counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// The byte after the last one.
    pub end: usize,
}

impl Span {
    /// The span from `start` up to `end`.
    pub const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// The smallest span that covers both.
    pub fn to(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// Number of bytes.
    pub const fn len(self) -> usize {
        self.end - self.start
    }

    /// Whether it covers no byte; such a span marks a place where something is missing.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// As a range, for slicing the source text.
    pub const fn range(self) -> Range<usize> {
        self.start..self.end
    }

    /// Line and column of the first byte, both counted from 1; the column counts characters, without a
    /// byte-order mark. `source` is the text that was parsed.
    pub fn line_col(self, source: &str) -> (usize, usize) {
        let mut at = self.start.min(source.len());
        while !source.is_char_boundary(at) {
            at -= 1;
        }
        let before = &source[..at];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        let column = before[line_start..].trim_start_matches('\u{feff}').chars().count() + 1;
        (line, column)
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

/// First and last line of something, counted from 1, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Lines {
    /// The line where it begins.
    pub first: u32,
    /// The line where it ends.
    pub last: u32,
}

/// A value that is final (nothing in it is expanded later) and the place it came from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it stands in the source.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// `value`, found at `span`.
    pub const fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

impl<T> Deref for Spanned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Spanned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} @ {:?}", self.value, self.span)
    }
}

/// Text that is not expanded yet: variables, quotes and escapes stand in it as they were written (with the
/// file's escape character, see [`Directives::escape`](crate::Directives)). Lines that were continued are joined.
#[derive(Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Word {
    /// The text, to be expanded by whoever lowers the instruction.
    pub text: String,
    /// Where it stands in the source, from its first to its last character, continuations included.
    pub span: Span,
}

impl Word {
    /// `text`, found at `span`.
    pub fn new(text: impl Into<String>, span: Span) -> Self {
        Self { text: text.into(), span }
    }

    /// The place of a part of the text, given as byte range of `text`: exact where the word stands in the
    /// source as it is, else (it was quoted in a flag or in JSON, or goes over several lines) the whole word.
    pub fn span_of(&self, part: Range<usize>) -> Span {
        if self.span.len() == self.text.len() && part.start <= part.end && part.end <= self.text.len() {
            Span::new(self.span.start + part.start, self.span.start + part.end)
        } else {
            self.span
        }
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} @ {:?}", self.text, self.span)
    }
}
