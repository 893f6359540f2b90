use std::collections::{BTreeMap, BTreeSet};

use graph::{InputPart, KeyParts, Naming, Op, PathChange, PathChangeKind};

use super::*;
use crate::record::{BuildResult, RECORD_VERSION, StepInput, StepOutcome};

fn build(id: &str, steps: Vec<StepRecord>) -> BuildRecord {
    BuildRecord::of_steps(id, steps)
}

fn step(name: &str, inputs: &[usize], outcome: StepOutcome) -> StepRecord {
    StepRecord {
        name: name.to_owned(),
        lines: None,
        source: name.contains("FROM"),
        inputs: inputs.iter().map(|step| StepInput { step: *step, whole: true }).collect(),
        key: Some(name.to_owned()),
        parts: None,
        outcome: Some(outcome),
        began: Some(0),
        took: Some(1_000),
        cpu: None,
        cost: Some(1_000),
        bytes: Some(500),
    }
}

fn ran(why: MissReason) -> StepOutcome {
    StepOutcome::Ran { why: Some(why) }
}

fn changed(path: &str) -> MissReason {
    let paths = vec![PathChange { path: path.to_owned(), kind: PathChangeKind::Changed }];
    MissReason::ContentChanged { paths, more: 0 }
}

fn input(name: &str) -> MissReason {
    MissReason::InputChanged { input: name.to_owned(), cause: None, first: None }
}

fn npm() -> BuildRecord {
    let done = StepOutcome::Ran { why: None };
    build(
        "b",
        vec![
            step("[1/5] FROM node", &[], done),
            step("[2/5] RUN apt-get update", &[0], StepOutcome::Cached),
            step("[3/5] COPY package.json .", &[1], ran(changed("package.json"))),
            step("[4/5] RUN npm ci", &[2], ran(input("COPY package.json ."))),
            step("[5/5] RUN npm test", &[3], ran(input("RUN npm ci"))),
        ],
    )
}

#[test]
fn what_a_cause_drags_along() {
    let build = npm();
    let explained = Explanation::of(&build);
    assert_eq!(explained.causes.len(), 1);
    let cause = &explained.causes[0];
    assert_eq!((&*cause.text, &*cause.hit, &*cause.dragged), ("package.json changed", &[2][..], &[3, 4][..]));
    assert_eq!((cause.time, cause.bytes), (3_000, 1_500));
    assert_eq!(explained.sentence(4), "RUN npm test: package.json changed (COPY package.json .)\n");
    assert_eq!(explained.sentence(2), "COPY package.json .: package.json changed\n");
    assert_eq!(explained.sentence(1), "RUN apt-get update: it was cached\n");
    let text = explained.text(usize::MAX);
    assert!(text.contains("3 of 4 steps ran, 3.0s of work, 1.5kB of new layers"), "{text}");
    assert!(text.contains("  3  [4/5] RUN npm ci"), "{text}");
    assert_eq!(explained.json(Some(4))["causes"][0]["dragged"][1]["name"], "[5/5] RUN npm test");
    assert_eq!(explained.json(Some(1))["causes"].as_array().unwrap().len(), 0);
}

#[test]
fn a_step_with_two_causes_tells_both() {
    let done = StepOutcome::Ran { why: None };
    let build = build(
        "b",
        vec![
            step("[1/4] FROM node", &[], done),
            step("[2/4] COPY a .", &[0], ran(changed("a"))),
            step("[3/4] COPY b .", &[1], ran(changed("b"))),
            step("[4/4] RUN make", &[2], ran(input("COPY b ."))),
        ],
    );
    let explained = Explanation::of(&build);
    let told: Vec<_> =
        explained.causes.iter().map(|cause| (&*cause.text, &*cause.hit, &*cause.dragged)).collect();
    assert_eq!(told, [("a changed", &[1][..], &[2, 3][..]), ("b changed", &[2], &[3])]);
    assert_eq!(explained.sentence(2), "COPY b .: b changed\n  and a changed (COPY a .)\n");
    assert_eq!(explained.sentence(3), "RUN make: a changed (COPY a .)\n  and b changed (COPY b .)\n");
    assert_eq!(explained.causes.iter().map(|cause| cause.time).sum::<u64>(), 3_000, "told once");
    let narrow = explained.text(24);
    assert!(
        narrow.lines().filter(|line| line.starts_with("  ")).all(|line| line.chars().count() <= 50),
        "{narrow}"
    );
}

#[test]
fn steps_are_found_as_users_name_them() {
    let build = npm();
    for (text, place) in [("3", Some(3)), ("3/5", Some(2)), ("RUN npm t", Some(4)), ("9", None), ("0", None)]
    {
        assert_eq!(build.find_step(text), place, "{text}");
    }
    let wide = BuildRecord::of_steps("a", vec![step("[build  9/10] RUN a", &[], StepOutcome::Cached)]);
    assert_eq!((wide.find_step("build 9/10"), wide.find_step("9/10")), (Some(0), Some(0)));
}

