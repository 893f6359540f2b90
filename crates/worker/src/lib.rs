//! What each operation means: operations to trees to layers.
//!
//! | operation | here |
//! |---|---|
//! | image | its layers, fetched and unpacked when somebody looks into them ([`sources`](self)) |
//! | local context | a directory, read where a selection of it is hashed or copied |
//! | COPY, WORKDIR, inline files | written straight into the directory of a new layer; nothing is mounted |
//! | RUN | a process in a sandbox; what it changes is the new layer |
//!
//! Which operation runs when, and whether its result is known already, is the solver's business.

mod agent;
mod ahead;
mod archive;
mod behind;
mod beside;
mod cancel;
mod copy;
mod error;
mod exec;
mod import;
mod inside;
mod log;
mod mounts;
mod pack;
mod placed;
mod remotes;
mod secrets;
mod sources;
mod times;
mod tree;
mod users;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use cache::{Anew, Changes, RootForm, SnapshotId, Store, TreeView};
use executor::{Executor, Rootfs};
use files::{FileTree, Selected, Selection, StatCache};
use graph::{Definition, Event, Op, ProgressSink, Source, VertexId};
use hash::{CacheKey, Clock, ContentDigest, ContentId, Digest, StableHasher};
use image::ResolvedImage;
use solver::{Arrived, Away, Executed, SelectedPath, SourceTree, Worker};
use tokio::sync::OnceCell;
use trace::{Trace, Work};

pub use archive::{is_tar, unpack_archive};
pub use behind::PackingBehind;
pub use cancel::Cancel;
pub use error::WorkerError;
pub use exec::RunOptions;
pub use inside::{Inside, Lent, Opened};
pub use log::{OutputLimits, replay};
pub use pack::{LayerForm, Packed, PackedLayer};
pub use secrets::{NoSecrets, Secrets, SshAgents};
pub use tree::{Context, Identity, LayerTree, Tree};

use crate::behind::{Packer, Told};
use crate::cancel::blocking;
use crate::import::Imports;
use crate::log::StepLog;
use crate::mounts::Preparing;
use crate::sources::{BaseImage, Bring};
use crate::times::CommitTimes;
use crate::tree::TreeId;
use crate::users::UserDatabase;

/// So many paths of a selection are remembered to say which of them changed; of a larger one, directories.
const REMEMBERED_PATHS: usize = 2_000;

/// A directory that is a context.
pub struct OpenContext {
    /// Its files.
    pub tree: Arc<dyn FileTree>,
    /// What is remembered of them.
    pub stats: Arc<dyn StatCache>,
    /// What stands for them in keys, where that is not what they hold.
    pub identity: Option<Identity>,
}

/// Walked by whoever asks first.
type SharedWalk = Arc<OnceCell<Arc<Walked>>>;

/// What a [`LocalWorker`] works with.
pub struct Config {
    /// What is built.
    pub definition: Arc<Definition>,
    /// The state directory; a session of it must live as long as the worker.
    pub store: Store,
    /// Runs processes.
    pub executor: Arc<dyn Executor>,
    /// Told what happens.
    pub progress: Arc<dyn ProgressSink>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// The directories that [`Source::Local`] names, with their ignore files applied and what is remembered of their files.
    pub contexts: BTreeMap<String, OpenContext>,
    /// The images that [`Source::Image`] names, by the digest of the manifest.
    pub images: Vec<Arc<ResolvedImage>>,
    /// Fetches what ADD names elsewhere.
    pub remote: remote::Client,
    /// What the user lends to steps.
    pub secrets: Arc<dyn Secrets>,
    /// Likewise.
    pub agents: Arc<dyn SshAgents>,
    /// What all processes get.
    pub run: RunOptions,
    /// Where results may be that were made elsewhere.
    pub caches: Option<Arc<warm::Caches>>,
    /// Ends blocking work.
    pub cancel: Cancel,
    /// Told what is done when.
    pub trace: Trace,
}

