//! A comparison for a terminal and for programs.

use serde_json::{Value, json};

use super::{Comparison, Cost, Effect, OrderedStep, Prediction};
use crate::words;

/// So few edits are shown step by step.
const FEW: usize = 5;

impl Comparison {
    /// A table for a terminal, and the steps of each edit where there are few edits.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (index, ordering) in self.orderings.iter().enumerate() {
            text += &format!("{}  {}\n", letter(index), words::harmless(&ordering.name));
        }
        text.push('\n');
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut head = vec!["EDIT".to_owned(), "TIMES".to_owned()];
        for index in 0..self.orderings.len() {
            let letter = letter(index);
            head.extend([format!("{letter} RERUNS"), format!("{letter} TIME"), format!("{letter} LAYERS")]);
        }
        rows.push(head);
        for (edit, predictions) in self.edits.iter().zip(&self.predictions) {
            let mut row = vec![edit.name.clone(), edit.weight.to_string()];
            for (ordering, prediction) in self.orderings.iter().zip(predictions) {
                let steps = ordering.steps.iter().filter(|step| !step.source).count();
                row.extend(cells(prediction, steps));
            }
            rows.push(row);
        }
        text += &words::table(&rows, "", "<>");
        text += "\n";
        let costs = (0..self.orderings.len()).map(|index| {
            let expected = self.expected(index);
            let (time, bytes) = (words::time(expected.time as u64), words::bytes(expected.stored as u64));
            format!("{} {time} and {bytes}", letter(index))
        });
        text += &format!("expected cost per {}: {}\n", self.unit, costs.collect::<Vec<_>>().join(", "));
        if self.has_unknown() {
            text += "Steps marked ? were never built here, so their time is not known.\n";
        }
        if self.edits.len() <= FEW {
            for (edit, predictions) in self.edits.iter().zip(&self.predictions) {
                for (index, prediction) in predictions.iter().enumerate() {
                    text += &format!("\n{}, {}:\n", words::harmless(&edit.name), letter(index));
                    text += &self.steps(index, prediction);
                }
            }
        }
        text
    }

    /// The steps that run.
    fn steps(&self, ordering: usize, prediction: &Prediction) -> String {
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
            false => words::table(&rows, "  ", "<>><"),
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

/// Reruns, time and bytes of a prediction.
pub(super) fn cells(prediction: &Prediction, steps: usize) -> [String; 3] {
    let Prediction { least, most, .. } = prediction;
    let mark = if most.unknown > 0 { " + ?" } else { "" };
    let bound = if least.steps == most.steps { "" } else { "≤ " };
    [
        format!("{bound}{} of {steps}", most.steps),
        format!("{bound}{}{mark}", words::time(most.time)),
        format!("{bound}{}{mark}", words::bytes(most.stored)),
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
    })
}
