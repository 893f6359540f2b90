//! Packing finished layers of a result while later steps still run: whoever delivers it finds them packed.
//!
//! One layer at a time, and none that takes no time anyway. What goes wrong here is told by whoever needs the blob: it packs anew.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use cache::{Snapshot, SnapshotId, Store};
use graph::{Definition, Op, VertexId};
use image::Layer;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use trace::{Subject, Trace};

use crate::cancel::{Cancel, blocking};
use crate::pack::pack;
use crate::{LayerForm, LocalWorker, WorkerError};

/// Bytes of a layer below which it is left to the end. There several are packed at once, in some milliseconds; while steps run, the records of
/// them would get in the way of those of steps.
const WORTH: u64 = 4 << 20;

/// Held while a layer is packed in a form of this name.
type Turns = HashMap<(SnapshotId, String), Arc<Mutex<()>>>;

/// Makes blobs of layers, each once: who comes second waits.
#[derive(Clone)]
pub(crate) struct Packer {
    pub(crate) store: Store,
    pub(crate) trace: Trace,
    turns: Arc<Mutex<Turns>>,
}

impl Packer {
    pub(crate) fn new(store: Store, trace: Trace) -> Packer {
        Packer { store, trace, turns: Arc::default() }
    }

    /// The blob of a layer, made now if it was never made in this form. Blocks.
    pub(crate) fn pack(
        &self,
        layer: &Snapshot,
        form: LayerForm,
        cancel: &Cancel,
    ) -> Result<Layer, WorkerError> {
        let place = (layer.id(), form.name());
        let turn =
            self.turns.lock().unwrap_or_else(PoisonError::into_inner).entry(place).or_default().clone();
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        pack(&self.store, layer, form, cancel, &self.trace.of(Subject::Layer(layer.id().0)))
    }

    /// The same where it is worth the while, and nobody needs to know how it went.
    fn pack_ahead(&self, layer: SnapshotId, form: LayerForm, cancel: &Cancel) -> Result<(), WorkerError> {
        if let Some(layer) = self.store.snapshot(layer)?
            && layer.changes().size >= WORTH
        {
            self.pack(&layer, form, cancel)?;
        }
        Ok(())
    }
}

/// Whose layers are packed as soon as they are there.
pub(crate) struct Behind {
    vertices: HashSet<VertexId>,
    queue: UnboundedSender<SnapshotId>,
}

impl Behind {
    /// Tells that a vertex has its result. Those below it have told of theirs, or were not looked at.
    fn finished(&self, vertex: VertexId, layers: Vec<SnapshotId>) {
        if self.vertices.contains(&vertex) {
            for layer in layers {
                // Nobody listens when the steps have ended.
                let _ = self.queue.send(layer);
            }
        }
    }
}

/// Where steps find whom to tell; nobody before it begins and when it has ended.
pub(crate) type Told = Arc<Mutex<Option<Arc<Behind>>>>;

/// Packing that goes on while steps run. When it is dropped, it is given up.
pub struct PackingBehind {
    /// Where steps tell of their results.
    told: Told,
    /// No other layer is begun.
    enough: Cancel,
    cancel: Cancel,
    task: JoinHandle<()>,
}

impl PackingBehind {
    /// Begins no other layer: whoever needs them packs them now.
    pub fn stop(&self) {
        self.enough.cancel();
        self.told.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Gives up what is still being packed, and waits for the end of that.
    pub async fn end(mut self) {
        self.stop();
        self.cancel.cancel();
        // That it failed, or was never wanted, is nothing to tell.
        let _ = (&mut self.task).await;
    }
}

impl Drop for PackingBehind {
    fn drop(&mut self) {
        self.stop();
        self.cancel.cancel();
        self.task.abort();
    }
}

impl LocalWorker {
    /// From now on packs the layers of these targets while other steps run, for who will ask for images of them in these forms.
    pub fn pack_behind(&self, targets: &[VertexId], forms: Vec<LayerForm>) -> PackingBehind {
        let (queue, layers) = unbounded_channel();
        let behind = Behind { vertices: own_layers(&self.definition, targets), queue };
        *self.behind.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(behind));
        let (enough, cancel) = (Cancel::new(), Cancel::new());
        let task = tokio::spawn(work(self.packer.clone(), layers, forms, enough.clone(), cancel.clone()));
        PackingBehind { told: self.behind.clone(), enough, cancel, task }
    }

    /// Tells whoever packs that a vertex has its result.
    pub(crate) fn finished(&self, vertex: VertexId, layers: &[SnapshotId]) {
        let behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(behind) = behind {
            let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            // Of those that were found it is not known yet.
            let is_small = |layer: &&SnapshotId| changes.get(layer).is_some_and(|(_, size)| *size < WORTH);
            let large = layers.iter().filter(|layer| !is_small(layer)).copied().collect();
            drop(changes);
            behind.finished(vertex, large);
        }
    }
}

async fn work(
    packer: Packer,
    mut layers: UnboundedReceiver<SnapshotId>,
    forms: Vec<LayerForm>,
    enough: Cancel,
    cancel: Cancel,
) {
    let mut seen = HashSet::new();
    while let Some(layer) = layers.recv().await {
        if !seen.insert(layer) {
            continue;
        }
        for form in forms.iter().copied() {
            if enough.is_cancelled() {
                return;
            }
            let (packer, cancel) = (packer.clone(), cancel.clone());
            let _ = blocking(move || packer.pack_ahead(layer, form, &cancel)).await;
        }
    }
}

/// The vertices whose layers are in what the targets yield, unless a result is found that has others.
fn own_layers(definition: &Definition, targets: &[VertexId]) -> HashSet<VertexId> {
    let (mut found, mut waiting) = (HashSet::new(), targets.to_vec());
    while let Some(id) = waiting.pop() {
        let vertex = definition.vertex(id);
        let below = match vertex.op {
            Op::Source(_) => 0,
            Op::Merge => 2,
            _ => 1,
        };
        if found.insert(id) {
            waiting.extend(vertex.inputs.iter().take(below).map(|input| input.vertex));
        }
    }
    found
}
