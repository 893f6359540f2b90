//! What was done when: spans of a build's work, recorded when somebody wants to know.
//!
//! Whoever works holds a [`Trace`] or a [`Scope`] of one, and a [`Timed`] while it works. A trace that records nothing reads no
//! clock and takes no memory. What the spans mean, and what they are drawn as, is not known here.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Records spans, or does nothing. Clones record to the same place.
#[derive(Clone, Default)]
pub struct Trace(Option<Arc<Recording>>);

struct Recording {
    began: Instant,
    spans: Mutex<Vec<Span>>,
}

/// A time in which one thing was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// For what.
    pub subject: Subject,
    /// What kind of work.
    pub work: Work,
    /// What exactly: words of this program, never of the user.
    pub what: &'static str,
    /// From the beginning of the trace, on a clock that never jumps.
    pub begin: Duration,
    /// Likewise; not before `begin`.
    pub end: Duration,
    /// Bytes that went in, where they are counted.
    pub bytes: u64,
}

/// What work is done for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The build as a whole.
    Build,
    /// A step, by its place in the definition.
    Step(usize),
    /// A layer of a result, by its number in the store.
    Layer(i64),
    /// Something around the build, by its title.
    Task(Arc<str>),
}

/// Kinds of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    /// Understanding what is to be done, and looking for what was done before.
    Solve,
    /// Bringing images and files from elsewhere, and unpacking them.
    Fetch,
    /// Reading and hashing files.
    Hash,
    /// Writing the files of a layer.
    Copy,
    /// Making a root file system and what is mounted in it ready, and taking it down.
    Mount,
    /// A process of the user.
    Run,
    /// Making a blob of a layer.
    Pack,
    /// Compressing, which goes on while a layer is packed.
    Compress,
    /// Writing, sending and keeping results.
    Export,
    /// Nothing: others have to come first.
    Wait,
}

impl Work {
    /// All, in the order in which a step goes through them.
    pub const ALL: [Work; 10] = [
        Work::Solve,
        Work::Fetch,
        Work::Hash,
        Work::Copy,
        Work::Mount,
        Work::Run,
        Work::Pack,
        Work::Compress,
        Work::Export,
        Work::Wait,
    ];

    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Work::Solve => "solve",
            Work::Fetch => "fetch",
            Work::Hash => "hash",
            Work::Copy => "copy",
            Work::Mount => "mount",
            Work::Run => "run",
            Work::Pack => "pack",
            Work::Compress => "compress",
            Work::Export => "export",
            Work::Wait => "wait",
        }
    }
}

impl Trace {
    /// A trace that begins now.
    pub fn recording() -> Trace {
        Trace(Some(Arc::new(Recording { began: Instant::now(), spans: Mutex::default() })))
    }

    /// Whether somebody wants to know.
    pub fn is_recording(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a span, which ends when the value is dropped: also when what it measures fails or is given up.
    #[must_use = "the span ends when this is dropped"]
    pub fn begin(&self, subject: Subject, work: Work, what: &'static str) -> Timed {
        Timed(self.0.as_ref().map(|recording| {
            let begin = recording.began.elapsed();
            (recording.clone(), Span { subject, work, what, begin, end: begin, bytes: 0 })
        }))
    }

    /// The same of a step.
    #[must_use = "the span ends when this is dropped"]
    pub fn step(&self, step: usize, work: Work, what: &'static str) -> Timed {
        self.begin(Subject::Step(step), work, what)
    }

    /// The trace for one subject.
    pub fn of(&self, subject: Subject) -> Scope {
        Scope { trace: self.clone(), subject }
    }

    /// The time since the trace began.
    pub fn elapsed(&self) -> Duration {
        self.0.as_ref().map(|recording| recording.began.elapsed()).unwrap_or_default()
    }

    /// All spans that ended, by their beginning.
    pub fn spans(&self) -> Vec<Span> {
        let Some(recording) = &self.0 else { return Vec::new() };
        let mut spans = recording.spans.lock().unwrap_or_else(PoisonError::into_inner).clone();
        spans.sort_by_key(|span| (span.begin, span.end));
        spans
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace({})", if self.is_recording() { "recording" } else { "off" })
    }
}

/// A trace for one subject, for those who do not know what they work for.
#[derive(Debug, Clone)]
pub struct Scope {
    trace: Trace,
    subject: Subject,
}

impl Scope {
    /// Nobody wants to know.
    pub fn none() -> Scope {
        Trace::default().of(Subject::Build)
    }

    /// Begins a span, as [`Trace::begin`] does.
    #[must_use = "the span ends when this is dropped"]
    pub fn begin(&self, work: Work, what: &'static str) -> Timed {
        match self.trace.is_recording() {
            true => self.trace.begin(self.subject.clone(), work, what),
            false => Timed(None),
        }
    }
}

/// A span that has begun.
pub struct Timed(Option<(Arc<Recording>, Span)>);

impl Timed {
    /// Counts bytes that go in.
    pub fn add(&mut self, bytes: u64) {
        if let Some((_, span)) = &mut self.0 {
            span.bytes += bytes;
        }
    }

    /// Ends it now.
    pub fn end(self) {}
}

impl Drop for Timed {
    fn drop(&mut self) {
        if let Some((recording, mut span)) = self.0.take() {
            span.end = recording.began.elapsed();
            recording.spans.lock().unwrap_or_else(PoisonError::into_inner).push(span);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_end_when_they_are_dropped() {
        let trace = Trace::recording();
        let outer = trace.step(1, Work::Run, "run");
        trace.of(Subject::Layer(7)).begin(Work::Compress, "compress").end();
        drop(outer);
        let spans = trace.spans();
        assert_eq!(spans.len(), 2);
        assert_eq!((&spans[0].subject, spans[0].work), (&Subject::Step(1), Work::Run));
        assert!(spans[0].begin <= spans[1].begin && spans[1].end <= spans[0].end);
        assert!(spans[0].end <= trace.elapsed());
    }

    #[test]
    fn without_anybody_who_wants_to_know_nothing_is_kept() {
        let trace = Trace::default();
        trace.begin(Subject::Build, Work::Solve, "x").end();
        Scope::none().begin(Work::Solve, "x").end();
        assert!(!trace.is_recording() && trace.spans().is_empty() && trace.elapsed().is_zero());
    }
}
