//! Debian packages: installs what is missing and says so.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::shell::{self, Result};

/// A program and the Debian package that holds it.
pub(crate) type Need = (&'static str, &'static str);

/// What the base images are made with.
pub(crate) const BASES: &[Need] =
    &[("busybox", "busybox-static"), ("mmdebstrap", "mmdebstrap"), ("dpkg-query", "dpkg")];

/// What serving the base images takes.
pub(crate) const REGISTRY: &[Need] = &[("docker-registry", "docker-registry"), ("skopeo", "skopeo")];

/// What the tests take beside that.
pub(crate) const TESTS: &[Need] = &[
    ("skopeo", "skopeo"),
    ("umoci", "umoci"),
    ("buildah", "buildah"),
    ("runc", "runc"),
    ("crun", "crun"),
    ("dockerd", "docker.io"),
    ("podman", "podman"),
    ("docker-registry", "docker-registry"),
    ("htpasswd", "apache2-utils"),
    ("strace", "strace"),
    ("tmux", "tmux"),
    ("man", "man-db"),
    ("groff", "groff-base"),
    ("zsh", "zsh"),
    ("fish", "fish"),
    ("git", "git"),
    ("ssh-agent", "openssh-client"),
    ("sshd", "openssh-server"),
    ("openssl", "openssl"),
    ("python3", "python3"),
    ("newuidmap", "uidmap"),
    ("slirp4netns", "slirp4netns"),
    ("pasta", "passt"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("mkfs.xfs", "xfsprogs"),
    ("filefrag", "e2fsprogs"),
    ("mksquashfs", "squashfs-tools"),
    ("faketime", "faketime"),
    ("bindfs", "bindfs"),
];

/// What looking at pages takes: the smallest of Debian's browsers, 64 MB to fetch.
pub(crate) const BROWSER: &[Need] = &[("chromium-headless-shell", "chromium-headless-shell")];

/// What a virtual machine takes beside the base images.
pub(crate) const VIRTUAL_MACHINE: &[Need] =
    &[("qemu-system-x86_64", "qemu-system-x86"), ("mke2fs", "e2fsprogs")];

/// What unpacking and making archives takes.
pub(crate) const ARCHIVES: &[Need] =
    &[("tar", "tar"), ("gzip", "gzip"), ("bzip2", "bzip2"), ("xz", "xz-utils"), ("zstd", "zstd")];

/// What the benchmarks take beside the base images.
pub(crate) const BENCH: &[Need] = &[
    ("buildah", "buildah"),
    ("runc", "runc"),
    ("skopeo", "skopeo"),
    ("docker-registry", "docker-registry"),
    ("time", "time"),
    ("dpkg-source", "dpkg-dev"),
    ("newuidmap", "uidmap"),
    ("nsenter", "util-linux"),
];

/// What finding the functions that are executed takes.
pub(crate) const ORDER: &[Need] = &[("valgrind", "valgrind"), ("nm", "binutils")];

/// What making and mounting images of metadata takes.
pub(crate) const EROFS: &[Need] = &[("mkfs.erofs", "erofs-utils"), ("mount", "mount")];

/// What looking at a program's functions takes.
pub(crate) const SYMBOLS: &[Need] = &[("nm", "binutils")];

/// What counting system calls takes.
pub(crate) const COUNTS: &[Need] = &[("strace", "strace")];

/// Makes sure that every program is there, installing packages where one is not.
///
/// # Errors
/// When something is missing and this process may not install it, or the installation fails.
pub(crate) fn ensure(needs: &[Need]) -> Result {
    let mut packages: Vec<&str> = needs
        .iter()
        .filter(|(program, _)| shell::find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !shell::is_root() {
        return Err(format!("missing Debian packages; as root: apt-get install {list}").into());
    }
    println!("installing Debian packages that are missing: {list}");
    let _quiet = NoServices::begin()?;
    let update = shell::run(shell::command("apt-get").args(["update", "-qq"]));
    if let Err(error) = update {
        // A source that is down matters only when a package cannot be had.
        eprintln!("note: {error}");
    }
    shell::show(
        shell::command("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0"])
            .args(&packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )?;
    Ok(())
}

/// While it lives, packages do not start the services that they bring (a Docker daemon would add firewall rules).
struct NoServices {
    ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn begin() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        fs::write(POLICY, "#!/bin/sh\nexit 101\n")?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            // Nothing to do about a failure here; the next package installation shows it.
            let _ = fs::remove_file(POLICY);
        }
    }
}
