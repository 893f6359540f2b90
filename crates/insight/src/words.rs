//! Numbers and tables for people.

use unicode_width::UnicodeWidthStr as _;

/// Milliseconds: `0.4s`, `12.3s`, `3m12s`.
pub(crate) fn time(milliseconds: u64) -> String {
    let seconds = milliseconds as f64 / 1000.0;
    match milliseconds {
        0..99_950 => format!("{seconds:.1}s"),
        _ => format!("{}m{:02}s", milliseconds / 60_000, milliseconds / 1000 % 60),
    }
}

/// `528B`, `3.2MB`: decimal units, as everywhere in the program.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count}B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1}{}", UNITS[unit])
}

/// On one line, without control characters.
pub(crate) fn harmless(text: &str) -> String {
    let space = |c: char| if matches!(c, '\t' | '\n' | '\r') { ' ' } else { c };
    let is_bidi =
        |c: &char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(space).filter(|c| !c.is_control() && !is_bidi(c)).collect()
}

/// Longest name of a step in a table, in columns.
const NAME: usize = 60;

/// What is cut of a table keeps so many columns of text.
pub const LEAST: usize = 8;

/// The width of each column, that of its widest cell.
pub fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max();
    (0..count).map(|column| width(column).unwrap_or(0)).collect()
}

/// Makes columns narrower, those first that are widest, so that a line fits into `room`; none to less than its number in `least`. `gap`
/// columns lie between two.
pub fn fit(widths: &mut [usize], least: &[usize], gap: usize, room: usize) {
    let whole = widths.iter().sum::<usize>() + gap * widths.len().saturating_sub(1);
    for _ in room..whole {
        let wide = (0..widths.len()).filter(|column| Some(&widths[*column]) > least.get(*column));
        let Some(widest) = wide.max_by_key(|column| widths[*column]) else { return };
        widths[widest] -= 1;
    }
}

/// The beginning of a text that fits into so many columns. Columns are counted as those of the whole: a character may change how wide the
/// one before it is drawn.
pub fn start(text: &str, columns: usize) -> &str {
    if text.width() <= columns {
        return text;
    }
    let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    let fitting = ends.partition_point(|end| text[..*end].width() <= columns);
    &text[..fitting.checked_sub(1).map_or(0, |last| ends[last])]
}

/// The end of a text that fits into so many columns, without what belongs to the character before it.
fn end(text: &str, columns: usize) -> &str {
    use unicode_width::UnicodeWidthChar as _;
    let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    let first = starts.partition_point(|start| text[*start..].width() > columns);
    let text = starts.get(first).map_or("", |start| &text[*start..]);
    text.trim_start_matches(|c: char| c.width().unwrap_or(0) == 0)
}

/// A text in so many columns: of a longer one the middle is left out, visibly.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let left = width.saturating_sub(1);
    // The beginning says more than the end.
    let (head, tail) = (start(text, left - left / 3), end(text, left / 3));
    format!("{}…{}", head.trim_end(), tail.trim_start())
}

/// Rows of cells in columns of these widths with so many spaces between, none at the ends of lines; what is too long is cut. `sides` says of
/// each column to which side it is set, `<` or `>`; the last goes for all that follow.
pub fn in_columns(rows: &[Vec<String>], widths: &[usize], gap: usize, sides: &str) -> String {
    let is_left = |column: usize| sides.chars().nth(column).or(sides.chars().last()) != Some('>');
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let cell = cut(cell, *width);
            let space = " ".repeat(width.saturating_sub(cell.width()));
            line += &if column == 0 { String::new() } else { " ".repeat(gap) };
            line += &if is_left(column) { format!("{cell}{space}") } else { format!("{space}{cell}") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// The same, as wide as they have to be and two spaces between. The column `name` is cut when it is long, and more of it so that lines
/// fit into `room`.
pub(crate) fn table(rows: &[Vec<String>], indent: &str, sides: &str, name: usize, room: usize) -> String {
    const GAP: usize = 2;
    let shown = |(column, cell): (usize, &String)| {
        let text = harmless(cell);
        if column == name { crate::picture::shortened(&text, NAME) } else { text }
    };
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().enumerate().map(shown).collect()).collect();
    let mut widths = widths(&rows);
    let mut least = widths.clone();
    if let Some(name) = least.get_mut(name) {
        *name = LEAST.min(*name);
    }
    fit(&mut widths, &least, GAP, room.saturating_sub(indent.width()));
    in_columns(&rows, &widths, GAP, sides).lines().map(|line| format!("{indent}{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!([time(0), time(1_234), time(99_949), time(192_000)], ["0.0s", "1.2s", "99.9s", "3m12s"]);
        assert_eq!([bytes(999), bytes(1_500), bytes(999_960)], ["999B", "1.5kB", "1.0MB"]);
    }

    #[test]
    fn long_names_lose_their_middle() {
        assert_eq!(cut("RUN make all install", 10), "RUN ma…all");
        assert_eq!(cut("short", 10), "short");
        assert_eq!(cut("日本語日本語", 7), "日本…語");
        let row = vec!["RUN apt-get update && apt-get install".to_owned(), "1.0s".to_owned()];
        let text = table(&[row], "  ", "<>", 0, 30);
        assert!(text.contains('…') && text.trim_end().width() <= 30, "{text}");
        let mut widths = [4, 40, 5];
        fit(&mut widths, &[8, LEAST, 8], 2, 30);
        assert_eq!(widths, [4, 17, 5]);
        fit(&mut widths, &[8, LEAST, 8], 2, 3);
        assert_eq!(widths, [4, LEAST, 5], "something is left");
    }

    #[test]
    fn a_text_is_as_wide_as_it_is_drawn() {
        assert_eq!([start("häß", 2), start("東京", 3), start("e\u{301}x", 1)], ["hä", "東", "e\u{301}"]);
        for text in ["⚠\u{fe0f}".repeat(9), "👩\u{200d}👩".repeat(5), "e\u{301}".repeat(12), "لا".repeat(9)]
        {
            for width in 0..30 {
                let (start, cut) = (start(&text, width), cut(&text, width));
                assert!(start.width() <= width && text.starts_with(start), "{start} is wider than {width}");
                assert!(cut.width() <= width.max(1), "{cut} is wider than {width}");
                let table = in_columns(&[vec![text.clone(), "b".into()]], &[width, 1], 1, "<>");
                assert_eq!(table.trim_end().width(), width.max(1) + 2, "{table}");
            }
        }
    }

    #[test]
    fn names_to_the_left_numbers_to_the_right() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [row(["a", "10", "x"]), row(["bb\n", "1", ""])];
        assert_eq!(table(&rows, " ", "<><", 0, usize::MAX), " a    10  x\n bb    1\n");
        assert_eq!(table(&rows, "", "<>", 0, usize::MAX), "a    10  x\nbb    1\n");
    }
}
