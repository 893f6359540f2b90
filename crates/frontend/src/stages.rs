//! Which stage stands on what, and which stages the target needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use graph::{Definition, SecretValues};
use image::{Platform, Reference, ResolvedImage};
use parser::{Copy, Diagnostic, Dockerfile, Instruction, InstructionKind, Mount, Span, Stage, Word};

use crate::args::GlobalArgs;
use crate::findings::{Findings, unsupported_platform};
use crate::lint::{Checks, rules};
use crate::options::Contexts;
use crate::suggest::closest;
use crate::{
    Expanded, Expander, ImageOrigin, ImageRequest, MissingImage, NamedContext, Options, Variables, shown,
};

/// What a name in FROM or `--from` stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The empty tree.
    Scratch,
    /// A stage, by index.
    Stage(usize),
    /// An image.
    Image(ImageRequest),
    /// A context that is files only, by name.
    Directory(String),
}

/// The name of the main context, among the named ones.
pub(crate) const BUILD_CONTEXT: &str = "context";

/// A stage with its names resolved.
#[derive(Debug)]
pub(crate) struct Node<'a> {
    pub(crate) ast: &'a Stage,
    pub(crate) base: Origin,
    /// The base as written, expanded.
    pub(crate) base_name: String,
    /// What is shown in its place.
    pub(crate) shown_base: Option<String>,
    /// A named context took the stage's place: its instructions are not run.
    pub(crate) replaced: bool,
    /// `FROM --platform`, else the target's.
    pub(crate) platform: Platform,
    /// The global arguments that its FROM uses.
    pub(crate) used_args: BTreeSet<String>,
    /// ONBUILD instructions of the base, in order.
    pub(crate) triggers: Vec<Trigger>,
    /// What its instructions copy from.
    sources: Vec<Source>,
}

/// Something whose files an instruction of a stage uses.
#[derive(Debug)]
struct Source {
    origin: Origin,
    /// As written.
    name: String,
    span: Span,
    by: By,
}

/// How an instruction uses files of something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// `COPY --from`.
    Copying,
    /// `RUN --mount=from=…`.
    Mounting,
}

impl By {
    const fn verb(self) -> &'static str {
        match self {
            By::Copying => "copy from",
            By::Mounting => "mount files of",
        }
    }
}

/// A name in `COPY --from` or in `from=` of a mount.
#[derive(Clone, Copy)]
pub(crate) struct Named<'a> {
    pub(crate) name: &'a str,
    pub(crate) span: Span,
    pub(crate) by: By,
}

/// An ONBUILD instruction that a stage runs.
#[derive(Clone, Debug)]
pub(crate) struct Trigger {
    pub(crate) text: String,
    pub(crate) instruction: Instruction,
    /// Its spans are about `text`, not about the file.
    pub(crate) foreign: bool,
}

/// The stages of a file for one platform.
pub(crate) struct Stages<'a> {
    pub(crate) nodes: Vec<Node<'a>>,
    pub(crate) target: usize,
    /// Those that the target needs, itself included. Never a stage that comes after one that uses it, unless that is an error.
    pub(crate) reachable: BTreeSet<usize>,
    /// Later stages of the same name win.
    names: BTreeMap<&'a str, usize>,
    contexts: Contexts<'a>,
    platform: Platform,
    expander: Expander,
}

/// No variable at all.
struct Nothing;

impl Variables for Nothing {
    fn get(&self, _name: &str) -> Option<&str> {
        None
    }
}

