use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use graph::{Definition, Event, LogStream, MissReason, Outcome, VertexId};
use hash::{StableHasher, VertexDigest};

use super::log::LogText;
use super::{FailedStep, Report};

/// What is reported.
pub(super) enum Message {
    /// All vertices in order.
    Define(Vec<Defined>),
    Event(Event),
    /// A task began.
    Task {
        number: usize,
        name: String,
        at: SystemTime,
    },
    Progress {
        key: StepKey,
        progressed: Progressed,
    },
    Warning {
        key: StepKey,
        message: String,
    },
    Finished {
        key: StepKey,
        outcome: Outcome,
        at: SystemTime,
    },
    /// Whatever the steps say, the build failed.
    GiveUp,
    /// Nothing follows.
    Finish,
}

/// A vertex as displays need it.
pub(super) struct Defined {
    name: String,
    digest: VertexDigest,
    inputs: Vec<VertexDigest>,
}

impl Message {
    pub(super) fn define(definition: &Definition) -> Message {
        let vertices = definition.iter().map(|(id, vertex)| Defined {
            name: vertex.name.clone(),
            digest: definition.digest(id),
            inputs: vertex.inputs.iter().map(|input| definition.digest(input.vertex)).collect(),
        });
        Message::Define(vertices.collect())
    }
}

/// Vertices and tasks are numbered on their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum StepKey {
    Vertex(VertexId),
    Task(usize),
}

/// News of one countable part of a step.
pub(super) struct Progressed {
    pub(super) id: String,
    pub(super) current: u64,
    pub(super) total: u64,
    pub(super) at: SystemTime,
    pub(super) complete: bool,
}

/// What a message changed, by the step's index.
pub(super) enum Change {
    /// Steps that may come later.
    Defined(std::ops::Range<usize>),
    Started(usize),
    Log {
        step: usize,
        stream: LogStream,
        data: Vec<u8>,
        at: SystemTime,
    },
    /// The second is the status' index.
    Status(usize, usize),
    Warned(usize),
    Finished(usize),
}

/// All that is known of the build.
pub(super) struct Model {
    pub(super) steps: Vec<Step>,
    /// Steps that have begun, in that order.
    pub(super) begun: Vec<usize>,
    /// When the first began.
    pub(super) since: Option<SystemTime>,
    /// Whether the result of a step was found; that of one that works on nothing (an image) says little.
    pub(super) has_cached: bool,
    /// Whether something failed that is no step.
    has_failed: bool,
    by_key: HashMap<StepKey, usize>,
    repeated_lines: usize,
}

/// A vertex or a task.
pub(super) struct Step {
    /// Harmless text on one line.
    pub(super) name: String,
    pub(super) digest: VertexDigest,
    pub(super) inputs: Vec<VertexDigest>,
    pub(super) started: Option<SystemTime>,
    pub(super) ended: Option<(SystemTime, Outcome)>,
    pub(super) statuses: Vec<Status>,
    pub(super) warnings: Vec<String>,
    /// The end of its output.
    pub(super) log: LogText,
}

/// A countable part of a step.
pub(super) struct Status {
    pub(super) id: String,
    pub(super) current: u64,
    /// 0 when unknown.
    pub(super) total: u64,
    pub(super) started: SystemTime,
    pub(super) updated: SystemTime,
    pub(super) completed: Option<SystemTime>,
}

impl Step {
    fn new(name: &str, digest: VertexDigest, inputs: Vec<VertexDigest>, lines: usize) -> Step {
        Step {
            name: super::format::harmless(name),
            digest,
            inputs,
            started: None,
            ended: None,
            statuses: Vec::new(),
            warnings: Vec::new(),
            log: LogText::new(lines),
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.started.is_some() && self.ended.is_none()
    }

    /// Why it was not cached. That an image was never fetched here is nothing to wonder about.
    pub(super) fn miss(&self) -> Option<&MissReason> {
        match &self.ended {
            Some((_, Outcome::Done { reason: Some(MissReason::FirstBuild) })) if self.inputs.is_empty() => {
                None
            }
            Some((_, Outcome::Done { reason })) => reason.as_ref(),
            _ => None,
        }
    }

    /// How long it has been running, or ran.
    pub(super) fn elapsed(&self, now: SystemTime) -> Duration {
        let end = self.ended.as_ref().map_or(now, |(at, _)| *at);
        self.started.and_then(|started| end.duration_since(started).ok()).unwrap_or_default()
    }

    /// The time of something since the step began.
    pub(super) fn time_of(&self, at: SystemTime) -> Duration {
        self.started.and_then(|started| at.duration_since(started).ok()).unwrap_or_default()
    }
}

impl Status {
    pub(super) fn elapsed(&self, now: SystemTime) -> Duration {
        self.completed.unwrap_or(now).duration_since(self.started).unwrap_or_default()
    }
}

impl Model {
    /// Keeps as many lines of each step's output.
    pub(super) fn new(repeated_lines: usize) -> Model {
        Model {
            steps: Vec::new(),
            begun: Vec::new(),
            since: None,
            has_cached: false,
            has_failed: false,
            by_key: HashMap::new(),
            repeated_lines,
        }
    }

