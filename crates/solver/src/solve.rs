mod away;
mod lookup;
mod reasons;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use cache::{CacheBackend, CacheError, CacheRecord, Claim, NewRecord, Origins, StepRun};
use files::Selection;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, try_join_all};
use futures::stream::{FuturesOrdered, TryStreamExt as _};
use graph::{
    Definition, Event, MissReason, Op, Outcome, ProgressSink, SecretValues, Source, Vertex, VertexId,
};
use hash::{CacheKey, Clock, ContentDigest};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;
use trace::{Subject, Trace, Work};

use self::away::{Placed, is_here, origins_of};
use self::lookup::Found;
use crate::history;
use crate::keys::{ContentInput, DefinitionInput, content_key, definition_key};
use crate::notes::Notes;
use crate::worker::{Executed, Worker};

/// How long a claim that another holds is left alone before it is tried again: doubling from the first to the second.
const CLAIM_BACK_OFF: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// How long a claim is waited for before the user is told: its owner may be stopped.
const CLAIM_PATIENCE: Duration = Duration::from_secs(5);

/// Solves definitions with a worker and a cache.
pub struct Solver<W: Worker> {
    worker: Arc<W>,
    cache: Arc<dyn CacheBackend>,
    progress: Arc<dyn ProgressSink>,
    clock: Arc<dyn Clock>,
    parallelism: usize,
    explaining: Option<Arc<Explaining>>,
    notes: Option<Arc<Notes>>,
    trace: Trace,
}

/// What is needed to say why a step ran.
#[derive(Debug)]
struct Explaining {
    /// What builds have in common whose steps are compared.
    scope: String,
    /// The variables that come from ARG.
    args: BTreeSet<String>,
}

/// The result of a vertex.
#[derive(Debug)]
pub struct Solved<T> {
    /// The tree.
    pub tree: T,
    /// Whether it came from the cache, no matter what happened to its inputs.
    pub cached: bool,
    /// On whose word it rests.
    pub origins: Origins,
}

impl<T: Clone> Clone for Solved<T> {
    fn clone(&self) -> Self {
        Solved { tree: self.tree.clone(), cached: self.cached, origins: self.origins.clone() }
    }
}

/// A vertex could not be solved.
#[derive(Debug, thiserror::Error)]
pub enum SolveError<E: std::error::Error + 'static> {
    /// Its operation failed.
    #[error("{error}")]
    Operation {
        /// Which vertex.
        vertex: VertexId,
        /// Why.
        error: Arc<E>,
    },
    /// The cache could not be used.
    #[error("{error}")]
    Cache {
        /// For which vertex.
        vertex: VertexId,
        /// Why.
        error: Arc<CacheError>,
    },
    /// A task of this program broke down: a defect, not the user's mistake.
    #[error("internal error while solving step {}: {message}", .vertex.0)]
    Internal {
        /// Which vertex.
        vertex: VertexId,
        /// The panic's message.
        message: String,
    },
}

impl<E: std::error::Error + 'static> SolveError<E> {
    /// The vertex that failed.
    pub fn vertex(&self) -> VertexId {
        match self {
            SolveError::Operation { vertex, .. }
            | SolveError::Cache { vertex, .. }
            | SolveError::Internal { vertex, .. } => *vertex,
        }
    }
}

impl<E: std::error::Error + 'static> Clone for SolveError<E> {
    fn clone(&self) -> Self {
        match self {
            SolveError::Operation { vertex, error } => {
                SolveError::Operation { vertex: *vertex, error: error.clone() }
            }
            SolveError::Cache { vertex, error } => {
                SolveError::Cache { vertex: *vertex, error: error.clone() }
            }
            SolveError::Internal { vertex, message } => {
                SolveError::Internal { vertex: *vertex, message: message.clone() }
            }
        }
    }
}

