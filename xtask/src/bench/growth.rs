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

mod transfers;

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

/// The name by which growth is asked for; that of a single scenario by `G:S10`.
const NAME: &str = "G";

/// Those that are measured together.
const STEPS: [&str; 2] = ["S10", "S11"];
const BYTES: [&str; 1] = ["S12"];
const SOURCE: [&str; 4] = ["S8", "S2", "S4", "S5"];
const MANY: [&str; 4] = ["S9", "S3", "S6", "S7"];
const EXPORTS: [&str; 3] = ["S13", "S13z", "S13u"];
const PULLS: [&str; 1] = ["S14"];
const STAGES: [&str; 1] = ["S15"];
const ALL: [&[&str]; 7] = [&STEPS, &BYTES, &SOURCE, &MANY, &EXPORTS, &PULLS, &STAGES];

/// Runs of a size, unless one takes longer than [`LONG`].
const RUNS: usize = 3;
const LONG: Duration = Duration::from_secs(8);

/// What stays free on the disk, in bytes.
const RESERVE: u64 = 15 << 30;

/// Of which scenarios growth is measured; of all for no name.
pub(crate) struct Wanted(Vec<String>);

impl Wanted {
    fn any_of(&self, ids: &[&str]) -> bool {
        self.0.is_empty() || self.0.iter().any(|name| ids.iter().any(|id| id.eq_ignore_ascii_case(name)))
    }
}

/// Splits `G` and the like from the names of scenarios; growth is part of all of them.
///
/// # Errors
/// When that of one is asked for that has none.
pub(crate) fn asked(names: &[String]) -> Result<(Vec<String>, Option<Wanted>)> {
    if names.is_empty() {
        return Ok((Vec::new(), Some(Wanted(Vec::new()))));
    }
    let (mut rest, mut of, mut all) = (Vec::new(), Vec::new(), false);
    for name in names {
        match name.split_once(':') {
            _ if name.eq_ignore_ascii_case(NAME) => all = true,
            Some((growth, id)) if growth.eq_ignore_ascii_case(NAME) => of.push(id.to_owned()),
            _ => rest.push(name.clone()),
        }
    }
    let known = ALL.concat();
    if let Some(id) = of.iter().find(|id| !known.iter().any(|known| known.eq_ignore_ascii_case(id))) {
        return Err(format!("no growth of {id}; there is that of {}", known.join(", ")).into());
    }
    let wanted = if all { Some(Vec::new()) } else { Some(of).filter(|of| !of.is_empty()) };
    Ok((rest, wanted.map(Wanted)))
}

/// Measures each size, the largest once: what counts is how they relate.
pub(crate) fn run(tool: &mut Tool, lab: &Lab, wanted: &Wanted) -> Result<Vec<Grown>> {
    let source = [
        (Content::SourceTenths(1), "757"),
        (Content::Source, "7,578"),
        (Content::SourceTenths(100), "75,780"),
    ];
    let many =
        [(Content::Many(40), "10,000"), (Content::Many(400), "100,000"), (Content::Many(4_000), "1,000,000")];
    let steps = if wanted.any_of(&STEPS) { steps(tool, lab)? } else { Vec::new() };
    let bytes = if wanted.any_of(&BYTES) { Some(bytes(tool, lab)?) } else { None };
    let mut all = Vec::new();
    if wanted.any_of(&SOURCE) {
        all.extend(copies(tool, lab, SOURCE, &source, 3)?);
    }
    if wanted.any_of(&MANY) {
        all.extend(copies(tool, lab, MANY, &many, 2)?);
    }
    all.extend(steps);
    all.extend(bytes);
    if wanted.any_of(&EXPORTS) {
        all.extend(transfers::exports(tool, lab)?);
    }
    if wanted.any_of(&PULLS) {
        all.push(transfers::pulls(tool, lab, &source)?);
    }
    if wanted.any_of(&STAGES) {
        all.push(stages(tool, lab)?);
    }
    Ok(all)
}

/// Steps of which none is cached, and an archive of them.
fn steps(tool: &mut Tool, lab: &Lab) -> Result<Vec<Grown>> {
    let mut steps = Grown { id: STEPS[0], what: "RUN steps, no cache", points: Vec::new() };
    let mut exported = Grown { id: STEPS[1], what: "the same and an archive, steps", points: Vec::new() };
    let archive = lab.dir.join("archive.tar");
    for count in [2, 20, 200] {
        let runs: String = (1..=count).map(|n| format!("RUN echo {n} > /{n}\n")).collect();
        let context =
            Content::Small.make(lab, &format!("steps-{count}"), &format!("FROM busybox\n{runs}"))?;
        tool.reset(true)?;
        once(tool, &context, true)?;
        steps.measure(&count.to_string(), || once(tool, &context, true))?;
        let mut export = || {
            let archive = Some((archive.as_path(), None));
            tool.run(&Build { archive, ..build(&context, true) }, true)
        };
        // The base is compressed once, and remembered.
        export()?;
        exported.measure(&count.to_string(), export)?;
    }
    let _ = fs::remove_file(archive);
    Ok(vec![steps, exported])
}

/// Stages that wait. Sixteen steps are executed at a time.
fn stages(tool: &mut Tool, lab: &Lab) -> Result<Grown> {
    let mut grown = Grown { id: "S15", what: "stages of sleep 2", points: Vec::new() };
    for count in [3, 16, 48] {
        let stages: String =
            (1..=count).map(|n| format!("FROM busybox AS s{n}\nRUN sleep 2 && echo {n} > /{n}\n")).collect();
        let copies: String = (1..=count).map(|n| format!("COPY --from=s{n} /{n} /\n")).collect();
        let dockerfile = format!("{stages}FROM busybox\n{copies}");
        let context = Content::Small.make(lab, &format!("stages-{count}"), &dockerfile)?;
        tool.reset(true)?;
        once(tool, &context, true)?;
        grown.measure(&count.to_string(), || once(tool, &context, true))?;
    }
    Ok(grown)
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

pub(super) fn once(tool: &mut Tool, context: &Context, no_cache: bool) -> Result<Run> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_of_one_scenario_can_be_asked_for() {
        let asked = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let (rest, wanted) = asked(&names).map_err(|error| error.to_string())?;
            Ok::<_, String>((rest, wanted.map(|wanted| [wanted.any_of(&PULLS), wanted.any_of(&EXPORTS)])))
        };
        assert_eq!(asked(&[]), Ok((vec![], Some([true, true]))));
        assert_eq!(asked(&["S1"]), Ok((vec!["S1".to_owned()], None)));
        assert_eq!(asked(&["g"]), Ok((vec![], Some([true, true]))));
        assert_eq!(asked(&["S1", "g:s13Z"]), Ok((vec!["S1".to_owned()], Some([false, true]))));
        assert_eq!(asked(&["G:S14", "G"]), Ok((vec![], Some([true, true]))));
        assert!(
            asked(&["G:S1"]).is_err_and(|error| error.starts_with("no growth of S1; there is that of S10"))
        );
    }
}
