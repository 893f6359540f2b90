use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use hash::Digest;
use image::{
    BlobSource, ContentStore, Descriptor, ImageConfig, ImageResolver, Layer, Manifest, Platform, Reference,
    ResolveError, ResolvedImage, TransferProgress,
};
use rusqlite::{Connection, OptionalExtension, params};
use rustix::fs::FlockOperation;

use crate::database::{bytes32, from_millis, from_sql, to_millis, to_sql};
use crate::lock::Lock;
use crate::session::open_lock;
use crate::{BlobStore, CacheError, Store, names};

/// Manifests and configs are small; anything larger is none.
pub(crate) const DOCUMENT_LIMIT: u64 = 16 << 20;

/// An image of the local store: a name for a manifest whose blobs are all here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// With a tag, or with the digest that it was asked for by; never with both.
    pub name: Reference,
    /// What it runs on.
    pub platform: Platform,
    /// The manifest.
    pub manifest: Descriptor,
    /// The index that the name means, where it means one. Others that it lists need not be here.
    pub index: Option<Descriptor>,
    /// Digest of the config: the image id.
    pub config: Digest,
    /// Bytes of all its blobs, without the index.
    pub size: u64,
    /// When it was stored.
    pub created: SystemTime,
}

impl Store {
    /// Names an image. Manifest, config and layers must be in [`Store::blobs`]. What had the name for this platform loses it; one that has it
    /// already stays as it is.
    ///
    /// # Errors
    /// [`CacheError::Io`] of kind `NotFound` or `InvalidData` when a blob is missing or the manifest is none.
    pub fn put_image(
        &self,
        name: &Reference,
        platform: &Platform,
        manifest: &Descriptor,
    ) -> Result<StoredImage, CacheError> {
        let (image, blobs) = self.examined(name, platform, manifest, None)?;
        if let Some(created) = self.named_since(&image, blobs.len())? {
            return Ok(StoredImage { created, ..image });
        }
        self.inner.database.write("name an image", |db| {
            insert(db, &image, &blobs)?;
            names::write(db, &self.inner.layout)
        })?;
        self.inner.made_something();
        Ok(image)
    }

    /// Names an image that was found elsewhere; its documents must be here, that of its index too. Beside it the name keeps those images that
    /// the same index lists, and loses all others: they are what it meant before. Where it means something else by now than it `meant`,
    /// nothing is done, and it is `false`.
    ///
    /// # Errors
    /// As [`Store::put_image`].
    pub fn put_image_of(
        &self,
        name: &Reference,
        platform: &Platform,
        found: &ResolvedImage,
        meant: Option<&Meaning>,
    ) -> Result<bool, CacheError> {
        let index = found.index.as_ref().map(|index| &index.descriptor);
        // What a manifest says of itself is not what is said of it.
        let manifest = Descriptor { annotations: BTreeMap::new(), ..found.manifest.clone() };
        let (image, blobs) = self.examined(name, platform, &manifest, index)?;
        let now = self.meaning(name)?;
        if meant.is_none_or(|meant| *meant == now)
            && now.is_beside(found)
            && now.0.values().all(|(_, of)| *of == index.map(|index| index.digest))
            && self.named_since(&image, blobs.len())?.is_some()
        {
            return Ok(true);
        }
        let is_put = self.inner.database.write("name an image", |db| {
            let now = meaning(db, &image.name)?;
            if meant.is_some_and(|meant| *meant != now) {
                return Ok(false);
            }
            for (platform, (manifest, of)) in &now.0 {
                match lists(found, manifest) {
                    true => put_into_index(db, (&image.name.to_string(), platform), of.as_ref(), index)?,
                    false => drop(remove(db, &image.name, platform)?),
                }
            }
            insert(db, &image, &blobs)?;
            names::write(db, &self.inner.layout)?;
            Ok(true)
        })?;
        self.inner.made_something();
        Ok(is_put)
    }

