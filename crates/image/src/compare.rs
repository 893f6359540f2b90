//! What two layers differ in: entries by path, attribute by attribute, and content by ranges of bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::ops::Range;

use hash::{Digest, DigestReader};

use crate::layer::{Entry, EntryKind, LayerError, LayerReader};

/// More ranges of one file are counted, not listed.
const MOST_RANGES: usize = 16;
/// Of more files of one layer than these, contents are told apart by size and digest alone.
const MOST_CONTENTS: usize = 1000;
const BUFFER: usize = 64 << 10;

/// Opens the tar of a layer, uncompressed, from its beginning. It may be asked for several times.
pub type OpenTar<'a> = &'a dyn Fn() -> io::Result<Box<dyn Read + Send>>;

/// What two layers differ in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LayerDiff {
    /// Entries that differ, by path.
    pub entries: Vec<EntryDiff>,
    /// Where the tars begin to differ, in bytes, when no entry does: their order, or how they are written down.
    pub tar_from: Option<u64>,
}

impl LayerDiff {
    /// Whether they are the same.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.tar_from.is_none()
    }

    /// The same without differences of times. Tars that differ in nothing else are equal then.
    pub fn without_times(mut self) -> LayerDiff {
        for entry in &mut self.entries {
            entry.changes.retain(|change| !matches!(change, EntryChange::Time { .. }));
        }
        self.entries.retain(|entry| !entry.changes.is_empty());
        self
    }
}

/// What is different at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryDiff {
    /// As [`Entry::path`].
    pub path: Vec<u8>,
    /// At least one.
    pub changes: Vec<EntryChange>,
}

/// A difference: `left` is the first layer's, `right` the second's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the two sides of what the variant names")]
pub enum EntryChange {
    /// Only the first layer has it.
    OnlyLeft,
    /// Only the second layer has it.
    OnlyRight,
    /// File, directory, link: what it is; device numbers count as part of that.
    Kind { left: &'static str, right: &'static str },
    /// Where a link leads to.
    Target { left: Vec<u8>, right: Vec<u8> },
    /// Device numbers.
    Device { left: (u32, u32), right: (u32, u32) },
    /// `0o7777`.
    Mode { left: u32, right: u32 },
    /// User and group.
    Owner { left: (u32, u32), right: (u32, u32) },
    /// Seconds since 1970 and nanoseconds.
    Time { left: (i64, u32), right: (i64, u32) },
    /// An extended attribute; `None` where it is not.
    Xattr { name: Vec<u8>, left: Option<Vec<u8>>, right: Option<Vec<u8>> },
    /// Bytes of a file. What the longer one has behind the end of the other is the last range.
    Content {
        /// Bytes of the first layer's file.
        left: u64,
        /// Bytes of the second layer's file.
        right: u64,
        /// Where they differ, in order; at most 16, and none when too many files of the layer differ.
        ranges: Vec<Range<u64>>,
        /// How many bytes differ, also in ranges that are not listed; `None` when they were not compared.
        bytes: Option<u64>,
        /// The byte of either file where the first range begins; `None` where a file has ended, or was not compared.
        first: (Option<u8>, Option<u8>),
    },
}

/// A path, and whether it is the mark of an opaque directory, which is beside the directory's own entry.
type Key = (Vec<u8>, bool);

/// An entry, its place in the tar, and the digest of its content.
struct Seen {
    entry: Entry,
    place: usize,
    content: Option<Digest>,
}

/// Compares two layers. Of several entries for one path the last counts, as for who unpacks them. Memory is bounded by
/// the number of entries, not by what files hold.
///
/// # Errors
/// When one of them cannot be read.
pub fn compare_layers(left: OpenTar<'_>, right: OpenTar<'_>) -> Result<LayerDiff, LayerError> {
    let (ours, theirs) = (entries(left)?, entries(right)?);
    let keys: BTreeSet<&Key> = ours.keys().chain(theirs.keys()).collect();
    let mut diff = LayerDiff::default();
    let mut contents = Contents { left: Seeker::new(left), right: Seeker::new(right), compared: 0 };
    for key in keys {
        let changes = match (ours.get(key), theirs.get(key)) {
            (Some(_), None) => vec![EntryChange::OnlyLeft],
            (None, Some(_)) => vec![EntryChange::OnlyRight],
            (Some(left), Some(right)) => {
                let mut changes = contents.changed(left, right)?;
                changes.extend(attributes(&left.entry, &right.entry));
                changes
            }
            (None, None) => Vec::new(),
        };
        if !changes.is_empty() {
            diff.entries.push(EntryDiff { path: key.0.clone(), changes });
        }
    }
    if diff.entries.is_empty() {
        diff.tar_from = first_difference(left, right).map_err(failed)?;
    }
    Ok(diff)
}

