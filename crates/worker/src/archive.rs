//! Archives that are unpacked: by ADD, and as contexts.
//!
//! As BuildKit unpacks them (moby's `go-archive`, confined to the destination as its root): links that are there already are followed
//! inside the destination, what stands in the way of an entry is replaced, directories merge.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use files::{Attributes, FileTree, Kind, Metadata, OpaqueMark, Owners, TreeError, TreeWriter, WriterOptions};
use image::layer::{Entry, EntryKind, LayerReader};

use crate::WorkerError;
use crate::placed::{Placed, ensure_directory, join, new_metadata};

/// Bytes of a tar header (POSIX ustar).
const BLOCK: u64 = 512;

/// Mode of directories that an archive has something in but no entry for.
const IMPLIED_MODE: u32 = 0o755;

/// Whether a file is an archive that ADD unpacks: by content, as upstream decides. What cannot be uncompressed is none.
pub(crate) fn is_archive(file: impl Read + Send) -> bool {
    let Ok(reader) = image::decompress(file) else { return false };
    let mut start = Vec::new();
    let read = reader.take(BLOCK).read_to_end(&mut start);
    read.is_ok() && is_tar_header(&start)
}

/// Whether the first bytes of a stream, uncompressed, are those of a tar archive. 512 are enough to tell.
pub fn is_tar(start: &[u8]) -> bool {
    is_tar_header(start.get(..BLOCK as usize).unwrap_or_default())
}

/// A header's checksum is the sum of its bytes, the checksum's own taken as blanks; `tar(5)`.
fn is_tar_header(block: &[u8]) -> bool {
    if block.len() < BLOCK as usize {
        return false;
    }
    let field = block[148..156].iter().filter(|byte| (b'0'..=b'7').contains(*byte));
    let stated = field.fold(0u64, |sum, digit| sum * 8 + u64::from(digit - b'0'));
    let byte = |(at, byte): (usize, &u8)| u64::from(if (148..156).contains(&at) { b' ' } else { *byte });
    stated != 0 && stated == block.iter().enumerate().map(byte).sum::<u64>()
}

/// Unpacks a tar, compressed in any way that ADD knows, into an empty directory: a build context. Everything belongs to the caller,
/// nothing is written outside of `directory`.
///
/// # Errors
/// When the stream is no complete archive, or an entry leads out; what was unpacked until then stays for the caller to remove.
pub fn unpack_archive(
    stream: impl Read + Send,
    directory: &Path,
    cancelled: files::Cancelled<'_>,
) -> Result<(), WorkerError> {
    let options = WriterOptions {
        owners: Owners::Real,
        opaque: OpaqueMark::User,
        parents: Attributes::with_mode(IMPLIED_MODE),
    };
    let writer = TreeWriter::new(directory, options)?;
    let mut placed = Placed::new(&Nothing, true);
    let own = std::fs::metadata(directory).map_err(|error| WorkerError::io("examine", directory, error))?;
    let mut unpacker = Unpacker {
        name: "the context's archive",
        root: Path::new(""),
        placed: &mut placed,
        writer: &writer,
        owner: Some((own.uid(), own.gid())),
        entries: 0,
        size: 0,
    };
    unpacker.unpack(stream, cancelled)?;
    writer.finish()?;
    Ok(())
}

/// Unpacks one archive.
pub(crate) struct Unpacker<'u, 'p> {
    /// For messages.
    pub(crate) name: &'u str,
    /// The destination, relative to the root of the tree.
    pub(crate) root: &'u Path,
    pub(crate) placed: &'u mut Placed<'p>,
    pub(crate) writer: &'u TreeWriter,
    /// Whose everything becomes; without one, the archive says.
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) entries: u64,
    /// Bytes of files.
    pub(crate) size: u64,
}

