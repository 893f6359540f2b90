//! Results that were made elsewhere: layers that come in, keys that go out.

use std::time::SystemTime;

use hash::CacheKey;
use rusqlite::params;

use crate::database::{bytes32, to_millis};
use crate::snapshots::ActiveSnapshot;
use crate::{CacheError, Changes, RecordId, SnapshotId, Store};

impl Store {
    /// Commits a layer that was made elsewhere at `created`: what is packed of it then has the times that it has there.
    /// `describes_root`: whether the layer says something about the root directory itself.
    pub fn import(
        &self,
        layer: ActiveSnapshot,
        changes: &Changes,
        created: SystemTime,
        describes_root: bool,
    ) -> Result<SnapshotId, CacheError> {
        let id = layer.commit(changes)?.id();
        self.inner.database.write("note when a layer was made", |db| {
            db.execute(
                "UPDATE snapshots SET created = ?2, root = ?3 WHERE id = ?1",
                params![id.0, to_millis(created), describes_root],
            )
        })?;
        Ok(id)
    }

    /// The keys that a result is filed under, at most `most`; empty when it is gone.
    pub fn keys_of(&self, record: RecordId, most: usize) -> Result<Vec<CacheKey>, CacheError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        self.inner.database.read("look up the keys of a result", |db| {
            db.prepare_cached("SELECT key FROM keys WHERE record = ?1 ORDER BY key LIMIT ?2")?
                .query_map(params![record.0, most], |row| bytes32(row, 0).map(CacheKey::from_bytes))?
                .collect()
        })
    }
}
