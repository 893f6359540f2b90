//! The caches that a build may take results from.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use hash::{CacheKey, Digest};
use image::{BlobSource, ResolveError};
use tokio::sync::OnceCell;

use crate::artifact::{Origin, find};
use crate::document::{CachedLayer, Document};

/// A cache to take results from (`--cache-from`).
#[derive(Clone)]
pub struct Import {
    /// Where it is.
    pub origin: Arc<dyn Origin>,
    /// How long its document is waited for, and then any sign of life while layers come.
    pub patience: Duration,
}

/// Told what happens to caches.
pub trait Watcher: Send + Sync {
    /// A document is being fetched.
    fn importing(&self, name: &str) -> Box<dyn Imported>;
}

/// A document that is being fetched.
pub trait Imported: Send {
    /// It is there, or it is done without, and why.
    fn done(self: Box<Self>, problem: Option<&str>);
}

/// Names a result of a cache within one build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Number {
    cache: u32,
    record: u32,
}

impl Number {
    /// The same as a number.
    pub fn to_bits(self) -> u64 {
        u64::from(self.cache) << 32 | u64::from(self.record)
    }

    /// What [`Number::to_bits`] gave.
    pub fn from_bits(bits: u64) -> Number {
        Number { cache: (bits >> 32) as u32, record: bits as u32 }
    }
}

/// A result in a cache.
#[derive(Debug, Clone)]
pub struct AwayRecord {
    /// Which.
    pub number: Number,
    /// Its keys.
    pub keys: Vec<CacheKey>,
    /// Its layers, bottom first.
    pub layers: Vec<AwayLayer>,
    /// How long it took to make, as far as that is known.
    pub took: Option<Duration>,
}

/// A layer in a cache.
#[derive(Clone)]
pub struct AwayLayer {
    /// What is known of it.
    pub layer: CachedLayer,
    /// Where its blob comes from.
    pub blobs: Arc<dyn BlobSource>,
    /// The cache's name.
    pub from: Arc<str>,
    /// How long to wait for a sign of life.
    pub patience: Duration,
}

impl std::fmt::Debug for AwayLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AwayLayer")
            .field("layer", &self.layer)
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}

/// The caches of a build. Nothing is fetched before something is looked up; then each document is fetched once, all at the same time.
pub struct Caches {
    imports: Vec<Import>,
    watcher: Arc<dyn Watcher>,
    loaded: OnceCell<Vec<Loaded>>,
    refused: Mutex<Refused>,
}

/// What is known of one cache.
struct Loaded {
    name: Arc<str>,
    identity: String,
    blobs: Arc<dyn BlobSource>,
    patience: Duration,
    document: Document,
    by_key: HashMap<CacheKey, Vec<u32>>,
}

/// What turned out to be no good.
#[derive(Default)]
struct Refused {
    caches: HashSet<u32>,
    blobs: HashSet<(u32, Digest)>,
}

impl Caches {
    /// Nothing is asked yet.
    pub fn new(imports: Vec<Import>, watcher: Arc<dyn Watcher>) -> Caches {
        Caches { imports, watcher, loaded: OnceCell::new(), refused: Mutex::default() }
    }

    /// A result that is filed under a key, of the first cache that has one. A cache that cannot be asked has none.
    pub async fn find(&self, key: &CacheKey) -> Option<AwayRecord> {
        self.find_in(self.load().await, key)
    }

    /// The same without asking anybody who was not asked yet.
    pub fn known(&self, key: &CacheKey) -> Option<AwayRecord> {
        self.find_in(self.loaded.get()?, key)
    }

    /// A result that was found before, unless it turned out to be no good.
    pub fn record(&self, number: Number) -> Option<AwayRecord> {
        self.usable(self.loaded.get()?, number)
    }

    /// What all of them are known by ([`Origin::identity`]).
    pub fn identities(&self) -> BTreeSet<String> {
        self.imports.iter().map(|import| import.origin.identity()).collect()
    }

