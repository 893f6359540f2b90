//! The caches that a build takes results from.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use image::{BlobSource, Descriptor, Reference, ResolveError};
use registry::{Artifact, Client, Config};
use warm::{Caches, Import, Imported, LayoutOrigin, Origin, TopDocument, Watcher};

use super::cache_args::{CacheSource, Place};
use crate::failure::Failure;
use crate::progress::{Progress, Task};
use crate::remotes;

/// A registry that asks for more time than this is done without.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The caches of a build; `None` without any. Nothing is asked yet.
pub(super) fn caches(
    sources: &[CacheSource],
    progress: &Arc<Progress>,
) -> Result<Option<Arc<Caches>>, Failure> {
    if sources.is_empty() {
        return Ok(None);
    }
    let mut config = remotes::config()?;
    config.transport.insecure.extend(sources.iter().filter_map(|source| match &source.place {
        Place::Registry { name, insecure: true } => Some(name.registry.clone()),
        _ => None,
    }));
    let insecure = insecure(&config);
    // A step can always be executed instead.
    config.retry.attempts = 2;
    config.retry.first_delay = Duration::from_millis(200);
    config.retry.max_retry_after = LONGEST_WAIT;
    let client = Client::new(config);
    let import = |source: &CacheSource| -> Result<Import, Failure> {
        let origin: Arc<dyn Origin> = match &source.place {
            Place::Local { path, tag, digest } => Arc::new(LayoutOrigin::new(path, tag, *digest)),
            Place::Registry { name, .. } => {
                let artifact = client.artifact(name).map_err(|error| Failure::usage(error.to_string()))?;
                Arc::new(Named { name: name.clone(), artifact, insecure: insecure(&name.registry) })
            }
        };
        Ok(Import { origin, patience: source.patience })
    };
    let imports = sources.iter().map(import).collect::<Result<_, _>>()?;
    Ok(Some(Arc::new(Caches::new(imports, Arc::new(Shown(progress.clone()))))))
}

/// Tells whether what a registry sends may be anybody's: because it, or a mirror of it, is talked to without a certificate, whoever
/// said so. (The machine itself is not.)
fn insecure(config: &Config) -> impl Fn(&str) -> bool + use<> {
    let (mirrors, hosts) = (config.mirrors.clone(), config.transport.insecure.clone());
    move |registry| {
        let own = mirrors.get(registry).into_iter().flatten().map(String::as_str);
        own.chain([registry]).any(|host| hosts.iter().any(|insecure| insecure == host))
    }
}

/// A cache in a registry.
struct Named {
    name: Reference,
    artifact: Artifact,
    /// Nobody vouches for it being this registry.
    insecure: bool,
}

#[async_trait]
impl Origin for Named {
    fn name(&self) -> String {
        self.name.to_string()
    }

    /// What came over a line that anybody may write to is for builds alone that take it so.
    fn identity(&self) -> String {
        if self.insecure { format!("{} (insecure)", self.name) } else { self.name.to_string() }
    }

    async fn top(&self) -> Result<TopDocument, ResolveError> {
        let (media_type, bytes) = self.artifact.top().await?;
        Ok(TopDocument { media_type, bytes })
    }

    async fn manifest(&self, manifest: &Descriptor) -> Result<Vec<u8>, ResolveError> {
        self.artifact.manifest(&manifest.digest).await
    }

    async fn blob(&self, blob: &Descriptor, limit: u64) -> Result<Vec<u8>, ResolveError> {
        self.artifact.blob(blob, limit).await
    }

    fn blobs(&self) -> Arc<dyn BlobSource> {
        self.artifact.blobs()
    }
}

/// Shows what happens to caches like steps.
struct Shown(Arc<Progress>);

impl Watcher for Shown {
    fn importing(&self, name: &str) -> Box<dyn Imported> {
        let task = self.0.task(&format!("importing cache manifest from {name}"));
        Box::new(Importing { task, name: name.to_owned() })
    }
}

struct Importing {
    task: Task,
    name: String,
}

impl Imported for Importing {
    fn done(self: Box<Self>, problem: Option<&str>) {
        if let Some(problem) = problem {
            self.task.warn(&format!("the cache {} is not used: {problem}", self.name));
        }
        self.task.done();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_says_that_a_registry_is_insecure_it_is() {
        let mut config = Config::default();
        config.transport.insecure = vec!["lab:5000".to_owned(), "mirror.example".to_owned()];
        config.mirrors.insert("docker.io".to_owned(), vec!["mirror.example".to_owned()]);
        let insecure = insecure(&config);
        let found = ["lab:5000", "docker.io", "lab", "127.0.0.1:5000"].map(insecure);
        assert_eq!(found, [true, true, false, false]);
    }
}
