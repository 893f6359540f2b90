//! `cargo xtask long`: tests that take longer than a change should wait for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::shell::{self, Result};
use crate::{bases, growth, packages};

/// Runs a suite of tests that takes its time, within a budget.
#[derive(clap::Args)]
pub(crate) struct Args {
    suite: Suite,
    /// How many seconds it may take: crash, fuzz-cache, history, properties, fuzz.
    #[arg(long, value_name = "SECONDS")]
    budget: Option<u64>,
    /// How many rounds: crash, fuzz-cache, full-disk, failing-writes, corruption, power, predictions.
    #[arg(long, value_name = "NUMBER")]
    rounds: Option<u64>,
    /// Seed of what is random; printed, so that a failure can be repeated.
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Debug, ValueEnum)]
enum Suite {
    /// Kills builds at random moments (500 times, or for so many seconds): the next build on the same state must work, and give the same image.
    Crash,
    /// Random Dockerfiles, edits and options (2,000 rounds): the image is that of an empty cache, and what is named as the cause of a miss is
    /// one.
    FuzzCache,
    /// Builds on disks that fill up (500 sizes).
    FullDisk,
    /// Builds of which one system call that writes fails (every one).
    FailingWrites,
    /// Builds after bytes of the store have changed (every page of the database, some of every other file, each in five ways).
    Corruption,
    /// Builds that lose power, on a file system of their own (100 times), and builds on copies of a disk that others were writing to (100).
    Power,
    /// Random histories of edits, kills and prunes (600 s): each build must give what a clean build gives.
    History,
    /// Interrupts and kills builds 200 times, root's and an ordinary user's: nothing may stay, and the next build be a clean one.
    Kills,
    /// 105 steps at once, of seven builds on one store, and 1,000 one after another, of one; 100 and 1,000 of the executor alone: what they
    /// hold does not grow.
    Leaks,
    /// Contexts of a million files, 10,000 steps, 400 layers, a file of 20 GB: time grows linearly at worst, memory too, and with the file not at all
    /// (ten minutes, 30 GB of disk; a quarter of an hour where three times the file and 15 GB are free: elsewhere only so many of its bytes are real as
    /// it says). `GROWTH_FILE_MB` says another size, `GROWTH_ONLY` which of them: files, steps, layers, `MB of a file`.
    Growth,
    /// A layer of 10 GB (`LARGE_LAYER_MB` says another size), made, pushed, saved, pulled and loaded, and a step that prints 1 GB: memory does not grow
    /// with them, and the network takes what copying and hashing take (35 GB of disk).
    Large,
    /// What `builder compare` says that edits take, against what they take then, of steps that keep a processor busy (3 rounds): within a
    /// fifth, 95 % at the first try, all at the fifth at the latest. What ran while the machine had other things to do is measured again; `chrt --rr 1` before the
    /// command keeps others away.
    Predictions,
    /// Property tests of the crates with many more cases (600 s).
    Properties,
    /// Random files, archives, documents and answers for each reader of what comes from elsewhere (600 s in all).
    Fuzz,
}

pub(crate) fn run(args: &Args) -> Result {
    args.check()?;
    let seed = args.seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed}");
    let budget = |default| Duration::from_secs(args.budget.unwrap_or(default));
    match args.suite {
        Suite::Crash => {
            let rounds = args.rounds.or(args.budget.is_none().then_some(500));
            crash(args.budget.map(Duration::from_secs), rounds, &mut Random(seed))
        }
        Suite::FuzzCache => end_to_end("fuzz", "", "BUILDER_FUZZ", args, 2_000, seed),
        Suite::FullDisk => end_to_end("damage", "a_disk", "BUILDER_DAMAGE", args, 500, seed),
        Suite::FailingWrites => end_to_end("damage", "a_write", "BUILDER_DAMAGE", args, u64::MAX, seed),
        Suite::Corruption => end_to_end("damage", "bytes", "BUILDER_DAMAGE", args, u64::MAX, seed),
        Suite::Power => end_to_end("damage", "the_power", "BUILDER_DAMAGE", args, 100, seed),
        Suite::History => history(budget(600), seed),
        Suite::Kills => kills(seed),
        Suite::Leaks => leaks(),
        Suite::Growth => growth::run(),
        Suite::Large => large(),
        Suite::Predictions => end_to_end("compare", "times_are", "BUILDER_PREDICTIONS", args, 3, seed),
        Suite::Properties => properties(budget(600)),
        Suite::Fuzz => fuzz(budget(600), seed),
    }
}

