//! What entries are to the last attribute, as a copy writes them.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;

use hash::StableHasher;
use rayon::prelude::*;

use crate::copy::attributes;
use crate::digest::Fields;
use crate::select::Digests;
use crate::{CopyOptions, Entry, Kind, Match};

/// Entries that one thread takes at once.
const BATCH: usize = 512;
/// Entries whose hashes there are at once: there may be millions.
const AT_ONCE: usize = 8192;

/// For each entry of a match a hash of all that it is once it was copied: kind, mode, owner, time, size, link target, device, the names
/// of the same file, extended attributes and bytes. Equal hashes at the same path mean the same entry.
///
/// `None` for what was not hashed, and for the top directory of a copy that leaves its attributes to others.
pub fn forms<'a>(found: &'a Match, options: &'a CopyOptions) -> impl Iterator<Item = Option<[u8; 32]>> + 'a {
    let digests = found.digests();
    let mut names: HashMap<usize, u64> = HashMap::new();
    for first in found.entries().filter_map(|entry| entry.hard_link) {
        *names.entry(first).or_default() += 1;
    }
    let forms = Forms { found, options, digests, names };
    (0..found.len()).step_by(AT_ONCE).flat_map(move |first| {
        let indices = first..found.len().min(first + AT_ONCE);
        let hashes: Vec<_> =
            indices.into_par_iter().with_min_len(BATCH).map(|index| forms.of(index)).collect();
        hashes
    })
}

struct Forms<'a> {
    found: &'a Match,
    options: &'a CopyOptions,
    digests: Option<Digests>,
    /// By the index of the first: how many names a file has.
    names: HashMap<usize, u64>,
}

impl Forms<'_> {
    fn of(&self, index: usize) -> Option<[u8; 32]> {
        let entry = self.found.entry(index);
        if self.options.keep_top && entry.path.as_os_str().is_empty() && is_directory(&entry) {
            return None;
        }
        let digest = self.digests.as_ref()?.get(index).copied().flatten();
        if digest.is_none() && matches!(entry.metadata.kind, Kind::File | Kind::Directory) {
            return None;
        }
        let attributes = attributes(&entry, self.options);
        let (seconds, nanos) = attributes.mtime?;
        let mut fields = Fields::default();
        fields.kind(entry.metadata.kind);
        for number in [attributes.mode, attributes.uid, attributes.gid, nanos] {
            fields.number(u64::from(number));
        }
        fields.number(seconds as u64);
        fields.number(if entry.metadata.kind == Kind::File { entry.metadata.size } else { 0 });
        fields.number(u64::from(entry.metadata.device.0));
        fields.number(u64::from(entry.metadata.device.1));
        fields.bytes(entry.link_target.map_or(b"", |target| target.as_os_str().as_bytes()));
        match entry.hard_link {
            None => fields.number(0),
            Some(first) => {
                fields.number(self.names.get(&first).copied().unwrap_or_default());
                fields.bytes(self.found.entry(first).path.as_os_str().as_bytes());
            }
        }
        fields.bytes(digest.as_ref().map_or(&[], |digest| &digest[..]));
        let mut hasher = StableHasher::new("entry-form-v1");
        hasher.raw(fields.as_bytes());
        Some(hasher.finish())
    }
}

fn is_directory(entry: &Entry<'_>) -> bool {
    entry.metadata.kind == Kind::Directory
}
