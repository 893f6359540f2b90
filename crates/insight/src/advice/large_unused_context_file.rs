//! `LargeUnusedContextFile`: what lies in the context, is large, and is used by nothing.

use files::{PathSelection, Pattern, Selection};
use parser::{CopySource, Diagnostic, InstructionKind, MountField, Span};

use super::listing::Listing;
use super::steps::is_context;
use super::{Advice, Subject};

/// From this size on, in bytes, a file or directory is large.
const LARGE: u64 = 10_000_000;

/// Of more patterns nobody finds out what they leave.
const MANY: usize = 100;

/// So many are named.
const NAMED: usize = 8;

pub(super) fn look(subject: &Subject<'_>, advice: &mut Advice<'_>) {
    let Some(context) = subject.context else { return };
    let Some(used) = used(subject, context) else { return };
    let mut large = Vec::new();
    unused("", context, &used, &mut large);
    large.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.path.cmp(&b.path)));
    let Some(first) = large.first() else { return };
    let message = match large.len() {
        1 => format!("{} of the build context is used by no instruction", first.described()),
        count => {
            let total: u64 = large.iter().map(|unused| unused.size).sum();
            format!("{} of the build context, in {count} places, are used by no instruction", size(total))
        }
    };
    let mut finding = Diagnostic::warning(Span::default(), message).with_rule("LargeUnusedContextFile");
    if large.len() > 1 {
        for unused in large.iter().take(NAMED) {
            finding = finding.with_note(unused.described());
        }
        if large.len() > NAMED {
            finding = finding.with_note(format!("and {} more", large.len() - NAMED));
        }
    }
    let mut help = String::from("in .dockerignore:");
    for unused in &large {
        help.push_str(&format!("\n    /{}", escaped(&unused.path)));
    }
    advice.give(finding.with_help(help), &[]);
}

/// A file or directory that nothing uses.
struct Unused {
    path: String,
    size: u64,
    /// Of a directory: how many there are in it.
    files: Option<usize>,
}

impl Unused {
    fn described(&self) -> String {
        match self.files {
            None => format!("{} ({})", self.path, size(self.size)),
            Some(1) => format!("{}/ ({} in 1 file)", self.path, size(self.size)),
            Some(files) => format!("{}/ ({} in {files} files)", self.path, size(self.size)),
        }
    }
}

/// Finds the large ones in a directory: it as a whole where nothing in it is used, what is in it otherwise. The context as a whole is
/// never meant.
fn unused(directory: &str, context: &Listing, used: &[bool], found: &mut Vec<Unused>) {
    // One directory after the other, so that no depth costs stack.
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        let files = context.below(&directory);
        let Some(first) = files.first() else { continue };
        let offset = context.files().partition_point(|file| file.path < first.path);
        let prefix = if directory.is_empty() { 0 } else { directory.len() + 1 };
        let mut at = 0;
        while let Some(file) = files.get(at) {
            let Some((name, _)) = file.path[prefix..].split_once('/') else {
                if !used[offset + at] && file.size >= LARGE {
                    found.push(Unused { path: file.path.clone(), size: file.size, files: None });
                }
                at += 1;
                continue;
            };
            let path = file.path[..prefix + name.len()].to_owned();
            let inside = context.below(&path);
            let count = inside.len();
            let size: u64 = inside.iter().map(|file| file.size).sum();
            if size >= LARGE {
                if used[offset + at..offset + at + count].contains(&true) {
                    waiting.push(path);
                } else {
                    found.push(Unused { path, size, files: Some(count) });
                }
            }
            at += count.max(1);
        }
    }
}

/// For each file whether something uses it. `None` when that cannot be known, or when nothing of the context is used: then nobody
/// reads it.
fn used(subject: &Subject<'_>, context: &Listing) -> Option<Vec<bool>> {
    let mut selections: Vec<PathSelection> = Vec::new();
    let definition = &subject.plan.definition;
    for (_, vertex) in definition.iter() {
        for input in vertex.inputs.iter().filter(|input| is_context(&definition.vertex(input.vertex).op)) {
            match &input.selection {
                Selection::Whole => return None,
                Selection::Path(selection) => selections.push(selection.clone()),
            }
        }
    }
    if selections.is_empty() {
        return None;
    }
    selections.extend(written(subject)?);
    selections.sort();
    selections.dedup();
    let (patterns, paths): (Vec<_>, Vec<_>) = selections.iter().partition(|selection| selection.wildcards);
    if patterns.len() > MANY {
        return None;
    }
    let mut used = vec![false; context.files().len()];
    for path in paths {
        let ends = path.pattern.match_indices('/').map(|(end, _)| end).chain([path.pattern.len()]);
        // A link leads somewhere else, which is then what is used.
        if ends.map(|end| &path.pattern[..end]).any(|path| context.is_link(path)) {
            return None;
        }
        for place in context.place(&path.pattern) {
            used[place] = true;
        }
    }
    for pattern in patterns {
        let pattern = Components::new(pattern)?;
        for (file, used) in context.files().iter().zip(&mut used) {
            if file.link && pattern.passes(&file.path) {
                return None;
            }
            *used |= pattern.selects(&file.path);
        }
    }
    Some(used)
}

