//! The machine that figures come from, in words that tell machines of a kind apart and not one from another; and what was measured.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::bench::tools;
use crate::shell::{self, Result};

/// Processor, memory, kernel, file system of the stores, versions of the tools, the day.
///
/// # Errors
/// When it is not known what exactly is measured: `binary` is of no commit, or of one with changes, or BuildKit does not say its version.
pub(crate) fn describe(binary: &Path) -> Result<Value> {
    let cpu = first_value("/proc/cpuinfo", "model name").unwrap_or_default();
    let memory = first_value("/proc/meminfo", "MemTotal")
        .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .map(|kib| format!("{} GB", (kib * 1024) / 1_000_000_000));
    Ok(json!({
        "date": text("date", &["-u", "+%Y-%m-%d"]),
        "processor": cpu,
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "memory": memory,
        "kernel": text("uname", &["-rm"]),
        "file_system": file_system(),
        "load": fs::read_to_string("/proc/loadavg").ok().and_then(|load| load.split(' ').next().map(str::to_owned)),
        "revision": revision(binary)?,
        "tools": {
            "buildah": text("buildah", &["--version"]).as_deref().and_then(version),
            "buildkit": buildkit()?,
        },
    }))
}

/// The commit that the binary was built from, which has nothing in it that is not committed.
fn revision(binary: &Path) -> Result<String> {
    let changes = shell::output(shell::command("git").args(["status", "--porcelain"]))?;
    if let Some(change) = changes.lines().next() {
        return Err(format!("figures are of a commit, and something is not committed: {change}").into());
    }
    let said = shell::output(shell::command(binary).arg("--version"))?;
    let commit = said.trim().rsplit_once('(').map_or("", |(_, rest)| rest.trim_end_matches(')'));
    let full = known(commit)?;
    let differs = ["diff", "--quiet", &full, "HEAD", "--", "crates", "Cargo.lock", "Cargo.toml"];
    if shell::output(shell::command("git").args(differs)).is_err() {
        return Err(format!("the binary is of commit {commit}, whose program is not that of HEAD").into());
    }
    Ok(full)
}

/// The full name of a commit that HEAD is or comes after.
///
/// # Errors
/// When the repository has no such commit.
pub(crate) fn known(commit: &str) -> Result<String> {
    let unknown = |_| format!("commit {commit:?} is not in the history of this repository");
    let name = ["rev-parse", "--verify", "--quiet", &format!("{commit}^{{commit}}")].map(str::to_owned);
    let full = shell::output(shell::command("git").args(name)).map_err(unknown)?.trim().to_owned();
    shell::output(shell::command("git").args(["merge-base", "--is-ancestor", &full, "HEAD"]))
        .map_err(unknown)?;
    Ok(full)
}

/// The version of the daemon that is measured, where there is one.
fn buildkit() -> Result<Option<String>> {
    if !tools::has_buildkit() {
        return Ok(None);
    }
    let said = shell::output(shell::command("buildctl").args(["debug", "info"]))?;
    let line = said.lines().find_map(|line| line.strip_prefix("BuildKit:")).unwrap_or_default();
    let told = version(line).filter(|version| !version.contains("unknown"));
    // What `go install` builds knows of no version itself; the linker has noted it.
    let found = told.or_else(|| go_version(&fs::read(tools::daemon()?.join("exe")).ok()?));
    match found {
        Some(version) => Ok(Some(version)),
        None => Err(format!("it is not known what BuildKit this is: {:?}", line.trim()).into()),
    }
}

/// The version of the main module in what Go's linker writes into every program (`go version -m`).
fn go_version(program: &[u8]) -> Option<String> {
    const MODULE: &[u8] = b"\nmod\tgithub.com/moby/buildkit\t";
    let at = program.windows(MODULE.len()).position(|window| window == MODULE)? + MODULE.len();
    let rest = &program[at..program.len().min(at + 200)];
    let word = rest.split(|byte| byte.is_ascii_whitespace()).next()?;
    version(std::str::from_utf8(word).ok()?)
}

/// The first word that is a version. Programs also name the place of their source or their own path.
fn version(text: &str) -> Option<String> {
    let is = |word: &&str| {
        word.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit()) && word.contains('.')
    };
    text.split_whitespace().find(is).map(str::to_owned)
}

fn text(program: &str, args: &[&str]) -> Option<String> {
    Some(shell::output(shell::command(program).args(args)).ok()?.trim().to_owned())
}

fn file_system() -> Option<String> {
    let dir = shell::target();
    let output = shell::output(shell::command("stat").args(["-f", "-c", "%T"]).arg(dir)).ok()?;
    // stat(1) cannot tell them apart.
    Some(output.trim().replace("ext2/ext3", "ext4"))
}

fn first_value(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found() {
        assert_eq!(version("buildah version 1.28.2 (image-spec 1.0.2)").as_deref(), Some("1.28.2"));
        assert_eq!(version("   github.com/moby/buildkit v0.32.1 73ed682").as_deref(), Some("v0.32.1"));
        let noted =
            b"\0path\tx/cmd/buildkitd\nmod\tgithub.com/moby/buildkit\tv0.32.1-0.2026-73ed\th1:x=\ndep\t";
        assert_eq!(go_version(noted).as_deref(), Some("v0.32.1-0.2026-73ed"));
        assert_eq!(go_version(b"\nmod\tgithub.com/moby/buildkit\t(devel)\t\n"), None);
        assert_eq!(go_version(b"\nmod\tgithub.com/moby/bu"), None);
    }
}
