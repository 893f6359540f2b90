//! OCI image layouts on disk (image spec, `image-layout.md`): found by tag or digest, read as a source of images.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use hash::Digest;
use serde_json::Value;

use crate::{
    BlobSource, ContentStore, Descriptor, Document, Index, MAX_DOCUMENT, Manifest, Platform, Reference,
    ResolveError, ResolvedImage, TransferProgress, check_config_type, parse_document, resolved_from,
    select_manifest,
};

/// Annotation with the tag, sometimes the whole name, of an entry of `index.json`.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation with the whole name, as containerd and BuildKit write it.
pub const IMAGE_NAME: &str = "io.containerd.image.name";
/// Annotation with the time of creation.
const CREATED: &str = "org.opencontainers.image.created";

/// How deep indexes may be nested. Real ones have one level; a cycle has no end.
const MAX_DEPTH: usize = 5;
/// How much of a blob is copied between two chances to be cancelled, in bytes.
const STEP: usize = 1 << 20;

/// A layout's image as users name it: `path[:tag|@digest]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutAddress {
    /// The directory.
    pub path: PathBuf,
    /// Which image in it, if the text says so.
    pub image: Option<LayoutImage>,
}

/// Which image of a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayoutImage {
    /// A tag, or a whole name as annotations have it.
    Tag(String),
    /// A manifest or an index, listed in `index.json` or not.
    Digest(Digest),
}

impl FromStr for LayoutAddress {
    type Err = hash::ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some((path, digest)) = text.rsplit_once("@sha256:") {
            let digest = format!("sha256:{digest}").parse()?;
            // The digest wins over a tag in front of it.
            let LayoutAddress { path, .. } = path.parse()?;
            return Ok(LayoutAddress { path, image: Some(LayoutImage::Digest(digest)) });
        }
        Ok(match text.rsplit_once(':') {
            Some((path, tag)) if !path.is_empty() && !tag.is_empty() && !tag.contains('/') => {
                LayoutAddress { path: path.into(), image: Some(LayoutImage::Tag(tag.to_owned())) }
            }
            _ => LayoutAddress { path: text.into(), image: None },
        })
    }
}

/// An OCI layout in a directory. Its blobs are verified whenever they are read.
#[derive(Debug, Clone)]
pub struct OciLayout {
    path: PathBuf,
}

