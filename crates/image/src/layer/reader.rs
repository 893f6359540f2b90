use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};

use super::header::{BLOCK, Block, old_sparse_extension};
use super::sparse::{self, Map, Position};
use super::{
    Entry, EntryKind, LayerError, NO_ID, OPAQUE, WHITEOUT, check_path, check_path_with, check_symlink, pax,
};
use crate::ratio::{is_bomb, most_entries};

/// The largest extended header or long name, in bytes; Go's limit.
const MAX_EXTENDED: u64 = 1 << 20;

/// Reads the entries of a tar stream that nobody vouches for.
///
/// V7, ustar, star, PAX and GNU archives are read, with long names, numbers in base 256, and sparse files (old GNU, PAX 0.0, 0.1
/// and 1.0), which come out whole. Paths come out relative and clean; one that leads upwards (`..`) is an error, as are names that
/// mean nothing (`.wh.` alone) and types that no layer has. Several entries for one path are the caller's to sort out: the last
/// counts. Global extended headers are ignored as Docker and containerd do, and refused where that would matter.
///
/// Memory is bounded whatever comes, and so is the size of what comes out: the holes of sparse files may be 16 GiB in all, or 200 times
/// what was read, and there may be 16 million entries ([`crate::set_unpack_limit`]).
#[derive(Debug)]
pub struct LayerReader<R: Read> {
    input: Input<R>,
    content: Content,
    /// Bytes of files so far that are not in the stream.
    holes: u64,
    entries: u64,
    ended: bool,
}

/// The stream and how far it was read.
#[derive(Debug)]
struct Input<R: Read> {
    stream: BufReader<R>,
    offset: u64,
    /// Bytes of the present entry that are still in the stream, and the padding behind them.
    stored: u64,
    padding: u64,
}

/// The content of the present entry.
#[derive(Debug)]
enum Content {
    Plain,
    Sparse(Position),
}

/// What the headers in front of an entry said about it.
#[derive(Default)]
struct Extended {
    records: Option<Vec<u8>>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

/// The records of an extended header by meaning.
#[derive(Default)]
struct Overrides {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    sparse: SparseRecords,
}

#[derive(Default)]
struct SparseRecords {
    version: (Option<Vec<u8>>, Option<Vec<u8>>),
    /// The path: the one of the header names a file that stands in for readers who know no sparse files.
    name: Option<Vec<u8>>,
    map: Option<Vec<u8>>,
    /// Offsets and lengths of format 0.0, as they came.
    numbers: Vec<Vec<u8>>,
    size: Option<u64>,
}

impl<R: Read> LayerReader<R> {
    /// Reads an uncompressed tar; buffers by itself.
    pub fn new(stream: R) -> Self {
        let input =
            Input { stream: BufReader::with_capacity(64 << 10, stream), offset: 0, stored: 0, padding: 0 };
        LayerReader { input, content: Content::Plain, holes: 0, entries: 0, ended: false }
    }

    /// The next entry, `None` at the end. What was not read of the present one's content is skipped. The content of a regular
    /// file is then read from the reader itself.
    ///
    /// # Errors
    /// See [`LayerReader`]. After an error nothing more comes.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, LayerError> {
        if self.ended {
            return Ok(None);
        }
        let entry = self.read_entry();
        self.ended = !matches!(entry, Ok(Some(_)));
        entry
    }

    fn read_entry(&mut self) -> Result<Option<Entry>, LayerError> {
        self.content = Content::Plain;
        let mut extended = Extended::default();
        loop {
            self.input.skip_entry()?;
            let Some(block) = self.input.read_header()? else {
                return match extended {
                    Extended { records: None, name: None, link: None } => Ok(None),
                    _ => Err(self.input.malformed("the tar ends after an extended header")),
                };
            };
            match block.flag() {
                b'x' => {
                    let records = self.input.read_extended(&block)?;
                    self.once(&mut extended.records, records)?;
                }
                b'L' => {
                    let name = self.input.read_extended(&block)?;
                    self.once(&mut extended.name, until_nul(name))?;
                }
                b'K' => {
                    let link = self.input.read_extended(&block)?;
                    self.once(&mut extended.link, until_nul(link))?;
                }
                b'g' => {
                    let records = self.input.read_extended(&block)?;
                    self.check_global(&records)?;
                }
                _ => {
                    self.entries += 1;
                    if self.entries > most_entries() {
                        let reason = format!("more than {} entries are taken for a bomb", most_entries());
                        return Err(self.input.malformed(reason));
                    }
                    return self.finish_entry(&block, extended).map(Some);
                }
            }
        }
    }

