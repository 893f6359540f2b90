//! `CopyBeforeExpensiveRun`: packages are installed after files are copied that the installation does not need, so that each edit of
//! one of them installs everything again.
//!
//! The finding comes with lines that cure it. They are given only where all of this is certain: what the installation reads
//! (see [`packages`](super::packages)), that these files are there, and that nothing in between depends on the order.

mod cure;
mod cut;
mod needs;

use std::collections::BTreeSet;

use parser::{Diagnostic, InstructionKind};

use super::arg_reaches_unrelated_run::has_name;
use super::packages::Work;
use super::steps::{NEAR, Run, Stage, Step, Transfer, is_within};
use super::{Advice, Subject};
use cut::{Cut, Installation};
use needs::{Context, Need};

/// A directory of so many files is a large part of the context; half of it is in any case.
const MANY: usize = 8;

/// Where programs that install packages look for their configuration.
const CONFIGURATION: [&str; 3] = ["/root", "/home", "/opt"];

/// The same, and where copies that take much would change the system itself.
const SYSTEM: [&str; 8] =
    ["/etc", "/usr/share", "/usr/local/share", "/usr/lib", "/usr/local/etc", "/lib", "/var/lib", "/bin"];

/// From the first copy that is too broad to the last installation that could stand above it.
#[derive(Default)]
struct Region {
    /// The copies, which are to stand below.
    copies: Vec<usize>,
    /// What stands between and has to go along if something below is moved.
    waiting: Vec<usize>,
    /// What is to stand above, in order.
    moved: Vec<Moved>,
}

/// Something to be moved above the copies.
enum Moved {
    /// What the next installation needs, copied to where the working directory is this, if it is known.
    Needs { needs: Vec<Need>, directory: Option<String> },
    /// An instruction as it is.
    Along(usize),
    /// A RUN that installs something, or the part of it that does.
    Install { step: usize, cut: Cut },
}

pub(super) fn look(subject: &Subject<'_>, stage: &Stage<'_>, advice: &mut Advice<'_>) {
    let mut walk = Walk { subject, stage, region: None, installed: BTreeSet::new() };
    for index in 0..stage.steps.len() {
        if let Ended::Here = walk.step(index) {
            walk.end(advice);
        }
    }
    walk.end(advice);
}

struct Walk<'s, 'a> {
    subject: &'s Subject<'a>,
    stage: &'s Stage<'a>,
    region: Option<Region>,
    /// Managers that were at work above the region: the project does what is advised here already.
    installed: BTreeSet<&'static str>,
}

/// Whether what comes after an instruction has to stay after it.
enum Ended {
    Here,
    NotYet,
}

impl Walk<'_, '_> {
    fn step(&mut self, index: usize) -> Ended {
        let step = &self.stage.steps[index];
        if self
            .region
            .as_ref()
            .and_then(|region| region.copies.first())
            .is_some_and(|first| index - first > NEAR)
        {
            return Ended::Here;
        }
        if step.is_unknown() {
            return Ended::Here;
        }
        if let Some(transfer) = step.transfer() {
            return self.transfer(index, transfer);
        }
        if let Some(run) = step.run() {
            return self.run(index, run);
        }
        let names: Vec<&str> = match &step.instruction.kind {
            InstructionKind::Env(env) => env.pairs.iter().map(|pair| pair.key.text.as_str()).collect(),
            InstructionKind::Arg(arg) => arg.names.iter().map(|name| name.key.text.as_str()).collect(),
            InstructionKind::Workdir(_) | InstructionKind::User(_) | InstructionKind::Shell(_) => Vec::new(),
            _ => return Ended::NotYet,
        };
        let Some(region) = &mut self.region else { return Ended::NotYet };
        // Above the copies, it would change what they say.
        let copies = region.copies.iter().map(|&copy| self.stage.steps[copy].instruction);
        if copies.into_iter().any(|copy| names.iter().any(|name| has_name(&copy.text, name))) {
            return Ended::Here;
        }
        region.waiting.push(index);
        Ended::NotYet
    }

    fn transfer(&mut self, index: usize, transfer: &Transfer<'_>) -> Ended {
        let is_broad = is_broad(transfer, self.subject);
        let overlaps = |copy: &usize| {
            let other = self.stage.steps[*copy].transfer();
            other.is_some_and(|other| {
                is_within(other.destination, transfer.destination)
                    || is_within(transfer.destination, other.destination)
            })
        };
        match &mut self.region {
            None if is_broad => {
                self.region = Some(Region { copies: vec![index], ..Region::default() });
                Ended::NotYet
            }
            None => Ended::NotYet,
            Some(region) if is_broad => {
                region.copies.push(index);
                Ended::NotYet
            }
            // In the other order, another one of two files would be there in the end.
            Some(region) if region.copies.iter().any(overlaps) => Ended::Here,
            Some(region) => {
                // What comes from elsewhere does not change with the context, and configuration may be for the installation.
                // Everything else has no business above it.
                let is_of_context = transfer.sources.iter().any(|source| source.is_of_context());
                if !is_of_context || is_configuration(transfer.destination) {
                    region.waiting.push(index);
                }
                Ended::NotYet
            }
        }
    }

