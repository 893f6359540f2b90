//! Mounts the root file system.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::{MountAttrFlags, MountFlags};

use crate::fault::{Context, Fault};
use crate::mount::{self, FileSystem};
use crate::scratch::{Place, Scratch};
use crate::{Rootfs, Writable};

/// The kernel's limit of lower directories (`OVL_MAX_STACK`).
pub const MAXIMUM_LOWER: usize = 500;
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

/// What an overlay is made of.
struct Overlay<'a> {
    lower: &'a [PathBuf],
    /// Upper and work directory.
    writable: Option<(&'a Path, &'a Path)>,
    userxattr: bool,
    volatile: bool,
    flags: MountAttrFlags,
}

impl<'a> Overlay<'a> {
    fn paths(&self) -> impl Iterator<Item = &'a Path> {
        let writable = self.writable.into_iter().flat_map(|(upper, work)| [upper, work]);
        self.lower.iter().map(PathBuf::as_path).chain(writable)
    }

    fn check(&self) -> Result<(), Fault> {
        if self.lower.is_empty() || self.lower.len() > MAXIMUM_LOWER {
            return Err(Fault::Setup(format!(
                "mount an overlay of {} lower directories: the kernel takes 1 to {MAXIMUM_LOWER}",
                self.lower.len()
            )));
        }
        Ok(())
    }

    /// What the kernel would not say: which of them is missing.
    fn blame(&self, fault: Fault) -> Fault {
        match self.paths().find(|path| !path.is_dir()) {
            Some(path) => Fault::Setup(format!("mount an overlay: {} is no directory", path.display())),
            None => fault,
        }
    }

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

/// Mounts `rootfs` on the scratch space. `flags` are for its mount.
pub(crate) fn mount(rootfs: &Rootfs, scratch: &mut Scratch, flags: MountAttrFlags) -> Result<Root, Fault> {
    match rootfs {
        Rootfs::Directory(path) => {
            let dir = mount_directory(path, scratch, flags, "use")?;
            Ok(Root { dir, upper: None })
        }
        Rootfs::Overlay { lower, upper, work, userxattr, volatile } => {
            let overlay = Overlay {
                lower,
                writable: Some((upper, work)),
                userxattr: *userxattr,
                volatile: *volatile,
                flags,
            };
            overlay.check()?;
            let upper = mount::open_path(upper.as_path()).context(|| format!("open {}", upper.display()))?;
            let dir = mount_overlay(&overlay, scratch).map_err(|fault| overlay.blame(fault))?;
            Ok(Root { dir, upper: Some(upper) })
        }
    }
}

/// Mounts a tree of layers on the scratch space, where nobody sees it, so that parts of it can be bound.
pub(crate) fn mount_layers(
    lower: &[PathBuf],
    writable: Option<&Writable>,
    userxattr: bool,
    scratch: &mut Scratch,
    flags: MountAttrFlags,
) -> Result<OwnedFd, Fault> {
    match (lower, writable) {
        ([single], None) => {
            mount_directory(single, scratch, flags | MountAttrFlags::MOUNT_ATTR_RDONLY, "mount")
        }
        _ => {
            let writable = writable.map(|Writable { upper, work }| (upper.as_path(), work.as_path()));
            // What is written is thrown away: nothing of it has to reach a disk.
            let volatile = writable.is_some();
            let overlay = Overlay { lower, writable, userxattr, volatile, flags };
            overlay.check()?;
            mount_overlay(&overlay, scratch).map_err(|fault| overlay.blame(fault))
        }
    }
}

fn mount_directory(
    path: &Path,
    scratch: &mut Scratch,
    flags: MountAttrFlags,
    verb: &str,
) -> Result<OwnedFd, Fault> {
    let describe = || format!("{verb} {} as file system", path.display());
    let dir = mount::clone_host(path, false).context(describe)?;
    mount::restrict(dir.as_fd(), flags, false).context(describe)?;
    attach(&dir, &scratch.place("tree")?)?;
    Ok(dir)
}

fn attach(dir: &OwnedFd, place: &Place) -> Result<(), Fault> {
    mount::attach(dir.as_fd(), place.dir.as_fd()).context(|| "attach a file system")
}

/// Whether overlayfs knows `lowerdir+`. An older one would write each try of it to the kernel's log.
pub(crate) fn takes_layers_one_by_one() -> bool {
    crate::seccomp::kernel_version() >= (6, 7)
}

/// The new mount API where the kernel's overlay has it, else mount(2).
fn mount_overlay(overlay: &Overlay<'_>, scratch: &mut Scratch) -> Result<OwnedFd, Fault> {
    let place = scratch.place("tree")?;
    let mut refusal = None;
    if takes_layers_one_by_one() && overlay.paths().all(|path| path.as_os_str().len() <= LONGEST_VALUE) {
        match configure(overlay) {
            Ok(dir) => {
                attach(&dir, &place)?;
                return Ok(dir);
            }
            Err(refused) if refused.errno == rustix::io::Errno::INVAL => refusal = Some(refused),
            Err(refused) => return Err(refused.into()),
        }
    }
    mount_by_links(overlay, scratch, &place).map_err(|fault| match (fault, refusal) {
        (Fault::Setup(text), Some(refused)) => Fault::Setup(format!("{text}; before that: {}", refused.text)),
        (fault, _) => fault,
    })
}

fn configure(overlay: &Overlay<'_>) -> Result<OwnedFd, mount::Refused> {
    let file_system = FileSystem::open("overlay")?;
    for lower in overlay.lower {
        file_system.set("lowerdir+", lower.as_os_str())?;
    }
    if let Some((upper, work)) = overlay.writable {
        file_system.set("upperdir", upper.as_os_str())?.set("workdir", work.as_os_str())?;
    }
    let (values, flags) = overlay.options();
    for (key, value) in values {
        file_system.set(key, value)?;
    }
    for flag in flags {
        file_system.flag(flag)?;
    }
    file_system.mount(overlay.flags)
}

/// mount(2), whose options must fit in one page: every directory gets a symbolic link with a short name.
fn mount_by_links(overlay: &Overlay<'_>, scratch: &mut Scratch, place: &Place) -> Result<OwnedFd, Fault> {
    let links = scratch.place("links")?;
    let layers = &links.dir;
    let link = |target: &Path, name: &str| {
        rustix::fs::symlinkat(target, layers, name).context(|| format!("link {}", target.display()))
    };
    let mut names = Vec::new();
    for (index, lower) in overlay.lower.iter().enumerate() {
        let name = index.to_string();
        link(lower, &name)?;
        names.push(name);
    }
    let mut options = format!("lowerdir={}", names.join(":"));
    if let Some((upper, work)) = overlay.writable {
        link(upper, "u")?;
        link(work, "w")?;
        options.push_str(",upperdir=u,workdir=w");
    }
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
    rustix::process::fchdir(layers).context(|| "enter the sandbox's scratch space")?;
    let target = format!("../{}", place.name);
    let top = overlay.writable.map_or(overlay.lower[0].as_path(), |(upper, _)| upper);
    rustix::mount::mount("overlay", target.as_str(), "overlay", MountFlags::empty(), options.as_c_str())
        .context(|| format!("mount an overlay of {} on {}", overlay.lower.len(), top.display()))?;
    let dir = scratch.reopen(&place.name).context(|| "open an overlay")?;
    mount::restrict(dir.as_fd(), overlay.flags, false).context(|| "restrict an overlay")?;
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
