//! What a step prints: shown as it comes, as far as the limits go, and stored whole beside its layer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use cache::{LogPiece, LogSource, LogWriter, SnapshotId, Store};
use executor::{OutputSink, OutputStream};
use graph::{Event, LogStream, ProgressSink, VertexId};
use hash::Clock;

use crate::WorkerError;

/// How much of what a step prints is shown. All of it is stored, up to a limit of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutputLimits {
    /// Bytes of a step.
    pub size: Option<u64>,
    /// Bytes in each second of a step, on the average since it began.
    pub rate: Option<u64>,
}

/// Of longer output the first GiB is stored, and the end: a step that never stops printing must not fill the disk.
const STORED: u64 = 1 << 30;

/// What one try of a step prints.
pub(crate) struct StepLog {
    vertex: VertexId,
    store: Store,
    progress: Arc<dyn ProgressSink>,
    clock: Arc<dyn Clock>,
    began: Instant,
    limits: OutputLimits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Made when something is printed: most steps that take no time print nothing.
    writer: Option<LogWriter>,
    /// Why the log cannot be stored.
    broken: Option<cache::CacheError>,
    shown: u64,
    left_out: u64,
    /// Whether the last thing that was shown is that something is left out.
    clipped: bool,
}

impl StepLog {
    pub(crate) fn new(
        vertex: VertexId,
        store: &Store,
        progress: &Arc<dyn ProgressSink>,
        clock: &Arc<dyn Clock>,
        limits: OutputLimits,
    ) -> StepLog {
        StepLog {
            vertex,
            store: store.clone(),
            progress: progress.clone(),
            clock: clock.clone(),
            began: Instant::now(),
            limits,
            state: Mutex::default(),
        }
    }

    pub(crate) fn vertex(&self) -> VertexId {
        self.vertex
    }

    /// Nothing more comes: says how much was not shown.
    pub(crate) fn finish(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.left_out > 0 {
            self.show(LogStream::Stderr, format!("\n[{} bytes of output were not shown]\n", state.left_out));
        }
    }

    /// Stores it beside the layer that the step made.
    pub(crate) fn keep(&self, layer: SnapshotId) -> Result<(), WorkerError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = state.broken.take() {
            let message = format!("its output cannot be stored: {error}");
            self.progress.event(Event::Warning { vertex: self.vertex, message });
        }
        match state.writer.take() {
            Some(writer) => Ok(writer.finish(layer)?),
            None => Ok(()),
        }
    }

    fn show(&self, stream: LogStream, data: impl Into<Vec<u8>>) {
        let (data, at) = (data.into(), self.clock.now());
        self.progress.event(Event::Log { vertex: self.vertex, stream, data, at });
    }

    /// How many more bytes may be shown, and the limit that says so.
    fn room(&self, shown: u64) -> (u64, String) {
        let seconds = self.began.elapsed().as_secs() + 1;
        let size = self.limits.size.map(|size| (size.saturating_sub(shown), format!("{size} bytes")));
        let rate = self.limits.rate.map(|rate| {
            (rate.saturating_mul(seconds).saturating_sub(shown), format!("{rate} bytes in a second"))
        });
        let unlimited = || (u64::MAX, String::new());
        size.into_iter().chain(rate).min_by_key(|(room, _)| *room).unwrap_or_else(unlimited)
    }
}

impl State {
    fn store(&mut self, log: &StepLog, source: LogSource, bytes: &[u8]) {
        if self.broken.is_some() {
            return;
        }
        let after = log.began.elapsed();
        let mut write = || {
            if self.writer.is_none() {
                self.writer = Some(log.store.log_writer(STORED)?);
            }
            self.writer.as_mut().map_or(Ok(()), |writer| writer.write(source, after, bytes))
        };
        // The step itself goes on: its log is not its result.
        if let Err(error) = write() {
            (self.writer, self.broken) = (None, Some(error));
        }
    }
}

