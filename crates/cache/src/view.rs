use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use files::{Attributes, FileTree, Kind, Metadata, TreeError};

use crate::upper::{UpperDir, is_whiteout};
use crate::{CacheError, Snapshot, SnapshotId, Store};

/// A chain of layers as one tree: what an overlay mount of the same directories would show, without a mount.
///
/// One thing differs from a mount: a layer that says nothing about the root directory (one of `COPY --link`) leaves it as the
/// layers below have it.
#[derive(Debug)]
pub struct TreeView {
    /// Top first.
    layers: Vec<Layer>,
    /// For each directory that was looked into: the layers that make it up, top first. `None`: no directory there.
    stacks: RwLock<HashMap<PathBuf, Option<Arc<[usize]>>>>,
}

/// A directory of a layer.
#[derive(Debug)]
struct Layer {
    snapshot: Snapshot,
    /// From the top of the layer's.
    depth: usize,
    /// Opened when something in it is looked at: of a chain of hundreds of layers few have anything to say.
    opened: OnceLock<UpperDir>,
}

impl Layer {
    fn path(&self) -> &Path {
        self.snapshot.dir(self.depth)
    }

    fn upper(&self) -> Result<&UpperDir, TreeError> {
        if let Some(upper) = self.opened.get() {
            return Ok(upper);
        }
        let upper = self.snapshot.open_dir(self.depth)?;
        Ok(self.opened.get_or_init(|| upper))
    }

    fn describes_root(&self) -> bool {
        self.depth == 0 && self.snapshot.describes_root()
    }

    /// What it has at `path`, all of whose parents are directories in it.
    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, TreeError> {
        let is_in_root = path.parent().is_some_and(|parent| parent.as_os_str().is_empty());
        if is_in_root && !self.snapshot.may_have(self.depth, path.as_os_str()) {
            return Ok(None);
        }
        self.upper()?.tree.metadata(path)
    }
}

impl TreeView {
    /// The merged tree of `snapshots`, bottom first; of none, an empty root directory of mode 0755.
    ///
    /// # Errors
    /// [`CacheError::NoSnapshot`] when one of them is gone.
    pub fn new(store: &Store, snapshots: &[SnapshotId]) -> Result<TreeView, CacheError> {
        let mut layers = Vec::with_capacity(snapshots.len());
        let mut seen = HashSet::new();
        for id in top_first(snapshots) {
            let snapshot = store.known_snapshot(id)?.ok_or(CacheError::NoSnapshot(id))?;
            for (depth, path) in snapshot.dirs().enumerate() {
                // Versions of one layer may lie in one chain: what they have in common counts where it is topmost.
                if seen.insert(path.to_owned()) {
                    layers.push(Layer { snapshot: snapshot.clone(), depth, opened: OnceLock::new() });
                }
            }
        }
        Ok(TreeView { layers, stacks: RwLock::default() })
    }

    /// The directories of all layers, top first.
    pub(crate) fn dirs(&self) -> impl Iterator<Item = &Path> {
        self.layers.iter().map(Layer::path)
    }

    /// What is set on the root directory.
    pub(crate) fn root_attributes(&self) -> Result<Attributes, TreeError> {
        match self.root_layer() {
            Some(layer) => layer.upper()?.root_attributes(),
            None => Ok(Attributes::with_mode(0o755)),
        }
    }

    /// The layer whose root directory counts.
    fn root_layer(&self) -> Option<&Layer> {
        self.layers.iter().find(|layer| layer.describes_root())
    }

    /// Whether there is a directory.
    pub(crate) fn has_directory(&self, path: &Path) -> Result<bool, TreeError> {
        Ok(self.stack(path)?.is_some())
    }

    /// The layers that make up the directory `path`, `None` when no directory is there.
    fn stack(&self, path: &Path) -> Result<Option<Arc<[usize]>>, TreeError> {
        let Some(parent) = path.parent() else {
            return Ok(Some((0..self.layers.len()).collect()));
        };
        if let Some(stack) = self.stacks.read().unwrap_or_else(PoisonError::into_inner).get(path) {
            return Ok(stack.clone());
        }
        let stack = match self.stack(parent)? {
            Some(parents) => self.merge(path, &parents)?.map(Arc::from),
            None => None,
        };
        let mut stacks = self.stacks.write().unwrap_or_else(PoisonError::into_inner);
        Ok(stacks.entry(path.to_owned()).or_insert(stack).clone())
    }

