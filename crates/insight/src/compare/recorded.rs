//! A build that was recorded, as an ordering.

use std::collections::BTreeSet;

use super::{OrderedStep, Ordering};
use crate::record::{BuildRecord, StepInput, StepRecord};

impl Ordering {
    /// The steps that a build had. A record knows their texts and not what they mean, so an ADD counts as one that may have unpacked an archive.
    pub fn of_record(record: &BuildRecord) -> Ordering {
        let pushed = pushed(record);
        let step = |(place, step): (usize, &StepRecord)| {
            let brought = |input: &StepInput| record.steps[input.step].title().starts_with(graph::MOUNTED);
            let input = |input: &StepInput| StepInput { whole: input.whole || brought(input), ..*input };
            let free = is_free(step).then_some(0);
            OrderedStep {
                name: step.name.clone(),
                source: step.source,
                inputs: step.inputs.iter().map(input).collect(),
                shows: !step.source && !["RUN ", "ADD "].iter().any(|word| step.title().starts_with(word)),
                made: step.title().starts_with("RUN "),
                cost: step.cost.or(step.took.filter(|_| step.ran())).or(free),
                bytes: step.bytes.or(free),
                pushed: pushed.contains(&place),
            }
        };
        let steps = record.steps.iter().enumerate().map(step).collect();
        Ordering { name: format!("build {} of {}", record.id, record.dockerfile), steps }
    }
}

/// Nothing worth measuring happens there.
fn is_free(step: &StepRecord) -> bool {
    step.source || is_merge(step) || step.title() == "preparing inline document"
}

/// What puts a layer that was made by itself (`--link`) on top of others.
fn is_merge(step: &StepRecord) -> bool {
    step.title().starts_with("LINK ")
}

/// The steps whose layers are the image's: what nothing stands on, and what it works on in turn.
fn pushed(record: &BuildRecord) -> BTreeSet<usize> {
    let used: BTreeSet<usize> =
        record.steps.iter().flat_map(|step| &step.inputs).map(|input| input.step).collect();
    let mut waiting: Vec<usize> = (0..record.steps.len()).filter(|place| !used.contains(place)).collect();
    let mut pushed = BTreeSet::new();
    while let Some(place) = waiting.pop() {
        let step = &record.steps[place];
        if step.source || !pushed.insert(place) {
            continue;
        }
        let below = step.inputs.iter().take(if is_merge(step) { usize::MAX } else { 1 });
        waiting.extend(below.filter(|input| input.whole).map(|input| input.step));
    }
    pushed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::StepOutcome;

    fn step(name: &str, inputs: &[(usize, bool)]) -> StepRecord {
        StepRecord {
            name: name.to_owned(),
            lines: None,
            source: name.contains("FROM") || name.contains("load build context"),
            inputs: inputs.iter().map(|(step, whole)| StepInput { step: *step, whole: *whole }).collect(),
            key: None,
            parts: None,
            outcome: Some(StepOutcome::Ran { why: None }),
            began: None,
            took: Some(7),
            cpu: None,
            cost: None,
            bytes: None,
        }
    }

    #[test]
    fn what_a_record_says_of_its_steps() {
        let record = BuildRecord::of_steps(
            "a",
            vec![
                step("[build 1/2] FROM a", &[]),
                step("[internal] load build context", &[]),
                step("[build 2/2] RUN make", &[(0, true)]),
                step("[internal] prepare mount of x", &[(1, false)]),
                step("COPY --link a /a", &[(1, false)]),
                step("[1/3] RUN --mount=target=/m lint", &[(0, true), (3, false)]),
                step("[2/3] LINK COPY --link a /a", &[(5, true), (4, true)]),
                step("[3/3] ADD --from=build /x /", &[(6, true), (2, false)]),
            ],
        );
        let ordering = Ordering::of_record(&record);
        let pushed: Vec<usize> = (0..8).filter(|place| ordering.steps[*place].pushed).collect();
        assert_eq!(pushed, [4, 5, 6, 7]);
        let shows: Vec<usize> = (0..8).filter(|place| ordering.steps[*place].shows).collect();
        assert_eq!(shows, [3, 4, 6]);
        assert!(ordering.steps[5].inputs[1].whole, "all that there is is mounted");
        assert!(!ordering.steps[7].inputs[1].whole);
        assert_eq!((ordering.steps[2].cost, ordering.steps[2].bytes), (Some(7), None));
        assert_eq!(ordering.steps[6].bytes, Some(0));
    }

    #[test]
    fn what_is_mounted_of_a_named_context_is_mounted_as_a_whole() {
        let brought = step("[context a/b] prepare mount of x", &[(0, false)]);
        assert_eq!(brought.title(), "prepare mount of x", "as reasons have it");
        let load = step("[context a/b] load from client", &[]);
        assert_eq!(load.title(), load.name);
        let run = step("[1/1] RUN --mount=from=a/b,target=/m lint", &[(1, false)]);
        let ordering = Ordering::of_record(&BuildRecord::of_steps("a", vec![load, brought, run]));
        assert!(ordering.steps[2].inputs[0].whole);
    }
}
