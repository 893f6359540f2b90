//! Where a step's time goes: `cargo run --release -p executor --example stages [COUNT]`.
//!
//! Prints the median milliseconds of COUNT steps in a directory (0 layers), at 1, 20, 127 and 400 layers, then with each network at one
//! layer: until the process exists (helper, namespaces, control groups, mounts, clone), until its program says its first word
//! (entering, exec), until its last (running), and until nothing of it is left (collecting). What a directory starts sooner than a
//! layer is what mounting an overlay takes. The first line is the same program as a bare process, made with fork and exec (of which
//! the parent sees the end only). What the first step with a private network waits for it stands at the end.

use std::error::Error;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use executor::{Executor, Network, OutputSink, OutputStream, ProcessSpec, Rootfs, Sandbox};

/// Notes when words come.
#[derive(Default)]
struct Times(Mutex<Vec<Instant>>);

impl OutputSink for Times {
    fn write(&self, _: OutputStream, _: &[u8]) {
        if let Ok(mut times) = self.0.lock() {
            times.push(Instant::now());
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    executor::sandbox_init();
    let identity = executor::enter_user_namespace()?;
    let count: usize = std::env::args().nth(1).map_or(Ok(50), |count| count.parse())?;
    let work = tempfile::tempdir()?;
    let base = work.path().join("base");
    std::fs::create_dir_all(base.join("bin"))?;
    for name in ["sh", "usleep"] {
        std::fs::copy("/bin/busybox", base.join("bin").join(name))?;
    }
    std::fs::create_dir(base.join("etc"))?;
    // As the store has it below all layers.
    let points = work.path().join("points");
    for dir in ["proc", "sys", "dev", "etc"] {
        std::fs::create_dir_all(points.join(dir))?;
    }
    for file in ["hosts", "resolv.conf"] {
        std::fs::write(points.join("etc").join(file), "")?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let sandbox = Sandbox::new();
    println!("layers  network  start  exec   run    collect  all");
    show("none", "host", bare(&base, count)?);
    let steps = [0, 1, 20, 127, 400].map(|layers| (layers, Network::Host));
    let mut opening = None;
    for (layers, network) in steps.into_iter().chain([(1, Network::None), (1, Network::Private)]) {
        if network == Network::Private {
            let begin = Instant::now();
            let opened = runtime.block_on(sandbox.private_network())?;
            opening = Some((begin.elapsed(), opened.kind()));
        }
        let mut lower = (1..layers)
            .map(|index| {
                let layer = work.path().join(format!("{layers}-{network:?}-{index}"));
                std::fs::create_dir(&layer).map(|()| layer)
            })
            .collect::<Result<Vec<PathBuf>, _>>()?;
        lower.push(base.clone());
        if layers > 0 {
            lower.push(points.clone());
        }
        let mut stages = Stages::default();
        for index in 0..count {
            let name = format!("{layers}-{network:?}-{index}");
            let mut spec = spec(&lower, work.path(), &name, identity.needs_userxattr())?;
            spec.network = network;
            let times = Times::default();
            let begin = Instant::now();
            let (started, outcome) = runtime.block_on(async {
                let running = sandbox.start(&spec).await?;
                let started = Instant::now();
                Ok::<_, executor::Error>((started, running.wait(&times).await?))
            })?;
            let end = Instant::now();
            let words = times.0.into_inner()?;
            let (true, Some(first), Some(last)) = (outcome.status.success(), words.first(), words.last())
            else {
                return Err(format!("{outcome:?}").into());
            };
            note(&mut stages, [begin, started, *first, *last, end]);
        }
        show(&layers.to_string(), &format!("{network:?}").to_lowercase(), stages);
    }
    if let Some((took, kind)) = opening {
        println!("a private network ({kind:?}) was there after {:.2}, once", took.as_secs_f64() * 1e3);
    }
    Ok(())
}

/// Milliseconds of each stage, and of all.
type Stages = [Vec<f64>; 5];

/// Adds what passed between the begin, the start, the first and the last word, and the end.
fn note(stages: &mut Stages, [begin, started, first, last, end]: [Instant; 5]) {
    let spans = [started - begin, first - started, last - first, end - last, end - begin];
    for (stage, span) in stages.iter_mut().zip(spans) {
        stage.push(span.as_secs_f64() * 1e3);
    }
}

fn show(layers: &str, network: &str, stages: Stages) {
    let [start, exec, run, collect, all] = stages.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    println!("{layers:>6}  {network:7}  {start:5.2}  {exec:5.2}  {run:5.2}  {collect:7.2}  {all:5.2}");
}

/// The program of the steps without a sandbox.
fn bare(base: &Path, count: usize) -> Result<Stages, Box<dyn Error>> {
    let mut stages = Stages::default();
    for _ in 0..count {
        let begin = Instant::now();
        let mut command = Command::new(base.join("bin/sh"));
        let usleep = base.join("bin/usleep");
        command.args(["-c", SCRIPT]).env_clear().env("USLEEP", usleep).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let started = Instant::now();
        let mut output = process.stdout.take().ok_or("no output")?;
        let mut word = [0; 64];
        let mut heard = || output.read(&mut word).map(|_| Instant::now());
        let (first, last) = (heard()?, heard()?);
        if !process.wait()?.success() {
            return Err("the bare process failed".into());
        }
        note(&mut stages, [begin, started, first, last, Instant::now()]);
    }
    Ok(stages)
}

/// The words apart from each other, so that each comes alone.
const SCRIPT: &str = "echo first; ${USLEEP:-/bin/usleep} 3000; echo last";

fn spec(lower: &[PathBuf], work: &Path, name: &str, userxattr: bool) -> Result<ProcessSpec, Box<dyn Error>> {
    let (upper, scratch) = (work.join(format!("upper{name}")), work.join(format!("work{name}")));
    std::fs::create_dir(&upper)?;
    std::fs::create_dir(&scratch)?;
    let rootfs = match lower {
        [directory] => Rootfs::Directory(directory.clone()),
        _ => Rootfs::Overlay { lower: lower.to_vec(), upper, work: scratch, userxattr, volatile: true },
    };
    let mut spec = ProcessSpec::new(rootfs, ["/bin/sh", "-c", SCRIPT]);
    spec.hosts = Some("127.0.0.1 localhost\n".to_owned());
    spec.resolv_conf = Some("nameserver 127.0.0.1\n".to_owned());
    Ok(spec)
}
