//! What a stage begins with.

use std::collections::BTreeMap;
use std::fmt::Write;

use files::{PathSelection, Selection};
use graph::{Copy, Input, Op, Vertex};
use image::{History, ImageConfig, Platform, ResolvedImage, RootFs};
use parser::InstructionKind;

use super::{Lowering, StageState};
use crate::lint::{Checks, rules};
use crate::stages::{Node, Origin};
use crate::{BaseImage, ImageOrigin, ImageRequest, Variables, paths};

/// The PATH of images that set none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The state before the first instruction of a stage. `None` when the stage that it stands on failed.
pub(super) fn of(all: &mut Lowering<'_>, index: usize, checks: &Checks) -> Option<StageState> {
    let stages = all.stages;
    let node = &stages.nodes[index];
    let mut state = match &node.base {
        Origin::Stage(base) => all.done.get_mut(base)?.child(),
        Origin::Scratch => {
            let vertex = all.scratch();
            // `--platform` means nothing without an image.
            StageState::new(vertex, empty_config(&all.platform), all.platform.clone())
        }
        Origin::Image(request) => of_image(all, index, request, checks)?,
        Origin::Directory(name) => of_directory(all, index, name),
    };
    if state.scope().get("PATH").is_none() {
        state.set_env("PATH", &DEFAULT_PATH.to_owned().into());
    }
    let workdir = &mut state.config.config.working_dir;
    if !workdir.is_empty() {
        *workdir = paths::absolute("/", workdir);
    }
    Some(state)
}

fn of_image(
    all: &mut Lowering<'_>,
    index: usize,
    request: &ImageRequest,
    checks: &Checks,
) -> Option<StageState> {
    let stages = all.stages;
    let node = &stages.nodes[index];
    let image = all.images.get(request)?.clone();
    let name = match &request.origin {
        _ if node.replaced && matches!(request.origin, ImageOrigin::Context(_)) => stages.display_name(index),
        ImageOrigin::Reference(reference) => node.shown_base.clone().unwrap_or_else(|| reference.to_string()),
        ImageOrigin::Context(_) => node.shown_base.as_ref().unwrap_or(&node.base_name).clone(),
    };
    let platform = all.multi_platform.then(|| node.platform.to_string());
    let stage = (!stages.single()).then(|| stages.display_name(index));
    let title = format!("FROM {name}@{}", image.manifest_digest);
    let title = step_name(platform.as_deref(), stage.as_deref(), 1, count_steps(node), false, &title);
    let lines = node.ast.from.lines;
    let vertex = all.image(request, &image, title, Some((lines.first, lines.last)));
    let actual = image_platform(&image.config, &node.platform);
    if actual.os != node.platform.os || actual.architecture != node.platform.architecture {
        let (expected, actual) = (node.platform.to_string(), actual.to_string());
        let span = node.ast.from.kind.base.span;
        let finding = rules::invalid_base_image_platform(span, &node.base_name, &expected, &actual);
        all.findings.lint(checks, finding);
    }
    for entry in image.config.config.env.iter().flatten() {
        all.definition.hide(entry.split_once('=').unwrap_or((entry, "")));
    }
    let mut state = StageState::new(vertex, inherited_config(&image), node.platform.clone());
    // Triggers run here and are gone.
    state.config.config.on_build = None;
    state.base = Some(BaseImage { request: request.clone(), image });
    Some(state)
}

/// A directory as a base is a copy of it: a context is never a tree itself.
fn of_directory(all: &mut Lowering<'_>, index: usize, name: &str) -> StageState {
    let stages = all.stages;
    let node = &stages.nodes[index];
    let stage = (!stages.single()).then(|| stages.display_name(index));
    let platform = all.multi_platform.then(|| node.platform.to_string());
    let title = format!("FROM {name}");
    let title = step_name(platform.as_deref(), stage.as_deref(), 1, count_steps(node), false, &title);
    let selection = Selection::Path(PathSelection { owners: false, ..PathSelection::exact("") });
    let inputs = vec![Input::whole(all.scratch()), Input { vertex: all.directory(name), selection }];
    let op = Op::Copy(Copy {
        destination: "/".to_owned(),
        owner: None,
        mode: None,
        unpack: false,
        packed: Vec::new(),
    });
    let lines = node.ast.from.lines;
    let lines = Some((lines.first, lines.last));
    let no_cache = all.options.no_cache.covers(node.ast.name());
    let vertex = all.definition.add(Vertex { op, inputs, name: title, lines, no_cache });
    let mut state = StageState::new(vertex, empty_config(&node.platform), node.platform.clone());
    state.add_layer(vertex, format!("COPY --from={name} / / # buildkit"));
    state
}

fn empty_config(platform: &Platform) -> ImageConfig {
    let mut config = ImageConfig {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        os_version: platform.os_version.clone(),
        variant: platform.variant.clone(),
        rootfs: no_layers(),
        ..ImageConfig::default()
    };
    config.config.working_dir = "/".to_owned();
    config
}

/// What is left of an image's config: what describes how that image was made goes.
fn inherited_config(image: &ResolvedImage) -> ImageConfig {
    let mut config = image.config.clone();
    config.created = None;
    config.extra.clear();
    config.config.extra.clear();
    config.rootfs = no_layers();
    match_history(&mut config.history, image.layers.len());
    config
}