fn failed(source: io::Error) -> LayerError {
    LayerError::Io { action: "read layer", source }
}

fn entries(open: OpenTar<'_>) -> Result<BTreeMap<Key, Seen>, LayerError> {
    let mut reader = LayerReader::new(open().map_err(failed)?);
    let mut found = BTreeMap::new();
    let mut place = 0;
    while let Some(entry) = reader.next_entry()? {
        let content = match entry.kind {
            EntryKind::File { .. } => {
                let mut content = DigestReader::new(&mut reader);
                io::copy(&mut content, &mut io::sink()).map_err(failed)?;
                Some(content.finish().1)
            }
            _ => None,
        };
        let key = (entry.path.clone(), entry.kind == EntryKind::Opaque);
        found.insert(key, Seen { entry, place, content });
        place += 1;
    }
    Ok(found)
}

fn name_of(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::File { .. } => "file",
        EntryKind::Directory => "directory",
        EntryKind::Symlink { .. } => "symbolic link",
        EntryKind::Hardlink { .. } => "hard link",
        EntryKind::CharDevice { .. } => "character device",
        EntryKind::BlockDevice { .. } => "block device",
        EntryKind::Fifo => "pipe",
        EntryKind::Whiteout => "removal",
        EntryKind::Opaque => "removal of all below",
    }
}

fn attributes(left: &Entry, right: &Entry) -> Vec<EntryChange> {
    use EntryKind::{BlockDevice, CharDevice, Hardlink, Symlink};
    let mut changes = Vec::new();
    let (kind, other) = (name_of(&left.kind), name_of(&right.kind));
    if kind != other {
        changes.push(EntryChange::Kind { left: kind, right: other });
    }
    match (&left.kind, &right.kind) {
        (Symlink { target: left }, Symlink { target: right })
        | (Hardlink { target: left }, Hardlink { target: right })
            if left != right =>
        {
            changes.push(EntryChange::Target { left: left.clone(), right: right.clone() });
        }
        (CharDevice { major, minor }, CharDevice { major: other_major, minor: other_minor })
        | (BlockDevice { major, minor }, BlockDevice { major: other_major, minor: other_minor })
            if (major, minor) != (other_major, other_minor) =>
        {
            let (left, right) = ((*major, *minor), (*other_major, *other_minor));
            changes.push(EntryChange::Device { left, right });
        }
        _ => {}
    }
    if left.mode != right.mode {
        changes.push(EntryChange::Mode { left: left.mode, right: right.mode });
    }
    if (left.uid, left.gid) != (right.uid, right.gid) {
        changes.push(EntryChange::Owner { left: (left.uid, left.gid), right: (right.uid, right.gid) });
    }
    let names: BTreeSet<&Vec<u8>> = left.xattrs.keys().chain(right.xattrs.keys()).collect();
    for name in names {
        let (left, right) = (left.xattrs.get(name), right.xattrs.get(name));
        if left != right {
            changes.push(EntryChange::Xattr {
                name: name.clone(),
                left: left.cloned(),
                right: right.cloned(),
            });
        }
    }
    let (time, other) = ((left.mtime, left.mtime_nanos), (right.mtime, right.mtime_nanos));
    if time != other {
        changes.push(EntryChange::Time { left: time, right: other });
    }
    changes
}

/// Contents of files that differ, looked up a second time.
struct Contents<'a> {
    left: Seeker<'a>,
    right: Seeker<'a>,
    compared: usize,
}

impl Contents<'_> {
    fn changed(&mut self, left: &Seen, right: &Seen) -> Result<Vec<EntryChange>, LayerError> {
        let (EntryKind::File { size }, EntryKind::File { size: other }) =
            (&left.entry.kind, &right.entry.kind)
        else {
            return Ok(Vec::new());
        };
        if left.content == right.content {
            return Ok(Vec::new());
        }
        let (left_size, right_size) = (*size, *other);
        self.compared += 1;
        if self.compared > MOST_CONTENTS {
            let first = (None, None);
            let unread = EntryChange::Content {
                left: left_size,
                right: right_size,
                ranges: Vec::new(),
                bytes: None,
                first,
            };
            return Ok(vec![unread]);
        }
        let (left, right) = (self.left.at(left.place)?, self.right.at(right.place)?);
        let Differences { ranges, bytes, first } = differences(left, right).map_err(failed)?;
        Ok(vec![EntryChange::Content {
            left: left_size,
            right: right_size,
            ranges,
            bytes: Some(bytes),
            first,
        }])
    }
}

/// Finds entries by their place. Going back means to begin anew; both layers usually have the same order.
struct Seeker<'a> {
    open: OpenTar<'a>,
    reader: Option<LayerReader<Box<dyn Read + Send>>>,
    /// Of the entry that comes next.
    next: usize,
}

