//! How each tool is told to build.

use std::env;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::bench::Lab;
use crate::bench::user::User;
use crate::shell::{self, Result};

/// A program that builds images.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    kind: Kind,
    /// Where its stores are.
    parent: PathBuf,
    /// Which of them it uses.
    number: usize,
    /// Whether that one has what the tool needs of base images.
    has_bases: bool,
    /// Those that it used before, and that are still there.
    old: Vec<PathBuf>,
    bases: PathBuf,
    /// Who runs it where a scenario asks for an ordinary user.
    user: Option<User>,
}

/// What one build took.
pub(crate) struct Run {
    pub(crate) wall: Duration,
    /// Peak resident memory of the largest process in bytes, where it was watched.
    pub(crate) memory: Option<u64>,
    /// Processor time, likewise.
    pub(crate) processor: Option<Duration>,
}

enum Kind {
    Builder(PathBuf),
    Buildah,
    BuildKit,
}

/// One build.
#[derive(Clone, Copy)]
pub(crate) struct Build<'a> {
    pub(crate) context: &'a Path,
    /// Its name, where it is not `Dockerfile`.
    pub(crate) dockerfile: Option<&'a str>,
    pub(crate) no_cache: bool,
    /// Writes an archive: the file and the compression (`gzip`, `zstd`, `uncompressed`, or the tool's default).
    pub(crate) archive: Option<(&'a Path, Option<&'a str>)>,
    /// By the ordinary user of [`Tool::become_user`], with a store of that user's.
    pub(crate) user: bool,
}

impl Tool {
    pub(crate) fn builder(binary: PathBuf, lab: &Lab) -> Result<Self> {
        Tool::new("builder", Kind::Builder(binary), lab)
    }

    /// Buildah with a store of its own on overlay.
    pub(crate) fn buildah(lab: &Lab) -> Result<Self> {
        let mut tool = Tool::new("buildah", Kind::Buildah, lab)?;
        tool.reset(true)?;
        Ok(tool)
    }

    /// BuildKit where its client is there and told of a daemon.
    pub(crate) fn buildkit(lab: &Lab) -> Result<Option<Self>> {
        if !has_buildkit() {
            println!("no BuildKit: buildctl is not on the PATH or BUILDKIT_HOST is not set");
            return Ok(None);
        }
        let mut tool = Tool::new("buildkit", Kind::BuildKit, lab)?;
        tool.reset(true)?;
        Ok(Some(tool))
    }

    fn new(name: &'static str, kind: Kind, lab: &Lab) -> Result<Self> {
        let parent = lab.dir.join(name);
        let mut tool = Tool {
            name,
            kind,
            parent,
            number: 0,
            has_bases: false,
            old: Vec::new(),
            bases: lab.bases.clone(),
            user: None,
        };
        // What an earlier run left.
        if tool.parent.exists() {
            for entry in fs::read_dir(&tool.parent)? {
                tool.old.push(entry?.path());
            }
            tool.discard()?;
        }
        fs::create_dir_all(&tool.parent)?;
        Ok(tool)
    }

    fn dir(&self) -> PathBuf {
        self.parent.join(self.number.to_string())
    }

    /// Gives the tool an empty store, so that nothing is cached; with `bases`, loads them where a tool needs that beforehand.
    ///
    /// The store of before stays until [`Tool::discard`]: after a removal ext4 makes files slowly for minutes.
    pub(crate) fn reset(&mut self, bases: bool) -> Result {
        self.has_bases = bases;
        if matches!(self.kind, Kind::BuildKit) {
            return shell::run(shell::command("buildctl").args(["prune", "--all"]).stdout(Stdio::null()));
        }
        self.old.push(self.dir());
        self.number += 1;
        fs::create_dir_all(self.dir())?;
        if matches!(self.kind, Kind::Buildah) {
            for name in ["busybox", "debian"].into_iter().filter(|_| bases) {
                let mut pull = buildah_command(&self.dir(), "pull");
                let layout = format!("oci:{}:latest", self.bases.join(name).display());
                let id = shell::output(pull.arg("--quiet").arg(layout))?;
                shell::output(
                    buildah_command(&self.dir(), "tag")
                        .args([id.trim(), &format!("localhost/{name}:latest")]),
                )?;
            }
        }
        Ok(())
    }

    /// Gives the tool a store with the base images, if it has none.
    pub(crate) fn ensure_bases(&mut self) -> Result {
        if self.has_bases { Ok(()) } else { self.reset(true) }
    }

    /// Makes it ready to be run by an ordinary user.
    ///
    /// # Errors
    /// When it cannot be, or is not prepared for that here.
    pub(crate) fn become_user(&mut self) -> Result {
        if !matches!(self.kind, Kind::Builder(_)) {
            return Err("not measured as an ordinary user".into());
        }
        if self.user.is_none() {
            self.user = Some(User::new(self.parent.join("user"))?);
        }
        Ok(())
    }

    /// Removes the stores of before.
    pub(crate) fn discard(&mut self) -> Result {
        for dir in std::mem::take(&mut self.old) {
            if matches!(self.kind, Kind::Buildah) && dir.join("root").exists() {
                shell::output(buildah_command(&dir, "rmi").args(["--all", "--force"]))?;
            }
            shell::remove(&dir)?;
        }
        Ok(())
    }

    /// Removes all that it made.
    pub(crate) fn clean(mut self) -> Result {
        if matches!(self.kind, Kind::BuildKit) {
            return self.reset(true);
        }
        self.old.push(self.dir());
        self.old.extend(self.user.take().map(|user| user.home().to_owned()));
        self.discard()
    }

