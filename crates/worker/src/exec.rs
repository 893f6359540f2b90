//! RUN: a process in a sandbox, whose changes become a layer.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use executor::{Cdi, Executor, NameService, NetworkKind, ProcessSpec, ResolvConf, Rootfs, Stdio, User};
use graph::{Event, Exec, Network, ProgressSink, Security};
use image::Platform;

use crate::WorkerError;
use crate::log::{OutputLimits, StepLog};
use crate::mounts::Mounts;
use crate::secrets::Masking;

/// What all processes of a build get that no key depends on.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// `--shm-size`, in bytes.
    pub shm_size: Option<u64>,
    /// `--dns` and the like.
    pub names: NameService,
    /// `--ulimit`.
    pub ulimits: Vec<executor::Ulimit>,
    /// `--memory` and the like.
    pub limits: executor::Limits,
    /// How much of what a step prints is shown.
    pub output: OutputLimits,
    /// How long what a failed step left is kept; `None`: not at all.
    pub keep_failed: Option<Duration>,
    /// Whether what a cached step printed is shown again.
    pub replay: bool,
}

/// What a process is started with.
pub(crate) struct Start<'a> {
    pub(crate) exec: &'a Exec,
    pub(crate) user: User,
    pub(crate) rootfs: Rootfs,
    pub(crate) mounts: &'a Mounts,
    pub(crate) options: &'a RunOptions,
}

impl Start<'_> {
    /// The process, in the executor's words.
    pub(crate) async fn spec(self, executor: &dyn Executor) -> Result<ProcessSpec, WorkerError> {
        let Start { exec, user, rootfs, mounts, options } = self;
        ensure_runnable(&exec.platform)?;
        let mut spec = ProcessSpec::new(rootfs, &exec.args);
        let env = exec.env.iter().chain(&exec.unkeyed_env);
        spec.env = env.map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
        for (name, value) in &mounts.env {
            set(&mut spec.env, name, value);
        }
        // Which of the two a line was written to interests few; that it stands behind what was written before, everybody who reads `set -x`.
        spec.stdio = Stdio::Joined;
        spec.cwd = PathBuf::from(&exec.cwd);
        spec.user = user;
        spec.hostname = exec.hostname.clone();
        // One that was asked for is part of the key: another would be a wrong result for others. What everybody has is not meant to be looked at.
        spec.needs_hostname = exec.hostname != graph::HOSTNAME;
        spec.network = match exec.network {
            Network::Host => executor::Network::Host,
            Network::None => executor::Network::None,
            Network::Default => executor::Network::Private,
            Network::Private => {
                let network = executor.private_network().await?;
                if let (NetworkKind::Host, Some(why)) = (network.kind(), network.reason()) {
                    return Err(WorkerError::Unsupported(format!("--network=private: {why}")));
                }
                executor::Network::Private
            }
        };
        spec.resolv_conf = Some(resolv_conf(&spec, &options.names, executor).await?);
        spec.hosts = Some(hosts(exec, executor).await?);
        spec.security = match exec.security {
            Security::Sandbox => executor::Security::Default,
            Security::Insecure => executor::Security::Insecure,
        };
        spec.timeout = exec.timeout;
        spec.shm_size = options.shm_size;
        spec.ulimits = options.ulimits.clone();
        spec.limits = options.limits.clone();
        add_devices(exec, &mut spec)?;
        spec.mounts.extend(mounts.mounts.iter().cloned());
        Ok(spec)
    }
}

/// Runs the process of a RUN to its end; anything but success is an error.
pub(crate) async fn run(
    start: Start<'_>,
    executor: &dyn Executor,
    log: &StepLog,
    progress: &Arc<dyn ProgressSink>,
) -> Result<(), WorkerError> {
    let (exec, secrets) = (start.exec, &start.mounts.secrets);
    let vertex = log.vertex();
    let masking = Masking::new(log, secrets);
    for message in start.mounts.notes.iter().cloned() {
        progress.event(Event::Warning { vertex, message });
    }
    let spec = start.spec(executor).await?;
    let outcome = executor.run(spec, &masking).await;
    masking.finish();
    log.finish();
    let outcome = outcome?;
    progress.event(Event::Computed { vertex, cpu: outcome.cpu });
    for message in outcome.notes {
        progress.event(Event::Warning { vertex, message });
    }
    if !outcome.status.success() || outcome.cause.is_some() {
        let command = exec.args.join(" ");
        return Err(WorkerError::Exit { command, status: outcome.status, cause: outcome.cause, kept: None });
    }
    Ok(())
}

/// A later value of a variable takes the place of an earlier one.
fn set(env: &mut Vec<(OsString, OsString)>, name: &OsString, value: &OsString) {
    env.retain(|(known, _)| known != name);
    env.push((name.clone(), value.clone()));
}

/// `--device`: nodes, mounts, variables and groups that the machine's CDI files describe.
fn add_devices(exec: &Exec, spec: &mut ProcessSpec) -> Result<(), WorkerError> {
    if exec.devices.is_empty() {
        return Ok(());
    }
    let described = Cdi::load()?;
    for device in &exec.devices {
        let edits = described.resolve(&device.name, device.required)?;
        spec.devices.extend(edits.devices);
        spec.mounts.extend(edits.mounts);
        spec.user.additional_gids.extend(edits.additional_gids);
        for (name, value) in edits.env {
            if !spec.env.iter().any(|(known, _)| *known == name) {
                spec.env.push((name, value));
            }
        }
    }
    Ok(())
}

