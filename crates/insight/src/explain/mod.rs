//! Why steps of a build ran: the first causes, what each dragged along, and what that cost.

mod diff;
mod render;

use std::collections::{BTreeMap, BTreeSet};

use graph::MissReason;

use crate::record::{BuildRecord, StepRecord};

/// Why a build had to do what it did.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation<'a> {
    /// The build.
    pub build: &'a BuildRecord,
    /// What it was compared with; `None`: each step with its own last time.
    pub against: Option<&'a BuildRecord>,
    /// The first causes, in the order of the steps that they hit first.
    pub causes: Vec<Cause>,
}

/// One change, and what followed from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Cause {
    /// In the user's words: `package-lock.json changed`.
    pub text: String,
    /// Further differences of the first step, in words.
    pub more: Vec<String>,
    /// The same for programs; `None` where it is no reason of the cache's.
    pub reason: Option<MissReason>,
    /// The steps that it hit by itself, by place in [`BuildRecord::steps`].
    pub hit: Vec<usize>,
    /// The steps that stand on those. One that has a reason of its own as well is also among those that another cause hit.
    pub dragged: Vec<usize>,
    /// Milliseconds that these steps took.
    pub time: u64,
    /// Bytes of the layers that they made.
    pub bytes: u64,
}

/// Why one step is not what it was.
#[derive(Debug, Clone, PartialEq)]
struct Why {
    text: String,
    more: Vec<String>,
    reason: Option<MissReason>,
    /// The inputs whose change it is, by place among the steps; the one that is named first.
    because: Vec<usize>,
    /// Inputs that changed besides: undoing what is named would not be enough.
    besides: Vec<usize>,
}

impl<'a> Explanation<'a> {
    /// What the build itself found out about each step that it executed.
    pub fn of(build: &'a BuildRecord) -> Explanation<'a> {
        let whys: BTreeMap<usize, Why> = executed(build)
            .filter_map(|(index, step)| {
                let reason = step.why()?;
                let because = match reason {
                    MissReason::InputChanged { input, .. } => changed_inputs(build, step, input),
                    _ => Vec::new(),
                };
                let mut why = Why::of(reason, because);
                if is_change(reason) && why.because.is_empty() {
                    why.besides = step.inputs.iter().map(|input| input.step).collect();
                }
                Some((index, why))
            })
            .collect();
        Explanation { build, against: None, causes: causes(build, &whys) }
    }

    /// The causes that hit one step: first what is its own, then that of what it stands on.
    pub fn of_step(&self, step: usize) -> impl Iterator<Item = &Cause> {
        let own = self.causes.iter().filter(move |cause| cause.hit.contains(&step));
        own.chain(self.causes.iter().filter(move |cause| cause.dragged.contains(&step)))
    }
}

/// Whether a reason is something that is different from last time, which can be undone.
fn is_change(reason: &MissReason) -> bool {
    matches!(
        reason,
        MissReason::ContentChanged { .. } | MissReason::OpChanged { .. } | MissReason::ImageChanged { .. }
    )
}

fn executed(build: &BuildRecord) -> impl Iterator<Item = (usize, &StepRecord)> {
    build.steps.iter().enumerate().filter(|(_, step)| step.ran())
}

/// The inputs that were executed too since something of them changed: first the one that a reason names.
fn changed_inputs(build: &BuildRecord, step: &StepRecord, name: &str) -> Vec<usize> {
    let ran = |place: &usize| build.steps[*place].ran();
    let mut ran: Vec<usize> = step.inputs.iter().map(|input| input.step).filter(ran).collect();
    let named = ran.iter().position(|place| build.steps[*place].title() == name).unwrap_or(0);
    if let Some(named) = ran.get(named).copied() {
        // What ran again without a change is no reason for anything.
        let unchanged = |why: &MissReason| {
            matches!(why, MissReason::Disabled | MissReason::Evicted { .. } | MissReason::Distrusted { .. })
        };
        ran.retain(|place| *place != named && !build.steps[*place].why().is_none_or(unchanged));
        ran.insert(0, named);
    }
    ran
}

impl Why {
    fn of(reason: &MissReason, because: Vec<usize>) -> Why {
        let besides = Vec::new();
        Why { text: reason.to_string(), more: Vec::new(), reason: Some(reason.clone()), because, besides }
    }
}

/// Follows each step's reason down to the first cause; equal causes are one.
fn causes(build: &BuildRecord, whys: &BTreeMap<usize, Why>) -> Vec<Cause> {
    let mut causes: Vec<Cause> = Vec::new();
    let mut of_step: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    // Inputs come first, so their causes are known.
    for (&index, why) in whys {
        let step = &build.steps[index];
        let mut dragged: Vec<usize> =
            why.because.iter().filter_map(|input| of_step.get(input)).flatten().copied().collect();
        let mut seen = BTreeSet::new();
        dragged.retain(|cause| seen.insert(*cause));
        if dragged.is_empty() {
            let known = causes.iter().position(|cause| cause.text == why.text);
            let cause = known.unwrap_or_else(|| {
                causes.push(Cause {
                    text: why.text.clone(),
                    more: why.more.clone(),
                    reason: why.reason.clone(),
                    hit: Vec::new(),
                    dragged: Vec::new(),
                    time: 0,
                    bytes: 0,
                });
                causes.len() - 1
            });
            causes[cause].hit.push(index);
            dragged.push(cause);
            let besides: BTreeSet<usize> =
                why.besides.iter().filter_map(|input| of_step.get(input)).flatten().copied().collect();
            for besides in besides.into_iter().filter(|besides| *besides != cause) {
                // What ran again without a change is no reason for anything.
                if causes[besides].reason.as_ref().is_some_and(is_change) {
                    causes[besides].dragged.push(index);
                    dragged.push(besides);
                }
            }
        } else {
            dragged.iter().for_each(|cause| causes[*cause].dragged.push(index));
        }
        // What it cost is told once.
        if let Some(first) = dragged.first().filter(|_| step.ran()) {
            causes[*first].time = causes[*first].time.saturating_add(step.took.unwrap_or(0));
            causes[*first].bytes = causes[*first].bytes.saturating_add(step.bytes.unwrap_or(0));
        }
        of_step.insert(index, dragged);
    }
    causes
}

#[cfg(test)]
mod tests;
