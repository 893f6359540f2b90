//! One stage: its instructions, one after the other, to vertices and a config.

mod base;
mod config;
mod copy;
mod expose;
mod mount;
mod mount_keys;
mod run;
mod signal;
mod state;
mod transfer;
mod variables;
mod workdir;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use graph::{Definition, Input, Op, Source, Vertex, VertexId};
use image::{ImageConfig, Platform, ResolvedImage};
use parser::{Comment, Diagnostic, Instruction, InstructionKind, Lines, Span, Word};

pub(crate) use base::finish;
pub(crate) use state::StageState;
use variables::Scope;

use crate::args::GlobalArgs;
use crate::findings::Findings;
use crate::lint::{Checks, rules};
use crate::shown::{Shown, Text};
use crate::stages::{BUILD_CONTEXT, Node, Origin, Stages, at_trigger};
use crate::suggest::closest;
use crate::{Expander, ImageOrigin, ImageRequest, Options, Outline, Variables, shown};

/// From so many on, a variable that does not exist gets no suggestion.
const MANY_VARIABLES: usize = 1_000;

/// How much text the variables of a build may expand to, in bytes, beside several times the length of the file. A few lines can ask
/// for any amount, in the names and the history of steps too.
pub(crate) const ROOM: usize = 32 << 20;

/// What all stages of one platform share.
pub(crate) struct Lowering<'a> {
    pub(crate) options: &'a Options,
    /// `--build-arg`, `SOURCE_DATE_EPOCH` normalised.
    pub(crate) build_args: &'a BTreeMap<String, String>,
    pub(crate) stages: &'a Stages<'a>,
    pub(crate) globals: &'a GlobalArgs,
    pub(crate) images: &'a BTreeMap<ImageRequest, Arc<ResolvedImage>>,
    pub(crate) checks: &'a Checks,
    pub(crate) escape: char,
    /// The platform that is built.
    pub(crate) platform: Platform,
    /// Several are: names of steps say which.
    pub(crate) multi_platform: bool,
    /// Undeclared variables of RUN.
    pub(crate) proxies: Vec<(String, String)>,
    pub(crate) hostname: String,
    pub(crate) definition: &'a mut Definition,
    pub(crate) findings: &'a mut Findings,
    /// The stages that are done, by index.
    pub(crate) done: BTreeMap<usize, StageState>,
    /// How much text may still be made, in bytes.
    pub(crate) room: usize,
    /// How much it was in the beginning.
    pub(crate) given: usize,
    /// What each of them can be given.
    pub(crate) outlines: BTreeMap<usize, Outline>,
    /// The vertices of sources that most steps use, once one did.
    pub(crate) known: KnownSources,
}

/// Where they are among the vertices.
#[derive(Default)]
pub(crate) struct KnownSources {
    scratch: Option<VertexId>,
    directories: BTreeMap<String, VertexId>,
}

impl<'a> Lowering<'a> {
    /// Lowers stage `index`; the stages that it needs are done. Mistakes are reported, and the rest goes on without the
    /// instruction.
    pub(crate) fn stage(&mut self, index: usize) {
        let stages = self.stages;
        let node = &stages.nodes[index];
        let checks = self.checks.with_comments(&node.ast.from.comments).into_owned();
        let Some(state) = base::of(self, index, &checks) else { return };
        let triggers = if node.replaced { [].iter() } else { node.triggers.iter() };
        let instructions = if node.replaced { [].iter() } else { node.ast.instructions.iter() };
        let mut stage = StageLowering {
            node,
            name: if stages.single() { None } else { Some(stages.display_name(index)) },
            no_cache: self.options.no_cache.covers(node.ast.name()),
            all: self,
            state,
            place: Place { checks, trigger: None },
            total: base::count_steps(node),
            shown: base::shows_from(node).into(),
            seen: Seen::default(),
            outline: Outline::default(),
        };
        if !node.replaced {
            stage.outline_from();
        }
        for trigger in triggers {
            stage.place.trigger = Some((trigger.text.clone(), trigger.foreign));
            stage.instruction(&trigger.instruction);
        }
        stage.place.trigger = None;
        for instruction in instructions {
            stage.instruction(instruction);
        }
        let (state, outline) = (stage.state, stage.outline);
        self.done.insert(index, state);
        self.outlines.insert(index, outline);
    }

