//! What the shells offer behind a command: names of images, builds, cache mounts and stages, looked up when somebody asks.
//!
//! A shell asks by running this program with `BUILDER_COMPLETE` in its environment (see `builder completion`). Nothing is made or changed
//! then, and whatever goes wrong, nothing is said: there is just nothing to offer.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use cache::{Opening, Store, StoreOptions};
use clap::Command;
use clap_complete::engine::{ArgValueCandidates, ArgValueCompleter, CompletionCandidate, PathCompleter};
use clap_complete::env::CompleteEnv;
use image::Reference;

use crate::{cli, commands, machine};

/// Names the shell that asks.
pub(crate) const VARIABLE: &str = "BUILDER_COMPLETE";

/// What an argument names.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Image,
    Build,
    Mount,
    Stage,
    Directory,
}

/// The commands and arguments whose values are known.
const KNOWN: &[(&[&str], &str, Kind)] = &[
    (&["run"], "image_and_command", Kind::Image),
    (&["rmi"], "images", Kind::Image),
    (&["tag"], "image", Kind::Image),
    (&["inspect"], "images", Kind::Image),
    (&["push"], "name", Kind::Image),
    (&["save"], "images", Kind::Image),
    (&["export"], "image", Kind::Image),
    (&["verify"], "image", Kind::Image),
    (&["image", "history"], "image", Kind::Image),
    (&["explain"], "build", Kind::Build),
    (&["explain"], "against", Kind::Build),
    (&["history", "inspect"], "build", Kind::Build),
    (&["history", "logs"], "build", Kind::Build),
    (&["history", "export"], "build", Kind::Build),
    (&["history", "rm"], "builds", Kind::Build),
    (&["cache", "inspect"], "id", Kind::Mount),
    (&["cache", "cp"], "from", Kind::Mount),
    (&["cache", "rm"], "ids", Kind::Mount),
    (&["cache", "export"], "id", Kind::Mount),
    (&["build"], "target", Kind::Stage),
    (&["build"], "no_cache_filter", Kind::Stage),
    (&["build"], "context", Kind::Directory),
    (&["graph"], "target", Kind::Stage),
    (&["graph"], "context", Kind::Directory),
    (&["debug"], "target", Kind::Stage),
    (&["compare"], "target", Kind::Stage),
];

/// Answers a shell and says so, if that is what the process was started for.
pub(crate) fn answered() -> bool {
    let asked = CompleteEnv::with_factory(|| with_candidates(cli::definition())).var(VARIABLE);
    // A shell shows what is printed beside its candidates in the middle of the line that is being typed.
    std::env::var_os(VARIABLE).is_some()
        && asked.try_complete(std::env::args_os(), std::env::current_dir().ok().as_deref()).unwrap_or(true)
}

fn with_candidates(command: Command) -> Command {
    KNOWN.iter().fold(command, |command, (path, argument, kind)| with_one(command, path, argument, *kind))
}

fn with_one(command: Command, path: &[&str], argument: &str, kind: Kind) -> Command {
    match path {
        // Changed one by one, those that are told by their place would change places.
        [] => command.mut_args(|known| match kind {
            _ if known.get_id() != argument => known,
            Kind::Image => known.add(ArgValueCandidates::new(|| images().unwrap_or_default())),
            Kind::Build => known.add(ArgValueCandidates::new(|| builds().unwrap_or_default())),
            Kind::Mount => known.add(ArgValueCandidates::new(|| mounts().unwrap_or_default())),
            Kind::Stage => known.add(ArgValueCandidates::new(|| stages(std::env::args_os().collect()))),
            Kind::Directory => known.add(ArgValueCompleter::new(PathCompleter::dir())),
        }),
        [first, rest @ ..] => {
            command.mut_subcommand(*first, |command| with_one(command, rest, argument, kind))
        }
    }
}