    /// Gives a name to images, one a platform, and to no others, all at once: what else had it loses it. `index` is what the name means where
    /// it means one.
    ///
    /// # Errors
    /// As [`Store::put_image`].
    pub fn name_images(
        &self,
        name: &Reference,
        manifests: &[(Platform, Descriptor)],
        index: Option<&Descriptor>,
    ) -> Result<(), CacheError> {
        let images: Vec<_> = manifests
            .iter()
            .map(|(platform, manifest)| self.examined(name, platform, manifest, index))
            .collect::<Result<_, _>>()?;
        let wanted: BTreeSet<_> = images.iter().map(|(image, _)| image.platform.to_string()).collect();
        if self.meaning(name)?.0.keys().eq(&wanted) {
            let is_named = |(image, blobs): &(StoredImage, BTreeSet<Digest>)| {
                Ok(self.named_since(image, blobs.len())?.is_some())
            };
            if images.iter().map(is_named).collect::<Result<Vec<_>, CacheError>>()?.iter().all(|named| *named)
            {
                return Ok(());
            }
        }
        let key = key(name);
        self.inner.database.write("name images", |db| {
            for platform in meaning(db, &key)?.0.keys().filter(|platform| !wanted.contains(*platform)) {
                remove(db, &key, platform)?;
            }
            images.iter().try_for_each(|(image, blobs)| insert(db, image, blobs))?;
            names::write(db, &self.inner.layout)
        })?;
        self.inner.made_something();
        Ok(())
    }

    /// What a name means at present.
    pub fn meaning(&self, name: &Reference) -> Result<Meaning, CacheError> {
        self.inner.database.read("look for the images of a name", |db| meaning(db, &key(name)))
    }

    /// A name for an image whose blobs are all here, and which those are.
    fn examined(
        &self,
        name: &Reference,
        platform: &Platform,
        manifest: &Descriptor,
        index: Option<&Descriptor>,
    ) -> Result<(StoredImage, BTreeSet<Digest>), CacheError> {
        let document = self.manifest(manifest)?;
        let mut blobs = vec![manifest, &document.config];
        blobs.extend(&document.layers);
        for blob in blobs.iter().copied().chain(index) {
            if self
                .blobs()
                .size(&blob.digest)
                .map_err(|error| self.blob_error(&blob.digest, error))?
                .is_none()
            {
                return Err(self.blob_error(&blob.digest, io::ErrorKind::NotFound.into()));
            }
        }
        let image = StoredImage {
            name: key(name),
            platform: platform.clone(),
            manifest: manifest.clone(),
            index: index.cloned(),
            config: document.config.digest,
            size: blobs.iter().map(|blob| blob.size).sum(),
            created: from_millis(to_millis(SystemTime::now())),
        };
        Ok((image, blobs.into_iter().chain(index).map(|blob| blob.digest).collect()))
    }

    /// Since when an image of so many blobs has its name, if nothing is left to be written for it. What may not be on the disk yet is noted to
    /// be waited for.
    fn named_since(&self, image: &StoredImage, blobs: usize) -> Result<Option<SystemTime>, CacheError> {
        let known = self.inner.database.read("look for an image", |db| {
            db.prepare_cached(
                "SELECT created, manifest, config,
                     (SELECT count(*) FROM image_blobs WHERE image_blobs.name = images.name AND image_blobs.platform = images.platform),
                     (SELECT count(boot) FROM image_blobs JOIN blobs ON blobs.digest = image_blobs.digest
                      WHERE image_blobs.name = images.name AND image_blobs.platform = images.platform), of_index
                 FROM images WHERE name = ?1 AND platform = ?2",
            )?
            .query_row(params![image.name.to_string(), image.platform.to_string()], |row| {
                let manifest: Descriptor = names::text_column(row, 1, |text| serde_json::from_str(text))?;
                let counts = (row.get::<_, i64>(3)?, row.get::<_, i64>(4)?);
                Ok((row.get(0)?, manifest, bytes32(row, 2)?, counts, names::index_column(row, 5)?))
            })
            .optional()
        })?;
        let Some((created, manifest, config, (known, unsure), index)) = known else { return Ok(None) };
        let Some(list) = names::Listed::open(&self.inner.layout)? else { return Ok(None) };
        let wanted = (&image.manifest, image.config.as_bytes(), &image.index, blobs as i64);
        if (&manifest, &config, &index, known) != wanted {
            return Ok(None);
        }
        if unsure > 0 || !list.is_on_disk()? {
            self.inner.made_something();
        }
        Ok(Some(from_millis(created)))
    }