    /// The vertex of something that is copied from, and whether its files have owners of their own. `None` when it failed.
    fn origin(&mut self, origin: &Origin) -> Option<(VertexId, bool)> {
        Some(match origin {
            Origin::Scratch => (self.scratch(), true),
            Origin::Stage(index) => (self.done.get(index)?.vertex, true),
            Origin::Image(request) => {
                let image = self.images.get(request)?;
                let name = match &request.origin {
                    ImageOrigin::Reference(reference) => {
                        format!("FROM {reference}@{}", image.manifest_digest)
                    }
                    ImageOrigin::Context(name) => format!("[context {name}] {}", image.name),
                };
                (self.image(request, image, name, None), true)
            }
            Origin::Directory(name) => (self.directory(name), false),
        })
    }

    fn scratch(&mut self) -> VertexId {
        if let Some(known) = self.known.scratch {
            return known;
        }
        let vertex = self.source(Source::Scratch, "[internal] scratch".to_owned(), None);
        *self.known.scratch.insert(vertex)
    }

    fn directory(&mut self, name: &str) -> VertexId {
        if let Some(known) = self.known.directories.get(name) {
            return *known;
        }
        let title = match name {
            BUILD_CONTEXT => "[internal] load build context".to_owned(),
            name => format!("[context {name}] load from client"),
        };
        let vertex = self.source(Source::Local { name: name.to_owned() }, title, None);
        self.known.directories.insert(name.to_owned(), vertex);
        vertex
    }

    /// An image without layers is the empty tree.
    fn image(
        &mut self,
        request: &ImageRequest,
        image: &ResolvedImage,
        title: String,
        lines: Option<(u32, u32)>,
    ) -> VertexId {
        if image.layers.is_empty() {
            return self.scratch();
        }
        let source = Source::Image {
            name: image.name.clone(),
            manifest: image.manifest_digest,
            platform: request.platform.clone(),
        };
        self.source(source, title, lines)
    }

    fn source(&mut self, source: Source, name: String, lines: Option<(u32, u32)>) -> VertexId {
        let op = Op::Source(source);
        self.definition.add(Vertex { op, inputs: Vec::new(), name, lines, no_cache: false })
    }
}

/// A stage at work.
struct StageLowering<'l, 'a> {
    all: &'l mut Lowering<'a>,
    node: &'a Node<'a>,
    /// For names of steps.
    name: Option<String>,
    no_cache: bool,
    state: StageState,
    place: Place,
    /// Steps that have a number, and how many of them were shown.
    total: usize,
    shown: usize,
    seen: Seen,
    outline: Outline,
}

/// Where findings of the present instruction belong.
struct Place {
    checks: Checks,
    /// The text of the ONBUILD instruction that is run, and whether it comes from another file.
    trigger: Option<(String, bool)>,
}

/// Instructions of which only the last one counts: where the last one was, in this stage.
#[derive(Default)]
struct Seen {
    cmd: Option<Span>,
    entrypoint: Option<Span>,
    healthcheck: Option<Span>,
}

