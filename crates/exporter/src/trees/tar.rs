use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use async_trait::async_trait;
use files::{FileTree, Kind, Match};
use image::layer::{Entry, EntryKind, LayerWriter};

use super::{below, placed, whole};
use crate::task::{Cancel, Cancellable, blocking};
use crate::{ExportError, Exported, Exporter, Needs, Output, Product, Trees};

/// Writes a tree as one tar (`type=tar`): sorted, with numeric owners, times in whole seconds, hard links, devices and extended
/// attributes; without an entry for the root, as BuildKit does.
#[derive(Debug, Clone)]
pub struct TarExporter {
    output: Output,
}

impl TarExporter {
    /// Writes to `output`.
    pub fn new(output: Output) -> TarExporter {
        TarExporter { output }
    }
}

#[async_trait]
impl Exporter for TarExporter {
    fn needs(&self) -> Needs {
        Needs::Trees
    }

    async fn export(&self, product: Product) -> Result<Exported, ExportError> {
        let Product::Trees(trees) = product else { return Err(ExportError::WrongProduct(Needs::Trees)) };
        let output = self.output.clone();
        blocking(move |cancel| {
            output.write(|out| write_trees(out, &trees, cancel))?;
            Ok(Exported::default())
        })
        .await
    }
}

fn write_trees(out: &mut dyn Write, trees: &Trees, cancel: &Cancel) -> Result<(), ExportError> {
    let mut tar = LayerWriter::archive(out);
    for (folder, tree) in placed(trees, cancel)? {
        let found = whole(&*tree, cancel)?;
        for index in 0..found.len() {
            cancel.check()?;
            append(&mut tar, &folder, &*tree, &found, index, trees.epoch, cancel)?;
        }
    }
    tar.finish()?;
    Ok(())
}

fn append(
    tar: &mut LayerWriter<&mut dyn Write>,
    folder: &Path,
    tree: &dyn FileTree,
    found: &Match,
    index: usize,
    epoch: Option<i64>,
    cancel: &Cancel,
) -> Result<(), ExportError> {
    let item = found.entry(index);
    let path = below(folder, item.path);
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    let metadata = item.metadata;
    let (major, minor) = metadata.device;
    let mut content: Box<dyn Read> = Box::new(io::empty());
    let kind = match (metadata.kind, item.hard_link) {
        (_, Some(first)) if first != index => {
            EntryKind::Hardlink { target: bytes(&below(folder, found.entry(first).path)) }
        }
        (Kind::File, _) => {
            let reader = tree.open(&found.source_of(&item)).map_err(files::Error::from)?;
            content = Box::new(Cancellable { reader, cancel });
            EntryKind::File { size: metadata.size }
        }
        (Kind::Directory, _) => EntryKind::Directory,
        (Kind::Symlink, _) => EntryKind::Symlink { target: bytes(item.link_target.unwrap_or(Path::new(""))) },
        (Kind::Fifo, _) => EntryKind::Fifo,
        (Kind::CharDevice, _) => EntryKind::CharDevice { major, minor },
        (Kind::BlockDevice, _) => EntryKind::BlockDevice { major, minor },
        // Never selected.
        (Kind::Socket, _) => return Ok(()),
    };
    let xattrs = tree.xattrs(&found.source_of(&item)).map_err(files::Error::from)?;
    let entry = Entry {
        path: bytes(&path),
        kind,
        mode: metadata.mode,
        uid: metadata.uid,
        gid: metadata.gid,
        mtime: epoch.unwrap_or(metadata.mtime.0),
        mtime_nanos: 0,
        xattrs: xattrs.into_iter().map(|(name, value)| (name.into_vec(), value)).collect(),
    };
    Ok(tar.append(&entry, &mut content)?)
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}
