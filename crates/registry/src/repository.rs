use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use hash::Digest;
use transport::Retry;

use crate::auth::Scope;
use crate::host::{Host, Question};

/// A repository of a registry, as one image needs it: the [`image::BlobSource`] of what [`crate::Client`] resolves.
#[derive(Clone)]
pub(crate) struct Repository {
    /// Where it is asked for; the others have its blobs as well. Never empty.
    pub(crate) hosts: Vec<Arc<Host>>,
    /// `library/busybox`
    pub(crate) name: String,
    pub(crate) scope: Scope,
    /// The image's name, for messages.
    pub(crate) image: String,
    pub(crate) retry: Retry,
    pub(crate) in_flight: Arc<InFlight>,
}

impl Repository {
    /// How a blob is asked for, from a byte on.
    pub(crate) fn blob_question(&self, digest: &Digest, offset: u64) -> Question<'_> {
        Question {
            scope: &self.scope,
            path: format!("{}/blobs/{digest}", self.name),
            accept: None,
            offset,
            verified: true,
        }
    }
}

/// Blobs on their way, so that images which share a layer fetch it once.
#[derive(Default)]
pub(crate) struct InFlight(Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>);

impl InFlight {
    /// Waits until nobody else fetches the blob.
    pub(crate) async fn claim(&self, digest: &Digest) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| lock.strong_count() > 0);
            let known = locks.get(digest).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let lock = Arc::new(tokio::sync::Mutex::new(()));
                locks.insert(*digest, Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}