impl<'a> Stages<'a> {
    /// Resolves the names in all stages. Mistakes in them are reported for stages that are not built too, as long as they
    /// can be seen without asking anybody.
    pub(crate) fn new(
        dockerfile: &'a Dockerfile,
        options: &'a Options,
        globals: &GlobalArgs,
        platform: &Platform,
        checks: &Checks,
        findings: &mut Findings,
    ) -> Option<Self> {
        let mut stages = Self {
            nodes: Vec::with_capacity(dockerfile.stages.len()),
            target: 0,
            reachable: BTreeSet::new(),
            names: BTreeMap::new(),
            contexts: Contexts::new(options),
            platform: platform.clone(),
            expander: Expander::for_names(dockerfile.directives.escape.char()),
        };
        for stage in &dockerfile.stages {
            let checks = checks.with_comments(&stage.from.comments);
            let node = stages.node(stage, globals, &checks, findings);
            if let Some(name) = stage.name() {
                stages.names.insert(name, stages.nodes.len());
            }
            stages.nodes.push(node);
        }
        for index in 0..stages.nodes.len() {
            stages.find_sources(index, findings);
        }
        match stages.find_target(options) {
            Ok(target) => stages.target = target,
            Err(error) => {
                findings.add(*error);
                return None;
            }
        }
        Some(stages)
    }

