//! `AptGetUpdateAlone`: package lists fetched by one step, packages installed by another. The first is found in the cache when the
//! second is not, and the lists are old by then.

use parser::Diagnostic;

use super::Advice;
use super::packages::{Work, work};
use super::steps::{NEAR, Run, Stage, Step};

pub(super) fn look(stage: &Stage<'_>, advice: &mut Advice<'_>) {
    for (index, step) in stage.steps.iter().enumerate() {
        let Some(run) = step.run() else { continue };
        let Some(update) = fetches_lists_only(run) else { continue };
        let message =
            format!("`{update}` is in a step of its own, and is not run again when later steps change");
        let finding = Diagnostic::warning(step.instruction.span, message)
            .with_rule("AptGetUpdateAlone")
            .with_label("found in the cache while this does not change");
        let installs = |step: &&Step<'_>| {
            step.run()
                .is_some_and(|run| run.script.commands.iter().any(|command| work(command) == Work::System))
        };
        let later = stage.steps[index + 1..].iter().take(NEAR).find(installs);
        let fetches_again = |step: &Step<'_>| {
            step.run()
                .is_some_and(|run| run.script.commands.iter().any(|command| work(command) == Work::Lists))
        };
        let finding = match later {
            Some(install) if fetches_again(install) => {
                finding.with_related(install.instruction.span, "fetches lists itself").with_help(format!(
                    "leave it out: line {} fetches them itself",
                    install.instruction.lines.first
                ))
            }
            Some(install) => finding
                .with_related(install.instruction.span, "installs from lists that may be old")
                .with_help(format!(
                    "put it in front of the installation in line {}: `RUN {update} && …`",
                    install.instruction.lines.first
                )),
            None => finding
                .with_help("fetch the lists in the step that installs from them, and leave it out here"),
        };
        advice.give(finding, &[step.comments()]);
    }
}

/// The command that fetches lists in a step that installs nothing, as far as can be known.
fn fetches_lists_only(run: &Run<'_>) -> Option<String> {
    let mut update = None;
    for command in &run.script.commands {
        match work(command) {
            Work::Lists => {
                let words: Vec<&str> = command.words.iter().map(|word| word.text.as_str()).collect();
                update.get_or_insert_with(|| words.join(" "));
            }
            Work::Trifle | Work::Enter(_) => {}
            Work::System | Work::Install(_) | Work::Unknown => return None,
        }
    }
    // Lists in a cache mount are no part of the step's result.
    let is_cached = run.exec.mounts.iter().any(|mount| {
        matches!(mount.kind, graph::MountKind::Cache(_))
            && (mount.target.contains("/lib/") || mount.target.contains("/cache"))
    });
    update.filter(|_| !is_cached)
}
