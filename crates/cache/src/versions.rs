//! A version of a layer as what is different from an earlier one, so that a COPY costs what changed.
//!
//! A full layer that a copy wrote has a list of all that is in it beside it ([`Listing`]). When the same copy is done again, what has not
//! changed is not written: the new layer's directory holds the rest, with overlay's marks for what is gone, and lies over the directory
//! of the full one. Everybody who looks at the layer looks at both, so it is, to the last attribute, what it would be in full.
//!
//! * The earlier one is full itself, so there are two directories at most. It stays as long as a version stands on it, and when it is
//!   lost, they are lost too (a trigger of the database).
//! * Overlay's mark for something removed hides what is in lower layers, too. Where one of those has something at that path, a layer can
//!   only be written in full; so can one that may come to lie over anything.
//! * Nothing of the earlier layer is touched: no links, so that programs see the number of links that the image has.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use files::FileTree;
use hash::ContentDigest;
use rusqlite::{Transaction, params};

use crate::database::{bytes32, to_sql};
use crate::listing::{ENTRY_COST, Listing};
use crate::{ActiveSnapshot, CacheError, SnapshotId, TreeView, seals};

/// Layers that cost less than this to write are not worth a second directory.
const WORTH: u64 = 16 * ENTRY_COST;

/// A version that differs in more than this part of its cost is written in full, and the next ones are compared with that.
const MOST_DIFFERENT: u64 = 4;

/// So many earlier versions are looked at.
const CANDIDATES: i64 = 3;

/// By what the earlier versions of a layer are found. Whatever is found, the result is right; it only may not save much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionName {
    /// What the copy is, beside the content of its source.
    pub identity: [u8; 32],
    /// Where the source is: versions of the same place come first.
    pub place: [u8; 32],
}

/// What must be written of a layer that is a version of an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub(crate) base: SnapshotId,
    /// By the index in the listing: what is as it was, and is not to be written.
    pub kept: Vec<bool>,
    /// What is not there any more: to be marked so ([`files::TreeWriter::whiteout`]).
    pub removed: Vec<PathBuf>,
}

/// How an active layer was written.
#[derive(Debug)]
pub(crate) enum Version {
    /// In full, so that later versions can be compared with it.
    Full { name: VersionName, listing: Listing },
    /// Over an earlier one; it has so many bytes of its own.
    Over { base: SnapshotId, own: u64 },
}

impl Version {
    pub(crate) fn base(&self) -> Option<SnapshotId> {
        match self {
            Version::Full { .. } => None,
            Version::Over { base, .. } => Some(*base),
        }
    }

    /// Bytes of its own; `None` is all.
    pub(crate) fn own(&self) -> Option<u64> {
        match self {
            Version::Full { .. } => None,
            Version::Over { own, .. } => Some(*own),
        }
    }

