//! Measures what a sandbox costs around a process: `cargo run --release -p executor --example spawn [COUNT]`.
//!
//! Runs `/bin/true` of busybox-static in an overlay, as root or rootless, and prints milliseconds from start to end,
//! beside those of the bare program.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use executor::{Executor, OutputSink, OutputStream, ProcessSpec, Rootfs, Sandbox};

/// Throws output away.
struct Discard;

impl OutputSink for Discard {
    fn write(&self, _: OutputStream, _: &[u8]) {}
}

fn main() -> Result<(), Box<dyn Error>> {
    executor::sandbox_init();
    let identity = executor::enter_user_namespace()?;
    let count: usize = std::env::args().nth(1).map_or(Ok(100), |count| count.parse())?;
    let work = tempfile::tempdir()?;
    let lower = work.path().join("lower");
    std::fs::create_dir_all(lower.join("bin"))?;
    std::fs::copy("/bin/busybox", lower.join("bin/true"))?;
    for dir in ["proc", "sys", "dev", "etc"] {
        std::fs::create_dir(lower.join(dir))?;
    }

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let sandbox = Sandbox::new();
    let mut sandboxed = Vec::new();
    let mut bare = Vec::new();
    for index in 0..count {
        let begin = Instant::now();
        runtime
            .block_on(async {
                let spec = spec(&lower, work.path(), index, identity.needs_userxattr());
                let outcome = sandbox.run(spec?, &Discard).await?;
                if outcome.status.success() { Ok(()) } else { Err(format!("{outcome:?}").into()) }
            })
            .map_err(|error: Box<dyn Error>| error)?;
        sandboxed.push(begin.elapsed().as_secs_f64() * 1e3);
        let begin = Instant::now();
        std::process::Command::new(lower.join("bin/true")).status()?;
        bare.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    for (name, times) in [("sandbox", &mut sandboxed), ("bare", &mut bare)] {
        times.sort_by(f64::total_cmp);
        println!(
            "{name}: min {:.2} ms, median {:.2} ms, max {:.2} ms",
            times[0],
            times[count / 2],
            times[count - 1]
        );
    }
    Ok(())
}

fn spec(lower: &Path, work: &Path, index: usize, userxattr: bool) -> Result<ProcessSpec, Box<dyn Error>> {
    let (upper, scratch) = (work.join(format!("upper{index}")), work.join(format!("work{index}")));
    std::fs::create_dir(&upper)?;
    std::fs::create_dir(&scratch)?;
    let rootfs =
        Rootfs::Overlay { lower: vec![lower.to_owned()], upper, work: scratch, userxattr, volatile: true };
    let mut spec = ProcessSpec::new(rootfs, ["/bin/true"]);
    spec.hosts = Some("127.0.0.1 localhost\n".to_owned());
    spec.resolv_conf = Some("nameserver 127.0.0.1\n".into());
    Ok(spec)
}
