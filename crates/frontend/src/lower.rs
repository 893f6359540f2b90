//! From a parsed file to a plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use graph::Definition;
use image::{Platform, ResolvedImage};
use parser::{Diagnostic, Dockerfile, InstructionKind, Parsed, Span, Syntax, SyntaxNotation};

use crate::args::{self, GlobalArgs};
use crate::findings::{Findings, unsupported};
use crate::go;
use crate::lint::{Checks, check_file};
use crate::stage::{self, Lowering};
use crate::stages::Stages;
use crate::{ImageRequest, Lowered, MissingImage, Options, Plan, Target};

/// Lowers a Dockerfile.
///
/// `images` are those resolved so far, none at first. While it returns [`Lowered::Missing`], resolve those images, add them
/// and call again.
///
/// # Errors
/// All findings, in order of their place, when at least one of them is an error. Those about options have the empty span at
/// the beginning of the file.
pub fn lower(
    parsed: &Parsed,
    options: &Options,
    images: &BTreeMap<ImageRequest, Arc<ResolvedImage>>,
) -> Result<Lowered, Vec<Diagnostic>> {
    let dockerfile = &parsed.dockerfile;
    let (checks, wrong_checks) = match Checks::new(dockerfile, options) {
        Ok(checks) => (checks, None),
        Err(error) => (Checks::default(), Some(*error)),
    };
    let mut findings = Findings::new(&parsed.diagnostics, &checks);
    findings_about_options(dockerfile, options, wrong_checks, &mut findings);
    if findings.have_errors() || dockerfile.stages.is_empty() {
        if !findings.have_errors() {
            findings.add(Diagnostic::error(Span::default(), "the file has no stage to build"));
        }
        return Err(findings.into_sorted());
    }

    let (build_args, epoch) = with_epoch(dockerfile, options, &mut findings);
    let implicit = options.platforms.is_empty();
    let platforms =
        if implicit { std::slice::from_ref(&options.build_platform) } else { options.platforms.as_slice() };
    let mut missing: Vec<MissingImage> = Vec::new();
    let mut graphs = Vec::new();
    for platform in platforms {
        let globals =
            GlobalArgs::new(dockerfile, options, &build_args, platform, &mut |error| findings.add(error));
        // As if nobody had given any argument: mistakes there are reported only if they happen with the given ones too.
        let defaults = GlobalArgs::new(dockerfile, options, &BTreeMap::new(), platform, &mut |_| {});
        check_file(dockerfile, &defaults, &checks, &mut findings);
        let stages = Stages::new(dockerfile, options, &globals, platform, &checks, &mut findings);
        if let Some(mut stages) = stages {
            for image in stages.complete(images, &mut findings) {
                if !missing.iter().any(|known| known.request == image.request) {
                    missing.push(image);
                }
            }
            graphs.push((platform, globals, stages));
        }
    }
    if findings.have_errors() {
        return Err(findings.into_sorted());
    }
    if !missing.is_empty() {
        return Ok(Lowered::Missing(missing));
    }

    let mut plan = Plan {
        definition: Definition::default(),
        targets: Vec::new(),
        warnings: Vec::new(),
        unused_build_args: Vec::new(),
        source_date_epoch: epoch,
    };
    for (platform, globals, stages) in &graphs {
        let lowering = Lowering {
            options,
            build_args: &build_args,
            stages,
            globals,
            images,
            checks: &checks,
            escape: dockerfile.directives.escape.char(),
            platform: (*platform).clone(),
            multi_platform: platforms.len() > 1,
            proxies: args::proxies(&build_args),
            hostname: hostname(options),
            definition: &mut plan.definition,
            findings: &mut findings,
            done: BTreeMap::new(),
        };
        plan.targets.extend(lower_platform(lowering, (!implicit).then_some(platform)));
    }
    if checks.error {
        fail_on_violations(&mut findings);
    }
    if findings.have_errors() {
        return Err(findings.into_sorted());
    }
    plan.unused_build_args =
        unused_build_args(dockerfile, options, graphs.iter().map(|(_, _, stages)| stages));
    plan.warnings = findings.into_sorted();
    Ok(Lowered::Plan(Box::new(plan)))
}

fn hostname(options: &Options) -> String {
    let given = options.build_args.get("BUILDKIT_SANDBOX_HOSTNAME").filter(|name| !name.is_empty());
    given.unwrap_or(&options.hostname).clone()
}

fn lower_platform(mut lowering: Lowering<'_>, asked_for: Option<&Platform>) -> Option<Target> {
    let stages = lowering.stages;
    // A stage comes after those that it needs; anything else was an error.
    for index in &stages.reachable {
        lowering.stage(*index);
    }
    let mut state = lowering.done.remove(&stages.target)?;
    stage::finish(&mut state.config, asked_for, &lowering.options.labels);
    Some(Target {
        name: stages.nodes[stages.target].ast.name().map(str::to_owned),
        platform: lowering.platform,
        vertex: state.vertex,
        config: state.config,
        layer_steps: state.layer_steps,
        base: state.base,
    })
}

