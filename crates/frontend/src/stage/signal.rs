//! The names of signals, as Docker knows them on Linux.

const NAMES: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

/// Whether `signal` is a name, with or without `SIG`, in any case, or a number other than zero.
pub(super) fn is_valid(signal: &str) -> bool {
    if let Ok(number) = signal.parse::<i64>() {
        return number != 0;
    }
    let name = signal.to_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let offset = |prefix: &str, greatest: u32| {
        name.strip_prefix(prefix)
            .and_then(|number| number.parse::<u32>().ok().filter(|value| value.to_string() == number))
            .is_some_and(|number| (1..=greatest).contains(&number))
    };
    NAMES.contains(&name) || offset("RTMIN+", 15) || offset("RTMAX-", 14)
}

#[cfg(test)]
mod tests {
    use super::is_valid;

    #[test]
    fn names_and_numbers() {
        for signal in ["SIGTERM", "term", "SigKill", "9", "RTMIN+15", "SIGRTMAX-14", "RTMAX"] {
            assert!(is_valid(signal), "{signal}");
        }
        for signal in ["", "SIG", "SIGFOO", "0", "RTMIN+16", "RTMIN+01", "RTMAX-15", "SIGSIGTERM", "9x"] {
            assert!(!is_valid(signal), "{signal}");
        }
    }
}
