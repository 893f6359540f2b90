#![expect(unreachable_pub, reason = "a module of several test programs")]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hash::Digest;
use image::{BlobSource, ContentStore, Descriptor, ResolveError, TransferProgress};
use tokio::sync::Barrier;
use warm::{Origin, TopDocument};

/// An origin in memory.
#[derive(Default, Clone)]
pub struct Memory {
    /// The media type of what it begins with, and that.
    pub top: Option<(String, Vec<u8>)>,
    pub blobs: HashMap<Digest, Vec<u8>>,
    /// How long it takes to answer.
    pub delay: Duration,
    /// Where it waits for others that are asked.
    pub meeting: Option<Arc<Barrier>>,
    /// How often it was.
    pub asked: Arc<AtomicUsize>,
}

impl Memory {
    pub fn put(&mut self, media_type: &str, bytes: Vec<u8>) -> Descriptor {
        let descriptor = Descriptor::new(media_type, Digest::of(&bytes), bytes.len() as u64);
        self.blobs.insert(descriptor.digest, bytes);
        descriptor
    }
}

#[async_trait]
impl Origin for Memory {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    async fn top(&self) -> Result<TopDocument, ResolveError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(self.delay).await;
        if let Some(meeting) = &self.meeting {
            meeting.wait().await;
        }
        let (media_type, bytes) = self.top.clone().ok_or(ResolveError::NotFound(self.name()))?;
        Ok(TopDocument { media_type: Some(media_type), bytes })
    }

    async fn manifest(&self, manifest: &Descriptor) -> Result<Vec<u8>, ResolveError> {
        self.blob(manifest, u64::MAX).await
    }

    async fn blob(&self, blob: &Descriptor, _: u64) -> Result<Vec<u8>, ResolveError> {
        self.blobs.get(&blob.digest).cloned().ok_or(ResolveError::NotFound(self.name()))
    }

    fn blobs(&self) -> Arc<dyn BlobSource> {
        Arc::new(Nothing)
    }
}

/// Gives no blobs.
struct Nothing;

#[async_trait]
impl BlobSource for Nothing {
    async fn fetch(
        &self,
        _: &Descriptor,
        _: &dyn ContentStore,
        _: &dyn TransferProgress,
    ) -> Result<(), ResolveError> {
        Err(ResolveError::NotFound("nothing".to_owned()))
    }
}
