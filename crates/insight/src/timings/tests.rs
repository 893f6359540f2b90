use std::collections::BTreeMap;

use super::*;
use crate::{StepInput, StepRecord};

/// A record of steps with their inputs.
fn record(steps: &[(&str, &[usize])]) -> BuildRecord {
    let step = |(name, inputs): &(&str, &[usize])| StepRecord {
        name: (*name).to_owned(),
        lines: Some((1, 2)),
        source: false,
        inputs: inputs.iter().map(|step| StepInput { step: *step, whole: true }).collect(),
        key: None,
        parts: None,
        outcome: Some(StepOutcome::Ran { why: None }),
        began: None,
        took: None,
        cpu: None,
        cost: None,
        bytes: None,
    };
    BuildRecord::of_steps("1", steps.iter().map(step).collect())
}

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

/// A span of a step, in milliseconds.
fn span(step: usize, work: Work, begin: u64, end: u64) -> Span {
    Span { subject: Subject::Step(step), work, what: "x", begin: ms(begin), end: ms(end), bytes: 0 }
}

/// Steps have the numbers of their places, layers those of the steps that made them.
fn timings(steps: &[(&str, &[usize])], spans: Vec<Span>, total: u64) -> Timings {
    let steps_at = (0..steps.len()).map(|at| (at, at)).collect();
    let layers = (0..steps.len()).map(|at| (at as i64, at)).collect();
    Timings::new(&record(steps), spans, &Subjects { steps: steps_at, layers }, ms(total))
}

/// The rows of the critical path by name, with what was idle before each, in milliseconds.
fn path(timings: &Timings) -> Vec<(&str, Work, u64)> {
    let told = |link: &Link| {
        let span = &timings.spans[link.span];
        let idle = u64::try_from(link.idle.as_millis()).unwrap();
        (timings.rows[span.row].name.as_str(), span.work, idle)
    };
    timings.critical.iter().map(told).collect()
}

/// ```text
/// a ██████████            0 to 10
/// b ████                  0 to 4
/// c      (needs a, b) ███ 10 to 15
/// d      (needs b)    ████████████ 4 to 30
/// e      (needs c, d)              ██ 31 to 33
/// ```
#[test]
fn the_critical_path_of_a_known_graph() {
    let graph: [(&str, &[usize]); 5] = [("a", &[]), ("b", &[]), ("c", &[0, 1]), ("d", &[1]), ("e", &[2, 3])];
    let spans = vec![
        span(0, Work::Run, 0, 10),
        span(1, Work::Run, 0, 4),
        span(2, Work::Run, 10, 15),
        span(3, Work::Run, 4, 30),
        span(4, Work::Run, 31, 33),
    ];
    let known = timings(&graph, spans.clone(), 35);
    assert_eq!(path(&known), [("b", Work::Run, 0), ("d", Work::Run, 0), ("e", Work::Run, 1)]);
    assert_eq!(known.on_path(|_| true), ms(4 + 26 + 2));
    assert_eq!(known.idle(), ms(1 + 2));
    // Were d short, c would be what counts, and a what that waited for.
    let mut short = spans;
    short[3].end = ms(6);
    (short[4].begin, short[4].end) = (ms(15), ms(17));
    assert_eq!(
        path(&timings(&graph, short, 17)),
        [("a", Work::Run, 0), ("c", Work::Run, 0), ("e", Work::Run, 0)]
    );
}

#[test]
fn what_lies_between_is_looked_through() {
    // Nothing was done for the middle one: it was cached, say.
    let graph: [(&str, &[usize]); 4] = [("a", &[]), ("middle", &[0]), ("c", &[1]), ("unrelated", &[])];
    let spans = vec![span(0, Work::Fetch, 0, 5), span(3, Work::Run, 0, 8), span(2, Work::Run, 8, 20)];
    assert_eq!(path(&timings(&graph, spans, 20)), [("a", Work::Fetch, 0), ("c", Work::Run, 3)]);
}

#[test]
fn who_waits_for_room_waits_for_whoever_made_it() {
    let spans = vec![span(0, Work::Run, 0, 9), span(1, Work::Wait, 0, 9), span(1, Work::Run, 9, 12)];
    let waited = timings(&[("a", &[]), ("b", &[])], spans, 12);
    assert_eq!(path(&waited), [("a", Work::Run, 0), ("b", Work::Run, 0)]);
}

#[test]
fn results_are_packed_and_sent_when_all_are_there() {
    let layer =
        |layer, work, begin, end| Span { subject: Subject::Layer(layer), ..span(0, work, begin, end) };
    let mut spans = vec![span(0, Work::Copy, 0, 3), span(1, Work::Run, 3, 5), layer(0, Work::Pack, 5, 9)];
    // Two threads, in pieces.
    spans.extend([
        layer(0, Work::Compress, 5, 7),
        layer(0, Work::Compress, 5, 8),
        layer(0, Work::Compress, 7, 8),
    ]);
    let export = Subject::Task("exporting to image".into());
    spans.push(Span { subject: export, ..span(0, Work::Export, 9, 11) });
    let exported = timings(&[("a", &[]), ("b", &[0])], spans, 11);
    let names = [
        ("a", Work::Copy, 0),
        ("b", Work::Run, 0),
        ("a", Work::Pack, 0),
        ("exporting to image", Work::Export, 0),
    ];
    assert_eq!(path(&exported), names);
    let compressed: Vec<&Part> = exported.spans.iter().filter(|span| span.work == Work::Compress).collect();
    assert_eq!(compressed.len(), 1, "pieces are one");
    assert_eq!((compressed[0].begin, compressed[0].end, compressed[0].busy), (ms(5), ms(8), Some(ms(6))));
    assert_eq!(
        exported.worked(1),
        BTreeMap::from([(Work::Copy, ms(3)), (Work::Pack, ms(4)), (Work::Compress, ms(3))])
    );
    assert_eq!(exported.lane(Work::Compress), ms(3));
}

#[test]
fn a_build_without_work_has_no_path() {
    let empty = timings(&[], Vec::new(), 3);
    assert!(empty.critical.is_empty());
    assert_eq!(empty.idle(), ms(3));
    assert!(empty.html().contains("Where the time went"));
    assert_eq!(empty.json()["critical_path"], serde_json::json!([]));
}

/// Names are anybody's.
#[test]
fn a_page_is_one_whatever_names_say() {
    let hostile = "[1/1] RUN echo \"</script><script>alert(1)</script>\" '\u{202e}' & <b>";
    let page = timings(&[(hostile, &[])], vec![span(0, Work::Run, 0, 3)], 3).html();
    assert_eq!(page.matches("<script>").count(), 1);
    assert_eq!(page.matches("</script>").count(), 1);
    assert!(!page.contains("<b>\"") && !page.contains('\u{202e}'));
    for outside in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn a_long_chain_takes_no_time_squared() {
    let inputs: Vec<[usize; 1]> = (0..10_000_usize).map(|at| [at.saturating_sub(1)]).collect();
    let names: Vec<(&str, &[usize])> = inputs
        .iter()
        .enumerate()
        .map(|(at, input)| ("s", if at == 0 { &[][..] } else { &input[..] }))
        .collect();
    let spans = (0..10_000).map(|at| span(at, Work::Run, at as u64, at as u64 + 1)).collect();
    let chain = timings(&names, spans, 10_000);
    assert_eq!(chain.critical.len(), 10_000);
    assert_eq!(chain.on_path(|_| true), ms(10_000));
}
