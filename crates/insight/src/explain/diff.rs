//! Two builds side by side, on one machine or two.

use std::collections::BTreeMap;

use graph::{Listing, MissReason, ValueChange};

use super::{Explanation, Why, causes};
use crate::picture::taken_apart;
use crate::record::{BuildRecord, StepOutcome, StepRecord};

/// A build to compare with, and what is known of the files of both.
#[derive(Clone, Copy)]
struct Other<'a> {
    build: &'a BuildRecord,
    listing: &'a dyn Fn(&str) -> Option<Listing>,
}

impl<'a> Explanation<'a> {
    /// What tells a build from another (usually an earlier one), step by step, whether the cache had the results or not. `listing`
    /// knows listings by name, as the records have them.
    pub fn against(
        build: &'a BuildRecord,
        other: &'a BuildRecord,
        listing: &dyn Fn(&str) -> Option<Listing>,
    ) -> Explanation<'a> {
        let against = other;
        let other = Other { build: other, listing };
        let pairs = paired(build, other.build);
        let mut whys = BTreeMap::new();
        for (index, step) in build.steps.iter().enumerate().filter(|(_, step)| !step.source) {
            let before = pairs.get(&index).map(|place| &other.build.steps[*place]);
            if let Some(why) = why(build, step, before, &whys, other) {
                whys.insert(index, why);
            }
        }
        Explanation { build, against: Some(against), causes: causes(build, &whys) }
    }
}

/// Why a step is not what it was; `None` when it is, or nothing is known of it.
fn why(
    build: &BuildRecord,
    step: &StepRecord,
    before: Option<&StepRecord>,
    whys: &BTreeMap<usize, Why>,
    other: Other<'_>,
) -> Option<Why> {
    let key = step.key.as_ref()?;
    let Some(before) = before else {
        let text = "it is not in the other build".to_owned();
        return Some(Why { text, more: Vec::new(), reason: None, because: Vec::new(), besides: Vec::new() });
    };
    if before.key.as_ref()? == key {
        // Built from the same, and yet executed: its result was not there any more. That of another machine never was, nor is that of a
        // build that came later, or that is this one.
        let was_there = build.store == other.build.store
            && other.build.started < build.started
            && matches!(before.outcome, Some(StepOutcome::Cached | StepOutcome::Ran { .. }));
        let why = step.why().filter(|_| step.ran() && was_there)?;
        let because = match why {
            MissReason::InputChanged { input, .. } => super::changed_inputs(build, step, input),
            _ => Vec::new(),
        };
        // What is different from the last time that it ran is not different from the other build.
        let gone = matches!(why, MissReason::FirstBuild)
            || super::is_change(why)
            || matches!(why, MissReason::InputChanged { .. }) && because.is_empty();
        return Some(if gone { Why::of(&MissReason::evicted(), Vec::new()) } else { Why::of(why, because) });
    }
    let (new, old) = (step.parts.as_ref()?, before.parts.as_ref()?);
    let mut reasons = new.differences(old, other.listing);
    if build.store != other.build.store && (new.has_hidden() || old.has_hidden()) {
        // Made with random bytes of each machine, their digests differ whatever the values are.
        reasons.retain(|reason| match reason {
            MissReason::OpChanged { change: ValueChange::Hidden, .. } => false,
            MissReason::OpChanged { field, .. } => field != "the operation",
            _ => true,
        });
    }
    let at = new.changed_input(old).and_then(|index| step.inputs.get(index)).map(|input| input.step);
    let mut because = Vec::new();
    if let Some(MissReason::InputChanged { .. }) = reasons.first() {
        let others = step.inputs.iter().map(|input| input.step).filter(|input| Some(*input) != at);
        because.extend(at.into_iter().chain(others).filter(|input| whys.contains_key(input)));
    }
    let mut words = reasons.iter().map(ToString::to_string);
    Some(match words.next() {
        Some(text) => Why {
            text,
            more: words.collect(),
            reason: reasons.first().cloned(),
            because,
            besides: Vec::new(),
        },
        None if new.has_hidden() || old.has_hidden() => Why {
            text: "a value that is kept secret may be another one".to_owned(),
            more: Vec::new(),
            reason: None,
            because: Vec::new(),
            besides: Vec::new(),
        },
        None => Why {
            text: "it changed".to_owned(),
            more: Vec::new(),
            reason: None,
            because: Vec::new(),
            besides: Vec::new(),
        },
    })
}

/// Which step of the other build is the same: that with the same text in the same stage (the first with the first, the second with
/// the second), failing that the one in its place.
fn paired(build: &BuildRecord, other: &BuildRecord) -> BTreeMap<usize, usize> {
    let mut by_text: BTreeMap<(Option<&str>, &str, usize), usize> = BTreeMap::new();
    let mut by_place: BTreeMap<(Option<&str>, &str), usize> = BTreeMap::new();
    for (place, occurrence, step) in occurrences(other) {
        let (stage, number, title) = taken_apart(&step.name);
        by_text.insert((stage, title, occurrence), place);
        if let Some((number, _)) = number.split_once('/') {
            by_place.entry((stage, number)).or_insert(place);
        }
    }
    let mut pairs = BTreeMap::new();
    let mut left = Vec::new();
    for (place, occurrence, step) in occurrences(build) {
        let (stage, number, title) = taken_apart(&step.name);
        match by_text.get(&(stage, title, occurrence)) {
            Some(found) => {
                pairs.insert(place, *found);
            }
            None => left.push((place, stage, number)),
        }
    }
    let taken: Vec<usize> = pairs.values().copied().collect();
    for (place, stage, number) in left {
        let found = number.split_once('/').and_then(|(number, _)| by_place.get(&(stage, number)));
        let alike = |found: &usize| match (&build.steps[place].parts, &other.steps[*found].parts) {
            (Some(new), Some(old)) => new.is_of_one_kind_with(old),
            _ => true,
        };
        if let Some(found) = found.filter(|found| !taken.contains(found) && alike(found)) {
            pairs.insert(place, *found);
        }
    }
    pairs
}

/// Steps with their place, and how many of the same text come before in their stage.
fn occurrences(build: &BuildRecord) -> impl Iterator<Item = (usize, usize, &StepRecord)> {
    let mut seen: BTreeMap<(Option<&str>, &str), usize> = BTreeMap::new();
    build.steps.iter().enumerate().filter(|(_, step)| !step.source).map(move |(place, step)| {
        let (stage, _, title) = taken_apart(&step.name);
        let count = seen.entry((stage, title)).or_default();
        *count += 1;
        (place, *count - 1, step)
    })
}
