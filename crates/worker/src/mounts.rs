//! What a RUN sees besides its root: mounts, and variables that are secrets.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use cache::{ActiveRoot, ActiveSnapshot, Anew, CacheMount, CacheMountOptions, RootForm, SnapshotId, Store};
use executor::Writable;
use files::{
    Attributes, CopyOptions, FileTree as _, OpaqueMark, Owners, Selection, TreeWriter, WriterOptions,
};
use graph::{Exec, Mount, MountKind, SecretFile, Sharing};

use crate::agent::AgentSocket;
use crate::cancel::{Cancel, blocking};
use crate::secrets::is_shown;
use crate::{Secrets, SshAgents, WorkerError};

/// Everything that is ready for one process. What it stands on lives as long as the value.
#[derive(Default)]
pub(crate) struct Mounts {
    pub(crate) mounts: Vec<executor::Mount>,
    /// Secrets as variables.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// All values that must not be shown.
    pub(crate) secrets: Vec<Vec<u8>>,
    /// What is to be said of them.
    pub(crate) notes: Vec<String>,
    held: Vec<Held>,
}

/// What must not go while the process runs.
#[expect(dead_code, reason = "held for what dropping them does")]
enum Held {
    Tree(Box<ActiveRoot>),
    Cache(CacheMount),
    Agent(AgentSocket),
    Directory(Box<ActiveSnapshot>),
}

impl Mounts {
    /// Where something is mounted on a root, what every process has included.
    pub(crate) fn points(&self) -> Vec<PathBuf> {
        let always = ["/etc/hosts", "/etc/resolv.conf", "/proc", "/sys", "/dev"].map(PathBuf::from);
        always.into_iter().chain(self.mounts.iter().map(|mount| mount.target.clone())).collect()
    }
}

/// The tree of an input of the step, and what of it is meant.
#[derive(Clone)]
pub(crate) struct Input {
    pub(crate) layers: Vec<SnapshotId>,
    pub(crate) selection: Selection,
    /// Identity of what is selected; there for seeds of cache mounts.
    pub(crate) digest: Option<String>,
}

/// Makes the mounts of a step.
pub(crate) struct Preparing<'a> {
    pub(crate) store: &'a Store,
    pub(crate) cancel: &'a Cancel,
    pub(crate) secrets: &'a dyn Secrets,
    pub(crate) agents: &'a dyn SshAgents,
    /// By index of the vertex's inputs.
    pub(crate) inputs: &'a BTreeMap<usize, Input>,
    /// With `--no-cache`: what the build has begun anew.
    pub(crate) anew: Option<Anew>,
}