impl StageLowering<'_, '_> {
    fn instruction(&mut self, instruction: &Instruction) {
        if self.all.room == 0 {
            return;
        }
        self.place.checks = self.checks_of(&instruction.comments).into_owned();
        match &instruction.kind {
            InstructionKind::Add(add) => self.add(instruction, add),
            InstructionKind::Arg(arg) => self.arg(instruction, arg),
            InstructionKind::Cmd(cmd) => self.cmd(instruction, cmd),
            InstructionKind::Copy(copy) => self.copy(instruction, copy),
            InstructionKind::Entrypoint(entrypoint) => self.entrypoint(instruction, entrypoint),
            InstructionKind::Env(env) => self.env(instruction, env),
            InstructionKind::Expose(expose) => self.expose(instruction, expose),
            InstructionKind::Healthcheck(healthcheck) => self.healthcheck(instruction, healthcheck),
            InstructionKind::Label(label) => self.label(instruction, label),
            InstructionKind::Maintainer(maintainer) => self.maintainer(maintainer),
            InstructionKind::Onbuild(onbuild) => self.onbuild(onbuild),
            InstructionKind::Run(run) => self.run(instruction, run),
            InstructionKind::Shell(shell) => self.shell(shell),
            InstructionKind::Stopsignal(stopsignal) => self.stopsignal(instruction, stopsignal),
            InstructionKind::User(user) => self.user(instruction, user),
            InstructionKind::Volume(volume) => self.volume(instruction, volume),
            InstructionKind::Workdir(workdir) => self.workdir(instruction, workdir),
        }
        if self.all.room == 0 {
            let message = "what the variables expand to is too long, all together";
            let error = Diagnostic::error(instruction.span, message)
                .with_label("up to here")
                .with_note(format!("for this file, there may be {} MiB of it", self.all.given >> 20));
            self.report(error);
        }
    }

    /// Notes that text was made, by an expansion or for history.
    fn spend(&mut self, bytes: usize) {
        self.all.room = self.all.room.saturating_sub(bytes);
    }

