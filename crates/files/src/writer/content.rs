//! Filling a new file from another: shared, copied by the kernel, or read and written.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use crate::Cancelled;

/// Between two looks at the cancellation.
const STEP: usize = 8 * 1024 * 1024;
/// Smaller files are read and written: three system calls fewer to learn whether the kernel can do it.
const SMALL: u64 = 64 * 1024;

/// As many zeros, in bytes, are not written where a file is made of what is read: archives tell of holes by leaving them out, and streams
/// by zeros, so that a small one can have many of them.
const HOLE: usize = 64 * 1024;
static ZEROS: [u8; HOLE] = [0; HOLE];

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What the file systems at hand can do, found out once.
#[derive(Debug)]
pub(super) struct Cloning {
    reflink: AtomicBool,
    in_kernel: AtomicBool,
}

impl Default for Cloning {
    fn default() -> Self {
        Cloning { reflink: AtomicBool::new(true), in_kernel: AtomicBool::new(true) }
    }
}

impl Cloning {
    /// Everything is read and written.
    pub(super) fn none() -> Cloning {
        Cloning { reflink: AtomicBool::new(false), in_kernel: AtomicBool::new(false) }
    }

    /// Copies `size` bytes, or up to the end of `source`, into the empty `target`. Returns how many.
    pub(super) fn fill(
        &self,
        target: &File,
        source: &File,
        size: u64,
        cancelled: Cancelled<'_>,
    ) -> io::Result<u64> {
        if size == 0 {
            return Ok(0);
        }
        if self.reflink.load(Ordering::Relaxed) {
            // Takes the whole file; more than `size` then is a change, which the caller finds by its stat.
            match rustix::fs::ioctl_ficlone(target, source) {
                Ok(()) => return Ok(rustix::fs::fstat(target)?.st_size as u64),
                Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::NOTTY | Errno::NOSYS) => {
                    self.reflink.store(false, Ordering::Relaxed);
                }
                // Of this file alone.
                Err(_) => {}
            }
        }
        if size > SMALL && self.in_kernel.load(Ordering::Relaxed) && has_holes(source, size)? {
            return fill_around_holes(target, source, size, cancelled);
        }
        let mut written = 0;
        if size > SMALL && self.in_kernel.load(Ordering::Relaxed) {
            while written < size {
                give_up(cancelled)?;
                let step = usize::try_from(size - written).unwrap_or(STEP).min(STEP);
                match rustix::fs::copy_file_range(source, None, target, None, step) {
                    Ok(0) => break,
                    Ok(length) => written += length as u64,
                    Err(Errno::INTR) => {}
                    Err(
                        Errno::XDEV
                        | Errno::NOSYS
                        | Errno::OPNOTSUPP
                        | Errno::INVAL
                        | Errno::PERM
                        | Errno::IO,
                    ) if written == 0 => {
                        self.in_kernel.store(false, Ordering::Relaxed);
                        break;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        // Some file systems yield nothing that way though there is something.
        if written == 0 { read_and_write(target, source, size, cancelled) } else { Ok(written) }
    }
}

/// The file systems that are believed where they say that there is nothing (`statfs(2)`): ext2 to ext4, XFS, btrfs, tmpfs. ZFS once said so of what was
/// not written yet.
const KNOW_HOLES: [u32; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994];

/// Whether a file takes less room than it is long, by more than what the last block of a file may not need.
fn has_holes(source: &File, size: u64) -> io::Result<bool> {
    let blocks = rustix::fs::fstat(source)?.st_blocks;
    if u64::try_from(blocks).unwrap_or(0).saturating_mul(512) >= size.saturating_sub(SMALL) {
        return Ok(false);
    }
    Ok(KNOW_HOLES.contains(&(rustix::fs::fstatfs(source)?.f_type as u32)))
}

/// Copies `size` bytes, or up to the end of `source`, into the empty `target`, and no holes: the kernel would fill them with zeros, and a
/// file of 20 GB with little in it take 20 GB. Returns how many.
fn fill_around_holes(target: &File, source: &File, size: u64, cancelled: Cancelled<'_>) -> io::Result<u64> {
    let mut at = 0;
    while at < size {
        let begin = match rustix::fs::seek(source, rustix::fs::SeekFrom::Data(at)) {
            Ok(begin) => begin,
            // Nothing but a hole up to the end, or the file has become shorter.
            Err(Errno::NXIO) => break,
            // A file system that knows of no holes.
            Err(_) => at,
        };
        let end = rustix::fs::seek(source, rustix::fs::SeekFrom::Hole(begin)).unwrap_or(size).min(size);
        at = begin;
        while at < end {
            give_up(cancelled)?;
            match copy_piece(target, source, at, end)? {
                0 => break,
                length => at += length,
            }
        }
        if at < end {
            break;
        }
    }
    let length = u64::try_from(rustix::fs::fstat(source)?.st_size).unwrap_or(0).min(size);
    target.set_len(length)?;
    Ok(length)
}

/// Copies some of what is between two places to the same place. Returns how much.
fn copy_piece(target: &File, source: &File, at: u64, end: u64) -> io::Result<u64> {
    let step = usize::try_from(end - at).unwrap_or(STEP).min(STEP);
    let (mut from, mut to) = (at, at);
    if let Ok(length @ 1..) =
        rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), step)
    {
        return Ok(length as u64);
    }
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(buffer.len().max(256 * 1024), 0);
        let step = step.min(buffer.len());
        let length = source.read_at(&mut buffer[..step], at)?;
        target.write_all_at(&buffer[..length], at)?;
        Ok(length as u64)
    })
}

/// Fills the empty `target` with all that `content` yields. Returns how many bytes.
pub(super) fn fill_from(target: &File, content: &mut dyn Read) -> io::Result<u64> {
    // Taken, not borrowed: nobody knows what reading does.
    let mut buffer = BUFFER.take();
    buffer.resize(buffer.len().max(HOLE), 0);
    let written = copy_with_holes(target, content, &mut buffer[..HOLE]);
    BUFFER.set(buffer);
    written
}

fn copy_with_holes(mut target: &File, content: &mut dyn Read, block: &mut [u8]) -> io::Result<u64> {
    let (mut written, mut hole) = (0, 0);
    loop {
        let length = read_block(content, block)?;
        if length == 0 {
            break;
        }
        if block[..length] == ZEROS {
            hole += HOLE as i64;
        } else {
            if hole > 0 {
                target.seek(SeekFrom::Current(std::mem::take(&mut hole)))?;
            }
            target.write_all(&block[..length])?;
        }
        written += length as u64;
    }
    if hole > 0 {
        target.set_len(written)?;
    }
    Ok(written)
}

/// Fills a block as far as there is something.
fn read_block(content: &mut dyn Read, block: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < block.len() {
        match content.read(&mut block[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

fn read_and_write(
    mut target: &File,
    mut source: &File,
    size: u64,
    cancelled: Cancelled<'_>,
) -> io::Result<u64> {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(buffer.len().max(256 * 1024), 0);
        let mut written = 0;
        while written < size {
            give_up(cancelled)?;
            let step = usize::try_from(size - written).unwrap_or(buffer.len()).min(buffer.len());
            let length = match source.read(&mut buffer[..step]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                length => length?,
            };
            if length == 0 {
                break;
            }
            target.write_all(&buffer[..length])?;
            written += length as u64;
        }
        Ok(written)
    })
}

fn give_up(cancelled: Cancelled<'_>) -> io::Result<()> {
    // The caller tells it from a real error by asking again.
    if cancelled() { Err(io::Error::other("cancelled")) } else { Ok(()) }
}
