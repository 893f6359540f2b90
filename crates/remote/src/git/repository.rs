use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hash::Digest;

use super::process::{Failure, Git, Session, Trouble};
use super::resolve::persist;
use super::{Checkout, Resolved};
use crate::error::Error;

/// How often a lock is tried.
const POLL: Duration = Duration::from_millis(20);

/// The bare repository that all builds on this machine share for one remote. While this lives, it is this build's.
///
/// What was fetched whole is marked with a reference, `refs/builder/ID`; what has none may be there in part.
pub(super) struct Repository {
    pub(super) directory: PathBuf,
    lock: File,
}

impl Repository {
    /// Waits until no other build uses it and makes it when it is not there. `sha256`: the remote's object format.
    pub(super) async fn open(
        session: &Session<'_>,
        repositories: &Path,
        sha256: bool,
    ) -> Result<Repository, Trouble> {
        let format = if sha256 { "sha256" } else { "sha1" };
        let name = Digest::of(format!("{format} {}", session.remote.url).as_bytes()).hex();
        let path = repositories.join(format!("{name}.lock"));
        let opened = fs::create_dir_all(repositories).and_then(|()| {
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)
        });
        let lock = opened.map_err(|error| Error::io(format!("open {}", path.display()), error))?;
        while let Err(error) = lock.try_lock() {
            match error {
                TryLockError::WouldBlock => tokio::time::sleep(POLL).await,
                TryLockError::Error(error) => {
                    return Err(Error::io(format!("lock {}", path.display()), error).into());
                }
            }
        }
        let directory = repositories.join(format!("{name}.git"));
        let repository = Repository { directory, lock };
        if repository.directory.exists() {
            repository.sweep().map_err(|error| repository.failed("clean", error))?;
        } else {
            repository.init(session, format).await?;
        }
        Ok(repository)
    }

    /// Git in it.
    pub(super) fn git<'s>(&'s self, session: &'s Session<'_>) -> Git<'s> {
        session.git().in_repository(&self.directory).holding(&self.lock)
    }

    /// Git on other directories, while this is held.
    pub(super) fn git_beside<'s>(&'s self, session: &'s Session<'_>) -> Git<'s> {
        session.git().holding(&self.lock)
    }

    /// Throws away what is damaged.
    pub(super) fn remove(&self) -> Result<(), Error> {
        fs::remove_dir_all(&self.directory).map_err(|error| self.failed("remove", error))
    }

    async fn init(&self, session: &Session<'_>, format: &str) -> Result<(), Trouble> {
        let new = self.directory.with_extension("new");
        match fs::remove_dir_all(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io(format!("remove {}", new.display()), error).into());
            }
            _ => {}
        }
        let mut arguments = vec!["init", "--quiet", "--bare"];
        let object_format = format!("--object-format={format}");
        if format != "sha1" {
            arguments.push(&object_format);
        }
        let git = session.git().in_repository(&new).holding(&self.lock);
        git.run(&arguments).await?;
        Ok(fs::rename(&new, &self.directory).map_err(|error| self.failed("make", error))?)
    }

    /// Removes what a killed git left; whoever made it is gone, as this holds the lock.
    fn sweep(&self) -> io::Result<()> {
        let stale = |name: &str| name.ends_with(".lock");
        let partial = |name: &str| name.starts_with("tmp_") || name.starts_with(".tmp-");
        remove_files(&self.directory, &stale, false)?;
        remove_files(&self.directory.join("refs"), &stale, true)?;
        remove_files(&self.directory.join("objects/pack"), &partial, false)
    }

    fn failed(&self, verb: &str, error: io::Error) -> Error {
        Error::io(format!("{verb} {}", self.directory.display()), error)
    }

    /// Fetches what was resolved, unless it is there.
    pub(super) async fn fetch(
        &self,
        session: &Session<'_>,
        checkout: &Checkout,
        resolved: &Resolved,
    ) -> Result<(), Failure> {
        let git = self.git(session);
        let object = resolved.object.as_str();
        let marker = marker(object);
        if git.run(&["rev-parse", "--quiet", "--verify", &format!("{marker}^{{commit}}")]).await.is_ok() {
            return Ok(());
        }
        let url = session.remote.address.as_str();
        match self.shallow(&git, url, &format!("+{object}:{marker}")).await {
            Err(Failure::Refused(said)) if is_about_object(&said) && !checkout.fetch_by_commit => {}
            other => return other,
        }
        // Servers of old give out only what a reference points to.
        const TIP: &str = "refs/builder/tip";
        let named = resolved.reference.starts_with("refs/") || resolved.reference == "HEAD";
        if named && self.shallow(&git, url, &format!("+{}:{TIP}", resolved.reference)).await.is_ok() {
            let tip = git.run(&["rev-parse", "--verify", TIP]).await?;
            if tip.trim() == object {
                return git.run(&["update-ref", &marker, object]).await.map(drop);
            }
        }
        self.everything(&git, url).await?;
        match git.run(&["cat-file", "-e", object]).await {
            Ok(_) => git.run(&["update-ref", &marker, object]).await.map(drop),
            Err(_) => {
                let message = format!("it gives out no commit {object}, and no branch or tag leads to it");
                Err(Failure::Refused(message))
            }
        }
    }

    /// Fetches one object without its history, or with it where the server knows no other way.
    async fn shallow(&self, git: &Git<'_>, url: &str, refspec: &str) -> Result<(), Failure> {
        let arguments = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--force"];
        let tail = ["--", url, refspec];
        match persist(git, &[&arguments[..], &["--depth=1"], &tail].concat()).await {
            Err(Failure::Refused(said)) if said.contains("shallow") || said.contains("--depth") => {
                persist(git, &[&arguments[..], &tail].concat()).await.map(drop)
            }
            other => other.map(drop),
        }
    }

    /// Fetches all branches and tags with their history.
    async fn everything(&self, git: &Git<'_>, url: &str) -> Result<(), Failure> {
        let mut arguments =
            vec!["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--force", "--prune"];
        if self.directory.join("shallow").exists() {
            arguments.push("--unshallow");
        }
        let heads = "+refs/heads/*:refs/builder/all/heads/*";
        let tags = "+refs/tags/*:refs/builder/all/tags/*";
        arguments.extend(["--", url, heads, tags]);
        persist(git, &arguments).await.map(drop)
    }
}

/// The reference that says that an object is there with all that belongs to it.
pub(super) fn marker(object: &str) -> String {
    format!("refs/builder/{object}")
}

/// Whether a server does not give out an object, rather than not answering.
fn is_about_object(said: &str) -> bool {
    ["not our ref", "unadvertised object", "remote ref", "did not send all necessary objects"]
        .iter()
        .any(|text| said.contains(text))
}

/// Whether a repository of our own is broken.
pub(super) fn is_damage(failure: &Failure) -> bool {
    let Failure::Refused(said) = failure else { return false };
    let signs = [
        "corrupt",
        "bad object",
        "unable to read",
        "not a git repository",
        "is empty",
        "missing blob",
        "packfile",
    ];
    signs.iter().any(|sign| said.contains(sign))
}

fn remove_files(directory: &Path, which: &dyn Fn(&str) -> bool, deep: bool) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let is_directory = entry.file_type()?.is_dir();
        if is_directory && deep {
            remove_files(&entry.path(), which, deep)?;
        } else if !is_directory && which(&entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
