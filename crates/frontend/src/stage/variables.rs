//! The variables of a stage: found by name without looking at all of them.

use graph::Environment;

use crate::Variables;
use crate::chain::Chain;
use crate::names::Names;
use crate::shown::{Secretive, Text};

/// SBOM scanning is steered by these; programs never see them.
const OF_SCANNERS: &str = "BUILDKIT_SBOM_SCAN_";

/// The image's variables and the declared arguments. A variable hides an argument, whichever came first.
#[derive(Debug)]
pub(crate) struct Scope {
    names: Names<Variable>,
    /// The number of entries that the image's config has.
    entries: usize,
    /// The declared arguments in order, each once.
    args: Chain<String>,
    /// What a process gets: the image's variables, each name once, then the arguments that they do not hide. It follows every change,
    /// since thousands of RUNs may stand between thousands of changes.
    process: Environment,
    /// How many of its variables are the image's.
    of_env: usize,
    /// The arguments stand behind them no longer: a variable came that has its place before them. They are put there again when a
    /// process is started.
    without_args: bool,
}

/// What a name stands for.
#[derive(Clone, Debug, Default)]
struct Variable {
    /// As in a config. Images may have several of a name: the first is the one that is set, the
    /// last the one that counts.
    entries: Vec<Entry>,
    arg: Option<Arg>,
    /// Where it stands in the environment of processes.
    process: Option<usize>,
}

/// A variable of the image.
#[derive(Clone, Debug)]
struct Entry {
    /// The number of entries before it.
    place: usize,
    /// `NAME=value`.
    text: String,
    /// What is shown in place of the value.
    shown: Option<String>,
}

/// A declared argument.
#[derive(Clone, Debug)]
struct Arg {
    /// The number of arguments that were declared before.
    place: usize,
    /// `None` for those without any.
    value: Option<Text>,
}

impl Variable {
    fn is_env(&self) -> bool {
        !self.entries.is_empty()
    }

    fn value(&self) -> Option<&str> {
        self.with_shown().map(|(value, _)| value)
    }

    fn with_shown(&self) -> Option<(&str, Option<&str>)> {
        if let Some(entry) = self.entries.last() {
            return Some((split(&entry.text).1, entry.shown.as_deref()));
        }
        let value = self.arg.as_ref()?.value.as_ref()?;
        Some((&value.value, value.instead()))
    }
}

impl Scope {
    /// The variables of a config.
    pub(super) fn new(entries: Vec<String>) -> Self {
        let mut scope = Self {
            names: Names::default(),
            entries: 0,
            args: Chain::new(Vec::new()),
            process: Environment::default(),
            of_env: 0,
            without_args: false,
        };
        for entry in entries {
            let (name, value) = split(&entry);
            let name = name.to_owned();
            let shown = Text::from(value.to_owned()).of_variable(&name).instead().map(str::to_owned);
            scope.push(&name, entry, shown);
        }
        scope
    }

    /// The same for a stage on top of this one.
    pub(super) fn child(&mut self) -> Self {
        Self {
            names: self.names.clone(),
            entries: self.entries,
            args: self.args.share(),
            process: self.process.clone(),
            of_env: self.of_env,
            without_args: self.without_args,
        }
    }

    /// The variables as a config has them.
    pub(super) fn env(&self) -> Vec<String> {
        let all = self.names.all().into_iter().flat_map(|(_, variable)| &variable.entries);
        let mut entries: Vec<&Entry> = all.collect();
        entries.sort_unstable_by_key(|entry| entry.place);
        entries.into_iter().map(|entry| entry.text.clone()).collect()
    }

    /// Sets a variable of the image: where it is, else at the end.
    pub(super) fn set_env(&mut self, name: &str, value: &Text) {
        let text = [name, "=", &value.value].concat();
        let shown = value.instead().map(str::to_owned);
        match self.names.entry(name).entries.first_mut() {
            Some(entry) => {
                entry.text = text;
                entry.shown = shown;
                self.follow(name);
            }
            None => self.push(name, text, shown),
        }
    }

