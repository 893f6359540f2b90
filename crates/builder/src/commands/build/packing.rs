//! From the tree of a target to an image: its layers as blobs, compressed as the output wants them.

use std::sync::Arc;

use frontend::Target;
use futures::{StreamExt as _, TryStreamExt as _};
use hash::Digest;
use image::{Compression, Image, Layer};
use trace::{Subject, Work};
use worker::{LayerForm, LayerTree, Packed};

use super::deliver::Built;
use crate::failure::Failure;

/// Layers that are compressed again at the same time; each uses several threads by itself.
const PARALLEL_CONVERSIONS: usize = 2;

/// All that decides about the blobs of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packing {
    pub(super) layers: LayerForm,
    /// Of the config.
    pub(super) epoch: Option<i64>,
    pub(super) force: bool,
    /// Whether the base image's layers are brought here.
    pub(super) with_base: bool,
}

impl Built<'_> {
    /// The image of one platform.
    pub(super) async fn pack(
        &self,
        target: &Target,
        tree: &LayerTree,
        packing: Packing,
    ) -> Result<Image, Failure> {
        let failed = |error: worker::WorkerError| Failure::from(&error);
        if packing.with_base || packing.force {
            self.worker.bring_base(tree).await.map_err(failed)?;
        }
        let packed = Packed {
            config: target.config.clone(),
            base_history: target.base.as_ref().map_or(0, |base| base.image.config.history.len()),
            platform: target.platform.clone(),
            epoch: packing.epoch,
        };
        let mut image = self.worker.image(tree, packed, packing.layers).await.map_err(failed)?;
        if packing.force {
            let chain_ids = image::chain_ids(image.layers.iter().map(|layer| &layer.diff_id));
            let layers = image.layers.iter().cloned().zip(chain_ids);
            let converted = layers.map(|(layer, chain_id)| self.converted(layer, chain_id, packing.layers));
            image.layers =
                futures::stream::iter(converted).buffered(PARALLEL_CONVERSIONS).try_collect().await?;
        }
        let carried = self.carried(tree, &image, packing).await?;
        warm::inline(&mut image.config, carried.as_ref());
        Ok(image)
    }

    /// A layer in the compression that is wanted for all of them. What was made of an unpacked layer once is remembered with it.
    async fn converted(&self, layer: Layer, chain_id: Digest, form: LayerForm) -> Result<Layer, Failure> {
        let LayerForm { compression, level, .. } = form;
        if Compression::of_layer(&layer.descriptor.media_type) == Some(compression) {
            return Ok(layer);
        }
        let name = format!("converted v1 {compression:?} {level:?}");
        let (store, form) = (self.store.clone(), name.clone());
        let known = crate::blocking(move || {
            let Some(snapshot) = store.chain(&chain_id)? else { return Ok(None) };
            Ok(Some((snapshot, store.packed(snapshot, &form)?)))
        });
        let snapshot = match known.await? {
            Some((_, Some(known))) => return Ok(known),
            Some((snapshot, None)) => Some(snapshot),
            None => None,
        };
        let subject = Subject::Task("converting layers".into());
        let _timed = self.trace.begin(subject, Work::Compress, "compress a layer again");
        let blobs = Arc::new(self.store.blobs().clone());
        let converted = exporter::recompressed(layer, blobs, compression, level).await?;
        if let Some(snapshot) = snapshot {
            let (store, made) = (self.store.clone(), converted.clone());
            crate::blocking(move || Ok(store.set_packed(snapshot, &name, &made)?)).await?;
        }
        Ok(converted)
    }

    /// Whether a base image has layers that Docker's media types cannot express.
    pub(super) fn has_zstd_base(&self) -> bool {
        let bases = self.results.iter().filter_map(|(_, tree)| tree.base());
        bases
            .flat_map(|base| &base.layers)
            .any(|layer| Compression::of_layer(&layer.descriptor.media_type) == Some(Compression::Zstd))
    }
}
