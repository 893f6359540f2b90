//! `compare`.
//!
//! From top to bottom: what is compared (`side`: a Dockerfile, which is built where nothing is known of it, or a build that was recorded), its
//! steps (`ordering`), the files that they use (`uses`, `recorded`, `context_view`, `lone`, `links`), and the edits (`edits`, `ignored`, `whole`).

mod context_view;
mod edits;
mod ignored;
mod links;
mod lone;
mod ordering;
mod recorded;
mod side;
mod uses;
mod whole;

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use insight::{BuildRecord, Comparison, Ordering};

use super::{build, history};
use crate::failure::Failure;
use crate::terminal;
use edits::Edits;
use side::Side;
use uses::Uses;

/// Say what edits would rerun under two orders of instructions
///
/// For each edit it is worked out which steps of either Dockerfile would run again, how long that took when they ran last, and how many bytes of
/// layers it makes. For that nothing is run; but a Dockerfile with steps that never ran here, so that nobody knows what they take, is
/// built before. Builds that were recorded can be named instead of files. Without --change and --history, every directory of the context is
/// edited in turn.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  builder compare old.Dockerfile new.Dockerfile .
  builder compare --change package.json --change src A B .
                                    two edits
  builder compare --history 200 A B .
                                    the last 200 commits
  builder compare ^0 new.Dockerfile .
                                    the last build and a new file
  builder compare --format=html -o report.html --history 200 A B .
                                    a page with both orderings side by side")]
pub(crate) struct Args {
    /// A Dockerfile; or a recorded build: its id or the beginning of it, ^1 for the one before the last, an image's name or id for the build
    /// that made it last, or a file that `builder history export` wrote
    #[arg(value_name = "A")]
    a: PathBuf,

    /// Another
    #[arg(value_name = "B")]
    b: PathBuf,

    /// The build context of both
    #[arg(value_name = "CONTEXT", default_value = ".")]
    context: PathBuf,

    /// An edit of this file, or of all files of this directory, relative to the context; repeatable, with commas for several files in
    /// one edit
    #[arg(long, value_name = "PATH", conflicts_with = "history")]
    change: Vec<String>,

    /// An edit for each directory, and for files that behave otherwise than the rest of theirs
    #[arg(long)]
    per_directory: bool,

    /// The edits of the last N commits of the repository that the context lies in
    #[arg(long, value_name = "N")]
    history: Option<usize>,

    /// Build nothing: where steps never ran here, sums say "at least"
    #[arg(long)]
    no_build: bool,

    /// What is done anyway
    #[arg(long, hide = true, conflicts_with = "no_build")]
    build: bool,

    /// text, json or html
    #[arg(long, value_enum, hide_possible_values = true, value_name = "FORMAT", default_value = "text")]
    format: Format,

    /// File that gets the answer; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,

    /// Stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,

    /// Value for an ARG; repeatable
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,

    /// What FROM and COPY --from find under a name, as of `build`; repeatable
    #[arg(long, value_name = "NAME=SOURCE")]
    build_context: Vec<String>,

    /// Platform of the image
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For the terminal
    Text,
    /// For programs
    Json,
    /// A page
    Html,
}

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    if args.format == Format::Html && args.output.as_os_str() == "-" && io::stdout().is_terminal() {
        return Err(
            Failure::usage("a page is nothing for a terminal").hint("name a file with -o report.html")
        );
    }
    let sides = [&args.a, &args.b].map(|given| Side::of(given));
    let [a, b] = sides;
    let mut sides = [a?, b?];
    let of_files = sides.iter().filter_map(Side::dockerfile);
    let lines: Vec<Vec<String>> = of_files.map(|file| args.line(file)).collect();
    let parsed = lines.iter().map(|line| build::Args::parsed(line)).collect::<Result<Vec<_>, _>>()?;
    if !args.no_build && !parsed.is_empty() {
        // First: what is built then is recorded too, and is the last build since.
        sides.iter_mut().try_for_each(Side::settle)?;
        sides.iter().try_for_each(|side| side.build_unless_known(&args))?;
    }
    let (store, examined) = build::examine(&parsed)?;
    let records: Vec<BuildRecord> = history::records(&store)?.map(|(_, record)| record).collect();
    let mut examined = examined.iter();
    let mut compared: Vec<(Ordering, Uses)> = Vec::new();
    for side in sides {
        compared.push(match (side.record(&store)?, side.dockerfile()) {
            (None, Some(file)) => {
                let Some(examined) = examined.next() else { continue };
                let uses = Uses::of(examined, file, &args.context)?;
                (ordering::of(&store, &records, examined), uses)
            }
            (Some(record), _) => {
                let listing = history::listing(&store, [&record, &record]);
                let uses = Uses::recorded(&record, &args.context, &listing)?;
                (Ordering::of_record(&record), uses)
            }
            (None, None) => continue,
        });
    }
    let (orderings, uses): (Vec<Ordering>, Vec<Uses>) = compared.into_iter().unzip();
    let edits = Edits::new(&args.context, &uses)?;
    let (edits, unit) = match (args.change.as_slice(), args.history) {
        ([], Some(count)) => (edits.of_history(count)?, "commit"),
        ([], None) => (edits.of_directories(), "edit"),
        (changes, _) => {
            let mut named = edits.of_changes(changes)?;
            if args.per_directory {
                named.extend(edits.of_directories());
            }
            (named, "edit")
        }
    };
    let comparison = Comparison::new(orderings, edits, unit);
    let text = match args.format {
        Format::Text => comparison.text(terminal::columns()),
        Format::Json => format!("{:#}\n", comparison.json()),
        Format::Html => comparison.html(),
    };
    write(&args.output, &text)?;
    Ok(0)
}

impl Args {
    /// The arguments of `build` for one of the files.
    fn line(&self, file: &Path) -> Vec<String> {
        let mut line = vec!["-f".to_owned(), file.display().to_string()];
        line.extend(self.options());
        line.extend(["--".to_owned(), self.context.display().to_string()]);
        line
    }

    /// The options that `build` has as well.
    fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        let mut add = |name: &str, value: &str| options.push(format!("--{name}={value}"));
        self.target.iter().for_each(|target| add("target", target));
        self.platform.iter().for_each(|platform| add("platform", platform));
        self.build_arg.iter().for_each(|value| add("build-arg", value));
        self.build_context.iter().for_each(|value| add("build-context", value));
        options
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    if path.as_os_str() == "-" {
        return terminal::print(text);
    }
    let file = exporter::Output::File(path.to_owned());
    Ok(file.write(|out| out.write_all(text.as_bytes()).map_err(exporter::ExportError::Stream))?)
}
