//! ONBUILD: an instruction for later.

use crate::ast::Onbuild;
use crate::context::Context;
use crate::findings::Findings;
use crate::grammar::Node;
use crate::instruction::{self, Read, is_blank};
use crate::keyword::Keyword;
use crate::span::Spanned;

/// Reads the instruction that is the argument of an ONBUILD.
pub(crate) fn read(cx: &mut Context<'_, '_>, trigger: &Node<'_>) -> Option<Onbuild> {
    let line = cx.line.tail(trigger.start);
    let name = line.text().split(is_blank).next().unwrap_or_default();
    let name_span = line.span(1..1 + name.len());
    let forbidden = match Keyword::parse(name) {
        Some(Keyword::Onbuild) => Some("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned()),
        Some(keyword @ (Keyword::Maintainer | Keyword::From)) => {
            Some(format!("{keyword} isn't allowed as an ONBUILD trigger"))
        }
        _ => None,
    };
    if let Some(message) = forbidden {
        cx.error(name_span, message, "expected another instruction");
        return None;
    }
    let text = line.text().to_owned();
    let span = line.whole_span();
    let heredocs_start = cx.reader.position();
    let mut findings = Findings::of_trigger();
    let instruction = match instruction::read(line, cx.reader, &mut findings) {
        Read::Other(instruction) if !findings.broken_trigger() => Some(Box::new(instruction)),
        Read::Other(_) | Read::From(_) | Read::Lost { .. } => None,
    };
    cx.findings.append(findings);
    let mut trigger = text;
    let heredocs = cx.reader.source()[heredocs_start..cx.reader.position()].trim_end_matches(['\r', '\n']);
    if !heredocs.is_empty() {
        trigger.push('\n');
        trigger.push_str(heredocs);
    }
    Some(Onbuild { trigger: Spanned::new(trigger, span), instruction })
}
