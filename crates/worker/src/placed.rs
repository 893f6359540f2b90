//! A tree while an instruction writes to it: what is below, and what was placed over that.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use files::{Attributes, FileTree, Kind, Metadata, TreeError, TreeWriter};

use crate::WorkerError;

/// The tree below with what was placed over it so far, as far as paths are looked up in it.
pub(crate) struct Placed<'a> {
    below: &'a dyn FileTree,
    /// The directories that were made part of the layer on the way to a destination.
    directories: HashMap<PathBuf, Metadata>,
    /// All that was copied; kept only when there is more to come that must see it.
    copied: Option<HashMap<PathBuf, (Metadata, Option<PathBuf>)>>,
    /// Directories below that something else took the place of: nothing in them is there any more.
    replaced: HashSet<PathBuf>,
}

impl<'a> Placed<'a> {
    pub(crate) fn new(below: &'a dyn FileTree, remember: bool) -> Placed<'a> {
        Placed {
            below,
            directories: HashMap::new(),
            copied: remember.then(HashMap::new),
            replaced: HashSet::new(),
        }
    }

    /// Whether what is put is kept: there is more to come that must see it.
    pub(crate) fn remembers(&self) -> bool {
        self.copied.is_some()
    }

    /// What the layer has at a path now.
    pub(crate) fn put(&mut self, path: PathBuf, metadata: &Metadata, link_target: Option<&Path>) {
        if let Some(copied) = &mut self.copied
            && !path.as_os_str().is_empty()
        {
            copied.insert(path, (*metadata, link_target.map(Path::to_owned)));
        }
    }

    /// Forgets what is at a path and below it: it is removed from the layer, and hidden where it is from below.
    pub(crate) fn remove(&mut self, path: &Path) -> Result<(), TreeError> {
        if self.below(path)?.is_some_and(|metadata| metadata.kind == Kind::Directory) {
            self.replaced.insert(path.to_owned());
        }
        self.directories.retain(|directory, _| !directory.starts_with(path));
        if let Some(copied) = &mut self.copied {
            copied.retain(|copied, _| !copied.starts_with(path));
        }
        Ok(())
    }

    /// Whether a directory stood here below, and was replaced: a new one must not show what that one held.
    pub(crate) fn was_replaced(&self, path: &Path) -> bool {
        self.replaced.contains(path)
    }

    /// The directories that were made part of the layer on the way to a destination.
    pub(crate) fn directories(&self) -> impl Iterator<Item = &Path> {
        self.directories.keys().map(PathBuf::as_path)
    }

    /// Whether the layer itself has something there.
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.copied(path).is_some() || self.directories.contains_key(path)
    }

    fn copied(&self, path: &Path) -> Option<&(Metadata, Option<PathBuf>)> {
        self.copied.as_ref()?.get(path)
    }

    /// What is below, where it is not hidden.
    fn below(&self, path: &Path) -> Result<Option<Metadata>, TreeError> {
        if path.ancestors().any(|above| self.replaced.contains(above)) {
            return Ok(None);
        }
        self.below.metadata(path)
    }
}

impl FileTree for Placed<'_> {
    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, TreeError> {
        match self.copied(path).map(|(metadata, _)| metadata).or_else(|| self.directories.get(path)) {
            Some(metadata) => Ok(Some(*metadata)),
            None => self.below(path),
        }
    }

    fn list(&self, path: &Path) -> Result<Vec<(OsString, Metadata)>, TreeError> {
        self.below.list(path)
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, TreeError> {
        match self.copied(path) {
            Some((_, Some(target))) => Ok(target.clone()),
            _ => self.below.read_link(path),
        }
    }

    fn open(&self, path: &Path) -> Result<File, TreeError> {
        self.below.open(path)
    }

    fn xattrs(&self, path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError> {
        self.below.xattrs(path)
    }
}

/// Makes a directory and its parents part of the layer: as they are below where they exist, else with `attributes`.
pub(crate) fn ensure_directory(
    path: &Path,
    attributes: &Attributes,
    placed: &mut Placed<'_>,
    writer: &TreeWriter,
) -> Result<(), WorkerError> {
    let mut ancestors: Vec<&Path> = path.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
    ancestors.reverse();
    for directory in ancestors {
        let copied = placed.copied(directory).map(|(metadata, _)| *metadata);
        if placed.directories.contains_key(directory)
            || copied.is_some_and(|copied| copied.kind == Kind::Directory)
        {
            continue;
        }
        let existing = match copied {
            Some(copied) => Some(copied),
            None => placed.below(directory)?,
        };
        let metadata = match existing {
            None => {
                writer.directory(directory, attributes)?;
                if placed.was_replaced(directory) {
                    writer.opaque(directory)?;
                }
                new_directory(attributes)
            }
            Some(metadata) if metadata.kind == Kind::Directory => {
                writer.directory(directory, &Attributes::of(&metadata, placed.below.xattrs(directory)?))?;
                metadata
            }
            Some(_) => {
                return Err(WorkerError::Copy(format!(
                    "cannot make the directory /{}: /{} is not a directory",
                    path.display(),
                    directory.display()
                )));
            }
        };
        placed.directories.insert(directory.to_owned(), metadata);
    }
    Ok(())
}

/// What a look-up says of something that was just written.
pub(crate) fn new_metadata(kind: Kind, attributes: &Attributes) -> Metadata {
    Metadata { kind, ..new_directory(attributes) }
}

fn new_directory(attributes: &Attributes) -> Metadata {
    Metadata {
        kind: Kind::Directory,
        mode: attributes.mode,
        uid: attributes.uid,
        gid: attributes.gid,
        size: 0,
        mtime: (0, 0),
        ctime: (0, 0),
        device: (0, 0),
        file_system: 0,
        inode: 0,
        links: 2,
    }
}

/// `join` of an empty path would add a slash.
pub(crate) fn join(directory: &Path, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { directory.to_owned() } else { directory.join(path) }
}
