//! `cargo xtask vm-test`: what this machine's kernel or cgroups cannot show, in a virtual machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::shell::{self, Result};
use crate::{bases, packages};

/// Runs the sandbox's tests, builds with limits, builds for another architecture and builds around jumps of the clock in a virtual
/// machine: Debian's kernel, cgroups v2 only, an interpreter for arm64.
///
/// Takes Debian's qemu; without `/dev/kvm` it works and takes many times as long. The machine has no network.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Makes the machine's file system again although one is there.
    #[arg(long)]
    fresh: bool,
    /// Emulates the processor although there is `/dev/kvm`: for one that is virtual itself, and slow at it.
    #[arg(long)]
    emulated: bool,
    /// Parts of the names of the sandbox's cases to run; all when none is given.
    filter: Vec<String>,
}

/// What the machine has beside a minimal Debian.
const INCLUDED: &str = "linux-image-cloud-amd64,initramfs-tools,busybox-static,uidmap,util-linux,iproute2,procps,strace,runc,gcc,libc6-dev,\
    qemu-user-static,binfmt-support";

/// Its last words when all went well.
const PASSED: &str = "vm-test: all passed";

/// The machine's first process. Debian's initramfs has mounted the root, /proc, /sys and /dev.
const INIT: &str = include_str!("vm_test/init.sh");

pub(crate) fn run(args: &Args) -> Result {
    packages::ensure(packages::BASES)?;
    packages::ensure(packages::VIRTUAL_MACHINE)?;
    let bases = bases::ensure(false)?;
    let binary = shell::builder(false)?;
    let sandbox = test_binary("executor", "sandbox")?;

    let dir = shell::target().join("vm");
    fs::create_dir_all(&dir)?;
    let root = dir.join("root");
    if args.fresh || !root.join("etc/debian_version").is_file() {
        make_root(&root)?;
    }
    let ours = root.join("vm-test");
    shell::remove(&ours)?;
    fs::create_dir_all(&ours)?;
    write_program(&ours.join("init"), INIT.as_bytes())?;
    write_program(&ours.join("builder"), &fs::read(&binary)?)?;
    write_program(&ours.join("sandbox"), &fs::read(&sandbox)?)?;
    fs::write(ours.join("filter"), args.filter.join(" "))?;
    shell::copy(&bases.join("busybox"), &ours.join("busybox"))?;

    let disk = dir.join("disk.img");
    if disk.exists() {
        fs::remove_file(&disk)?;
    }
    fs::File::create(&disk)?.set_len(6 << 30)?;
    let mut mke2fs = shell::command("mke2fs");
    shell::run(mke2fs.args(["-q", "-t", "ext4", "-d"]).arg(&root).arg(&disk))?;
    boot(&dir, &root, &disk, args.emulated)
}

/// Bootstraps Debian into `root`.
fn make_root(root: &Path) -> Result {
    let unfinished = root.with_extension("tmp");
    shell::remove(&unfinished)?;
    let mut bootstrap = shell::command("mmdebstrap");
    bootstrap.args(["--variant=minbase", "--quiet", "--format=directory", "--include", INCLUDED]);
    // Programs of another architecture, for what runs them.
    bootstrap.arg("--architectures=amd64,arm64");
    bootstrap.arg("--customize-hook=cd \"$1\" && mkdir arm64 && chmod 777 arm64");
    bootstrap.arg("--customize-hook=chroot \"$1\" sh -c 'cd arm64 && apt-get download busybox-static:arm64'");
    bootstrap.arg("--customize-hook=cd \"$1/arm64\" && dpkg-deb -x busybox-static*.deb . && rm *.deb");
    bootstrap.arg(bases::codename()?).arg(&unfinished).args(bases::apt_sources()?);
    shell::show(&mut bootstrap)?;
    shell::remove(root)?;
    fs::rename(&unfinished, root)?;
    Ok(())
}

fn boot(dir: &Path, root: &Path, disk: &Path, emulated: bool) -> Result {
    let kernel = (newest(&root.join("boot"), "vmlinuz-")?, newest(&root.join("boot"), "initrd.img-")?);
    let log = dir.join("log");
    let mut ended = false;
    if !emulated && Path::new("/dev/kvm").exists() {
        ended = boot_with(&["-enable-kvm", "-cpu", "host"], &kernel, disk, &log)?;
    }
    if !ended {
        println!(
            "note: the machine cannot be accelerated here: it is emulated, which takes several times as long"
        );
        boot_with(&["-accel", "tcg,thread=multi", "-cpu", "max"], &kernel, disk, &log)?;
    }
    let said = said(&log)?;
    println!("{}", said.trim_end());
    if said.lines().any(|line| line == PASSED) {
        Ok(())
    } else {
        Err("the virtual machine's tests failed".into())
    }
}

/// Runs the machine to its end; false when its processor gave up.
fn boot_with(processor: &[&str], kernel: &(PathBuf, PathBuf), disk: &Path, log: &Path) -> Result<bool> {
    let mut qemu = shell::command("qemu-system-x86_64");
    qemu.args(processor).args(["-m", "3G", "-smp", "2", "-nographic", "-no-reboot", "-nic", "none"]);
    qemu.arg("-kernel").arg(&kernel.0).arg("-initrd").arg(&kernel.1);
    qemu.args(["-append", "root=/dev/vda rw console=ttyS0 quiet panic=-1 init=/vm-test/init"]);
    qemu.arg("-drive").arg(format!("file={},if=virtio,format=raw,cache=unsafe", disk.display()));
    println!("$ {}\n  its console: {}", shell::line(&qemu), log.display());
    let output = fs::File::create(log)?;
    let mut machine = qemu.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn()?;
    loop {
        if let Some(status) = machine.try_wait()? {
            // One that a hypervisor refuses something of its processor aborts.
            return Ok(status.success());
        }
        // qemu leaves a machine standing whose instruction a nested hypervisor cannot execute.
        if said(log)?.contains("KVM internal error") {
            machine.kill()?;
            machine.wait()?;
            return Ok(false);
        }
        sleep(Duration::from_secs(1));
    }
}

fn said(log: &Path) -> Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(log)?).replace('\r', ""))
}

/// The file in `dir` whose name begins so; the last of several.
fn newest(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found.push(entry.path());
        }
    }
    found.sort();
    found.pop().ok_or_else(|| format!("no {prefix}… in {}", dir.display()).into())
}

/// The program that holds a crate's test target, built now.
fn test_binary(package: &str, target: &str) -> Result<PathBuf> {
    let mut build = shell::cargo();
    build.args(["test", "--no-run", "--message-format=json", "--package", package, "--test", target]);
    let messages = shell::output(&mut build)?;
    let program =
        messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|message| {
            let ours = message["target"]["name"] == target && message["profile"]["test"] == true;
            message["executable"].as_str().filter(|_| ours).map(PathBuf::from)
        });
    program.ok_or_else(|| format!("cargo named no program for the test target {target}").into())
}

fn write_program(path: &Path, content: &[u8]) -> Result {
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
