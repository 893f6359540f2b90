use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use files::{Attributes, DirectoryTree, Kind, Owners, TreeWriter, WriterOptions};
use image::layer::{Entry, EntryKind, LayerReader, LayerWriter};
use rustix::fs::FlockOperation;

use super::CacheMountOptions;
use super::folder::{Folder, Name, made, try_lock};
use crate::entries::Entries;
use crate::error::At;
use crate::layout::names_in;
use crate::remove::remove_tree;
use crate::upper::UpperDir;
use crate::usage::{Amount, measure};
use crate::{CacheError, Store};

/// What is known of a cache mount; one with several instances has several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMountInfo {
    /// As in [`CacheMountOptions::id`].
    pub id: String,
    /// As in [`CacheMountOptions::seed`].
    pub seed: Option<String>,
    /// Which instance.
    pub instance: u64,
    /// Entries and bytes on the disk.
    pub size: Amount,
    /// When it was made.
    pub created: Option<SystemTime>,
    /// When somebody last began to use it.
    pub last_used: Option<SystemTime>,
    /// How often it was used.
    pub uses: u64,
    /// Whether somebody is using it.
    pub in_use: bool,
    /// Whether it is given to nobody any more and goes when it is free.
    pub retired: bool,
}

/// What is fetched from elsewhere is kept this long after its last use.
const REMOTES_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

impl Store {
    /// All cache mounts by id, then instance. Measures them, which takes as long as listing them.
    pub fn cache_mounts(&self) -> Result<Vec<CacheMountInfo>, CacheError> {
        self.list(&self.inner.layout.mounts())
    }

    /// Repositories and the like ([`Store::remote_dir`]), in the same form.
    pub fn remote_dirs(&self) -> Result<Vec<CacheMountInfo>, CacheError> {
        self.list(&self.inner.layout.remotes())
    }

    fn list(&self, parent: &Path) -> Result<Vec<CacheMountInfo>, CacheError> {
        let mut all = Vec::new();
        for folder in self.folders(parent)? {
            for instance in folder.instances()? {
                all.extend(describe(&folder, instance)?);
            }
        }
        all.sort_by(|a, b| (&a.id, &a.seed, a.instance).cmp(&(&b.id, &b.seed, b.instance)));
        Ok(all)
    }

    /// An existing cache mount, to be read while builds may be using it: the instance asked for, or the oldest.
    /// `None` when there is none.
    pub fn open_cache_mount(
        &self,
        id: &str,
        instance: Option<u64>,
    ) -> Result<Option<ReadableCacheMount>, CacheError> {
        for folder in self.folders(&self.inner.layout.mounts())? {
            if folder.name.id != id {
                continue;
            }
            for number in folder.instances()? {
                if instance.is_none_or(|wanted| wanted == number) {
                    let path = folder.path.join(number.to_string());
                    let owners = self.inner.owners_beside(&path.join("owners"));
                    return Ok(Some(ReadableCacheMount { store: self.clone(), path, owners }));
                }
            }
        }
        Ok(None)
    }

    /// Removes the instances of a cache mount that nobody uses: how many, and bytes freed. The others are given to nobody any
    /// more and go when they are free: how many is the last number.
    pub fn remove_cache_mount(&self, id: &str) -> Result<(Amount, u64), CacheError> {
        let mut removed = Amount::default();
        let mut busy = 0;
        for folder in self.folders(&self.inner.layout.mounts())? {
            if folder.name.id == id {
                let (amount, left) = self.remove_instances(&folder, true, |_| true)?;
                removed.count += amount.count;
                removed.bytes += amount.bytes;
                busy += left;
            }
        }
        Ok((removed, busy))
    }

    /// Removes retired instances that are free; with `all` every free one. Of repositories also what was not used for long.
    pub(crate) fn prune_mounts(&self, all: bool) -> Result<Amount, CacheError> {
        let mut removed = Amount::default();
        let oldest = SystemTime::now().checked_sub(REMOTES_KEPT);
        let layout = &self.inner.layout;
        for (parent, ages) in [(layout.mounts(), false), (layout.remotes(), true)] {
            for folder in self.folders(&parent)? {
                let unwanted = |instance: &Path| {
                    let old =
                        ages && last_used(instance).is_none_or(|used| oldest.is_some_and(|at| used < at));
                    all || old || instance.join("retired").exists()
                };
                let (amount, _) = self.remove_instances(&folder, false, unwanted)?;
                removed.count += amount.count;
                removed.bytes += amount.bytes;
            }
        }
        Ok(removed)
    }

