//! Build contexts that are no directories of this machine: standard input, git repositories, HTTP. Each becomes a directory in the
//! store for as long as the build lasts, and is then a context as any other, its ignore file included.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use cache::{ActiveSnapshot, RemoteKind, Store};
use frontend::GitReference;
use graph::Git;
use remote::{Access, Checkout, Download, Downloaded};
use worker::{Cancel, Identity};

use super::args::Args;
use super::contexts::{self, LONGEST_TEXT};
use super::lent::{Agents, Secrets};
use crate::failure::Failure;
use crate::progress::Progress;

/// A context that has to be brought here first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Elsewhere {
    /// `-`: an archive or a Dockerfile.
    StandardInput,
    /// The files of a commit.
    Git(Box<Git>),
    /// An archive or a Dockerfile.
    Http(String),
}

impl Elsewhere {
    /// What an argument names; `None` for a path of this machine.
    pub(super) fn of(text: &str) -> Result<Option<Elsewhere>, String> {
        if text == "-" {
            return Ok(Some(Elsewhere::StandardInput));
        }
        // As docker takes it, a habit from before there were URLs.
        let spelled = match text.strip_prefix("github.com/") {
            Some(rest) if !Path::new(text).exists() => {
                let (path, fragment) = rest.split_once('#').unwrap_or((rest, ""));
                let end = if path.ends_with(".git") { "" } else { ".git" };
                let mark = if fragment.is_empty() { "" } else { "#" };
                format!("https://github.com/{path}{end}{mark}{fragment}")
            }
            _ => text.to_owned(),
        };
        if let Some(git) = GitReference::parse(&spelled)? {
            let keep_git_dir = git.keep_git_dir.unwrap_or(false);
            return Ok(Some(Elsewhere::Git(Box::new(git.source(keep_git_dir)))));
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            return Ok(Some(Elsewhere::Http(text.to_owned())));
        }
        Ok(None)
    }
}

/// Build argument, as upstream has it: whether the main context keeps its `.git`.
const KEEP_GIT_DIR: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";

/// The contexts of a build that come from elsewhere.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    main: Option<Elsewhere>,
    named: BTreeMap<String, Elsewhere>,
}

impl Wanted {
    pub(super) fn of(args: &Args) -> Result<Wanted, Failure> {
        let context = args.context.to_string_lossy();
        let mut main = Elsewhere::of(&context)
            .map_err(|reason| Failure::usage(format!("the build context {context}: {reason}")))?;
        if let Some(Elsewhere::Git(git)) = &mut main
            && !context.contains("keep-git-dir=")
        {
            git.keep_git_dir = args.flag(KEEP_GIT_DIR)?.unwrap_or(false);
        }
        if main == Some(Elsewhere::StandardInput) && args.file.as_deref() == Some(Path::new("-")) {
            return Err(Failure::usage("both the context and the Dockerfile cannot be standard input"));
        }
        let mut named = BTreeMap::new();
        for (name, source) in &args.build_context {
            let elsewhere = Elsewhere::of(source)
                .map_err(|reason| Failure::usage(format!("--build-context {name}={source}: {reason}")))?;
            match elsewhere {
                Some(Elsewhere::StandardInput) => {
                    return Err(Failure::usage(format!(
                        "--build-context {name}=-: only the main context can be standard input"
                    )));
                }
                Some(elsewhere) => drop(named.insert(name.clone(), elsewhere)),
                None => {}
            }
        }
        Ok(Wanted { main, named })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.main.is_none() && self.named.is_empty()
    }
}

/// Contexts that were brought here. Dropping it removes them.
#[derive(Debug, Default)]
pub(super) struct Brought {
    main: Option<Place>,
    named: BTreeMap<String, Place>,
}

/// A context that was brought here.
#[derive(Debug)]
struct Place {
    directory: PathBuf,
    /// When what came was a Dockerfile and no archive.
    dockerfile: Option<Vec<u8>>,
    /// When it was made: the commit's time, `Last-Modified`, or that of the newest file.
    time: Option<SystemTime>,
    /// What stands for it in keys, where its files do not.
    identity: Option<Identity>,
    _holder: ActiveSnapshot,
}

impl Brought {
    /// The directory of the main context, when it is from elsewhere.
    pub(super) fn main(&self) -> Option<&Path> {
        self.main.as_ref().map(|place| place.directory.as_path())
    }

