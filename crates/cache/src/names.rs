//! The names of images, once more beside the database: everything else there is made again by a build, a name that somebody gave is not.
//!
//! `images-v1` is written with each change of the table, before the change is complete, and read only when the database is damaged: a line
//! with a checksum, then one JSON object an image.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hash::Digest;
use image::{Descriptor, Manifest, Platform, Reference};
use rusqlite::{Connection, Transaction, params};
use serde::{Deserialize, Serialize};

use crate::CacheError;
use crate::database::{from_sql, to_millis, to_sql};
use crate::error::At;
use crate::images::DOCUMENT_LIMIT;
use crate::layout::Layout;

const HEADING: &str = "builder images v1 ";

/// A row of the table `images`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Named {
    name: String,
    platform: String,
    manifest: Descriptor,
    /// The index that the name means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    index: Option<Descriptor>,
    created: i64,
}

/// Writes the list as the table has it now. For the end of the transaction that changes it, so that of two changes the later one is
/// written later.
pub(crate) fn write(db: &Transaction<'_>, layout: &Layout) -> rusqlite::Result<()> {
    let mut text = String::new();
    // An error ends it: what cannot be read must not be lost here as well.
    for named in all(db)? {
        text += &serde_json::to_string(&named).map_err(failed)?;
        text.push('\n');
    }
    let text = format!("{HEADING}{}\n{text}", Digest::of(text.as_bytes()).hex());
    let path = layout.image_names();
    // Nobody else writes now: the transaction is the only one.
    let mut fresh = path.clone().into_os_string();
    fresh.push(".new");
    fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, &path)).map_err(failed)
}

/// The list as it is now. Others may replace it meanwhile.
pub(crate) struct Listed {
    file: File,
    path: PathBuf,
}

