//! Errors in words: what failed, a hint, the exit code. One voice for the whole program.

use std::error::Error;
use std::{fmt, io};

use anstyle::{AnsiColor, Style};
use cache::CacheError;
use exporter::ExportError;
use image::ResolveError;
use worker::WorkerError;

use crate::{format, terminal};

/// Exit code: the build failed.
pub(crate) const BUILD_FAILED: u8 = 1;
/// Exit code: the command line is wrong.
pub(crate) const WRONG_USAGE: u8 = 2;
/// Exit code: the machine lacks something.
pub(crate) const MACHINE_LACKS: u8 = 3;
/// Exit code of `builder run`, as Docker has it: the program could not be started.
pub(crate) const NOT_STARTED: u8 = 125;
/// Exit code: the user pressed Ctrl-C (128 + SIGINT).
pub(crate) const INTERRUPTED: u8 = 130;

/// A command that did not do what it was asked to.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    /// Printed first, as it is: an excerpt of the Dockerfile, the last lines of a step.
    details: String,
    message: String,
    hints: Vec<String>,
}

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Failure {
        let message = format::without_error_numbers(&message.into());
        Failure { code, details: String::new(), message, hints: Vec::new() }
    }

    /// What was asked for could not be built or found.
    pub(crate) fn build(message: impl Into<String>) -> Failure {
        Failure::new(BUILD_FAILED, message)
    }

    /// The arguments make no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure::new(WRONG_USAGE, message)
    }

    /// The machine lacks something.
    pub(crate) fn machine(message: impl Into<String>) -> Failure {
        Failure::new(MACHINE_LACKS, message)
    }

    /// The user gave up.
    pub(crate) fn interrupted() -> Failure {
        Failure::new(INTERRUPTED, "interrupted")
    }

    /// Something failed; whether it is the machine's fault shows in the errors below.
    pub(crate) fn from_source(error: &(dyn Error + 'static)) -> Failure {
        Failure::new(source_code(error), error.to_string()).hinted(disk_full(error))
    }

    /// A file operation failed.
    pub(crate) fn io(action: &str, path: &std::path::Path, error: &io::Error) -> Failure {
        Failure::new(exit_code_of(error), format!("{action} {}: {error}", path.display()))
            .hinted(disk_full(error))
    }

    /// What was asked for could not be written to standard output.
    pub(crate) fn standard_output(error: &io::Error) -> Failure {
        let reason = match error.kind() {
            io::ErrorKind::BrokenPipe => "whoever read it is gone".to_owned(),
            _ => error.to_string(),
        };
        Failure::build(format!("write to standard output: {reason}"))
    }

    /// The same, as the last line of a build says it.
    pub(crate) fn of_build(mut self) -> Failure {
        if matches!(self.code, BUILD_FAILED | MACHINE_LACKS) {
            self.message.insert_str(0, "failed to build: ");
        }
        self
    }

    /// The same, with another exit code.
    pub(crate) fn with_code(self, code: u8) -> Failure {
        Failure { code, ..self }
    }

    /// The same, with text that is printed before the message.
    pub(crate) fn with_details(mut self, details: String) -> Failure {
        self.details = details;
        self
    }

    /// The same, with text that is printed before everything else.
    pub(crate) fn with_details_first(mut self, details: String) -> Failure {
        self.details.insert_str(0, &details);
        self
    }

    /// The same, with advice.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hints.push(hint.into());
        self
    }

    /// The same, with advice where there is some.
    pub(crate) fn hinted(mut self, hint: Option<String>) -> Failure {
        self.hints.extend(hint);
        self
    }

    /// The same, in other words.
    pub(crate) fn reworded(self, reword: impl Fn(&str) -> String) -> Failure {
        let hints = self.hints.iter().map(|hint| reword(hint)).collect();
        Failure { message: reword(&self.message), hints, ..self }
    }

    /// What went wrong, in one sentence.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    pub(crate) fn hints(&self) -> &[String] {
        &self.hints
    }

    /// The exit code of the process.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// Prints it to standard error.
    pub(crate) fn print(&self) {
        terminal::tell(&self.to_string());
    }
}

/// With escape sequences, which standard error keeps where a terminal shows colours.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const RED: Style = AnsiColor::Red.on_default().bold();
        const CYAN: Style = AnsiColor::Cyan.on_default().bold();
        if !self.details.is_empty() {
            writeln!(f, "{}", self.details.trim_end_matches('\n'))?;
        }
        writeln!(f, "{RED}ERROR:{RED:#} {}", self.message)?;
        self.hints.iter().try_for_each(|hint| writeln!(f, "{CYAN}hint:{CYAN:#} {hint}"))
    }
}

impl From<CacheError> for Failure {
    fn from(error: CacheError) -> Failure {
        Failure::from_cache(&error)
    }
}

