//! The engine tested with arithmetic: exact call counts, no containers.
//!
//! A tree is a number. A base image is a number, a context a list of numbers, a step adds its inputs and a constant of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cache::{CacheBackend as _, CacheRecord, MemoryCache, Origins, RecordId, SnapshotId};
use files::{PathSelection, Selection};
use graph::{
    Definition, Event, Exec, Http, Input, MissReason, Network, Op, Outcome, Recorder, Security, Source,
    Vertex, VertexId,
};
use hash::{CacheKey, ContentDigest, ContentId, Digest, StableHasher, SystemClock};
use image::Platform;
use proptest::prelude::*;
use solver::{Arrived, Away, Executed, Peeked, SelectedPath, SolveError, Solver, SourceTree, Worker};

/// What outlives a build: the store of results and the contexts on disk.
#[derive(Default)]
struct World {
    values: Mutex<HashMap<SnapshotId, i64>>,
    context: Mutex<BTreeMap<String, i64>>,
    base: Mutex<i64>,
    /// Another machine, whose results can be had.
    elsewhere: Option<Elsewhere>,
}

/// What another machine has.
struct Elsewhere {
    cache: MemoryCache,
    world: Arc<World>,
    /// Results that turn out not to be there when they are wanted.
    broken: fn(RecordId) -> bool,
    refused: Mutex<BTreeSet<u64>>,
    found: Mutex<HashMap<u64, CacheRecord>>,
    /// Whether builds name it as a cache.
    named: AtomicBool,
    /// Whether every other result is not what the step gives, but what another may.
    lies: bool,
}

impl Elsewhere {
    fn value(&self, away: &Away) -> i64 {
        let layer = self.found.lock().unwrap()[&away.0].layers[0];
        let value = self.world.values.lock().unwrap()[&layer];
        if self.lies && away.0.is_multiple_of(2) { value + 1 } else { value }
    }
}

struct Arithmetic {
    world: Arc<World>,
    definition: Arc<Definition>,
    executed: Mutex<Vec<VertexId>>,
    brought: Mutex<Vec<VertexId>>,
    arrived: Mutex<Vec<VertexId>>,
    digested: AtomicUsize,
    running: AtomicUsize,
    most_running: AtomicUsize,
}

#[derive(Clone, Debug, PartialEq)]
enum Tree {
    Number(i64),
    Context,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failure(String);

fn content_of(tree: &Tree) -> Result<ContentId, Failure> {
    let Tree::Number(value) = tree else { return Err(Failure("a context has no id".into())) };
    Ok(ContentId::from_bytes(StableHasher::new("t").with(value).finish()))
}

#[async_trait]
impl Worker for Arithmetic {
    type Tree = Tree;
    type Error = Failure;

