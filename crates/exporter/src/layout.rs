use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use hash::{Digest, DigestReader, DigestWriter};
use image::layout::REF_NAME;
use image::{Descriptor, MediaTypes};
use serde_json::{Value, json};

use crate::images::{LAYOUT, Prepared, blob_path, index_json, open_blob};
use crate::names::{enter, of_same_tag};
use crate::output::beside;
use crate::task::{Cancel, blocking};
use crate::{ExportError, Exported, Exporter, Images, Needs, Product};

/// Writes images into a directory as an OCI layout (`type=oci,tar=false`).
///
/// A layout that is there is extended: images of other names stay, one of the same name is replaced in `index.json`. Without a name
/// the tag is `latest`, as in BuildKit. A tag is of one image, the last: another one of the same tag, as `web:1` where `app:1` comes, stays by
/// its whole name. Blobs come first and `index.json` last, in one step, so that readers never see half an
/// image; several builders may write at once.
#[derive(Debug, Clone)]
pub struct LayoutExporter {
    pub(crate) path: PathBuf,
    types: MediaTypes,
}

impl LayoutExporter {
    /// Writes to `path`, which is made with the directories above it when missing.
    pub fn new(path: impl Into<PathBuf>) -> LayoutExporter {
        LayoutExporter { path: path.into(), types: MediaTypes::Oci }
    }

    /// Other media types than OCI's (`oci-mediatypes=false`).
    pub fn with_types(self, types: MediaTypes) -> LayoutExporter {
        LayoutExporter { types, ..self }
    }
}

#[async_trait]
impl Exporter for LayoutExporter {
    fn needs(&self) -> Needs {
        Needs::Images
    }

    async fn export(&self, product: Product) -> Result<Exported, ExportError> {
        let Product::Images(images) = product else { return Err(ExportError::WrongProduct(Needs::Images)) };
        let exporter = self.clone();
        blocking(move |cancel| exporter.write(&images, cancel)).await
    }
}

impl LayoutExporter {
    fn write(&self, images: &Images, cancel: &Cancel) -> Result<Exported, ExportError> {
        let prepared = Prepared::new(images, self.types)?;
        self.check_destination()?;
        self.make_blobs()?;
        for (digest, size) in &prepared.layers() {
            self.put(digest, *size, cancel, || open_blob(&*images.store, digest, cancel))?;
        }
        for (digest, bytes) in &prepared.documents {
            self.put(digest, bytes.len() as u64, cancel, || Ok(&bytes[..]))?;
        }
        let mut entries = prepared.entries(&images.names);
        if images.names.is_empty() {
            for entry in &mut entries {
                entry.annotations.insert(REF_NAME.to_owned(), "latest".to_owned());
            }
        }
        self.publish(&entries, |_| Ok(()))?;
        Ok(prepared.exported())
    }

    pub(crate) fn path_of(&self, digest: &Digest) -> PathBuf {
        self.path.join(blob_path(digest))
    }

    pub(crate) fn make_blobs(&self) -> Result<(), ExportError> {
        let blobs = self.path.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(ExportError::io("make directory", &blobs))
    }

