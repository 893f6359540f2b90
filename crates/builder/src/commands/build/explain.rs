//! What went wrong in a build, told with the lines of the Dockerfile that it is about.

use std::path::{Path, PathBuf};

use cache::KeptId;
use frontend::{ImageOrigin, MissingImage, Plan};
use graph::{Op, Source, VertexId};
use image::{Platform, ResolveError};
use parser::{Copy, CopySource, Diagnostic, Dockerfile, InstructionKind, Severity};
use solver::SolveError;
use worker::WorkerError;

use super::contexts::{Context, DockerfileText, NamedContext};
use super::request::Request;
use crate::diagnostics;
use crate::failure::Failure;

/// Architectures that images for Linux are made for.
const ARCHITECTURES: [&str; 10] =
    ["386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x", "mips64"];

/// Of so many mistakes each is shown. A file that has more is another one than was meant.
const MOST_MISTAKES: usize = 10;

/// The Dockerfile, or what is asked of it, cannot be built as it stands.
pub(super) fn mistakes(findings: &[Diagnostic], source: &DockerfileText) -> Failure {
    let errors: Vec<_> =
        findings.iter().filter(|finding| finding.severity == Severity::Error).cloned().collect();
    let message = match errors.as_slice() {
        // One that is about the whole, as an unknown --target, has no place to show.
        [one] if one.span.range().is_empty() && one.label.is_empty() && one.span.start == 0 => {
            let mut failure = Failure::build(&one.message);
            for advice in one.notes.iter().chain(&one.help) {
                failure = failure.hint(advice);
            }
            return failure;
        }
        [_] => format!("{} has a mistake", source.path),
        many => format!("{} has {} mistakes", source.path, many.len()),
    };
    let shown = &errors[..errors.len().min(MOST_MISTAKES)];
    let failure =
        Failure::build(message).with_details(diagnostics::render(shown, &source.text, &source.path));
    match errors.len() - shown.len() {
        0 => failure,
        more => failure.hint(format!("{more} more are not shown")),
    }
}

/// An image cannot be had. `others` are names that could have stood in its place: of stages and contexts.
pub(super) fn image<'a>(
    missing: &MissingImage,
    error: ResolveError,
    source: &DockerfileText,
    others: impl IntoIterator<Item = &'a str>,
) -> Failure {
    let line = diagnostics::line(&source.text, missing.span);
    let instruction = source.text.lines().nth(line - 1).unwrap_or_default();
    let is_from = instruction.trim_start().get(..4).is_some_and(|word| word.eq_ignore_ascii_case("from"));
    let by_name = matches!(missing.request.origin, ImageOrigin::Reference(_));
    let absent = matches!(error, ResolveError::NotFound(_) | ResolveError::Unreachable { .. });
    let excerpt = diagnostics::excerpt(&source.text, &source.path, (line as u32, line as u32));
    let name = &missing.name;
    let platform = match &error {
        ResolveError::NoPlatform { platform, .. } => meant_platform(&platform.to_string()),
        _ => None,
    };
    let failure = Failure::from(error).with_details(excerpt).hinted(platform);
    let near = frontend::closest(name, others).filter(|_| by_name && absent);
    let failure = match near {
        Some(near) => failure.hint(format!("did you mean `{near}`?")),
        None => failure,
    };
    match (by_name && absent, is_from) {
        (true, true) => failure.hint(format!(
            "to use an image of this machine: --build-context {name}=oci-layout://DIRECTORY, or build it with -t {name}"
        )),
        (true, false) => failure.hint(format!(
            "no stage and no --build-context is called {name}, so an image of that name was looked for"
        )),
        _ => failure,
    }
}