    /// Adds the row.
    pub(crate) fn insert(&self, db: &Transaction<'_>, id: SnapshotId) -> rusqlite::Result<()> {
        let seal = seals::of_version(id.0, self.base().map(|base| base.0));
        match self {
            Version::Full { name, .. } => db
                .prepare_cached(
                    "INSERT INTO versions (snapshot, identity, place, seal) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![id.0, name.identity, name.place, seal]),
            Version::Over { base, own } => db
                .prepare_cached("INSERT INTO versions (snapshot, base, own, seal) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![id.0, base.0, to_sql(*own), seal]),
        }
        .map(drop)
    }
}

impl ActiveSnapshot {
    /// What must be written of a layer that has all of `listing`, when there is an earlier version that is much like it. `None`: it is
    /// to be written in full. Nothing but [`ActiveSnapshot::dir`]'s own root and directories of which `listing` knows no form may have
    /// been written so far.
    pub fn difference(
        &self,
        name: &VersionName,
        listing: &Listing,
    ) -> Result<Option<Difference>, CacheError> {
        let inner = &self.store().inner;
        if inner.options.separate_versions || !listing.is_ordered() || listing.total_cost() < WORTH {
            return Ok(None);
        }
        let candidates: Vec<(SnapshotId, ContentDigest)> =
            inner.database.read("look for versions", |db| {
                db.prepare_cached(
                    "SELECT id, changes FROM versions JOIN snapshots ON id = snapshot
                     WHERE identity = ?1 AND base IS NULL AND root = 0
                     ORDER BY place = ?2 DESC, id DESC LIMIT ?3",
                )?
                .query_map(params![name.identity, name.place, CANDIDATES], |row| {
                    Ok((SnapshotId(row.get(0)?), ContentDigest::from_bytes(bytes32(row, 1)?)))
                })?
                .collect()
            })?;
        for (base, changes) in candidates {
            // Leased from here on, so that it stays until this layer stands on it.
            if !inner.is_base_there(base)? {
                continue;
            }
            let listed = fs::read(inner.layout.layer_files(base)).ok();
            let Some(old) = listed.and_then(|bytes| Listing::decode(&bytes, &changes)) else { continue };
            let below = self.has_parents().then(|| self.below());
            if let Some(difference) = compare(base, listing, &old, below)? {
                return Ok(Some(difference));
            }
        }
        Ok(None)
    }

    /// It was written as [`ActiveSnapshot::difference`] said, with so many bytes of files.
    pub fn set_difference(&mut self, difference: &Difference, own: u64) {
        self.version = Some(Version::Over { base: difference.base, own });
    }

    /// It was written in full and has all of `listing`.
    pub fn set_listing(&mut self, name: VersionName, listing: Listing) {
        let separate = self.store().inner.options.separate_versions;
        if !separate && listing.is_ordered() && listing.total_cost() >= WORTH {
            self.version = Some(Version::Full { name, listing });
        }
    }
}

/// What is different in `new` from `old`, which `base` has; `None` when it is too much, or cannot be said. `below` is what lies under
/// the layer, `None` when that may be anything.
fn compare(
    base: SnapshotId,
    new: &Listing,
    old: &Listing,
    below: Option<&TreeView>,
) -> Result<Option<Difference>, CacheError> {
    // Whether nothing of the layers below shows at a path, whatever this layer says.
    let is_free = |path: &Path| -> Result<bool, CacheError> {
        match below {
            Some(below) => Ok(below.metadata(path)?.is_none()),
            None => Ok(false),
        }
    };
    let mut kept = vec![false; new.len()];
    let mut removed: Vec<&[u8]> = Vec::new();
    // Directories of the old version of which nothing shows any more: removed, or something else now.
    let mut gone: HashSet<&[u8]> = HashSet::new();
    let (mut at, mut old_at) = (0, 0);
    while old_at < old.len() {
        let old_path = old.path(old_at);
        let order = if at < new.len() { new.path(at).cmp(old_path) } else { std::cmp::Ordering::Greater };
        if order.is_lt() {
            at += 1;
            continue;
        }
        if order.is_eq() {
            match (new.is_directory(at), old.is_directory(old_at)) {
                // The file of before ends what is merged into a directory: nothing of a directory below would show.
                (true, false) if !is_free(new.host_path(at))? => return Ok(None),
                (true, false) => {}
                (false, true) => drop(gone.insert(old_path)),
                _ => kept[at] = new.form(at).is_some() && new.form(at) == old.form(old_at),
            }
            at += 1;
        } else {
            if parent(old_path).is_none_or(|parent| !gone.contains(parent)) {
                if !is_free(old.host_path(old_at))? {
                    return Ok(None);
                }
                removed.push(old_path);
            }
            if old.is_directory(old_at) {
                gone.insert(old_path);
            }
        }
        old_at += 1;
    }
    keep_whole_groups(new, &mut kept);
    if !write_parents(new, &mut kept, &removed) {
        return Ok(None);
    }
    let written = (0..new.len()).filter(|index| !kept[*index]).map(|index| new.cost(index));
    let written = written.fold(removed.len() as u64 * ENTRY_COST, u64::saturating_add);
    if written.saturating_mul(MOST_DIFFERENT) > new.total_cost() {
        return Ok(None);
    }
    let removed = removed.into_iter().map(|path| PathBuf::from(OsStr::from_bytes(path))).collect();
    Ok(Some(Difference { base, kept, removed }))
}

/// Names of one file stay together: a name in another directory would be another file.
fn keep_whole_groups(new: &Listing, kept: &mut [bool]) {
    let broken: HashSet<usize> =
        (0..new.len()).filter(|index| !kept[*index]).filter_map(|index| new.group(index)).collect();
    for (index, kept) in kept.iter_mut().enumerate() {
        *kept &= new.group(index).is_none_or(|first| !broken.contains(&first));
    }
}

/// A directory in which something is written or removed has to be written, too, or it would not have its attributes. Says whether all are
/// listed.
fn write_parents(new: &Listing, kept: &mut [bool], removed: &[&[u8]]) -> bool {
    let directories: HashMap<&[u8], usize> = (0..new.len())
        .filter(|index| new.is_directory(*index))
        .map(|index| (new.path(index), index))
        .collect();
    let mut all_listed = true;
    let mut write = |path: &[u8], kept: &mut [bool]| {
        if let Some(parent) = parent(path) {
            match directories.get(parent) {
                Some(parent) => kept[*parent] = false,
                None => all_listed = false,
            }
        }
    };
    removed.iter().for_each(|path| write(path, kept));
    // What is in a directory comes after it.
    for index in (0..new.len()).rev() {
        if !kept[index] {
            write(new.path(index), kept);
        }
    }
    all_listed
}

/// The directory of a path; `None` is the root.
fn parent(path: &[u8]) -> Option<&[u8]> {
    path.iter().rposition(|&byte| byte == b'/').map(|slash| &path[..slash])
}

#[cfg(test)]
mod tests {
    use files::Kind;

    use super::*;

    /// A listing of `path form`, directories with a `/` at the end.
    fn listing(entries: &[(&str, u8)]) -> Listing {
        let mut listing = Listing::new();
        for (path, form) in entries {
            let kind = if path.ends_with('/') { Kind::Directory } else { Kind::File };
            listing.push(Path::new(path.trim_end_matches('/')), kind, Some([*form; 32]), 0, None);
        }
        for n in 0..40 {
            listing.push(Path::new(&format!("z{n:02}")), Kind::File, Some([0; 32]), 0, None);
        }
        assert!(listing.is_ordered());
        listing
    }

    const ID: SnapshotId = SnapshotId(1);

    fn written<'a>(new: &'a Listing, kept: &[bool]) -> Vec<&'a Path> {
        (0..new.len()).filter(|index| !kept[*index]).map(|index| new.host_path(index)).collect()
    }

    #[test]
    fn without_knowing_what_is_below_nothing_can_be_removed() {
        let old = listing(&[("a/", 1), ("a/b", 1), ("c", 1)]);
        let changed = listing(&[("a/", 1), ("a/b", 2), ("c", 1), ("d", 1)]);
        let Difference { kept, removed, .. } = compare(ID, &changed, &old, None).unwrap().unwrap();
        assert_eq!(written(&changed, &kept), [Path::new("a"), Path::new("a/b"), Path::new("d")]);
        assert!(removed.is_empty());
        let removed = listing(&[("a/", 1), ("a/b", 1)]);
        assert_eq!(compare(ID, &removed, &old, None).unwrap(), None);
        let replaced = listing(&[("a/", 1), ("a/b", 1), ("c/", 1)]);
        assert_eq!(compare(ID, &replaced, &old, None).unwrap(), None);
        let hidden = listing(&[("a", 1), ("c", 1)]);
        assert!(compare(ID, &hidden, &old, None).unwrap().is_some(), "a file hides all that was below");
    }
}
