//! How Go prints values: image history is compared with what BuildKit writes, which is Go's `%q` and `%v`.

use std::fmt::Write;

/// `%q` of a list of strings: `["a" "b"]`.
pub(crate) fn quoted_list<'a>(items: impl IntoIterator<Item = &'a String>) -> String {
    let quoted: Vec<String> = items.into_iter().map(|item| quote(item)).collect();
    format!("[{}]", quoted.join(" "))
}

/// `%v` of a list of strings: `[a b]`.
pub(crate) fn list<S: std::borrow::Borrow<str>>(items: &[S]) -> String {
    format!("[{}]", items.join(" "))
}

/// `%q` of a string (`strconv.Quote`).
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if c < ' ' || c == '\x7f' => drop(write!(out, "\\x{:02x}", u32::from(c))),
            c if c.is_control() => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A number of bytes with a unit, powers of 1024 (`units.RAMInBytes`): `512`, `10m`, `1.5GiB`, `2 KB`.
pub(crate) fn ram_in_bytes(text: &str) -> Option<u64> {
    let end = text.rfind(|c: char| c.is_ascii_digit() || matches!(c, '.' | ' '))? + 1;
    let (number, unit) = (text[..end].strip_suffix(' ').unwrap_or(&text[..end]), &text[end..]);
    let number = number.parse::<f64>().ok().filter(|number| *number >= 0.0)?;
    let unit = unit.to_ascii_lowercase();
    let (letter, rest) = unit.split_at_checked(1).unwrap_or((&unit, ""));
    let power = match (letter, rest) {
        ("" | "b", "") => 0,
        (letter, "" | "b" | "ib") => 1 + "kmgtp".find(letter)? as i32,
        _ => return None,
    };
    let bytes = number * 1024f64.powi(power);
    (bytes < u64::MAX as f64).then_some(bytes as u64)
}

/// A duration of nanoseconds (`time.Duration.String`): `1h2m3.5s`, `100ms`, `0s`.
pub(crate) fn duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let total = nanoseconds.unsigned_abs();
    let with_fraction = |value: u64, unit: u64| {
        let (whole, rest) = (value / unit, value % unit);
        if rest == 0 {
            return whole.to_string();
        }
        let digits = unit.ilog10() as usize;
        let fraction = format!("{rest:0digits$}");
        format!("{whole}.{}", fraction.trim_end_matches('0'))
    };
    let text = match total {
        0 => "0s".to_owned(),
        1..1_000 => format!("{total}ns"),
        1_000..1_000_000 => format!("{}µs", with_fraction(total, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", with_fraction(total, 1_000_000)),
        _ => {
            let minutes = total / 60_000_000_000;
            let seconds = with_fraction(total % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    };
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes() {
        assert_eq!(quote("a\"b\\c\nd\te\x01é"), r#""a\"b\\c\nd\te\x01é""#);
        assert_eq!(quoted_list(&["sh".to_owned(), "-c".to_owned()]), r#"["sh" "-c"]"#);
        assert_eq!(list(&["a".to_owned(), "b".to_owned()]), "[a b]");
        assert_eq!(list::<String>(&[]), "[]");
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("10b", 10),
            ("10m", 10 << 20),
            ("1.5GiB", 3 << 29),
            ("2 KB", 2048),
            ("3T", 3 << 40),
            ("1e3", 1000),
        ] {
            assert_eq!(ram_in_bytes(text), Some(bytes), "{text}");
        }
        for text in ["", "m", "-1", "1x", "1kx", "1ibb", "1bb", "1mib ", "9999999999999999999999p", "é"] {
            assert_eq!(ram_in_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn durations() {
        let cases = [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (100_000_000, "100ms"),
            (1_000_000_000, "1s"),
            (1_050_000_000, "1.05s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (-2_000_000, "-2ms"),
        ];
        for (nanoseconds, text) in cases {
            assert_eq!(duration(nanoseconds), text);
        }
    }
}