/// A step failed.
pub(super) fn step(
    request: &Request,
    context: &Context,
    plan: &Plan,
    error: &SolveError<WorkerError>,
) -> Failure {
    let tries = match &plan.definition.vertex(error.vertex()).op {
        Op::Exec(exec) if exec.retries > 0 && is_exit(error) => Some(exec.retries + 1),
        _ => None,
    };
    let failure = match error {
        SolveError::Operation { vertex, error } => match &**error {
            WorkerError::Files(files::Error::NotFound { path, hidden_by }) => {
                not_found(request, context, plan, *vertex, path, hidden_by.as_deref())
            }
            WorkerError::Foreign { platform, .. } if let Some(meant) = meant_platform(platform) => {
                Failure::from(&**error).hint(meant)
            }
            WorkerError::Files(files::Error::Tree(tree)) if unread(plan, *vertex, tree) => Failure::from(
                &**error,
            )
            .hint("what the build does not need can be left out: a line of .dockerignore that names it"),
            other => Failure::from(other),
        },
        SolveError::Cache { error, .. } => Failure::from_cache(error),
        SolveError::Internal { .. } => Failure::build(error.to_string()),
    };
    let source = &request.dockerfile;
    let lines = lines(plan, error.vertex());
    let excerpt = lines.map(|lines| diagnostics::excerpt(&source.text, &source.path, lines));
    let tries = tries.map(|tries| format!("that was the last of {tries} tries"));
    failure.with_details(excerpt.unwrap_or_default()).hinted(tries)
}

/// Whether a process ran and failed, which is what is tried again.
fn is_exit(error: &SolveError<WorkerError>) -> bool {
    matches!(error, SolveError::Operation { error, .. } if matches!(**error, WorkerError::Exit { .. }))
}

/// The lines of the instruction that asked for a vertex. What ADD fetches stands for itself; then it is the ADD that uses it.
fn lines(plan: &Plan, vertex: VertexId) -> Option<(u32, u32)> {
    let uses = |user: &graph::Vertex| user.inputs.iter().any(|input| input.vertex == vertex);
    let own = plan.definition.vertex(vertex).lines;
    own.or_else(|| plan.definition.iter().find(|(_, user)| uses(user)).and_then(|(_, user)| user.lines))
}

/// What the step left that failed, where that was kept.
pub(super) fn kept(error: &SolveError<WorkerError>) -> Option<KeptId> {
    match error {
        SolveError::Operation { error, .. } => match &**error {
            WorkerError::Exit { kept, .. } => *kept,
            _ => None,
        },
        _ => None,
    }
}

/// A source of a COPY is not there: says where it was looked for, and what hides it.
fn not_found(
    request: &Request,
    context: &Context,
    plan: &Plan,
    vertex: VertexId,
    path: &Path,
    hidden_by: Option<&str>,
) -> Failure {
    let from = plan.definition.vertex(vertex).inputs.last().map(|input| plan.definition.vertex(input.vertex));
    let parsed = parser::parse(&request.dockerfile.text);
    let written = lines(plan, vertex).and_then(|lines| copy_at(&parsed.dockerfile, lines));
    let stage =
        written.and_then(|copy| copy.from.as_deref()).filter(|name| is_stage(&parsed.dockerfile, name));
    let (place, dir, ignore_file) = match from.map(|from| &from.op) {
        _ if let Some(stage) = stage => (format!("in the stage {stage}"), None, None),
        Some(Op::Source(Source::Local { name })) => match request.named_contexts.get(name) {
            Some(NamedContext::Directory(dir)) => {
                let place = format!("in {}, the build context {name}", dir.display());
                (place, Some(dir), Some(dir.join(".dockerignore")))
            }
            _ => ("in the build context".to_owned(), Some(&context.path), context.ignore_file.clone()),
        },
        Some(Op::Source(Source::Image { name, .. })) => (format!("in the image {name}"), None, None),
        _ => (from.map(|from| format!("in the result of {}", from.name)).unwrap_or_default(), None, None),
    };
    let mut failure = Failure::build(format!("\"/{}\": not found {place}", path.display()));
    if let (Some(dir), Some(copy)) = (dir, written)
        && let Some(source) = copy.sources.iter().find_map(|source| match source {
            CopySource::Path(word) if leads_out(&word.text) && Path::new(&word.text).ends_with(path) => {
                Some(&word.text)
            }
            _ => None,
        })
    {
        let dir = dir.canonicalize().unwrap_or_else(|_| dir.clone());
        failure = failure.hint(format!(
            "`{source}` was taken as `/{}`: `..` leads no further up than {}; to copy what is above it, name a directory there as the build \
             context, or give it with --build-context NAME=DIR and COPY --from=NAME",
            path.display(), dir.display()
        ));
    }
    if let (None, Some((link, target))) = (hidden_by, dir.and_then(|dir| link_on(dir, path))) {
        return failure.hint(format!(
            "`{}` is a link to `{}`: links are followed as if the context were all there is, and it has no such file",
            link.display(), target.display()
        ));
    }
    match (hidden_by, dir.and_then(|dir| similar(dir, path))) {
        (Some(pattern), _) => {
            let file = ignore_file.unwrap_or_else(|| PathBuf::from(".dockerignore"));
            failure.hint(format!("the pattern `{pattern}` in {} excludes it", file.display()))
        }
        (None, Some(near)) => failure.hint(format!("did you mean `{}`?", near.display())),
        (None, None) => failure,
    }
}

