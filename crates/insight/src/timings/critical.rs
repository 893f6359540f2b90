//! The chain of waits that determined when a build ended.

use std::collections::HashSet;
use std::time::Duration;

use trace::Work;

use super::{Link, Part, Row, RowKind};

/// Clocks are read one after the other: what ends so much after something else began may still have been waited for.
const BLUR: Duration = Duration::from_micros(200);

/// From the span that ended last back to the beginning: of all that a span may have waited for, what ended last before it began is
/// what it waited for.
pub(super) fn path(rows: &[Row], spans: &[Part], by_row: &[Vec<usize>]) -> Vec<Link> {
    let work: Vec<usize> = (0..spans.len()).filter(|at| spans[*at].work != Work::Wait).collect();
    // What goes on inside of something else is not what that waits for.
    let mut now = work.iter().copied().max_by_key(|at| (spans[*at].end, spans[*at].length()));
    let mut path = Vec::new();
    // Each begins before the one after it, so this ends.
    while let Some(at) = now {
        let span = &spans[at];
        let is_before = |other: &usize| {
            let other = &spans[*other];
            let ends = other.end <= span.begin + BLUR.min(span.length() / 2);
            ends && other.begin < span.begin && other.work != Work::Wait
        };
        let last = |candidates: &mut dyn Iterator<Item = usize>| {
            candidates.filter(is_before).max_by_key(|at| (spans[*at].end, spans[*at].length()))
        };
        let before = match waits_for_all(rows, spans, by_row, span) {
            true => last(&mut work.iter().copied()),
            false => last(&mut needed(rows, by_row, span, is_before).into_iter()),
        };
        let until = before.map_or(Duration::ZERO, |before| spans[before].end);
        path.push(Link { span: at, idle: span.begin.saturating_sub(until) });
        now = before;
    }
    path.reverse();
    path
}

/// Whether anything may have held it up: results are packed and sent when all of them are there, and a step that waited for room got
/// that of whatever ended then.
fn waits_for_all(rows: &[Row], spans: &[Part], by_row: &[Vec<usize>], span: &Part) -> bool {
    let is_late = matches!(span.work, Work::Pack | Work::Compress | Work::Export);
    let waited = || {
        by_row[span.row].iter().map(|at| &spans[*at]).any(|other| {
            other.work == Work::Wait && other.end <= span.begin + BLUR && other.end + BLUR >= span.begin
        })
    };
    rows[span.row].kind != RowKind::Step || is_late || waited()
}

/// What else its row did, what the build as a whole did, and what was done for the nearest of what it uses.
fn needed(
    rows: &[Row],
    by_row: &[Vec<usize>],
    span: &Part,
    is_before: impl Fn(&usize) -> bool,
) -> Vec<usize> {
    let mut found: Vec<usize> = by_row[0].clone();
    found.extend(&by_row[span.row]);
    let (mut seen, mut waiting) = (HashSet::new(), rows[span.row].inputs.clone());
    while let Some(row) = waiting.pop() {
        if row >= rows.len() || !seen.insert(row) {
            continue;
        }
        found.extend(&by_row[row]);
        // What ended before that cannot be what came last.
        if !by_row[row].iter().any(&is_before) {
            waiting.extend(&rows[row].inputs);
        }
    }
    found
}
