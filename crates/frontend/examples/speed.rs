//! How long parsing, lowering and computing keys take, and how much memory, for generated files of growing length:
//! `cargo run --release -p frontend --example speed`. A file of 2,000 lines is allowed 10 ms and 20 MB, and a longer one as much
//! more as it is longer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use frontend::{Lowered, Options, lower};

#[path = "../tests/shapes/mod.rs"]
mod shapes;

use shapes::{SHAPES, keys};

/// Lines of the shortest file.
const LINES: usize = 2_000;

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

/// The most memory that the process had so far, so that what is measured later includes what was measured before (`VmHWM` in
/// proc_pid_status(5)).
fn peak_megabytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes / 1024)
}
