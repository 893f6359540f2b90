//! Mount points that leave no trace in the root file system.
//!
//! A mount needs something to be mounted on. Where the root file system lacks it, a directory or an empty file is made
//! for the run, and removed when the process has ended. Times of the directories around it are put back each time.
//! In an overlay, making a file in a directory of a lower layer also copies that directory up; such copies are
//! removed too unless the process changed them.
//!
//! What is made inside of another mount stays there, as runc leaves it: a cache mount or a directory of the machine may be
//! shared with other sandboxes, which may have something mounted on the very same name. The kernel lets a mount point be removed
//! that is one in another mount namespace only, and takes the mount away there without a word to anybody. So a later
//! sandbox with the same cache mount finds an empty file or directory of that name; and as others make such names
//! at the same time, whatever is there is as good as made. What a *program* removes from a shared directory others lose, as anywhere.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, StatxFlags, Timespec, Timestamps,
};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::fault::{Context, Fault, reason};

/// As the kernel has it (`MAXSYMLINKS`).
const MOST_LINKS: u32 = 40;
const PATH: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
/// How often a mount point is looked for and made while others remove what leads to it.
const TRIES: usize = 16;
/// Between two tries. A directory that is being removed is found for a moment longer, and nothing can be made in it.
const PAUSE: Duration = Duration::from_millis(5);
/// Mode of what stays in another mount than the root's, which is runc's, and of all directories.
const MODE: u32 = 0o755;

/// What a mount point must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
}

/// The mount points of one sandbox.
#[derive(Debug)]
pub(crate) struct Stubs {
    root: OwnedFd,
    /// The root's mount: what is made in any other is not this sandbox's alone.
    mount: u64,
    /// In the root's mount.
    made: Vec<Stub>,
    upper: Option<Upper>,
}

#[derive(Debug)]
struct Stub {
    parent: OwnedFd,
    name: OsString,
    inode: u64,
    kind: Kind,
}

/// The upper directory of an overlay.
#[derive(Debug)]
struct Upper {
    dir: OwnedFd,
    /// Directories that were not in it before, relative to it, and how they look once every mount point is made.
    copied: Vec<(PathBuf, Option<Look>)>,
}

/// What a process can change of a directory, apart from its entries.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    mode: u32,
    uid: u32,
    gid: u32,
    modified: (i64, i64),
    attributes: Vec<(OsString, Vec<u8>)>,
}

/// Where a walk is: the directories from the root on, without the root.
struct Place {
    trail: Vec<(OwnedFd, OsString)>,
}

impl Place {
    fn dir<'a>(&'a self, root: &'a OwnedFd) -> BorrowedFd<'a> {
        self.trail.last().map_or(root.as_fd(), |(dir, _)| dir.as_fd())
    }

    fn path(&self) -> PathBuf {
        self.trail.iter().map(|(_, name)| name).collect()
    }
}

impl Stubs {
    /// For the root file system at `root`, an overlay when it has an `upper`.
    pub(crate) fn new(root: OwnedFd, upper: Option<OwnedFd>) -> Result<Self, Fault> {
        let mount = mount_of(root.as_fd()).context(|| "read the root file system")?;
        let upper = upper.map(|dir| Upper { dir, copied: Vec::new() });
        Ok(Self { root, mount, made: Vec::new(), upper })
    }

    /// Finds or makes a mount point. Symbolic links are followed inside the root file system.
    pub(crate) fn target(&mut self, path: &Path, kind: Kind) -> Result<OwnedFd, Fault> {
        let describe = || format!("prepare the mount point {}", path.display());
        // What a read-only mount lacks cannot be made in it, and where a file is no directory can be.
        let target = self.find_or_make(path, kind).map_err(|error| match error {
            Errno::ROFS | Errno::NOTDIR => {
                Fault::Target(format!("{}: {}", describe(), reason(&error.into())))
            }
            _ => Fault::Setup(format!("{}: {}", describe(), reason(&error.into()))),
        })?;
        let found = stat(target.as_fd()).context(describe)?;
        let is_directory = FileType::from_raw_mode(found.st_mode).is_dir();
        if is_directory != (kind == Kind::Directory) {
            let what = if is_directory { "a directory" } else { "no directory" };
            return Err(Fault::Target(format!("{}: it is {what}", describe())));
        }
        Ok(target)
    }