/// The state directory as whoever made it had it, for a look: no namespace is entered, no overlay tried.
fn store() -> Option<Store> {
    let home = machine::home().ok()?;
    if !Store::is_at(&home) {
        return None;
    }
    let forms = [(false, false), (true, false), (true, true), (false, true)];
    forms.into_iter().find_map(|(userxattr, recorded_owners)| {
        let options = StoreOptions { userxattr, recorded_owners, ..StoreOptions::default() };
        Store::open_as(&home, options, Opening::Existing).ok()
    })
}

fn images() -> Option<Vec<CompletionCandidate>> {
    let images = store()?.list_images().ok()?;
    let named = images.iter().filter(|image| !commands::is_id_name(&image.name));
    Some(named.map(|image| described(shortest(&image.name), &image.config.hex()[..12])).collect())
}

/// As people type it.
fn shortest(name: &Reference) -> String {
    let familiar = name.familiar();
    familiar.strip_suffix(":latest").map_or(familiar.clone(), str::to_owned)
}

fn builds() -> Option<Vec<CompletionCandidate>> {
    /// More are more than anybody reads.
    const MOST: usize = 30;
    let store = store()?;
    let builds = store.builds().ok()?;
    let described = |id: &cache::BuildId| {
        let json = store.build_record(id).ok()??;
        let record = insight::BuildRecord::from_json(&json).ok()?;
        Some(described(record.id, &record.dockerfile))
    };
    Some(builds.iter().take(MOST).filter_map(described).collect())
}

fn mounts() -> Option<Vec<CompletionCandidate>> {
    let mounts = store()?.cache_mounts().ok()?;
    Some(mounts.into_iter().map(|mount| CompletionCandidate::new(mount.id)).collect())
}

/// The names of stages in the Dockerfile that a command line is about as far as it was typed.
fn stages(arguments: Vec<OsString>) -> Vec<CompletionCandidate> {
    let dockerfile = dockerfile(&arguments);
    let text = std::fs::read_to_string(dockerfile).unwrap_or_default();
    let parsed = parser::parse(&text);
    parsed.dockerfile.stages.iter().filter_map(parser::Stage::name).map(CompletionCandidate::new).collect()
}

/// The file of `-f`, else the Dockerfile in a directory that was named, else the one here.
fn dockerfile(arguments: &[OsString]) -> PathBuf {
    let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
    let after = words.windows(2).find(|pair| matches!(pair, ["-f" | "--file", _])).map(|pair| pair[1]);
    let joined = words.iter().find_map(|word| word.strip_prefix("--file="));
    // The first two are this program and the command.
    let typed = words.iter().skip_while(|word| **word != "--").skip(3);
    let in_directory = typed.map(|word| Path::new(word).join("Dockerfile")).find(|path| path.is_file());
    after.or(joined).map(PathBuf::from).or(in_directory).unwrap_or_else(|| PathBuf::from("Dockerfile"))
}

fn described(value: String, help: &str) -> CompletionCandidate {
    CompletionCandidate::new(value).help(Some(help.to_owned().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_argument_is_there() {
        let command = with_candidates(cli::definition());
        for (path, argument, _) in KNOWN {
            let found = path.iter().fold(&command, |command, name| command.find_subcommand(name).unwrap());
            assert!(found.get_arguments().any(|known| known.get_id() == argument), "{path:?} {argument}");
        }
        command.debug_assert();
    }

    #[test]
    fn stages_of_the_file_that_is_meant() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("Dockerfile"), "FROM a AS one\nFROM b AS two\nFROM c\n").unwrap();
        let stages = |words: &[&str]| {
            let words =
                ["builder", "--", "builder", "build"].iter().chain(words).map(OsString::from).collect();
            let stages = stages(words);
            stages.iter().map(|stage| stage.get_value().to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        let path = dir.path().to_str().unwrap();
        assert_eq!(stages(&["--target", "", path]), ["one", "two"]);
        let file = dir.path().join("Dockerfile");
        assert_eq!(stages(&["-f", file.to_str().unwrap(), "--target", ""]), ["one", "two"]);
        assert_eq!(stages(&["-f", "/no-such", path, "--target", ""]), [] as [&str; 0]);
    }
}
