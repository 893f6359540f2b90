//! Sizes, ages and tables for people.

use std::time::{Duration, SystemTime};

use unicode_width::UnicodeWidthStr;

/// A number of bytes as Docker prints it: `1.23MB`, powers of ten, three digits.
pub(crate) fn bytes(size: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = size as f64;
    let mut unit = 0;
    // 999.5 would round to 1000.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", UNITS[unit])
}

/// A point in time as people say it: `3 hours ago`.
pub(crate) fn ago(then: SystemTime, now: SystemTime) -> String {
    let seconds = now.duration_since(then).unwrap_or(Duration::ZERO).as_secs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        86_400..1_209_600 => (seconds / 86_400, "day"),
        1_209_600..5_184_000 => (seconds / 604_800, "week"),
        5_184_000..63_072_000 => (seconds / 2_592_000, "month"),
        _ => (seconds / 31_536_000, "year"),
    };
    match count {
        0 => "just now".to_owned(),
        1 => format!("1 {unit} ago"),
        _ => format!("{count} {unit}s ago"),
    }
}

/// Columns as wide as their widest cell, three blanks between, no blanks at line ends.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    table_within(rows, &[], usize::MAX)
}

/// The same in lines of at most so many columns as far as that can be done: the columns that `may_be_cut` lose the middle of long cells, but
/// nothing of their title, and where lines have to be short there are fewer blanks between.
pub(crate) fn table_within(rows: &[Vec<String>], may_be_cut: &[usize], room: usize) -> String {
    let mut widths = insight::widths(rows);
    let columns = widths.len();
    let mut least = widths.clone();
    for column in may_be_cut.iter().copied().filter(|column| *column < columns) {
        let title = rows.first().and_then(|titles| titles.get(column)).map_or(0, |title| title.width());
        least[column] = title.max(insight::LEAST).min(widths[column]);
    }
    let fits =
        |widths: &[usize], gap: usize| widths.iter().sum::<usize>() + gap * columns.saturating_sub(1) <= room;
    let gap = match fits(&widths, 3) {
        true => 3,
        false if fits(&least, 2) => 2,
        false => 1,
    };
    insight::fit(&mut widths, &least, gap, room);
    insight::in_columns(rows, &widths, gap, "<")
}

/// Lines of at most so many columns, cut at spaces; a word that is longer stays whole.
pub(crate) fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.width() + 1 + word.width() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Text without the numbers that the standard library puts behind the system's reasons: ` (os error 2)`.
pub(crate) fn without_error_numbers(text: &str) -> String {
    const START: &str = " (os error ";
    let mut rest = text;
    let mut result = String::new();
    while let Some((before, after)) = rest.split_once(START) {
        result.push_str(before);
        let digits = after.trim_start_matches(|c: char| c.is_ascii_digit());
        rest = match digits.strip_prefix(')') {
            Some(after) => after,
            None => {
                result.push_str(START);
                after
            }
        };
    }
    result + rest
}

/// `1 layer`, `2 layers`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (size, text) in [
            (0, "0B"),
            (999, "999B"),
            (1_000, "1kB"),
            (1_234_567, "1.23MB"),
            (12_345_678, "12.3MB"),
            (100_000_000, "100MB"),
            (999_999, "1MB"),
            (1_500_000_000, "1.5GB"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }

    #[test]
    fn ages() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let age = |seconds| ago(now - Duration::from_secs(seconds), now);
        assert_eq!(age(0), "just now");
        assert_eq!(age(1), "1 second ago");
        assert_eq!(age(119), "1 minute ago");
        assert_eq!(age(7_200), "2 hours ago");
        assert_eq!(age(86_400 * 20), "2 weeks ago");
        assert_eq!(ago(now + Duration::from_secs(5), now), "just now", "a clock that was set back");
    }

    #[test]
    fn error_numbers_go() {
        assert_eq!(without_error_numbers("a: no (os error 2); b: no (os error 13)"), "a: no; b: no");
        assert_eq!(without_error_numbers("x (os error y) (os error 1"), "x (os error y) (os error 1");
    }

    #[test]
    fn lines_are_cut_at_spaces() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("one enormous x", 5), ["one", "enormous", "x"]);
        assert_eq!(wrapped("", 5), [""]);
    }

    #[test]
    fn nouns() {
        assert_eq!([count(0, "layer"), count(1, "layer")], ["0 layers", "1 layer"].map(str::to_owned));
    }

    #[test]
    fn tables_fit_where_they_have_to() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [row(["A", "DOCKERFILE", "STEPS"]), row(["a", "/a/long/path/to/a/Dockerfile", "1 of 2"])];
        assert_eq!(table_within(&rows, &[1], 80), table(&rows));
        assert_eq!(table_within(&rows, &[1], 5), "A DOCKERFILE STEPS\na /a/lon…ile 1 of 2\n");
        let cut = table_within(&rows, &[1], 30);
        let fits = cut.lines().all(|line| line.width() <= 30);
        assert!(fits && cut.contains('…') && cut.ends_with("1 of 2\n"), "{cut}");
    }

    #[test]
    fn a_table_takes_any_text() {
        let row = |cell: &str| vec!["x".to_owned(), cell.to_owned(), "end".to_owned()];
        let warning = "⚠\u{fe0f} careful ".repeat(4);
        for room in 0..60 {
            let text = table_within(&[row("NAME"), row(&warning)], &[1], room);
            assert!(text.ends_with("end\n"), "{text}");
        }
    }

    #[test]
    fn tables_line_up() {
        let row = |cells: &[&str]| cells.iter().map(|cell| cell.to_string()).collect::<Vec<_>>();
        assert_eq!(table(&[row(&["A", "LONG", "C"]), row(&["bbb", "b", ""])]), "A     LONG   C\nbbb   b\n");
    }
}
