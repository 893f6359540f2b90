//! Images as trees: their layers are fetched and unpacked when somebody needs to look into them, each once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use cache::{ActiveSnapshot, Changes, SnapshotId, Store, TreeView};
use files::{Attributes, DirectoryTree, FileTree, Kind, TreeWriter};
use futures::StreamExt as _;
use graph::{Event, ProgressSink, VertexId};
use hash::{Clock, ContentDigest, Digest, DigestReader, StableHasher};
use image::layer::{Entry, EntryKind, LayerReader};
use image::{Descriptor, Layer, PartlyRead, ResolvedImage, TransferProgress};
use tokio::sync::OnceCell;
use trace::{Trace, Work};

use crate::beside::read_beside;
use crate::cancel::{Cancel, blocking};
use crate::copy::writer_of_image;
use crate::{LayerForm, WorkerError};

/// Layers of one image that are fetched at the same time.
const PARALLEL_FETCHES: usize = 4;

/// An image at the bottom of a tree.
#[derive(Debug)]
pub(crate) struct BaseImage {
    image: Arc<ResolvedImage>,
    /// Of each layer together with those below it, bottom first; as the config says until they are unpacked.
    chain_ids: Vec<Digest>,
    snapshots: OnceCell<Vec<SnapshotId>>,
}

/// What bringing an image needs beside it.
pub(crate) struct Bring<'a> {
    pub(crate) store: &'a Store,
    pub(crate) progress: &'a Arc<dyn ProgressSink>,
    pub(crate) clock: &'a Arc<dyn Clock>,
    pub(crate) cancel: &'a Cancel,
    pub(crate) vertex: VertexId,
    pub(crate) trace: &'a Trace,
}

impl Bring<'_> {
    fn transfer(&self) -> Transfer {
        Transfer { vertex: self.vertex, progress: self.progress.clone(), clock: self.clock.clone() }
    }
}

impl BaseImage {
    pub(crate) fn new(image: Arc<ResolvedImage>) -> BaseImage {
        let chain_ids = image::chain_ids(image.layers.iter().map(|layer| &layer.diff_id));
        BaseImage { image, chain_ids, snapshots: OnceCell::new() }
    }

    /// The identity of all layers together, as the config says until they are unpacked.
    pub(crate) fn chain_id(&self) -> Option<&Digest> {
        self.chain_ids.last()
    }

    pub(crate) fn image(&self) -> &ResolvedImage {
        &self.image
    }

    /// The identity of the whole image by content. It counts only for an image that was unpacked.
    pub(crate) fn content_id(&self) -> hash::ContentId {
        image::content_id(self.chain_ids.last())
    }

    /// The unpacked layers, bottom first, if all are here.
    pub(crate) fn unpacked(&self, store: &Store) -> Result<Option<Vec<SnapshotId>>, WorkerError> {
        if let Some(snapshots) = self.snapshots.get() {
            return Ok(Some(snapshots.clone()));
        }
        Ok(self.chain_ids.iter().map(|chain_id| store.chain(chain_id)).collect::<Result<_, _>>()?)
    }

    /// The unpacked layers, bottom first; fetches and unpacks what is missing. Layers are unpacked at the same time and finished
    /// one after the other, since a layer may take for granted what is below it.
    pub(crate) async fn bring(&self, bring: &Bring<'_>) -> Result<Vec<SnapshotId>, WorkerError> {
        let snapshots = self.snapshots.get_or_try_init(|| async {
            let mut brought = futures::stream::iter(0..self.image.layers.len())
                .map(|index| self.bring_layer(index, bring))
                .buffered(PARALLEL_FETCHES);
            let mut snapshots = Vec::new();
            while let Some(layer) = brought.next().await {
                let snapshot = match layer? {
                    Brought::There(snapshot) => snapshot,
                    Brought::Unpacked(layer) => {
                        let below = snapshots.clone();
                        blocking(move || layer.finish(&below)).await?
                    }
                };
                snapshots.push(snapshot);
            }
            Ok::<_, WorkerError>(snapshots)
        });
        Ok(snapshots.await?.clone())
    }

