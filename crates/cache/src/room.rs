//! Room on a full disk, where nothing can be written, not even that something is to be removed.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, StatVfs, statvfs};
use rustix::io::Errno;

use crate::CacheError;
use crate::error::At;
use crate::layout::Layout;

/// Bytes that wait in a file for whoever makes room, at most.
const RESERVE: u64 = 8 << 20;

/// Of a small file system the reserve is this part.
const PART: u64 = 128;

/// With less than this, in bytes, on blocks that are smaller than a page, SQLite's index of its log has holes when it is mapped, and the
/// kernel ends a process that writes into one (SIGBUS).
const LEAST: u64 = 256 << 10;
const PAGE: u64 = 4096;

/// How much is free, in bytes.
pub(crate) fn free(disk: &StatVfs) -> u64 {
    disk.f_bavail.saturating_mul(disk.f_frsize)
}

fn reserve(disk: &StatVfs) -> u64 {
    RESERVE.min(disk.f_blocks.saturating_mul(disk.f_frsize) / PART)
}

/// Removes the reserve where the disk is full: for who is about to remove more.
pub(crate) fn use_reserve(layout: &Layout) -> Result<(), CacheError> {
    let disk = examine(layout.root())?;
    if free(&disk) >= 2 * reserve(&disk) {
        return Ok(());
    }
    remove_reserve(layout)
}

/// For who leaves nothing that would have to be removed.
pub(crate) fn remove_reserve(layout: &Layout) -> Result<(), CacheError> {
    match fs::remove_file(layout.reserve()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("remove", &layout.reserve()),
        _ => Ok(()),
    }
}

/// Makes the reserve again, where there is room for many. That it cannot be made stops nobody.
pub(crate) fn keep_reserve(layout: &Layout) {
    let path = layout.reserve();
    let Ok(disk) = examine(layout.root()) else { return };
    let size = reserve(&disk);
    if free(&disk) < 16 * size || path.exists() {
        return;
    }
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    // Written bytes could be shared or left out by a file system; these are its own.
    let made = made.and_then(|file| Ok(rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size)?));
    if made.is_err() {
        let _ = fs::remove_file(&path);
    }
}

/// Says that the disk is full where SQLite would not be told so: on one with blocks of so many bytes.
pub(crate) fn check(layout: &Layout, block: u64) -> Result<(), CacheError> {
    if block >= PAGE || free(&examine(layout.root())?) >= LEAST {
        return Ok(());
    }
    Err(io::Error::from(Errno::NOSPC)).at("write in", layout.root())
}

fn examine(root: &Path) -> Result<StatVfs, CacheError> {
    statvfs(root).at("examine the file system of", root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_disk_reserves_little() {
        let disk = |blocks| StatVfs { f_frsize: 4096, f_blocks: blocks, ..statvfs("/").unwrap() };
        assert_eq!(reserve(&disk(1 << 30)), RESERVE);
        assert_eq!(reserve(&disk(60 << 8)), 60 << 13);
        assert_eq!(reserve(&disk(0)), 0);
    }
}