impl<'a> Seeker<'a> {
    fn new(open: OpenTar<'a>) -> Seeker<'a> {
        Seeker { open, reader: None, next: 0 }
    }

    /// The content of the entry at a place.
    fn at(&mut self, place: usize) -> Result<impl Read + use<'_, 'a>, LayerError> {
        if place < self.next || self.reader.is_none() {
            (self.reader, self.next) = (Some(LayerReader::new((self.open)().map_err(failed)?)), 0);
        }
        let changed = || failed(io::Error::other("the layer changed while it was compared"));
        let reader = self.reader.as_mut().ok_or_else(changed)?;
        while self.next <= place {
            reader.next_entry()?.ok_or_else(changed)?;
            self.next += 1;
        }
        Ok(reader)
    }
}

/// In what two streams differ.
#[derive(Default)]
struct Differences {
    /// At most [`MOST_RANGES`].
    ranges: Vec<Range<u64>>,
    /// All of them.
    bytes: u64,
    /// At the beginning of the first range.
    first: (Option<u8>, Option<u8>),
}

impl Differences {
    fn add(&mut self, range: Range<u64>, bytes: (Option<u8>, Option<u8>)) {
        if self.bytes == 0 {
            self.first = bytes;
        }
        self.bytes += range.end - range.start;
        if let Some(last) = self.ranges.last_mut().filter(|last| last.end == range.start) {
            last.end = range.end;
        } else if self.ranges.len() < MOST_RANGES {
            self.ranges.push(range);
        }
    }
}

fn differences(mut left: impl Read, mut right: impl Read) -> io::Result<Differences> {
    let (mut a, mut b) = (vec![0; BUFFER], vec![0; BUFFER]);
    let (mut found, mut offset) = (Differences::default(), 0);
    loop {
        let (ours, theirs) = (fill(&mut left, &mut a)?, fill(&mut right, &mut b)?);
        let both = ours.min(theirs);
        let mut start = None;
        for at in 0..=both {
            let differs = at < both && a[at] != b[at];
            match (differs, start) {
                (true, None) => start = Some(at),
                (false, Some(from)) => {
                    let bytes = (Some(a[from]), Some(b[from]));
                    found.add(offset + from as u64..offset + at as u64, bytes);
                    start = None;
                }
                _ => {}
            }
        }
        if ours != theirs || ours < BUFFER {
            let longer = if ours > theirs { left.by_ref() as &mut dyn Read } else { right.by_ref() };
            let rest = io::copy(longer, &mut io::sink())?;
            let (from, to) = (offset + both as u64, offset + ours.max(theirs) as u64 + rest);
            if from < to {
                found.add(from..to, (a[..ours].get(both).copied(), b[..theirs].get(both).copied()));
            }
            return Ok(found);
        }
        offset += both as u64;
    }
}

fn first_difference(left: OpenTar<'_>, right: OpenTar<'_>) -> io::Result<Option<u64>> {
    Ok(differences(left()?, right()?)?.ranges.first().map(|range| range.start))
}

/// Reads until the buffer is full or the stream ends.
fn fill(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::LayerWriter;

    fn entry(path: &str, kind: EntryKind) -> Entry {
        Entry { kind, mode: 0o644, ..Entry::whiteout(path) }
    }

    fn file(path: &str, content: &[u8]) -> (Entry, Vec<u8>) {
        (entry(path, EntryKind::File { size: content.len() as u64 }), content.to_vec())
    }

    fn tar(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
        let mut writer = LayerWriter::archive(Vec::new());
        for (entry, content) in entries {
            writer.append(entry, &mut &content[..]).unwrap();
        }
        writer.finish().unwrap()
    }

    fn compare(left: &[(Entry, Vec<u8>)], right: &[(Entry, Vec<u8>)]) -> LayerDiff {
        let (left, right) = (tar(left), tar(right));
        let open = |bytes: &Vec<u8>| {
            let bytes = bytes.clone();
            move || Ok(Box::new(io::Cursor::new(bytes.clone())) as Box<dyn Read + Send>)
        };
        compare_layers(&open(&left), &open(&right)).unwrap()
    }

    fn changes(left: (Entry, Vec<u8>), right: (Entry, Vec<u8>)) -> Vec<EntryChange> {
        let diff = compare(std::slice::from_ref(&left), std::slice::from_ref(&right));
        assert_eq!((diff.entries.len(), diff.tar_from), (1, None));
        assert_eq!(diff.entries[0].path, left.0.path);
        diff.entries[0].changes.clone()
    }

    #[test]
    fn equal_layers_have_no_differences() {
        let entries =
            [file("a", b"x"), (entry("d", EntryKind::Directory), vec![]), file("d/b", &[7; 70_000])];
        assert!(compare(&entries, &entries).is_empty());
    }

    #[test]
    fn bytes_are_named_by_range() {
        let mut long = vec![b'x'; 200_000];
        let before = long.clone();
        // Across the edge of what is read at a time, at the beginning, and behind the end.
        long[0] = b'y';
        long[BUFFER - 2..BUFFER + 3].fill(b'y');
        long.extend(b"tail");
        let found = changes(file("f", &before), file("f", &long));
        let edge = BUFFER as u64;
        let ranges = vec![0..1, edge - 2..edge + 3, 200_000..200_004];
        let first = (Some(b'x'), Some(b'y'));
        let wanted = EntryChange::Content { left: 200_000, right: 200_004, ranges, bytes: Some(10), first };
        assert_eq!(found, [wanted]);
        // One that goes on where the other ends.
        let found = changes(file("f", &vec![b'x'; BUFFER + 1]), file("f", &vec![b'x'; BUFFER]));
        let first = (Some(b'x'), None);
        let (left, right, ranges) = (edge + 1, edge, std::iter::once(edge..edge + 1).collect());
        assert_eq!(found, [EntryChange::Content { left, right, ranges, bytes: Some(1), first }]);
    }

    #[test]
    fn many_ranges_are_counted() {
        let (left, right) = (vec![0; 1000], (0..1000).map(|at| u8::from(at % 2 == 0)).collect::<Vec<_>>());
        let found = changes(file("f", &left), file("f", &right));
        let EntryChange::Content { ranges, bytes, .. } = &found[0] else { panic!("{found:?}") };
        assert_eq!((ranges.len(), *bytes), (MOST_RANGES, Some(500)));
    }

    #[test]
    fn every_attribute_is_compared() {
        let (mut left, content) = file("f", b"x");
        left.xattrs.insert(b"user.a".to_vec(), b"1".to_vec());
        let mut right = Entry { mode: 0o4755, uid: 5, mtime: 9, mtime_nanos: 1, ..left.clone() };
        right.xattrs.clear();
        assert_eq!(
            changes((left, content.clone()), (right, content)),
            [
                EntryChange::Mode { left: 0o644, right: 0o4755 },
                EntryChange::Owner { left: (0, 0), right: (5, 0) },
                EntryChange::Xattr { name: b"user.a".to_vec(), left: Some(b"1".to_vec()), right: None },
                EntryChange::Time { left: (0, 0), right: (9, 1) },
            ]
        );
        let link = |target: &str| (entry("l", EntryKind::Symlink { target: target.into() }), vec![]);
        assert_eq!(
            changes(link("a"), link("b")),
            [EntryChange::Target { left: b"a".to_vec(), right: b"b".to_vec() }]
        );
        let device = |minor| (entry("n", EntryKind::CharDevice { major: 1, minor }), vec![]);
        assert_eq!(changes(device(3), device(5)), [EntryChange::Device { left: (1, 3), right: (1, 5) }]);
        assert_eq!(
            changes(file("l", b""), link("b")),
            [EntryChange::Kind { left: "file", right: "symbolic link" }]
        );
    }

    #[test]
    fn what_moved_is_missing_and_new() {
        let diff = compare(&[file("a", b"1"), file("same", b"")], &[file("b", b"1"), file("same", b"")]);
        let found: Vec<_> = diff.entries.iter().map(|entry| (&entry.path[..], &entry.changes[..])).collect();
        assert_eq!(
            found,
            [(&b"a"[..], &[EntryChange::OnlyLeft][..]), (&b"b"[..], &[EntryChange::OnlyRight][..])]
        );
        // The mark of an opaque directory is no other form of the directory.
        let directory = || (entry("d", EntryKind::Directory), vec![]);
        let mark = (Entry::opaque("d"), vec![]);
        let diff = compare(&[directory(), mark], &[directory()]);
        assert_eq!(diff.entries, [EntryDiff { path: b"d".to_vec(), changes: vec![EntryChange::OnlyLeft] }]);
    }

    #[test]
    fn order_is_a_difference_of_the_tar() {
        let (a, b) = (file("a", b"1"), file("b", b"2"));
        let diff = compare(&[a.clone(), b.clone()], &[b.clone(), a.clone()]);
        assert_eq!(diff, LayerDiff { entries: vec![], tar_from: Some(0) });
        // Content is found whatever the order.
        let diff = compare(&[a, b], &[file("b", b"x"), file("a", b"y")]);
        assert_eq!(diff.entries.len(), 2);
        assert!(diff.entries.iter().all(|entry| matches!(entry.changes[..], [EntryChange::Content { .. }])));
    }

    #[test]
    fn times_can_be_left_out() {
        let (left, content) = file("f", b"x");
        let right = Entry { mtime: 5, ..left.clone() };
        let diff = compare(&[(left, content.clone())], &[(right, content)]);
        assert!(!diff.is_empty() && diff.without_times().is_empty());
    }
}
