use super::*;

fn step(name: &str, inputs: &[(usize, bool)], shows: bool, cost: u64) -> OrderedStep {
    OrderedStep {
        name: name.to_owned(),
        source: name.contains("FROM"),
        inputs: inputs.iter().map(|(step, whole)| StepInput { step: *step, whole: *whole }).collect(),
        shows,
        made: name.contains("RUN"),
        cost: Some(cost),
        bytes: Some(cost * 10),
        pushed: true,
    }
}

/// A program that is built in one stage and copied into another, beside something that takes long.
fn stages() -> Ordering {
    let steps = vec![
        step("[build 1/3] FROM a", &[], false, 0),
        step("[build 2/3] COPY . .", &[(0, true)], true, 1),
        step("[build 3/3] RUN make", &[(1, true)], false, 100),
        step("[slow 1/2] FROM a", &[], false, 0),
        step("[slow 2/2] RUN sleep", &[(3, true)], false, 300),
        step("[2/3] COPY --from=build /x /x", &[(3, true), (2, false)], true, 2),
        step("[3/3] RUN test", &[(5, true)], false, 10),
        step("[4/4] COPY --from=slow /y /y", &[(6, true), (4, false)], true, 1),
    ];
    Ordering { name: "Dockerfile".to_owned(), steps }
}

#[test]
fn what_follows_from_an_edit() {
    use Effect::{AtMost, Cached, Runs};
    let surely = |places: &[usize]| places.iter().map(|place| (*place, Touch::Surely)).collect::<Touched>();
    let prediction = stages().predict(&surely(&[1]));
    assert_eq!(prediction.effects, [Cached, Runs, Runs, Cached, Cached, AtMost, AtMost, AtMost]);
    assert_eq!((prediction.least.steps, prediction.most.steps), (2, 5));
    assert_eq!((prediction.least.time, prediction.most.time), (101, 114));
    assert_eq!(prediction.most.stored, 1140);
    assert_eq!(stages().predict(&Touched::new()).most, Cost::default());
    // Steps that can run at the same time do.
    let both = stages().cost(|index| [1, 2, 4].contains(&index), |_| true);
    assert_eq!((both.time, both.work), (300, 401));
}

/// Records from elsewhere say what they like.
#[test]
fn sums_end_where_numbers_do() {
    let mut ordering = stages();
    ordering.steps.iter_mut().for_each(|step| (step.cost, step.bytes) = (Some(1 << 63), Some(1 << 63)));
    let most = ordering.predict(&Touched::from([(1, Touch::Surely)])).most;
    assert_eq!([most.time, most.work, most.stored, most.pushed], [u64::MAX; 4]);
    let comparison = Comparison::new(
        vec![ordering],
        vec![(Edit { name: "x".to_owned(), weight: 1 }, vec![Touched::from([(1, Touch::Surely)])])],
        "edit",
    );
    assert!(!comparison.text(usize::MAX).is_empty() && !comparison.html().is_empty());
    assert_eq!(comparison.json()["edits"][0]["orderings"][0]["most"]["milliseconds"], u64::MAX);
}

/// A program that only looks at the files changes nothing for what stands on it.
#[test]
fn what_only_looks_may_leave_all_as_it_was() {
    let steps = vec![
        step("[1/3] FROM a", &[], false, 0),
        step("[internal] prepare mount of x", &[], true, 0),
        step("[2/3] RUN lint", &[(0, true), (1, true)], false, 5),
        step("[3/3] RUN make", &[(2, true)], false, 5),
    ];
    let ordering = Ordering { name: String::new(), steps };
    let effects = ordering.predict(&Touched::from([(1, Touch::Surely)])).effects;
    assert_eq!(effects, [Effect::Cached, Effect::Runs, Effect::Runs, Effect::AtMost]);
}

#[test]
fn what_is_not_known_of_an_edit_or_not_shown_of_it_is_said_at_most() {
    use Effect::{AtMost, Cached, Runs};
    let of = |touch| stages().predict(&Touched::from([(1, touch)])).effects;
    assert_eq!(of(Touch::Perhaps)[..3], [Cached, AtMost, AtMost]);
    assert_eq!(of(Touch::Hidden)[..3], [Cached, Runs, AtMost]);
    assert_eq!(of(Touch::Surely)[..3], [Cached, Runs, Runs]);
    assert!(
        Touch::Perhaps < Touch::Hidden && Touch::Hidden < Touch::Surely,
        "of two the stronger one counts"
    );
}

fn comparison() -> Comparison {
    let early = Ordering {
        name: "early.Dockerfile".to_owned(),
        steps: vec![
            step("[1/3] FROM a", &[], false, 0),
            step("[2/3] COPY . /app", &[(0, true)], true, 1_000),
            step("[3/3] RUN pip install", &[(1, true)], false, 33_000),
        ],
    };
    let late = Ordering {
        name: "late.Dockerfile".to_owned(),
        steps: vec![
            step("[1/4] FROM a", &[], false, 0),
            step("[2/4] COPY requirements.txt /", &[(0, true)], true, 0),
            step("[3/4] RUN pip install", &[(1, true)], false, 33_000),
            step("[4/4] COPY . /app", &[(2, true)], true, 1_000),
        ],
    };
    let edit = |name: &str, weight| Edit { name: name.to_owned(), weight };
    let surely = |places: &[usize]| places.iter().map(|place| (*place, Touch::Surely)).collect();
    let hits = |places: [&[usize]; 2]| places.map(surely).to_vec();
    let edits = vec![
        (edit("main.py <b>", 9), hits([&[1], &[3]])),
        (edit("requirements.txt", 1), hits([&[1], &[1, 3]])),
    ];
    Comparison::new(vec![early, late], edits, "commit")
}

