//! `cargo xtask bases`: base images without a public registry.

use std::fs;
use std::path::{Path, PathBuf};

use crate::packages;
use crate::shell::{self, Result};

mod busybox;
mod debian;
mod layout;
mod rootfs;
mod serve;

pub(crate) use debian::{release as codename, sources as apt_sources};
pub(crate) use serve::Registry;

/// Makes the base images that the Dockerfiles here start from, as OCI layouts under target/bases/.
///
/// `busybox` holds Debian's busybox-static, `debian` a minimal Debian of this machine's release. The latter keeps this
/// machine's apt sources, so that apt-get works in RUN; it is for this machine only. The same state of the mirror gives
/// the same bytes. What is already there is left alone.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Makes them again although they are there.
    #[arg(long)]
    force: bool,
    /// Makes each of them a second time and fails unless the bytes are the same.
    #[arg(long)]
    check: bool,
    /// Then serves them from Debian's docker-registry on this port of 127.0.0.1, until Ctrl-C.
    #[arg(long, value_name = "PORT")]
    serve: Option<u16>,
}

/// Files get no later time than this (2025-01-01): when an image was made leaves no trace in it.
const EPOCH: u64 = 1_735_689_600;

pub(crate) fn run(args: &Args) -> Result {
    ensure(args.force)?;
    if args.check {
        check()?;
    }
    match args.serve {
        Some(port) => serve::serve(&dir(), port),
        None => Ok(()),
    }
}

/// Where the layouts are.
pub(crate) fn dir() -> PathBuf {
    shell::target().join("bases")
}

/// Makes the bases that are not there yet and returns the directory that holds them.
///
/// # Errors
/// When a package is missing and cannot be installed, or the mirror cannot be reached.
pub(crate) fn ensure(force: bool) -> Result<PathBuf> {
    packages::ensure(packages::BASES)?;
    let dir = dir();
    fs::create_dir_all(&dir)?;
    for base in ALL {
        let recipe = (base.recipe)()?;
        let stamp = dir.join(format!("{}.stamp", base.name));
        let made = fs::read_to_string(&stamp).is_ok_and(|old| old == recipe);
        if made && !force && dir.join(base.name).join("index.json").is_file() {
            continue;
        }
        let start = std::time::Instant::now();
        let digest = make(base, &dir.join(base.name))?;
        fs::write(&stamp, recipe)?;
        println!("base {}: {digest} [{}]", base.name, shell::seconds(start.elapsed()));
    }
    Ok(dir)
}

struct Base {
    name: &'static str,
    /// What decides how the image looks, as far as it is known without making it: another text, another image.
    recipe: fn() -> Result<String>,
    rootfs: fn() -> Result<rootfs::Rootfs>,
    command: &'static str,
}

const ALL: &[Base] = &[
    Base { name: "busybox", recipe: busybox::recipe, rootfs: busybox::rootfs, command: "sh" },
    Base { name: "debian", recipe: debian::recipe, rootfs: debian::rootfs, command: "bash" },
];

/// Makes one base at `dest`, which is replaced in one step, and returns the digest of its manifest.
fn make(base: &Base, dest: &Path) -> Result<String> {
    let rootfs = (base.rootfs)()?;
    let temporary = dest.with_extension("tmp");
    shell::remove(&temporary)?;
    let digest = layout::write(&temporary, &rootfs, base.name, base.command)?;
    shell::remove(dest)?;
    fs::rename(&temporary, dest)?;
    Ok(digest)
}

fn check() -> Result {
    for base in ALL {
        let again = shell::target().join("bases").join(format!("{}.again", base.name));
        let second = make(base, &again)?;
        let first = layout::digest(&dir().join(base.name))?;
        shell::remove(&again)?;
        if first != second {
            return Err(format!("base {}: {first} the first time, {second} the second", base.name).into());
        }
        println!("base {}: made twice, the same bytes: {first}", base.name);
    }
    Ok(())
}
