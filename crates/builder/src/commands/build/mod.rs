mod again;
mod annotation;
mod args;
mod by_digest;
mod cache_args;
mod call;
mod carried;
mod contexts;
mod damage;
mod debug;
mod deliver;
mod done;
mod elsewhere;
mod examine;
mod explain;
mod export_cache;
mod foreground;
mod images;
mod import_cache;
mod journal;
mod lent;
mod limits;
mod metadata;
mod network;
mod output;
mod packing;
mod provenance;
mod replay;
mod request;
mod stats;
mod timings;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use cache::{DiskStatCache, KeptId, Session, Store};
use executor::Sandbox;
use frontend::{EpochSource, EpochTime, Lowered, MissingImage, Plan};
use futures::future::try_join_all;
use graph::{ProgressSink, SecretValues};
use hash::SystemClock;
use image::ResolvedImage;
use solver::{Peeked, Solver};
use trace::{Subject, Trace, Work};
use worker::{Cancel, Inside, LocalWorker, PackingBehind, Tree};

pub(crate) use again::{Again, again};
pub(crate) use args::{Args, extra_host, hide};
use cache_args::CacheTarget;
use call::{Answer, Call, Question};
pub(crate) use contexts::STANDARD_INPUT;
use contexts::{Context, NamedContext};
use debug::Shell;
use deliver::{Delivered, Ids};
use done::{Done, Made, Notices};
use elsewhere::{Bringing, Brought, Wanted};
pub(crate) use examine::{Examined, examine};
use foreground::Foreground;
use images::{Finder, Found};
use journal::Journal;
pub(crate) use journal::needed;
use lent::{Agents, Secrets};
pub(crate) use limits::{duration, size, size_or_none, ulimit};
use metadata::About;
use provenance::Known;
use replay::Heard;
use request::{Delivery, Request};

use crate::disabled::Disabled;
use crate::failure::{Failure, INTERRUPTED};
use crate::progress::{Mode, Progress, Settings};
use crate::{external, machine, remotes, space, terminal};

/// Steps that run at the same time: many wait more than they work.
const PARALLEL_STEPS: usize = 16;

/// How long blocking work may take to notice that it was cancelled.
const CANCEL_TIME: Duration = Duration::from_secs(5);

/// How long a build waits for the end of a collection: unfinished ones leave their work to the next.
const COLLECTION_TIME: Duration = Duration::from_secs(5);

/// The same for what reads standard input, which can only be left alone.
const READING_TIME: Duration = Duration::from_millis(500);

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    damage::until_sound(args, build).map_err(Failure::of_build)
}

/// Draws what a build would do.
pub(crate) fn graph(args: Args, format: insight::Format) -> Result<u8, Failure> {
    let progress = args::ProgressMode::Quiet;
    run(Args { call: Some(Call { question: Question::Graph(format), json: false }), progress, ..args })
}

/// Opens a shell behind the instruction at a line, or runs a command there.
pub(crate) fn debug_at(args: Args, line: u32, command: Option<String>) -> Result<u8, Failure> {
    run(Args { inside: Some(args::At { line, command }), ..args })
}

/// There is no failed step to look into.
pub(crate) const NOTHING_KEPT: &str =
    "no step that failed left anything: none did lately, or what failed could not be started";

/// Opens a shell in what a failed step left, the last one where none is named.
pub(crate) fn debug_kept(args: Args, id: Option<KeptId>, command: Option<String>) -> Result<u8, Failure> {
    let secrets = Arc::new(Secrets::resolve(&args.secret)?);
    let options = args.limits.resolve()?;
    let runtime = external::runtime(args.runtime.as_deref())?;
    let mut foreground = Foreground::default();
    let store = foreground.machine()?.existing_store()?;
    let agents = Arc::new(Agents::resolve(&args.ssh)?);
    let Some(id) = id.or(store.kept_steps()?.last().map(|step| step.id)) else {
        return Err(Failure::build(NOTHING_KEPT)
            .hint("`builder debug --at LINE PATH` opens a shell behind an instruction"));
    };
    let shell = Shell { store, sandbox: Sandbox::new(), runtime, secrets, agents, options, command };
    let code = shell.in_kept(foreground.threads()?, id);
    foreground.end();
    code
}

