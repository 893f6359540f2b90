//! Instructions beside what they were lowered to.

use std::collections::BTreeMap;

use files::{PathSelection, Selection};
use graph::{Definition, Exec, Op, Source, Vertex, VertexId};
use parser::{Comment, Instruction, InstructionKind};

use super::Subject;
use super::shell::Script;

/// What the frontend calls the main context.
pub(super) const CONTEXT: &str = "context";

/// So many instructions after one are looked at: what is further away has little to do with it, and nobody is to wait for advice.
pub(super) const NEAR: usize = 100;

/// A stage of the file that the target needs.
pub(super) struct Stage<'a> {
    pub(super) steps: Vec<Step<'a>>,
}

/// An instruction of a stage.
pub(super) struct Step<'a> {
    pub(super) instruction: &'a Instruction,
    /// What it does, when it is known: equal steps of several stages are one, and known at the first of them.
    pub(super) deed: Option<Deed<'a>>,
}

/// What COPY, ADD and RUN do.
pub(super) enum Deed<'a> {
    Transfer(Transfer<'a>),
    Run(Run<'a>),
}

/// COPY or ADD.
pub(super) struct Transfer<'a> {
    /// Absolute; a trailing `/` means a directory.
    pub(super) destination: &'a str,
    pub(super) sources: Vec<Copied<'a>>,
    /// Whether archives may be unpacked.
    pub(super) unpacks: bool,
    /// Neither `--parents` nor `--exclude`.
    pub(super) is_plain: bool,
}

/// A source of COPY or ADD.
pub(super) struct Copied<'a> {
    pub(super) vertex: VertexId,
    pub(super) source: &'a Op,
    pub(super) selection: &'a PathSelection,
}

/// RUN.
pub(super) struct Run<'a> {
    pub(super) exec: &'a Exec,
    /// What the shell gets; `None` in the form without a shell.
    pub(super) text: Option<&'a str>,
    pub(super) script: Script,
}

impl<'a> Step<'a> {
    pub(super) fn transfer(&self) -> Option<&Transfer<'a>> {
        match &self.deed {
            Some(Deed::Transfer(transfer)) => Some(transfer),
            _ => None,
        }
    }

    pub(super) fn run(&self) -> Option<&Run<'a>> {
        match &self.deed {
            Some(Deed::Run(run)) => Some(run),
            _ => None,
        }
    }

    pub(super) fn comments(&self) -> &'a [Comment] {
        &self.instruction.comments
    }

    /// Whether files may be read or written in a way that is not known.
    pub(super) fn is_unknown(&self) -> bool {
        use InstructionKind::{Add, Copy, Run};
        self.deed.is_none() && matches!(self.instruction.kind, Add(_) | Copy(_) | Run(_))
    }
}

impl Copied<'_> {
    pub(super) fn is_of_context(&self) -> bool {
        is_context(self.source)
    }
}

impl Run<'_> {
    /// Whether a mount shows it files of the build.
    pub(super) fn binds_files(&self) -> bool {
        self.exec.mounts.iter().any(|mount| matches!(mount.kind, graph::MountKind::Bind { .. }))
    }
}

/// Whether it is the main context.
pub(super) fn is_context(op: &Op) -> bool {
    matches!(op, Op::Source(Source::Local { name }) if name == CONTEXT)
}

/// The stages of the file. Of those that the target does not need nothing is known.
pub(super) fn stages<'a>(subject: &Subject<'a>) -> Vec<Stage<'a>> {
    let definition = &subject.plan.definition;
    // Each instruction begins in a line of its own.
    let mut by_line: BTreeMap<(u32, u32), Vec<&Vertex>> = BTreeMap::new();
    for (_, vertex) in definition.iter() {
        if let Some(lines) = vertex.lines {
            by_line.entry(lines).or_default().push(vertex);
        }
    }
    let step = |instruction: &'a Instruction| {
        let vertices = by_line.get(&(instruction.lines.first, instruction.lines.last));
        let mut vertices = vertices.into_iter().flatten().copied();
        let deed = match instruction.kind {
            InstructionKind::Add(_) => {
                vertices.find_map(|vertex| transfer(definition, vertex)).map(Deed::Transfer)
            }
            InstructionKind::Copy(ref copy) => {
                let parents = copy.parents.as_ref().is_some_and(|parents| parents.value);
                vertices.find_map(|vertex| transfer(definition, vertex)).map(|transfer| {
                    Deed::Transfer(Transfer { is_plain: transfer.is_plain && !parents, ..transfer })
                })
            }
            InstructionKind::Run(_) => vertices.find_map(|vertex| match &vertex.op {
                Op::Exec(exec) => Some(Deed::Run(run(exec))),
                _ => None,
            }),
            _ => None,
        };
        Step { instruction, deed }
    };
    let stages = subject.parsed.dockerfile.stages.iter();
    stages.map(|stage| Stage { steps: stage.instructions.iter().map(step).collect() }).collect()
}