impl OciLayout {
    /// Opens a layout.
    ///
    /// # Errors
    /// When the directory is none, or has another layout version. Archives must be unpacked first.
    pub fn open(path: impl Into<PathBuf>) -> Result<OciLayout, ResolveError> {
        let layout = OciLayout { path: path.into() };
        let invalid =
            |message: &str| ResolveError::Invalid { name: layout.name(), message: message.to_owned() };
        match std::fs::metadata(&layout.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ResolveError::NotFound(layout.name()));
            }
            Err(source) => return Err(layout.io("open", &layout.path, source)),
            Ok(metadata) if !metadata.is_dir() => {
                return Err(invalid("it is not a directory (unpack an archive first: tar -xf)"));
            }
            Ok(_) => {}
        }
        let marker = layout.read_file("oci-layout")?;
        let marker =
            marker.ok_or_else(|| invalid("it is not an OCI layout: there is no file `oci-layout`"))?;
        let version: Option<Value> = serde_json::from_slice(&marker).ok();
        let version = version.as_ref().and_then(|value| value.get("imageLayoutVersion")?.as_str());
        match version {
            Some(version) if version.starts_with("1.") => Ok(layout),
            Some(version) => Err(invalid(&format!("its layout version is {version}, only 1.0.0 is known"))),
            None => Err(invalid("its file `oci-layout` has no layout version")),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Finds an image for `platform`. Without `image`: the only one, or the one tagged `latest`. Nothing but small files is
    /// read. A single image is returned whatever its platform is, as registries do: [`ResolvedImage::platform`] says.
    ///
    /// # Errors
    /// An image that is not there (the message lists what is), has no such platform, or is damaged.
    pub fn resolve(
        &self,
        image: Option<&LayoutImage>,
        platform: &Platform,
    ) -> Result<ResolvedImage, ResolveError> {
        let name = match image {
            None => self.name(),
            Some(LayoutImage::Tag(tag)) => format!("{}:{tag}", self.name()),
            Some(LayoutImage::Digest(digest)) => format!("{}@{digest}", self.name()),
        };
        let (descriptor, bytes, manifest) = match image {
            Some(LayoutImage::Digest(digest)) => {
                self.descend(&name, self.by_digest(&name, digest)?, platform)?
            }
            Some(LayoutImage::Tag(tag)) => {
                let index = self.index()?;
                let entries = named(&index, tag);
                self.choose(&name, entries, &index, platform)?
            }
            None => {
                let index = self.index()?;
                let entries = self.unnamed(&index);
                self.choose(&name, entries, &index, platform)?
            }
        };
        check_config_type(&name, &manifest)?;
        let config = self.read_blob(&name, &manifest.config)?;
        resolved_from(&name, &descriptor, &bytes, &config, Arc::new(self.clone()))
    }

    /// The tags and names in the layout, for messages; sorted.
    pub fn names(&self) -> Result<Vec<String>, ResolveError> {
        let mut names: Vec<String> = self.index()?.manifests.iter().map(describe).collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// One image of `entries`: they are one, or differ in platform only.
    fn choose(
        &self,
        name: &str,
        entries: Vec<Descriptor>,
        index: &Index,
        platform: &Platform,
    ) -> Result<(Descriptor, Vec<u8>, Box<Manifest>), ResolveError> {
        let entries = distinct(entries);
        if entries.is_empty() {
            let mut there: Vec<String> = index.manifests.iter().map(describe).collect();
            there.sort();
            there.dedup();
            let there = if there.is_empty() { "nothing".to_owned() } else { there.join(", ") };
            return Err(ResolveError::NotFound(format!("{name} (the layout has {there})")));
        }
        if entries.len() > 1 && !are_one(&entries) {
            let each: Vec<String> = entries.iter().map(tell).collect();
            let message =
                format!("several images have this name: {}; choose one with @digest", each.join(", "));
            return Err(ResolveError::Invalid { name: name.to_owned(), message });
        }
        let entry = match &entries[..] {
            [only] => only.clone(),
            _ => {
                let list = Index { manifests: entries, ..index.clone() };
                select_manifest(&list, platform).map_err(|none| none.of(name))?.clone()
            }
        };
        self.descend(name, entry, platform)
    }

    /// What a text without tag means: the only image, else `latest`, else a list of one image's platforms.
    fn unnamed(&self, index: &Index) -> Vec<Descriptor> {
        let entries = distinct(index.manifests.clone());
        if entries.len() > 1 {
            let latest = named(index, "latest");
            if !latest.is_empty() {
                return latest;
            }
            let anonymous = |entry: &Descriptor| {
                !entry.annotations.contains_key(REF_NAME) && !entry.annotations.contains_key(IMAGE_NAME)
            };
            if !entries.iter().all(|entry| anonymous(entry) && entry.platform.is_some()) {
                return Vec::new();
            }
        }
        entries
    }

    /// Follows indexes down to the manifest of one platform.
    fn descend(
        &self,
        name: &str,
        mut entry: Descriptor,
        platform: &Platform,
    ) -> Result<(Descriptor, Vec<u8>, Box<Manifest>), ResolveError> {
        for _ in 0..MAX_DEPTH {
            let bytes = self.read_blob(name, &entry)?;
            match parse_document(name, Some(&entry.media_type), &bytes)? {
                Document::Manifest(manifest) => return Ok((entry, bytes, manifest)),
                Document::Index(index) => {
                    entry = select_manifest(&index, platform).map_err(|none| none.of(name))?.clone();
                }
            }
        }
        let message = format!("its indexes are nested deeper than {MAX_DEPTH}");
        Err(ResolveError::Invalid { name: name.to_owned(), message })
    }

    fn by_digest(&self, name: &str, digest: &Digest) -> Result<Descriptor, ResolveError> {
        let listed = self.index()?.manifests.into_iter().find(|entry| entry.digest == *digest);
        if let Some(entry) = listed {
            return Ok(entry);
        }
        let bytes =
            self.read_file(&blob_path(digest))?.ok_or_else(|| ResolveError::NotFound(name.to_owned()))?;
        let document: Option<Value> = serde_json::from_slice(&bytes).ok();
        let own = document.as_ref().and_then(|value| value.get("mediaType")?.as_str()).unwrap_or_default();
        Ok(Descriptor::new(own, *digest, bytes.len() as u64))
    }

    fn index(&self) -> Result<Index, ResolveError> {
        let invalid = |message: String| ResolveError::Invalid { name: self.name(), message };
        let bytes = self.read_file("index.json")?;
        let bytes = bytes.ok_or_else(|| invalid("the layout has no `index.json`".to_owned()))?;
        serde_json::from_slice(&bytes).map_err(|error| invalid(format!("`index.json` is not valid: {error}")))
    }

    /// A manifest or config, with the size that its descriptor says; its digest is checked where it is parsed.
    fn read_blob(&self, name: &str, blob: &Descriptor) -> Result<Vec<u8>, ResolveError> {
        let bytes = self.read_file(&blob_path(&blob.digest))?;
        let bytes = bytes.ok_or_else(|| ResolveError::NotFound(format!("{name}: blob {}", blob.digest)))?;
        let digest = Digest::of(&bytes);
        if digest == blob.digest && bytes.len() as u64 == blob.size {
            return Ok(bytes);
        }
        let message = format!("the blob {} is damaged: its bytes have the digest {digest}", blob.digest);
        Err(ResolveError::Invalid { name: name.to_owned(), message })
    }

    /// A small file of the layout, `None` when it is not there.
    fn read_file(&self, relative: &str) -> Result<Option<Vec<u8>>, ResolveError> {
        let Some((file, path, size)) = self.open_file(relative)? else { return Ok(None) };
        if size > MAX_DOCUMENT {
            let message = format!("{} is larger than {MAX_DOCUMENT} bytes", path.display());
            return Err(ResolveError::Invalid { name: self.name(), message });
        }
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT).read_to_end(&mut bytes).map_err(|source| self.io("read", &path, source))?;
        Ok(Some(bytes))
    }

    /// Opens a regular file and tells its size; anything else that stands there (a pipe would block) is an error.
    fn open_file(&self, relative: &str) -> Result<Option<(File, PathBuf, u64)>, ResolveError> {
        let path = self.path.join(relative);
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.io("open", &path, source)),
            Ok(metadata) if !metadata.is_file() => {
                let message = format!("{} is not a regular file", path.display());
                Err(ResolveError::Invalid { name: self.name(), message })
            }
            Ok(metadata) => {
                let file = File::open(&path).map_err(|source| self.io("open", &path, source))?;
                Ok(Some((file, path, metadata.len())))
            }
        }
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn io(&self, verb: &str, path: &Path, source: io::Error) -> ResolveError {
        ResolveError::Io { action: format!("{verb} {}", path.display()), source }
    }
}