    /// As [`Self::target`] for `/proc`, `/sys` and `/dev`: a directory, and no link, so that it is what it is named.
    pub(crate) fn system_target(&mut self, path: &Path) -> Result<OwnedFd, Fault> {
        match self.find(path, ResolveFlags::NO_SYMLINKS) {
            Err(Errno::LOOP) => Err(Fault::Setup(format!(
                "prepare the mount point {}: it is a symbolic link",
                path.display()
            ))),
            _ => self.target(path, Kind::Directory),
        }
    }

    /// Finds what is there, without making anything.
    pub(crate) fn find(&self, path: &Path, flags: ResolveFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // openat2(2) knows no empty path.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        // EAGAIN: something moved meanwhile, and the kernel could not tell whether `..` left the root.
        for _ in 0..16 {
            match rustix::fs::openat2(&self.root, path, PATH, Mode::empty(), flags) {
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    fn find_or_make(&mut self, path: &Path, kind: Kind) -> Result<OwnedFd, Errno> {
        for _ in 0..TRIES {
            let found = match self.find(path, ResolveFlags::empty()) {
                Err(Errno::NOENT) => self.walk(path, kind),
                other => other,
            };
            match found {
                // The program of another step has removed what was just found or made.
                Err(Errno::NOENT) => std::thread::sleep(PAUSE),
                other => return other,
            }
        }
        Err(Errno::NOENT)
    }

    /// Whether a directory may be what an earlier sandbox made as a mount point and left: empty, in another mount than the root's.
    /// How something is mounted there must not depend on it: the same step would get one thing first and another later.
    pub(crate) fn is_left(&self, dir: BorrowedFd<'_>) -> Result<bool, Errno> {
        let found = stat(dir)?;
        let looks_made = found.st_mode & 0o7777 == MODE && (found.st_uid, found.st_gid) == (0, 0);
        if !looks_made || mount_of(dir)? == self.mount {
            return Ok(false);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut entries = Dir::new(rustix::fs::openat(dir, ".", flags, Mode::empty())?)?;
        Ok(entries.all(|entry| entry.is_ok_and(|entry| matches!(entry.file_name().to_bytes(), b"." | b".."))))
    }

    /// Goes along a path component by component and makes what is missing.
    fn walk(&mut self, path: &Path, kind: Kind) -> Result<OwnedFd, Errno> {
        let mut place = Place { trail: Vec::new() };
        let mut rest: VecDeque<OsString> = lexical(path).into();
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                place.trail.pop();
                continue;
            }
            let here = place.dir(&self.root);
            let next = match rustix::fs::openat(here, &name, PATH | OFlags::NOFOLLOW, Mode::empty()) {
                Err(Errno::NOENT) => {
                    let kind = if rest.is_empty() { kind } else { Kind::Directory };
                    self.make(&place, &name, kind)?
                }
                other => other?,
            };
            match FileType::from_raw_mode(stat(next.as_fd())?.st_mode) {
                FileType::Symlink => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Errno::LOOP);
                    }
                    let target = rustix::fs::readlinkat(&next, "", Vec::new())?.into_bytes();
                    if target.starts_with(b"/") {
                        place.trail.clear();
                    }
                    for component in components(Path::new(OsStr::from_bytes(&target))).into_iter().rev() {
                        rest.push_front(component);
                    }
                }
                FileType::Directory => place.trail.push((next, name)),
                _ if rest.is_empty() => return Ok(next),
                _ => return Err(Errno::NOTDIR),
            }
        }
        let last = place.trail.pop();
        last.map_or_else(|| rustix::io::fcntl_dupfd_cloexec(&self.root, 3), |(dir, _)| Ok(dir))
    }

    /// Makes one directory or empty file, unless somebody else just has.
    fn make(&mut self, place: &Place, name: &OsStr, kind: Kind) -> Result<OwnedFd, Errno> {
        let parent = rustix::io::fcntl_dupfd_cloexec(place.dir(&self.root), 3)?;
        let is_own = mount_of(parent.as_fd())? == self.mount;
        if is_own && let Some(upper) = &mut self.upper {
            upper.expect_copies(&place.path())?;
        }
        let before = stat(parent.as_fd())?;
        let mode = Mode::from_raw_mode(if is_own && kind == Kind::File { 0o644 } else { MODE });
        let made = match kind {
            Kind::Directory => rustix::fs::mkdirat(&parent, name, mode),
            Kind::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat(&parent, name, flags, mode).map(drop)
            }
        };
        let open = || rustix::fs::openat(&parent, name, PATH | OFlags::NOFOLLOW, Mode::empty());
        match made {
            Err(Errno::EXIST) => return open(),
            other => other?,
        }
        let restored = restore_times(parent.as_fd(), &before);
        let made = open()?;
        // Who may write to a directory of the machine need not be its owner, who alone may set its times.
        if is_own {
            restored?;
            let inode = stat(made.as_fd())?.st_ino;
            self.made.push(Stub { parent, name: name.to_owned(), inode, kind });
        }
        Ok(made)
    }

    /// Notes how everything looks before the process starts.
    pub(crate) fn seal(&mut self) -> Result<(), Fault> {
        if let Some(upper) = &mut self.upper {
            for (path, look) in upper.copied.iter_mut().filter(|(_, look)| look.is_none()) {
                let dir = open_beneath(&upper.dir, path).context(|| format!("open {}", path.display()))?;
                *look = Some(Look::of(&dir).context(|| format!("read {}", path.display()))?);
            }
        }
        Ok(())
    }

    /// Takes off what is mounted on what was made. A mount namespace may outlive its processes, such as while somebody reads
    /// one's `/proc/PID/mountinfo`: [`Self::remove`] would then see what is mounted instead of the mount point, and leave it.
    pub(crate) fn uncover(&self) -> Result<(), Fault> {
        for stub in self.made.iter().rev() {
            let describe = || format!("unmount {}", Path::new(&stub.name).display());
            rustix::process::fchdir(&stub.parent).context(describe)?;
            loop {
                let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
                match rustix::mount::unmount(stub.name.as_os_str(), flags) {
                    Ok(()) => {}
                    // Nothing is mounted there, or the process moved it away.
                    Err(Errno::INVAL | Errno::NOENT) => break,
                    Err(error) => return Err(error).context(describe),
                }
            }
        }
        Ok(())
    }

    /// Removes what was made. Call it once nothing is mounted here any more; the overlay's last reference goes with
    /// it.
    pub(crate) fn remove(mut self) -> Result<(), Fault> {
        // Where mounting failed, no process has run, and everything looks as it was made.
        self.seal()?;
        let Self { root, made, upper, .. } = self;
        for stub in made.iter().rev() {
            stub.remove()
                .context(|| format!("remove the mount point {}", Path::new(&stub.name).display()))?;
        }
        drop(made);
        drop(root);
        match upper {
            Some(upper) => upper.prune(),
            None => Ok(()),
        }
    }
}