impl<W: Worker> Solver<W> {
    /// A solver that executes at most `parallelism` operations at a time.
    pub fn new(
        worker: Arc<W>,
        cache: Arc<dyn CacheBackend>,
        progress: Arc<dyn ProgressSink>,
        clock: Arc<dyn Clock>,
        parallelism: usize,
    ) -> Solver<W> {
        let trace = Trace::default();
        Solver { worker, cache, progress, clock, parallelism, explaining: None, notes: None, trace }
    }

    /// Remembers what goes into each step that is executed, and says what is different from the last build of the same `scope`:
    /// whatever tells Dockerfiles apart on this machine, such as the path of the file, the target and the platform. `args` are the
    /// names that ARG declares.
    pub fn explaining(self, scope: impl Into<String>, args: BTreeSet<String>) -> Solver<W> {
        Solver { explaining: Some(Arc::new(Explaining { scope: scope.into(), args })), ..self }
    }

    /// Tells what it learns of each step.
    pub fn noting(self, notes: Arc<Notes>) -> Solver<W> {
        Solver { notes: Some(notes), ..self }
    }

    /// Records what it does when.
    pub fn tracing(self, trace: Trace) -> Solver<W> {
        Solver { trace, ..self }
    }

    /// Solves the targets and whatever they need, each vertex at most once. The first failure ends the work;
    /// dropping the future cancels it.
    pub async fn solve(
        &self,
        definition: Arc<Definition>,
        targets: &[VertexId],
    ) -> Result<Vec<Solved<W::Tree>>, SolveError<W::Error>> {
        let run = self.begin(definition);
        let guard = ShowCancelled(run.clone());
        let solved = match run.prepare(targets).await {
            Ok(()) => try_join_all(targets.iter().map(|target| run.solution(*target))).await,
            Err(error) => Err(error),
        };
        if let Some(notes) = &self.notes {
            notes.put(run.note(targets).await);
        }
        drop(guard);
        solved
    }

    /// The same where nobody wants the trees: what is found elsewhere stays there.
    pub async fn ensure(
        &self,
        definition: Arc<Definition>,
        targets: &[VertexId],
    ) -> Result<(), SolveError<W::Error>> {
        let run = self.begin(definition);
        let guard = ShowCancelled(run.clone());
        let ensured = match run.prepare(targets).await {
            Ok(()) => try_join_all(targets.iter().map(|target| run.ensured(*target))).await,
            Err(error) => Err(error),
        };
        if let Some(notes) = &self.notes {
            notes.put(run.note(targets).await);
        }
        drop(guard);
        ensured.map(drop)
    }

    /// What a build of the targets would find, without running or fetching anything: for each vertex that can be looked up before its
    /// inputs are solved. Sources are not among them, nor what stands on a file that has to be fetched first. Only what local contexts
    /// hold is read.
    pub async fn peek(
        &self,
        definition: Arc<Definition>,
        targets: &[VertexId],
    ) -> Result<BTreeMap<VertexId, Peeked>, SolveError<W::Error>> {
        let run = self.begin(definition);
        let guard = ShowCancelled(run.clone());
        run.prepare(targets).await?;
        let keys: Vec<(VertexId, Keyed)> = lock(&run.keys).iter().map(|(id, keyed)| (*id, *keyed)).collect();
        let mut peeked = BTreeMap::new();
        for (id, keyed) in keys {
            if matches!(run.definition.vertex(id).op, Op::Source(_)) {
                continue;
            }
            let found = match keyed.fresh {
                true => Peeked::Disabled,
                false => match run.look_up(id, keyed.definition).await? {
                    Found::Hit(..) => Peeked::Cached,
                    Found::Gone | Found::Nothing => Peeked::Missing,
                },
            };
            peeked.insert(id, found);
        }
        if let Some(notes) = &self.notes {
            notes.put(run.note(targets).await);
        }
        drop(guard);
        Ok(peeked)
    }

