//! Which steps an edit reruns, under one order of instructions and under another.
//!
//! An edit changes files of the context; the steps that use one of them are *touched* ([`Touch`]). What stands on those follows:
//!
//! | what a step uses | has certainly changed | has perhaps changed |
//! |---|---|---|
//! | all of it | it runs, and its own result is certainly another one if it works on it | at most |
//! | some files of it | at most: they may be the same | at most |
//!
//! "At most" is where early cutoff may save the step: what it uses may come out as it was.

mod html;
mod recorded;
mod render;
#[cfg(test)]
mod tests;

pub(crate) use html::escape;
use std::collections::BTreeMap;

use crate::record::StepInput;

/// A Dockerfile, lowered.
#[derive(Debug, Clone, PartialEq)]
pub struct Ordering {
    /// The Dockerfile, as given.
    pub name: String,
    /// Steps and sources in topological order.
    pub steps: Vec<OrderedStep>,
}

/// A step or source of an [`Ordering`].
#[derive(Debug, Clone, PartialEq)]
pub struct OrderedStep {
    /// As shown: `[build 2/5] RUN make`.
    pub name: String,
    /// Whether it brings something from outside: no edit reruns it.
    pub source: bool,
    /// What it uses; the first is the tree that it works on.
    pub inputs: Vec<StepInput>,
    /// Whether what is new in the files that it uses is new in its result too: of a copy, not of a program nor of an unpacked archive.
    pub shows: bool,
    /// Whether its layer is another one whenever it runs, were it for the times in it: of a program. What copies the same files again may make
    /// the same layer, which registries have; unless it makes directories, with times of their own.
    pub made: bool,
    /// Milliseconds that it took when it ran; `None` where nobody knows.
    pub cost: Option<u64>,
    /// Bytes of its own layer, likewise.
    pub bytes: Option<u64>,
    /// Whether its layer is one of the image's.
    pub pushed: bool,
}

/// Files that change together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// For people: a path, a commit.
    pub name: String,
    /// How often it happened.
    pub weight: u64,
}

/// What an edit does to the files of the context that a step uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Touch {
    /// They may be what they were: what is known of the edit does not say.
    Perhaps,
    /// They are others, which the step's result need not show: they have other modes, and it gives them modes that follow a rule.
    Hidden,
    /// They are others.
    Surely,
}

/// The steps whose files an edit touches, by place in [`Ordering::steps`].
pub type Touched = BTreeMap<usize, Touch>;

/// What an edit does to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// It is found in the cache.
    Cached,
    /// It runs, unless what it uses comes out as it was.
    AtMost,
    /// It runs.
    Runs,
}

impl Effect {
    /// One word for people and programs.
    pub fn word(self) -> &'static str {
        match self {
            Effect::Cached => "cached",
            Effect::AtMost => "at most",
            Effect::Runs => "runs",
        }
    }
}

/// What rerun steps cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// How many steps.
    pub steps: u64,
    /// Milliseconds from begin to end, when steps that can run at the same time do.
    pub time: u64,
    /// Milliseconds of all steps together.
    pub work: u64,
    /// Bytes of all layers that they make.
    pub stored: u64,
    /// Bytes of those that are the image's, and others than before: registries have the rest.
    pub pushed: u64,
    /// Steps among them of which no time is known: the times are lower bounds then.
    pub unknown: u64,
    /// Steps among them of whose layer no size is known: the bytes are lower bounds then.
    pub unsized_layers: u64,
}

/// What an edit does under one ordering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prediction {
    /// By step.
    pub effects: Vec<Effect>,
    /// What certainly runs.
    pub least: Cost,
    /// That, and what early cutoff may save.
    pub most: Cost,
}

/// Orderings side by side.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The orderings.
    pub orderings: Vec<Ordering>,
    /// The edits.
    pub edits: Vec<Edit>,
    /// For each edit, what it does under each ordering.
    pub predictions: Vec<Vec<Prediction>>,
    /// What one edit is called: `commit`, `edit`.
    pub unit: &'static str,
}

/// What an edit costs on average, weighted by how often each happens.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Expected {
    /// Steps.
    pub steps: f64,
    /// Milliseconds from begin to end.
    pub time: f64,
    /// Bytes of all new layers.
    pub stored: f64,
    /// Bytes of the image's new layers.
    pub pushed: f64,
    /// Steps of which no time is known: the time is a lower bound, unless there are none.
    pub unknown: f64,
    /// Steps of whose layer no size is known, likewise.
    pub unsized_layers: f64,
}