    fn merge(&self, path: &Path, parents: &[usize]) -> Result<Option<Vec<usize>>, TreeError> {
        let mut stack = Vec::new();
        for (position, &index) in parents.iter().enumerate() {
            let layer = &self.layers[index];
            match layer.metadata(path)? {
                None => continue,
                Some(metadata) if metadata.kind == Kind::Directory => stack.push(index),
                // A whiteout, or something that is hidden by the directories above it: what lies below is, too.
                Some(_) => break,
            }
            let is_last = position + 1 == parents.len();
            if !is_last && layer.upper()?.is_opaque(path)? {
                break;
            }
        }
        Ok((!stack.is_empty()).then_some(stack))
    }

    /// The layer that shows at `path`, and what it has there.
    fn locate(&self, path: &Path) -> Result<Option<(&Layer, Metadata)>, TreeError> {
        let Some(parent) = path.parent() else { return Ok(None) };
        // A directory that was looked into is what its topmost layer has.
        let known = self.stacks.read().unwrap_or_else(PoisonError::into_inner).get(path).cloned().flatten();
        let stack = match known {
            Some(stack) => stack,
            None => match self.stack(parent)? {
                Some(stack) => stack,
                None => return Ok(None),
            },
        };
        for &index in stack.iter() {
            let layer = &self.layers[index];
            if let Some(metadata) = layer.metadata(path)? {
                return Ok((!is_whiteout(&metadata)).then_some((layer, metadata)));
            }
        }
        Ok(None)
    }

    fn locate_existing(&self, action: &'static str, path: &Path) -> Result<&Layer, TreeError> {
        match self.locate(path)? {
            Some((layer, _)) => Ok(layer),
            None => Err(error(action, path, io::ErrorKind::NotFound)),
        }
    }
}

fn error(action: &'static str, path: &Path, kind: io::ErrorKind) -> TreeError {
    TreeError { action, path: Path::new("/").join(path), source: kind.into() }
}

/// The root of a tree without layers.
fn empty_root() -> Metadata {
    Metadata {
        kind: Kind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: (0, 0),
        ctime: (0, 0),
        device: (0, 0),
        file_system: 0,
        inode: 0,
        links: 2,
    }
}

/// A chain top first. A layer that occurs twice counts where it is topmost: there it hides all that it would show further
/// down, and overlayfs refuses to have one directory twice.
fn top_first(snapshots: &[SnapshotId]) -> Vec<SnapshotId> {
    let mut seen = HashSet::new();
    snapshots.iter().rev().copied().filter(|id| seen.insert(*id)).collect()
}

impl FileTree for TreeView {
    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, TreeError> {
        if path.parent().is_none() {
            return match self.root_layer() {
                Some(layer) => layer.upper()?.tree.metadata(path),
                None => Ok(Some(empty_root())),
            };
        }
        Ok(self.locate(path)?.map(|(_, metadata)| metadata))
    }

    fn list(&self, path: &Path) -> Result<Vec<(OsString, Metadata)>, TreeError> {
        let Some(stack) = self.stack(path)? else {
            let kind = match self.metadata(path)? {
                Some(_) => io::ErrorKind::NotADirectory,
                None => io::ErrorKind::NotFound,
            };
            return Err(error("list", path, kind));
        };
        let mut listing = Vec::new();
        let mut decided = HashSet::new();
        for &index in stack.iter() {
            for (name, metadata) in self.layers[index].upper()?.tree.list(path)? {
                // A whiteout decides about its name, too.
                let shows = stack.len() == 1 || decided.insert(name.clone());
                if shows && !is_whiteout(&metadata) {
                    listing.push((name, metadata));
                }
            }
        }
        Ok(listing)
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, TreeError> {
        self.locate_existing("read link", path)?.upper()?.tree.read_link(path)
    }

    fn open(&self, path: &Path) -> Result<File, TreeError> {
        self.locate_existing("open", path)?.upper()?.tree.open(path)
    }

    fn xattrs(&self, path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError> {
        if path.parent().is_none() {
            return Ok(self.root_attributes()?.xattrs);
        }
        self.locate_existing("read extended attributes of", path)?.upper()?.tree.xattrs(path)
    }

    fn is_immutable(&self) -> bool {
        true
    }
}
