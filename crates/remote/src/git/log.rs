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
    git.args(arguments).arg(format!("--max-count={count}")).arg("--format=%x00%h%x00%s").arg("--").arg(".");
    let output = git.stdin(Stdio::null()).output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "the git program is not installed".to_owned(),
        _ => format!("start git: {error}"),
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("git log in {}: {}", directory.display(), said.trim()));
    }
    Ok(parse(&output.stdout))
}

/// Strings that end with a zero: before each commit an empty one, which no name is, then its id, its subject, and names, of which the first has
/// an end of line before it.
fn parse(printed: &[u8]) -> Vec<Commit> {
    let mut strings = printed.split(|byte| *byte == 0);
    let mut commits: Vec<Commit> = Vec::new();
    while let Some(string) = strings.next() {
        if !string.is_empty() {
            let Some(Commit { paths, .. }) = commits.last_mut() else { continue };
            let name = string.strip_prefix(b"\n").filter(|_| paths.is_empty()).unwrap_or(string);
            paths.push(PathBuf::from(OsStr::from_bytes(name)));
        } else if let (Some(id), Some(subject)) = (strings.next(), strings.next()) {
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            commits.push(Commit { id: text(id), subject: text(subject), paths: Vec::new() });
        }
    }
    commits
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
        commit(&[("below/\u{1}a\u{2}b", "1"), ("below/\nz", "1")], "Odd \u{1}b\u{2}c");
        std::fs::remove_file(below.join("c")).unwrap();
        commit(&[("below/ü", "1")], "Last: \"x\"");
        let found = commits(&below, 9).unwrap();
        let told: Vec<(&str, Vec<&str>)> = found
            .iter()
            .map(|commit| {
                (&*commit.subject, commit.paths.iter().map(|path| path.to_str().unwrap()).collect())
            })
            .collect();
        assert_eq!(
            told,
            [
                ("Last: \"x\"", vec!["c", "ü"]),
                ("Odd \u{1}b\u{2}c", vec!["\u{1}a\u{2}b", "\nz"]),
                ("First", vec!["a\nb", "c"]),
            ]
        );
        assert_eq!(commits(&below, 1).unwrap().len(), 1);
        assert!(commits(Path::new("/"), 1).is_err());
    }
}
