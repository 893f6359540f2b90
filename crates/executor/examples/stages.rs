//! Where a step's time goes: `cargo run --release -p executor --example stages [COUNT]`.
//!
//! Prints the median milliseconds of COUNT steps at 1, 20, 127 and 400 layers, then with each network at one layer: until the
//! process exists (helper, namespaces, control groups, mounts, clone), until its program says its first word (entering,
//! exec), until its last (running), and until nothing of it is left (collecting). What the first step with a private
//! network waits for it stands at the end.

use std::error::Error;
use std::path::{Path, PathBuf};
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
    let steps = [1, 20, 127, 400].map(|layers| (layers, Network::Host));
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
        lower.extend([base.clone(), points.clone()]);
        let mut stages = [const { Vec::new() }; 5];
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
            let spans = [started - begin, *first - started, *last - *first, end - *last, end - begin];
            for (stage, span) in stages.iter_mut().zip(spans) {
                stage.push(span.as_secs_f64() * 1e3);
            }
        }
        let medians = stages.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        });
        let [start, exec, run, collect, all] = medians;
        let network = format!("{network:?}").to_lowercase();
        println!("{layers:6}  {network:7}  {start:5.2}  {exec:5.2}  {run:5.2}  {collect:7.2}  {all:5.2}");
    }
    if let Some((took, kind)) = opening {
        println!("a private network ({kind:?}) was there after {:.2}, once", took.as_secs_f64() * 1e3);
    }
    Ok(())
}

fn spec(lower: &[PathBuf], work: &Path, name: &str, userxattr: bool) -> Result<ProcessSpec, Box<dyn Error>> {
    let (upper, scratch) = (work.join(format!("upper{name}")), work.join(format!("work{name}")));
    std::fs::create_dir(&upper)?;
    std::fs::create_dir(&scratch)?;
    let rootfs = Rootfs::Overlay { lower: lower.to_vec(), upper, work: scratch, userxattr, volatile: true };
    // Apart from each other, so that each comes alone.
    let mut spec = ProcessSpec::new(rootfs, ["/bin/sh", "-c", "echo first; /bin/usleep 3000; echo last"]);
    spec.hosts = Some("127.0.0.1 localhost\n".to_owned());
    spec.resolv_conf = Some("nameserver 127.0.0.1\n".to_owned());
    Ok(spec)
}
