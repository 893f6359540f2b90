//! `ArgReachesUnrelatedRun`: an argument that changes from build to build, declared before installations that do not use it. It is in
//! the environment of every RUN after its ARG, so all of them run again.

use parser::{Arg, ArgName, Diagnostic, Instruction, InstructionKind};

use super::packages::{Work, work};
use super::steps::{NEAR, Run, Stage, Step};
use super::{Advice, Subject};

pub(super) fn look(subject: &Subject<'_>, stage: &Stage<'_>, advice: &mut Advice<'_>) {
    for (index, step) in stage.steps.iter().enumerate() {
        let InstructionKind::Arg(arg) = &step.instruction.kind else { continue };
        for name in &arg.names {
            if changes_with_builds(name, &subject.parsed.dockerfile.args) {
                let rest = &stage.steps[index + 1..];
                look_at(&name.key.text, step, &rest[..rest.len().min(NEAR)], advice);
            }
        }
    }
}

fn look_at(name: &str, arg: &Step<'_>, rest: &[Step<'_>], advice: &mut Advice<'_>) {
    let mentioned = |step: &Step<'_>| mentions(step.instruction, name);
    // Without one, it is not known what it is for.
    if !rest.iter().any(mentioned) {
        return;
    }
    let may_use = |step: &Step<'_>| {
        let is_other_run = matches!(step.instruction.kind, InstructionKind::Run(_))
            && !step.run().is_some_and(only_installs);
        mentioned(step) || is_other_run
    };
    let before = rest.iter().position(may_use).unwrap_or(rest.len());
    let runs: Vec<&Step<'_>> =
        rest[..before].iter().filter(|step| step.run().is_some_and(installs)).collect();
    let ([first, ..], Some(user)) = (runs.as_slice(), rest.get(before)) else { return };
    let lines: Vec<String> = runs.iter().map(|run| run.instruction.lines.first.to_string()).collect();
    let (word, do_not) =
        if lines.len() == 1 { ("line", "does not mention") } else { ("lines", "do not mention") };
    let message =
        format!("each value of {name} runs {word} {} again, which {do_not} it", super::listed(&lines));
    let finding = Diagnostic::warning(arg.instruction.span, message)
        .with_rule("ArgReachesUnrelatedRun")
        .with_label("in the environment of every RUN from here on")
        .with_related(first.instruction.span, "runs again")
        .with_help(format!("move the ARG down, right above line {}", user.instruction.lines.first));
    advice.give(finding, &[arg.comments(), first.comments()]);
}

/// Whether an argument looks like one whose value changes from build to build: nobody gave it a value, or its name or value says so.
fn changes_with_builds(arg: &ArgName, globals: &[Instruction<Arg>]) -> bool {
    const PER_BUILD: [&str; 11] = [
        "COMMIT",
        "SHA",
        "REVISION",
        "REV",
        "DATE",
        "TIMESTAMP",
        "CREATED",
        "REF",
        "NUMBER",
        "HASH",
        "DESCRIBE",
    ];
    const PLACEHOLDERS: [&str; 12] = [
        "",
        "dev",
        "develop",
        "development",
        "unknown",
        "latest",
        "none",
        "local",
        "snapshot",
        "0.0.0",
        "HEAD",
        "main",
    ];
    let name = arg.key.text.as_str();
    if is_read_without_mention(name) {
        return false;
    }
    let global = globals.iter().flat_map(|arg| &arg.kind.names).find(|global| global.key.text == name);
    let value = arg.value.as_ref().or_else(|| global.and_then(|global| global.value.as_ref()));
    let Some(value) = value else { return true };
    let says_so = name.split('_').any(|word| PER_BUILD.iter().any(|known| known.eq_ignore_ascii_case(word)));
    let is_version = name.to_ascii_uppercase().ends_with("VERSION");
    says_so || is_version && PLACEHOLDERS.contains(&value.text.trim_matches(['"', '\'']))
}

/// Whether programs or the builder read it by themselves, or it is there to make steps run again.
fn is_read_without_mention(name: &str) -> bool {
    const NAMES: [&str; 14] = [
        "SOURCE_DATE_EPOCH",
        "DEBIAN_FRONTEND",
        "PATH",
        "HOME",
        "USER",
        "LANG",
        "LANGUAGE",
        "TZ",
        "MAKEFLAGS",
        "TERM",
        "SHELL",
        "TMPDIR",
        "NEEDRESTART_MODE",
        "DEBCONF_NONINTERACTIVE_SEEN",
    ];
    const BEGINNINGS: [&str; 5] = ["BUILDKIT_", "APT_", "DPKG_", "LC_", "DNF_"];
    const PLATFORM: [&str; 4] = ["PLATFORM", "OS", "ARCH", "VARIANT"];
    let upper = name.to_ascii_uppercase();
    let is_platform = ["TARGET", "BUILD"]
        .iter()
        .any(|of| upper.strip_prefix(of).is_some_and(|rest| PLATFORM.contains(&rest) || rest == "STAGE"));
    let is_read = NAMES.contains(&upper.as_str())
        || upper.ends_with("_PROXY")
        || BEGINNINGS.iter().any(|beginning| upper.starts_with(beginning));
    is_platform || is_read || upper.contains("CACHE") || upper.contains("BUST")
}

/// Whether a RUN does nothing but install packages of the distribution, and what goes with that.
fn only_installs(run: &Run<'_>) -> bool {
    let harmless = |work: &Work| matches!(work, Work::System | Work::Lists | Work::Trifle);
    !run.binds_files() && run.script.commands.iter().all(|command| harmless(&work(command)))
}

fn installs(run: &Run<'_>) -> bool {
    run.script.commands.iter().any(|command| work(command) == Work::System)
}

/// Whether an instruction has the name in it, as a variable or otherwise.
fn mentions(instruction: &Instruction, name: &str) -> bool {
    let in_heredocs = || instruction.heredocs().iter().any(|heredoc| has_name(&heredoc.content, name));
    has_name(&instruction.text, name) || in_heredocs()
}

/// Whether a name stands in a text as a word of its own.
pub(super) fn has_name(text: &str, name: &str) -> bool {
    let part_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(name).any(|(at, _)| {
        !text[..at].ends_with(part_of_name) && !text[at + name.len()..].starts_with(part_of_name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_texts() {
        assert!(has_name("echo $A", "A") && has_name("${A:-x}", "A") && has_name("printenv A", "A"));
        assert!(!has_name("echo $AB", "A") && !has_name("$_A", "A") && !has_name("BA", "A"));
    }

    #[test]
    fn arguments_that_change() {
        let changes = |text: &str| {
            let parsed = parser::parse(&format!("ARG GLOBAL=1\nFROM x\nARG {text}\n"));
            let InstructionKind::Arg(arg) = &parsed.dockerfile.stages[0].instructions[0].kind else {
                panic!()
            };
            changes_with_builds(&arg.names[0], &parsed.dockerfile.args)
        };
        for text in
            ["TOKEN", "GIT_COMMIT=unknown", "BUILD_DATE=", "VERSION=dev", "APP_VERSION=\"0.0.0\"", "vcs_ref"]
        {
            assert!(changes(text), "{text}");
        }
        for text in [
            "GLOBAL",
            "NODE_VERSION=20",
            "TARGETARCH",
            "HTTP_PROXY",
            "DEBIAN_FRONTEND",
            "CACHEBUST=1",
            "UID=1000",
            "SOURCE_DATE_EPOCH",
        ] {
            assert!(!changes(text), "{text}");
        }
    }
}