    pub(super) fn apply(&mut self, message: Message) -> Vec<Change> {
        match message {
            Message::Define(vertices) => {
                let first = self.steps.len();
                for (index, vertex) in vertices.into_iter().enumerate() {
                    let key = StepKey::Vertex(VertexId(index));
                    self.add(key, &vertex.name, vertex.digest, vertex.inputs);
                }
                vec![Change::Defined(first..self.steps.len())]
            }
            Message::Task { number, name, at } => {
                let hasher = StableHasher::new("progress-task-v1").with(&(number as u64)).with(name.as_str());
                let digest = VertexDigest::from_bytes(hasher.finish());
                let step = self.add(StepKey::Task(number), &name, digest, Vec::new());
                self.start(step, at)
            }
            Message::Event(event) => self.event(event),
            Message::Progress { key, progressed } => self.progress(key, progressed),
            Message::Warning { key, message } => self.warn(key, &message),
            Message::Finished { key, outcome, at } => self.end(key, outcome, at),
            Message::GiveUp => {
                self.has_failed = true;
                Vec::new()
            }
            Message::Finish => Vec::new(),
        }
    }

    fn event(&mut self, event: Event) -> Vec<Change> {
        match event {
            Event::Started { vertex, at } => match self.by_key.get(&StepKey::Vertex(vertex)) {
                Some(step) => self.start(*step, at),
                None => Vec::new(),
            },
            Event::Log { vertex, stream, data, at } => {
                let Some(&step) = self.by_key.get(&StepKey::Vertex(vertex)) else { return Vec::new() };
                let mut changes = self.start(step, at);
                let time = self.steps[step].time_of(at);
                self.steps[step].log.write(&data, time);
                changes.push(Change::Log { step, stream, data, at });
                changes
            }
            Event::Progress { vertex, id, current, total, at } => {
                let complete = total > 0 && current >= total;
                self.progress(StepKey::Vertex(vertex), Progressed { id, current, total, at, complete })
            }
            // For records of the build.
            Event::Computed { .. } => Vec::new(),
            Event::Warning { vertex, message } => self.warn(StepKey::Vertex(vertex), &message),
            Event::Finished { vertex, outcome, at } => self.end(StepKey::Vertex(vertex), outcome, at),
        }
    }

    fn add(&mut self, key: StepKey, name: &str, digest: VertexDigest, inputs: Vec<VertexDigest>) -> usize {
        let step = self.steps.len();
        self.steps.push(Step::new(name, digest, inputs, self.repeated_lines));
        self.by_key.insert(key, step);
        step
    }

    /// Begins a step unless it has begun.
    fn start(&mut self, step: usize, at: SystemTime) -> Vec<Change> {
        if self.steps[step].started.is_some() {
            return Vec::new();
        }
        self.steps[step].started = Some(at);
        self.since.get_or_insert(at);
        self.begun.push(step);
        vec![Change::Started(step)]
    }

    fn progress(&mut self, key: StepKey, news: Progressed) -> Vec<Change> {
        let Some(&step) = self.by_key.get(&key) else { return Vec::new() };
        let mut changes = self.start(step, news.at);
        let id = super::format::harmless(&news.id);
        let statuses = &mut self.steps[step].statuses;
        let index = statuses.iter().position(|status| status.id == id).unwrap_or_else(|| {
            statuses.push(Status {
                id,
                current: 0,
                total: 0,
                started: news.at,
                updated: news.at,
                completed: None,
            });
            statuses.len() - 1
        });
        let status = &mut statuses[index];
        status.current = news.current.max(status.current);
        status.total = news.total.max(status.total);
        status.updated = news.at;
        if news.complete {
            status.completed.get_or_insert(news.at);
        }
        changes.push(Change::Status(step, index));
        changes
    }

    fn warn(&mut self, key: StepKey, message: &str) -> Vec<Change> {
        let Some(&step) = self.by_key.get(&key) else { return Vec::new() };
        self.steps[step].warnings.push(super::format::harmless(message));
        vec![Change::Warned(step)]
    }

    /// Ends a step and with it its parts.
    fn end(&mut self, key: StepKey, outcome: Outcome, at: SystemTime) -> Vec<Change> {
        let Some(&step) = self.by_key.get(&key) else { return Vec::new() };
        let mut changes = self.start(step, at);
        let Step { ended, statuses, inputs, .. } = &mut self.steps[step];
        if ended.is_some() {
            return changes;
        }
        let complete = matches!(outcome, Outcome::Done { .. } | Outcome::Cached { .. });
        self.has_cached |= !inputs.is_empty() && matches!(outcome, Outcome::Cached { .. });
        let outcome = match outcome {
            Outcome::Failed { message } => {
                Outcome::Failed { message: crate::format::without_error_numbers(&message) }
            }
            other => other,
        };
        *ended = Some((at, outcome));
        for (index, status) in statuses.iter_mut().enumerate() {
            if complete && status.completed.is_none() {
                status.completed = Some(at);
                changes.push(Change::Status(step, index));
            }
        }
        changes.push(Change::Finished(step));
        changes
    }

    /// How many steps have ended.
    pub(super) fn ended(&self) -> usize {
        self.steps.iter().filter(|step| step.ended.is_some()).count()
    }

    /// Whether all that began came to a good end.
    pub(super) fn is_success(&self) -> bool {
        let good = |step: &Step| match &step.ended {
            Some((_, outcome)) => matches!(outcome, Outcome::Done { .. } | Outcome::Cached { .. }),
            None => step.started.is_none(),
        };
        !self.has_failed && !self.begun.is_empty() && self.steps.iter().all(good)
    }

    pub(super) fn report(&self) -> Report {
        let failed = |step: &&Step| matches!(step.ended, Some((_, Outcome::Failed { .. })));
        let steps = self.begun.iter().map(|index| &self.steps[*index]).filter(failed);
        Report {
            failed: steps
                .map(|step| FailedStep { name: step.name.clone(), log: step.log.timed_lines() })
                .collect(),
        }
    }
}
