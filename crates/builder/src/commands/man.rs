use std::path::PathBuf;

use crate::cli;
use crate::failure::Failure;

/// Write the manual pages, one a command: builder.1, builder-build.1, …
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where they go, such as /usr/local/share/man/man1; made when it is not there
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    let failed = |error: std::io::Error| Failure::io("write manual pages to", &args.directory, &error);
    std::fs::create_dir_all(&args.directory).map_err(failed)?;
    clap_mangen::generate_to(cli::definition(), &args.directory).map_err(failed)?;
    Ok(0)
}
