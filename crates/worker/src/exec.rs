//! RUN: a process in a sandbox, whose changes become a layer.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use executor::{Executor, OutputSink, OutputStream, ProcessSpec, Rootfs, User};
use graph::{Event, Exec, LogStream, Network, ProgressSink, VertexId};
use hash::Clock;
use image::Platform;

use crate::WorkerError;

/// What a process is started with.
pub(crate) struct Start<'a> {
    pub(crate) vertex: VertexId,
    pub(crate) exec: &'a Exec,
    pub(crate) user: User,
    pub(crate) rootfs: Rootfs,
}

/// Runs the process of a RUN to its end; anything but success is an error.
pub(crate) async fn run(
    start: Start<'_>,
    executor: &dyn Executor,
    progress: &Arc<dyn ProgressSink>,
    clock: &Arc<dyn Clock>,
) -> Result<(), WorkerError> {
    let Start { vertex, exec, user, rootfs } = start;
    let host = Platform::host();
    if !can_run(&exec.platform, &host) {
        return Err(WorkerError::Unsupported(format!("RUN for {} on {host}", exec.platform)));
    }
    let mut spec = ProcessSpec::new(rootfs, &exec.args);
    let env = exec.env.iter().chain(&exec.unkeyed_env);
    spec.env = env.map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
    spec.cwd = PathBuf::from(&exec.cwd);
    spec.user = user;
    spec.hostname = exec.hostname.clone();
    spec.hosts = Some(hosts(exec));
    spec.resolv_conf = Some(resolv_conf()?);
    spec.network = match exec.network {
        Network::Host => executor::Network::Host,
        Network::None => executor::Network::None,
        Network::Private => return Err(WorkerError::Unsupported("a private network".to_owned())),
    };
    let log = Log { vertex, progress: progress.clone(), clock: clock.clone() };
    let outcome = executor.run(spec, &log).await?;
    for message in outcome.notes {
        progress.event(Event::Warning { vertex, message });
    }
    if !outcome.status.success() {
        return Err(WorkerError::Exit { command: exec.args.join(" "), status: outcome.status });
    }
    Ok(())
}

/// Whether this machine executes programs of `platform` by itself.
fn can_run(platform: &Platform, host: &Platform) -> bool {
    let same = platform.os == host.os && platform.architecture == host.architecture;
    let narrower = platform.os == "linux" && (host.architecture == "amd64" && platform.architecture == "386");
    same || narrower
}

/// The `/etc/hosts` of a process.
fn hosts(exec: &Exec) -> String {
    let mut text =
        format!("127.0.0.1\tlocalhost {}\n::1\tlocalhost ip6-localhost ip6-loopback\n", exec.hostname);
    for (name, address) in &exec.extra_hosts {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    text
}

/// The host's own; a machine without one has no name servers to offer.
fn resolv_conf() -> Result<String, WorkerError> {
    let path = PathBuf::from("/etc/resolv.conf");
    match std::fs::read(&path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(WorkerError::io("read", &path, source)),
    }
}

/// Passes output on as it comes.
struct Log {
    vertex: VertexId,
    progress: Arc<dyn ProgressSink>,
    clock: Arc<dyn Clock>,
}

impl OutputSink for Log {
    fn write(&self, stream: OutputStream, bytes: &[u8]) {
        let stream = match stream {
            OutputStream::Stdout => LogStream::Stdout,
            OutputStream::Stderr => LogStream::Stderr,
        };
        let event = Event::Log { vertex: self.vertex, stream, data: bytes.to_vec(), at: self.clock.now() };
        self.progress.event(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_programs_are_told_apart() {
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        assert!(can_run(&platform("linux/amd64"), &platform("linux/amd64")));
        assert!(can_run(&platform("linux/386"), &platform("linux/amd64")));
        assert!(!can_run(&platform("linux/arm64"), &platform("linux/amd64")));
        assert!(!can_run(&platform("linux/amd64"), &platform("linux/386")));
        assert!(!can_run(&platform("windows/amd64"), &platform("linux/amd64")));
    }
}
