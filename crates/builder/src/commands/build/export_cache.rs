//! Writing results where other builds find them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cache::SnapshotId;
use exporter::{ArtifactFiles, LayoutExporter};
use futures::{StreamExt as _, TryStreamExt as _};
use graph::VertexId;
use hash::Digest;
use image::{BlobSource, Compression, ContentStore, Descriptor, Reference, TransferProgress};
use registry::{Client, Push, PushBlob, PushError, PushManifest};
use warm::{AwayLayer, CachedLayer, Document, PackedCache, Record};
use worker::LocalWorker;

use super::Build;
use super::cache_args::{CacheTarget, Place, Standing};
use super::carried::{CarriedLayer, CarriedStep, millis};
use super::output::Output;
use crate::failure::{Failure, WRONG_USAGE};
use crate::progress::Task;
use crate::remotes;

/// Tries of each request to a registry. The usual number would be waited through five times by a build that needs none of it.
const ATTEMPTS: u32 = 3;

/// Layers that are packed at the same time. Each compresses in parallel by itself.
const PARALLEL_PACKS: usize = 2;

/// Names a layer, wherever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum LayerId {
    Here(SnapshotId),
    Away(Digest),
}

impl LayerId {
    fn of(layer: &CarriedLayer) -> LayerId {
        match layer {
            CarriedLayer::Here(id) => LayerId::Here(*id),
            CarriedLayer::Away(layer) => LayerId::Away(layer.layer.layer.descriptor.digest),
        }
    }
}

/// Layers with their blobs, and where those are that are not in the store.
#[derive(Default)]
struct Layers {
    layers: Vec<CachedLayer>,
    places: HashMap<LayerId, usize>,
    away: HashMap<Digest, AwayLayer>,
}

impl Layers {
    /// What is written of results, as far as their layers are there.
    fn document(&self, steps: &[&CarriedStep]) -> Document {
        let record = |step: &&CarriedStep| {
            let places = step.layers.iter().map(|layer| self.places.get(&LayerId::of(layer)).copied());
            let layers = places.collect::<Option<_>>()?;
            Some(Record { keys: step.keys.clone(), layers, took: step.took })
        };
        Document { layers: self.layers.clone(), records: steps.iter().filter_map(record).collect() }
    }
}

/// Told what cannot be passed on.
trait Watcher: Sync {
    fn warn(&self, message: &str);
}

impl Watcher for Task {
    fn warn(&self, message: &str) {
        Task::warn(self, message);
    }
}

/// It is told when the layers are needed.
struct Unseen;

impl Watcher for Unseen {
    fn warn(&self, _: &str) {}
}

