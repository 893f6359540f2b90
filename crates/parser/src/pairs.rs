//! ENV, LABEL and ARG: names and values.

use crate::ast::{ArgName, Pair};
use crate::context::Context;
use crate::grammar::Node;
use crate::instruction::is_blank;
use crate::span::{Span, Word};

/// The pairs of an ENV or LABEL, and whether they are in the old form: if the first word has no `=`, the rest of
/// the line is its value.
pub(crate) fn pairs(cx: &mut Context<'_, '_>, items: &[Node<'_>]) -> Option<(Vec<Pair>, bool)> {
    let first = items.first()?;
    if !first.text.contains('=') {
        return legacy_pair(cx, first).map(|pair| (vec![pair], true));
    }
    let mut pairs = Vec::with_capacity(items.len());
    for item in items {
        match split_item(cx, item) {
            (key, Some(value)) => pairs.push(Pair { key, value }),
            (key, None) => {
                let message = format!(
                    "Syntax error - can't find = in \"{}\". Must be of the form: name=value",
                    key.text
                );
                let label = "expected `=` and a value, or quotes around the value before";
                cx.error(key.span, message, label);
            }
        }
    }
    refuse_blank_names(cx, pairs.iter().map(|pair| &pair.key));
    Some((pairs, false))
}

fn legacy_pair(cx: &mut Context<'_, '_>, first: &Node<'_>) -> Option<Pair> {
    let input = cx.line.input();
    let start = first.start;
    let rest = &input[start..];
    let Some((key, after)) = rest.split_once(is_blank) else {
        let whole = cx.line.whole_span();
        let message = format!("{} must have two arguments", cx.keyword);
        cx.error(Span::new(whole.end, whole.end), message, "expected `=` and a value");
        return None;
    };
    let value = after.trim_start_matches(is_blank);
    let value_start = input.len() - value.len();
    Some(Pair {
        key: Word::new(key, cx.line.span(start..start + key.len())),
        value: Word::new(value, cx.line.span(value_start..input.len())),
    })
}

pub(crate) fn arg_names(cx: &mut Context<'_, '_>, items: &[Node<'_>]) -> Option<Vec<ArgName>> {
    let names: Vec<ArgName> = items
        .iter()
        .map(|item| {
            let (key, value) = split_item(cx, item);
            ArgName { key, value }
        })
        .collect();
    refuse_blank_names(cx, names.iter().map(|name| &name.key));
    Some(names)
}

/// A word at its first `=`.
fn split_item(cx: &Context<'_, '_>, item: &Node<'_>) -> (Word, Option<Word>) {
    let place = item.place();
    let Some((key, value)) = item.text.split_once('=') else { return (cx.word(item), None) };
    let equals = place.start + key.len();
    let key = Word::new(key, cx.line.span(place.start..equals));
    let value_span = if value.is_empty() {
        let end = cx.line.span(equals..equals + 1).end;
        Span::new(end, end)
    } else {
        cx.line.span(equals + 1..place.end)
    };
    (key, Some(Word::new(value, value_span)))
}

fn refuse_blank_names<'k>(cx: &mut Context<'_, '_>, keys: impl Iterator<Item = &'k Word>) {
    for key in keys.filter(|key| key.text.is_empty()) {
        let message = format!("{} names can not be blank", cx.keyword);
        cx.error(key.span, message, "expected a name before `=`");
    }
}
