//! What the readers of the instructions share.

use crate::diagnostic::Diagnostic;
use crate::findings::Findings;
use crate::grammar::Node;
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
        self.line.span(node.place())
    }

    /// A node's text, to be expanded later.
    pub(crate) fn word(&self, node: &Node<'_>) -> Word {
        Word::new(node.text, self.span(node))
    }

    /// A node's text, final.
    pub(crate) fn spanned(&self, node: &Node<'_>) -> Spanned<String> {
        Spanned::new(node.text.to_owned(), self.span(node))
    }

    /// The members of a JSON array; the places are those between the quotes.
    pub(crate) fn strings(&self, array: Node<'_>) -> Vec<Word> {
        array
            .into_inner()
            .map(|string| {
                let quoted = string.place();
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

    /// Warns about arguments that were surely meant as a JSON array but are none. `start` is where they begin.
    pub(crate) fn warn_of_broken_json(&mut self, start: usize) {
        use Keyword::{Add, Copy, Shell, Volume};
        let text = self.line.input()[start..].trim_end();
        let are_paths = matches!(self.keyword, Add | Copy | Volume);
        // For SHELL that is an error.
        if !takes_json(self.keyword) || self.keyword == Shell || !self.looks_like_json(text, are_paths) {
            return;
        }
        let Some(mistake) = json::mistake(text) else { return };
        let (outcome, label) = match are_paths {
            true => ("so its parts are paths", "taken as paths"),
            false => ("so the shell gets it", "taken as shell command"),
        };
        let message = format!("this looks like a JSON array but is not one, {outcome}: {mistake}");
        let warning = Diagnostic::warning(self.line.span(start..start + text.len()), message)
            .with_rule("MalformedJSONArgs")
            .with_label(label);
        self.report(warning);
    }

    /// Whether nobody writes that for a shell, or as a pattern of file names: `[ -f x ] && y` is a test, and so is `[ "$x" = y ]`.
    fn looks_like_json(&self, text: &str, are_paths: bool) -> bool {
        let Some(rest) = text.strip_prefix('[') else { return false };
        let quoted = |text: &str| text.starts_with(['"', '\'', '“', '‘']);
        let inside = rest.strip_suffix(']');
        let list = inside.is_some_and(|inside| inside.contains(','));
        let bare = inside.is_some_and(|inside| {
            !inside.starts_with(|c: char| c.is_whitespace() || c == '[') && !inside.is_empty()
        });
        quoted(rest)
            || list && (quoted(rest.trim_start()) || are_paths)
            || bare && !are_paths && self.keyword != Keyword::Run
    }
}

fn takes_json(keyword: Keyword) -> bool {
    use Keyword::{Add, Cmd, Copy, Entrypoint, Healthcheck, Run, Shell, Volume};
    matches!(keyword, Add | Cmd | Copy | Entrypoint | Healthcheck | Run | Shell | Volume)
}
