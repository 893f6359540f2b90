//! The entry points: instructions to stages.

use std::borrow::Cow;

use serde::Serialize;

use crate::ast::{Dockerfile, Escape, Instruction, InstructionKind, Stage};
use crate::diagnostic::Diagnostic;
use crate::directives;
use crate::findings::Findings;
use crate::instruction::{self, Read};
use crate::logical::next_logical_line;
use crate::reader::Reader;
use crate::span::Span;

/// A file's tree and what there is to say about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Parsed {
    /// The tree; without what could not be understood.
    pub dockerfile: Dockerfile,
    /// Errors and warnings in order of their place. If there is an error, the tree must not be built.
    pub diagnostics: Vec<Diagnostic>,
}

impl Parsed {
    /// The errors among the diagnostics.
    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.is_error())
    }

    /// Whether there is an error.
    pub fn has_errors(&self) -> bool {
        self.errors().next().is_some()
    }
}

/// What [`parse_instruction`] gives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ParsedInstruction {
    /// The instruction; `None` only together with an error.
    pub instruction: Option<Instruction>,
    /// Errors and warnings in order of their place.
    pub diagnostics: Vec<Diagnostic>,
}

/// Parses a Dockerfile.
pub fn parse(text: &str) -> Parsed {
    let mut findings = Findings::default();
    let (directives, start) = directives::read(text, &mut findings);
    let mut stages =
        Stages { dockerfile: Dockerfile { directives, ..Dockerfile::default() }, lost_from: false };
    let escape = stages.dockerfile.directives.escape;
    let mut reader = Reader::at(text, start);
    let mut empty = true;
    while let Some(line) = next_logical_line(&mut reader, escape, &mut findings) {
        empty = false;
        stages.add(instruction::read(line, &mut reader, &mut findings), &mut findings);
    }
    let dockerfile = stages.dockerfile;
    if empty {
        findings.report(
            Diagnostic::error(Span::new(text.len(), text.len()), "file with no instructions")
                .with_label("expected FROM"),
        );
    } else if dockerfile.stages.is_empty() && !findings.has_errors() {
        findings.report(
            Diagnostic::error(Span::new(text.len(), text.len()), "dockerfile contains no stages to build")
                .with_label("expected FROM"),
        );
    }
    Parsed { dockerfile, diagnostics: findings.into_sorted() }
}

/// Parses a Dockerfile as it was read from disk. Also returns the text that the spans are about: bytes that are
/// not UTF-8 are replaced in it, which is an error in an instruction and a warning in a comment.
pub fn parse_bytes(bytes: &[u8]) -> (Cow<'_, str>, Parsed) {
    let text = String::from_utf8_lossy(bytes);
    let mut parsed = match bytes {
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => Parsed {
            dockerfile: Dockerfile::default(),
            diagnostics: vec![
                Diagnostic::error(Span::new(0, 0), "the file is encoded in UTF-16")
                    .with_help("save it as UTF-8 without a byte-order mark"),
            ],
        },
        _ => {
            let mut parsed = parse(&text);
            let replaced = replaced(bytes, &text, &parsed.dockerfile);
            parsed.diagnostics.extend(replaced);
            parsed
        }
    };
    parsed.diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
    (text, parsed)
}

/// The first replaced byte of each line, as diagnostics.
fn replaced(bytes: &[u8], text: &str, dockerfile: &Dockerfile) -> Vec<Diagnostic> {
    let instructions = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    let heredocs: Vec<Span> = instructions
        .flat_map(|instruction| instruction.heredocs())
        .map(|heredoc| heredoc.content_span)
        .collect();
    let mut diagnostics = Vec::new();
    let mut at = 0;
    let mut reported_to = 0;
    for chunk in bytes.utf8_chunks() {
        at += chunk.valid().len();
        if chunk.invalid().is_empty() {
            break;
        }
        let span = Span::new(at, at + char::REPLACEMENT_CHARACTER.len_utf8());
        at = span.end;
        if span.start < reported_to {
            continue;
        }
        reported_to = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
        let message = "this is not valid UTF-8";
        let diagnostic = if is_in_comment(text, span.start, &heredocs) {
            Diagnostic::warning(span, message)
        } else {
            Diagnostic::error(span, message)
        };
        diagnostics.push(diagnostic.with_help("save the file as UTF-8"));
    }
    diagnostics
}

fn is_in_comment(text: &str, at: usize, heredocs: &[Span]) -> bool {
    let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let after = heredocs.partition_point(|body| body.start <= at);
    let in_heredoc = heredocs[..after].last().is_some_and(|body| at < body.end);
    !in_heredoc && text[line_start..at].trim_start().starts_with('#')
}

/// Parses a single instruction, such as an ONBUILD trigger from the configuration of a base image. It may have
/// heredocs and continued lines; the escape character is the backslash. FROM and a second instruction are errors.
/// Spans are about `text`.
pub fn parse_instruction(text: &str) -> ParsedInstruction {
    let mut findings = Findings::default();
    let mut reader = Reader::at(text, 0);
    let mut result = None;
    let mut count = 0;
    while let Some(line) = next_logical_line(&mut reader, Escape::default(), &mut findings) {
        let span = line.whole_span();
        count += 1;
        match instruction::read(line, &mut reader, &mut findings) {
            _ if count == 2 => {
                findings.report(Diagnostic::error(span, "a second instruction is not allowed here"))
            }
            _ if count > 2 => {}
            Read::Other(instruction) => result = Some(instruction),
            Read::From(_) => findings.report(Diagnostic::error(span, "FROM is not allowed here")),
            Read::Lost { .. } => {}
        }
    }
    if count == 0 {
        findings.report(Diagnostic::error(Span::new(0, text.len()), "expected an instruction"));
    }
    ParsedInstruction { instruction: result, diagnostics: findings.into_sorted() }
}

/// Puts instructions where they belong.
struct Stages {
    dockerfile: Dockerfile,
    /// A line that may have been a FROM could not be understood: what follows it belongs to no stage, and to say
    /// so again would not help.
    lost_from: bool,
}

impl Stages {
    fn add(&mut self, read: Read, findings: &mut Findings) {
        match read {
            Read::From(from) => {
                self.lost_from = false;
                self.dockerfile.stages.push(Stage { from, instructions: Vec::new() });
            }
            Read::Lost { maybe_from } => self.lost_from |= maybe_from,
            Read::Other(_) if self.lost_from => {}
            Read::Other(instruction) => match self.dockerfile.stages.last_mut() {
                Some(stage) => stage.instructions.push(instruction),
                None => self.add_before_first_stage(instruction, findings),
            },
        }
    }

    fn add_before_first_stage(&mut self, instruction: Instruction, findings: &mut Findings) {
        let (span, name) = (instruction.keyword.span, instruction.kind.keyword());
        if let InstructionKind::Arg(arg) = &instruction.kind {
            let arg = arg.clone();
            self.dockerfile.args.push(instruction.map(|_| arg));
            return;
        }
        findings.report(
            Diagnostic::error(span, "no build stage in current context")
                .with_label(format!("expected FROM before {name}"))
                .with_note("only ARG can stand before the first FROM"),
        );
        // Once is enough.
        self.lost_from = true;
    }
}
