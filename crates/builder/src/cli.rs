//! The command line as typed. Each command's file in [`crate::commands`] turns its arguments into what they mean.

use std::ffi::OsString;
use std::num::{IntErrorKind, ParseIntError};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{
    Arg, ArgAction, ArgMatches, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
};

use crate::commands::{
    build, cache as cache_command, compare, completion, debug, du, explain, export, fsck,
    graph as graph_command, history, image_group, images, info, inspect, load, login, logout, man,
    parse as parse_command, prune, pull, push, rmi, run, save, tag, verify,
};
use crate::refused::{self, Refused};

/// The program's version and the commit that it was built from.
pub(crate) const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("BUILDER_COMMIT"), ")");

/// Builds OCI images from Dockerfiles: no daemon, root or rootless.
#[derive(Debug, Parser)]
#[command(
    name = "builder",
    version = VERSION,
    after_help = "\
Examples:
  builder build -t app .       build ./Dockerfile, keep the image as app:latest
  builder run app              run its program
  builder build -o out .       write the image's files to ./out
  builder build -t app -o type=docker,dest=app.tar .
                               write an archive for `docker load -i app.tar`

State is kept in $BUILDER_HOME, by default $XDG_DATA_HOME/builder or
~/.local/share/builder, and /var/lib/builder for root.",
    max_term_width = 100
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Subcommands,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Subcommands {
    Build(Box<build::Args>),
    Explain(explain::Args),
    Compare(Box<compare::Args>),
    Verify(Box<verify::Args>),
    Graph(Box<graph_command::Args>),
    Debug(Box<debug::Args>),
    History(history::Args),
    Run(Box<run::Args>),
    Images(images::Args),
    Tag(tag::Args),
    Rmi(rmi::Args),
    Inspect(inspect::Args),
    Pull(pull::Args),
    Push(push::Args),
    Login(login::Args),
    Logout(logout::Args),
    Save(save::Args),
    Load(load::Args),
    Export(export::Args),
    Image(image_group::Args),
    Cache(cache_command::Args),
    Du(du::Args),
    Prune(prune::Args),
    Fsck(fsck::Args),
    Info(info::Args),
    Parse(parse_command::Args),
    Completion(completion::Args),
    Man(man::Args),
}

const NO_CONTEXT: &str = "\
the build context is missing: the directory that COPY and ADD take files from

  tip: `builder build .` takes the working directory";

/// What can be typed, for what is made of it: completion scripts, manual pages.
pub(crate) fn definition() -> Command {
    Cli::command()
}

/// Parses the arguments of the process. A mistake, `--help` and `--version` come back as clap's error.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut command = Cli::command()
        .mut_subcommand("build", |command| with_refused(command, refused::BUILD))
        // Without a context it looks into what failed.
        .mut_subcommand("debug", debug::without_outputs)
        .mut_subcommand("verify", verify::without_outputs)
        .mut_subcommand("run", |command| with_refused(command, refused::RUN));
    let matches = command.try_get_matches_from_mut(&arguments).map_err(|error| {
        // `--secret .` takes the path for its value: what is wrong is the flag, not that the path is missing.
        let is_missing = error.kind() == ErrorKind::MissingRequiredArgument;
        match refused::in_arguments(&arguments).filter(|_| is_missing) {
            Some(flag) => refusal(&mut command, flag),
            None if is_missing && arguments.get(1).is_some_and(|word| word == "build") => {
                plain_error(&mut command, ErrorKind::MissingRequiredArgument, NO_CONTEXT)
            }
            None if error.kind() == ErrorKind::InvalidSubcommand => match refused::instead_of(&arguments) {
                Some(instead) => {
                    let unknown = error.get(ContextKind::InvalidSubcommand).map(ToString::to_string);
                    let message = format!("there is no command `{}`", unknown.unwrap_or_default());
                    plain_error(&mut command, error.kind(), format!("{message}\n\n  tip: {instead}"))
                }
                None => error,
            },
            None => with_own_tips(&mut command, error, &arguments),
        }
    })?;
    let given = match matches.subcommand() {
        Some(("build", matches)) => first_given(refused::BUILD, matches),
        Some(("run", matches)) => first_given(refused::RUN, matches),
        _ => None,
    };
    if let Some(("verify", matches)) = matches.subcommand()
        && let Some(message) = verify::misplaced(matches)
    {
        return Err(plain_error(&mut command, ErrorKind::MissingRequiredArgument, message));
    }
    if let Some(("debug", matches)) = matches.subcommand()
        && let Some(option) = debug::misplaced(matches)
    {
        let message = format!("--{option} is for `builder build`: a shell makes no image");
        return Err(plain_error(&mut command, ErrorKind::UnknownArgument, message));
    }
    match given {
        Some(flag) => Err(refusal(&mut command, flag)),
        None => Cli::from_arg_matches(&matches),
    }
}

