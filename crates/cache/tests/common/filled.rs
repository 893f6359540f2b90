//! A store with many records, written straight into the database: chains of steps, each with a layer of its own on the layers of those before
//! it.

use std::path::Path;

use cache::{Store, StoreOptions};
use rusqlite::Connection;

/// A store below `parent` with so many records in builds of `steps`, and the bytes of its layers, of which there are only the rows.
pub(crate) fn filled(parent: &Path, records: u64, steps: u64) -> (tempfile::TempDir, u64) {
    let dir = tempfile::tempdir_in(parent).expect("a directory");
    drop(Store::open(dir.path(), StoreOptions::default()).expect("open the store"));
    let db = Connection::open(dir.path().join("cache-v1.db")).expect("open the database");
    let fill = format!(
        "PRAGMA synchronous = OFF;
         BEGIN;
         CREATE TEMP TABLE n (i INTEGER PRIMARY KEY);
         WITH RECURSIVE count(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM count WHERE i < {records})
             INSERT INTO n SELECT i FROM count;
         INSERT INTO snapshots (id, changes, entries, size, root, created, used)
             SELECT i, randomblob(32), 1, 1000, 0, 0, i FROM n;
         INSERT INTO trees (id, parent, snapshot)
             SELECT i, CASE (i - 1) % {steps} WHEN 0 THEN NULL ELSE i - 1 END, i FROM n;
         INSERT INTO records (id, content, description, started, duration, used, tree)
             SELECT i, randomblob(32), 'RUN step', 0, 1000000 * (i % 7), i, i FROM n;
         INSERT INTO keys (key, record, seal) SELECT randomblob(32), i, randomblob(32) FROM n;
         INSERT INTO keys (key, record, seal) SELECT randomblob(32), i, randomblob(32) FROM n;
         COMMIT;
         PRAGMA wal_checkpoint(TRUNCATE);"
    );
    db.execute_batch(&fill).expect("fill the database");
    (dir, records * 1000)
}