    async fn content_digest(&self, tree: &Tree, selection: &Selection) -> Result<ContentDigest, Failure> {
        let before = self.digested.fetch_add(1, Ordering::SeqCst);
        if matches!(selection, Selection::Path(path) if path.pattern == "late") {
            // Another has ended by then.
            soon(|| self.digested.load(Ordering::SeqCst) > before + 1).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let value = self.select(tree, selection)?;
        Ok(ContentDigest::from_bytes(StableHasher::new("t").with(&value).finish()))
    }

    async fn content_id(&self, tree: &Tree) -> Result<ContentId, Failure> {
        content_of(tree)
    }

    async fn load(&self, _: VertexId, record: &CacheRecord) -> Result<Option<Tree>, Failure> {
        let values = self.world.values.lock().unwrap();
        Ok(record.layers.last().and_then(|layer| values.get(layer)).map(|value| Tree::Number(*value)))
    }

    async fn content_paths(
        &self,
        tree: &Tree,
        selection: &Selection,
    ) -> Result<Option<Vec<SelectedPath>>, Failure> {
        let Selection::Path(PathSelection { pattern, .. }) = selection else { return Ok(None) };
        let mut digest = [0; 16];
        digest[..8].copy_from_slice(&self.select(tree, selection)?.to_be_bytes());
        Ok(Some(vec![SelectedPath { path: pattern.clone(), mode: None, digest }]))
    }

    async fn content_sources(&self, _: &Tree, selection: &Selection) -> Result<Vec<Vec<u8>>, Failure> {
        let Selection::Path(PathSelection { pattern, .. }) = selection else { return Ok(Vec::new()) };
        Ok(vec![pattern.clone().into_bytes()])
    }

    async fn source(&self, id: VertexId) -> Result<SourceTree<Tree>, Failure> {
        self.brought.lock().unwrap().push(id);
        let tree = match &self.definition.vertex(id).op {
            Op::Source(Source::Local { .. }) => Tree::Context,
            Op::Source(Source::Http(http)) => match &*http.url {
                "forever" => std::future::pending().await,
                "fail" => return Err(Failure("no route".into())),
                url => Tree::Number(self.world.context.lock().unwrap().get(url).copied().unwrap_or_default()),
            },
            _ => Tree::Number(*self.world.base.lock().unwrap()),
        };
        Ok(SourceTree { tree, cached: false })
    }

    async fn execute(&self, id: VertexId, inputs: Vec<Tree>) -> Result<Executed<Tree>, Failure> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_running.fetch_max(running, Ordering::SeqCst);
        let _guard = Decrement(&self.running);
        self.executed.lock().unwrap().push(id);
        let vertex = self.definition.vertex(id);
        let Op::Exec(exec) = &vertex.op else { return Err(Failure("not a step".into())) };
        match exec.args[0].as_str() {
            "fail" => {
                // Others have begun by then.
                soon(|| self.running.load(Ordering::SeqCst) > 1).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                return Err(Failure("told to fail".into()));
            }
            // Until so many have begun together, and then for more.
            meet if meet.starts_with("meet") => {
                let together = meet[4..].parse().map_err(|_| Failure("not a number".into()))?;
                soon(|| self.most_running.load(Ordering::SeqCst) >= together).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            "forever" => std::future::pending().await,
            "panic" => panic!("told to panic"),
            _ => {}
        }
        let mut sum: i64 = exec.args[1].parse().map_err(|_| Failure("not a number".into()))?;
        for (input, tree) in vertex.inputs.iter().zip(&inputs) {
            sum += self.select(tree, &input.selection)?;
        }
        // "parity": many inputs give the same result.
        let value = if exec.args[0] == "parity" { sum.rem_euclid(2) } else { sum };
        let mut values = self.world.values.lock().unwrap();
        let layer = SnapshotId(values.len() as i64);
        values.insert(layer, value);
        let tree = Tree::Number(value);
        Ok(Executed { content: content_of(&tree)?, tree, layers: vec![layer] })
    }

    async fn find_away(&self, key: &CacheKey) -> Option<Away> {
        let elsewhere = self.world.elsewhere.as_ref()?;
        if !elsewhere.named.load(Ordering::SeqCst) {
            return None;
        }
        let record = elsewhere.cache.candidates(key).unwrap().into_iter().next()?;
        let away = Away(record.id.0 as u64);
        let refused = elsewhere.refused.lock().unwrap().contains(&away.0);
        elsewhere.found.lock().unwrap().insert(away.0, record);
        (!refused).then_some(away)
    }

    fn trusted(&self) -> Origins {
        let named = |elsewhere: &Elsewhere| elsewhere.named.load(Ordering::SeqCst);
        let is_named = self.world.elsewhere.as_ref().is_some_and(named);
        is_named.then(|| "elsewhere".to_owned()).into_iter().collect()
    }

    fn origin(&self, _: &Away) -> Option<String> {
        Some("elsewhere".to_owned())
    }

    async fn away_content(&self, _: VertexId, away: &Away) -> Result<Option<ContentId>, Failure> {
        let Some(elsewhere) = &self.world.elsewhere else { return Ok(None) };
        self.content_id(&Tree::Number(elsewhere.value(away))).await.map(Some)
    }

    async fn bring_away(&self, id: VertexId, away: &Away) -> Option<Arrived<Tree>> {
        let elsewhere = self.world.elsewhere.as_ref()?;
        if (elsewhere.broken)(RecordId(away.0 as i64)) {
            elsewhere.refused.lock().unwrap().insert(away.0);
            return None;
        }
        self.arrived.lock().unwrap().push(id);
        let tree = Tree::Number(elsewhere.value(away));
        let content = self.content_id(&tree).await.unwrap();
        let mut values = self.world.values.lock().unwrap();
        let layer = SnapshotId(values.len() as i64);
        values.insert(layer, elsewhere.value(away));
        Some(Arrived { tree, layers: vec![layer], content, took: Duration::ZERO })
    }
}

impl Arithmetic {
    fn select(&self, tree: &Tree, selection: &Selection) -> Result<i64, Failure> {
        match (tree, selection) {
            (Tree::Number(value), _) => Ok(*value),
            (Tree::Context, Selection::Path(PathSelection { pattern, .. })) => {
                let context = self.world.context.lock().unwrap();
                context.get(pattern).copied().ok_or_else(|| Failure(format!("\"/{pattern}\": not found")))
            }
            (Tree::Context, Selection::Whole) => Err(Failure("a context is selected from".into())),
        }
    }
}

struct Decrement<'a>(&'a AtomicUsize);

impl Drop for Decrement<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A definition under construction.
#[derive(Default, Clone)]
struct Graph(Definition);

impl Graph {
    fn add(&mut self, op: Op, inputs: Vec<Input>, no_cache: bool) -> VertexId {
        let name = format!("step {}", self.0.len());
        self.0.add(Vertex { op, inputs, name, lines: None, no_cache })
    }

    fn base(&mut self) -> VertexId {
        let manifest = Digest::of(b"base");
        let source = Source::Image { name: "base".into(), manifest, platform: Platform::host() };
        self.add(Op::Source(source), vec![], false)
    }

    fn context(&mut self) -> VertexId {
        self.add(Op::Source(Source::Local { name: "context".into() }), vec![], false)
    }

    fn http(&mut self, url: &str) -> VertexId {
        let http = Http { url: url.into(), name: "file".into(), checksum: None };
        self.add(Op::Source(Source::Http(http)), vec![], false)
    }

    fn step(&mut self, kind: &str, constant: i64, inputs: Vec<Input>) -> VertexId {
        self.add(step(kind, constant), inputs, false)
    }
}

fn step(kind: &str, constant: i64) -> Op {
    Op::Exec(Exec {
        args: vec![kind.into(), constant.to_string()],
        env: [].into(),
        unkeyed_env: [].into(),
        cwd: "/".into(),
        user: String::new(),
        hostname: "h".into(),
        network: Network::None,
        security: Security::Sandbox,
        devices: vec![],
        secret_env: [].into(),
        mounts: vec![],
        timeout: None,
        retries: 0,
        platform: Platform {
            os: "linux".into(),
            architecture: "amd64".into(),
            variant: None,
            os_version: None,
        },
        extra_hosts: vec![],
    })
}

fn file(context: VertexId, name: &str) -> Input {
    let selection = Selection::Path(PathSelection { owners: false, ..PathSelection::exact(name) });
    Input { vertex: context, selection }
}

/// A machine on which builds follow each other.
#[derive(Default)]
struct Machine {
    world: Arc<World>,
    cache: MemoryCache,
}

struct Built {
    values: Result<Vec<i64>, SolveError<Failure>>,
    executed: Vec<VertexId>,
    brought: Vec<VertexId>,
    arrived: Vec<VertexId>,
    digested: usize,
    most_running: usize,
    events: Vec<Event>,
}

impl Built {
    fn reason(&self, id: VertexId) -> Option<MissReason> {
        match self.outcome(id) {
            Some(Outcome::Done { reason }) => reason.clone(),
            _ => None,
        }
    }

