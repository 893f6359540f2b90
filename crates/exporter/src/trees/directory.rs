use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use files::{
    Attributes, CopyOptions, DirectoryTree, FileTree, Kind, OpaqueMark, Owners, TreeWriter, WriterOptions,
    write_selected,
};

use super::portable::Portable;
use super::{below, placed, whole};
use crate::task::{Cancel, blocking};
use crate::{ExportError, Exported, Exporter, Needs, Product, Trees};

/// What becomes of files that are in the destination already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DirectoryMode {
    /// They stay, unless the tree has something at the same path.
    #[default]
    Copy,
    /// Everything that is not in the tree is removed.
    Delete,
}

/// Writes a tree into a directory (`type=local`): modes, times, links, hard links and extended attributes are kept; everything is
/// owned by the user who exports, as with `docker build -o`.
///
/// A file that is there already is replaced in one step once the new one is complete. An export that fails or is given up leaves each file of the
/// destination either as it was or as it is in the tree.
///
/// Links in the destination are never followed, so that an image cannot make a later export write elsewhere. What the user may not
/// create (devices, file capabilities without privilege) is left out, with a warning. The destination keeps its own attributes.
#[derive(Debug, Clone)]
pub struct DirectoryExporter {
    path: PathBuf,
    mode: DirectoryMode,
}

impl DirectoryExporter {
    /// Writes to `path`, which is made with the directories above it when missing.
    pub fn new(path: impl Into<PathBuf>, mode: DirectoryMode) -> DirectoryExporter {
        DirectoryExporter { path: path.into(), mode }
    }
}

#[async_trait]
impl Exporter for DirectoryExporter {
    fn needs(&self) -> Needs {
        Needs::Trees
    }

    async fn export(&self, product: Product) -> Result<Exported, ExportError> {
        let Product::Trees(trees) = product else { return Err(ExportError::WrongProduct(Needs::Trees)) };
        let exporter = self.clone();
        blocking(move |cancel| exporter.write(&trees, cancel)).await
    }
}

impl DirectoryExporter {
    fn write(&self, trees: &Trees, cancel: &Cancel) -> Result<Exported, ExportError> {
        fs::create_dir_all(&self.path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                ExportError::destination(&self.path, "it is not a directory")
            }
            _ => ExportError::io("make directory", &self.path)(source),
        })?;
        let options = WriterOptions {
            owners: Owners::Real,
            opaque: OpaqueMark::User,
            parents: Attributes { mtime: trees.epoch.map(|epoch| (epoch, 0)), ..own(0o755) },
        };
        let writer = TreeWriter::new(&self.path, options)?.with_rollback()?;
        let mut exported = Exported::default();
        let mut written = HashSet::new();
        for (folder, tree) in placed(trees, cancel)? {
            exported.warnings.extend(self.write_tree(
                &writer,
                &folder,
                &*tree,
                trees.epoch,
                &mut written,
                cancel,
            )?);
        }
        if self.mode == DirectoryMode::Delete {
            self.remove_others(&writer, &written, cancel)?;
        }
        writer.finish()?;
        Ok(exported)
    }

    fn write_tree(
        &self,
        writer: &TreeWriter,
        folder: &Path,
        tree: &dyn FileTree,
        epoch: Option<i64>,
        written: &mut HashSet<PathBuf>,
        cancel: &Cancel,
    ) -> Result<Vec<String>, ExportError> {
        let tree = Portable::new(tree, &self.path)?;
        let found = whole(&tree, cancel)?;
        let user = own(0);
        let options = CopyOptions {
            destination: folder.to_owned(),
            owner: Some((user.uid, user.gid)),
            mtime: epoch.map(|epoch| (epoch, 0)),
            keep_top: folder.as_os_str().is_empty(),
            ..CopyOptions::default()
        };
        write_selected(&tree, &found, writer, &options, &|| cancel.is_set())?;
        if self.mode == DirectoryMode::Delete {
            written.insert(folder.to_owned());
            written.extend(found.entries().map(|entry| below(folder, entry.path)));
        }
        Ok(tree.warnings())
    }

    /// Removes what stands in the destination and was not written.
    fn remove_others(
        &self,
        writer: &TreeWriter,
        written: &HashSet<PathBuf>,
        cancel: &Cancel,
    ) -> Result<(), ExportError> {
        // Which goes to names that are longer than the system takes at once.
        let destination = DirectoryTree::open(&self.path, &Owners::Real).map_err(files::Error::from)?;
        let mut rest = vec![PathBuf::new()];
        while let Some(directory) = rest.pop() {
            for (name, metadata) in destination.list(&directory).map_err(files::Error::from)? {
                cancel.check()?;
                let path = directory.join(name);
                if !written.contains(&path) {
                    writer.remove(&path)?;
                } else if metadata.kind == Kind::Directory {
                    rest.push(path);
                }
            }
        }
        Ok(())
    }
}

/// Attributes of what belongs to the user who exports.
fn own(mode: u32) -> Attributes {
    Attributes {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        ..Attributes::with_mode(mode)
    }
}
