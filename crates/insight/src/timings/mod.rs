//! Where the time of a build went: its work as spans, what waited for what, and the chain of waits that decided when it ended.
//!
//! A [`Timings`] is made of a [`BuildRecord`] and the spans of a [`trace::Trace`], and shown as a page or as JSON (`docs/timings.md`).

mod critical;
mod html;
mod json;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use hash::HashedBytes;
use trace::{Span, Subject, Work};

use crate::{BuildRecord, BuildResult, StepOutcome};

/// Where the time of a build went.
#[derive(Debug, Clone, PartialEq)]
pub struct Timings {
    /// What was built, for people.
    title: String,
    builder: String,
    /// Milliseconds since 1970.
    started: u64,
    result: BuildResult,
    /// From begin to end, at least as long as all spans.
    total: Duration,
    hashed: HashedBytes,
    rows: Vec<Row>,
    /// By their beginning.
    spans: Vec<Part>,
    /// The places of each row's spans.
    of_row: Vec<Vec<usize>>,
    /// The spans whose waits determined the end, from the first to the last.
    critical: Vec<Link>,
}

/// Something that work was done for.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    kind: RowKind,
    name: String,
    lines: Option<(u32, u32)>,
    outcome: Option<&'static str>,
    /// Why a step ran, or failed.
    reason: Option<String>,
    /// Rows whose results it uses.
    inputs: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowKind {
    /// The build as a whole.
    Build,
    Step,
    /// Something around the build.
    Task,
}

/// A span of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    row: usize,
    work: Work,
    what: &'static str,
    begin: Duration,
    end: Duration,
    /// What threads spent in it together, where that is known to be something else than the time from begin to end.
    busy: Option<Duration>,
    /// That went in, where they are counted.
    bytes: u64,
}

impl Part {
    fn length(&self) -> Duration {
        self.end.saturating_sub(self.begin)
    }
}

/// A span on the critical path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Link {
    /// Its place among the spans.
    span: usize,
    /// How long nothing that is known of went on before it.
    idle: Duration,
}

/// What the trace knows by numbers.
#[derive(Debug, Clone, Default)]
pub struct Subjects {
    /// Of each step of the definition its place in the record.
    pub steps: HashMap<usize, usize>,
    /// Of each layer in the store the place of the step that made it.
    pub layers: HashMap<i64, usize>,
}

/// Shorter waits are none: that is what asking takes.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// Pieces of parallel work on one thing count as one where no more than this lies between them.
const JOINED: Duration = Duration::from_millis(2);

impl Timings {
    /// Puts together what a trace recorded of a build. `total` is when the trace ended.
    pub fn new(record: &BuildRecord, spans: Vec<Span>, subjects: &Subjects, total: Duration) -> Timings {
        let mut rows = vec![Row::named(RowKind::Build, "builder")];
        // Steps follow the build's own row.
        rows.extend(record.steps.iter().map(|step| {
            let (outcome, reason) = outcome(step.outcome.as_ref());
            Row {
                lines: step.lines,
                outcome,
                reason,
                inputs: step.inputs.iter().map(|input| input.step + 1).collect(),
                ..Row::named(RowKind::Step, &step.name)
            }
        }));
        let mut tasks = BTreeMap::new();
        let mut task = |rows: &mut Vec<Row>, name: &str| {
            *tasks.entry(name.to_owned()).or_insert_with(|| {
                rows.push(Row::named(RowKind::Task, name));
                rows.len() - 1
            })
        };
        let mut parts = Vec::new();
        for span in spans {
            if span.work == Work::Wait && span.end.saturating_sub(span.begin) < SHORTEST_WAIT {
                continue;
            }
            let place = match &span.subject {
                Subject::Build => Some(0),
                Subject::Step(step) => subjects.steps.get(step).map(|place| place + 1),
                Subject::Layer(layer) => match subjects.layers.get(layer) {
                    Some(place) => Some(place + 1),
                    None => Some(task(&mut rows, "other layers")),
                },
                Subject::Task(title) => Some(task(&mut rows, title)),
            };
            // Sources that nobody shows, such as the empty tree.
            let Some(row) = place.filter(|row| *row < rows.len()) else { continue };
            let Span { work, what, begin, end, bytes, .. } = span;
            parts.push(Part { row, work, what, begin, end, busy: None, bytes });
        }
        let spans = joined(parts);
        let mut of_row = vec![Vec::new(); rows.len()];
        spans.iter().enumerate().for_each(|(at, span)| of_row[span.row].push(at));
        let critical = critical::path(&rows, &spans, &of_row);
        let last = spans.iter().map(|span| span.end).max().unwrap_or_default();
        Timings {
            title: record.dockerfile.clone(),
            builder: record.builder.clone(),
            started: record.started,
            result: record.result.clone(),
            total: total.max(last),
            hashed: HashedBytes::default(),
            rows,
            spans,
            of_row,
            critical,
        }
    }