    fn begin(&self, definition: Arc<Definition>) -> Arc<Run<W>> {
        Arc::new(Run {
            trusted: self.worker.trusted(),
            distrusted: Mutex::default(),
            worker: self.worker.clone(),
            cache: self.cache.clone(),
            progress: self.progress.clone(),
            clock: self.clock.clone(),
            permits: Semaphore::new(self.parallelism.max(1)),
            secret: Mutex::default(),
            hidden: SecretValues::of(&definition),
            definition,
            sources: Mutex::default(),
            contents: Mutex::default(),
            keys: Mutex::default(),
            late_keys: Mutex::default(),
            explaining: self.explaining.clone(),
            steps: OnceLock::new(),
            trace: self.trace.clone(),
            listings: Mutex::default(),
            placements: Mutex::default(),
            solutions: Mutex::default(),
            results: Mutex::default(),
            reasons: Mutex::default(),
            shown: Mutex::default(),
        })
    }
}

/// What [`Solver::peek`] found out about a vertex.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peeked {
    /// Its result is there.
    Cached,
    /// It is not found by definition. It may still be found by content, once its inputs are there.
    Missing,
    /// It, or something that it stands on, is never looked up (`--no-cache`).
    Disabled,
}

type Answer<T, E> = Result<T, SolveError<E>>;
type Solution<W> = Shared<BoxFuture<'static, Answer<Solved<<W as Worker>::Tree>, <W as Worker>::Error>>>;
type Placement<W> = Shared<BoxFuture<'static, Answer<Placed<<W as Worker>::Tree>, <W as Worker>::Error>>>;
type LateKey<W> = Shared<BoxFuture<'static, Answer<Keyed, <W as Worker>::Error>>>;
type Content<W> = Shared<BoxFuture<'static, Answer<ContentDigest, <W as Worker>::Error>>>;

/// One call of [`Solver::solve`].
struct Run<W: Worker> {
    worker: Arc<W>,
    cache: Arc<dyn CacheBackend>,
    progress: Arc<dyn ProgressSink>,
    clock: Arc<dyn Clock>,
    permits: Semaphore,
    definition: Arc<Definition>,
    /// Local contexts, which are there before anything is solved.
    sources: Mutex<HashMap<VertexId, W::Tree>>,
    /// Digests of selections, by the *result* of a vertex: within one run a vertex has one.
    contents: Mutex<HashMap<(VertexId, Selection), Content<W>>>,
    /// What is known before anything runs.
    keys: Mutex<HashMap<VertexId, Keyed>>,
    /// Of vertices below which something must be fetched first.
    late_keys: Mutex<HashMap<VertexId, LateKey<W>>>,
    /// The store's secret, once it was asked for.
    secret: Mutex<Option<[u8; 32]>>,
    /// What is not written down.
    hidden: SecretValues,
    /// `None`: nobody asks why steps ran.
    explaining: Option<Arc<Explaining>>,
    /// Under which keys steps are remembered, once that is asked for.
    steps: OnceLock<Arc<history::Steps>>,
    trace: Trace,
    /// Names of the listings of selections.
    listings: Mutex<HashMap<(VertexId, Selection), Option<String>>>,
    /// Results, wherever they are.
    placements: Mutex<HashMap<VertexId, Placement<W>>>,
    /// Results that are here.
    solutions: Mutex<HashMap<VertexId, Solution<W>>>,
    /// Records that were found or made.
    results: Mutex<HashMap<VertexId, CacheRecord>>,
    /// Why steps were executed.
    reasons: Mutex<HashMap<VertexId, MissReason>>,
    /// The caches elsewhere whose word counts.
    trusted: Origins,
    /// A cache whose word does not count, and on which a result rests that was found.
    distrusted: Mutex<HashMap<VertexId, String>>,
    shown: Mutex<HashMap<VertexId, Shown>>,
}

/// What is known of a vertex before it is solved.
#[derive(Debug, Clone, Copy)]
struct Keyed {
    /// The definition key.
    definition: CacheKey,
    /// Whether it or an ancestor is --no-cache: it is never looked up by definition.
    fresh: bool,
}

