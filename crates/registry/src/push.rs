use std::collections::{BTreeSet, HashSet};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::try_join_all;
use hash::Digest;
use image::{BlobSource, ContentStore, Descriptor, Reference, ResolveError, TransferProgress};
use transport::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use transport::{Method, Retry};

use crate::auth::Scope;
use crate::backoff::Backoff;
use crate::client::Client;
use crate::failure::{Failure, Kind};
use crate::host::{Call, Host, Target};

/// An image, or an index and its images, on its way to a registry.
pub struct Push {
    /// Where it goes. What it is called afterwards is the tag, `latest` without one; with a digest alone it has no name.
    pub to: Reference,
    /// Configs and layers, in any order. Those that are there are not sent.
    pub blobs: Vec<PushBlob>,
    /// What they are for: images before the index that names them. The last one is what gets the name.
    pub manifests: Vec<PushManifest>,
}

/// A blob to push.
#[derive(Clone)]
pub struct PushBlob {
    /// Its digest and size.
    pub descriptor: Descriptor,
    /// An image that has it. On the same registry, the blob is mounted from there and not sent.
    pub mount_from: Option<Reference>,
    /// Where it comes from when it is neither in the store nor mounted.
    pub source: Option<Arc<dyn BlobSource>>,
}

/// A manifest or index to push.
#[derive(Debug, Clone)]
pub struct PushManifest {
    /// Its media type.
    pub media_type: String,
    /// As it is hashed.
    pub bytes: Bytes,
}

/// Why something could not be pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// Credentials are missing or refused.
    #[error("cannot push {name}: {message}")]
    Denied {
        /// Where it was to go.
        name: String,
        /// What the registry said and what to do.
        message: String,
    },
    /// The registry could not be reached or breaks off.
    #[error("cannot push {name}: {message}")]
    Unreachable {
        /// Where it was to go.
        name: String,
        /// What failed, in words.
        message: String,
    },
    /// The registry does not take it, or answers what makes no sense.
    #[error("cannot push {name}: {message}")]
    Refused {
        /// Where it was to go.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// A blob that is sent cannot be fetched from where it is.
    #[error("cannot push {name}: {source}")]
    Source {
        /// Where it was to go.
        name: String,
        /// Why not.
        source: ResolveError,
    },
    /// The local side failed.
    #[error("{action}: {source}")]
    Io {
        /// What was being done.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl Client {
    /// Pushes what is not there yet and gives the digest of the last manifest. Blobs are read from `store`, at most
    /// [`crate::Config::parallel`] at once; one that breaks off is sent in chunks from then on, and goes on where the registry
    /// has it. Nothing has the name before all of it is there.
    pub async fn push(
        &self,
        push: &Push,
        store: &Arc<dyn ContentStore>,
        progress: &dyn TransferProgress,
    ) -> Result<Digest, PushError> {
        let mounts: BTreeSet<String> =
            push.blobs.iter().filter_map(|blob| mountable(blob, &push.to)).collect();
        match self.push_mounting(push, &mounts, store, progress).await {
            // Some token servers refuse all when one repository that is asked for is not to be read.
            Err(PushError::Denied { message, .. }) if !mounts.is_empty() => {
                tracing::debug!(message, "pushing without mounting blobs");
                self.push_mounting(push, &BTreeSet::new(), store, progress).await
            }
            done => done,
        }
    }

    /// `mounts`: the repositories that blobs may be mounted from.
    async fn push_mounting(
        &self,
        push: &Push,
        mounts: &BTreeSet<String>,
        store: &Arc<dyn ContentStore>,
        progress: &dyn TransferProgress,
    ) -> Result<Digest, PushError> {
        let name = push.to.to_string();
        let error = |failure: Failure| of_push(failure, &name);
        let mountable = |blob: &PushBlob| mountable(blob, &push.to).filter(|from| mounts.contains(from));
        let pusher = Pusher {
            host: self.host(&push.to.registry).map_err(error)?,
            name: push.to.repository.clone(),
            scope: Scope::push(&push.to.repository, mounts),
            retry: self.retry(),
            store: Arc::clone(store),
            progress,
        };
        let mut seen = HashSet::new();
        let blobs = push.blobs.iter().filter(|blob| seen.insert(blob.descriptor.digest));
        try_join_all(blobs.map(|blob| pusher.push_blob(blob, mountable(blob), &name))).await?;
        let Some((last, others)) = push.manifests.split_last() else {
            return Err(error(Failure::invalid("there is no manifest to push")));
        };
        for manifest in others {
            pusher.put_manifest(manifest, None).await.map_err(error)?;
        }
        let digest = Digest::of(&last.bytes);
        if let Some(expected) = push.to.digest.filter(|expected| *expected != digest) {
            return Err(error(Failure::invalid(format!(
                "the image has the digest {digest}, not {expected}"
            ))));
        }
        let tag = match (&push.to.tag, &push.to.digest) {
            (Some(tag), _) => Some(tag.as_str()),
            (None, Some(_)) => None,
            (None, None) => Some("latest"),
        };
        pusher.put_manifest(last, tag).await.map_err(error)?;
        Ok(digest)
    }
}

/// The repository that a blob can be mounted from.
fn mountable(blob: &PushBlob, to: &Reference) -> Option<String> {
    let from = blob.mount_from.as_ref().filter(|from| from.registry == to.registry)?;
    Some(from.repository.clone()).filter(|repository| *repository != to.repository)
}

/// One repository that is written to.
pub(crate) struct Pusher<'a> {
    pub(crate) host: Arc<Host>,
    /// `library/busybox`
    pub(crate) name: String,
    pub(crate) scope: Scope,
    pub(crate) retry: Retry,
    pub(crate) store: Arc<dyn ContentStore>,
    pub(crate) progress: &'a dyn TransferProgress,
}

