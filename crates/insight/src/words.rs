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

/// Rows of cells in columns, two spaces between them. `sides` says of each column to which side it is set, `<` or `>`; the last goes for
/// all that follow. The first column is cut when it is long.
pub(crate) fn table(rows: &[Vec<String>], indent: &str, sides: &str) -> String {
    let cell = |row: &[String], column: usize| {
        let text = row.get(column).map(|text| harmless(text)).unwrap_or_default();
        if column == 0 { crate::picture::shortened(&text, NAME) } else { text }
    };
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().map(|row| cell(row, column).width()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let is_left = |column: usize| sides.chars().nth(column).or(sides.chars().last()) != Some('>');
    let mut text = String::new();
    for row in rows {
        let mut line = indent.to_owned();
        for (column, width) in widths.iter().enumerate() {
            let cell = cell(row, column);
            let space = " ".repeat(width.saturating_sub(cell.width()));
            line += if column == 0 { "" } else { "  " };
            line += &if is_left(column) { format!("{cell}{space}") } else { format!("{space}{cell}") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
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
    fn names_to_the_left_numbers_to_the_right() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [row(["a", "10", "x"]), row(["bb\n", "1", ""])];
        assert_eq!(table(&rows, " ", "<><"), " a    10  x\n bb    1\n");
        assert_eq!(table(&rows, "", "<>"), "a    10  x\nbb    1\n");
    }
}
