use std::sync::Arc;

use hash::Digest;
use image::{BlobSource, Descriptor, Reference, ResolveError};

use crate::client::Client;
use crate::failure::Failure;
use crate::repository::Repository;

/// One name of a repository, document by document: for what is kept in registries and is no image. Mirrors are not asked.
#[derive(Clone)]
pub struct Artifact {
    repository: Repository,
    /// A tag or a digest.
    name: String,
    digest: Option<Digest>,
}

impl std::fmt::Debug for Artifact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Artifact").field("name", &self.repository.image).finish_non_exhaustive()
    }
}

impl Client {
    /// What a name stands for. Nothing is asked yet.
    ///
    /// # Errors
    /// A registry whose name is none.
    pub fn artifact(&self, reference: &Reference) -> Result<Artifact, ResolveError> {
        let host =
            self.host(&reference.registry).map_err(|failure| failure.of_image(&reference.to_string()))?;
        let name = match (&reference.digest, &reference.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_else(|| "latest".to_owned()),
        };
        Ok(Artifact { repository: self.repository(reference, &[host]), name, digest: reference.digest })
    }
}

impl Artifact {
    /// The manifest or index that the name stands for now: what the registry says that it is, and its bytes.
    pub async fn top(&self) -> Result<(Option<String>, Vec<u8>), ResolveError> {
        let fetched = self.repository.manifest(&self.name, self.digest.as_ref()).await;
        let fetched = fetched.map_err(|failure| self.failed(failure))?;
        Ok((fetched.content_type, fetched.bytes))
    }

    /// A manifest of the repository, verified.
    pub async fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, ResolveError> {
        let fetched = self.repository.manifest(&digest.to_string(), Some(digest)).await;
        Ok(fetched.map_err(|failure| self.failed(failure))?.bytes)
    }

    /// A blob of at most `limit` bytes, in memory. The caller verifies it.
    pub async fn blob(&self, blob: &Descriptor, limit: u64) -> Result<Vec<u8>, ResolveError> {
        let question = self.repository.blob_question(&blob.digest, 0);
        let read = self.repository.small(&question, limit).await;
        Ok(read.map_err(|failure| self.failed(failure))?.2)
    }

    /// Where the repository's blobs come from.
    pub fn blobs(&self) -> Arc<dyn BlobSource> {
        Arc::new(self.repository.clone())
    }

    pub(crate) fn repository(&self) -> &Repository {
        &self.repository
    }

    fn failed(&self, failure: Failure) -> ResolveError {
        failure.of_image(&self.repository.image)
    }
}
