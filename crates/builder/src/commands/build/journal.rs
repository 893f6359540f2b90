//! Keeps a record of the build while it goes on: what happened to each step, how long it took, what it printed.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use cache::{BuildId, CacheBackend as _, Store};
use frontend::Plan;
use graph::{Definition, Event, Op, Outcome, ProgressSink, SecretValues, Source, VertexId};
use hash::{Digest, StableHasher};
use insight::{BuildRecord, BuildResult, StepInput, StepOutcome, StepRecord, Subjects};
use parser::InstructionKind;
use solver::{Notes, StepNote};

use super::again;
use super::done::Made;
use super::request::Request;
use crate::cli::VERSION;
use crate::failure::{Failure, INTERRUPTED};
use crate::progress::Progress;

/// What is kept of the beginning of a step's output, in bytes.
const LOG_HEAD: usize = 1 << 20;
/// What is kept of its end when it is longer: the reason of a failure stands there.
const LOG_TAIL: usize = 256 << 10;

/// Passes events on to the progress display, and remembers what a record of the build needs.
pub(super) struct Journal {
    progress: Arc<Progress>,
    began: SystemTime,
    id: BuildId,
    notes: Arc<Notes>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    definition: Definition,
    needed: Vec<VertexId>,
    /// What is not written down.
    hidden: SecretValues,
    steps: BTreeMap<VertexId, Seen>,
    /// By name and platform.
    images: BTreeMap<String, String>,
    fetched: BTreeMap<String, String>,
}

/// What was seen of a vertex.
#[derive(Default)]
struct Seen {
    started: Option<SystemTime>,
    finished: Option<(SystemTime, Outcome)>,
    /// Processor time of its processes, each try's.
    cpu: Option<Duration>,
    log: Log,
}

/// Output, its middle left out when it is long.
#[derive(Default)]
struct Log {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    omitted: u64,
}

impl Journal {
    pub(super) fn new(progress: Arc<Progress>) -> Journal {
        let began = SystemTime::now();
        let id = BuildId::new(began);
        Journal { progress, began, id, notes: Arc::default(), state: Mutex::default() }
    }

    /// What the build can be asked for by later.
    pub(super) fn id(&self) -> &str {
        self.id.name()
    }

    /// When the build began.
    pub(super) fn began(&self) -> SystemTime {
        self.began
    }

    /// Where the solver tells what it learned.
    pub(super) fn notes(&self) -> Arc<Notes> {
        self.notes.clone()
    }

    /// Says what is to be built.
    pub(super) fn define(&self, plan: &Plan) {
        self.progress.define(&plan.definition);
        let mut state = self.state();
        state.needed = needed(plan);
        state.hidden = SecretValues::of(&plan.definition);
        state.definition = plan.definition.clone();
    }

    /// Says which images it stands on, by name and platform.
    pub(super) fn stands_on(&self, images: BTreeMap<String, String>) {
        self.state().images = images;
    }