    fn checks_of(&self, comments: &[Comment]) -> Cow<'_, Checks> {
        self.all.checks.with_comments(comments)
    }

    /// What the FROM says for an outline.
    fn outline_from(&mut self) {
        let from = &self.node.ast.from;
        self.outline.name = self.node.ast.name().map(str::to_owned);
        self.outline.description =
            self.node.ast.name().and_then(|name| from.description(name)).map(str::to_owned);
        for name in &self.node.used_args {
            self.all.globals.outline(name, &mut self.outline.args);
        }
    }

    /// Where an instruction stands in this file: a trigger of an image does at the FROM.
    fn span(&self, of: &Instruction) -> Span {
        match &self.place.trigger {
            Some((_, true)) => self.node.ast.from.span,
            _ => of.span,
        }
    }

    /// Reports a finding about the present instruction.
    fn report(&mut self, finding: Diagnostic) {
        let finding = self.placed(finding);
        self.all.findings.add(finding);
    }

    /// Reports the violation of a rule, unless it is switched off.
    fn lint(&mut self, finding: Diagnostic) {
        let finding = self.placed(finding);
        self.all.findings.lint(&self.place.checks, finding);
    }

    fn placed(&self, finding: Diagnostic) -> Diagnostic {
        match &self.place.trigger {
            Some((text, foreign)) => at_trigger(finding, text, self.node.ast.from.span, *foreign),
            None => finding,
        }
    }

    fn scope(&self) -> &Scope {
        self.state.scope()
    }

    /// The words of an instruction, expanded; `None` when one of them cannot be, which is then reported.
    fn expand_all<'w>(
        &mut self,
        of: &Instruction,
        words: impl IntoIterator<Item = &'w Word>,
    ) -> Option<Vec<Text>> {
        // All of them, so that all mistakes are found.
        let expanded: Vec<Option<Text>> = words.into_iter().map(|word| self.expand_shown(of, word)).collect();
        expanded.into_iter().collect()
    }

    /// A word, expanded.
    fn expand(&mut self, of: &Instruction, word: &Word) -> Option<String> {
        self.expand_shown(of, word).map(|text| text.value)
    }

    /// A word, expanded, with what is shown of it.
    fn expand_shown(&mut self, of: &Instruction, word: &Word) -> Option<Text> {
        let expander = Expander::new(self.all.escape);
        let expanded = shown::expand(expander, Expander::expand_whole, &word.text, self.scope());
        match expanded {
            Ok((expanded, shown)) => {
                self.spend(expanded.text.len() + shown.as_ref().map_or(0, String::len));
                self.report_undefined(of, &expanded.unset);
                Some(Text::new(expanded.text, shown))
            }
            Err(error) => {
                self.spend(error.cost());
                self.report(Diagnostic::error(word.span_of(error.range), error.message));
                None
            }
        }
    }

    fn report_undefined<'n>(&mut self, of: &Instruction, names: impl IntoIterator<Item = &'n String>) {
        for name in names {
            if self.scope().declares(name) || name.starts_with("BUILDKIT_SBOM_SCAN_") {
                continue;
            }
            // Nobody looks for one name among so many.
            let known = (self.scope().len() < MANY_VARIABLES).then(|| self.scope().names());
            let finding = rules::undefined_var(of.span, name, closest(name, known.into_iter().flatten()));
            self.lint(finding);
        }
    }

    /// Adds the vertex of a step that makes a layer, and its history. `inputs` come after the tree so far.
    fn step(&mut self, of: &Instruction, op: Op, inputs: Vec<Input>, title: &str, created_by: String) {
        self.spend(title.len() + created_by.len());
        let name = self.step_name(title);
        let mut all_inputs = Vec::with_capacity(1 + inputs.len());
        all_inputs.push(Input::whole(self.state.vertex));
        all_inputs.extend(inputs);
        let vertex = self.vertex(of, op, all_inputs, name);
        self.state.add_layer(vertex, created_by);
    }

    /// Adds a vertex that belongs to an instruction.
    fn vertex(&mut self, of: &Instruction, op: Op, inputs: Vec<Input>, name: String) -> VertexId {
        let lines = self.lines(of.lines);
        self.all.definition.add(Vertex { op, inputs, name, lines, no_cache: self.no_cache })
    }

    /// The lines to show: of the FROM when the instruction stands in another file.
    fn lines(&self, lines: Lines) -> Option<(u32, u32)> {
        let lines = match &self.place.trigger {
            Some((_, true)) => self.node.ast.from.lines,
            _ => lines,
        };
        Some((lines.first, lines.last))
    }

    /// `[linux/amd64 build 2/5] RUN …`.
    fn step_name(&mut self, title: &str) -> String {
        self.shown += 1;
        let platform = self.all.multi_platform.then(|| self.platform_prefix());
        let onbuild = self.place.trigger.is_some();
        base::step_name(platform.as_deref(), self.name.as_deref(), self.shown, self.total, onbuild, title)
    }

    /// The stage's platform, and what it compiles for where the target's differs.
    fn platform_prefix(&self) -> String {
        let platform = &self.state.platform;
        let scope = self.scope();
        let part = |name: &str| scope.get(name).filter(|value| !value.is_empty()).map(str::to_owned);
        let target = match part("TARGETPLATFORM").and_then(|text| text.parse::<Platform>().ok()) {
            Some(target) => target,
            None => Platform {
                os: part("TARGETOS").unwrap_or_else(|| platform.os.clone()),
                architecture: part("TARGETARCH").unwrap_or_else(|| platform.architecture.clone()),
                variant: part("TARGETVARIANT"),
                os_version: None,
            },
        };
        if target.os != platform.os {
            format!("{platform}->{target}")
        } else if target.architecture != platform.architecture {
            let variant = target.variant.map(|variant| format!("/{variant}")).unwrap_or_default();
            format!("{platform}->{}{variant}", target.architecture)
        } else {
            platform.to_string()
        }
    }

    /// The instruction as a step's name shows it: its name in capitals, variables replaced by what of them is shown.
    fn title(&self, of: &Instruction, expander: Expander, suffix: &str) -> String {
        self.title_with(of, expander, suffix, &Shown(self.scope()))
    }

    /// The same, with other variables.
    fn title_with(
        &self,
        of: &Instruction,
        expander: Expander,
        suffix: &str,
        variables: &dyn Variables,
    ) -> String {
        let text =
            if suffix.is_empty() { Cow::from(&of.text) } else { Cow::from([&of.text, suffix].concat()) };
        let shown = expander.expand_text(&text, variables).unwrap_or(Cow::Borrowed(&text));
        let (name, rest) = shown.split_at(shown.find(' ').unwrap_or(shown.len()));
        if name.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return shown.into_owned();
        }
        name.to_uppercase() + rest
    }

    fn config(&mut self) -> &mut ImageConfig {
        &mut self.state.config
    }
}