    fn node(
        &self,
        stage: &'a Stage,
        globals: &GlobalArgs,
        checks: &Checks,
        findings: &mut Findings,
    ) -> Node<'a> {
        let from = &stage.from.kind;
        let mut used_args = BTreeSet::new();
        let mut shown_base = None;
        let base_name = self.expand_base(&from.base, globals, checks, findings).map(|(expanded, shown)| {
            used_args.extend(expanded.used);
            shown_base = shown;
            expanded.text
        });
        let platform = from
            .platform
            .as_ref()
            .and_then(|word| self.expand_platform(stage, word, globals, checks, findings))
            .map(|(platform, used)| {
                used_args.extend(used);
                platform
            })
            .unwrap_or_else(|| self.platform.clone());
        let replacement = stage.name().and_then(|name| self.contexts.find(name, &platform));
        let base = match (replacement, &base_name) {
            (Some(context), _) => context_origin(context, &platform),
            // The mistake is reported; any base will do to look for more of them.
            (None, None) => Origin::Scratch,
            (None, Some(name)) => match self.names.get(name.as_str()) {
                Some(index) => self.stage_origin(*index),
                None if name == "scratch" => Origin::Scratch,
                None => self.image_origin(name, from.base.span, &platform).unwrap_or_else(|error| {
                    findings.add(*error);
                    Origin::Scratch
                }),
            },
        };
        Node {
            ast: stage,
            base,
            base_name: base_name.unwrap_or_default(),
            shown_base,
            replaced: replacement.is_some(),
            platform,
            used_args,
            triggers: Vec::new(),
            sources: Vec::new(),
        }
    }

    /// A stage that was replaced is what replaced it.
    fn stage_origin(&self, index: usize) -> Origin {
        match self.nodes.get(index) {
            Some(node) if node.replaced => node.base.clone(),
            _ => Origin::Stage(index),
        }
    }

    fn expand_base(
        &self,
        word: &Word,
        globals: &GlobalArgs,
        checks: &Checks,
        findings: &mut Findings,
    ) -> Option<(Expanded, Option<String>)> {
        let expanded = shown::expand(self.expander, Expander::expand, &word.text, globals);
        let (expanded, shown) = match expanded {
            Ok(expanded) => expanded,
            Err(error) => {
                findings.add(Diagnostic::error(word.span_of(error.range), error.message));
                return None;
            }
        };
        report_undeclared(&expanded.unset, word.span, globals, checks, findings);
        if expanded.text.is_empty() {
            let mut error = Diagnostic::error(word.span, format!("the base `{}` is empty", word.text));
            if let Some(name) = expanded.unset.first() {
                error = error.with_help(format!(
                    "give `{name}` a value: `ARG {name}=…` before the first FROM, or --build-arg {name}=…"
                ));
            }
            findings.add(error);
            return None;
        }
        Some((expanded, shown))
    }

    fn expand_platform(
        &self,
        stage: &Stage,
        word: &Word,
        globals: &GlobalArgs,
        checks: &Checks,
        findings: &mut Findings,
    ) -> Option<(Platform, BTreeSet<String>)> {
        let expanded = match self.expander.expand(&word.text, globals) {
            Ok(expanded) => expanded,
            Err(error) => {
                findings.add(Diagnostic::error(word.span_of(error.range), error.message));
                return None;
            }
        };
        report_undeclared(&expanded.unset, word.span, globals, checks, findings);
        let only_target = expanded.unset.is_empty()
            && expanded.used.len() == 1
            && expanded.used.contains("TARGETPLATFORM")
            && globals.get("TARGETPLATFORM") == Some(expanded.text.as_str());
        if only_target {
            findings.lint(checks, rules::redundant_target_platform(word.span, &word.text));
        }
        let suggestion = || {
            let unset = expanded.unset.first()?;
            closest(unset, globals.names()).map(|name| format!("did you mean `{name}`?"))
        };
        let failed = |message: String| {
            let mut error = Diagnostic::error(word.span, message);
            error.help = suggestion();
            error
        };
        if expanded.text.is_empty() {
            findings.add(failed(format!("the platform `{}` is empty", word.text)));
            return None;
        }
        match expanded.text.parse::<Platform>() {
            Ok(platform) => {
                let constant = expanded.used.is_empty() && expanded.unset.is_empty();
                let name = stage.name().unwrap_or_default();
                if constant && !name.contains(&platform.os) && !name.contains(&platform.architecture) {
                    let finding = rules::from_platform_flag_const_disallowed(word.span, &expanded.text);
                    findings.lint(checks, finding);
                }
                Some((platform, expanded.used))
            }
            Err(error) => {
                findings.add(failed(error.to_string()));
                None
            }
        }
    }

    /// A name that is no stage: a named context, else an image.
    fn image_origin(&self, name: &str, span: Span, platform: &Platform) -> Result<Origin, Box<Diagnostic>> {
        if let Some(context) = self.contexts.find(name, platform) {
            return Ok(context_origin(context, platform));
        }
        match name.parse::<Reference>() {
            Ok(reference) => Ok(Origin::Image(ImageRequest {
                origin: ImageOrigin::Reference(reference),
                platform: platform.clone(),
            })),
            Err(error) => {
                let mut error = Diagnostic::error(span, error.to_string());
                let lower = name.to_lowercase();
                if self.names.contains_key(lower.as_str()) {
                    error = error.with_help(format!(
                        "the stage is called `{lower}`; FROM takes names as they are written"
                    ));
                }
                Err(Box::new(error))
            }
        }
    }

    /// What `COPY --from` names. The position of the instruction does not matter here.
    fn copy_origin(&self, from: Named<'_>) -> Result<Origin, Box<Diagnostic>> {
        let expanded = self.expander.expand(from.name, &Nothing);
        if !expanded.is_ok_and(|expanded| expanded.text == from.name) {
            let help =
                "name a stage: `FROM image:${VERSION} AS name` before this stage, and `--from=name` here";
            let error =
                Diagnostic::error(from.span, "variables are not expanded in `--from`").with_help(help);
            return Err(Box::new(error));
        }
        if let Ok(index) = from.name.parse::<i64>() {
            let stages = self.nodes.len();
            return usize::try_from(index)
                .ok()
                .filter(|index| *index < stages)
                .map(|index| self.stage_origin(index))
                .ok_or_else(|| {
                    let message =
                        format!("there is no stage {index}: the file has stages 0 to {}", stages - 1);
                    Box::new(Diagnostic::error(from.span, message))
                });
        }
        self.named_origin(from)
    }

    /// What the `from` of a mount names: never a stage by its number.
    fn mount_origin(&self, from: Named<'_>) -> Result<Origin, Box<Diagnostic>> {
        let number = from.name.bytes().all(|byte| byte.is_ascii_digit());
        let known =
            self.names.contains_key(from.name) || self.contexts.find(from.name, &self.platform).is_some();
        if number && !known {
            let message = format!("a mount cannot take stage {} by its number", from.name);
            let error = Diagnostic::error(from.span, message)
                .with_help("give the stage a name, `FROM … AS name`, and write `from=name` here");
            return Err(Box::new(error));
        }
        self.named_origin(from)
    }

    /// What an instruction names, in whichever way.
    pub(crate) fn origin(&self, from: Named<'_>) -> Result<Origin, Box<Diagnostic>> {
        match from.by {
            By::Copying => self.copy_origin(from),
            By::Mounting => self.mount_origin(from),
        }
    }

    fn named_origin(&self, from: Named<'_>) -> Result<Origin, Box<Diagnostic>> {
        match self.names.get(from.name.to_lowercase().as_str()) {
            Some(index) => Ok(self.stage_origin(*index)),
            None if from.name == "scratch" => Ok(Origin::Scratch),
            None => self.image_origin(from.name, from.span, &self.platform),
        }
    }

    fn find_sources(&mut self, index: usize, findings: &mut Findings) {
        let node = &self.nodes[index];
        if node.replaced {
            return;
        }
        let mut sources = Vec::new();
        for instruction in &node.ast.instructions {
            for from in names_in(instruction) {
                match self.origin(from) {
                    Ok(origin) => {
                        let (name, span) = (from.name.to_owned(), from.span);
                        sources.push(Source { origin, name, span, by: from.by });
                    }
                    Err(error) => findings.add(*error),
                }
            }
        }
        self.nodes[index].sources = sources;
    }

    fn leads_to(&self, from: usize, to: usize) -> bool {
        let mut seen = BTreeSet::new();
        let mut open = vec![from];
        while let Some(index) = open.pop() {
            if index == to {
                return true;
            }
            if seen.insert(index) {
                open.extend(self.nodes[index].sources.iter().filter_map(|source| stage_of(&source.origin)));
            }
        }
        false
    }

    fn find_target(&self, options: &Options) -> Result<usize, Box<Diagnostic>> {
        let Some(target) = &options.target else { return Ok(self.nodes.len().saturating_sub(1)) };
        self.names.get(target.to_lowercase().as_str()).copied().ok_or_else(|| {
            let names: Vec<&str> = self.names.keys().copied().collect();
            let error = Diagnostic::error(Span::default(), format!("there is no stage `{target}` to build"));
            let error = match names.as_slice() {
                [] => error.with_note("no stage of the file has a name: only the last one can be built"),
                names => error.with_note(format!("the stages are: {}", names.join(", "))),
            };
            Box::new(match closest(&target.to_lowercase(), names) {
                Some(name) => error.with_help(format!("did you mean `{name}`?")),
                None => error,
            })
        })
    }

    /// Finds the stages that the target needs, with the ONBUILD triggers of all bases that are known, and the stages and images that
    /// those need. Returns the images that have to be resolved first.
    pub(crate) fn complete(
        &mut self,
        images: &BTreeMap<ImageRequest, Arc<ResolvedImage>>,
        begun: &Definition,
        findings: &mut Findings,
    ) -> Vec<MissingImage> {
        let mut open = vec![self.target];
        while let Some(index) = open.pop() {
            if index >= self.nodes.len() || !self.reachable.insert(index) {
                continue;
            }
            if !self.nodes[index].replaced {
                self.find_triggers(index, images, findings);
            }
            let node = &self.nodes[index];
            open.extend(stage_of(&node.base));
            open.extend(node.sources.iter().filter_map(|source| stage_of(&source.origin)));
        }
        for index in &self.reachable {
            self.check_platform(*index, findings);
        }
        self.check_order(findings);
        self.missing(images, begun)
    }

    fn find_triggers(
        &mut self,
        index: usize,
        images: &BTreeMap<ImageRequest, Arc<ResolvedImage>>,
        findings: &mut Findings,
    ) {
        let span = self.nodes[index].ast.from.kind.base.span;
        let base_name = self.nodes[index].base_name.clone();
        let mut triggers = Vec::new();
        match &self.nodes[index].base {
            Origin::Image(request) => {
                let texts = images.get(request).and_then(|image| image.config.config.on_build.as_ref());
                triggers.extend(
                    texts
                        .into_iter()
                        .flatten()
                        .filter_map(|text| parse_trigger(text, &base_name, span, findings)),
                );
            }
            Origin::Stage(base) => {
                for instruction in &self.nodes[*base].ast.instructions {
                    let InstructionKind::Onbuild(onbuild) = &instruction.kind else { continue };
                    let text = &onbuild.trigger.value;
                    triggers.extend(match &onbuild.instruction {
                        Some(instruction) => Some(Trigger {
                            text: text.clone(),
                            instruction: (**instruction).clone(),
                            foreign: false,
                        }),
                        None => parse_trigger(text, &base_name, span, findings),
                    });
                }
            }
            Origin::Scratch | Origin::Directory(_) => {}
        }
        for trigger in &triggers {
            for from in names_in(&trigger.instruction) {
                match self.origin(from) {
                    Ok(origin) => {
                        let span = if trigger.foreign { span } else { from.span };
                        let name = from.name.to_owned();
                        self.nodes[index].sources.push(Source { origin, name, span, by: from.by });
                    }
                    Err(error) => findings.add(at_trigger(*error, &trigger.text, span, trigger.foreign)),
                }
            }
        }
        self.nodes[index].triggers = triggers;
    }

    fn check_platform(&self, index: usize, findings: &mut Findings) {
        let node = &self.nodes[index];
        if node.platform.os != "linux" {
            let flag = node.ast.from.kind.platform.as_ref();
            let span = flag.map_or(node.ast.from.span, |word| word.span);
            findings.add(unsupported_platform(span, &node.platform));
        }
    }

    /// A stage can only copy from stages above it. Stages that wait for each other are an error even where nobody needs them.
    fn check_order(&self, findings: &mut Findings) {
        for (index, node) in self.nodes.iter().enumerate() {
            for Source { origin, span, by, .. } in &node.sources {
                let Some(source) = stage_of(origin).filter(|source| *source >= index) else { continue };
                let from = self.nodes[source].ast.from.span;
                let name = self.display_name(source);
                if source == index {
                    let message = format!("a stage cannot {} itself", by.verb());
                    findings.add(Diagnostic::error(*span, message));
                } else if self.leads_to(source, index) {
                    let message =
                        format!("stages {} and {name} wait for each other", self.display_name(index));
                    findings.add(
                        Diagnostic::error(*span, message)
                            .with_related(from, "this stage, too, needs this one"),
                    );
                } else if self.reachable.contains(&index) {
                    let error = Diagnostic::error(*span, format!("stage {name} comes after this one"))
                        .with_related(from, "it begins here")
                        .with_help(format!(
                            "a stage can only {} stages above it: move that stage up",
                            by.verb()
                        ));
                    findings.add(error);
                }
            }
        }
    }

    fn missing(
        &self,
        images: &BTreeMap<ImageRequest, Arc<ResolvedImage>>,
        begun: &Definition,
    ) -> Vec<MissingImage> {
        let mut missing: Vec<MissingImage> = Vec::new();
        let mut asked = BTreeSet::new();
        let mut ask = |origin: &Origin, name: &str, concealed: bool, span: Span| {
            let Origin::Image(request) = origin else { return };
            if !images.contains_key(request) && asked.insert(request.clone()) {
                missing.push(MissingImage {
                    request: request.clone(),
                    name: name.to_owned(),
                    hidden: if concealed { SecretValues::of(begun) } else { SecretValues::default() },
                    span,
                });
            }
        };
        for node in self.reachable.iter().map(|index| &self.nodes[*index]) {
            let name = if node.replaced { node.ast.name().unwrap_or_default() } else { &node.base_name };
            ask(&node.base, name, node.shown_base.is_some(), node.ast.from.kind.base.span);
            for source in &node.sources {
                ask(&source.origin, &source.name, false, source.span);
            }
        }
        missing
    }

    /// Whether the file has one stage and copies from nothing but the context: then names of steps need no stage.
    pub(crate) fn single(&self) -> bool {
        self.nodes.len() == 1 && self.nodes[0].sources.is_empty()
    }

    /// The stage's name, `stage-N` where it has none.
    pub(crate) fn display_name(&self, index: usize) -> String {
        self.nodes[index].ast.name().map_or_else(|| format!("stage-{index}"), str::to_owned)
    }
}