impl Preparing<'_> {
    pub(crate) async fn prepare(&self, exec: &Exec) -> Result<Mounts, WorkerError> {
        let mut ready = Mounts::default();
        // Locks first, in an order that all builds share: two steps that want the same two never wait for each other.
        let caches = self.caches(exec, &mut ready).await?;
        for mount in in_order(&exec.mounts) {
            let kind = match &mount.kind {
                MountKind::Bind { input } => self.bind(*input, mount.read_only, &mut ready).await?,
                MountKind::Cache(cache) => {
                    let place = caches.get(&(cache.id.as_str(), self.seed(cache.seed)));
                    let missing = || WorkerError::Internal(format!("cache mount {} was not made", cache.id));
                    executor::MountKind::Bind { source: place.cloned().ok_or_else(missing)? }
                }
                MountKind::Tmpfs { size } => executor::MountKind::Tmpfs { size: *size, mode: None },
                MountKind::Secret(file) => match self.secret(&file.id, file.required, &mut ready)? {
                    Some(contents) => {
                        executor::MountKind::File { contents, mode: file.mode, uid: file.uid, gid: file.gid }
                    }
                    None => continue,
                },
                MountKind::Ssh(file) => match self.agent(file, &mut ready).await? {
                    Some(source) => executor::MountKind::Bind { source },
                    None => continue,
                },
            };
            let target = PathBuf::from(&mount.target);
            ready.mounts.push(executor::Mount { target, kind, read_only: read_only(mount) });
        }
        for secret in &exec.secret_env {
            use std::os::unix::ffi::OsStringExt as _;
            // As upstream: a variable for a secret that is not given is there, and empty.
            let value = self.secret(&secret.id, secret.required, &mut ready)?.unwrap_or_default();
            if value.contains(&0) {
                let id = &secret.id;
                return Err(WorkerError::Secret(format!("secret {id}: a variable cannot hold a NUL byte")));
            }
            ready.env.push((secret.variable.clone().into(), OsString::from_vec(value)));
        }
        Ok(ready)
    }

    fn seed(&self, input: Option<usize>) -> Option<&str> {
        input.and_then(|input| self.inputs.get(&input)?.digest.as_deref())
    }

    fn input(&self, index: usize) -> Result<Input, WorkerError> {
        let missing = || WorkerError::Internal("a mount is of no input".to_owned());
        self.inputs.get(&index).cloned().ok_or_else(missing)
    }

    /// The directories of all cache mounts, each once.
    async fn caches<'e>(
        &'e self,
        exec: &'e Exec,
        ready: &mut Mounts,
    ) -> Result<BTreeMap<(&'e str, Option<&'e str>), PathBuf>, WorkerError> {
        let mut wanted = BTreeMap::new();
        for mount in &exec.mounts {
            if let MountKind::Cache(cache) = &mount.kind {
                wanted.entry((cache.id.as_str(), self.seed(cache.seed))).or_insert(cache);
            }
        }
        let mut made = BTreeMap::new();
        for (name, cache) in wanted {
            let options = CacheMountOptions {
                id: cache.id.clone(),
                seed: name.1.map(str::to_owned),
                sharing: match cache.sharing {
                    Sharing::Shared => cache::Sharing::Shared,
                    Sharing::Private => cache::Sharing::Private,
                    Sharing::Locked => cache::Sharing::Locked,
                },
                mode: cache.mode,
                uid: cache.uid,
                gid: cache.gid,
                anew: self.anew.clone(),
            };
            let seed = cache.seed.map(|input| self.input(input)).transpose()?;
            let (store, cancel) = (self.store.clone(), self.cancel.clone());
            let mount = blocking(move || {
                let mut options = options;
                if let Some(seed) = &seed
                    && (options.mode, options.uid, options.gid) == (0o755, 0, 0)
                {
                    // Nothing else is asked for: it is as the directory that it begins as.
                    let root = seed_root(&store, seed)?;
                    (options.mode, options.uid, options.gid) = (root.mode, root.uid, root.gid);
                }
                let fill = |directory: &Path, owners: &Owners| match &seed {
                    Some(input) => fill(&store, input, directory, owners, &cancel),
                    None => Ok(()),
                };
                store.cache_mount(&options, fill, &|| cancel.is_cancelled())
            });
            let mount = mount.await?.ok_or(files::Error::Cancelled)?;
            made.insert(name, mount.dir());
            ready.held.push(Held::Cache(mount));
        }
        Ok(made)
    }

    /// A path of a tree of layers, with somewhere for what is written where that is allowed.
    async fn bind(
        &self,
        input: usize,
        read_only: bool,
        ready: &mut Mounts,
    ) -> Result<executor::MountKind, WorkerError> {
        let Input { layers, selection, .. } = self.input(input)?;
        let store = self.store.clone();
        let (root, path) = blocking(move || {
            let root = store.begin_root(&layers)?;
            let path = match &selection {
                Selection::Whole => PathBuf::new(),
                Selection::Path(path) => {
                    let written = Path::new(path.pattern.trim_matches('/'));
                    let resolved = files::resolve(root.below(), written, true)?;
                    if root.below().metadata(&resolved)?.is_none() {
                        return Err(
                            files::Error::NotFound { path: written.to_owned(), hidden_by: None }.into()
                        );
                    }
                    resolved
                }
            };
            Ok((root, path))
        })
        .await?;
        let kind = match root.form() {
            RootForm::Directory(directory) => executor::MountKind::Bind { source: directory.join(&path) },
            RootForm::Overlay { lower, upper, work, userxattr, .. } => executor::MountKind::Layers {
                lower: lower.clone(),
                writable: (!read_only).then(|| Writable { upper: upper.clone(), work: work.clone() }),
                userxattr: *userxattr,
                // The whole tree is looked up like any other path.
                path: if path.as_os_str().is_empty() { PathBuf::from(".") } else { path },
            },
        };
        ready.held.push(Held::Tree(Box::new(root)));
        Ok(kind)
    }

    fn secret(&self, id: &str, required: bool, ready: &mut Mounts) -> Result<Option<Vec<u8>>, WorkerError> {
        let found =
            self.secrets.get(id).map_err(|reason| WorkerError::Secret(format!("secret {id}: {reason}")))?;
        match found {
            Some(value) => {
                let note = format!("the secret {id} is too short to be hidden in what the step prints");
                if is_shown(&value) && !ready.notes.contains(&note) {
                    ready.notes.push(note);
                }
                ready.secrets.push(value.clone());
                Ok(Some(value))
            }
            None if required => Err(WorkerError::Secret(format!(
                "secret {id} is required: give it with --secret id={id},src=FILE or --secret id={id},env=VARIABLE"
            ))),
            None => Ok(None),
        }
    }

    async fn agent(&self, file: &SecretFile, ready: &mut Mounts) -> Result<Option<PathBuf>, WorkerError> {
        let id = &file.id;
        let found =
            self.agents.socket(id).map_err(|reason| WorkerError::Secret(format!("ssh {id}: {reason}")))?;
        let Some(agent) = found else {
            if file.required {
                return Err(WorkerError::Secret(format!("ssh {id} is required: give it with --ssh {id}")));
            }
            return Ok(None);
        };
        let store = self.store.clone();
        let directory = blocking(move || Ok(store.begin(&[])?)).await?;
        let socket = AgentSocket::open(agent, directory.dir(), file)?;
        let path = socket.path().to_owned();
        ready.held.push(Held::Agent(socket));
        ready.held.push(Held::Directory(Box::new(directory)));
        Ok(Some(path))
    }
}

