//! What was found broken and thrown away, to be told to the user.

use std::sync::{Mutex, PoisonError};

use crate::Store;

/// Notes of what was thrown away.
#[derive(Debug, Default)]
pub(crate) struct Damage(Mutex<Vec<String>>);

impl Damage {
    /// Notes something, in words that go before "was damaged".
    pub(crate) fn note(&self, what: impl Into<String>) {
        self.note_sentence(format!("{} was damaged and thrown away", what.into()));
    }

    /// Notes a sentence without a full stop.
    pub(crate) fn note_sentence(&self, sentence: String) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !noted.contains(&sentence) {
            noted.push(sentence);
        }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Store {
    /// What was found damaged since this was last asked, and what became of it, in sentences without a full stop: `blob sha256:… was
    /// damaged and thrown away`. What failed because of it succeeds when it is done again with a store that is opened anew: then it is
    /// made or fetched again.
    pub fn thrown_away(&self) -> Vec<String> {
        if let Some(why) = self.inner.database.damage() {
            self.inner.damage.note_sentence(format!(
                "the cache database is damaged ({why}): whatever can be read of it is saved when it is opened next"
            ));
        }
        self.inner.damage.take()
    }
}