impl OutputSink for StepLog {
    fn write(&self, stream: OutputStream, bytes: &[u8]) {
        let (stream, source) = match stream {
            OutputStream::Stdout => (LogStream::Stdout, LogSource::Stdout),
            OutputStream::Stderr => (LogStream::Stderr, LogSource::Stderr),
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.store(self, source, bytes);
        let (room, limit) = self.room(state.shown);
        let (show, leave) = bytes.split_at(usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len()));
        state.shown += show.len() as u64;
        state.left_out += leave.len() as u64;
        if !show.is_empty() {
            state.clipped = false;
            self.show(stream, show);
        }
        if !leave.is_empty() && !state.clipped {
            state.clipped = true;
            self.show(LogStream::Stderr, format!("\n[output clipped, log limit of {limit} reached]\n"));
        }
    }
}

/// Shows what a step printed when it ran that made this layer. A log that is gone or damaged is not missed.
pub fn replay(
    store: &Store,
    vertex: VertexId,
    layer: SnapshotId,
    progress: &Arc<dyn ProgressSink>,
    clock: &dyn Clock,
) {
    let Ok(Some(log)) = store.log(layer) else { return };
    for piece in log.map_while(Result::ok) {
        let (stream, data) = match piece {
            LogPiece::Output { source: LogSource::Stdout, data, .. } => (LogStream::Stdout, data),
            LogPiece::Output { source: LogSource::Stderr, data, .. } => (LogStream::Stderr, data),
            LogPiece::Omitted { bytes } => {
                (LogStream::Stderr, format!("\n[{bytes} bytes of output were not stored]\n").into_bytes())
            }
        };
        progress.event(Event::Log { vertex, stream, data, at: clock.now() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen(Mutex<Vec<u8>>);

    impl ProgressSink for Seen {
        fn event(&self, event: Event) {
            if let Event::Log { data, .. } = event {
                self.0.lock().unwrap().extend(data);
            }
        }
    }

    fn log(dir: &std::path::Path, limits: OutputLimits) -> (Arc<Seen>, StepLog, Store) {
        let store = Store::open(dir, cache::StoreOptions::default()).unwrap();
        let seen = Arc::new(Seen::default());
        let sink: Arc<dyn ProgressSink> = seen.clone();
        let clock: Arc<dyn Clock> = Arc::new(hash::SystemClock);
        let log = StepLog::new(VertexId(0), &store, &sink, &clock, limits);
        (seen, log, store)
    }

    #[test]
    fn limits_say_what_they_cut() {
        for limits in [
            OutputLimits { size: Some(10), rate: None },
            OutputLimits { size: None, rate: Some(10) },
            OutputLimits { size: Some(10), rate: Some(1000) },
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (seen, log, _store) = log(dir.path(), limits);
            for _ in 0..5 {
                log.write(OutputStream::Stdout, b"12345678");
            }
            log.finish();
            let text = String::from_utf8(seen.0.lock().unwrap().clone()).unwrap();
            assert!(text.starts_with("1234567812\n[output clipped, log limit of 10 bytes"), "{text}");
            assert!(text.ends_with("[30 bytes of output were not shown]\n"), "{text}");
            assert_eq!(text.matches("clipped").count(), 1);
        }
    }

    #[test]
    fn what_is_not_shown_is_stored() {
        let dir = tempfile::tempdir().unwrap();
        let (_, log, store) = log(dir.path(), OutputLimits { size: Some(3), rate: None });
        let layer = store.begin(&[]).unwrap();
        log.write(OutputStream::Stdout, b"all ");
        log.write(OutputStream::Stderr, b"of it");
        let changes = layer.changes().unwrap();
        let id = layer.commit(&changes).unwrap().id();
        log.keep(id).unwrap();
        let seen = Arc::new(Seen::default());
        let sink: Arc<dyn ProgressSink> = seen.clone();
        let clock: Arc<dyn Clock> = Arc::new(hash::SystemClock);
        replay(&store, VertexId(0), id, &sink, &*clock);
        assert_eq!(*seen.0.lock().unwrap(), b"all of it");
        // One that was never stored is not missed.
        replay(&store, VertexId(0), SnapshotId(99), &sink, &*clock);
    }

    #[test]
    fn the_rate_is_an_average() {
        let dir = tempfile::tempdir().unwrap();
        let (_, mut log, _store) = log(dir.path(), OutputLimits { size: None, rate: Some(100) });
        assert_eq!(log.room(40).0, 60);
        log.began = Instant::now().checked_sub(std::time::Duration::from_secs(9)).unwrap();
        assert_eq!(log.room(40).0, 960);
    }
}
