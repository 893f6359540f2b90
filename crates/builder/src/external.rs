//! `--runtime`: who makes processes, where the sandbox does not.

use std::ffi::OsStr;
use std::path::Path;

use runtime::Runtime;

use crate::failure::Failure;

/// The runtime of this name; an empty one, as from the environment, is none.
pub(crate) fn runtime(name: Option<&OsStr>) -> Result<Option<Runtime>, Failure> {
    let Some(name) = name.filter(|name| !name.is_empty()).map(Path::new) else { return Ok(None) };
    Runtime::find(name)
        .map(Some)
        .map_err(|error| Failure::usage(format!("--runtime={}: {error}", name.display())))
}
