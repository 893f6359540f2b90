//! Extended headers (POSIX.1-2017, `pax`, "pax Extended Header"). Values are bytes of any kind, newlines included: a record
//! ends where its length says, and nowhere else.

/// What extended attributes are prefixed with, as star, GNU tar and Go write them.
pub(super) const XATTR: &[u8] = b"SCHILY.xattr.";

/// Appends the record `<length> <key>=<value>\n`; the length counts its own digits.
pub(super) fn push_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + digits(length) != length {
        length = rest + digits(length);
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

/// The records of an extended header in order, `None` when it is malformed.
pub(super) fn parse_records(mut data: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut records = Vec::new();
    while !data.is_empty() {
        let space = data.iter().take(20).position(|b| *b == b' ')?;
        let length = usize::try_from(decimal(&data[..space])?).ok()?;
        let record = data.get(space + 1..length)?;
        let record = record.strip_suffix(b"\n")?;
        let equals = record.iter().position(|b| *b == b'=')?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if key.is_empty() || key.contains(&0) {
            return None;
        }
        records.push((key, value));
        data = &data[length..];
    }
    Some(records)
}

/// A number without sign, decimal digits only.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A time as `[-]seconds[.fraction]`, rounded down to a nanosecond: seconds and nanoseconds.
pub(super) fn parse_time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|b| *b == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |place: usize| u32::from(fraction.get(place).map_or(0, |b| b - b'0'));
    let nanos = (0..9).fold(0, |nanos, place| nanos * 10 + digit(place));
    let more = fraction.iter().skip(9).any(|b| *b != b'0');
    if !negative {
        return Some((seconds, nanos));
    }
    // -1.25 is -2 seconds and 0.75; a remainder beyond a nanosecond rounds down as well.
    match nanos + u32::from(more) {
        0 => Some((-seconds, 0)),
        below => Some((-seconds - 1, 1_000_000_000 - below)),
    }
}

/// The inverse of [`parse_time`], without trailing zeros.
pub(super) fn format_time(seconds: i64, nanos: u32) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let sign = if total < 0 { "-" } else { "" };
    let (whole, fraction) = (total.abs() / 1_000_000_000, total.abs() % 1_000_000_000);
    if fraction == 0 {
        return format!("{sign}{whole}");
    }
    format!("{sign}{whole}.{fraction:09}").trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_count_themselves() {
        for size in 0..1200 {
            let mut out = Vec::new();
            push_record(&mut out, b"k", &vec![b'x'; size]);
            assert!(out.starts_with(format!("{} ", out.len()).as_bytes()), "{size}");
            assert_eq!(parse_records(&out).unwrap(), [(&b"k"[..], &vec![b'x'; size][..])]);
        }
    }

    #[test]
    fn values_may_look_like_records() {
        let mut out = Vec::new();
        push_record(&mut out, b"SCHILY.xattr.user.a", b"\n20 path=forged\n=\0\xff");
        push_record(&mut out, b"path", b"a");
        let records = parse_records(&out).unwrap();
        assert_eq!(records.len(), 2);
        assert_eq!(records[0].1, b"\n20 path=forged\n=\0\xff");
        assert_eq!(records[1], (&b"path"[..], &b"a"[..]));
    }

    #[test]
    fn malformed_records_are_refused() {
        for text in [
            "5",
            "6 a=b",
            "0 a=b\n",
            "99 a=b\n",
            "5 a=b\n",
            "8 a=b\n\n",
            "-6 a=b\n",
            "+6 a=b\n",
            " 6 a=b\n",
            "5 ab\n",
            "5 =b\n",
            "3 \n",
            "99999999999999999999 a=b\n",
            "1 a=b\n",
        ] {
            assert_eq!(parse_records(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse_records(b""), Some(vec![]));
    }

    #[test]
    fn times_survive_a_round_trip() {
        for time in
            [(0, 0), (5, 1), (-1, 0), (-1, 999_999_999), (-2, 500_000_000), (i64::MAX, 7), (1 << 40, 120)]
        {
            assert_eq!(parse_time(format_time(time.0, time.1).as_bytes()), Some(time));
        }
        assert_eq!(format_time(-2, 750_000_000), "-1.25");
        assert_eq!(parse_time(b"1.1234567899"), Some((1, 123_456_789)));
        assert_eq!(parse_time(b"-0.0000000001"), Some((-1, 999_999_999)));
        for text in ["", "-", "1e3", "1.-5", ".5", "--1", "99999999999999999999"] {
            assert_eq!(parse_time(text.as_bytes()), None, "{text}");
        }
    }
}