fn stage_of(origin: &Origin) -> Option<usize> {
    match origin {
        Origin::Stage(index) => Some(*index),
        _ => None,
    }
}

fn context_origin((key, kind): (&str, NamedContext), platform: &Platform) -> Origin {
    match kind {
        NamedContext::Directory => Origin::Directory(key.to_owned()),
        NamedContext::Scratch => Origin::Scratch,
        NamedContext::Image => Origin::Image(ImageRequest {
            origin: ImageOrigin::Context(key.to_owned()),
            platform: platform.clone(),
        }),
    }
}

/// The names that an instruction uses files of. An empty one means the build context, like none.
pub(crate) fn names_in(instruction: &Instruction) -> Vec<Named<'_>> {
    match &instruction.kind {
        InstructionKind::Copy(copy) => copied_from(copy).into_iter().collect(),
        InstructionKind::Run(run) => run.mounts.iter().filter_map(mounted_from).collect(),
        _ => Vec::new(),
    }
}

/// `COPY --from`.
pub(crate) fn copied_from(copy: &Copy) -> Option<Named<'_>> {
    let from = copy.from.as_ref().filter(|from| !from.is_empty())?;
    Some(Named { name: &from.value, span: from.span, by: By::Copying })
}

/// `from` of a mount: the last one counts.
pub(crate) fn mounted_from(mount: &Mount) -> Option<Named<'_>> {
    let field = mount.fields.iter().rfind(|field| field.key.value == "from")?;
    let from = field.value.as_ref().filter(|from| !from.text.is_empty())?;
    Some(Named { name: &from.text, span: from.span, by: By::Mounting })
}