    /// Readers disagree on which of two headers for the same thing counts.
    fn once(&self, slot: &mut Option<Vec<u8>>, value: Vec<u8>) -> Result<(), LayerError> {
        match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err(self.input.malformed("two extended headers for one entry")),
        }
    }

    /// Global headers are not obeyed; one that says something about entries would make this reader and others disagree.
    fn check_global(&self, records: &[u8]) -> Result<(), LayerError> {
        let records = pax::parse_records(records)
            .ok_or_else(|| self.input.malformed("a global extended header is malformed"))?;
        let meant = records.iter().find(|(key, _)| {
            matches!(*key, b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"mtime")
                || key.starts_with(pax::XATTR)
                || key.starts_with(b"GNU.sparse.")
        });
        match meant {
            None => Ok(()),
            Some((key, _)) => Err(self.input.malformed(format!(
                "a global extended header sets `{}` for all entries, which is not supported",
                String::from_utf8_lossy(key)
            ))),
        }
    }

    fn finish_entry(&mut self, block: &Block, extended: Extended) -> Result<Entry, LayerError> {
        let records = extended.records.unwrap_or_default();
        let overrides = parse_overrides(&records)
            .ok_or_else(|| self.input.malformed("an extended header is malformed"))?;
        let disagree = |long: &Option<Vec<u8>>, path: &Option<Vec<u8>>| matches!((long, path), (Some(long), Some(path)) if long != path);
        if disagree(&extended.name, &overrides.path) || disagree(&extended.link, &overrides.link) {
            return Err(self.input.malformed("two extended headers for one entry disagree"));
        }
        let raw_path = overrides.path.or(extended.name).unwrap_or_else(|| block.name());
        let link = overrides.link.or(extended.link).unwrap_or_else(|| block.link_name());
        let path = clean(&raw_path).map_err(|reason| LayerError::entry(&raw_path, reason))?;
        let refused = |reason: &str| LayerError::entry(&raw_path, reason);

        let header_size = block.size().and_then(|size| u64::try_from(size).ok());
        let stored = overrides.size.or(header_size).filter(|size| *size <= i64::MAX as u64);
        let stored = stored.ok_or_else(|| refused("its size is not a number"))?;
        let kind = self.kind_of(block, &raw_path, link, stored, overrides.sparse)?;
        let id = |record: Option<u64>, field: Option<i64>| {
            let id = record.or_else(|| u64::try_from(field?).ok())?;
            u32::try_from(id).ok().filter(|id| *id != NO_ID)
        };
        let (mtime, mtime_nanos) = match overrides.mtime {
            Some(time) => time,
            None => (block.mtime().ok_or_else(|| refused("its time is not a number"))?, 0),
        };
        let entry = Entry {
            path,
            kind,
            mode: (block.mode().ok_or_else(|| refused("its mode is not a number"))? & 0o7777) as u32,
            uid: id(overrides.uid, block.uid()).ok_or_else(|| refused("its owner's id is not one"))?,
            gid: id(overrides.gid, block.gid()).ok_or_else(|| refused("its group's id is not one"))?,
            mtime,
            mtime_nanos,
            xattrs: overrides.xattrs,
        };
        let entry = find_whiteout(entry).map_err(refused)?;
        check_path(&entry.path).map_err(refused)?;
        if entry.path.is_empty() && !matches!(entry.kind, EntryKind::Directory | EntryKind::Opaque) {
            return Err(refused("the root is a directory"));
        }
        Ok(entry)
    }

    /// What the entry is; also gets its content ready to be read.
    fn kind_of(
        &mut self,
        block: &Block,
        path: &[u8],
        link: Vec<u8>,
        stored: u64,
        sparse: SparseRecords,
    ) -> Result<EntryKind, LayerError> {
        let refused = |reason: &str| LayerError::entry(path, reason);
        let device =
            |(major, minor): (i64, i64)| Some((u32::try_from(major).ok()?, u32::try_from(minor).ok()?));
        let numbers =
            || block.device().and_then(device).ok_or_else(|| refused("its device numbers are not numbers"));
        // Entries without content have none in the stream either, whatever their size says: so Go reads them.
        let kind = match block.flag() {
            0 if path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => return self.begin_file(block, path, stored, sparse),
            b'1' => {
                let target = clean(&link).map_err(refused)?;
                check_path(&target).map_err(refused)?;
                if target.is_empty() {
                    return Err(refused("a hard link to the root"));
                }
                EntryKind::Hardlink { target }
            }
            b'2' => {
                check_symlink(&link).map_err(refused)?;
                EntryKind::Symlink { target: link }
            }
            b'3' => numbers().map(|(major, minor)| EntryKind::CharDevice { major, minor })?,
            b'4' => numbers().map(|(major, minor)| EntryKind::BlockDevice { major, minor })?,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            flag => {
                let reason = format!("entries of type `{}` are not supported", flag.escape_ascii());
                return Err(refused(&reason));
            }
        };
        if sparse.is_some() {
            return Err(refused("only regular files can be sparse"));
        }
        Ok(kind)
    }

    fn begin_file(
        &mut self,
        block: &Block,
        path: &[u8],
        stored: u64,
        sparse: SparseRecords,
    ) -> Result<EntryKind, LayerError> {
        let malformed = || LayerError::entry(path, "its map of regions (sparse file) is malformed");
        self.input.begin(stored);
        let map = if block.flag() == b'S' {
            // The blocks that continue the header come before the content and do not count as such.
            self.input.begin(0);
            let (mut regions, mut more, size) = block.old_sparse().ok_or_else(malformed)?;
            while more {
                let extension = self.input.read_block()?.ok_or_else(|| self.input.truncated())?;
                let (next, further) = old_sparse_extension(&extension).ok_or_else(malformed)?;
                if next.is_empty() && further {
                    return Err(malformed());
                }
                regions.extend(next);
                more = further;
                if regions.len() > 1 << 18 {
                    return Err(malformed());
                }
            }
            self.input.begin(stored);
            Map::new(regions, size, stored)
        } else if sparse.is_some() {
            let size = sparse.size.ok_or_else(malformed)?;
            let regions = match sparse.version() {
                Some((1, 0)) => self.input.read_map()?.ok_or_else(malformed)?,
                Some((0, _)) => sparse.list().ok_or_else(malformed)?,
                _ => return Err(LayerError::entry(path, "its sparse format is unknown")),
            };
            Map::new(regions, size, self.input.stored)
        } else {
            return Ok(EntryKind::File { size: stored });
        };
        let map = map.ok_or_else(malformed)?;
        let size = map.size();
        self.holes = self.holes.saturating_add(size.saturating_sub(stored));
        if is_bomb(self.input.offset, self.holes) {
            return Err(LayerError::entry(
                path,
                format!("a sparse file of {size} bytes is taken for a bomb"),
            ));
        }
        self.content = Content::Sparse(Position::new(map));
        Ok(EntryKind::File { size })
    }
}

