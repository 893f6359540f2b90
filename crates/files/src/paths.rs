use std::collections::HashMap;
use std::path::PathBuf;

use hash::StableHasher;

use crate::copy::depth;
use crate::digest::{Fields, entry_fields};
use crate::{Kind, Match, Selected};

/// One path of a selection that was hashed, or a directory with all below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashedPath {
    /// Relative to the root of the tree.
    pub path: PathBuf,
    /// Whether it stands for all below it, too, modes included.
    pub whole: bool,
    /// Permissions, `0o7777`, where they count.
    pub mode: Option<u32>,
    /// Of all else that counts.
    pub digest: [u8; 16],
}

/// What was hashed, path by path, to say later which of them changed. Of more than `most` paths, those far down are taken together by
/// the directory that they are in, as high up as it takes. `None` when that leaves nothing to be told apart, or nothing was hashed.
pub fn hashed_paths(selected: &Selected, most: usize) -> Option<Vec<HashedPath>> {
    let lowest = lowest(selected, most)?;
    let mut paths = Vec::new();
    for found in &selected.matches {
        let digests = found.digests()?;
        // Directories that stand for what is in them: where they are in the list, and what is in them so far.
        let mut whole: HashMap<&[u8], (usize, StableHasher)> = HashMap::new();
        for (entry, digest) in found.entries().zip(digests.iter()) {
            let below = depth(entry.path);
            let is_whole = below == lowest && entry.metadata.kind == Kind::Directory;
            let mut fields = Fields::default();
            if below > lowest || is_whole {
                entry_fields(&mut fields, selected.modes, selected.owners, &entry, digest.as_ref());
                let top = ancestor(entry.path.as_os_str().as_encoded_bytes(), lowest);
                let (_, hasher) =
                    whole.entry(top).or_insert_with(|| (paths.len(), StableHasher::new("paths-below-v1")));
                hasher.bytes(fields.as_bytes());
                if !is_whole {
                    continue;
                }
            } else {
                entry_fields(&mut fields, false, selected.owners, &entry, digest.as_ref());
            }
            let counts = selected.modes && !is_whole && entry.metadata.kind != Kind::Symlink;
            let mut hasher = StableHasher::new("path-v1");
            hasher.bytes(fields.as_bytes());
            paths.push(HashedPath {
                path: found.source_of(&entry),
                whole: is_whole,
                mode: counts.then_some(entry.metadata.mode),
                digest: half(hasher),
            });
        }
        for (index, hasher) in whole.into_values() {
            if let Some(path) = paths.get_mut(index) {
                path.digest = half(hasher);
            }
        }
    }
    Some(paths)
}

/// How far down paths are told apart.
fn lowest(selected: &Selected, most: usize) -> Option<usize> {
    let mut counts: Vec<usize> = Vec::new();
    for entry in selected.matches.iter().flat_map(Match::entries) {
        let depth = depth(entry.path);
        counts.resize(counts.len().max(depth + 1), 0);
        counts[depth] += 1;
    }
    let mut sum = 0;
    let fitting = counts.iter().take_while(|count| {
        sum += **count;
        sum <= most
    });
    match fitting.count() {
        all if all == counts.len() => Some(usize::MAX),
        0 | 1 => None,
        some => Some(some - 1),
    }
}

/// The first so many components of a path that has at least that many.
fn ancestor(path: &[u8], components: usize) -> &[u8] {
    let mut slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    slashes.nth(components.saturating_sub(1)).map_or(path, |(end, _)| &path[..end])
}

/// Half a hash tells paths apart.
fn half(hasher: StableHasher) -> [u8; 16] {
    let mut digest = [0; 16];
    digest.copy_from_slice(&hasher.finish()[..16]);
    digest
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::{DirectoryTree, NoCache, PathSelection, Selection, digest, select};

    fn paths(root: &Path, most: usize) -> Option<Vec<HashedPath>> {
        let tree = DirectoryTree::context(root).unwrap();
        let selection = Selection::Path(PathSelection::exact(""));
        let selected = select(&tree, &selection, &|| false).unwrap();
        assert_eq!(hashed_paths(&selected, most), None, "nothing is known before it is hashed");
        digest(&selected, &tree, &NoCache, &|| false).unwrap();
        hashed_paths(&selected, most)
    }

    fn changed(old: &[HashedPath], new: &[HashedPath]) -> Vec<String> {
        assert_eq!(old.len(), new.len());
        let pairs = old.iter().zip(new).filter(|(old, new)| old != new);
        pairs.map(|(_, new)| format!("{}{}", new.path.display(), if new.whole { "/" } else { "" })).collect()
    }

    #[test]
    fn changes_are_found_as_far_down_as_paths_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("a/deep/er")).unwrap();
        fs::create_dir_all(root.join("a-b")).unwrap();
        for path in ["top", "a/one", "a/deep/er/two", "a/deep/three", "a-b/four", "a.c"] {
            fs::write(root.join(path), path).unwrap();
        }
        // The root, and 4, 3, 2 and 1 in each level below.
        let look = || [100, 10, 8, 5].map(|most| paths(root, most).unwrap());
        let before = look();
        assert_eq!(before.each_ref().map(Vec::len), [11, 10, 8, 5]);
        assert!(paths(root, 4).is_none());
        fs::write(root.join("a/deep/er/two"), "new").unwrap();
        let after = look();
        let differ = |after: &[Vec<HashedPath>; 4]| -> Vec<Vec<String>> {
            before.iter().zip(after).map(|(old, new)| changed(old, new)).collect()
        };
        assert_eq!(differ(&after), [vec!["a/deep/er/two"], vec!["a/deep/er/"], vec!["a/deep/"], vec!["a/"]]);
        fs::write(root.join("a/deep/er/two"), "a/deep/er/two").unwrap();
        fs::write(root.join("a-b/four"), "new").unwrap();
        fs::write(root.join("top"), "new").unwrap();
        assert_eq!(differ(&look())[0], ["a-b/four", "top"]);
        assert_eq!(differ(&look())[3], ["a-b/", "top"]);
    }

    #[test]
    fn a_mode_is_told_from_the_rest() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "x").unwrap();
        let set = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        set(0o644);
        let before = paths(dir.path(), 10).unwrap();
        set(0o755);
        let after = paths(dir.path(), 10).unwrap();
        assert_eq!((before[1].mode, after[1].mode), (Some(0o644), Some(0o755)));
        assert_eq!(before[1].digest, after[1].digest);
    }
}
