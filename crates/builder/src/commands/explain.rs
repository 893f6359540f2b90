//! `explain`.

use std::path::PathBuf;

use insight::Explanation;

use super::history;
use crate::failure::Failure;
use crate::{Machine, terminal};

/// Say why steps of a build ran: what changed first, what that dragged along, what it cost
///
/// Without --against each step is compared with its own last time. With it, two builds are compared step by step, whether the cache
/// had the results or not: one of yesterday with one of today, or one of a server with one of a laptop.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  builder explain                   why the last build did what it did
  builder explain :'RUN npm ci'     why one step of it ran
  builder explain app:v2            why the last build of an image did what it did
  builder explain --against ^1      what is different from the build before
  builder history export -o ci.json && builder explain --against-record ci.json
                                    what is different from a build elsewhere")]
pub(crate) struct Args {
    /// The build (its id, an image's name for the build that made it last, the beginning of its id or of the image's, or ^1 for the one before
    /// the last) [default: the last]; after a colon a step, by number, place or the beginning of its instruction
    #[arg(value_name = "BUILD[:STEP]")]
    build: Option<String>,

    /// Compare with this build
    #[arg(long, value_name = "BUILD", conflicts_with = "against_record")]
    against: Option<String>,

    /// Compare with a build that `builder history export` wrote; `-` is standard input
    #[arg(long, value_name = "FILE")]
    against_record: Option<PathBuf>,

    /// As JSON
    #[arg(long, value_name = "FORMAT", value_parser = ["json", "text"], hide_possible_values = true)]
    format: Option<String>,

    /// The same as --format=json
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    let store = Machine::enter()?.existing_store()?;
    let (_, build, step) = history::find_with_step(&store, args.build.as_deref())?;
    let other = match (&args.against, &args.against_record) {
        (Some(name), _) => Some(history::find(&store, Some(name))?.1),
        (None, Some(file)) => Some(history::read_file(file)?),
        (None, None) => None,
    };
    let explanation = match &other {
        Some(other) => {
            let listing = history::listing(&store, [&build, other]);
            Explanation::against(&build, other, &listing)
        }
        None => Explanation::of(&build),
    };
    let as_json = args.json || args.format.as_deref() == Some("json");
    let text = match (as_json, step) {
        (true, step) => format!("{:#}\n", explanation.json(step)),
        (_, Some(step)) => explanation.sentence(step),
        (_, None) => explanation.text(terminal::columns()),
    };
    terminal::print(&text)?;
    Ok(0)
}
