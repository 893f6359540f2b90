use transport::{GaveUp, Retry};

use crate::failure::Failure;

/// Counts failures of one piece of work and waits between tries.
pub(crate) struct Backoff<'a>(transport::Backoff<'a>);

impl<'a> Backoff<'a> {
    pub(crate) fn new(policy: &'a Retry) -> Backoff<'a> {
        Backoff(transport::Backoff::new(policy))
    }

    /// Forgets the failures so far: there was progress since.
    pub(crate) fn reset(&mut self) {
        self.0.reset();
    }

    /// Waits until the next try, or gives the failure back when there is none.
    pub(crate) async fn wait(&mut self, failure: Failure) -> Result<(), Failure> {
        self.0.wait(failure.again, &failure.message).await.map_err(|gave_up| match gave_up {
            GaveUp::Failed => failure,
            GaveUp::Later(wait) => {
                let message = format!("{}; try again in {} s", failure.message, wait.as_secs());
                Failure { message, ..failure }
            }
        })
    }
}
