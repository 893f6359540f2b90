//! Files of a selection that are read otherwise than by copying them.

use std::fs::File;
use std::io::{self, Read, Seek as _};

use hash::StableHasher;

use crate::digest::{BUFFER, content_hasher, ensure_unchanged, pairs, vanished};
use crate::error::check;
use crate::{Cancelled, Error, FileTree, Match, TreeError};

/// A file that was selected, opened. What was read of it counts once [`Reading::finish`] says that it is what was selected, and hashed since.
pub struct Reading<'a> {
    tree: &'a dyn FileTree,
    found: &'a Match,
    file: File,
    doubt: Option<Doubt>,
}

/// Of a file whose times do not tell whether it changed: what is read is hashed.
struct Doubt {
    expected: [u8; 32],
    /// With nothing read yet.
    start: StableHasher,
    hasher: StableHasher,
    read: u64,
}

impl<'a> Reading<'a> {
    /// Opens a match that is a file.
    ///
    /// # Errors
    /// [`Error::Changed`] when it is not what it was when it was selected.
    pub fn open(tree: &'a dyn FileTree, found: &'a Match) -> Result<Reading<'a>, Error> {
        let path = &found.source;
        let Some(entry) = found.entries().next() else { return Err(Error::changed(path)) };
        let file = tree.open(path).map_err(|error| vanished(error, path))?;
        ensure_unchanged(tree, path, entry.metadata, &file)?;
        let doubt = match found.known().and_then(|known| known.doubtful(0, entry.metadata)) {
            Some(expected) => {
                let xattrs = tree.xattrs_of(path, &file)?;
                let start = content_hasher(pairs(&xattrs), entry.metadata.size);
                Some(Doubt { expected, hasher: start.clone(), start, read: 0 })
            }
            None => None,
        };
        Ok(Reading { tree, found, file, doubt })
    }

    /// Goes back to where the file begins.
    ///
    /// # Errors
    /// When the file cannot be read from there.
    pub fn rewind(&mut self) -> Result<(), Error> {
        self.file.rewind().map_err(|source| self.error(source))?;
        if let Some(doubt) = &mut self.doubt {
            (doubt.hasher, doubt.read) = (doubt.start.clone(), 0);
        }
        Ok(())
    }

    /// Says whether all that was read since the beginning is what was selected.
    ///
    /// # Errors
    /// [`Error::Changed`] when it is not.
    pub fn finish(mut self, cancelled: Cancelled<'_>) -> Result<(), Error> {
        if self.doubt.is_some() {
            // Who reads an archive does not read what follows it.
            let mut rest = vec![0; BUFFER];
            loop {
                check(cancelled)?;
                match self.read(&mut rest) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(source) => return Err(self.error(source)),
                }
            }
        }
        let (path, entry) = (&self.found.source, self.found.entries().next());
        let Some(entry) = entry else { return Err(Error::changed(path)) };
        ensure_unchanged(self.tree, path, entry.metadata, &self.file)?;
        let is_other =
            |doubt: Doubt| doubt.read != entry.metadata.size || doubt.hasher.finish() != doubt.expected;
        if self.doubt.is_some_and(is_other) { Err(Error::changed(path)) } else { Ok(()) }
    }

    fn error(&self, source: io::Error) -> Error {
        TreeError::new("read", &self.found.source, source).into()
    }
}

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(buffer)?;
        if let Some(doubt) = &mut self.doubt {
            doubt.hasher.raw(&buffer[..length]);
            doubt.read += length as u64;
        }
        Ok(length)
    }
}