    /// The command line of a build.
    pub(crate) fn build(&self, build: &Build<'_>) -> Command {
        match &self.kind {
            Kind::Builder(binary) => match self.user.as_ref().filter(|_| build.user) {
                Some(user) => user.command(&self.builder_build(binary, &user.home().join("state"), build)),
                None => self.builder_build(binary, &self.dir(), build),
            },
            Kind::Buildah => self.buildah_build(build),
            Kind::BuildKit => self.buildkit_build(build),
        }
    }

    fn builder_build(&self, binary: &Path, state: &Path, build: &Build<'_>) -> Command {
        let mut command = shell::command(binary);
        command.env("BUILDER_HOME", state).args(["build", "--progress=quiet"]);
        for name in ["busybox", "debian"] {
            command
                .arg("--build-context")
                .arg(format!("{name}=oci-layout://{}", self.bases.join(name).display()));
        }
        if build.no_cache {
            command.arg("--no-cache");
        }
        if let Some((file, compression)) = build.archive {
            command.arg("-o").arg(archive_output(file, compression));
        }
        if let Some(file) = build.dockerfile {
            command.arg("-f").arg(build.context.join(file));
        }
        command.arg(build.context);
        command
    }

    fn buildah_build(&self, build: &Build<'_>) -> Command {
        let mut command = buildah_command(&self.dir(), "bud");
        command.args([
            "--layers",
            "--runtime",
            "runc",
            "--quiet",
            "--tls-verify=false",
            "--network=host",
            "--format=oci",
        ]);
        if build.no_cache {
            command.arg("--no-cache");
        }
        if let Some((file, _)) = build.archive {
            command.arg("-t").arg(format!("oci-archive:{}", file.display()));
        }
        if let Some(file) = build.dockerfile {
            command.arg("-f").arg(build.context.join(file));
        }
        command.arg(build.context);
        command
    }

    fn buildkit_build(&self, build: &Build<'_>) -> Command {
        let mut command = shell::command("buildctl");
        command.args(["build", "--progress=quiet", "--frontend=dockerfile.v0"]);
        let context = build.context.display();
        command
            .arg("--local")
            .arg(format!("context={context}"))
            .arg("--local")
            .arg(format!("dockerfile={context}"));
        for name in ["busybox", "debian"] {
            let layout = self.bases.join(name);
            let digest = fs::read_to_string(layout.join("index.json"))
                .ok()
                .and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok())
                .and_then(|index| index["manifests"][0]["digest"].as_str().map(str::to_owned))
                .unwrap_or_default();
            command.arg("--oci-layout").arg(format!("{name}={}", layout.display()));
            command.arg("--opt").arg(format!("context:{name}=oci-layout://{name}@{digest}"));
        }
        if let Some(file) = build.dockerfile {
            command.arg("--opt").arg(format!("filename={file}"));
        }
        if build.no_cache {
            command.arg("--no-cache");
        }
        if let Some((file, compression)) = build.archive {
            command.arg("--output").arg(archive_output(file, compression));
        }
        command
    }

    /// Runs a build to its end; `watched`, under time(1).
    pub(crate) fn run(&mut self, build: &Build<'_>, watched: bool) -> Result<Run> {
        let report = self.parent.with_extension("time");
        let mut command = self.build(build);
        if watched {
            let inner = command;
            command = shell::command("time");
            command
                .args(["-f", "%M %U %S", "-o"])
                .arg(&report)
                .arg(inner.get_program())
                .args(inner.get_args());
            command.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // It would wait for what another has left to be written, and ext4 keeps inodes that were removed for longer until that is written.
        rustix::fs::sync();
        let start = Instant::now();
        let output = command.output()?;
        let wall = start.elapsed();
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let last = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message");
            return Err(format!("{}: {}: {last}", self.name, output.status).into());
        }
        if !watched {
            return Ok(Run { wall, memory: None, processor: None });
        }
        let text = fs::read_to_string(&report)?;
        let numbers: Vec<f64> =
            text.lines().last().unwrap_or("").split(' ').filter_map(|word| word.parse().ok()).collect();
        let [kib, user, system] = numbers[..] else {
            return Err(format!("time(1) says {text:?}").into());
        };
        // What a daemon does is in neither.
        let processor =
            (!matches!(self.kind, Kind::BuildKit)).then(|| Duration::from_secs_f64(user + system));
        Ok(Run { wall, memory: Some(kib as u64 * 1024), processor })
    }

    /// Peak memory of the tool's daemon since it was started, where there is one on this machine.
    pub(crate) fn daemon_memory(&self) -> Option<u64> {
        if !matches!(self.kind, Kind::BuildKit) {
            return None;
        }
        let status = fs::read_to_string(daemon()?.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    }
}

/// Whether BuildKit's client is there and told of a daemon.
pub(crate) fn has_buildkit() -> bool {
    shell::find("buildctl").is_some() && env::var_os("BUILDKIT_HOST").is_some()
}

/// The folder below /proc of BuildKit's daemon, where that runs on this machine.
pub(crate) fn daemon() -> Option<PathBuf> {
    let host = env::var("BUILDKIT_HOST").ok()?;
    let socket = UnixStream::connect(host.strip_prefix("unix://")?).ok()?;
    let daemon = rustix::net::sockopt::socket_peercred(&socket).ok()?.pid;
    Some(PathBuf::from(format!("/proc/{}", daemon.as_raw_nonzero())))
}

fn buildah_command(store: &Path, subcommand: &str) -> Command {
    let mut command = shell::command("buildah");
    command.arg("--root").arg(store.join("root")).arg("--runroot").arg(store.join("run"));
    command.args(["--storage-driver", "overlay", subcommand]);
    command
}

fn archive_output(file: &Path, compression: Option<&str>) -> String {
    let extra = compression.map(|c| format!(",compression={c},force-compression=true")).unwrap_or_default();
    format!("type=oci,dest={}{extra}", file.display())
}
