mod aside;
mod content;
mod parents;
mod pending;
mod remove;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use crate::beneath::open_beneath;
use crate::owners::{self, Sidecar};
use crate::{Attributes, Cancelled, Error, Kind, OpaqueMark, Owners, xattrs};
use aside::Aside;
use content::Cloning;
use parents::Parents;
use pending::Pending;

/// How a [`TreeWriter`] writes.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// How owners are kept.
    pub owners: Owners,
    /// How directories are marked opaque.
    pub opaque: OpaqueMark,
    /// For directories that are missing on the way to what is written.
    pub parents: Attributes,
}

/// The one place that makes entries below a directory. Extended attributes that are not part of a layer are left out.
///
/// Every path is relative to the root of the tree, clean, without `.` and `..`; nothing outside of the root can be written
/// whatever the names are and whatever links stand in the tree: a parent that is a link is an error. What stands at a path is
/// replaced once the new entry is complete, with its attributes, in one step; until then, and when that fails, it stays as it was, and nothing is left
/// of the new one. A directory stays when it becomes a directory. Missing parents are made. May be used by many threads at
/// once, not for the same path.
#[derive(Debug)]
pub struct TreeWriter {
    root: OwnedFd,
    path: PathBuf,
    options: WriterOptions,
    parents: Parents,
    cloning: Cloning,
    /// Times of directories, which what is written into them later would change.
    times: Mutex<BTreeMap<PathBuf, (i64, u32)>>,
    /// Directories that were made only because something is in them.
    implied: Mutex<BTreeSet<PathBuf>>,
    sidecar: Mutex<Sidecar>,
    aside: Option<Aside>,
}

