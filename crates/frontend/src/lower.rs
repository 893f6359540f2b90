//! From a parsed file to a plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use graph::Definition;
use image::{Platform, ResolvedImage};
use parser::{Diagnostic, Dockerfile, InstructionKind, Parsed, Span, Syntax, SyntaxNotation};

use crate::args::{self, GlobalArgs};
use crate::epoch::{self, Epoch, Given};
use crate::findings::{self, Findings, unsupported, unsupported_platform};
use crate::lint::{Checks, check_file};
use crate::stage::{self, Lowering};
use crate::stages::Stages;
use crate::suggest::closest;
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
    let mut begun = Definition::default();
    let mut lowered = lower_into(&mut begun, parsed, options, images);
    match &mut lowered {
        Ok(Lowered::Plan(plan)) => findings::conceal(&mut plan.warnings, &plan.definition),
        Ok(Lowered::Missing(_)) => {}
        Err(found) => findings::conceal(found, &begun),
    }
    lowered
}

/// The same, with values in messages that nobody should read. Where there are only findings, `begun` says which those are.
fn lower_into(
    begun: &mut Definition,
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

    let epoch = epoch_of(dockerfile, options, &mut findings);
    let build_args = with_epoch(options, epoch);
    let implicit = options.platforms.is_empty();
    let platforms =
        if implicit { std::slice::from_ref(&options.build_platform) } else { options.platforms.as_slice() };
    let mut missing: Vec<MissingImage> = Vec::new();
    let mut asked = BTreeSet::new();
    let mut graphs = Vec::new();
    for platform in platforms {
        let mut globals =
            GlobalArgs::new(dockerfile, options, &build_args, platform, &mut |error| findings.add(error));
        set_epoch(&mut globals, epoch);
        for argument in globals.concealed() {
            begun.hide(argument);
        }
        // As if nobody had given any argument: mistakes there are reported only if they happen with the given ones too.
        let defaults = GlobalArgs::new(dockerfile, options, &BTreeMap::new(), platform, &mut |_| {});
        check_file(dockerfile, &defaults, &checks, &mut findings);
        let stages = Stages::new(dockerfile, options, &globals, platform, &checks, &mut findings);
        if let Some(mut stages) = stages {
            for image in stages.complete(images, begun, &mut findings) {
                if asked.insert(image.request.clone()) {
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
        inline_cache: asked_for(options, "BUILDKIT_INLINE_CACHE").unwrap_or(false),
        multi_platform: asked_for(options, "BUILDKIT_MULTI_PLATFORM"),
        source_date_epoch: match epoch {
            Epoch::Seconds(seconds) => Some(seconds),
            Epoch::Absent | Epoch::Removed => None,
        },
    };
    let last = dockerfile.stages.last();
    let end = last.map(|stage| stage.instructions.last().map_or(stage.from.span, |last| last.span).end);
    let given = stage::ROOM + 8 * end.unwrap_or_default();
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
            multi_platform: asked_for(options, "BUILDKIT_MULTI_PLATFORM").unwrap_or(false)
                || platforms.len() > 1,
            proxies: args::proxies(&build_args),
            hostname: hostname(options),
            definition: &mut plan.definition,
            findings: &mut findings,
            done: BTreeMap::new(),
            room: given,
            given,
            outlines: BTreeMap::new(),
            known: stage::KnownSources::default(),
        };
        plan.targets.extend(lower_platform(lowering, (!implicit).then_some(platform)));
    }
    if checks.error && !options.only_checks {
        fail_on_violations(&mut findings);
    }
    if findings.have_errors() {
        *begun = plan.definition;
        return Err(findings.into_sorted());
    }
    plan.unused_build_args =
        unused_build_args(dockerfile, options, graphs.iter().map(|(_, _, stages)| stages));
    plan.warnings = findings.into_sorted();
    Ok(Lowered::Plan(Box::new(plan)))
}

/// A build argument that is true or false; nothing when it is not given or neither.
fn asked_for(options: &Options, name: &str) -> Option<bool> {
    parser::parse_bool(options.build_args.get(name)?)
}

fn hostname(options: &Options) -> String {
    let given = options.build_args.get("BUILDKIT_SANDBOX_HOSTNAME").filter(|name| !name.is_empty());
    given.unwrap_or(&options.hostname).clone()
}

fn lower_platform(mut lowering: Lowering<'_>, asked_for: Option<&Platform>) -> Option<Target> {
    let stages = lowering.stages;
    for argument in lowering.globals.concealed() {
        lowering.definition.hide(argument);
    }
    // A stage comes after those that it needs; anything else was an error.
    for index in &stages.reachable {
        lowering.stage(*index);
    }
    let state = lowering.done.remove(&stages.target)?;
    let mut config = state.full_config();
    let outline = lowering.outlines.remove(&stages.target).unwrap_or_default();
    // The nearest of the stages that it needs come first.
    let outline = outline.merge(lowering.outlines.values().rev());
    stage::finish(&mut config, asked_for, &lowering.options.labels);
    Some(Target {
        name: stages.nodes[stages.target].ast.name().map(str::to_owned),
        platform: lowering.platform,
        vertex: state.vertex,
        config,
        layer_steps: state.layer_steps(),
        outline,
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
    if let Some(value) = options.build_args.get("BUILDKIT_MULTI_PLATFORM")
        && parser::parse_bool(value).is_none()
    {
        let message = format!("invalid boolean value for BUILDKIT_MULTI_PLATFORM: {value}");
        findings.add(Diagnostic::error(Span::default(), message));
    }
    for platform in options.platforms.iter().filter(|platform| platform.os != "linux") {
        findings.add(unsupported_platform(Span::default(), platform));
    }
    for entitlement in &options.allow {
        let known = matches!(entitlement.as_str(), "network.host" | "security.insecure" | "device")
            || entitlement.strip_prefix("device=").is_some_and(|name| !name.is_empty());
        if !known {
            let message = format!("nothing is called `{entitlement}` that a step could be allowed");
            let error = Diagnostic::error(Span::default(), message)
                .with_note("there are network.host, security.insecure, device and device=NAME");
            let near = closest(entitlement, ["network.host", "security.insecure", "device"]);
            findings.add(match near {
                Some(near) => error.with_help(format!("did you mean {near}?")),
                None => error,
            });
        }
    }
}

/// The newest version of Docker's frontend whose language is known here.
const NEWEST: (u32, u32) = (1, 20);

/// Whether a version is asked for, as `:1.99` or `:1.99.0-labs`, that is not known here.
fn is_newer(name: &str) -> bool {
    let tag = name.split_once(':').map_or("", |(_, tag)| tag);
    let mut numbers = tag.split(['.', '-']).map(|part| part.parse::<u32>());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) > NEWEST,
        (Some(Ok(major)), _) => major > NEWEST.0,
        _ => false,
    }
}

/// Only Docker's own frontend is built in, in whatever version.
fn check_frontend(image: &str, span: Span, findings: &mut Findings) {
    let name = image.split('@').next().unwrap_or_default();
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    let known = ["docker/dockerfile", "docker/dockerfile-upstream"]
        .iter()
        .any(|known| name.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with(':')));
    if known && is_newer(name) {
        let (major, minor) = NEWEST;
        let message = format!("`{image}` is newer than the frontend that is built in");
        let warning = Diagnostic::warning(span, message)
            .with_note(format!("it reads what docker/dockerfile:{major}.{minor} reads"));
        findings.add(warning);
    }
    if !known && !matches!(name, "dockerfile.v0" | "") {
        let error = unsupported(span, &format!("the frontend `{image}`"))
            .with_note("the frontend is built in: it reads what docker/dockerfile reads");
        findings.add(error);
    }
}

