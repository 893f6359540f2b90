use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use image::{ImageResolver, Platform, Reference, ResolveError, ResolvedImage};
use transport::Retry;

use crate::auth::Scope;
use crate::backoff::Backoff;
use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::host::{Host, Question};
use crate::http::Http;
use crate::manifest;
use crate::repository::{InFlight, Repository};

/// Talks to registries. Clones share connections, tokens and limits. Making one costs nothing: certificates,
/// credentials and connections wait for the first request.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    http: Arc<Http>,
    hosts: Mutex<HashMap<String, Arc<Host>>>,
    in_flight: Arc<InFlight>,
}

impl Client {
    /// A client that has asked nothing yet.
    pub fn new(config: Config) -> Client {
        let http = Arc::new(Http::new(config));
        Client(Arc::new(Shared { http, hosts: Mutex::default(), in_flight: Arc::default() }))
    }

    pub(crate) fn host(&self, registry: &str) -> Result<Arc<Host>, Failure> {
        let mut hosts = self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get(registry) {
            return Ok(Arc::clone(host));
        }
        let host = Arc::new(Host::new(registry, Arc::clone(&self.0.http))?);
        hosts.insert(registry.to_owned(), Arc::clone(&host));
        Ok(host)
    }

    /// Asks a registry (`host[:port]`, or `docker.io`) whether it lets us in (distribution spec, "Determining Support"). `false`: it refuses
    /// the login that it was given.
    ///
    /// # Errors
    /// A registry that cannot be reached, or is none.
    pub async fn lets_in(&self, registry: &str) -> Result<bool, ResolveError> {
        let failed = |failure: Failure| failure.of_image(registry);
        let host = self.host(registry).map_err(failed)?;
        let scope = Scope::none();
        let retry = self.retry();
        let mut backoff = Backoff::new(&retry);
        loop {
            let question =
                Question { scope: &scope, path: String::new(), accept: None, offset: 0, verified: false };
            match host.ask(&question).await {
                Ok(_) => return Ok(true),
                Err(Failure { kind: Kind::Denied | Kind::Login, .. }) => return Ok(false),
                Err(failure) => backoff.wait(failure).await.map_err(failed)?,
            }
        }
    }

    pub(crate) fn retry(&self) -> Retry {
        self.0.http.config.retry.clone()
    }

    /// The repository of an image, on each of its registry's mirrors and then where it really is.
    fn repositories(&self, reference: &Reference) -> Result<Vec<Repository>, Failure> {
        let mirrors = self.0.http.config.mirrors.get(&reference.registry).into_iter().flatten();
        let hosts: Result<Vec<_>, Failure> =
            mirrors.chain([&reference.registry]).map(|registry| self.host(registry)).collect();
        let hosts = hosts?;
        let from = |first: usize| self.repository(reference, &hosts[first..]);
        Ok((0..hosts.len()).map(from).collect())
    }

    pub(crate) fn repository(&self, reference: &Reference, hosts: &[Arc<Host>]) -> Repository {
        Repository {
            hosts: hosts.to_vec(),
            name: reference.repository.clone(),
            scope: Scope::pull(&reference.repository),
            image: reference.to_string(),
            retry: self.retry(),
            in_flight: Arc::clone(&self.0.in_flight),
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

#[async_trait]
impl ImageResolver for Client {
    /// Resolves over HTTP. The blobs of what it finds are fetched verified, at most [`Config::parallel`] of a registry at
    /// once, each once however many ask for it, and go on where they were when the connection breaks. Dropping the future
    /// cancels; the store's writer is then dropped on a blocking thread.
    async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<ResolvedImage, ResolveError> {
        let name = reference.to_string();
        let mut repositories = self.repositories(reference).map_err(|failure| failure.of_image(&name))?;
        let origin = repositories.pop();
        for mirror in repositories {
            match manifest::resolve(mirror, reference, platform).await {
                Err(error @ (ResolveError::Io { .. } | ResolveError::NoPlatform { .. })) => {
                    return Err(error);
                }
                Err(error) => tracing::debug!(%error, "a mirror does not help"),
                Ok(image) => return Ok(image),
            }
        }
        let origin = origin.ok_or(ResolveError::NotFound(name))?;
        manifest::resolve(origin, reference, platform).await
    }
}
