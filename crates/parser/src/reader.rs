//! The file as physical lines.

use crate::span::Span;

/// Gives a file's lines one after the other and counts them.
pub(crate) struct Reader<'s> {
    source: &'s str,
    position: usize,
    number: u32,
}

/// A line as it stands in the file.
#[derive(Clone, Copy)]
pub(crate) struct Line<'s> {
    /// Its text without the line end (all trailing carriage returns belong to it).
    pub text: &'s str,
    /// Where `text` stands.
    pub span: Span,
}

impl<'s> Reader<'s> {
    /// A reader of `source` whose next line begins at byte `position`.
    pub(crate) fn at(source: &'s str, position: usize) -> Self {
        let number = source[..position].matches('\n').count() as u32;
        Self { source, position, number }
    }

    pub(crate) fn source(&self) -> &'s str {
        self.source
    }

    /// First byte of the next line.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// Number of the line read last, from 1.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn next_line(&mut self) -> Option<Line<'s>> {
        let rest = &self.source[self.position..];
        if rest.is_empty() {
            return None;
        }
        let length = rest.find('\n').map_or(rest.len(), |newline| newline + 1);
        let text = rest[..length].trim_end_matches(['\r', '\n']);
        let span = Span::new(self.position, self.position + text.len());
        self.position += length;
        self.number = self.number.saturating_add(1);
        Some(Line { text, span })
    }
}