    fn run(&mut self, index: usize, run: &Run<'_>) -> Ended {
        let Some(region) = &mut self.region else {
            let managers =
                run.script.commands.iter().filter_map(|command| match super::packages::work(command) {
                    Work::Install(install) if !install.files.is_empty() => Some(install.manager),
                    _ => None,
                });
            self.installed.extend(managers);
            return Ended::NotYet;
        };
        let Some(cut) = cut::cut(run) else { return Ended::Here };
        if cut.installations.is_empty() {
            region.waiting.push(index);
            return Ended::NotYet;
        }
        let copies: Vec<&Step<'_>> = region.copies.iter().map(|&copy| &self.stage.steps[copy]).collect();
        let context = Context { copies: &copies, listing: self.subject.context };
        let mut needs = Vec::new();
        for Installation { directory, install, .. } in &cut.installations {
            let Some(install) = install else { continue };
            if install.files.is_empty() {
                continue;
            }
            let found = (!self.installed.contains(install.manager))
                .then(|| needs::of(install, directory, &context))
                .flatten();
            let Some(found) = found else { return Ended::Here };
            needs.extend(found);
        }
        // Directories that commands enter come from the copies, or from what is copied instead.
        if cut.enters && needs.is_empty() {
            return Ended::Here;
        }
        // Whether others than root may write to a directory depends on who made it, which another order changes.
        if !needs.is_empty() && !is_root(&run.exec.user) {
            return Ended::Here;
        }
        let is_last = cut.rest.is_some();
        if !needs.is_empty() {
            let moves = |index: &usize| {
                matches!(self.stage.steps[*index].instruction.kind, InstructionKind::Workdir(_))
            };
            let directory = (!region.waiting.iter().any(moves)).then(|| run.exec.cwd.clone());
            region.moved.push(Moved::Needs { needs, directory });
        }
        region.moved.extend(region.waiting.drain(..).map(Moved::Along));
        region.moved.push(Moved::Install { step: index, cut });
        if is_last { Ended::Here } else { Ended::NotYet }
    }

    /// Says what was found between here and the first copy.
    fn end(&mut self, advice: &mut Advice<'_>) {
        let Some(region) = self.region.take() else { return };
        if region.moved.is_empty() {
            return;
        }
        let copies: Vec<&Step<'_>> = region.copies.iter().map(|&copy| &self.stage.steps[copy]).collect();
        let needed: Vec<&Need> = region.moved.iter().flat_map(Moved::needs).collect();
        if let Some(listing) = self.subject.context
            && !needs::are_others(&copies, &needed, listing)
        {
            return;
        }
        let Some(cure) = cure::lines(self.subject.source, self.stage, &region) else { return };
        let Some(first) = copies.first() else { return };
        let installs: Vec<&Step<'_>> =
            region.moved.iter().filter_map(Moved::install).map(|step| &self.stage.steps[step]).collect();
        let mut commands: Vec<String> = region.moved.iter().filter_map(Moved::command).collect();
        commands.dedup();
        let runs = if commands.len() == 1 { "runs" } else { "run" };
        let message =
            format!("{} {runs} again whenever a file that is copied here changes", super::listed(&commands));
        let mut finding = Diagnostic::warning(first.instruction.span, message)
            .with_rule("CopyBeforeExpensiveRun")
            .with_note(note(&needed, commands.len() == 1));
        for install in &installs {
            finding = finding.with_related(install.instruction.span, "runs again");
        }
        let mut replaced: Vec<String> =
            needed.iter().flat_map(|need| &need.replaced).map(|path| format!("`/{path}`")).collect();
        replaced.dedup();
        let first = match replaced.as_slice() {
            [] => String::new(),
            replaced => format!("put {} into .dockerignore, and ", super::listed(replaced)),
        };
        let finding = finding.with_help(format!("{first}write instead:\n{cure}"));
        let comments: Vec<_> = copies.iter().chain(&installs).map(|step| step.comments()).collect();
        advice.give(finding, &comments);
    }
}

impl Moved {
    fn needs(&self) -> &[Need] {
        match self {
            Moved::Needs { needs, .. } => needs,
            Moved::Along(_) | Moved::Install { .. } => &[],
        }
    }

    fn install(&self) -> Option<usize> {
        match self {
            Moved::Needs { .. } | Moved::Along(_) => None,
            Moved::Install { step, .. } => Some(*step),
        }
    }

    /// What is done, in two words.
    fn command(&self) -> Option<String> {
        match self {
            Moved::Needs { .. } | Moved::Along(_) => None,
            Moved::Install { cut, .. } => cut.installations.first().map(|first| format!("`{}`", first.name)),
        }
    }
}

fn is_root(user: &str) -> bool {
    matches!(user.split(':').next(), None | Some("" | "root" | "0"))
}

fn note(needed: &[&Need], single: bool) -> String {
    let mut names: Vec<String> = needed.iter().map(|need| need.shown()).collect();
    names.sort();
    names.dedup();
    match names.as_slice() {
        [] => format!("{} none of these files", if single { "it needs" } else { "they need" }),
        names => {
            format!(
                "of these files {} {}",
                if single { "it needs" } else { "they need" },
                super::listed(names)
            )
        }
    }
}

fn is_configuration(destination: &str) -> bool {
    let file = destination.rsplit('/').next().unwrap_or_default();
    SYSTEM.iter().chain(&CONFIGURATION).any(|directory| is_within(destination, directory))
        || file.starts_with('.')
}

/// Whether a copy takes so much of the context that somebody will change something of it before long.
fn is_broad(transfer: &Transfer<'_>, subject: &Subject<'_>) -> bool {
    let destination = transfer.destination.trim_end_matches('/');
    if destination.is_empty() || SYSTEM.iter().any(|system| is_within(destination, system)) {
        return false;
    }
    let is_many = |directory: &str| {
        subject.context.is_some_and(|context| {
            let (count, all) = (context.below(directory).len(), context.files().len());
            count >= MANY || count > 2 && count * 2 >= all
        })
    };
    let no_parents = transfer.sources.iter().all(|source| source.selection.include.is_none());
    no_parents
        && transfer.sources.iter().any(|source| {
            let pattern = source.selection.pattern.as_str();
            source.is_of_context()
                && (matches!(pattern, "" | "*") || !source.selection.wildcards && is_many(pattern))
        })
}