    /// What the cache is known by that a result was found in.
    pub fn identity(&self, number: Number) -> Option<&str> {
        Some(&self.loaded.get()?.get(number.cache as usize)?.identity)
    }

    /// A blob is not what it should be, or is not there: no result that has it is found again.
    pub fn refuse(&self, number: Number, blob: Digest) {
        self.refused().blobs.insert((number.cache, blob));
    }

    /// A cache does not answer any more: nothing is looked for in it again. Whether that is news.
    pub fn give_up(&self, number: Number) -> bool {
        self.refused().caches.insert(number.cache)
    }

    fn refused(&self) -> std::sync::MutexGuard<'_, Refused> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find_in(&self, loaded: &[Loaded], key: &CacheKey) -> Option<AwayRecord> {
        let numbers = loaded.iter().enumerate().flat_map(|(cache, loaded)| {
            let records = loaded.by_key.get(key).into_iter().flatten();
            records.map(move |record| Number { cache: cache as u32, record: *record })
        });
        numbers.into_iter().find_map(|number| self.usable(loaded, number))
    }

    fn usable(&self, loaded: &[Loaded], number: Number) -> Option<AwayRecord> {
        let cache = loaded.get(number.cache as usize)?;
        let record = cache.document.records.get(number.record as usize)?;
        let refused = self.refused();
        if refused.caches.contains(&number.cache) {
            return None;
        }
        let mut layers = Vec::with_capacity(record.layers.len());
        for place in &record.layers {
            let layer = cache.document.layers.get(*place)?;
            if refused.blobs.contains(&(number.cache, layer.layer.descriptor.digest)) {
                return None;
            }
            layers.push(AwayLayer {
                layer: layer.clone(),
                blobs: cache.blobs.clone(),
                from: cache.name.clone(),
                patience: cache.patience,
            });
        }
        Some(AwayRecord { number, keys: record.keys.clone(), layers, took: record.took })
    }

    async fn load(&self) -> &[Loaded] {
        let load = || async {
            let caches = join_all(self.imports.iter().map(|import| self.import(import))).await;
            caches.into_iter().flatten().collect()
        };
        self.loaded.get_or_init(load).await
    }

    /// The documents of one cache.
    async fn import(&self, import: &Import) -> Vec<Loaded> {
        let name = import.origin.name();
        let shown = self.watcher.importing(&name);
        let found = match tokio::time::timeout(import.patience, find(&*import.origin)).await {
            Ok(found) => found.map_err(problem),
            Err(_) => Err(format!("it did not answer within {} s", import.patience.as_secs_f32())),
        };
        match found {
            Ok(documents) => {
                shown.done(None);
                documents.into_iter().map(|document| Loaded::new(import, &name, document)).collect()
            }
            Err(problem) => {
                shown.done(Some(&problem));
                Vec::new()
            }
        }
    }
}

/// Without the name, which is told already.
fn problem(error: ResolveError) -> String {
    match error {
        ResolveError::NotFound(_) => "there is none yet".to_owned(),
        // Some say that of what is not there, so that nobody learns what is.
        ResolveError::Denied { message, .. } => format!("{message}, or there is none yet"),
        ResolveError::Unreachable { message, .. } | ResolveError::Invalid { message, .. } => message,
        other => other.to_string(),
    }
}

impl Loaded {
    fn new(import: &Import, name: &str, document: Document) -> Loaded {
        let mut by_key: HashMap<CacheKey, Vec<u32>> = HashMap::new();
        for (place, record) in document.records.iter().enumerate() {
            for key in &record.keys {
                by_key.entry(*key).or_default().push(place as u32);
            }
        }
        Loaded {
            name: name.into(),
            identity: import.origin.identity(),
            blobs: import.origin.blobs(),
            patience: import.patience,
            document,
            by_key,
        }
    }
}
