//! `compare`.

mod edits;
mod lone;
mod uses;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cache::Store;
use clap::ValueEnum;
use files::Selection;
use graph::{Input, Op, Source};
use insight::{BuildRecord, Comparison, OrderedStep, Ordering, StepInput};

use super::build::{self, Examined};
use crate::failure::Failure;
use crate::terminal;
use edits::Edits;
use uses::Uses;

/// Say what edits would rerun under two orders of instructions
///
/// Both Dockerfiles are read, and for each edit it is worked out which steps of either would run again, how long that took when they ran
/// last and how many bytes of layers it makes. Nothing is run. Without --change and --history, every directory of the context is edited
/// in turn. Where it is not known what a step takes, since it never ran here, sums say "at least".
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  builder compare old.Dockerfile new.Dockerfile .
  builder compare --change package.json --change src A B .
                                    two edits
  builder compare --history 200 A B .
                                    the last 200 commits
  builder compare --format=html -o report.html --history 200 A B .
                                    a page with both orderings side by side")]
pub(crate) struct Args {
    /// A Dockerfile
    #[arg(value_name = "A.Dockerfile")]
    a: PathBuf,

    /// Another
    #[arg(value_name = "B.Dockerfile")]
    b: PathBuf,

    /// The build context of both
    #[arg(value_name = "CONTEXT", default_value = ".")]
    context: PathBuf,

    /// An edit of this file, or of all files of this directory, relative to the context; repeatable, with commas for several files in
    /// one edit
    #[arg(long, value_name = "PATH")]
    change: Vec<String>,

    /// An edit for each directory, and for files that behave otherwise than the rest of theirs
    #[arg(long)]
    per_directory: bool,

    /// The edits of the last N commits of the repository that the context lies in
    #[arg(long, value_name = "N")]
    history: Option<usize>,