    fn failures(&self) -> Vec<VertexId> {
        let failed = |event: &Event| match event {
            Event::Finished { vertex, outcome: Outcome::Failed { .. }, .. } => Some(*vertex),
            _ => None,
        };
        self.events.iter().filter_map(failed).collect()
    }

    fn outcome(&self, id: VertexId) -> Option<&Outcome> {
        self.events.iter().rev().find_map(|event| match event {
            Event::Finished { vertex, outcome, .. } if *vertex == id => Some(outcome),
            _ => None,
        })
    }
}

impl Machine {
    fn parts(
        &self,
        graph: &Graph,
        parallelism: usize,
    ) -> (Arc<Arithmetic>, Arc<Recorder>, Solver<Arithmetic>) {
        let worker = Arc::new(Arithmetic {
            world: self.world.clone(),
            definition: Arc::new(graph.0.clone()),
            executed: Mutex::default(),
            brought: Mutex::default(),
            arrived: Mutex::default(),
            digested: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            most_running: AtomicUsize::new(0),
        });
        let recorder = Arc::new(Recorder::default());
        let cache = Arc::new(self.cache.clone());
        let solver = Solver::new(worker.clone(), cache, recorder.clone(), Arc::new(SystemClock), parallelism)
            .explaining("Dockerfile", BTreeSet::new())
            .noting(Arc::default());
        (worker, recorder, solver)
    }

    /// A new machine with the same files, which can have what this one has.
    fn another(&self, broken: fn(RecordId) -> bool) -> Machine {
        self.other(broken, false)
    }

    fn other(&self, broken: fn(RecordId) -> bool, lies: bool) -> Machine {
        let elsewhere = Elsewhere {
            cache: self.cache.clone(),
            world: self.world.clone(),
            broken,
            refused: Mutex::default(),
            found: Mutex::default(),
            named: AtomicBool::new(true),
            lies,
        };
        let world = World {
            context: Mutex::new(self.world.context.lock().unwrap().clone()),
            base: Mutex::new(*self.world.base.lock().unwrap()),
            elsewhere: Some(elsewhere),
            ..World::default()
        };
        Machine { world: Arc::new(world), cache: MemoryCache::default() }
    }

    fn build(&self, graph: &Graph, targets: &[VertexId]) -> Built {
        self.build_with(graph, targets, 8)
    }