    /// Something else that is there is not to be mixed with a layout. Every export looks; before a long build one may look as well.
    ///
    /// # Errors
    /// What is there is no layout, or cannot be looked at.
    pub fn check_destination(&self) -> Result<(), ExportError> {
        let refused = |reason: &str| Err(ExportError::destination(&self.path, reason));
        match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(ExportError::io("open", &self.path)(error)),
            Ok(found) if !found.is_dir() => {
                return refused("it is a file; with tar=false a directory is written");
            }
            Ok(_) => {}
        }
        let mut list = fs::read_dir(&self.path).map_err(ExportError::io("list", &self.path))?;
        let known = ["oci-layout", "index.json", "blobs"].iter().any(|name| self.path.join(name).exists());
        if !known && list.next().is_some() {
            return refused("it is not empty, and not an OCI layout");
        }
        Ok(())
    }

    /// Writes a blob that is not there yet. What is there is verified first: a damaged one would make the export worthless.
    pub(crate) fn put<R: Read>(
        &self,
        digest: &Digest,
        size: u64,
        cancel: &Cancel,
        open: impl FnOnce() -> Result<R, ExportError>,
    ) -> Result<(), ExportError> {
        let path = self.path_of(digest);
        if is_intact(&path, digest, size) {
            return cancel.check();
        }
        let temporary = beside(&path)?;
        let failed = |source| ExportError::Blob { digest: *digest, source };
        let mut writer = DigestWriter::new(BufWriter::with_capacity(256 << 10, temporary.as_file()));
        copy(&mut open()?, &mut writer, &path, failed)?;
        let (mut writer, written, _) = writer.finish();
        writer.flush().map_err(ExportError::io("write", &path))?;
        drop(writer);
        if written != *digest {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidData, "its bytes have another digest")));
        }
        temporary.persist(&path).map_err(|error| ExportError::io("write", &path)(error.error))?;
        Ok(())
    }

    /// What `index.json` lists, without waiting for a lock.
    pub(crate) fn entries(&self) -> Result<Vec<Value>, ExportError> {
        Ok(take_entries(&mut read_index(&self.path.join("index.json"))?))
    }

    /// Enters the images into `index.json`, under a lock that other processes of this program take too. `check` sees before that what has
    /// the tag of one of them.
    pub(crate) fn publish(
        &self,
        entries: &[Descriptor],
        check: impl Fn(&Value) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let directory = File::open(&self.path).map_err(ExportError::io("open", &self.path))?;
        directory.lock().map_err(ExportError::io("lock", &self.path))?;
        let path = self.path.join("index.json");
        let mut index = read_index(&path)?;
        let mut list = take_entries(&mut index);
        for entry in entries.iter().map(|entry| json!(entry)) {
            of_same_tag(&list, &entry).into_iter().try_for_each(&check)?;
            enter(&mut list, entry);
        }
        // Keys that this program does not know stay.
        let bytes = match &mut index {
            Value::Object(map) if !map.is_empty() => {
                map.insert("manifests".to_owned(), Value::Array(list));
                crate::images::json_bytes(&index)
            }
            _ => index_json(&list),
        };
        self.replace(&self.path.join("oci-layout"), LAYOUT)?;
        self.replace(&path, &bytes)
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
        let mut temporary = beside(path)?;
        temporary.write_all(bytes).map_err(ExportError::io("write", path))?;
        temporary.persist(path).map_err(|error| ExportError::io("write", path)(error.error))?;
        Ok(())
    }
}

fn take_entries(index: &mut Value) -> Vec<Value> {
    match index.get_mut("manifests").map(Value::take) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

fn read_index(path: &Path) -> Result<Value, ExportError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Value::Null),
        Err(error) => return Err(ExportError::io("read", path)(error)),
    };
    serde_json::from_slice(&bytes).map_err(|error| ExportError::io("read", path)(error.into()))
}

pub(crate) fn is_intact(path: &Path, digest: &Digest, size: u64) -> bool {
    let Ok(file) = File::open(path) else { return false };
    if !file.metadata().is_ok_and(|found| found.is_file() && found.len() == size) {
        return false;
    }
    let mut reader = DigestReader::new(file);
    let read = copy(&mut reader, &mut io::sink(), path, ExportError::io("read", path));
    read.is_ok() && reader.finish().1 == *digest
}

/// Copies, telling apart which side failed.
fn copy(
    reader: &mut impl Read,
    writer: &mut impl Write,
    path: &Path,
    unreadable: impl FnOnce(io::Error) -> ExportError,
) -> Result<(), ExportError> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => writer.write_all(&buffer[..read]).map_err(ExportError::io("write", path))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
}
