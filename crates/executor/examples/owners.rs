//! What recorded owners cost: `cargo run --release -p executor --example owners`, as root and as a user with a single id.
//!
//! Prints microseconds for each file that `ls -ln` looks at in a sandbox, and for each change of an owner.

use std::error::Error;
use std::time::Instant;

use executor::{Executor, OutputSink, OutputStream, ProcessSpec, Rootfs, Sandbox};

const FILES: usize = 2000;

/// Throws output away.
struct Discard;

impl OutputSink for Discard {
    fn write(&self, _: OutputStream, _: &[u8]) {}
}

fn main() -> Result<(), Box<dyn Error>> {
    executor::sandbox_init();
    let identity = executor::enter_user_namespace()?;
    let work = tempfile::tempdir()?;
    let dir = |name: &str| {
        let dir = work.path().join(name);
        std::fs::create_dir_all(&dir).map(|()| dir)
    };
    let (lower, upper, scratch) = (dir("lower")?, dir("upper")?, dir("work")?);
    for name in ["bin", "proc", "sys", "dev", "files"] {
        dir(&format!("lower/{name}"))?;
    }
    for name in ["sh", "ls", "chown"] {
        std::fs::copy("/bin/busybox", lower.join("bin").join(name))?;
    }
    for index in 0..FILES {
        std::fs::write(lower.join("files").join(index.to_string()), "")?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let sandbox = Sandbox::new();
    let measure = |script: &str| -> Result<f64, Box<dyn Error>> {
        let rootfs = Rootfs::Overlay {
            lower: vec![lower.clone()],
            upper: upper.clone(),
            work: scratch.clone(),
            userxattr: identity.needs_userxattr(),
            volatile: false,
        };
        let mut spec = ProcessSpec::new(rootfs, ["/bin/sh", "-c", script]);
        spec.env.push(("PATH".into(), "/bin".into()));
        let begin = Instant::now();
        let outcome = runtime.block_on(sandbox.run(spec, &Discard))?;
        if !outcome.status.success() {
            return Err(format!("{script}: {outcome:?}").into());
        }
        Ok(begin.elapsed().as_secs_f64() * 1e6)
    };
    // The first one pays for everything that is done once.
    measure("ls -ln /files > /dev/null")?;
    let nothing = measure("true")?;
    for (name, script) in [
        ("look", "ls -ln /files > /dev/null"),
        ("change", "chown -R 0:0 /files"),
        ("look again", "ls -ln /files > /dev/null"),
    ] {
        println!("{name}: {:.1} us a file", (measure(script)? - nothing) / FILES as f64);
    }
    let owner = if identity.can_use(33, 34) || !identity.can_use(1, 1) { "33:34" } else { "0:0" };
    println!(
        "change to {owner}: {:.1} us a file",
        (measure(&format!("chown -R {owner} /files"))? - nothing) / FILES as f64
    );
    println!(
        "look at those: {:.1} us a file",
        (measure("ls -ln /files > /dev/null")? - nothing) / FILES as f64
    );
    Ok(())
}