    /// Says what repositories and files elsewhere were.
    pub(super) fn fetched(&self, found: BTreeMap<String, String>) {
        self.state().fetched = found;
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the record, and gives it back. That a build cannot be asked about later is no reason to fail it.
    pub(super) fn keep(
        &self,
        store: &Store,
        request: &Request,
        context: &str,
        result: Result<&Made, &Failure>,
    ) -> BuildRecord {
        let record = self.record(store, request, context, result);
        let kept = store.put_build(&self.id, &record.to_json(), &self.log());
        if let Err(error) = kept {
            tracing::warn!(%error, "cannot keep a record of the build");
        }
        record
    }

    /// The same without values that nobody should read: addresses that could not be fetched have them.
    pub(super) fn conceal(&self, failure: Failure) -> Failure {
        let state = self.state();
        failure.reworded(|text| state.hidden.conceal(text).into_owned())
    }

    /// Which steps of the record the numbers of a trace mean.
    pub(super) fn subjects(&self) -> Subjects {
        let state = self.state();
        let mut subjects = Subjects::default();
        subjects.steps.extend(state.needed.iter().enumerate().map(|(place, id)| (id.0, place)));
        for note in self.notes.steps() {
            let is_merge = matches!(state.definition.vertex(note.vertex).op, Op::Merge);
            let layer = note.record.as_ref().and_then(|record| record.layers.last()).filter(|_| !is_merge);
            if let (Some(layer), Some(place)) = (layer, subjects.steps.get(&note.vertex.0)) {
                subjects.layers.insert(layer.0, *place);
            }
        }
        subjects
    }

    fn record(
        &self,
        store: &Store,
        request: &Request,
        context: &str,
        result: Result<&Made, &Failure>,
    ) -> BuildRecord {
        let state = self.state();
        let mut notes: BTreeMap<VertexId, StepNote> =
            self.notes.take().into_iter().map(|note| (note.vertex, note)).collect();
        let place: BTreeMap<VertexId, usize> =
            state.needed.iter().enumerate().map(|(place, id)| (*id, place)).collect();
        let steps = state.needed.iter().map(|id| self.step(store, &state, &place, *id, notes.remove(id)));
        BuildRecord {
            version: insight::RECORD_VERSION,
            id: self.id.name().to_owned(),
            builder: VERSION.to_owned(),
            store: identity(store),
            scope: request.scope(),
            dockerfile: request.dockerfile.path.clone(),
            context: context.to_owned(),
            target: request.options.target.clone(),
            options: options(request),
            names: request.delivery.tags.iter().map(ToString::to_string).collect(),
            started: millis(self.began, SystemTime::UNIX_EPOCH),
            took: millis(SystemTime::now(), self.began),
            result: match &result {
                Ok(_) => BuildResult::Done,
                Err(failure) if failure.code() == INTERRUPTED => BuildResult::Cancelled,
                Err(failure) => {
                    BuildResult::Failed { message: first_line(&state.hidden.conceal(failure.message())) }
                }
            },
            image: result.ok().and_then(|made| made.ids.as_ref()).map(|ids| ids.here.to_string()),
            given: result.map(|made| made.given.clone()).unwrap_or_default(),
            invocation: again::invocation(std::env::args_os(), &state.hidden),
            images: concealed(&state.images, &state.hidden),
            dockerfile_digest: Some(Digest::of(request.dockerfile.text.as_bytes()).to_string()),
            fetched: concealed(&state.fetched, &state.hidden),
            steps: steps.collect(),
            listings: BTreeMap::new(),
        }
    }

    fn step(
        &self,
        store: &Store,
        state: &State,
        place: &BTreeMap<VertexId, usize>,
        id: VertexId,
        note: Option<StepNote>,
    ) -> StepRecord {
        let vertex = state.definition.vertex(id);
        let seen = state.steps.get(&id);
        let record = note.as_ref().and_then(|note| note.record.as_ref());
        let layer = match vertex.op {
            // It has no layer of its own.
            Op::Merge => None,
            _ => record.and_then(|record| record.layers.last()),
        };
        let snapshot = layer.and_then(|layer| store.snapshot(*layer).ok().flatten());
        let inputs = vertex.inputs.iter().filter_map(|input| {
            let whole = input.selection == files::Selection::Whole;
            Some(StepInput { step: *place.get(&input.vertex)?, whole })
        });
        let ended = seen.and_then(|seen| seen.finished.as_ref());
        let started = seen.and_then(|seen| seen.started);
        StepRecord {
            name: vertex.name.clone(),
            lines: vertex.lines,
            source: matches!(vertex.op, Op::Source(_)),
            inputs: inputs.collect(),
            key: note.as_ref().map(|note| note.key.to_string()),
            outcome: ended.map(|(_, outcome)| outcome_of(outcome, note.as_ref(), &state.hidden)),
            began: started.map(|started| millis(started, self.began)),
            took: started.zip(ended).map(|(started, (ended, _))| millis(*ended, started)),
            cpu: seen.and_then(|seen| seen.cpu).map(whole_millis),
            cost: record.and_then(|record| record.run.took()).map(whole_millis),
            bytes: snapshot.map(|snapshot| snapshot.changes().size),
            parts: note.map(|note| note.parts),
        }
    }

    /// What each step printed, as JSON: a list of the step's place in the record and the text.
    fn log(&self) -> Vec<u8> {
        let state = self.state();
        let texts = state.needed.iter().enumerate().filter_map(|(place, id)| {
            let log = &state.steps.get(id)?.log;
            (!log.head.is_empty()).then(|| (place, state.hidden.conceal(&log.text()).into_owned()))
        });
        serde_json::to_vec(&texts.collect::<Vec<_>>()).unwrap_or_default()
    }
}

/// What names mean, the names without values that nobody should read.
fn concealed(meant: &BTreeMap<String, String>, hidden: &SecretValues) -> BTreeMap<String, String> {
    meant.iter().map(|(name, meaning)| (hidden.conceal(name).into_owned(), meaning.clone())).collect()
}

impl ProgressSink for Journal {
    fn event(&self, mut event: Event) {
        if let Event::Finished { outcome: Outcome::Failed { message }, .. } = &mut event
            && let Cow::Owned(concealed) = self.state().hidden.conceal(message)
        {
            *message = concealed;
        }
        match &event {
            Event::Started { vertex, at } => {
                self.state().steps.entry(*vertex).or_default().started = Some(*at);
            }
            Event::Finished { vertex, at, outcome } => {
                self.state().steps.entry(*vertex).or_default().finished = Some((*at, outcome.clone()));
            }
            Event::Log { vertex, data, .. } => {
                self.state().steps.entry(*vertex).or_default().log.push(data);
            }
            Event::Computed { vertex, cpu } => {
                *self.state().steps.entry(*vertex).or_default().cpu.get_or_insert_default() += *cpu;
            }
            Event::Progress { .. } | Event::Warning { .. } => {}
        }
        self.progress.event(event);
    }
}

impl Log {
    fn push(&mut self, data: &[u8]) {
        let room = LOG_HEAD.saturating_sub(self.head.len()).min(data.len());
        let (now, later) = data.split_at(room);
        self.head.extend_from_slice(now);
        self.tail.extend(later);
        let excess = self.tail.len().saturating_sub(LOG_TAIL);
        self.tail.drain(..excess);
        self.omitted += excess as u64;
    }

    fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.head).into_owned();
        if self.omitted > 0 {
            text += &format!("\n[{} bytes were left out]\n", self.omitted);
        }
        let (a, b) = self.tail.as_slices();
        text + &String::from_utf8_lossy(&[a, b].concat())
    }
}

/// The targets and what they need, in topological order, but the empty tree.
pub(crate) fn needed(plan: &Plan) -> Vec<VertexId> {
    needed_for(&plan.definition, plan.targets.iter().map(|target| target.vertex))
}

/// Vertices and what they need, in topological order, but the empty tree.
pub(super) fn needed_for(
    definition: &Definition,
    wanted: impl IntoIterator<Item = VertexId>,
) -> Vec<VertexId> {
    let mut needed = BTreeSet::new();
    let mut waiting: Vec<VertexId> = wanted.into_iter().collect();
    while let Some(id) = waiting.pop() {
        let vertex = definition.vertex(id);
        if !matches!(vertex.op, Op::Source(Source::Scratch)) && needed.insert(id) {
            waiting.extend(vertex.inputs.iter().map(|input| input.vertex));
        }
    }
    needed.into_iter().collect()
}

/// The variables that ARG declares and ENV does not set.
pub(super) fn arg_names(parsed: &parser::Parsed) -> BTreeSet<String> {
    let (mut args, mut env) = (BTreeSet::new(), BTreeSet::new());
    for instruction in parsed.dockerfile.stages.iter().flat_map(|stage| &stage.instructions) {
        match &instruction.kind {
            InstructionKind::Arg(arg) => args.extend(arg.names.iter().map(|name| name.key.text.clone())),
            InstructionKind::Env(pairs) => {
                env.extend(pairs.pairs.iter().map(|pair| pair.key.text.clone()));
            }
            _ => {}
        }
    }
    &args - &env
}

fn outcome_of(outcome: &Outcome, note: Option<&StepNote>, hidden: &SecretValues) -> StepOutcome {
    match outcome {
        Outcome::Cached { .. } => StepOutcome::Cached,
        Outcome::Done { reason } => StepOutcome::Ran { why: reason.clone() },
        Outcome::Failed { message } => StepOutcome::Failed {
            message: first_line(&hidden.conceal(message)),
            why: note.and_then(|note| note.why.clone()),
        },
        Outcome::Cancelled => StepOutcome::Cancelled,
    }
}

/// What of the options tells one build from another.
fn options(request: &Request) -> BTreeMap<String, String> {
    let mut told = BTreeMap::new();
    let options = &request.options;
    for (name, value) in &options.build_args {
        let shown = if graph::is_secret_like(name) { "(hidden)" } else { value };
        told.insert(format!("build-arg {name}"), shown.to_owned());
    }
    for name in options.named_contexts.keys() {
        let readable = |typed: &&String| typed.starts_with("docker-image://") || !again::has_login(typed);
        let typed = request.typed_contexts.get(name).filter(readable);
        told.insert(format!("build-context {name}"), typed.map_or("given", String::as_str).to_owned());
    }
    let platforms: Vec<String> = options.platforms.iter().map(ToString::to_string).collect();
    if !platforms.is_empty() {
        told.insert("platform".to_owned(), platforms.join(","));
    }
    match &options.no_cache {
        frontend::NoCache::No => {}
        frontend::NoCache::All => drop(told.insert("no-cache".to_owned(), "true".to_owned())),
        frontend::NoCache::Stages(stages) => {
            told.insert("no-cache-filter".to_owned(), stages.join(","));
        }
    }
    told
}

/// Names a state directory by its random bytes, which it does not give away.
pub(super) fn identity(store: &Store) -> String {
    let secret = store.records().secret().unwrap_or_default();
    let hash = StableHasher::new("store-identity-v1").with(&secret).finish();
    hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn millis(time: SystemTime, since: SystemTime) -> u64 {
    whole_millis(time.duration_since(since).unwrap_or_default())
}

fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_a_long_log_is_left_out() {
        let mut log = Log::default();
        log.push(&vec![b'a'; LOG_HEAD - 1]);
        log.push(b"ab");
        log.push(&vec![b'c'; LOG_TAIL + 6]);
        log.push(b"end");
        let text = log.text();
        assert!(text.starts_with("aaa") && text.ends_with("cccend"));
        assert!(text.contains("\n[10 bytes were left out]\n"), "{}", log.omitted);
    }

    #[test]
    fn arguments_are_told_from_variables() {
        let parsed = parser::parse("ARG X=1\nFROM a\nARG A B=2\nENV B=$B C=3\nRUN x\n");
        assert_eq!(arg_names(&parsed), BTreeSet::from(["A".to_owned()]));
    }
}
