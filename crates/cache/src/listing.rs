//! What is in a layer, path by path, and the file in which that is kept beside it.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use files::Kind;
use hash::{ContentDigest, StableHasher};

/// All paths of a layer with a hash of what stands there, in the order of the bytes of the paths.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// All paths, one after the other.
    paths: Vec<u8>,
    entries: Vec<Listed>,
    /// Whether a path came that should have come before.
    disordered: bool,
}

/// Kept small: there may be millions.
#[derive(Debug, Clone)]
struct Listed {
    /// Where the path ends; it starts where the one before ends.
    end: usize,
    is_directory: bool,
    form: Option<[u8; 32]>,
    /// Bytes, for the price of writing it.
    size: u64,
    /// Index of the first name of the same file.
    group: Option<u32>,
}

impl Listing {
    /// Of nothing yet.
    pub fn new() -> Listing {
        Listing::default()
    }

    /// Of nothing yet, with room for so many paths.
    pub fn with_capacity(paths: usize) -> Listing {
        Listing { entries: Vec::with_capacity(paths), ..Listing::default() }
    }

    /// The number of paths.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds an entry: `form` as [`files::forms`] says, `size` the bytes of a file, `group` the index, in this listing, of the first of
    /// several names of a file. A path comes after all that are less by their bytes.
    pub fn push(&mut self, path: &Path, kind: Kind, form: Option<[u8; 32]>, size: u64, group: Option<usize>) {
        let is_directory = kind == Kind::Directory;
        let group = group.and_then(|first| u32::try_from(first).ok());
        let path = path.as_os_str().as_bytes();
        self.add(path, Listed { end: 0, is_directory, form, size, group });
    }

    fn add(&mut self, path: &[u8], listed: Listed) {
        self.disordered |= self.entries.len().checked_sub(1).is_some_and(|last| self.path(last) >= path);
        self.paths.extend_from_slice(path);
        self.entries.push(Listed { end: self.paths.len(), ..listed });
    }

    /// Whether it can be compared with others.
    pub fn is_ordered(&self) -> bool {
        !self.disordered
    }

    pub(crate) fn path(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.entries[before].end);
        &self.paths[start..self.entries[index].end]
    }

    pub(crate) fn host_path(&self, index: usize) -> &Path {
        Path::new(OsStr::from_bytes(self.path(index)))
    }

    pub(crate) fn is_directory(&self, index: usize) -> bool {
        self.entries[index].is_directory
    }

    pub(crate) fn form(&self, index: usize) -> Option<&[u8; 32]> {
        self.entries[index].form.as_ref()
    }

    pub(crate) fn group(&self, index: usize) -> Option<usize> {
        self.entries[index].group.map(|first| first as usize)
    }

    /// What it costs to write an entry, in bytes: a new file costs as much as so many bytes of a large one.
    pub(crate) fn cost(&self, index: usize) -> u64 {
        ENTRY_COST + self.entries[index].size
    }

    pub(crate) fn total_cost(&self) -> u64 {
        (0..self.len()).map(|index| self.cost(index)).fold(0, u64::saturating_add)
    }

    /// Writes the file for a layer that amounts to `changes`.
    pub(crate) fn write(&self, changes: &ContentDigest, out: &mut impl Write) -> io::Result<()> {
        let mut hasher = start_seal();
        let mut block = [MAGIC, changes.as_bytes(), &(self.len() as u64).to_le_bytes()].concat();
        for index in 0..self.len() {
            let path = self.path(index);
            // Longer paths cannot be made one by one either.
            block.extend_from_slice(&u32::try_from(path.len()).unwrap_or(u32::MAX).to_le_bytes());
            block.push(u8::from(self.is_directory(index)));
            match self.form(index) {
                Some(form) => {
                    block.push(1);
                    block.extend_from_slice(form);
                }
                None => block.push(0),
            }
            block.extend_from_slice(path);
            if block.len() >= BLOCK {
                hasher.raw(&block);
                out.write_all(&block)?;
                block.clear();
            }
        }
        hasher.raw(&block);
        out.write_all(&block)?;
        out.write_all(&hasher.finish())
    }

    /// Reads such a file; `None` when it is damaged, of another version or of another layer.
    pub(crate) fn decode(bytes: &[u8], changes: &ContentDigest) -> Option<Listing> {
        let (bytes, sealed) = bytes.split_last_chunk::<32>()?;
        let mut rest = bytes.strip_prefix(MAGIC)?.strip_prefix(changes.as_bytes())?;
        if seal(bytes) != *sealed {
            return None;
        }
        let count = u64::from_le_bytes(*take(&mut rest)?);
        let mut listing = Listing::new();
        for _ in 0..count {
            let length = u32::from_le_bytes(*take(&mut rest)?);
            let [is_directory] = *take(&mut rest)?;
            let form = match *take(&mut rest)? {
                [0] => None,
                [1] => Some(*take(&mut rest)?),
                _ => return None,
            };
            let path = rest.split_off(..usize::try_from(length).ok()?)?;
            listing.add(path, Listed { end: 0, is_directory: is_directory != 0, form, size: 0, group: None });
        }
        (rest.is_empty() && listing.is_ordered()).then_some(listing)
    }
}

