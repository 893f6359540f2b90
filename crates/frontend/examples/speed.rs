//! How long parsing, lowering and computing keys take, and how much memory, for generated files of growing length:
//! `cargo run --release -p frontend --example speed`. A file of 2,000 lines is allowed 10 ms and 20 MB, and a longer one as much
//! more as it is longer.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use frontend::{Lowered, Options, lower};
use graph::{Definition, Op};
use hash::{CacheKey, ContentDigest};
use solver::keys::{DefinitionInput, definition_key};

/// Lines of the shortest file.
const LINES: usize = 2_000;

type Shape = (&'static str, fn(usize) -> String);

const SHAPES: [Shape; 6] = [
    ("mixed", mixed),
    ("ENV, then RUN", variables_then_steps),
    ("RUN alone", steps),
    ("stages", stages),
    ("heredocs", heredocs),
    ("one RUN, continued", continued),
];

fn main() {
    println!(
        "{:<20} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "file", "lines", "kB", "parse ms", "lower ms", "keys ms", "µs/line", "peak MB"
    );
    let longest = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(100);
    for (name, generate) in
        SHAPES.into_iter().filter(|(name, _)| std::env::args().nth(2).is_none_or(|only| only == *name))
    {
        for factor in [1, 10, 100, 1_000].into_iter().filter(|factor| *factor <= longest) {
            measure(name, &generate(LINES * factor));
        }
    }
}

fn measure(name: &str, text: &str) {
    let (mut parse, mut lowering, mut keying) = (Duration::MAX, Duration::MAX, Duration::MAX);
    let repetitions = (200_000 / text.len().max(1)).clamp(1, 5);
    for _ in 0..repetitions {
        let start = Instant::now();
        let parsed = parser::parse(text);
        parse = parse.min(start.elapsed());
        let start = Instant::now();
        let plan = lower(&parsed, &Options::default(), &BTreeMap::new());
        lowering = lowering.min(start.elapsed());
        let Ok(Lowered::Plan(plan)) = plan else { panic!("{name} can be built") };
        let start = Instant::now();
        std::hint::black_box(keys(&plan.definition));
        keying = keying.min(start.elapsed());
    }
    let lines = text.lines().count();
    let per_line = (parse + lowering + keying).as_secs_f64() * 1e6 / lines as f64;
    println!(
        "{name:<20} {lines:>9} {:>9} {:>9.2} {:>9.2} {:>9.2} {per_line:>9.2} {:>9}",
        text.len() / 1000,
        parse.as_secs_f64() * 1e3,
        lowering.as_secs_f64() * 1e3,
        keying.as_secs_f64() * 1e3,
        peak_megabytes().map_or_else(|| "?".to_owned(), |peak| peak.to_string()),
    );
}

/// The definition keys of all steps; of sources as if each held nothing.
fn keys(definition: &Definition) -> Vec<CacheKey> {
    let mut keys: Vec<CacheKey> = Vec::with_capacity(definition.len());
    for (_, vertex) in definition.iter() {
        let inputs = vertex.inputs.iter().map(|input| match definition.vertex(input.vertex).op {
            Op::Source(_) => DefinitionInput::Content(ContentDigest::from_bytes([0; 32])),
            _ => DefinitionInput::Vertex { key: keys[input.vertex.0], selection: &input.selection },
        });
        let inputs: Vec<DefinitionInput<'_>> = inputs.collect();
        keys.push(definition_key(&vertex.op, &inputs));
    }
    keys
}

/// The most memory that the process had so far, so that what is measured later includes what was measured before (`VmHWM` in
/// proc_pid_status(5)).
fn peak_megabytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes / 1024)
}

fn mixed(lines: usize) -> String {
    let mut text = String::from("# syntax=docker/dockerfile:1\nFROM scratch AS first\n");
    for line in 0..lines / 10 {
        write!(
            text,
            "# what this does\nARG VERSION_{0}=1.{1}\nENV PATH_{0}=/opt/$VERSION_{0}:$PATH\nWORKDIR /src/{1}\n\
             COPY --link --chown=1000:1000 src/{1} lib/*.c ./\n\
             RUN --mount=type=cache,target=/root/.cache make \\\n    --jobs=4 \\\n    -C part-{1}\n\
             LABEL part.{0}=\"number {1}\"\nEXPOSE {2}/tcp\n",
            line % 10,
            line,
            1 + line % 60_000,
        )
        .expect("a string takes everything");
    }
    text
}

fn variables_then_steps(lines: usize) -> String {
    let mut text = String::from("FROM scratch\n");
    // A thousand variables are many, whatever the length.
    for line in 0..lines / 2 {
        writeln!(text, "ENV NAME_{}=value-{line}", line % 1000).expect("a string takes everything");
    }
    for line in 0..lines / 2 {
        writeln!(text, "RUN make part-{line}").expect("a string takes everything");
    }
    text
}

fn steps(lines: usize) -> String {
    let mut text = String::from("FROM scratch\n");
    for line in 0..lines {
        writeln!(text, "RUN apt-get install -y package-{line} && rm -rf /var/lib/apt/lists/*")
            .expect("a string takes everything");
    }
    text
}

fn stages(lines: usize) -> String {
    let mut text = String::from("FROM scratch AS stage0\n");
    for line in 1..lines / 3 {
        writeln!(
            text,
            "FROM stage{} AS stage{line}\nCOPY --from=stage{} a b{line}\nRUN x",
            line - 1,
            line / 2
        )
        .expect("a string takes everything");
    }
    text
}

fn heredocs(lines: usize) -> String {
    let mut text = String::from("FROM scratch\n");
    for line in 0..lines / 8 {
        writeln!(text, "COPY <<A <<\"B\" /d/\n$PATH {line}\nA\n$PATH\nB\nRUN <<E\nset -e\nE")
            .expect("a string takes everything");
    }
    text
}

fn continued(lines: usize) -> String {
    let mut text = String::from("FROM scratch\nRUN true");
    for line in 0..lines {
        write!(text, " \\\n  && make part-{line}").expect("a string takes everything");
    }
    text + "\n"
}
