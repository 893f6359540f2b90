//! Logical lines: what is left of a file when continued lines are joined and comments are taken out.

use std::ops::Range;

use crate::ast::{Comment, Escape};
use crate::diagnostic::Diagnostic;
use crate::findings::Findings;
use crate::reader::{Line, Reader};
use crate::span::Span;

/// One instruction's text in one piece, which knows where each of its bytes came from.
pub(crate) struct LogicalLine {
    /// The escape character, which is not of the file (the grammar wants to know it), then the text, trimmed.
    text: String,
    /// Pieces of `text` that are contiguous in the file: first byte in `text`, first byte in the file.
    pieces: Vec<(usize, usize)>,
    /// First line in the file.
    pub first_line: u32,
    /// The comments above.
    pub comments: Vec<Comment>,
}

impl LogicalLine {
    /// The text with the escape character before it: what the grammar reads.
    pub(crate) fn input(&self) -> &str {
        &self.text
    }

    /// The text alone.
    pub(crate) fn text(&self) -> &str {
        &self.text[1..]
    }

    /// Where a part of [`LogicalLine::input`] stands in the file.
    pub(crate) fn span(&self, part: Range<usize>) -> Span {
        if part.is_empty() {
            let at = if part.start < self.text.len() {
                self.source_offset(part.start)
            } else {
                self.source_offset(self.text.len() - 1) + 1
            };
            return Span::new(at, at);
        }
        // The end is found through the last byte, else it would jump over a continuation.
        Span::new(self.source_offset(part.start), self.source_offset(part.end - 1) + 1)
    }

    /// Where the whole line stands in the file, heredocs not included.
    pub(crate) fn whole_span(&self) -> Span {
        self.span(1..self.text.len())
    }

    /// The line from byte `start` of [`LogicalLine::input`] on, as a line of its own.
    pub(crate) fn tail(&self, start: usize) -> Self {
        let mut pieces = vec![(1, self.source_offset(start))];
        let later = self.pieces.partition_point(|&(at, _)| at <= start);
        pieces.extend(self.pieces[later..].iter().map(|&(at, source)| (at - start + 1, source)));
        Self {
            text: format!("{}{}", &self.text[..1], &self.text[start..]),
            pieces,
            first_line: self.first_line,
            comments: Vec::new(),
        }
    }

    fn source_offset(&self, at: usize) -> usize {
        let after = self.pieces.partition_point(|&(start, _)| start <= at);
        match self.pieces.get(after.saturating_sub(1)) {
            Some(&(start, source)) => source + at.saturating_sub(start),
            None => 0,
        }
    }
}

/// Reads up to the end of the next instruction's line; its heredocs come after it.
pub(crate) fn next_logical_line(
    reader: &mut Reader<'_>,
    escape: Escape,
    findings: &mut Findings,
) -> Option<LogicalLine> {
    let mut comments = Vec::new();
    while let Some(line) = reader.next_line() {
        let text = line.text.trim_start();
        if text.starts_with('#') {
            note_comment(&mut comments, text, line);
        } else if !text.is_empty() {
            let first_line = reader.number();
            let start = line.span.end - text.len();
            let mut joiner = Joiner::new(escape);
            if !joiner.push(text, start) {
                join_rest(&mut joiner, reader, findings);
            }
            return Some(joiner.finish(first_line, comments));
        }
    }
    None
}

/// An empty comment parts the comments above it from the instruction below.
fn note_comment(comments: &mut Vec<Comment>, text: &str, line: Line<'_>) {
    let content = text[1..].trim();
    if content.is_empty() {
        comments.clear();
    } else {
        let span = Span::new(line.span.end - text.len(), line.span.end);
        comments.push(Comment { text: content.to_owned(), span });
    }
}

fn join_rest(joiner: &mut Joiner, reader: &mut Reader<'_>, findings: &mut Findings) {
    let mut empty = None;
    while let Some(line) = reader.next_line() {
        let content = line.text.trim_start();
        if content.is_empty() {
            empty.get_or_insert(line.span);
        } else if !content.starts_with('#') && joiner.push(line.text, line.span.start) {
            break;
        }
    }
    if let Some(span) = empty {
        findings.report(
            Diagnostic::warning(span, "Empty continuation line")
                .with_rule("NoEmptyContinuation")
                .with_label("this line is skipped: the instruction goes on after it")
                .with_note("empty continuation lines will become errors in a future release")
                .with_help("remove the line, or the escape character at the end of the line before"),
        );
    }
}

struct Joiner {
    escape: char,
    text: String,
    pieces: Vec<(usize, usize)>,
}

impl Joiner {
    fn new(escape: Escape) -> Self {
        Self { escape: escape.char(), text: escape.char().to_string(), pieces: Vec::new() }
    }

    /// Adds a line that stands at byte `start` of the file; says whether it is the last one.
    fn push(&mut self, line: &str, start: usize) -> bool {
        let continued = self.continued(line);
        self.pieces.push((self.text.len(), start));
        self.text.push_str(continued.unwrap_or(line));
        continued.is_none()
    }

    /// The line without its continuation, if it has one: the escape character, not escaped itself, with
    /// nothing but blanks after it.
    fn continued<'l>(&self, line: &'l str) -> Option<&'l str> {
        let kept = line.trim_end_matches([' ', '\t']).strip_suffix(self.escape)?;
        (!kept.ends_with(self.escape)).then_some(kept)
    }

    fn finish(mut self, first_line: u32, comments: Vec<Comment>) -> LogicalLine {
        let trimmed = 1 + self.text[1..].trim_end().len();
        self.text.truncate(trimmed);
        // A line that is only an escape character leaves blanks of the next one in front.
        let blank = self.text[1..].len() - self.text[1..].trim_start().len();
        if blank > 0 {
            self.text.replace_range(1..1 + blank, "");
            for (at, source) in &mut self.pieces {
                let moved = blank.min(*at - 1);
                *at -= moved;
                *source += blank - moved;
            }
            self.pieces = keep_last_of_each_start(self.pieces);
        }
        LogicalLine { text: self.text, pieces: self.pieces, first_line, comments }
    }
}

fn keep_last_of_each_start(pieces: Vec<(usize, usize)>) -> Vec<(usize, usize)> {
    let mut kept: Vec<(usize, usize)> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match kept.last_mut() {
            Some(last) if last.0 == piece.0 => *last = piece,
            _ => kept.push(piece),
        }
    }
    kept
}
