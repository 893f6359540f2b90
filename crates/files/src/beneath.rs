//! Opening what lies below a directory without ever following a symbolic link.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Longer paths are refused by the kernel as one string (`PATH_MAX`).
const LONGEST: usize = 4000;

/// Whether `openat2` is there: Linux 5.6, and a seccomp profile that lets it through.
static OPENAT2: AtomicBool = AtomicBool::new(true);

/// Opens `path` (relative, clean; empty for `root` itself). Fails with `ELOOP` or `ENOTDIR` when a component is a symbolic link.
pub(crate) fn open_beneath(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let name = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    if name.as_os_str().len() <= LONGEST && OPENAT2.load(Ordering::Relaxed) {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            match rustix::fs::openat2(root, name, flags, Mode::empty(), resolve) {
                // A rename elsewhere raced with the look-up.
                Err(Errno::AGAIN | Errno::INTR) if tries < 32 => tries += 1,
                Err(Errno::NOSYS | Errno::PERM) => break,
                result => return Ok(result?),
            }
        }
        let opened = open_stepwise(root, name, flags);
        if opened.is_ok() {
            OPENAT2.store(false, Ordering::Relaxed);
        }
        return opened;
    }
    open_stepwise(root, name, flags)
}

/// The same with one `openat` a component.
fn open_stepwise(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let mut components = path.components().peekable();
    let mut directory: Option<OwnedFd> = None;
    while let Some(component) = components.next() {
        let at = directory.as_ref().map_or(root, |directory| directory.as_fd());
        let name = match component {
            Component::Normal(name) => name,
            Component::CurDir => std::ffi::OsStr::new("."),
            _ => return Err(Errno::XDEV.into()),
        };
        let flags = match components.peek() {
            Some(_) => OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            None => flags,
        };
        directory = Some(rustix::fs::openat(at, name, flags, Mode::empty())?);
    }
    directory.ok_or_else(|| Errno::NOENT.into())
}

/// The directory that holds `path` and the name in it; `None` for the root.
pub(crate) fn split(path: &Path) -> Option<(&Path, &std::ffi::OsStr)> {
    Some((path.parent().unwrap_or(Path::new("")), path.file_name()?))
}

/// Whether an error says that nothing stands at a path, be it that a component is no directory.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

/// A name under which the entry `name` of an open directory can be given to a system call that takes paths only. The kernel
/// goes straight to the directory; `name` itself is not followed by the `l` variants.
pub(crate) fn proc_path(directory: BorrowedFd<'_>, name: &std::ffi::OsStr) -> Vec<u8> {
    use std::os::fd::AsRawFd;
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_bytes());
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_refuse_links_and_climbing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/c"), "").unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        for open in [open_beneath, open_stepwise] {
            let open = |path: &str| open(root.as_fd(), Path::new(path), OFlags::RDONLY | OFlags::NOFOLLOW);
            assert!(open("a/b/c").is_ok());
            assert!(open(".").is_ok());
            for path in ["link/b/c", "etc/passwd", "etc", "a/b/none", "a/b/c/d"] {
                let error = open(path).unwrap_err();
                assert!(is_absent(&error), "{path}: {error}");
            }
            for path in ["../x", "a/../../x", "/etc/passwd"] {
                assert!(open(path).is_err(), "{path}");
            }
        }
    }

    #[test]
    fn long_paths_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let name = "n".repeat(250);
        let mut path = std::path::PathBuf::new();
        let mut parent: OwnedFd = root.try_clone().unwrap().into();
        for _ in 0..20 {
            rustix::fs::mkdirat(&parent, name.as_str(), Mode::RWXU).unwrap();
            parent = rustix::fs::openat(&parent, name.as_str(), OFlags::PATH, Mode::empty()).unwrap();
            path.push(&name);
        }
        assert!(open_beneath(root.as_fd(), &path, OFlags::RDONLY | OFlags::DIRECTORY).is_ok());
    }
}