#[test]
fn a_record_reads_back_and_a_foreign_one_is_refused() {
    let build = npm();
    assert_eq!(BuildRecord::from_json(&build.to_json()).unwrap(), build);
    let newer = BuildRecord { version: RECORD_VERSION + 1, ..npm() };
    assert!(BuildRecord::from_json(&newer.to_json()).unwrap_err().contains("newer"));
    assert!(BuildRecord::from_json(b"{}").unwrap_err().contains("no build record"));
    let mut circular = npm();
    circular.steps[0].inputs.push(StepInput { step: 4, whole: true });
    assert!(BuildRecord::from_json(&circular.to_json()).is_err());
}

/// A copy of files with a content digest, and a step on top.
fn two(id: &str, content: &str, store: &str, outcome: StepOutcome) -> BuildRecord {
    let args = BTreeSet::new();
    let naming = Naming { secret: &[0; 32], args: &args, hidden: &Default::default() };
    let parts = |inputs| Some(KeyParts::new(&Op::Merge, inputs, naming));
    let (digest, listing) = (content.to_owned(), Some(content.to_owned()));
    let copy = StepRecord {
        key: Some(format!("copy {content}")),
        parts: parts(vec![InputPart::Content {
            pattern: ".".to_owned(),
            digest,
            listing,
            files: None,
            commit: None,
        }]),
        ..step("[2/3] COPY . .", &[0], outcome.clone())
    };
    let run = StepRecord {
        key: Some(format!("run {content}")),
        parts: parts(vec![InputPart::Vertex {
            name: "COPY . .".to_owned(),
            key: content.to_owned(),
            files: None,
            context: None,
        }]),
        ..step("[3/3] RUN make", &[1], outcome)
    };
    let mut build = build(id, vec![step("[1/3] FROM a", &[], StepOutcome::Cached), copy, run]);
    build.store = store.to_owned();
    build
}

#[test]
fn two_builds_differ_where_their_keys_do() {
    let old = two("a", "one", "laptop", StepOutcome::Cached);
    let new = two("b", "two", "server", StepOutcome::Cached);
    let listing = |name: &str| {
        let part = graph::PathPart::new(Some(0o644), name.as_bytes());
        Some(BTreeMap::from([("main.c".to_owned(), part)]))
    };
    let explained = Explanation::against(&new, &old, &listing);
    assert_eq!(explained.causes.len(), 1);
    let cause = &explained.causes[0];
    assert_eq!((&*cause.text, &*cause.hit, &*cause.dragged), ("main.c changed", &[1][..], &[2][..]));
    assert_eq!((cause.time, cause.bytes), (0, 0), "both were cached");
    assert_eq!(Explanation::against(&old, &old, &listing).causes, []);
    assert!(Explanation::against(&old, &old, &listing).text(usize::MAX).contains("Nothing is different"));
}

#[test]
fn what_was_built_from_the_same_and_ran_was_removed() {
    let old = two("a", "one", "here", StepOutcome::Cached);
    for why in [MissReason::FirstBuild, changed("main.c")] {
        let new = BuildRecord { started: 1, ..two("b", "one", "here", ran(why)) };
        let explained = Explanation::against(&new, &old, &|_| None);
        assert_eq!(explained.causes.len(), 1);
        assert_eq!(explained.causes[0].reason, Some(MissReason::evicted()));
        // What came later was not there yet.
        assert_eq!(
            Explanation::against(&new, &BuildRecord { started: 2, ..old.clone() }, &|_| None).causes,
            []
        );
        assert_eq!(Explanation::against(&new, &new, &|_| None).causes, [], "the same build");
        let failed = StepOutcome::Failed { message: String::new(), why: None };
        let failed = two("a", "one", "here", failed);
        assert_eq!(Explanation::against(&new, &failed, &|_| None).causes, [], "it left no result");
    }
}

#[test]
fn a_build_that_was_given_up_found_nothing() {
    let mut build = build("b", vec![step("[1/1] RUN sleep", &[], StepOutcome::Cancelled)]);
    build.result = BuildResult::Cancelled;
    assert!(Explanation::of(&build).text(usize::MAX).contains("It ended before a step did"));
    assert_eq!(Explanation::of(&build).sentence(0), "RUN sleep: it was not reached\n");
}

/// A RUN that mounts files which changed, on a step that changed.
#[test]
fn a_step_may_be_dragged_along_by_two_changes() {
    let build = build(
        "b",
        vec![
            step("[1/4] COPY a /", &[], ran(changed("a"))),
            step("[internal] prepare mount of all files", &[], ran(changed("b"))),
            step("[2/4] RUN true", &[], ran(MissReason::Disabled)),
            step("[3/4] RUN --mount=target=/b cat /b/b", &[0, 1, 2], ran(input("COPY a /"))),
            step("[4/4] RUN last", &[3], ran(input("RUN --mount=target=/b cat /b/b"))),
        ],
    );
    let told = Explanation::of(&build);
    let texts: Vec<&str> = told.of_step(3).map(|cause| &*cause.text).collect();
    assert_eq!(texts, ["a changed", "b changed"]);
    assert_eq!(told.of_step(4).count(), 2);
    let time: u64 = told.causes.iter().map(|cause| cause.time).sum();
    assert_eq!(time, 5_000, "no step counts twice");
}
