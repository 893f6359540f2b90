//! A comparison for a terminal and for programs.

use serde_json::{Value, json};
use unicode_width::UnicodeWidthStr as _;

use super::{Comparison, Cost, Effect, Expected, OrderedStep, Prediction};
use crate::words;

/// So few edits are shown step by step.
const FEW: usize = 5;

impl Comparison {
    /// A table for a terminal, and the steps of each edit where there are few edits. Tables are made to fit into so many columns: where one
    /// for all orderings does not, each ordering has its own.
    pub fn text(&self, columns: usize) -> String {
        let mut text = String::new();
        for (index, ordering) in self.orderings.iter().enumerate() {
            text += &format!("{}  {}\n", letter(index), words::harmless(&ordering.name));
        }
        text.push('\n');
        if let Some(sentence) = self.nothing() {
            return text + &sentence + "\n";
        }
        let all: Vec<usize> = (0..self.orderings.len()).collect();
        let side_by_side = self.table(&all, columns);
        if side_by_side.lines().all(|line| line.width() <= columns) {
            text += &side_by_side;
        } else {
            let alone = all.iter().map(|index| self.table(&[*index], columns));
            text += &alone.collect::<Vec<_>>().join("\n");
        }
        text += "\n";
        let costs = (0..self.orderings.len()).map(|index| {
            let [time, bytes, pushed] = amounts(&self.expected(index));
            match pushed == bytes {
                true => format!("{} {time} and {bytes}", letter(index)),
                false => format!("{} {time} and {bytes} ({pushed} pushed)", letter(index)),
            }
        });
        text += &format!("expected cost per {}: {}\n", self.unit, costs.collect::<Vec<_>>().join(", "));
        if self.has_unknown() {
            text += "Where there is a ?, some of the steps never ran here, so what they take is not known: they came with --cache-from, or \
                     --no-build was given.\n";
        }
        if self.edits.len() <= FEW {
            for (edit, predictions) in self.edits.iter().zip(&self.predictions) {
                for (index, prediction) in predictions.iter().enumerate() {
                    text += &format!("\n{}, {}:\n", words::harmless(&edit.name), letter(index));
                    text += &self.steps(index, prediction, columns);
                }
            }
        }
        text
    }

    /// What there is to say when nothing that is edited is used.
    pub(super) fn nothing(&self) -> Option<String> {
        let sentence = || format!("No file of the context is used, so no {} reruns a step.", self.unit);
        self.edits.is_empty().then(sentence)
    }

    /// What each edit costs under these orderings.
    fn table(&self, orderings: &[usize], columns: usize) -> String {
        let mut head = vec!["EDIT".to_owned(), "TIMES".to_owned()];
        for index in orderings {
            let letter = letter(*index);
            head.extend(["RERUNS", "TIME", "LAYERS", "PUSHED"].map(|what| format!("{letter} {what}")));
        }
        let mut rows = vec![head];
        for (edit, predictions) in self.edits.iter().zip(&self.predictions) {
            let mut row = vec![edit.name.clone(), edit.weight.to_string()];
            for index in orderings {
                let Some(prediction) = predictions.get(*index) else { continue };
                let steps = self.orderings[*index].steps.iter().filter(|step| !step.source).count();
                row.extend(cells(prediction, steps));
            }
            rows.push(row);
        }
        words::table(&rows, "", "<>", 0, columns)
    }

