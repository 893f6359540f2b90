//! Results that were made elsewhere: their layers are fetched and unpacked when somebody needs the files.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use cache::SnapshotId;
use futures::{StreamExt as _, TryStreamExt as _};
use graph::{Event, VertexId};
use hash::{CacheKey, ContentDigest, ContentId, Digest};
use image::{ResolveError, TransferProgress};
use solver::{Arrived, Away};
use tokio::sync::OnceCell;
use warm::{AwayLayer, AwayRecord, Caches, Number};

use crate::cancel::blocking;
use crate::sources::{BaseImage, LayerBlob, Transfer};
use crate::tree::{LayerTree, Tree};
use crate::{LocalWorker, WorkerError, content_with};

/// Layers of one result that are fetched and unpacked at the same time.
const PARALLEL_LAYERS: usize = 4;

/// A cache that sends less than this while it is waited for is as good as gone, in bytes.
const LEAST: u64 = 32 << 10;

/// A layer that counts as made at a time: its chain, what it changes, when it was made.
type LayerKey = (Digest, ContentDigest, u64);

/// The caches of a build, and what was brought of them.
pub(crate) struct Imports {
    caches: Arc<Caches>,
    layers: Mutex<HashMap<LayerKey, Arc<OnceCell<SnapshotId>>>>,
    /// Bytes that came, of all layers together: one may have to wait for others.
    arrived: Arc<AtomicU64>,
}

impl Imports {
    pub(crate) fn new(caches: Arc<Caches>) -> Imports {
        Imports { caches, layers: Mutex::default(), arrived: Arc::default() }
    }

    pub(crate) async fn find(&self, key: &CacheKey) -> Option<Away> {
        self.caches.find(key).await.map(|record| Away(record.number.to_bits()))
    }

    pub(crate) fn identities(&self) -> cache::Origins {
        self.caches.identities()
    }

    pub(crate) fn identity(&self, away: &Away) -> Option<String> {
        self.caches.identity(Number::from_bits(away.0)).map(str::to_owned)
    }

    pub(crate) fn record(&self, away: &Away) -> Option<AwayRecord> {
        self.caches.record(Number::from_bits(away.0))
    }

    fn cell(&self, key: LayerKey) -> Arc<OnceCell<SnapshotId>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone()
    }
}

/// What a result holds, which counts once its image was unpacked.
pub(crate) fn content_of(base: Option<&BaseImage>, record: &AwayRecord) -> ContentId {
    let below = base.map_or_else(|| image::content_id(None), BaseImage::content_id);
    record.layers.iter().fold(below, |below, layer| content_with(&below, &layer.layer.changes))
}

/// Why a layer cannot be had.
struct Useless {
    layer: Digest,
    from: Arc<str>,
    reason: String,
    /// Whether nothing else can be had from there either.
    gone: bool,
}

impl LocalWorker {
    /// Brings a result. What stands in the way is told as a warning, and not tried again.
    pub(crate) async fn import(&self, vertex: VertexId, away: &Away) -> Option<Arrived<Tree>> {
        let imports = self.imports.as_ref()?;
        let record = imports.record(away)?;
        let base = self.base_of(vertex).ok()?;
        let mut chain = base.as_ref().and_then(|base| base.chain_id().copied());
        let mut wanted = Vec::with_capacity(record.layers.len());
        for layer in &record.layers {
            let ids = image::chain_ids(chain.iter().chain([&layer.layer.layer.diff_id]));
            chain = ids.last().copied();
            wanted.extend(chain.map(|chain| (chain, layer.clone())));
        }
        let brought: Result<Vec<SnapshotId>, Useless> = futures::stream::iter(wanted)
            .map(|(chain, layer)| async move { self.import_layer(imports, vertex, chain, &layer).await })
            .buffered(PARALLEL_LAYERS)
            .try_collect()
            .await;
        match brought {
            Ok(layers) => {
                let content = content_of(base.as_deref(), &record);
                let times = self.times.of(vertex);
                let tree = Tree::Layers(LayerTree { base, layers: layers.clone(), times });
                Some(Arrived { tree, layers, content, took: record.took.unwrap_or_default() })
            }
            Err(useless) => {
                self.give_up(imports, vertex, record.number, &useless);
                None
            }
        }
    }

