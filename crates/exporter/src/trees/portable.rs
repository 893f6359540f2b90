use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use files::{FileTree, Kind, Metadata, TreeError};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat};
use tempfile::TempDir;

use crate::ExportError;
use crate::output::plain;

/// A tree without what this user, on this file system, cannot create: found out by trying, in a scratch directory beside the
/// destination's files.
pub(super) struct Portable<'a> {
    tree: &'a dyn FileTree,
    devices: bool,
    known: Mutex<Known>,
    scratch: TempDir,
}

#[derive(Default)]
struct Known {
    /// Whether attributes of a name can be set, apart for directories and files.
    attributes: BTreeMap<(OsString, bool), bool>,
    left_out_devices: BTreeSet<PathBuf>,
    left_out_attributes: BTreeMap<OsString, BTreeSet<PathBuf>>,
}

impl<'a> Portable<'a> {
    pub(super) fn new(tree: &'a dyn FileTree, destination: &Path) -> Result<Portable<'a>, ExportError> {
        let mut builder = tempfile::Builder::new();
        let scratch = builder
            .prefix(".export-")
            .tempdir_in(destination)
            .map_err(|error| ExportError::io("write to", destination)(plain(&error)))?;
        let null = scratch.path().join("null");
        let devices = mknodat(CWD, &null, FileType::CharacterDevice, Mode::empty(), makedev(1, 3)).is_ok();
        Ok(Portable { tree, devices, known: Mutex::default(), scratch })
    }

    /// What was left out, in words.
    pub(super) fn warnings(&self) -> Vec<String> {
        let known = self.known();
        let mut warnings = Vec::new();
        if let Some(first) = known.left_out_devices.first() {
            let count = known.left_out_devices.len();
            warnings.push(format!(
                "left out {count} device(s), as /{}: creating them needs root",
                first.display()
            ));
        }
        for (name, paths) in &known.left_out_attributes {
            if let Some(first) = paths.first() {
                let (name, count) = (name.display(), paths.len());
                let first = first.display();
                warnings.push(format!("left out the attribute {name} of {count} file(s), as /{first}"));
            }
        }
        warnings
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn can_set(&self, name: &OsStr, value: &[u8], directory: bool) -> bool {
        let mut known = self.known();
        let key = (name.to_owned(), directory);
        if let Some(can) = known.attributes.get(&key) {
            return *can;
        }
        let probe = self.scratch.path().join(if directory { "directory" } else { "file" });
        let made = if directory {
            probe.is_dir() || fs::create_dir(&probe).is_ok()
        } else {
            File::create(&probe).is_ok()
        };
        let can = made && rustix::fs::lsetxattr(&probe, name, value, XattrFlags::empty()).is_ok();
        known.attributes.insert(key, can);
        can
    }

    fn keep_possible(
        &self,
        path: &Path,
        mut xattrs: BTreeMap<OsString, Vec<u8>>,
        directory: bool,
    ) -> BTreeMap<OsString, Vec<u8>> {
        xattrs.retain(|name, value| {
            let keep = self.can_set(name, value, directory);
            if !keep {
                let mut known = self.known();
                known.left_out_attributes.entry(name.clone()).or_default().insert(path.to_owned());
            }
            keep
        });
        xattrs
    }
}

impl FileTree for Portable<'_> {
    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, TreeError> {
        self.tree.metadata(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<(OsString, Metadata)>, TreeError> {
        let mut list = self.tree.list(path)?;
        list.retain(|(name, metadata)| {
            let device = matches!(metadata.kind, Kind::CharDevice | Kind::BlockDevice);
            if device && !self.devices {
                self.known().left_out_devices.insert(path.join(name));
                return false;
            }
            true
        });
        Ok(list)
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, TreeError> {
        self.tree.read_link(path)
    }

    fn open(&self, path: &Path) -> Result<File, TreeError> {
        self.tree.open(path)
    }

    fn xattrs(&self, path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError> {
        let xattrs = self.tree.xattrs(path)?;
        if xattrs.is_empty() {
            return Ok(xattrs);
        }
        let directory = self.tree.metadata(path)?.is_some_and(|metadata| metadata.kind == Kind::Directory);
        Ok(self.keep_possible(path, xattrs, directory))
    }

    fn xattrs_of(&self, path: &Path, file: &File) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError> {
        Ok(self.keep_possible(path, self.tree.xattrs_of(path, file)?, false))
    }

    fn is_immutable(&self) -> bool {
        self.tree.is_immutable()
    }
}
