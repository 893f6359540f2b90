//! Images out of archives that nobody vouches for: what `docker save` writes, and OCI layouts in a tar (image spec, `image-layout.md`).

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use hash::{Digest, DigestReader};
use serde::Deserialize;

use crate::layer::{EntryKind, LayerReader};
use crate::layout::{IMAGE_NAME, REF_NAME};
use crate::{
    BlobReader, Compression, ContentStore, Descriptor, Document, ImageConfig, Index, MAX_DOCUMENT, Manifest,
    MediaType, ParseReferenceError, Platform, Reference, ResolveError, StreamCompression, check_config_type,
    compression_of, decompress, parse_document,
};

/// Entries of an archive at most: an image has a few for each layer.
const MAX_ENTRIES: usize = 100_000;
/// What a layout has in it.
const INDEX: &str = "index.json";
/// What an archive of Docker has in it.
const DOCKER: &str = "manifest.json";
/// Links that lead to links.
const MAX_LINKS: usize = 10;
/// Indexes on top of one another.
const MAX_DEPTH: usize = 4;

/// An image of an archive. Its blobs are in the store.
#[derive(Debug)]
pub struct ArchivedImage {
    /// As the archive has them; may be empty.
    pub names: Vec<Reference>,
    /// That of its config.
    pub platform: Platform,
    /// What points to its manifest.
    pub manifest: Descriptor,
    /// The digest of the config.
    pub id: Digest,
    /// The indexes that names mean in the archive, of which it is an image.
    pub indexes: Vec<(Reference, Descriptor)>,
}

impl ArchivedImage {
    /// One more name, and the index that it means.
    fn note(&mut self, name: &Reference, index: Option<&Descriptor>) {
        if !self.names.contains(name) {
            self.names.push(name.clone());
        }
        let meant = index.map(|index| (name.clone(), index.clone()));
        self.indexes.extend(meant.filter(|meant| !self.indexes.contains(meant)));
    }
}

/// Reads an archive to its end. What it holds becomes blobs, verified against what manifests and configs say about them; what no image
/// needs is swept up by the next prune. Blocks.
pub fn read_archive(
    archive: impl Read + Send,
    store: &dyn ContentStore,
) -> Result<Vec<ArchivedImage>, ResolveError> {
    let plain = decompress(archive).map_err(|error| invalid(format!("cannot be read: {error}")))?;
    images(Files::read(plain, store)?, store)
}

/// The same of a directory, which must be an OCI layout: of no other one anything is read. Links in it lead nowhere. Blocks.
pub fn read_directory(
    directory: &Path,
    store: &dyn ContentStore,
) -> Result<Vec<ArchivedImage>, ResolveError> {
    if !directory.join(INDEX).is_file() {
        return Err(invalid(format!("it is a directory, and no OCI layout: there is no `{INDEX}` in it")));
    }
    let mut files = Files::default();
    files.read_all_of(directory, "", |name| [INDEX, DOCKER].contains(&name), store)?;
    let blobs = directory.join("blobs/sha256");
    files.read_all_of(&blobs, "blobs/sha256/", |name| name.len() == 64, store)?;
    images(files, store)
}

fn images(files: Files, store: &dyn ContentStore) -> Result<Vec<ArchivedImage>, ResolveError> {
    let archive = Archive { files, store, diff_ids: RefCell::default() };
    let docker = archive.docker_entries()?;
    let mut images = archive.of_layout(&docker)?;
    if images.is_empty() {
        images = archive.of_docker(&docker)?;
    }
    Ok(images)
}

/// The files of an archive, by path.
#[derive(Default)]
struct Files {
    blobs: HashMap<String, (Digest, u64)>,
    links: HashMap<String, String>,
}

impl Files {
    fn read(archive: impl Read, store: &dyn ContentStore) -> Result<Files, ResolveError> {
        // What does not even begin as one was never meant to be an image.
        let invalid = |error: crate::layer::LayerError, count: usize| match (error, count) {
            (crate::layer::LayerError::Malformed { .. }, 0) => {
                self::invalid("it is no tar archive".to_owned())
            }
            (error, _) => self::invalid(error.to_string()),
        };
        let mut reader = LayerReader::new(archive);
        let mut files = Files::default();
        let mut count = 0;
        while let Some(entry) = reader.next_entry().map_err(|error| invalid(error, count))? {
            count += 1;
            if count > MAX_ENTRIES {
                return Err(self::invalid(format!("it has more than {MAX_ENTRIES} files")));
            }
            let path = String::from_utf8_lossy(&entry.path).into_owned();
            match entry.kind {
                EntryKind::File { .. } => {
                    let blob = put(&mut reader, store)?;
                    files.links.remove(&path);
                    files.blobs.insert(path, blob);
                }
                EntryKind::Symlink { target } => {
                    let target = String::from_utf8_lossy(&target).into_owned();
                    files.links.insert(path.clone(), beside(&path, &target));
                }
                EntryKind::Hardlink { target } => {
                    files.links.insert(path, String::from_utf8_lossy(&target).into_owned());
                }
                _ => {}
            }
        }
        Ok(files)
    }

