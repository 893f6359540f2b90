use std::time::Duration;

/// `528B`, `3.15MB`: decimal units.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count}B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    // What would round up to 1000.00 belongs to the next unit.
    while value >= 999.995 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.2}{}", UNITS[unit])
}

/// `3.15MB / 9.80MB`, `3.15MB` when the total is not known, nothing when nothing is.
pub(super) fn amount(current: u64, total: u64) -> String {
    match (current, total) {
        (0, 0) => String::new(),
        (_, 0) => bytes(current),
        _ => format!("{} / {}", bytes(current), bytes(total)),
    }
}

/// `1.2s`.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{:.1}s", duration.as_secs_f64())
}

/// The time of a log line: three digits below ten seconds, two below a hundred, one above.
pub(super) fn log_time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let digits = if seconds < 10.0 {
        3
    } else if seconds < 100.0 {
        2
    } else {
        1
    };
    format!("{seconds:.digits$}")
}

/// Control characters, and those that change the direction of text.
pub(super) fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text on one line without what is harmful.
pub(crate) fn harmless(text: &str) -> String {
    let space = |c: char| if matches!(c, '\t' | '\n' | '\r') { ' ' } else { c };
    text.chars().map(space).filter(|c| !is_harmful(*c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_numbers_as_buildkit_does() {
        for (count, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.00kB"),
            (3_151_234, "3.15MB"),
            (999_999, "1.00MB"),
            (27_092_274, "27.09MB"),
            (u64::MAX, "18.45EB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(amount(0, 0), "");
        assert_eq!(amount(0, 2000), "0B / 2.00kB");
        assert_eq!(amount(5, 0), "5B");
        let time = |seconds: f64| log_time(Duration::from_secs_f64(seconds));
        assert_eq!(
            [time(0.3124), time(12.345), time(123.45)],
            ["0.312", "12.35", "123.5"].map(str::to_owned)
        );
    }

    #[test]
    fn text_is_on_one_line() {
        assert_eq!(harmless("RUN\ta\x1b[1m\nb"), "RUN a[1m b");
    }
}
