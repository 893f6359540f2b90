//! From one logical line to one instruction.

use crate::ast::{
    Alias, Arg, Cmd, Command, Entrypoint, Env, Expose, From, Healthcheck, Instruction, InstructionKind,
    Label, Maintainer, Shell, Stopsignal, User, Volume, Workdir,
};
use crate::context::Context;
use crate::diagnostic::Diagnostic;
use crate::findings::Findings;
use crate::flags::Flags;
use crate::grammar::{self, Node, Rule};
use crate::keyword::Keyword;
use crate::logical::LogicalLine;
use crate::reader::Reader;
use crate::span::{Lines, Span, Spanned, Word};
use crate::{copy, healthcheck, mistakes, onbuild, pairs, run};

/// An instruction of any kind.
pub(crate) enum Read {
    From(Instruction<From>),
    Other(Instruction),
    /// It could not be understood, which was reported. It may have been meant as a FROM.
    Lost {
        maybe_from: bool,
    },
}

/// Reads the instruction on `line`, and its heredocs from the lines after it.
pub(crate) fn read(line: LogicalLine, reader: &mut Reader<'_>, findings: &mut Findings) -> Read {
    let name = line.text().split(is_blank).next().unwrap_or_default();
    let keyword = Spanned::new(name.to_owned(), line.span(1..1 + name.len()));
    let Some(known) = Keyword::parse(name) else {
        let meant = mistakes::unknown_instruction(&line, &keyword, reader, findings);
        return Read::Lost { maybe_from: meant == Some(Keyword::From) };
    };
    let heredocs_start = reader.position();
    let mut cx = Context { line: &line, keyword: known, reader, findings };
    let Some(content) = content(&mut cx) else { return Read::Lost { maybe_from: known == Keyword::From } };
    let end = if reader.position() == heredocs_start {
        line.whole_span().end
    } else {
        reader.source()[..reader.position()].trim_end_matches(['\r', '\n']).len()
    };
    let span = Span::new(keyword.span.start, end);
    let instruction = Instruction {
        kind: (),
        keyword,
        span,
        lines: Lines { first: line.first_line, last: reader.number() },
        text: line.text().to_owned(),
        comments: line.comments,
    };
    match content {
        Content::From(from) => Read::From(instruction.map(|()| from)),
        Content::Other(kind) => Read::Other(instruction.map(|()| kind)),
    }
}

enum Content {
    From(From),
    Other(InstructionKind),
}

fn content(cx: &mut Context<'_, '_>) -> Option<Content> {
    let line = cx.line;
    match grammar::instruction(cx.keyword, line.input()) {
        Ok(mut args) => {
            let flags = Flags::take(&mut args, cx);
            let refused = args.first().is_some_and(|first| {
                first.rule != Rule::strings && cx.refuse_non_strings(json_start(first, &args).start)
            });
            if refused {
                flags.check(cx);
                return None;
            }
            if let Some(first) = args.first().filter(|first| first.rule != Rule::strings) {
                let start = json_start(first, &args);
                if start.rule != Rule::strings {
                    cx.warn_of_broken_json(start.start);
                }
            }
            if cx.keyword == Keyword::From {
                let flags = flags.check(cx);
                return Some(Content::From(from(cx, flags, &args)));
            }
            kind(cx, flags, args).map(Content::Other)
        }
        Err(mismatch) => {
            mistakes::explain(cx, &mismatch);
            None
        }
    }
}

/// The command of a HEALTHCHECK comes after the word CMD.
fn json_start<'a, 'i>(first: &'a Node<'i>, args: &'a [Node<'i>]) -> &'a Node<'i> {
    if first.rule == Rule::cmd_word { args.get(1).unwrap_or(first) } else { first }
}

