//! Finding the images that a Dockerfile stands on.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use cache::{Meaning, Store, StoredImage};
use frontend::{ImageOrigin, ImageRequest};
use hash::Digest;
use image::layout::{LayoutImage, OciLayout};
use image::{
    ContentStore, Descriptor, ImageResolver as _, MediaType, Platform, Reference, ResolveError, ResolvedImage,
};

use super::again::Again;
use super::contexts::NamedContext;
use super::request::Kept;
use crate::failure::Failure;
use crate::remotes;

/// Where images are looked for.
pub(super) struct Finder {
    store: Store,
    registry: registry::Client,
    contexts: BTreeMap<String, NamedContext>,
    /// `--pull`: ask the registry also for what is here.
    pull: bool,
    /// Where images are that are here: those of another state directory, when something is built once more.
    local: Store,
    /// The manifests that names meant when it was built first.
    meant: BTreeMap<String, Digest>,
    /// What registries had.
    pulled: Mutex<Vec<Pulled>>,
    /// The manifests that names mean now.
    used: Mutex<BTreeMap<String, String>>,
}

/// An image that a registry had.
struct Pulled {
    name: Reference,
    platform: Platform,
    image: Arc<ResolvedImage>,
    /// What the name meant here.
    meant: Meaning,
}

impl Finder {
    /// Nothing has been asked for yet.
    pub(super) fn new(
        store: Store,
        registry: registry::Client,
        contexts: BTreeMap<String, NamedContext>,
        pull: bool,
    ) -> Finder {
        let (local, meant) = (store.clone(), BTreeMap::new());
        Finder {
            store,
            registry,
            contexts,
            pull,
            local,
            meant,
            pulled: Mutex::default(),
            used: Mutex::default(),
        }
    }

    /// One that finds what another build found.
    pub(super) fn again(self, again: &Again) -> Finder {
        Finder { local: again.images.clone(), meant: again.meant.clone(), pull: false, ..self }
    }

    /// The images that were found by name: `NAME PLATFORM`, and the digest of the manifest.
    pub(super) fn used(&self) -> BTreeMap<String, String> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives the images that registries had and that were brought their names in the local store: a tag is not asked for again
    /// without `--pull`. An image of which no layer was needed stays out, and so does one whose name this build gives to what it makes,
    /// somebody else has given to another image meanwhile or, as long as nobody says `--pull`, means another index here: what is here may
    /// have been made here, and be nowhere else.
    pub(super) fn remember(&self, given: &[Kept]) -> Result<(), Failure> {
        let pulled = std::mem::take(&mut *self.pulled.lock().unwrap_or_else(PoisonError::into_inner));
        let blobs: &dyn ContentStore = self.store.blobs();
        let mut named: HashMap<Reference, Meaning> = HashMap::new();
        for Pulled { name, platform, image, meant } in pulled {
            if given.iter().any(|kept| kept.names.contains(&name)) {
                continue;
            }
            let io = |error: std::io::Error| Failure::io("write to", self.store.root(), &error);
            let mut layers = image.layers.iter().map(|layer| blobs.size(&layer.descriptor.digest));
            if !layers.try_fold(true, |all, size| Ok(all && size?.is_some())).map_err(io)? {
                continue;
            }
            remotes::put_resolved(&image, blobs).map_err(io)?;
            // One build may bring a name for several platforms.
            let meant = named.remove(&name).unwrap_or(meant);
            if !self.pull && !meant.is_beside(&image) {
                continue;
            }
            if self.store.put_image_of(&name, &platform, &image, Some(&meant))? {
                named.insert(name.clone(), self.store.meaning(&name)?);
            }
        }
        Ok(())
    }

    /// Finds one image.
    pub(super) async fn find(&self, request: &ImageRequest) -> Result<Arc<ResolvedImage>, ResolveError> {
        match &request.origin {
            ImageOrigin::Reference(reference) => self.by_name(reference, &request.platform).await,
            ImageOrigin::Context(name) => match self.contexts.get(name) {
                Some(NamedContext::Image(reference)) => self.by_name(reference, &request.platform).await,
                Some(NamedContext::Layout(address)) => {
                    let (address, platform) = (address.clone(), request.platform.clone());
                    in_layout(address.path, address.image, platform).await.map(Arc::new)
                }
                _ => Err(ResolveError::NotFound(format!("named context {name}"))),
            },
        }
    }

