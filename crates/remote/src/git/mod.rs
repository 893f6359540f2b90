//! Repositories: what is asked for, what comes of it.
//!
//! From top to bottom: `checkout` (files of a commit), `repository` (the shared bare repository of a remote), `resolve`
//! (references to commits), `log` (the user's own repository), `process` (the git program, shut off from this machine's configuration),
//! `activity` (whether it does anything), `remote` (addresses and credentials).

mod activity;
mod checkout;
mod log;
mod process;
mod remote;
mod repository;
mod resolve;

pub use remote::without_credentials;
pub(crate) use remote::{check_reference, is_object_id};

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use log::{Change, Commit, Version, bytes_of, commits};

use crate::client::Secrets;

/// The git program.
#[derive(Debug, Clone)]
pub struct GitConfig {
    /// A path, or a name that is looked for in [`GitConfig::search_path`].
    pub program: PathBuf,
    /// `PATH`, where git finds `ssh` too.
    pub search_path: OsString,
    /// A file of certificate authorities that git trusts instead of its own.
    pub authorities: Option<PathBuf>,
    /// A directory of certificate authorities, likewise.
    pub authority_directory: Option<PathBuf>,
    /// Whether `file://` remotes are allowed, and as submodules too.
    pub local_remotes: bool,
}

impl Default for GitConfig {
    fn default() -> Self {
        GitConfig {
            program: PathBuf::from("git"),
            search_path: OsString::from("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            authorities: None,
            authority_directory: None,
            local_remotes: false,
        }
    }
}

impl GitConfig {
    pub(crate) fn from_env(variable: impl Fn(&str) -> Option<OsString>) -> GitConfig {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let default = GitConfig::default();
        GitConfig {
            search_path: set("PATH").unwrap_or(default.search_path),
            authorities: set("SSL_CERT_FILE").map(PathBuf::from),
            authority_directory: set("SSL_CERT_DIR").map(PathBuf::from),
            ..default
        }
    }

    /// Where the program is.
    pub(crate) fn find(&self) -> Option<PathBuf> {
        let is_there = |path: &PathBuf| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
        if self.program.components().count() > 1 {
            return Some(self.program.clone()).filter(is_there);
        }
        let directories = env::split_paths(&self.search_path).filter(|directory| directory.is_absolute());
        directories.map(|directory| directory.join(&self.program)).find(is_there)
    }
}

/// Which files of which repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkout {
    /// `http://…`, `https://…`, `ssh://…`, `git://…` or `user@host:path`. A user and password are not handed on to git's
    /// command line nor kept.
    pub remote: String,
    /// Branch, tag, full reference or full commit id; `None` is the remote's default branch. Of a branch and a tag with
    /// the same name the branch is meant.
    pub reference: Option<String>,
    /// The directory whose content is wanted, relative to the root; empty is all.
    pub directory: String,
    /// What the commit's hexadecimal id must begin with; that of the tag object is as good.
    pub checksum: Option<String>,
    /// Whether `.git` stays, as a shallow clone. Not with a directory.
    pub keep_git_dir: bool,
    /// Whether submodules are fetched, and theirs.
    pub submodules: bool,
    /// Whether the commit is asked for by `reference` or `checksum`, a full id, alone: for commits that no branch reaches.
    pub fetch_by_commit: bool,
    /// Whether everything has the time of the commit instead of now.
    pub commit_times: bool,
}

impl Checkout {
    fn keeps_git_dir(&self) -> bool {
        self.keep_git_dir && self.directory.is_empty()
    }
}

/// How a repository is entered, and who is told what happens.
pub struct Access<'a> {
    /// The first one there of `GIT_AUTH_HEADER.<host[:port]>`, `GIT_AUTH_TOKEN.<host[:port]>`, `GIT_AUTH_HEADER` and
    /// `GIT_AUTH_TOKEN` is sent to HTTP(S) remotes: a header as the value of `Authorization`, a token as the password of the
    /// user `x-access-token`. Submodules get it only below the remote's address, on GitHub everywhere.
    pub secrets: &'a Secrets<'a>,
    /// The socket of an ssh agent. The user's own keys are not used.
    pub ssh_agent: Option<&'a Path>,
    /// Lines as in ssh's `known_hosts`: only these hosts are let through. `None`: every host key is accepted, unseen.
    pub known_hosts: Option<&'a str>,
    /// Is told what git says, line by line.
    pub log: &'a (dyn Fn(&str) + Send + Sync),
}

/// What a reference means at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// In full (`refs/heads/main`), or the commit's id where that was asked for, or `HEAD` where the remote does not say what
    /// its default branch is.
    pub reference: String,
    /// The id of what it points to: a commit, or an annotated tag's own.
    pub object: String,
    /// The commit, where that is known to be another one.
    pub peeled: Option<String>,
}

impl Resolved {
    /// The commit, as far as is known without fetching it.
    pub fn commit(&self) -> &str {
        self.peeled.as_deref().unwrap_or(&self.object)
    }

    /// What a checkout holds depends on this text alone (times aside, unless they are the commit's).
    pub fn identity(&self, checkout: &Checkout) -> String {
        let mut identity = if checkout.keeps_git_dir() {
            let remote = remote::without_credentials(&checkout.remote);
            format!("{} .git {} {}", self.object, self.reference, remote)
        } else {
            self.commit().to_owned()
        };
        if !checkout.submodules {
            identity += " without submodules";
        }
        if checkout.commit_times {
            identity += " commit times";
        }
        if !checkout.directory.is_empty() {
            identity += &format!(" directory {}", checkout.directory);
        }
        identity
    }
}

/// Files that are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedOut {
    /// The commit's id.
    pub commit: String,
    /// When it was committed.
    pub time: SystemTime,
}
