//! A tree as an image: its layers as blobs, its config with what only the finished layers know.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use cache::{Snapshot, SnapshotId, Store};
use hash::ContentDigest;
use image::{ChunkMemory, Compression, Image, ImageConfig, Layer, LayerPacker, PackOptions, Platform};
use jiff::Timestamp;
use trace::{Scope, Work};

use crate::ahead::each_entry;
use crate::cancel::{Cancel, blocking};
use crate::{LayerTree, LocalWorker, WorkerError};

/// Layers that are packed at the same time. Each compresses in parallel by itself.
const PARALLEL_PACKS: usize = 2;

/// How long is waited for pieces of which nobody needs the end.
const PIECE_TIME: Duration = Duration::from_secs(1);

/// How layers are packed: all that decides about a blob's bytes beside what the layer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerForm {
    /// How the blob is compressed.
    pub compression: Compression,
    /// How hard, as [`image::check_level`] takes it; `None` is the default.
    pub level: Option<u32>,
    /// Seconds since 1970 that every time in a layer is set to (`SOURCE_DATE_EPOCH`).
    pub epoch: Option<i64>,
}

impl LayerForm {
    /// The form of a blob that came with an image and was not made here.
    pub(crate) const ORIGINAL: &str = "original";

    /// Its name, in the store and elsewhere. The version changes when the packer's bytes do.
    pub fn name(self) -> String {
        let compression = match self.compression {
            Compression::None => "tar",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd-frames-2",
        };
        let level = self.level.map(|level| format!(" level={level}")).unwrap_or_default();
        let epoch = self.epoch.map(|epoch| format!(" epoch={epoch}")).unwrap_or_default();
        format!("v3 {compression}{level}{epoch}")
    }
}

/// What the frontend says about a result.
#[derive(Debug, Clone)]
pub struct Packed {
    /// The config; times of new history entries and diff ids are filled in.
    pub config: ImageConfig,
    /// Entries of the config's history that came with the base image.
    pub base_history: usize,
    /// What the image runs on.
    pub platform: Platform,
    /// Seconds since 1970 that every time in the config is set to (`SOURCE_DATE_EPOCH`).
    pub epoch: Option<i64>,
}

impl LocalWorker {
    /// Makes an image of a tree: every layer made here becomes a blob in the store, unless it is one already. Those of the base image
    /// are only named: [`LocalWorker::bring_base`] brings them.
    ///
    /// Times are those at which the layers were made, so that the same layers give the same image.
    pub async fn image(
        &self,
        tree: &LayerTree,
        packed: Packed,
        form: LayerForm,
    ) -> Result<Image, WorkerError> {
        use futures::{StreamExt as _, TryStreamExt as _};

        let mut layers = Vec::new();
        if let Some(base) = &tree.base {
            layers.extend(base.image().layers.iter().cloned());
        }
        let own: Vec<(Layer, SystemTime)> = futures::stream::iter(tree.layers.iter().copied())
            .map(|id| {
                let (packer, cancel) = (self.packer.clone(), self.cancel.clone());
                blocking(move || {
                    let snapshot = packer.store.snapshot(id)?.ok_or(cache::CacheError::NoSnapshot(id))?;
                    Ok((packer.pack(&snapshot, form, &cancel)?, snapshot.created()))
                })
            })
            .buffered(PARALLEL_PACKS)
            .try_collect()
            .await?;
        let times: Vec<SystemTime> = own.iter().map(|(_, created)| *created).collect();
        layers.extend(own.into_iter().map(|(layer, _)| layer));
        if form.epoch.is_none() {
            self.file_chains(tree, &layers).await?;
        }

        let Packed { mut config, base_history, platform, epoch } = packed;
        set_times(&mut config, base_history, &times, epoch)?;
        config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id).collect();
        Ok(Image { config, layers, platform })
    }
}

/// A layer made here, as others may have it.
#[derive(Debug, Clone)]
pub struct PackedLayer {
    /// The blob, which is in the store.
    pub layer: Layer,
    /// What it changes, as content ids count it.
    pub changes: ContentDigest,
    /// When it was made.
    pub created: SystemTime,
}

impl LocalWorker {
    /// The blob of one layer, made now if it was never made in this form. `None` when the layer is gone.
    pub async fn packed(
        &self,
        layer: SnapshotId,
        form: LayerForm,
    ) -> Result<Option<PackedLayer>, WorkerError> {
        let (packer, cancel) = (self.packer.clone(), self.cancel.clone());
        blocking(move || {
            let Some(snapshot) = packer.store.snapshot(layer)? else { return Ok(None) };
            let layer = packer.pack(&snapshot, form, &cancel)?;
            let (changes, created) = (snapshot.changes().digest, snapshot.created());
            Ok(Some(PackedLayer { layer, changes, created }))
        })
        .await
    }

    /// Brings the layers of a tree's base image into the store as blobs. Nothing happens when they are there.
    pub async fn bring_base(&self, tree: &LayerTree) -> Result<(), WorkerError> {
        if let Some(base) = &tree.base {
            let bring = self.bring(self.image_vertex(base));
            for layer in &base.image().layers {
                base.fetch(layer, &bring).await?;
            }
        }
        Ok(())
    }

