//! Clients and files for the tests.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use remote::{Client, Config, GitConfig, Secrets};
use tempfile::TempDir;
use transport::Retry;

/// Quick retries, this machine's files as remotes.
pub(crate) fn config() -> Config {
    Config {
        retry: Retry { first_delay: Duration::from_millis(5), attempts: 4, ..Retry::default() },
        git: GitConfig { local_remotes: true, ..GitConfig::default() },
        ..Config::default()
    }
}

pub(crate) fn client() -> Client {
    Client::new(config())
}

pub(crate) fn no_secrets(_: &str) -> Option<Vec<u8>> {
    None
}

/// Secrets by name.
pub(crate) fn secrets(pairs: &[(String, &str)]) -> Box<Secrets<'static>> {
    let pairs: Vec<(String, Vec<u8>)> =
        pairs.iter().map(|(name, value)| (name.clone(), value.as_bytes().to_vec())).collect();
    Box::new(move |name| pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
}

/// A directory, and a path in it at which there is nothing.
pub(crate) fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    (directory, path)
}

/// Bytes that no two offsets share.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Runs a program to its end, with nothing of this machine's git configuration, and gives what it prints. Panics with what
/// it said unless it succeeds.
pub(crate) fn run(directory: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_AUTHOR_DATE", "1700000000 +0000")
        .env("GIT_COMMITTER_DATE", "1700000000 +0000")
        .envs([("GIT_AUTHOR_NAME", "a"), ("GIT_AUTHOR_EMAIL", "a@example.org")])
        .envs([("GIT_COMMITTER_NAME", "a"), ("GIT_COMMITTER_EMAIL", "a@example.org")])
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