    fn build_with(&self, graph: &Graph, targets: &[VertexId], parallelism: usize) -> Built {
        let (worker, recorder, solver) = self.parts(graph, parallelism);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let values = runtime.block_on(solver.solve(worker.definition.clone(), targets)).map(|solved| {
            let number = |tree: &Tree| if let Tree::Number(value) = tree { *value } else { 0 };
            solved.iter().map(|solved| number(&solved.tree)).collect()
        });
        let executed = worker.executed.lock().unwrap().clone();
        Built {
            values,
            executed,
            brought: worker.brought.lock().unwrap().clone(),
            arrived: worker.arrived.lock().unwrap().clone(),
            digested: worker.digested.load(Ordering::SeqCst),
            most_running: worker.most_running.load(Ordering::SeqCst),
            events: recorder.events(),
        }
    }
}

#[test]
fn a_second_build_runs_and_brings_nothing() {
    let machine = Machine::default();
    let mut graph = Graph::default();
    let base = graph.base();
    let first = graph.step("add", 1, vec![Input::whole(base)]);
    let second = graph.step("add", 2, vec![Input::whole(first)]);
    let built = machine.build(&graph, &[second]);
    assert_eq!(built.values.as_ref().unwrap(), &[3]);
    assert_eq!(built.executed, [first, second]);

    let again = machine.build(&graph, &[second]);
    assert_eq!(again.values.as_ref().unwrap(), &[3]);
    assert_eq!(again.executed, []);
    assert!(
        !again.events.iter().any(|event| matches!(event, Event::Started { .. })),
        "not even the base was looked at"
    );
    for id in [base, first, second] {
        assert!(matches!(again.outcome(id), Some(Outcome::Cached { .. })), "{id:?}");
    }
}

#[test]
fn a_peek_says_what_a_build_would_find_and_runs_nothing() {
    let machine = Machine::default();
    let mut graph = Graph::default();
    let base = graph.base();
    let first = graph.step("add", 1, vec![Input::whole(base)]);
    let second = graph.step("add", 2, vec![Input::whole(first)]);
    let other = graph.step("add", 3, vec![Input::whole(first)]);
    machine.build(&graph, &[second]);
    let (worker, _, solver) = machine.parts(&graph, 8);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let peeked = runtime.block_on(solver.peek(worker.definition.clone(), &[second, other])).unwrap();
    let expected = [(first, Peeked::Cached), (second, Peeked::Cached), (other, Peeked::Missing)];
    assert_eq!(peeked, BTreeMap::from(expected));
    assert_eq!(*worker.executed.lock().unwrap(), []);
    assert_eq!(*worker.brought.lock().unwrap(), []);
}

#[test]
fn a_changed_file_reruns_what_depends_on_it() {
    let machine = Machine::default();
    machine.world.context.lock().unwrap().extend([("a".to_owned(), 1), ("b".to_owned(), 2)]);
    let mut graph = Graph::default();
    let (base, context) = (graph.base(), graph.context());
    let a = graph.step("add", 0, vec![Input::whole(base), file(context, "a")]);
    let b = graph.step("add", 0, vec![Input::whole(base), file(context, "b")]);
    let both = graph.step("add", 0, vec![Input::whole(a), Input::whole(b)]);
    assert_eq!(machine.build(&graph, &[both]).values.unwrap(), [3]);

    machine.world.context.lock().unwrap().insert("b".into(), 5);
    let again = machine.build(&graph, &[both]);
    assert_eq!(again.executed, [b, both]);
    assert_eq!(again.values.unwrap(), [6]);
}

#[test]
fn each_selection_is_digested_once() {
    let machine = Machine::default();
    machine.world.context.lock().unwrap().insert("a".to_owned(), 1);
    let mut graph = Graph::default();
    let (base, context) = (graph.base(), graph.context());
    let left = graph.step("add", 1, vec![Input::whole(base), file(context, "a")]);
    let right = graph.step("add", 2, vec![Input::whole(base), file(context, "a")]);
    assert_eq!(machine.build(&graph, &[left, right]).digested, 1);
}

#[test]
fn a_step_that_gives_the_same_again_spares_its_children() {
    let machine = Machine::default();
    machine.world.context.lock().unwrap().insert("a".to_owned(), 1);
    let mut graph = Graph::default();
    let (base, context) = (graph.base(), graph.context());
    let parity = graph.step("parity", 0, vec![Input::whole(base), file(context, "a")]);
    let child = graph.step("add", 10, vec![Input::whole(parity)]);
    let grandchild = graph.step("add", 10, vec![Input::whole(child)]);
    machine.build(&graph, &[grandchild]);

    machine.world.context.lock().unwrap().insert("a".into(), 3);
    let again = machine.build(&graph, &[grandchild]);
    assert_eq!(again.executed, [parity]);
    assert_eq!(again.values.unwrap(), [21]);
    assert_eq!(machine.build(&graph, &[grandchild]).executed, [], "and is then known by its definition too");
}

#[test]
fn no_cache_runs_again_and_its_children_only_where_they_differ() {
    let machine = Machine::default();
    let mut graph = Graph::default();
    let base = graph.base();
    let step_of = |graph: &mut Graph, no_cache| {
        let first = graph.add(step("add", 1), vec![Input::whole(base)], no_cache);
        (first, graph.step("add", 2, vec![Input::whole(first)]))
    };
    let mut plain = graph.clone();
    let (_, target) = step_of(&mut plain, false);
    machine.build(&plain, &[target]);

    let (first, second) = step_of(&mut graph, true);
    assert_eq!(machine.build(&graph, &[second]).executed, [first]);
    // What a clean build gives: the outside world (the base of this arithmetic) moved behind the cache's back.
    *machine.world.base.lock().unwrap() = 100;
    let again = machine.build(&graph, &[second]);
    assert_eq!(again.executed, [first, second]);
    assert_eq!(again.values.unwrap(), [103]);
}

/// The world goes back to what it was. What `--no-cache` found last counts, though there is a newer record, of before.
#[test]
fn what_no_cache_found_again_counts() {
    let machine = Machine::default();
    let build = |no_cache, world| {
        *machine.world.base.lock().unwrap() = world;
        let mut graph = Graph::default();
        let base = graph.base();
        let first = graph.add(step("add", 1), vec![Input::whole(base)], no_cache);
        let second = graph.step("add", 2, vec![Input::whole(first)]);
        machine.build(&graph, &[second]).values.unwrap()
    };
    let worlds = [10, 20, 10];
    assert_eq!(worlds.map(|world| build(true, world)), [[13], [23], [13]]);
    assert_eq!(build(false, 30), [13]);
}

#[test]
fn what_is_not_needed_is_not_touched() {
    let machine = Machine::default();
    let mut graph = Graph::default();
    let base = graph.base();
    let failing = graph.step("fail", 0, vec![Input::whole(base)]);
    let good = graph.step("add", 1, vec![Input::whole(base)]);
    let built = machine.build(&graph, &[good]);
    assert_eq!(built.executed, [good]);
    assert_eq!(built.outcome(failing), None);
}

#[test]
fn evicted_results_are_made_again() {
    let machine = Machine::default();
    let mut graph = Graph::default();
    let base = graph.base();
    let step = graph.step("add", 1, vec![Input::whole(base)]);
    machine.build(&graph, &[step]);
    machine.world.values.lock().unwrap().clear();
    let again = machine.build(&graph, &[step]);
    assert_eq!(again.executed, [step]);
    let reason = Some(graph::MissReason::evicted());
    assert_eq!(again.outcome(step), Some(&Outcome::Done { reason }));
}

/// Waits until something is so, which takes no time on a machine at leisure. What comes of it if it never is, others see.
async fn soon(so: impl Fn() -> bool) {
    for _ in 0..20_000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn independent_steps_run_at_the_same_time_within_the_limit() {
    for (limit, together) in [(8, 6), (2, 2)] {
        let mut graph = Graph::default();
        let base = graph.base();
        let meet = format!("meet{together}");
        let steps: Vec<VertexId> = (0..6).map(|i| graph.step(&meet, i, vec![Input::whole(base)])).collect();
        let join = graph.step("add", 0, steps.iter().map(|id| Input::whole(*id)).collect());
        assert_eq!(Machine::default().build_with(&graph, &[join], limit).most_running, together);
    }
}

#[test]
fn a_failure_ends_the_build_and_cancels_the_rest() {
    let machine = Machine::default();
    let mut graph = Graph::default();
    let base = graph.base();
    let endless = graph.step("forever", 0, vec![Input::whole(base)]);
    let failing = graph.step("fail", 0, vec![Input::whole(base)]);
    let join = graph.step("add", 0, vec![Input::whole(endless), Input::whole(failing)]);
    let built = machine.build(&graph, &[join]);
    assert_eq!(built.values.as_ref().unwrap_err().vertex(), failing);
    assert_eq!(built.outcome(failing), Some(&Outcome::Failed { message: "told to fail".into() }));
    assert_eq!(built.outcome(endless), Some(&Outcome::Cancelled));
    assert_eq!(built.outcome(join), None);
    assert_eq!(machine.cache.claims(), 0, "no claim is left");
}

#[test]
fn a_panic_in_the_worker_is_an_error() {
    let mut graph = Graph::default();
    let base = graph.base();
    let step = graph.step("panic", 0, vec![Input::whole(base)]);
    let built = Machine::default().build(&graph, &[step]);
    assert!(matches!(built.values, Err(SolveError::Internal { .. })));
}

#[test]
fn a_missing_file_is_found_before_anything_runs() {
    let mut graph = Graph::default();
    let (base, context) = (graph.base(), graph.context());
    let first = graph.step("add", 1, vec![Input::whole(base)]);
    let copy = graph.step("add", 0, vec![Input::whole(first), file(context, "missing")]);
    let built = Machine::default().build(&graph, &[copy]);
    assert_eq!(built.executed, []);
    let error = built.values.as_ref().unwrap_err();
    assert_eq!((error.vertex(), error.to_string()), (copy, "\"/missing\": not found".to_owned()));
    assert!(matches!(built.outcome(copy), Some(Outcome::Failed { .. })));
}

#[test]
fn a_slow_source_holds_up_only_what_uses_it() {
    let machine = Machine::default();
    let mut graph = Graph::default();
    let (base, http) = (graph.base(), graph.http("forever"));
    let free = graph.step("add", 1, vec![Input::whole(base)]);
    let after = graph.step("add", 1, vec![Input::whole(free)]);
    let waiting = graph.step("add", 1, vec![Input::whole(base), file(http, "file")]);
    let join = graph.step("add", 0, vec![Input::whole(after), Input::whole(waiting)]);
    // On its way to the inputs of `join`, its own key must be known first; other targets need not wait for that.
    let (worker, _, solver) = machine.parts(&graph, 8);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let targets = [join, after];
        let work = solver.solve(worker.definition.clone(), &targets);
        let both_ran = async {
            soon(|| worker.executed.lock().unwrap().len() >= 2).await;
            tokio::time::sleep(Duration::from_millis(150)).await;
        };
        tokio::select! {
            _ = work => panic!("one of its inputs never comes"),
            () = both_ran => {}
        }
    });
    assert_eq!(*worker.executed.lock().unwrap(), [free, after]);
    runtime.shutdown_timeout(Duration::from_secs(60));
    assert_eq!(machine.cache.claims(), 0);
}