/// What instructions of all stages name, also of those that other targets need. `None` when that depends on variables.
fn written(subject: &Subject<'_>) -> Option<Vec<PathSelection>> {
    let mut paths: Vec<&str> = Vec::new();
    for instruction in subject.parsed.dockerfile.stages.iter().flat_map(|stage| &stage.instructions) {
        let kind = match &instruction.kind {
            InstructionKind::Onbuild(onbuild) => onbuild.instruction.as_ref().map(|trigger| &trigger.kind),
            kind => Some(kind),
        };
        let sources = match kind {
            Some(InstructionKind::Copy(copy)) if copy.from.is_none() => &copy.sources,
            Some(InstructionKind::Add(add)) => &add.sources,
            Some(InstructionKind::Run(run)) => {
                for mount in &run.mounts {
                    paths.extend(mounted(&mount.fields));
                }
                continue;
            }
            _ => continue,
        };
        paths.extend(sources.iter().filter_map(|source| match source {
            CopySource::Path(word) if !word.text.contains("://") => Some(word.text.as_str()),
            _ => None,
        }));
    }
    let selection = |path: &str| {
        let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        let is_known = !path.contains(['$', '"', '\'']) && !parts.contains(&"..");
        let pattern = parts.join("/");
        is_known.then(|| PathSelection {
            wildcards: files::has_wildcards(&pattern),
            ..PathSelection::exact(pattern)
        })
    };
    // What is known of them through the plan is among them again, with its variables.
    let needed = |path: &&str| !(path.contains('$') && every_stage_is_needed(subject));
    paths.into_iter().filter(needed).map(selection).collect()
}

/// Whether all stages of the file are in the plan.
fn every_stage_is_needed(subject: &Subject<'_>) -> bool {
    let lines: std::collections::BTreeSet<_> =
        subject.plan.definition.iter().filter_map(|(_, vertex)| vertex.lines).collect();
    let instructions = subject.parsed.dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    let steps = instructions.filter(|instruction| {
        matches!(
            instruction.kind,
            InstructionKind::Copy(_) | InstructionKind::Add(_) | InstructionKind::Run(_)
        )
    });
    steps.map(|step| (step.lines.first, step.lines.last)).all(|step| lines.contains(&step))
}

/// What a mount shows of the context.
fn mounted(fields: &[MountField]) -> Option<&str> {
    let value = |names: &[&str]| {
        let field = fields.iter().find(|field| names.contains(&field.key.value.as_str()))?;
        field.value.as_ref().map(|value| value.text.as_str())
    };
    let is_bind = matches!(value(&["type"]), None | Some("bind"));
    (is_bind && value(&["from"]).is_none()).then(|| value(&["source", "src"]).unwrap_or("."))
}

/// A selection's pattern, to be compared with paths of files. What the selection leaves out of that counts as used.
struct Components(Vec<Component>);

enum Component {
    Name(String),
    Pattern(Pattern),
}

impl Components {
    fn new(selection: &PathSelection) -> Option<Components> {
        let parts = selection.pattern.split('/').filter(|part| !part.is_empty());
        let component = |part: &str| match files::has_wildcards(part) {
            true => Pattern::new(part).ok().map(Component::Pattern),
            false => Some(Component::Name(part.to_owned())),
        };
        parts.map(component).collect::<Option<_>>().map(Components)
    }

    /// Whether a file is what is named, or in a directory that is.
    fn selects(&self, path: &str) -> bool {
        let mut parts = path.split('/');
        self.0.iter().all(|component| parts.next().is_some_and(|part| component.matches(part)))
    }

    /// Whether the way to what is named leads over this file.
    fn passes(&self, path: &str) -> bool {
        let count = path.split('/').count();
        count <= self.0.len()
            && self.0.iter().zip(path.split('/')).all(|(component, part)| component.matches(part))
    }
}

impl Component {
    fn matches(&self, part: &str) -> bool {
        match self {
            Component::Name(name) => name == part,
            Component::Pattern(pattern) => pattern.matches(part.as_bytes()),
        }
    }
}

/// A path as an ignore file has it.
fn escaped(path: &str) -> String {
    let mut text = String::new();
    for c in path.chars() {
        if matches!(c, '*' | '?' | '[' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

/// `12 MB`, `1.4 GB`.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000_000 => format!("{} MB", bytes / 1_000_000),
        bytes => format!("{}.{} GB", bytes / 1_000_000_000, bytes / 100_000_000 % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size(12_900_000), "12 MB");
        assert_eq!(size(1_450_000_000), "1.4 GB");
    }

    #[test]
    fn selections() {
        let pattern = |pattern: &str| {
            let selection = PathSelection { wildcards: true, ..PathSelection::exact(pattern) };
            Components::new(&selection).unwrap()
        };
        assert!(
            pattern("").selects("a/b") && pattern("a").selects("a/b") && pattern("a/*.c").selects("a/x.c")
        );
        assert!(
            !pattern("a").selects("ab")
                && !pattern("a/b/c").selects("a/b")
                && !pattern("*.c").selects("a/x.c")
        );
        assert!(
            pattern("a/b").passes("a") && pattern("a/b").passes("a/b") && !pattern("a/b").passes("a/b/c")
        );
    }
}