/// A selection that was walked and hashed.
struct Digested {
    selected: Arc<Selected>,
    digest: ContentDigest,
}

/// Performs operations on this machine.
pub struct LocalWorker {
    definition: Arc<Definition>,
    store: Store,
    executor: Arc<dyn Executor>,
    progress: Arc<dyn ProgressSink>,
    clock: Arc<dyn Clock>,
    contexts: BTreeMap<String, Context>,
    times: CommitTimes,
    images: HashMap<Digest, Arc<BaseImage>>,
    remote: remote::Client,
    secrets: Arc<dyn Secrets>,
    agents: Arc<dyn SshAgents>,
    options: RunOptions,
    imports: Option<Imports>,
    cancel: Cancel,
    trace: Trace,
    packer: Packer,
    /// Who packs layers while other steps run.
    behind: Told,
    /// The cache mounts that `--no-cache` has begun anew.
    anew: Anew,
    /// Where things from elsewhere are while the build lasts.
    fetched: Mutex<Vec<cache::ActiveSnapshot>>,
    selected: Mutex<HashMap<(TreeId, Selection), SharedWalk>>,
    /// What layers change, as content ids count it: each step asks for that of all below it. And how large they are, in bytes.
    changes: Arc<Mutex<HashMap<SnapshotId, (ContentDigest, u64)>>>,
}

/// A selection that was walked, and is hashed by whoever asks for that first; the copy starts from the same walk.
struct Walked {
    selected: Arc<Selected>,
    digest: OnceCell<ContentDigest>,
}

impl LocalWorker {
    /// A worker for one build.
    pub fn new(config: Config) -> LocalWorker {
        let context = |(name, open): (String, OpenContext)| {
            let OpenContext { tree, stats, identity } = open;
            let context = Context { name: name.as_str().into(), tree, stats, identity };
            (name, context)
        };
        let contexts: BTreeMap<String, Context> = config.contexts.into_iter().map(context).collect();
        let of_context = |name: &str| contexts.get(name)?.identity.as_ref()?.times();
        let base = |image: Arc<ResolvedImage>| (image.manifest_digest, Arc::new(BaseImage::new(image)));
        LocalWorker {
            times: CommitTimes::new(&config.definition, of_context),
            definition: config.definition,
            packer: Packer::new(config.store.clone(), config.trace.clone()),
            behind: Told::default(),
            store: config.store,
            executor: config.executor,
            progress: config.progress,
            clock: config.clock,
            contexts,
            images: config.images.into_iter().map(base).collect(),
            remote: config.remote,
            secrets: config.secrets,
            agents: config.agents,
            options: config.run,
            imports: config.caches.map(Imports::new),
            cancel: config.cancel,
            trace: config.trace,
            anew: Anew::default(),
            fetched: Mutex::default(),
            selected: Mutex::default(),
            changes: Arc::default(),
        }
    }

