//! What a build has of this process: the machine as it was entered, threads, the signals that end it. There is one of each however often
//! a build is done again, so that a Ctrl-C between two attempts ends the second.

use std::sync::Arc;
use std::time::Duration;

use cache::{Session, Store};
use tokio::runtime::Runtime;

use super::{CANCEL_TIME, READING_TIME};
use crate::Machine;
use crate::failure::Failure;
use crate::interrupt::Signals;

/// Made as far as it is needed.
#[derive(Default)]
pub(super) struct Foreground {
    machine: Option<Arc<Machine>>,
    threads: Option<Threads>,
}

/// Where asynchronous work is done, and what interrupts it.
pub(super) struct Threads {
    pub(super) runtime: Runtime,
    /// Those since the first attempt began.
    pub(super) signals: Signals,
    /// How long the end of the process waits for blocking work.
    patience: Duration,
}

impl Foreground {
    /// The machine, entered once: that cannot be done where there are threads. Ask for it before [`Foreground::threads`].
    pub(super) fn machine(&mut self) -> Result<Arc<Machine>, Failure> {
        let machine = match self.machine.take() {
            Some(machine) => machine,
            None => Arc::new(Machine::enter()?),
        };
        Ok(self.machine.insert(machine).clone())
    }

    /// From the first time on a signal ends what is waited for, not the process.
    pub(super) fn threads(&mut self) -> Result<&mut Threads, Failure> {
        let threads = match self.threads.take() {
            Some(threads) => threads,
            None => {
                let runtime = crate::runtime()?;
                let signals = runtime.block_on(async { Signals::that_end() });
                Threads { runtime, signals, patience: CANCEL_TIME }
            }
        };
        Ok(self.threads.insert(threads))
    }

    /// Waits for blocking work that was begun, though not for ever.
    pub(super) fn end(self) {
        if let Some(Threads { runtime, patience, .. }) = self.threads {
            runtime.shutdown_timeout(patience);
        }
    }
}

impl Threads {
    /// Announces a build. While somebody removes things from the store that waits, and can be interrupted.
    pub(super) fn session(&mut self, store: &Store) -> Result<Session, Failure> {
        let Threads { runtime, signals, .. } = self;
        let store = store.clone();
        let session = runtime.block_on(async {
            tokio::select! {
                session = crate::blocking(move || Ok(store.session()?)) => Some(session),
                _ = signals.next() => None,
            }
        });
        session.unwrap_or_else(|| {
            self.leave_alone();
            Err(Failure::interrupted())
        })
    }

    /// Blocking work that may never hear that it was cancelled: what waits for a lock, or for standard input.
    pub(super) fn leave_alone(&mut self) {
        self.patience = READING_TIME;
    }
}

#[cfg(test)]
mod tests {
    use cache::StoreOptions;
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[test]
    fn a_signal_between_two_attempts_ends_the_second() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path(), StoreOptions::default()).unwrap();
        let mut foreground = Foreground::default();
        drop(foreground.threads().unwrap().session(&store).unwrap());
        kill_process(getpid(), Signal::HUP).unwrap();
        let again = (0..1000).find_map(|_| foreground.threads().unwrap().session(&store).err());
        assert_eq!(again.unwrap().code(), crate::failure::INTERRUPTED);
        foreground.end();
    }
}
