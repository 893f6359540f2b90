//! Reads the progress that `--progress=rawjson` writes.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// One vertex of a build, as its last report has it.
#[derive(Debug, Clone, Default)]
pub struct Step {
    /// As shown: `[build 2/5] RUN make`.
    pub name: String,
    /// Found in the cache.
    pub cached: bool,
    /// Began.
    pub started: bool,
    /// Came to an end.
    pub completed: bool,
    /// Why it failed.
    pub error: Option<String>,
    /// Everything it wrote.
    pub log: String,
}

/// The steps of a build in the order in which they were first reported.
#[derive(Debug, Default)]
pub struct Steps {
    steps: Vec<Step>,
}

impl Steps {
    /// Reads the lines of a SolveStatus each.
    ///
    /// # Panics
    /// When a line that begins like JSON is none, or there is no step at all.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut steps = Self::default();
        let mut positions = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with('{')) {
            let status: Value =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}"));
            for vertex in list(&status, "vertexes") {
                let digest = vertex["digest"].as_str().expect("a vertex has a digest").to_owned();
                let at = *positions.entry(digest).or_insert_with(|| {
                    steps.steps.push(Step::default());
                    steps.steps.len() - 1
                });
                let step = &mut steps.steps[at];
                if let Some(name) = vertex["name"].as_str() {
                    step.name = name.to_owned();
                }
                step.cached |= vertex["cached"].as_bool().unwrap_or(false);
                step.started |= vertex["started"].is_string();
                step.completed |= vertex["completed"].is_string();
                if let Some(error) = vertex["error"].as_str().filter(|error| !error.is_empty()) {
                    step.error = Some(error.to_owned());
                }
            }
            for log in list(&status, "logs") {
                let of = log["vertex"].as_str().expect("a log names its vertex");
                let data = STANDARD.decode(log["data"].as_str().unwrap_or_default()).expect("base64");
                let at = *positions.get(of).expect("a log comes after its vertex");
                steps.steps[at].log += &String::from_utf8_lossy(&data);
            }
        }
        assert!(!steps.steps.is_empty(), "no progress in:\n{text}");
        steps
    }

    /// The instructions of stages, without `FROM`: what can be executed.
    pub fn instructions(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| {
            let parts = step.name.strip_prefix('[').and_then(|name| name.split_once("] "));
            parts.is_some_and(|(stage, text)| stage.contains('/') && !text.starts_with("FROM "))
        })
    }

    /// The texts of the instructions that were executed: `COPY a /a`.
    pub fn executed(&self) -> Vec<&str> {
        self.instructions().filter(|step| !step.cached && step.completed).map(Step::text).collect()
    }

    /// The texts of the instructions that were found in the cache.
    pub fn cached(&self) -> Vec<&str> {
        self.instructions().filter(|step| step.cached).map(Step::text).collect()
    }

    /// The first step whose name holds a text.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn named(&self, text: &str) -> &Step {
        let found = self.steps.iter().find(|step| step.name.contains(text));
        found.unwrap_or_else(|| panic!("no step {text:?} in {:#?}", self.steps))
    }

    /// All of them.
    pub fn all(&self) -> &[Step] {
        &self.steps
    }

    /// Fails unless there were instructions, each was found in the cache, and none wrote anything.
    ///
    /// # Panics
    /// With the steps.
    #[track_caller]
    pub fn all_cached(&self) {
        assert!(self.instructions().next().is_some(), "no instructions in {:#?}", self.steps);
        assert_eq!(self.executed(), [""; 0], "executed although nothing changed");
        let talking: Vec<&Step> = self.instructions().filter(|step| !step.log.is_empty()).collect();
        assert!(talking.is_empty(), "output of cached steps: {talking:#?}");
    }
}

impl Step {
    /// The instruction without the stage in front of it.
    pub fn text(&self) -> &str {
        self.name.split_once("] ").map_or(&self.name, |(_, text)| text)
    }
}

fn list<'a>(status: &'a Value, name: &str) -> &'a [Value] {
    status[name].as_array().map_or(&[], Vec::as_slice)
}
