use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::process::{Failure, Session, Trouble};
use super::remote::Remote;
use super::repository::{Repository, is_damage, marker};
use super::resolve::verify;
use super::{Access, CheckedOut, Checkout, Resolved};
use crate::client::Client;
use crate::error::Error;

impl Client {
    /// Puts the files of what was resolved into the directory `into`, which must not exist or be empty; its parent must
    /// exist. It becomes that directory when it is complete; after an error, or when the future is dropped, nothing is left of it.
    ///
    /// Modes are 0644 and 0755, whatever the umask is. `repositories` holds one bare repository for each remote, shared by
    /// all builds; a build that needs one waits for the build that uses it. It may be removed when no build runs.
    pub async fn checkout(
        &self,
        checkout: &Checkout,
        resolved: &Resolved,
        access: &Access<'_>,
        repositories: &Path,
        into: &Path,
    ) -> Result<CheckedOut, Error> {
        let directory = clean(&checkout.directory)?;
        let remote = Remote::new(&checkout.remote, &self.config.git, access.secrets)?;
        let mut session = Session::new(&self.config, access, remote)?;
        let work = Work { repositories, checkout, resolved, directory: &directory, into };
        let done = match work.run(&session).await {
            Err(Trouble::Git(failure)) if session.may_follow(&failure) => {
                session.follow(&self.transport).await?;
                work.run(&session).await
            }
            other => other,
        };
        done.map_err(|trouble| session.error(trouble))
    }
}

/// One checkout.
struct Work<'a> {
    repositories: &'a Path,
    checkout: &'a Checkout,
    resolved: &'a Resolved,
    directory: &'a Path,
    into: &'a Path,
}

impl Work<'_> {
    async fn run(&self, session: &Session<'_>) -> Result<CheckedOut, Trouble> {
        let sha256 = self.resolved.object.len() == 64;
        let repository = Repository::open(session, self.repositories, sha256).await?;
        let failure = match (Writer { session, repository: &repository, work: self }).run().await {
            Err(Trouble::Git(failure)) if is_damage(&failure) => failure,
            other => return other,
        };
        // The shared repository is a cache: a broken one is made anew, once.
        tracing::warn!(?failure, directory = %repository.directory.display(), "a cached repository is damaged");
        repository.remove()?;
        drop(repository);
        let repository = Repository::open(session, self.repositories, sha256).await?;
        Writer { session, repository: &repository, work: self }.run().await
    }
}

/// A checkout from a repository that is there.
struct Writer<'a> {
    session: &'a Session<'a>,
    repository: &'a Repository,
    work: &'a Work<'a>,
}

impl Writer<'_> {
    async fn run(&self) -> Result<CheckedOut, Trouble> {
        let Work { checkout, resolved, directory, into, .. } = *self.work;
        self.repository.fetch(self.session, checkout, resolved).await?;
        let git = self.repository.git(self.session);
        let object = &resolved.object;
        let commit = git.run(&["rev-parse", "--verify", &format!("{object}^{{commit}}")]).await?;
        let commit = commit.trim().to_owned();
        let peeled = Some(commit.clone()).filter(|commit| commit != object);
        verify(checkout, &self.session.remote.url, &Resolved { peeled, ..resolved.clone() })?;
        let time = git.run(&["log", "-1", "--format=%ct", &commit]).await?;
        let time = commit_time(&time);

        let failed = |error| Error::io(format!("check out to {}", into.display()), error);
        let parent = into.parent().unwrap_or(Path::new("/"));
        let work = tempfile::Builder::new().prefix(".checkout-").tempdir_in(parent).map_err(failed)?;
        let tree = work.path().join("tree");
        fs::create_dir(&tree).map_err(failed)?;
        if checkout.keeps_git_dir() {
            self.clone_to(&tree, &commit).await?;
        } else {
            self.write_to(&tree, &work.path().join("git"), &commit).await?;
        }
        let times = checkout.commit_times.then_some(time);
        let drop_git_dirs = !checkout.keeps_git_dir();
        let (directory, into) = (directory.to_owned(), into.to_owned());
        let finished = tokio::task::spawn_blocking(move || {
            let done = finish(&tree, &directory, drop_git_dirs, times, &into);
            drop(work);
            done
        });
        finished.await.map_err(|error| failed(io::Error::other(error)))??;
        Ok(CheckedOut { commit, time })
    }

    /// Files only. The repository beside them borrows the shared one's objects, so that nothing is copied.
    async fn write_to(&self, tree: &Path, git_dir: &Path, commit: &str) -> Result<(), Trouble> {
        let git = self.repository.git_beside(self.session).in_repository(git_dir).on(tree);
        git.run(&self.init()).await?;
        let failed = |error| Error::io(format!("write to {}", git_dir.display()), error);
        let shared = &self.repository.directory;
        let mut objects = shared.join("objects").as_os_str().as_bytes().to_owned();
        objects.push(b'\n');
        fs::create_dir_all(git_dir.join("objects/info"))
            .and_then(|()| fs::write(git_dir.join("objects/info/alternates"), objects))
            .map_err(failed)?;
        match fs::copy(shared.join("shallow"), git_dir.join("shallow")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error).into()),
            _ => {}
        }
        git.run(&["remote", "add", "origin", &self.session.remote.url]).await?;
        git.run(&["checkout", "--quiet", "--force", "--detach", commit]).await?;
        self.add_submodules(tree, git_dir).await
    }

    /// Files and a repository that stands on its own: one commit deep, with the reference that was asked for.
    async fn clone_to(&self, tree: &Path, commit: &str) -> Result<(), Trouble> {
        let git_dir = tree.join(".git");
        let git = self.repository.git_beside(self.session).in_repository(&git_dir).on(tree);
        git.run(&self.init()).await?;
        let mut refspec = marker(&self.work.resolved.object);
        if self.work.resolved.reference.starts_with("refs/") {
            refspec += &format!(":{}", self.work.resolved.reference);
        }
        let shared = self.repository.directory.as_os_str();
        let mut arguments: Vec<&std::ffi::OsStr> =
            ["fetch", "--quiet", "--depth=1", "--no-tags", "--no-write-fetch-head", "--update-head-ok", "--"]
                .map(AsRef::as_ref)
                .into();
        arguments.extend([shared, refspec.as_ref()]);
        git.clone().locally().run(&arguments).await?;
        git.run(&["remote", "add", "origin", &self.session.remote.url]).await?;
        git.run(&["checkout", "--quiet", "--force", "--detach", commit]).await?;
        git.run(&["reflog", "expire", "--all", "--expire=now"]).await?;
        self.add_submodules(tree, &git_dir).await
    }

    fn init(&self) -> Vec<&'static str> {
        let mut arguments = vec!["init", "--quiet"];
        if self.work.resolved.object.len() == 64 {
            arguments.push("--object-format=sha256");
        }
        arguments
    }

    async fn add_submodules(&self, tree: &Path, git_dir: &Path) -> Result<(), Trouble> {
        if !self.work.checkout.submodules || !tree.join(".gitmodules").is_file() {
            return Ok(());
        }
        let git = self.repository.git_beside(self.session).in_repository(git_dir).on(tree);
        let update = ["submodule", "update", "--quiet", "--init", "--recursive"];
        let shallow = [&update[..], &["--depth=1"]].concat();
        match git.run(&shallow).await {
            Ok(_) => Ok(()),
            // Servers that give out tips only, or know nothing of shallow clones; and what may pass.
            Err(Failure::Refused(_)) => Ok(super::resolve::persist(&git, &update).await.map(drop)?),
            Err(other) => Err(other.into()),
        }
    }
}

