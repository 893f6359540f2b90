//! What the readers of the instructions share.

use std::ops::Range;

use crate::diagnostic::Diagnostic;
use crate::findings::Findings;
use crate::grammar::{Node, Rule};
use crate::heredoc::{self, Announced};
use crate::json;
use crate::keyword::Keyword;
use crate::logical::LogicalLine;
use crate::reader::Reader;
use crate::span::{Span, Spanned, Word};

/// An instruction that is being read: its line, the lines after it, and what there is to say about it.
pub(crate) struct Context<'a, 's> {
    pub line: &'a LogicalLine,
    pub keyword: Keyword,
    pub reader: &'a mut Reader<'s>,
    pub findings: &'a mut Findings,
}

impl Context<'_, '_> {
    pub(crate) fn report(&mut self, diagnostic: Diagnostic) {
        self.findings.report(diagnostic);
    }

    pub(crate) fn error(&mut self, span: Span, message: impl Into<String>, label: &str) {
        self.report(Diagnostic::error(span, message).with_label(label));
    }

    pub(crate) fn span(&self, node: &Node<'_>) -> Span {
        self.line.span(part(node))
    }

    /// A node's text, to be expanded later.
    pub(crate) fn word(&self, node: &Node<'_>) -> Word {
        Word::new(node.as_str(), self.span(node))
    }

    /// A node's text, final.
    pub(crate) fn spanned(&self, node: &Node<'_>) -> Spanned<String> {
        Spanned::new(node.as_str().to_owned(), self.span(node))
    }

    /// The members of a JSON array; the places are those between the quotes.
    pub(crate) fn strings(&self, array: Node<'_>) -> Vec<Word> {
        array
            .into_inner()
            .map(|string| {
                let quoted = part(&string);
                let inside = quoted.start + 1..quoted.end - 1;
                let written = &self.line.input()[inside.clone()];
                let span = if inside.is_empty() { self.line.span(quoted) } else { self.line.span(inside) };
                Word::new(json::decode(written), span)
            })
            .collect()
    }

    /// Reads the bodies of the heredocs that the line announces.
    pub(crate) fn heredocs(&mut self) -> Vec<Announced> {
        heredoc::read_all(self.line, self.reader, self.findings)
    }

    /// Reports arguments that are a JSON array but not one of strings, which has no other reading. `start` is
    /// where the arguments begin.
    pub(crate) fn refuse_non_strings(&mut self, start: usize) -> bool {
        if !takes_json(self.keyword) {
            return false;
        }
        let Some(member) = json::non_string_member(&self.line.input()[start..]) else { return false };
        let span = self.line.span(start + member.start..start + member.end);
        self.findings.report_unreadable(
            Diagnostic::error(span, "when using JSON array syntax, arrays must be comprised of strings only")
                .with_label("expected a string in double quotes"),
        );
        true
    }

    /// Warns about text that was surely meant as a JSON array but is not one.
    pub(crate) fn warn_of_broken_json(&mut self, node: &Node<'_>) {
        let text = node.as_str();
        let Some(inside) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else { return };
        let quote = inside.trim_start().chars().next();
        if inside.contains(',') && matches!(quote, Some('"' | '\'')) && node.as_rule() == Rule::text {
            let mut diagnostic = Diagnostic::warning(
                self.span(node),
                "this looks like a JSON array but is not one: the shell gets it",
            )
            .with_label("taken as shell command");
            if quote == Some('\'') {
                diagnostic = diagnostic.with_help("JSON strings stand in double quotes");
            }
            self.report(diagnostic);
        }
    }
}

/// A node's place in the line.
pub(crate) fn part(node: &Node<'_>) -> Range<usize> {
    let span = node.as_span();
    span.start()..span.end()
}

fn takes_json(keyword: Keyword) -> bool {
    use Keyword::{Add, Cmd, Copy, Entrypoint, Healthcheck, Run, Shell, Volume};
    matches!(keyword, Add | Cmd | Copy | Entrypoint | Healthcheck | Run | Shell | Volume)
}