    /// All images, by name and platform.
    ///
    /// # Errors
    /// [`CacheError::Damaged`] when a row is not what this program writes: the image is not gone, its name is saved by the next repair.
    pub fn list_images(&self) -> Result<Vec<StoredImage>, CacheError> {
        self.inner.database.read("list images", |db| {
            db.prepare_cached(
                "SELECT name, platform, manifest, config, size, created, of_index FROM images ORDER BY name, platform",
            )?
            .query_map([], |row| {
                Ok(StoredImage {
                    name: names::text_column(row, 0, str::parse)?,
                    platform: names::text_column(row, 1, str::parse)?,
                    manifest: names::text_column(row, 2, |text| serde_json::from_str(text))?,
                    config: Digest::from_bytes(bytes32(row, 3)?),
                    size: from_sql(row.get(4)?),
                    created: from_millis(row.get(5)?),
                    index: names::index_column(row, 6)?,
                })
            })?
            .collect()
        })
    }

    /// The images of a name, one a platform. A reference with a digest means the manifest or the index of that digest, whatever its tag.
    pub fn images_named(&self, name: &Reference) -> Result<Vec<StoredImage>, CacheError> {
        let mut images = self.list_images()?;
        images.retain(|image| {
            let same_repository =
                (&image.name.registry, &image.name.repository) == (&name.registry, &name.repository);
            same_repository
                && match &name.digest {
                    Some(digest) => {
                        image.manifest.digest == *digest
                            || image.index.as_ref().is_some_and(|index| index.digest == *digest)
                            || image.name.digest.as_ref() == Some(digest)
                    }
                    None => image.name.tag == name.tag,
                }
        });
        Ok(images)
    }

    /// The image of exactly this name and platform.
    pub fn get_image(
        &self,
        name: &Reference,
        platform: &Platform,
    ) -> Result<Option<StoredImage>, CacheError> {
        Ok(self.images_named(name)?.into_iter().find(|image| image.platform == *platform))
    }

    /// Takes a name away, for all platforms; `false` when it was not there. Blobs stay until they are pruned.
    ///
    /// # Errors
    /// Those of [`Store::session`].
    pub fn remove_image(&self, name: &Reference) -> Result<bool, CacheError> {
        let _lock = self.lock_to_remove()?;
        self.forget_image(name)
    }

    /// From a database that was replaced something would only seem to be removed, and the list of the new one would be lost.
    fn lock_to_remove(&self) -> Result<Lock, CacheError> {
        let path = self.inner.layout.session_lock();
        let lock = Lock::wait(open_lock(&self.inner.layout)?, FlockOperation::LockShared, &path)?;
        self.inner.check_usable()?;
        Ok(lock)
    }

    /// The same for those who hold the session lock.
    pub(crate) fn forget_image(&self, name: &Reference) -> Result<bool, CacheError> {
        let key = key(name).to_string();
        let removed = self.inner.database.write("remove an image", |db| {
            let removed = db.execute("DELETE FROM images WHERE name = ?1", [key])?;
            names::write(db, &self.inner.layout)?;
            Ok(removed)
        })?;
        Ok(removed > 0)
    }

    /// Takes names away from these images; one that means another image by now keeps it. Says how many lost theirs.
    ///
    /// # Errors
    /// Those of [`Store::session`].
    pub fn remove_images(&self, images: &[StoredImage]) -> Result<usize, CacheError> {
        let _lock = self.lock_to_remove()?;
        self.inner.database.write("remove images", |db| {
            let mut removed = 0;
            for image in images {
                let platform = image.platform.to_string();
                let meant = meaning(db, &image.name)?.0.get(&platform).map(|(manifest, _)| *manifest);
                if meant == Some(image.manifest.digest) {
                    removed += remove(db, &image.name, &platform)?;
                }
            }
            names::write(db, &self.inner.layout)?;
            Ok(removed)
        })
    }