/// The entries of an index that `tag` names: by whole name before by tag. All of them, where several writers spelt it in their own ways.
fn named(index: &Index, tag: &str) -> Vec<Descriptor> {
    /// Whether an annotation (key, text) names the image.
    type Rule<'a> = &'a dyn Fn(&str, &str) -> bool;
    let with = |matches: Rule<'_>| -> Vec<Descriptor> {
        let is_named = |entry: &&Descriptor| {
            [IMAGE_NAME, REF_NAME]
                .iter()
                .any(|key| entry.annotations.get(*key).is_some_and(|text| matches(key, text)))
        };
        index.manifests.iter().filter(is_named).cloned().collect()
    };
    let is_whole = |text: &str| text.contains(['/', ':']);
    if is_whole(tag) {
        let wanted = tag.parse::<Reference>().ok();
        let is_it = |key: &str, text: &str| {
            (key == IMAGE_NAME || is_whole(text)) && wanted.is_some() && text.parse().ok() == wanted
        };
        return with(&|key, text| text == tag || is_it(key, text));
    }
    let rules: [Rule<'_>; 3] = [
        &|key, text| key == IMAGE_NAME && text == tag,
        &|key, text| key == REF_NAME && text == tag,
        // A whole name where the spec wants a tag.
        &|_, text| {
            is_whole(text) && text.parse::<Reference>().is_ok_and(|name| name.tag.as_deref() == Some(tag))
        },
    ];
    rules.into_iter().map(with).find(|entries| !entries.is_empty()).unwrap_or_default()
}

