//! Trees for processes where overlay cannot be had: everything is copied, and what the process changed is found afterwards.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use files::{Attributes, DirectoryTree, FileTree, Kind, Metadata, Owners, TreeWriter, WriterOptions};
use rustix::fs::{AtFlags, CWD, StatxFlags};

use crate::CacheError;
use crate::error::At;
use crate::near::Near;
use crate::upper::Marks;

/// Tells whether an inode was touched: nobody can set its change time, and the birth time tells a new inode from an old one of
/// the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    born: (i64, u32),
    changed: (i64, u32),
    is_directory: bool,
}

impl Stamp {
    fn of(path: &Path) -> Result<Stamp, CacheError> {
        let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let found = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, mask).at("stat", path)?;
        let has_birth = found.stx_mask & StatxFlags::BTIME.bits() != 0;
        Ok(Stamp {
            inode: found.stx_ino,
            born: if has_birth { (found.stx_btime.tv_sec, found.stx_btime.tv_nsec) } else { (0, 0) },
            changed: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
            is_directory: u32::from(found.stx_mode) & 0o170_000 == 0o040_000,
        })
    }

    /// The same inode, whatever was done to it.
    fn is_same(&self, other: &Stamp) -> bool {
        (self.inode, self.born) == (other.inode, other.born)
    }
}

/// A copy of a tree, and what it was when it was made.
#[derive(Debug)]
pub(crate) struct FullCopy {
    tree: DirectoryTree,
    owners: Owners,
    /// By directory.
    stamps: HashMap<PathBuf, BTreeMap<OsString, Stamp>>,
    /// What directories were like, for those in which a sandbox made mount points and took them away again: that changes their change
    /// times and nothing else.
    directories: HashMap<PathBuf, Attributes>,
}

impl FullCopy {
    /// Copies `tree` to `root`, which is created. `scratch` is a folder on the same file system.
    pub(crate) fn make(
        tree: &dyn FileTree,
        root: &Path,
        owners: &Owners,
        marks: Marks,
        scratch: &Path,
    ) -> Result<FullCopy, CacheError> {
        fs::create_dir(root).at("create", root)?;
        let writer = writer(root, owners, marks)?;
        let metadata = tree.metadata(Path::new(""))?;
        if let Some(metadata) = metadata {
            writer.directory(Path::new(""), &Attributes::of(&metadata, tree.xattrs(Path::new(""))?))?;
        }
        copy_all(tree, &writer)?;
        writer.finish()?;
        let mut copy = FullCopy {
            tree: DirectoryTree::open(root, &Owners::Real)?,
            owners: owners.clone(),
            stamps: HashMap::new(),
            directories: HashMap::new(),
        };
        let latest = copy.stamp()?;
        wait_for_clock(&scratch.join("clock"), latest)?;
        Ok(copy)
    }

    fn near(&self, path: &Path) -> Result<Near, CacheError> {
        Near::of(&self.tree, path)
    }

    /// Notes what stands where. Returns the latest change time.
    fn stamp(&mut self) -> Result<(i64, u32), CacheError> {
        let mut latest = (i64::MIN, 0);
        let mut rest = vec![PathBuf::new()];
        while let Some(directory) = rest.pop() {
            let mut stamps = BTreeMap::new();
            let here = self.near(&directory)?;
            for name in here.named(names(&here))? {
                let path = directory.join(&name);
                let near = self.near(&path)?;
                let stamp = near.named(Stamp::of(&near))?;
                latest = latest.max(stamp.changed);
                if stamp.is_directory {
                    rest.push(path);
                }
                stamps.insert(name, stamp);
            }
            let attributes = here.named(attributes_of(&here, &self.owners))?;
            self.directories.insert(directory.clone(), attributes);
            self.stamps.insert(directory, stamps);
        }
        Ok(latest)
    }

    /// Moves what was changed since to `upper`, a directory, and marks there what was removed.
    ///
    /// In the directories of `disturbed` mount points were made and taken away again.
    pub(crate) fn split_off_changes(
        &self,
        upper: &Path,
        marks: Marks,
        disturbed: &HashSet<PathBuf>,
    ) -> Result<(), CacheError> {
        let upper = &DirectoryTree::open(upper, &Owners::Real)?;
        // One directory in another: a step may nest them as deep as it likes.
        let mut open = vec![self.open(PathBuf::new(), None)?];
        while let Some(directory) = open.last_mut() {
            if let Some(name) = directory.rest.next() {
                match self.split_entry(&directory.path.join(&name), upper, marks)? {
                    Split::Same => {}
                    Split::Moved => directory.found = true,
                    Split::Into(below) => open.push(*below),
                }
                continue;
            }
            let Some(directory) = open.pop() else { break };
            if self.close(directory, upper, marks, disturbed)?
                && let Some(around) = open.last_mut()
            {
                around.found = true;
            }
        }
        Ok(())
    }

