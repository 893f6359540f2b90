//! `history`: what is kept of builds.

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cache::{BuildId, Store, StoredImage};
use graph::Listing;
use image::Reference;
use insight::{BuildRecord, BuildResult, StepOutcome};
use serde_json::{Value, json};

use super::as_json::AsJson;
use super::made::{self, Made};
use super::stored::SHORTEST_ID;
use crate::failure::Failure;
use crate::progress::harmless;
use crate::{Machine, format, terminal};

/// A terminal that has no room for all columns of a list.
const NARROW: usize = 80;

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
        /// Only the last N
        #[arg(short = 'n', long, value_name = "N")]
        last: Option<usize>,
        /// Print nothing but ids
        #[arg(short, long, conflicts_with_all = ["format", "json"])]
        quiet: bool,
        #[command(flatten)]
        as_json: AsJson,
    },
    /// Show a build: its options, and what happened to each step
    Inspect {
        /// A build's id or its beginning, or an image's name, which comes before beginnings, or its id; ^1 is the one before the last [default: the last]
        build: Option<String>,
        #[command(flatten)]
        as_json: AsJson,
    },
    /// Show what the steps of a build printed
    Logs {
        /// The build; after a colon a step, by number, place or the beginning of its instruction
        #[arg(value_name = "BUILD[:STEP]")]
        build: Option<String>,
    },
    /// Forget builds
    Rm {
        /// The builds
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
    let machine = Machine::enter()?;
    let store = match args.command {
        Command::Import { .. } => machine.store_or_new()?,
        Command::Rm { .. } => machine.store_to_remove()?,
        _ => machine.existing_store()?,
    };
    match args.command {
        Command::Ls { last, quiet, as_json } => list(&store, last, quiet, as_json.is_wanted())?,
        Command::Inspect { build, as_json } => {
            let (_, record) = find(&store, build.as_deref())?;
            terminal::print(&match as_json.is_wanted() {
                true => pretty(&record_json(&record)),
                false => shown(&record),
            })?;
        }
        Command::Logs { build } => {
            let (id, record, step) = find_with_step(&store, build.as_deref())?;
            let text = logs(&store, &id, &record, step)?;
            if text.is_empty() {
                terminal::tell(&silence(&store, &id, &record, step)?);
            }
            terminal::print(&text)?;
        }
        Command::Rm { builds, all } => remove(&store, &builds, all)?,
        Command::Export { build, output } => export(&store, build.as_deref(), &output)?,
        Command::Import { input } => import(&store, &input)?,
    }
    Ok(0)
}

/// `BUILD[:STEP]`; an empty BUILD is the last. The place of the step among those of the build.
///
/// Names of images have colons, too: BUILD is the longest beginning that is one.
pub(crate) fn find_with_step(
    store: &Store,
    text: Option<&str>,
) -> Result<(BuildId, BuildRecord, Option<usize>), Failure> {
    let mut first = None;
    for (build, step) in readings(text.unwrap_or_default()) {
        match find(store, build) {
            Ok((id, record)) => {
                let step = step.map(|step| step_of(&record, step)).transpose()?;
                return Ok((id, record, step));
            }
            // As an id it has no colon: the shortest beginning is the one that was meant.
            Err(failure) => first = Some(failure),
        }
    }
    Err(first.unwrap_or_else(|| Failure::usage("no build is named")))
}

/// What `BUILD[:STEP]` may mean, the longest BUILD first; `None` is the last build.
fn readings(text: &str) -> impl Iterator<Item = (Option<&str>, Option<&str>)> {
    let apart = text.rmatch_indices(':').map(|(at, _)| (&text[..at], &text[at + 1..]));
    let given = |part: &'_ str| !part.is_empty();
    std::iter::once((text, ""))
        .chain(apart)
        .map(move |(build, step)| (given(build).then_some(build), given(step).then_some(step)))
}

/// The step of a build that a user names.
pub(crate) fn step_of(record: &BuildRecord, text: &str) -> Result<usize, Failure> {
    record.find_step(text).ok_or_else(|| {
        Failure::build(format!("build {} has no step `{text}`", record.id))
            .hint(format!("`builder history inspect {}` lists them", record.id))
    })
}

