//! Files that versions of a layer share: an unchanged file of a COPY costs a link.
//!
//! `objects-v1/<boot>/<folder>/<hash>` is one more name of a file in some layer, under a hash of all that it is: bytes, attributes, mode, owner,
//! time. Layers never change, and overlayfs copies a file before it lets anybody change it, so nobody notices but by the number of
//! links. Three rules:
//!
//! * No two paths of one tree share a file, or programs would take them for hard links. So each layer has a list of the objects in it
//!   (`snapshots-v1/<id>.objects`), a layer over it uses others, and there can be several objects of one form, numbered. A layer without
//!   parents uses none: it may come to lie over any.
//! * An object counts in the boot in which it was made: after a power failure its bytes may be lost while its name is there.
//! * An object that has no other name is in no layer any more, and goes with the next prune.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use files::{FileForm, SharedFiles};
use hash::{StableHash, StableHasher};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, linkat, statat, unlinkat};
use rustix::io::Errno;

use crate::error::At;
use crate::layout::{create_dir, names_in};
use crate::usage::Amount;
use crate::{CacheError, SnapshotId, Snapshotter, Store};

/// The hash of all that a file is.
type Name = [u8; 32];

/// Of the file of that form that has so many like it in its tree before it.
fn nth(form: &Name, index: u32) -> Name {
    match index {
        0 => *form,
        _ => StableHasher::new("file-object-nth-v1").with(form).with(&u64::from(index)).finish(),
    }
}

fn name_of(form: &FileForm) -> Name {
    let mut hasher = StableHasher::new("file-object-v1").with(&form.content).with(&form.size);
    for number in [form.mode, form.uid, form.gid, form.mtime.1] {
        number.stable_hash(&mut hasher);
    }
    form.mtime.0.stable_hash(&mut hasher);
    hasher.finish()
}

/// Where an object lies, relative to those of its boot. Written by hand: it is done for every file of a layer.
fn path_of(name: &Name) -> String {
    let mut path = String::with_capacity(2 * name.len() + 3);
    // Few folders: to make one costs as much as to link twenty files.
    push_hex(&mut path, name[0] >> 2);
    path.push('/');
    name.iter().for_each(|byte| push_hex(&mut path, *byte));
    path
}

fn push_hex(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    text.push(char::from(DIGITS[usize::from(byte >> 4)]));
    text.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// The objects that a layer which is being written may use. For many threads at once.
#[derive(Debug)]
pub struct LayerObjects {
    objects: OwnedFd,
    /// Whether the file system keeps owners as they are.
    real_owners: bool,
    /// Those of the layers below.
    below: HashSet<Name>,
    here: Mutex<Here>,
}

/// The objects in a layer that is being written. Forms are known by a part of their hash, since there may be a million: two that have
/// it in common only use each other's numbers up.
#[derive(Debug, Default)]
struct Here {
    /// Of each form, the number that was not tried yet.
    next: HashMap<u64, u32>,
    /// Lower ones that were tried in vain.
    free: HashMap<u64, Vec<u32>>,
    used: Vec<Name>,
}

impl Here {
    /// A number that nothing in the layer has.
    fn take(&mut self, form: u64) -> u32 {
        if let Entry::Occupied(mut free) = self.free.entry(form) {
            let number = free.get_mut().pop();
            if free.get().is_empty() {
                free.remove();
            }
            if let Some(number) = number {
                return number;
            }
        }
        let next = self.next.entry(form).or_default();
        *next += 1;
        *next - 1
    }

    fn give_back(&mut self, form: u64, number: u32) {
        self.free.entry(form).or_default().push(number);
    }
}

impl LayerObjects {
    /// For a layer over `parents`; `None` where none may be used.
    pub(crate) fn open(store: &Store, parents: &[SnapshotId]) -> Result<Option<LayerObjects>, CacheError> {
        let options = &store.inner.options;
        if parents.is_empty() || options.separate_files || options.snapshotter == Snapshotter::Copying {
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
        let path = store.inner.layout.objects().join(&store.inner.boot);
        create_dir(&path, 0o700)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let objects = rustix::fs::open(&path, flags, Mode::empty()).at("open", &path)?;
        let real_owners = !options.recorded_owners;
        Ok(Some(LayerObjects { objects, real_owners, below, here: Mutex::default() }))
    }

    /// Whether the object is what its name says, as far as a look-up shows.
    fn is_intact(&self, stat: &Stat, form: &FileForm) -> bool {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_mode & 0o7777 == form.mode
            && stat.st_size as u64 == form.size
            && (stat.st_mtime, stat.st_mtime_nsec as u32) == form.mtime
            && (!self.real_owners || (stat.st_uid, stat.st_gid) == (form.uid, form.gid))
    }

    fn try_link(
        &self,
        path: &str,
        form: &FileForm,
        directory: BorrowedFd<'_>,
        name: &OsStr,
    ) -> rustix::io::Result<bool> {
        match statat(&self.objects, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if self.is_intact(&stat, form) => {}
            Ok(_) => {
                let _ = unlinkat(&self.objects, path, AtFlags::empty());
                return Ok(false);
            }
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(error),
        }
        match linkat(&self.objects, path, directory, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            // Pruned meanwhile; something is there and has to be replaced; not ours to link.
            Err(Errno::NOENT | Errno::EXIST | Errno::PERM | Errno::XDEV) => Ok(false),
            // No more names for this one: the copy that is made now becomes the object.
            Err(Errno::MLINK) => {
                let _ = unlinkat(&self.objects, path, AtFlags::empty());
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn try_keep(&self, path: &str, directory: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<bool> {
        let link = || linkat(directory, name, &self.objects, path, AtFlags::empty());
        let linked = match link() {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&self.objects, &path[..2], Mode::RWXU) {
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

    /// Does `make` for an object of that form that nothing in the tree has yet.
    fn once(&self, form: &FileForm, make: impl FnOnce(&str) -> rustix::io::Result<bool>) -> io::Result<bool> {
        let form = name_of(form);
        let short = form.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let (number, name) = loop {
            let number = self.here().take(short);
            let name = nth(&form, number);
            if !self.below.contains(&name) {
                break (number, name);
            }
        };
        let made = make(&path_of(&name));
        let mut here = self.here();
        if matches!(made, Ok(true)) {
            here.used.push(name);
        } else {
            here.give_back(short, number);
        }
        Ok(made?)
    }

    fn here(&self) -> MutexGuard<'_, Here> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the list of what is in the layer.
    pub(crate) fn write_list(&self, path: &Path) -> Result<(), CacheError> {
        let here = self.here();
        if here.used.is_empty() {
            return Ok(());
        }
        fs::write(path, here.used.concat()).at("write", path)
    }
}

impl SharedFiles for LayerObjects {
    fn link(&self, form: &FileForm, directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<bool> {
        self.once(form, |path| self.try_link(path, form, directory, name))
    }

    fn keep(&self, form: &FileForm, directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        self.once(form, |path| self.try_keep(path, directory, name)).map(drop)
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
