use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use graph::{MissReason, Outcome};
use unicode_width::UnicodeWidthStr as _;

use super::model::{Change, Model, Step};
use super::{Display, Settings, format};

/// Cursor and erasing, as every terminal since the VT100 knows them.
const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";
const ERASE_LINE: &str = "\x1b[K";
const ERASE_BELOW: &str = "\x1b[J";

/// A view of all steps that is drawn over and over. Each frame is one write; lines never reach the last column, so that
/// nothing wraps.
pub(super) struct Tty<W: Write> {
    out: W,
    size: Box<dyn Fn() -> Option<(u16, u16)> + Send>,
    settings: Settings,
    /// Columns of the lines that the last frame left on the screen.
    drawn: Vec<usize>,
    hidden: bool,
}

/// A line without its colour.
struct Line {
    text: String,
    style: Style,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Run,
    Cancel,
    Error,
    Warning,
    Log,
}

/// The lines of one step, its own first.
struct Block {
    lines: Vec<Line>,
    running: bool,
}

impl<W: Write> Tty<W> {
    pub(super) fn new(
        out: W,
        size: impl Fn() -> Option<(u16, u16)> + Send + 'static,
        settings: &Settings,
    ) -> Tty<W> {
        let settings = settings.clone();
        Tty { out, size: Box::new(size), settings, drawn: Vec::new(), hidden: false }
    }

    /// Columns and rows; a terminal that does not tell is a small one.
    fn size(&self) -> (usize, usize) {
        match (self.size)() {
            Some((columns, rows)) if columns > 0 && rows > 0 => (columns.into(), rows.into()),
            _ => (80, 10),
        }
    }

    fn frame(&mut self, model: &Model, now: SystemTime, last: bool) -> io::Result<()> {
        let (columns, rows) = self.size();
        // The last column stays empty: writing into it leaves terminals in different states.
        let width = (columns - 1).max(1);
        let mut lines = vec![header(self.settings.title, model, now, width, last)];
        let mut blocks: Vec<Block> =
            model.begun.iter().map(|step| block(model, &model.steps[*step], now, width)).collect();
        if !last {
            let limit = rows.saturating_sub(2).max(1);
            add_logs(model, &mut blocks, limit, self.settings.log_lines, width);
            fit(&mut blocks, limit);
        }
        lines.extend(blocks.into_iter().flat_map(|block| block.lines));
        self.put(&lines, columns, last)
    }

    fn put(&mut self, lines: &[Line], columns: usize, last: bool) -> io::Result<()> {
        let mut text = String::new();
        if !self.hidden {
            text += HIDE_CURSOR;
            self.hidden = true;
        }
        // A window that became narrower has folded the lines that are there.
        let up: usize = self.drawn.iter().map(|width| width.div_ceil(columns).max(1)).sum();
        if up > 0 {
            // Writing to a string does not fail.
            let _ = write!(text, "\x1b[{up}A");
        }
        text.push('\r');
        for line in lines {
            let color = self.color(line.style);
            text += color;
            text += &line.text;
            if !color.is_empty() {
                text += &self.settings.colors.reset;
            }
            text += ERASE_LINE;
            text.push('\n');
        }
        text += ERASE_BELOW;
        self.drawn = lines.iter().map(|line| line.text.width()).collect();
        if last {
            text += SHOW_CURSOR;
            self.hidden = false;
            self.drawn.clear();
        }
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    fn color(&self, style: Style) -> &str {
        let colors = &self.settings.colors;
        match style {
            Style::Plain => "",
            Style::Run => &colors.run,
            Style::Cancel => &colors.cancel,
            Style::Error => &colors.error,
            Style::Warning => &colors.warning,
            Style::Log => &colors.faint,
        }
    }
}

/// `[+] Building 4.2s (7/12)`
fn header(title: &str, model: &Model, now: SystemTime, width: usize, last: bool) -> Line {
    let since = model.since.and_then(|since| now.duration_since(since).ok()).unwrap_or_default();
    // What was never begun was not needed, which is known at the end.
    let total = if last { model.begun.len() } else { model.steps.len() };
    let mut text = format!("[+] {title} {} ({}/{total})", format::seconds(since), model.ended());
    if last && model.is_success() {
        text += " FINISHED";
    }
    Line { text: insight::start(&text, width).to_owned(), style: Style::Plain }
}

/// The lines of a step, without its output.
fn block(model: &Model, step: &Step, now: SystemTime, width: usize) -> Block {
    let (prefix, style) = match step.ended.as_ref().map(|(_, outcome)| outcome) {
        None => ("", Style::Plain),
        Some(Outcome::Done { .. }) => ("", Style::Run),
        Some(Outcome::Cached { .. }) => ("CACHED ", Style::Run),
        Some(Outcome::Failed { .. }) => ("ERROR ", Style::Error),
        Some(Outcome::Cancelled) => ("CANCELED ", Style::Cancel),
    };
    let timer = timer(step.elapsed(now));
    let mut lines =
        vec![Line { text: aligned(&format!(" => {prefix}{}", step.name), "", &timer, width), style }];
    for status in &step.statuses {
        let amount = format::amount(status.current, status.total);
        let end = step.ended.as_ref().map_or(now, |(at, _)| *at);
        let timer = self::timer(status.elapsed(end));
        let style = if status.completed.is_some() { Style::Run } else { Style::Plain };
        lines.push(Line { text: aligned(&format!(" => => {}", status.id), &amount, &timer, width), style });
    }
    if let Some(reason) = reason(model, step) {
        let text =
            aligned(&format!(" => => not cached: {}", format::harmless(&reason.to_string())), "", "", width);
        lines.push(Line { text, style: Style::Log });
    }
    for warning in &step.warnings {
        let text = aligned(&format!(" => WARN: {warning}"), "", "", width);
        lines.push(Line { text, style: Style::Warning });
    }
    Block { lines, running: step.is_running() }
}

/// Why a step was not cached, where one would wonder: not where it was asked for, nor in a build of which nothing was there.
fn reason<'a>(model: &Model, step: &'a Step) -> Option<&'a MissReason> {
    step.miss().filter(|reason| match reason {
        MissReason::Disabled => false,
        MissReason::FirstBuild => model.has_cached,
        _ => true,
    })
}