#[test]
fn what_is_fetched_counts_by_content() {
    let machine = Machine::default();
    let mut graph = Graph::default();
    let (base, http) = (graph.base(), graph.http("a"));
    let user = graph.step("add", 1, vec![Input::whole(base), file(http, "file")]);
    let target = graph.step("add", 1, vec![Input::whole(user)]);
    assert_eq!(machine.build(&graph, &[target]).values.unwrap(), [2]);
    let again = machine.build(&graph, &[target]);
    assert_eq!((again.executed, again.brought), (vec![], vec![http]), "it is asked whether it has changed");
    machine.world.context.lock().unwrap().insert("a".into(), 10);
    let again = machine.build(&graph, &[target]);
    assert_eq!(again.executed, [user, target]);
    assert_eq!(again.reason(user).unwrap().to_string(), "file changed");
    assert_eq!(again.values.unwrap(), [12]);
}

#[test]
fn a_source_that_fails_is_told_once() {
    let mut graph = Graph::default();
    let (base, http) = (graph.base(), graph.http("fail"));
    let user = graph.step("add", 1, vec![Input::whole(base), file(http, "file")]);
    let target = graph.step("add", 1, vec![Input::whole(user)]);
    let built = Machine::default().build(&graph, &[target]);
    assert_eq!(built.values.as_ref().unwrap_err().vertex(), http);
    assert_eq!(built.failures(), [http]);
}

#[test]
fn a_missing_file_is_found_before_anything_is_fetched() {
    let mut graph = Graph::default();
    let (context, http) = (graph.context(), graph.http("forever"));
    let user = graph.step("add", 1, vec![file(http, "file")]);
    let copy = graph.step("add", 0, vec![Input::whole(user), file(context, "missing")]);
    let built = Machine::default().build(&graph, &[copy]);
    assert_eq!((built.failures(), built.brought), (vec![copy], vec![context]));
}

#[test]
fn of_missing_files_the_first_is_told() {
    let mut graph = Graph::default();
    let context = graph.context();
    let copy = graph.step("add", 0, vec![file(context, "late"), file(context, "missing")]);
    let error = Machine::default().build(&graph, &[copy]).values.unwrap_err().to_string();
    assert!(error.contains("\"/late\": not found"), "{error}");
}

#[test]
fn a_long_chain_over_something_fetched_does_not_recurse() {
    let machine = Machine::default();
    let mut graph = Graph::default();
    let http = graph.http("a");
    let mut last = graph.step("add", 1, vec![file(http, "file")]);
    for _ in 0..10_000 {
        last = graph.step("add", 1, vec![Input::whole(last)]);
    }
    assert_eq!(machine.build(&graph, &[last]).values.unwrap(), [10_001]);
    assert_eq!(machine.build(&graph, &[last]).executed, []);
}

/// A step with a variable, and the name of a step as the frontend gives it.
fn step_with(constant: i64, name: &str, value: &str) -> Op {
    let Op::Exec(exec) = step("add", constant) else { unreachable!("a step is an Exec") };
    Op::Exec(Exec { env: [(name.to_owned(), value.to_owned())].into(), ..exec })
}

