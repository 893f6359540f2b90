//! What a build would be, without running anything: the plan, and what the cache knows of its steps.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use cache::Store;
use clap::Parser;
use executor::Sandbox;
use frontend::Plan;
use graph::VertexId;
use solver::StepNote;
use worker::Cancel;

use super::elsewhere::{Brought, Wanted};
use super::journal::Journal;
use super::lent::{Agents, Secrets};
use super::{Args, Build, epoch, explain, read};
use super::{contexts, done::Notices};
use crate::Machine;
use crate::failure::Failure;
use crate::progress::{Mode, Progress, Settings};

/// A Dockerfile that was lowered, with what is there of its build.
pub(crate) struct Examined {
    /// The Dockerfile, as given.
    pub(crate) name: String,
    /// What would be done.
    pub(crate) plan: Plan,
    /// What the cache knows of each step, as far as nothing would have to be fetched for it.
    pub(crate) notes: BTreeMap<VertexId, StepNote>,
    /// The directories that are contexts, by name; the main one is among them.
    pub(crate) directories: BTreeMap<String, PathBuf>,
}

/// The arguments of `build`, for a command that asks about builds.
#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

impl Args {
    /// As if they had been given to `build`.
    pub(crate) fn parsed(arguments: &[String]) -> Result<Args, Failure> {
        let line = std::iter::once("build").chain(arguments.iter().map(String::as_str));
        Line::try_parse_from(line).map(|line| line.args).map_err(|error| {
            let text = error.to_string();
            Failure::usage(text.lines().next().unwrap_or_default().trim_start_matches("error: "))
        })
    }
}

/// Looks at several builds, one after the other. Only files of contexts are read.
pub(crate) fn examine(all: &[Args]) -> Result<(Store, Vec<Examined>), Failure> {
    let mut requests = Vec::new();
    for args in all {
        if !Wanted::of(args)?.is_empty() {
            return Err(Failure::usage("only a context that is a directory of this machine can be compared"));
        }
        let secrets = Arc::new(Secrets::resolve(&args.secret)?);
        requests.push((read(args, &Brought::default())?, secrets));
    }
    let store = Machine::enter()?.store_or_new()?;
    let runtime = crate::runtime()?;
    let mut examined = Vec::new();
    for (args, ((mut request, parsed), secrets)) in all.iter().zip(requests) {
        let settings = Settings::from_env(|name| std::env::var_os(name));
        let progress = Arc::new(Progress::on_stderr(Mode::Quiet, &settings));
        let context = contexts::main_context(args, &Brought::default())?;
        request.options.ignore = context.ignore.clone();
        request.options.epoch = epoch(&request, &parsed, &Brought::default())?;
        let build = Build {
            request: &request,
            parsed: &parsed,
            session: store.session()?,
            store: store.clone(),
            journal: Arc::new(Journal::new(progress.clone())),
            progress,
            cancel: Cancel::new(),
            context,
            brought: &Brought::default(),
            remote: remote::Client::new(remote::Config::from_env(|name| std::env::var_os(name))),
            sandbox: Sandbox::new(),
            secrets,
            agents: Arc::new(Agents::resolve(&args.ssh)?),
            caches: None,
            notices: &Mutex::new(Notices::default()),
            trace: trace::Trace::default(),
        };
        examined.push(runtime.block_on(build.examined())?);
    }
    Ok((store, examined))
}

impl Build<'_> {
    async fn examined(&self) -> Result<Examined, Failure> {
        let super::Planned { plan, images, .. } = self.plan().await?;
        let definition = Arc::new(plan.definition.clone());
        let stats = self.stat_caches()?;
        let (_, solver) = self.solver(definition.clone(), images, &stats, self.journal.clone())?;
        let targets: Vec<_> = plan.targets.iter().map(|target| target.vertex).collect();
        let peeked = solver.peek(definition, &targets).await;
        for cache in stats.values() {
            cache.save()?;
        }
        peeked.map_err(|error| explain::step(self.request, &self.context, &plan, &error))?;
        let notes = self.journal.notes().take();
        Ok(Examined {
            name: self.request.dockerfile.path.clone(),
            plan,
            notes: notes.into_iter().map(|note| (note.vertex, note)).collect(),
            directories: self.directories().into_iter().map(|(name, path)| (name, path.to_owned())).collect(),
        })
    }
}