    /// The steps that run.
    fn steps(&self, ordering: usize, prediction: &Prediction, columns: usize) -> String {
        let steps = self.orderings[ordering].steps.iter().zip(&prediction.effects);
        let rows: Vec<Vec<String>> = steps
            .filter(|(_, effect)| **effect != Effect::Cached)
            .map(|(step, effect)| {
                let note = if *effect == Effect::AtMost { "at most" } else { "" };
                vec![
                    step.name.clone(),
                    time(step),
                    step.bytes.map_or("?".into(), words::bytes),
                    note.to_owned(),
                ]
            })
            .collect();
        match rows.is_empty() {
            true => "  everything is cached\n".to_owned(),
            false => words::table(&rows, "  ", "<>><", 0, columns),
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let orderings = self.orderings.iter().enumerate().map(|(index, ordering)| {
            let step = |step: &OrderedStep| {
                json!({
                    "name": step.name,
                    "source": step.source,
                    "milliseconds": step.cost,
                    "bytes": step.bytes,
                    "pushed": step.pushed,
                })
            };
            let expected = self.expected(index);
            json!({
                "name": ordering.name,
                "steps": ordering.steps.iter().map(step).collect::<Vec<_>>(),
                "expected": {
                    "steps": expected.steps,
                    "milliseconds": expected.time,
                    "stored": expected.stored,
                    "pushed": expected.pushed,
                    "unknown": expected.unknown,
                    "unsized": expected.unsized_layers,
                },
            })
        });
        let edits = self.edits.iter().zip(&self.predictions).map(|(edit, predictions)| {
            let prediction = |(index, prediction): (usize, &Prediction)| {
                let named = |wanted: Effect| {
                    let steps = self.orderings[index].steps.iter().zip(&prediction.effects);
                    let names = steps.filter(|(_, effect)| **effect == wanted).map(|(step, _)| &step.name);
                    names.collect::<Vec<_>>()
                };
                json!({
                    "runs": named(Effect::Runs),
                    "at_most": named(Effect::AtMost),
                    "least": cost(&prediction.least),
                    "most": cost(&prediction.most),
                })
            };
            json!({
                "name": edit.name,
                "times": edit.weight,
                "orderings": predictions.iter().enumerate().map(prediction).collect::<Vec<_>>(),
            })
        });
        json!({
            "unit": self.unit,
            "orderings": orderings.collect::<Vec<_>>(),
            "edits": edits.collect::<Vec<_>>(),
        })
    }
}

/// What the orderings are called in tables.
pub(super) fn letter(index: usize) -> char {
    char::from_u32('A' as u32 + index as u32).unwrap_or('?')
}

pub(super) fn time(step: &OrderedStep) -> String {
    step.cost.map_or_else(|| "?".to_owned(), words::time)
}

/// Time, bytes and bytes to push that are expected, in words: nothing that is unknown counts as nothing.
pub(super) fn amounts(expected: &Expected) -> [String; 3] {
    let amount = |known: f64, text: String, unknown: f64, what: &str| match unknown > 0.0 {
        true if known == 0.0 => format!("unknown {what}"),
        true => format!("at least {text}"),
        false => text,
    };
    [
        amount(expected.time, words::time(expected.time as u64), expected.unknown, "time"),
        amount(expected.stored, words::bytes(expected.stored as u64), expected.unsized_layers, "bytes"),
        amount(expected.pushed, words::bytes(expected.pushed as u64), expected.unsized_layers, "bytes"),
    ]
}

/// Reruns, time, bytes and bytes to push of a prediction.
pub(super) fn cells(prediction: &Prediction, steps: usize) -> [String; 4] {
    let Prediction { least, most, .. } = prediction;
    let bound = if least.steps == most.steps { "" } else { "≤ " };
    let amount = |known: u64, unknown: u64, text: String| match (known, unknown) {
        (_, 0) => format!("{bound}{text}"),
        (0, _) => "?".to_owned(),
        _ => format!("{bound}{text} + ?"),
    };
    [
        format!("{bound}{} of {steps}", most.steps),
        amount(most.time, most.unknown, words::time(most.time)),
        amount(most.stored, most.unsized_layers, words::bytes(most.stored)),
        match (most.unsized_layers, least.pushed == most.pushed) {
            (0, true) => words::bytes(most.pushed),
            (0, false) => format!("≤ {}", words::bytes(most.pushed)),
            (unknown, _) => amount(most.pushed, unknown, words::bytes(most.pushed)),
        },
    ]
}

fn cost(cost: &Cost) -> Value {
    json!({
        "steps": cost.steps,
        "milliseconds": cost.time,
        "work": cost.work,
        "stored": cost.stored,
        "pushed": cost.pushed,
        "unknown": cost.unknown,
        "unsized": cost.unsized_layers,
    })
}
