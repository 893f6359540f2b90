//! What keeps a small stream from becoming a huge one.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// So much may come out of any stream, in bytes: a file of 8 GB that holds nothing but zeros is no attack.
static ALWAYS: AtomicU64 = AtomicU64::new(16 << 30);
/// Beyond that, so many times what went in. Programs, texts and databases come to 20, and gzip to 1032 at most.
const TIMES: u64 = 200;

/// What a file takes beside its bytes, roughly: an inode and a name.
const OF_A_FILE: u64 = 1 << 10;

/// Sets how many bytes may come out of any stream, however few went in, for all of the process; 16 GiB if this is not called. What is larger may
/// have 200 times the size of what went in. An archive may have an entry for each KiB of this number.
pub fn set_unpack_limit(bytes: u64) {
    ALWAYS.store(bytes, Ordering::Relaxed);
}

/// Whether `made` bytes out of `stored` ones are a bomb.
pub(crate) fn is_bomb(stored: u64, made: u64) -> bool {
    made > ALWAYS.load(Ordering::Relaxed) && made > stored.saturating_mul(TIMES)
}

/// How many entries an archive may have: empty files have no bytes that could be counted.
pub(crate) fn most_entries() -> u64 {
    ALWAYS.load(Ordering::Relaxed) / OF_A_FILE
}

/// Counts what is read.
pub(crate) struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R> Counted<R> {
    /// A reader, and where it counts.
    pub(crate) fn new(inner: R) -> (Counted<R>, Arc<AtomicU64>) {
        let count = Arc::<AtomicU64>::default();
        (Counted { inner, count: count.clone() }, count)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Ends with an error of kind [`io::ErrorKind::InvalidData`] when too much comes out.
pub(crate) struct Bounded<R> {
    inner: R,
    stored: Arc<AtomicU64>,
    made: u64,
    is_bomb: fn(u64, u64) -> bool,
}

impl<R> Bounded<R> {
    /// Of a decoder that reads what `stored` counts.
    pub(crate) fn new(inner: R, stored: Arc<AtomicU64>) -> Bounded<R> {
        Bounded { inner, stored, made: 0, is_bomb }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.made += read as u64;
        let stored = self.stored.load(Ordering::Relaxed);
        if (self.is_bomb)(stored, self.made) {
            let message =
                format!("{stored} bytes unpack to more than {} bytes: it is taken for a bomb", self.made);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_files_are_no_bombs() {
        // A file of 8 GB of zeros, as gzip makes of it.
        assert!(!is_bomb(8 << 20, 8 << 30));
        assert!(!is_bomb(1 << 30, 150 << 30));
        assert!(is_bomb(17 << 20, 17 << 30));
        assert!(is_bomb(0, u64::MAX) && !is_bomb(u64::MAX, u64::MAX));
    }

    #[test]
    fn too_much_is_an_error() {
        let (input, stored) = Counted::new(&b"ab"[..]);
        let endless = input.chain(io::repeat(0));
        let mut bounded =
            Bounded { inner: endless, stored, made: 0, is_bomb: |stored, made| made > stored * 1000 };
        let mut made = Vec::new();
        let error = bounded.read_to_end(&mut made).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().starts_with("2 bytes unpack to more than 2"), "{error}");
        assert!(made.len() <= 2000);
    }
}