fn no_layers() -> RootFs {
    RootFs { kind: "layers".to_owned(), diff_ids: Vec::new() }
}

/// Some writers leave history out or count wrongly. One entry with a layer for each layer is what readers rely on.
fn match_history(history: &mut Vec<History>, layers: usize) {
    let mut entries = history.iter().filter(|entry| !entry.empty_layer).count();
    for entry in history.iter_mut().filter(|entry| !entry.empty_layer) {
        if entries > layers {
            entry.empty_layer = true;
            entries -= 1;
        }
    }
    history.extend((entries..layers).map(|_| History {
        created: None,
        created_by: None,
        author: None,
        comment: None,
        empty_layer: false,
    }));
}

/// The platform that an image says it has, `wanted` where it says nothing.
fn image_platform(config: &ImageConfig, wanted: &Platform) -> Platform {
    if config.os.is_empty() || config.architecture.is_empty() {
        return wanted.clone();
    }
    let variant = config.variant.as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
    format!("{}/{}{variant}", config.os, config.architecture).parse().unwrap_or_else(|_| wanted.clone())
}

/// Whether the stage's FROM is a step of its own.
pub(super) fn shows_from(node: &Node<'_>) -> bool {
    matches!(node.base, Origin::Image(_) | Origin::Directory(_))
}

/// The number of steps that a stage shows.
pub(super) fn count_steps(node: &Node<'_>) -> usize {
    let triggers = node.triggers.iter().map(|trigger| &trigger.instruction);
    let instructions = if node.replaced { [].iter() } else { node.ast.instructions.iter() };
    let shown = |kind: &InstructionKind| {
        use InstructionKind::{Add, Copy, Run, Workdir};
        matches!(kind, Add(_) | Copy(_) | Run(_) | Workdir(_))
    };
    let steps = triggers.chain(instructions).filter(|instruction| shown(&instruction.kind)).count();
    steps + usize::from(shows_from(node))
}

/// `[linux/amd64 build 2/5] RUN make`, as BuildKit names steps.
pub(super) fn step_name(
    platform: Option<&str>,
    stage: Option<&str>,
    number: usize,
    total: usize,
    onbuild: bool,
    title: &str,
) -> String {
    let mut name = String::with_capacity(title.len() + 32);
    name.push('[');
    for word in [platform, stage].into_iter().flatten() {
        name.push_str(word);
        name.push(' ');
    }
    let width = total.checked_ilog10().map_or(1, |tens| tens as usize + 1);
    // A string takes everything.
    let _ = write!(name, "{number:>width$}/{total}] ");
    if onbuild {
        name.push_str("ONBUILD ");
    }
    name.push_str(title);
    name
}

/// What the target's config says about its platform, and the labels of the command line.
pub(crate) fn finish(
    config: &mut ImageConfig,
    asked_for: Option<&Platform>,
    labels: &BTreeMap<String, String>,
) {
    if let Some(platform) = asked_for {
        let same = platform.os == config.os && platform.architecture == config.architecture;
        config.os = platform.os.clone();
        config.architecture = platform.architecture.clone();
        if platform.variant.is_some() || !same {
            config.variant = platform.variant.clone();
        }
        if platform.os_version.is_some() || !same {
            config.os_version = platform.os_version.clone();
        }
    }
    let wanted = Platform {
        architecture: config.architecture.clone(),
        os: config.os.clone(),
        variant: config.variant.clone(),
        os_version: None,
    };
    let normal = image_platform(config, &wanted);
    config.architecture = normal.architecture;
    config.variant = normal.variant;
    if !labels.is_empty() {
        config.config.labels.get_or_insert_default().extend(labels.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(empty: &[bool]) -> Vec<History> {
        let entry = |empty: &bool| History {
            created: None,
            created_by: None,
            author: None,
            comment: None,
            empty_layer: *empty,
        };
        empty.iter().map(entry).collect()
    }

    #[test]
    fn history_has_one_entry_a_layer() {
        for (before, layers) in
            [(vec![], 2), (vec![false], 3), (vec![false, true, false], 1), (vec![false, false], 0)]
        {
            let mut entries = history(&before);
            match_history(&mut entries, layers);
            assert_eq!(entries.iter().filter(|entry| !entry.empty_layer).count(), layers, "{before:?}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(step_name(None, None, 2, 12, false, "RUN x"), "[ 2/12] RUN x");
        assert_eq!(step_name(None, Some("a"), 2, 5, true, "RUN x"), "[a 2/5] ONBUILD RUN x");
        assert_eq!(step_name(Some("linux/arm64"), Some("a"), 2, 5, false, "X"), "[linux/arm64 a 2/5] X");
    }

    #[test]
    fn the_platform_of_the_result() {
        let config = |arch: &str, variant: Option<&str>| ImageConfig {
            os: "linux".to_owned(),
            architecture: arch.to_owned(),
            variant: variant.map(str::to_owned),
            ..ImageConfig::default()
        };
        let mut arm = config("arm64", Some("v8"));
        finish(&mut arm, None, &BTreeMap::new());
        assert_eq!((arm.architecture.as_str(), arm.variant), ("arm64", None));
        let mut other = config("arm", Some("v6"));
        finish(&mut other, Some(&"linux/amd64".parse().unwrap()), &BTreeMap::new());
        assert_eq!((other.architecture.as_str(), other.variant), ("amd64", None));
    }
}
