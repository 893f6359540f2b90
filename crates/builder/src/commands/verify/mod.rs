//! `verify`.

mod difference;
mod inputs;
mod report;

use std::path::PathBuf;
use std::sync::Arc;

use cache::{Store, StoredImage};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use image::{Platform, Reference};
use insight::BuildRecord;

use super::build::{self, Again};
use super::made::{self, Made, holds};
use super::stored::{self, Found};
use super::{history, is_id_name};
use crate::failure::Failure;
use crate::{Machine, terminal};
use inputs::Inputs;
use report::Report;

/// Build an image again from nothing, and say what differs
///
/// Nothing of the cache is used: the steps run in an empty state directory, which goes away afterwards. Without --context the build
/// that gave the name its present image is repeated as it was recorded: with its options, in its directory, on the same base images and commits. With it,
/// it is built from there; the build's other options can then be given as to `builder build`. When something differs, it is said first what
/// changed since that build of what went into it. Exit code 0 means that every byte is the same, 1 that something differs or that the build
/// failed, 2 that nobody said how to build it: no record does, or it cannot be followed.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(
    override_usage = "builder verify [OPTIONS] IMAGE\n       builder verify --context PATH [BUILD OPTIONS] IMAGE",
    after_help = "\
Examples:
  builder verify app                repeat the build that made app
  builder verify --ignore-times app without SOURCE_DATE_EPOCH, files have the
                                    times at which they were made
  builder verify app --context . --build-arg VERSION=3
                                    whether app is what is made here
  builder verify --format=json app | jq .platforms[].layers"
)]
pub(crate) struct Args {
    /// Image of the local store, by name or id
    #[arg(value_name = "IMAGE")]
    image: String,

    /// Build from here instead of repeating the recorded build
    #[arg(long = "context", value_name = "PATH")]
    directory: Option<PathBuf>,

    /// Times of files and of the image may differ
    #[arg(long)]
    ignore_times: bool,

    /// As text or json
    #[arg(long, value_name = "FORMAT", value_parser = ["json", "text"], hide_possible_values = true, default_value = "text",
          hide_default_value = true)]
    format: String,

    #[command(flatten)]
    build: build::Args,
}

/// Options of `build` that say where a result goes, or that something else is wanted.
const OUTPUTS: [&str; 15] = [
    "tag",
    "output",
    "cache_from",
    "cache_to",
    "push",
    "load",
    "annotation",
    "iidfile",
    "metadata_file",
    "quiet",
    "on_error",
    "check",
    "call",
    "pull",
    "timings",
];

/// Options that say nothing about the result: they can be given to a recorded build as well. What is built from nothing takes nothing
/// from a cache.
const OWN: [&str; 9] = [
    "image",
    "directory",
    "ignore_times",
    "format",
    "progress",
    "context",
    "runtime",
    "no_cache",
    "no_cache_filter",
];

/// Hides what this command has no use for.
pub(crate) fn without_outputs(command: Command) -> Command {
    build::hide(command, &OUTPUTS)
}

