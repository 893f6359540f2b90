//! The socket that a step sees of an ssh agent.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use graph::SecretFile;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
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
    while let Ok((inside, _)) = listener.accept().await {
        let agent = agent.clone();
        connections.spawn(async move {
            if let Ok(outside) = UnixStream::connect(&agent).await {
                let _ = answer(inside, outside).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// What a step may ask of the agent: to list its keys and to sign with them. Its keys, locks and extensions are the user's alone. Numbers
/// as in draft-ietf-sshm-ssh-agent, section 6.1.
const ALLOWED: [u8; 2] = [REQUEST_IDENTITIES, SIGN_REQUEST];
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
const FAILURE: u8 = 5;
/// As OpenSSH's agent has it (`AGENT_MAX_LEN`).
const LONGEST_MESSAGE: usize = 256 * 1024;

/// Passes allowed requests and their answers on, one after another; the others are answered with a failure.
async fn answer(mut inside: UnixStream, mut outside: UnixStream) -> io::Result<()> {
    while let Some(request) = message(&mut inside).await? {
        if request.first().is_some_and(|kind| ALLOWED.contains(kind)) {
            send(&mut outside, &request).await?;
            let Some(answer) = message(&mut outside).await? else { return Ok(()) };
            send(&mut inside, &answer).await?;
        } else {
            send(&mut inside, &[FAILURE]).await?;
        }
    }
    Ok(())
}

/// The next message; `None` at the end.
async fn message(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u32().await {
        Ok(length) => length as usize,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > LONGEST_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(Some(bytes))
}

async fn send(stream: &mut UnixStream, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_step_can_list_and_sign_and_nothing_else() {
        let (mut step, inside) = UnixStream::pair().unwrap();
        let (outside, mut agent) = UnixStream::pair().unwrap();
        tokio::spawn(answer(inside, outside));
        for (kind, passed) in [(11, true), (13, true), (17, false), (19, false), (22, false), (27, false)] {
            send(&mut step, &[kind, 1, 2]).await.unwrap();
            if passed {
                assert_eq!(message(&mut agent).await.unwrap().unwrap(), [kind, 1, 2]);
                send(&mut agent, &[12, kind]).await.unwrap();
                assert_eq!(message(&mut step).await.unwrap().unwrap(), [12, kind]);
            } else {
                assert_eq!(message(&mut step).await.unwrap().unwrap(), [FAILURE], "{kind}");
            }
        }
        // The agent heard of nothing else.
        send(&mut step, &[11]).await.unwrap();
        assert_eq!(message(&mut agent).await.unwrap().unwrap(), [11]);
    }

    #[tokio::test]
    async fn endless_messages_end_the_connection() {
        let (mut step, inside) = UnixStream::pair().unwrap();
        let (outside, _agent) = UnixStream::pair().unwrap();
        let answering = tokio::spawn(answer(inside, outside));
        step.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
        assert!(answering.await.unwrap().is_err());
    }
}