fn kind(cx: &mut Context<'_, '_>, flags: Flags, mut args: Vec<Node<'_>>) -> Option<InstructionKind> {
    use InstructionKind as Kind;
    let none_word = args.first().is_some_and(|first| first.rule == Rule::none_word);
    let flags = match cx.keyword {
        Keyword::Arg | Keyword::Stopsignal => {
            flags.ignore(cx, cx.keyword.as_str());
            return Some(match cx.keyword {
                Keyword::Arg => Kind::Arg(Arg { names: pairs::arg_names(cx, &args)? }),
                _ => Kind::Stopsignal(Stopsignal { signal: cx.word(args.first()?) }),
            });
        }
        Keyword::Healthcheck if none_word => {
            flags.ignore(cx, "HEALTHCHECK NONE");
            return Some(Kind::Healthcheck(Healthcheck::None));
        }
        _ => flags.check(cx),
    };
    Some(match cx.keyword {
        Keyword::Add => Kind::Add(copy::read_add(cx, flags, args)?),
        Keyword::Copy => Kind::Copy(copy::read_copy(cx, flags, args)?),
        Keyword::Run => {
            let command = command(cx, args.pop());
            Kind::Run(run::read(cx, flags, command))
        }
        Keyword::Cmd => Kind::Cmd(Cmd { command: command(cx, args.pop()) }),
        Keyword::Entrypoint => Kind::Entrypoint(Entrypoint { command: command(cx, args.pop()) }),
        Keyword::Healthcheck => {
            let word = cx.span(args.first()?);
            let command = command(cx, args.pop());
            Kind::Healthcheck(healthcheck::read(cx, flags, word, command)?)
        }
        Keyword::Shell => Kind::Shell(Shell { argv: shell(cx, args.pop()?)? }),
        Keyword::Volume => Kind::Volume(Volume { paths: volumes(cx, args)? }),
        Keyword::Expose => Kind::Expose(Expose { ports: args.iter().map(|port| cx.word(port)).collect() }),
        Keyword::Env => {
            let (pairs, legacy) = pairs::pairs(cx, &args)?;
            Kind::Env(Env { pairs, legacy })
        }
        Keyword::Label => {
            let (pairs, legacy) = pairs::pairs(cx, &args)?;
            Kind::Label(Label { pairs, legacy })
        }
        Keyword::Onbuild => Kind::Onbuild(onbuild::read(cx, args.first()?)?),
        Keyword::Maintainer => Kind::Maintainer(Maintainer { name: cx.spanned(args.first()?) }),
        Keyword::User => Kind::User(User { user: cx.word(args.first()?) }),
        Keyword::Workdir => Kind::Workdir(Workdir { path: cx.word(args.first()?) }),
        Keyword::Arg | Keyword::Stopsignal | Keyword::From => return None,
    })
}

fn from(cx: &mut Context<'_, '_>, mut flags: Flags, args: &[Node<'_>]) -> From {
    let base = args.first().map_or_else(|| Word::new("", cx.line.whole_span()), |base| cx.word(base));
    let alias = match args {
        [_, keyword, name] => alias(cx, keyword, name),
        _ => None,
    };
    From { platform: flags.value("platform"), base, alias }
}

fn alias(cx: &mut Context<'_, '_>, keyword: &Node<'_>, name: &Node<'_>) -> Option<Alias> {
    let written = cx.spanned(name);
    let lower = written.to_lowercase();
    let mut characters = lower.chars();
    let valid = characters.next().is_some_and(|c| c.is_ascii_lowercase())
        && characters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'));
    if !valid {
        let message = format!(
            "invalid name for build stage: \"{}\", name can't start with a number or contain symbols",
            written.value
        );
        cx.error(written.span, message, "expected a letter, then letters, digits, `-`, `_` or `.`");
        return None;
    }
    Some(Alias { keyword: cx.spanned(keyword), written, name: lower })
}

fn command(cx: &mut Context<'_, '_>, node: Option<Node<'_>>) -> Command {
    match node {
        Some(node) if node.rule == Rule::strings => Command::Exec(final_texts(cx.strings(node))),
        Some(node) => Command::Shell(cx.word(&node)),
        None => {
            let end = cx.line.whole_span().end;
            let span = Span::new(end, end);
            let message = format!("{} without a command", cx.keyword);
            cx.report(Diagnostic::warning(span, message).with_label("expected a command"));
            Command::Shell(Word::new("", span))
        }
    }
}

fn final_texts(words: Vec<Word>) -> Vec<Spanned<String>> {
    words.into_iter().map(|word| Spanned::new(word.text, word.span)).collect()
}

fn shell(cx: &mut Context<'_, '_>, node: Node<'_>) -> Option<Vec<Spanned<String>>> {
    let span = cx.span(&node);
    let argv = final_texts(cx.strings(node));
    if argv.is_empty() {
        cx.error(span, "SHELL requires at least one argument", "expected a program in it");
        return None;
    }
    Some(argv)
}

fn volumes(cx: &mut Context<'_, '_>, mut args: Vec<Node<'_>>) -> Option<Vec<Word>> {
    let paths = match args.first()? {
        first if first.rule == Rule::strings => {
            let array = args.swap_remove(0);
            let span = cx.span(&array);
            let paths = cx.strings(array);
            if paths.is_empty() {
                cx.error(span, "VOLUME requires at least one argument", "expected a path in it");
            }
            paths
        }
        _ => args.iter().map(|path| cx.word(path)).collect(),
    };
    let paths: Vec<Word> = paths.into_iter().filter_map(|path| volume(cx, path)).collect();
    (!paths.is_empty()).then_some(paths)
}

fn volume(cx: &mut Context<'_, '_>, path: Word) -> Option<Word> {
    let trimmed = path.text.trim();
    if trimmed.is_empty() {
        cx.error(path.span, "VOLUME specified can not be an empty string", "expected a path");
        return None;
    }
    let start = path.text.len() - path.text.trim_start().len();
    let span = path.span_of(start..start + trimmed.len());
    Some(Word::new(trimmed, span))
}

/// The blanks that end an instruction's name.
pub(crate) fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}