    /// Files the layers made here under their chain ids, so that an image of them needs no unpacking on this machine. Not for
    /// layers whose times were set: unpacked, they would have other times than the directories here.
    async fn file_chains(&self, tree: &LayerTree, layers: &[Layer]) -> Result<(), WorkerError> {
        let chain_ids = image::chain_ids(layers.iter().map(|layer| &layer.diff_id));
        let below = layers.len() - tree.layers.len();
        let own: Vec<_> = chain_ids.into_iter().skip(below).zip(tree.layers.iter().copied()).collect();
        let store = self.store.clone();
        blocking(move || {
            for (chain_id, snapshot) in own {
                if store.chain(&chain_id)?.is_none() {
                    store.set_chain(&chain_id, snapshot)?;
                }
            }
            Ok(())
        })
        .await
    }
}

/// The blob of a layer, made now if it was never made in this form.
pub(crate) fn pack(
    store: &Store,
    snapshot: &Snapshot,
    form: LayerForm,
    cancel: &Cancel,
    scope: &Scope,
) -> Result<Layer, WorkerError> {
    let name = form.name();
    if let Some(layer) = store.packed(snapshot.id(), &name)? {
        return Ok(layer);
    }
    let _timed = scope.begin(Work::Pack, "pack its layer");
    let memory = store.chunks();
    let packed = pack_with(store, snapshot, form, memory.clone(), cancel, scope);
    if packed.is_err() {
        settle(memory.as_ref());
    }
    let layer = packed?;
    store.set_packed(snapshot.id(), &name, &layer)?;
    Ok(layer)
}

fn pack_with(
    store: &Store,
    snapshot: &Snapshot,
    form: LayerForm,
    memory: Option<Arc<dyn ChunkMemory>>,
    cancel: &Cancel,
    scope: &Scope,
) -> Result<Layer, WorkerError> {
    let failed = |error: image::layer::LayerError| WorkerError::Pack(error.to_string());
    let options = PackOptions { compression: form.compression, level: form.level, epoch: form.epoch };
    let packer = LayerPacker::with_memory(store.blobs(), options, memory).map_err(failed)?;
    let mut packer = packer.traced(scope.clone()).map_err(failed)?;
    let (entries, sum) = (snapshot.entries()?, store.sum_of(snapshot)?);
    let mut append = |entry: &_, content: &mut dyn Read| packer.append(entry, content).map_err(failed);
    let hashes = each_entry(&entries, sum.as_ref(), cancel, &mut append)?;
    if sum.is_some_and(|sum| !sum.is_of(&entries, &hashes)) {
        store.throw_away(snapshot)?;
        return Err(WorkerError::Pack(format!("layer {} is not what was written", snapshot.id())));
    }
    packer.finish().map_err(failed)
}

/// Waits for the pieces of a layer that was given up, which other threads still compress: they hold the store, and what is unfinished there is
/// removed by the last who does.
fn settle(memory: Option<&Arc<dyn ChunkMemory>>) {
    let end = Instant::now() + PIECE_TIME;
    while memory.is_some_and(|memory| Arc::strong_count(memory) > 1) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sets the times of the image and of its new history entries: of a layer when it was made, of anything else that of the layer before it.
fn set_times(
    config: &mut ImageConfig,
    base_history: usize,
    layers: &[SystemTime],
    epoch: Option<i64>,
) -> Result<(), WorkerError> {
    let text = |time: Result<Timestamp, jiff::Error>| {
        time.map(|time| time.to_string())
            .map_err(|error| WorkerError::Pack(format!("time of the image: {error}")))
    };
    let epoch = epoch.map(|seconds| text(Timestamp::from_second(seconds))).transpose()?;
    let mut layers = layers.iter();
    let mut present = layers.as_slice().first().copied();
    for entry in config.history.iter_mut().skip(base_history) {
        if !entry.empty_layer {
            present = layers.next().copied().or(present);
        }
        entry.created = match (&epoch, present) {
            (Some(epoch), _) => Some(epoch.clone()),
            (None, Some(time)) => Some(text(Timestamp::try_from(time))?),
            (None, None) => config.created.clone(),
        };
    }
    config.created = match (epoch, present) {
        (Some(epoch), _) => Some(epoch),
        (None, Some(time)) => Some(text(Timestamp::try_from(time))?),
        (None, None) => config.created.take(),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::History;

    fn config(history: &[bool]) -> ImageConfig {
        let entry = |empty_layer: &bool| History { empty_layer: *empty_layer, ..History::default() };
        ImageConfig { history: history.iter().map(entry).collect(), ..ImageConfig::default() }
    }

    fn created(config: &ImageConfig) -> Vec<Option<&str>> {
        config.history.iter().map(|entry| entry.created.as_deref()).collect()
    }

    #[test]
    fn times_are_those_of_the_layers() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut config = config(&[false, true, false, true, false]);
        set_times(&mut config, 1, &[at(10), at(20)], None).unwrap();
        let (ten, twenty) = (Some("1970-01-01T00:00:10Z"), Some("1970-01-01T00:00:20Z"));
        assert_eq!(created(&config), [None, ten, ten, ten, twenty]);
        assert_eq!(config.created.as_deref(), twenty);
    }

    #[test]
    fn an_epoch_replaces_them() {
        let mut config = config(&[true, false]);
        set_times(&mut config, 0, &[SystemTime::now()], Some(0)).unwrap();
        assert_eq!(created(&config), [Some("1970-01-01T00:00:00Z"); 2]);
        assert_eq!(config.created.as_deref(), Some("1970-01-01T00:00:00Z"));
    }

    #[test]
    fn without_new_layers_the_bases_time_stays() {
        let mut config = config(&[false, true]);
        config.created = Some("2020-01-01T00:00:00Z".into());
        set_times(&mut config, 1, &[], None).unwrap();
        assert_eq!(config.created.as_deref(), Some("2020-01-01T00:00:00Z"));
    }
}
