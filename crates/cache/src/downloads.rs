use std::time::{Duration, SystemTime};

use hash::Digest;
use image::ContentStore;
use rusqlite::{OptionalExtension, params};

use crate::database::{bytes32, to_millis};
use crate::{CacheError, Store};

/// What a server said of a file that was fetched, to be said again when it is asked whether that has changed (RFC 9110, 13.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// `ETag`, as it came.
    pub etag: Option<String>,
    /// `Last-Modified`, as it came.
    pub last_modified: Option<String>,
    /// The bytes: a blob of [`Store::blobs`].
    pub digest: Digest,
}

/// Kept this long after its last use.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

impl Store {
    /// What was fetched from `url` last; `None` when nothing was or the bytes are gone.
    pub fn download(&self, url: &str) -> Result<Option<Download>, CacheError> {
        let found = self.inner.database.read("look up a download", |db| {
            db.query_row("SELECT etag, modified, digest FROM downloads WHERE url = ?1", [url], |row| {
                Ok(Download {
                    etag: row.get(0)?,
                    last_modified: row.get(1)?,
                    digest: Digest::from_bytes(bytes32(row, 2)?),
                })
            })
            .optional()
        })?;
        let Some(found) = found else { return Ok(None) };
        let there = self.blobs().size(&found.digest).map_err(|source| CacheError::Io {
            action: "look up the download of",
            path: url.into(),
            source,
        })?;
        Ok(there.map(|_| found))
    }

    /// Notes what was fetched from `url`, or that it was found unchanged; the blob is there already.
    pub fn note_download(&self, url: &str, download: &Download) -> Result<(), CacheError> {
        let now = to_millis(SystemTime::now());
        self.inner.database.write("note a download", |db| {
            db.execute(
                "INSERT OR REPLACE INTO downloads (url, etag, modified, digest, used) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![url, download.etag, download.last_modified, download.digest.as_bytes(), now],
            )
            .map(drop)
        })
    }
}

/// Downloads used before this are forgotten by a prune.
pub(crate) fn oldest() -> i64 {
    to_millis(SystemTime::now().checked_sub(KEPT).unwrap_or(SystemTime::UNIX_EPOCH))
}