/// Tells which store it used, once that is open.
fn build(args: Args, foreground: &mut Foreground, attempt: &mut damage::Attempt) -> Result<u8, Failure> {
    if let Some(Call { question: Question::Describe, json }) = args.call() {
        return call::describe(json).print();
    }
    metadata::forget(args.iidfile.as_deref());
    let trace = args.trace();
    let solving = |what| trace.begin(Subject::Build, Work::Solve, what);
    let reading = solving("read the Dockerfile");
    let wanted = Wanted::of(&args)?;
    // Mistakes in the Dockerfile are told before anything is opened or created.
    let early = if wanted.is_empty() { Some(read(&args, &Brought::default())?) } else { None };
    // Nothing but the file is needed for these answers.
    if let Some((request, parsed)) = &early
        && let Some(answer) = from_text(&args, request, parsed)
    {
        return answer.print();
    }
    reading.end();
    let opening = solving("open the store");
    let secrets = Arc::new(Secrets::resolve(&args.secret)?);
    let (machine, store) = match &args.again {
        Some(again) => (again.machine.clone(), again.store.clone()),
        None => {
            let machine = foreground.machine()?;
            let store = machine.store()?;
            (machine, store)
        }
    };
    attempt.store = Some(store.clone());
    // From here on until the end: a signal that comes between two things to do ends the next.
    let threads = foreground.threads()?;
    let session = threads.session(&store)?;
    let limits = space::limits(store.root())?;
    store.keep_within(limits, space::whys(&limits));
    if let Some(warning) = machine.warning().filter(|_| !done::is_silent(args.progress())) {
        terminal::tell(&format!("WARNING: {warning}\n"));
    }
    let progress = Arc::new(Progress::on_stderr(
        args.progress().into(),
        &Settings::from_env(|name| std::env::var_os(name)),
    ));
    let agents = Arc::new(Agents::resolve(&args.ssh)?);
    let remote = remote::Client::new(remote::Config::from_env(|name| std::env::var_os(name)));
    let remote = match &args.again {
        Some(again) => remote.finding_again(again.fetched.clone()),
        None => remote,
    };
    let cancel = Cancel::new();
    opening.end();
    let brought = if wanted.is_empty() {
        Brought::default()
    } else {
        let bringing = Bringing {
            store: &store,
            client: &remote,
            secrets: &secrets,
            agents: &agents,
            progress: &progress,
            cancel: &cancel,
        };
        let _timed = trace.begin(Subject::Build, Work::Fetch, "bring the context");
        let brought = threads.runtime.block_on(async {
            tokio::select! {
                brought = bringing.bring(&wanted) => brought,
                _ = threads.signals.next() => Err(Failure::interrupted()),
            }
        });
        match brought {
            Ok(brought) => brought,
            Err(failure) => {
                cancel.cancel();
                progress.give_up();
                progress.finish();
                // Whoever reads standard input may never hear of it.
                threads.leave_alone();
                return Err(failure);
            }
        }
    };
    let (request, parsed) = match early {
        Some(read) => read,
        None => read(&args, &brought).inspect_err(|_| drop(progress.finish()))?,
    };
    if let Some(answer) = from_text(&args, &request, &parsed) {
        progress.finish();
        return answer.print();
    }
    let opening = solving("open the context");
    let context = contexts::main_context(&args, &brought)?;
    opening.end();
    let mut request = request;
    request.options.ignore = context.ignore.clone();
    request.options.epoch = epoch(&request, &parsed, &brought)?;
    request.options.only_checks = matches!(args.call(), Some(Call { question: Question::Check, .. }));
    progress.task(&format!("[internal] load build definition from {}", request.dockerfile.name())).done();
    if let Some(file) = &context.ignore_file {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        progress.task(&format!("[internal] load {name}")).done();
    }
    let notices = Mutex::new(Notices::default());
    let sandbox = network::sandbox(&request.options);
    let shell = Shell {
        store: store.clone(),
        sandbox: sandbox.clone(),
        runtime: request.runtime.clone(),
        secrets: secrets.clone(),
        agents: agents.clone(),
        options: request.run.clone(),
        command: args.inside.as_ref().and_then(|at| at.command.clone()),
    };
    let journal = Arc::new(Journal::new(progress.clone()));
    let (records, place) = (store.clone(), context.path.display().to_string());
    let caches = import_cache::caches(&request.caches.from, &progress)?;
    let fetching = remote.clone();
    let build = Build {
        request: &request,
        parsed: &parsed,
        session,
        store,
        progress: progress.clone(),
        journal: journal.clone(),
        cancel: cancel.clone(),
        context,
        brought: &brought,
        remote,
        sandbox,
        secrets,
        agents,
        caches,
        notices: &notices,
        trace: trace.clone(),
    };
    if let Some(call) = args.call() {
        let answer = threads.runtime.block_on(async {
            tokio::select! {
                answer = build.answer(call) => answer,
                _ = threads.signals.next() => Err(Failure::interrupted()),
            }
        });
        progress.finish();
        return answer?.print();
    }
    if let Some(at) = &args.inside {
        let found = threads.runtime.block_on(async {
            tokio::select! {
                found = build.inside(at.line) => found,
                _ = threads.signals.next() => Err(Failure::interrupted()),
            }
        });
        if found.is_err() {
            cancel.cancel();
            progress.give_up();
        }
        let report = progress.finish();
        let (name, inside) = found.map_err(|failure| {
            failure.with_details_first(report.failed.iter().map(ToString::to_string).collect())
        })?;
        return shell.open(threads, &inside, &name);
    }
    let result = threads.runtime.block_on(async {
        tokio::select! {
            result = build.run() => result,
            _ = threads.signals.next() => Err(Failure::interrupted()),
        }
    });
    if result.is_err() {
        cancel.cancel();
        progress.give_up();
    }
    let report = progress.finish();
    if !done::is_silent(request.progress) {
        machine::tell_refused_overlay(&records);
    }
    let (recorded, subjects) = (timings::Recorded::of(&trace), journal.subjects());
    journal.fetched(fetching.found());
    let record = journal.keep(&records, &request, &place, result.as_ref());
    let context = (Path::new(&place), request.options.ignore.as_deref());
    let timed = recorded.write(&args, &record, &subjects, context);
    let mut notices = notices.into_inner().unwrap_or_else(PoisonError::into_inner);
    attempt.damaged = std::mem::take(&mut notices.thrown_away);
    let failure = match result {
        Ok(made) => {
            records.wait_for_collection(COLLECTION_TIME);
            if request.again.is_some() {
                return Ok(0);
            }
            Done { made, notices }.print(&request)?;
            return timed.map(|()| 0);
        }
        Err(failure) => journal.conceal(failure),
    };
    if let Err(untold) = timed {
        untold.print();
    }
    attempt.step_failed = notices.kept.is_some();
    if !done::is_silent(request.progress) && failure.code() != INTERRUPTED {
        terminal::tell(&notices.text(&request.dockerfile));
    }
    let blocks = report.failed.iter().map(ToString::to_string).collect();
    let said = |words: &str| report.failed.iter().flat_map(|step| &step.log).any(|line| line.contains(words));
    // What chown(2) answers where the owner has no number.
    let failure = match machine.warning().filter(|_| said("Invalid argument")) {
        Some(warning) => failure.hint(warning),
        None => failure,
    };
    let failure = failure.with_details_first(blocks);
    // Of what is built once more nothing stays.
    match notices.kept.filter(|_| request.again.is_none()) {
        Some(id) if args.on_error == args::OnError::Shell => {
            let failure = failure.of_build();
            failure.print();
            let code = failure.code();
            // How the shell ended says nothing of the build.
            shell.in_kept(threads, id).map(|_| code)
        }
        Some(id) => {
            let by = external::flag(args.runtime.as_deref());
            Err(failure.hint(format!("look into it: builder debug {by}{}", id.0)))
        }
        None => Err(failure),
    }
}