    /// Reads the files of a directory whose names are asked for; `prefix` is what stands in front of them.
    fn read_all_of(
        &mut self,
        directory: &Path,
        prefix: &str,
        is_wanted: impl Fn(&str) -> bool,
        store: &dyn ContentStore,
    ) -> Result<(), ResolveError> {
        let failed = |action: &str, path: &Path, source: io::Error| ResolveError::Io {
            action: format!("{action} {}", path.display()),
            source,
        };
        for entry in std::fs::read_dir(directory).map_err(|error| failed("list", directory, error))? {
            let entry = entry.map_err(|error| failed("list", directory, error))?;
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            // What is no file, such as a pipe, is not waited for.
            let kind = entry.file_type().map_err(|error| failed("examine", &path, error))?;
            if !kind.is_file() || !is_wanted(&name) {
                continue;
            }
            if self.blobs.len() >= MAX_ENTRIES {
                return Err(invalid(format!("it has more than {MAX_ENTRIES} files")));
            }
            let mut file = File::open(&path).map_err(|error| failed("open", &path, error))?;
            self.blobs.insert(format!("{prefix}{name}"), put(&mut file, store)?);
        }
        Ok(())
    }

    /// Digest and size of a file; links within the archive are followed, as old Dockers share layers by them.
    fn find(&self, path: &str) -> Option<(Digest, u64)> {
        let mut path = clean(path);
        for _ in 0..=MAX_LINKS {
            match self.links.get(&path) {
                Some(target) => path.clone_from(target),
                None => return self.blobs.get(&path).copied(),
            }
        }
        None
    }
}

/// Makes a blob of a file of the archive.
fn put(reader: &mut impl Read, store: &dyn ContentStore) -> Result<(Digest, u64), ResolveError> {
    let mut writer = store.create().map_err(write_failed)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                let written = io::Write::write_all(&mut writer, &buffer[..read]);
                written.map_err(write_failed)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(invalid(format!("cannot be read: {error}"))),
        }
    }
    writer.commit(None).map_err(write_failed)
}

/// Where a symbolic link at `path` leads, within the archive.
fn beside(path: &str, target: &str) -> String {
    match target.strip_prefix('/') {
        Some(target) => clean(target),
        None => {
            let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
            clean(&format!("{directory}/{target}"))
        }
    }
}

/// A path without `.` and `..`; one that leads out ends at the top.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// An entry of `manifest.json`, as `docker load` reads it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl DockerEntry {
    fn names(&self) -> Result<Vec<Reference>, ResolveError> {
        let tags = self.repo_tags.iter().flatten();
        tags.map(|tag| tag.parse().map_err(|error: ParseReferenceError| invalid(error.to_string()))).collect()
    }
}

struct Archive<'a> {
    files: Files,
    store: &'a dyn ContentStore,
    /// What layers unpack to: many images of an archive may share one.
    diff_ids: RefCell<HashMap<Digest, Digest>>,
}