/// The order in which mounts are made: what is in another comes after it, whichever is written first; secrets and sockets last, as
/// upstream has it.
fn in_order(mounts: &[Mount]) -> Vec<&Mount> {
    let mut sorted: Vec<&Mount> = mounts.iter().collect();
    let is_lent = |mount: &Mount| matches!(mount.kind, MountKind::Secret(_) | MountKind::Ssh(_));
    sorted.sort_by_key(|mount| (is_lent(mount), mount.target.split('/').collect::<Vec<_>>()));
    sorted
}

/// A secret is nobody's to change; a socket is used by writing to it.
fn read_only(mount: &Mount) -> bool {
    match mount.kind {
        MountKind::Secret(_) => true,
        MountKind::Ssh(_) => false,
        _ => mount.read_only,
    }
}

/// The directory that a new cache mount begins as.
fn seed_root(store: &Store, input: &Input) -> Result<files::Metadata, WorkerError> {
    let view = cache::TreeView::new(store, &input.layers)?;
    let path = match &input.selection {
        Selection::Whole => PathBuf::new(),
        Selection::Path(path) => files::resolve(&view, Path::new(&path.pattern), true)?,
    };
    let missing = || files::Error::NotFound { path: path.clone(), hidden_by: None };
    Ok(view.metadata(&path)?.ok_or_else(missing)?)
}

/// Copies what a new cache mount begins with.
fn fill(
    store: &Store,
    input: &Input,
    directory: &Path,
    owners: &Owners,
    cancel: &Cancel,
) -> Result<(), WorkerError> {
    let cancelled = || cancel.is_cancelled();
    let view = cache::TreeView::new(store, &input.layers)?;
    let selected = files::select(&view, &input.selection, &cancelled)?;
    let parents = Attributes::with_mode(0o755);
    let options = WriterOptions { owners: owners.clone(), opaque: OpaqueMark::User, parents };
    let writer = TreeWriter::new(directory, options)?;
    for found in &selected.matches {
        if found.kind() != files::Kind::Directory {
            let path = found.source.display();
            return Err(WorkerError::Copy(format!(
                "a cache mount cannot begin as /{path}: it is no directory"
            )));
        }
        let options = CopyOptions { keep_top: true, ..CopyOptions::default() };
        files::write_selected(&view, found, &writer, &options, &cancelled)?;
    }
    writer.finish()?;
    Ok(())
}