/// Says of an option that it would change nothing: those of outputs ever, those of the build where that is the recorded one.
pub(crate) fn misplaced(matches: &ArgMatches) -> Option<String> {
    let is_given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let given = || matches.ids().map(|id| id.as_str()).filter(|id| is_given(id));
    let option = |id: &str| id.replace('_', "-");
    if let Some(id) = given().find(|id| OUTPUTS.contains(id) && !OWN.contains(id)) {
        return Some(format!("--{} is for `builder build`: verify has no use for it", option(id)));
    }
    let own = given().find(|id| !OWN.contains(id) && !is_given("directory"))?;
    Some(format!("--{} says how to build: it needs --context as well", option(own)))
}

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    if args.build.context() != std::path::Path::new(".") {
        return Err(
            Failure::usage("one image is verified at a time").hint("--context PATH names the build context")
        );
    }
    let machine = Arc::new(Machine::enter()?);
    let store = machine.existing_store()?;
    // What is compared with must not be pruned meanwhile.
    let _session = store.session()?;
    let found = stored::find(&store, &args.image)?;
    let images = of_platforms(&found, &args)?;
    let Some(name) = images.first().map(|image| image.name.clone()) else {
        return Err(Failure::build(format!("there is no image {}", args.image)));
    };
    let place = store.scratch()?;
    let rebuilt = machine.store_at(&place)?;
    let mut again = Again {
        machine,
        store: rebuilt.clone(),
        images: store.clone(),
        meant: Default::default(),
        fetched: Default::default(),
        epoch: std::env::var("SOURCE_DATE_EPOCH").ok(),
    };
    let from_here = args.directory.is_some();
    let (record, arguments) = match args.directory {
        Some(directory) => {
            let platforms: Vec<Platform> = images.iter().map(|image| image.platform.clone()).collect();
            let platforms =
                platforms.into_iter().filter(|platform| images.len() > 1 || *platform != Platform::host());
            // Where none is known, nothing can be said about what went into it.
            (recorded(&store, &images).ok(), args.build.with_context(directory).or_platforms(platforms))
        }
        None => {
            let record = recorded(&store, &images)?;
            let arguments = repeated(&record, &mut again)?.in_the_way_of(&args.build);
            (Some(record), arguments)
        }
    };
    let name = record.as_ref().map_or_else(|| name.clone(), |record| name_then(record, &images, &name));
    build::again(arguments, again, &name)?;
    // Names are those of base images.
    let made: Vec<_> = rebuilt.list_images()?.into_iter().filter(|image| is_id_name(&image.name)).collect();
    let build = record.as_ref().filter(|_| !from_here).map(|record| record.id.clone());
    let report = Report::new(args.image, build, (&store, &images), (&rebuilt, &made), args.ignore_times)?;
    let inputs = record.map(|record| Inputs::new(&record, &store, &rebuilt)).transpose()?.unwrap_or_default();
    let report = report.made_from(inputs);
    terminal::print(&match args.format.as_str() {
        "json" => format!("{:#}\n", report.json()),
        _ => report.text(),
    })?;
    Ok(u8::from(!report.is_identical()))
}

/// The images that are meant, one a platform. An id has one for each of its names.
fn of_platforms(found: &Found, args: &Args) -> Result<Vec<StoredImage>, Failure> {
    let mut images = found.one_a_platform();
    if let Some(wanted) = args.build.platforms_given()? {
        images.retain(|image| wanted.contains(&image.platform));
    }
    Ok(images)
}

/// The build that made images: of those that did so as surely the last one.
fn recorded(store: &Store, images: &[StoredImage]) -> Result<BuildRecord, Failure> {
    let found =
        made::surest(history::records(store)?, &Made::UnderTheirName, |record| Made::of(record, images));
    found.map(|(.., record)| record).ok_or_else(|| {
        Failure::usage("no build is recorded that made this image")
            .hint("--context PATH [BUILD OPTIONS] says how to build it")
    })
}

/// The name that tells which output of a build made images: theirs, unless it was given to them afterwards.
fn name_then(record: &BuildRecord, images: &[StoredImage], name: &Reference) -> Reference {
    let mut given = record.given.iter().filter(|given| holds(given, images)).flat_map(|given| &given.names);
    if given.clone().any(|then| *then == name.to_string()) {
        return name.clone();
    }
    given.find_map(|then| then.parse().ok()).unwrap_or_else(|| name.clone())
}

/// The arguments of a recorded build, and all around it as it was.
fn repeated(record: &BuildRecord, again: &mut Again) -> Result<build::Args, Failure> {
    let cannot = |reason: String| {
        Failure::usage(format!("build {} cannot be repeated: {reason}", record.id))
            .hint("--context PATH [BUILD OPTIONS] says how to build the image")
    };
    let Some(invocation) = &record.invocation else {
        return Err(cannot(
            "its command was not recorded, since a secret stands in it or it was made elsewhere".to_owned(),
        ));
    };
    let arguments = build::Args::parsed(&invocation.arguments)?;
    if arguments.reads_stdin() {
        return Err(cannot("it read its context or Dockerfile from standard input".to_owned()));
    }
    if let [first, ..] = arguments.missing_variables()[..] {
        return Err(cannot(format!("the value of --build-arg {first} is not recorded"))
            .hint(format!("set the variable {first}")));
    }
    go_to(&invocation.directory)
        .map_err(|error| cannot(format!("its directory {}: {error}", invocation.directory)))?;
    again.epoch = invocation.epoch.clone();
    let meant = record.images.iter().filter_map(|(name, digest)| Some((name.clone(), digest.parse().ok()?)));
    again.meant = meant.collect();
    again.fetched = record.fetched.clone();
    Ok(arguments)
}

#[expect(
    clippy::disallowed_methods,
    reason = "no thread uses relative paths yet, and the command means this directory"
)]
fn go_to(directory: &str) -> std::io::Result<()> {
    std::env::set_current_dir(directory)
}