/// What is asked for, with the Dockerfile read and parsed.
fn read(args: &Args, brought: &Brought) -> Result<(Request, parser::Parsed), Failure> {
    let request = request::resolve(args, brought)?;
    let parsed = parser::parse(&request.dockerfile.text);
    let tells_mistakes = args.call().is_some_and(|call| call.question == Question::Check);
    if parsed.errors().next().is_some() && !tells_mistakes {
        return Err(explain::mistakes(&parsed.diagnostics, &request.dockerfile));
    }
    Ok((request, parsed))
}

/// The time that `SOURCE_DATE_EPOCH` names, where it names something.
fn epoch(request: &Request, parsed: &parser::Parsed, brought: &Brought) -> Result<EpochTime, Failure> {
    match frontend::epoch_source(parsed, &request.options) {
        Ok(None) => Ok(EpochTime::Unresolved),
        Ok(Some(EpochSource::Context(name))) => {
            let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).ok();
            let seconds = brought.time(&name).and_then(since).map(|since| since.as_secs());
            Ok(seconds
                .and_then(|seconds| i64::try_from(seconds).ok())
                .map_or(EpochTime::None, EpochTime::Seconds))
        }
        Ok(Some(EpochSource::Source(_))) => Err(Failure::build(
            "SOURCE_DATE_EPOCH names a stage of fetched files, which is not supported yet",
        )
        .hint("give the seconds since 1970, as `date +%s` prints them, or `context`")),
        Err(finding) => Err(explain::mistakes(&[*finding], &request.dockerfile)),
    }
}

