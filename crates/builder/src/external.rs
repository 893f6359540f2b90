//! `--runtime`: who makes processes, where the sandbox does not.

use std::ffi::OsStr;
use std::path::Path;

use runtime::Runtime;

use crate::failure::Failure;

const VARIABLE: &str = "BUILDER_RUNTIME";

/// The runtime of this name; an empty one, as from the environment, is none.
pub(crate) fn runtime(name: Option<&OsStr>) -> Result<Option<Runtime>, Failure> {
    let Some(name) = name.filter(|name| !name.is_empty()).map(Path::new) else { return Ok(None) };
    let said = if is_argument() { "--runtime" } else { VARIABLE };
    Runtime::find(name)
        .map(Some)
        .map_err(|error| Failure::build(format!("{said}={}: {error}", name.display())))
}

/// What another command needs to be told to take the same: nothing where the environment says it.
pub(crate) fn flag(name: Option<&OsStr>) -> String {
    match name.filter(|name| !name.is_empty() && is_argument()) {
        Some(name) => format!("--runtime={} ", Path::new(name).display()),
        None => String::new(),
    }
}

/// Of several, clap takes the command line's.
fn is_argument() -> bool {
    std::env::args_os().any(|word| word.as_encoded_bytes().starts_with(b"--runtime"))
}

/// What is wrong with the environment's runtime.
pub(crate) fn from_env() -> Result<(), String> {
    let name = std::env::var_os(VARIABLE);
    match name.as_deref().filter(|name| !name.is_empty()).map(Path::new) {
        Some(name) => Runtime::find(name).map(drop).map_err(|error| format!("{VARIABLE}: {error}")),
        None => Ok(()),
    }
}
