//! How a build is watched: one stream of events, shown as `plain` text, as a live `tty` view, as `rawjson` or not at all.
//!
//! Events and [`Task`]s (what is done around the build: loading, exporting) go to one thread, which owns the
//! [`model`](model::Model) and the display, so that whoever reports never waits for a terminal. `plain`, `tty` and
//! `rawjson` look as BuildKit's do (its `util/progress/progressui`), since people and scripts read them.

mod colors;
mod format;
mod log;
mod model;
mod plain;
mod quiet;
mod rawjson;
mod task;
#[cfg(test)]
mod tests;
mod tty;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use graph::{Definition, Event, ProgressSink};

use colors::Colors;
pub(crate) use format::harmless;
use model::{Change, Message, Model};
pub(crate) use task::{Part, Task};

/// `--progress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// `tty` on a terminal, else `plain`.
    Auto,
    /// Text for logs.
    Plain,
    /// A view that is drawn over and over.
    Tty,
    /// One of BuildKit's `SolveStatus` as JSON a line.
    RawJson,
    /// Nothing: `quiet` and `none`.
    Quiet,
}

/// How progress looks, apart from the mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// What is done, for the first line of `tty`: `Building`.
    title: &'static str,
    /// For `tty`.
    colors: Colors,
    /// Lines of output shown below a running step in `tty`.
    log_lines: usize,
    /// Between two drawings.
    rate: Duration,
    /// Whether the terminal cannot move its cursor.
    is_dumb: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            title: "Building",
            colors: Colors::default(),
            log_lines: 6,
            rate: Duration::from_millis(100),
            is_dumb: false,
        }
    }
}

impl Settings {
    /// What the environment asks for: `NO_COLOR`, `BUILDKIT_COLORS`, `BUILDKIT_TTY_LOG_LINES`, `TTY_DISPLAY_RATE`
    /// (milliseconds), `TERM`. What cannot be read counts as not there.
    pub(crate) fn from_env(variable: impl Fn(&str) -> Option<OsString>) -> Settings {
        let text = |name: &str| variable(name)?.into_string().ok().filter(|text| !text.is_empty());
        let number = |name: &str| text(name)?.parse::<u64>().ok().filter(|number| *number > 0);
        let default = Settings::default();
        Settings {
            title: default.title,
            colors: match (text("NO_COLOR"), text("BUILDKIT_COLORS")) {
                (Some(_), _) => Colors::none(),
                (None, Some(list)) => Colors::parse(&list),
                (None, None) => default.colors,
            },
            log_lines: number("BUILDKIT_TTY_LOG_LINES")
                .map_or(default.log_lines, |lines| lines.min(100) as usize),
            rate: number("TTY_DISPLAY_RATE")
                .map_or(default.rate, |rate| Duration::from_millis(rate.min(10_000))),
            is_dumb: text("TERM").is_some_and(|terminal| terminal == "dumb"),
        }
    }
}

impl Settings {
    /// The same for something that is no build.
    pub(crate) fn titled(self, title: &'static str) -> Settings {
        Settings { title, ..self }
    }
}

/// Output of steps that waits to be shown, in bytes, at most: who prints faster than the terminal shows waits for it, as programs do.
const MOST_WAITING: usize = 1 << 20;
/// What a message takes beside its bytes, roughly: itself in the queue, and what the allocator adds to each of its parts.
const OF_A_MESSAGE: usize = size_of::<Message>() + 64;

/// The output that is on its way to the display.
#[derive(Default)]
struct Waiting {
    /// Bytes; `None` once nobody shows anything any more.
    bytes: Mutex<Option<usize>>,
    less: Condvar,
}

impl Waiting {
    fn new() -> Waiting {
        Waiting { bytes: Mutex::new(Some(0)), less: Condvar::new() }
    }

    /// Waits until there is room, and takes it.
    fn add(&self, length: usize) {
        let has_room = || self.lock().is_none_or(|waiting| waiting <= MOST_WAITING);
        if !has_room() {
            let wait = || {
                let full =
                    |waiting: &mut Option<usize>| waiting.is_some_and(|waiting| waiting > MOST_WAITING);
                drop(self.less.wait_while(self.lock(), full));
            };
            // Others go on meanwhile: those who read a signal, for one.
            match tokio::runtime::Handle::try_current() {
                Ok(_) => tokio::task::block_in_place(wait),
                Err(_) => wait(),
            }
        }
        if let Some(waiting) = self.lock().as_mut() {
            *waiting += length;
        }
    }

    fn take(&self, length: usize) {
        if let Some(waiting) = self.lock().as_mut() {
            *waiting = waiting.saturating_sub(length);
        }
        self.less.notify_all();
    }

