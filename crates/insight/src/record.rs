//! What is kept of a build, to be asked about later.

use std::collections::BTreeMap;

use graph::{KeyParts, Listing, MissReason};
use serde::{Deserialize, Serialize};

/// Version of [`BuildRecord`] as JSON. Readers of a version read all additions to it.
pub const RECORD_VERSION: u32 = 1;

/// A build that ended, in whatever way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// What users call it.
    pub id: String,
    /// Which program built: its version.
    pub builder: String,
    /// Names the state directory, without telling anything about it: hidden values compare only within one.
    pub store: String,
    /// What builds have in common that follow one another: Dockerfile, target, platform.
    pub scope: String,
    /// The Dockerfile, as given.
    pub dockerfile: String,
    /// The build context, as given.
    pub context: String,
    /// The stage asked for.
    pub target: Option<String>,
    /// Options that tell builds apart, as on the command line; values of secret ones are left out.
    pub options: BTreeMap<String, String>,
    /// Names that the image was to get, in full: `registry/repository:tag`.
    pub names: Vec<String>,
    /// When it began, in milliseconds since 1970.
    pub started: u64,
    /// Milliseconds from begin to end.
    pub took: u64,
    /// How it ended.
    pub result: BuildResult,
    /// The image's id, when there is one.
    pub image: Option<String>,
    /// The images that it delivered, in the order of its outputs. Older programs did not write them down.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given: Vec<GivenImage>,
    /// How it was asked for; `None` when that cannot be written down, and in a record that left its machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation: Option<Invocation>,
    /// The images that were found by name: `NAME PLATFORM`, and the digest of the manifest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub images: BTreeMap<String, String>,
    /// The digest of the Dockerfile's text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerfile_digest: Option<String>,
    /// What repositories and files elsewhere were: `REMOTE[#REFERENCE]` and the full reference with the id of its object, or an address
    /// and the digest of its bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fetched: BTreeMap<String, String>,
    /// Its steps and sources, in topological order.
    pub steps: Vec<StepRecord>,
    /// The files that steps used, by name of the listing: only in a record that left its machine.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub listings: BTreeMap<String, Listing>,
}

/// An image that a build delivered, with the digests that its names had then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenImage {
    /// Its names, in full: `registry/repository:tag`.
    pub names: Vec<String>,
    /// The digest of its index, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
    /// The digest of its manifest for each platform.
    pub manifests: BTreeMap<String, String>,
}

/// How a build was asked for, so that it can be done again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invocation {
    /// The working directory.
    pub directory: String,
    /// What followed `build` on the command line. Values of build arguments with secret-like names are left out: a name alone takes the
    /// value from the environment.
    pub arguments: Vec<String>,
    /// `SOURCE_DATE_EPOCH`, as the environment had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
}

/// How a build ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildResult {
    /// It was built.
    Done,
    /// It failed.
    Failed {
        /// One line.
        message: String,
    },
    /// The user gave it up.
    Cancelled,
}

/// A step or source of a build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// As shown: `[build 2/5] RUN make`.
    pub name: String,
    /// First and last line in the Dockerfile.
    pub lines: Option<(u32, u32)>,
    /// Whether it brings something from outside.
    pub source: bool,
    /// What it uses.
    pub inputs: Vec<StepInput>,
    /// Its definition key; `None` for sources, and where the build did not come to know it.
    pub key: Option<String>,
    /// What went into that.
    pub parts: Option<KeyParts>,
    /// How it ended; `None` when nothing of it was needed, or the build ended before.
    pub outcome: Option<StepOutcome>,
    /// When it began, in milliseconds since the build did.
    pub began: Option<u64>,
    /// Milliseconds that it took in this build.
    pub took: Option<u64>,
    /// Milliseconds of processor time that its processes took in this build, with all that they started: what is far below `took` waited, for
    /// others on a busy machine, the disk or the network. `None` where nothing ran, and in records of older programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u64>,
    /// Milliseconds that it took when it was executed last: what the cache saves. `None` also for what was executed elsewhere.
    pub cost: Option<u64>,
    /// Bytes of files in its own layer.
    pub bytes: Option<u64>,
}

/// An edge between steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepInput {
    /// The place of the used one in [`BuildRecord::steps`].
    pub step: usize,
    /// Whether all of it is used, as opposed to selected files.
    pub whole: bool,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOutcome {
    /// Its result was there.
    Cached,
    /// It was executed.
    Ran {
        /// Why it was not cached; `None` for what never is (a local context).
        why: Option<MissReason>,
    },
    /// It failed.
    Failed {
        /// One line.
        message: String,
        /// Why it was not cached.
        why: Option<MissReason>,
    },
    /// Given up because another failed or the user asked.
    Cancelled,
}