    async fn bring_layer(&self, index: usize, bring: &Bring<'_>) -> Result<Brought, WorkerError> {
        let (layer, chain_id) = (&self.image.layers[index], &self.chain_ids[index]);
        if let Some(snapshot) = bring.store.chain(chain_id)? {
            return Ok(Brought::There(snapshot));
        }
        self.fetch(layer, bring).await?;
        let _timed = bring.trace.step(bring.vertex.0, Work::Fetch, "unpack a layer");
        let source = LayerBlob {
            image: self.image.name.clone(),
            layer: layer.clone(),
            chain_id: *chain_id,
            store: bring.store.clone(),
            cancel: bring.cancel.clone(),
            shown: bring.transfer(),
        };
        blocking(move || Ok(Brought::Unpacked(Box::new(source.unpack(BTreeMap::new())?)))).await
    }

    /// Brings a layer's blob into the store.
    pub(crate) async fn fetch(&self, layer: &Layer, bring: &Bring<'_>) -> Result<(), WorkerError> {
        let _timed = bring.trace.step(bring.vertex.0, Work::Fetch, "fetch a layer");
        Ok(self.image.blobs.fetch(&layer.descriptor, bring.store.blobs(), &bring.transfer()).await?)
    }
}

/// Shows a transfer as progress of a vertex.
pub(crate) struct Transfer {
    pub(crate) vertex: VertexId,
    pub(crate) progress: Arc<dyn ProgressSink>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Transfer {
    fn show(&self, id: String, current: u64, total: u64) {
        self.progress.event(Event::Progress {
            vertex: self.vertex,
            id,
            current,
            total,
            at: self.clock.now(),
        });
    }

    /// So many bytes of a blob have been unpacked.
    fn unpacked(&self, blob: &Descriptor, bytes: u64) {
        self.show(format!("extracting {}", blob.digest), bytes, blob.size);
    }
}

impl TransferProgress for Transfer {
    fn transferred(&self, blob: &Digest, current: u64, total: u64) {
        self.show(blob.to_string(), current, total);
    }
}

/// Shows how far a blob has been unpacked, in quarters: in a log each is a line.
struct Unpacking<'a, R> {
    blob: R,
    shown: &'a Transfer,
    descriptor: &'a Descriptor,
    /// Bytes.
    read: u64,
    /// How many of them have been shown.
    told: u64,
}

impl<'a, R> Unpacking<'a, R> {
    fn new(blob: R, shown: &'a Transfer, descriptor: &'a Descriptor) -> Self {
        shown.unpacked(descriptor, 0);
        Unpacking { blob, shown, descriptor, read: 0, told: 0 }
    }
}

impl<R: Read> Read for Unpacking<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.blob.read(buffer)?;
        self.read += read as u64;
        if self.read >= self.told + self.descriptor.size.div_ceil(4).max(1) {
            self.told = self.read;
            self.shown.unpacked(self.descriptor, self.read);
        }
        Ok(read)
    }
}

/// A layer of an image.
enum Brought {
    /// Unpacked by an earlier build, or another one.
    There(SnapshotId),
    /// Unpacked now.
    Unpacked(Box<UnpackedLayer>),
}

/// A layer's blob in the store, to be unpacked.
pub(crate) struct LayerBlob {
    /// For messages.
    pub(crate) image: String,
    pub(crate) layer: Layer,
    pub(crate) chain_id: Digest,
    pub(crate) store: Store,
    pub(crate) cancel: Cancel,
    /// Who is shown how far it is.
    pub(crate) shown: Transfer,
}

/// A layer that was unpacked and verified, not yet a snapshot. Dropping it removes it.
pub(crate) struct UnpackedLayer {
    source: LayerBlob,
    snapshot: ActiveSnapshot,
    writer: TreeWriter,
    /// Directories that are links below, and where those lead to: what the layer has in them was written there.
    moved: BTreeMap<PathBuf, PathBuf>,
    /// Whether it removes everything below.
    replaces_all: bool,
    /// Whether it has an entry for the root directory.
    describes_root: bool,
    /// Hard links that are still missing, with what they lead to.
    links: BTreeMap<PathBuf, PathBuf>,
    changes: Changes,
}

impl LayerBlob {
    fn invalid(&self, reason: String) -> WorkerError {
        WorkerError::Layer { image: self.image.clone(), layer: self.layer.descriptor.digest, reason }
    }