    /// Removes instances by id and number that nobody uses, of cache mounts or of repositories.
    pub(crate) fn remove_mounts(
        &self,
        repositories: bool,
        chosen: &BTreeSet<(String, u64)>,
    ) -> Result<Amount, CacheError> {
        let mut removed = Amount::default();
        let layout = &self.inner.layout;
        let parent = if repositories { layout.remotes() } else { layout.mounts() };
        for folder in self.folders(&parent)? {
            let unwanted = |instance: &Path| {
                let name = instance.file_name().and_then(|name| name.to_str()?.parse().ok());
                name.is_some_and(|number| chosen.contains(&(folder.name.id.clone(), number)))
            };
            let (amount, _) = self.remove_instances(&folder, false, unwanted)?;
            removed.count += amount.count;
            removed.bytes += amount.bytes;
        }
        Ok(removed)
    }

    fn remove_instances(
        &self,
        folder: &Folder,
        retire: bool,
        unwanted: impl Fn(&Path) -> bool,
    ) -> Result<(Amount, u64), CacheError> {
        let mut taken = Vec::new();
        let mut busy = 0;
        {
            let _lock = folder.lock()?;
            for number in folder.instances()? {
                let instance = folder.path.join(number.to_string());
                if !unwanted(&instance) {
                    continue;
                }
                match folder.take_away(&instance)? {
                    Some(path) => taken.push(path),
                    None if retire => {
                        let mark = instance.join("retired");
                        fs::write(&mark, "").at("create", &mark)?;
                        busy += 1;
                    }
                    None => busy += 1,
                }
            }
        }
        let mut removed = Amount { count: taken.len() as u64, bytes: 0 };
        for path in taken {
            removed.bytes += measure(&path)?.bytes;
            remove_tree(&path)?;
        }
        folder.remove_if_empty()?;
        Ok((removed, busy))
    }

    /// Fills a new instance of a cache mount with what a tar has; it takes the place of those that are there.
    ///
    /// # Errors
    /// When the tar is damaged or holds what a tree cannot; nothing has changed then.
    pub fn import_cache_mount(
        &self,
        options: &CacheMountOptions,
        tar: &mut dyn Read,
    ) -> Result<(), CacheError> {
        let root =
            Attributes { uid: options.uid, gid: options.gid, ..Attributes::with_mode(options.mode & 0o7777) };
        let name = Name { id: options.id.clone(), seed: options.seed.clone() };
        let opaque = self.inner.marks().opaque();
        Folder::open(self, &self.inner.layout.mounts(), name)?.replace(&root, |dir, owners| {
            let parents = Attributes::with_mode(0o755);
            unpack(tar, dir, WriterOptions { owners: owners.clone(), opaque, parents })
        })
    }

    fn folders(&self, parent: &Path) -> Result<Vec<Folder>, CacheError> {
        let names = names_in(parent)?;
        Ok(names.into_iter().filter_map(|name| Folder::existing(self, parent.join(name))).collect())
    }
}

/// A cache mount opened for reading. Builds may write to it meanwhile.
#[derive(Debug)]
pub struct ReadableCacheMount {
    store: Store,
    path: PathBuf,
    owners: Owners,
}

impl ReadableCacheMount {
    /// What it holds.
    pub fn tree(&self) -> Result<DirectoryTree, CacheError> {
        Ok(DirectoryTree::open(&self.path.join("tree"), &self.owners)?)
    }

    /// Writes it as a tar, names sorted, with owners, modes, times and attributes.
    ///
    /// # Errors
    /// Also when a file changes while it is read: a build is using it.
    pub fn export(&self, out: impl Write) -> Result<(), CacheError> {
        self.export_at(Path::new(""), out)
    }

    /// The same with what is at a path, which is relative and leads over no symbolic link, and below it; names begin with its own.
    ///
    /// # Errors
    /// Those of [`ReadableCacheMount::export`].
    pub fn export_at(&self, path: &Path, out: impl Write) -> Result<(), CacheError> {
        let dir = self.path.join("tree");
        let entries =
            Entries::read(vec![UpperDir::open(&dir, &self.owners, self.store.inner.marks())?], true)?;
        let mut writer = LayerWriter::archive(out);
        for entry in entries.entries() {
            let Some(renamed) = below(entry, path) else { continue };
            let appended = match &renamed.kind {
                // Overlay's marks mean nothing here.
                EntryKind::Whiteout | EntryKind::Opaque => continue,
                EntryKind::File { .. } => writer.append(&renamed, &mut entries.open(entry)?),
                // Its first name is not in the archive.
                EntryKind::Hardlink { target } if target.is_empty() => {
                    let mut file = entries.open(entry)?;
                    let size = file.metadata().at("stat", &entries.host_path(entry))?.len();
                    writer.append(&Entry { kind: EntryKind::File { size }, ..renamed }, &mut file)
                }
                _ => writer.append(&renamed, &mut io::empty()),
            };
            appended.map_err(io::Error::from).at("pack", &entries.host_path(entry))?;
        }
        let mut out = writer.finish().map_err(io::Error::from).at("pack", &dir)?;
        out.flush().at("write an archive of", &dir)
    }
}

