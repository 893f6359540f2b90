use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use rustix::fs::{AtFlags, Dir, IFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::CacheError;
use crate::error::At;

/// Directories open at once. Deeper ones are moved up to the root of what is removed and removed from there.
const MAX_DEPTH: usize = 64;

/// Removes whatever stands at `path`, `Ok` when nothing does. Copes with directories that nobody may enter, paths longer than
/// the kernel takes, and files marked immutable or append-only where the process may unmark them.
pub(crate) fn remove_tree(path: &Path) -> Result<(), CacheError> {
    remove(path).at("remove", path)
}

fn remove(path: &Path) -> rustix::io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::INVAL) };
    let parent = match rustix::fs::open(parent, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let name = CString::new(std::os::unix::ffi::OsStrExt::as_bytes(name)).map_err(|_| Errno::INVAL)?;
    let Some(root) = unlink_or_open(parent.as_fd(), &name)? else { return Ok(()) };
    let deep = AtomicU64::new(0);
    loop {
        let names = names_in(root.as_fd())?;
        if names.is_empty() {
            break;
        }
        remove_entries(root.as_fd(), &names, 1, root.as_fd(), &deep)?;
    }
    remove_directory(parent.as_fd(), &name)
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// In parallel where there are many: removing waits for the disk more than it computes.
fn remove_entries(
    parent: BorrowedFd<'_>,
    names: &[CString],
    depth: usize,
    root: BorrowedFd<'_>,
    deep: &AtomicU64,
) -> rustix::io::Result<()> {
    let remove = |name: &CString| remove_entry(parent, name, depth, root, deep);
    if names.len() < 16 { names.iter().try_for_each(remove) } else { names.par_iter().try_for_each(remove) }
}

fn remove_entry(
    parent: BorrowedFd<'_>,
    name: &CStr,
    depth: usize,
    root: BorrowedFd<'_>,
    deep: &AtomicU64,
) -> rustix::io::Result<()> {
    let Some(directory) = unlink_or_open(parent, name)? else { return Ok(()) };
    if depth >= MAX_DEPTH {
        loop {
            let target = format!(".deep-{}", deep.fetch_add(1, Ordering::Relaxed));
            match rustix::fs::renameat_with(parent, name, root, &*target, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                other => return other,
            }
        }
    }
    remove_entries(directory.as_fd(), &names_in(directory.as_fd())?, depth + 1, root, deep)?;
    remove_directory(parent, name)
}

/// Unlinks what is no directory; opens a directory so that its entries can be removed.
fn unlink_or_open(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<Option<OwnedFd>> {
    match unlink(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(None),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error),
    }
    let directory = match rustix::fs::openat(parent, name, DIRECTORY, Mode::empty()) {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())?
        }
        other => other?,
    };
    unmark(directory.as_fd());
    // Entries cannot be removed from a directory without these, unless by the superuser.
    if rustix::fs::fstat(&directory)?.st_mode & 0o700 != 0o700 {
        rustix::fs::fchmod(&directory, Mode::RWXU)?;
    }
    Ok(Some(directory))
}

fn remove_directory(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
    match unlink(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn unlink(parent: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(parent, name, flags) {
        Err(Errno::PERM) => {}
        other => return other,
    }
    let open = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::openat(parent, name, open, Mode::empty()) {
        unmark(file.as_fd());
    }
    rustix::fs::unlinkat(parent, name, flags)
}

/// Takes `chattr +i` and `+a` away; where that is impossible, the removal that follows says so.
fn unmark(file: BorrowedFd<'_>) {
    if let Ok(flags) = rustix::fs::ioctl_getflags(file)
        && flags.intersects(IFlags::IMMUTABLE | IFlags::APPEND)
    {
        let _ = rustix::fs::ioctl_setflags(file, flags - (IFlags::IMMUTABLE | IFlags::APPEND));
    }
}

fn names_in(directory: BorrowedFd<'_>) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn removes_closed_directories_and_what_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("closed/inner")).unwrap();
        fs::write(tree.join("closed/inner/file"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", tree.join("link")).unwrap();
        fs::set_permissions(tree.join("closed/inner"), fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(tree.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        remove_tree(&tree).unwrap();
        assert!(fs::metadata("/etc").is_ok());
    }

    #[test]
    fn removes_paths_longer_than_the_kernel_takes() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let mut at = rustix::fs::open(&tree, DIRECTORY, Mode::empty()).unwrap();
        let name = "n".repeat(200);
        for _ in 0..100 {
            rustix::fs::mkdirat(&at, &*name, Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, &*name, DIRECTORY, Mode::empty()).unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn removes_immutable_files() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("d")).unwrap();
        fs::write(tree.join("d/f"), "x").unwrap();
        let marked = [tree.join("d/f"), tree.join("d")].iter().all(|path| {
            let file = fs::File::open(path).unwrap();
            rustix::fs::ioctl_getflags(&file)
                .and_then(|flags| rustix::fs::ioctl_setflags(&file, flags | IFlags::IMMUTABLE))
                .is_ok()
        });
        remove_tree(&tree).unwrap();
        assert!(!tree.exists(), "marked: {marked}");
    }
}
