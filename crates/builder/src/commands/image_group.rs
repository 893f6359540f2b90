use super::{image_history, images, inspect, load, pull, push, referrers, rmi, save, tag};
use crate::failure::Failure;

/// Commands for images, as `docker image` groups them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    History(image_history::Args),
    Inspect(inspect::Args),
    Load(load::Args),
    #[command(alias = "list")]
    Ls(images::Args),
    Pull(pull::Args),
    Push(push::Args),
    Referrers(referrers::Args),
    #[command(alias = "remove")]
    Rm(rmi::Args),
    Save(save::Args),
    Tag(tag::Args),
}

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    match args.command {
        Command::History(args) => image_history::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Ls(args) => images::run(args),
        Command::Pull(args) => pull::run(&args),
        Command::Push(args) => push::run(&args),
        Command::Referrers(args) => referrers::run(&args),
        Command::Rm(args) => rmi::run(args),
        Command::Save(args) => save::run(&args),
        Command::Tag(args) => tag::run(&args),
    }
}
