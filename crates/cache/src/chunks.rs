use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use hash::Digest;
use image::{ChunkMemory, LONGEST_PIECE, Piece};
use rusqlite::{OptionalExtension, params};

use crate::Store;
use crate::database::{bytes32, from_sql, to_sql};
use crate::store::Inner;

/// Compressed pieces, where they stand in the blobs of the store. Nothing is kept twice: a piece is gone with its blobs.
#[derive(Debug)]
pub struct StoredChunks {
    inner: Arc<Inner>,
    /// Blobs that pieces were read from.
    open: Mutex<HashMap<Digest, Arc<File>>>,
}

impl Store {
    /// The pieces of layers that were compressed here; `None` where they are not to be used.
    pub fn chunks(&self) -> Option<Arc<dyn ChunkMemory>> {
        if self.inner.options.forget_chunks {
            return None;
        }
        Some(Arc::new(StoredChunks { inner: self.inner.clone(), open: Mutex::default() }))
    }
}

impl StoredChunks {
    fn read(&self, key: &[u8; 32]) -> io::Result<Option<(Vec<u8>, [u8; 32])>> {
        let row = self.inner.database.read("look up a compressed piece", |db| {
            db.prepare_cached("SELECT blob, start, length, seal FROM chunks WHERE key = ?1")?
                .query_row([key], |row| {
                    let blob = Digest::from_bytes(bytes32(row, 0)?);
                    Ok((blob, from_sql(row.get(1)?), from_sql(row.get(2)?), bytes32(row, 3)?))
                })
                .optional()
        })?;
        let Some((blob, start, length, seal)) = row.filter(|(_, _, length, _)| *length <= LONGEST_PIECE)
        else {
            return Ok(None);
        };
        let mut bytes = vec![0; length as usize];
        self.open(&blob)?.read_exact_at(&mut bytes, start)?;
        Ok((image::seal(&bytes) == seal).then_some((bytes, seal)))
    }

    fn open(&self, blob: &Digest) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(blob) {
            return Ok(file.clone());
        }
        let file = Arc::new(File::open(self.inner.layout.blob(blob))?);
        open.insert(*blob, file.clone());
        Ok(file)
    }
}

impl ChunkMemory for StoredChunks {
    /// What cannot be read is compressed again.
    fn find(&self, key: &[u8; 32]) -> Option<(Vec<u8>, [u8; 32])> {
        self.read(key).ok().flatten()
    }

    fn remember(&self, blob: &Digest, pieces: &[Piece]) -> io::Result<()> {
        if pieces.is_empty() {
            return Ok(());
        }
        // Also of those that were found: this blob stays longer than the one that they are from.
        self.inner.database.write("remember compressed pieces", |db| {
            let mut insert = db.prepare_cached(
                "INSERT OR REPLACE INTO chunks (key, blob, start, length, seal) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?;
            for piece in pieces {
                let (start, length) = (to_sql(piece.offset), to_sql(piece.length));
                insert.execute(params![piece.key, blob.as_bytes(), start, length, piece.seal])?;
            }
            Ok(())
        })?;
        Ok(())
    }
}
