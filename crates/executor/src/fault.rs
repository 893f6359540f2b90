//! A failure inside the sandbox's own processes, in a form that can be sent to the caller.

use std::fmt::Display;
use std::io;

use serde::{Deserialize, Serialize};

use crate::Error;

/// See [`Error`], whose variants of the same names these become.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Fault {
    Program { code: i32, message: String },
    Unsupported(String),
    Setup(String),
    Target(String),
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Program { code, message } => Self::Program { code, message },
            Fault::Unsupported(text) => Self::Unsupported(text),
            Fault::Setup(text) => Self::Setup(text),
            Fault::Target(text) => Self::Target(text),
        }
    }
}

/// Says what was tried when it failed.
pub(crate) trait Context<T> {
    /// `what` is a verb and its object: "mount /proc".
    fn context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T, Fault>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T, Fault> {
        self.map_err(|error| Fault::Setup(format!("{}: {}", what(), reason(&error.into()))))
    }
}

/// The system's reason without the number that the standard library appends.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
