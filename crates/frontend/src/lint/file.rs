//! The rules that need nothing but the file.

use std::collections::BTreeSet;

use image::Reference;
use parser::{Arg, Comment, Dockerfile, InstructionKind, Span, Spanned};

use super::{Checks, rules};
use crate::Expander;
use crate::args::GlobalArgs;
use crate::findings::Findings;

/// Looks at all stages, built or not.
pub(crate) fn check_file(
    dockerfile: &Dockerfile,
    defaults: &GlobalArgs,
    checks: &Checks,
    findings: &mut Findings,
) {
    stage_names(dockerfile, checks, findings);
    casing(dockerfile, checks, findings);
    default_bases(dockerfile, defaults, checks, findings);
    descriptions(dockerfile, checks, findings);
    for instruction in dockerfile.stages.iter().flat_map(|stage| &stage.instructions) {
        if let InstructionKind::Maintainer(_) = instruction.kind {
            let checks = checks.with_comments(&instruction.comments);
            findings.lint(&checks, rules::maintainer_deprecated(instruction.span));
        }
    }
}

/// The comment right above a FROM or ARG describes what it names, and begins with the name. As upstream, what comments say of checks
/// does not count here.
fn descriptions(dockerfile: &Dockerfile, checks: &Checks, findings: &mut Findings) {
    fn arg_names(arg: &Arg) -> Vec<&str> {
        arg.names.iter().map(|name| name.key.text.as_str()).collect()
    }
    let mut check = |span: Span, keyword: &str, names: &[&str], comments: &[Comment]| {
        let (Some(comment), [first, others @ ..]) = (comments.last(), names) else { return };
        let word = comment.text.split(' ').next().unwrap_or_default();
        if !names.contains(&word) {
            let name = if others.is_empty() { first } else { "<arg_key>" };
            findings.lint(checks, rules::invalid_definition_description(span, keyword, name));
        }
    };
    for arg in &dockerfile.args {
        check(arg.span, "ARG", &arg_names(&arg.kind), &arg.comments);
    }
    for stage in &dockerfile.stages {
        if let Some(name) = stage.name() {
            check(stage.from.span, "FROM", &[name], &stage.from.comments);
        }
        for instruction in &stage.instructions {
            if let InstructionKind::Arg(arg) = &instruction.kind {
                check(instruction.span, "ARG", &arg_names(arg), &instruction.comments);
            }
        }
    }
}

fn stage_names(dockerfile: &Dockerfile, checks: &Checks, findings: &mut Findings) {
    let mut seen = BTreeSet::new();
    for stage in &dockerfile.stages {
        let from = &stage.from;
        let Some(alias) = &from.kind.alias else { continue };
        let checks = checks.with_comments(&from.comments);
        if alias.written.value != alias.name {
            findings.lint(&checks, rules::stage_name_casing(alias.written.span, &alias.written));
        }
        let keyword = &from.keyword.value;
        if (is_lower(keyword) && !is_lower(&alias.keyword))
            || (is_upper(keyword) && !is_upper(&alias.keyword))
        {
            findings.lint(&checks, rules::from_as_casing(alias.keyword.span, keyword, &alias.keyword));
        }
        if matches!(alias.name.as_str(), "scratch" | "context") {
            findings.lint(&checks, rules::reserved_stage_name(alias.written.span, &alias.name));
        }
        if !seen.insert(alias.name.as_str()) {
            findings.lint(&checks, rules::duplicate_stage_name(alias.written.span, &alias.name));
        }
    }
}

/// The majority decides, capitals when there is none. ARG before the first FROM has no say.
fn casing(dockerfile: &Dockerfile, checks: &Checks, findings: &mut Findings) {
    let keywords = || {
        dockerfile.stages.iter().flat_map(|stage| {
            let from = (&stage.from.keyword, &stage.from.comments);
            std::iter::once(from).chain(stage.instructions.iter().map(|i| (&i.keyword, &i.comments)))
        })
    };
    let lower = keywords().filter(|(keyword, _)| is_lower(keyword)).count();
    let upper = keywords().filter(|(keyword, _)| is_upper(keyword) && !is_lower(keyword)).count();
    for (keyword, comments) in keywords() {
        let Spanned { value, span } = keyword;
        let wanted =
            if lower > upper { ("lowercase", is_lower(value)) } else { ("uppercase", is_upper(value)) };
        if let (casing, false) = wanted {
            let finding = rules::consistent_instruction_casing(*span, value, casing);
            findings.lint(&checks.with_comments(comments), finding);
        }
    }
}

/// Bases that are no image's name when no build argument is given. `defaults` are the global arguments as of then.
fn default_bases(dockerfile: &Dockerfile, defaults: &GlobalArgs, checks: &Checks, findings: &mut Findings) {
    let expander = Expander::for_names(dockerfile.directives.escape.char());
    for stage in &dockerfile.stages {
        let base = &stage.from.kind.base;
        let Ok(expanded) = expander.expand(&base.text, defaults) else { continue };
        let depends_on_args = !expanded.used.is_empty() || !expanded.unset.is_empty();
        if depends_on_args && expanded.text.parse::<Reference>().is_err() {
            let span: Span = base.span;
            let checks = checks.with_comments(&stage.from.comments);
            findings.lint(&checks, rules::invalid_default_arg_in_from(span, &base.text));
        }
    }
}

fn is_lower(text: &str) -> bool {
    if text.is_ascii() {
        !text.bytes().any(|byte| byte.is_ascii_uppercase())
    } else {
        text == text.to_lowercase()
    }
}

fn is_upper(text: &str) -> bool {
    if text.is_ascii() {
        !text.bytes().any(|byte| byte.is_ascii_lowercase())
    } else {
        text == text.to_uppercase()
    }
}
