use std::collections::BTreeSet;
use std::sync::Arc;

use hash::Digest;
use image::{
    Descriptor, Document, Index, MAX_DOCUMENT, MediaType, Platform, Reference, ResolveError, ResolvedImage,
    ResolvedIndex, check_config_type, parse_document, resolved_from, select_manifest,
};
use transport::Response;
use transport::header::{CONTENT_TYPE, HeaderMap};

use crate::backoff::Backoff;
use crate::failure::Failure;
use crate::host::Question;
use crate::repository::Repository;

/// The largest manifest or index, in bytes (distribution spec, "Pushing Manifests").
const MAX_MANIFEST: u64 = 4 << 20;
/// An index may list indexes, to this depth.
const MAX_DEPTH: usize = 4;
/// All kinds that are understood; registries convert to old formats for clients that do not say so.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
                      application/vnd.docker.distribution.manifest.list.v2+json, \
                      application/vnd.oci.image.manifest.v1+json, \
                      application/vnd.docker.distribution.manifest.v2+json";

/// A manifest or index as it came, verified against its digest where that was known.
pub(crate) struct Fetched {
    descriptor: Descriptor,
    /// What the registry calls it.
    pub(crate) content_type: Option<String>,
    pub(crate) bytes: Vec<u8>,
}

/// Finds the image of `platform` behind a tag or digest: an index or two, a manifest, the config.
pub(crate) async fn resolve(
    repository: Repository,
    reference: &Reference,
    platform: &Platform,
) -> Result<ResolvedImage, ResolveError> {
    let image = repository.image.clone();
    let failed = |failure: Failure| failure.of_image(&image);
    let mut fetched = match (&reference.digest, &reference.tag) {
        (Some(digest), _) => repository.manifest(&digest.to_string(), Some(digest)).await,
        (None, tag) => repository.manifest(tag.as_deref().unwrap_or("latest"), None).await,
    }
    .map_err(failed)?;
    let mut through: Option<ResolvedIndex> = None;
    for _ in 0..MAX_DEPTH {
        let index = match parse_document(&image, fetched.content_type.as_deref(), &fetched.bytes)? {
            Document::Index(index) => index,
            Document::Manifest(manifest) => {
                check_config_type(&image, &manifest)?;
                let config = repository.document(&manifest.config).await.map_err(failed)?;
                // An image of the old days has no media type of its own; the type that counts is then the content's.
                let descriptor = Descriptor {
                    media_type: manifest.media_type.unwrap_or(fetched.descriptor.media_type),
                    ..fetched.descriptor
                };
                let descriptor = Descriptor { annotations: manifest.annotations, ..descriptor };
                let resolved =
                    resolved_from(&image, &descriptor, &fetched.bytes, &config, Arc::new(repository))?;
                return Ok(ResolvedImage { index: through, ..resolved });
            }
        };
        let top = through.get_or_insert_with(|| fetched.as_index(&index));
        top.manifests.extend(index.manifests.iter().map(|entry| entry.digest));
        let entry = select_manifest(&index, platform).map_err(|none| none.of(&image))?;
        fetched =
            repository.manifest(&entry.digest.to_string(), Some(&entry.digest)).await.map_err(failed)?;
        if fetched.bytes.len() as u64 != entry.size {
            return Err(failed(Failure::invalid(format!(
                "the index says that manifest {} has {} bytes, it has {}",
                entry.digest,
                entry.size,
                fetched.bytes.len()
            ))));
        }
    }
    Err(failed(Failure::invalid(format!("it has more than {MAX_DEPTH} indexes on top of one another"))))
}

impl Fetched {
    /// What a name means that means this index; nothing is known yet of what it lists.
    fn as_index(&self, index: &Index) -> ResolvedIndex {
        // Registries that do not know the type call it something else.
        let known = [MediaType::INDEX, MediaType::DOCKER_INDEX];
        let stated = Some(self.descriptor.media_type.clone()).filter(|stated| known.contains(&&**stated));
        let media_type = index.media_type.clone().or(stated).unwrap_or_else(|| MediaType::INDEX.to_owned());
        ResolvedIndex {
            descriptor: Descriptor { media_type, ..self.descriptor.clone() },
            bytes: self.bytes.as_slice().into(),
            manifests: BTreeSet::new(),
        }
    }
}

impl Repository {
    /// Fetches the manifest or index of a tag or of `digest`.
    pub(crate) async fn manifest(
        &self,
        tag_or_digest: &str,
        digest: Option<&Digest>,
    ) -> Result<Fetched, Failure> {
        let question = Question {
            scope: &self.scope,
            path: format!("{}/manifests/{tag_or_digest}", self.name),
            accept: Some(ACCEPT),
            offset: 0,
            verified: digest.is_some(),
        };
        let (content_type, stated, bytes) = self.small(&question, MAX_MANIFEST).await?;
        let found = Digest::of(&bytes);
        if let Some(expected) = digest.into_iter().chain(&stated).find(|expected| **expected != found) {
            let message = format!("manifest {expected} is damaged: what came has the digest {found}");
            return Err(Failure::invalid(message));
        }
        let media_type = content_type.clone().unwrap_or_else(|| MediaType::MANIFEST.to_owned());
        let descriptor = Descriptor::new(media_type, found, bytes.len() as u64);
        Ok(Fetched { descriptor, content_type, bytes })
    }

    /// Fetches a small blob into memory: a config. The caller verifies it.
    async fn document(&self, blob: &Descriptor) -> Result<Vec<u8>, Failure> {
        if blob.size > MAX_DOCUMENT {
            let message = format!("config {} has {} bytes, more than {MAX_DOCUMENT}", blob.digest, blob.size);
            return Err(Failure::invalid(message));
        }
        Ok(self.small(&self.blob_question(&blob.digest, 0), blob.size).await?.2)
    }

    /// Asks until there is an answer of at most `limit` bytes: its type, the digest that it states, its bytes.
    pub(crate) async fn small(
        &self,
        question: &Question<'_>,
        limit: u64,
    ) -> Result<(Option<String>, Option<Digest>, Vec<u8>), Failure> {
        let mut backoff = Backoff::new(&self.retry);
        loop {
            let tried = async {
                let response = self.hosts[0].ask(question).await?;
                let (content_type, stated) = (content_type(&response), stated_digest(response.headers()));
                Ok((content_type, stated, response.read(limit as usize).await?))
            };
            match tried.await {
                Ok(answer) => return Ok(answer),
                Err(failure) => backoff.wait(failure).await?,
            }
        }
    }
}

/// `Docker-Content-Digest`. Registries may use other algorithms than sha256; those are not compared.
fn stated_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

/// Without parameters such as `charset`.
fn content_type(response: &Response) -> Option<String> {
    let text = response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    Some(text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}