    /// Adds an entry of the config.
    fn push(&mut self, name: &str, text: String, shown: Option<String>) {
        let place = self.entries;
        self.entries += 1;
        let has_args = !self.args.is_empty();
        let variable = self.names.entry(name);
        let first = !variable.is_env();
        if first {
            // It may have been an argument, at another place.
            variable.process = None;
            if is_seen(name) {
                variable.process = Some(self.of_env);
                self.without_args |= has_args;
                self.process.truncate(self.of_env);
                self.process.push(name.to_owned(), split(&text).1.to_owned());
                self.of_env += 1;
            }
        }
        variable.entries.push(Entry { place, text, shown });
        if !first {
            self.follow(name);
        }
    }

    /// Has processes see the value that a variable of the image has now.
    fn follow(&mut self, name: &str) {
        if let Some(variable) = self.names.get(name)
            && let (Some(process), Some(value)) = (variable.process, variable.value())
        {
            self.process.set(process, value.to_owned());
        }
    }

    /// Puts the arguments behind the image's variables again.
    fn complete(&mut self) {
        self.process.truncate(self.of_env);
        self.without_args = false;
        for name in self.args.iter() {
            let variable = self.names.entry(name);
            if variable.is_env() || !is_seen(name) {
                continue;
            }
            variable.process = None;
            if let Some(value) = variable.value() {
                let value = value.to_owned();
                variable.process = Some(self.process.len());
                self.process.push(name.clone(), value);
            }
        }
    }

    /// Declares an argument; a declaration without a value keeps an earlier one.
    pub(super) fn declare(&mut self, name: &str, value: Option<Text>) {
        let known = self.args.len();
        let variable = self.names.entry(name);
        let visible = !variable.is_env() && is_seen(name) && !self.without_args;
        let was_there = variable.arg.is_some();
        if was_there && value.is_none() {
            return;
        }
        if let (true, Some(value)) = (visible, &value) {
            match variable.process {
                Some(process) => self.process.set(process, value.value.clone()),
                // It had none, and those that were declared after it may have some.
                None if was_there => self.without_args = true,
                None => {
                    variable.process = Some(self.process.len());
                    self.process.push(name.to_owned(), value.value.clone());
                }
            }
        }
        let place = variable.arg.as_ref().map_or(known, |arg| arg.place);
        variable.arg = Some(Arg { place, value });
        if !was_there {
            self.args.push(name.to_owned());
        }
    }

    /// Whether an ARG names `name`, with a value or without.
    pub(super) fn declares(&self, name: &str) -> bool {
        self.names.get(name).is_some_and(|variable| variable.arg.is_some())
    }

    /// All names that have a value, the image's variables first.
    pub(super) fn names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for (name, variable) in self.names.all() {
            names.extend(variable.entries.iter().map(|entry| (false, entry.place, name)));
            let arg = variable.arg.as_ref().filter(|arg| arg.value.is_some());
            names.extend(arg.map(|arg| (true, arg.place, name)));
        }
        names.sort_unstable();
        names.into_iter().map(|(_, _, name)| name).collect()
    }

    /// The number of variables and arguments.
    pub(super) fn len(&self) -> usize {
        self.entries + self.args.len()
    }

    /// The environment of a process.
    pub(super) fn process_env(&mut self) -> &Environment {
        if self.without_args {
            self.complete();
        }
        &self.process
    }

    /// `|2 A=1 B=2 ` as history has it before a command, for the declared arguments: whoever has the image can read it.
    pub(super) fn history_args(&self) -> String {
        if self.args.is_empty() {
            return String::new();
        }
        let mut text = format!("|{} ", self.args.len());
        for name in self.args.iter() {
            let (value, shown) = self.with_shown(name).unwrap_or_default();
            for part in [name.as_str(), "=", shown.unwrap_or(value), " "] {
                text.push_str(part);
            }
        }
        text
    }
}

impl Variables for Scope {
    fn get(&self, name: &str) -> Option<&str> {
        self.names.get(name)?.value()
    }
}

impl Secretive for Scope {
    fn with_shown(&self, name: &str) -> Option<(&str, Option<&str>)> {
        self.names.get(name)?.with_shown()
    }
}

/// Whether programs may see a variable of this name.
fn is_seen(name: &str) -> bool {
    !name.starts_with(OF_SCANNERS)
}

