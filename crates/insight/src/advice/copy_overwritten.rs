//! `CopyOverwritten`: a copy that nobody sees, because a later one puts something else in its place before anything reads it.

use files::{Pattern, has_wildcards};
use graph::{Op, Source};
use parser::Diagnostic;

use super::listing::Listing;
use super::steps::{Copied, NEAR, Stage, Transfer, beneath, joined};
use super::{Advice, Subject};

pub(super) fn look(subject: &Subject<'_>, stage: &Stage<'_>, advice: &mut Advice<'_>) {
    for (index, step) in stage.steps.iter().enumerate() {
        let Some(first) = step.transfer() else { continue };
        // A RUN may read it, and of the unknown nothing is known.
        let later = stage.steps[index + 1..]
            .iter()
            .take(NEAR)
            .take_while(|later| later.run().is_none() && !later.is_unknown())
            .find(|later| later.transfer().is_some_and(|later| overwrites(later, first, subject.context)));
        let Some(later) = later else { continue };
        let keyword = later.instruction.kind.keyword();
        let message = format!(
            "line {} overwrites what is copied here, and nothing reads it in between",
            later.instruction.lines.first
        );
        let finding = Diagnostic::warning(step.instruction.span, message)
            .with_rule("CopyOverwritten")
            .with_label("nobody sees this")
            .with_related(later.instruction.span, format!("this {keyword} replaces it"))
            .with_help("leave out the first one, or give one of them another destination");
        advice.give(finding, &[step.comments(), later.comments()]);
    }
}

/// Whether all that `first` writes is written again by `later`.
fn overwrites(later: &Transfer<'_>, first: &Transfer<'_>, context: Option<&Listing>) -> bool {
    first.is_plain
        && later.is_plain
        && !first.sources.is_empty()
        && first
            .sources
            .iter()
            .all(|source| later.sources.iter().any(|other| covers(later, other, first, source, context)))
}

/// Whether all that one source of a copy writes is written again by a source of another one.
fn covers(
    later: &Transfer<'_>,
    other: &Copied<'_>,
    first: &Transfer<'_>,
    source: &Copied<'_>,
    context: Option<&Listing>,
) -> bool {
    let is_same_tree = source.vertex == other.vertex;
    // Whatever it is, it goes to the same place.
    let is_same = is_same_tree
        && source.selection.pattern == other.selection.pattern
        && later.destination == first.destination
        && later.unpacks == first.unpacks
        && later.sources.len() == first.sources.len();
    if is_same {
        return true;
    }
    let Some(written) = files_of(first, source, context) else { return false };
    // Users and groups are looked up by every copy.
    let is_looked_up = |place: &Place| matches!(place.path.as_str(), "/etc/passwd" | "/etc/group");
    if written.iter().any(|(_, place)| is_looked_up(place)) {
        return false;
    }
    if is_same_tree && is_directory(other, context) {
        // A tree within a tree: each file again, to the same place?
        return written.iter().all(|(path, place)| {
            let again = beneath(path, &other.selection.pattern).filter(|rest| !rest.is_empty());
            again.is_some_and(|rest| {
                place.is_certain && place.path == format!("{}/{rest}", trimmed(later.destination))
            })
        });
    }
    let Some(written_later) = files_of(later, other, context) else { return false };
    written.iter().all(|(_, place)| written_later.iter().any(|(_, later)| place.is_same(later)))
}

/// Where a file goes.
struct Place {
    path: String,
    /// Whether it does, whatever stands there: without a `/` at its end, a destination may be a directory of the image.
    is_certain: bool,
    /// The file's own name.
    name: String,
}

impl Place {
    /// Whether two files go to one place.
    fn is_same(&self, other: &Place) -> bool {
        let (_, last) = self.path.rsplit_once('/').unwrap_or_default();
        // As everybody names files, and nobody directories.
        let is_file = last.trim_start_matches('.').contains('.');
        self.path == other.path
            && self.is_certain == other.is_certain
            && (self.is_certain || self.name == other.name || is_file)
    }
}

/// The files that a source stands for, with their places. `None` when that is not known, or when they are no ordinary files.
fn files_of(
    transfer: &Transfer<'_>,
    source: &Copied<'_>,
    context: Option<&Listing>,
) -> Option<Vec<(String, Place)>> {
    let pattern = &source.selection.pattern;
    let paths = match source.source {
        Op::Inline(inline) => inline.files.iter().map(|file| file.name.clone()).collect(),
        Op::Source(Source::Http(_)) => vec![pattern.clone()],
        _ if source.is_of_context() => listed(context?, pattern, source.selection.wildcards)?,
        _ => return None,
    };
    let single = transfer.sources.len() == 1 && paths.len() == 1;
    let place = |path: &String| {
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        let destination = trimmed(transfer.destination);
        if transfer.destination.ends_with('/') || !single {
            Place { path: format!("{destination}/{name}"), is_certain: true, name }
        } else {
            Place { path: destination.to_owned(), is_certain: false, name }
        }
    };
    if transfer.unpacks && paths.iter().any(|path| may_be_archive(path)) {
        return None;
    }
    Some(paths.iter().map(|path| (path.clone(), place(path))).collect())
}

/// The files of a context that a pattern stands for, when all are ordinary files.
fn listed(context: &Listing, pattern: &str, wildcards: bool) -> Option<Vec<String>> {
    let is_file = |path: &str| {
        let file = context.files().binary_search_by(|file| file.path.as_str().cmp(path));
        file.is_ok_and(|index| !context.files()[index].link)
    };
    if !wildcards {
        return is_file(pattern).then(|| vec![pattern.to_owned()]);
    }
    let (directory, last) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    if has_wildcards(directory) {
        return None;
    }
    let last = Pattern::new(last).ok()?;
    let mut found = Vec::new();
    for file in context.below(directory) {
        let inside = beneath(&file.path, directory)?;
        let (name, is_directory) = inside.split_once('/').map_or((inside, false), |(name, _)| (name, true));
        if last.matches(name.as_bytes()) {
            if is_directory || file.link {
                return None;
            }
            found.push(joined(directory, name));
        }
    }
    (!found.is_empty()).then_some(found)
}

fn is_directory(source: &Copied<'_>, context: Option<&Listing>) -> bool {
    let pattern = &source.selection.pattern;
    let is_listed =
        || source.is_of_context() && context.is_some_and(|context| !context.below(pattern).is_empty());
    !source.selection.wildcards && (pattern.is_empty() || is_listed())
}

/// Whether ADD may unpack it. It looks at the content, which nobody has here.
fn may_be_archive(path: &str) -> bool {
    const ENDINGS: [&str; 14] = [
        ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tlz", ".tzst", ".gz", ".bz2", ".xz", ".zst", ".lzma",
        ".bin", ".img",
    ];
    let name = path.rsplit('/').next().unwrap_or_default();
    !name.contains('.') || ENDINGS.iter().any(|ending| name.ends_with(ending))
}

fn trimmed(destination: &str) -> &str {
    destination.trim_end_matches('/')
}