/// The epoch; what is wrong with it is reported.
fn epoch_of(dockerfile: &Dockerfile, options: &Options, findings: &mut Findings) -> Epoch {
    let epoch =
        Given::find(dockerfile, options).map_or(Ok(Epoch::Absent), |given| given.epoch(dockerfile, options));
    epoch.unwrap_or_else(|error| {
        findings.add(*error);
        Epoch::Removed
    })
}

/// The build arguments, in which the epoch is a number or nothing.
fn with_epoch(options: &Options, epoch: Epoch) -> BTreeMap<String, String> {
    let mut build_args = options.build_args.clone();
    if let Some(given) = build_args.get_mut(epoch::NAME) {
        match epoch {
            Epoch::Seconds(seconds) => *given = seconds.to_string(),
            Epoch::Absent | Epoch::Removed => drop(build_args.remove(epoch::NAME)),
        }
    }
    build_args
}

/// The same for a global ARG.
fn set_epoch(globals: &mut GlobalArgs, epoch: Epoch) {
    if crate::Variables::get(globals, epoch::NAME).is_some_and(|value| !value.is_empty()) {
        match epoch {
            Epoch::Seconds(seconds) => globals.set(epoch::NAME, Some(seconds.to_string())),
            Epoch::Removed => globals.set(epoch::NAME, None),
            Epoch::Absent => {}
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