/// The answer to a question that the text alone answers: which targets there are, and what is wrong with a file that cannot be
/// understood.
fn from_text(args: &Args, request: &Request, parsed: &parser::Parsed) -> Option<Answer> {
    let Call { question, json } = args.call()?;
    match question {
        Question::Targets => Some(call::targets(parsed, &request.dockerfile, json)),
        Question::Check if parsed.errors().next().is_some() => {
            Some(call::check(&parsed.diagnostics, &request.dockerfile, json))
        }
        _ => None,
    }
}

impl From<args::ProgressMode> for Mode {
    fn from(mode: args::ProgressMode) -> Mode {
        match mode {
            args::ProgressMode::Auto => Mode::Auto,
            args::ProgressMode::Tty => Mode::Tty,
            args::ProgressMode::Plain => Mode::Plain,
            args::ProgressMode::Rawjson => Mode::RawJson,
            args::ProgressMode::Quiet | args::ProgressMode::None => Mode::Quiet,
        }
    }
}

/// A plan with the images that it stands on.
struct Planned {
    plan: Plan,
    images: Vec<Arc<ResolvedImage>>,
    finder: Finder,
}

/// One build.
struct Build<'a> {
    request: &'a Request,
    parsed: &'a parser::Parsed,
    store: Store,
    /// Keeps what the build uses from being pruned.
    session: Session,
    progress: Arc<Progress>,
    journal: Arc<Journal>,
    cancel: Cancel,
    context: Context,
    brought: &'a Brought,
    remote: remote::Client,
    sandbox: Sandbox,
    secrets: Arc<Secrets>,
    agents: Arc<Agents>,
    /// Where results may be that were made elsewhere.
    caches: Option<Arc<warm::Caches>>,
    /// For what is noticed, also by a build that fails.
    notices: &'a Mutex<Notices>,
    trace: Trace,
}