impl Args {
    /// Refuses a measure that the suite would not heed.
    fn check(&self) -> Result {
        let given =
            [("--budget", self.budget.is_some(), &TIMED[..]), ("--rounds", self.rounds.is_some(), &ROUNDS)];
        for (option, given, suites) in given {
            if given && !suites.contains(&self.suite) {
                let name = |suite: &Suite| suite.to_possible_value().map(|value| value.get_name().to_owned());
                let names: Vec<String> = suites.iter().filter_map(name).collect();
                let suite = name(&self.suite).unwrap_or_default();
                return Err(format!(
                    "{suite} is not measured that way: {option} is for {}",
                    names.join(", ")
                )
                .into());
            }
        }
        Ok(())
    }
}

/// The suites that a number of seconds ends.
const TIMED: [Suite; 5] = [Suite::Crash, Suite::FuzzCache, Suite::History, Suite::Properties, Suite::Fuzz];

/// The suites that a number of rounds ends.
const ROUNDS: [Suite; 7] = [
    Suite::Crash,
    Suite::FuzzCache,
    Suite::FullDisk,
    Suite::FailingWrites,
    Suite::Corruption,
    Suite::Power,
    Suite::Predictions,
];

/// SplitMix64 (Steele, Lea, Flood 2014): enough randomness for a test, the same on every machine.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `low` up to, not including, `high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }
}

