//! An explanation for people and for programs.

use serde_json::{Value, json};

use super::{Cause, Explanation};
use crate::record::{BuildResult, StepRecord};
use crate::words;

impl Explanation<'_> {
    /// For a terminal: a paragraph a cause. Tables are made to fit into so many columns.
    pub fn text(&self, columns: usize) -> String {
        let (ran, all) = self.build.executed();
        // Records of elsewhere may hold any number.
        let sum = |all: &mut dyn Iterator<Item = u64>| all.fold(0, u64::saturating_add);
        let time = sum(&mut self.build.steps.iter().filter(|step| step.ran()).filter_map(|step| step.took));
        let ran_steps = self.build.steps.iter().filter(|step| step.ran());
        let sizes: Vec<u64> = ran_steps.filter_map(|step| step.bytes).collect();
        // Of a build that was interrupted they are not known.
        let bytes = match sizes.is_empty() && ran > 0 {
            true => String::new(),
            false => format!(", {} of new layers", words::bytes(sum(&mut sizes.iter().copied()))),
        };
        let mut text = format!(
            "build {} of {}: {ran} of {all} steps ran, {} of work{bytes}\n",
            words::harmless(&self.build.id),
            words::harmless(&self.build.dockerfile),
            words::time(time),
        );
        if let Some(other) = self.against {
            let (id, dockerfile) = (words::harmless(&other.id), words::harmless(&other.dockerfile));
            text += &format!("against build {id} of {dockerfile}\n");
        }
        if self.causes.is_empty() {
            text += match self.against {
                Some(_) => "\nNothing is different.\n",
                None if all == 0 => "\nIt has no steps.\n",
                None if self.build.result != BuildResult::Done => "\nIt ended before a step did.\n",
                None => "\nEverything was cached.\n",
            };
        }
        for cause in &self.causes {
            text += &format!("\n{}\n", words::harmless(&cause.text));
            for more in &cause.more {
                text += &format!("  and {}\n", words::harmless(more));
            }
            let mut rows: Vec<Vec<String>> = Vec::new();
            let mut steps: Vec<usize> = cause.hit.iter().chain(&cause.dragged).copied().collect();
            steps.sort_unstable();
            for index in steps {
                let step = &self.build.steps[index];
                let role = if cause.hit.contains(&index) { "" } else { "stands on it" };
                let [time, bytes] = amounts(step);
                rows.push(vec![self.number(index), step.name.clone(), time, bytes, role.to_owned()]);
            }
            text += &words::table(&rows, "  ", "><>><", 1, columns);
            let count = cause.hit.len() + cause.dragged.len();
            if count > 1 {
                let (time, bytes) = (words::time(cause.time), words::bytes(cause.bytes));
                text += &format!("  {count} steps: {time}, {bytes}\n");
            }
        }
        text
    }

    /// One line for one step: `RUN npm ci: package-lock.json changed (COPY package*.json ./)`.
    pub fn sentence(&self, index: usize) -> String {
        let step = &self.build.steps[index];
        let title = words::harmless(step.title());
        let mut causes = self.of_step(index);
        let Some(cause) = causes.next() else {
            return match step.is_cached() {
                true => format!("{title}: it was cached\n"),
                false => format!("{title}: it was not reached\n"),
            };
        };
        let mut text = format!("{title}: {}", words::harmless(&cause.text));
        if let Some(first) = cause.hit.first().filter(|_| !cause.hit.contains(&index)) {
            text += &format!(" ({})", words::harmless(self.build.steps[*first].title()));
        }
        text += "\n";
        for more in cause.more.iter().filter(|_| cause.hit.contains(&index)) {
            text += &format!("  and {}\n", words::harmless(more));
        }
        for besides in causes {
            text += &format!("  and {}", words::harmless(&besides.text));
            if let Some(first) = besides.hit.first() {
                text += &format!(" ({})", words::harmless(self.build.steps[*first].title()));
            }
            text += "\n";
        }
        text
    }

    /// The number by which a step can be asked for.
    fn number(&self, index: usize) -> String {
        self.build.step_number(index).map(|number| number.to_string()).unwrap_or_default()
    }

    /// For programs.
    pub fn json(&self, only: Option<usize>) -> Value {
        let wanted = |cause: &&Cause| {
            only.is_none_or(|step| cause.hit.contains(&step) || cause.dragged.contains(&step))
        };
        let causes: Vec<Value> =
            self.causes.iter().filter(wanted).map(|cause| self.cause_json(cause)).collect();
        let (ran, all) = self.build.executed();
        json!({
            "build": self.build.id,
            "against": self.against.map(|build| &build.id),
            "dockerfile": self.build.dockerfile,
            "executed": ran,
            "steps": all,
            "causes": causes,
        })
    }

    fn cause_json(&self, cause: &Cause) -> Value {
        let steps = |places: &[usize]| -> Vec<Value> {
            let step = |place: &usize| {
                let step = &self.build.steps[*place];
                json!({
                    "name": step.name,
                    "number": self.build.step_number(*place),
                    "lines": step.lines,
                    "ran": step.ran(),
                    "milliseconds": step.took.filter(|_| step.ran()),
                    "bytes": step.bytes.filter(|_| step.ran()),
                })
            };
            places.iter().map(step).collect()
        };
        json!({
            "cause": cause.text,
            "more": cause.more,
            "reason": cause.reason,
            "hit": steps(&cause.hit),
            "dragged": steps(&cause.dragged),
            "milliseconds": cause.time,
            "bytes": cause.bytes,
        })
    }
}

fn amounts(step: &StepRecord) -> [String; 2] {
    if !step.ran() {
        return ["cached".to_owned(), String::new()];
    }
    [step.took.map(words::time).unwrap_or_default(), step.bytes.map(words::bytes).unwrap_or_default()]
}