/// A build that a user names: by `^N`, counted back from the last, by its id, by the name of an image, by the beginning of its id, or by
/// the id of an image or its beginning. In this order, which is Docker's: a name that is given in full is never taken for the beginning of
/// an id. Of several builds of an image the last is meant.
pub(crate) fn find(store: &Store, name: Option<&str>) -> Result<(BuildId, BuildRecord), Failure> {
    let builds = store.builds()?;
    if builds.is_empty() {
        return Err(Failure::build("no builds are recorded yet"));
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
    let is_certain = name.starts_with('^') || found.iter().any(|id| id.name() == name);
    if !is_certain {
        let images = meant(store, name)?;
        let mut ids = BTreeSet::new();
        let rank = |record: &BuildRecord| {
            ids.extend(ids_of(record, name).map(str::to_owned));
            Meant::of(record, name, &images).filter(|meant| found.is_empty() || *meant != Meant::Id)
        };
        match made::surest(records(store)?, &Meant::Image(Made::UnderTheirName), rank) {
            Some((Meant::Id, ..)) if ids.len() > 1 => {
                return Err(Failure::usage(format!("several images have ids that begin with {name}")));
            }
            Some((_, id, record)) => return Ok((id, record)),
            None => {}
        }
    }
    let [id] = found.as_slice() else {
        let failure = match found.len() {
            0 => Failure::build(format!("there is no build `{name}`")),
            several => Failure::usage(format!("`{name}` may be any of {several} builds")),
        };
        return Err(failure.hint("`builder history ls` lists builds"));
    };
    match read(store, id)? {
        Some(record) => Ok(((*id).clone(), record)),
        None => Err(Failure::build(format!("there is no build `{name}` any more"))),
    }
}

/// How a build is meant by a name, the surest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Meant {
    /// It made what the name means now: `builder tag` may have given it.
    Image(Made),
    /// It was to give this name, be it that it failed, or that its image is gone.
    Name,
    /// It made the image of this id.
    Id,
}

impl Meant {
    fn of(record: &BuildRecord, name: &str, images: &[StoredImage]) -> Option<Meant> {
        let made = if images.is_empty() { None } else { Made::of(record, images) };
        match made.filter(|made| *made != Made::NameAlone) {
            Some(made) => Some(Meant::Image(made)),
            None if is_named(record, name) => Some(Meant::Name),
            None => ids_of(record, name).next().map(|_| Meant::Id),
        }
    }
}

/// All builds that are remembered, the newest first. One that is damaged, or that another process has just removed, hides none of the others.
pub(super) fn records(
    store: &Store,
) -> Result<impl Iterator<Item = (BuildId, BuildRecord)> + use<'_>, Failure> {
    let record = |id: BuildId| read(store, &id).ok().flatten().map(|record| (id, record));
    Ok(store.builds()?.into_iter().filter_map(record))
}

/// The images that have a name.
fn meant(store: &Store, name: &str) -> Result<Vec<StoredImage>, Failure> {
    let Ok(name) = name.parse::<Reference>() else { return Ok(Vec::new()) };
    Ok(store.images_named(&name)?)
}

/// Whether the build was to give an image this name.
fn is_named(record: &BuildRecord, name: &str) -> bool {
    let Ok(wanted) = name.parse::<Reference>() else { return false };
    let given = record.given.iter().flat_map(|given| &given.names);
    record.names.iter().chain(given).any(|known| known.parse().ok().as_ref() == Some(&wanted))
}

/// The ids of images that the build made and that a text is, or begins: that of a manifest and of an index is one too.
fn ids_of<'a>(record: &'a BuildRecord, text: &'a str) -> impl Iterator<Item = &'a str> {
    let digits = |id: &'a str| id.strip_prefix("sha256:").unwrap_or(id);
    let id = digits(text);
    let is_id = id.len() >= SHORTEST_ID && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let given = record.given.iter().flat_map(|given| given.manifests.values().chain(&given.index));
    let ids = record.image.iter().chain(given).map(move |known| digits(known));
    ids.filter(move |known| is_id && known.starts_with(id))
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

fn list(store: &Store, last: Option<usize>, quiet: bool, as_json: bool) -> Result<(), Failure> {
    let records: Vec<BuildRecord> =
        records(store)?.map(|(_, record)| record).take(last.unwrap_or(usize::MAX)).collect();
    if as_json {
        return terminal::print(&pretty(&Value::from_iter(records.iter().map(summary))));
    }
    if quiet {
        let ids: String = records.iter().map(|record| format!("{}\n", record.id)).collect();
        return terminal::print(&ids);
    }
    if store.builds()?.is_empty() {
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
            harmless(&record.names.iter().map(|name| familiar(name)).collect::<Vec<_>>().join(", ")),
        ]);
    }
    let columns = terminal::columns();
    if columns < NARROW {
        // `inspect` tells the Dockerfile.
        rows.iter_mut().for_each(|row| drop(row.remove(1)));
        return terminal::print(&format::table_within(&rows, &[5], columns));
    }
    terminal::print(&format::table_within(&rows, &[1, 6], columns))
}

