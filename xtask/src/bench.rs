//! `cargo xtask bench`: builder side by side with its peers.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::shell::{self, Result};
use crate::{bases, packages};

mod contexts;
mod report;
mod scenarios;
mod tools;

use scenarios::Scenario;
use tools::Tool;

/// Measures the scenarios of benches/README.md, builder side by side with Buildah, and with BuildKit when `buildctl` is
/// on the PATH and BUILDKIT_HOST is set. Prints a table of medians and ratios.
///
/// The tools take turns (A B A B), so that a machine that becomes slower or faster on the way does so for all. Peak
/// memory is measured in runs of its own.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which scenarios: S1 to S15, M1; all of them when none is named.
    scenario: Vec<String>,
    /// Fewer runs, and only the scenarios that take seconds.
    #[arg(long)]
    quick: bool,
    /// Only builder, no peers.
    #[arg(long)]
    alone: bool,
    /// Measures this binary instead of building one: for comparing two versions.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// How many times each tool takes its turn.
    #[arg(long)]
    pairs: Option<usize>,
    /// Also writes the figures, each single run included, to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One tool's figures in one scenario.
pub(crate) struct Figures {
    pub(crate) tool: &'static str,
    /// Wall times in the order measured; none when the tool cannot do this.
    pub(crate) times: Vec<Duration>,
    /// Peak resident memory of the largest process, in bytes.
    pub(crate) memory: Option<u64>,
    /// Why there are no figures.
    pub(crate) note: Option<String>,
}

/// One scenario's figures, builder's first.
pub(crate) struct Row {
    pub(crate) scenario: &'static Scenario,
    pub(crate) figures: Vec<Figures>,
}

/// Everything that scenarios and tools need to know about their surroundings.
pub(crate) struct Lab {
    pub(crate) dir: PathBuf,
    pub(crate) bases: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result {
    packages::ensure(packages::BASES)?;
    packages::ensure(packages::BENCH)?;
    let lab = Lab { bases: bases::ensure(false)?, dir: shell::target().join("bench") };
    fs::create_dir_all(&lab.dir)?;
    let binary = match &args.binary {
        Some(binary) => fs::canonicalize(binary)?,
        None => shell::builder(true)?,
    };
    let mut tools = vec![Tool::builder(binary, &lab)];
    if !args.alone {
        tools.push(Tool::buildah(&lab)?);
        tools.extend(Tool::buildkit(&lab)?);
    }
    let wanted = scenarios::select(&args.scenario, args.quick)?;
    let pairs = args.pairs.unwrap_or(if args.quick { 3 } else { 7 });
    let mut rows = Vec::new();
    for scenario in wanted {
        shell::heading(&format!("{} {}", scenario.id, scenario.what));
        let row = measure(scenario, &tools, &lab, pairs)?;
        report::row(&row);
        rows.push(row);
    }
    report::table(&rows);
    if let Some(file) = &args.json {
        fs::write(file, report::json(&rows)?)?;
        println!("written to {}", file.display());
    }
    Ok(())
}

fn measure(scenario: &'static Scenario, tools: &[Tool], lab: &Lab, pairs: usize) -> Result<Row> {
    let context = scenario.context(lab)?;
    println!("context: {}", context.about);
    let mut figures: Vec<Figures> = Vec::new();
    for tool in tools {
        let note = scenario.prepare(tool, &context, lab).err().map(|error| error.to_string());
        figures.push(Figures { tool: tool.name, times: Vec::new(), memory: None, note });
    }
    // The longest scenarios get fewer turns: their relative spread is small.
    let pairs = if scenario.long { pairs.min(3) } else { pairs };
    for _ in 0..pairs {
        for (tool, figures) in tools.iter().zip(&mut figures) {
            if figures.note.is_none() {
                match scenario.once(tool, &context, lab) {
                    Ok(time) => figures.times.push(time),
                    Err(error) => figures.note = Some(error.to_string()),
                }
            }
        }
    }
    for (tool, figures) in tools.iter().zip(&mut figures) {
        if figures.note.is_none() {
            figures.memory = Some(scenario.memory(tool, &context, lab)?);
        }
    }
    Ok(Row { scenario, figures })
}