impl TreeWriter {
    /// Writes below `root`, a directory that exists. What it holds already stays, its recorded owners too.
    pub fn new(root: &Path, options: WriterOptions) -> Result<TreeWriter, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(root, flags, Mode::empty())
            .map_err(|source| Error::write("open", root, source))?;
        let sidecar = match &options.owners {
            Owners::Real | Owners::Mapped => Sidecar::default(),
            Owners::Recorded { sidecar } => {
                Sidecar::load(sidecar).map_err(|source| Error::write("read", sidecar, source))?
            }
        };
        Ok(TreeWriter {
            root: opened,
            path: root.to_owned(),
            options,
            parents: Parents::default(),
            cloning: Cloning::default(),
            times: Mutex::default(),
            implied: Mutex::default(),
            sidecar: Mutex::new(sidecar),
            aside: None,
        })
    }

    /// The same where the directory is somebody's: what makes room for a directory goes when [`TreeWriter::finish`] says that all is written,
    /// and without that comes back, instead of a directory that has only some of what it should. A file needs no such care, nor does
    /// a directory that makes room for one.
    ///
    /// # Errors
    /// Of the system, of which another handle of the root is asked.
    pub fn with_rollback(self) -> Result<TreeWriter, Error> {
        let root = self.root.try_clone().map_err(|source| Error::write("open", &self.path, source))?;
        Ok(TreeWriter { aside: Some(Aside::new(root)), ..self })
    }

    /// The same, reading and writing all that it copies: nothing is shared with the source, nothing is left to the kernel.
    #[must_use]
    pub fn plain(self) -> TreeWriter {
        TreeWriter { cloning: Cloning::none(), ..self }
    }

    /// A directory, the empty path for the root itself. One that is there gets the attributes.
    pub fn directory(&self, path: &Path, attributes: &Attributes) -> Result<(), Error> {
        if path.as_os_str().is_empty() {
            self.set_open(self.root.as_fd(), attributes, true)
                .map_err(|source| self.error("set attributes of", path, source))?;
        } else {
            let place = self.place(path)?;
            let set = |at: BorrowedFd<'_>, name: &OsStr, existed: bool| {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let opened = rustix::fs::openat(at, name, flags, Mode::empty())
                    .map_err(|source| self.error("open", path, source))?;
                self.set_open(opened.as_fd(), attributes, existed)
                    .map_err(|source| self.error("set attributes of", path, source))?;
                Ok::<_, Error>(opened)
            };
            match self.make_directory(&place)? {
                Made::Nothing => drop(set(place.parent.as_fd(), place.name, true)?),
                Made::Directory { pending, was_whiteout } => {
                    let opened = set(pending.at(), pending.name(), false)?;
                    // The removal of what is below still holds.
                    if was_whiteout {
                        self.set_opaque(&opened, path)?;
                    }
                    match &self.aside {
                        Some(aside) if !was_whiteout => pending.put_beside(aside)?,
                        _ => pending.put()?,
                    }
                }
            }
        }
        if let Some(time) = attributes.mtime {
            self.times().insert(path.to_owned(), time);
        }
        self.implied_set().remove(path);
        Ok(())
    }

    /// The directories that were made on the way to something and that nobody has said anything about; parents come first.
    pub fn implied(&self) -> Vec<PathBuf> {
        self.implied_set().iter().cloned().collect()
    }

    /// A regular file with all that `content` yields. Returns the number of bytes.
    pub fn file(&self, path: &Path, content: &mut dyn Read, attributes: &Attributes) -> Result<u64, Error> {
        let (file, pending) = self.create_file(path)?;
        let written =
            content::fill_from(&file, content).map_err(|source| self.error("write", path, source))?;
        self.finish_file(path, &file, attributes)?;
        pending.put()?;
        Ok(written)
    }

    /// A regular file with the first `size` bytes of `source`, or as many as there are; shared with it where the file system can
    /// do that. Returns the number of bytes.
    pub fn file_from(
        &self,
        path: &Path,
        source: &File,
        size: u64,
        attributes: &Attributes,
        cancelled: Cancelled<'_>,
    ) -> Result<u64, Error> {
        self.file_checked(path, source, size, attributes, cancelled, |_, _| Ok(()))
    }

    /// The same, once `check` has nothing against the new file, which it may read, and its number of bytes.
    pub(crate) fn file_checked(
        &self,
        path: &Path,
        source: &File,
        size: u64,
        attributes: &Attributes,
        cancelled: Cancelled<'_>,
        check: impl FnOnce(&File, u64) -> Result<(), Error>,
    ) -> Result<u64, Error> {
        let (file, pending) = self.create_file(path)?;
        let written = self.cloning.fill(&file, source, size, cancelled).map_err(|source| {
            if cancelled() { Error::Cancelled } else { self.error("write", path, source) }
        })?;
        self.finish_file(path, &file, attributes)?;
        check(&file, written)?;
        crate::error::check(cancelled)?;
        pending.put()?;
        Ok(written)
    }

    /// A symbolic link.
    pub fn symlink(&self, path: &Path, target: &Path, attributes: &Attributes) -> Result<(), Error> {
        let make = |at: BorrowedFd<'_>, name: &OsStr| Ok(rustix::fs::symlinkat(target, at, name)?);
        let ((), mut pending) = self.begin(self.place(path)?, "link", make)?;
        self.set_special(&mut pending, attributes)?;
        pending.put()
    }

    /// One more name for the file at `existing`, another path of this tree.
    ///
    /// # Errors
    /// With `EMLINK` as source when the file system allows no more names.
    pub fn hard_link(&self, path: &Path, existing: &Path) -> Result<(), Error> {
        let source = self.place(existing)?;
        // A link to a link or to a directory is nothing that a tree of files can mean.
        let stat = rustix::fs::statat(&*source.parent, source.name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| self.error("stat", existing, error))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return Err(self.error("hard link to", existing, Errno::ISDIR)),
            // What is removed is not there.
            FileType::CharacterDevice if stat.st_rdev == 0 => {
                return Err(self.error("hard link to", existing, Errno::NOENT));
            }
            _ => {}
        }
        if path == existing {
            return Ok(());
        }
        let ((), mut pending) = self.begin(self.place(path)?, "hard link", |at, name| {
            Ok(rustix::fs::linkat(&*source.parent, source.name, at, name, AtFlags::empty())?)
        })?;
        if let Some(owner) = self.sidecar().get(existing) {
            pending.record(owner);
        }
        // Of two names of one file `rename` removes neither, and says that all went well.
        let is_one = |there: rustix::fs::Stat| (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino);
        let there = || rustix::fs::statat(pending.at(), pending.place().name, AtFlags::SYMLINK_NOFOLLOW);
        if pending.replaces() && there().is_ok_and(is_one) {
            return Ok(());
        }
        pending.put()
    }

    /// A named pipe.
    pub fn fifo(&self, path: &Path, attributes: &Attributes) -> Result<(), Error> {
        self.node(path, FileType::Fifo, (0, 0), attributes)
    }

    /// A character or block device. Where none can be made, it is recorded: as an empty file.
    ///
    /// # Errors
    /// [`Error::Unsafe`] for a character device 0:0, which is what overlay marks a removal with.
    pub fn device(
        &self,
        path: &Path,
        kind: Kind,
        device: (u32, u32),
        attributes: &Attributes,
    ) -> Result<(), Error> {
        if kind == Kind::CharDevice && device == (0, 0) {
            let reason = "a character device 0:0 means a removed file";
            return Err(Error::Unsafe { path: path.to_owned(), reason });
        }
        if !matches!(self.options.owners, Owners::Real) {
            let (file, pending) = self.create_file(path)?;
            let text = owners::encode_device(kind, device);
            rustix::fs::fsetxattr(&file, owners::DEVICE, text.as_bytes(), XattrFlags::empty())
                .map_err(|source| self.error("record device", path, source))?;
            self.finish_file(path, &file, attributes)?;
            return pending.put();
        }
        let file_type =
            if kind == Kind::BlockDevice { FileType::BlockDevice } else { FileType::CharacterDevice };
        self.node(path, file_type, device, attributes)
    }

    /// The mark that a path of the lower layers is removed, as [`OpaqueMark::make_whiteout`] makes it. What this tree itself has there stays,
    /// since a removal means the layers below alone; a directory then hides what they have in it.
    pub fn whiteout(&self, path: &Path) -> Result<(), Error> {
        let place = self.place(path)?;
        match rustix::fs::statat(&*place.parent, place.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {
                let make =
                    |at: BorrowedFd<'_>, name: &OsStr| Ok(self.options.opaque.make_whiteout(at, name)?);
                self.begin(place, "mark removed", make)?.1.put()
            }
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => self.opaque(path),
            Ok(_) => Ok(()),
            Err(source) => Err(self.error("stat", path, source)),
        }
    }

    /// The mark that a directory hides what the lower layers have in it. It is made when missing.
    pub fn opaque(&self, path: &Path) -> Result<(), Error> {
        let directory = if path.as_os_str().is_empty() {
            rustix::io::dup(&self.root).map_err(|source| self.error("open", path, source))?
        } else {
            check_path(path)?;
            self.parents.open(self, path)?;
            open_beneath(self.root.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)
                .map_err(|source| self.error("open", path, source))?
        };
        self.set_opaque(&directory, path)
    }

    fn set_opaque(&self, directory: &OwnedFd, path: &Path) -> Result<(), Error> {
        rustix::fs::fsetxattr(directory, self.options.opaque.xattr(), b"y", XattrFlags::empty())
            .map_err(|source| self.error("mark opaque", path, source))
    }

    /// Removes what stands at a path, with all below it. Nothing there is fine.
    pub fn remove(&self, path: &Path) -> Result<(), Error> {
        let place = self.place(path)?;
        self.clear(&place)
    }

    /// Sets the times of directories and writes down recorded owners: the last thing to do. One [with a rollback](TreeWriter::with_rollback) has nothing to put back then.
    pub fn finish(self) -> Result<(), Error> {
        if let Some(aside) = &self.aside {
            aside.settle().map_err(|(path, source)| self.error("remove", &path, source))?;
        }
        // Deepest first, so that whatever a file system does to a parent comes before the parent's turn.
        for (path, time) in self.times().iter().rev() {
            let result = match open_beneath(self.root.as_fd(), path, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(directory) => rustix::fs::utimensat(&directory, ".", &timestamps(*time), AtFlags::empty())
                    .map_err(io::Error::from),
                Err(error) => Err(error),
            };
            result.map_err(|source| self.error("set time of", path, source))?;
        }
        if let Owners::Recorded { sidecar } = &self.options.owners {
            self.sidecar().save(sidecar).map_err(|source| Error::write("write", sidecar, source))?;
        }
        Ok(())
    }

    fn error(&self, action: &'static str, path: &Path, source: impl Into<io::Error>) -> Error {
        let path = if path.as_os_str().is_empty() { self.path.clone() } else { self.path.join(path) };
        Error::write(action, path, source)
    }

    fn times(&self) -> MutexGuard<'_, BTreeMap<PathBuf, (i64, u32)>> {
        self.times.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn implied_set(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.implied.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn sidecar(&self) -> MutexGuard<'_, Sidecar> {
        self.sidecar.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn make_directory<'a>(&'a self, place: &Place<'a>) -> Result<Made<'a>, Error> {
        match rustix::fs::mkdirat(&*place.parent, place.name, Mode::RWXU) {
            Ok(()) => {
                return Ok(Made::Directory {
                    pending: self.pending(place.clone(), None),
                    was_whiteout: false,
                });
            }
            Err(Errno::EXIST) => {}
            Err(source) => return Err(self.error("make directory", place.path, source)),
        }
        let stat = rustix::fs::statat(&*place.parent, place.name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|source| self.error("stat", place.path, source))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Ok(Made::Nothing);
        }
        let was_whiteout = self.is_whiteout(place, &stat);
        let make = |at: BorrowedFd<'_>, name: &OsStr| Ok(rustix::fs::mkdirat(at, name, Mode::RWXU)?);
        let ((), pending) = self.begin(place.clone(), "make directory", make)?;
        Ok(Made::Directory { pending, was_whiteout })
    }

    /// Whether what stands there is as [`TreeWriter::whiteout`] makes it.
    fn is_whiteout(&self, place: &Place<'_>, stat: &rustix::fs::Stat) -> bool {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice => stat.st_rdev == 0,
            FileType::RegularFile if self.options.opaque == OpaqueMark::Recorded && stat.st_size == 0 => {
                let mut text = [0; 8];
                let file = open_beneath(self.root.as_fd(), place.path, OFlags::RDONLY | OFlags::NONBLOCK);
                let whiteout = owners::encode_device(Kind::CharDevice, (0, 0));
                file.is_ok_and(|file| {
                    let read = rustix::fs::fgetxattr(file, owners::DEVICE, &mut text);
                    read.is_ok_and(|length| text[..length] == *whiteout.as_bytes())
                })
            }
            _ => false,
        }
    }

    fn create_file<'a>(&'a self, path: &'a Path) -> Result<(File, Pending<'a>), Error> {
        // Read by whoever checks what was written.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.begin(self.place(path)?, "create", |at, name| {
            Ok(File::from(rustix::fs::openat(at, name, flags, Mode::RUSR | Mode::WUSR)?))
        })
    }

    fn node(
        &self,
        path: &Path,
        file_type: FileType,
        (major, minor): (u32, u32),
        attributes: &Attributes,
    ) -> Result<(), Error> {
        let device = rustix::fs::makedev(major, minor);
        let ((), mut pending) = self.begin(self.place(path)?, "make node", |at, name| {
            Ok(rustix::fs::mknodat(at, name, file_type, Mode::empty(), device)?)
        })?;
        self.set_special(&mut pending, attributes)?;
        pending.put()
    }

    fn finish_file(&self, path: &Path, file: &File, attributes: &Attributes) -> Result<(), Error> {
        let set = || -> io::Result<()> {
            self.set_open(file.as_fd(), attributes, false)?;
            if let Some(time) = attributes.mtime {
                rustix::fs::futimens(file, &timestamps(time))?;
            }
            Ok(())
        };
        set().map_err(|source| self.error("set attributes of", path, source))
    }

    /// Owner before mode, since a change of owner takes setuid bits away, and before a capability, which it takes away too.
    fn set_open(&self, entry: BorrowedFd<'_>, attributes: &Attributes, existed: bool) -> io::Result<()> {
        match self.options.owners {
            Owners::Real | Owners::Mapped => {
                let (uid, gid) = ids(attributes);
                rustix::fs::fchown(entry, uid, gid).map_err(|error| unknown_id(error, attributes))?;
            }
            Owners::Recorded { .. } => {
                let owner = (attributes.uid, attributes.gid);
                if owner != (0, 0) {
                    let text = owners::encode_owner(owner);
                    rustix::fs::fsetxattr(entry, owners::OWNER, text.as_bytes(), XattrFlags::empty())?;
                } else if existed {
                    match rustix::fs::fremovexattr(entry, owners::OWNER) {
                        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
        for (name, value) in attributes.xattrs.iter().filter(|(name, _)| xattrs::belongs(name)) {
            rustix::fs::fsetxattr(entry, name.as_os_str(), value, XattrFlags::empty())
                .map_err(|error| with_name(error, name))?;
        }
        rustix::fs::fchmod(entry, mode(attributes))?;
        Ok(())
    }

    /// Records the owner of a new link or pipe, which `path` leads to.
    fn record_special(&self, entry: &mut Pending<'_>, path: &[u8], owner: owners::Owner) -> io::Result<()> {
        if owner == (0, 0) {
            return Ok(());
        }
        let value = owners::encode_capability(owner);
        match rustix::fs::lsetxattr(path, xattrs::CAPABILITY, &value, XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP | Errno::PERM) => entry.record(owner),
            other => other?,
        }
        Ok(())
    }

    /// Attributes of what cannot be opened: links, pipes, devices.
    fn set_special(&self, entry: &mut Pending<'_>, attributes: &Attributes) -> Result<(), Error> {
        let entry_path = entry.place().path;
        let mut set = || -> io::Result<()> {
            let (at, name) = (entry.at(), entry.name());
            match self.options.owners {
                Owners::Real | Owners::Mapped => {
                    let (uid, gid) = ids(attributes);
                    rustix::fs::chownat(at, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                        .map_err(|error| unknown_id(error, attributes))?;
                }
                Owners::Recorded { .. } => {}
            }
            let stat = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
                rustix::fs::chmodat(at, name, mode(attributes), AtFlags::empty())?;
            }
            let path = crate::beneath::proc_path(at, name);
            // An image could say there who owns its link.
            let is_recorded = matches!(self.options.owners, Owners::Recorded { .. });
            let belongs = |(name, _): &(&OsString, &Vec<u8>)| {
                xattrs::belongs(name) && !(is_recorded && *name == xattrs::CAPABILITY)
            };
            for (name, value) in attributes.xattrs.iter().filter(belongs) {
                rustix::fs::lsetxattr(&path[..], name.as_os_str(), value, XattrFlags::empty())
                    .map_err(|error| with_name(error, name))?;
            }
            if let Some(time) = attributes.mtime {
                rustix::fs::utimensat(at, name, &timestamps(time), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            if is_recorded {
                self.record_special(entry, &path, (attributes.uid, attributes.gid))?;
            }
            Ok(())
        };
        set().map_err(|source| self.error("set attributes of", entry_path, source))
    }
}

/// What came of making a directory.
enum Made<'a> {
    /// One is there.
    Nothing,
    /// One that has no attributes yet; perhaps instead of the mark of a removal.
    Directory { pending: Pending<'a>, was_whiteout: bool },
}

/// A user namespace has only some of the ids that there are.
fn unknown_id(error: Errno, attributes: &Attributes) -> io::Error {
    if error != Errno::INVAL {
        return error.into();
    }
    let Attributes { uid, gid, .. } = attributes;
    let reason =
        format!("{uid}:{gid} is not among the ids that this user may use (/etc/subuid, /etc/subgid)");
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

/// Where an entry stands: in an open directory, under a name.
#[derive(Clone)]
pub(super) struct Place<'a> {
    parent: std::sync::Arc<OwnedFd>,
    name: &'a OsStr,
    path: &'a Path,
}

fn with_name(error: Errno, name: &OsStr) -> io::Error {
    let hint =
        if name == xattrs::CAPABILITY && error == Errno::PERM { " (CAP_SETFCAP is needed)" } else { "" };
    let source = io::Error::from(error);
    io::Error::new(source.kind(), format!("attribute {}: {source}{hint}", name.display()))
}

fn ids(attributes: &Attributes) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)))
}

fn mode(attributes: &Attributes) -> Mode {
    Mode::from_bits_truncate(attributes.mode & 0o7777)
}

fn timestamps((seconds, nanos): (i64, u32)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos.min(999_999_999).into() },
    }
}

/// Refuses what is not a clean path below the root.
fn check_path(path: &Path) -> Result<(), Error> {
    let refuse = |reason| Err(Error::Unsafe { path: path.to_owned(), reason });
    let bytes = path.as_os_str().as_bytes();
    if bytes.contains(&0) {
        return refuse("a name holds a NUL byte");
    }
    for name in bytes.split(|&byte| byte == b'/') {
        match name {
            b"" => return refuse("it is not relative and clean"),
            b"." | b".." => return refuse("it leads elsewhere with `.` or `..`"),
            _ => {}
        }
    }
    Ok(())
}
