//! How builder's costs grow: some scenarios at a tenth and ten times their size.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::bench::contexts::{Content, Context};
use crate::bench::scenarios::SETTLED;
use crate::bench::tools::{Build, Run, Tool};
use crate::bench::{Lab, scenarios};
use crate::shell::{self, Result};

/// What was measured of one scenario at several sizes.
pub(crate) struct Grown {
    pub(crate) id: &'static str,
    pub(crate) what: &'static str,
    /// Smallest first: how large, wall time, peak memory in bytes.
    pub(crate) points: Vec<(String, Duration, u64)>,
}

/// The name by which growth is asked for.
const NAME: &str = "G";

/// Splits `G` from the names of scenarios; it is part of all of them.
pub(crate) fn asked(names: &[String]) -> (Vec<String>, bool) {
    let (growth, rest): (Vec<String>, Vec<String>) =
        names.iter().cloned().partition(|name| name.eq_ignore_ascii_case(NAME));
    (rest, names.is_empty() || !growth.is_empty())
}

/// Measures each size once: what counts is how they relate.
pub(crate) fn run(tool: &mut Tool, lab: &Lab) -> Result<Vec<Grown>> {
    let mut steps = Grown { id: "S10", what: "RUN steps, no cache", points: Vec::new() };
    for count in [2, 20, 200] {
        let runs: String = (1..=count).map(|n| format!("RUN echo {n} > /{n}\n")).collect();
        let context =
            Content::Small.make(lab, &format!("steps-{count}"), &format!("FROM busybox\n{runs}"))?;
        tool.reset(true)?;
        once(tool, &context, true)?;
        steps.add(&count.to_string(), once(tool, &context, true)?);
    }
    let mut bytes = Grown { id: "S12", what: "COPY of one file, MB", points: Vec::new() };
    let large = Content::Large.make(lab, "large", scenarios::COPY_LARGE)?;
    for megabytes in [110, 1_100] {
        tool.reset(true)?;
        tool.discard()?;
        if megabytes == 1_100 {
            bytes.add("1100", once(tool, &large, false)?);
            continue;
        }
        let context = Content::Small.make(lab, "large-110", scenarios::COPY_LARGE)?;
        shell::run(
            shell::command("head")
                .args(["-c", "110000000"])
                .arg(large.dir.join("large"))
                .stdout(fs::File::create(context.dir.join("large"))?),
        )?;
        bytes.add("110", once(tool, &context, false)?);
    }
    let mut first = Grown { id: "S9", what: "first build, files", points: Vec::new() };
    let mut same = Grown { id: "S3", what: "nothing changed, files", points: Vec::new() };
    let mut changed = Grown { id: "S6", what: "one file changed, files", points: Vec::new() };
    for (content, files) in
        [(Content::Many(40), "10,000"), (Content::Many(400), "100,000"), (Content::Many(4_000), "1,000,000")]
    {
        let context = content.make(lab, &content.name(), scenarios::COPY_ALL)?;
        scenarios::touch(&context)?;
        // It may have been made just now.
        sleep(SETTLED);
        tool.reset(true)?;
        first.add(files, once(tool, &context, false)?);
        same.add(files, once(tool, &context, false)?);
        scenarios::touch(&context)?;
        changed.add(files, once(tool, &context, false)?);
    }
    Ok(vec![first, same, changed, steps, bytes])
}

fn once(tool: &mut Tool, context: &Context, no_cache: bool) -> Result<Run> {
    tool.run(&Build { context: &context.dir, dockerfile: None, no_cache, archive: None, user: false }, true)
}

impl Grown {
    fn add(&mut self, size: &str, run: Run) {
        println!("{} {} {size}: {}", self.id, self.what, shell::seconds(run.wall));
        self.points.push((size.to_owned(), run.wall, run.memory.unwrap_or_default()));
    }
}
