//! What references and addresses meant, so that it can be found again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use hash::Digest;

use crate::git::{Checkout, Resolved, check_reference, is_object_id, without_credentials};

/// What is meant to be found again, and what was found.
#[derive(Debug, Default)]
pub(crate) struct Meanings {
    meant: BTreeMap<String, String>,
    found: Mutex<BTreeMap<String, String>>,
}

impl Meanings {
    pub(crate) fn new(meant: BTreeMap<String, String>) -> Meanings {
        Meanings { meant, found: Mutex::default() }
    }

    /// The commit that is to be taken instead of asking the remote.
    pub(crate) fn commit(&self, checkout: &Checkout) -> Option<Resolved> {
        let mut words = self.meant.get(&repository(checkout))?.split(' ');
        let (reference, object, peeled) = (words.next()?, words.next()?, words.next());
        // What was written down may have been changed since, and goes to git.
        let mut ids = [Some(object), peeled].into_iter().flatten();
        let sound = ids.all(is_object_id) && (reference == "HEAD" || check_reference(reference).is_ok());
        sound.then(|| Resolved {
            reference: reference.to_owned(),
            object: object.to_owned(),
            peeled: peeled.map(ToOwned::to_owned),
        })
    }

    pub(crate) fn note_commit(&self, checkout: &Checkout, resolved: &Resolved) {
        let ids = [Some(&resolved.object), resolved.peeled.as_ref()].into_iter().flatten();
        let words = ids.fold(resolved.reference.clone(), |words, id| words + " " + id);
        self.note(repository(checkout), words);
    }

    pub(crate) fn note_file(&self, url: &str, digest: &Digest) {
        self.note(without_credentials(url), digest.to_string());
    }

    fn note(&self, what: String, meaning: String) {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).insert(what, meaning);
    }

    pub(crate) fn found(&self) -> BTreeMap<String, String> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A repository with what is wanted of it, as users write it.
fn repository(checkout: &Checkout) -> String {
    let mut name = without_credentials(&checkout.remote);
    if let Some(reference) = &checkout.reference {
        name += "#";
        name += reference;
    }
    name
}