    /// The Dockerfile that came instead of a context.
    pub(super) fn dockerfile(&self) -> Option<&[u8]> {
        self.main.as_ref()?.dockerfile.as_deref()
    }

    /// When a context was made, `context` being the main one; nothing is known of directories of this machine.
    pub(super) fn time(&self, name: &str) -> Option<SystemTime> {
        self.place(name)?.time
    }

    /// What stands for a context in keys, `context` being the main one, where that is not what it holds.
    pub(super) fn identity(&self, name: &str) -> Option<&Identity> {
        self.place(name)?.identity.as_ref()
    }

    fn place(&self, name: &str) -> Option<&Place> {
        if name == "context" { self.main.as_ref() } else { self.named.get(name) }
    }

    pub(super) fn named(&self, name: &str) -> Option<&Path> {
        self.named.get(name).map(|place| place.directory.as_path())
    }
}

/// Brings contexts here.
pub(super) struct Bringing<'a> {
    pub(super) store: &'a Store,
    pub(super) client: &'a remote::Client,
    pub(super) secrets: &'a Secrets,
    pub(super) agents: &'a Agents,
    pub(super) progress: &'a Progress,
    pub(super) cancel: &'a Cancel,
}

impl Bringing<'_> {
    pub(super) async fn bring(&self, wanted: &Wanted) -> Result<Brought, Failure> {
        let main = async {
            match &wanted.main {
                Some(elsewhere) => {
                    self.place("[internal] load remote build context", elsewhere).await.map(Some)
                }
                None => Ok(None),
            }
        };
        let named = wanted.named.iter().map(|(name, elsewhere)| async move {
            let place = self.place(&format!("[context {name}] load from elsewhere"), elsewhere).await?;
            if place.dockerfile.is_some() {
                return Err(Failure::build(format!("--build-context {name}: what came is no archive")));
            }
            Ok((name.clone(), place))
        });
        let (main, named) = futures::try_join!(main, futures::future::try_join_all(named))?;
        Ok(Brought { main, named: named.into_iter().collect() })
    }

    async fn place(&self, title: &str, elsewhere: &Elsewhere) -> Result<Place, Failure> {
        let task = self.progress.task(title);
        let placed = match elsewhere {
            Elsewhere::StandardInput => self.archive(|| Ok(io::stdin()), "standard input").await,
            Elsewhere::Git(git) => self.git(git).await,
            Elsewhere::Http(url) => self.http(url, &task).await,
        };
        match placed {
            Ok(place) => {
                task.done();
                Ok(place)
            }
            Err(failure) => {
                task.failed(failure.message());
                Err(failure)
            }
        }
    }

    async fn holder(&self) -> Result<ActiveSnapshot, Failure> {
        let store = self.store.clone();
        crate::blocking(move || Ok(store.begin(&[])?)).await
    }

    /// A stream that is an archive, however compressed, or a Dockerfile.
    async fn archive<R: Read + Send + 'static>(
        &self,
        open: impl FnOnce() -> io::Result<R> + Send + 'static,
        name: &str,
    ) -> Result<Place, Failure> {
        let holder = self.holder().await?;
        let (cancel, name) = (self.cancel.clone(), name.to_owned());
        crate::blocking(move || {
            let directory = holder.dir().join("context");
            let io = |error: io::Error| Failure::io("read", Path::new(&name), &error);
            std::fs::create_dir(&directory).map_err(|error| Failure::io("create", &directory, &error))?;
            let mut stream = image::decompress(open().map_err(io)?).map_err(io)?;
            let mut start = Vec::new();
            stream.by_ref().take(TAR_HEADER).read_to_end(&mut start).map_err(io)?;
            let is_archive = worker::is_tar(&start);
            let mut whole = io::Cursor::new(start).chain(stream);
            let mut dockerfile = None;
            if is_archive {
                worker::unpack_archive(whole, &directory, &|| cancel.is_cancelled())
                    .map_err(|error| Failure::build(format!("{name}: {error}")))?;
            } else {
                let mut text = Vec::new();
                contexts::read_text(&mut whole, &mut text).map_err(|error| {
                    let failure = Failure::io("read", Path::new(&name), &error);
                    failure.hint("what does not begin as a tar archive is taken for a Dockerfile")
                })?;
                dockerfile = Some(text);
            }
            let time = newest(&directory).map_err(io)?;
            Ok(Place { directory, dockerfile, time, identity: None, _holder: holder })
        })
        .await
    }

    async fn http(&self, url: &str, task: &crate::progress::Task) -> Result<Place, Failure> {
        let holder = self.holder().await?;
        let file = holder.dir().join("download");
        let secrets = |name: &str| worker::Secrets::get(self.secrets, name).ok().flatten();
        let part = task.part(url);
        let progress = |current: u64, total: Option<u64>| part.set(current, total);
        let download = Download { url, checksum: None, known: &[], secrets: &secrets, progress: &progress };
        let downloaded = self.client.download(&download, &file).await;
        let modified = match downloaded.map_err(|error| Failure::from_source(&error))? {
            Downloaded::File(fetched) => fetched.modified,
            Downloaded::NotModified(_) => None,
        };
        part.done();
        let place = self.archive(move || File::open(file), url).await?;
        drop(holder);
        Ok(Place { time: modified.or(place.time), ..place })
    }

    async fn git(&self, git: &Git) -> Result<Place, Failure> {
        let checkout = Checkout {
            remote: git.remote.clone(),
            reference: git.reference.clone(),
            directory: git.directory.clone(),
            checksum: git.checksum.clone(),
            keep_git_dir: git.keep_git_dir,
            submodules: git.submodules,
            fetch_by_commit: git.fetch_by_commit,
            commit_times: git.commit_times,
        };
        let agent = worker::SshAgents::socket(self.agents, "default").map_err(Failure::usage)?;
        let secrets = |name: &str| worker::Secrets::get(self.secrets, name).ok().flatten();
        let said = Arc::new(std::sync::Mutex::new(Vec::new()));
        let log = |line: &str| {
            let mut said = said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            said.push(line.to_owned());
        };
        let access = Access { secrets: &secrets, ssh_agent: agent.as_deref(), known_hosts: None, log: &log };
        let failed = |error: remote::Error| Failure::from_source(&error);
        let resolved = self.client.resolve(&checkout, &access).await.map_err(failed)?;
        // A login in it stays nowhere.
        let remote = remote::without_credentials(&git.remote);
        let (store, cancel) = (self.store.clone(), self.cancel.clone());
        let (holder, repository) = crate::blocking(move || {
            let repository = store.remote_dir(RemoteKind::Git, &remote, &|| cancel.is_cancelled())?;
            let repository = repository.ok_or_else(Failure::interrupted)?;
            Ok((store.begin(&[])?, repository))
        })
        .await?;
        let directory = holder.dir().join("context");
        let made = self.client.checkout(&checkout, &resolved, &access, &repository.dir(), &directory).await;
        let made = made.map_err(failed)?;
        let (time, identity) = (Some(made.time), Identity::of(&checkout, &resolved, &made));
        Ok(Place { directory, dockerfile: None, time, identity, _holder: holder })
    }
}

