//! `cargo xtask dist`: the release binary.

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};

use crate::shell::{self, Result};
use crate::{order, packages};

/// Makes the static release binary target/dist/builder and checks that it runs in a bare container.
///
/// It is linked against the C library statically (glibc; musl when the target ARCH-unknown-linux-musl is installed):
/// one file that runs on every Linux of its architecture.
///
/// Fails when most is well but the list by which its functions are ordered is stale (`cargo xtask order`): what is given to others shall take no
/// more memory than it need, and a warning nobody reads. The file is there nevertheless, and works.
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> Result {
    let binary = build()?;
    check_static(&binary)?;
    check_bare(&binary)?;
    let size = fs::metadata(&binary)?.len();
    println!("{}: {:.1} MB, static, runs alone", binary.display(), size as f64 / 1e6);
    packages::ensure(packages::SYMBOLS)?;
    order::check(&binary)
}

fn build() -> Result<PathBuf> {
    let musl = format!("{ARCH}-unknown-linux-musl");
    let gnu = format!("{ARCH}-unknown-linux-gnu");
    let sysroot = shell::output(shell::command("rustc").args(["--print", "sysroot"]))?;
    let has_musl = Path::new(sysroot.trim()).join("lib/rustlib").join(&musl).is_dir();
    let target = if has_musl { musl } else { gnu };
    // With an explicit target the flags reach our code only, not build scripts and procedural macros, which must
    // stay loadable by the compiler.
    let mut build = shell::cargo();
    build
        .args(["build", "--release", "--locked", "--package", "builder", "--target", &target])
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    shell::show(&mut build)?;
    let dist = shell::target().join("dist");
    fs::create_dir_all(&dist)?;
    let binary = dist.join("builder");
    fs::copy(shell::target().join(&target).join("release/builder"), &binary)?;
    Ok(binary)
}

/// A dynamic program names its loader in a PT_INTERP header; `ldd` reads that.
fn check_static(binary: &Path) -> Result {
    let mut ldd = shell::command("ldd");
    let output = ldd.arg(binary).output()?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if text.contains("statically linked") || text.contains("not a dynamic executable") {
        return Ok(());
    }
    Err(format!("{} is not static:\n{text}", binary.display()).into())
}

/// Starts the binary where nothing else is: no loader, no libraries, no /etc, no /proc.
fn check_bare(binary: &Path) -> Result {
    let root = tempfile::tempdir()?;
    fs::copy(binary, root.path().join("builder"))?;
    let mut bare = if shell::is_root() {
        shell::command("chroot")
    } else {
        let mut unshare = shell::command("unshare");
        unshare.args(["--map-root-user", "chroot"]);
        unshare
    };
    let version = shell::output(bare.arg(root.path()).args(["/builder", "--version"]))?;
    println!("in an empty root: {}", version.trim());
    Ok(())
}
