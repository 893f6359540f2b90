//! Lines that are no instruction, in the words of the language.

use std::ops::Range;

use crate::context::Context;
use crate::diagnostic::Diagnostic;
use crate::findings::Findings;
use crate::flags::Flags;
use crate::grammar::{self, Mismatch, Rule};
use crate::instruction::is_blank;
use crate::keyword::Keyword;
use crate::logical::LogicalLine;
use crate::reader::Reader;
use crate::span::Spanned;
use crate::{heredoc, suggest};

/// Reports an instruction that does not exist; says which one was probably meant.
pub(crate) fn unknown_instruction(
    line: &LogicalLine,
    keyword: &Spanned<String>,
    reader: &mut Reader<'_>,
    findings: &mut Findings,
) -> Option<Keyword> {
    if keyword.is_empty() {
        findings.report(
            Diagnostic::error(line.whole_span(), "the line is continued, but no instruction follows")
                .with_label("expected an instruction"),
        );
        return None;
    }
    let near = suggest::nearest(&keyword.to_uppercase(), Keyword::ALL.map(Keyword::as_str));
    let mut diagnostic = Diagnostic::error(keyword.span, format!("unknown instruction: {}", keyword.value))
        .with_label("expected an instruction");
    if let Some(name) = near {
        let name =
            if keyword.value == keyword.to_lowercase() { name.to_lowercase() } else { name.to_owned() };
        diagnostic = diagnostic.with_help(format!("did you mean {name}?"));
    } else if keyword.starts_with("//") || keyword.starts_with("--") {
        diagnostic = diagnostic.with_help("comments begin with `#`");
    } else if keyword.contains(|c: char| c.is_whitespace()) {
        diagnostic =
            diagnostic.with_help("there is a non-breaking space or the like in it: use an ordinary blank");
    } else if line.first_line > 1 {
        diagnostic = diagnostic.with_note(
            "a line belongs to the instruction above it only if that one ends with the escape character",
        );
    }
    findings.report(diagnostic);
    let meant = near.and_then(Keyword::parse);
    if matches!(meant, Some(Keyword::Run | Keyword::Copy | Keyword::Add)) {
        heredoc::read_all(line, reader, findings);
    }
    meant
}

/// Says in the words of the language why a line does not fit the grammar, and goes on behind it.
pub(crate) fn explain(cx: &mut Context<'_, '_>, mismatch: &Mismatch) {
    let line = cx.line;
    let mut rest = "";
    if let Ok(mut parts) = grammar::any(line.input()) {
        Flags::take(&mut parts, cx).check(cx);
        if let Some(text) = parts.iter().find(|part| part.rule == Rule::text) {
            rest = text.text;
            if cx.refuse_non_strings(text.start) {
                return;
            }
        }
    }
    if matches!(cx.keyword, Keyword::Copy | Keyword::Add) {
        cx.heredocs();
    }
    let (place, expected) = place_and_expectation(cx.keyword, mismatch, line.input(), rest);
    let message = if mismatch.too_long {
        "the line is too long".to_owned()
    } else {
        mismatch_message(cx.keyword, rest)
    };
    let mut diagnostic = Diagnostic::error(line.span(place), message).with_label(expected);
    if cx.keyword == Keyword::Healthcheck
        && let Some(near) = suggest::nearest(&first_word(rest).to_uppercase(), ["NONE", "CMD"])
    {
        diagnostic = diagnostic.with_help(format!("did you mean {near}?"));
    }
    cx.report(diagnostic);
}

/// What to mark in the line, and what to say there. The grammar knows it best, with two exceptions: it takes the
/// one path of a COPY for a broken array, and marks the inside of one.
fn place_and_expectation<'m>(
    keyword: Keyword,
    mismatch: &'m Mismatch,
    input: &str,
    rest: &str,
) -> (Range<usize>, &'m str) {
    match keyword {
        Keyword::Copy | Keyword::Add if !rest.is_empty() => {
            (input.len()..input.len(), "expected a destination")
        }
        Keyword::Shell if !rest.is_empty() => (
            input.len() - rest.len()..input.len(),
            "expected a JSON array of strings, such as [\"/bin/sh\", \"-c\"]",
        ),
        _ => {
            let word = input[mismatch.at..].find(is_blank).unwrap_or(input.len() - mismatch.at);
            (mismatch.at..mismatch.at + word, &mismatch.expected)
        }
    }
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

fn mismatch_message(keyword: Keyword, rest: &str) -> String {
    let first = first_word(rest);
    match keyword {
        Keyword::From => "FROM requires either one or three arguments".to_owned(),
        Keyword::Copy | Keyword::Add if rest.is_empty() => {
            format!("{keyword} requires at least two arguments")
        }
        Keyword::Copy | Keyword::Add => format!(
            "{keyword} requires at least two arguments, but only one was provided. Destination could not be determined"
        ),
        Keyword::Maintainer | Keyword::Stopsignal | Keyword::User | Keyword::Workdir => {
            format!("{keyword} requires exactly one argument")
        }
        Keyword::Shell if !rest.is_empty() => "SHELL requires the arguments to be in JSON form".to_owned(),
        Keyword::Healthcheck if first.eq_ignore_ascii_case("NONE") => {
            "HEALTHCHECK NONE takes no arguments".to_owned()
        }
        Keyword::Healthcheck if first.eq_ignore_ascii_case("CMD") => {
            "Missing command after HEALTHCHECK CMD".to_owned()
        }
        Keyword::Healthcheck if !first.is_empty() => {
            format!("Unknown type \"{}\" in HEALTHCHECK (try CMD)", first.to_uppercase())
        }
        _ => format!("{keyword} requires at least one argument"),
    }
}
