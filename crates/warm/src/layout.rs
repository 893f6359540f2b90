//! A cache in an OCI layout.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use hash::Digest;
use image::layout::{OciLayout, REF_NAME};
use image::{BlobSource, Descriptor, Index, MAX_DOCUMENT, ResolveError};

use crate::artifact::{Origin, TopDocument};

/// A cache in a directory (`type=local`).
#[derive(Debug, Clone)]
pub struct LayoutOrigin {
    path: PathBuf,
    tag: String,
    digest: Option<Digest>,
}

impl LayoutOrigin {
    /// The one that `index.json` calls `tag`, or the one with a digest.
    pub fn new(path: impl Into<PathBuf>, tag: impl Into<String>, digest: Option<Digest>) -> LayoutOrigin {
        LayoutOrigin { path: path.into(), tag: tag.into(), digest }
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    fn entry(&self) -> Result<Descriptor, ResolveError> {
        let bytes = read(&self.path.join("index.json"), MAX_DOCUMENT)?;
        let index: Index = serde_json::from_slice(&bytes).map_err(|error| ResolveError::Invalid {
            name: self.name(),
            message: format!("`index.json` is not valid: {error}"),
        })?;
        let is_it = |entry: &&Descriptor| match &self.digest {
            Some(digest) => entry.digest == *digest,
            None => entry.annotations.get(REF_NAME) == Some(&self.tag),
        };
        let entry = index.manifests.iter().find(is_it).cloned();
        // One that was replaced under its tag is not listed any more.
        let unlisted = self.digest.map(|digest| Descriptor::new("", digest, MAX_DOCUMENT));
        entry.or(unlisted).ok_or_else(|| ResolveError::NotFound(self.name()))
    }
}

#[async_trait]
impl Origin for LayoutOrigin {
    fn name(&self) -> String {
        match &self.digest {
            Some(digest) => format!("{}@{digest}", self.path.display()),
            None => format!("{}:{}", self.path.display(), self.tag),
        }
    }

    /// The directory as it is, whatever leads there, also when it is not there any more.
    fn identity(&self) -> String {
        let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        let resolved = path.ancestors().find_map(|there| {
            let rest = path.strip_prefix(there).ok()?;
            let there = std::fs::canonicalize(there).ok()?;
            // Joined with nothing it would end with a slash.
            Some(if rest.as_os_str().is_empty() { there } else { there.join(rest) })
        });
        let path = resolved.unwrap_or(path);
        LayoutOrigin { path, ..self.clone() }.name()
    }

    async fn top(&self) -> Result<TopDocument, ResolveError> {
        let origin = self.clone();
        on_thread(move || {
            let entry = origin.entry()?;
            let bytes =
                read(&origin.blob_path(&entry.digest), MAX_DOCUMENT).map_err(|error| match error {
                    ResolveError::NotFound(_) if !entry.media_type.is_empty() => ResolveError::Invalid {
                        name: origin.name(),
                        message: format!("it is incomplete: {} is not there", entry.digest),
                    },
                    other => other,
                })?;
            if Digest::of(&bytes) != entry.digest {
                let message = format!("blob {} is damaged", entry.digest);
                return Err(ResolveError::Invalid { name: origin.name(), message });
            }
            Ok(TopDocument { media_type: Some(entry.media_type).filter(|text| !text.is_empty()), bytes })
        })
        .await
    }

    async fn manifest(&self, manifest: &Descriptor) -> Result<Vec<u8>, ResolveError> {
        self.blob(manifest, MAX_DOCUMENT).await
    }

    async fn blob(&self, blob: &Descriptor, limit: u64) -> Result<Vec<u8>, ResolveError> {
        let path = self.blob_path(&blob.digest);
        on_thread(move || read(&path, limit)).await
    }

    fn blobs(&self) -> Arc<dyn BlobSource> {
        Arc::new(LayoutBlobs(self.path.clone()))
    }
}

/// The directory is opened when a blob is wanted, and not before.
struct LayoutBlobs(PathBuf);

#[async_trait]
impl BlobSource for LayoutBlobs {
    async fn fetch(
        &self,
        blob: &Descriptor,
        store: &dyn image::ContentStore,
        progress: &dyn image::TransferProgress,
    ) -> Result<(), ResolveError> {
        OciLayout::open(&self.0)?.fetch(blob, store, progress).await
    }
}

async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ResolveError> + Send + 'static,
) -> Result<T, ResolveError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ResolveError::Io { action: "read".to_owned(), source: io::Error::other(error) }),
    }
}

/// A regular file of at most `limit` bytes; a pipe would block.
fn read(path: &Path, limit: u64) -> Result<Vec<u8>, ResolveError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ResolveError::NotFound(path.display().to_string()),
        _ => ResolveError::Io { action: format!("read {}", path.display()), source },
    };
    let found = std::fs::metadata(path).map_err(failed)?;
    if !found.is_file() || found.len() > limit {
        let message = format!("it is no file of at most {limit} bytes");
        return Err(ResolveError::Invalid { name: path.display().to_string(), message });
    }
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_one_and_the_same_whatever_leads_there() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap().join("real");
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
        let of = |path: PathBuf| LayoutOrigin::new(path, "latest", None).identity();
        let here = of(real.join("cache"));
        assert_eq!(here, format!("{}/cache:latest", real.display()));
        assert_eq!(of(dir.path().join("link/cache")), here);
        // It is made, and it is gone.
        std::fs::create_dir(real.join("cache")).unwrap();
        assert_eq!(of(dir.path().join("link/cache")), here);
        std::fs::remove_dir(real.join("cache")).unwrap();
        assert_eq!(of(real.join("cache")), here);
        assert_ne!(of(real.join("other")), here);
        assert_ne!(LayoutOrigin::new(real.join("cache"), "other", None).identity(), here);
    }
}