impl Archive<'_> {
    fn docker_entries(&self) -> Result<Vec<DockerEntry>, ResolveError> {
        match self.files.find(DOCKER) {
            None => Ok(Vec::new()),
            Some(file) => {
                let bytes = self.document(DOCKER, file)?;
                serde_json::from_slice(&bytes).map_err(|error| damaged(DOCKER, &error.to_string()))
            }
        }
    }

    /// The images of `index.json`, if it is there and its blobs are. `docker` may know more names for them.
    fn of_layout(&self, docker: &[DockerEntry]) -> Result<Vec<ArchivedImage>, ResolveError> {
        let Some(file) = self.files.find(INDEX) else { return Ok(Vec::new()) };
        let index: Index = serde_json::from_slice(&self.document(INDEX, file)?)
            .map_err(|error| damaged(INDEX, &error.to_string()))?;
        let mut images: Vec<ArchivedImage> = Vec::new();
        for entry in index.manifests {
            let text = |key: &str| entry.annotations.get(key).map(String::as_str);
            // A tag alone names nothing.
            let whole = text(REF_NAME).filter(|name| name.contains(['/', ':']));
            let name: Option<Reference> = text(IMAGE_NAME).or(whole).and_then(|name| name.parse().ok());
            // What the name means, without what the layout says of the name.
            let mut top = entry.clone();
            top.annotations.retain(|key, _| ![IMAGE_NAME, REF_NAME].contains(&key.as_str()));
            self.descend(&entry, name.as_ref().map(|name| (name, &top)), 0, &mut images)?;
        }
        for entry in docker {
            let config = self.files.find(&entry.config).map(|(digest, _)| digest);
            let names = entry.names()?;
            for image in images.iter_mut().filter(|image| Some(image.id) == config) {
                for name in &names {
                    if !image.names.contains(name) {
                        image.names.push(name.clone());
                    }
                }
            }
        }
        Ok(images)
    }

    /// The images behind an entry of an index. Of an index of many platforms an archive may hold only some. `named`: the name, and what it
    /// means.
    fn descend(
        &self,
        entry: &Descriptor,
        named: Option<(&Reference, &Descriptor)>,
        depth: usize,
        images: &mut Vec<ArchivedImage>,
    ) -> Result<(), ResolveError> {
        let shown = entry.digest.to_string();
        let Some(file) = self.files.find(&blob_path(&entry.digest)) else {
            return match depth {
                0 => Err(damaged(INDEX, &format!("there is no blob {shown}"))),
                _ => Ok(()),
            };
        };
        if file != (entry.digest, entry.size) {
            return Err(damaged(&shown, "its bytes are others than the index says"));
        }
        let bytes = self.document(&shown, file)?;
        match parse_document(&shown, Some(&entry.media_type), &bytes)? {
            Document::Index(_) if depth >= MAX_DEPTH => Err(damaged(&shown, "indexes without end")),
            Document::Index(index) => {
                // Attestations stand there too; they are for no platform.
                let is_image = |entry: &&Descriptor| {
                    entry.platform.as_ref().is_none_or(|platform| platform.os != "unknown")
                };
                index
                    .manifests
                    .iter()
                    .filter(is_image)
                    .try_for_each(|entry| self.descend(entry, named, depth + 1, images))
            }
            Document::Manifest(manifest) => {
                check_config_type(&shown, &manifest)?;
                let media_type = manifest.media_type.clone().unwrap_or_else(|| entry.media_type.clone());
                let descriptor = Descriptor::new(media_type, entry.digest, entry.size);
                let config = self.verified(&manifest)?;
                let id = manifest.config.digest;
                let platform = platform_of(&config);
                let is_known = |image: &ArchivedImage| image.manifest.digest == descriptor.digest;
                let at = images.iter().position(is_known).unwrap_or_else(|| {
                    let (names, indexes) = (Vec::new(), Vec::new());
                    images.push(ArchivedImage { names, platform, manifest: descriptor, id, indexes });
                    images.len() - 1
                });
                if let Some((name, top)) = named {
                    images[at].note(name, (depth > 0).then_some(top));
                }
                Ok(())
            }
        }
    }

    /// The images of `manifest.json`: their manifests are made here.
    fn of_docker(&self, entries: &[DockerEntry]) -> Result<Vec<ArchivedImage>, ResolveError> {
        entries.iter().map(|entry| self.of_docker_entry(entry)).collect()
    }

    fn of_docker_entry(&self, entry: &DockerEntry) -> Result<ArchivedImage, ResolveError> {
        let missing = |path: &str| damaged(DOCKER, &format!("there is no file {path}"));
        let (id, size) = self.files.find(&entry.config).ok_or_else(|| missing(&entry.config))?;
        let config_descriptor = Descriptor::new(MediaType::CONFIG, id, size);
        let mut layers = Vec::new();
        for path in entry.layers.iter().flatten() {
            let (digest, size) = self.files.find(path).ok_or_else(|| missing(path))?;
            let compression = self.compression(path, &digest)?;
            layers.push(Descriptor::new(compression.layer_media_type(), digest, size));
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MediaType::MANIFEST.to_owned()),
            config: config_descriptor,
            layers,
            annotations: BTreeMap::new(),
        };
        let config = self.verified(&manifest)?;
        let bytes = serde_json::to_vec_pretty(&manifest).map_err(|error| invalid(error.to_string()))?;
        let digest = self.store.put(&bytes).map_err(write_failed)?;
        Ok(ArchivedImage {
            names: entry.names()?,
            platform: platform_of(&config),
            manifest: Descriptor::new(MediaType::MANIFEST, digest, bytes.len() as u64),
            id,
            indexes: Vec::new(),
        })
    }

    /// The config of a manifest, when all that it and the config say about the layers is true.
    fn verified(&self, manifest: &Manifest) -> Result<ImageConfig, ResolveError> {
        let shown = manifest.config.digest.to_string();
        let there = |blob: &Descriptor| -> Result<(), ResolveError> {
            let size = self.store.size(&blob.digest);
            let size = size.map_err(read_failed)?;
            match size == Some(blob.size) {
                true => Ok(()),
                false => Err(damaged(&blob.digest.to_string(), "it is not there, or has another size")),
            }
        };
        there(&manifest.config)?;
        let bytes = self.document(&shown, (manifest.config.digest, manifest.config.size))?;
        let config: ImageConfig =
            serde_json::from_slice(&bytes).map_err(|error| damaged(&shown, &error.to_string()))?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            let counts =
                format!("the image has {} layers, its config {}", manifest.layers.len(), diff_ids.len());
            return Err(damaged(&shown, &counts));
        }
        for (layer, diff_id) in manifest.layers.iter().zip(diff_ids) {
            there(layer)?;
            let digest = layer.digest.to_string();
            if Compression::of_layer(&layer.media_type).is_none() {
                return Err(damaged(
                    &digest,
                    &format!("layers of the type `{}` are not supported", layer.media_type),
                ));
            }
            if layer.digest != *diff_id && self.diff_id(&layer.digest)? != *diff_id {
                return Err(damaged(&digest, &format!("the config says that it unpacks to {diff_id}")));
            }
        }
        Ok(config)
    }

    fn diff_id(&self, digest: &Digest) -> Result<Digest, ResolveError> {
        if let Some(known) = self.diff_ids.borrow().get(digest) {
            return Ok(*known);
        }
        let failed = |error: io::Error| damaged(&digest.to_string(), &error.to_string());
        let mut tar = DigestReader::new(decompress(self.open(digest)?).map_err(failed)?);
        io::copy(&mut tar, &mut io::sink()).map_err(failed)?;
        let diff_id = tar.finish().1;
        self.diff_ids.borrow_mut().insert(*digest, diff_id);
        Ok(diff_id)
    }

    fn compression(&self, path: &str, digest: &Digest) -> Result<Compression, ResolveError> {
        let mut start = Vec::new();
        let read = self.open(digest)?.take(16).read_to_end(&mut start);
        read.map_err(|error| damaged(path, &error.to_string()))?;
        match compression_of(&start) {
            StreamCompression::None => Ok(Compression::None),
            StreamCompression::Gzip => Ok(Compression::Gzip),
            StreamCompression::Zstd => Ok(Compression::Zstd),
            _ => Err(damaged(path, "layers are tar, tar.gz or tar.zst")),
        }
    }

    fn document(&self, shown: &str, (digest, size): (Digest, u64)) -> Result<Vec<u8>, ResolveError> {
        if size > MAX_DOCUMENT {
            return Err(damaged(shown, &format!("it is larger than {MAX_DOCUMENT} bytes")));
        }
        let mut bytes = Vec::new();
        let read = self.open(&digest)?.read_to_end(&mut bytes);
        read.map_err(|error| damaged(shown, &error.to_string()))?;
        Ok(bytes)
    }

    fn open(&self, digest: &Digest) -> Result<BlobReader, ResolveError> {
        let opened = self.store.open(digest);
        let opened = opened.map_err(read_failed)?;
        opened.ok_or_else(|| damaged(&digest.to_string(), "it is not in the archive"))
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn invalid(message: String) -> ResolveError {
    ResolveError::Invalid { name: "the archive".to_owned(), message }
}

fn damaged(what: &str, reason: &str) -> ResolveError {
    invalid(format!("it is damaged: {what}: {reason}"))
}

fn write_failed(source: io::Error) -> ResolveError {
    ResolveError::Io { action: "write to the store".to_owned(), source }
}

fn read_failed(source: io::Error) -> ResolveError {
    ResolveError::Io { action: "read from the store".to_owned(), source }
}

/// Very old configs leave it out and mean this machine's.
fn platform_of(config: &ImageConfig) -> Platform {
    let host = Platform::host();
    let or = |text: &str, fallback: &str| if text.is_empty() { fallback.to_owned() } else { text.to_owned() };
    Platform::new(
        &or(&config.os, &host.os),
        &or(&config.architecture, &host.architecture),
        config.variant.as_deref(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside() {
        assert_eq!(beside("a/layer.tar", "../b/layer.tar"), "b/layer.tar");
        assert_eq!(beside("a/layer.tar", "../../../etc/passwd"), "etc/passwd");
        assert_eq!(beside("x", "/y"), "y");
        assert_eq!(clean("./a//b/."), "a/b");
    }
}