    /// Begins with a directory that was there before, and stands in the upper directory already.
    fn open(&self, path: PathBuf, now: Option<Stamp>) -> Result<Directory, CacheError> {
        let source = self.near(&path)?;
        // Read before its entries are moved away.
        let attributes = source.named(attributes_of(&source, &self.owners))?;
        let present = source.named(names(&source))?;
        let gone = |name: &&OsString| present.binary_search(name).is_err();
        let gone =
            self.stamps.get(&path).into_iter().flat_map(BTreeMap::keys).filter(gone).cloned().collect();
        Ok(Directory { path, now, attributes, gone, rest: present.into_iter(), found: false })
    }

    fn split_entry(&self, path: &Path, upper: &DirectoryTree, marks: Marks) -> Result<Split, CacheError> {
        let (source, target) = (self.near(path)?, Near::of(upper, path)?);
        let (before, now) = (self.stamp_of(path), source.named(Stamp::of(&source))?);
        let was_directory = before.is_some_and(|before| before.is_directory);
        if was_directory && now.is_directory && before.is_some_and(|before| before.is_same(&now)) {
            fs::create_dir(&*target).at("create", target.whole())?;
            let below = self.open(path.to_owned(), Some(now))?;
            return Ok(Split::Into(Box::new(below)));
        }
        if before == Some(&now) {
            return Ok(Split::Same);
        }
        fs::rename(&*source, &*target).at("rename", source.whole())?;
        // A new directory in the place of an old one hides what that one had.
        if now.is_directory && was_directory {
            marks.set_opaque(&target).at("mark", target.whole())?;
        }
        Ok(Split::Moved)
    }

    fn stamp_of(&self, path: &Path) -> Option<&Stamp> {
        self.stamps.get(path.parent()?)?.get(path.file_name()?)
    }

    /// Marks what was removed from a directory. Returns whether anything about it or below it has changed; what has not is taken away again.
    fn close(
        &self,
        directory: Directory,
        upper: &DirectoryTree,
        marks: Marks,
        disturbed: &HashSet<PathBuf>,
    ) -> Result<bool, CacheError> {
        let Directory { path, now, attributes, gone, found, .. } = directory;
        for name in &gone {
            let target = Near::of(upper, &path.join(name))?;
            marks.make_whiteout(&target).at("create", target.whole())?;
        }
        let as_before = match &now {
            // The root stays.
            None => false,
            Some(_) if disturbed.contains(&path) => self.directories.get(&path) == Some(&attributes),
            Some(now) => self.stamp_of(&path) == Some(now),
        };
        let target = Near::of(upper, &path)?;
        if !found && gone.is_empty() && as_before {
            fs::remove_dir(&*target).at("remove", target.whole())?;
            return Ok(false);
        }
        target.named(set_attributes(&target, &attributes, &self.owners, marks))?;
        Ok(true)
    }
}

/// A directory while it is split.
struct Directory {
    path: PathBuf,
    /// Of all but the root.
    now: Option<Stamp>,
    attributes: Attributes,
    /// What it had.
    gone: Vec<OsString>,
    /// What is in it, and not looked at yet.
    rest: std::vec::IntoIter<OsString>,
    /// Something in it has changed.
    found: bool,
}

/// What comes of an entry.
enum Split {
    Same,
    Moved,
    Into(Box<Directory>),
}

/// Names of a file that was copied already, by file system and inode.
type Links = HashMap<(u64, u64), PathBuf>;

fn copy_all(tree: &dyn FileTree, writer: &TreeWriter) -> Result<(), CacheError> {
    let mut links = Links::new();
    let mut rest = vec![PathBuf::new()];
    while let Some(directory) = rest.pop() {
        for (name, metadata) in tree.list(&directory)? {
            let path = directory.join(name);
            copy_entry(tree, &path, &metadata, writer, &mut links)?;
            if metadata.kind == Kind::Directory {
                rest.push(path);
            }
        }
    }
    Ok(())
}

