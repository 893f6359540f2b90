use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use graph::Outcome;

use super::Display;
use super::format;
use super::model::{Change, Model, Status, Step};

/// A step that has much to say keeps the floor about so long.
const ANTI_FLICKER: Duration = Duration::from_secs(5);
/// A step that has something to say waits no longer than this.
const MAX_DELAY: Duration = Duration::from_secs(10);
/// A status is repeated after so long, or when so much of it is new.
const STATUS_DELAY: Duration = Duration::from_secs(5);
const STATUS_SHARE: f64 = 0.05;
/// Output of a step that is not written yet, in bytes: with more it waits no longer.
const MOST_UNWRITTEN: usize = 1 << 20;
/// A line without end is broken after so many bytes.
const LONGEST_LINE: usize = 64 << 10;

/// Text for logs, as BuildKit writes it: one step has the floor at a time; when another gets it, `#N ...` marks the
/// interruption.
pub(super) struct Plain<W> {
    out: W,
    /// What is not written yet, and what was; by step.
    steps: BTreeMap<usize, Pending>,
    /// Steps with news.
    news: BTreeSet<usize>,
    current: Option<usize>,
    /// The highest number given out.
    numbers: usize,
}

#[derive(Default)]
struct Pending {
    number: usize,
    lines: Vec<Vec<u8>>,
    /// The last of `lines` has no end yet.
    open: bool,
    /// So much of the first of `lines` is written.
    written: usize,
    /// Bytes that came since the last writing.
    unwritten: usize,
    /// Statuses with news.
    statuses: BTreeSet<usize>,
    /// What was last written of a status.
    shown: BTreeMap<usize, (u64, SystemTime)>,
    warnings: usize,
    /// News since the step had the floor last, and since when there is some.
    count: usize,
    since: Option<SystemTime>,
}

impl<W: Write + Send> Plain<W> {
    pub(super) fn new(out: W) -> Plain<W> {
        Plain { out, steps: BTreeMap::new(), news: BTreeSet::new(), current: None, numbers: 0 }
    }

    fn pending(&mut self, step: usize, now: SystemTime) -> &mut Pending {
        self.news.insert(step);
        let pending = self.steps.entry(step).or_default();
        if pending.count == 0 {
            pending.since = Some(now);
        }
        pending.count += 1;
        pending
    }

    /// Gives a step the floor and writes all its news.
    fn write(&mut self, model: &Model, index: usize, text: &mut Vec<u8>) -> io::Result<()> {
        let step = &model.steps[index];
        self.news.remove(&index);
        if self.steps.entry(index).or_default().number == 0 {
            self.numbers += 1;
            self.steps.entry(index).or_default().number = self.numbers;
        }
        if self.current != Some(index) {
            self.interrupt(text)?;
            let number = self.steps[&index].number;
            writeln!(text, "#{number} {}", step.name)?;
        }
        self.current = Some(index);
        let Some(pending) = self.steps.get_mut(&index) else { return Ok(()) };
        pending.write_statuses(step, text)?;
        for warning in &step.warnings[pending.warnings..] {
            pending.close_line(text)?;
            writeln!(text, "#{} WARN: {warning}", pending.number)?;
        }
        pending.warnings = step.warnings.len();
        pending.write_lines(text)?;
        if let Some((at, outcome)) = &step.ended {
            pending.close_line(text)?;
            let number = pending.number;
            match outcome {
                Outcome::Cached { .. } => writeln!(text, "#{number} CACHED")?,
                Outcome::Done { .. } => {
                    if let Some(reason) = step.miss() {
                        writeln!(text, "#{number} not cached: {}", format::harmless(&reason.to_string()))?;
                    }
                    writeln!(text, "#{number} DONE {}", format::seconds(step.elapsed(*at)))?
                }
                Outcome::Failed { message } => {
                    writeln!(text, "#{number} ERROR: {}", format::harmless(message))?
                }
                Outcome::Cancelled => writeln!(text, "#{number} CANCELED")?,
            }
            pending.count = 0;
            self.current = None;
        }
        Ok(())
    }

    /// Takes the floor from whoever has it.
    fn interrupt(&mut self, text: &mut Vec<u8>) -> io::Result<()> {
        if let Some(pending) = self.current.and_then(|current| self.steps.get_mut(&current)) {
            pending.close_line(text)?;
            pending.count = 0;
            writeln!(text, "#{} ...", pending.number)?;
        }
        if self.numbers > 1 || self.current.is_some() {
            writeln!(text)?;
        }
        Ok(())
    }

    /// Decides who gets the floor among running steps. `free` says that whoever had it has ended.
    fn choose(&self, free: bool, now: SystemTime) -> Option<usize> {
        let rivals: BTreeSet<usize> = self.news.iter().copied().chain(self.current).collect();
        let waited = |step: &usize| {
            let since = self.steps.get(step).and_then(|pending| pending.since);
            since.and_then(|since| now.duration_since(since).ok()).unwrap_or_default()
        };
        let speed = |step: &usize| {
            let count = self.steps.get(step).map_or(0, |pending| pending.count);
            count as f64 / waited(step).as_secs_f64().max(1e-9)
        };
        let is_full = |step: &usize| self.steps.get(step).is_some_and(Pending::is_full);
        let overdue =
            |step: &&usize| Some(**step) != self.current && (waited(step) > MAX_DELAY || is_full(step));
        let fastest = rivals.iter().rev().max_by(|a, b| speed(a).total_cmp(&speed(b)));
        let best = rivals.iter().find(overdue).or(fastest).copied();
        let Some(current) = self.current.filter(|_| !free) else { return best };
        if let Some(overdue) = rivals.iter().find(overdue) {
            return Some(*overdue);
        }
        let share = speed(&current) / rivals.iter().map(speed).sum::<f64>();
        let turn = ANTI_FLICKER.as_secs_f64() / (1.0 - share);
        best.filter(|best| *best != current && waited(&current).as_secs_f64() > turn)
    }

