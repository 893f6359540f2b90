//! Files that versions of a layer share: an unchanged file of a COPY costs a link.
//!
//! `objects-v1/<boot>/ab/<hash>` is one more name of a file in some layer, under a hash of all that it is: bytes, attributes, mode, owner,
//! time. Layers never change, and overlayfs copies a file before it lets anybody change it, so nobody notices but by the number of
//! links. Three rules:
//!
//! * No two paths of one tree share a file, or programs would take them for hard links. So each layer has a list of the objects in it
//!   (`snapshots-v1/<id>.objects`), and a layer over it uses others. A layer without parents uses none: it may come to lie over any.
//! * An object counts in the boot in which it was made: after a power failure its bytes may be lost while its name is there.
//! * An object that has no other name is in no layer any more, and goes with the next prune.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use files::Attributes;
use hash::{StableHash, StableHasher};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, linkat, openat2, statat, unlinkat};
use rustix::io::Errno;

use crate::error::At;
use crate::layout::{create_dir, names_in};
use crate::usage::Amount;
use crate::{CacheError, SnapshotId, Snapshotter, Store};

/// What a regular file is, to the last attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectKey {
    hash: [u8; 32],
    size: u64,
    mtime: (i64, u32),
}

impl ObjectKey {
    /// Of a file with these bytes (any digest that tells contents apart) and attributes. `None` when its time is to be that of writing.
    pub fn new(content: &[u8; 32], size: u64, attributes: &Attributes) -> Option<ObjectKey> {
        let mtime = attributes.mtime?;
        let mut hasher = StableHasher::new("file-object-v1").with(content).with(&size);
        for number in [attributes.mode, attributes.uid, attributes.gid, mtime.1] {
            number.stable_hash(&mut hasher);
        }
        mtime.0.stable_hash(&mut hasher);
        (attributes.xattrs.len() as u64).stable_hash(&mut hasher);
        for (name, value) in &attributes.xattrs {
            hasher.bytes(name.as_encoded_bytes());
            hasher.bytes(value);
        }
        Some(ObjectKey { hash: hasher.finish(), size, mtime })
    }

    fn name(&self) -> String {
        let hex: String = self.hash.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}/{}", &hex[..2], &hex[2..])
    }
}

/// The objects that a layer which is being written may use. For many threads at once.
#[derive(Debug)]
pub struct LayerObjects {
    layer: OwnedFd,
    layer_path: PathBuf,
    objects: OwnedFd,
    objects_path: PathBuf,
    /// Those of the layers below.
    below: HashSet<[u8; 32]>,
    /// Those in this layer.
    here: Mutex<HashSet<[u8; 32]>>,
}

impl LayerObjects {
    /// For a layer in `dir` over `parents`; `None` where none may be used.
    pub(crate) fn open(
        store: &Store,
        dir: &Path,
        parents: &[SnapshotId],
    ) -> Result<Option<LayerObjects>, CacheError> {
        if parents.is_empty() || store.inner.options.snapshotter == Snapshotter::Copying {
            return Ok(None);
        }
        let mut below = HashSet::new();
        for parent in parents {
            let path = store.inner.layout.layer_objects(*parent);
            match fs::read(&path) {
                Ok(bytes) => match bytes.as_chunks() {
                    (names, []) => below.extend(names.iter().copied()),
                    // Damaged: nobody knows what is in the layer.
                    _ => return Ok(None),
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).at("read", &path),
            }
        }
        let objects_path = store.inner.layout.objects().join(&store.inner.boot);
        create_dir(&objects_path, 0o700)?;
        let open = |path: &Path| {
            rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .at("open", path)
        };
        Ok(Some(LayerObjects {
            layer: open(dir)?,
            layer_path: dir.to_owned(),
            objects: open(&objects_path)?,
            objects_path,
            below,
            here: Mutex::default(),
        }))
    }

    /// Makes `path`, where nothing is and whose directory is there, the file `key`. Returns whether that was possible; if not, the caller
    /// writes the file and offers it ([`LayerObjects::keep`]).
    pub fn link(&self, key: &ObjectKey, path: &Path) -> Result<bool, CacheError> {
        if self.below.contains(&key.hash) || !self.here().insert(key.hash) {
            return Ok(false);
        }
        let linked = self.try_link(key, path).at("link", &self.layer_path.join(path));
        if !matches!(linked, Ok(true)) {
            self.here().remove(&key.hash);
        }
        linked
    }