#[test]
fn each_reason_in_words() {
    let machine = Machine::default();
    machine.world.context.lock().unwrap().insert("a".to_owned(), 1);
    let build = |op: Op, text: &str, no_cache: bool| {
        let mut graph = Graph::default();
        let (base, context) = (graph.base(), graph.context());
        let add = |graph: &mut Graph, op, inputs, name: &str, no_cache| {
            graph.0.add(Vertex { op, inputs, name: name.to_owned(), lines: None, no_cache })
        };
        let copy = vec![Input::whole(base), file(context, "a")];
        let first = add(&mut graph, op, copy, &format!("[build 2/3] {text}"), no_cache);
        let second =
            add(&mut graph, step("add", 5), vec![Input::whole(first)], "[build 3/3] RUN test", false);
        let built = machine.build(&graph, &[second]);
        [first, second].map(|id| built.reason(id).map(|reason| reason.to_string()))
    };
    let reasons =
        |first: Option<&str>, second: Option<&str>| [first, second].map(|text| text.map(str::to_owned));
    let new = "never built here";
    assert_eq!(build(step_with(1, "A", "x"), "RUN make", false), reasons(Some(new), Some(new)));
    assert_eq!(build(step_with(1, "A", "x"), "RUN make", false), reasons(None, None));
    machine.world.context.lock().unwrap().insert("a".into(), 2);
    let changed = reasons(Some("a changed"), Some("a changed (RUN make)"));
    assert_eq!(build(step_with(1, "A", "x"), "RUN make", false), changed);
    // The child comes out of what the step gave, which is the same.
    assert_eq!(build(step_with(1, "A", "y"), "RUN make", false), reasons(Some("ENV A: x → y"), None));
    assert_eq!(
        build(step_with(1, "B", "y"), "RUN make", false)[0].as_deref(),
        Some("ENV A: no longer y"),
        "one of two"
    );
    assert_eq!(
        build(step_with(3, "B", "y"), "RUN make all", false)[0].as_deref(),
        Some("command: add 1 → add 3")
    );
    assert_eq!(
        build(step_with(3, "B", "y"), "RUN make all", true)[0].as_deref(),
        Some("the cache is switched off for it")
    );
    machine.cache.evict();
    let gone = "the result was removed from the cache";
    assert_eq!(build(step_with(3, "B", "y"), "RUN make all", false), reasons(Some(gone), Some(gone)));
}

#[test]
fn secret_values_are_never_remembered() {
    let machine = Machine::default();
    let reason = |value: &str| {
        let mut graph = Graph::default();
        let base = graph.base();
        let id = graph.add(step_with(1, "NPM_TOKEN", value), vec![Input::whole(base)], false);
        machine.build(&graph, &[id]).reason(id).map(|reason| reason.to_string())
    };
    assert_eq!(reason("hunter2").as_deref(), Some("never built here"));
    assert_eq!(reason("hunter3").as_deref(), Some("ENV NPM_TOKEN changed"));
    let remembered = machine.cache.remembered();
    assert!(remembered.iter().any(|parts| String::from_utf8_lossy(parts).contains("NPM_TOKEN")));
    for parts in remembered {
        assert!(!String::from_utf8_lossy(&parts).contains("hunter"));
    }
}

#[test]
fn what_ran_again_elsewhere_is_the_reason() {
    let machine = Machine::default();
    let build = |no_cache| {
        let mut graph = Graph::default();
        let base = graph.base();
        let first = graph.add(step("add", 1), vec![Input::whole(base)], no_cache);
        let second = graph.step("add", 2, vec![Input::whole(first)]);
        let third = graph.step("add", 3, vec![Input::whole(second)]);
        let built = machine.build(&graph, &[third]);
        [second, third].map(|id| built.reason(id).map(|reason| reason.to_string()))
    };
    build(false);
    // Behind the cache's back, so that the step gives another result.
    *machine.world.base.lock().unwrap() = 100;
    assert_eq!(build(true), [(); 2].map(|()| Some("step 1 changed".to_owned())));
}

#[test]
fn a_reason_names_the_step_that_changed_first() {
    let machine = Machine::default();
    let build = |value| {
        machine.world.context.lock().unwrap().insert("a".to_owned(), value);
        let mut graph = Graph::default();
        let context = graph.context();
        let mut last = graph.step("add", 0, vec![file(context, "a")]);
        for constant in 1..4 {
            last = graph.step("add", constant, vec![Input::whole(last)]);
        }
        machine.build(&graph, &[last]).reason(last)
    };
    build(1);
    let reason = build(2).unwrap();
    assert_eq!(reason.to_string(), "a changed (step 1)");
    assert!(matches!(reason, MissReason::InputChanged { input, .. } if input == "step 3"));
}

#[test]
fn dropping_the_future_leaks_nothing() {
    let machine = Machine::default();
    let mut graph = Graph::default();
    let base = graph.base();
    let endless = graph.step("forever", 0, vec![Input::whole(base)]);
    let (worker, recorder, solver) = machine.parts(&graph, 8);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let targets = [endless];
        let work = solver.solve(worker.definition.clone(), &targets);
        tokio::select! {
            _ = work => panic!("it has no end"),
            () = soon(|| worker.running.load(Ordering::SeqCst) > 0) => {}
        }
        while worker.running.load(Ordering::SeqCst) > 0 || machine.cache.claims() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let cancelled = |event: &Event| matches!(event, Event::Finished { outcome: Outcome::Cancelled, .. });
    assert!(recorder.events().iter().any(cancelled));
}

