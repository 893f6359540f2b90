//! `cargo xtask test`: every test.

use std::process::Command;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::ValueEnum;

use crate::shell::{self, Result};
use crate::{bases, packages, sources};

/// Runs every test, after setting up what they need: packages, base images, the binary.
///
/// Besides the tests of the crates these are the end-to-end tests, one part for each file in tests/. They run real
/// builds, as root and as an ordinary user, against a real registry, Docker daemon and Buildah; each in namespaces and
/// directories of its own. A part that this machine cannot run fails and says why, unless it is named in --without.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leaves out a part; may be given several times, or as a list with commas.
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    without: Vec<Part>,
    /// Tests with the optimised binary.
    #[arg(long)]
    release: bool,
    /// Runs only tests whose name contains this.
    filter: Option<String>,
}

/// The parts, in the order in which they run.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The tests of the crates.
    Crates,
    /// The examples in documentation comments.
    Doc,
    /// Command line, progress, interruption.
    Cli,
    /// What a person meets at the command line.
    Usability,
    /// What instructions mean, case by case.
    Semantics,
    /// The language, case by case: layers, config and history.
    Language,
    /// Build contexts, named contexts and ADD from standard input, HTTP and git.
    Contexts,
    /// RUN --mount of every type, and a look into cache mounts.
    Mounts,
    /// The network of RUN, on a machine of its own.
    Network,
    /// Dockerfiles of well-known programs, in source packages fetched from this machine's Debian mirror.
    Sources,
    /// Questions about a build that does not run: graph, parse, check, outline, targets.
    Graph,
    /// What a second build does and does not do.
    Cache,
    /// Layers that are what is different from an earlier one.
    Versions,
    /// Caches that travel between machines.
    Warm,
    /// Shells inside steps, stored output, terminals.
    Debug,
    /// Why steps ran, and what is kept of builds.
    Explain,
    /// What edits rerun under two orders of instructions: predicted, and done.
    Compare,
    /// What the cache takes on the disk, and what goes from it.
    Disk,
    /// Random histories of edits, kills and prunes, against clean builds.
    History,
    /// Random Dockerfiles and edits: images and explanations, against clean builds.
    Fuzz,
    /// Full disks, failing writes, damaged files, power failures.
    Damage,
    /// Many processes on one state directory.
    Processes,
    /// The table of what enters a cache key, row by row.
    Keys,
    /// Pages in a browser.
    Browser,
    /// What builds open, read, compress and write: as much as changed.
    Counters,
    /// What is taken for unchanged, and what is not.
    Trust,
    /// File systems on which copies share what they hold.
    Reflinks,
    /// What `build --timings` says of a build.
    Timings,
    /// Messages and exit codes.
    Errors,
    /// Exports, against skopeo and umoci.
    Layout,
    /// The same input, the same digest.
    Reproducible,
    /// Hostile archives as layers, contexts and what ADD unpacks.
    Hostile,
    /// Images built again from nothing, and what differs.
    Verify,
    /// Builds by an ordinary user.
    Rootless,
    /// RUN through runc and crun.
    Runtimes,
    /// Builds that are killed at any moment: nothing stays.
    Kills,
    /// Builds of many steps: what they hold does not grow.
    Leaks,
    /// Pulls from a registry, with and without credentials.
    Registry,
    /// Pushes to a registry, logins, a Docker daemon.
    Push,
    /// Registries that break, lie, limit and send elsewhere.
    Misbehaving,
    /// The memory that a large layer takes.
    Large,
    /// Compressions, media types, annotations, several platforms.
    Forms,
    /// Everything written, against the JSON schemas of the image specification.
    Schemas,
    /// The commands of the image store.
    Store,
    /// Archives loaded and run by a Docker daemon.
    Docker,
    /// Images to Podman and from it.
    Podman,
    /// The programs of Dockerfiles/, built and run.
    Programs,
    /// The same Dockerfiles built by Buildah.
    Buildah,
}

impl Part {
    fn name(self) -> String {
        self.to_possible_value().expect("no part is hidden").get_name().to_owned()
    }

    fn is_end_to_end(self) -> bool {
        !matches!(self, Part::Crates | Part::Doc)
    }
}