impl Listed {
    /// `None` where no image was ever named.
    pub(crate) fn open(layout: &Layout) -> Result<Option<Listed>, CacheError> {
        let path = layout.image_names();
        match File::open(&path) {
            Ok(file) => Ok(Some(Listed { file, path })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("open", &path),
        }
    }

    /// Notes that what was opened has been written through, and all that the database said then: nobody may write to it any more.
    pub(crate) fn are_on_disk(&self) -> Result<(), CacheError> {
        self.file.set_permissions(Permissions::from_mode(0o444)).at("change the mode of", &self.path)
    }

    /// Whether that was noted.
    pub(crate) fn is_on_disk(&self) -> Result<bool, CacheError> {
        Ok(self.file.metadata().at("examine", &self.path)?.permissions().mode() & 0o222 == 0)
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

/// All rows of the table.
///
/// # Errors
/// When one of them is not what this program writes: then the database is damaged.
pub(crate) fn all(db: &Connection) -> rusqlite::Result<Vec<Named>> {
    db.prepare_cached("SELECT name, platform, manifest, created, of_index FROM images")?
        .query_map([], named)?
        .collect()
}

/// The rows that can be read of the table of a damaged database.
pub(crate) fn in_table(db: &Connection) -> Vec<Named> {
    let mut found = BTreeMap::new();
    // An older program did not know it.
    let index = if db.prepare("SELECT of_index FROM images").is_ok() { "of_index" } else { "NULL" };
    for direction in ["ASC", "DESC"] {
        let select = format!(
            "SELECT name, platform, manifest, created, {index} FROM images ORDER BY name {direction}, platform {direction}"
        );
        let Ok(mut select) = db.prepare(&select) else { break };
        let Ok(mut rows) = select.query([]) else { break };
        let complete = loop {
            match rows.next() {
                Ok(Some(row)) => {
                    let named = named(row).ok();
                    found.extend(named.map(|named| ((named.name.clone(), named.platform.clone()), named)));
                }
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        if complete {
            break;
        }
    }
    found.into_values().collect()
}

fn named(row: &rusqlite::Row<'_>) -> rusqlite::Result<Named> {
    text_column::<_, Reference>(row, 0, str::parse)?;
    text_column::<_, Platform>(row, 1, str::parse)?;
    Ok(Named {
        name: row.get(0)?,
        platform: row.get(1)?,
        manifest: text_column(row, 2, |text| serde_json::from_str(text))?,
        index: index_column(row, 4)?,
        created: row.get(3)?,
    })
}

/// The column `of_index`, which may be empty.
pub(crate) fn index_column(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Option<Descriptor>> {
    match row.get_ref(column)? {
        rusqlite::types::ValueRef::Null => Ok(None),
        _ => text_column(row, column, |text| serde_json::from_str(text)).map(Some),
    }
}

/// What a column's text says. One that says nothing was changed on the disk: the error tells that the database is damaged.
pub(crate) fn text_column<E: std::error::Error + Send + Sync + 'static, T>(
    row: &rusqlite::Row<'_>,
    column: usize,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    parse(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}

/// The list as it lies beside the database, and when it was written. `None` when it is not what was written.
fn beside(layout: &Layout) -> Option<(Vec<Named>, SystemTime)> {
    let path = layout.image_names();
    let text = fs::read_to_string(&path).ok()?;
    let (heading, list) = text.split_once('\n')?;
    let checksum = heading.strip_prefix(HEADING)?;
    (Digest::of(list.as_bytes()).hex() == checksum).then_some(())?;
    let named = list.lines().map(|line| serde_json::from_str(line).ok()).collect::<Option<_>>()?;
    Some((named, fs::metadata(&path).ok()?.modified().ok()?))
}

/// Puts the names back whose blobs are what they should be: their number, and those that are not. `listed` is what the damaged database
/// says: where the list is sound, only what is newer than that counts of it. A name means what it was given to last.
pub(crate) fn restore(
    db: &Transaction<'_>,
    layout: &Layout,
    boot: &str,
    mut listed: Vec<Named>,
) -> rusqlite::Result<(u64, Vec<String>)> {
    if let Some((beside, written)) = beside(layout) {
        // Times of files are a few milliseconds behind.
        let written = to_millis(written) + 1000;
        listed.retain(|named| named.created > written);
        listed.extend(beside);
    }
    let mut newest = BTreeMap::new();
    // Of two that are as old, the list's is the later one here.
    listed.sort_by_key(|named| named.created);
    newest.extend(listed.into_iter().map(|named| ((named.name.clone(), named.platform.clone()), named)));
    let mut lost = BTreeSet::new();
    for mut named in newest.into_values() {
        let Some((name, platform)) = parsed(&named) else { continue };
        // Without its index an image is still the one of its platform.
        named.index.take_if(|index| document(layout, index).is_none());
        match blobs_of(layout, &named.manifest) {
            Some((config, blobs)) => insert(db, &named, &config, &blobs, boot)?,
            None => {
                lost.insert(format!("{} ({platform})", name.familiar()));
            }
        }
    }
    write(db, layout)?;
    let number = db.query_row("SELECT count(*) FROM images", [], |row| row.get(0).map(from_sql))?;
    Ok((number, lost.into_iter().collect()))
}

fn parsed(named: &Named) -> Option<(Reference, Platform)> {
    Some((named.name.parse().ok()?, named.platform.parse().ok()?))
}

/// The config and all blobs of an image whose manifest is what its digest says, if none is missing.
fn blobs_of(layout: &Layout, manifest: &Descriptor) -> Option<(Digest, Vec<Descriptor>)> {
    let parsed: Manifest = serde_json::from_slice(&document(layout, manifest)?).ok()?;
    let config = parsed.config.digest;
    let mut blobs = vec![manifest.clone(), parsed.config];
    blobs.extend(parsed.layers);
    let is_there = |blob: &Descriptor| {
        fs::symlink_metadata(layout.blob(&blob.digest))
            .is_ok_and(|file| file.is_file() && file.len() == blob.size)
    };
    blobs.iter().all(is_there).then_some((config, blobs))
}

/// A manifest or an index that is what its digest says.
fn document(layout: &Layout, blob: &Descriptor) -> Option<Vec<u8>> {
    read(&layout.blob(&blob.digest)).filter(|bytes| Digest::of(bytes) == blob.digest)
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(DOCUMENT_LIMIT).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn insert(
    db: &Transaction<'_>,
    named: &Named,
    config: &Digest,
    blobs: &[Descriptor],
    boot: &str,
) -> rusqlite::Result<()> {
    let manifest = serde_json::to_string(&named.manifest).map_err(failed)?;
    let size: u64 = blobs.iter().map(|blob| blob.size).sum();
    let (name, platform) = (&named.name, &named.platform);
    let index = named.index.as_ref().map(serde_json::to_string).transpose().map_err(failed)?;
    db.execute(
        "INSERT OR REPLACE INTO images (name, platform, manifest, config, size, created, of_index)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![name, platform, manifest, config.as_bytes(), to_sql(size), named.created, index],
    )?;
    for blob in blobs.iter().chain(&named.index) {
        db.execute(
            "INSERT OR IGNORE INTO image_blobs (name, platform, digest) VALUES (?1, ?2, ?3)",
            params![name, platform, blob.digest.as_bytes()],
        )?;
        db.execute(
            "INSERT INTO blobs (digest, size, created, boot) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (digest) DO UPDATE SET size = excluded.size",
            params![blob.digest.as_bytes(), to_sql(blob.size), named.created, boot],
        )?;
    }
    Ok(())
}
