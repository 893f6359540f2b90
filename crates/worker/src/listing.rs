//! The files of a selection one by one, to say which of them changed.

use std::os::unix::ffi::OsStrExt as _;

use files::{Entry, Hashed, Kind, Selected};
use hash::{StableHash, StableHasher};
use solver::SelectedPath;

/// More paths are not told apart.
const MOST_PATHS: usize = 20_000;

/// What counts of each path; `None` when there are too many.
pub(crate) fn paths(selected: &Selected, hashed: &Hashed) -> Option<Vec<SelectedPath>> {
    if selected.matches.iter().map(files::Match::len).sum::<usize>() > MOST_PATHS {
        return None;
    }
    let mut paths = Vec::new();
    for (found, digests) in selected.matches.iter().zip(&hashed.files) {
        for (entry, digest) in found.entries().zip(digests) {
            let path = found.source_of(&entry);
            let path = match path.as_os_str().is_empty() {
                true => ".".to_owned(),
                false => path.to_string_lossy().into_owned(),
            };
            let counts = selected.modes && entry.metadata.kind != Kind::Symlink;
            let mode = counts.then_some(entry.metadata.mode);
            paths.push(SelectedPath { path, mode, digest: digest_of(selected, &entry, digest.as_ref()) });
        }
    }
    Some(paths)
}

/// Of all that counts of an entry but its mode.
fn digest_of(selected: &Selected, entry: &Entry<'_>, content: Option<&[u8; 32]>) -> [u8; 16] {
    let metadata = entry.metadata;
    let mut hasher = StableHasher::new("listed-path-v1").with(&(metadata.kind as u32));
    if selected.owners {
        (metadata.uid, metadata.gid).stable_hash(&mut hasher);
    }
    match metadata.kind {
        Kind::File => metadata.size.stable_hash(&mut hasher),
        Kind::Symlink => {
            hasher.bytes(entry.link_target.map_or(b"", |target| target.as_os_str().as_bytes()));
        }
        Kind::CharDevice | Kind::BlockDevice => metadata.device.stable_hash(&mut hasher),
        Kind::Directory | Kind::Fifo | Kind::Socket => {}
    }
    entry.hard_link.map(|first| first as u64).stable_hash(&mut hasher);
    hasher.bytes(content.map_or(&[], |content| &content[..]));
    let mut digest = [0; 16];
    digest.copy_from_slice(&hasher.finish()[..16]);
    digest
}