/// Seconds since 1970, which may be any that a commit says. What no clock shows is that moment itself, as git has it.
fn commit_time(printed: &str) -> SystemTime {
    let seconds = printed.trim().parse().ok();
    let time = seconds.and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A relative path that stays inside.
fn clean(directory: &str) -> Result<PathBuf, Error> {
    let wrong = || Error::Invalid(format!("`{}` is no directory of a repository", directory.escape_debug()));
    let mut cleaned = PathBuf::new();
    for component in Path::new(directory).components() {
        match component {
            Component::Normal(name) if name.as_bytes().contains(&0) => return Err(wrong()),
            Component::Normal(name) => cleaned.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(wrong()),
        }
    }
    Ok(cleaned)
}

/// Makes a complete tree, or the directory of it, appear as `into`.
fn finish(
    tree: &Path,
    directory: &Path,
    drop_git_dirs: bool,
    times: Option<SystemTime>,
    into: &Path,
) -> Result<(), Error> {
    let mut root = tree.to_owned();
    for component in directory.components() {
        root.push(component);
        // A link could lead out of the tree.
        let is_directory = fs::symlink_metadata(&root).is_ok_and(|metadata| metadata.is_dir());
        if !is_directory {
            let message = format!("`{}` is not a directory of the repository", directory.display());
            return Err(Error::Invalid(message));
        }
    }
    let failed = |error| Error::io(format!("check out to {}", into.display()), error);
    if drop_git_dirs {
        remove_git_dirs(&root).map_err(failed)?;
    }
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    if let Some(time) = times {
        set_times(&root, time).map_err(failed)?;
    }
    fs::rename(&root, into).map_err(failed)
}

/// Removes what git left in submodules. It checks out nothing of this name itself.
fn remove_git_dirs(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let is_directory = entry.file_type()?.is_dir();
        match (entry.file_name() == ".git", is_directory) {
            (true, true) => fs::remove_dir_all(entry.path())?,
            (true, false) => fs::remove_file(entry.path())?,
            (false, true) => remove_git_dirs(&entry.path())?,
            (false, false) => {}
        }
    }
    Ok(())
}

/// Sets the time of everything, of a directory after what is in it.
fn set_times(path: &Path, time: SystemTime) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            set_times(&entry?.path(), time)?;
        }
    }
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let time = Timespec { tv_sec: since.as_secs() as i64, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_stay_inside() {
        assert_eq!(clean("a/./b/").unwrap(), Path::new("a/b"));
        assert_eq!(clean("/a").unwrap(), Path::new("a"));
        assert_eq!(clean("").unwrap(), Path::new(""));
        for wrong in ["..", "a/../../b", "a/..", "a\0b"] {
            assert!(clean(wrong).is_err(), "{wrong:?}");
        }
    }
}