const DOCKERFILE: &str = "\
FROM busybox AS left
COPY data/ /data/
RUN for i in 1 2 3 4 5 6 7 8; do cat /data/* > /left.$i; done
FROM busybox AS right
WORKDIR /work
COPY data/ .
RUN mkdir -p a/b/c && mv 1 a/b/c && chmod 700 a && rm 2
FROM busybox
COPY --from=left /left.1 /left.2 /out/
COPY --from=right /work/ /out/work/
RUN find /out -type f | sort | xargs sha256sum > /sums
";

/// In each round: starts a build on a state directory that many killed builds left behind, kills it with its whole
/// process group after a random time; every few rounds lets one finish, and compares its image with the first one.
fn crash(budget: Option<Duration>, rounds: Option<u64>, random: &mut Random) -> Result {
    packages::ensure(packages::BASES)?;
    let bases = bases::ensure(false)?;
    let binary = shell::builder(false)?;
    let dir = tempfile::Builder::new().prefix("builder-crash.").tempdir()?;
    let context = dir.path().join("context");
    fs::create_dir_all(context.join("data"))?;
    fs::write(context.join("Dockerfile"), DOCKERFILE)?;
    for name in 1..=8 {
        let bytes: Vec<u8> = (0..200_000).map(|_| random.next() as u8).collect();
        fs::write(context.join("data").join(name.to_string()), bytes)?;
    }
    let build = Crash { binary, bases, context, dir: dir.path().to_owned() };

    let start = Instant::now();
    let want = build.finish("clean")?;
    let mut whole = start.elapsed();
    println!("undisturbed build: {want} [{}]", shell::seconds(whole));
    let (mut killed, mut finished) = (0, 0);
    let goes_on = |killed: u64| {
        rounds.is_none_or(|rounds| killed < rounds) && budget.is_none_or(|budget| start.elapsed() < budget)
    };
    while goes_on(killed) {
        // A new file makes some of the steps run again, so that there is always something to interrupt.
        fs::write(build.context.join("data/8"), random.next().to_le_bytes())?;
        for _ in 0..random.between(1, 5) {
            let after = Duration::from_micros(random.between(0, (whole.as_micros() as u64 * 5 / 4).max(2)));
            killed += u64::from(build.kill("battered", after)?);
        }
        // The next ones take about as long: what they have in common is cached.
        let begun = Instant::now();
        let battered = build.finish("battered")?;
        whole = begun.elapsed();
        let fresh = build.finish("fresh")?;
        shell::output(build.command("fresh", "prune").args(["--all", "--force"]))?;
        if battered != fresh {
            return Err(
                format!("after {killed} kills the image is {battered}, a clean build gives {fresh}").into()
            );
        }
        finished += 1;
        // Every kept image has a megabyte of new bytes.
        if finished % 25 == 0 {
            println!("{killed} killed, {finished} finished");
            let mut prune = build.command("battered", "prune");
            shell::output(prune.args(["--all", "--force", "--max-used-space=500MB"]))?;
        }
    }
    let left = fs::read_to_string("/proc/self/mountinfo")?;
    if let Some(mount) = left.lines().find(|line| line.contains(&*dir.path().to_string_lossy())) {
        return Err(format!("a mount was left behind: {mount}").into());
    }
    println!("{killed} builds killed, {finished} finished after kills: each gave the image of a clean build");
    Ok(())
}

struct Crash {
    binary: PathBuf,
    bases: PathBuf,
    context: PathBuf,
    dir: PathBuf,
}

impl Crash {
    fn command(&self, state: &str, subcommand: &str) -> Command {
        let mut command = shell::command(&self.binary);
        command.env("BUILDER_HOME", self.dir.join(state)).env("SOURCE_DATE_EPOCH", "0").arg(subcommand);
        command.stdin(Stdio::null());
        command
    }

    fn build(&self, state: &str, iidfile: &Path) -> Command {
        let mut build = self.command(state, "build");
        build
            .arg("--build-context")
            .arg(format!("busybox=oci-layout://{}", self.bases.join("busybox").display()));
        build.arg("--progress=quiet").arg("--iidfile").arg(iidfile).arg(&self.context);
        build
    }

    /// Builds to the end; the digest of the image.
    fn finish(&self, state: &str) -> Result<String> {
        let iidfile = self.dir.join("iid");
        shell::output(&mut self.build(state, &iidfile))?;
        Ok(fs::read_to_string(iidfile)?.trim().to_owned())
    }

    /// Kills a build after a while; whether it was still running.
    fn kill(&self, state: &str, after: Duration) -> Result<bool> {
        let mut build = self.build(state, &self.dir.join("iid.killed"));
        let mut child = build.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        sleep(after);
        let running = child.try_wait()?.is_none();
        if running {
            // SIGKILL to the builder only: that its children do not outlive it is part of what is tested.
            child.kill()?;
        }
        child.wait()?;
        Ok(running)
    }
}

/// The end-to-end test of the same name, for longer.
fn history(budget: Duration, seed: u64) -> Result {
    let mut test = part("history", "")?;
    test.env("BUILDER_HISTORY_SECONDS", budget.as_secs().to_string());
    shell::show(test.env("BUILDER_HISTORY_SEED", seed.to_string())).map(drop)
}

/// A test of an end-to-end part, for many rounds. Its variables begin with `prefix`.
fn end_to_end(name: &str, filter: &str, prefix: &str, args: &Args, rounds: u64, seed: u64) -> Result {
    let mut test = part(name, filter)?;
    // Times are those of a disk, what is remembered of files counts on disks only, and the power goes on one of its own.
    let on_disk = matches!(args.suite, Suite::Predictions | Suite::FuzzCache | Suite::Power);
    let memory = if on_disk { None } else { in_memory()? };
    if let Some(memory) = memory.as_ref().filter(|_| std::env::var_os("BUILDER_E2E_DIR").is_none()) {
        println!("in {}: BUILDER_E2E_DIR names another place", memory.path().display());
        test.env("BUILDER_E2E_DIR", memory.path());
    }
    test.env(format!("{prefix}_ROUNDS"), args.rounds.unwrap_or(rounds).to_string());
    if let Some(budget) = args.budget {
        test.env(format!("{prefix}_SECONDS"), budget.to_string());
    }
    shell::show(test.env(format!("{prefix}_SEED"), seed.to_string())).map(drop)
}

/// A directory in memory, where there is room: thousands of rounds wait for a disk more than they compute, and what they show is the same.
fn in_memory() -> Result<Option<tempfile::TempDir>> {
    const ROOM: u64 = 4 << 30;
    let Ok(free) = rustix::fs::statvfs("/dev/shm") else { return Ok(None) };
    if free.f_bavail.saturating_mul(free.f_frsize) < ROOM {
        return Ok(None);
    }
    Ok(Some(tempfile::Builder::new().prefix("builder-long.").tempdir_in("/dev/shm")?))
}

/// The tests of an end-to-end part whose names hold `filter`.
fn part(name: &str, filter: &str) -> Result<Command> {
    packages::ensure(packages::BASES)?;
    packages::ensure(packages::TESTS)?;
    let mut test = shell::cargo();
    test.args(["test", "--release", "--package", "e2e", "--test", name, "--", "--nocapture", filter]);
    test.env("BUILDER_BASES", bases::ensure(false)?).env("BUILDER_BIN", shell::builder(true)?);
    Ok(test)
}

/// The end-to-end tests of what killed builds leave, more often. They take as long as they take.
fn kills(seed: u64) -> Result {
    packages::ensure(packages::BASES)?;
    packages::ensure(packages::TESTS)?;
    let mut test = shell::cargo();
    test.args([
        "test",
        "--package",
        "e2e",
        "--test",
        "kills",
        "--test",
        "network",
        "--",
        "--nocapture",
        "leave",
    ]);
    test.env("BUILDER_BASES", bases::ensure(false)?).env("BUILDER_BIN", shell::builder(false)?);
    test.env("BUILDER_KILLS", "200").env("BUILDER_KILLS_SEED", seed.to_string());
    shell::show(&mut test).map(drop)
}

/// The tests of what many steps hold, with as many as there may be: those of the executor, and builds.
fn leaks() -> Result {
    let mut builds = part("leaks", "")?;
    let mut runs = shell::cargo();
    runs.args(["test", "--release", "--package", "executor", "--test", "sandbox", "--", "endurance"]);
    shell::show(runs.env("BUILDER_LONG", "1"))?;
    shell::show(builds.env("BUILDER_LONG", "1")).map(drop)
}

/// The end-to-end tests of the same name, with a layer that is larger than memory on most machines, and 1 GB of output. One after another: times are
/// compared.
fn large() -> Result {
    let mut test = part("large", "memory_")?;
    test.arg("--test-threads=1");
    if std::env::var_os("LARGE_LAYER_MB").is_none() {
        test.env("LARGE_LAYER_MB", "10240");
    }
    shell::show(&mut test).map(drop)
}

/// The property tests, with as many cases as the budget allows: each round with ten times more.
fn properties(budget: Duration) -> Result {
    let start = Instant::now();
    let mut cases = 2_560;
    loop {
        let round = Instant::now();
        let mut tests = shell::cargo();
        tests.args(["test", "--release", "--workspace", "--exclude", "e2e", "--lib", "--tests", "--quiet"]);
        shell::show(tests.env("PROPTEST_CASES", cases.to_string()))?;
        println!("{cases} cases a property: passed");
        if start.elapsed() + round.elapsed() * 10 > budget {
            return Ok(());
        }
        cases *= 10;
    }
}

/// The tests that throw random things at a reader, by the crate, its test binary and the part of their names.
const FUZZ_TARGETS: [(&str, &str, &str); 8] = [
    ("daemon", "mad", "for_a_while"),
    ("frontend", "lower", "for_a_while"),
    ("image", "fuzz", "for_a_while"),
    ("insight", "fuzz", "for_a_while"),
    ("registry", "it", "for_a_while"),
    ("remote", "it", "for_a_while"),
    ("warm", "fuzz", "for_a_while"),
    ("worker", "unpack", "for_a_while"),
];

fn fuzz(budget: Duration, seed: u64) -> Result {
    let seconds = (budget / FUZZ_TARGETS.len() as u32).as_secs().max(1);
    for (package, binary, filter) in FUZZ_TARGETS {
        let mut tests = shell::cargo();
        tests.args([
            "test",
            "--release",
            "--package",
            package,
            "--test",
            binary,
            "--",
            "--nocapture",
            filter,
        ]);
        shell::show(tests.env("FUZZ_SECONDS", seconds.to_string()).env("FUZZ_SEED", seed.to_string()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measure_that_a_suite_does_not_heed_is_refused() {
        let check = |suite, budget, rounds| Args { suite, budget, rounds, seed: None }.check();
        for suite in Suite::value_variants() {
            assert!(check(*suite, None, None).is_ok());
            assert_eq!(check(*suite, Some(1), None).is_ok(), TIMED.contains(suite), "{suite:?}");
            assert_eq!(check(*suite, None, Some(1)).is_ok(), ROUNDS.contains(suite), "{suite:?}");
        }
        let refused = check(Suite::Power, Some(9), None).map_err(|error| error.to_string());
        let want =
            "power is not measured that way: --budget is for crash, fuzz-cache, history, properties, fuzz";
        assert_eq!(refused, Err(want.to_owned()));
    }
}
