//! Which part of a RUN installs packages and could run without what is copied before it.

use crate::advice::packages::{Install, Work, work};
use crate::advice::shell::{Command, Join};
use crate::advice::steps::{Run, resolved};

/// A RUN, cut in two.
pub(super) struct Cut {
    /// What the first part installs; nothing when the whole RUN is a trifle.
    pub(super) installations: Vec<Installation>,
    /// Whether a command of the first part changes the directory.
    pub(super) enters: bool,
    /// The text of the first part as it has to be, where it is not the whole RUN as it stands.
    pub(super) text: Option<String>,
    /// The second part.
    pub(super) rest: Option<String>,
    /// Commands to be run once the files are there.
    pub(super) later: Vec<&'static str>,
}

/// A command that installs something.
pub(super) struct Installation {
    /// `npm ci`
    pub(super) name: String,
    /// Where it runs, absolute.
    pub(super) directory: String,
    /// What it needs; `None` for packages of the distribution, which need nothing.
    pub(super) install: Option<Install>,
}

/// Cuts a RUN behind the last command that is known. `None` when nothing of it can go anywhere.
pub(super) fn cut(run: &Run<'_>) -> Option<Cut> {
    let script = &run.script;
    if !script.plain
        || run.binds_files()
        || script.commands.iter().any(|command| command.join == Join::Beside)
    {
        return None;
    }
    let works: Vec<Work> = script.commands.iter().map(work).collect();
    let known = known(&script.commands, &works);
    let mut directory = run.exec.cwd.clone();
    let mut cut = Cut { installations: Vec::new(), enters: false, text: None, rest: None, later: Vec::new() };
    let mut additions = Vec::new();
    for (command, work) in script.commands.iter().zip(&works).take(known) {
        match work {
            Work::Enter(path) => {
                directory = resolved(&directory, path);
                cut.enters = true;
            }
            Work::System => cut.installations.push(Installation::of(command, &directory, None)),
            Work::Install(install) => {
                if let Some((options, later)) = install.later {
                    additions.push((command.range.end, options));
                    cut.later.push(later);
                }
                cut.installations.push(Installation::of(command, &directory, Some(install.clone())));
            }
            Work::Lists | Work::Trifle | Work::Unknown => {}
        }
    }
    if cut.installations.is_empty() {
        return (known == script.commands.len()).then_some(cut);
    }
    let (first, others) = script.commands.split_at(known);
    if !others.is_empty() {
        cut.rest = Some(rest(run.text?, first, others)?);
    }
    if !others.is_empty() || !additions.is_empty() {
        cut.text = Some(joined(run.text?, first, &additions));
    }
    // In a script of several lines: it is to be one line of a RUN now.
    if [&cut.text, &cut.rest].into_iter().flatten().any(|text| text.contains(['\n', '#'])) {
        return None;
    }
    Some(cut)
}

/// How many commands at the beginning are known, together with those that a pipe or `||` ties them to.
fn known(commands: &[Command], works: &[Work]) -> usize {
    let mut known = works.iter().position(|work| *work == Work::Unknown).unwrap_or(works.len());
    while commands.get(known).is_some_and(|next| matches!(next.join, Join::Pipe | Join::Or)) && known > 0 {
        known -= 1;
    }
    known
}

/// The second part, with what it takes over from the first. `None` when it would lack something.
fn rest(text: &str, first: &[Command], others: &[Command]) -> Option<String> {
    let mut rest = String::new();
    for command in first {
        match command.words.first().map(|word| word.text.as_str()) {
            Some("set") => rest.push_str(&format!("{}; ", &text[command.range.clone()])),
            Some("cd") => rest.push_str(&format!("{} && ", &text[command.range.clone()])),
            Some("export" | "umask" | "shopt") => return None,
            // Assignments that stay.
            _ if command.words.iter().all(|word| word.text.contains('=')) => return None,
            _ => {}
        }
    }
    rest.push_str(&joined(text, others, &[]));
    Some(rest)
}

/// Commands as they stand in a text, without the blanks that continued lines leave between them. `additions` go behind the commands
/// that end there.
fn joined(text: &str, commands: &[Command], additions: &[(usize, &str)]) -> String {
    let mut joined = String::new();
    let mut end = None;
    for command in commands {
        if let Some(end) = end {
            let between: &str = &text[end..command.range.start];
            match between.trim() {
                "" => joined.push_str("; "),
                sign if sign.starts_with(';') => joined.push_str(&format!("{sign} ")),
                sign => joined.push_str(&format!(" {sign} ")),
            }
        }
        joined.push_str(&text[command.range.clone()]);
        let added = additions.iter().filter(|(at, _)| *at == command.range.end);
        joined.extend(added.map(|(_, options)| *options));
        end = Some(command.range.end);
    }
    joined
}

impl Installation {
    fn of(command: &Command, directory: &str, install: Option<Install>) -> Installation {
        let words = command.words.iter().map(|word| word.text.as_str());
        let is_wrapper =
            |word: &&str| word.contains('=') || matches!(*word, "sudo" | "env" | "exec" | "-E" | "-H");
        // `python -m pip install`, `go mod download`
        let count = match command.words.iter().any(|word| word.text == "-m") {
            true => 4,
            false => 2 + usize::from(install.as_ref().is_some_and(|install| install.manager == "go")),
        };
        let is_name = |word: &str| word.starts_with(|c: char| c.is_ascii_alphanumeric());
        let name: Vec<&str> = words
            .skip_while(is_wrapper)
            .enumerate()
            .filter(|(index, word)| *index == 0 || *word == "-m" || is_name(word))
            .map(|(_, word)| word)
            .take(count)
            .collect();
        Installation { name: name.join(" "), directory: directory.to_owned(), install }
    }
}
