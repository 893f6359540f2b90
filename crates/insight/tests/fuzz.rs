//! Records of builds that come from elsewhere (`builder history import`, `builder explain --against-record`), thrown at their reader and at all that is
//! made of them, for as long as `FUZZ_SECONDS` says (2 without it), from a seed that `FUZZ_SEED` can repeat.

use std::time::{Duration, Instant, SystemTime};

use insight::{BuildRecord, Explanation, Subjects, Timings};
use proptest::test_runner::{RngAlgorithm, TestRng};
use serde_json::{Value, json};

/// Calls `throw` until the time is over.
fn for_a_while(mut throw: impl FnMut(&mut Dice)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let time = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(2));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number("FUZZ_SEED").unwrap_or(now.as_nanos() as u64);
    println!("FUZZ_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut dice = Dice(TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let (start, mut count) = (Instant::now(), 0);
    // So many also where the machine is busy: without a good one among them nothing is tested.
    while start.elapsed() < time || count < 50 {
        throw(&mut dice);
        count += 1;
    }
    println!("{count} throws");
}

struct Dice(TestRng);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        use proptest::prelude::Rng as _;
        self.0.next_u32() as usize % limit.max(1)
    }

    fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }
}

/// Two steps on a source; the reasons are all that there are.
fn record(id: &str) -> Value {
    let reasons = [
        json!("first_build"),
        json!("disabled"),
        json!({ "evicted": { "ago": 5, "why": "prune" } }),
        json!({ "lost": { "ago": 7 } }),
        json!("other_version"),
        json!({ "distrusted": { "cache": "r.example/c" } }),
        json!({ "input_changed": { "input": "COPY . .", "cause": "disabled" } }),
        json!({ "image_changed": { "old": "sha256:1", "new": "sha256:2" } }),
        json!({ "content_changed": { "paths": [], "more": 3 } }),
    ];
    let step = |index: usize, why: &Value| {
        json!({
            "name": format!("[build {index}/9] RUN step {index}"), "lines": [index, index + 1], "source": index == 0,
            "inputs": if index == 0 { json!([]) } else { json!([{ "step": index - 1, "whole": true }]) },
            "key": format!("{id}{index}"), "parts": null, "outcome": { "ran": { "why": why } },
            "began": index, "took": 1000, "cpu": 10, "cost": 900, "bytes": 5000,
        })
    };
    let mut steps: Vec<Value> = reasons.iter().enumerate().map(|(index, why)| step(index, why)).collect();
    steps[2]["outcome"] = json!("cached");
    steps[3]["outcome"] = json!({ "failed": { "message": "no", "why": null } });
    steps[4]["outcome"] = json!("cancelled");
    json!({
        "version": 1, "id": id, "builder": "1", "store": "here", "scope": "s", "dockerfile": "Dockerfile", "context": ".",
        "target": null, "options": { "build-arg A": "1" }, "names": ["app"], "started": 5000, "took": 9000,
        "result": "done", "image": "sha256:00", "steps": steps,
    })
}

/// Changes some place of a document.
fn damage(value: &mut Value, dice: &mut Dice) {
    let texts = ["", "\u{1b}[31m\u{202e}\n", "[", "[build 1/2] ", "[]] x", "9/9", "done", "ran", "é…\u{0}"];
    let numbers = [0, 1, 2, 255, u64::from(u32::MAX), i64::MAX as u64, u64::MAX];
    match value {
        Value::Array(all) if !all.is_empty() && dice.below(6) > 0 => {
            let at = dice.below(all.len());
            damage(&mut all[at], dice);
        }
        Value::Object(all) if !all.is_empty() && dice.below(8) > 0 => {
            let at = dice.below(all.len());
            if let Some(inner) = all.values_mut().nth(at) {
                damage(inner, dice);
            }
        }
        Value::Array(all) => match dice.below(3) {
            0 => all.clear(),
            1 => all.extend(all.clone()),
            _ => all.reverse(),
        },
        Value::Object(all) => {
            let key = all.keys().nth(dice.below(all.len())).cloned();
            key.map(|key| all.remove(&key));
        }
        other => {
            *other = match dice.below(4) {
                0 => Value::Null,
                1 => json!(dice.one_of(&texts)),
                2 => json!(dice.one_of(&numbers)),
                _ => json!(dice.one_of(&texts).repeat(1 + dice.below(300))),
            }
        }
    }
}

#[test]
fn records_of_elsewhere_for_a_while() {
    let own =
        BuildRecord::from_json(record("a").to_string().as_bytes()).expect("the one that all begin with");
    let mut good = 0;
    for_a_while(|dice| {
        let mut document = record(dice.one_of(&["a", "b"]));
        for _ in 0..=dice.below(6) {
            damage(&mut document, dice);
        }
        let mut bytes = document.to_string().into_bytes();
        if dice.below(8) == 0 {
            let at = dice.below(bytes.len());
            bytes[at] = dice.below(256) as u8;
        }
        let Ok(other) = BuildRecord::from_json(&bytes) else { return };
        good += 1;
        assert_eq!(BuildRecord::from_json(&other.to_json()).as_ref(), Ok(&other), "written and read again");
        let listing = |name: &str| other.listings.get(name).cloned();
        let both = [
            Explanation::of(&other),
            Explanation::against(&own, &other, &listing),
            Explanation::against(&other, &own, &listing),
            Explanation::against(&other, &other, &listing),
        ];
        for explanation in both {
            let text = explanation.text(dice.one_of(&[0, 1, 40, 80, usize::MAX]));
            assert!(!text.contains('\u{1b}'), "{text:?}");
            for step in 0..explanation.build.steps.len() {
                explanation.sentence(step);
                explanation.json(Some(step));
            }
            explanation.json(None);
        }
        for text in ["", "0", "1", "18446744073709551615", "1/9", "build 1/9", "RUN", "["] {
            other.find_step(text);
        }
        other.executed();
        for place in [0, 1, usize::MAX] {
            other.step_number(place);
        }
        let timings =
            Timings::new(&other, Vec::new(), &Subjects::default(), Duration::from_millis(other.took));
        timings.json();
        let page = timings.html();
        assert!(!page.contains("<script>alert"), "{page}");
    });
    assert!(good > 0, "nothing good came through, so this tests nothing");
}
