use std::fmt::Write as _;

use super::{CacheState, Picture, shortened, shown};

/// Sizes in pixels. A letter of the font is taken to be this wide; the font is one with letters of one width.
const LETTER: usize = 7;
const BOX: (usize, usize) = (330, 26);
const GAP: (usize, usize) = (60, 16);
const MARGIN: usize = 24;
const HEAD: usize = 54;
const LEGEND: usize = 40;

/// A column for each stage, steps from top to bottom, each below all of its inputs.
pub(super) fn draw(picture: &Picture) -> String {
    let rows = rows(picture);
    let columns = columns(picture);
    let height = HEAD + LEGEND + (rows.iter().max().map_or(0, |row| row + 1)) * (BOX.1 + GAP.1) + MARGIN;
    let width = MARGIN * 2 + picture.lanes.len().max(1) * (BOX.0 + GAP.0) - GAP.0;
    let place = |step: usize| {
        let x = MARGIN + columns[step] * (BOX.0 + GAP.0);
        let y = HEAD + LEGEND + rows[step] * (BOX.1 + GAP.1);
        (x, y)
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" font-size=\"11.5\">\n\
         <style>rect.step:hover{{stroke-width:2.5}} text{{fill:#222}} path{{fill:none}}</style>\n\
         <defs><marker id=\"a\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\">\
         <path d=\"M0 0 8 4 0 8z\" style=\"fill:#777\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    legend(&mut svg);
    for (index, lane) in picture.lanes.iter().enumerate() {
        let x = MARGIN + index * (BOX.0 + GAP.0);
        let title = match lane.stage.as_deref() {
            None => "sources",
            Some("") => "stage",
            Some(stage) => stage,
        };
        let _ = writeln!(
            svg,
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"6\" fill=\"#f6f7f9\"/>\
             <text x=\"{x}\" y=\"{}\" font-weight=\"bold\" font-size=\"13\">{}</text>",
            x - 12,
            LEGEND,
            BOX.0 + 24,
            height - LEGEND - 8,
            LEGEND + 26,
            escaped(&shortened(title, BOX.0 / (LETTER + 1)))
        );
    }
    for edge in &picture.edges {
        let ((x1, y1), (x2, y2)) = (place(edge.from), place(edge.to));
        let dash = if edge.base { "" } else { " stroke-dasharray=\"5 3\"" };
        let is_next = columns[edge.from] + 1 == columns[edge.to];
        let line = if x1 == x2 && rows[edge.to] == rows[edge.from] + 1 {
            let x = x1 + BOX.0 / 2;
            format!("M{x} {} V{y2}", y1 + BOX.1)
        } else if x1 == x2 {
            // Around the steps between.
            let (from, to, side) = (y1 + BOX.1 / 2, y2 + BOX.1 / 2, x1 - 10);
            format!("M{x1} {from} C{side} {from} {side} {to} {x2} {to}")
        } else if is_next {
            let (from, to) = (y1 + BOX.1 / 2, y2 + BOX.1 / 2);
            let (x1, middle) = (x1 + BOX.0, x1 + BOX.0 + GAP.0 / 2);
            format!("M{x1} {from} C{middle} {from} {middle} {to} {x2} {to}")
        } else {
            // Behind no step of the columns between: down or up beside the column, across between two rows, and in. Lines of
            // different steps keep apart.
            let apart = edge.from % 5 * 3;
            let (from, to) = (y1 + BOX.1 / 2, y2 + BOX.1 / 2);
            let (x1, out) = (x1 + BOX.0, x1 + BOX.0 + GAP.0 / 2 - 12 + apart);
            let (across, into) = (y2 - GAP.1 / 2 - 3 + apart / 2, x2 - GAP.0 / 2 + apart);
            format!("M{x1} {from} H{out} V{across} H{into} V{to} H{x2}")
        };
        let _ = writeln!(
            svg,
            "<path d=\"{line}\" stroke=\"#777\" stroke-width=\"1.2\" stroke-linejoin=\"round\"{dash} marker-end=\"url(#a)\"/>"
        );
    }
    for (index, step) in picture.steps.iter().enumerate() {
        let (x, y) = place(index);
        let label = format!("{} {}", step.number, step.title);
        let lines = step.lines.map(|(first, _)| format!("line {first}: ")).unwrap_or_default();
        let _ = writeln!(
            svg,
            "<g><title>{}{} ({})</title><rect class=\"step\" x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" rx=\"4\" \
             fill=\"{}\" stroke=\"{}\"/><text x=\"{}\" y=\"{}\">{}</text></g>",
            escaped(&lines),
            escaped(&step.title),
            step.state.word(),
            BOX.0,
            BOX.1,
            fill(step.state),
            if step.target { "#000" } else { "#9aa" },
            x + 8,
            y + 17,
            escaped(&shortened(label.trim(), (BOX.0 - 16) / LETTER)),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Each step in a row of its own within its column, and below all of its inputs.
fn rows(picture: &Picture) -> Vec<usize> {
    let mut rows = vec![0; picture.steps.len()];
    let columns = columns(picture);
    let mut next = vec![0; picture.lanes.len()];
    for step in 0..picture.steps.len() {
        let below = picture.inputs(step).map(|edge| {
            // An input of another stage may stand at the same height: the arrow goes sideways.
            rows[edge.from] + usize::from(columns[edge.from] == columns[step])
        });
        let row = below.max().unwrap_or(0).max(next[columns[step]]);
        rows[step] = row;
        next[columns[step]] = row + 1;
    }
    rows
}

fn columns(picture: &Picture) -> Vec<usize> {
    let mut columns = vec![0; picture.steps.len()];
    for (index, lane) in picture.lanes.iter().enumerate() {
        for &step in &lane.steps {
            columns[step] = index;
        }
    }
    columns
}

fn legend(svg: &mut String) {
    let mut x = MARGIN;
    for (state, words) in [
        (CacheState::Cached, "cached"),
        (CacheState::Missing, "runs"),
        (CacheState::Always, "always runs"),
        (CacheState::Unknown, "unknown"),
    ] {
        let _ = write!(
            svg,
            "<rect x=\"{x}\" y=\"12\" width=\"14\" height=\"14\" rx=\"3\" fill=\"{}\" stroke=\"#9aa\"/>\
             <text x=\"{}\" y=\"23\">{words}</text>",
            fill(state),
            x + 20
        );
        x += 20 + (words.len() + 3) * LETTER;
    }
    svg.push('\n');
}

fn fill(state: CacheState) -> &'static str {
    match state {
        CacheState::Cached => "#c8e6c9",
        CacheState::Missing => "#ffe0b2",
        CacheState::Always => "#ffcdd2",
        CacheState::Unknown => "#e1bee7",
        CacheState::Source => "#e3f2fd",
    }
}

/// Text of XML. Control characters cannot stand in it at all.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(shown(c)),
        }
    }
    escaped
}
