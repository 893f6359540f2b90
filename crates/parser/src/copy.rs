//! COPY and ADD.

use crate::ast::{Add, Copy, CopySource};
use crate::context::Context;
use crate::diagnostic::Diagnostic;
use crate::flags::Flags;
use crate::grammar::{Node, Rule};
use crate::span::Word;

pub(crate) fn read_copy(cx: &mut Context<'_, '_>, mut flags: Flags, args: Vec<Node<'_>>) -> Option<Copy> {
    let (sources, dest) = sources_and_dest(cx, args)?;
    Some(Copy {
        from: flags.text("from"),
        chown: flags.value("chown"),
        chmod: flags.value("chmod"),
        link: flags.bool("link"),
        parents: flags.bool("parents"),
        excludes: flags.texts("exclude"),
        sources,
        dest,
    })
}

pub(crate) fn read_add(cx: &mut Context<'_, '_>, mut flags: Flags, args: Vec<Node<'_>>) -> Option<Add> {
    let (sources, dest) = sources_and_dest(cx, args)?;
    Some(Add {
        chown: flags.value("chown"),
        chmod: flags.value("chmod"),
        link: flags.bool("link"),
        keep_git_dir: flags.bool("keep-git-dir"),
        checksum: flags.value("checksum"),
        unpack: flags.bool("unpack"),
        excludes: flags.texts("exclude"),
        sources,
        dest,
    })
}

fn sources_and_dest(cx: &mut Context<'_, '_>, args: Vec<Node<'_>>) -> Option<(Vec<CopySource>, Word)> {
    let mut sources = match args.first() {
        Some(node) if node.rule == Rule::strings => {
            cx.strings(node.clone()).into_iter().map(CopySource::Path).collect()
        }
        _ => paths_and_heredocs(cx, &args),
    };
    let keyword = cx.keyword;
    let dest = sources.pop();
    if sources.is_empty() {
        let whole = cx.line.whole_span();
        let message = format!(
            "{keyword} requires at least two arguments, but only one was provided. Destination could not be determined"
        );
        cx.error(crate::Span::new(whole.end, whole.end), message, "expected a path");
        return None;
    }
    match dest? {
        CopySource::Path(dest) => Some((sources, dest)),
        CopySource::Heredoc(heredoc) => {
            cx.report(
                Diagnostic::error(
                    heredoc.span,
                    format!("{keyword} cannot accept a heredoc as a destination"),
                )
                .with_label("expected a path"),
            );
            None
        }
    }
}

/// The words of the line, where each heredoc takes the place of the words that announce it.
fn paths_and_heredocs(cx: &mut Context<'_, '_>, words: &[Node<'_>]) -> Vec<CopySource> {
    let mut heredocs = cx.heredocs().into_iter().peekable();
    let mut sources = Vec::new();
    let mut covered = 0;
    for word in words {
        let place = word.place();
        if place.start < covered {
            continue;
        }
        match heredocs.next_if(|announced| announced.part.start < place.end) {
            Some(announced) => {
                covered = announced.part.end;
                sources.push(CopySource::Heredoc(announced.heredoc));
            }
            None => sources.push(CopySource::Path(cx.word(word))),
        }
    }
    sources
}
