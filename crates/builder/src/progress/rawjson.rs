use std::io::{self, Write};
use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use graph::{LogStream, Outcome};
use hash::VertexDigest;
use jiff::Timestamp;
use serde::Serialize;

use super::Display;
use super::model::{Change, Model, Step};

/// One `SolveStatus` of BuildKit's `client/graph.go` as JSON a line.
pub(super) struct RawJson<W> {
    out: W,
}

#[derive(Default, Serialize)]
struct SolveStatus<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vertexes: Vec<Vertex<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    statuses: Option<[Status<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logs: Option<[Log; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warnings: Option<[Warning; 1]>,
}

#[derive(Serialize)]
struct Vertex<'a> {
    digest: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<String>,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<Timestamp>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cached: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct Status<'a> {
    id: &'a str,
    vertex: String,
    #[serde(skip_serializing_if = "is_zero")]
    total: u64,
    current: u64,
    timestamp: Option<Timestamp>,
    started: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<Timestamp>,
}

#[derive(Serialize)]
struct Log {
    vertex: String,
    /// 1 or 2.
    stream: u8,
    data: String,
    timestamp: Option<Timestamp>,
}

#[derive(Serialize)]
struct Warning {
    vertex: String,
    level: u8,
    short: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Absent outside the years that RFC 3339 can write.
fn time(at: SystemTime) -> Option<Timestamp> {
    Timestamp::try_from(at).ok()
}

/// With its algorithm, as readers of digests expect.
fn digest(digest: VertexDigest) -> String {
    format!("blake3:{digest}")
}

fn vertex(step: &Step) -> Vertex<'_> {
    let outcome = step.ended.as_ref().map(|(_, outcome)| outcome);
    Vertex {
        digest: digest(step.digest),
        inputs: step.inputs.iter().copied().map(digest).collect(),
        name: &step.name,
        started: step.started.and_then(time),
        completed: step.ended.as_ref().and_then(|(at, _)| time(*at)),
        cached: matches!(outcome, Some(Outcome::Cached { .. })),
        error: match outcome {
            Some(Outcome::Failed { message }) => Some(message),
            // The words of Go's `context.Canceled`, by which readers know it.
            Some(Outcome::Cancelled) => Some("context canceled"),
            _ => None,
        },
    }
}

impl<W: Write> RawJson<W> {
    pub(super) fn new(out: W) -> RawJson<W> {
        RawJson { out }
    }
}

impl<W: Write + Send> Display for RawJson<W> {
    fn note(&mut self, model: &Model, change: &Change, _now: SystemTime) -> io::Result<()> {
        let mut message = SolveStatus::default();
        match change {
            Change::Defined(steps) => message.vertexes.extend(model.steps[steps.clone()].iter().map(vertex)),
            Change::Started(step) | Change::Finished(step) => {
                message.vertexes.push(vertex(&model.steps[*step]))
            }
            Change::Status(step, index) => {
                let (step, status) = (&model.steps[*step], &model.steps[*step].statuses[*index]);
                message.statuses = Some([Status {
                    id: &status.id,
                    vertex: digest(step.digest),
                    total: status.total,
                    current: status.current,
                    timestamp: time(status.updated),
                    started: time(status.started),
                    completed: status.completed.and_then(time),
                }]);
            }
            Change::Log { step, stream, data, at } => {
                message.logs = Some([Log {
                    vertex: digest(model.steps[*step].digest),
                    stream: match stream {
                        LogStream::Stdout => 1,
                        LogStream::Stderr => 2,
                    },
                    data: BASE64_STANDARD.encode(data),
                    timestamp: time(*at),
                }]);
            }
            Change::Warned(step) => {
                let step = &model.steps[*step];
                let short =
                    step.warnings.last().map(|warning| BASE64_STANDARD.encode(warning)).unwrap_or_default();
                message.warnings = Some([Warning { vertex: digest(step.digest), level: 1, short }]);
            }
        }
        let mut line = serde_json::to_vec(&message)?;
        line.push(b'\n');
        self.out.write_all(&line)?;
        self.out.flush()
    }

    fn draw(&mut self, _model: &Model, _now: SystemTime) -> io::Result<()> {
        Ok(())
    }

    fn finish(&mut self, _model: &Model, _now: SystemTime) -> io::Result<()> {
        Ok(())
    }
}
