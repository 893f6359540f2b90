//! `cargo xtask long growth`: how time and memory grow with the size of a build. Linear at worst, and nothing held whole in memory.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

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
    make: fn(&Path, u64) -> Result,
    /// How the result is asked for.
    output: &'static [&'static str],
    /// MiB that each thousand of items may add.
    memory: f64,
}

const KINDS: [Kind; 5] = [
    Kind { name: "files", sizes: [100_000, 1_000_000], make: files, output: &[], memory: 1.5 },
    Kind { name: "steps", sizes: [1_000, 10_000], make: steps, output: &["-t", "app"], memory: 20.0 },
    Kind { name: "RUN steps", sizes: [1_000, 10_000], make: runs, output: &[], memory: 20.0 },
    Kind { name: "layers", sizes: [100, 400], make: layers, output: &["-t", "app"], memory: 100.0 },
    Kind { name: "MB of a file", sizes: [2_000, 20_000], make: bytes, output: &["-t", "app"], memory: 2.0 },
];

/// As much more than linear is noise, or what a larger working set costs caches.
const MARGIN: f64 = 1.8;

/// Of a short time, in seconds.
const BLUR: f64 = 0.01;

/// A layer is read, written, hashed and compressed: MiB that any build may take.
const ANYWAY: f64 = 100.0;

pub(crate) fn run() -> Result {
    packages::ensure(packages::BASES)?;
    packages::ensure(&[("time", "time")])?;
    let bases = bases::ensure(false)?;
    let binary = shell::builder(true)?;
    let mut wrong = Vec::new();
    for kind in KINDS {
        let [small, large] = kind.sizes;
        let begin = measure(&binary, &bases, &kind, 1)?;
        let before = measure(&binary, &bases, &kind, small)?;
        let after = measure(&binary, &bases, &kind, large)?;
        let times = large as f64 / small as f64;
        for (((what, before), (_, after)), (_, begin)) in before.iter().zip(&after).zip(&begin) {
            // What any build takes does not grow. Processor time comes in hundredths of a second.
            let grows = (before.cpu - begin.cpu).max(0.0) + BLUR;
            if after.cpu > begin.cpu + grows * times * MARGIN {
                wrong.push(format!(
                    "{} {what}: {:.2} s, then {:.2} s at {times} times the size",
                    kind.name, before.cpu, after.cpu
                ));
            }
            let most = ANYWAY + kind.memory * large as f64 / 1000.0;
            if after.memory > most {
                wrong.push(format!("{} {what}: {:.0} MiB, more than {most:.0}", kind.name, after.memory));
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

/// The first build, one of which nothing changed, and one after a change.
fn measure(binary: &Path, bases: &Path, kind: &Kind, size: u64) -> Result<Vec<(&'static str, Taken)>> {
    let dir = tempfile::Builder::new().prefix("builder-growth.").tempdir()?;
    let context = dir.path().join("context");
    fs::create_dir(&context)?;
    (kind.make)(&context, size)?;
    // What has just changed is read again.
    sleep(Duration::from_millis(2_500));
    let build = || -> Result<Taken> {
        let told = dir.path().join("told");
        let mut command = shell::command("time");
        command.args(["-f", "%e %U %S %M", "-o"]).arg(&told).arg(binary).args(["build", "--progress=quiet"]);
        command.arg(format!("--build-context=busybox=oci-layout://{}", bases.join("busybox").display()));
        command.args(kind.output).arg(&context).env("BUILDER_HOME", dir.path().join("state"));
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

/// A file of which one MB in ten is there, the rest a hole.
fn bytes(context: &Path, megabytes: u64) -> Result {
    fs::write(context.join("Dockerfile"), "FROM busybox\nCOPY large /\nCOPY changing /\n")?;
    fs::write(context.join("changing"), "")?;
    let mut large = File::create(context.join("large"))?;
    let mut state = 1_u32;
    let mut block = vec![0; 1 << 20];
    for number in (0..megabytes).step_by(10) {
        for byte in &mut block {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        large.seek(SeekFrom::Start(number << 20))?;
        large.write_all(&block)?;
    }
    large.set_len(megabytes << 20)?;
    Ok(())
}