#[test]
fn two_builds_at_once_run_equal_steps_once() {
    let machine = Machine::default();
    let mut graph = Graph::default();
    let base = graph.base();
    let step = graph.step("meet1", 1, vec![Input::whole(base)]);
    let (left, _, left_solver) = machine.parts(&graph, 8);
    let (right, _, right_solver) = machine.parts(&graph, 8);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let targets = [step];
        let (a, b) = tokio::join!(
            left_solver.solve(left.definition.clone(), &targets),
            right_solver.solve(right.definition.clone(), &targets)
        );
        assert_eq!(a.unwrap()[0].tree, b.unwrap()[0].tree);
    });
    assert_eq!(left.executed.lock().unwrap().len() + right.executed.lock().unwrap().len(), 1);
}

#[test]
fn what_another_machine_has_is_brought_when_it_is_needed() {
    let first = Machine::default();
    first.world.context.lock().unwrap().insert("a".to_owned(), 1);
    let mut graph = Graph::default();
    let (base, context) = (graph.base(), graph.context());
    let below = graph.step("add", 1, vec![Input::whole(base)]);
    let middle = graph.step("add", 2, vec![Input::whole(below)]);
    let top = graph.step("add", 3, vec![Input::whole(middle), file(context, "a")]);
    first.build(&graph, &[top]);

    let second = first.another(|_| false);
    let (worker, recorder, solver) = second.parts(&graph, 8);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(solver.ensure(worker.definition.clone(), &[top])).unwrap();
    assert_eq!((worker.executed.lock().unwrap().len(), worker.arrived.lock().unwrap().len()), (0, 0));
    let cached = |event: &&Event| matches!(event, Event::Finished { outcome: Outcome::Cached { .. }, .. });
    assert_eq!(recorder.events().iter().filter(cached).count(), 4, "{:#?}", recorder.events());

    let built = second.build(&graph, &[top]);
    assert_eq!(built.values.as_ref().unwrap(), &[7]);
    assert_eq!((built.executed.len(), built.arrived), (0, vec![top]));
    // Now it is here.
    let built = second.build(&graph, &[top]);
    assert_eq!((built.executed.len(), built.arrived.len()), (0, 0));
    // Another file: the step runs, on what it stands on.
    second.world.context.lock().unwrap().insert("a".to_owned(), 5);
    let built = second.build(&graph, &[top]);
    assert_eq!(built.values.as_ref().unwrap(), &[11]);
    let changed = built.reason(top);
    assert_eq!((built.executed, built.arrived), (vec![top], vec![middle]));
    // What was never built here is told from what was there.
    let Some(MissReason::ContentChanged { paths, .. }) = changed else { panic!("{changed:?}") };
    assert_eq!(paths[0].path, "a");
}

#[test]
fn what_cannot_be_brought_is_made() {
    let first = Machine::default();
    let mut graph = Graph::default();
    let base = graph.base();
    let below = graph.step("add", 1, vec![Input::whole(base)]);
    let top = graph.step("add", 2, vec![Input::whole(below)]);
    first.build(&graph, &[top]);
    let second = first.another(|_| true);
    let built = second.build(&graph, &[top]);
    assert_eq!(built.values.unwrap(), [3]);
    assert_eq!((built.executed, built.arrived.len()), (vec![below, top], 0));
    assert_eq!(second.build(&graph, &[top]).executed, []);
}

#[test]
fn a_result_rests_on_no_more_words_than_it_has_to() {
    let first = Machine::default();
    first.world.context.lock().unwrap().insert("a".to_owned(), 3);
    let mut graph = Graph::default();
    let context = graph.context();
    let parity = graph.step("parity", 0, vec![file(context, "a")]);
    let beside = graph.step("add", 100, vec![Input::whole(parity)]);
    let middle = graph.step("add", 1, vec![Input::whole(parity)]);
    let top = graph.step("add", 2, vec![Input::whole(middle)]);
    first.build(&graph, &[parity]);

    let second = first.another(|_| false);
    let name = |named| second.world.elsewhere.as_ref().unwrap().named.store(named, Ordering::SeqCst);
    let set = |value| second.world.context.lock().unwrap().insert("a".to_owned(), value);
    name(false);
    set(1);
    assert_eq!(second.build(&graph, &[middle]).executed, [parity, middle]);
    // The same content comes from elsewhere, so that the result rests on that word too.
    name(true);
    set(3);
    assert_eq!(second.build(&graph, &[beside]).arrived, [parity]);
    assert_eq!(second.build(&graph, &[middle]).executed, []);
    // Here it is made of what is here alone, and so is what stands on it.
    set(5);
    assert_eq!(second.build(&graph, &[top]).executed, [parity, top]);
    name(false);
    assert_eq!(second.build(&graph, &[top]).executed, []);
}

#[test]
fn equal_content_is_found_on_another_machine() {
    let first = Machine::default();
    first.world.context.lock().unwrap().insert("a".to_owned(), 1);
    let mut graph = Graph::default();
    let (base, context) = (graph.base(), graph.context());
    let parity = graph.step("parity", 0, vec![Input::whole(base), file(context, "a")]);
    let top = graph.step("add", 2, vec![Input::whole(parity)]);
    first.build(&graph, &[top]);
    let second = first.another(|_| false);
    second.world.context.lock().unwrap().insert("a".to_owned(), 3);
    let built = second.build(&graph, &[top]);
    assert_eq!(built.values.unwrap(), [3]);
    assert_eq!((built.executed, built.arrived), (vec![parity], vec![top]));
}

#[test]
fn a_chain_of_ten_thousand_steps_does_not_recurse() {
    let machine = Machine::default();
    let mut graph = Graph::default();
    let mut last = graph.base();
    for _ in 0..10_000 {
        last = graph.step("add", 1, vec![Input::whole(last)]);
    }
    assert_eq!(machine.build(&graph, &[last]).values.unwrap(), [10_000]);
    assert_eq!(machine.build(&graph, &[last]).executed, []);
}

/// A random graph: for each step its kind, its constant, which earlier vertices and which of four files it uses, and whether it is --no-cache.
#[derive(Debug, Clone)]
struct Shape(Vec<(bool, i64, Vec<prop::sample::Index>, Option<usize>)>);

