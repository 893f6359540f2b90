use hash::Digest;
use image::{ContentStore, Descriptor, Layer};
use rusqlite::{OptionalExtension, params};

use crate::database::bytes32;
use crate::{CacheError, SnapshotId, Store, seals};

impl Store {
    /// The snapshot of the topmost layer of a chain of image layers, unpacked and verified here.
    pub fn chain(&self, chain_id: &Digest) -> Result<Option<SnapshotId>, CacheError> {
        let found = self.inner.database.read("look up a chain", |db| {
            db.prepare_cached("SELECT snapshot, seal FROM chains WHERE chain = ?1")?
                .query_row([chain_id.as_bytes()], |row| {
                    let id = row.get(0)?;
                    let seal = seals::of_chain(chain_id.as_bytes(), id);
                    Ok((SnapshotId(id), seals::is_intact(row.get_ref(1)?, seal)))
                })
                .optional()
        })?;
        match found {
            Some((_, false)) => {
                self.inner.damage.note("the record of an unpacked layer");
                self.inner.database.write("remove a broken chain", |db| {
                    db.execute("DELETE FROM chains WHERE chain = ?1", [chain_id.as_bytes()])
                })?;
                Ok(None)
            }
            Some((id, true)) if self.inner.is_there(id)? => {
                self.inner.leases.saw_layer(id);
                Ok(Some(id))
            }
            _ => Ok(None),
        }
    }

    /// Files a snapshot under its chain id. Only for layers whose diff ids were verified by unpacking them: a config may lie.
    pub fn set_chain(&self, chain_id: &Digest, snapshot: SnapshotId) -> Result<(), CacheError> {
        self.inner.database.write("file a chain", |db| {
            db.execute(
                "INSERT OR REPLACE INTO chains (chain, snapshot, seal) VALUES (?1, ?2, ?3)",
                params![chain_id.as_bytes(), snapshot.0, seals::of_chain(chain_id.as_bytes(), snapshot.0)],
            )
        })?;
        Ok(())
    }

    /// The layer blob that was made of a snapshot (or that a snapshot was unpacked from). `form` names all that decides about the
    /// blob's bytes beside the snapshot: compression, level, epoch, version of the packer.
    pub fn packed(&self, snapshot: SnapshotId, form: &str) -> Result<Option<Layer>, CacheError> {
        let found = self.inner.database.read("look up a packed layer", |db| {
            let select =
                "SELECT descriptor, diff_id, digest, seal FROM packed WHERE snapshot = ?1 AND form = ?2";
            db.prepare_cached(select)?
                .query_row(params![snapshot.0, form], |row| {
                    let (descriptor, diff_id): (String, _) = (row.get(0)?, bytes32(row, 1)?);
                    let seal = seals::of_packed(snapshot.0, form, &bytes32(row, 2)?, &diff_id, &descriptor);
                    Ok((descriptor, diff_id, seals::is_intact(row.get_ref(3)?, seal)))
                })
                .optional()
        })?;
        let Some((descriptor, diff_id, is_intact)) = found else { return Ok(None) };
        if !is_intact {
            self.inner.damage.note("the record of a packed layer");
            self.inner.database.write("remove a broken record of a blob", |db| {
                db.execute("DELETE FROM packed WHERE snapshot = ?1 AND form = ?2", params![snapshot.0, form])
            })?;
            return Ok(None);
        }
        let Ok(descriptor) = serde_json::from_str::<Descriptor>(&descriptor) else { return Ok(None) };
        let size = self.blobs().size(&descriptor.digest).map_err(|source| CacheError::Io {
            action: "examine",
            path: self.inner.layout.blob(&descriptor.digest),
            source,
        })?;
        Ok((size == Some(descriptor.size))
            .then(|| Layer { descriptor, diff_id: Digest::from_bytes(diff_id) }))
    }

    /// Remembers the blob made of a snapshot; it keeps the blob from being pruned.
    pub fn set_packed(&self, snapshot: SnapshotId, form: &str, layer: &Layer) -> Result<(), CacheError> {
        let descriptor = serde_json::to_string(&layer.descriptor).map_err(|error| CacheError::Database {
            action: "write a descriptor",
            path: self.inner.database.path().to_owned(),
            message: error.to_string(),
        })?;
        let (digest, diff_id) = (layer.descriptor.digest.as_bytes(), layer.diff_id.as_bytes());
        let seal = seals::of_packed(snapshot.0, form, digest, diff_id, &descriptor);
        self.inner.database.write("file a packed layer", |db| {
            db.execute(
                "INSERT OR REPLACE INTO packed (snapshot, form, digest, diff_id, descriptor, seal)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![snapshot.0, form, digest, diff_id, descriptor, seal],
            )
        })?;
        Ok(())
    }
}
