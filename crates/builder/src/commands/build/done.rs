//! What a successful build leaves to say.

use cache::KeptId;
use image::Reference;
use insight::GivenImage;
use parser::{Diagnostic, Dockerfile, InstructionKind};

use super::args::ProgressMode;
use super::contexts::DockerfileText;
use super::deliver::Ids;
use super::request::Request;
use crate::failure::Failure;
use crate::{diagnostics, terminal};

/// What was made, and what was noticed on the way.
pub(super) struct Done {
    pub(super) made: Made,
    pub(super) notices: Notices,
}

/// What was made.
pub(super) struct Made {
    /// When somebody wanted an image.
    pub(super) ids: Option<Ids>,
    /// What was delivered, for the record.
    pub(super) given: Vec<GivenImage>,
    /// Whether `builder run` finds something to run in it.
    pub(super) has_program: bool,
}

/// What does not keep a build from succeeding.
#[derive(Default)]
pub(super) struct Notices {
    pub(super) warnings: Vec<Diagnostic>,
    /// As [`unused_build_args`] tells them.
    pub(super) unused_build_args: Vec<String>,
    /// What the step left that failed.
    pub(super) kept: Option<KeptId>,
    /// What of the store was found damaged, as far as the store was asked: it says so once.
    pub(super) thrown_away: Vec<String>,
}

impl Done {
    /// Tells the user.
    pub(super) fn print(&self, request: &Request) -> Result<(), Failure> {
        if let (true, Some(id)) = (request.delivery.print_id, &self.made.ids) {
            terminal::print(&format!("{}\n", id.told))?;
        }
        if is_silent(request.progress) {
            return Ok(());
        }
        let mut text = self.notices.text(&request.dockerfile);
        if request.delivery.is_nothing() {
            text += "\nThe result is in the cache only. Keep it: -t NAME, -o DEST.\n";
        } else if self.made.has_program
            && terminal::is_watched()
            && let Some(name) = request.delivery.tags.first()
        {
            text += &next(name);
        }
        terminal::tell(&text);
        Ok(())
    }
}

/// Whether nothing but errors may go to standard error, or nothing that is not JSON.
pub(super) fn is_silent(mode: ProgressMode) -> bool {
    matches!(mode, ProgressMode::Quiet | ProgressMode::None | ProgressMode::Rawjson)
}

/// Arguments that nothing declares, each with the one that may have been meant.
pub(super) fn unused_build_args(names: &[String], dockerfile: &Dockerfile) -> Vec<String> {
    let global = dockerfile.args.iter().flat_map(|arg| &arg.kind.names);
    let instructions = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    let own = instructions.filter_map(|instruction| match &instruction.kind {
        InstructionKind::Arg(arg) => Some(&arg.names),
        _ => None,
    });
    let declared: Vec<&str> = global.chain(own.flatten()).map(|name| name.key.text.as_str()).collect();
    let told = |name: &String| match frontend::closest(name, declared.iter().copied()) {
        Some(near) => format!("{name} (did you mean {near}?)"),
        None => name.clone(),
    };
    names.iter().map(told).collect()
}

/// What to do with a new image.
fn next(name: &Reference) -> String {
    let name = name.familiar();
    format!("\nRun it: builder run {}\n", name.strip_suffix(":latest").unwrap_or(&name))
}

impl Notices {
    /// One line each, as buildx has them.
    pub(super) fn text(&self, source: &DockerfileText) -> String {
        let mut lines = Vec::new();
        for warning in &self.warnings {
            let rule = warning.rule.map(|rule| format!("{rule}: ")).unwrap_or_default();
            let line = diagnostics::line(&source.text, warning.span);
            lines.push(format!("{rule}{} ({}:{line})", warning.message, source.path));
        }
        if !self.unused_build_args.is_empty() {
            let names = self.unused_build_args.join(", ");
            lines.push(format!("--build-arg {names}: no ARG of the stages that were built declares it"));
        }
        if lines.is_empty() {
            return String::new();
        }
        let count = crate::format::count(lines.len() as u64, "warning");
        lines.iter().fold(format!("\n {count} found:\n"), |text, line| format!("{text} - {line}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parser::Span;

    #[test]
    fn warnings_take_a_line_each() {
        let source = DockerfileText { path: "Dockerfile".to_owned(), text: "FROM a\nCMD x\n".to_owned() };
        let mut warning = Diagnostic::warning(Span::new(7, 12), "use JSON");
        warning.rule = Some("JSONArgsRecommended");
        let notices = Notices {
            warnings: vec![warning],
            unused_build_args: vec!["A".to_owned(), "B".to_owned()],
            ..Notices::default()
        };
        assert_eq!(
            notices.text(&source),
            "\n 2 warnings found:\n - JSONArgsRecommended: use JSON (Dockerfile:2)\n \
             - --build-arg A, B: no ARG of the stages that were built declares it\n"
        );
        assert_eq!(Notices::default().text(&source), "");
    }

    #[test]
    fn what_was_meant_is_told() {
        let parsed = parser::parse("ARG VERSION\nFROM a\nARG TARGET=x\n");
        let told = |name: &str| unused_build_args(&[name.to_owned()], &parsed.dockerfile).remove(0);
        assert_eq!(told("VERSOIN"), "VERSOIN (did you mean VERSION?)");
        assert_eq!([told("TARGETS"), told("ELSE")], ["TARGETS (did you mean TARGET?)", "ELSE"]);
    }

    #[test]
    fn names_are_as_short_as_they_can_be() {
        let text = |name: &str| next(&name.parse().unwrap());
        assert_eq!(text("app"), "\nRun it: builder run app\n");
        assert_eq!(text("app:2"), "\nRun it: builder run app:2\n");
        assert_eq!(text("localhost:5000/app"), "\nRun it: builder run localhost:5000/app\n");
    }
}