fn findings_about_options(
    dockerfile: &Dockerfile,
    options: &Options,
    wrong_checks: Option<Diagnostic>,
    findings: &mut Findings,
) {
    if let Some(error) = wrong_checks {
        findings.add(error);
    }
    match (options.build_args.get("BUILDKIT_SYNTAX"), &dockerfile.directives.syntax) {
        (Some(image), _) => {
            check_frontend(image.split(' ').next().unwrap_or_default(), Span::default(), findings)
        }
        (None, Some(Syntax { image, notation: SyntaxNotation::Hash, .. })) => {
            check_frontend(image, image.span, findings);
        }
        (None, Some(Syntax { image, .. })) => {
            findings.add(unsupported(image.span, &format!("the frontend `{}`", **image)))
        }
        (None, None) => {}
    }
    for name in ["BUILDKIT_INLINE_CACHE", "BUILDKIT_MULTI_PLATFORM"] {
        if options.build_args.get(name).is_some_and(|value| go::parse_bool(value) == Some(true)) {
            findings.add(unsupported(Span::default(), &format!("the build argument `{name}`")));
        }
    }
    for platform in options.platforms.iter().filter(|platform| platform.os != "linux") {
        findings.add(unsupported(Span::default(), &format!("the platform `{platform}`")));
    }
}

/// Only Docker's own frontend is built in, in whatever version.
fn check_frontend(image: &str, span: Span, findings: &mut Findings) {
    let name = image.split('@').next().unwrap_or_default();
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    let known = ["docker/dockerfile", "docker/dockerfile-upstream"]
        .iter()
        .any(|known| name.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with(':')));
    if !known && !matches!(name, "dockerfile.v0" | "") {
        let error = unsupported(span, &format!("the frontend `{image}`"))
            .with_note("the frontend is built in: it reads what docker/dockerfile reads");
        findings.add(error);
    }
}

/// The build arguments and the epoch. It comes from an argument, else from a global ARG; an empty one is none.
fn with_epoch(
    dockerfile: &Dockerfile,
    options: &Options,
    findings: &mut Findings,
) -> (BTreeMap<String, String>, Option<i64>) {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    let mut build_args = options.build_args.clone();
    let default = || {
        // Its default does not depend on the platform in any sensible file.
        let platform = options.platforms.first().unwrap_or(&options.build_platform);
        let globals = GlobalArgs::new(dockerfile, options, &build_args, platform, &mut |_| {});
        crate::Variables::get(&globals, NAME).map(str::to_owned)
    };
    let Some(value) = build_args.get(NAME).cloned().or_else(default) else { return (build_args, None) };
    if value.is_empty() {
        build_args.remove(NAME);
        return (build_args, None);
    }
    let declared = dockerfile.args.iter().flat_map(|arg| &arg.kind.names).find(|name| name.key.text == NAME);
    let span = if options.build_args.contains_key(NAME) { None } else { declared.map(|name| name.key.span) };
    let span = span.unwrap_or_default();
    match value.parse::<i64>() {
        Ok(epoch) => (build_args, Some(epoch)),
        Err(_) => {
            let error = unsupported(span, &format!("`{NAME}={value}`"));
            findings.add(error.with_help("give the seconds since 1970, as `date +%s` prints them"));
            (build_args, None)
        }
    }
}

/// The build arguments that no ARG names, in stages that are not built and in triggers neither.
fn unused_build_args<'a>(
    dockerfile: &Dockerfile,
    options: &Options,
    graphs: impl Iterator<Item = &'a Stages<'a>>,
) -> Vec<String> {
    fn declared<'n>(kind: &'n InstructionKind, names: &mut BTreeSet<&'n str>) {
        if let InstructionKind::Arg(arg) = kind {
            names.extend(arg.names.iter().map(|name| name.key.text.as_str()));
        }
    }
    let mut names: BTreeSet<&str> =
        dockerfile.args.iter().flat_map(|arg| &arg.kind.names).map(|name| name.key.text.as_str()).collect();
    for instruction in dockerfile.stages.iter().flat_map(|stage| &stage.instructions) {
        declared(&instruction.kind, &mut names);
    }
    let mut trigger_names = BTreeSet::new();
    for trigger in graphs.flat_map(|stages| &stages.nodes).flat_map(|node| &node.triggers) {
        declared(&trigger.instruction.kind, &mut trigger_names);
    }
    let used = |name: &str| names.contains(name) || trigger_names.contains(name) || args::is_predefined(name);
    options.build_args.keys().filter(|name| !used(name)).cloned().collect()
}

/// `# check=error=true`.
fn fail_on_violations(findings: &mut Findings) {
    let rules = findings.rules();
    if !rules.is_empty() {
        let message = format!("lint violation found for rules: {}", rules.join(", "));
        findings.add(Diagnostic::error(Span::default(), message));
    }
}