    fn end(&self) {
        *self.lock() = None;
        self.less.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Option<usize>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody waits for a display that is gone, however it went.
struct EndsWaiting(Arc<Waiting>);

impl Drop for EndsWaiting {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The output that a message carries, in bytes.
fn output_of(message: &Message) -> usize {
    match message {
        Message::Event(Event::Log { data, .. }) => data.len() + OF_A_MESSAGE,
        _ => 0,
    }
}

/// Shows what happens. [`Progress::finish`] ends it; so does dropping it, which leaves the terminal in order too.
pub(crate) struct Progress {
    messages: mpsc::Sender<Message>,
    waiting: Arc<Waiting>,
    tasks: AtomicUsize,
    thread: Mutex<Option<JoinHandle<Report>>>,
}

impl Progress {
    /// Shows progress on standard error.
    pub(crate) fn on_stderr(mode: Mode, settings: &Settings) -> Progress {
        let size =
            || terminal_size::terminal_size_of(io::stderr()).map(|(width, height)| (width.0, height.0));
        let mode = match mode {
            Mode::Auto if io::stderr().is_terminal() && !settings.is_dumb => Mode::Tty,
            Mode::Auto => Mode::Plain,
            other => other,
        };
        Progress::new(mode, settings, io::stderr(), size)
    }

    /// Shows progress anywhere; `size` is asked for columns and rows before each drawing.
    pub(crate) fn new(
        mode: Mode,
        settings: &Settings,
        out: impl Write + Send + 'static,
        size: impl Fn() -> Option<(u16, u16)> + Send + 'static,
    ) -> Progress {
        let display: Box<dyn Display> = match mode {
            Mode::Auto | Mode::Plain => Box::new(plain::Plain::new(out)),
            Mode::Tty => Box::new(tty::Tty::new(out, size, settings)),
            Mode::RawJson => Box::new(rawjson::RawJson::new(out)),
            Mode::Quiet => Box::new(quiet::Quiet),
        };
        let rate = settings.rate;
        let (messages, queue) = mpsc::channel();
        let waiting = Arc::new(Waiting::new());
        let shown = waiting.clone();
        let thread = std::thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || {
                let shown = EndsWaiting(shown);
                show(&queue, &shown.0, display, rate)
            })
            // A machine that has no thread left still builds.
            .map_err(|error| tracing::warn!(%error, "cannot show progress"))
            .ok();
        if thread.is_none() {
            waiting.end();
        }
        Progress { messages, waiting, tasks: AtomicUsize::new(0), thread: Mutex::new(thread) }
    }

    /// Tells which steps there are, before the first event about them.
    pub(crate) fn define(&self, definition: &Definition) {
        self.send(Message::define(definition));
    }

    /// Begins something that is no vertex: `[internal] load build definition from Dockerfile`, `exporting to image`.
    pub(crate) fn task(&self, name: &str) -> Task {
        Task::begin(self.messages.clone(), self.tasks.fetch_add(1, Ordering::Relaxed), name)
    }

    /// Says that the build failed although none of its steps did. Steps that wait for the display go on, so that they can be ended.
    pub(crate) fn give_up(&self) {
        self.waiting.end();
        self.send(Message::GiveUp);
    }

    /// Draws for the last time and waits until that is done. Later calls and events do nothing.
    pub(crate) fn finish(&self) -> Report {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.send(Message::Finish);
        thread.and_then(|thread| thread.join().ok()).unwrap_or_default()
    }

    fn send(&self, message: Message) {
        // Fails only when the display has ended, and then nobody wants to know.
        let _ = self.messages.send(message);
    }
}

impl ProgressSink for Progress {
    fn event(&self, event: Event) {
        let message = Message::Event(event);
        match output_of(&message) {
            0 => {}
            length => self.waiting.add(length),
        }
        self.send(message);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

/// What is left to tell when a build ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Steps that failed, in the order in which they began.
    pub(crate) failed: Vec<FailedStep>,
}

/// A step that failed and what it said last. Its [`Display`](fmt::Display) is the block that BuildKit prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FailedStep {
    /// `[build 2/5] RUN make`
    pub(crate) name: String,
    /// Lines of output without control characters, each with its time since the step began: `0.312 text`.
    pub(crate) log: Vec<String>,
}

impl fmt::Display for FailedStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "------\n > {}:", self.name)?;
        for line in &self.log {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "------")
    }
}

/// One way of showing progress.
trait Display: Send {
    /// Takes note of a change that the model has already.
    fn note(&mut self, model: &Model, change: &Change, now: SystemTime) -> io::Result<()>;

    /// Shows what is new, at the display's rate.
    fn draw(&mut self, model: &Model, now: SystemTime) -> io::Result<()>;

    /// Whether it keeps so much that has not been shown that it should not wait for its time.
    fn is_full(&self) -> bool {
        false
    }

    /// Shows the end.
    fn finish(&mut self, model: &Model, now: SystemTime) -> io::Result<()>;

    /// How many of the last lines of a failed step are repeated at the end.
    fn repeated_lines(&self) -> usize {
        10
    }
}

/// The life of the display's thread.
fn show(
    queue: &mpsc::Receiver<Message>,
    waiting: &Waiting,
    mut display: Box<dyn Display>,
    rate: Duration,
) -> Report {
    let mut model = Model::new(display.repeated_lines());
    let mut drawn: Option<Instant> = None;
    // Output that cannot be written (a closed pipe) must not end the build.
    let silence = |display: &mut Box<dyn Display>, result: io::Result<()>| {
        if let Err(error) = result {
            tracing::debug!(%error, "cannot show progress");
            *display = Box::new(quiet::Quiet);
        }
    };
    loop {
        let wait = drawn.map_or(Duration::ZERO, |drawn| rate.saturating_sub(drawn.elapsed()));
        match queue.recv_timeout(wait.max(Duration::from_millis(1))) {
            Ok(Message::Finish) | Err(RecvTimeoutError::Disconnected) => break,
            Ok(message) => {
                let length = output_of(&message);
                for change in model.apply(message) {
                    let result = display.note(&model, &change, SystemTime::now());
                    silence(&mut display, result);
                }
                if length > 0 {
                    waiting.take(length);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if drawn.is_none_or(|drawn| drawn.elapsed() >= rate) || display.is_full() {
            let result = display.draw(&model, SystemTime::now());
            silence(&mut display, result);
            drawn = Some(Instant::now());
        }
    }
    let result = display.finish(&model, SystemTime::now());
    silence(&mut display, result);
    model.report()
}