/// What the progress display knows of a vertex.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Started,
    Finished,
    Failed,
}

/// Reports what had begun and not ended when the run is over: with a failure elsewhere or when its future was dropped.
struct ShowCancelled<W: Worker>(Arc<Run<W>>);

impl<W: Worker> Drop for ShowCancelled<W> {
    fn drop(&mut self) {
        // The tasks hold the run; without their handles they end, and so does the run.
        lock(&self.0.solutions).clear();
        lock(&self.0.placements).clear();
        lock(&self.0.contents).clear();
        lock(&self.0.late_keys).clear();
        let mut started: Vec<VertexId> = lock(&self.0.shown)
            .iter()
            .filter(|(_, shown)| **shown == Shown::Started)
            .map(|(id, _)| *id)
            .collect();
        started.sort();
        for vertex in started {
            self.0.finished(vertex, Outcome::Cancelled);
        }
    }
}

impl<W: Worker> Run<W> {
    /// Computes the definition keys of everything that the targets need, as far as nothing must be fetched for them. That takes the
    /// content of local contexts and nothing else, so a missing file is found before any step runs.
    async fn prepare(self: &Arc<Self>, targets: &[VertexId]) -> Answer<(), W::Error> {
        let needed = self.ancestors(targets);
        for id in &needed {
            if is_local(self.definition.vertex(*id)) {
                self.started(*id);
                let context = self.worker.source(*id).await.map_err(|error| operation(*id, error))?;
                lock(&self.sources).insert(*id, context.tree);
            }
        }
        let mut selections = Vec::new();
        for id in &needed {
            for input in &self.definition.vertex(*id).inputs {
                if is_local(self.definition.vertex(input.vertex)) {
                    selections.push(self.content_of(*id, input.vertex, &input.selection)?);
                }
            }
        }
        // Of several that are missing the first is told, however soon each is found out.
        let digested: Result<Vec<_>, _> = FuturesOrdered::from_iter(selections).try_collect().await;
        for id in needed.iter().filter(|id| is_local(self.definition.vertex(**id))) {
            self.finished(*id, Outcome::Done { reason: None });
        }
        digested.inspect_err(|error| self.failed(error))?;
        let _timed = self.trace.begin(Subject::Build, Work::Solve, "compute keys");
        let mut late = HashSet::new();
        for id in needed {
            let vertex = self.definition.vertex(id);
            let is_late =
                is_fetched(vertex) || vertex.inputs.iter().any(|input| late.contains(&input.vertex));
            if is_late {
                late.insert(id);
            } else {
                let keyed = self.key(id).await?;
                lock(&self.keys).insert(id, keyed);
            }
        }
        Ok(())
    }

    /// The targets and all that they need, in topological order.
    fn ancestors(&self, targets: &[VertexId]) -> Vec<VertexId> {
        let mut needed: HashSet<VertexId> = HashSet::new();
        let mut waiting = targets.to_vec();
        while let Some(id) = waiting.pop() {
            if needed.insert(id) {
                waiting.extend(self.definition.vertex(id).inputs.iter().map(|input| input.vertex));
            }
        }
        let mut needed: Vec<VertexId> = needed.into_iter().collect();
        needed.sort();
        needed
    }

    /// Computes the definition key of a vertex.
    async fn key(self: &Arc<Self>, id: VertexId) -> Answer<Keyed, W::Error> {
        let vertex = self.definition.vertex(id);
        let mut fresh = vertex.no_cache;
        let mut inputs = Vec::with_capacity(vertex.inputs.len());
        for input in &vertex.inputs {
            if is_keyed_by_content(self.definition.vertex(input.vertex)) {
                let digest = self.content_of(id, input.vertex, &input.selection)?.await?;
                inputs.push(DefinitionInput::Content(digest));
            } else {
                let keyed = self.keyed(input.vertex).await?;
                fresh |= keyed.fresh;
                inputs.push(DefinitionInput::Vertex { key: keyed.definition, selection: &input.selection });
            }
        }
        Ok(Keyed { definition: definition_key(&vertex.op, &inputs), fresh })
    }