    fn try_link(&self, key: &ObjectKey, path: &Path) -> rustix::io::Result<bool> {
        let name = key.name();
        match statat(&self.objects, &*name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(error),
            Ok(stat) => {
                let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
                let mtime = (stat.st_mtime, stat.st_mtime_nsec as u32);
                if !is_file || stat.st_size as u64 != key.size || mtime != key.mtime {
                    // Whatever happened to it, it is not what its name says.
                    let _ = unlinkat(&self.objects, &*name, AtFlags::empty());
                    return Ok(false);
                }
            }
        }
        let (parent, file_name) = self.place(path)?;
        match linkat(&self.objects, &*name, &parent, file_name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            // Pruned meanwhile; too many links; something is there and has to be replaced; not ours to link.
            Err(Errno::NOENT | Errno::MLINK | Errno::EXIST | Errno::PERM | Errno::XDEV) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Offers the complete file at `path`, with all its attributes, to later layers. It must not be written to any more.
    pub fn keep(&self, key: &ObjectKey, path: &Path) -> Result<(), CacheError> {
        if self.below.contains(&key.hash) || !self.here().insert(key.hash) {
            return Ok(());
        }
        let kept = self.try_keep(key, path).at("keep", &self.layer_path.join(path));
        if !matches!(kept, Ok(true)) {
            self.here().remove(&key.hash);
        }
        kept.map(drop)
    }

    fn try_keep(&self, key: &ObjectKey, path: &Path) -> rustix::io::Result<bool> {
        let name = key.name();
        let (parent, file_name) = self.place(path)?;
        let link = || linkat(&parent, file_name, &self.objects, &*name, AtFlags::empty());
        let linked = match link() {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&self.objects, &name[..2], Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
                link()
            }
            other => other,
        };
        match linked {
            Ok(()) => Ok(true),
            // Another build was faster; its file stays the object. Or it cannot be shared, which harms nobody.
            Err(Errno::EXIST | Errno::MLINK | Errno::PERM | Errno::XDEV) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The directory of a path of the layer, reached without following links, and the last name.
    fn place<'a>(&self, path: &'a Path) -> rustix::io::Result<(OwnedFd, &'a OsStr)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::INVAL) };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok((openat2(&self.layer, parent, flags, Mode::empty(), inside)?, name))
    }

    fn here(&self) -> MutexGuard<'_, HashSet<[u8; 32]>> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the list of what is in the layer.
    pub(crate) fn write_list(&self, path: &Path) -> Result<(), CacheError> {
        let here = self.here();
        if here.is_empty() {
            return Ok(());
        }
        let bytes: Vec<u8> = here.iter().flatten().copied().collect();
        fs::write(path, bytes).at("write", path)
    }

    /// Where objects lie, for messages.
    pub fn dir(&self) -> &Path {
        &self.objects_path
    }
}

impl Store {
    /// Removes objects that are in no layer, and those of other boots. Builds may run: a link that is made meanwhile keeps the file.
    pub(crate) fn prune_objects(&self) -> Result<(), CacheError> {
        self.inner.remove_old_objects()?;
        self.each_object(|directory, name, stat| {
            if stat.st_nlink == 1 {
                match unlinkat(directory, name, AtFlags::empty()) {
                    Err(Errno::NOENT) => {}
                    other => other?,
                }
            }
            Ok(())
        })
    }

    /// Objects, and the bytes on the disk of those that are in no layer.
    pub(crate) fn measure_objects(&self) -> Result<Amount, CacheError> {
        let mut amount = Amount::default();
        self.each_object(|_, _, stat| {
            amount.count += 1;
            if stat.st_nlink == 1 {
                amount.bytes += stat.st_blocks as u64 * 512;
            }
            Ok(())
        })?;
        Ok(amount)
    }

    fn each_object(
        &self,
        mut visit: impl FnMut(&File, &str, &rustix::fs::Stat) -> rustix::io::Result<()>,
    ) -> Result<(), CacheError> {
        let dir = self.inner.layout.objects().join(&self.inner.boot);
        for folder in names_in(&dir)? {
            let path = dir.join(folder);
            let directory = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.at("open", &path)?,
            };
            for name in names_in(&path)? {
                match statat(&directory, &*name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => {}
                    Ok(stat) => visit(&directory, &name, &stat).at("remove", &path.join(&name))?,
                    Err(error) => return Err(error).at("stat", &path.join(&name)),
                }
            }
        }
        Ok(())
    }
}

impl crate::store::Inner {
    /// Removes objects that were made before the machine started.
    pub(crate) fn remove_old_objects(&self) -> Result<(), CacheError> {
        let dir = self.layout.objects();
        for boot in names_in(&dir)? {
            if boot != self.boot
                && let Some(old) = self.scratch.take_away(&dir.join(boot))?
            {
                crate::remove::remove_tree(&old)?;
            }
        }
        Ok(())
    }
}
