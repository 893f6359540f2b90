//! `history`: what is kept of builds.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cache::{BuildId, Store};
use graph::Listing;
use insight::{BuildRecord, BuildResult, StepOutcome};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::progress::harmless;
use crate::{Machine, format, terminal};

/// Look at earlier builds: list, inspect, logs, remove, move to another machine
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List builds, the newest first
    Ls {
        /// As JSON
        #[arg(long, value_name = "FORMAT", value_parser = ["json"])]
        format: Option<String>,
    },
    /// Show a build: its options, and what happened to each step
    Inspect {
        /// A build's id or its beginning; ^1 is the one before the last [default: the last]
        build: Option<String>,
        /// As JSON
        #[arg(long, value_name = "FORMAT", value_parser = ["json"])]
        format: Option<String>,
    },
    /// Show what the steps of a build printed
    Logs {
        /// The build; after a colon a step, by number, place or the beginning of its instruction
        #[arg(value_name = "BUILD[:STEP]")]
        build: Option<String>,
    },
    /// Forget builds
    Rm {
        /// Which
        #[arg(value_name = "BUILD", required_unless_present = "all")]
        builds: Vec<String>,
        /// All of them
        #[arg(short, long, conflicts_with = "builds")]
        all: bool,
    },
    /// Write a build as JSON, for `builder history import` and `builder explain --against-record` elsewhere
    Export {
        /// Which [default: the last]
        build: Option<String>,
        /// The file; `-` is standard output
        #[arg(short, long, value_name = "FILE", default_value = "-")]
        output: PathBuf,
    },
    /// Add a build that `builder history export` wrote
    Import {
        /// The file; `-` is standard input
        #[arg(value_name = "FILE")]
        input: PathBuf,
    },
}

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    let store = Machine::enter()?.store()?;
    match args.command {
        Command::Ls { format } => list(&store, format.is_some())?,
        Command::Inspect { build, format } => {
            let (_, record) = find(&store, build.as_deref())?;
            terminal::print(&match format {
                Some(_) => pretty(&record_json(&record)),
                None => shown(&record),
            })?;
        }
        Command::Logs { build } => {
            let (build, step) = apart(build.as_deref());
            let (id, record) = find(&store, build)?;
            let step = step.map(|step| step_of(&record, step)).transpose()?;
            terminal::print(&logs(&store, &id, &record, step)?)?;
        }
        Command::Rm { builds, all } => remove(&store, &builds, all)?,
        Command::Export { build, output } => export(&store, build.as_deref(), &output)?,
        Command::Import { input } => import(&store, &input)?,
    }
    Ok(0)
}

/// `BUILD[:STEP]`; an empty BUILD is the last.
pub(crate) fn apart(text: Option<&str>) -> (Option<&str>, Option<&str>) {
    let text = text.unwrap_or_default();
    let (build, step) = text.split_once(':').unwrap_or((text, ""));
    (Some(build).filter(|build| !build.is_empty()), Some(step).filter(|step| !step.is_empty()))
}

/// The step of a build that a user names.
pub(crate) fn step_of(record: &BuildRecord, text: &str) -> Result<usize, Failure> {
    record.find_step(text).ok_or_else(|| {
        Failure::usage(format!("build {} has no step `{text}`", record.id))
            .hint(format!("`builder history inspect {}` lists them", record.id))
    })
}

/// A build that a user names: by its id or the beginning of it, or by `^N`, counted back from the last.
pub(crate) fn find(store: &Store, name: Option<&str>) -> Result<(BuildId, BuildRecord), Failure> {
    let builds = store.builds()?;
    if builds.is_empty() {
        return Err(Failure::usage("no builds are recorded yet"));
    }
    let name = name.unwrap_or("^0");
    let found: Vec<&BuildId> = match name.strip_prefix('^') {
        Some(back) => {
            let back =
                back.parse::<usize>().map_err(|_| Failure::usage(format!("{name}: expected ^NUMBER")))?;
            builds.get(back).into_iter().collect()
        }
        None => builds.iter().filter(|id| id.name().starts_with(name)).collect(),
    };
    let [id] = found.as_slice() else {
        let failure = Failure::usage(match found.len() {
            0 => format!("there is no build `{name}`"),
            several => format!("`{name}` may be any of {several} builds"),
        });
        return Err(failure.hint("`builder history ls` lists builds"));
    };
    match read(store, id)? {
        Some(record) => Ok(((*id).clone(), record)),
        None => Err(Failure::usage(format!("there is no build `{name}` any more"))),
    }
}