    /// With how much was hashed until it ended.
    #[must_use]
    pub fn with_hashed(self, hashed: HashedBytes) -> Timings {
        Timings { hashed, ..self }
    }

    /// How long a row was worked on in all, by the kind of work; what overlaps counts once.
    fn worked(&self, row: usize) -> BTreeMap<Work, Duration> {
        let mut times: BTreeMap<Work, Vec<(Duration, Duration)>> = BTreeMap::new();
        for span in self.of_row[row].iter().map(|at| &self.spans[*at]) {
            times.entry(span.work).or_default().push((span.begin, span.end));
        }
        times.into_iter().map(|(work, times)| (work, covered(times))).collect()
    }

    /// How long anything was done for a row.
    fn active(&self, row: usize) -> Duration {
        let spans = self.of_row[row].iter().map(|at| &self.spans[*at]).filter(|span| span.work != Work::Wait);
        covered(spans.map(|span| (span.begin, span.end)).collect())
    }

    /// How long some row was worked on by a kind of work; what overlaps counts once.
    fn lane(&self, work: Work) -> Duration {
        let spans = self.spans.iter().filter(|span| span.work == work);
        covered(spans.map(|span| (span.begin, span.end)).collect())
    }

    /// How much of the critical path is work of a kind, or for a row.
    fn on_path(&self, is_it: impl Fn(&Part) -> bool) -> Duration {
        let spans = self.critical.iter().map(|link| &self.spans[link.span]);
        spans.filter(|span| is_it(span)).map(Part::length).sum()
    }

    /// What nothing is known of, on the critical path.
    fn idle(&self) -> Duration {
        let end = self.critical.last().map_or(Duration::ZERO, |link| self.spans[link.span].end);
        self.critical.iter().map(|link| link.idle).sum::<Duration>() + self.total.saturating_sub(end)
    }

    /// When a row was first and last worked on.
    fn extent(&self, row: usize) -> Option<(Duration, Duration)> {
        let mut spans = self.of_row[row].iter().map(|at| &self.spans[*at]);
        let first = spans.next()?;
        Some(
            spans.fold((first.begin, first.end), |(begin, end), span| {
                (begin.min(span.begin), end.max(span.end))
            }),
        )
    }
}

impl Row {
    fn named(kind: RowKind, name: &str) -> Row {
        let name = crate::words::harmless(name);
        Row { kind, name, lines: None, outcome: None, reason: None, inputs: Vec::new() }
    }
}

/// In words.
fn outcome(outcome: Option<&StepOutcome>) -> (Option<&'static str>, Option<String>) {
    match outcome {
        None => (None, None),
        Some(StepOutcome::Cached) => (Some("cached"), None),
        Some(StepOutcome::Ran { why }) => (Some("ran"), why.as_ref().map(ToString::to_string)),
        Some(StepOutcome::Failed { message, .. }) => (Some("failed"), Some(message.clone())),
        Some(StepOutcome::Cancelled) => (Some("cancelled"), None),
    }
}

/// The same with pieces that several threads did of one thing made one.
fn joined(mut parts: Vec<Part>) -> Vec<Part> {
    parts.sort_by_key(|part| (part.begin, part.end));
    let mut whole: Vec<Part> = Vec::new();
    let mut open: HashMap<usize, usize> = HashMap::new();
    for part in parts {
        if part.work != Work::Compress {
            whole.push(part);
            continue;
        }
        let before = open.get(&part.row).map(|place| &mut whole[*place]);
        match before.filter(|before| part.begin <= before.end + JOINED) {
            Some(before) => {
                before.busy = Some(before.busy.unwrap_or(before.length()) + part.length());
                before.end = before.end.max(part.end);
                before.bytes += part.bytes;
            }
            None => {
                open.insert(part.row, whole.len());
                whole.push(Part { busy: Some(part.length()), ..part });
            }
        }
    }
    whole
}

/// The length of a union of intervals.
fn covered(mut intervals: Vec<(Duration, Duration)>) -> Duration {
    intervals.sort();
    let (mut sum, mut until) = (Duration::ZERO, Duration::ZERO);
    for (begin, end) in intervals {
        sum += end.saturating_sub(begin.max(until));
        until = until.max(end);
    }
    sum
}