    /// The definition key of a vertex. Where something must be fetched for it, that happens now, and nobody waits but who uses it.
    async fn keyed(self: &Arc<Self>, id: VertexId) -> Answer<Keyed, W::Error> {
        let known = lock(&self.keys).get(&id).copied();
        match known {
            Some(keyed) => Ok(keyed),
            None => self.late_key(id).await,
        }
    }

    /// Each is computed by a task of its own, so that a long chain does not recurse.
    fn late_key(self: &Arc<Self>, id: VertexId) -> LateKey<W> {
        let mut late_keys = lock(&self.late_keys);
        let start = || {
            let run = self.clone();
            let compute: BoxFuture<'static, _> = async move {
                let keyed = run.key(id).await;
                if let Err(error) = &keyed
                    && error.vertex() == id
                {
                    run.failed(error);
                }
                keyed
            }
            .boxed();
            joined(id, AbortOnDropHandle::new(tokio::spawn(compute)))
        };
        late_keys.entry(id).or_insert_with(start).clone()
    }

    /// The digest of a selection of the tree of `input`, for `consumer` (which a failure is ascribed to). Computed once.
    fn content_of(
        self: &Arc<Self>,
        consumer: VertexId,
        input: VertexId,
        selection: &Selection,
    ) -> Answer<Content<W>, W::Error> {
        let place = (input, selection.clone());
        if let Some(content) = lock(&self.contents).get(&place) {
            return Ok(content.clone());
        }
        let run = self.clone();
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let known = lock(&run.sources).get(&place.0).cloned();
            let tree = match known {
                Some(tree) => tree,
                None => run.solution(place.0).await?.tree,
            };
            let _timed = run.trace.step(consumer.0, Work::Hash, "hash what it uses");
            run.worker.content_digest(&tree, &place.1).await.map_err(|error| operation(consumer, error))
        }));
        let content = joined(consumer, task);
        Ok(lock(&self.contents).entry((input, selection.clone())).or_insert(content).clone())
    }

    /// The one shared future that finds or makes the result of a vertex, wherever that is. Each runs as a task of its own, so that a long
    /// chain does not recurse.
    fn placement(self: &Arc<Self>, id: VertexId) -> Placement<W> {
        let mut placements = lock(&self.placements);
        let start = || {
            let place: BoxFuture<'static, _> = self.clone().place(id).boxed();
            joined(id, AbortOnDropHandle::new(tokio::spawn(place)))
        };
        placements.entry(id).or_insert_with(start).clone()
    }

    /// The same of a result that is here.
    fn solution(self: &Arc<Self>, id: VertexId) -> Solution<W> {
        let mut solutions = lock(&self.solutions);
        let start = || {
            let solve: BoxFuture<'static, _> = self.clone().solve_here(id).boxed();
            joined(id, AbortOnDropHandle::new(tokio::spawn(solve)))
        };
        solutions.entry(id).or_insert_with(start).clone()
    }

    /// The life of a vertex.
    async fn place(self: Arc<Self>, id: VertexId) -> Answer<Placed<W::Tree>, W::Error> {
        let answer = self.clone().find_or_execute(id).await;
        if let Err(error) = &answer
            && error.vertex() == id
        {
            self.failed(error);
        }
        answer
    }

    async fn find_or_execute(self: Arc<Self>, id: VertexId) -> Answer<Placed<W::Tree>, W::Error> {
        let vertex = self.definition.vertex(id);
        if let Op::Source(_) = vertex.op {
            return self.bring(id).await.map(Placed::Here);
        }
        let Keyed { definition, fresh } = self.keyed(id).await?;
        let mut gone = false;
        if !fresh {
            match self.look_up(id, definition).await? {
                Found::Hit(tree, record) => return Ok(Placed::Here(self.hit(id, tree, &record))),
                Found::Gone => gone = true,
                Found::Nothing => {}
            }
            if let Some(away) = self.worker.find_away(&definition).await {
                let origins = self.worker.origin(&away).into_iter().collect();
                return Ok(Placed::Away { away, key: definition, origins });
            }
        }

        let placed = try_join_all(vertex.inputs.iter().map(|input| self.placed_input(input.vertex))).await?;
        let unseen = self.is_unseen(id, &placed).await?;
        let content = if unseen { None } else { self.content_key(id, &placed).await? };
        if !vertex.no_cache
            && let Some(content) = content
        {
            let mut origins = origins_of(placed.iter().map(Placed::origins));
            if !is_here(&placed) {
                // A result that could not be brought from one cache may have come from another, and be what was hashed.
                origins.extend(self.trusted.iter().cloned());
            }
            if let Some(hit) =
                self.look_up_content(id, [definition, content], is_here(&placed), &origins).await?
            {
                return Ok(Placed::Here(hit));
            }
            if let Some(away) = self.worker.find_away(&content).await {
                origins.extend(self.worker.origin(&away));
                return Ok(Placed::Away { away, key: content, origins });
            }
        }
        // It has to run, so what it stands on has to be here. What could not be brought was made instead, and may be something else.
        let (inputs, origins) = self.inputs_here(id).await?;
        let content = match content.filter(|_| is_here(&placed)) {
            None if !unseen => Some(self.content_key_here(id, &inputs).await?),
            content => content,
        };

        // A --no-cache vertex neither waits for others nor is waited for.
        let _claim = if vertex.no_cache { None } else { Some(self.claim(id, definition).await?) };
        if !vertex.no_cache {
            if !fresh && let Found::Hit(tree, record) = self.look_up(id, definition).await? {
                return Ok(Placed::Here(self.hit(id, tree, &record)));
            }
            if let Some(content) = content
                && let Some(hit) = self.look_up_content(id, [definition, content], true, &origins).await?
            {
                return Ok(Placed::Here(hit));
            }
        }
        let (reason, remembered) = self.explain(id, gone).await?;
        let keys: Vec<CacheKey> = [Some(definition), content].into_iter().flatten().collect();
        let solved = self.execute(id, inputs, &origins, keys.clone(), reason).await?;
        self.supersede(id, keys).await?;
        if !remembered.is_empty() {
            // The step is built and saved; that a later miss may go unexplained is no reason to fail.
            let _ = self.blocking(id, move |cache| cache.remember(&remembered)).await;
        }
        Ok(Placed::Here(solved))
    }

    /// Brings a source other than a local context.
    async fn bring(&self, id: VertexId) -> Answer<Solved<W::Tree>, W::Error> {
        if is_scratch(self.definition.vertex(id)) {
            let source = self.worker.source(id).await.map_err(|error| operation(id, error))?;
            return Ok(Solved { tree: source.tree, cached: true, origins: Origins::new() });
        }
        self.started(id);
        let _timed = self.trace.step(id.0, Work::Fetch, "bring it");
        let source = self.worker.source(id).await.map_err(|error| operation(id, error))?;
        let outcome = match source.cached {
            true => Outcome::Cached { saved: Duration::ZERO },
            // What is at an address may have been another thing before.
            false => Outcome::Done {
                reason: (!is_keyed_by_content(self.definition.vertex(id))).then_some(MissReason::FirstBuild),
            },
        };
        self.finished(id, outcome);
        Ok(Solved { tree: source.tree, cached: source.cached, origins: Origins::new() })
    }

    async fn input(self: &Arc<Self>, id: VertexId) -> Answer<Solved<W::Tree>, W::Error> {
        let known = lock(&self.sources).get(&id).cloned();
        match known {
            Some(tree) => Ok(Solved { tree, cached: true, origins: Origins::new() }),
            None => self.solution(id).await,
        }
    }

    /// Whether nobody has looked into what a vertex puts together, and it need not be done for it. What is elsewhere says what it holds.
    async fn is_unseen(&self, id: VertexId, inputs: &[Placed<W::Tree>]) -> Answer<bool, W::Error> {
        let trees: Option<Vec<&W::Tree>> = inputs.iter().map(Placed::here).collect();
        let Some(trees) = trees else { return Ok(false) };
        self.worker.is_unseen(id, &trees).await.map_err(|error| operation(id, error))
    }

    /// The content key of a vertex; `None` when that of an input is not known before it is here.
    async fn content_key(
        self: &Arc<Self>,
        id: VertexId,
        inputs: &[Placed<W::Tree>],
    ) -> Answer<Option<CacheKey>, W::Error> {
        let vertex = self.definition.vertex(id);
        let parts = vertex.inputs.iter().zip(inputs).map(|(input, placed)| async move {
            match &input.selection {
                Selection::Whole if !is_keyed_by_content(self.definition.vertex(input.vertex)) => {
                    let content = match placed {
                        Placed::Here(solved) => self.worker.content_id(&solved.tree).await.map(Some),
                        Placed::Away { away, .. } => self.worker.away_content(input.vertex, away).await,
                    };
                    let content = content.map_err(|error| operation(id, error))?;
                    Ok(content.map(ContentInput::Whole))
                }
                selection => {
                    let content = self.content_of(id, input.vertex, selection)?.await?;
                    Ok(Some(ContentInput::Selected(content)))
                }
            }
        });
        let parts: Option<Vec<ContentInput>> = try_join_all(parts).await?.into_iter().collect();
        Ok(parts.map(|parts| content_key(&vertex.op, &parts)))
    }

    async fn claim(&self, id: VertexId, key: CacheKey) -> Answer<Box<dyn Claim>, W::Error> {
        let _timed = self.trace.step(id.0, Work::Wait, "wait for another build");
        let (mut wait, longest) = CLAIM_BACK_OFF;
        let mut patience = Some(Instant::now() + CLAIM_PATIENCE);
        loop {
            if let Some(claim) = self.blocking(id, move |cache| cache.try_claim(&key)).await? {
                return Ok(claim);
            }
            if patience.is_some_and(|end| Instant::now() > end) {
                patience = None;
                let message = "waiting for another build that executes this step".to_owned();
                self.progress.event(Event::Warning { vertex: id, message });
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(longest);
        }
    }

    async fn execute(
        &self,
        id: VertexId,
        inputs: Vec<W::Tree>,
        origins: &Origins,
        keys: Vec<CacheKey>,
        reason: MissReason,
    ) -> Answer<Solved<W::Tree>, W::Error> {
        // The semaphore is never closed, so a permit always comes.
        let waiting = self.trace.step(id.0, Work::Wait, "wait for other steps to make room");
        let _permit = self.permits.acquire().await.ok();
        waiting.end();
        self.started(id);
        let (started, clock) = (self.clock.now(), Instant::now());
        let Executed { tree, layers, content } =
            self.worker.execute(id, inputs).await.map_err(|error| operation(id, error))?;
        let run = StepRun { started, duration: clock.elapsed() };
        let _timed = self.trace.step(id.0, Work::Solve, "remember the result");
        let description = self.definition.vertex(id).name.clone();
        let record = NewRecord { content, layers, description, run };
        let on = origins.clone();
        let record = self.blocking(id, move |cache| cache.save_from(&keys, &record, &on)).await?;
        lock(&self.results).insert(id, record);
        self.finished(id, Outcome::Done { reason: Some(reason) });
        Ok(Solved { tree, cached: false, origins: origins.clone() })
    }

    fn hit(&self, id: VertexId, tree: W::Tree, record: &CacheRecord) -> Solved<W::Tree> {
        self.show_cached(id, record.run.duration);
        lock(&self.results).insert(id, record.clone());
        Solved { tree, cached: true, origins: record.origins.clone() }
    }

    /// The ancestors of which nothing was needed, in topological order: what a user sees as cached.
    fn untouched_ancestors(&self, id: VertexId) -> Vec<VertexId> {
        let shown = lock(&self.shown);
        let mut untouched = HashSet::new();
        let mut waiting = vec![id];
        while let Some(id) = waiting.pop() {
            for input in &self.definition.vertex(id).inputs {
                // What was shown has ancestors that were shown, or that will be.
                if !shown.contains_key(&input.vertex) && untouched.insert(input.vertex) {
                    waiting.push(input.vertex);
                }
            }
        }
        let mut untouched: Vec<VertexId> =
            untouched.into_iter().filter(|id| !is_scratch(self.definition.vertex(*id))).collect();
        untouched.sort();
        untouched
    }

    /// Runs a call of the cache on a blocking thread.
    async fn blocking<T: Send + 'static>(
        &self,
        id: VertexId,
        call: impl FnOnce(&dyn CacheBackend) -> Result<T, CacheError> + Send + 'static,
    ) -> Answer<T, W::Error> {
        let cache = self.cache.clone();
        match tokio::task::spawn_blocking(move || call(&*cache)).await {
            Ok(answer) => answer.map_err(|error| SolveError::Cache { vertex: id, error: Arc::new(error) }),
            Err(error) => Err(SolveError::Internal { vertex: id, message: error.to_string() }),
        }
    }

    /// Says that a vertex failed, once: its key and its solution may both find out.
    fn failed(&self, error: &SolveError<W::Error>) {
        let vertex = error.vertex();
        let before = lock(&self.shown).insert(vertex, Shown::Failed);
        if before == Some(Shown::Failed) {
            return;
        }
        if before != Some(Shown::Started) {
            self.progress.event(Event::Started { vertex, at: self.clock.now() });
        }
        let outcome = Outcome::Failed { message: error.to_string() };
        self.progress.event(Event::Finished { vertex, outcome, at: self.clock.now() });
    }

    fn started(&self, vertex: VertexId) {
        if lock(&self.shown).insert(vertex, Shown::Started) != Some(Shown::Started) {
            self.progress.event(Event::Started { vertex, at: self.clock.now() });
        }
    }

    fn finished(&self, vertex: VertexId, outcome: Outcome) {
        lock(&self.shown).insert(vertex, Shown::Finished);
        self.progress.event(Event::Finished { vertex, outcome, at: self.clock.now() });
    }
}