/// Whether entries are one image for several platforms. Of two for the same platform nobody knows which is meant: skopeo takes the first, which
/// is the older where a writer adds at the end; umoci refuses, and so is done here.
fn are_one(entries: &[Descriptor]) -> bool {
    let mut platforms = HashSet::new();
    let mut names = entries.iter().map(|entry| entry.annotations.get(IMAGE_NAME));
    let first = names.next();
    names.all(|name| Some(name) == first)
        && entries.iter().all(|entry| {
            let platform = entry.platform.as_ref().map(Platform::normalised);
            // Attestations are for none.
            platform.is_some_and(|platform| platform.os == "unknown" || platforms.insert(platform))
        })
}

/// What tells an entry from another of the same tag.
fn tell(entry: &Descriptor) -> String {
    let more: Vec<&str> =
        [IMAGE_NAME, CREATED].iter().filter_map(|key| Some(entry.annotations.get(*key)?.as_str())).collect();
    match &more[..] {
        [] => entry.digest.to_string(),
        _ => format!("{} ({})", entry.digest, more.join(", ")),
    }
}

/// One image can have several names.
fn distinct(mut entries: Vec<Descriptor>) -> Vec<Descriptor> {
    let mut seen = HashSet::new();
    entries.retain(|entry| seen.insert(entry.digest));
    entries
}

/// How an entry of `index.json` can be asked for.
fn describe(entry: &Descriptor) -> String {
    let name = entry.annotations.get(REF_NAME).or_else(|| entry.annotations.get(IMAGE_NAME));
    name.cloned().unwrap_or_else(|| entry.digest.to_string())
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

#[async_trait]
impl BlobSource for OciLayout {
    /// Copies a blob in steps of 1 MiB and yields in between, so that dropping the future ends it soon.
    async fn fetch(
        &self,
        blob: &Descriptor,
        store: &dyn ContentStore,
        progress: &dyn TransferProgress,
    ) -> Result<(), ResolveError> {
        let path = blob_path(&blob.digest);
        let failed = |source| self.io("copy", &self.path.join(&path), source);
        if store.size(&blob.digest).map_err(failed)?.is_some() {
            return Ok(());
        }
        let Some((mut file, _, size)) = self.open_file(&path)? else {
            return Err(ResolveError::NotFound(format!("{}: blob {}", self.name(), blob.digest)));
        };
        if size != blob.size {
            let message = format!("blob {} has {size} bytes instead of {}", blob.digest, blob.size);
            return Err(ResolveError::Invalid { name: self.name(), message });
        }
        let mut writer = store.create().map_err(failed)?;
        let mut buffer = vec![0; STEP.min(usize::try_from(size).unwrap_or(STEP).max(1))];
        let mut done = 0;
        loop {
            let read = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            writer.write_all(&buffer[..read]).map_err(failed)?;
            done += read as u64;
            progress.transferred(&blob.digest, done, size);
            yield_once().await;
        }
        match writer.commit(Some(&blob.digest)) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(ResolveError::Invalid {
                name: self.name(),
                message: format!("a blob is damaged: {error}"),
            }),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Lets the executor do something else.
async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(move |context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
