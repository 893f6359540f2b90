//! Parser directives: `# syntax=`, `# escape=`, `# check=` at the very top of a file.

use crate::ast::{Directives, Escape, Syntax, SyntaxNotation};
use crate::diagnostic::Diagnostic;
use crate::findings::Findings;
use crate::json;
use crate::reader::Reader;
use crate::span::{Span, Spanned};

/// Reads the directives; also gives the byte at which the rest of the file begins.
///
/// The first line that is anything else ends them: a blank line, an instruction, an ordinary comment or a
/// directive of another name.
pub(crate) fn read(source: &str, findings: &mut Findings) -> (Directives, usize) {
    let mut reader =
        Reader::at(source, if source.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 });
    let shebang = source[reader.position()..].starts_with("#!");
    if shebang {
        reader.next_line();
    }
    let start = reader.position();
    let mut directives = Directives::default();
    let mut seen: Vec<(Name, Span)> = Vec::new();
    let mut end = start;
    while let Some(line) = reader.next_line() {
        let Some(directive) = Directive::parse(line.text, line.span.start, "#") else { break };
        end = reader.position();
        if let Some(&(_, first)) = seen.iter().find(|(name, _)| *name == directive.name) {
            findings.report(
                Diagnostic::error(
                    directive.span,
                    format!("only one {} parser directive can be used", directive.name.as_str()),
                )
                .with_related(first, "the first one is here"),
            );
            continue;
        }
        seen.push((directive.name, directive.span));
        match directive.name {
            Name::Syntax => directives.syntax = Some(directive.syntax(SyntaxNotation::Hash)),
            Name::Check => directives.check = Some(directive.first_word()),
            Name::Escape if shebang => findings.report(
                Diagnostic::warning(directive.span, "the escape directive has no effect below a `#!` line")
                    .with_help("put it on the first line of the file"),
            ),
            Name::Escape => directives.escape = directive.escape(findings),
        }
    }
    if directives.syntax.is_none() {
        directives.syntax = foreign_syntax(source, start);
    }
    (directives, end)
}

/// The frontend that a file of another language names.
fn foreign_syntax(source: &str, start: usize) -> Option<Syntax> {
    let mut reader = Reader::at(source, start);
    while let Some(line) = reader.next_line() {
        let Some(directive) = Directive::parse(line.text, line.span.start, "//") else { break };
        if directive.name == Name::Syntax {
            return Some(directive.syntax(SyntaxNotation::Slashes));
        }
    }
    let value = json::string_member(&source[start..], "syntax")?;
    let span = Span::new(start + value.start, start + value.end);
    let value = json::decode(&source[span.range()]);
    Some(Syntax { image: Spanned::new(value.clone(), span), value, notation: SyntaxNotation::Json })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Syntax,
    Escape,
    Check,
}

impl Name {
    const ALL: [Self; 3] = [Self::Syntax, Self::Escape, Self::Check];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::Escape => "escape",
            Self::Check => "check",
        }
    }
}

struct Directive<'s> {
    name: Name,
    value: &'s str,
    value_span: Span,
    span: Span,
}

impl<'s> Directive<'s> {
    /// A line that stands at byte `start` of the file, as a directive if it is one.
    fn parse(line: &'s str, start: usize, comment: &str) -> Option<Self> {
        let trimmed = line.trim_start();
        let (name, value) = trimmed.strip_prefix(comment)?.split_once('=')?;
        let name = name.trim_start().trim_end_matches(is_blank);
        let name = Name::ALL.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(name))?;
        let after_equals = start + line.len() - value.len();
        let kept = value.trim_start_matches(is_blank);
        let value_start = after_equals + value.len() - kept.len();
        let value = kept.trim_end_matches(is_blank);
        if value.is_empty() {
            return None;
        }
        let value_span = Span::new(value_start, value_start + value.len());
        let span = Span::new(start + line.len() - trimmed.len(), value_span.end);
        Some(Self { name, value, value_span, span })
    }

    fn first_word(&self) -> Spanned<String> {
        let word = self.value.split(' ').next().unwrap_or(self.value);
        let span = Span::new(self.value_span.start, self.value_span.start + word.len());
        Spanned::new(word.to_owned(), span)
    }

    fn syntax(&self, notation: SyntaxNotation) -> Syntax {
        Syntax { image: self.first_word(), value: self.value.to_owned(), notation }
    }

    fn escape(&self, findings: &mut Findings) -> Escape {
        match self.value {
            "\\" => Escape::Backslash,
            "`" => Escape::Backtick,
            other => {
                findings.report(
                    Diagnostic::error(
                        self.value_span,
                        format!("invalid escape token '{other}' does not match ` or \\"),
                    )
                    .with_label("expected a backslash or a backtick"),
                );
                Escape::Backslash
            }
        }
    }
}

/// The blanks of the directive's own syntax.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{c}')
}
