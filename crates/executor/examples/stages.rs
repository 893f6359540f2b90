//! Where a step's time goes: `cargo run --release -p executor --example stages [COUNT]`.
//!
//! Prints the median milliseconds of COUNT steps in a directory (0 layers), at 1, 20, 127 and 400 layers, then with each network at one
//! layer:
//!
//! * *order*: until the sandbox's keeper has the task, through the guard, which makes control groups and keepers;
//! * *spaces*: namespaces;
//! * *mount*: the root file system and what goes into it;
//! * *clone*: the process exists;
//! * *enter*: it has mounted its `/proc`, hidden parts of it, and changed its root;
//! * *exec*: it has its filter and its user, has executed its program, and that says its first word;
//! * *wait*: until the program's last word, 3 ms of it in sleep;
//! * *collect*: until nothing of it is left, *unmount* of that for the mounts;
//! * *all*, and what that is *over* the bare process.
//!
//! The first line is the same program as a bare process, made with fork and exec (of which the parent sees the end only). What a directory
//! mounts sooner than a layer is what an overlay takes. What the first step with a private network waits for it stands at the end.

use std::error::Error;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

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
    println!(
        "layers  network  order  spaces  mount  clone  enter  exec   wait   collect  (unmount)  all    over"
    );
    let bare = medians(bare(&base, count)?);
    show("none", "host", bare, bare);
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
        let mut steps = Vec::new();
        for index in 0..count {
            let name = format!("{layers}-{network:?}-{index}");
            let mut spec = spec(&lower, work.path(), &name, identity.needs_userxattr())?;
            spec.network = network;
            spec.timed = true;
            let times = Times::default();
            let begin = Instant::now();
            let (started, outcome) = runtime.block_on(async {
                let running = sandbox.start(&spec).await?;
                let started = Instant::now();
                Ok::<_, executor::Error>((started, running.wait(&times).await?))
            })?;
            let end = Instant::now();
            let words = times.0.into_inner()?;
            let (true, Some(first), Some(last), Some(times)) =
                (outcome.status.success(), words.first(), words.last(), outcome.times)
            else {
                return Err(format!("{outcome:?}").into());
            };
            let start = times.namespaces + times.mounts + times.process;
            steps.push([
                (started - begin).saturating_sub(start),
                times.namespaces,
                times.mounts,
                times.process,
                times.enter,
                (*first - started).saturating_sub(times.enter),
                *last - *first,
                end - *last,
                times.unmount,
                end - begin,
            ]);
        }
        show(&layers.to_string(), &format!("{network:?}").to_lowercase(), medians(steps), bare);
    }
    if let Some((took, kind)) = opening {
        println!("a private network ({kind:?}) was there after {:.2}, once", took.as_secs_f64() * 1e3);
    }
    Ok(())
}

/// What each column of a step took.
type Step<Value> = [Value; 10];

/// The median of each column in milliseconds.
fn medians(steps: Vec<Step<Duration>>) -> Step<f64> {
    std::array::from_fn(|column| {
        let mut times: Vec<Duration> = steps.iter().map(|step| step[column]).collect();
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1e3
    })
}

fn show(layers: &str, network: &str, step: Step<f64>, bare: Step<f64>) {
    let [order, spaces, mount, clone, enter, exec, wait, collect, unmount, all] = step;
    let over = all - bare[9];
    println!(
        "{layers:>6}  {network:7}  {order:5.2}  {spaces:6.2}  {mount:5.2}  {clone:5.2}  {enter:5.2}  {exec:5.2}  {wait:5.2}  \
         {collect:7.2}  {unmount:9.2}  {all:5.2}  {over:5.2}"
    );
}

/// The program of the steps without a sandbox.
fn bare(base: &Path, count: usize) -> Result<Vec<Step<Duration>>, Box<dyn Error>> {
    let mut steps = Vec::new();
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
        let (end, none) = (Instant::now(), Duration::ZERO);
        let (clone, exec, wait) = (started - begin, first - started, last - first);
        steps.push([none, none, none, clone, none, exec, wait, end - last, none, end - begin]);
    }
    Ok(steps)
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
    spec.resolv_conf = Some("nameserver 127.0.0.1\n".into());
    Ok(spec)
}