const MAGIC: &[u8] = b"layer files v1\n";

/// Bytes that are written at a time: there may be millions of paths.
const BLOCK: usize = 128 << 10;

/// Making a file takes as long as writing so many bytes, roughly.
pub(crate) const ENTRY_COST: u64 = 64 << 10;

fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(taken)
}

fn seal(bytes: &[u8]) -> [u8; 32] {
    let mut hasher = start_seal();
    hasher.raw(bytes);
    hasher.finish()
}

fn start_seal() -> StableHasher {
    StableHasher::new("layer-files-v1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Listing {
        let mut listing = Listing::new();
        listing.push(Path::new("a"), Kind::Directory, None, 0, None);
        listing.push(Path::new("a-b"), Kind::File, Some([1; 32]), 7, None);
        listing.push(Path::new("a/x"), Kind::Symlink, Some([2; 32]), 0, None);
        listing
    }

    #[test]
    fn a_listing_is_read_back_and_damage_is_seen() {
        let changes = ContentDigest::from_bytes([9; 32]);
        let mut bytes = Vec::new();
        sample().write(&changes, &mut bytes).unwrap();
        let read = Listing::decode(&bytes, &changes).unwrap();
        let all = |listing: &Listing| -> Vec<_> {
            let entry = |i| (listing.path(i).to_vec(), listing.is_directory(i), listing.form(i).copied());
            (0..listing.len()).map(entry).collect()
        };
        assert_eq!(all(&read), all(&sample()));
        assert!(Listing::decode(&bytes, &ContentDigest::from_bytes([8; 32])).is_none());
        for place in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[place] ^= 4;
            assert!(Listing::decode(&damaged, &changes).is_none(), "byte {place}");
            assert!(Listing::decode(&bytes[..place], &changes).is_none(), "{place} bytes");
        }
    }

    #[test]
    fn a_listing_of_many_blocks_is_read_back() {
        let changes = ContentDigest::from_bytes([9; 32]);
        let mut listing = Listing::with_capacity(10_000);
        for number in 0..10_000 {
            listing.push(Path::new(&format!("f{number:05}")), Kind::File, Some([3; 32]), 1, None);
        }
        let mut bytes = Vec::new();
        listing.write(&changes, &mut bytes).unwrap();
        assert!(bytes.len() > 3 * BLOCK);
        let read = Listing::decode(&bytes, &changes).unwrap();
        assert_eq!((read.len(), read.path(9_999)), (10_000, &b"f09999"[..]));
    }

    #[test]
    fn paths_out_of_order_are_noticed() {
        let mut listing = sample();
        assert!(listing.is_ordered());
        listing.push(Path::new("a/w"), Kind::File, None, 0, None);
        assert!(!listing.is_ordered());
    }
}