/// Fails where this machine cannot execute programs of `platform`, neither by itself nor by an interpreter that it was told of.
fn ensure_runnable(platform: &Platform) -> Result<(), WorkerError> {
    let host = Platform::host();
    if can_run(platform, &host) || is_interpreted(platform, Path::new(BINFMT)) {
        return Ok(());
    }
    Err(WorkerError::Foreign { platform: platform.to_string(), host: host.to_string() })
}

/// Where the kernel shows what interprets foreign programs (Documentation/admin-guide/binfmt-misc.rst).
const BINFMT: &str = "/proc/sys/fs/binfmt_misc";

/// Whether an interpreter for programs of `platform` is registered that also works in another root: flag `F`.
fn is_interpreted(platform: &Platform, registered: &Path) -> bool {
    if platform.os != "linux" {
        return false;
    }
    let Some(names) = qemu_names(platform) else { return false };
    names.iter().any(|name| {
        let Ok(entry) = std::fs::read_to_string(registered.join(format!("qemu-{name}"))) else {
            return false;
        };
        let mut lines = entry.lines();
        let flags = |line: &str| line.strip_prefix("flags:").is_some_and(|flags| flags.contains('F'));
        lines.next() == Some("enabled") && lines.any(flags)
    })
}

/// What QEMU calls an architecture.
fn qemu_names(platform: &Platform) -> Option<&'static [&'static str]> {
    Some(match platform.architecture.as_str() {
        "amd64" => &["x86_64"],
        "386" => &["i386"],
        "arm64" => &["aarch64"],
        "arm" => &["arm"],
        "riscv64" => &["riscv64"],
        "ppc64le" => &["ppc64le"],
        "s390x" => &["s390x"],
        "loong64" => &["loongarch64"],
        "mips64le" => &["mips64el"],
        "mips64" => &["mips64"],
        _ => return None,
    })
}

/// Whether this machine executes programs of `platform` by itself.
fn can_run(platform: &Platform, host: &Platform) -> bool {
    let same = platform.os == host.os && platform.architecture == host.architecture;
    let narrower = platform.os == "linux" && (host.architecture == "amd64" && platform.architecture == "386");
    same || narrower
}

/// The address that stands for the host itself, as Docker has it.
const HOST_GATEWAY: &str = "host-gateway";

/// The `/etc/hosts` of a process.
async fn hosts(exec: &Exec, executor: &dyn Executor) -> Result<String, WorkerError> {
    let mut text =
        format!("127.0.0.1\tlocalhost {}\n::1\tlocalhost ip6-localhost ip6-loopback\n", exec.hostname);
    for (name, address) in &exec.extra_hosts {
        let gateway;
        let address = if address == HOST_GATEWAY {
            gateway = host_gateway(exec, executor).await?;
            gateway.as_str()
        } else {
            address
        };
        text.push_str(&format!("{address}\t{name}\n"));
    }
    Ok(text)
}

async fn host_gateway(exec: &Exec, executor: &dyn Executor) -> Result<String, WorkerError> {
    let gateway = match exec.network {
        // In the host's network, and in none, nothing is nearer than the loopback.
        Network::Host | Network::None => Some(std::net::Ipv4Addr::LOCALHOST.into()),
        Network::Default | Network::Private => executor.private_network().await?.host_gateway(),
    };
    let missing =
        || WorkerError::Unsupported("--add-host=NAME:host-gateway on a host without an address".to_owned());
    Ok(gateway.ok_or_else(missing)?.to_string())
}

/// The `/etc/resolv.conf` of a process.
async fn resolv_conf(
    spec: &ProcessSpec,
    names: &NameService,
    executor: &dyn Executor,
) -> Result<ResolvConf, WorkerError> {
    if let Some(server) = names.out_of_reach()
        && spec.network == executor::Network::Private
        && executor.private_network().await?.kind() != NetworkKind::Host
    {
        let why = format!("--dns {server}: {}", executor::OUT_OF_REACH);
        return Err(WorkerError::Unsupported(why));
    }
    names.resolv_conf().map_err(|source| WorkerError::io("read", Path::new("/etc/resolv.conf"), source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interpreter_must_reach_into_other_roots() {
        let registered = tempfile::tempdir().unwrap();
        let arm: Platform = "linux/arm64".parse().unwrap();
        let interpreted = |text: &str| {
            std::fs::write(registered.path().join("qemu-aarch64"), text).unwrap();
            is_interpreted(&arm, registered.path())
        };
        assert!(interpreted("enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: OCF\noffset 0\n"));
        assert!(!interpreted("enabled\ninterpreter /usr/bin/qemu-aarch64\nflags: OC\noffset 0\n"));
        assert!(!interpreted("disabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: F\n"));
        assert!(!is_interpreted(&"linux/arm/v7".parse().unwrap(), registered.path()));
    }

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