/// The time of the newest file below a directory.
fn newest(directory: &Path) -> io::Result<Option<SystemTime>> {
    let mut newest = None;
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                waiting.push(entry.path());
            } else {
                newest = newest.max(Some(metadata.modified()?));
            }
        }
    }
    Ok(newest)
}

/// Bytes that tell an archive.
const TAR_HEADER: u64 = 512;

const _: () = assert!(LONGEST_TEXT > TAR_HEADER);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_context_argument_names() {
        let of = |text: &str| Elsewhere::of(text).unwrap();
        let git = |text: &str| match of(text) {
            Some(Elsewhere::Git(git)) => (git.remote, git.reference, git.directory),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(of("."), None);
        assert_eq!(of("/x/y.git"), None);
        assert_eq!(of("-"), Some(Elsewhere::StandardInput));
        assert_eq!(of("https://h/x.tar.gz"), Some(Elsewhere::Http("https://h/x.tar.gz".into())));
        assert_eq!(git("https://h/x.git#v1:d"), ("https://h/x.git".into(), Some("v1".into()), "d".into()));
        assert_eq!(git("git@h:x/y#main").1.as_deref(), Some("main"));
        assert_eq!(git("github.com/a/b#v1").0, "https://github.com/a/b.git");
        assert!(Elsewhere::of("https://h/x.git?wrong=1").is_err());
    }
}
