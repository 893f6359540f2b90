//! How each tool is told to build.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::bench::Lab;
use crate::shell::{self, Result};

/// A program that builds images.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    kind: Kind,
    dir: PathBuf,
    bases: PathBuf,
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
    pub(crate) no_cache: bool,
    /// Writes an archive: the file and the compression (`gzip`, `zstd`, `uncompressed`, or the tool's default).
    pub(crate) archive: Option<(&'a Path, Option<&'a str>)>,
}

impl Tool {
    pub(crate) fn builder(binary: PathBuf, lab: &Lab) -> Self {
        Self {
            name: "builder",
            kind: Kind::Builder(binary),
            dir: lab.dir.join("builder"),
            bases: lab.bases.clone(),
        }
    }

    /// Buildah with a store of its own on overlay.
    pub(crate) fn buildah(lab: &Lab) -> Result<Self> {
        let tool = Self {
            name: "buildah",
            kind: Kind::Buildah,
            dir: lab.dir.join("buildah"),
            bases: lab.bases.clone(),
        };
        tool.reset(true)?;
        Ok(tool)
    }

    /// BuildKit where its client is there and told of a daemon.
    pub(crate) fn buildkit(lab: &Lab) -> Result<Option<Self>> {
        if shell::find("buildctl").is_none() || env::var_os("BUILDKIT_HOST").is_none() {
            println!("no BuildKit: buildctl is not on the PATH or BUILDKIT_HOST is not set");
            return Ok(None);
        }
        let tool = Self {
            name: "buildkit",
            kind: Kind::BuildKit,
            dir: lab.dir.join("buildkit"),
            bases: lab.bases.clone(),
        };
        Ok(Some(tool))
    }

    /// Empties the tool's store, so that nothing is cached; with `bases`, loads them where a tool needs that beforehand.
    pub(crate) fn reset(&self, bases: bool) -> Result {
        match &self.kind {
            Kind::Builder(_) => shell::remove(&self.dir),
            Kind::Buildah => {
                if self.dir.exists() {
                    shell::output(self.buildah_command("rmi").args(["--all", "--force"]))?;
                }
                shell::remove(&self.dir)?;
                fs::create_dir_all(&self.dir)?;
                for name in ["busybox", "debian"].into_iter().filter(|_| bases) {
                    let mut pull = self.buildah_command("pull");
                    let layout = format!("oci:{}:latest", self.bases.join(name).display());
                    let id = shell::output(pull.arg("--quiet").arg(layout))?;
                    shell::output(
                        self.buildah_command("tag").args([id.trim(), &format!("localhost/{name}:latest")]),
                    )?;
                }
                Ok(())
            }
            Kind::BuildKit => {
                shell::run(shell::command("buildctl").args(["prune", "--all"]).stdout(Stdio::null()))
            }
        }
    }

    /// The command line of a build.
    pub(crate) fn build(&self, build: &Build<'_>) -> Command {
        match &self.kind {
            Kind::Builder(binary) => self.builder_build(binary, build),
            Kind::Buildah => self.buildah_build(build),
            Kind::BuildKit => self.buildkit_build(build),
        }
    }

    fn builder_build(&self, binary: &Path, build: &Build<'_>) -> Command {
        let mut command = shell::command(binary);
        command.env("BUILDER_HOME", &self.dir).args(["build", "--progress=quiet"]);
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
        command.arg(build.context);
        command
    }

    fn buildah_build(&self, build: &Build<'_>) -> Command {
        let mut command = self.buildah_command("bud");
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
        if build.no_cache {
            command.arg("--no-cache");
        }
        if let Some((file, compression)) = build.archive {
            command.arg("--output").arg(archive_output(file, compression));
        }
        command
    }

    fn buildah_command(&self, subcommand: &str) -> Command {
        let mut command = shell::command("buildah");
        command.arg("--root").arg(self.dir.join("root")).arg("--runroot").arg(self.dir.join("run"));
        command.args(["--storage-driver", "overlay", subcommand]);
        command
    }

    /// Runs a build and returns its wall time.
    pub(crate) fn time(&self, build: &Build<'_>) -> Result<Duration> {
        let mut command = self.build(build);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let start = Instant::now();
        let output = command.output()?;
        let took = start.elapsed();
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let last = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message");
            return Err(format!("{}: {}: {last}", self.name, output.status).into());
        }
        Ok(took)
    }

    /// Runs a build under time(1) and returns the peak resident memory of its largest process, in bytes. What a daemon
    /// takes is not in it.
    pub(crate) fn memory(&self, build: &Build<'_>) -> Result<u64> {
        let report = self.dir.with_extension("time");
        let inner = self.build(build);
        let mut time = shell::command("time");
        time.args(["-f", "%M", "-o"]).arg(&report).arg(inner.get_program()).args(inner.get_args());
        for (key, value) in inner.get_envs() {
            if let Some(value) = value {
                time.env(key, value);
            }
        }
        shell::output(&mut time)?;
        let text = fs::read_to_string(&report)?;
        let kib: u64 = text.trim().lines().last().unwrap_or("").parse()?;
        Ok(kib * 1024)
    }
}

fn archive_output(file: &Path, compression: Option<&str>) -> String {
    let extra = compression.map(|c| format!(",compression={c},force-compression=true")).unwrap_or_default();
    format!("type=oci,dest={}{extra}", file.display())
}