    /// Unpacks the blob and verifies what it unpacks to. Nothing is left behind by a failure.
    pub(crate) fn unpack(self, moved: BTreeMap<PathBuf, PathBuf>) -> Result<UnpackedLayer, WorkerError> {
        let invalid = |reason: String| self.invalid(reason);
        let blob = image::ContentStore::open(self.store.blobs(), &self.layer.descriptor.digest)
            .map_err(|error| invalid(error.to_string()))?;
        let Some(blob) = blob else { return Err(invalid("its blob is not in the store".to_owned())) };
        let mut blob = PartlyRead::new(Unpacking::new(blob, &self.shown, &self.layer.descriptor));
        let (snapshot, writer, written, diff_id) = match self.unpack_from(&mut blob, &moved) {
            Ok(unpacked) => unpacked,
            Err(error) if self.cancel.is_cancelled() => return Err(error),
            Err(error) => {
                return Err(blob.finish().map_or_else(|damage| invalid(damage.to_string()), |()| error));
            }
        };
        self.shown.unpacked(&self.layer.descriptor, self.layer.descriptor.size);
        if diff_id != self.layer.diff_id {
            return Err(invalid(format!("it unpacks to {diff_id}, the config says {}", self.layer.diff_id)));
        }
        let digest = ContentDigest::from_bytes(StableHasher::new("image-layer-v1").with(&diff_id).finish());
        let Written { entries, size, replaces_all, describes_root, links } = written;
        let changes = Changes { digest, entries, size };
        Ok(UnpackedLayer {
            source: self,
            snapshot,
            writer,
            moved,
            replaces_all,
            describes_root,
            links,
            changes,
        })
    }

    fn unpack_from(
        &self,
        blob: impl Read + Send,
        moved: &BTreeMap<PathBuf, PathBuf>,
    ) -> Result<(ActiveSnapshot, TreeWriter, Written, Digest), WorkerError> {
        let invalid = |reason: String| self.invalid(reason);
        let tar = image::decompress(blob).map_err(|error| invalid(error.to_string()))?;
        let mut tar = DigestReader::new(tar);
        let snapshot = self.store.begin(&[])?;
        let writer = writer_of_image(&snapshot)?;
        let written = read_beside(&mut tar, |mut tar| {
            let written = write_entries(&mut tar, &writer, moved, &self.cancel)?;
            // What follows the end of the archive belongs to the diff id all the same.
            std::io::copy(tar, &mut std::io::sink()).map_err(|error| Unpack::Invalid(error.to_string()))?;
            Ok(written)
        });
        let written = written
            .map_err(|error| WorkerError::io("start a thread for", snapshot.dir(), error))?
            .map_err(|error| match error {
                Unpack::Invalid(reason) => invalid(reason),
                Unpack::Worker(error) => error,
            })?;
        Ok((snapshot, writer, written, tar.finish().1))
    }
}

impl UnpackedLayer {
    /// Makes it a snapshot, filed under its chain id.
    fn finish(self, below: &[SnapshotId]) -> Result<SnapshotId, WorkerError> {
        let Some(mut layer) = self.fit(below)? else {
            return Err(WorkerError::Internal("a layer follows links without end".to_owned()));
        };
        layer.link(below)?;
        if layer.replaces_all {
            layer.hide(below)?;
        }
        let LayerBlob { layer: blob, chain_id, store, .. } = layer.source;
        layer.writer.finish()?;
        layer.snapshot.look_at_holding(&HashMap::new())?;
        let id = layer.snapshot.commit(&layer.changes)?.id();
        store.set_chain(&chain_id, id)?;
        store.set_packed(id, LayerForm::ORIGINAL, &blob)?;
        Ok(id)
    }

    /// Makes it a snapshot that counts as made by a step at `created`: what it changes is `digest`. Layers of steps say all about the
    /// directories that they have something in, so nothing of what is below has to be here.
    pub(crate) fn import(
        mut self,
        digest: ContentDigest,
        created: SystemTime,
        form: &str,
    ) -> Result<SnapshotId, WorkerError> {
        if self.replaces_all || !self.links.is_empty() || !self.writer.implied().is_empty() {
            return Err(self.source.invalid("it is no layer of a step".to_owned()));
        }
        let LayerBlob { layer: blob, chain_id, store, .. } = self.source;
        self.writer.finish()?;
        self.snapshot.look_at_holding(&HashMap::new())?;
        let changes = Changes { digest, ..self.changes };
        let id = store.import(self.snapshot, &changes, created, self.describes_root)?;
        if store.chain(&chain_id)?.is_none() {
            store.set_chain(&chain_id, id)?;
        }
        store.set_packed(id, form, &blob)?;
        Ok(id)
    }

