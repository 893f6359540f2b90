//! `cargo xtask long growth`: how time and memory grow with the size of a build. Linear at worst, and nothing held whole in memory.

use std::env;
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use crate::long::Random;
use crate::shell::{self, Result};
use crate::{bases, packages};

/// What one build took.
#[derive(Debug, Clone, Copy)]
struct Taken {
    /// Seconds from begin to end.
    wall: f64,
    /// Seconds of processors.
    cpu: f64,
    /// MiB at most.
    memory: f64,
}

/// Builds of one kind, at a size and at another.
struct Kind {
    name: &'static str,
    sizes: [u64; 2],
    /// Makes a context of a size.
    make: Make,
    /// How the result is asked for.
    output: &'static [&'static str],
    memory: Memory,
}

type Make = Box<dyn Fn(&Path, u64) -> Result>;

/// What a build may take.
enum Memory {
    /// So many MiB for each thousand of items, over [`ANYWAY`].
    Each(f64),
    /// At both sizes the same.
    Same,
}

use Memory::{Each, Same};

/// The kinds, with a file of so many MB at most, of which so many in ten are bytes.
fn kinds(file: u64, real: u64) -> [Kind; 5] {
    let kind = |name, sizes, make: fn(&Path, u64) -> Result, output: &'static [&'static str], memory| Kind {
        name,
        sizes,
        make: Box::new(make),
        output,
        memory,
    };
    let image = &["-t", "app"];
    [
        kind("files", [100_000, 1_000_000], files, &[], Each(1.5)),
        kind("steps", [1_000, 10_000], steps, image, Each(20.0)),
        kind("RUN steps", [1_000, 10_000], runs, &[], Each(20.0)),
        kind("layers", [100, 400], layers, image, Each(100.0)),
        Kind {
            name: "MB of a file",
            sizes: [(file / 10).max(1), file.max(1)],
            make: Box::new(move |context, size| bytes(context, size, real)),
            output: image,
            memory: Same,
        },
    ]
}

/// As much more than linear is noise, or what a larger working set costs caches.
const MARGIN: f64 = 1.8;

/// Of a short time, in seconds.
const BLUR: f64 = 0.01;

/// A layer is read, written, hashed and compressed: MiB that any build may take.
const ANYWAY: f64 = 100.0;

/// MiB by which equal builds differ: pages that the kernel brought in, threads that began at once.
const CHANCE: f64 = 8.0;

/// Runs only the kinds whose names have this in them.
const ONLY: &str = "GROWTH_ONLY";

/// How many MB the larger file has, if not 20,000; the smaller one has a tenth.
const FILE: &str = "GROWTH_FILE_MB";

/// What stays free on the disk, in bytes, and how many copies of a file there are at a time: the context's, the store's, the packed layer.
const RESERVE: u64 = 15 << 30;
const COPIES: u64 = 3;

