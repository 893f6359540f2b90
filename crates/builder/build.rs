//! Names the commit in `--version`, and puts functions that are executed often side by side.

use std::env;
use std::process::Command;

fn main() {
    name_commit();
    order_functions();
}

/// By hot.ld. An unoptimised program is linked sooner without it, and not every linker that somebody chose reads such scripts.
fn order_functions() {
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let is_chosen = env::var_os("RUSTC_LINKER").is_some() || flags.contains("link");
    if is_release && !is_chosen {
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{}/hot.ld", env!("CARGO_MANIFEST_DIR"));
        println!("cargo:rerun-if-changed=hot.ld");
    }
}

fn name_commit() {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown commit".to_owned());
    println!("cargo:rustc-env=BUILDER_COMMIT={commit}");
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file]) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
}