fn read(store: &Store, id: &BuildId) -> Result<Option<BuildRecord>, Failure> {
    let Some(bytes) = store.build_record(id)? else { return Ok(None) };
    let record = BuildRecord::from_json(&bytes);
    record.map(Some).map_err(|reason| Failure::build(format!("the record of build {}: {reason}", id.name())))
}

/// The files that steps of records used: as an exported record has them, or as they are remembered here.
pub(crate) fn listing<'a>(
    store: &'a Store,
    records: [&'a BuildRecord; 2],
) -> impl Fn(&str) -> Option<Listing> + use<'a> {
    let here = store.records();
    move |name| {
        let exported = records.iter().find_map(|record| record.listings.get(name));
        exported.cloned().or_else(|| solver::listing(&here, name))
    }
}

/// Reads an exported record.
pub(crate) fn read_file(path: &Path) -> Result<BuildRecord, Failure> {
    let mut bytes = Vec::new();
    let read = match path.as_os_str() == "-" {
        true => io::stdin().read_to_end(&mut bytes).map(drop),
        false => std::fs::read(path).map(|read| bytes = read),
    };
    read.map_err(|error| Failure::io("read", path, &error))?;
    BuildRecord::from_json(&bytes).map_err(|reason| Failure::usage(format!("{}: {reason}", path.display())))
}

fn list(store: &Store, as_json: bool) -> Result<(), Failure> {
    let mut records = Vec::new();
    for id in store.builds()? {
        // One that is damaged, or that another process has just removed, hides none of the others.
        records.extend(read(store, &id).ok().flatten());
    }
    if as_json {
        return terminal::print(&pretty(&Value::from_iter(records.iter().map(summary))));
    }
    if records.is_empty() {
        terminal::tell("No builds are recorded yet.\n");
        return Ok(());
    }
    let now = SystemTime::now();
    let mut rows =
        vec![["BUILD", "DOCKERFILE", "RESULT", "RAN", "TIME", "WHEN", "NAMES"].map(str::to_owned).to_vec()];
    for record in &records {
        let (ran, all) = record.executed();
        rows.push(vec![
            record.id.clone(),
            harmless(&record.dockerfile),
            result_word(&record.result).to_owned(),
            format!("{ran} of {all}"),
            seconds(record.took),
            format::ago(when(record), now),
            harmless(&record.names.join(", ")),
        ]);
    }
    terminal::print(&format::table(&rows))
}

fn when(record: &BuildRecord) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(record.started)
}

fn seconds(millis: u64) -> String {
    format!("{:.1}s", millis as f64 / 1000.0)
}

fn result_word(result: &BuildResult) -> &'static str {
    match result {
        BuildResult::Done => "done",
        BuildResult::Failed { .. } => "failed",
        BuildResult::Cancelled => "cancelled",
    }
}

fn summary(record: &BuildRecord) -> Value {
    let (ran, all) = record.executed();
    json!({
        "id": record.id,
        "dockerfile": record.dockerfile,
        "context": record.context,
        "target": record.target,
        "names": record.names,
        "image": record.image,
        "started": record.started,
        "milliseconds": record.took,
        "result": record.result,
        "executed": ran,
        "steps": all,
    })
}

