//! `cargo xtask corpus`: the parser beside BuildKit's, on Dockerfiles that people wrote.

use std::path::{Path, PathBuf};

use crate::packages;
use crate::shell::{self, Result};

/// Parses the Dockerfiles of a directory and compares with what BuildKit's parser makes of them.
///
/// The directory holds the Dockerfiles, or all of them in `dockerfiles.tar.xz`, and `expected.tsv`: a row for each with
/// its outcome and its instructions with their lines (the example `corpus` of crate `parser` says which columns). Fails
/// when anything differs, and when there is nothing to compare.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where they are.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

const LISTING: &str = "expected.tsv";
const ARCHIVE: &str = "dockerfiles.tar.xz";

pub(crate) fn run(args: &Args) -> Result {
    let directory = std::path::absolute(&args.directory)?;
    let listing = directory.join(LISTING);
    if !listing.is_file() {
        return Err(format!("no corpus: {} is not there", listing.display()).into());
    }
    let archive = directory.join(ARCHIVE);
    if !archive.is_file() {
        return compare(&directory);
    }
    packages::ensure(packages::ARCHIVES)?;
    let unpacked = tempfile::Builder::new().prefix("builder-corpus.").tempdir()?;
    shell::run(
        shell::command("tar")
            .args(["--extract", "--xz", "--file"])
            .arg(&archive)
            .arg("-C")
            .arg(unpacked.path()),
    )?;
    std::fs::copy(&listing, unpacked.path().join(LISTING))?;
    compare(unpacked.path())
}

/// The comparison is an example of the parser: it needs that crate and nothing else.
fn compare(directory: &Path) -> Result {
    shell::run(
        shell::cargo()
            .args(["run", "--quiet", "--package", "parser", "--example", "corpus"])
            .env("BUILDER_DOCKERFILE_CORPUS", directory),
    )
}
