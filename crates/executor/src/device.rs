//! Devices of the machine that a process gets.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::wire;

/// A device of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostDevice {
    /// Its node on the host.
    #[serde(with = "wire::bytes")]
    pub path: PathBuf,
    /// Absolute path of its node inside.
    #[serde(with = "wire::bytes")]
    pub target: PathBuf,
    /// What may be done with it: `r`ead, `w`rite, `m`ake further nodes of it. Without a device cgroup (see
    /// [`crate::probe()`]) only the node's own permission bits count.
    pub permissions: String,
}

impl HostDevice {
    /// A device with all permissions, at the same place inside.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { target: path.clone(), path, permissions: "rwm".to_owned() }
    }
}