    fn write_news(&mut self, model: &Model, now: SystemTime, text: &mut Vec<u8>) -> io::Result<()> {
        let end = |step: &usize| model.steps[*step].ended.as_ref().map(|(at, _)| *at);
        let mut ended: Vec<usize> = self.news.iter().copied().filter(|step| end(step).is_some()).collect();
        // Whoever has the floor finishes first, then those that ended first.
        ended.sort_by_key(|step| (Some(*step) != self.current, end(step)));
        let free = self.current.is_none_or(|current| ended.contains(&current));
        for step in ended {
            self.write(model, step, text)?;
        }
        if self.news.is_empty() {
            if self.current.is_none()
                && let Some(open) = model.begun.iter().find(|step| model.steps[**step].is_running())
            {
                self.write(model, *open, text)?;
            }
            return Ok(());
        }
        if let Some(current) = self.current.filter(|current| self.news.contains(current)) {
            self.write(model, current, text)?;
        }
        match self.choose(free, now) {
            Some(next) if self.current != Some(next) => self.write(model, next, text),
            _ => Ok(()),
        }
    }

    fn put(&mut self, text: &[u8]) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.out.write_all(text)?;
        self.out.flush()
    }
}

impl Pending {
    fn write_statuses(&mut self, step: &Step, text: &mut Vec<u8>) -> io::Result<()> {
        for index in std::mem::take(&mut self.statuses) {
            let status = &step.statuses[index];
            if status.completed.is_none()
                && let Some((shown, at)) = self.shown.get(&index)
                && status.updated.duration_since(*at).unwrap_or_default() < STATUS_DELAY
                && (status.current.saturating_sub(*shown) as f64) < STATUS_SHARE * status.total.max(1) as f64
            {
                continue;
            }
            self.shown.insert(index, (status.current, status.updated));
            self.close_line(text)?;
            writeln!(text, "#{} {}", self.number, status_line(status))?;
        }
        Ok(())
    }

    fn write_lines(&mut self, text: &mut Vec<u8>) -> io::Result<()> {
        let count = self.lines.len();
        for (index, line) in self.lines.iter().enumerate() {
            if index == 0 && self.written > 0 {
                text.extend_from_slice(&line[self.written..]);
            } else {
                write!(text, "#{} ", self.number)?;
                text.extend_from_slice(line);
            }
            if index + 1 < count || !self.open {
                writeln!(text)?;
            }
        }
        if self.open && self.lines.last().is_some_and(|line| line.len() > LONGEST_LINE) {
            writeln!(text)?;
            self.open = false;
        }
        let open = self.lines.pop().filter(|_| self.open);
        self.lines.clear();
        self.written = open.as_ref().map_or(0, Vec::len);
        self.lines.extend(open);
        self.unwritten = 0;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.unwritten > MOST_UNWRITTEN
    }

    /// Ends a line of which a part is written; the rest of it begins anew.
    fn close_line(&mut self, text: &mut Vec<u8>) -> io::Result<()> {
        if std::mem::take(&mut self.written) > 0 {
            writeln!(text)?;
        }
        Ok(())
    }

    fn log(&mut self, data: &[u8], time: Duration) {
        self.unwritten += data.len();
        let mut rest = data;
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n');
            let (line, after) = match end {
                Some(end) => (&rest[..end], &rest[end + 1..]),
                None => (rest, &rest[rest.len()..]),
            };
            match self.lines.last_mut().filter(|_| self.open) {
                Some(last) => last.extend_from_slice(line),
                None => self.lines.push([format::log_time(time).as_bytes(), b" ", line].concat()),
            }
            self.open = end.is_none();
            rest = after;
        }
    }
}

fn status_line(status: &Status) -> String {
    let mut line = status.id.clone();
    let amount = format::amount(status.current, status.total);
    if !amount.is_empty() {
        line = format!("{line} {amount}");
    }
    let elapsed = status.elapsed(status.updated);
    if elapsed > Duration::from_millis(10) {
        line = format!("{line} {}", format::seconds(elapsed));
    }
    if status.completed.is_some() { line + " done" } else { line }
}

impl<W: Write + Send> Display for Plain<W> {
    fn note(&mut self, model: &Model, change: &Change, now: SystemTime) -> io::Result<()> {
        match change {
            Change::Defined(_) => {}
            Change::Started(step) | Change::Warned(step) | Change::Finished(step) => {
                self.pending(*step, now);
            }
            Change::Log { step, data, at, .. } => {
                let time = model.steps[*step].time_of(*at);
                self.pending(*step, now).log(data, time);
            }
            Change::Status(step, index) => {
                self.pending(*step, now).statuses.insert(*index);
            }
        }
        Ok(())
    }

    fn draw(&mut self, model: &Model, now: SystemTime) -> io::Result<()> {
        let mut text = Vec::new();
        self.write_news(model, now, &mut text)?;
        self.put(&text)
    }

    fn is_full(&self) -> bool {
        self.news.iter().any(|step| self.steps.get(step).is_some_and(Pending::is_full))
    }

    fn finish(&mut self, model: &Model, now: SystemTime) -> io::Result<()> {
        let mut text = Vec::new();
        self.write_news(model, now, &mut text)?;
        // Steps that never end still had something to say.
        for step in std::mem::take(&mut self.news) {
            self.write(model, step, &mut text)?;
        }
        if let Some(pending) = self.current.and_then(|current| self.steps.get_mut(&current)) {
            pending.close_line(&mut text)?;
        }
        self.put(&text)
    }
}
