//! Mounts the root file system.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountAttrFlags, MountFlags};

use crate::Rootfs;
use crate::fault::{Context, Fault};
use crate::mount::{self, FileSystem};
use crate::scratch::Scratch;

/// The kernel's limit of lower directories (`OVL_MAX_STACK`).
const MAXIMUM_LOWER: usize = 500;
/// The longest value that fsconfig(2) takes, without the final zero.
const LONGEST_VALUE: usize = 255;

/// A mounted root file system.
#[derive(Debug)]
pub(crate) struct Root {
    /// Its top directory.
    pub(crate) dir: OwnedFd,
    /// For an overlay, the directory that receives changes.
    pub(crate) upper: Option<OwnedFd>,
}

/// The parts of [`Rootfs::Overlay`].
struct Overlay<'a> {
    lower: &'a [PathBuf],
    upper: &'a Path,
    work: &'a Path,
    userxattr: bool,
    volatile: bool,
}

impl Overlay<'_> {
    /// Options without directories. Renamed directories, copied-up metadata and hard links are stored in full, so that
    /// the upper directory reads the same whatever the kernel's defaults are.
    fn options(&self) -> (Vec<(&'static str, &'static str)>, Vec<&'static str>) {
        let mut values = vec![("metacopy", "off"), ("index", "off")];
        let mut flags = Vec::new();
        if self.userxattr {
            // It implies redirect_dir=nofollow, and refuses any other value.
            flags.push("userxattr");
        } else {
            values.push(("redirect_dir", "off"));
        }
        if self.volatile {
            flags.push("volatile");
        }
        (values, flags)
    }
}

/// Mounts `rootfs` on the scratch space. Device nodes in it do not work: nothing but this stops a process that may
/// call mknod from reaching the machine's disks.
pub(crate) fn mount(rootfs: &Rootfs, scratch: &Scratch) -> Result<Root, Fault> {
    match rootfs {
        Rootfs::Directory(path) => {
            let describe = || format!("use {} as root file system", path.display());
            let dir = mount::clone_host(path.as_path(), false).context(describe)?;
            mount::restrict(dir.as_fd(), MountAttrFlags::MOUNT_ATTR_NODEV, false).context(describe)?;
            attach(&dir, scratch)?;
            Ok(Root { dir, upper: None })
        }
        Rootfs::Overlay { lower, upper, work, userxattr, volatile } => {
            let overlay = Overlay { lower, upper, work, userxattr: *userxattr, volatile: *volatile };
            if lower.is_empty() || lower.len() > MAXIMUM_LOWER {
                return Err(Fault::Setup(format!(
                    "mount an overlay of {} lower directories: the kernel takes 1 to {MAXIMUM_LOWER}",
                    lower.len()
                )));
            }
            for dir in lower.iter().map(PathBuf::as_path).chain([upper.as_path(), work.as_path()]) {
                if !dir.is_dir() {
                    return Err(Fault::Setup(format!("mount an overlay: {} is no directory", dir.display())));
                }
            }
            let upper =
                mount::open_path(overlay.upper).context(|| format!("open {}", overlay.upper.display()))?;
            let dir = mount_overlay(&overlay, scratch)?;
            Ok(Root { dir, upper: Some(upper) })
        }
    }
}

fn attach(dir: &OwnedFd, scratch: &Scratch) -> Result<(), Fault> {
    let target = scratch.root().context(|| "open the sandbox's scratch space")?;
    mount::attach(dir.as_fd(), target.as_fd()).context(|| "attach the root file system")
}

/// The new mount API where the kernel's overlay has it (6.7), else mount(2).
fn mount_overlay(overlay: &Overlay<'_>, scratch: &Scratch) -> Result<OwnedFd, Fault> {
    let paths = overlay.lower.iter().map(PathBuf::as_path).chain([overlay.upper, overlay.work]);
    let short = paths.into_iter().all(|path| path.as_os_str().len() <= LONGEST_VALUE);
    let mut refusal = None;
    if short {
        match configure(overlay) {
            Ok(dir) => {
                attach(&dir, scratch)?;
                return Ok(dir);
            }
            Err(refused) if refused.errno == rustix::io::Errno::INVAL => refusal = Some(refused),
            Err(refused) => return Err(refused.into()),
        }
    }
    mount_by_links(overlay, scratch).map_err(|fault| match (fault, refusal) {
        (Fault::Setup(text), Some(refused)) => Fault::Setup(format!("{text}; before that: {}", refused.text)),
        (fault, _) => fault,
    })
}

fn configure(overlay: &Overlay<'_>) -> Result<OwnedFd, mount::Refused> {
    let file_system = FileSystem::open("overlay")?;
    for lower in overlay.lower {
        file_system.set("lowerdir+", lower.as_os_str())?;
    }
    file_system.set("upperdir", overlay.upper.as_os_str())?.set("workdir", overlay.work.as_os_str())?;
    let (values, flags) = overlay.options();
    for (key, value) in values {
        file_system.set(key, value)?;
    }
    for flag in flags {
        file_system.flag(flag)?;
    }
    file_system.mount(MountAttrFlags::MOUNT_ATTR_NODEV)
}

/// mount(2), whose options must fit in one page: every directory gets a symbolic link with a short name.
fn mount_by_links(overlay: &Overlay<'_>, scratch: &Scratch) -> Result<OwnedFd, Fault> {
    let layers = rustix::fs::openat(
        scratch.dir(),
        "layers",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .context(|| "open the sandbox's scratch space")?;
    let link = |target: &Path, name: &str| {
        rustix::fs::symlinkat(target, &layers, name).context(|| format!("link {}", target.display()))
    };
    let mut names = Vec::new();
    for (index, lower) in overlay.lower.iter().enumerate() {
        let name = index.to_string();
        link(lower, &name)?;
        names.push(name);
    }
    link(overlay.upper, "u")?;
    link(overlay.work, "w")?;
    let mut options = format!("lowerdir={},upperdir=u,workdir=w", names.join(":"));
    let (values, flags) = overlay.options();
    for (key, value) in values {
        options.push_str(&format!(",{key}={value}"));
    }
    for flag in flags {
        options.push_str(&format!(",{flag}"));
    }
    let options = std::ffi::CString::new(options.as_bytes()).map_err(std::io::Error::other);
    let options = options.context(|| "mount an overlay")?;
    // The links are found relative to the working directory, whatever `/` is covered with.
    rustix::process::fchdir(&layers).context(|| "enter the sandbox's scratch space")?;
    rustix::mount::mount("overlay", "../root", "overlay", MountFlags::NODEV, options.as_c_str())
        .context(|| format!("mount an overlay of {} on {}", overlay.lower.len(), overlay.upper.display()))?;
    let dir = scratch.root().context(|| "open the root file system")?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_layers_fit_in_a_page() {
        let names: usize = (0..MAXIMUM_LOWER).map(|index| index.to_string().len() + 1).sum();
        assert!(names + 200 < 4096);
    }
}