/// Whether what a step has of a context could not be read for want of permission.
fn unread(plan: &Plan, vertex: VertexId, error: &files::TreeError) -> bool {
    let is_local = |input: &graph::Input| {
        matches!(plan.definition.vertex(input.vertex).op, Op::Source(Source::Local { .. }))
    };
    error.source.kind() == std::io::ErrorKind::PermissionDenied
        && plan.definition.vertex(vertex).inputs.iter().any(is_local)
}

/// The first symbolic link on the way to a path in a directory, and where it leads.
fn link_on(dir: &Path, path: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut way = PathBuf::new();
    path.components().find_map(|part| {
        way.push(part);
        let target = std::fs::read_link(dir.join(&way)).ok()?;
        Some((way.clone(), target))
    })
}

/// The COPY at these lines.
fn copy_at(dockerfile: &Dockerfile, (first, _): (u32, u32)) -> Option<&Copy> {
    let instructions = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    instructions.filter(|instruction| instruction.lines.first == first).find_map(|instruction| {
        match &instruction.kind {
            InstructionKind::Copy(copy) => Some(copy),
            _ => None,
        }
    })
}

fn is_stage(dockerfile: &Dockerfile, name: &str) -> bool {
    let named = |stage: &parser::Stage| stage.name().is_some_and(|own| own.eq_ignore_ascii_case(name));
    dockerfile.stages.iter().any(named)
        || name.parse().is_ok_and(|index: usize| index < dockerfile.stages.len())
}

/// Whether a path has more `..` than names before them.
fn leads_out(path: &str) -> bool {
    let mut depth = 0_i32;
    path.split('/').any(|part| {
        depth += match part {
            "" | "." => 0,
            ".." => -1,
            _ => 1,
        };
        depth < 0
    })
}

/// What may have been meant by a platform of which nothing is known.
fn meant_platform(platform: &str) -> Option<String> {
    let platform: Platform = platform.parse().ok()?;
    let near = frontend::closest(&platform.architecture, ARCHITECTURES.iter().copied())?;
    Some(format!("did you mean {}/{near}?", platform.os))
}