impl Unpacker<'_, '_> {
    pub(crate) fn unpack(
        &mut self,
        stream: impl Read + Send,
        cancelled: files::Cancelled<'_>,
    ) -> Result<(), WorkerError> {
        let tar = image::decompress(stream).map_err(|error| self.invalid(&error))?;
        let mut reader = LayerReader::new(tar);
        while let Some(entry) = reader.next_entry().map_err(|error| self.invalid(&error))? {
            if cancelled() {
                return Err(files::Error::Cancelled.into());
            }
            self.entry(&entry, &mut reader)?;
        }
        Ok(())
    }

    fn invalid(&self, error: &dyn std::fmt::Display) -> WorkerError {
        WorkerError::Copy(format!("cannot unpack {}: {error}", self.name))
    }

    fn entry<R: Read>(&mut self, entry: &Entry, reader: &mut LayerReader<R>) -> Result<(), WorkerError> {
        let path = Path::new(OsStr::from_bytes(&entry.path));
        if matches!(entry.kind, EntryKind::Whiteout | EntryKind::Opaque) {
            // As a file it would remove others from the image: a layer cannot hold it.
            let path = path.display();
            return Err(
                self.invalid(&format_args!("{path} has a name that layers reserve for removals (.wh.)"))
            );
        }
        // The destination itself stays as it is.
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        let parent = self.resolve(parent)?;
        ensure_directory(&parent, &Attributes::with_mode(IMPLIED_MODE), self.placed, self.writer)?;
        let place = parent.join(name);
        self.make_room(&place, entry.kind == EntryKind::Directory)?;
        let attributes = self.attributes(entry);
        let (kind, target) = self.write(entry, &place, &attributes, reader)?;
        self.placed.put(place, &new_metadata(kind, &attributes), target.as_deref());
        self.entries += 1;
        Ok(())
    }

    /// A path of the archive in the tree, links followed as if the destination were the root of everything.
    fn resolve(&self, path: &Path) -> Result<PathBuf, WorkerError> {
        let within = Within { tree: &*self.placed, root: self.root };
        Ok(join(self.root, &files::resolve(&within, path, true)?))
    }

    /// Directories merge; anything else makes way.
    fn make_room(&mut self, place: &Path, directory: bool) -> Result<(), WorkerError> {
        let Some(existing) = self.placed.metadata(place)? else { return Ok(()) };
        if directory && existing.kind == Kind::Directory {
            return Ok(());
        }
        self.placed.remove(place)?;
        Ok(self.writer.remove(place)?)
    }

    fn attributes(&self, entry: &Entry) -> Attributes {
        let (uid, gid) = self.owner.unwrap_or((entry.uid, entry.gid));
        let xattrs = entry.xattrs.iter();
        Attributes {
            mode: entry.mode,
            uid,
            gid,
            mtime: Some((entry.mtime, entry.mtime_nanos)),
            xattrs: xattrs.map(|(name, value)| (OsStr::from_bytes(name).to_owned(), value.clone())).collect(),
        }
    }

    fn write<R: Read>(
        &mut self,
        entry: &Entry,
        place: &Path,
        attributes: &Attributes,
        reader: &mut LayerReader<R>,
    ) -> Result<(Kind, Option<PathBuf>), WorkerError> {
        let writer = self.writer;
        Ok(match &entry.kind {
            EntryKind::File { .. } => {
                self.size += writer.file(place, reader, attributes)?;
                (Kind::File, None)
            }
            EntryKind::Directory => {
                let was_replaced = self.placed.was_replaced(place) && !self.placed.has(place);
                writer.directory(place, attributes)?;
                if was_replaced {
                    writer.opaque(place)?;
                }
                (Kind::Directory, None)
            }
            EntryKind::Symlink { target } => {
                let target = Path::new(OsStr::from_bytes(target));
                writer.symlink(place, target, attributes)?;
                (Kind::Symlink, Some(target.to_owned()))
            }
            EntryKind::Hardlink { target } => self.hard_link(place, Path::new(OsStr::from_bytes(target)))?,
            EntryKind::CharDevice { major, minor } => {
                writer.device(place, Kind::CharDevice, (*major, *minor), attributes)?;
                (Kind::CharDevice, None)
            }
            EntryKind::BlockDevice { major, minor } => {
                writer.device(place, Kind::BlockDevice, (*major, *minor), attributes)?;
                (Kind::BlockDevice, None)
            }
            EntryKind::Fifo => {
                writer.fifo(place, attributes)?;
                (Kind::Fifo, None)
            }
            EntryKind::Whiteout | EntryKind::Opaque => {
                return Err(WorkerError::Internal("a removal is no entry of an archive".to_owned()));
            }
        })
    }

