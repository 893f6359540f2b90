//! A Dockerfile as an ordering: its steps, and what each takes.

use cache::Store;
use files::Selection;
use graph::{Input, Op, Source};
use insight::{BuildRecord, OrderedStep, Ordering, StepInput};

use super::uses;
use crate::commands::build::{self, Examined};

/// A plan as steps, with what each took when it ran: as the cache has it, else as builds have it that are remembered.
pub(super) fn of(store: &Store, records: &[BuildRecord], examined: &Examined) -> Ordering {
    let definition = &examined.plan.definition;
    let needed = build::needed(&examined.plan);
    let place = |input: &Input| needed.iter().position(|id| *id == input.vertex);
    let layers: Vec<graph::VertexId> =
        examined.plan.targets.iter().flat_map(|target| target.layer_steps.iter().copied()).collect();
    // What is copied with --link is made by a step of its own, and merged.
    let merged = layers.iter().map(|id| definition.vertex(*id)).filter(|vertex| vertex.op == Op::Merge);
    let merged: Vec<graph::VertexId> =
        merged.flat_map(|vertex| &vertex.inputs).map(|input| input.vertex).collect();
    let step = |id: &graph::VertexId| {
        let vertex = definition.vertex(*id);
        let note = examined.notes.get(id);
        let record = note.and_then(|note| note.record.as_ref());
        let layer = record.and_then(|record| record.layers.last()).filter(|_| vertex.op != Op::Merge);
        let size =
            layer.and_then(|layer| store.snapshot(*layer).ok().flatten()).map(|layer| layer.changes().size);
        // What came from elsewhere took its time there.
        let took = record.and_then(|record| record.run.took());
        let took = took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        let key = note.map(|note| note.key.to_string());
        let steps = || records.iter().flat_map(|record| &record.steps).filter(|step| step.cost.is_some());
        // The same work, or else what has the same name: with other files it takes about as long.
        let known = || steps().find(|step| step.key.is_some() && step.key == key);
        let alike = || steps().find(|step| title(&step.name) == title(&vertex.name));
        let remembered = if took.is_some() { None } else { known().or_else(alike) };
        let input = |input: &Input| {
            let whole = input.selection == Selection::Whole || is_all(definition, input);
            Some(StepInput { step: place(input)?, whole })
        };
        let is_source = matches!(vertex.op, Op::Source(_));
        OrderedStep {
            name: vertex.name.clone(),
            source: is_source,
            inputs: vertex.inputs.iter().filter_map(input).collect(),
            shows: uses::shows(&vertex.op),
            made: matches!(vertex.op, Op::Exec(_)),
            cost: took.or(remembered.and_then(|step| step.cost)).or(is_free(&vertex.op).then_some(0)),
            bytes: size.or(remembered.and_then(|step| step.bytes)).or(is_free(&vertex.op).then_some(0)),
            pushed: layers.contains(id) || merged.contains(id),
        }
    };
    Ordering { name: examined.name.clone(), steps: needed.iter().map(step).collect() }
}

fn title(name: &str) -> &str {
    name.strip_prefix('[').and_then(|rest| rest.split_once("] ")).map_or(name, |(_, title)| title)
}

/// Nothing worth measuring happens there.
fn is_free(op: &Op) -> bool {
    matches!(op, Op::Merge | Op::Source(_) | Op::Inline(_))
}

/// Whether a selection has all that there is: of the tree that is made of files of a context for a mount.
fn is_all(definition: &graph::Definition, input: &Input) -> bool {
    let vertex = definition.vertex(input.vertex);
    let (Op::Copy(copy), Selection::Path(path)) = (&vertex.op, &input.selection) else { return false };
    let below = vertex.inputs.first().map(|input| &definition.vertex(input.vertex).op);
    matches!(below, Some(Op::Source(Source::Scratch))) && copy.destination.trim_matches('/') == path.pattern
}