impl Stub {
    /// Removes it if it is still what was made: the same object, and empty.
    fn remove(&self) -> Result<(), Errno> {
        let beneath = ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.parent, &self.name, PATH | OFlags::NOFOLLOW, Mode::empty(), beneath) {
            Ok(found) => {
                let found = stat(found.as_fd())?;
                if found.st_ino != self.inode || (self.kind == Kind::File && found.st_size != 0) {
                    return Ok(());
                }
            }
            // Somebody holds the sandbox's mount namespace (whoever reads /proc/PID/mountinfo does), and so the mounts are still there.
            // Nobody can have replaced what something is mounted on.
            Err(Errno::XDEV) => {}
            Err(_) => return Ok(()),
        }
        let flags = if self.kind == Kind::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let before = stat(self.parent.as_fd())?;
        match rustix::fs::unlinkat(&self.parent, &self.name, flags) {
            // The process put something into it, or the machine has something mounted on it.
            Err(Errno::NOTEMPTY | Errno::BUSY) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => restore_times(self.parent.as_fd(), &before),
        }
    }
}

impl Upper {
    /// Notes which directories of a path making an entry there will copy up.
    fn expect_copies(&mut self, path: &Path) -> Result<(), Errno> {
        for dir in path.ancestors().filter(|dir| !dir.as_os_str().is_empty()) {
            let known = self.copied.iter().any(|(copied, _)| copied == dir);
            match open_beneath(&self.dir, dir) {
                Err(Errno::NOENT) if !known => self.copied.push((dir.to_owned(), None)),
                Err(Errno::NOENT) | Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes the copies that hold nothing and look as before, the deepest first.
    fn prune(mut self) -> Result<(), Fault> {
        self.copied.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
        for (path, look) in &self.copied {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
            let Ok(dir) = open_beneath(&self.dir, path) else { continue };
            if Look::of(&dir).ok().as_ref() != look.as_ref() {
                continue;
            }
            let describe = || format!("remove the copy of /{}", path.display());
            let parent = open_beneath(&self.dir, parent).context(describe)?;
            let before = stat(parent.as_fd()).context(describe)?;
            match rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY) => {}
                Err(error) => {
                    return Err(Fault::Setup(format!("{}: {}", describe(), reason(&error.into()))));
                }
                Ok(()) => restore_times(parent.as_fd(), &before).context(describe)?,
            }
        }
        Ok(())
    }
}

impl Look {
    fn of(dir: &OwnedFd) -> Result<Self, Errno> {
        let stat = stat(dir.as_fd())?;
        let mut names = vec![0; 64 * 1024];
        let length = match rustix::fs::flistxattr(dir, &mut names) {
            Err(Errno::OPNOTSUPP) => 0,
            other => other?,
        };
        let mut attributes = Vec::new();
        for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let name = OsString::from_vec(name.to_owned());
            let mut value = vec![0; 64 * 1024];
            let length = rustix::fs::fgetxattr(dir, &name, &mut value)?;
            value.truncate(length);
            attributes.push((name, value));
        }
        attributes.sort();
        Ok(Self {
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified: (stat.st_mtime, stat.st_mtime_nsec.cast_signed()),
            attributes,
        })
    }
}