    /// A layer need not have the file that a hard link leads to: then it is brought up from below. (Image spec, `layer.md`: "may fail".)
    fn link(&self, below: &[SnapshotId]) -> Result<(), WorkerError> {
        if self.links.is_empty() {
            return Ok(());
        }
        let below = match self.replaces_all {
            true => None,
            false => Some(TreeView::new(&self.source.store, below)?),
        };
        for (path, target) in &self.links {
            let here = DirectoryTree::open(self.snapshot.dir(), self.snapshot.owners())
                .and_then(|layer| layer.metadata(target))
                .map_err(files::Error::from)?;
            if here.is_none()
                && let Some(below) = &below
                && let Some(found) = below.metadata(target)?
                && found.kind == Kind::File
            {
                let attributes = Attributes::of(&found, below.xattrs(target)?);
                self.writer.file(target, &mut below.open(target)?, &attributes)?;
            }
            self.writer.hard_link(path, target).map_err(|error| match error {
                files::Error::Unsafe { .. } => self.source.invalid(error.to_string()),
                _ if !is_missing(&error) => error.into(),
                _ => self.source.invalid(format!(
                    "the hard link {} leads to {}, which is no file of the layer or of those below",
                    path.display(),
                    target.display()
                )),
            })?;
        }
        Ok(())
    }

    /// Hides all that is below, name by name: overlay does not look for the mark of an opaque directory on a layer's root.
    fn hide(&self, below: &[SnapshotId]) -> Result<(), WorkerError> {
        for (name, _) in TreeView::new(&self.source.store, below)?.list(Path::new(""))? {
            let here = self.snapshot.dir().join(&name);
            match std::fs::symlink_metadata(&here) {
                Ok(found) if found.is_dir() => self.writer.opaque(Path::new(&name))?,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    self.writer.whiteout(Path::new(&name))?;
                }
                Err(error) => return Err(WorkerError::io("examine", &here, error)),
            }
        }
        Ok(())
    }

    /// A layer need not have entries for the directories that it has something in. They are as they are below, and where a link is
    /// there, it is followed: as if the archive were unpacked over the layers below.
    fn fit(mut self, below: &[SnapshotId]) -> Result<Option<UnpackedLayer>, WorkerError> {
        for _ in 0..MOST_MOVES {
            let implied = self.writer.implied();
            if implied.is_empty() || below.is_empty() {
                return Ok(Some(self));
            }
            let below = TreeView::new(&self.source.store, below)?;
            let mut link = None;
            for path in implied {
                match below.metadata(&path)? {
                    Some(found) if found.kind == Kind::Directory => {
                        self.writer.directory(&path, &Attributes::of(&found, below.xattrs(&path)?))?;
                    }
                    Some(found) if found.kind == Kind::Symlink => {
                        link = Some((files::resolve(&below, &path, true)?, path));
                        break;
                    }
                    _ => {}
                }
            }
            let Some((target, path)) = link else { return Ok(Some(self)) };
            self.moved.insert(path, target);
            self = self.source.unpack(self.moved)?;
        }
        Ok(None)
    }
}

/// More directories of one layer that are links below are taken as malice.
const MOST_MOVES: usize = 64;

/// A path with the longest of its directories that were moved replaced.
fn place(path: &Path, moved: &BTreeMap<PathBuf, PathBuf>) -> PathBuf {
    let above = path.ancestors().skip(1).find_map(|directory| Some((directory, moved.get(directory)?)));
    match above {
        Some((directory, target)) => target.join(path.strip_prefix(directory).unwrap_or(path)),
        None => path.to_owned(),
    }
}

/// Why an archive could not be unpacked.
enum Unpack {
    /// It is not a valid layer.
    Invalid(String),
    /// This side failed.
    Worker(WorkerError),
}

impl From<files::Error> for Unpack {
    fn from(error: files::Error) -> Unpack {
        match error {
            files::Error::Unsafe { .. } => Unpack::Invalid(error.to_string()),
            other => Unpack::Worker(other.into()),
        }
    }
}