/// An entry as it is named when only what is at `top` and below it is packed; `None` when it is not. A link to what is not packed has no
/// target.
fn below(entry: &Entry, top: &Path) -> Option<Entry> {
    let above = top.parent().unwrap_or(top);
    let renamed = |path: &[u8]| {
        let path = Path::new(OsStr::from_bytes(path));
        let inside = path.starts_with(top).then(|| path.strip_prefix(above).ok()).flatten();
        inside.map(|path| path.as_os_str().as_bytes().to_vec())
    };
    let path = renamed(&entry.path)?;
    let kind = match &entry.kind {
        EntryKind::Hardlink { target } => EntryKind::Hardlink { target: renamed(target).unwrap_or_default() },
        other => other.clone(),
    };
    Some(Entry { path, kind, ..entry.clone() })
}

fn unpack(tar: &mut dyn Read, dir: &Path, options: WriterOptions) -> Result<(), CacheError> {
    let writer = TreeWriter::new(dir, options)?;
    let mut reader = LayerReader::new(tar);
    while let Some(entry) = reader.next_entry().map_err(io::Error::from).at("read an archive for", dir)? {
        write_entry(&writer, &entry, &mut reader, dir)?;
    }
    Ok(writer.finish()?)
}

fn write_entry(
    writer: &TreeWriter,
    entry: &Entry,
    content: &mut dyn Read,
    dir: &Path,
) -> Result<(), CacheError> {
    let as_path = |bytes: &[u8]| Path::new(OsStr::from_bytes(bytes)).to_owned();
    let path = as_path(&entry.path);
    let attributes = Attributes {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: Some((entry.mtime, entry.mtime_nanos)),
        xattrs: entry
            .xattrs
            .iter()
            .map(|(name, value)| (OsStr::from_bytes(name).to_owned(), value.clone()))
            .collect(),
    };
    match &entry.kind {
        EntryKind::File { .. } => writer.file(&path, content, &attributes).map(drop)?,
        EntryKind::Directory => writer.directory(&path, &attributes)?,
        EntryKind::Symlink { target } => writer.symlink(&path, &as_path(target), &attributes)?,
        EntryKind::Hardlink { target } => writer.hard_link(&path, &as_path(target))?,
        EntryKind::Fifo => writer.fifo(&path, &attributes)?,
        EntryKind::CharDevice { major, minor } => {
            writer.device(&path, Kind::CharDevice, (*major, *minor), &attributes)?;
        }
        EntryKind::BlockDevice { major, minor } => {
            writer.device(&path, Kind::BlockDevice, (*major, *minor), &attributes)?;
        }
        EntryKind::Whiteout | EntryKind::Opaque => {
            let reason = "names that begin with `.wh.` mean removed files: this is a layer, not the content of a cache mount";
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason)).at("unpack", &dir.join(path));
        }
    }
    Ok(())
}

fn describe(folder: &Folder, number: u64) -> Result<Option<CacheMountInfo>, CacheError> {
    let instance = folder.path.join(number.to_string());
    let Ok(uses) = fs::metadata(instance.join("uses")) else { return Ok(None) };
    let in_use = {
        // Nobody may take this look for a use.
        let _lock = folder.lock()?;
        instance.exists()
            && try_lock(&instance.join("lock"), FlockOperation::NonBlockingLockExclusive)?.is_none()
    };
    Ok(Some(CacheMountInfo {
        id: folder.name.id.clone(),
        seed: folder.name.seed.clone(),
        instance: number,
        size: measure(&instance.join("tree"))?,
        created: made(&instance),
        last_used: uses.modified().ok(),
        uses: uses.len(),
        in_use,
        retired: instance.join("retired").exists(),
    }))
}

fn last_used(instance: &Path) -> Option<SystemTime> {
    fs::metadata(instance.join("uses")).and_then(|metadata| metadata.modified()).ok()
}