    fn give_up(&self, imports: &Imports, vertex: VertexId, number: Number, useless: &Useless) {
        let Useless { layer, from, reason, gone } = useless;
        imports.caches.refuse(number, *layer);
        let message = match gone {
            // Several steps may be waiting for it.
            true if !imports.caches.give_up(number) => return,
            true => format!("the cache {from} is not used any more: {reason}"),
            false => format!("the cache {from} has no use here: layer {layer}: {reason}"),
        };
        self.progress.event(Event::Warning { vertex, message });
    }

    async fn import_layer(
        &self,
        imports: &Imports,
        vertex: VertexId,
        chain_id: Digest,
        away: &AwayLayer,
    ) -> Result<SnapshotId, Useless> {
        let cached = &away.layer;
        let cell = imports.cell((chain_id, cached.changes, cached.created));
        let bring = || async {
            let created = SystemTime::UNIX_EPOCH + Duration::from_millis(cached.created);
            let (store, changes) = (self.store.clone(), cached.changes);
            let known = blocking(move || {
                // One that was unpacked as an image's has other times.
                let snapshot = store.chain(&chain_id)?.map(|id| store.snapshot(id)).transpose()?.flatten();
                let same =
                    snapshot.filter(|known| known.changes().digest == changes && known.created() == created);
                Ok(same.map(|known| known.id()))
            });
            let failed = |error: WorkerError| self.useless(away, &error);
            if let Some(known) = known.await.map_err(failed)? {
                return Ok(known);
            }
            self.fetch_away(imports, vertex, away).await?;
            let blob = LayerBlob {
                image: away.from.to_string(),
                layer: cached.layer.clone(),
                chain_id,
                store: self.store.clone(),
                cancel: self.cancel.clone(),
                shown: Transfer { vertex, progress: self.progress.clone(), clock: self.clock.clone() },
            };
            let form = cached.form.clone();
            blocking(move || blob.unpack(BTreeMap::new())?.import(changes, created, &form))
                .await
                .map_err(failed)
        };
        cell.get_or_try_init(bring).await.copied()
    }

    /// Brings a blob into the store. Whoever sends nothing for a while is not waited for.
    async fn fetch_away(&self, imports: &Imports, vertex: VertexId, away: &AwayLayer) -> Result<(), Useless> {
        let heard = Heard {
            transfer: Transfer { vertex, progress: self.progress.clone(), clock: self.clock.clone() },
            arrived: imports.arrived.clone(),
            mine: AtomicU64::new(0),
        };
        let descriptor = &away.layer.layer.descriptor;
        let fetch = away.blobs.fetch(descriptor, self.store.blobs(), &heard);
        let silence = async {
            let mut before = imports.arrived.load(Ordering::Relaxed);
            loop {
                tokio::time::sleep(away.patience).await;
                let now = imports.arrived.load(Ordering::Relaxed);
                if now - before < LEAST {
                    return;
                }
                before = now;
            }
        };
        let useless = |reason: String, gone| Useless {
            layer: descriptor.digest,
            from: away.from.clone(),
            reason,
            gone,
        };
        tokio::select! {
            fetched = fetch => fetched.map(|()| {
                // Many small ones are a sign of life too.
                imports.arrived.fetch_add(LEAST, Ordering::Relaxed);
            }).map_err(|error| {
                let gone = matches!(error, ResolveError::Unreachable { .. } | ResolveError::Denied { .. });
                useless(error.to_string(), gone)
            }),
            () = silence => {
                let seconds = away.patience.as_secs_f32();
                Err(useless(format!("it sends nothing, or next to nothing, for {seconds} s"), true))
            }
        }
    }

    fn useless(&self, away: &AwayLayer, error: &WorkerError) -> Useless {
        let reason = match error {
            WorkerError::Layer { reason, .. } => reason.clone(),
            other => other.to_string(),
        };
        Useless { layer: away.layer.layer.descriptor.digest, from: away.from.clone(), reason, gone: false }
    }
}

/// Shows a transfer, and counts what comes.
struct Heard {
    transfer: Transfer,
    arrived: Arc<AtomicU64>,
    mine: AtomicU64,
}

impl TransferProgress for Heard {
    fn transferred(&self, blob: &Digest, current: u64, total: u64) {
        let before = self.mine.swap(current, Ordering::Relaxed);
        self.arrived.fetch_add(current.saturating_sub(before), Ordering::Relaxed);
        self.transfer.transferred(blob, current, total);
    }
}
