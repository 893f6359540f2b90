use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::VertexId;

/// Something that happened to a vertex. One stream feeds every way of showing progress.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Work on it began (a lookup that needs hashing, an execution).
    Started {
        /// Which.
        vertex: VertexId,
        /// When.
        at: SystemTime,
    },
    /// Output of its process, as it came.
    Log {
        /// Which.
        vertex: VertexId,
        /// Which stream.
        stream: LogStream,
        /// Raw bytes, cut anywhere.
        data: Vec<u8>,
        /// When.
        at: SystemTime,
    },
    /// Progress of one transfer or other countable part.
    Progress {
        /// Which.
        vertex: VertexId,
        /// Names the part: `sha256:…`, `extracting`.
        id: String,
        /// Done so far, in bytes.
        current: u64,
        /// In all, 0 when unknown.
        total: u64,
        /// When.
        at: SystemTime,
    },
    /// A remark that deserves notice.
    Warning {
        /// Which.
        vertex: VertexId,
        /// One line.
        message: String,
    },
    /// It ended.
    Finished {
        /// Which.
        vertex: VertexId,
        /// How.
        outcome: Outcome,
        /// When.
        at: SystemTime,
    },
}

/// How a vertex ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Found in the cache; `saved` is what it took when it ran.
    Cached {
        /// Wall time of the recorded run.
        saved: Duration,
    },
    /// Executed, because of `reason`.
    Done {
        /// Why it was not cached; `None` where nothing is ever cached (a local context).
        reason: Option<MissReason>,
    },
    /// Failed.
    Failed {
        /// One line.
        message: String,
    },
    /// Given up because another failed or the user asked.
    Cancelled,
}

/// Why a vertex was not found in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MissReason {
    /// Never built here.
    FirstBuild,
    /// The lookup was switched off.
    Disabled,
    /// A record exists, but the bytes that it names are gone.
    Evicted,
}

/// Which stream of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Receives events, in order for each vertex. Called from any thread; must not block for long.
pub trait ProgressSink: Send + Sync {
    /// Takes an event.
    fn event(&self, event: Event);
}

/// A sink that keeps what it got, for tests.
#[derive(Debug, Default)]
pub struct Recorder {
    events: Mutex<Vec<Event>>,
}

impl Recorder {
    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ProgressSink for Recorder {
    fn event(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}
