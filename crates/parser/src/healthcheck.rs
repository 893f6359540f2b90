//! HEALTHCHECK, and durations as Go writes them.

use std::time::Duration;

use crate::ast::{Command, Healthcheck, HealthcheckCmd};
use crate::context::Context;
use crate::flags::Flags;
use crate::span::{Span, Spanned, Word};

/// A health check with a command, whose word `CMD` stands at `cmd`.
pub(crate) fn read(
    cx: &mut Context<'_, '_>,
    mut flags: Flags,
    cmd: Span,
    command: Command,
) -> Option<Healthcheck> {
    if matches!(&command, Command::Exec(argv) if argv.is_empty()) {
        cx.error(cmd, "Missing command after HEALTHCHECK CMD", "expected a command after it");
        return None;
    }
    let mut read = |name: &str| flags.value(name).and_then(|value| duration(cx, name, &value));
    let (interval, timeout) = (read("interval"), read("timeout"));
    let (start_period, start_interval) = (read("start-period"), read("start-interval"));
    let retries = flags.value("retries").and_then(|value| count(cx, "retries", &value));
    Some(Healthcheck::Cmd(HealthcheckCmd {
        interval,
        timeout,
        start_period,
        start_interval,
        retries,
        command,
    }))
}

/// The value of a flag that is a duration: zero or at least 1 ms.
pub(crate) fn duration(cx: &mut Context<'_, '_>, name: &str, value: &Word) -> Option<Spanned<Duration>> {
    match parse_duration(&value.text) {
        Some(nanoseconds @ (0 | 1_000_000..)) => {
            Some(Spanned::new(Duration::from_nanos(nanoseconds.unsigned_abs()), value.span))
        }
        Some(_) => {
            cx.error(value.span, format!("--{name} cannot be less than 1ms"), "expected 0 or at least 1ms");
            None
        }
        None => {
            let message = format!("invalid duration for --{name}: {}", value.text);
            cx.error(value.span, message, "expected numbers with units, such as `30s` or `1m30s`");
            None
        }
    }
}

/// The value of a flag that is a number of times.
pub(crate) fn count(cx: &mut Context<'_, '_>, name: &str, value: &Word) -> Option<Spanned<u32>> {
    match value.text.parse::<i32>().map(u32::try_from) {
        Ok(Ok(count)) => Some(Spanned::new(count, value.span)),
        Ok(Err(_)) => {
            let message = format!("--{name} cannot be negative ({})", value.text);
            cx.error(value.span, message, "expected a number");
            None
        }
        Err(_) => {
            let message = format!("invalid number for --{name}: {}", value.text);
            cx.error(value.span, message, "expected a number");
            None
        }
    }
}

/// Nanoseconds of a duration as Go's `time.ParseDuration` reads it: `1h30m`, `1.5s`, `0`, `-2ms`.
fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (whole, after) = split_digits(rest);
        let (fraction, after) = after.strip_prefix('.').map_or(("", after), split_digits);
        let unit_length = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let unit = unit_nanoseconds(&after[..unit_length])?;
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        // More digits than these make no nanosecond.
        let fraction = &fraction[..fraction.len().min(18)];
        let numerator: u64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
        let part = u128::from(numerator) * u128::from(unit) / 10u128.pow(fraction.len() as u32);
        total = total.checked_add(u128::from(whole) * u128::from(unit) + part)?;
        rest = &after[unit_length..];
    }
    let total = i64::try_from(total).ok()?;
    Some(if negative { -total } else { total })
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn unit_nanoseconds(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::parse_duration;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("30s", 30_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5ms", 500_000),
            ("1.s", 1_000_000_000),
            ("-2ms", -2_000_000),
            ("+1µs1ns", 1_001),
            ("0.100000000000000000000h", 360_000_000_000),
        ] {
            assert_eq!(parse_duration(text), Some(nanoseconds), "{text}");
        }
        for text in
            ["", "-", "3", "s", ".s", "1 s", "1d", "1s ", "9999999999h", "99999999999999999999s", "ab"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
