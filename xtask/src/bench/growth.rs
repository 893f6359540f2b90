//! How builder's costs grow: scenarios at a tenth and ten times their size.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use crate::bench::contexts::{Content, Context};
use crate::bench::scenarios::{self, SETTLED};
use crate::bench::tools::{Build, Run, Tool};
use crate::bench::{Lab, report};
use crate::shell::{self, Result};

/// What was measured of one scenario at several sizes.
pub(crate) struct Grown {
    pub(crate) id: &'static str,
    pub(crate) what: &'static str,
    /// Smallest first.
    pub(crate) points: Vec<Point>,
}

/// One size.
pub(crate) struct Point {
    /// With commas, as a person reads it.
    pub(crate) size: String,
    pub(crate) times: Vec<Duration>,
    /// Processor time of each run.
    pub(crate) processor: Vec<Duration>,
    /// Peak, in bytes.
    pub(crate) memory: u64,
}

/// The name by which growth is asked for.
const NAME: &str = "G";

/// Runs of a size, unless one takes longer than [`LONG`].
const RUNS: usize = 3;
const LONG: Duration = Duration::from_secs(8);

/// What stays free on the disk, in bytes.
const RESERVE: u64 = 15 << 30;

/// Splits `G` from the names of scenarios; it is part of all of them.
pub(crate) fn asked(names: &[String]) -> (Vec<String>, bool) {
    let (growth, rest): (Vec<String>, Vec<String>) =
        names.iter().cloned().partition(|name| name.eq_ignore_ascii_case(NAME));
    (rest, names.is_empty() || !growth.is_empty())
}

/// Measures each size, the largest once: what counts is how they relate.
pub(crate) fn run(tool: &mut Tool, lab: &Lab) -> Result<Vec<Grown>> {
    let source = [
        (Content::SourceTenths(1), "757"),
        (Content::Source, "7,578"),
        (Content::SourceTenths(100), "75,780"),
    ];
    let many =
        [(Content::Many(40), "10,000"), (Content::Many(400), "100,000"), (Content::Many(4_000), "1,000,000")];
    let steps = steps(tool, lab)?;
    let bytes = bytes(tool, lab)?;
    let mut all = copies(tool, lab, ["S8", "S2", "S4", "S5"], &source, 3)?;
    all.extend(copies(tool, lab, ["S9", "S3", "S6", "S7"], &many, 2)?);
    all.extend([steps, bytes]);
    Ok(all)
}

/// Steps of which none is cached.
fn steps(tool: &mut Tool, lab: &Lab) -> Result<Grown> {
    let mut steps = Grown { id: "S10", what: "RUN steps, no cache", points: Vec::new() };
    for count in [2, 20, 200] {
        let runs: String = (1..=count).map(|n| format!("RUN echo {n} > /{n}\n")).collect();
        let context =
            Content::Small.make(lab, &format!("steps-{count}"), &format!("FROM busybox\n{runs}"))?;
        tool.reset(true)?;
        once(tool, &context, true)?;
        steps.measure(&count.to_string(), || once(tool, &context, true))?;
    }
    Ok(steps)
}

/// One file.
fn bytes(tool: &mut Tool, lab: &Lab) -> Result<Grown> {
    let mut bytes = Grown { id: "S12", what: "COPY of one file, MB", points: Vec::new() };
    for (tenths, size) in [(1, "110"), (10, "1,100"), (100, "11,000")] {
        tool.reset(true)?;
        tool.discard()?;
        let content = if tenths == 10 { Content::Large } else { Content::LargeTenths(tenths) };
        // The context, and its copy in the store.
        if free(&lab.dir)? < RESERVE + u64::from(tenths) * 220_000_000 {
            println!("S12 at {size} MB: not enough room on the disk");
            continue;
        }
        let context = content.make(lab, &content.name(), scenarios::COPY_LARGE)?;
        bytes.measure(size, || {
            tool.reset(true)?;
            tool.discard()?;
            once(tool, &context, false)
        })?;
        if tenths > 10 {
            tool.reset(true)?;
            tool.discard()?;
            context.remove()?;
        }
    }
    Ok(bytes)
}

/// A first build of many files, the same again, after a change, and after a change with an archive; archives of the smallest `exported` sizes.
fn copies(
    tool: &mut Tool,
    lab: &Lab,
    ids: [&'static str; 4],
    sizes: &[(Content, &str)],
    exported: usize,
) -> Result<Vec<Grown>> {
    let what = [
        "first build, files",
        "nothing changed, files",
        "one file changed, files",
        "the same and an archive, files",
    ];
    let mut grown: Vec<Grown> =
        ids.into_iter().zip(what).map(|(id, what)| Grown { id, what, points: Vec::new() }).collect();
    let archive = lab.dir.join("archive.tar");
    for (number, (content, files)) in sizes.iter().enumerate() {
        let context = content.make(lab, &content.name(), scenarios::COPY_ALL)?;
        scenarios::touch(&context)?;
        // It may have been made just now.
        sleep(SETTLED);
        grown[0].measure(files, || {
            tool.reset(true)?;
            once(tool, &context, false)
        })?;
        grown[1].measure(files, || once(tool, &context, false))?;
        grown[2].measure(files, || {
            scenarios::touch(&context)?;
            once(tool, &context, false)
        })?;
        if number < exported {
            let mut export = || {
                scenarios::touch(&context)?;
                let archive = Some((archive.as_path(), None));
                tool.run(&Build { archive, ..build(&context, false) }, true)
            };
            // All pieces are compressed once, and remembered.
            export()?;
            grown[3].measure(files, export)?;
        }
    }
    // At a million files the first archive alone takes a minute.
    let _ = fs::remove_file(archive);
    Ok(grown)
}

fn build(context: &Context, no_cache: bool) -> Build<'_> {
    Build { context: &context.dir, dockerfile: None, no_cache, archive: None, user: false }
}

fn once(tool: &mut Tool, context: &Context, no_cache: bool) -> Result<Run> {
    tool.run(&build(context, no_cache), true)
}

/// Bytes that are free on the disk of a directory.
fn free(dir: &Path) -> Result<u64> {
    let found = rustix::fs::statvfs(dir)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

impl Grown {
    /// Adds a size, after a few runs.
    fn measure(&mut self, size: &str, mut run: impl FnMut() -> Result<Run>) -> Result {
        let mut point = Point { size: size.to_owned(), times: Vec::new(), processor: Vec::new(), memory: 0 };
        while point.times.len() < RUNS && point.times.last().is_none_or(|last| *last < LONG) {
            let Run { wall, memory, processor } = run()?;
            point.times.push(wall);
            point.processor.extend(processor);
            point.memory = point.memory.max(memory.unwrap_or_default());
        }
        let median = report::median(&point.times).unwrap_or_default();
        let processor = report::median(&point.processor).unwrap_or_default();
        println!(
            "{} {} {size}: {} ({} processor time, {} MB)",
            self.id,
            self.what,
            shell::seconds(median),
            shell::seconds(processor),
            point.memory / 1_000_000
        );
        self.points.push(point);
        Ok(())
    }
}
