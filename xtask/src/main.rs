//! Developer commands: `cargo xtask`.
//!
//! One file a command; the doc comment of its `Args` is its help text. Everything a command needs (Debian packages,
//! base images, the binary) it sets up itself and says so.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bases;
mod bench;
mod corpus;
mod demo;
mod dist;
mod growth;
mod long;
mod order;
mod packages;
mod shell;
mod sources;
mod test;
mod vm_test;

/// Developer commands of builder.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Xtask {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Bases(bases::Args),
    Bench(bench::Args),
    Corpus(corpus::Args),
    Demo(demo::Args),
    Dist(dist::Args),
    Long(long::Args),
    Order(order::Args),
    Test(test::Args),
    VmTest(vm_test::Args),
}

fn main() -> ExitCode {
    let result = match Xtask::parse().command {
        Command::Bases(args) => bases::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Corpus(args) => corpus::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Dist(args) => dist::run(&args),
        Command::Long(args) => long::run(&args),
        Command::Order(args) => order::run(&args),
        Command::Test(args) => test::run(&args),
        Command::VmTest(args) => vm_test::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nxtask: {error}");
            ExitCode::FAILURE
        }
    }
}
