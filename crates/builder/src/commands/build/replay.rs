//! Showing again what cached steps printed when they ran.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use graph::{Definition, Event, Op, ProgressSink, VertexId};

/// Passes events on, and remembers which steps printed something.
pub(super) struct Heard {
    sink: Arc<dyn ProgressSink>,
    printed: Mutex<HashSet<VertexId>>,
    /// Whether output alone is passed on, and only that of other steps.
    replaying: bool,
}

impl Heard {
    pub(super) fn new(sink: Arc<dyn ProgressSink>) -> Heard {
        Heard { sink, printed: Mutex::default(), replaying: false }
    }

    /// One that passes on the output of steps that printed nothing so far.
    pub(super) fn others(&self) -> Heard {
        let printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Heard { sink: self.sink.clone(), printed: Mutex::new(printed), replaying: true }
    }
}

impl ProgressSink for Heard {
    fn event(&self, event: Event) {
        if let Event::Log { vertex, .. } = &event {
            let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
            if !self.replaying {
                printed.insert(*vertex);
            } else if printed.contains(vertex) {
                return;
            }
        } else if self.replaying {
            return;
        }
        self.sink.event(event);
    }
}

/// The steps that may have printed something.
pub(super) fn steps(definition: &Definition) -> Vec<VertexId> {
    let exec = definition.iter().filter(|(_, vertex)| matches!(vertex.op, Op::Exec(_)));
    exec.map(|(id, _)| id).collect()
}
