//! What layers held when they were written, to be compared with what is read of them later: by [`Store::check`](crate::Store::check), and
//! when they are packed.
//!
//! | written by | its sum |
//! |---|---|
//! | a process, WORKDIR, inline files | [`Changes`](crate::Changes), which were read for the key: all but times |
//! | a copy, an image's archive | [`Holding`]: paths and kinds, modes and owners of files, what files hold |
//!
//! A copy knows hashes of what its files hold from its own key, and reads nothing for it.

use std::collections::HashMap;

use hash::StableHasher;
use image::layer::{Entry, EntryKind};
use rayon::prelude::*;
use rusqlite::{Connection, OptionalExtension};

use crate::changes::{self, hash_content};
use crate::database::bytes32;
use crate::{CacheError, Entries, Snapshot, SnapshotId, Store};

/// What a layer held when it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    form: Form,
    digest: [u8; 32],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Changes,
    Holding,
}

/// A hash for each entry that has one, in their order.
type Hashes = Vec<Option<[u8; 32]>>;

impl Sum {
    /// Begins the hash of an entry, `None` where it has none: the bytes of a file follow ([`StableHasher::raw`]).
    pub fn hasher(&self, entry: &Entry) -> Option<StableHasher> {
        self.form.hasher(entry)
    }

    /// Whether a layer with these entries, and such a hash of each, is what was written.
    pub fn is_of(&self, entries: &Entries, hashes: &[Option<[u8; 32]>]) -> bool {
        self.form.digest(entries.entries(), hashes) == Some(self.digest)
    }

    /// The same of what is read for it, in parallel.
    pub(crate) fn matches(&self, entries: &Entries) -> Result<bool, CacheError> {
        let hash = |entry: &Entry| hash_entry(entries, entry, self.form);
        let hashes = entries.entries().par_iter().map(hash).collect::<Result<Hashes, _>>()?;
        Ok(self.is_of(entries, &hashes))
    }

    /// Of a layer, where it is known.
    pub(crate) fn find(db: &Connection, id: SnapshotId) -> rusqlite::Result<Option<Sum>> {
        let of = |form, table: &str| {
            db.prepare_cached(&format!("SELECT digest FROM {table} WHERE snapshot = ?1"))?
                .query_row([id.0], |row| Ok(Sum { form, digest: bytes32(row, 0)? }))
                .optional()
        };
        // Of a copy's layer a check by an older program may have noted what it found.
        Ok(of(Form::Holding, "holdings")?.or(of(Form::Changes, "sums")?))
    }
}

impl Form {
    fn hasher(self, entry: &Entry) -> Option<StableHasher> {
        match (self, &entry.kind) {
            (Form::Changes, _) => Some(changes::hasher(entry)),
            (Form::Holding, EntryKind::File { size }) => {
                let xattrs = entry.xattrs.iter().map(|(name, value)| (&name[..], &value[..]));
                Some(files::content_hasher(xattrs, *size))
            }
            (Form::Holding, _) => None,
        }
    }

    fn digest(self, entries: &[Entry], hashes: &[Option<[u8; 32]>]) -> Option<[u8; 32]> {
        match self {
            Form::Changes => {
                let hashes: Option<Vec<[u8; 32]>> = hashes.iter().copied().collect();
                Some(*changes::digest(&hashes?).as_bytes())
            }
            Form::Holding => holding(entries, hashes),
        }
    }
}

fn hash_entry(entries: &Entries, entry: &Entry, form: Form) -> Result<Option<[u8; 32]>, CacheError> {
    let Some(mut hasher) = form.hasher(entry) else { return Ok(None) };
    if let EntryKind::File { size } = entry.kind {
        hash_content(entries, entry, size, &mut hasher)?;
    }
    Ok(Some(hasher.finish()))
}

/// Hashes what a layer holds, path by path, in the order of their bytes. No times, which file systems keep as exactly as they can, and
/// nothing of directories but that they are there.
#[derive(Debug)]
pub struct Holding {
    fields: Vec<u8>,
    hasher: StableHasher,
}

/// What stands at a path.
#[derive(Debug, Clone, Copy)]
pub enum Held<'a> {
    /// A directory.
    Directory,
    /// A file, also as a further name of one.
    File {
        /// As in [`Entry`].
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// As [`files::content_hasher`] has it.
        content: &'a [u8; 32],
    },
    /// A link, and where it leads.
    Symlink(&'a [u8]),
    /// A device.
    Device(u32, u32),
    /// Something that is nothing else.
    Other,
}

/// So many bytes are hashed at once.
const GATHERED: usize = 1 << 20;

