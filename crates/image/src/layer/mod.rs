//! The tar format of layers (image spec, `layer.md`): entries in and out, deterministic when written, distrusted when
//! read. Directories and file systems are not touched here.

mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

use std::collections::BTreeMap;
use std::io;

pub use reader::LayerReader;
pub use writer::LayerWriter;

/// What a layer says about one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative, without `.`, `..` and empty components; empty for the root itself. Bytes: names need not be UTF-8.
    pub path: Vec<u8>,
    /// What is there.
    pub kind: EntryKind,
    /// Permission, setuid, setgid and sticky bits (`0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds of `mtime`.
    pub mtime_nanos: u32,
    /// Extended attributes by full name (`user.x`, `security.capability`).
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Entry {
    /// An entry that removes `path`. Whiteouts have neither owner nor mode nor time: written and read they are all zero.
    pub fn whiteout(path: impl Into<Vec<u8>>) -> Entry {
        Entry::bare(path.into(), EntryKind::Whiteout)
    }

    /// An entry that removes what the lower layers have in the directory `path`; without owner, mode and time as a whiteout.
    pub fn opaque(path: impl Into<Vec<u8>>) -> Entry {
        Entry::bare(path.into(), EntryKind::Opaque)
    }

    fn bare(path: Vec<u8>, kind: EntryKind) -> Entry {
        Entry { path, kind, mode: 0, uid: 0, gid: 0, mtime: 0, mtime_nanos: 0, xattrs: BTreeMap::new() }
    }
}

/// What stands at a path of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file of this many bytes, which follow.
    File {
        /// In bytes.
        size: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link with its target as it stands.
    Symlink {
        /// Any bytes but NUL.
        target: Vec<u8>,
    },
    /// Another name of a file that came earlier in the same layer.
    Hardlink {
        /// A path as in [`Entry::path`].
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// The path is removed (`.wh.<name>` in the file).
    Whiteout,
    /// All that the lower layers have in this directory is removed (`.wh..wh..opq`); [`Entry::path`] is the directory.
    Opaque,
}

/// A layer cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The stream below failed.
    #[error("{action}: {source}")]
    Io {
        /// `read layer`, `write layer`.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The content of a file could not be read.
    #[error("read {path}: {source}")]
    Content {
        /// The file, within the layer.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// An entry is one that a layer cannot hold, or that must not be obeyed.
    #[error("{path}: {reason}")]
    Entry {
        /// The path as it stands, within the layer.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The stream is no tar, or a damaged one.
    #[error("damaged tar at byte {offset}: {reason}")]
    Malformed {
        /// Of the uncompressed stream, in bytes.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
}

impl LayerError {
    fn entry(path: &[u8], reason: impl Into<String>) -> LayerError {
        LayerError::Entry { path: show(path), reason: reason.into() }
    }
}

impl From<LayerError> for io::Error {
    fn from(error: LayerError) -> io::Error {
        match error {
            LayerError::Io { source, .. } => source,
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// What a file is named that removes a lower one, followed by its name.
const WHITEOUT: &[u8] = b".wh.";
/// The file that makes a directory opaque.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Linux' `PATH_MAX`, without the NUL: the longest target of a symbolic link.
const PATH_MAX: usize = 4095;
/// The longest path in a layer. A byte more than the kernel takes at once, so that it is walked to in two steps.
const LONGEST_PATH: usize = 4096;
/// Linux' `NAME_MAX`.
const NAME_MAX: usize = 255;
/// The id that `chown` takes for "leave as it is".
const NO_ID: u32 = u32::MAX;

/// A path for messages: what is not printable is escaped.
fn show(path: &[u8]) -> String {
    let mut text = String::new();
    for c in String::from_utf8_lossy(path).chars() {
        if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
    }
    if text.is_empty() { "/".to_owned() } else { text }
}

/// Whether a path is one as in [`Entry::path`] that can be unpacked.
fn check_path(path: &[u8]) -> Result<(), &'static str> {
    check_path_with(path, 0)
}

/// The same with `more` bytes allowed, which go away before the path is used: what marks whiteouts.
fn check_path_with(path: &[u8], more: usize) -> Result<(), &'static str> {
    if path.len() > LONGEST_PATH + more {
        return Err("the path is longer than 4096 bytes");
    }
    if path.contains(&0) {
        return Err("the path holds a NUL byte");
    }
    if path.is_empty() {
        return Ok(());
    }
    for component in path.split(|b| *b == b'/') {
        match component {
            b"" | b"." => return Err("the path is not clean"),
            b".." => return Err("the path leads upwards (`..`)"),
            name if name.len() > NAME_MAX + more => {
                return Err("a component of the path is longer than 255 bytes");
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a symbolic link may have this target.
fn check_symlink(target: &[u8]) -> Result<(), &'static str> {
    match target {
        b"" => Err("the symbolic link has no target"),
        _ if target.len() > PATH_MAX => Err("the symbolic link's target is longer than 4095 bytes"),
        _ if target.contains(&0) => Err("the symbolic link's target holds a NUL byte"),
        _ => Ok(()),
    }
}