/// What the tar of a layer had.
#[derive(Default)]
struct Written {
    entries: u64,
    /// Bytes of files.
    size: u64,
    /// Whether the root is marked opaque.
    replaces_all: bool,
    /// Whether there is an entry for the root.
    describes_root: bool,
    /// Hard links to what the layer has not, or not yet.
    links: BTreeMap<PathBuf, PathBuf>,
}

/// Whether the reason is that something is not there.
fn is_missing(error: &files::Error) -> bool {
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.kind() == std::io::ErrorKind::NotFound;
        }
        next = error.source();
    }
    false
}

/// Writes all entries of a layer's tar.
fn write_entries(
    tar: &mut dyn Read,
    writer: &TreeWriter,
    moved: &BTreeMap<PathBuf, PathBuf>,
    cancel: &Cancel,
) -> Result<Written, Unpack> {
    let mut reader = LayerReader::new(tar);
    let mut written = Written::default();
    // What hard links led to that was not there yet.
    let mut targets = BTreeSet::new();
    while let Some(entry) = reader.next_entry().map_err(|error| Unpack::Invalid(error.to_string()))? {
        if cancel.is_cancelled() {
            return Err(files::Error::Cancelled.into());
        }
        written.entries += 1;
        match entry.kind {
            EntryKind::File { size } => written.size += size,
            EntryKind::Opaque if entry.path.is_empty() => {
                written.replaces_all = true;
                continue;
            }
            EntryKind::Directory if entry.path.is_empty() => written.describes_root = true,
            _ => {}
        }
        let path = write_entry(&entry, &mut reader, writer, moved, &mut written.links)?;
        if let EntryKind::Hardlink { .. } = entry.kind {
            targets.extend(written.links.get(&path).cloned());
        } else {
            written.links.remove(&path);
            if targets.contains(&path) {
                let reason = format!("a hard link comes before what it leads to, {}", path.display());
                return Err(Unpack::Invalid(reason));
            }
        }
    }
    Ok(written)
}

fn write_entry<R: Read>(
    entry: &Entry,
    reader: &mut LayerReader<R>,
    writer: &TreeWriter,
    moved: &BTreeMap<PathBuf, PathBuf>,
    links: &mut BTreeMap<PathBuf, PathBuf>,
) -> Result<PathBuf, files::Error> {
    use std::os::unix::ffi::OsStrExt as _;
    let as_path = |bytes| Path::new(std::ffi::OsStr::from_bytes(bytes));
    // The mark of an opaque directory is a name in it: where the directory was moved, it goes along.
    let path = &match (&entry.kind, moved.get(as_path(&entry.path))) {
        (EntryKind::Opaque, Some(target)) => target.clone(),
        _ => place(as_path(&entry.path), moved),
    };
    let xattrs = entry.xattrs.iter();
    let attributes = Attributes {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: Some((entry.mtime, entry.mtime_nanos)),
        xattrs: xattrs
            .map(|(name, value)| (std::ffi::OsStr::from_bytes(name).to_owned(), value.clone()))
            .collect(),
    };
    match &entry.kind {
        EntryKind::File { .. } => writer.file(path, reader, &attributes).map(drop)?,
        EntryKind::Directory => writer.directory(path, &attributes)?,
        EntryKind::Symlink { target } => writer.symlink(path, as_path(target), &attributes)?,
        EntryKind::Hardlink { target } => {
            let target = place(as_path(target), moved);
            links.remove(path);
            match writer.hard_link(path, &target) {
                Err(error) if is_missing(&error) => {
                    // What stood there is replaced, and the directories on the way are made, before they are fitted to those below.
                    writer.remove(path)?;
                    links.insert(path.clone(), target);
                }
                linked => linked?,
            }
        }
        EntryKind::CharDevice { major, minor } => {
            writer.device(path, files::Kind::CharDevice, (*major, *minor), &attributes)?;
        }
        EntryKind::BlockDevice { major, minor } => {
            writer.device(path, files::Kind::BlockDevice, (*major, *minor), &attributes)?;
        }
        EntryKind::Fifo => writer.fifo(path, &attributes)?,
        EntryKind::Whiteout => writer.whiteout(path)?,
        EntryKind::Opaque => writer.opaque(path)?,
    }
    Ok(path.clone())
}