impl Build<'_> {
    /// Builds and delivers.
    async fn run(self) -> Result<Made, Failure> {
        let Planned { plan, images, finder } = self.plan().await?;
        *self.notices.lock().unwrap_or_else(PoisonError::into_inner) = Notices {
            warnings: plan.warnings.clone(),
            unused_build_args: done::unused_build_args(&plan.unused_build_args, &self.parsed.dockerfile),
            ..Notices::default()
        };
        if plan.multi_platform == Some(false) && plan.targets.len() > 1 {
            return Err(Failure::usage(
                "BUILDKIT_MULTI_PLATFORM=0 and several platforms contradict each other",
            ));
        }
        let definition = Arc::new(plan.definition.clone());
        self.journal.define(&plan);
        self.journal.stands_on(finder.used());
        let recalling = self.trace.begin(Subject::Build, Work::Solve, "recall what files hold");
        let stats = self.stat_caches()?;
        recalling.end();
        let heard = Arc::new(Heard::new(self.journal.clone()));
        let (worker, solver) = self.solver(definition.clone(), images, &stats, heard.clone())?;
        let targets: Vec<_> = plan.targets.iter().map(|target| target.vertex).collect();
        let forms = self.request.delivery.forms_of_layers(plan.source_date_epoch);
        let behind = (!forms.is_empty()).then(|| worker.pack_behind(&targets, forms));
        let solved = match self.request.delivery.is_nothing() {
            // Nobody wants the files: what others have made stays with them.
            true => solver.ensure(definition.clone(), &targets).await.map(|()| Vec::new()),
            false => solver.solve(definition.clone(), &targets).await,
        };
        // A build that failed needs none of it.
        let behind = behind.filter(|_| solved.is_ok()).inspect(PackingBehind::stop);
        if self.request.run.replay && solved.is_ok() {
            self.replay_others(&definition, &heard).await?;
        }
        // What was learned is of use to the next build, however this one ended.
        let saving = self.trace.begin(Subject::Build, Work::Solve, "remember what files hold");
        for cache in stats.values() {
            cache.save()?;
        }
        saving.end();
        let solved = match solved {
            Ok(solved) => solved,
            Err(error) => {
                finder.remember(&self.request.delivery.kept)?;
                self.notices.lock().unwrap_or_else(PoisonError::into_inner).kept = explain::kept(&error);
                return Err(explain::step(self.request, &self.context, &plan, &error));
            }
        };
        let mut results = Vec::new();
        for (target, solved) in plan.targets.iter().zip(solved) {
            let Tree::Layers(tree) = solved.tree else {
                return Err(Failure::build("internal error: the target has no file tree"));
            };
            results.push((target, tree));
        }
        self.warn_of_no_image();
        let with_index = plan.multi_platform.unwrap_or(plan.targets.len() > 1);
        let carries = plan.inline_cache || self.request.caches.to.iter().any(CacheTarget::is_inline);
        let steps = match carries || !self.request.caches.to.is_empty() {
            true => self.carried_steps().await?,
            false => Vec::new(),
        };
        let delivered = deliver::deliver(&deliver::Built {
            delivery: &self.request.delivery,
            store: &self.store,
            worker: &worker,
            progress: &self.progress,
            results: &results,
            with_index,
            epoch: plan.source_date_epoch,
            inline: carries.then_some(&steps),
            trace: &self.trace,
        })
        .await;
        if let Some(behind) = behind {
            behind.end().await;
        }
        // An output may have wanted layers that no step did.
        finder.remember(&self.request.delivery.kept)?;
        let delivered = delivered?;
        let ids = self.write_files(&plan, with_index, &delivered)?;
        // What was built and delivered stays, whatever becomes of the caches.
        let exporting = self.trace.begin(Subject::Build, Work::Export, "export caches");
        let exported = self.export_caches(&worker, &targets, &steps).await;
        exporting.end();
        let _timed = self.trace.begin(Subject::Build, Work::Export, "end the session");
        let (session, kept) = (self.session, !self.request.delivery.kept.is_empty());
        // Whoever put an image into the store finds it after a power failure too. A file is the user's own, as one that `cp` wrote; to wait
        // until a gigabyte of it is on the disk would take longer than all the rest.
        crate::blocking(move || {
            let ended = if kept { session.finish_durably() } else { session.finish() };
            ended.map_err(Failure::from)
        })
        .await?;
        exported?;
        let has_program = plan.targets.iter().any(|target| {
            let config = &target.config.config;
            target.platform == image::Platform::host()
                && (config.entrypoint.is_some() || config.cmd.is_some())
        });
        let given = delivered.iter().map(Delivered::given).collect();
        Ok(Made { ids, given, has_program })
    }

    /// Writes the files about what was delivered. Gives its ids, when an image was made.
    fn write_files(
        &self,
        plan: &Plan,
        with_index: bool,
        images: &[Delivered],
    ) -> Result<Option<Ids>, Failure> {
        let (delivery, ids) = (&self.request.delivery, Ids::of(images));
        metadata::write_id(delivery.iidfile.as_deref(), ids.as_ref())?;
        if let Some(path) = &delivery.metadata_file {
            let known = Known {
                request: self.request,
                plan,
                build: self.journal.id(),
                began: self.journal.began(),
                fetched: &self.remote.found(),
                hidden: &SecretValues::of(&plan.definition),
            };
            let notices = &self.notices.lock().unwrap_or_else(PoisonError::into_inner);
            About { known, with_index, notices }.write(path, images)?;
        }
        Ok(ids)
    }

    /// A cache that goes into the image needs one.
    fn warn_of_no_image(&self) {
        let Delivery { kept, outputs, .. } = &self.request.delivery;
        let has_image = !kept.is_empty() || outputs.iter().any(|output| output.image_form().is_some());
        let asked = self.request.caches.to.iter().any(CacheTarget::is_inline);
        if asked && !has_image && !done::is_silent(self.request.progress) {
            terminal::tell(
                "WARNING: --cache-to type=inline has no effect: no image is made that could carry it\n",
            );
        }
    }

    /// Answers a question that needs the images' configs.
    async fn answer(self, call: Call) -> Result<Answer, Failure> {
        let source = &self.request.dockerfile;
        match (call.question, self.lowered().await?) {
            (Question::Outline, Ok(Planned { plan, .. })) => {
                let outline = plan.targets.first().map(|target| target.outline.clone()).unwrap_or_default();
                Ok(call::outline(outline, &SecretValues::of(&plan.definition), source, call.json))
            }
            (Question::Graph(format), Ok(planned)) => self.picture(planned, format).await,
            (Question::Check, Ok(Planned { plan, .. })) => {
                let mut findings = self.advice(&plan).await;
                findings.extend(plan.warnings);
                findings.sort_by_key(|finding| finding.span.start);
                Ok(call::check(&findings, source, call.json))
            }
            (Question::Check, Err(findings)) => Ok(call::check(&findings, source, call.json)),
            (_, Err(findings)) => Err(explain::mistakes(&findings, source)),
            (Question::Build | Question::Targets | Question::Describe, Ok(_)) => {
                Err(Failure::build("internal error: the question was answered already"))
            }
        }
    }

    /// Builds up to the instruction at a line, and gives its name and its inside.
    async fn inside(&self, line: u32) -> Result<(String, Inside), Failure> {
        let Planned { plan, images, .. } = self.plan().await?;
        let definition = Arc::new(plan.definition.clone());
        let at =
            |vertex: &graph::Vertex| vertex.lines.is_some_and(|(first, last)| (first..=last).contains(&line));
        // The last one: what an instruction is made of comes before it.
        let Some((id, vertex)) = definition.iter().filter(|(_, vertex)| at(vertex)).last() else {
            let lines: BTreeSet<u32> =
                definition.iter().filter_map(|(_, vertex)| vertex.lines).map(|(first, _)| first).collect();
            let lines: Vec<String> = lines.iter().map(u32::to_string).collect();
            return Err(Failure::usage(format!(
                "--at {line}: no instruction that makes files is there in {}, or its stage is not built",
                self.request.dockerfile.path
            ))
            .hint(format!("a shell opens behind the instructions at the lines {}", lines.join(", "))));
        };
        self.progress.define(&definition);
        let stats = self.stat_caches()?;
        let (worker, solver) = self.solver(definition.clone(), images, &stats, self.progress.clone())?;
        let wanted: Vec<_> =
            std::iter::once(id).chain(vertex.inputs.iter().map(|input| input.vertex)).collect();
        let solved = solver.solve(definition.clone(), &wanted).await;
        for cache in stats.values() {
            cache.save()?;
        }
        let solved = solved.map_err(|error| explain::step(self.request, &self.context, &plan, &error))?;
        let trees: Vec<Tree> = solved.into_iter().map(|solved| solved.tree).collect();
        let Some((tree, inputs)) = trees.split_first() else {
            return Err(Failure::build("internal error: the step has no result"));
        };
        let inside = worker.inside(id, tree, inputs).await.map_err(|error| Failure::from(&error))?;
        Ok((vertex.name.clone(), inside))
    }

    /// What the build could do better as a whole. A context that cannot be read is the build's business, not that of its checks.
    async fn advice(&self, plan: &Plan) -> Vec<parser::Diagnostic> {
        let (tree, cancel) = (self.context.tree.clone(), self.cancel.clone());
        let context = crate::blocking(move || Ok(contexts::listing(&*tree, &|| cancel.is_cancelled()))).await;
        let context = context.unwrap_or_default();
        let options = &self.request.options;
        insight::advise(&insight::Subject {
            source: &self.request.dockerfile.text,
            parsed: self.parsed,
            plan,
            context: context.as_ref(),
            checks: &frontend::Checks::new(&self.parsed.dockerfile, options).unwrap_or_default(),
        })
    }

    /// The graph of the build, with what the cache knows of each step.
    async fn picture(&self, planned: Planned, format: insight::Format) -> Result<Answer, Failure> {
        let Planned { plan, images, .. } = planned;
        let definition = Arc::new(plan.definition.clone());
        self.progress.define(&definition);
        let stats = self.stat_caches()?;
        let (_, solver) = self.solver(definition.clone(), images, &stats, self.progress.clone())?;
        let targets: Vec<_> = plan.targets.iter().map(|target| target.vertex).collect();
        let peeked = solver.peek(definition, &targets).await;
        for cache in stats.values() {
            cache.save()?;
        }
        let peeked = peeked.map_err(|error| explain::step(self.request, &self.context, &plan, &error))?;
        let picture = insight::Picture::new(&plan, |id| match peeked.get(&id) {
            Some(Peeked::Cached) => insight::CacheState::Cached,
            Some(Peeked::Missing) => insight::CacheState::Missing,
            Some(Peeked::Disabled) => insight::CacheState::Always,
            None => insight::CacheState::Unknown,
        });
        Ok(Answer { text: picture.draw(format), code: 0 })
    }

    /// What works and what decides.
    fn solver(
        &self,
        mut definition: Arc<graph::Definition>,
        images: Vec<Arc<ResolvedImage>>,
        stats: &BTreeMap<String, Arc<DiskStatCache>>,
        sink: Arc<dyn ProgressSink>,
    ) -> Result<(Arc<LocalWorker>, Solver<LocalWorker>), Failure> {
        graph::hide_cache_mounts(&mut definition, || cache::CacheBackend::secret(&self.store.records()))?;
        let worker = Arc::new(LocalWorker::new(worker::Config {
            definition,
            store: self.store.clone(),
            executor: match &self.request.runtime {
                Some(runtime) => Arc::new(runtime.clone().in_sandbox(self.sandbox.clone())),
                None => Arc::new(self.sandbox.clone()),
            },
            progress: sink.clone(),
            clock: Arc::new(SystemClock),
            contexts: self.contexts(stats)?,
            images,
            remote: self.remote.clone(),
            secrets: self.secrets.clone(),
            agents: self.agents.clone(),
            run: self.request.run.clone(),
            caches: self.caches.clone(),
            cancel: self.cancel.clone(),
            trace: self.trace.clone(),
        }));
        let records = Arc::new(self.store.records());
        let solver = Solver::new(worker.clone(), records, sink, Arc::new(SystemClock), PARALLEL_STEPS);
        let args = journal::arg_names(self.parsed);
        let solver = solver
            .explaining(self.request.scope(), args)
            .noting(self.journal.notes())
            .tracing(self.trace.clone());
        Ok((worker, solver))
    }

    /// Lowers the Dockerfile; its mistakes are the user's.
    async fn plan(&self) -> Result<Planned, Failure> {
        self.lowered().await?.map_err(|findings| explain::mistakes(&findings, &self.request.dockerfile))
    }

    /// Lowers the Dockerfile, finding the images that it asks for on the way.
    async fn lowered(&self) -> Result<Result<Planned, Vec<parser::Diagnostic>>, Failure> {
        let registry = remotes::client(&[])?;
        let contexts = self.request.named_contexts.clone();
        let finder = Finder::new(self.store.clone(), registry, contexts, self.request.pull);
        let finder = match &self.request.again {
            Some(again) => finder.again(again),
            None => finder,
        };
        let mut found = Found::new();
        loop {
            let lowering = self.trace.begin(Subject::Build, Work::Solve, "understand the Dockerfile");
            let lowered = match frontend::lower(self.parsed, &self.request.options, &found) {
                Ok(lowered) => lowered,
                Err(findings) => return Ok(Err(findings)),
            };
            lowering.end();
            match lowered {
                Lowered::Plan(plan) => {
                    return Ok(Ok(Planned { plan: *plan, images: found.into_values().collect(), finder }));
                }
                Lowered::Missing(missing) => {
                    let images = try_join_all(missing.iter().map(|image| self.find(&finder, image))).await?;
                    found.extend(missing.into_iter().map(|image| image.request).zip(images));
                }
            }
        }
    }

    async fn find(&self, finder: &Finder, image: &MissingImage) -> Result<Arc<ResolvedImage>, Failure> {
        let name = images::describe(&image.request, &image.name);
        let name = image.hidden.conceal(&name);
        let task = self.progress.task(&format!("[internal] load metadata for {name}"));
        let _timed = self.trace.begin(Subject::Task(task.title()), Work::Fetch, "find the image");
        match finder.find(&image.request).await {
            Ok(found) => {
                task.done();
                Ok(found)
            }
            Err(error) => {
                task.failed(&image.hidden.conceal(&error.to_string()));
                let stages = self.parsed.dockerfile.stages.iter().filter_map(parser::Stage::name);
                let others = stages.chain(self.request.named_contexts.keys().map(String::as_str));
                let failure = explain::image(image, error, &self.request.dockerfile, others);
                Err(failure.reworded(|text| image.hidden.conceal(text).into_owned()))
            }
        }
    }

    /// Opens what is remembered of the files of each context; nothing where that is not to be trusted.
    fn stat_caches(&self) -> Result<BTreeMap<String, Arc<DiskStatCache>>, Failure> {
        use std::os::unix::ffi::OsStrExt as _;
        let mut caches = BTreeMap::new();
        if Disabled::from_env()?.stat_cache {
            return Ok(caches);
        }
        for (name, path) in self.directories() {
            let path = path.canonicalize().map_err(|error| Failure::io("resolve", path, &error))?;
            if !stats::are_believed(&path) {
                continue;
            }
            caches.insert(name, Arc::new(self.store.stat_cache(path.as_os_str().as_bytes())?));
        }
        Ok(caches)
    }

    /// The directories that serve as contexts, the main one first.
    fn directories(&self) -> Vec<(String, &std::path::Path)> {
        let named = self.request.named_contexts.iter().filter_map(|(name, context)| match context {
            NamedContext::Directory(path) => Some((name.clone(), path.as_path())),
            _ => None,
        });
        std::iter::once(("context".to_owned(), self.context.path.as_path())).chain(named).collect()
    }
}