/// The content of the entry that [`LayerReader::next_entry`] returned last; nothing but for regular files. A truncated stream is an
/// error of kind [`io::ErrorKind::UnexpectedEof`].
impl<R: Read> Read for LayerReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.content {
            _ if self.ended => Ok(0),
            Content::Plain => self.input.read(buffer),
            Content::Sparse(position) => position.read(&mut self.input, buffer),
        }
    }
}

/// Reads what is stored of the present entry.
impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.stored).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.stream.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the tar is cut off within a file"));
        }
        self.offset += read as u64;
        self.stored -= read as u64;
        Ok(read)
    }
}

impl<R: Read> Input<R> {
    fn begin(&mut self, stored: u64) {
        self.stored = stored;
        self.padding = stored.wrapping_neg() % BLOCK as u64;
    }

    fn malformed(&self, reason: impl Into<String>) -> LayerError {
        LayerError::Malformed { offset: self.offset, reason: reason.into() }
    }

    fn truncated(&self) -> LayerError {
        self.malformed("it is cut off")
    }

    fn failed(&self, source: io::Error) -> LayerError {
        match source.kind() {
            io::ErrorKind::UnexpectedEof => self.malformed(format!("it is cut off ({source})")),
            _ => LayerError::Io { action: "read layer", source },
        }
    }