    /// What a name means, or meant when that is to be found again.
    async fn by_name(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Arc<ResolvedImage>, ResolveError> {
        let key = format!("{reference} {platform}");
        let found = match self.meant.get(&key) {
            Some(digest) => self.by_digest(reference, *digest, platform).await?,
            None => self.here_or_there(reference, platform).await?,
        };
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.insert(key, found.manifest_digest.to_string());
        Ok(found)
    }

    /// What a name meant. It may have been given to another image meanwhile: the blobs are there until they are pruned.
    async fn by_digest(
        &self,
        name: &Reference,
        digest: Digest,
        platform: &Platform,
    ) -> Result<Arc<ResolvedImage>, ResolveError> {
        let name = Reference { digest: Some(digest), ..name.clone() };
        let size = ContentStore::size(self.local.blobs(), &digest);
        if let Ok(Some(size)) = size {
            let nameless = StoredImage {
                name: name.clone(),
                platform: platform.clone(),
                manifest: Descriptor::new(MediaType::MANIFEST, digest, size),
                index: None,
                config: digest,
                size,
                created: SystemTime::UNIX_EPOCH,
            };
            // An image that lost its config is looked for elsewhere.
            if let Ok(image) = self.local.load_image(&nameless) {
                return Ok(Arc::new(image));
            }
        }
        self.here_or_there(&name, platform).await
    }

    /// The local image of that exact name and platform, then the registry. A digest names the same bytes anywhere.
    async fn here_or_there(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Arc<ResolvedImage>, ResolveError> {
        let local = || self.local.resolve(reference, platform);
        let mut elsewhere = None;
        if !self.pull {
            match local().await {
                Err(ResolveError::NotFound(_)) => {}
                Err(error @ ResolveError::NoPlatform { .. }) => elsewhere = Some(error),
                found => return found.map(Arc::new),
            }
        }
        let meant = self.store.meaning(reference).map_err(|error| ResolveError::Io {
            action: format!("look {reference} up"),
            source: std::io::Error::other(error),
        })?;
        match self.registry.resolve(reference, platform).await {
            Ok(image) => {
                let (name, platform, image) = (reference.clone(), platform.clone(), Arc::new(image));
                let pulled = Pulled { name, platform, image: image.clone(), meant };
                self.pulled.lock().unwrap_or_else(PoisonError::into_inner).push(pulled);
                Ok(image)
            }
            // Built here and pushed nowhere: --pull has nothing newer to offer.
            Err(missing @ ResolveError::NotFound(_)) if self.pull => {
                local().await.map(Arc::new).map_err(|_| missing)
            }
            Err(error) => Err(match elsewhere {
                Some(here) => of_other_platforms(here, error),
                None => error,
            }),
        }
    }
}

/// An image that is here, but for other platforms, and that no registry has. Whoever sees it in `builder images` wants to be told both.
fn of_other_platforms(here: ResolveError, registry: ResolveError) -> ResolveError {
    let ResolveError::NoPlatform { name, platform, available } = here else { return registry };
    let why = match registry {
        ResolveError::NotFound(_) => "its registry has no image of that name".to_owned(),
        ResolveError::Denied { message, .. } | ResolveError::Unreachable { message, .. } => {
            format!("what its registry has is not known: {message}")
        }
        other => return other,
    };
    ResolveError::NoPlatform { name, platform, available: format!("{available} here, and {why}") }
}

async fn in_layout(
    path: PathBuf,
    image: Option<LayoutImage>,
    platform: Platform,
) -> Result<ResolvedImage, ResolveError> {
    let name = path.display().to_string();
    let read = move || OciLayout::open(path)?.resolve(image.as_ref(), &platform);
    tokio::task::spawn_blocking(read)
        .await
        .unwrap_or_else(|error| Err(ResolveError::Invalid { name, message: error.to_string() }))
}

/// An image as the progress display names it: in full when it is looked up by name, else as the Dockerfile has it.
pub(super) fn describe(request: &ImageRequest, name: &str) -> String {
    match &request.origin {
        ImageOrigin::Reference(reference) => reference.to_string(),
        ImageOrigin::Context(_) => name.to_owned(),
    }
}

/// What has been found so far.
pub(super) type Found = BTreeMap<ImageRequest, Arc<ResolvedImage>>;