impl Failure {
    /// The state directory could not be used.
    pub(crate) fn from_cache(error: &CacheError) -> Failure {
        let failure = Failure::new(cache_code(error), error.to_string()).hinted(disk_full(error));
        match error {
            CacheError::Unusable { .. } => {
                failure.hint("set BUILDER_HOME to another directory on a local disk that you can write to")
            }
            CacheError::Busy { .. } => failure.hint("try again when it has ended"),
            CacheError::Absent { .. } => {
                failure.hint("the first build makes it; BUILDER_HOME says where, if it is another")
            }
            CacheError::Damaged { .. } => failure.hint(
                "`builder fsck --repair` saves what can be read of it, images first, and so does the next build; the damaged file is kept",
            ),
            CacheError::Replaced { .. } => failure.hint("try again: what could be read of it was saved"),
            _ => failure,
        }
    }
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Failure {
        match &error {
            // The only stream that something is written to by itself.
            ExportError::Stream(source) => Failure::standard_output(source),
            _ => Failure::from_source(&error),
        }
    }
}

impl From<ResolveError> for Failure {
    fn from(error: ResolveError) -> Failure {
        Failure::from_source(&error)
    }
}

impl From<executor::Error> for Failure {
    fn from(error: executor::Error) -> Failure {
        let hint = info(&error);
        Failure { code: sandbox_code(&error), ..Failure::machine(error.to_string()) }.hinted(hint)
    }
}

/// A program that is not there is the Dockerfile's fault; a sandbox that cannot be had is the machine's.
fn sandbox_code(error: &executor::Error) -> u8 {
    match error {
        executor::Error::Program { .. } | executor::Error::Target(_) => BUILD_FAILED,
        _ => MACHINE_LACKS,
    }
}

fn info(error: &executor::Error) -> Option<String> {
    if let executor::Error::Target(text) = error {
        let read_only = text.ends_with("Read-only file system");
        return read_only.then(|| "make it in what is mounted there, or add rw to that mount".to_owned());
    }
    let unsupported = matches!(error, executor::Error::Unsupported(_) | executor::Error::Setup(_));
    unsupported.then(|| "`builder info` shows what this machine offers and what is missing".to_owned())
}

impl From<&WorkerError> for Failure {
    fn from(error: &WorkerError) -> Failure {
        let failure = Failure::new(source_code(error), error.to_string()).hinted(disk_full(error));
        match error {
            WorkerError::Sandbox(error) => {
                Failure { code: sandbox_code(error), ..failure }.hinted(info(error))
            }
            WorkerError::Cache(error) => Failure { code: cache_code(error), ..failure },
            _ => failure,
        }
    }
}

fn cache_code(error: &CacheError) -> u8 {
    match error {
        CacheError::Unusable { .. } | CacheError::Damaged { .. } | CacheError::Replaced { .. } => {
            MACHINE_LACKS
        }
        other => source_code(other),
    }
}

/// A build that fails because of the machine exits differently from one that fails because of the Dockerfile.
fn source_code(error: &(dyn Error + 'static)) -> u8 {
    root_io(error).map_or(BUILD_FAILED, exit_code_of)
}

fn exit_code_of(error: &io::Error) -> u8 {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem => {
            MACHINE_LACKS
        }
        _ => BUILD_FAILED,
    }
}

fn disk_full(error: &(dyn Error + 'static)) -> Option<String> {
    match root_io(error)?.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("if it is the state directory's disk: `builder du` shows what is there, `builder prune --all` removes it".to_owned())
        }
        _ => None,
    }
}

/// The I/O error at the bottom of a chain of errors.
fn root_io<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(error);
    let mut found = None;
    while let Some(error) = next {
        found = error.downcast_ref::<io::Error>().or(found);
        next = error.source();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn a_full_disk_is_the_machines_fault_wherever_it_shows() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let files = WorkerError::Io { action: "write", path: PathBuf::from("x"), source: full() };
        assert_eq!(Failure::from(&files).code(), MACHINE_LACKS);
        let cache = CacheError::Io { action: "write", path: PathBuf::from("x"), source: full() };
        assert!(!Failure::from(cache).hints.is_empty());
    }

    #[test]
    fn messages_are_for_people() {
        let missing = io::Error::from_raw_os_error(2);
        let failure = Failure::io("write", std::path::Path::new("/x"), &missing).of_build();
        assert_eq!(failure.message, "failed to build: write /x: No such file or directory");
        assert_eq!(Failure::interrupted().of_build().message, "interrupted");
        assert_eq!(Failure::usage("-t").of_build().message, "-t");
    }

    #[test]
    fn a_missing_file_is_the_builds_fault() {
        let missing = files::Error::NotFound { path: PathBuf::from("x"), hidden_by: None };
        let missing = WorkerError::from(missing);
        assert_eq!(Failure::from(&missing).code(), BUILD_FAILED);
    }
}
