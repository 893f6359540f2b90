//! `debug`.

use std::path::Path;
use std::time::SystemTime;

use cache::KeptId;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use super::build;
use crate::failure::Failure;
use crate::{Machine, format, terminal};

/// Open a shell inside a step: one that failed, or any of a Dockerfile
///
/// Without arguments it opens in what the last step left that failed, or the one whose number is given. With --at it builds up to the
/// instruction at that line, from the cache where it can, and opens a shell behind it. The shell has the step's file system, mounts,
/// variables, user and network; secrets must be given again. What it changes is thrown away.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(
    override_usage = "builder debug [OPTIONS] [NUMBER]\n       builder debug --at LINE [BUILD OPTIONS] PATH",
    after_help = "\
Examples:
  builder debug                     look into the last step that failed
  builder debug --list              those that can be looked into
  builder debug 3 --command 'make V=1'
  builder debug --at 12 .           behind the instruction at line 12"
)]
pub(crate) struct Args {
    /// Open behind the instruction at this line of the Dockerfile
    #[arg(long, value_name = "LINE")]
    at: Option<u32>,

    /// Run this by the step's /bin/sh instead of an interactive shell
    #[arg(long, value_name = "COMMAND")]
    command: Option<String>,

    /// List failed steps that can be looked into
    #[arg(long, conflicts_with = "at")]
    list: bool,

    #[command(flatten)]
    build: build::Args,
}

/// Options of `build` that say where a result goes, or that something else is wanted.
const NOT_FOR_A_SHELL: [&str; 14] = [
    "tag",
    "output",
    "cache_to",
    "push",
    "load",
    "label",
    "annotation",
    "iidfile",
    "metadata_file",
    "quiet",
    "on_error",
    "check",
    "call",
    "timings",
];

/// Hides what this command has no use for.
pub(crate) fn without_outputs(command: Command) -> Command {
    build::hide(command, &NOT_FOR_A_SHELL)
}

/// An option that would change nothing.
pub(crate) fn misplaced(matches: &ArgMatches) -> Option<String> {
    let is_given = |id: &&&str| matches.value_source(id) == Some(ValueSource::CommandLine);
    NOT_FOR_A_SHELL.iter().find(is_given).map(|id| id.replace('_', "-"))
}

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    if args.list {
        return list();
    }
    if let Some(line) = args.at {
        return build::debug_at(args.build, line, args.command);
    }
    let number = match args.build.context() {
        // The default: nothing was named.
        path if path == Path::new(".") => None,
        path => Some(number(path)?),
    };
    build::debug_kept(args.build, number, args.command)
}

fn number(path: &Path) -> Result<KeptId, Failure> {
    path.to_str().and_then(|text| text.parse().ok()).map(KeptId).ok_or_else(|| {
        Failure::usage(format!("{} is no number of a failed step", path.display())).hint(
            "`builder debug --list` shows them; `builder debug --at LINE PATH` opens behind an instruction",
        )
    })
}

fn list() -> Result<u8, Failure> {
    let machine = Machine::enter()?;
    let steps = machine.existing_store()?.kept_steps()?;
    if steps.is_empty() {
        terminal::tell(&format!("{}.\n", build::NOTHING_KEPT));
        return Ok(0);
    }
    let mut rows = vec![["NUMBER", "FAILED", "STEP"].map(str::to_owned).to_vec()];
    let now = SystemTime::now();
    for step in steps.iter().rev() {
        rows.push(vec![step.id.0.to_string(), format::ago(step.created, now), step.name.clone()]);
    }
    terminal::print(&format::table_within(&rows, &[2], terminal::columns()))?;
    Ok(0)
}
