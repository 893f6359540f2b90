use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};

/// Whether a failure may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It stays.
    Never,
    /// It may be gone soon.
    Later,
    /// The server says when.
    After(Duration),
}

/// Waits between tries: the delay doubles from `first_delay` to `max_delay`; a server's `Retry-After` wins when it is longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Tries in all, the first included.
    pub attempts: u32,
    /// After the first failure.
    pub first_delay: Duration,
    /// The longest delay of our own.
    pub max_delay: Duration,
    /// The longest `Retry-After` that is obeyed; a longer one ends the matter.
    pub max_retry_after: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            attempts: 5,
            first_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(8),
            max_retry_after: Duration::from_secs(60),
        }
    }
}

/// Counts failures of one piece of work and waits between tries.
#[derive(Debug)]
pub struct Backoff<'a> {
    policy: &'a Retry,
    failures: u32,
}

/// There is no further try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GaveUp {
    /// The failure stays, or there were too many.
    Failed,
    /// The server wants to be left alone for so long.
    Later(Duration),
}

impl<'a> Backoff<'a> {
    /// No failures yet.
    pub fn new(policy: &'a Retry) -> Backoff<'a> {
        Backoff { policy, failures: 0 }
    }

    /// Forgets the failures so far: there was progress since.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Counts a failure and waits until the next try, if there is one. `reason` is for the log.
    pub async fn wait(&mut self, again: Again, reason: &str) -> Result<(), GaveUp> {
        self.failures += 1;
        let own = jittered(self.delay(), clock());
        let wait = match again {
            _ if self.failures >= self.policy.attempts => return Err(GaveUp::Failed),
            Again::Never => return Err(GaveUp::Failed),
            Again::After(asked) if asked > self.policy.max_retry_after => return Err(GaveUp::Later(asked)),
            Again::After(asked) => asked.max(own),
            Again::Later => own,
        };
        tracing::debug!(reason, ?wait, "trying again");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    fn delay(&self) -> Duration {
        let doublings = (self.failures - 1).min(16);
        self.policy.first_delay.saturating_mul(1 << doublings).min(self.policy.max_delay)
    }
}

/// Up to a quarter more, so that many clients do not come back at the same instant; `nanos` is any number.
fn jittered(delay: Duration, nanos: u32) -> Duration {
    delay + (delay / 4).mul_f64(f64::from(nanos % 1000) / 1000.0)
}

/// What no two clients have in common: the nanoseconds of the time.
fn clock() -> u32 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos())
}

/// Whether an answer with this status may be another one later. 429 is not meant: what it says is for the caller.
pub fn may_pass(status: StatusCode) -> bool {
    status == StatusCode::REQUEST_TIMEOUT
        || (status.is_server_error()
            && status != StatusCode::NOT_IMPLEMENTED
            && status != StatusCode::HTTP_VERSION_NOT_SUPPORTED)
}

/// `Retry-After` (RFC 9110 section 10.2.3): seconds or a date.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(http_date(text)?.duration_since(SystemTime::now()).unwrap_or_default())
}

/// A date as HTTP has it (RFC 9110 section 5.6.7), in any of its three forms.
pub fn http_date(text: &str) -> Option<SystemTime> {
    let text = text.trim();
    let obsolete = |form: &str| {
        let broken_down = jiff::fmt::strtime::parse(form, text).ok()?;
        broken_down.to_datetime().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    };
    let fixed = jiff::fmt::rfc2822::parse(text).ok().map(|zoned| zoned.timestamp());
    let timestamp = fixed
        .or_else(|| obsolete("%A, %d-%b-%y %H:%M:%S GMT"))
        .or_else(|| obsolete("%a %b %e %H:%M:%S %Y"))?;
    Some(SystemTime::from(timestamp))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    /// The delays between tries, each with a jitter.
    fn delays(policy: &Retry, nanos: u32) -> Vec<Duration> {
        let mut backoff = Backoff::new(policy);
        let next = |backoff: &mut Backoff<'_>| {
            backoff.failures += 1;
            jittered(backoff.delay(), nanos)
        };
        (0..8).map(|_| next(&mut backoff)).collect()
    }

    #[test]
    fn delays_double_up_to_a_limit() {
        let policy = Retry::default();
        let millis = |list: [u64; 8]| list.map(Duration::from_millis).to_vec();
        assert_eq!(delays(&policy, 0), millis([500, 1000, 2000, 4000, 8000, 8000, 8000, 8000]));
        let half = delays(&policy, 1_500);
        assert_eq!((half[0], half[3]), (Duration::from_micros(562_500), Duration::from_millis(4500)));
        // Any jitter is less than a quarter, so that no delay is shorter than the one before.
        for nanos in [1, 999, 1000, u32::MAX] {
            let (plain, delays) = (delays(&policy, 0), delays(&policy, nanos));
            assert!(plain.iter().zip(&delays).all(|(plain, with)| plain <= with && *with < *plain * 5 / 4));
            assert!(delays.is_sorted(), "{delays:?}");
        }
        // However often it failed, and after progress from the beginning.
        let mut backoff = Backoff { policy: &policy, failures: u32::MAX };
        assert_eq!(backoff.delay(), policy.max_delay);
        backoff.reset();
        backoff.failures += 1;
        assert_eq!(backoff.delay(), policy.first_delay);
    }

    #[tokio::test]
    async fn tries_are_counted_and_the_server_may_ask_for_more() {
        let policy = Retry {
            first_delay: Duration::from_millis(1),
            max_retry_after: Duration::from_millis(50),
            attempts: 3,
            ..Retry::default()
        };
        let mut backoff = Backoff::new(&policy);
        let before = std::time::Instant::now();
        assert_eq!(backoff.wait(Again::Later, "").await, Ok(()));
        assert_eq!(backoff.wait(Again::After(Duration::from_millis(40)), "").await, Ok(()));
        assert!(before.elapsed() >= Duration::from_millis(41));
        assert_eq!(backoff.wait(Again::Later, "").await, Err(GaveUp::Failed));
        backoff.reset();
        let long = Duration::from_millis(51);
        assert_eq!(backoff.wait(Again::After(long), "").await, Err(GaveUp::Later(long)));
        assert_eq!(backoff.wait(Again::Never, "").await, Err(GaveUp::Failed));
    }

    #[test]
    fn reads_both_forms_of_retry_after() {
        let after = |text: &'static str| {
            retry_after(&HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]))
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert!(after("Wed, 06 Nov 2250 08:49:37 GMT") > Some(Duration::from_secs(1 << 30)));
        assert_eq!(after("soon"), None);
    }

    #[test]
    fn reads_dates_of_all_forms() {
        let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for text in
            ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
        {
            assert_eq!(http_date(text), Some(expected), "{text}");
        }
        for text in ["", "0", "yesterday", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(http_date(text), None, "{text}");
        }
    }
}