pub(crate) fn run() -> Result {
    packages::ensure(packages::BASES)?;
    packages::ensure(&[("time", "time")])?;
    let bases = bases::ensure(false)?;
    let binary = shell::builder(true)?;
    let only = env::var(ONLY).unwrap_or_default();
    let file = match env::var(FILE) {
        Ok(text) => text.parse().map_err(|_| format!("{FILE}={text} is no number"))?,
        Err(_) => 20_000,
    };
    let disk = rustix::fs::statvfs(shell::target())?;
    let real = real_in_ten(file, disk.f_bavail.saturating_mul(disk.f_frsize));
    let mut kinds = Vec::from(kinds(file, real));
    kinds.retain(|kind| kind.name.contains(&only));
    if kinds.is_empty() {
        return Err(format!("{ONLY}={only}: nothing has that in its name").into());
    }
    let mut wrong = Vec::new();
    for kind in &kinds {
        let sizes = kind.sizes;
        let begin = measure(&binary, &bases, kind, 1)?;
        let before = measure(&binary, &bases, kind, sizes[0])?;
        let after = measure(&binary, &bases, kind, sizes[1])?;
        for (((what, before), (_, after)), (_, begin)) in before.iter().zip(&after).zip(&begin) {
            wrong.extend(kind.compare(what, [begin, before, after]));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

impl Kind {
    /// What is wrong with what builds took at size one and the two sizes.
    fn compare(&self, what: &str, [begin, before, after]: [&Taken; 3]) -> Vec<String> {
        let [small, large] = self.sizes.map(|size| size as f64);
        let (name, times, mut wrong) = (self.name, large / small, Vec::new());
        // What any build takes does not grow. Processor time comes in hundredths of a second.
        let grows = (before.cpu - begin.cpu).max(0.0) + BLUR;
        if after.cpu > begin.cpu + grows * times * MARGIN {
            wrong.push(format!(
                "{name} {what}: {:.2} s, then {:.2} s at {times} times the size",
                before.cpu, after.cpu
            ));
        }
        let most = match self.memory {
            Each(megabytes) => ANYWAY + megabytes * large / 1000.0,
            Same => (before.memory + CHANCE).min(ANYWAY),
        };
        if after.memory > most {
            wrong.push(format!("{name} {what}: {:.0} MiB, more than {most:.0}", after.memory));
        }
        wrong
    }
}

/// A directory in that of what is built, where disks have room: removed at the end, however that comes, and what was killed left behind before the
/// beginning.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch> {
        let scratch = Scratch(shell::target().join("growth"));
        shell::remove(&scratch.0)?;
        fs::create_dir_all(&scratch.0)?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = shell::remove(&self.0) {
            eprintln!("note: {error}");
        }
    }
}

/// The first build, one of which nothing changed, and one after a change.
fn measure(binary: &Path, bases: &Path, kind: &Kind, size: u64) -> Result<Vec<(&'static str, Taken)>> {
    let dir = Scratch::new()?;
    let context = dir.0.join("context");
    fs::create_dir(&context)?;
    (kind.make)(&context, size)?;
    // What has just changed is read again.
    sleep(Duration::from_millis(2_500));
    let build = || -> Result<Taken> {
        let told = dir.0.join("told");
        let mut command = shell::command("time");
        command.args(["-f", "%e %U %S %M", "-o"]).arg(&told).arg(binary).args(["build", "--progress=quiet"]);
        command.arg(format!("--build-context=busybox=oci-layout://{}", bases.join("busybox").display()));
        command.args(kind.output).arg(&context).env("BUILDER_HOME", dir.0.join("state"));
        // A layer of 20 GB may be more than a disk has room for by the defaults; what is collected is built again.
        command.envs([("BUILDER_MAX_USED_SPACE", "0"), ("BUILDER_MIN_FREE_SPACE", "0")]);
        shell::output(command.stdin(Stdio::null()))?;
        let text = fs::read_to_string(&told)?;
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match numbers[..] {
            [wall, user, system, memory] => Ok(Taken { wall, cpu: user + system, memory: memory / 1024.0 }),
            _ => Err(format!("time said {text:?}").into()),
        }
    };
    let mut all = vec![("first build", build()?), ("nothing changed", build()?)];
    fs::write(context.join("changing"), "changed")?;
    all.push(("one file changed", build()?));
    for (what, Taken { wall, cpu, memory }) in &all {
        println!(
            "{:>9} {:12} {what:17} {wall:8.2} s {cpu:8.2} s of processors {memory:6.0} MiB",
            size, kind.name
        );
    }
    Ok(all)
}

/// One in ten has something in it, so that a million of them fit on most disks.
fn files(context: &Path, count: u64) -> Result {
    fs::write(context.join("Dockerfile"), "FROM busybox\nCOPY . /src\nRUN true\n")?;
    fs::write(context.join("changing"), "")?;
    for directory in 0..count / 250 {
        let path = context.join(format!("d{directory:04}"));
        fs::create_dir(&path)?;
        for file in 0..250 {
            let mut file_of = File::create(path.join(format!("f{file}")))?;
            if file % 10 == 0 {
                writeln!(file_of, "{directory} {file}")?;
            }
        }
    }
    Ok(())
}

/// Mostly what makes no layer, as in long Dockerfiles; RUN steps are next.
fn steps(context: &Path, count: u64) -> Result {
    fs::write(context.join("changing"), "")?;
    fs::write(context.join("fixed"), "")?;
    let step = |number| match number % 50 {
        0 => format!("COPY fixed /f{number}\n"),
        25 if number % 100 == 25 => format!("RUN echo {number} > /r{number}\n"),
        rest => format!("ENV V{rest}={number}\n"),
    };
    let text: String = (0..count).map(step).collect();
    fs::write(context.join("Dockerfile"), format!("FROM busybox\n{text}COPY changing /\n"))?;
    Ok(())
}

/// Fifty on top of each other, since the kernel mounts no more than 500 layers, and one that sees what all of them made.
fn runs(context: &Path, count: u64) -> Result {
    fs::write(context.join("changing"), "")?;
    let mut text = String::new();
    let mut last = String::from("FROM busybox\n");
    for stage in 0..count.div_ceil(50) {
        text += &format!("FROM busybox AS s{stage}\n");
        text.extend((0..count.min(50)).map(|number| format!("RUN echo {stage} > /r{number}\n")));
        last += &format!("COPY --from=s{stage} /r0 /{stage}\n");
    }
    fs::write(
        context.join("Dockerfile"),
        format!("{text}{last}RUN ls / | wc -l > /count\nCOPY changing /\n"),
    )?;
    Ok(())
}

/// Each a file, and a step that sees all of them.
fn layers(context: &Path, count: u64) -> Result {
    fs::write(context.join("changing"), "")?;
    fs::write(context.join("fixed"), "")?;
    let text: String = (0..count).map(|number| format!("COPY fixed /f{number}\n")).collect();
    let dockerfile =
        format!("FROM busybox AS base\n{text}FROM base\nRUN ls / | wc -l > /count\nCOPY changing /\n");
    fs::write(context.join("Dockerfile"), dockerfile)?;
    Ok(())
}

/// A file of which so many of ten MB are bytes, the rest holes.
fn bytes(context: &Path, megabytes: u64, real: u64) -> Result {
    fs::write(context.join("Dockerfile"), "FROM busybox\nCOPY large /\nCOPY changing /\n")?;
    fs::write(context.join("changing"), "")?;
    let written = (0..megabytes).filter(|number| number % 10 < real);
    let count = written.clone().count() as u64;
    let rest = if count < megabytes { ", the rest holes: the disk has no room for more" } else { "" };
    println!("a file of {megabytes} MB, {count} MB real{rest}");
    let mut large = File::create(context.join("large"))?;
    // Noise, so that it is as large when it is compressed.
    let mut random = Random(1);
    let mut block = vec![0; 1 << 20];
    for number in written {
        block.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&random.next().to_le_bytes()));
        large.seek(SeekFrom::Start(number << 20))?;
        large.write_all(&block)?;
    }
    large.set_len(megabytes << 20)?;
    Ok(())
}