#[test]
fn what_a_commit_costs_on_average() {
    let comparison = comparison();
    assert_eq!(comparison.expected(0).time, 34_000.0);
    assert_eq!(comparison.expected(1).time.round(), 4_300.0);
    let text = comparison.text(usize::MAX);
    assert!(text.contains("expected cost per commit: A 34.0s and 340.0kB, B 4.3s and 43.0kB"), "{text}");
    assert!(text.contains("2 of 2") && text.contains("1 of 3"), "{text}");
    assert!(!text.contains("never ran") && !text.contains("at least"), "{text}");
    assert!(text.contains("A PUSHED") && !text.contains(" pushed)"), "all of it is in the image: {text}");
    let json = comparison.json();
    assert_eq!(json["edits"][0]["orderings"][1]["runs"][0], "[4/4] COPY . /app");
    assert_eq!(json["edits"][0]["orderings"][1]["most"]["milliseconds"], 1_000);
}

/// A registry may have the layer of what is copied again although nothing of it changed.
#[test]
fn the_same_files_may_make_the_same_layer() {
    let steps = vec![
        step("[1/5] FROM a", &[], false, 0),
        step("[2/5] COPY a .", &[(0, true)], true, 1),
        step("[3/5] COPY b .", &[(1, true)], true, 20),
        step("[4/5] RUN make", &[(2, true)], false, 300),
        step("[5/5] COPY --from=x /y .", &[(3, true), (0, false)], true, 4_000),
    ];
    let ordering = Ordering { name: String::new(), steps };
    let pushed = |touched: &[usize]| {
        let prediction = ordering.predict(&touched.iter().map(|place| (*place, Touch::Surely)).collect());
        (prediction.least.pushed, prediction.most.pushed, prediction.most.stored)
    };
    // What a program does is taken for something else.
    assert_eq!(pushed(&[1]), (3_010, 43_210, 43_210));
    assert_eq!(pushed(&[2]), (3_200, 43_200, 43_200));
}

/// What only another stage has is stored, and in no image.
#[test]
fn what_is_pushed_is_in_the_image() {
    let mut comparison = comparison();
    comparison.orderings[0].steps[1].pushed = false;
    let edit = Edit { name: "x".to_owned(), weight: 1 };
    let touched = vec![Touched::from([(1, Touch::Surely)]), Touched::new()];
    let text = Comparison::new(comparison.orderings, vec![(edit, touched)], "edit").text(usize::MAX);
    assert!(text.contains("expected cost per edit: A 34.0s and 340.0kB (330.0kB pushed), B"), "{text}");
    let row = text.lines().find(|line| line.starts_with('x')).unwrap_or_default();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells[..8], ["x", "1", "2", "of", "2", "34.0s", "340.0kB", "330.0kB"], "{text}");
}

#[test]
fn what_is_not_known_is_said() {
    let mut comparison = comparison();
    comparison.orderings[0].steps[2].cost = None;
    let (orderings, hits) = (comparison.orderings, vec![Touched::from([(1, Touch::Surely)]), Touched::new()]);
    let edit = Edit { name: "x".to_owned(), weight: 1 };
    let comparison = Comparison::new(orderings, vec![(edit, hits)], "edit");
    let text = comparison.text(usize::MAX);
    assert!(text.contains("1.0s + ?") && text.contains("never ran here"), "{text}");
    assert!(text.contains("expected cost per edit: A at least 1.0s and "), "{text}");
    assert!(comparison.html().contains("<b>at least 1.0s</b>"));
    assert_eq!(comparison.json()["orderings"][0]["expected"]["unknown"], 1.0);
    // Of nothing that is known there is no sum.
    let mut orderings = comparison.orderings;
    orderings[0].steps.iter_mut().for_each(|step| (step.cost, step.bytes) = (None, None));
    let hits = vec![Touched::from([(1, Touch::Surely)]), Touched::new()];
    let edit = Edit { name: "x".to_owned(), weight: 1 };
    let text = Comparison::new(orderings, vec![(edit, hits)], "edit").text(usize::MAX);
    assert!(!text.contains("0.0s + ?") && text.contains(" ? "), "{text}");
}

#[test]
fn the_page_stands_alone_and_believes_nobody() {
    let page = comparison().html();
    assert!(page.contains("main.py &lt;b&gt;") && !page.contains("main.py <b>"));
    for outside in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("data-effects=\"rr\"") && page.contains("data-effects=\"cr\""), "{page}");
}

#[test]
fn without_files_there_is_one_sentence() {
    let lone = Comparison::new(vec![stages(), stages()], Vec::new(), "edit");
    let text = lone.text(80);
    assert_eq!(
        text,
        "A  Dockerfile\nB  Dockerfile\n\nNo file of the context is used, so no edit reruns a step.\n"
    );
}