    fn bring(&self, vertex: VertexId) -> Bring<'_> {
        Bring {
            store: &self.store,
            progress: &self.progress,
            clock: &self.clock,
            cancel: &self.cancel,
            vertex,
            trace: &self.trace,
        }
    }

    /// The image at the bottom of what a vertex yields.
    fn base_of(&self, vertex: VertexId) -> Result<Option<Arc<BaseImage>>, WorkerError> {
        let root = self.definition.find_root(vertex, |op| matches!(op, Op::Source(Source::Image { .. })));
        match root.map(|root| &self.definition.vertex(root).op) {
            Some(Op::Source(Source::Image { manifest, .. })) => self.base(manifest).map(Some),
            _ => Ok(None),
        }
    }

    fn base(&self, manifest: &Digest) -> Result<Arc<BaseImage>, WorkerError> {
        let missing = || WorkerError::Internal(format!("image {manifest} was not resolved"));
        self.images.get(manifest).cloned().ok_or_else(missing)
    }

    /// All layers of a tree, the image's included, bottom first. Brings the image when it is not here.
    async fn snapshots(&self, tree: &LayerTree, vertex: VertexId) -> Result<Vec<SnapshotId>, WorkerError> {
        let mut snapshots = match &tree.base {
            Some(base) => base.bring(&self.bring(vertex)).await?,
            None => Vec::new(),
        };
        snapshots.extend(&tree.layers);
        Ok(snapshots)
    }

    /// The vertex that shows what happens to the image of a tree.
    fn image_vertex(&self, base: &BaseImage) -> VertexId {
        let manifest = base.image().manifest_digest;
        let is_it = |op: &Op| matches!(op, Op::Source(Source::Image { manifest: m, .. }) if *m == manifest);
        self.definition.iter().find(|(_, vertex)| is_it(&vertex.op)).map_or(VertexId(0), |(id, _)| id)
    }

    /// Whether an operation reads files of a vertex, also through others that only put layers on top of it.
    fn is_looked_into(&self, vertex: VertexId) -> bool {
        let users: Vec<_> = self.definition.iter().collect();
        let mut looked_into = HashSet::new();
        // Inputs come before what uses them.
        for (id, user) in users.into_iter().rev() {
            if user.op != Op::Merge || looked_into.contains(&id) {
                looked_into.extend(user.inputs.iter().map(|input| input.vertex));
            }
        }
        looked_into.contains(&vertex)
    }

    /// The identity of a tree by what it holds, if its image holds what that says.
    async fn claimed_content(&self, tree: &LayerTree) -> Result<ContentId, WorkerError> {
        let below = tree.base.as_ref().map_or_else(|| image::content_id(None), |base| base.content_id());
        let (store, layers, changes) = (self.store.clone(), tree.layers.clone(), self.changes.clone());
        blocking(move || {
            let mut content = below;
            for id in layers {
                let known = changes.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied();
                let digest = match known {
                    Some((digest, _)) => digest,
                    None => {
                        let layer = store.snapshot(id)?.ok_or(cache::CacheError::NoSnapshot(id))?;
                        let Changes { digest, size, .. } = *layer.changes();
                        changes.lock().unwrap_or_else(PoisonError::into_inner).insert(id, (digest, size));
                        digest
                    }
                };
                content = content_with(&content, &digest);
            }
            Ok(content)
        })
        .await
    }

    /// A tree as files.
    async fn file_tree(&self, tree: &Tree) -> Result<Arc<dyn FileTree>, WorkerError> {
        match tree {
            Tree::Context(context) => Ok(context.tree.clone()),
            Tree::Layers(tree) => Ok(Arc::new(self.view(tree).await?)),
        }
    }

    /// A result as files: everything that the image would hold.
    pub async fn view(&self, tree: &LayerTree) -> Result<TreeView, WorkerError> {
        let vertex = tree.base.as_ref().map_or(VertexId(0), |base| self.image_vertex(base));
        let snapshots = self.snapshots(tree, vertex).await?;
        let store = self.store.clone();
        blocking(move || Ok(TreeView::new(&store, &snapshots)?)).await
    }

    /// Walks a selection, once for each tree.
    async fn walked(&self, tree: &Tree, selection: &Selection) -> Result<Arc<Walked>, WorkerError> {
        let cell = {
            let mut selected = self.selected.lock().unwrap_or_else(PoisonError::into_inner);
            selected.entry((tree.id(), selection.clone())).or_default().clone()
        };
        let walked = cell.get_or_try_init(|| async {
            let (files, selection, cancel) =
                (self.file_tree(tree).await?, selection.clone(), self.cancel.clone());
            blocking(move || {
                let selected = files::select(&*files, &selection, &|| cancel.is_cancelled())?;
                Ok(Arc::new(Walked { selected: Arc::new(selected), digest: OnceCell::new() }))
            })
            .await
        });
        Ok(walked.await?.clone())
    }

    /// Hashes what a selection holds, once for each tree: then its entries have their digests too.
    async fn digested(&self, tree: &Tree, selection: &Selection) -> Result<Digested, WorkerError> {
        let walked = self.walked(tree, selection).await?;
        let digest = walked.digest.get_or_try_init(|| async {
            let files = self.file_tree(tree).await?;
            let stats: Arc<dyn StatCache> = match tree {
                Tree::Context(context) => context.stats.clone(),
                Tree::Layers(_) => Arc::new(files::NoCache),
            };
            let (selected, cancel) = (walked.selected.clone(), self.cancel.clone());
            blocking(
                move || Ok(files::digest(&selected, &*files, &*stats, &|| cancel.is_cancelled())?.digest),
            )
            .await
        });
        Ok(Digested { digest: *digest.await?, selected: walked.selected.clone() })
    }

    /// Performs a COPY, ADD, WORKDIR or writes inline files, on top of `below`.
    async fn write_layer(
        &self,
        below: LayerTree,
        vertex: VertexId,
        write: impl FnOnce(&mut cache::ActiveSnapshot, &Cancel) -> Result<Changes, WorkerError> + Send + 'static,
    ) -> Result<LayerTree, WorkerError> {
        let parents = self.snapshots(&below, vertex).await?;
        let (store, cancel) = (self.store.clone(), self.cancel.clone());
        let _timed = self.trace.step(vertex.0, Work::Copy, "write its layer");
        let layer = blocking(move || {
            let mut layer = store.begin(&parents)?;
            let changes = write(&mut layer, &cancel)?;
            Ok(layer.commit(&changes)?.id())
        });
        Ok(below.with(layer.await?))
    }

    async fn copy(
        &self,
        vertex: VertexId,
        op: &graph::Copy,
        inputs: &[Tree],
    ) -> Result<LayerTree, WorkerError> {
        let below = first(inputs)?;
        let mut identity = StableHasher::new("copy-version-v1").with(&op.destination).with(&op.mode);
        let mut sources = Vec::new();
        for (input, tree) in self.definition.vertex(vertex).inputs.iter().zip(inputs).skip(1) {
            // What the layer's files hold is known from the hashes of these, also where its identity is not.
            let Digested { selected, .. } = self.digested(tree, &input.selection).await?;
            let digest = self.content_digest(tree, &input.selection).await?;
            for socket in &selected.sockets {
                let message = format!("\"/{}\" is a socket and was left out", socket.display());
                self.progress.event(Event::Warning { vertex, message });
            }
            identity = identity.with(&input.selection).with(&tree.context_name());
            sources.push(copy::Source { tree: self.file_tree(tree).await?, selected, digest });
        }
        let versions = copy::Versions { identity, anew: self.definition.vertex(vertex).no_cache };
        let op = op.clone();
        self.write_layer(below, vertex, move |layer, cancel| {
            copy::copy(&op, &sources, &versions, layer, &|| cancel.is_cancelled())
        })
        .await
    }

    async fn run(
        &self,
        vertex: VertexId,
        exec: &graph::Exec,
        inputs: &[Tree],
    ) -> Result<LayerTree, WorkerError> {
        let below = first(inputs)?;
        let parents = self.snapshots(&below, vertex).await?;
        let mounted = self.mounted(vertex, exec, inputs).await?;
        let mut failures = 0;
        loop {
            match self.attempt(vertex, exec, &mounted, &parents, failures == exec.retries).await {
                Ok(layer) => return Ok(below.with(layer)),
                Err(error @ WorkerError::Exit { .. }) if failures < exec.retries => {
                    failures += 1;
                    let message = format!("try {failures} of {} failed: {error}", exec.retries + 1);
                    self.progress.event(Event::Warning { vertex, message });
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Runs the process of a RUN once, on a root that nothing was written to. What the last try leaves is kept for people.
    async fn attempt(
        &self,
        vertex: VertexId,
        exec: &graph::Exec,
        inputs: &BTreeMap<usize, mounts::Input>,
        parents: &[SnapshotId],
        last: bool,
    ) -> Result<SnapshotId, WorkerError> {
        let mounting = self.trace.step(vertex.0, Work::Mount, "make its root ready");
        let preparing = Preparing {
            store: &self.store,
            cancel: &self.cancel,
            secrets: &*self.secrets,
            agents: &*self.agents,
            inputs,
            anew: self.definition.vertex(vertex).no_cache.then(|| self.anew.clone()),
        };
        let mounts = preparing.prepare(exec).await?;
        let Prepared { root, user } =
            prepare(self.store.clone(), parents.to_vec(), exec.user.clone()).await?;
        let rootfs = rootfs_with(root.form(), exec.security);
        let log = StepLog::new(vertex, &self.store, &self.progress, &self.clock, self.options.output);
        mounting.end();
        let running = self.trace.step(vertex.0, Work::Run, "run its process");
        let start = exec::Start { exec, user, rootfs, mounts: &mounts, options: &self.options };
        let ended = exec::run(start, &*self.executor, &log, &self.progress).await;
        running.end();
        let mount_points = mounts.points();
        drop(mounts);
        let scope = self.trace.of(trace::Subject::Step(vertex.0));
        match (ended, self.options.keep_failed) {
            (Ok(()), _) => {
                blocking(move || {
                    let unmounting = scope.begin(Work::Mount, "take its root down");
                    let layer = root.finish(mount_points.iter().map(PathBuf::as_path))?;
                    unmounting.end();
                    let hashing = scope.begin(Work::Hash, "hash what it changed");
                    let changes = layer.changes()?;
                    hashing.end();
                    let _timed = scope.begin(Work::Copy, "keep its layer");
                    let id = layer.commit(&changes)?.id();
                    log.keep(id)?;
                    Ok(id)
                })
                .await
            }
            (Err(WorkerError::Exit { command, status, cause, .. }), Some(time)) if last => {
                let inside = Inside::new(parents.to_vec(), exec, inputs).spec()?;
                let name = self.definition.vertex(vertex).name.clone();
                let parents = parents.to_vec();
                let shown: Vec<_> = inputs.values().flat_map(|input| input.layers.clone()).collect();
                let kept = blocking(move || {
                    let layer = root.finish(mount_points.iter().map(PathBuf::as_path))?;
                    let kept = layer.keep(&parents, &shown, &name, &inside, time)?;
                    if let Some(layer) = kept.layers.last() {
                        log.keep(*layer)?;
                    }
                    Ok(kept.id)
                });
                // That the step failed is what matters; a disk that is full may be why.
                let kept = kept.await.ok();
                Err(WorkerError::Exit { command, status, cause, kept })
            }
            (Err(error), _) => Err(error),
        }
    }

    /// The inputs that the mounts of a step show.
    async fn mounted(
        &self,
        vertex: VertexId,
        exec: &graph::Exec,
        inputs: &[Tree],
    ) -> Result<BTreeMap<usize, mounts::Input>, WorkerError> {
        let mut mounted = BTreeMap::new();
        for mount in &exec.mounts {
            let (index, is_seed) = match &mount.kind {
                graph::MountKind::Bind { input } => (*input, false),
                graph::MountKind::Cache(graph::CacheMount { seed: Some(input), .. }) => (*input, true),
                _ => continue,
            };
            let selection = self.definition.vertex(vertex).inputs.get(index).map(|input| &input.selection);
            let (Some(tree @ Tree::Layers(layers)), Some(selection)) = (inputs.get(index), selection) else {
                return Err(WorkerError::Internal("a mount is of no tree of layers".to_owned()));
            };
            let digest = match is_seed {
                true => Some(self.digested(tree, selection).await?.digest.to_string()),
                false => None,
            };
            let (layers, selection) = (self.snapshots(layers, vertex).await?, selection.clone());
            mounted.insert(index, mounts::Input { layers, selection, digest });
        }
        Ok(mounted)
    }
}

/// An image made ready for a process.
pub struct Prepared {
    /// Its root; what is written there is gone when the value is dropped.
    pub root: cache::ActiveRoot,
    /// Who the process is.
    pub user: executor::User,
}

impl LocalWorker {
    /// Makes a root directory of an image for one process, unpacking what is not unpacked, and looks `user` up in it.
    pub async fn prepare_run(
        store: &Store,
        image: Arc<ResolvedImage>,
        user: &str,
        progress: Arc<dyn ProgressSink>,
        clock: Arc<dyn Clock>,
        cancel: &Cancel,
    ) -> Result<Prepared, WorkerError> {
        let layers = layers_of(store, image, &progress, &clock, cancel).await?;
        prepare(store.clone(), layers, user.to_owned()).await
    }

    /// The files of an image, unpacking what is not unpacked.
    pub async fn image_files(
        store: &Store,
        image: Arc<ResolvedImage>,
        progress: Arc<dyn ProgressSink>,
        clock: Arc<dyn Clock>,
        cancel: &Cancel,
    ) -> Result<TreeView, WorkerError> {
        let layers = layers_of(store, image, &progress, &clock, cancel).await?;
        let store = store.clone();
        blocking(move || Ok(TreeView::new(&store, &layers)?)).await
    }
}

/// The layers of an image that belongs to no build, unpacking what is not unpacked.
async fn layers_of(
    store: &Store,
    image: Arc<ResolvedImage>,
    progress: &Arc<dyn ProgressSink>,
    clock: &Arc<dyn Clock>,
    cancel: &Cancel,
) -> Result<Vec<SnapshotId>, WorkerError> {
    let trace = &Trace::default();
    let bring = Bring { store, progress, clock, cancel, vertex: VertexId(0), trace };
    BaseImage::new(image).bring(&bring).await
}

async fn prepare(store: Store, layers: Vec<SnapshotId>, user: String) -> Result<Prepared, WorkerError> {
    blocking(move || {
        let root = store.begin_root(&layers)?;
        let user = UserDatabase::read(root.below())?.process_user(&user)?;
        Ok(Prepared { root, user })
    })
    .await
}

/// What a process gets as its root, in the executor's words, if what the sandbox mounts stays mounted.
pub fn rootfs(form: &RootForm) -> Rootfs {
    rootfs_with(form, graph::Security::Sandbox)
}

/// As [`rootfs`]. Who may unmount gets no mount points of a layer below: they could be copied up, and would be in the layer.
fn rootfs_with(form: &RootForm, security: graph::Security) -> Rootfs {
    match form {
        RootForm::Directory(path) => Rootfs::Directory(path.clone()),
        RootForm::Overlay { lower, upper, work, userxattr, mount_points } => {
            let is_covered = security == graph::Security::Sandbox && lower.len() < executor::MAXIMUM_LOWER;
            Rootfs::Overlay {
                lower: lower.iter().chain(is_covered.then_some(mount_points)).cloned().collect(),
                upper: upper.clone(),
                work: work.clone(),
                userxattr: *userxattr,
                // The store syncs what it keeps, once a build.
                volatile: true,
            }
        }
    }
}

/// The identity of a tree with one more layer.
fn content_with(below: &ContentId, changes: &ContentDigest) -> ContentId {
    ContentId::from_bytes(StableHasher::new("tree-content-v1").with(below).with(changes).finish())
}

fn first(inputs: &[Tree]) -> Result<LayerTree, WorkerError> {
    match inputs.first() {
        Some(Tree::Layers(tree)) => Ok(tree.clone()),
        _ => Err(WorkerError::Internal("a context is no root".to_owned())),
    }
}

#[async_trait]
impl Worker for LocalWorker {
    type Tree = Tree;
    type Error = WorkerError;

    async fn content_digest(&self, tree: &Tree, selection: &Selection) -> Result<ContentDigest, WorkerError> {
        match tree {
            Tree::Context(Context { identity: Some(identity), .. }) => {
                // That there is something to select is still asked.
                self.walked(tree, selection).await?;
                Ok(identity.digest(selection))
            }
            Tree::Layers(LayerTree { times: Some(times), .. }) => {
                let Digested { selected, digest } = self.digested(tree, selection).await?;
                Ok(times::digest_with(digest, &selected, times))
            }
            _ => Ok(self.digested(tree, selection).await?.digest),
        }
    }

    async fn content_paths(
        &self,
        tree: &Tree,
        selection: &Selection,
    ) -> Result<Option<Vec<SelectedPath>>, WorkerError> {
        let selected = self.digested(tree, selection).await?.selected;
        let is_checkout = self.commit(tree).is_some();
        let shown = |found: files::HashedPath| {
            let mut path = match found.path.as_os_str().is_empty() {
                true => ".".to_owned(),
                false => found.path.to_string_lossy().into_owned(),
            };
            if found.whole {
                path.push('/');
            }
            SelectedPath { path, mode: found.mode, digest: found.digest }
        };
        blocking(move || {
            let paths = files::hashed_paths(&selected, REMEMBERED_PATHS);
            // What git keeps beside the files of a commit is other bytes each time, and no reason.
            let is_told = |found: &files::HashedPath| !(is_checkout && found.path.starts_with(".git"));
            Ok(paths.map(|paths| paths.into_iter().filter(is_told).map(shown).collect()))
        })
        .await
    }

    async fn content_sources(&self, tree: &Tree, selection: &Selection) -> Result<Vec<Vec<u8>>, WorkerError> {
        use std::os::unix::ffi::OsStrExt as _;
        let selected = &self.walked(tree, selection).await?.selected;
        Ok(selected.matches.iter().map(|found| found.source.as_os_str().as_bytes().to_vec()).collect())
    }

    fn commit(&self, tree: &Tree) -> Option<String> {
        let Tree::Context(Context { identity, .. }) = tree else { return None };
        identity.as_ref().map(|identity| identity.commit().to_owned())
    }

    async fn content_id(&self, tree: &Tree) -> Result<ContentId, WorkerError> {
        let Tree::Layers(tree) = tree else {
            return Err(WorkerError::Internal("a context has no content id".to_owned()));
        };
        if let Some(base) = &tree.base {
            base.bring(&self.bring(self.image_vertex(base))).await?;
        }
        self.claimed_content(tree).await
    }

    async fn is_unseen(&self, vertex: VertexId, inputs: &[&Tree]) -> Result<bool, WorkerError> {
        if self.definition.vertex(vertex).op != Op::Merge {
            return Ok(false);
        }
        for input in inputs {
            if let Tree::Layers(LayerTree { base: Some(base), .. }) = input
                && base.unpacked(&self.store)?.is_none()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn load(&self, vertex: VertexId, record: &cache::CacheRecord) -> Result<Option<Tree>, WorkerError> {
        let base = self.base_of(vertex)?;
        if self.options.replay
            && let (Op::Exec(_), Some(layer)) = (&self.definition.vertex(vertex).op, record.layers.last())
        {
            log::replay(&self.store, vertex, *layer, &self.progress, &*self.clock);
        }
        self.finished(vertex, &record.layers);
        // The backend vouches for the layers; an image can be had again.
        let (layers, times) = (record.layers.clone(), self.times.of(vertex));
        Ok(Some(Tree::Layers(LayerTree { base, layers, times })))
    }

    async fn source(&self, vertex: VertexId) -> Result<SourceTree<Tree>, WorkerError> {
        match &self.definition.vertex(vertex).op {
            Op::Source(Source::Scratch) => {
                Ok(SourceTree { tree: Tree::Layers(LayerTree::default()), cached: true })
            }
            Op::Source(Source::Local { name }) => {
                let missing = || WorkerError::Internal(format!("context {name} was not opened"));
                let context = self.contexts.get(name).cloned().ok_or_else(missing)?;
                Ok(SourceTree { tree: Tree::Context(context), cached: true })
            }
            Op::Source(Source::Image { manifest, .. }) => {
                let base = self.base(manifest)?;
                let cached = base.unpacked(&self.store)?.is_some();
                // An image that nobody looks into is brought by whoever wants its files or its blobs.
                if self.is_looked_into(vertex) {
                    base.bring(&self.bring(vertex)).await?;
                }
                let tree = LayerTree { base: Some(base), ..LayerTree::default() };
                Ok(SourceTree { tree: Tree::Layers(tree), cached })
            }
            Op::Source(Source::Http(http)) => self.http(vertex, http).await,
            Op::Source(Source::Git(git)) => self.git(vertex, git).await,
            _ => Err(WorkerError::Internal("not a source".to_owned())),
        }
    }

    async fn execute(&self, vertex: VertexId, inputs: Vec<Tree>) -> Result<Executed<Tree>, WorkerError> {
        let mut tree = match &self.definition.vertex(vertex).op {
            Op::Copy(op) => self.copy(vertex, op, &inputs).await?,
            Op::Exec(op) => self.run(vertex, op, &inputs).await?,
            Op::Merge => {
                let (mut below, above) = (first(&inputs)?, first(inputs.get(1..).unwrap_or_default())?);
                below.layers.extend(above.layers);
                below
            }
            Op::Mkdir(op) => {
                let op = op.clone();
                let progress = self.progress.clone();
                let write = move |layer: &mut cache::ActiveSnapshot, _: &Cancel| {
                    copy::make_directory(&op, layer, &mut |unknown| {
                        let message = format!("\"{}\" becomes root's: {unknown}", op.path);
                        progress.event(Event::Warning { vertex, message });
                    })
                };
                self.write_layer(first(&inputs)?, vertex, write).await?
            }
            Op::Inline(op) => {
                let op = op.clone();
                let write =
                    move |layer: &mut cache::ActiveSnapshot, _: &Cancel| copy::write_inline(&op, layer);
                self.write_layer(LayerTree::default(), vertex, write).await?
            }
            Op::Source(_) => {
                return Err(WorkerError::Internal("a source is brought, not executed".to_owned()));
            }
        };
        tree.times = self.times.of(vertex);
        let (layers, content) = (tree.layers.clone(), self.claimed_content(&tree).await?);
        self.finished(vertex, layers.last().map_or(&[], std::slice::from_ref));
        Ok(Executed { tree: Tree::Layers(tree), layers, content })
    }

    async fn find_away(&self, key: &CacheKey) -> Option<Away> {
        self.imports.as_ref()?.find(key).await
    }

    fn trusted(&self) -> cache::Origins {
        self.imports.as_ref().map(Imports::identities).unwrap_or_default()
    }

    fn origin(&self, away: &Away) -> Option<String> {
        self.imports.as_ref()?.identity(away)
    }

    async fn away_content(&self, vertex: VertexId, away: &Away) -> Result<Option<ContentId>, WorkerError> {
        let record = self.imports.as_ref().and_then(|imports| imports.record(away));
        let Some(record) = record else { return Ok(None) };
        let base = self.base_of(vertex)?;
        if let Some(base) = &base {
            base.bring(&self.bring(self.image_vertex(base))).await?;
        }
        Ok(Some(import::content_of(base.as_deref(), &record)))
    }

    async fn bring_away(&self, vertex: VertexId, away: &Away) -> Option<Arrived<Tree>> {
        self.import(vertex, away).await
    }
}