pub(crate) fn run(args: &Args) -> Result {
    let start = Instant::now();
    let parts: Vec<Part> =
        Part::value_variants().iter().copied().filter(|part| !args.without.contains(part)).collect();
    let nextest = shell::output(shell::cargo().args(["nextest", "--version"])).is_ok();
    let mut failed = Vec::new();

    shell::heading("packages");
    packages::ensure(packages::BASES)?;
    packages::ensure(packages::TESTS)?;
    packages::ensure(packages::ARCHIVES)?;
    if parts.contains(&Part::Browser) && shell::find("chromium").is_none() {
        packages::ensure(packages::BROWSER)?;
    }
    if parts.contains(&Part::Crates) {
        shell::heading("crates");
        let mut tests = runner(nextest);
        tests.args(["--workspace", "--exclude", "e2e"]);
        if shell::show(with_filter(&mut tests, args)).is_err() {
            failed.push("crates".to_owned());
        }
    }
    // A filter names tests; there is no such name in documentation.
    if parts.contains(&Part::Doc) && args.filter.is_none() {
        shell::heading("doc");
        let mut tests = shell::cargo();
        tests.args(["test", "--doc", "--quiet", "--workspace", "--exclude", "e2e"]);
        if shell::show(&mut tests).is_err() {
            failed.push("doc".to_owned());
        }
    }

    let end_to_end: Vec<Part> = parts.into_iter().filter(|part| part.is_end_to_end()).collect();
    if !end_to_end.is_empty() {
        shell::heading("set-up of the end-to-end tests");
        let bases = bases::ensure(false)?;
        let binary = shell::builder(args.release)?;
        let sources = match end_to_end.contains(&Part::Sources).then(sources::ensure) {
            Some(Err(error)) => {
                // The part fails and says so; the others run.
                eprintln!("sources: {error}");
                None
            }
            Some(Ok(dir)) => Some(dir),
            None => None,
        };
        let scratch = tempfile::Builder::new().prefix("builder-e2e.").tempdir()?;
        shell::heading("end to end");
        let mut tests = runner(nextest);
        tests.args(["--package", "e2e"]);
        for part in &end_to_end {
            tests.args(["--test", &part.name()]);
        }
        if let Some(sources) = sources {
            tests.env("BUILDER_SOURCES", sources);
        }
        if end_to_end.contains(&Part::Fuzz) {
            with_new_seed(&mut tests);
        }
        tests.env("BUILDER_BIN", binary).env("BUILDER_BASES", bases).env("BUILDER_E2E_DIR", scratch.path());
        let result = shell::show(with_filter(&mut tests, args));
        // Stores of ordinary users hold directories that even `rm -rf` by their owner cannot enter; root can.
        if shell::is_root() {
            shell::remove(scratch.path())?;
        }
        if result.is_err() {
            let names: Vec<String> = end_to_end.iter().map(|part| part.name()).collect();
            failed.push(format!("end to end ({})", names.join(", ")));
        }
    }

    println!("\nall tests: {}", shell::seconds(start.elapsed()));
    for part in &args.without {
        println!("left out, as asked: {}", part.name());
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join("; ")).into()) }
}

/// nextest where it is installed: it runs the tests of all binaries at once and shows their times.
fn runner(nextest: bool) -> Command {
    let mut runner = shell::cargo();
    if nextest {
        runner.args(["nextest", "run", "--no-fail-fast", "--no-tests=pass", "--status-level=slow"]);
    } else {
        runner.args(["test", "--no-fail-fast"]);
    }
    // A test compares the terminal's colours or their absence with what it expects.
    runner.env_remove("NO_COLOR").env_remove("BUILDKIT_PROGRESS");
    // What a change must pass does not depend on luck. `cargo test` and the long tests draw anew.
    for seed in SEEDS.iter().filter(|seed| std::env::var_os(seed).is_none()) {
        runner.env(seed, "2026");
    }
    runner
}

/// The seeds that are always the same here.
const SEEDS: [&str; 5] =
    ["PROPTEST_RNG_SEED", "FUZZ_SEED", "BUILDER_DAMAGE_SEED", "BUILDER_KILLS_SEED", "BUILDER_HISTORY_SEED"];

/// A new seed for the differential fuzzer of the cache, of which no run is like another. Told here: what tests that pass print is not shown.
fn with_new_seed(tests: &mut Command) {
    const SEED: &str = "BUILDER_FUZZ_SEED";
    let drawn = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis().to_string();
    let seed = std::env::var(SEED).unwrap_or_else(|_| drawn());
    println!("{SEED}={seed} repeats the differential fuzzer of the cache");
    tests.env(SEED, seed);
}

fn with_filter<'a>(command: &'a mut Command, args: &Args) -> &'a mut Command {
    command.args(&args.filter)
}