fn copy_entry(
    tree: &dyn FileTree,
    path: &Path,
    metadata: &Metadata,
    writer: &TreeWriter,
    links: &mut Links,
) -> Result<(), CacheError> {
    if !matches!(metadata.kind, Kind::Directory | Kind::Socket) && metadata.links > 1 {
        let inode = (metadata.file_system, metadata.inode);
        if let Some(existing) = links.get(&inode) {
            return Ok(writer.hard_link(path, existing)?);
        }
        links.insert(inode, path.to_owned());
    }
    let attributes = Attributes::of(metadata, tree.xattrs(path)?);
    match metadata.kind {
        Kind::File => {
            writer.file_from(path, &tree.open(path)?, metadata.size, &attributes, &|| false)?;
        }
        Kind::Directory => writer.directory(path, &attributes)?,
        Kind::Symlink => writer.symlink(path, &tree.read_link(path)?, &attributes)?,
        Kind::Fifo => writer.fifo(path, &attributes)?,
        kind @ (Kind::CharDevice | Kind::BlockDevice) => {
            writer.device(path, kind, metadata.device, &attributes)?
        }
        // Nobody listens there any more.
        Kind::Socket => {}
    }
    Ok(())
}

fn writer(root: &Path, owners: &Owners, marks: Marks) -> Result<TreeWriter, CacheError> {
    let options = WriterOptions {
        owners: owners.clone(),
        opaque: marks.opaque(),
        parents: Attributes::with_mode(0o755),
    };
    Ok(TreeWriter::new(root, options)?)
}

/// Sets what is set on a directory of the host.
pub(crate) fn set_attributes(
    directory: &Path,
    attributes: &Attributes,
    owners: &Owners,
    marks: Marks,
) -> Result<(), CacheError> {
    let writer = writer(directory, owners, marks)?;
    writer.directory(Path::new(""), attributes)?;
    Ok(writer.finish()?)
}

fn attributes_of(directory: &Path, owners: &Owners) -> Result<Attributes, CacheError> {
    let tree = DirectoryTree::open(directory, owners)?;
    let root = Path::new("");
    let metadata = tree.metadata(root)?;
    let xattrs = tree.xattrs(root)?;
    Ok(metadata.map(|metadata| Attributes::of(&metadata, xattrs)).unwrap_or_default())
}

/// Sorted.
fn names(directory: &Path) -> Result<Vec<OsString>, CacheError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).at("list", directory)? {
        names.push(entry.at("list", directory)?.file_name());
    }
    names.sort_unstable();
    Ok(names)
}

/// Returns once a change would get a time later than `latest`: clocks of file systems are coarse.
fn wait_for_clock(probe: &Path, latest: (i64, u32)) -> Result<(), CacheError> {
    loop {
        fs::write(probe, "").at("write", probe)?;
        let found = fs::symlink_metadata(probe).at("stat", probe)?;
        if (found.ctime(), u32::try_from(found.ctime_nsec()).unwrap_or_default()) > latest {
            return fs::remove_file(probe).at("remove", probe);
        }
        fs::remove_file(probe).at("remove", probe)?;
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_what_has_a_long_path() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["tree", "upper"] {
            fs::create_dir(at(name)).unwrap();
        }
        let mut path = PathBuf::new();
        let tree = DirectoryTree::open(&at("tree"), &Owners::Real).unwrap();
        for _ in 0..20 {
            path.push("n".repeat(250));
            fs::create_dir(&*Near::of(&tree, &path).unwrap()).unwrap();
        }
        let marks = Marks::new(false);
        let copy = FullCopy::make(&tree, &at("copy"), &Owners::Real, marks, dir.path()).unwrap();
        // Another directory has the name.
        let deep = copy.near(&path).unwrap();
        let other = copy.near(&path.with_file_name("other")).unwrap();
        fs::create_dir(&*other).unwrap();
        fs::remove_dir(&*deep).unwrap();
        fs::rename(&*other, &*deep).unwrap();
        let upper = at("upper");
        // Who may not set `trusted.*` cannot mark it.
        let split = move || {
            let mut sets = rustix::thread::capabilities(None).unwrap();
            sets.effective.remove(rustix::thread::CapabilitySet::SYS_ADMIN);
            rustix::thread::set_capabilities(None, sets).unwrap();
            copy.split_off_changes(&upper, marks, &HashSet::new()).unwrap_err().to_string()
        };
        let error = std::thread::spawn(split).join().unwrap();
        let expected = format!("mark {}: Operation not permitted", at("upper").join(&path).display());
        assert!(error.starts_with(&expected), "{error}");
    }
}