/// Whether the arguments are those of `builder run`, whose exit codes are Docker's.
pub(crate) fn is_run(arguments: impl IntoIterator<Item = OsString>) -> bool {
    arguments.into_iter().nth(1).is_some_and(|command| command == "run")
}

fn with_refused(command: Command, flags: &[Refused]) -> Command {
    flags.iter().fold(command, |command, flag| {
        let mut argument = Arg::new(flag.name).long(flag.name).hide(true);
        if let Some(short) = flag.short {
            argument = argument.short(short);
        }
        command.arg(match flag.has_value {
            true => argument.action(ArgAction::Append).num_args(0..=1),
            false => argument.action(ArgAction::Count),
        })
    })
}

/// What an unknown flag may have meant, in place of clap's guess: that takes flags for similar which share no more than some letters, also
/// refused ones; and nobody names a context `--jobs`.
fn with_own_tips(command: &mut Command, mut error: clap::Error, arguments: &[OsString]) -> clap::Error {
    if error.kind() == ErrorKind::ValueValidation
        && let Some(number) =
            std::error::Error::source(&error).and_then(|source| source.downcast_ref::<ParseIntError>())
    {
        let [value, flag] = [ContextKind::InvalidValue, ContextKind::InvalidArg]
            .map(|kind| error.get(kind).map(ToString::to_string).unwrap_or_default());
        let what = match number.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "is too large a number",
            _ => "is not a whole number",
        };
        return plain_error(command, error.kind(), format!("{flag}: `{value}` {what}"));
    }
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg).cloned() else {
        return error;
    };
    let Some(name) = unknown.strip_prefix("--") else {
        error.remove(ContextKind::Suggested);
        return error;
    };
    let mut words = arguments.iter().skip(1).filter_map(|word| word.to_str()).peekable();
    if let Some(tip) = refused::instead_of_flag(words.peek().copied().unwrap_or_default(), name) {
        return plain_error(command, error.kind(), format!("there is no flag {unknown}\n\n  tip: {tip}"));
    }
    let mut asked = &*command;
    while let Some(inner) = words.next().and_then(|word| asked.find_subcommand(word)) {
        asked = inner;
    }
    let known = asked.get_arguments().filter(|argument| !argument.is_hide_set());
    let near = frontend::closest(name, known.filter_map(Arg::get_long)).map(|near| format!("--{near}"));
    error.remove(ContextKind::Suggested);
    error.remove(ContextKind::SuggestedArg);
    if let Some(near) = near {
        error.insert(ContextKind::SuggestedArg, ContextValue::String(near));
    }
    error
}

