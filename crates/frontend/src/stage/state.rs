use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use graph::VertexId;
use image::{History, ImageConfig, Platform};

use crate::{BaseImage, Variables, paths};

/// What BuildKit puts into `comment` of its history entries; tools look for it.
const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// What a stage is after some of its instructions. `FROM stage` begins with a copy of it.
#[derive(Clone, Debug)]
pub(crate) struct StageState {
    pub(crate) vertex: VertexId,
    pub(crate) config: ImageConfig,
    pub(crate) platform: Platform,
    pub(crate) layer_steps: Vec<VertexId>,
    pub(crate) base: Option<BaseImage>,
    /// WORKDIR was used in this file.
    pub(crate) workdir_set: bool,
    /// Declared arguments in order, each once; `None` for those without any value.
    args: Vec<(String, Option<String>)>,
}

impl StageState {
    pub(crate) fn new(vertex: VertexId, config: ImageConfig, platform: Platform) -> Self {
        Self {
            vertex,
            config,
            platform,
            layer_steps: Vec::new(),
            base: None,
            workdir_set: false,
            args: Vec::new(),
        }
    }

    /// The variables that instructions see.
    pub(crate) fn scope(&self) -> Scope<'_> {
        Scope { env: self.config.config.env.as_deref().unwrap_or_default(), args: &self.args }
    }

    /// Declares an argument; a declaration without a value keeps an earlier one.
    pub(crate) fn declare(&mut self, name: &str, value: Option<String>) {
        match self.args.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value.or(known.take()),
            None => self.args.push((name.to_owned(), value)),
        }
    }

    /// Whether an ARG names `name`, with a value or without.
    pub(crate) fn declares(&self, name: &str) -> bool {
        self.args.iter().any(|(known, _)| known == name)
    }

    /// Sets a variable of the image: where it is, else at the end.
    pub(crate) fn set_env(&mut self, name: &str, value: &str) {
        let env = self.config.config.env.get_or_insert_default();
        let entry = format!("{name}={value}");
        match env.iter_mut().find(|entry| split(entry).0 == name) {
            Some(known) => *known = entry,
            None => env.push(entry),
        }
    }

    /// The environment of a process: the image's, then the arguments that it does not hide. Each name once.
    pub(crate) fn process_env(&self) -> Arc<[(String, String)]> {
        let values = self.values();
        let mut seen = HashSet::new();
        let scope = self.scope();
        let env = scope.env.iter().map(|entry| split(entry).0);
        env.chain(self.args.iter().map(|(name, _)| name.as_str()))
            // SBOM scanning is steered by these; programs never see them.
            .filter(|name| !name.starts_with("BUILDKIT_SBOM_SCAN_"))
            .filter(|name| seen.insert(*name))
            .filter_map(|name| Some((name.to_owned(), (*values.get(name)?).to_owned())))
            .collect()
    }

    /// `|2 A=1 B=2 ` as history has it before a command, for the declared arguments.
    pub(crate) fn history_args(&self) -> String {
        if self.args.is_empty() {
            return String::new();
        }
        let values = self.values();
        let value = |name: &str| values.get(name).copied().unwrap_or_default();
        let args: Vec<String> = self.args.iter().map(|(name, _)| format!("{name}={}", value(name))).collect();
        format!("|{} {} ", args.len(), args.join(" "))
    }

    /// All variables at once, as [`Scope`] sees each.
    fn values(&self) -> HashMap<&str, &str> {
        let args = self.args.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)));
        let env = self.config.config.env.iter().flatten().map(|entry| split(entry));
        args.chain(env).collect()
    }

    /// The working directory, absolute and clean.
    pub(crate) fn cwd(&self) -> String {
        paths::clean(&paths::absolute("/", &self.config.config.working_dir))
    }

    /// Adds a history entry.
    pub(crate) fn remember(&mut self, created_by: String, layer: bool) {
        self.config.history.push(History {
            created: None,
            created_by: Some(created_by),
            author: None,
            comment: Some(HISTORY_COMMENT.to_owned()),
            empty_layer: !layer,
        });
    }
}

/// The image's variables and the declared arguments. A variable hides an argument, whichever came first.
pub(crate) struct Scope<'a> {
    env: &'a [String],
    args: &'a [(String, Option<String>)],
}

impl Scope<'_> {
    /// All names that have a value.
    pub(crate) fn names(&self) -> Vec<String> {
        let env = self.env.iter().map(|entry| split(entry).0.to_owned());
        let args = self.args.iter().filter(|(_, value)| value.is_some()).map(|(name, _)| name.clone());
        env.chain(args).collect()
    }
}

impl Variables for Scope<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let env = self.env.iter().rev().map(|entry| split(entry)).find(|(known, _)| *known == name);
        match env {
            Some((_, value)) => Some(value),
            None => self.args.iter().find(|(known, _)| known == name).and_then(|(_, value)| value.as_deref()),
        }
    }
}

fn split(entry: &str) -> (&str, &str) {
    entry.split_once('=').unwrap_or((entry, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(env: &[&str]) -> StageState {
        let mut state = StageState::new(VertexId(0), ImageConfig::default(), "linux/amd64".parse().unwrap());
        state.config.config.env = Some(env.iter().map(|entry| (*entry).to_owned()).collect());
        state
    }

    #[test]
    fn env_hides_args_whichever_came_first() {
        let mut state = state(&["A=env", "NOVALUE"]);
        state.declare("A", Some("arg".to_owned()));
        state.declare("B", Some("arg".to_owned()));
        state.declare("UNSET", None);
        assert_eq!(state.scope().get("A"), Some("env"));
        assert_eq!(state.scope().get("NOVALUE"), Some(""));
        assert_eq!(state.scope().get("UNSET"), None);
        state.set_env("B", "env");
        let env = state.process_env();
        let env: Vec<_> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(env, ["A=env", "NOVALUE=", "B=env"]);
        assert_eq!(state.history_args(), "|3 A=env B=env UNSET= ");
    }

    #[test]
    fn the_last_of_two_equal_names_counts_and_the_first_is_set() {
        let mut state = state(&["K=1", "K=2"]);
        assert_eq!(state.scope().get("K"), Some("2"));
        state.set_env("K", "3");
        assert_eq!(state.config.config.env.as_deref().unwrap(), ["K=3", "K=2"]);
    }

    #[test]
    fn a_declaration_without_value_keeps_the_value() {
        let mut state = state(&[]);
        state.declare("A", Some("1".to_owned()));
        state.declare("A", None);
        assert_eq!(state.scope().get("A"), Some("1"));
    }
}