impl Ordering {
    /// What happens when an edit touches these steps.
    pub fn predict(&self, touched: &Touched) -> Prediction {
        let mut effects: Vec<Effect> = Vec::with_capacity(self.steps.len());
        // Whether the tree of a step is another one.
        let mut changes: Vec<Effect> = Vec::with_capacity(self.steps.len());
        // Whether its own layer is.
        let mut layers: Vec<Effect> = Vec::with_capacity(self.steps.len());
        for (index, step) in self.steps.iter().enumerate() {
            let own = if step.shows { Effect::Runs } else { Effect::AtMost };
            let (mut runs, mut changed) = match touched.get(&index) {
                None => (Effect::Cached, Effect::Cached),
                Some(Touch::Perhaps) => (Effect::AtMost, Effect::AtMost),
                Some(Touch::Hidden) => (Effect::Runs, Effect::AtMost),
                Some(Touch::Surely) => (Effect::Runs, own),
            };
            let mut layer = changed;
            for (position, input) in step.inputs.iter().enumerate() {
                let input_changes = changes.get(input.step).copied().unwrap_or(Effect::Cached);
                if input_changes == Effect::Cached {
                    continue;
                }
                let this = if input.whole { input_changes } else { Effect::AtMost };
                runs = runs.max(this);
                let is_below = position == 0 && input.whole;
                changed = changed.max(if is_below { this } else { this.min(own) });
                if !is_below {
                    layer = layer.max(this.min(own));
                }
            }
            let nothing = step.source;
            effects.push(if nothing { Effect::Cached } else { runs });
            changes.push(if nothing { Effect::Cached } else { changed });
            layers.push(if step.made { runs } else { layer.max(runs.min(Effect::AtMost)) });
        }
        let least = self.cost(|index| effects[index] == Effect::Runs, |index| layers[index] == Effect::Runs);
        let most =
            self.cost(|index| effects[index] != Effect::Cached, |index| layers[index] != Effect::Cached);
        Prediction { effects, least, most }
    }

    /// What these steps cost together, of which some make other layers. A record from elsewhere may claim any numbers.
    fn cost(&self, counts: impl Fn(usize) -> bool, is_other: impl Fn(usize) -> bool) -> Cost {
        let mut cost = Cost::default();
        let mut ends: Vec<u64> = Vec::with_capacity(self.steps.len());
        for (index, step) in self.steps.iter().enumerate() {
            let begin = step.inputs.iter().filter_map(|input| ends.get(input.step)).max().copied();
            let mut end = begin.unwrap_or(0);
            if counts(index) {
                let (took, bytes) = (step.cost.unwrap_or(0), step.bytes.unwrap_or(0));
                end = end.saturating_add(took);
                cost.steps += 1;
                cost.work = cost.work.saturating_add(took);
                cost.stored = cost.stored.saturating_add(bytes);
                let pushed = if step.pushed && is_other(index) { bytes } else { 0 };
                cost.pushed = cost.pushed.saturating_add(pushed);
                cost.unknown += u64::from(step.cost.is_none());
                cost.unsized_layers += u64::from(step.bytes.is_none());
            }
            ends.push(end);
            cost.time = cost.time.max(end);
        }
        cost
    }
}

impl Comparison {
    /// Predicts what each edit does; with it come, for each ordering, the steps that it touches.
    pub fn new(orderings: Vec<Ordering>, edits: Vec<(Edit, Vec<Touched>)>, unit: &'static str) -> Comparison {
        let predict = |touched: &Vec<Touched>| {
            orderings.iter().zip(touched).map(|(ordering, touched)| ordering.predict(touched)).collect()
        };
        let predictions = edits.iter().map(|(_, touched)| predict(touched)).collect();
        let edits = edits.into_iter().map(|(edit, _)| edit).collect();
        Comparison { orderings, edits, predictions, unit }
    }

    /// What an edit costs on average under an ordering, at most.
    pub fn expected(&self, ordering: usize) -> Expected {
        let all: u64 = self.edits.iter().map(|edit| edit.weight).sum();
        if all == 0 {
            return Expected::default();
        }
        let mut expected = Expected::default();
        for (edit, predictions) in self.edits.iter().zip(&self.predictions) {
            let Some(Prediction { most, .. }) = predictions.get(ordering) else { continue };
            let weight = edit.weight as f64 / all as f64;
            expected.steps += weight * most.steps as f64;
            expected.time += weight * most.time as f64;
            expected.stored += weight * most.stored as f64;
            expected.pushed += weight * most.pushed as f64;
            expected.unknown += weight * most.unknown as f64;
            expected.unsized_layers += weight * most.unsized_layers as f64;
        }
        expected
    }

    /// Whether the time or the layer's size of some step that an edit reruns is not known.
    pub fn has_unknown(&self) -> bool {
        let costs = self.predictions.iter().flatten().map(|prediction| prediction.most);
        costs.into_iter().any(|cost| cost.unknown > 0 || cost.unsized_layers > 0)
    }
}