    /// One more name for a file of the archive, or for one that the destination has already, which then becomes part of the layer.
    fn hard_link(&mut self, place: &Path, target: &Path) -> Result<(Kind, Option<PathBuf>), WorkerError> {
        let shown = target;
        let missing = || self.invalid(&format_args!("the hard link to {} has no target", shown.display()));
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else { return Err(missing()) };
        let target = self.resolve(parent)?.join(name);
        let Some(metadata) = self.placed.metadata(&target)? else { return Err(missing()) };
        if metadata.kind == Kind::Directory {
            return Err(missing());
        }
        if !self.placed.has(&target) {
            self.bring_up(&target, &metadata)?;
        }
        let link = match metadata.kind {
            Kind::Symlink => Some(self.placed.read_link(&target)?),
            _ => None,
        };
        self.writer.hard_link(place, &target)?;
        Ok((metadata.kind, link))
    }

    /// Copies a file from below into the layer.
    fn bring_up(&mut self, path: &Path, metadata: &Metadata) -> Result<(), WorkerError> {
        if metadata.kind != Kind::File {
            let path = path.display();
            return Err(self.invalid(&format_args!("the hard link to /{path} is to no file of the archive")));
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        ensure_directory(parent, &Attributes::with_mode(IMPLIED_MODE), self.placed, self.writer)?;
        let attributes = Attributes::of(metadata, self.placed.xattrs(path)?);
        self.size += self.writer.file(path, &mut self.placed.open(path)?, &attributes)?;
        self.placed.put(path.to_owned(), metadata, None);
        Ok(())
    }
}

/// A directory of a tree as if it were the root.
struct Within<'a> {
    tree: &'a dyn FileTree,
    root: &'a Path,
}

impl FileTree for Within<'_> {
    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, TreeError> {
        self.tree.metadata(&join(self.root, path))
    }

    fn list(&self, path: &Path) -> Result<Vec<(OsString, Metadata)>, TreeError> {
        self.tree.list(&join(self.root, path))
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, TreeError> {
        self.tree.read_link(&join(self.root, path))
    }

    fn open(&self, path: &Path) -> Result<File, TreeError> {
        self.tree.open(&join(self.root, path))
    }

    fn xattrs(&self, path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError> {
        self.tree.xattrs(&join(self.root, path))
    }
}

/// The empty tree.
struct Nothing;

impl Nothing {
    fn absent<T>(action: &'static str, path: &Path) -> Result<T, TreeError> {
        Err(TreeError::new(action, path, std::io::Error::from(std::io::ErrorKind::NotFound)))
    }
}

impl FileTree for Nothing {
    fn metadata(&self, _: &Path) -> Result<Option<Metadata>, TreeError> {
        Ok(None)
    }

    fn list(&self, path: &Path) -> Result<Vec<(OsString, Metadata)>, TreeError> {
        Nothing::absent("list", path)
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, TreeError> {
        Nothing::absent("read the link", path)
    }

    fn open(&self, path: &Path) -> Result<File, TreeError> {
        Nothing::absent("open", path)
    }

    fn xattrs(&self, path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError> {
        Nothing::absent("read the attributes of", path)
    }
}