/// Less than a twentieth of a second counts as none.
fn timer(elapsed: Duration) -> String {
    format::seconds(if elapsed < Duration::from_millis(50) { Duration::ZERO } else { elapsed })
}

/// A name at the left with an amount behind it, a time at the right. What does not fit is left out: first the amount, then the
/// time, then the end of the name.
fn aligned(name: &str, amount: &str, timer: &str, width: usize) -> String {
    const MIN_NAME: usize = 16;
    let spaced = |text: &str| if text.is_empty() { String::new() } else { format!(" {text}") };
    let (mut amount, mut timer) = (spaced(amount), spaced(timer));
    if amount.len() + timer.len() + MIN_NAME > width {
        amount.clear();
    }
    if timer.len() + MIN_NAME > width {
        timer.clear();
    }
    let left = format!("{}{amount}", insight::start(name, width - amount.len() - timer.len()));
    if timer.is_empty() {
        return left;
    }
    let space = (width - timer.len()).saturating_sub(left.width());
    format!("{left}{:space$}{timer}", "")
}

/// Puts the last lines of output below running steps, the oldest steps first, as far as there is room for whole windows.
fn add_logs(model: &Model, blocks: &mut [Block], limit: usize, window: usize, width: usize) {
    let needed: usize = blocks.iter().filter(|block| block.running).map(|block| block.lines.len()).sum();
    let mut room = limit.saturating_sub(needed);
    for (index, block) in model.begun.iter().zip(blocks) {
        let lines = model.steps[*index].log.last(window);
        if !block.running || lines.is_empty() || room < window {
            continue;
        }
        room -= window;
        block.lines.extend(lines.into_iter().map(|line| {
            let text = format!(" => => # {line}");
            Line { text: insight::start(&text, width).to_owned(), style: Style::Log }
        }));
    }
}

/// Leaves out what does not fit: the oldest finished steps, then what stands below running steps, then the oldest of those.
fn fit(blocks: &mut Vec<Block>, limit: usize) {
    let mut total: usize = blocks.iter().map(|block| block.lines.len()).sum();
    blocks.retain(|block| {
        let drop = total > limit && !block.running;
        total -= if drop { block.lines.len() } else { 0 };
        !drop
    });
    while total > limit
        && let Some(longest) =
            blocks.iter_mut().filter(|block| block.lines.len() > 1).max_by_key(|block| block.lines.len())
    {
        longest.lines.pop();
        total -= 1;
    }
    let excess = total.saturating_sub(limit).min(blocks.len());
    blocks.drain(..excess);
}

impl<W: Write + Send> Display for Tty<W> {
    fn note(&mut self, _model: &Model, _change: &Change, _now: SystemTime) -> io::Result<()> {
        Ok(())
    }

    fn draw(&mut self, model: &Model, now: SystemTime) -> io::Result<()> {
        if model.begun.is_empty() {
            return Ok(());
        }
        self.frame(model, now, false)
    }

    fn finish(&mut self, model: &Model, now: SystemTime) -> io::Result<()> {
        if model.begun.is_empty() {
            return Ok(());
        }
        self.frame(model, now, true)
    }

    /// The windows below the steps are gone at the end, so more is repeated.
    fn repeated_lines(&self) -> usize {
        self.settings.log_lines.max(100)
    }
}

/// The cursor comes back whatever happens.
impl<W: Write> Drop for Tty<W> {
    fn drop(&mut self) {
        if self.hidden {
            // There is nobody left to tell when this fails too.
            let _ = self.out.write_all(SHOW_CURSOR.as_bytes());
            let _ = self.out.flush();
        }
    }
}
