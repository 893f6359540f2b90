//! What went wrong in a build, told with the lines of the Dockerfile that it is about.

use std::path::{Path, PathBuf};

use cache::KeptId;
use frontend::{ImageOrigin, MissingImage, Plan};
use graph::{Op, Source, VertexId};
use image::ResolveError;
use parser::{Diagnostic, Severity};
use solver::SolveError;
use worker::WorkerError;

use super::contexts::{DockerfileText, NamedContext};
use super::request::Request;
use crate::diagnostics;
use crate::failure::Failure;

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
    Failure::build(message).with_details(diagnostics::render(&errors, &source.text, &source.path))
}

/// An image cannot be had.
pub(super) fn image(missing: &MissingImage, error: ResolveError, source: &DockerfileText) -> Failure {
    let line = diagnostics::line(&source.text, missing.span);
    let instruction = source.text.lines().nth(line - 1).unwrap_or_default();
    let is_from = instruction.trim_start().get(..4).is_some_and(|word| word.eq_ignore_ascii_case("from"));
    let by_name = matches!(missing.request.origin, ImageOrigin::Reference(_));
    let absent = matches!(error, ResolveError::NotFound(_) | ResolveError::Unreachable { .. });
    let excerpt = diagnostics::excerpt(&source.text, &source.path, (line as u32, line as u32));
    let failure = Failure::from(error).with_details(excerpt);
    let name = &missing.name;
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
    ignore_file: Option<&Path>,
    plan: &Plan,
    error: &SolveError<WorkerError>,
) -> Failure {
    let failure = match error {
        SolveError::Operation { vertex, error } => match &**error {
            WorkerError::Files(files::Error::NotFound { path, hidden_by }) => {
                not_found(request, ignore_file, plan, *vertex, path, hidden_by.as_deref())
            }
            other => Failure::from(other),
        },
        SolveError::Cache { error, .. } => Failure::from_cache(error),
        SolveError::Internal { .. } => Failure::build(error.to_string()),
    };
    let source = &request.dockerfile;
    let lines = lines(plan, error.vertex());
    let excerpt = lines.map(|lines| diagnostics::excerpt(&source.text, &source.path, lines));
    failure.with_details(excerpt.unwrap_or_default())
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
    ignore_file: Option<&Path>,
    plan: &Plan,
    vertex: VertexId,
    path: &Path,
    hidden_by: Option<&str>,
) -> Failure {
    let from = plan.definition.vertex(vertex).inputs.last().map(|input| plan.definition.vertex(input.vertex));
    let (place, ignore_file) = match from.map(|from| &from.op) {
        Some(Op::Source(Source::Local { name })) => match request.named_contexts.get(name) {
            Some(NamedContext::Directory(dir)) => {
                (format!("in {}, the build context {name}", dir.display()), Some(dir.join(".dockerignore")))
            }
            _ => ("in the build context".to_owned(), ignore_file.map(PathBuf::from)),
        },
        Some(Op::Source(Source::Image { name, .. })) => (format!("in the image {name}"), None),
        _ => (from.map(|from| format!("in the result of {}", from.name)).unwrap_or_default(), None),
    };
    let failure = Failure::build(format!("\"/{}\": not found {place}", path.display()));
    match hidden_by {
        None => failure,
        Some(pattern) => {
            let file = ignore_file.unwrap_or_else(|| PathBuf::from(".dockerignore"));
            failure.hint(format!("the pattern `{pattern}` in {} excludes it", file.display()))
        }
    }
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
        let missing = MissingImage { request, name: "nope".to_owned(), span: Span::new(at, at + 4) };
        plain(&image(&missing, ResolveError::NotFound("nope".to_owned()), &source(text)))
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
    }

    #[test]
    fn mistakes_are_counted_and_shown() {
        let finding = |start, end| Diagnostic::error(Span::new(start, end), "wrong");
        let text = plain(&mistakes(&[finding(0, 4), finding(7, 11)], &source("COYP x\nCOYP y\n")));
        assert!(text.contains("Dockerfile has 2 mistakes") && text.contains("2 | COYP y"), "{text}");
        let whole =
            Diagnostic::error(Span::default(), "there is no stage `x`").with_help("did you mean `y`?");
        let text = plain(&mistakes(&[whole], &source("FROM a AS y\n")));
        assert_eq!(text, "ERROR: there is no stage `x`\nhint: did you mean `y`?\n");
    }
}