    /// Skips what is left of the present entry with its padding. The padding of the last entry may be missing: umoci writes layers so,
    /// and Go reads them.
    fn skip_entry(&mut self) -> Result<(), LayerError> {
        let padding = std::mem::take(&mut self.padding);
        let mut left = self.stored.saturating_add(padding);
        self.stored = 0;
        while left > 0 {
            let available = match self.stream.fill_buf() {
                Ok(available) => available.len(),
                Err(error) => return Err(self.failed(error)),
            };
            if available == 0 && left <= padding {
                return Ok(());
            }
            if available == 0 {
                return Err(self.truncated());
            }
            let step = available.min(usize::try_from(left).unwrap_or(usize::MAX));
            self.stream.consume(step);
            self.offset += step as u64;
            left -= step as u64;
        }
        Ok(())
    }

    /// A whole block, `None` at the end of the stream.
    fn read_block(&mut self) -> Result<Option<[u8; BLOCK]>, LayerError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.stream.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(self.truncated()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        self.offset += BLOCK as u64;
        Ok(Some(block))
    }

    /// The next header, `None` at the end of the tar: two blocks of zeros, or the end of the stream between two entries (some
    /// writers forget the zeros, and all readers let them).
    fn read_header(&mut self) -> Result<Option<Block>, LayerError> {
        let Some(block) = self.read_block()? else { return Ok(None) };
        if block != [0; BLOCK] {
            return Block::parse(&block)
                .map(Some)
                .ok_or_else(|| self.malformed("a header's checksum is wrong (is it a tar?)"));
        }
        if self.read_block()?.is_some_and(|second| second != [0; BLOCK]) {
            return Err(self.malformed("a block of zeros between entries"));
        }
        self.expect_zeros()?;
        Ok(None)
    }

    /// Archives are padded with zeros to the size of a tape's record; nothing else may follow.
    fn expect_zeros(&mut self) -> Result<(), LayerError> {
        loop {
            let rest =
                self.stream.fill_buf().map_err(|source| LayerError::Io { action: "read layer", source })?;
            if rest.is_empty() {
                return Ok(());
            }
            if rest.iter().any(|b| *b != 0) {
                return Err(self.malformed("something follows the end of the tar"));
            }
            let length = rest.len();
            self.stream.consume(length);
            self.offset += length as u64;
        }
    }

    /// The content of a header that speaks of the next entry.
    fn read_extended(&mut self, block: &Block) -> Result<Vec<u8>, LayerError> {
        let size =
            block.size().and_then(|size| u64::try_from(size).ok()).filter(|size| *size <= MAX_EXTENDED);
        let size = size.ok_or_else(|| self.malformed("an extended header is larger than 1 MiB"))?;
        self.begin(size);
        let mut content = Vec::new();
        let read = (&mut *self).take(size).read_to_end(&mut content);
        read.map_err(|error| self.failed(error))?;
        self.skip_entry()?;
        Ok(content)
    }

    /// The map of a sparse file of format 1.0, which is part of what is stored. `None` when it is malformed.
    fn read_map(&mut self) -> Result<Option<sparse::Regions>, LayerError> {
        let map = sparse::read_map_1_0(|| {
            let mut block = [0; BLOCK];
            self.read_exact(&mut block)?;
            Ok(block)
        });
        map.map_err(|error| self.failed(error))
    }
}

