//! Results that were made elsewhere: layers that come in, keys that go out.

use std::time::SystemTime;

use hash::CacheKey;
use rusqlite::params;

use crate::database::bytes32;
use crate::snapshots::{ActiveSnapshot, Origin};
use crate::{CacheError, Changes, RecordId, SnapshotId, Store};

impl Store {
    /// Commits a layer that was made elsewhere at `created`: what is packed of it then has the times that it has there.
    /// `describes_root`: whether the layer says something about the root directory itself.
    pub fn import(
        &self,
        mut layer: ActiveSnapshot,
        changes: &Changes,
        created: SystemTime,
        describes_root: bool,
    ) -> Result<SnapshotId, CacheError> {
        layer.origin = Some(Origin { created, describes_root });
        Ok(layer.commit(changes)?.id())
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
