//! `cargo xtask bench`: builder side by side with its peers.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::shell::{self, Result};
use crate::{bases, order, packages};

mod contexts;
mod counts;
mod erofs;
mod growth;
mod limits;
mod machine;
mod report;
mod results;
mod scenarios;
mod tools;
mod user;

use scenarios::Scenario;
use tools::Tool;

/// Measures the scenarios of benches/README.md, builder side by side with Buildah, and with BuildKit when `buildctl` is
/// on the PATH and BUILDKIT_HOST is set. Prints a table of medians and ratios.
///
/// The tools take turns (A B A B), so that a machine that becomes slower or faster on the way does so for all. A tool that has used up its
/// time in a scenario gets no more turns in it: all scenarios take some 35 minutes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which scenarios: S1 to S16, M1, G (growth), G:S10 (growth of one); all of them when none is named. Or `erofs`, alone.
    scenario: Vec<String>,
    /// Counts what builder asks of the kernel instead of measuring times, and compares that with benches/counts.json.
    #[arg(long, conflicts_with_all = ["scenario", "alone", "pairs", "json", "check", "budget"])]
    quick: bool,
    /// Only builder, no peers.
    #[arg(long)]
    alone: bool,
    /// Measures this binary instead of building one: for comparing two versions.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// How many times each tool takes its turn, at most.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// After how many seconds a tool gets no more turns in a scenario; it always gets one, and three where one takes less than 20 s.
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    budget: u64,
    /// Also writes the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the figures to benches/results/ and the short table of README.md; with --quick the counts.
    #[arg(long)]
    write: bool,
    /// Measures nothing: says whether the table of README.md and that of limits are those of benches/results/, and whether each target that was
    /// missed has its reason there.
    #[arg(long, conflicts_with_all = ["scenario", "write", "json"])]
    check: bool,
    /// Measures nothing: writes both tables from the figures of benches/results/.
    #[arg(long, conflicts_with_all = ["scenario", "write", "json", "check", "quick"])]
    tables: bool,
}

/// One tool's figures in one scenario.
pub(crate) struct Figures {
    pub(crate) tool: &'static str,
    /// Wall times in the order measured; none when the tool cannot do this.
    pub(crate) times: Vec<Duration>,
    /// Peak resident memory of the largest process, in bytes.
    pub(crate) memory: Option<u64>,
    /// The same of the tool's daemon, where it has one, since that was started.
    pub(crate) daemon: Option<u64>,
    /// Processor time of the tool's own processes.
    pub(crate) processor: Option<Duration>,
    /// Why there are no figures.
    pub(crate) note: Option<String>,
}

/// One scenario's figures, builder's first.
pub(crate) struct Row {
    pub(crate) scenario: &'static Scenario,
    pub(crate) context: String,
    pub(crate) figures: Vec<Figures>,
}