impl StepRecord {
    /// Why it was executed; `None` when it was not.
    pub fn why(&self) -> Option<&MissReason> {
        match self.outcome.as_ref()? {
            StepOutcome::Ran { why } | StepOutcome::Failed { why, .. } => why.as_ref(),
            StepOutcome::Cached | StepOutcome::Cancelled => None,
        }
    }

    /// Whether it was executed, to whatever end.
    pub fn ran(&self) -> bool {
        !self.source && matches!(self.outcome, Some(StepOutcome::Ran { .. } | StepOutcome::Failed { .. }))
    }

    /// Whether its result was found, or not even looked for because what stands on it was found.
    pub fn is_cached(&self) -> bool {
        !self.source && matches!(self.outcome, Some(StepOutcome::Cached))
    }

    /// Its instruction: the name without the place, as reasons have it.
    pub fn title(&self) -> &str {
        let title = crate::picture::taken_apart(&self.name).2;
        let of_context = || {
            let (_, text) = title.strip_prefix("[context ")?.split_once("] ")?;
            Some(text).filter(|text| text.starts_with(graph::MOUNTED))
        };
        title.strip_prefix("[internal] ").or_else(of_context).unwrap_or(title)
    }

    /// The number of a name that has one: `3/5`.
    pub fn number(&self) -> &str {
        crate::picture::taken_apart(&self.name).1
    }
}

#[cfg(test)]
impl BuildRecord {
    /// One of these steps, for tests.
    pub(crate) fn of_steps(id: &str, steps: Vec<StepRecord>) -> BuildRecord {
        BuildRecord {
            version: RECORD_VERSION,
            id: id.to_owned(),
            builder: "0".to_owned(),
            store: "here".to_owned(),
            scope: String::new(),
            dockerfile: "Dockerfile".to_owned(),
            context: ".".to_owned(),
            target: None,
            options: BTreeMap::new(),
            names: Vec::new(),
            started: 0,
            took: 0,
            result: BuildResult::Done,
            image: None,
            given: Vec::new(),
            invocation: None,
            images: BTreeMap::new(),
            dockerfile_digest: None,
            fetched: BTreeMap::new(),
            steps,
            listings: BTreeMap::new(),
        }
    }
}

impl BuildRecord {
    /// Reads what [`BuildRecord::to_json`] wrote, on this machine or another.
    ///
    /// # Errors
    /// In words, when it is no record or one of a newer program.
    pub fn from_json(bytes: &[u8]) -> Result<BuildRecord, String> {
        let record: BuildRecord =
            serde_json::from_slice(bytes).map_err(|error| format!("it is no build record: {error}"))?;
        if record.version > RECORD_VERSION {
            return Err(format!("a newer version wrote it (format {})", record.version));
        }
        let steps = record.steps.len();
        let inputs = |(index, step): (usize, &StepRecord)| step.inputs.iter().all(|input| input.step < index);
        if !record.steps.iter().enumerate().all(inputs) {
            return Err(format!("it is no build record: its {steps} steps are out of order"));
        }
        Ok(record)
    }

    /// As JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // Maps have text for keys, so nothing can fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// How many of its steps were executed, and how many could have been.
    pub fn executed(&self) -> (usize, usize) {
        let steps = self.steps.iter().filter(|step| !step.source && step.outcome.is_some());
        (self.steps.iter().filter(|step| step.ran()).count(), steps.count())
    }

    /// The number by which [`BuildRecord::find_step`] finds a step; sources have none.
    pub fn step_number(&self, place: usize) -> Option<usize> {
        let is_step = self.steps.get(place).is_some_and(|step| !step.source);
        is_step.then(|| self.steps[..=place].iter().filter(|step| !step.source).count())
    }

    /// The step that a user means by a number (from 1), by `3/5`, `build 3/5`, or by the beginning of its instruction.
    pub fn find_step(&self, text: &str) -> Option<usize> {
        let steps = || self.steps.iter().enumerate().filter(|(_, step)| !step.source);
        // Numbers of one stage are of one width: `[build  2/12]`.
        let spaced = |name: &str| name.split_whitespace().collect::<Vec<_>>().join(" ");
        let place = format!("[{}] ", spaced(text));
        let exact = steps().find(|(_, step)| step.number() == text || spaced(&step.name).starts_with(&place));
        let by_number = || text.parse::<usize>().ok().and_then(|n| steps().nth(n.checked_sub(1)?));
        let by_text = || steps().find(|(_, step)| step.title().starts_with(text));
        exact.or_else(by_number).or_else(by_text).map(|(index, _)| index)
    }
}