fn run(exec: &Exec) -> Run<'_> {
    const SHELLS: [&str; 5] = ["sh", "bash", "dash", "ash", "zsh"];
    let is_shell = |program: &str| SHELLS.contains(&program.rsplit('/').next().unwrap_or_default());
    let text = match exec.args.as_slice() {
        [program, flags @ .., text]
            if is_shell(program) && flags.last().is_some_and(|flag| is_command_flag(flag)) =>
        {
            Some(text.as_str())
        }
        _ => None,
    };
    let script = text.map_or_else(|| Script::of_words(&exec.args), Script::parse);
    Run { exec, text, script }
}

/// `-c`, `-euxc`.
fn is_command_flag(flag: &str) -> bool {
    flag.starts_with('-') && !flag.starts_with("--") && flag.ends_with('c')
}

fn transfer<'a>(definition: &'a Definition, vertex: &'a Vertex) -> Option<Transfer<'a>> {
    let Op::Copy(copy) = &vertex.op else { return None };
    let mut sources = Vec::new();
    let mut is_plain = true;
    for input in vertex.inputs.iter().skip(1) {
        let Selection::Path(selection) = &input.selection else { return None };
        is_plain &= selection.include.is_none() && selection.exclude.is_empty();
        sources.push(Copied { vertex: input.vertex, source: &definition.vertex(input.vertex).op, selection });
    }
    Some(Transfer { destination: &copy.destination, sources, unpacks: copy.unpack, is_plain })
}

/// Whether `path` is `directory` or below; both absolute, without a trailing `/`.
pub(super) fn is_within(path: &str, directory: &str) -> bool {
    below(path, directory).is_some()
}

/// What of a path is below a directory; empty for the directory itself.
pub(super) fn below<'p>(path: &'p str, directory: &str) -> Option<&'p str> {
    let directory = directory.trim_end_matches('/');
    let rest = path.trim_end_matches('/').strip_prefix(directory)?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix('/') }
}

/// The same for paths that are relative to one and the same directory, which is the empty path.
pub(super) fn beneath<'p>(path: &'p str, directory: &str) -> Option<&'p str> {
    if directory.is_empty() {
        return Some(path);
    }
    let rest = path.strip_prefix(directory)?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix('/') }
}

/// A path, relative to a directory or absolute, made absolute and clean.
pub(super) fn resolved(directory: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let start = if path.starts_with('/') { "" } else { directory };
    for part in start.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// A path below another one, both relative.
pub(super) fn joined(directory: &str, path: &str) -> String {
    match (directory.is_empty(), path.is_empty()) {
        (true, _) => path.to_owned(),
        (_, true) => directory.to_owned(),
        (false, false) => format!("{directory}/{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(below("/a/b/c", "/a/"), Some("b/c"));
        assert_eq!(below("/a/", "/a"), Some(""));
        assert_eq!(below("/ab", "/a"), None);
        assert_eq!(below("/a", "/"), Some("a"));
        assert_eq!(resolved("/app", "./x/../y"), "/app/y");
        assert_eq!(resolved("/app", "/z/"), "/z");
        assert_eq!(resolved("/", "../.."), "/");
        assert_eq!(joined("", "a"), "a");
        assert_eq!(beneath("a/b", ""), Some("a/b"));
        assert_eq!(beneath("a/b", "a"), Some("b"));
        assert_eq!(beneath("ab", "a"), None);
    }

    #[test]
    fn flags_of_shells() {
        assert!(is_command_flag("-c") && is_command_flag("-euxc"));
        assert!(!is_command_flag("-e") && !is_command_flag("--rc") && !is_command_flag("c"));
    }
}