/// The number of the mount that a file was opened through. It has one as long as the file is open (Linux 5.8; mounting needs 5.12).
fn mount_of(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    Ok(rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}

fn stat(file: BorrowedFd<'_>) -> Result<Stat, Errno> {
    rustix::fs::statat(file, "", AtFlags::EMPTY_PATH)
}

/// Opens a directory below another, through no link. The empty path is the directory itself.
fn open_beneath(dir: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(dir, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

/// Puts a directory's times back to what they were.
fn restore_times(dir: BorrowedFd<'_>, before: &Stat) -> Result<(), Errno> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: before.st_atime, tv_nsec: before.st_atime_nsec.cast_signed() },
        last_modification: Timespec { tv_sec: before.st_mtime, tv_nsec: before.st_mtime_nsec.cast_signed() },
    };
    rustix::fs::utimensat(dir, "", &times, AtFlags::EMPTY_PATH)
}

fn components(path: &Path) -> Vec<OsString> {
    path.components()
        .filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir))
        .map(|component| component.as_os_str().to_owned())
        .collect()
}

/// The components of a path as Docker reads a mount's destination: `..` is taken away with what is before it.
pub(crate) fn lexical(path: &Path) -> Vec<OsString> {
    let mut clean = Vec::new();
    for component in components(path) {
        if component == ".." {
            clean.pop();
        } else {
            clean.push(component);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleans_paths() {
        let clean = |path: &str| lexical(Path::new(path)).iter().collect::<PathBuf>();
        assert_eq!(clean("/a/./b//c/../d/"), Path::new("a/b/d"));
        assert_eq!(clean("../../x"), Path::new("x"));
        assert_eq!(clean("/.."), Path::new(""));
    }

    /// As in a mount that others use.
    #[test]
    fn others_make_and_remove_the_same() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let open = || rustix::fs::open(dir.path(), PATH, Mode::empty()).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // Only what somebody has made: else one of them might never be fast enough.
                    if dir.path().join("a/b/c/file").exists() {
                        let _busy = std::fs::remove_dir_all(dir.path().join("a"));
                    }
                    std::thread::yield_now();
                }
            });
            let makers = [(); 3].map(|()| {
                scope.spawn(|| {
                    let make =
                        |_| Stubs::new(open(), None)?.target(Path::new("/a/b/c/file"), Kind::File).map(drop);
                    (0..4000).try_for_each(make)
                })
            });
            let made = makers.map(|maker| maker.join().unwrap());
            done.store(true, Ordering::Relaxed);
            assert!(made.iter().all(Result::is_ok), "{made:?}");
        });
    }
}