impl Build<'_> {
    /// Writes every cache that stands by itself. One that fails keeps no other one from being written.
    pub(super) async fn export_caches(
        &self,
        worker: &LocalWorker,
        targets: &[VertexId],
        steps: &[CarriedStep],
    ) -> Result<(), Failure> {
        let mut failed = None;
        for target in &self.request.caches.to {
            let CacheTarget::Standing(target) = target else { continue };
            let task = self.progress.task(match target.place {
                Place::Local { .. } => "exporting cache to client directory",
                Place::Registry { .. } => "exporting cache to registry",
            });
            match self.export_cache(target, worker, targets, steps, &task).await {
                Ok(()) => task.done(),
                Err(failure)
                    if target.ignore_error
                        && failure.code() != WRONG_USAGE
                        && !self.is_mended_by_another() =>
                {
                    warn_of(&failure, &task);
                    task.done();
                }
                Err(failure) => {
                    task.failed(failure.message());
                    failed.get_or_insert(failure);
                }
            }
        }
        match failed {
            None => Ok(()),
            Some(failure) => Err(failure
                .hint("the image was built and delivered; without ignore-error=false such a build succeeds")),
        }
    }

    /// Whether something of the store was found damaged, which no place of a cache is to blame for: another build makes it anew, and
    /// exports it.
    fn is_mended_by_another(&self) -> bool {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        notices.thrown_away.extend(self.store.thrown_away());
        !notices.thrown_away.is_empty() && self.request.can_be_done_again
    }

    async fn export_cache(
        &self,
        target: &Standing,
        worker: &LocalWorker,
        targets: &[VertexId],
        steps: &[CarriedStep],
        task: &Task,
    ) -> Result<(), Failure> {
        let part = task.part("preparing build cache for export");
        let chosen: Vec<&CarriedStep> = match target.max {
            true => steps.iter().collect(),
            false => self.of_targets(target, worker, targets, steps).await?,
        };
        let mut layers = self.layers(target, worker, &chosen, task).await?;
        part.done();
        match &target.place {
            Place::Local { path, tag, .. } => {
                let exporter = LayoutExporter::new(path);
                self.keep_available(&mut layers, |blob| exporter.has(blob), task).await;
                let packed = warm::pack(&layers.document(&chosen), target.form);
                let part = task.part(&format!("writing cache manifest {}", packed.top.digest));
                let documents =
                    [(packed.top.digest, packed.manifest), (packed.config.digest, packed.document)];
                let files = ArtifactFiles {
                    top: packed.top,
                    documents: BTreeMap::from(documents),
                    blobs: packed.layers,
                    store: Arc::new(self.store.blobs().clone()),
                    replaces: warm::REPLACED,
                };
                exporter.write_artifact(files, tag).await?;
                part.done();
                Ok(())
            }
            Place::Registry { name, insecure } => {
                let client = client(name, *insecure, target.patience)?;
                let packed = warm::pack(&layers.document(&chosen), target.form);
                let pushed = match self.push(&client, name, packed, &layers, task).await {
                    // Somebody's cache is no good, which was not noticed so far.
                    Err(PushError::Source { .. }) => {
                        self.keep_available(&mut layers, |_| false, task).await;
                        let packed = warm::pack(&layers.document(&chosen), target.form);
                        self.push(&client, name, packed, &layers, task).await
                    }
                    done => done,
                };
                pushed.map_err(remotes::not_pushed)
            }
        }
    }

    /// Brings what stayed elsewhere and is not at the destination; what cannot be had is left out, with all that stands on it.
    async fn keep_available(&self, layers: &mut Layers, is_there: impl Fn(&Descriptor) -> bool, task: &Task) {
        for away in std::mem::take(&mut layers.away).into_values() {
            let blob = &away.layer.layer.descriptor;
            if is_there(blob) || self.fetched(&away, task, task).await {
                continue;
            }
            let lost: HashSet<usize> = (0..layers.layers.len())
                .filter(|place| layers.layers[*place].layer.descriptor.digest == blob.digest)
                .collect();
            layers.places.retain(|_, place| !lost.contains(place));
        }
    }

    /// The results all of whose layers the targets have.
    async fn of_targets<'s>(
        &self,
        target: &Standing,
        worker: &LocalWorker,
        targets: &[VertexId],
        steps: &'s [CarriedStep],
    ) -> Result<Vec<&'s CarriedStep>, Failure> {
        let results: Vec<&CarriedStep> = steps.iter().filter(|step| targets.contains(&step.vertex)).collect();
        let layers = self.layers(target, worker, &results, &Unseen).await?;
        let diff_ids: HashSet<Digest> = layers.layers.iter().map(|layer| layer.layer.diff_id).collect();
        let (store, form, steps_of) = (self.store.clone(), target.layers.name(), steps.to_vec());
        let here: HashSet<LayerId> = layers.places.keys().copied().collect();
        let kept = crate::blocking(move || {
            let has = |layer: &CarriedLayer| -> Result<bool, Failure> {
                if here.contains(&LayerId::of(layer)) {
                    return Ok(true);
                }
                Ok(match layer {
                    CarriedLayer::Away(layer) => diff_ids.contains(&layer.layer.layer.diff_id),
                    CarriedLayer::Here(id) => {
                        store.packed(*id, &form)?.is_some_and(|layer| diff_ids.contains(&layer.diff_id))
                    }
                })
            };
            let mut kept = Vec::new();
            for (place, step) in steps_of.iter().enumerate() {
                let mut all = true;
                for layer in &step.layers {
                    all = all && has(layer)?;
                }
                if all {
                    kept.push(place);
                }
            }
            Ok(kept)
        });
        Ok(kept.await?.into_iter().filter_map(|place| steps.get(place)).collect())
    }

    /// The layers of some results: those made here are packed, those that came from elsewhere stay as they are.
    async fn layers(
        &self,
        target: &Standing,
        worker: &LocalWorker,
        steps: &[&CarriedStep],
        watcher: &dyn Watcher,
    ) -> Result<Layers, Failure> {
        let mut seen = HashSet::new();
        let wanted: Vec<CarriedLayer> = steps
            .iter()
            .flat_map(|step| &step.layers)
            .filter(|layer| seen.insert(LayerId::of(layer)))
            .cloned()
            .collect();
        let packed: Vec<(LayerId, Option<CachedLayer>, Option<AwayLayer>)> = futures::stream::iter(wanted)
            .map(|layer| async move {
                let id = LayerId::of(&layer);
                match layer {
                    CarriedLayer::Here(snapshot) => {
                        let packed = worker.packed(snapshot, target.layers).await;
                        let packed = packed.map_err(|error| Failure::from(&error))?;
                        let cached = packed.map(|packed| CachedLayer {
                            layer: packed.layer,
                            form: target.layers.name(),
                            changes: packed.changes,
                            created: millis(packed.created),
                        });
                        Ok::<_, Failure>((id, cached, None))
                    }
                    CarriedLayer::Away(away) => Ok(match self.converted(target, *away, watcher).await? {
                        Some((layer, away)) => (id, Some(layer), away),
                        None => (id, None, None),
                    }),
                }
            })
            .buffered(PARALLEL_PACKS)
            .try_collect()
            .await?;
        let mut layers = Layers::default();
        for (id, cached, away) in packed {
            let Some(cached) = cached else { continue };
            if let Some(away) = away {
                layers.away.insert(cached.layer.descriptor.digest, away);
            }
            layers.places.insert(id, layers.layers.len());
            layers.layers.push(cached);
        }
        Ok(layers)
    }

    /// A layer from elsewhere, compressed anew where that is wanted. `None`: it cannot be had.
    async fn converted(
        &self,
        target: &Standing,
        away: AwayLayer,
        watcher: &dyn Watcher,
    ) -> Result<Option<(CachedLayer, Option<AwayLayer>)>, Failure> {
        let layer = &away.layer.layer;
        let compression = target.layers.compression;
        if !target.force || Compression::of_layer(&layer.descriptor.media_type) == Some(compression) {
            return Ok(Some((away.layer.clone(), Some(away))));
        }
        if !self.fetched(&away, &Unwatched, watcher).await {
            return Ok(None);
        }
        let blobs: Arc<dyn ContentStore> = Arc::new(self.store.blobs().clone());
        let layer = exporter::recompressed(layer.clone(), blobs, compression, target.layers.level).await?;
        let form = format!("converted {compression:?}");
        Ok(Some((CachedLayer { layer, form, ..away.layer }, None)))
    }

    /// Brings a blob into the store; says why when that is not possible.
    async fn fetched(
        &self,
        away: &AwayLayer,
        progress: &dyn TransferProgress,
        watcher: &dyn Watcher,
    ) -> bool {
        let blob = &away.layer.layer.descriptor;
        let fetched = away.blobs.fetch(blob, self.store.blobs(), progress).await;
        if let Err(error) = &fetched {
            let (from, layer) = (&away.from, blob.digest);
            watcher.warn(&format!("not passed on from the cache {from}: layer {layer}: {error}"));
        }
        fetched.is_ok()
    }

    async fn push(
        &self,
        client: &Client,
        name: &Reference,
        packed: PackedCache,
        layers: &Layers,
        task: &Task,
    ) -> Result<(), PushError> {
        let blobs: Arc<dyn ContentStore> = Arc::new(self.store.blobs().clone());
        let (store, document) = (blobs.clone(), packed.document);
        let kept = tokio::task::spawn_blocking(move || store.put(&document)).await;
        kept.unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|source| PushError::Io { action: "keep the cache's document".to_owned(), source })?;
        // What went to another repository of the registry need not be sent again.
        let delivery = &self.request.delivery;
        let pushes =
            delivery.outputs.iter().any(|output| matches!(output, Output::Image { push: Some(_), .. }));
        let pushed = delivery.tags.first().filter(|_| pushes);
        let blob = |descriptor: &Descriptor| {
            let away = layers.away.get(&descriptor.digest);
            PushBlob {
                descriptor: descriptor.clone(),
                mount_from: match away {
                    Some(away) => away.from.parse().ok(),
                    None => pushed.cloned(),
                },
                source: away.map(|away| Arc::clone(&away.blobs) as Arc<dyn BlobSource>),
            }
        };
        let push = Push {
            to: name.clone(),
            blobs: packed.layers.iter().chain([&packed.config]).map(blob).collect(),
            manifests: vec![PushManifest {
                media_type: packed.top.media_type,
                bytes: packed.manifest.into(),
            }],
        };
        let part = task.part(&format!("writing cache manifest {}", packed.top.digest));
        client.push(&push, &blobs, task).await?;
        part.done();
        Ok(())
    }
}

/// A build is worth more than what the next one might save: what is not there is told, with what to do about it.
fn warn_of(failure: &Failure, task: &Task) {
    task.warn(&format!(
        "the cache was not exported: {}; the build goes on without it, with ignore-error=false it would fail",
        failure.message()
    ));
    failure.hints().iter().for_each(|hint| task.warn(hint));
}

/// A client that gives up on a registry which does not move: the build waits for it.
fn client(name: &Reference, insecure: bool, patience: Option<Duration>) -> Result<Client, Failure> {
    let mut config = remotes::config()?;
    if insecure {
        config.transport.insecure.push(name.registry.clone());
    }
    if let Some(patience) = patience {
        config.transport.connect_timeout = config.transport.connect_timeout.min(patience);
        config.transport.idle_timeout = patience;
    }
    config.retry.attempts = ATTEMPTS;
    Ok(Client::new(config))
}

/// Nobody watches.
struct Unwatched;

impl TransferProgress for Unwatched {
    fn transferred(&self, _: &Digest, _: u64, _: u64) {}
}