fn record_json(record: &BuildRecord) -> Value {
    serde_json::to_value(record).unwrap_or_default()
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn shown(record: &BuildRecord) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![format!("{name}:"), harmless(&value)]);
    row("Build", record.id.clone());
    row("Dockerfile", record.dockerfile.clone());
    row("Context", record.context.clone());
    if let Some(target) = &record.target {
        row("Target", target.clone());
    }
    for (name, value) in &record.options {
        row(name, value.clone());
    }
    if !record.names.is_empty() {
        row("Names", record.names.join(", "));
    }
    if let Some(image) = &record.image {
        row("Image", image.clone());
    }
    row("Started", format::ago(when(record), SystemTime::now()));
    row("Took", seconds(record.took));
    row(
        "Result",
        match &record.result {
            BuildResult::Failed { message } => format!("failed: {message}"),
            other => result_word(other).to_owned(),
        },
    );
    let mut steps = vec![["STEP", "RESULT", "TIME", "LAYER", "WHY"].map(str::to_owned).to_vec()];
    for step in &record.steps {
        let (result, why) = match &step.outcome {
            None => ("", None),
            Some(StepOutcome::Cached) => ("cached", None),
            Some(StepOutcome::Ran { why }) => (if step.source { "read" } else { "ran" }, why.as_ref()),
            Some(StepOutcome::Failed { why, .. }) => ("failed", why.as_ref()),
            Some(StepOutcome::Cancelled) => ("cancelled", None),
        };
        steps.push(vec![
            harmless(&step.name),
            result.to_owned(),
            step.took.filter(|_| step.ran()).map(seconds).unwrap_or_default(),
            step.bytes.map(format::bytes).unwrap_or_default(),
            why.map(|why| harmless(&why.to_string())).unwrap_or_default(),
        ]);
    }
    format!("{}\n{}", format::table(&rows), format::table(&steps))
}

fn logs(store: &Store, id: &BuildId, record: &BuildRecord, step: Option<usize>) -> Result<String, Failure> {
    let bytes = store.build_log(id)?.unwrap_or_default();
    let texts: Vec<(usize, String)> = serde_json::from_slice(&bytes).unwrap_or_default();
    let mut out = String::new();
    for (place, text) in texts.iter().filter(|(place, _)| step.is_none_or(|step| step == *place)) {
        let name = record.steps.get(*place).map_or("", |step| step.name.as_str());
        if step.is_none() {
            out += &format!("{}{}\n", if out.is_empty() { "" } else { "\n" }, harmless(name));
        }
        for line in text.lines() {
            // A line drawn over and over shows its last state.
            let line = line.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default();
            out += &format!("{}\n", harmless(line));
        }
    }
    Ok(out)
}

fn remove(store: &Store, names: &[String], all: bool) -> Result<(), Failure> {
    let ids = match all {
        true => store.builds()?,
        false => {
            let found: Result<Vec<_>, _> = names.iter().map(|name| find(store, Some(name))).collect();
            found?.into_iter().map(|(id, _)| id).collect()
        }
    };
    for id in &ids {
        store.remove_build(id)?;
        terminal::print(&format!("{}\n", id.name()))?;
    }
    Ok(())
}

fn export(store: &Store, name: Option<&str>, output: &Path) -> Result<(), Failure> {
    let (_, mut record) = find(store, name)?;
    let here = listing(store, [&record, &record]);
    let names = record.steps.iter().filter_map(|step| step.parts.as_ref()).flat_map(|parts| parts.listings());
    let listings = names.filter_map(|name| Some((name.to_owned(), here(name)?))).collect();
    drop(here);
    record.listings = listings;
    // Of use on this machine only.
    record.invocation = None;
    let text = pretty(&record_json(&record));
    if output.as_os_str() == "-" {
        return terminal::print(&text);
    }
    let written = |error| Failure::io("write", output, &error);
    exporter::Output::File(output.to_owned()).write(|out| out.write_all(text.as_bytes()).map_err(written))
}

fn import(store: &Store, input: &Path) -> Result<(), Failure> {
    let mut record = read_file(input)?;
    // A stranger's command line is not to be repeated by `builder verify`.
    record.invocation = None;
    let Some(id) = BuildId::known(when(&record), &record.id) else {
        return Err(Failure::usage(format!("{}: `{}` is no id of a build", input.display(), record.id)));
    };
    store.put_build(&id, &record.to_json(), b"[]")?;
    terminal::print(&format!("{}\n", record.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_and_a_step() {
        assert_eq!(apart(None), (None, None));
        assert_eq!(apart(Some("ab")), (Some("ab"), None));
        assert_eq!(apart(Some("ab:3/5")), (Some("ab"), Some("3/5")));
        assert_eq!(apart(Some(":RUN a:b")), (None, Some("RUN a:b")));
    }
}
