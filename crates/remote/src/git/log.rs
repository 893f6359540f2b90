//! What the commits of a repository of this machine changed.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A commit, and what it changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its id, shortened as git does.
    pub id: String,
    /// The first line of its message.
    pub subject: String,
    /// The files that it changed, added or removed below the directory asked for, relative to that.
    pub paths: Vec<PathBuf>,
}

/// The last `count` commits of the repository that a directory of this machine lies in, newest first, without merges. The user's own
/// repository is read with the user's own git, whose configuration says which repositories are to be trusted.
///
/// # Errors
/// In words: there is no git, no repository, or git refuses.
pub fn commits(directory: &Path, count: usize) -> Result<Vec<Commit>, String> {
    let arguments =
        ["--no-merges", "--no-renames", "--no-ext-diff", "--no-textconv", "--name-only", "--relative", "-z"];
    let mut git = Command::new("git");
    git.arg("-C").arg(directory).args(["-c", "core.fsmonitor=false", "-c", "log.showSignature=false", "log"]);
    git.args(arguments).arg(format!("--max-count={count}")).arg("--format=%x01%h%x02%s").arg("--").arg(".");
    let output = git.stdin(Stdio::null()).output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "the git program is not installed".to_owned(),
        _ => format!("start git: {error}"),
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("git log in {}: {}", directory.display(), said.trim()));
    }
    Ok(output.stdout.split(|byte| *byte == 1).filter(|text| !text.is_empty()).map(commit).collect())
}

/// A header up to the first end of a line or string, then names.
fn commit(text: &[u8]) -> Commit {
    let end = text.iter().position(|byte| matches!(byte, 0 | b'\n')).unwrap_or(text.len());
    let (header, names) = text.split_at(end);
    let header = String::from_utf8_lossy(header);
    let (id, subject) = header.split_once('\u{2}').unwrap_or((&header, ""));
    let names = names.split(|byte| *byte == 0).map(|name| name.strip_prefix(b"\n").unwrap_or(name));
    let paths = names.filter(|name| !name.is_empty()).map(|name| PathBuf::from(OsStr::from_bytes(name)));
    Commit { id: id.to_owned(), subject: subject.to_owned(), paths: paths.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(directory: &Path, arguments: &[&str]) {
        let mut git = Command::new("git");
        git.arg("-C").arg(directory).args([
            "-c",
            "user.name=n",
            "-c",
            "user.email=e",
            "-c",
            "init.defaultBranch=main",
        ]);
        let output = git.args(arguments).env("GIT_CONFIG_NOSYSTEM", "1").output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn what_each_commit_changed() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("below");
        std::fs::create_dir(&below).unwrap();
        git(dir.path(), &["init", "-q"]);
        assert!(commits(dir.path(), 9).is_err(), "there is none yet");
        let commit = |files: &[(&str, &str)], message: &str| {
            for (name, text) in files {
                std::fs::write(dir.path().join(name), text).unwrap();
            }
            git(dir.path(), &["add", "-A"]);
            git(dir.path(), &["commit", "-qm", message]);
        };
        commit(&[("above", "1"), ("below/a\nb", "1"), ("below/c", "1")], "First");
        commit(&[("above", "2")], "Elsewhere");
        std::fs::remove_file(below.join("c")).unwrap();
        commit(&[("below/ü", "1")], "Last: \"x\"");
        let found = commits(&below, 9).unwrap();
        let told: Vec<(&str, Vec<&str>)> = found
            .iter()
            .map(|commit| {
                (&*commit.subject, commit.paths.iter().map(|path| path.to_str().unwrap()).collect())
            })
            .collect();
        assert_eq!(told, [("Last: \"x\"", vec!["c", "ü"]), ("First", vec!["a\nb", "c"])]);
        assert_eq!(commits(&below, 1).unwrap().len(), 1);
        assert!(commits(Path::new("/"), 1).is_err());
    }
}
