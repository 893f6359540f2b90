//! What the commits of a repository of this machine changed.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Digits of a commit's id that people are shown, as git does. Its own way to shorten would shorten those of files as well.
const SHORT: usize = 7;

/// A commit, and what it changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its id, shortened as git does.
    pub id: String,
    /// The first line of its message.
    pub subject: String,
    /// What it changed, added or removed below the directory asked for.
    pub changes: Vec<Change>,
}

/// What a commit did to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where, relative to the directory asked for.
    pub path: PathBuf,
    /// What was there before; `None` where nothing was.
    pub old: Option<Version>,
    /// What is there since, likewise.
    pub new: Option<Version>,
}

/// A file as a commit has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// 0o100644, 0o100755, 0o120000 (a link) or 0o160000 (another repository).
    pub mode: u32,
    /// The object with its bytes, in full.
    pub id: String,
}

impl Change {
    /// Whether the bytes of a file are what they were, and it only may or may not be executed any more.
    pub fn is_of_mode_only(&self) -> bool {
        let is_file = |version: &Version| version.mode & 0o170_000 == 0o100_000;
        matches!((&self.old, &self.new), (Some(old), Some(new)) if old.id == new.id && is_file(old) && is_file(new))
    }
}

/// The last `count` commits of the repository that a directory of this machine lies in, newest first, without merges. The user's own
/// repository is read with the user's own git, whose configuration says which repositories are to be trusted.
///
/// # Errors
/// In words: there is no git, no repository, or git refuses.
pub fn commits(directory: &Path, count: usize) -> Result<Vec<Commit>, String> {
    let most = format!("--max-count={count}");
    let arguments = [
        "-c",
        "log.showSignature=false",
        "-c",
        "log.showRoot=true",
        "log",
        "--no-merges",
        "--no-renames",
        "--no-ext-diff",
        "--no-textconv",
        "--raw",
        "--no-abbrev",
        "--relative",
        "-z",
        &most,
        "--format=%x00%H%x00%s",
        "--",
        ".",
    ];
    git(directory, &arguments).map(|printed| parse(&printed))
}

/// The bytes of a [`Version`] of the repository that a directory of this machine lies in.
///
/// # Errors
/// In words, likewise.
pub fn bytes_of(directory: &Path, version: &Version) -> Result<Vec<u8>, String> {
    git(directory, &["cat-file", "blob", &version.id])
}

fn git(directory: &Path, arguments: &[&str]) -> Result<Vec<u8>, String> {
    let mut git = Command::new("git");
    git.arg("-C").arg(directory).args(["-c", "core.fsmonitor=false"]).args(arguments);
    let output = git.stdin(Stdio::null()).output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "the git program is not installed".to_owned(),
        _ => format!("start git: {error}"),
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let command = arguments.iter().find(|word| ["log", "cat-file"].contains(word)).unwrap_or(&"");
        return Err(format!("git {command} in {}: {}", directory.display(), said.trim()));
    }
    Ok(output.stdout)
}

/// Strings that end with a zero: before each commit an empty one, which no other is, then its id and its subject; and for each file what it
/// was and is (`:100644 100755 OLD NEW M`, the first with an end of line before it) and its name.
fn parse(printed: &[u8]) -> Vec<Commit> {
    let mut strings = printed.split(|byte| *byte == 0);
    let mut commits: Vec<Commit> = Vec::new();
    while let Some(string) = strings.next() {
        let Some(next) = strings.next() else { break };
        if !string.is_empty() {
            let Some(Commit { changes, .. }) = commits.last_mut() else { continue };
            let what = String::from_utf8_lossy(string);
            let mut words = what.trim_start().trim_start_matches(':').split(' ');
            let mut word = || words.next().unwrap_or_default().to_owned();
            let [old_mode, new_mode, old_id, new_id] = [word(), word(), word(), word()];
            let version = |mode: &str, id: String| {
                let mode = u32::from_str_radix(mode, 8).unwrap_or_default();
                (mode != 0).then_some(Version { mode, id })
            };
            changes.push(Change {
                path: PathBuf::from(OsStr::from_bytes(next)),
                old: version(&old_mode, old_id),
                new: version(&new_mode, new_id),
            });
        } else if let Some(subject) = strings.next() {
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            let id = text(next).chars().take(SHORT).collect();
            commits.push(Commit { id, subject: text(subject), changes: Vec::new() });
        }
    }
    commits
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::{Change, Version, bytes_of, commits};
    use std::path::Path;
    use std::process::Command;

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
                let paths = commit.changes.iter().map(|change| change.path.to_str().unwrap());
                (&*commit.subject, paths.collect())
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
        // Whatever the user's own `git log` leaves out.
        for setting in ["log.showRoot=false", "log.follow=true", "color.ui=always"] {
            let (name, value) = setting.split_once('=').unwrap();
            git(dir.path(), &["config", name, value]);
            assert_eq!(commits(&below, 9).unwrap(), found, "{setting}");
        }
        assert!(commits(Path::new("/"), 1).is_err());
    }

    #[test]
    fn what_each_file_was_and_is() {
        let dir = tempfile::tempdir().unwrap();
        git(dir.path(), &["init", "-q"]);
        let commit = || {
            git(dir.path(), &["add", "-A"]);
            git(dir.path(), &["commit", "-qm", "x"]);
        };
        let set = |mode: u32| {
            std::fs::set_permissions(dir.path().join("f"), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        std::fs::write(dir.path().join("f"), "one").unwrap();
        set(0o644);
        commit();
        set(0o755);
        commit();
        std::fs::write(dir.path().join("f"), "two").unwrap();
        set(0o644);
        commit();
        std::fs::remove_file(dir.path().join("f")).unwrap();
        commit();
        let found = commits(dir.path(), 9).unwrap();
        let changes: Vec<&Change> = found.iter().map(|commit| &commit.changes[0]).collect();
        assert_eq!([0, 1, 2, 3].map(|at| changes[at].is_of_mode_only()), [false, false, true, false]);
        assert_eq!((&changes[0].new, &changes[3].old), (&None, &None));
        assert_eq!(bytes_of(dir.path(), changes[1].new.as_ref().unwrap()).unwrap(), b"two");
        assert_eq!(bytes_of(dir.path(), changes[1].old.as_ref().unwrap()).unwrap(), b"one");
        assert!(
            bytes_of(dir.path(), &Version { mode: 0, id: "0".repeat(40) }).unwrap_err().contains("cat-file")
        );
    }
}