/// Everything that scenarios and tools need to know about their surroundings.
pub(crate) struct Lab {
    pub(crate) dir: PathBuf,
    pub(crate) bases: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result {
    if args.check {
        return results::check();
    }
    if args.tables {
        return results::rewrite();
    }
    packages::ensure(packages::BASES)?;
    packages::ensure(if args.quick { packages::COUNTS } else { packages::BENCH })?;
    let lab = Lab { bases: bases::ensure(false)?, dir: shell::target().join("bench") };
    fs::create_dir_all(&lab.dir)?;
    let binary = match &args.binary {
        Some(binary) => fs::canonicalize(binary)?,
        None => shell::builder(!args.quick)?,
    };
    if args.quick {
        return counts::run(&binary, &lab, args.write);
    }
    // It is measured as it is. Another binary has another list.
    if args.binary.is_none()
        && let Err(error) = order::check(&binary)
    {
        println!("note: {error}");
    }
    if args.write && !args.scenario.is_empty() {
        return Err("--write is for all scenarios, from one run".into());
    }
    // First of all: half an hour of figures that are of nothing in particular would be lost.
    let machine = if args.write { Some(machine::describe(&binary)?) } else { None };
    if let Some(machine) = &machine {
        println!("measured: commit {} against {}", machine["revision"], machine["tools"]);
    }
    let start = Instant::now();
    let mut tools = vec![Tool::builder(binary, &lab)?];
    if args.scenario == [erofs::NAME] {
        erofs::run(&mut tools[0], &lab)?;
        return tools.into_iter().try_for_each(Tool::clean);
    }
    if !args.alone {
        tools.push(Tool::buildah(&lab)?);
        tools.extend(Tool::buildkit(&lab)?);
    }
    let (names, growing) = growth::asked(&args.scenario)?;
    let wanted = scenarios::select(&names, !args.scenario.is_empty())?;
    let mut rows = Vec::new();
    for scenario in wanted {
        shell::heading(&format!("{} {}", scenario.id, scenario.what));
        let row = measure(scenario, &mut tools, &lab, args)?;
        report::row(&row);
        rows.push(row);
    }
    let mut grown = Vec::new();
    if let Some(growing) = growing {
        shell::heading("growth: builder alone, at a tenth and ten times the size");
        grown = growth::run(&mut tools[0], &lab, &growing)?;
    }
    for tool in tools {
        tool.clean()?;
    }
    report::table(&rows);
    report::growth(&grown);
    println!("\nall of it: {}", shell::seconds(start.elapsed()));
    let figures = report::json(&rows, &grown);
    if let Some(file) = &args.json {
        fs::write(file, serde_json::to_string_pretty(&figures)? + "\n")?;
        println!("written to {}", file.display());
    }
    machine.map_or(Ok(()), |machine| results::write(figures, machine))
}

fn measure(scenario: &'static Scenario, tools: &mut [Tool], lab: &Lab, args: &Args) -> Result<Row> {
    let context = scenario.context(lab)?;
    println!("context: {}", context.about);
    let mut figures: Vec<Figures> = Vec::new();
    for tool in tools.iter_mut() {
        let note = scenario.prepare(tool, &context, lab).err().map(|error| error.to_string());
        let tool = tool.name;
        figures.push(Figures { tool, times: Vec::new(), memory: None, daemon: None, processor: None, note });
    }
    let mut spent = vec![Duration::ZERO; tools.len()];
    let budget = Duration::from_secs(args.budget);
    for turn in 0..args.pairs.max(1) {
        for ((tool, figures), spent) in tools.iter_mut().zip(&mut figures).zip(&mut spent) {
            if figures.note.is_some() || !has_turn(turn, *spent, budget) {
                continue;
            }
            match scenario.once(tool, &context, lab) {
                Ok(run) => {
                    *spent += run.wall;
                    figures.times.push(run.wall);
                    // Only the turns under time(1) know of these.
                    figures.memory = figures.memory.max(run.memory);
                    figures.processor = run.processor.or(figures.processor);
                }
                Err(error) => figures.note = Some(error.to_string()),
            }
        }
    }
    for (tool, figures) in tools.iter_mut().zip(&mut figures) {
        if figures.note.is_none() && figures.memory.is_none() {
            let run = scenario.watched(tool, &context, lab)?;
            (figures.memory, figures.processor) = (run.memory, run.processor);
        }
        figures.daemon = tool.daemon_memory();
    }
    Ok(Row { scenario, context: context.about, figures })
}

/// A turn that takes longer than this need not be taken three times.
const LONG: Duration = Duration::from_secs(20);

/// Whether a tool that has had so many turns, which took it so long without what comes before each, gets another.
fn has_turn(had: usize, spent: Duration, budget: Duration) -> bool {
    spent < budget || had == 0 || (had < 3 && spent < LONG * had as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_three_where_that_is_not_too_long() {
        let has = |had, spent| has_turn(had, Duration::from_secs(spent), Duration::from_secs(15));
        assert!(has(0, 0) && has(4, 14) && !has(4, 16));
        assert!(has(1, 19) && has(2, 38) && !has(3, 57));
        assert!(!has(1, 21) && !has(2, 41));
    }
}
