//! Builds OCI images from Dockerfiles: arguments, composition, rendering, exit codes. What could be used elsewhere lives in the
//! other crates.

mod cli;
mod commands;
mod completion;
mod console;
mod diagnostics;
mod disabled;
mod docker_config;
mod external;
mod failure;
mod format;
mod interrupt;
mod machine;
mod progress;
mod refused;
mod remotes;
mod space;
mod template;
mod terminal;

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::process::ExitCode;

use crate::cli::Subcommands;
use crate::failure::Failure;
use crate::machine::Machine;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).as_deref() == Some(OsStr::new(executor::SANDBOX_ARGUMENT)) {
        executor::sandbox_init();
    }
    if completion::answered() {
        return ExitCode::SUCCESS;
    }
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output, mistakes to standard error; a closed pipe is nobody's problem.
            let printed = error.print();
            return ExitCode::from(match (error.use_stderr(), printed) {
                (true, _) if cli::is_run(std::env::args_os()) => failure::NOT_STARTED,
                (true, _) => failure::WRONG_USAGE,
                (false, Err(error)) if error.kind() != ErrorKind::BrokenPipe => {
                    let failure = Failure::standard_output(&error);
                    failure.print();
                    failure.code()
                }
                (false, _) => 0,
            });
        }
    };
    match limit_unpacking().and_then(|()| run(cli.command)) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.code())
        }
    }
}

/// How much may come out of a layer or an archive, however small it is, in bytes or as `512m`.
const UNPACK_LIMIT: &str = "BUILDER_UNPACK_LIMIT";

/// Does as the environment says.
fn limit_unpacking() -> Result<(), Failure> {
    let Some(text) = std::env::var_os(UNPACK_LIMIT).filter(|text| !text.is_empty()) else { return Ok(()) };
    let bytes = commands::build::size(&text.to_string_lossy());
    let bytes = bytes.map_err(|reason| Failure::usage(format!("{UNPACK_LIMIT}: {reason}")))?;
    // As of the other limits, 0 is none.
    image::set_unpack_limit(if bytes == 0 { u64::MAX } else { bytes });
    Ok(())
}

fn run(command: Subcommands) -> Result<u8, Failure> {
    match command {
        Subcommands::Build(args) => commands::build::run(*args),
        Subcommands::Run(args) => commands::run::run(*args),
        Subcommands::Images(args) => commands::images::run(args),
        Subcommands::Tag(args) => commands::tag::run(&args),
        Subcommands::Rmi(args) => commands::rmi::run(args),
        Subcommands::Inspect(args) => commands::inspect::run(&args),
        Subcommands::Pull(args) => commands::pull::run(&args),
        Subcommands::Push(args) => commands::push::run(&args),
        Subcommands::Login(args) => commands::login::run(args),
        Subcommands::Logout(args) => commands::logout::run(&args),
        Subcommands::Save(args) => commands::save::run(&args),
        Subcommands::Load(args) => commands::load::run(&args),
        Subcommands::Export(args) => commands::export::run(&args),
        Subcommands::Image(args) => commands::image_group::run(args),
        Subcommands::Du(args) => commands::du::run(args),
        Subcommands::Prune(args) => commands::prune::run(args),
        Subcommands::Fsck(args) => commands::fsck::run(args),
        Subcommands::Cache(args) => commands::cache::run(args),
        Subcommands::Verify(args) => commands::verify::run(*args),
        Subcommands::Compare(args) => commands::compare::run(*args),
        Subcommands::Debug(args) => commands::debug::run(*args),
        Subcommands::Explain(args) => commands::explain::run(args),
        Subcommands::History(args) => commands::history::run(args),
        Subcommands::Graph(args) => commands::graph::run(*args),
        Subcommands::Info(args) => commands::info::run(args),
        Subcommands::Parse(args) => commands::parse::run(&args),
        Subcommands::Completion(args) => commands::completion::run(&args),
        Subcommands::Man(args) => commands::man::run(&args),
    }
}

/// The runtime in which a command does its work.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::machine(format!("cannot start threads: {error}")))
}

/// Runs blocking work beside the runtime's own threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Failure::build(format!("internal error: {error}"))),
    }
}