/// A name as `builder images` has it.
fn familiar(name: &str) -> String {
    name.parse().map_or_else(|_| name.to_owned(), |name: image::Reference| name.familiar())
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
    let mut steps = vec![["#", "STEP", "RESULT", "TIME", "CPU", "LAYER", "WHY"].map(str::to_owned).to_vec()];
    for (place, step) in record.steps.iter().enumerate() {
        let (result, why) = match &step.outcome {
            None => ("", None),
            Some(StepOutcome::Cached) => ("cached", None),
            Some(StepOutcome::Ran { why }) => (if step.source { "read" } else { "ran" }, why.as_ref()),
            Some(StepOutcome::Failed { why, .. }) => ("failed", why.as_ref()),
            Some(StepOutcome::Cancelled) => ("cancelled", None),
        };
        steps.push(vec![
            record.step_number(place).map(|number| number.to_string()).unwrap_or_default(),
            harmless(&step.name),
            result.to_owned(),
            step.took.filter(|_| step.ran()).map(seconds).unwrap_or_default(),
            step.cpu.map(seconds).unwrap_or_default(),
            step.bytes.map(format::bytes).unwrap_or_default(),
            why.map(|why| harmless(&why.to_string())).unwrap_or_default(),
        ]);
    }
    let columns = terminal::columns();
    let mut cut = [1, 6];
    if columns < NARROW {
        // Little would be left of the names of steps. JSON has both.
        steps.iter_mut().for_each(|cells| drop(cells.drain(4..6)));
        cut = [1, 4];
    }
    format!("{}\n{}", format::table_within(&rows, &[1], columns), format::table_within(&steps, &cut, columns))
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

/// Why there are no logs of a build, or of a step of it: they are with the builds that ran what was cached.
fn silence(
    store: &Store,
    id: &BuildId,
    record: &BuildRecord,
    step: Option<usize>,
) -> Result<String, Failure> {
    let asked = |place: &usize| step.is_none_or(|step| step == *place);
    let steps: Vec<usize> =
        (0..record.steps.len()).filter(asked).filter(|place| !record.steps[*place].source).collect();
    let cached: Vec<usize> = steps.iter().copied().filter(|place| record.steps[*place].is_cached()).collect();
    if cached.is_empty() {
        return Ok("No step printed anything.\n".to_owned());
    }
    let keys: Vec<&String> = cached.iter().filter_map(|place| record.steps[*place].key.as_ref()).collect();
    let mut ran_by: Vec<String> = Vec::new();
    for other in store.builds()?.iter().filter(|other| other.name() != id.name()) {
        let Some(other) = read(store, other).ok().flatten() else { continue };
        let ran = |step: &insight::StepRecord| {
            step.ran() && step.key.as_ref().is_some_and(|key| keys.contains(&key))
        };
        if other.steps.iter().any(ran) {
            ran_by.push(other.id);
        }
    }
    let what = match (step, cached.len() == steps.len()) {
        (Some(_), _) => "The step was cached",
        (None, true) => "All steps were cached",
        (None, false) => "What ran printed nothing; the other steps were cached",
    };
    Ok(match ran_by.as_slice() {
        [] => format!("{what}, and no build is recorded that ran them.\n"),
        [newest, ..] => {
            let shown: Vec<&str> = ran_by.iter().take(3).map(String::as_str).collect();
            let more = if ran_by.len() > shown.len() { " and others" } else { "" };
            format!("{what}. Built by {}{more}: `builder history logs {newest}`.\n", shown.join(", "))
        }
    })
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
        let all = |text| readings(text).collect::<Vec<_>>();
        assert_eq!(all(""), [(None, None)]);
        assert_eq!(all("ab"), [(Some("ab"), None)]);
        assert_eq!(all("ab:3/5"), [(Some("ab:3/5"), None), (Some("ab"), Some("3/5"))]);
        assert_eq!(
            all(":RUN a:b"),
            [(Some(":RUN a:b"), None), (Some(":RUN a"), Some("b")), (None, Some("RUN a:b"))]
        );
    }
}