/// The path in a directory that differs from `path` in one name, and there by a typing mistake.
pub(super) fn similar(dir: &Path, path: &Path) -> Option<PathBuf> {
    let is_there = |path: &&Path| std::fs::symlink_metadata(dir.join(path)).is_ok();
    let wrong = path.ancestors().find(|path| path.parent().is_some_and(|parent| is_there(&parent)))?;
    let parent = wrong.parent()?;
    let names: Vec<_> =
        std::fs::read_dir(dir.join(parent)).ok()?.flatten().map(|entry| entry.file_name()).collect();
    let near =
        frontend::closest(wrong.file_name()?.to_str()?, names.iter().filter_map(|name| name.to_str()))?;
    let below = path.strip_prefix(wrong).ok()?;
    // Joined, nothing would leave a slash behind, and a file has none.
    let found = [parent, Path::new(near), below].iter().filter(|part| !part.as_os_str().is_empty()).collect();
    is_there(&PathBuf::as_path(&found)).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use parser::Span;

    fn source(text: &str) -> DockerfileText {
        DockerfileText { path: "Dockerfile".to_owned(), text: text.to_owned() }
    }

    fn plain(failure: &Failure) -> String {
        anstream::adapter::strip_str(&failure.to_string()).to_string()
    }

    fn missing(text: &str, at: usize) -> String {
        let reference: image::Reference = "nope".parse().unwrap();
        let request = frontend::ImageRequest {
            origin: ImageOrigin::Reference(reference),
            platform: image::Platform::host(),
        };
        let missing = MissingImage {
            request,
            name: "nope".to_owned(),
            hidden: graph::SecretValues::default(),
            span: Span::new(at, at + 4),
        };
        plain(&image(&missing, ResolveError::NotFound("nope".to_owned()), &source(text), ["none", "note"]))
    }

    #[test]
    fn an_image_that_is_not_there() {
        let from = missing("FROM nope\n", 5);
        assert!(from.contains(">>> FROM nope") && from.contains("--build-context nope="), "{from}");
        let copy = missing("FROM a\nCOPY --from=nope x y\n", 19);
        assert!(
            copy.contains("Dockerfile:2") && copy.contains("no stage and no --build-context is called nope"),
            "{copy}"
        );
        assert!(copy.contains("did you mean `none`?"), "{copy}");
    }

    #[test]
    fn what_leads_out_of_a_context() {
        let out = ["../x", "a/../../x", "/../x", "a/b/../../../x"];
        assert!(out.iter().all(|path| leads_out(path)));
        assert!(!["a/../x", "x", "./a/..", "...", "/a"].iter().any(|path| leads_out(path)));
        assert_eq!(meant_platform("linux/amd46").as_deref(), Some("did you mean linux/amd64?"));
        assert_eq!([meant_platform("linux/arm64"), meant_platform("linux/sparc")], [None, None]);
    }

    #[test]
    fn a_path_with_a_typing_mistake() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("src/inner")).unwrap();
        std::fs::write(dir.path().join("src/inner/main.c"), "").unwrap();
        let similar =
            |path: &str| similar(dir.path(), Path::new(path)).map(|path| path.display().to_string());
        assert_eq!(similar("scr").as_deref(), Some("src"));
        assert_eq!(similar("src/iner/main.c").as_deref(), Some("src/inner/main.c"));
        assert_eq!(similar("src/inner/mian.c").as_deref(), Some("src/inner/main.c"));
        assert_eq!([similar("scr/nothing"), similar("quite other"), similar("")], [None, None, None]);
    }

    #[test]
    fn mistakes_are_counted_and_shown() {
        let finding = |start, end| Diagnostic::error(Span::new(start, end), "wrong");
        let text = plain(&mistakes(&[finding(0, 4), finding(7, 11)], &source("COYP x\nCOYP y\n")));
        assert!(text.contains("Dockerfile has 2 mistakes") && text.contains("2 | COYP y"), "{text}");
        let page: Vec<_> = (0..40).map(|at| finding(at, at + 1)).collect();
        let text = plain(&mistakes(&page, &source(&"x\n".repeat(40))));
        assert!(
            text.contains("Dockerfile has 40 mistakes") && text.contains("hint: 30 more are not shown"),
            "{text}"
        );
        assert_eq!(text.matches("wrong").count(), 10, "{text}");
        let whole =
            Diagnostic::error(Span::default(), "there is no stage `x`").with_help("did you mean `y`?");
        let text = plain(&mistakes(&[whole], &source("FROM a AS y\n")));
        assert_eq!(text, "ERROR: there is no stage `x`\nhint: did you mean `y`?\n");
    }
}
