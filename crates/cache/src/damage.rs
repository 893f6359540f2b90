//! What was found broken and thrown away, to be told to the user.

use std::sync::{Mutex, PoisonError};

use crate::Store;

/// Notes of what was thrown away.
#[derive(Debug, Default)]
pub(crate) struct Damage(Mutex<Vec<String>>);

impl Damage {
    /// Notes something, in words that go before "was damaged".
    pub(crate) fn note(&self, what: impl Into<String>) {
        let what = what.into();
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !noted.contains(&what) {
            noted.push(what);
        }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Store {
    /// What was found damaged and thrown away since this was last asked: `blob sha256:…`, `the cache database`. What failed because of
    /// it succeeds when it is done again with a store that is opened anew: then it is made or fetched again.
    pub fn thrown_away(&self) -> Vec<String> {
        if self.inner.database.is_damaged() {
            self.inner.damage.note("the cache database");
        }
        self.inner.damage.take()
    }
}