impl Holding {
    /// Of nothing yet.
    pub fn new() -> Holding {
        Holding { fields: Vec::new(), hasher: StableHasher::new("layer-holding-v1") }
    }

    /// Adds a path. The root is none.
    pub fn push(&mut self, path: &[u8], held: Held<'_>) {
        self.bytes(path);
        match held {
            Held::Directory => self.fields.push(0),
            Held::File { mode, uid, gid, content } => {
                self.fields.push(1);
                [mode, uid, gid].iter().for_each(|number| self.number(*number));
                self.fields.extend_from_slice(content);
            }
            Held::Symlink(target) => {
                self.fields.push(2);
                self.bytes(target);
            }
            Held::Device(major, minor) => {
                self.fields.push(3);
                self.number(major);
                self.number(minor);
            }
            Held::Other => self.fields.push(4),
        }
        if self.fields.len() > GATHERED {
            self.hasher.raw(&self.fields);
            self.fields.clear();
        }
    }

    fn number(&mut self, number: u32) {
        self.fields.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.fields.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.fields.extend_from_slice(bytes);
    }

    /// The hash of all of it.
    pub fn finish(mut self) -> [u8; 32] {
        self.hasher.raw(&self.fields);
        self.hasher.finish()
    }
}

impl Default for Holding {
    fn default() -> Holding {
        Holding::new()
    }
}

/// `None` where a hash is missing.
fn holding(entries: &[Entry], hashes: &[Option<[u8; 32]>]) -> Option<[u8; 32]> {
    // A further name of a file, or of a link, is what the first is.
    let mut firsts: HashMap<&[u8], Option<usize>> = HashMap::new();
    for entry in entries {
        if let EntryKind::Hardlink { target } = &entry.kind {
            firsts.insert(target, None);
        }
    }
    let mut order: Vec<usize> = (0..entries.len()).collect();
    if !firsts.is_empty() {
        for &index in &order {
            let entry = &entries[index];
            if let Some(first) = firsts.get_mut(&entry.path[..]) {
                first.get_or_insert(index);
            }
        }
    }
    order.sort_by(|a, b| entries[*a].path.cmp(&entries[*b].path));
    let mut holding = Holding::new();
    for index in order.into_iter().filter(|index| !entries[*index].path.is_empty()) {
        let path = &entries[index].path;
        let index = match &entries[index].kind {
            EntryKind::Hardlink { target } => (*firsts.get(&target[..])?)?,
            _ => index,
        };
        let (entry, hash) = (&entries[index], hashes.get(index)?);
        holding.push(
            path,
            match &entry.kind {
                EntryKind::File { .. } => {
                    Held::File { mode: entry.mode, uid: entry.uid, gid: entry.gid, content: hash.as_ref()? }
                }
                EntryKind::Directory => Held::Directory,
                EntryKind::Symlink { target } => Held::Symlink(target),
                EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
                    Held::Device(*major, *minor)
                }
                EntryKind::Fifo | EntryKind::Whiteout | EntryKind::Opaque => Held::Other,
                EntryKind::Hardlink { .. } => return None,
            },
        );
    }
    Some(holding.finish())
}

/// What these entries hold, when hashes of some of the files are `known`; the others are read.
pub(crate) fn holding_of(
    entries: &Entries,
    known: &HashMap<Vec<u8>, [u8; 32]>,
) -> Result<Option<[u8; 32]>, CacheError> {
    let hash = |entry: &Entry| match known.get(&entry.path) {
        Some(hash) if matches!(entry.kind, EntryKind::File { .. }) => Ok(Some(*hash)),
        _ => hash_entry(entries, entry, Form::Holding),
    };
    let hashes = entries.entries().par_iter().map(hash).collect::<Result<Hashes, _>>()?;
    Ok(holding(entries.entries(), &hashes))
}

impl Store {
    /// What a layer is to be compared with while it is read; `None` where that is not known, and for one that this process has written.
    ///
    /// # Errors
    /// [`CacheError::NoSnapshot`] when it is gone, as one is that was found damaged.
    pub fn sum_of(&self, layer: &Snapshot) -> Result<Option<Sum>, CacheError> {
        let id = layer.id();
        if self.inner.has_written(id) {
            return Ok(None);
        }
        let sum = self.inner.database.read("look up a layer's sum", |db| {
            let is_there = db.prepare_cached("SELECT 1 FROM snapshots WHERE id = ?1")?.exists([id.0])?;
            is_there.then(|| Sum::find(db, id)).transpose()
        })?;
        sum.ok_or(CacheError::NoSnapshot(id))
    }
}