fn shape() -> impl Strategy<Value = Shape> {
    let step = (
        any::<bool>(),
        0..3i64,
        prop::collection::vec(any::<prop::sample::Index>(), 1..3),
        prop::option::of(0..4usize),
    );
    prop::collection::vec(step, 1..12).prop_map(Shape)
}

impl Shape {
    fn graph(&self, no_cache: &BTreeSet<usize>) -> (Graph, VertexId) {
        let mut graph = Graph::default();
        let mut made = vec![graph.base()];
        let context = graph.context();
        for (index, (parity, constant, inputs, chosen)) in self.0.iter().enumerate() {
            let mut inputs: Vec<Input> = inputs.iter().map(|input| Input::whole(*input.get(&made))).collect();
            // Two of the four are given, the others fetched.
            inputs.extend(chosen.map(|chosen| {
                let source = if chosen < 2 { context } else { graph.http(&chosen.to_string()) };
                file(source, &chosen.to_string())
            }));
            let op = step(if *parity { "parity" } else { "add" }, *constant);
            // Equal steps are one vertex, unless one of them is --no-cache: then both have the same in them.
            let name = format!("place {index}");
            made.push(graph.0.add(Vertex {
                op,
                inputs,
                name,
                lines: None,
                no_cache: no_cache.contains(&index),
            }));
        }
        (graph, made[made.len() - 1])
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_history_gives_what_a_clean_build_gives(
        shape in shape(),
        edits in prop::collection::vec((0..4usize, 0..4i64, prop::collection::btree_set(0..12usize, 0..3)), 1..4),
    ) {
        let machine = Machine::default();
        for name in 0..4 {
            machine.world.context.lock().unwrap().insert(name.to_string(), 0);
        }
        let (mut seen, mut edited) = (BTreeSet::new(), BTreeSet::new());
        for (name, value, no_cache) in edits {
            edited.insert(name.to_string());
            machine.world.context.lock().unwrap().insert(name.to_string(), value);
            let (graph, target) = shape.graph(&no_cache);
            let built = machine.build(&graph, &[target]);

            let clean = Machine::default();
            *clean.world.context.lock().unwrap() = machine.world.context.lock().unwrap().clone();
            let fresh = clean.build(&graph, &[target]);
            let name = |id: &VertexId| &graph.0.vertex(*id).name;
            for id in &built.executed {
                match built.reason(*id) {
                    Some(MissReason::FirstBuild) => prop_assert!(!seen.contains(name(id)), "it was built before"),
                    // A build that found everything by content has told nothing of its files.
                    Some(MissReason::ContentChanged { paths, more }) => {
                        prop_assert_eq!(more, 0);
                        prop_assert!(paths.iter().all(|path| edited.contains(&path.path)));
                    }
                    _ => {}
                }
            }
            seen.extend(built.executed.iter().map(|id| name(id).clone()));
            prop_assert_eq!(built.values.unwrap(), fresh.values.unwrap());
            let ran: BTreeSet<_> = built.executed.iter().collect();
            prop_assert_eq!(ran.len(), built.executed.len(), "each vertex runs at most once");
            prop_assert_eq!(machine.cache.claims(), 0);

            let (plain, target) = shape.graph(&BTreeSet::new());
            prop_assert_eq!(machine.build(&plain, &[target]).executed, vec![], "then nothing runs");

            // Another machine makes the same of what this one has, whatever of it is good.
            let other = machine.another(|_| false);
            let built = other.build(&plain, &[target]);
            prop_assert_eq!(built.executed, vec![]);
            let value = built.values.unwrap();
            for broken in [|id: RecordId| id.0 % 2 == 0, |id: RecordId| id.0 % 3 != 0, |_: RecordId| true] {
                let other = machine.another(broken);
                let built = other.build(&plain, &[target]);
                prop_assert_eq!(&built.values.unwrap(), &value);
                let ran: BTreeSet<_> = built.executed.iter().collect();
                prop_assert_eq!(ran.len(), built.executed.len(), "each vertex runs at most once");
                prop_assert_eq!(other.cache.claims(), 0);
                prop_assert_eq!(other.build(&plain, &[target]).executed, vec![], "then nothing runs");
            }
        }
    }

    /// What came from a cache, and what was made of it, is used by those builds alone that name it.
    #[test]
    fn a_lie_reaches_no_build_that_does_not_name_the_liar(
        shape in shape(),
        builds in prop::collection::vec((any::<bool>(), 0..4usize, 0..3i64, prop::collection::btree_set(0..12usize, 0..2)), 1..6),
    ) {
        let liar = Machine::default();
        for name in 0..4 {
            liar.world.context.lock().unwrap().insert(name.to_string(), 0);
        }
        let (plain, last) = shape.graph(&BTreeSet::new());
        liar.build(&plain, &[last]).values.unwrap();
        let machine = liar.other(|_| false, true);
        let elsewhere = machine.world.elsewhere.as_ref().unwrap();
        for (named, name, value, no_cache) in builds {
            machine.world.context.lock().unwrap().insert(name.to_string(), value);
            let (graph, target) = shape.graph(&no_cache);
            elsewhere.named.store(named, Ordering::SeqCst);
            let built = machine.build(&graph, &[target]).values.unwrap();
            let again = machine.build(&plain, &[last]);
            if !named {
                let clean = Machine::default();
                *clean.world.context.lock().unwrap() = machine.world.context.lock().unwrap().clone();
                let want = clean.build(&plain, &[last]).values.unwrap();
                prop_assert_eq!(&built, &want);
                prop_assert_eq!(again.values.unwrap(), want);
            }
            prop_assert_eq!(again.executed, vec![], "then nothing runs");
        }
    }
}