fn split(entry: &str) -> (&str, &str) {
    entry.split_once('=').unwrap_or((entry, ""))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn scope(env: &[&str]) -> Scope {
        Scope::new(env.iter().map(|entry| (*entry).to_owned()).collect())
    }

    fn text(value: &str) -> Option<Text> {
        Some(value.to_owned().into())
    }

    #[test]
    fn values_of_secret_like_names_are_not_shown() {
        let mut scope = scope(&["BASE_TOKEN=base", "EMPTY_TOKEN=", "A=a"]);
        for (name, value) in [("NPM_TOKEN", "x"), ("NO_TOKEN", ""), ("BASE_TOKEN", "y")] {
            scope.declare(name, text(value).map(|text| text.of_variable(name)));
        }
        scope.declare("URL", Some(Text::new("h/x".to_owned(), Some("h/***".to_owned()))));
        assert_eq!(scope.history_args(), "|4 NPM_TOKEN=*** NO_TOKEN= BASE_TOKEN=*** URL=h/*** ");
        assert_eq!(scope.get("NPM_TOKEN"), Some("x"));
        assert_eq!(scope.with_shown("EMPTY_TOKEN"), Some(("", None)));
        assert_eq!(scope.with_shown("A"), Some(("a", None)));
    }

    #[test]
    fn env_hides_args_whichever_came_first() {
        let mut scope = scope(&["A=env", "NOVALUE"]);
        scope.declare("A", text("arg"));
        scope.declare("B", text("arg"));
        scope.declare("UNSET", None);
        assert_eq!(scope.get("A"), Some("env"));
        assert_eq!(scope.get("NOVALUE"), Some(""));
        assert_eq!(scope.get("UNSET"), None);
        scope.set_env("B", &"env".to_owned().into());
        let env: Vec<_> = scope.process_env().iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(env, ["A=env", "NOVALUE=", "B=env"]);
        assert_eq!(scope.history_args(), "|3 A=env B=env UNSET= ");
        assert_eq!(scope.names(), ["A", "NOVALUE", "B", "A", "B"]);
    }

    /// The environment of a process as its definition has it.
    fn process_env(scope: &Scope) -> Vec<(String, String)> {
        let mut seen = HashSet::new();
        let env = scope.env().into_iter().map(|entry| split(&entry).0.to_owned());
        env.chain(scope.args.iter().cloned())
            .filter(|name| !name.starts_with(OF_SCANNERS))
            .filter(|name| seen.insert(name.clone()))
            .filter_map(|name| Some((name.clone(), scope.get(&name)?.to_owned())))
            .collect()
    }

    proptest! {
        #[test]
        fn the_environment_of_a_process_follows(
            entries in proptest::collection::vec("[A-C](=[ab])?|BUILDKIT_SBOM_SCAN_X=1", 0..4),
            changes in proptest::collection::vec(
                (any::<bool>(), "[A-H]|BUILDKIT_SBOM_SCAN_[XY]", proptest::option::of("[ab]{0,2}"), any::<bool>(), any::<bool>()),
                0..30,
            ),
        ) {
            let mut scope = Scope::new(entries);
            let expected = process_env(&scope);
            prop_assert!(scope.process_env().iter().eq(&expected));
            for (is_arg, name, value, starts, branches) in changes {
                match (is_arg, value) {
                    (false, Some(value)) => scope.set_env(&name, &value.into()),
                    (_, value) => scope.declare(&name, value.map(Text::from)),
                }
                if starts {
                    let expected = process_env(&scope);
                    prop_assert!(scope.process_env().iter().eq(&expected), "{scope:?}");
                }
                if branches {
                    // The stage below is done, and stays what it is.
                    let below = process_env(&scope);
                    let child = scope.child();
                    prop_assert!(scope.process_env().iter().eq(&below));
                    scope = child;
                }
            }
        }
    }

    #[test]
    fn the_last_of_two_equal_names_counts_and_the_first_is_set() {
        let mut scope = scope(&["K=1", "K=2"]);
        assert_eq!(scope.get("K"), Some("2"));
        scope.set_env("K", &"3".to_owned().into());
        assert_eq!(scope.env(), ["K=3", "K=2"]);
    }

    #[test]
    fn a_declaration_without_value_keeps_the_value() {
        let mut scope = scope(&[]);
        scope.declare("A", text("1"));
        scope.declare("A", None);
        assert_eq!(scope.get("A"), Some("1"));
        assert!(scope.declares("A") && !scope.declares("B"));
    }
}