fn report_undeclared(
    unset: &BTreeSet<String>,
    span: Span,
    globals: &GlobalArgs,
    checks: &Checks,
    findings: &mut Findings,
) {
    for name in unset.iter().filter(|name| !globals.knows(name)) {
        let finding = rules::undefined_arg_in_from(span, name, closest(name, globals.names()));
        findings.lint(checks, finding);
    }
}

fn parse_trigger(text: &str, base: &str, from: Span, findings: &mut Findings) -> Option<Trigger> {
    let parsed = parser::parse_instruction(text);
    for error in parsed.diagnostics.into_iter().filter(Diagnostic::is_error) {
        let error = at_trigger(error, text, from, true).with_note(format!("it is part of the base `{base}`"));
        findings.add(error);
    }
    let instruction = parsed.instruction?;
    Some(Trigger { text: text.to_owned(), instruction, foreign: true })
}

/// A finding in a trigger, placed at the FROM that runs it unless the trigger stands in this file.
pub(crate) fn at_trigger(mut finding: Diagnostic, text: &str, from: Span, foreign: bool) -> Diagnostic {
    if foreign {
        finding.span = from;
        finding.label.clear();
        finding.related.clear();
        let first = text.lines().next().unwrap_or_default();
        finding.notes.push(format!("in the trigger `ONBUILD {first}`"));
    } else {
        finding
            .related
            .push(parser::DiagnosticLabel { span: from, text: "it runs after this FROM".to_owned() });
    }
    finding
}
