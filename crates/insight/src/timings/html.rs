//! Timings as one page that needs nothing else: lanes of work, steps one below the other, what waited for what, the critical path.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::Duration;

use trace::Work;

use super::{Part, RowKind, Timings};
use crate::compare::escape;
use crate::{BuildResult, words};

const STYLE: &str = include_str!("timings.css");
const SCRIPT: &str = include_str!("timings.js");

/// In pixels, as the style sheet has it.
const ROW: usize = 24;
/// Of a line of a lane.
const LINE: usize = 12;

/// More lines than these a lane does not get: what is left is drawn over the last.
const LINES: usize = 8;

/// With more steps, those that nothing was done for are not drawn.
const FEW: usize = 100;

/// Most marks of the time.
const TICKS: u32 = 8;

impl Timings {
    /// The page.
    pub fn html(&self) -> String {
        // Nothing is loaded, whatever a name says.
        let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";
        let mut page =
            String::from("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
        page += &format!("<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n");
        page +=
            "<meta name=\"viewport\" content=\"width=device-width\">\n<title>Timings of a build</title>\n";
        page += &format!("<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>Where the time went</h1>\n");
        page += &self.summary();
        page += &legend();
        page += &format!("<section>\n<h2>Lanes</h2>\n{}</section>\n", self.lanes());
        page += &format!("<section>\n<h2>Steps</h2>\n{}</section>\n", self.steps());
        page += &format!("<section>\n<h2>Critical path</h2>\n{}</section>\n", self.path_table());
        page += &format!("<section>\n<h2>Summary</h2>\n{}</section>\n", self.table());
        page += &format!("<script>\n{SCRIPT}</script>\n</body>\n</html>\n");
        page
    }

    fn summary(&self) -> String {
        let result = match &self.result {
            BuildResult::Done => "done".to_owned(),
            BuildResult::Failed { message } => format!("failed: {message}"),
            BuildResult::Cancelled => "given up".to_owned(),
        };
        let count = |outcome: &str| self.rows.iter().filter(|row| row.outcome == Some(outcome)).count();
        let mut kinds: Vec<(Work, Duration)> =
            Work::ALL.into_iter().map(|work| (work, self.on_path(|span| span.work == work))).collect();
        kinds.retain(|(_, time)| !time.is_zero());
        kinds.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
        let share = |(work, time): &(Work, Duration)| format!("{} {}", work.name(), shown(*time));
        let shares: Vec<String> = kinds.iter().take(3).map(share).collect();
        format!(
            "<div class=\"cards\">\n<div class=\"card\"><h2>Total</h2><p><b>{}</b>, {}</p></div>\n\
             <div class=\"card\"><h2>Steps</h2><p><b>{}</b> ran, <b>{}</b> cached</p></div>\n\
             <div class=\"card\"><h2>Critical path</h2><p>{}</p></div>\n\
             <div class=\"card\"><h2>Dockerfile</h2><p>{}</p></div>\n</div>\n",
            shown(self.total),
            escape(&result),
            count("ran") + count("failed"),
            count("cached"),
            escape(&shares.join(", ")),
            escape(&self.title),
        )
    }

    /// One lane a kind of work, as many lines as there is at a time.
    fn lanes(&self) -> String {
        let on_path = self.critical_spans();
        let (mut names, mut bars, mut top) = (String::new(), String::new(), 0);
        for work in Work::ALL {
            let spans: Vec<usize> = (0..self.spans.len()).filter(|at| self.spans[*at].work == work).collect();
            if spans.is_empty() {
                continue;
            }
            let mut lines: Vec<Duration> = Vec::new();
            for at in spans {
                let span = &self.spans[at];
                let free = lines.iter().position(|until| *until <= span.begin);
                let line = match free {
                    None if lines.len() < LINES => {
                        lines.push(span.end);
                        lines.len() - 1
                    }
                    None => LINES - 1,
                    Some(line) => {
                        lines[line] = span.end;
                        line
                    }
                };
                bars += &self.bar(span, top + 4 + line * LINE, LINE - 2, on_path.contains(&at));
            }
            let height = lines.len() * LINE + 8;
            let _ = writeln!(
                names,
                "<div class=\"name\" style=\"height:{height}px\"><span class=\"title\">{}</span><span class=\"took\">{}</span></div>",
                work.name(),
                shown(self.lane(work))
            );
            top += height;
            let _ = writeln!(bars, "<i class=\"rule\" style=\"top:{top}px\"></i>");
        }
        self.chart("lanes", &names, &bars, top)
    }

    /// One row a step, in the order of the Dockerfile.
    fn steps(&self) -> String {
        let on_path = self.critical_spans();
        let drawn: Vec<usize> = (0..self.rows.len())
            .filter(|row| self.rows.len() <= FEW || self.extent(*row).is_some())
            .collect();
        let mut places = vec![None; self.rows.len()];
        for (place, row) in drawn.iter().enumerate() {
            places[*row] = Some(place);
        }
        let (mut names, mut bars) = (String::new(), String::new());
        for row in &drawn {
            let _ = writeln!(
                names,
                "<div class=\"name {}\" data-row=\"{row}\" data-inputs=\"{}\" tabindex=\"0\" title=\"{}\">\
                 <span class=\"title\">{}</span><span class=\"took\">{}</span></div>",
                self.rows[*row].outcome.unwrap_or("none"),
                self.rows[*row].inputs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
                escape(&self.hover_row(*row)),
                escape(&self.rows[*row].name),
                self.extent(*row).map(|_| shown(self.active(*row))).unwrap_or_default(),
            );
        }
        for (at, span) in self.spans.iter().enumerate() {
            if let Some(place) = places[span.row] {
                // What goes on inside of packing is drawn inside of it.
                let inset = if span.work == Work::Compress { 9 } else { 5 };
                bars += &self.bar(span, place * ROW + inset, ROW - 2 * inset, on_path.contains(&at));
            }
        }
        bars += &self.links(&places);
        let mut chart = self.chart("steps", &names, &bars, drawn.len() * ROW);
        let left_out = self.rows.len() - drawn.len();
        if left_out > 0 {
            chart += &format!(
                "<p class=\"note\">{left_out} cached steps for which nothing had to be done are not drawn.</p>\n"
            );
        }
        chart
    }

    /// The steps of the critical path, tied together.
    fn links(&self, places: &[Option<usize>]) -> String {
        let mut links = String::new();
        for pair in self.critical.windows(2) {
            let (before, after) = (&self.spans[pair[0].span], &self.spans[pair[1].span]);
            let (Some(from), Some(to)) = (places[before.row], places[after.row]) else { continue };
            if after.begin > before.end {
                let _ = writeln!(
                    links,
                    "<i class=\"link across\" style=\"left:{};width:{};top:{}px\"></i>",
                    self.percent(before.end),
                    self.percent(after.begin - before.end),
                    from * ROW + ROW / 2
                );
            }
            if from != to {
                let (top, bottom) = (from.min(to) * ROW + ROW / 2, from.max(to) * ROW + ROW / 2);
                let _ = writeln!(
                    links,
                    "<i class=\"link down\" style=\"left:{};top:{top}px;height:{}px\"></i>",
                    self.percent(after.begin),
                    bottom - top
                );
            }
        }
        links
    }

    fn chart(&self, class: &str, names: &str, bars: &str, height: usize) -> String {
        let mut ticks = String::new();
        for time in ticks_of(self.total) {
            let _ = writeln!(
                ticks,
                "<i class=\"tick\" style=\"left:{}\"></i><b class=\"mark\" style=\"left:{}\">{}</b>",
                self.percent(time),
                self.percent(time),
                shown(time)
            );
        }
        format!(
            "<div class=\"chart {class}\">\n<div class=\"names\">\n{names}</div>\n\
             <div class=\"tracks\" style=\"height:{height}px\">\n{ticks}{bars}</div>\n</div>\n"
        )
    }

    fn bar(&self, span: &Part, top: usize, height: usize, critical: bool) -> String {
        format!(
            "<span class=\"bar {}{}\" data-row=\"{}\" style=\"left:{};width:{};top:{top}px;height:{height}px\" title=\"{}\"></span>\n",
            span.work.name(),
            if critical { " critical" } else { "" },
            span.row,
            self.percent(span.begin),
            self.percent(span.length()),
            escape(&self.hover(span, critical)),
        )
    }

    /// What the pointer shows over a span.
    fn hover(&self, span: &Part, critical: bool) -> String {
        let mut text = format!(
            "{}\n{}: {}, {}\nfrom {} to {}",
            self.rows[span.row].name,
            span.work.name(),
            span.what,
            shown(span.length()),
            shown(span.begin),
            shown(span.end)
        );
        if let Some(busy) = span.busy.filter(|busy| *busy > span.length()) {
            text += &format!("\n{} of processor time", shown(busy));
        }
        if span.bytes > 0 {
            text += &format!("\n{}", words::bytes(span.bytes));
        }
        if critical {
            text += "\non the critical path";
        }
        text
    }

    /// The same over a step.
    fn hover_row(&self, place: usize) -> String {
        let row = &self.rows[place];
        let mut text = row.name.clone();
        if let Some((first, last)) = row.lines {
            text +=
                &if first == last { format!("\nline {first}") } else { format!("\nlines {first} to {last}") };
        }
        if let Some(outcome) = row.outcome {
            text += &format!("\n{outcome}");
            text += &row.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        }
        for (work, time) in self.worked(place) {
            text += &format!("\n{} {}", work.name(), shown(time));
        }
        let names: Vec<&str> = row.inputs.iter().map(|input| self.rows[*input].name.as_str()).collect();
        if !names.is_empty() {
            text += &format!("\nuses {}", names.join("\nuses "));
        }
        text
    }

    fn path_table(&self) -> String {
        let mut table = String::from(
            "<table>\n<thead><tr><th>step</th><th>work</th><th>waited</th><th>time</th><th>share</th></tr></thead>\n<tbody>\n",
        );
        // What is too short to be seen is told as one.
        let least = self.total / 1000;
        let (mut short, mut count) = (Duration::ZERO, 0);
        for link in &self.critical {
            let span = &self.spans[link.span];
            if span.length() + link.idle < least {
                short += span.length() + link.idle;
                count += 1;
                continue;
            }
            let _ = writeln!(
                table,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                escape(&self.rows[span.row].name),
                escape(&format!("{}: {}", span.work.name(), span.what)),
                if link.idle < least { String::new() } else { shown(link.idle) },
                shown(span.length()),
                self.share(span.length()),
            );
        }
        if count > 0 {
            let _ = writeln!(
                table,
                "<tr><td>{count} more, each less than a thousandth</td><td></td><td></td><td>{}</td><td>{}</td></tr>",
                shown(short),
                self.share(short)
            );
        }
        table + "</tbody>\n</table>\n"
    }

    fn table(&self) -> String {
        let works: Vec<Work> =
            Work::ALL.into_iter().filter(|work| self.spans.iter().any(|span| span.work == *work)).collect();
        let mut table = String::from("<table>\n<thead><tr><th>step</th><th>result</th><th>began</th>");
        for work in &works {
            table += &format!("<th>{}</th>", work.name());
        }
        table += "<th>critical</th></tr></thead>\n<tbody>\n";
        for (place, row) in self.rows.iter().enumerate() {
            let Some((begin, _)) = self.extent(place) else { continue };
            let worked = self.worked(place);
            let result = match row.kind {
                RowKind::Step => row.outcome.unwrap_or_default(),
                RowKind::Build | RowKind::Task => "",
            };
            table += &format!(
                "<tr data-row=\"{place}\"><td>{}</td><td>{result}</td><td>{}</td>",
                escape(&row.name),
                shown(begin)
            );
            for work in &works {
                table +=
                    &format!("<td>{}</td>", worked.get(work).map(|time| shown(*time)).unwrap_or_default());
            }
            let critical = self.on_path(|span| span.row == place);
            let critical = if critical.is_zero() { String::new() } else { shown(critical) };
            table += &format!("<td>{critical}</td></tr>\n");
        }
        table += "</tbody>\n<tfoot><tr><td>all</td><td></td><td></td>";
        for work in &works {
            table += &format!("<td>{}</td>", shown(self.lane(*work)));
        }
        table + &format!("<td>{}</td></tr></tfoot>\n</table>\n", shown(self.on_path(|_| true)))
    }

    fn critical_spans(&self) -> HashSet<usize> {
        self.critical.iter().map(|link| link.span).collect()
    }

    /// Of the width.
    fn percent(&self, time: Duration) -> String {
        let total = self.total.as_secs_f64().max(f64::MIN_POSITIVE);
        format!("{:.3}%", time.as_secs_f64() / total * 100.0)
    }

    fn share(&self, time: Duration) -> String {
        let total = self.total.as_secs_f64().max(f64::MIN_POSITIVE);
        format!("{:.1}%", time.as_secs_f64() / total * 100.0)
    }
}

fn legend() -> String {
    let words: String =
        Work::ALL.into_iter().map(|work| format!("<span class=\"{0}\">{0}</span> ", work.name())).collect();
    format!("<p class=\"legend\">{words}<span class=\"onpath\">on the critical path</span></p>\n")
}

/// Where the time is marked: round numbers, not too many.
fn ticks_of(total: Duration) -> Vec<Duration> {
    let mut step = Duration::from_micros(10);
    for factor in [2, 5, 10].into_iter().cycle().scan(Duration::from_micros(10), |unit, factor| {
        let step = *unit * factor;
        if factor == 10 {
            *unit = step;
        }
        Some(step)
    }) {
        if total <= step * TICKS || step > Duration::from_secs(1 << 30) {
            break;
        }
        step = factor;
    }
    (1..=TICKS).map(|count| step * count).take_while(|time| *time < total.mul_f64(0.97)).collect()
}

/// `0.4ms`, `123ms`, `1.23s`, `3m12s`.
fn shown(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1000.0;
    match milliseconds {
        0.0..9.95 => format!("{milliseconds:.1}ms"),
        9.95..999.5 => format!("{milliseconds:.0}ms"),
        999.5..99_950.0 => format!("{:.2}s", milliseconds / 1000.0),
        _ => words::time(milliseconds as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_for_people() {
        let shown = |micros| shown(Duration::from_micros(micros));
        assert_eq!(shown(0), "0.0ms");
        assert_eq!(shown(9_949), "9.9ms");
        assert_eq!(shown(12_300), "12ms");
        assert_eq!(shown(999_499), "999ms");
        assert_eq!(shown(1_234_000), "1.23s");
        assert_eq!(shown(192_000_000), "3m12s");
    }

    #[test]
    fn marks_are_round_and_few() {
        for total in [1, 999, 7_300, 61_000, 1_000_000, 2_345_678, 61_000_000, 86_400_000_000] {
            let ticks = ticks_of(Duration::from_micros(total));
            assert!(ticks.len() <= TICKS as usize, "{total}: {ticks:?}");
            assert!(total < 30 || ticks.len() >= 2, "{total}: {ticks:?}");
            let step = ticks.first().map_or(1, |step| step.as_micros());
            assert!([1, 2, 5].contains(&(step / 10_u128.pow(step.ilog10()))), "{total}: {ticks:?}");
        }
        assert!(ticks_of(Duration::ZERO).is_empty());
    }
}