/// How many MB of each ten may be bytes, where so many bytes of a disk are free; at both sizes as many, so that they can be compared.
fn real_in_ten(megabytes: u64, free: u64) -> u64 {
    let room = free.saturating_sub(RESERVE) >> 20;
    (room * 10 / (megabytes.saturating_mul(COPIES)).max(1)).clamp(1, 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_as_real_as_the_disk_has_room() {
        let real = |megabytes, free_gib: u64| real_in_ten(megabytes, free_gib << 30);
        assert_eq!([real(20_000, 100), real(20_000, 30), real(20_000, 16), real(20_000, 0)], [10, 2, 1, 1]);
        assert_eq!([real(2_000, 30), real(1, 16), real(1, 0)], [10, 10, 1]);
    }

    #[test]
    fn more_than_linear_is_wrong_and_so_is_more_memory() {
        let kind = |memory| Kind { name: "x", sizes: [10, 100], make: Box::new(files), output: &[], memory };
        let taken = |cpu, memory| Taken { wall: cpu, cpu, memory };
        let wrong = |memory, after| kind(memory).compare("y", [&taken(0.1, 20.0), &taken(1.1, 30.0), &after]);
        assert_eq!(wrong(Same, taken(11.0, 37.0)), [""; 0]);
        assert_eq!(
            wrong(Same, taken(19.0, 39.0)),
            ["x y: 1.10 s, then 19.00 s at 10 times the size", "x y: 39 MiB, more than 38"]
        );
        assert_eq!(wrong(Each(10.0), taken(11.0, 100.5)), [""; 0]);
        assert_eq!(wrong(Each(10.0), taken(11.0, 101.5)), ["x y: 102 MiB, more than 101"]);
    }
}
