//! Showing again what cached steps printed when they ran.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use graph::{Event, Op, Outcome, ProgressSink, VertexId};
use hash::SystemClock;

use super::Build;
use crate::failure::Failure;

/// Passes events on, and remembers which steps ran or printed something.
pub(super) struct Heard {
    sink: Arc<dyn ProgressSink>,
    heard: Mutex<HashSet<VertexId>>,
}

impl Heard {
    pub(super) fn new(sink: Arc<dyn ProgressSink>) -> Heard {
        Heard { sink, heard: Mutex::default() }
    }

    fn has(&self, vertex: VertexId) -> bool {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).contains(&vertex)
    }
}

impl ProgressSink for Heard {
    fn event(&self, event: Event) {
        if let Event::Log { vertex, .. } | Event::Finished { vertex, outcome: Outcome::Done { .. }, .. } =
            &event
        {
            self.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(*vertex);
        }
        self.sink.event(event);
    }
}

impl Build<'_> {
    /// Shows what those steps printed that nobody looked up, because what stands on them was found: from what this build knows of them, as
    /// no step runs to be shown. What is not there any more is not missed.
    pub(super) async fn replay_others(
        &self,
        definition: &graph::Definition,
        heard: &Arc<Heard>,
    ) -> Result<(), Failure> {
        let mut logs = Vec::new();
        for note in self.journal.notes().steps() {
            let is_run = matches!(definition.vertex(note.vertex).op, Op::Exec(_));
            let layer = note.record.and_then(|record| record.layers.last().copied());
            if let Some(layer) = layer.filter(|_| is_run && !heard.has(note.vertex)) {
                logs.push((note.vertex, layer));
            }
        }
        let (store, cancel) = (self.store.clone(), self.cancel.clone());
        let sink: Arc<dyn ProgressSink> = heard.clone();
        crate::blocking(move || {
            for (vertex, layer) in logs {
                if cancel.is_cancelled() {
                    break;
                }
                worker::replay(&store, vertex, layer, &sink, &SystemClock);
            }
            Ok(())
        })
        .await
    }
}
