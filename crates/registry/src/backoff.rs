use std::time::{Duration, SystemTime};

use crate::config::Retry;
use crate::failure::{Again, Failure};

/// Counts failures of one piece of work and waits between tries.
pub(crate) struct Backoff<'a> {
    policy: &'a Retry,
    failures: u32,
}

impl<'a> Backoff<'a> {
    pub(crate) fn new(policy: &'a Retry) -> Backoff<'a> {
        Backoff { policy, failures: 0 }
    }

    /// Forgets the failures so far: there was progress since.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Waits until the next try, or gives the failure back when there is none.
    pub(crate) async fn wait(&mut self, failure: Failure) -> Result<(), Failure> {
        self.failures += 1;
        let own = jittered(self.delay());
        let wait = match failure.again {
            _ if self.failures >= self.policy.attempts => return Err(failure),
            Again::Never => return Err(failure),
            Again::After(asked) if asked > self.policy.max_retry_after => {
                let seconds = asked.as_secs();
                return Err(Failure {
                    message: format!("{}; try again in {seconds} s", failure.message),
                    ..failure
                });
            }
            Again::After(asked) => asked.max(own),
            Again::Later => own,
        };
        tracing::debug!(reason = failure.message, ?wait, "trying again");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    fn delay(&self) -> Duration {
        let doublings = (self.failures - 1).min(16);
        self.policy.first_delay.saturating_mul(1 << doublings).min(self.policy.max_delay)
    }
}

/// Up to a quarter more, so that many clients do not come back at the same instant.
fn jittered(delay: Duration) -> Duration {
    let nanos =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    delay + (delay / 4).mul_f64(f64::from(nanos % 1000) / 1000.0)
}
