//! The socket that a step sees of an ssh agent.

use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use graph::SecretFile;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::task::AbortOnDropHandle;

use crate::WorkerError;

/// A socket of its own with the asked-for owner and mode, whose connections are passed on to an agent. It closes when the value is
/// dropped.
#[derive(Debug)]
pub(crate) struct AgentSocket {
    path: PathBuf,
    _task: AbortOnDropHandle<()>,
}

impl AgentSocket {
    /// Listens in `directory`, which only the caller can enter.
    pub(crate) fn open(
        agent: PathBuf,
        directory: &Path,
        file: &SecretFile,
    ) -> Result<AgentSocket, WorkerError> {
        let path = directory.join("agent.sock");
        let io = |action| {
            let path = path.clone();
            move |source| WorkerError::io(action, &path, source)
        };
        // An address holds 108 bytes at most; a state directory may be deeper.
        let handle = std::fs::File::open(directory).map_err(io("open the directory of"))?;
        let short = format!("/proc/self/fd/{}/agent.sock", handle.as_raw_fd());
        let listener = UnixListener::bind(short).map_err(io("listen at"))?;
        let mode = std::fs::Permissions::from_mode(file.mode & 0o777);
        std::fs::set_permissions(&path, mode).map_err(io("set the mode of"))?;
        if (file.uid, file.gid) != (0, 0) {
            chown(&path, Some(file.uid), Some(file.gid)).map_err(io("set the owner of"))?;
        }
        let task = AbortOnDropHandle::new(tokio::spawn(forward(listener, agent)));
        Ok(AgentSocket { path, _task: task })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

async fn forward(listener: UnixListener, agent: PathBuf) {
    let mut connections = tokio::task::JoinSet::new();
    // A connection that fails is the program's to notice: its end of it closes.
    while let Ok((mut inside, _)) = listener.accept().await {
        let agent = agent.clone();
        connections.spawn(async move {
            if let Ok(mut outside) = UnixStream::connect(&agent).await {
                let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}
