//! What a build knows that others may use: results with their keys and layers.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cache::{SnapshotId, Store};
use graph::VertexId;
use hash::CacheKey;
use image::Image;
use warm::{AwayLayer, CachedLayer, Document, Number, Record};
use worker::LayerTree;

use super::Build;
use super::deliver::Built;
use super::packing::Packing;
use crate::failure::Failure;

/// No result has more keys than are of use.
const MOST_KEYS: usize = 500;

/// A result that others may use.
#[derive(Debug, Clone)]
pub(super) struct CarriedStep {
    pub(super) vertex: VertexId,
    /// The definition key: what any build of the same finds, whatever was in its cache.
    pub(super) definition: CacheKey,
    pub(super) keys: Vec<CacheKey>,
    /// Bottom first, without an image's.
    pub(super) layers: Vec<CarriedLayer>,
    /// How long it took to make, where that is known.
    pub(super) took: Option<Duration>,
}

/// A layer of it.
#[derive(Debug, Clone)]
pub(super) enum CarriedLayer {
    /// In the state directory.
    Here(SnapshotId),
    /// In the cache that it was found in.
    Away(Box<AwayLayer>),
}

impl CarriedLayer {
    fn here(&self) -> Option<SnapshotId> {
        match self {
            CarriedLayer::Here(id) => Some(*id),
            CarriedLayer::Away(_) => None,
        }
    }
}

impl Build<'_> {
    /// The results of the steps of this build, also of those that nobody needed.
    pub(super) async fn carried_steps(&self) -> Result<Vec<CarriedStep>, Failure> {
        let (notes, store, caches) = (self.journal.notes().steps(), self.store.clone(), self.caches.clone());
        crate::blocking(move || {
            let mut steps = Vec::with_capacity(notes.len());
            for note in notes {
                let (vertex, definition) = (note.vertex, note.key);
                if let Some(record) = note.record {
                    // Under those keys alone that were verified here, and of a result that was brought those that it came with.
                    let mut keys = store.keys_of(record.id, MOST_KEYS)?;
                    let origin = caches.as_ref().and_then(|caches| caches.known(&note.key));
                    if let Some(origin) = origin.filter(|_| keys.contains(&note.key))
                        && is_same(&store, &record.layers, &origin.layers)?
                    {
                        keys.extend(origin.keys);
                    }
                    let layers = record.layers.into_iter().map(CarriedLayer::Here).collect();
                    // What was brought from where nobody said it has no duration.
                    let took = Some(record.run.duration).filter(|took| !took.is_zero()).map(whole);
                    steps.push(CarriedStep { vertex, definition, keys, layers, took });
                    continue;
                }
                let Some(caches) = &caches else { continue };
                let found = note.away.and_then(|away| caches.record(Number::from_bits(away.0)));
                if let Some(found) = found.or_else(|| caches.known(&note.key)) {
                    let layers = found.layers.into_iter().map(|layer| CarriedLayer::Away(Box::new(layer)));
                    steps.push(CarriedStep {
                        vertex,
                        definition,
                        keys: found.keys,
                        layers: layers.collect(),
                        took: found.took,
                    });
                }
            }
            steps.retain(|step| !step.keys.is_empty());
            Ok(steps)
        })
        .await
    }
}

/// Whether layers are those of a result that was brought: what they change, and the very moment at which they were made.
fn is_same(store: &Store, here: &[SnapshotId], away: &[AwayLayer]) -> Result<bool, Failure> {
    if here.len() != away.len() {
        return Ok(false);
    }
    for (id, away) in here.iter().zip(away) {
        let same = store.snapshot(*id)?.is_some_and(|here| {
            here.changes().digest == away.layer.changes && millis(here.created()) == away.layer.created
        });
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Built<'_> {
    /// What an image of this tree carries for later builds: the results all of whose layers it has.
    ///
    /// With an epoch the image is the same wherever and whenever it is made. So layers count as made at the epoch, and results are found
    /// by definition alone: what else leads to one depends on the builds before.
    pub(super) async fn carried(
        &self,
        tree: &LayerTree,
        image: &Image,
        packing: Packing,
    ) -> Result<Option<Document>, Failure> {
        let Some(steps) = self.inline else { return Ok(None) };
        let (store, snapshots) = (self.store.clone(), tree.layers().to_vec());
        let below = image.layers.len() - snapshots.len();
        let packed = image.layers[below..].to_vec();
        let Packing { layers: form, epoch, .. } = packing;
        let fixed = epoch.map(|seconds| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
        let wanted: Vec<SnapshotId> = match fixed {
            // Without times, the layer of another build may be the same.
            Some(_) => steps.iter().flat_map(|step| &step.layers).filter_map(CarriedLayer::here).collect(),
            None => Vec::new(),
        };
        let (layers, alike) = crate::blocking(move || {
            let mut layers = Vec::with_capacity(packed.len());
            for (id, layer) in snapshots.into_iter().zip(packed) {
                let snapshot = store.snapshot(id)?.ok_or(cache::CacheError::NoSnapshot(id))?;
                let (changes, created) = (snapshot.changes().digest, millis(snapshot.created()));
                let created = fixed.unwrap_or(created);
                layers.push((id, CachedLayer { layer, form: form.name(), changes, created }));
            }
            let mut alike = HashMap::new();
            for id in wanted {
                let changes = store.snapshot(id)?.map(|snapshot| snapshot.changes().digest);
                let same = |(_, layer): &(SnapshotId, CachedLayer)| Some(layer.changes) == changes;
                alike.extend(layers.iter().position(same).map(|place| (id, place)));
            }
            Ok((layers, alike))
        })
        .await?;
        let here: HashMap<SnapshotId, usize> =
            layers.iter().enumerate().map(|(place, (id, _))| (*id, place)).collect();
        let place = |layer: &CarriedLayer| match layer {
            CarriedLayer::Here(id) => here.get(id).or_else(|| alike.get(id)).copied(),
            // The image need not have the very layer that lies there: what stands on it may have been made here before, on the same content.
            CarriedLayer::Away(away) => {
                layers.iter().position(|(_, layer)| layer.changes == away.layer.changes)
            }
        };
        let records = steps.iter().filter_map(|step| {
            let layers = step.layers.iter().map(place).collect::<Option<Vec<usize>>>()?;
            // The definition leads to what the image has, also where that was found by content alone and is not filed under it.
            let mut keys = vec![step.definition];
            if epoch.is_none() {
                keys.extend(step.keys.iter().filter(|key| **key != step.definition));
            }
            // An image is the same, however long it took.
            Some(Record { keys, layers, took: None })
        });
        let records = records.collect();
        let layers = layers.into_iter().map(|(_, layer)| layer).collect();
        Ok(Some(Document { layers, records }))
    }
}

/// As it is written down; what took less than a millisecond took one.
fn whole(took: Duration) -> Duration {
    Duration::from_millis(u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1))
}

/// Milliseconds since 1970, as the store keeps times.
pub(super) fn millis(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