    /// Everything about a stored image that can be known without reading layers. Those stay while there is a session, also when the image
    /// loses its name.
    pub fn load_image(&self, image: &StoredImage) -> Result<ResolvedImage, CacheError> {
        let manifest = self.manifest(&image.manifest)?;
        let config: ImageConfig = self.document(&manifest.config)?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            let message = "manifest and config disagree about the number of layers";
            return Err(
                self.blob_error(&image.manifest.digest, io::Error::new(io::ErrorKind::InvalidData, message))
            );
        }
        self.blobs().lease(manifest.layers.iter().map(|layer| &layer.digest))?;
        let layers = manifest.layers.into_iter().zip(&config.rootfs.diff_ids);
        Ok(ResolvedImage {
            name: image.name.familiar(),
            manifest_digest: image.manifest.digest,
            manifest: image.manifest.clone(),
            config_digest: manifest.config.digest,
            platform: image.platform.clone(),
            layers: layers.map(|(descriptor, diff_id)| Layer { descriptor, diff_id: *diff_id }).collect(),
            config,
            index: None,
            documents: None,
            blobs: Arc::new(self.blobs().clone()),
        })
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Manifest, CacheError> {
        self.document(descriptor)
    }

    fn document<T: serde::de::DeserializeOwned>(&self, descriptor: &Descriptor) -> Result<T, CacheError> {
        let store: &dyn ContentStore = self.blobs();
        let bytes = store
            .read(&descriptor.digest, DOCUMENT_LIMIT)
            .and_then(|bytes| bytes.ok_or_else(|| io::ErrorKind::NotFound.into()))
            .map_err(|error| self.blob_error(&descriptor.digest, error))?;
        serde_json::from_slice(&bytes).map_err(|error| self.blob_error(&descriptor.digest, error.into()))
    }

    fn blob_error(&self, digest: &Digest, source: io::Error) -> CacheError {
        CacheError::Io { action: "read", path: self.inner.layout.blob(digest), source }
    }
}

/// What a name means: for each platform the digests of the manifest and of its index, if it is of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meaning(BTreeMap<String, (Digest, Option<Digest>)>);

impl Meaning {
    /// Whether all of it is what the name of an image means that was found elsewhere. So is nothing.
    pub fn is_beside(&self, found: &ResolvedImage) -> bool {
        self.0.values().all(|(manifest, _)| lists(found, manifest))
    }
}

/// Whether what the name of an image means has this manifest.
fn lists(found: &ResolvedImage, manifest: &Digest) -> bool {
    match &found.index {
        Some(index) => index.manifests.contains(manifest),
        None => *manifest == found.manifest.digest,
    }
}

fn meaning(db: &Connection, key: &Reference) -> rusqlite::Result<Meaning> {
    let mut select = db.prepare_cached("SELECT platform, manifest, of_index FROM images WHERE name = ?1")?;
    let rows = select.query_map([key.to_string()], |row| {
        let manifest: Descriptor = names::text_column(row, 1, |text| serde_json::from_str(text))?;
        let index = names::index_column(row, 2)?;
        Ok((row.get(0)?, (manifest.digest, index.map(|index| index.digest))))
    })?;
    rows.collect::<Result<_, _>>().map(Meaning)
}

/// In the place of what had the name for this platform.
fn insert(db: &Connection, image: &StoredImage, blobs: &BTreeSet<Digest>) -> rusqlite::Result<()> {
    let (key, platform) = (image.name.to_string(), image.platform.to_string());
    let manifest = to_json(&image.manifest)?;
    let index = image.index.as_ref().map(to_json).transpose()?;
    remove(db, &image.name, &platform)?;
    db.execute(
        "INSERT INTO images (name, platform, manifest, config, size, created, of_index)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            key,
            platform,
            manifest,
            image.config.as_bytes(),
            to_sql(image.size),
            to_millis(image.created),
            index
        ],
    )?;
    blobs.iter().try_for_each(|blob| keep_blob(db, &key, &platform, blob))
}

fn keep_blob(db: &Connection, key: &str, platform: &str, blob: &Digest) -> rusqlite::Result<()> {
    db.execute(
        "INSERT OR IGNORE INTO image_blobs (name, platform, digest) VALUES (?1, ?2, ?3)",
        params![key, platform, blob.as_bytes()],
    )?;
    Ok(())
}

