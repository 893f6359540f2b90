//! What a build knows that others may use: results with their keys and layers.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use cache::{SnapshotId, Store};
use graph::VertexId;
use hash::{CacheKey, Digest};
use image::Image;
use warm::{AwayLayer, CachedLayer, Document, Number, Record};
use worker::{LayerForm, LayerTree};

use super::Build;
use super::deliver::Built;
use crate::failure::Failure;

/// No result has more keys than are of use.
const MOST_KEYS: usize = 500;

/// A result that others may use.
#[derive(Debug, Clone)]
pub(super) struct CarriedStep {
    pub(super) vertex: VertexId,
    pub(super) keys: Vec<CacheKey>,
    /// Bottom first, without an image's.
    pub(super) layers: Vec<CarriedLayer>,
}

/// A layer of it.
#[derive(Debug, Clone)]
pub(super) enum CarriedLayer {
    /// In the state directory.
    Here(SnapshotId),
    /// In the cache that it was found in.
    Away(Box<AwayLayer>),
}

impl Build<'_> {
    /// The results of the steps of this build, also of those that nobody needed.
    pub(super) async fn carried_steps(&self) -> Result<Vec<CarriedStep>, Failure> {
        let (notes, store, caches) = (self.journal.notes().steps(), self.store.clone(), self.caches.clone());
        crate::blocking(move || {
            let mut steps = Vec::with_capacity(notes.len());
            for note in notes {
                let vertex = note.vertex;
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
                    steps.push(CarriedStep { vertex, keys, layers });
                    continue;
                }
                let Some(caches) = &caches else { continue };
                let found = note.away.and_then(|away| caches.record(Number::from_bits(away.0)));
                if let Some(found) = found.or_else(|| caches.known(&note.key)) {
                    let layers = found.layers.into_iter().map(|layer| CarriedLayer::Away(Box::new(layer)));
                    steps.push(CarriedStep { vertex, keys: found.keys, layers: layers.collect() });
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
    pub(super) async fn carried(
        &self,
        tree: &LayerTree,
        image: &Image,
        form: LayerForm,
    ) -> Result<Option<Document>, Failure> {
        let Some(steps) = self.inline else { return Ok(None) };
        let (store, snapshots) = (self.store.clone(), tree.layers().to_vec());
        let below = image.layers.len() - snapshots.len();
        let packed = image.layers[below..].to_vec();
        let layers = crate::blocking(move || {
            let mut layers = Vec::with_capacity(packed.len());
            for (id, layer) in snapshots.into_iter().zip(packed) {
                let snapshot = store.snapshot(id)?.ok_or(cache::CacheError::NoSnapshot(id))?;
                let (changes, created) = (snapshot.changes().digest, millis(snapshot.created()));
                layers.push((id, CachedLayer { layer, form: form.name(), changes, created }));
            }
            Ok(layers)
        })
        .await?;
        let here: HashMap<SnapshotId, usize> =
            layers.iter().enumerate().map(|(place, (id, _))| (*id, place)).collect();
        let away: HashMap<Digest, usize> =
            layers.iter().enumerate().map(|(place, (_, layer))| (layer.layer.diff_id, place)).collect();
        let place = |layer: &CarriedLayer| match layer {
            CarriedLayer::Here(id) => here.get(id).copied(),
            CarriedLayer::Away(layer) => away.get(&layer.layer.layer.diff_id).copied(),
        };
        let records = steps.iter().filter_map(|step| {
            let layers = step.layers.iter().map(place).collect::<Option<Vec<usize>>>()?;
            Some(Record { keys: step.keys.clone(), layers })
        });
        let records = records.collect();
        let layers = layers.into_iter().map(|(_, layer)| layer).collect();
        Ok(Some(Document { layers, records }))
    }
}

/// Milliseconds since 1970, as the store keeps times.
pub(super) fn millis(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
