//! The variables of a stage: found by name without looking at all of them.

use std::collections::{HashMap, HashSet};

use crate::Variables;

/// SBOM scanning is steered by these; programs never see them.
const OF_SCANNERS: &str = "BUILDKIT_SBOM_SCAN_";

/// The image's variables and the declared arguments. A variable hides an argument, whichever came first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    env: Env,
    args: Args,
}

/// `NAME=value`, as in a config.
#[derive(Clone, Debug, Default)]
struct Env {
    entries: Vec<String>,
    /// The first and the last entry of a name: images may have several.
    places: HashMap<String, (usize, usize)>,
}

/// Declared arguments in order, each once; `None` for those without any value.
#[derive(Clone, Debug, Default)]
struct Args {
    all: Vec<(String, Option<String>)>,
    places: HashMap<String, usize>,
}

impl Env {
    fn push(&mut self, entry: String) {
        let place = self.entries.len();
        let (name, _) = split(&entry);
        let places = self.places.entry(name.to_owned()).or_insert((place, place));
        places.1 = place;
        self.entries.push(entry);
    }

    fn get(&self, name: &str) -> Option<&str> {
        let (_, last) = self.places.get(name)?;
        self.entries.get(*last).map(|entry| split(entry).1)
    }
}

impl Scope {
    /// The variables of a config.
    pub(super) fn new(entries: Vec<String>) -> Self {
        let mut env = Env::default();
        entries.into_iter().for_each(|entry| env.push(entry));
        Self { env, args: Args::default() }
    }

    /// The variables as a config has them.
    pub(super) fn env(&self) -> &[String] {
        &self.env.entries
    }

    /// Sets a variable of the image: where it is, else at the end.
    pub(super) fn set_env(&mut self, name: &str, value: &str) {
        let entry = format!("{name}={value}");
        match self.env.places.get(name) {
            Some((first, _)) => self.env.entries[*first] = entry,
            None => self.env.push(entry),
        }
    }

    /// Declares an argument; a declaration without a value keeps an earlier one.
    pub(super) fn declare(&mut self, name: &str, value: Option<String>) {
        match self.args.places.get(name) {
            Some(place) => {
                let known = &mut self.args.all[*place].1;
                *known = value.or(known.take());
            }
            None => {
                self.args.places.insert(name.to_owned(), self.args.all.len());
                self.args.all.push((name.to_owned(), value));
            }
        }
    }

    /// Whether an ARG names `name`, with a value or without.
    pub(super) fn declares(&self, name: &str) -> bool {
        self.args.places.contains_key(name)
    }

    /// All names that have a value.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let args = self.args.all.iter().filter(|(_, value)| value.is_some()).map(|(name, _)| name.as_str());
        self.env.entries.iter().map(|entry| split(entry).0).chain(args)
    }

    /// The number of variables and arguments.
    pub(super) fn len(&self) -> usize {
        self.env.entries.len() + self.args.all.len()
    }

    /// The environment of a process: the image's, then the arguments that it does not hide. Each name once.
    pub(super) fn process_env(&self) -> Vec<(String, String)> {
        let mut seen = HashSet::with_capacity(self.len());
        let env = self.env.entries.iter().map(|entry| split(entry).0);
        env.chain(self.args.all.iter().map(|(name, _)| name.as_str()))
            .filter(|name| !name.starts_with(OF_SCANNERS))
            .filter(|name| seen.insert(*name))
            .filter_map(|name| Some((name.to_owned(), self.get(name)?.to_owned())))
            .collect()
    }

    /// `|2 A=1 B=2 ` as history has it before a command, for the declared arguments.
    pub(super) fn history_args(&self) -> String {
        if self.args.all.is_empty() {
            return String::new();
        }
        let value = |name: &str| self.get(name).unwrap_or_default();
        let args: Vec<String> =
            self.args.all.iter().map(|(name, _)| format!("{name}={}", value(name))).collect();
        format!("|{} {} ", args.len(), args.join(" "))
    }
}

impl Variables for Scope {
    fn get(&self, name: &str) -> Option<&str> {
        let of_args = || self.args.all.get(*self.args.places.get(name)?)?.1.as_deref();
        self.env.get(name).or_else(of_args)
    }
}

fn split(entry: &str) -> (&str, &str) {
    entry.split_once('=').unwrap_or((entry, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(env: &[&str]) -> Scope {
        Scope::new(env.iter().map(|entry| (*entry).to_owned()).collect())
    }

    #[test]
    fn env_hides_args_whichever_came_first() {
        let mut scope = scope(&["A=env", "NOVALUE"]);
        scope.declare("A", Some("arg".to_owned()));
        scope.declare("B", Some("arg".to_owned()));
        scope.declare("UNSET", None);
        assert_eq!(scope.get("A"), Some("env"));
        assert_eq!(scope.get("NOVALUE"), Some(""));
        assert_eq!(scope.get("UNSET"), None);
        scope.set_env("B", "env");
        let env = scope.process_env();
        let env: Vec<_> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(env, ["A=env", "NOVALUE=", "B=env"]);
        assert_eq!(scope.history_args(), "|3 A=env B=env UNSET= ");
        assert_eq!(scope.names().collect::<Vec<_>>(), ["A", "NOVALUE", "B", "A", "B"]);
    }

    #[test]
    fn the_last_of_two_equal_names_counts_and_the_first_is_set() {
        let mut scope = scope(&["K=1", "K=2"]);
        assert_eq!(scope.get("K"), Some("2"));
        scope.set_env("K", "3");
        assert_eq!(scope.env(), ["K=3", "K=2"]);
    }

    #[test]
    fn a_declaration_without_value_keeps_the_value() {
        let mut scope = scope(&[]);
        scope.declare("A", Some("1".to_owned()));
        scope.declare("A", None);
        assert_eq!(scope.get("A"), Some("1"));
        assert!(scope.declares("A") && !scope.declares("B"));
    }
}
