//! What can be set from outside: the data of `--call=outline` and `--call=targets`.

use std::collections::BTreeSet;

use parser::{Parsed, Span};

/// A stage that can be built, as `--call=targets` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetInfo {
    /// The stage's name.
    pub name: Option<String>,
    /// From the comment above: `# name text`.
    pub description: Option<String>,
    /// What is built when nobody asks: the last one.
    pub default: bool,
    /// What it stands on, as written.
    pub base: String,
    /// `--platform`, as written.
    pub platform: Option<String>,
    /// Its FROM.
    pub span: Span,
}

/// The stages of a file, in order. It needs nothing but the file, which may have mistakes.
pub fn targets(parsed: &Parsed) -> Vec<TargetInfo> {
    let stages = &parsed.dockerfile.stages;
    let info = |(index, stage): (usize, &parser::Stage)| TargetInfo {
        name: stage.name().map(str::to_owned),
        description: stage.name().and_then(|name| stage.from.description(name)).map(str::to_owned),
        default: index + 1 == stages.len(),
        base: stage.from.kind.base.text.clone(),
        platform: stage.from.kind.platform.as_ref().map(|word| word.text.clone()),
        span: stage.from.span,
    };
    stages.iter().enumerate().map(info).collect()
}

/// What a target can be given, as `--call=outline` lists it. Each list is in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The target's name.
    pub name: Option<String>,
    /// From the comment above its FROM.
    pub description: Option<String>,
    /// Arguments that it or a stage that it needs declares.
    pub args: Vec<OutlineArg>,
    /// Secrets that its steps use.
    pub secrets: Vec<OutlineMount>,
    /// Agents that its steps use.
    pub ssh: Vec<OutlineMount>,
    /// Cache mounts that its steps use; none is required.
    pub caches: Vec<OutlineMount>,
}

/// An argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// From the comment above its ARG: `# name text`.
    pub description: Option<String>,
    /// Its value in this build.
    pub value: Option<String>,
    /// Its ARG.
    pub span: Span,
}

/// A secret, an agent or a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlineMount {
    /// Its id.
    pub id: String,
    /// Whether the build fails without it.
    pub required: bool,
    /// The first RUN that uses it.
    pub span: Span,
}

impl Outline {
    /// All that these stages can be given, each name once: what a stage says later counts, and what this one says before the
    /// others. Name and description stay.
    pub(crate) fn merge<'o>(mut self, others: impl Iterator<Item = &'o Outline>) -> Outline {
        let mut seen = BTreeSet::new();
        let mut args = std::mem::take(&mut self.args);
        args.reverse();
        for other in others {
            args.extend(other.args.iter().rev().cloned());
            self.secrets.extend(other.secrets.iter().cloned());
            self.ssh.extend(other.ssh.iter().cloned());
            self.caches.extend(other.caches.iter().cloned());
        }
        args.retain(|arg| seen.insert(arg.name.clone()));
        args.sort_by_key(|arg| arg.span.start);
        self.args = args;
        for list in [&mut self.secrets, &mut self.ssh, &mut self.caches] {
            list.sort_by_key(|mount| mount.span.start);
            let mut seen = BTreeSet::new();
            list.retain(|mount| seen.insert(mount.id.clone()));
        }
        self
    }
}
