//! The lines to write instead.

use parser::{Command, CopySource, Instruction, InstructionKind, Word};

use super::needs::Need;
use super::{Moved, Region};
use crate::advice::steps::{Stage, below};

/// In front of each line.
const INDENT: &str = "    ";

/// The instructions of a region in the better order. `None` when one of them cannot be written simply.
pub(super) fn lines(source: &str, stage: &Stage<'_>, region: &Region) -> Option<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut after: Vec<String> = Vec::new();
    let mut moves_directory = false;
    for moved in &region.moved {
        match moved {
            Moved::Along(index) => {
                let instruction = stage.steps[*index].instruction;
                moves_directory |= matches!(instruction.kind, InstructionKind::Workdir(_));
                lines.push(written(source, instruction)?.to_owned());
            }
            Moved::Needs { needs, directory } => {
                for (index, &copy) in region.copies.iter().enumerate() {
                    let needs: Vec<&Need> = needs.iter().filter(|need| need.copy == index).collect();
                    let original = stage.steps[copy].instruction;
                    lines.extend(copies(original, &needs, directory.as_deref()));
                }
            }
            Moved::Install { step, cut } => {
                let step = &stage.steps[*step];
                let start = before_command(source, step.instruction)?;
                lines.push(match &cut.text {
                    None => written(source, step.instruction)?.to_owned(),
                    Some(text) => format!("{start}{text}"),
                });
                after.extend(cut.later.iter().map(|later| format!("RUN {later}")));
                after.extend(cut.rest.iter().map(|rest| format!("{start}{rest}")));
            }
        }
    }
    let others = region.copies.iter().copied().chain(staying(region));
    for step in others.map(|index| &stage.steps[index]) {
        lines.push(match step.transfer() {
            Some(transfer) if moves_directory => {
                with_destination(source, step.instruction, transfer.destination)?
            }
            _ => written(source, step.instruction)?.to_owned(),
        });
    }
    lines.extend(after);
    let mut text = String::new();
    for line in lines.iter().flat_map(|line| line.lines()) {
        text.push_str(&format!("{INDENT}{}\n", line.trim_end()));
    }
    text.truncate(text.trim_end().len());
    Some(text)
}

/// The instructions between the first and the last line that stay where they are: below the copies, and below what is moved above
/// them.
fn staying(region: &Region) -> impl Iterator<Item = usize> {
    let moved: Vec<usize> = region
        .moved
        .iter()
        .filter_map(|moved| match moved {
            Moved::Needs { .. } => None,
            Moved::Along(index) | Moved::Install { step: index, .. } => Some(*index),
        })
        .collect();
    let first = region.copies.first().copied().unwrap_or_default();
    let last = moved.iter().max().copied().unwrap_or_default();
    let copies = region.copies.clone();
    (first..last).filter(move |index| !moved.contains(index) && !copies.contains(index))
}

/// An instruction as it stands.
fn written<'s>(source: &'s str, instruction: &Instruction) -> Option<&'s str> {
    source.get(instruction.span.range())
}

/// `RUN` with its options, in one line, and a blank.
fn before_command(source: &str, instruction: &Instruction) -> Option<String> {
    let InstructionKind::Run(run) = &instruction.kind else { return None };
    let start = match &run.command {
        Command::Shell(Word { span, .. }) => span.start,
        Command::Exec(words) => words.first()?.span.start,
    };
    let text = source.get(instruction.span.start..start)?;
    let words: Vec<&str> =
        text.split_whitespace().filter(|word| !matches!(*word, "\\" | "`" | "[")).collect();
    Some(format!("{} ", words.join(" ")))
}

/// COPY instructions for what an installation needs, to be run in a directory, with the owner and the mode that the original gives.
fn copies(original: &Instruction, needs: &[&Need], directory: Option<&str>) -> Vec<String> {
    let flags = flags(original);
    let mut lines: Vec<(String, Vec<&str>)> = Vec::new();
    for need in needs {
        let destination = destination(&need.directory, directory);
        match lines.iter_mut().find(|(known, _)| !need.is_directory && *known == destination) {
            Some((_, paths)) if !paths.contains(&need.path.as_str()) => paths.push(&need.path),
            Some(_) => {}
            None => lines.push((destination, vec![&need.path])),
        }
    }
    lines
        .iter()
        .map(|(destination, paths)| format!("COPY {flags}{} {destination}", paths.join(" ")))
        .collect()
}

fn flags(original: &Instruction) -> String {
    let (chown, chmod, link) = match &original.kind {
        InstructionKind::Copy(copy) => (&copy.chown, &copy.chmod, &copy.link),
        InstructionKind::Add(add) => (&add.chown, &add.chmod, &add.link),
        _ => return String::new(),
    };
    let mut text = String::new();
    for (name, value) in [("chown", chown), ("chmod", chmod)] {
        if let Some(value) = value {
            text.push_str(&format!("--{name}={} ", value.text));
        }
    }
    if link.as_ref().is_some_and(|link| link.value) {
        text.push_str("--link ");
    }
    text
}

/// A directory as an instruction in another one names it.
fn destination(directory: &str, from: Option<&str>) -> String {
    match from.filter(|from| *from != "/").and_then(|from| below(directory, from)) {
        Some("") => "./".to_owned(),
        Some(inside) => format!("{inside}/"),
        _ => format!("{}/", directory.trim_end_matches('/')),
    }
}

/// A copy whose destination is written in full, as it stands after a WORKDIR that stood before.
fn with_destination(source: &str, instruction: &Instruction, destination: &str) -> Option<String> {
    let (dest, sources) = match &instruction.kind {
        InstructionKind::Copy(copy) => (&copy.dest, &copy.sources),
        InstructionKind::Add(add) => (&add.dest, &add.sources),
        _ => return None,
    };
    let is_absolute = dest.text.starts_with('/');
    let has_heredocs = sources.iter().any(|source| matches!(source, CopySource::Heredoc(_)));
    if is_absolute {
        return written(source, instruction).map(str::to_owned);
    }
    if has_heredocs || dest.text.contains('$') {
        return None;
    }
    let before = source.get(instruction.span.start..dest.span.start)?;
    let after = source.get(dest.span.end..instruction.span.end)?;
    let quote = if source.get(dest.span.range())?.starts_with('"') { "\"" } else { "" };
    Some(format!("{before}{quote}{destination}{quote}{after}"))
}