    /// Build both before, where that was not done yet, so that times and sizes are known
    #[arg(long)]
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
    let lines = [&args.a, &args.b].map(|file| args.line(file));
    let parsed = lines.iter().map(|line| build::Args::parsed(line)).collect::<Result<Vec<_>, _>>()?;
    if args.build {
        lines.iter().try_for_each(|line| build_now(line))?;
    }
    let (store, examined) = build::examine(&parsed)?;
    let records = records(&store)?;
    let orderings = examined.iter().map(|examined| ordering(&store, &records, examined)).collect();
    let uses = examined.iter().map(Uses::of).collect::<Result<Vec<_>, _>>()?;
    let edits = Edits { path: &args.context, examined: &examined, uses: &uses };
    let (edits, unit) = match (args.change.as_slice(), args.history) {
        ([], Some(count)) => (edits.of_history(count)?, "commit"),
        ([], None) => (edits.of_directories(), "edit"),
        (_, Some(_)) => return Err(Failure::usage("--change and --history exclude each other")),
        (changes, None) => {
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
        let mut add = |name: &str, value: &str| line.push(format!("--{name}={value}"));
        self.target.iter().for_each(|target| add("target", target));
        self.platform.iter().for_each(|platform| add("platform", platform));
        self.build_arg.iter().for_each(|value| add("build-arg", value));
        self.build_context.iter().for_each(|value| add("build-context", value));
        line.extend(["--".to_owned(), self.context.display().to_string()]);
        line
    }
}

/// Builds in a process of its own, which enters namespaces of its own.
fn build_now(line: &[String]) -> Result<(), Failure> {
    let program =
        std::env::current_exe().map_err(|error| Failure::machine(format!("find this program: {error}")))?;
    let mut build = Command::new(&program);
    build.arg("build").args(line).stdin(Stdio::null());
    let status = build.status().map_err(|error| Failure::io("start", &program, &error))?;
    match status.success() {
        true => Ok(()),
        false => {
            Err(Failure::build(format!("the build of {} failed", line.get(1).map_or("", String::as_str))))
        }
    }
}

/// All builds that are remembered, newest first.
fn records(store: &Store) -> Result<Vec<BuildRecord>, Failure> {
    let mut records = Vec::new();
    for id in store.builds()? {
        // A damaged one tells nothing, and is no reason to fail.
        let record = store.build_record(&id).ok().flatten();
        records.extend(record.and_then(|bytes| BuildRecord::from_json(&bytes).ok()));
    }
    Ok(records)
}

/// A plan as steps, with what each took when it ran: as the cache has it, else as builds have it that are remembered.
fn ordering(store: &Store, records: &[BuildRecord], examined: &Examined) -> Ordering {
    let definition = &examined.plan.definition;
    let needed = build::needed(&examined.plan);
    let place = |input: &Input| needed.iter().position(|id| *id == input.vertex);
    let layers: Vec<_> = examined.plan.targets.iter().flat_map(|target| &target.layer_steps).collect();
    let step = |id: &graph::VertexId| {
        let vertex = definition.vertex(*id);
        let note = examined.notes.get(id);
        let record = note.and_then(|note| note.record.as_ref());
        let layer = record.and_then(|record| record.layers.last()).filter(|_| vertex.op != Op::Merge);
        let size =
            layer.and_then(|layer| store.snapshot(*layer).ok().flatten()).map(|layer| layer.changes().size);
        // What came from elsewhere took its time there.
        let took = record.and_then(|record| record.run.took());
        let took = took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        let key = note.map(|note| note.key.to_string());
        let steps = || records.iter().flat_map(|record| &record.steps).filter(|step| step.cost.is_some());
        // The same work, or else what has the same name: with other files it takes about as long.
        let known = || steps().find(|step| step.key.is_some() && step.key == key);
        let alike = || steps().find(|step| title(&step.name) == title(&vertex.name));
        let remembered = if took.is_some() { None } else { known().or_else(alike) };
        let input = |input: &Input| {
            let whole = input.selection == Selection::Whole || is_all(definition, input);
            Some(StepInput { step: place(input)?, whole })
        };
        let is_source = matches!(vertex.op, Op::Source(_));
        OrderedStep {
            name: vertex.name.clone(),
            source: is_source,
            inputs: vertex.inputs.iter().filter_map(input).collect(),
            shows: uses::shows(&vertex.op),
            cost: took.or(remembered.and_then(|step| step.cost)).or(is_free(&vertex.op).then_some(0)),
            bytes: size.or(remembered.and_then(|step| step.bytes)).or(is_free(&vertex.op).then_some(0)),
            pushed: layers.contains(&id),
        }
    };
    Ordering { name: examined.name.clone(), steps: needed.iter().map(step).collect() }
}

fn title(name: &str) -> &str {
    name.strip_prefix('[').and_then(|rest| rest.split_once("] ")).map_or(name, |(_, title)| title)
}

/// Nothing worth measuring happens there.
fn is_free(op: &Op) -> bool {
    matches!(op, Op::Merge | Op::Source(_) | Op::Inline(_))
}

/// Whether a selection has all that there is: of the tree that is made of files of a context for a mount.
fn is_all(definition: &graph::Definition, input: &Input) -> bool {
    let vertex = definition.vertex(input.vertex);
    let (Op::Copy(copy), Selection::Path(path)) = (&vertex.op, &input.selection) else { return false };
    let below = vertex.inputs.first().map(|input| &definition.vertex(input.vertex).op);
    matches!(below, Some(Op::Source(Source::Scratch))) && copy.destination.trim_matches('/') == path.pattern
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    if path.as_os_str() == "-" {
        return terminal::print(text);
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let io = |error: io::Error| Failure::io("write", path, &error);
    let mut file = tempfile::NamedTempFile::new_in(parent).map_err(io)?;
    file.write_all(text.as_bytes()).map_err(io)?;
    file.persist(path).map(drop).map_err(|error| io(error.error))
}
