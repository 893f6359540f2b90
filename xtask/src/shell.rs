//! Running other programs, and where things lie.

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What every command here returns: the text of an error is shown, nothing branches on it.
pub(crate) type Result<T = ()> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

/// Cargo's target directory: everything that a command makes lies below it.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// A command that runs in the root of the repository, with the administrator's directories on its PATH: an ordinary
/// user's PATH often lacks them, and that is where Debian keeps `runc`, `dockerd` and `debootstrap`.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root()).env("PATH", search_path());
    command
}

/// Cargo, the one that started us.
pub(crate) fn cargo() -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Where `program` is found, if anywhere.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&search_path()).map(|dir| dir.join(program)).find(|path| path.is_file())
}

fn search_path() -> std::ffi::OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = env::split_paths(&path).collect();
    for dir in ["/usr/local/sbin", "/usr/sbin", "/sbin"] {
        if !dirs.iter().any(|known| known == Path::new(dir)) {
            dirs.push(dir.into());
        }
    }
    env::join_paths(dirs).unwrap_or(path)
}

/// Runs a command to its end with this terminal's output.
///
/// # Errors
/// When it cannot be started, or does not exit with 0; the text names the command line.
pub(crate) fn run(command: &mut Command) -> Result {
    let status = command.status().map_err(|error| format!("cannot run `{}`: {error}", line(command)))?;
    if status.success() { Ok(()) } else { Err(format!("`{}`: {status}", line(command)).into()) }
}

/// As [`run`], after printing the command line; returns how long it took.
pub(crate) fn show(command: &mut Command) -> Result<Duration> {
    println!("$ {}", line(command));
    let start = Instant::now();
    run(command)?;
    let took = start.elapsed();
    println!("  [{}]", seconds(took));
    Ok(took)
}

/// Runs a command to its end and returns what it wrote to stdout.
///
/// # Errors
/// As [`run`]; the text holds what the command wrote to stderr.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run `{}`: {error}", line(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("`{}`: {}\n{}", line(command), output.status, stderr.trim_end()).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command line as a person would type it, relative to the repository.
pub(crate) fn line(command: &Command) -> String {
    let root = format!("{}/", root().display());
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| {
        let word = word.to_string_lossy().replace(&root, "");
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+%~".contains(c);
        if !word.is_empty() && word.chars().all(plain) { word } else { format!("'{word}'") }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// A headed section of a command's output.
pub(crate) fn heading(text: &str) {
    println!("\n── {text} {}", "─".repeat(76usize.saturating_sub(text.chars().count())));
}

/// A duration as a person reads it.
pub(crate) fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
    } else {
        format!("{:.2} s", duration.as_secs_f64())
    }
}

/// Removes a directory tree when it is there.
pub(crate) fn remove(dir: &Path) -> Result {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", dir.display()).into())
        }
        _ => Ok(()),
    }
}

/// Copies a directory tree with everything that belongs to it.
pub(crate) fn copy(from: &Path, to: &Path) -> Result {
    run(command("cp").arg("-a").arg("--").arg(from).arg(to))
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    // The owner of this process' directory in /proc is its effective user.
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// The builder binary of a profile, built now.
///
/// # Errors
/// When it does not compile.
pub(crate) fn builder(release: bool) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--package", "builder"]);
    if release {
        build.arg("--release");
    }
    show(&mut build)?;
    Ok(target().join(if release { "release" } else { "debug" }).join("builder"))
}