impl Pusher<'_> {
    async fn push_blob(
        &self,
        blob: &PushBlob,
        mount_from: Option<String>,
        name: &str,
    ) -> Result<(), PushError> {
        let error = |failure: Failure| of_push(failure, name);
        let digest = &blob.descriptor.digest;
        let _transfer = self.host.transfers.acquire().await;
        if self.has(digest).await.map_err(error)? {
            return Ok(());
        }
        if let Some(from) = mount_from
            && self.mount(digest, &from).await.map_err(error)?
        {
            return Ok(());
        }
        let local = |source: io::Error| PushError::Io { action: format!("read blob {digest}"), source };
        if self.store.size(digest).map_err(local)?.is_none() {
            let Some(source) = &blob.source else {
                return Err(local(io::Error::new(io::ErrorKind::NotFound, "it is not in the store")));
            };
            let fetched = source.fetch(&blob.descriptor, &*self.store, self.progress).await;
            fetched.map_err(|source| PushError::Source { name: name.to_owned(), source })?;
        }
        self.upload(&blob.descriptor).await.map_err(error)
    }

    /// Under its digest, and then under its name.
    async fn put_manifest(&self, manifest: &PushManifest, tag: Option<&str>) -> Result<(), Failure> {
        let digest = Digest::of(&manifest.bytes);
        let kind = HeaderValue::try_from(&manifest.media_type)
            .map_err(|_| Failure::invalid(format!("`{}` is no media type", manifest.media_type)))?;
        let by = tag.map_or_else(|| digest.to_string(), str::to_owned);
        let call = Call {
            scope: &self.scope,
            method: Method::PUT,
            target: Target::Path(format!("{}/manifests/{by}", self.name)),
            headers: HeaderMap::from_iter([(CONTENT_TYPE, kind)]),
            body: Some(manifest.bytes.clone().into()),
            verified: false,
        };
        let mut backoff = Backoff::new(&self.retry);
        loop {
            let failure = match self.host.call(&call, &|_| {}).await {
                Ok(response) if response.status().is_success() => {
                    let stated = response.headers().get("docker-content-digest");
                    let stated = stated.and_then(|stated| stated.to_str().ok()?.parse::<Digest>().ok());
                    return match stated.filter(|stated| *stated != digest) {
                        None => Ok(()),
                        Some(stated) => Err(Failure::invalid(format!(
                            "the registry stores manifest {digest} as another one, {stated}"
                        ))),
                    };
                }
                Ok(response) => self.host.failure(response).await,
                Err(failure) => failure,
            };
            backoff.wait(failure).await?;
        }
    }
}

fn of_push(failure: Failure, name: &str) -> PushError {
    let (name, message) = (name.to_owned(), failure.message);
    match failure.kind {
        Kind::Denied | Kind::Login => PushError::Denied { name, message },
        Kind::NoConnection | Kind::Unreachable => PushError::Unreachable { name, message },
        Kind::NotFound => {
            let message = format!("the registry knows no such repository ({message})");
            PushError::Refused { name, message }
        }
        Kind::Invalid => PushError::Refused { name, message },
        Kind::Io(source) => PushError::Io { action: message, source },
    }
}