/// The name of an image means this index now, and lists it as the one `before` did.
fn put_into_index(
    db: &Connection,
    (key, platform): (&str, &str),
    before: Option<&Digest>,
    index: Option<&Descriptor>,
) -> rusqlite::Result<()> {
    if let Some(before) = before {
        let forget = "DELETE FROM image_blobs WHERE name = ?1 AND platform = ?2 AND digest = ?3";
        db.execute(forget, params![key, platform, before.as_bytes()])?;
    }
    let change = "UPDATE images SET of_index = ?3 WHERE name = ?1 AND platform = ?2";
    db.execute(change, params![key, platform, index.map(to_json).transpose()?])?;
    index.map_or(Ok(()), |index| keep_blob(db, key, platform, &index.digest))
}

/// Names whose index has no blob any more mean no index from now on: without it an image is still the one of its platform.
pub(crate) fn forget_lost_indexes(db: &Connection) -> rusqlite::Result<()> {
    let mut select = db.prepare("SELECT name, platform, of_index FROM images WHERE of_index IS NOT NULL")?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, names::index_column(row, 2)?)))?;
    let indexes: Vec<(String, String, Option<Descriptor>)> = rows.collect::<Result<_, _>>()?;
    let mut is_there = db.prepare("SELECT EXISTS (SELECT 1 FROM blobs WHERE digest = ?1)")?;
    for (name, platform, index) in indexes {
        let Some(Descriptor { digest, .. }) = index else { continue };
        if !is_there.query_row([digest.as_bytes()], |row| row.get::<_, bool>(0))? {
            put_into_index(db, (&name, &platform), Some(&digest), None)?;
        }
    }
    Ok(())
}

fn to_json(descriptor: &Descriptor) -> rusqlite::Result<String> {
    serde_json::to_string(descriptor)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn remove(db: &Connection, key: &Reference, platform: &str) -> rusqlite::Result<usize> {
    db.execute("DELETE FROM images WHERE name = ?1 AND platform = ?2", params![key.to_string(), platform])
}

/// What an image is kept under: a digest says all, and the tag in front of it may be another image's by now.
fn key(name: &Reference) -> Reference {
    match name.digest {
        Some(_) => Reference { tag: None, ..name.clone() },
        None => name.clone(),
    }
}

#[async_trait]
impl ImageResolver for Store {
    /// Finds an image by its exact name and platform. An image that lost a blob is reported as invalid.
    async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<ResolvedImage, ResolveError> {
        let name = reference.familiar();
        let invalid =
            |error: CacheError| ResolveError::Invalid { name: name.clone(), message: error.to_string() };
        let images = self.images_named(reference).map_err(invalid)?;
        let Some(image) = images.iter().find(|image| image.platform == *platform) else {
            if images.is_empty() {
                return Err(ResolveError::NotFound(name));
            }
            let available: Vec<String> = images.iter().map(|image| image.platform.to_string()).collect();
            return Err(ResolveError::NoPlatform {
                name,
                platform: Box::new(platform.clone()),
                available: available.join(", "),
            });
        };
        self.load_image(image).map_err(invalid)
    }
}

#[async_trait]
impl BlobSource for BlobStore {
    async fn fetch(
        &self,
        blob: &Descriptor,
        store: &dyn ContentStore,
        progress: &dyn TransferProgress,
    ) -> Result<(), ResolveError> {
        let failed = |source| ResolveError::Io { action: format!("copy blob {}", blob.digest), source };
        if store.size(&blob.digest).map_err(failed)? == Some(blob.size) {
            return Ok(());
        }
        let Some(mut reader) = self.open(&blob.digest).map_err(failed)? else {
            return Err(ResolveError::NotFound(format!("blob {}", blob.digest)));
        };
        let mut writer = store.create().map_err(failed)?;
        io::copy(&mut reader, &mut writer).map_err(failed)?;
        writer.commit(Some(&blob.digest)).map_err(failed)?;
        progress.transferred(&blob.digest, blob.size, blob.size);
        Ok(())
    }
}