fn first_given(flags: &'static [Refused], matches: &ArgMatches) -> Option<&'static Refused> {
    let given =
        |flag: &&Refused| matches.value_source(flag.name) == Some(clap::parser::ValueSource::CommandLine);
    let permitted = |flag: &&Refused| {
        flag.has_value
            && matches.get_many::<String>(flag.name).is_some_and(|mut values| {
                // Without a value the flag stands for all of it.
                values.len() > 0 && values.all(|value| flag.permits(value))
            })
    };
    flags.iter().filter(given).find(|flag| !permitted(flag))
}

fn refusal(command: &mut Command, flag: &Refused) -> clap::Error {
    plain_error(command, ErrorKind::UnknownArgument, flag)
}

/// An error without the usage, which says nothing about it.
fn plain_error(command: &mut Command, kind: ErrorKind, message: impl std::fmt::Display) -> clap::Error {
    clap::Error::raw(kind, format!("{message}\n")).with_cmd(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: &str) -> String {
        let arguments = line.split(' ').map(OsString::from);
        parse(arguments).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn refused_flags_are_named_wherever_they_stand() {
        for line in [
            "builder build --sbom true .",
            "builder build --sbom=true .",
            "builder build . --sbom",
            "builder build --sbom .",
        ] {
            assert!(error(line).contains("--sbom is not supported yet"), "{line}: {}", error(line));
        }
        let arguments = "builder build --provenance=false --sbom false --isolation=default ."
            .split(' ')
            .map(OsString::from);
        assert!(parse(arguments).is_ok());
        assert!(error("builder build --provenance=mode=max .").contains("--provenance is not supported yet"));
        assert!(error("builder build --sbom=false --sbom=true .").contains("--sbom is not supported yet"));
        assert!(error("builder build --sbom .").contains("tip: "));
        assert!(error("builder build --squash .").contains("--squash is not supported yet"));
        assert!(error("builder run -p 80:80 app").contains("--publish is not supported yet"));
        assert!(error("builder run -d app").contains("--detach is not supported yet"));
    }

    #[test]
    fn unknown_flags_get_tips_that_help() {
        let tip = |line: &str| {
            error(line).lines().filter_map(|line| line.trim().strip_prefix("tip: ")).collect::<String>()
        };
        for line in ["builder build --nope .", "builder build --squish .", "builder images --jobs"] {
            assert_eq!(tip(line), "", "{line}");
        }
        assert_eq!(tip("builder build --taget x ."), "a similar argument exists: '--target'");
        assert_eq!(tip("builder history ls --fromat=json"), "a similar argument exists: '--format'");
        for (line, part) in [
            ("builder build --format docker .", "--load"),
            ("builder build . --jobs 2", "at the same time"),
            ("builder build --layers .", "--no-cache"),
            ("builder push --tls-verify=false app", "BUILDER_INSECURE_REGISTRIES"),
            ("builder build --storage-driver=vfs .", "BUILDER_HOME"),
            ("builder build --isolation=chroot .", "BUILDER_USERNS"),
            ("builder build --squash .", "COPY --from"),
        ] {
            assert!(tip(line).contains(part), "{line}: {}", error(line));
        }
    }

    #[test]
    fn numbers_are_called_numbers() {
        let at = error("builder debug --at x .");
        assert_eq!(at, "error: --at <LINE>: `x` is not a whole number\n");
        assert!(
            error("builder compare --history x A B .").contains("--history <N>: `x` is not a whole number")
        );
        assert!(
            error("builder compare --history 99999999999999999999999 A B .")
                .contains("is too large a number")
        );
    }

    #[test]
    fn options_that_would_change_nothing_are_refused() {
        for line in ["builder verify --context . --timings app", "builder verify --push app"] {
            assert!(error(line).contains("verify has no use for it"), "{}", error(line));
        }
        assert!(error("builder verify --target x app").contains("it needs --context"));
        assert!(error("builder debug --timings").contains("a shell makes no image"));
    }

    #[test]
    fn arguments_of_the_program_are_its_own() {
        let arguments = "builder run app -d --publish x".split(' ').map(OsString::from);
        assert!(parse(arguments).is_ok());
    }

    #[test]
    fn a_missing_context_is_explained() {
        assert!(error("builder build -t app").contains("`builder build .`"));
        assert!(error("builder run").contains("IMAGE"));
    }

    #[test]
    fn help_is_help_whatever_else_is_there() {
        assert!(error("builder build --sbom --help").contains("Usage: builder build"));
    }
}
