use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;

use crate::Attributes;

/// What a regular file is, to the last attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileForm {
    /// Of its bytes and extended attributes: any digest that tells them apart.
    pub content: [u8; 32],
    /// In bytes.
    pub size: u64,
    /// As in [`Attributes`].
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970, nanoseconds.
    pub mtime: (i64, u32),
}

impl FileForm {
    /// Of a file with these attributes; `None` when its time is to be that of writing. The extended attributes are in `content`.
    pub fn new(content: [u8; 32], size: u64, attributes: &Attributes) -> Option<FileForm> {
        let &Attributes { mode, uid, gid, mtime, .. } = attributes;
        Some(FileForm { content, size, mode, uid, gid, mtime: mtime? })
    }
}

/// Files that exist elsewhere and may get one more name, where they would otherwise be written again. Used by many threads at once.
pub trait SharedFiles: Send + Sync {
    /// Makes `name` in an open directory one more name of a file of that form. Returns whether there was such a file and this was
    /// possible; if not, the caller writes one and offers it ([`SharedFiles::keep`]).
    fn link(&self, form: &FileForm, directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<bool>;

    /// Offers a complete file of that form, which is not written to any more.
    fn keep(&self, form: &FileForm, directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<()>;
}
