//! Files and repositories from elsewhere, as trees: fetched anew only when they changed.

use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use cache::{Download, RemoteKind, Store};
use files::DirectoryTree;
use graph::{Event, Git, Http, ProgressSink, VertexId};
use hash::Clock;
use image::ContentStore as _;
use remote::{Access, Checkout, Downloaded, Known, Validators};
use solver::SourceTree;

use crate::cancel::blocking;
use crate::tree::{Context, Identity, Tree};
use crate::{LocalWorker, WorkerError};

/// The agent that git gets when nobody says which.
const DEFAULT_AGENT: &str = "default";

impl LocalWorker {
    /// A tree of one file, readable by its owner alone, with the time that the server gives it (RFC 9110, `Last-Modified`), or the
    /// beginning of 1970.
    pub(crate) async fn http(&self, vertex: VertexId, http: &Http) -> Result<SourceTree<Tree>, WorkerError> {
        let store = self.store.clone();
        let layer = blocking(move || Ok(store.begin(&[])?)).await?;
        let file = layer.dir().join(&http.name);
        let before = self.store.download(&http.url)?;
        let known: Vec<Known> = before.iter().map(known).collect();
        let secrets = |name: &str| self.secret(name);
        let progress = self.progress_of(vertex, &http.url);
        let download = remote::Download {
            url: &http.url,
            checksum: http.checksum,
            known: &known,
            secrets: &secrets,
            progress: &progress,
        };
        let downloaded = self.remote.download(&download, &file).await?;
        let cached = matches!(downloaded, Downloaded::NotModified(_));
        let (store, url, path) = (self.store.clone(), http.url.clone(), file.clone());
        blocking(move || match (downloaded, before) {
            (Downloaded::NotModified(_), Some(before)) => take(&store, &before, &path),
            (Downloaded::NotModified(_), None) => {
                Err(WorkerError::Internal("a download is as it was that was never made".to_owned()))
            }
            (Downloaded::File(fetched), _) => {
                keep(&store, &url, &fetched, &path)?;
                dress(&path, fetched.modified)
            }
        })
        .await?;
        self.fetched_tree(vertex, layer, Path::new(""), cached, None)
    }

    /// The files of a commit. The repository stays in the store, the checkout lives as long as the build.
    pub(crate) async fn git(&self, vertex: VertexId, git: &Git) -> Result<SourceTree<Tree>, WorkerError> {
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
        let agent = self.agents.socket(DEFAULT_AGENT).map_err(WorkerError::Secret)?;
        let secrets = |name: &str| self.secret(name);
        let (progress, clock) = (self.progress.clone(), self.clock.clone());
        let log = move |line: &str| {
            let data = [line.as_bytes(), b"\n"].concat();
            let stream = graph::LogStream::Stderr;
            progress.event(Event::Log { vertex, stream, data, at: clock.now() });
        };
        let access = Access { secrets: &secrets, ssh_agent: agent.as_deref(), known_hosts: None, log: &log };
        let resolved = self.remote.resolve(&checkout, &access).await?;

        // A login in it stays nowhere.
        let remote = remote::without_credentials(&git.remote);
        let (store, cancel) = (self.store.clone(), self.cancel.clone());
        let (layer, repository) = blocking(move || {
            let repository = store.remote_dir(RemoteKind::Git, &remote, &|| cancel.is_cancelled())?;
            Ok((store.begin(&[])?, repository.ok_or(files::Error::Cancelled)?))
        })
        .await?;
        let into = layer.dir().join("checkout");
        let made = self.remote.checkout(&checkout, &resolved, &access, &repository.dir(), &into).await?;
        drop(repository);
        let identity = Identity::of(&checkout, &resolved, &made);
        if let Some(time) = identity.as_ref().and_then(Identity::times) {
            self.times.note(vertex, time);
        }
        self.fetched_tree(vertex, layer, Path::new("checkout"), false, identity)
    }

    /// A directory of this build as a tree that belongs to root, as contexts do.
    fn fetched_tree(
        &self,
        vertex: VertexId,
        layer: cache::ActiveSnapshot,
        directory: &Path,
        cached: bool,
        identity: Option<Identity>,
    ) -> Result<SourceTree<Tree>, WorkerError> {
        let tree = DirectoryTree::context(&layer.dir().join(directory))?;
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner).push(layer);
        // Unlike the name of any context.
        let name = format!("/{}", vertex.0).into();
        let context = Context { name, tree: Arc::new(tree), stats: Arc::new(files::NoCache), identity };
        Ok(SourceTree { tree: Tree::Context(context), cached })
    }

    fn secret(&self, name: &str) -> Option<Vec<u8>> {
        self.secrets.get(name).ok().flatten()
    }

    fn progress_of(&self, vertex: VertexId, what: &str) -> impl Fn(u64, Option<u64>) + Send + Sync + use<> {
        let (progress, clock, id): (Arc<dyn ProgressSink>, Arc<dyn Clock>, String) =
            (self.progress.clone(), self.clock.clone(), what.to_owned());
        move |current, total| {
            let (id, at, total) = (id.clone(), clock.now(), total.unwrap_or(0));
            progress.event(Event::Progress { vertex, id, current, total, at });
        }
    }
}

fn known(download: &Download) -> Known {
    let validators =
        Validators { etag: download.etag.clone(), last_modified: download.last_modified.clone() };
    Known { digest: download.digest, validators }
}

/// Stores what was fetched for the next time.
fn keep(store: &Store, url: &str, fetched: &remote::Fetched, path: &Path) -> Result<(), WorkerError> {
    let io = |source| WorkerError::io("store", path, source);
    let mut file = File::open(path).map_err(io)?;
    let mut blob = store.blobs().create().map_err(io)?;
    std::io::copy(&mut file, &mut blob).map_err(io)?;
    let (digest, _) = blob.commit(Some(&fetched.digest)).map_err(io)?;
    let Validators { etag, last_modified } = fetched.validators.clone();
    Ok(store.note_download(url, &Download { etag, last_modified, digest })?)
}

/// Takes the bytes of an earlier time.
fn take(store: &Store, download: &Download, path: &Path) -> Result<(), WorkerError> {
    let io = |source| WorkerError::io("write", path, source);
    let missing = || io(std::io::ErrorKind::NotFound.into());
    let mut blob = store.blobs().open(&download.digest).map_err(io)?.ok_or_else(missing)?;
    let mut file = File::create(path).map_err(io)?;
    std::io::copy(&mut blob, &mut file).map_err(io)?;
    file.flush().map_err(io)?;
    dress(path, download.last_modified.as_deref().and_then(transport::http_date))
}

/// Mode and time of a download, as upstream has them.
fn dress(path: &Path, modified: Option<SystemTime>) -> Result<(), WorkerError> {
    let io = |source| WorkerError::io("set the time of", path, source);
    let file = File::options().write(true).open(path).map_err(io)?;
    file.set_permissions(Permissions::from_mode(0o600)).map_err(io)?;
    file.set_modified(modified.unwrap_or(SystemTime::UNIX_EPOCH)).map_err(io)
}
