//! What every process gets unless it is asked otherwise, as data for whoever has another program apply it.

use crate::{Error, program, seccomp, system};

/// Docker's defaults, as [`crate::Sandbox`] applies them.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// Names of capabilities: `CAP_CHOWN`.
    pub capabilities: &'static [&'static str],
    /// Paths that are hidden.
    pub masked: &'static [&'static str],
    /// Paths that cannot be written to.
    pub read_only: &'static [&'static str],
    /// Soft limit of open files.
    pub open_files: u64,
    /// The seccomp profile for this machine: `linux.seccomp` of the OCI runtime specification.
    pub seccomp: serde_json::Value,
}

impl Defaults {
    /// Those for this machine.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an architecture without a seccomp profile.
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            capabilities: &seccomp::DEFAULT_CAPABILITY_NAMES,
            masked: &system::MASKED,
            read_only: &system::READ_ONLY,
            open_files: program::OPEN_FILES,
            seccomp: seccomp::oci::profile().map_err(Error::Unsupported)?,
        })
    }
}
