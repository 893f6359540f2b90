//! Time that does not depend on what else the machine does.

use std::time::{Duration, Instant};

/// What this thread had of a processor: waiting for one does not count (`schedstat`, Documentation/scheduler/sched-stats.rst). Where the
/// kernel does not say, the time of day.
pub(crate) fn used() -> Duration {
    let known = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = known.and_then(|text| text.split(' ').next()?.parse().ok()).filter(|nanos| *nanos > 0);
    nanos.map_or_else(since_start, Duration::from_nanos)
}

fn since_start() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}