/// It is there already, and reading it costs nothing but reading.
fn is_local(vertex: &Vertex) -> bool {
    matches!(&vertex.op, Op::Source(Source::Local { .. }))
}

fn is_keyed_by_content(vertex: &Vertex) -> bool {
    matches!(&vertex.op, Op::Source(source) if source.is_keyed_by_content())
}

/// It must be brought from elsewhere before what uses it has a key.
fn is_fetched(vertex: &Vertex) -> bool {
    is_keyed_by_content(vertex) && !is_local(vertex)
}

/// Nothing happens there, so nothing is shown.
fn is_scratch(vertex: &Vertex) -> bool {
    matches!(vertex.op, Op::Source(Source::Scratch))
}

fn operation<E: std::error::Error>(vertex: VertexId, error: E) -> SolveError<E> {
    SolveError::Operation { vertex, error: Arc::new(error) }
}

/// Waits for a task; dropping every clone of the future ends the task.
fn joined<T, E>(
    vertex: VertexId,
    task: AbortOnDropHandle<Answer<T, E>>,
) -> Shared<BoxFuture<'static, Answer<T, E>>>
where
    T: Clone + Send + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    let answer = async move {
        task.await.unwrap_or_else(|error| Err(SolveError::Internal { vertex, message: error.to_string() }))
    };
    answer.boxed().shared()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