impl SparseRecords {
    fn is_some(&self) -> bool {
        self.version.0.is_some() || self.map.is_some() || !self.numbers.is_empty() || self.size.is_some()
    }

    fn version(&self) -> Option<(u64, u64)> {
        match &self.version {
            (None, None) => Some((0, 1)),
            (major, minor) => Some((pax::decimal(major.as_ref()?)?, pax::decimal(minor.as_ref()?)?)),
        }
    }

    fn list(&self) -> Option<sparse::Regions> {
        let joined = self.numbers.join(&b','.to_owned());
        Map::parse_list(self.map.as_ref().unwrap_or(&joined))
    }
}

fn parse_overrides(records: &[u8]) -> Option<Overrides> {
    let mut overrides = Overrides::default();
    for (key, value) in pax::parse_records(records)? {
        if let Some(name) = key.strip_prefix(pax::XATTR) {
            if name.is_empty() {
                return None;
            }
            overrides.xattrs.insert(name.to_vec(), value.to_vec());
            continue;
        }
        // An empty value takes a record back.
        if value.is_empty() {
            continue;
        }
        match key {
            b"path" => overrides.path = Some(value.to_vec()),
            b"GNU.sparse.name" => overrides.sparse.name = Some(value.to_vec()),
            b"linkpath" => overrides.link = Some(value.to_vec()),
            b"size" => overrides.size = Some(pax::decimal(value)?),
            b"uid" => overrides.uid = Some(pax::decimal(value)?),
            b"gid" => overrides.gid = Some(pax::decimal(value)?),
            b"mtime" => overrides.mtime = Some(pax::parse_time(value)?),
            b"GNU.sparse.major" => overrides.sparse.version.0 = Some(value.to_vec()),
            b"GNU.sparse.minor" => overrides.sparse.version.1 = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => overrides.sparse.size = Some(pax::decimal(value)?),
            b"GNU.sparse.map" => overrides.sparse.map = Some(value.to_vec()),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => overrides.sparse.numbers.push(value.to_vec()),
            _ => {}
        }
    }
    overrides.path = overrides.sparse.name.take().or(overrides.path);
    Some(overrides)
}

/// A path without leading slashes, `.` and empty components; `..` is refused. It may still be as long as a whiteout's.
fn clean(path: &[u8]) -> Result<Vec<u8>, &'static str> {
    let components = path.split(|b| *b == b'/').filter(|component| !matches!(*component, b"" | b"."));
    let path = components.collect::<Vec<_>>().join(&b'/');
    check_path_with(&path, OPAQUE.len() + 1)?;
    Ok(path)
}

/// Turns files named `.wh.…` into what they mean.
fn find_whiteout(mut entry: Entry) -> Result<Entry, &'static str> {
    let slash = entry.path.iter().rposition(|b| *b == b'/');
    let name = slash.map_or(0, |slash| slash + 1);
    let reserved = |path: &[u8]| path.split(|b| *b == b'/').any(|name| name.starts_with(WHITEOUT));
    if reserved(&entry.path[..slash.unwrap_or(0)]) {
        return Err("a directory's name begins with `.wh.`");
    }
    if let EntryKind::Hardlink { target } = &entry.kind
        && reserved(target)
        && !entry.path[name..].starts_with(WHITEOUT)
    {
        return Err("a hard link to a name that begins with `.wh.`");
    }
    let Some(removed) = entry.path[name..].strip_prefix(WHITEOUT) else { return Ok(entry) };
    if &entry.path[name..] == OPAQUE {
        entry.path.truncate(slash.unwrap_or(0));
        return Ok(Entry::opaque(entry.path));
    }
    if matches!(removed, b"" | b"." | b"..") || removed.starts_with(WHITEOUT) {
        return Err("names that begin with `.wh.` mean removed files, and this one names none");
    }
    let removed = removed.to_vec();
    entry.path.truncate(name);
    entry.path.extend(removed);
    Ok(Entry::whiteout(entry.path))
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    text.truncate(text.iter().position(|b| *b == 0).unwrap_or(text.len()));
    text
}
