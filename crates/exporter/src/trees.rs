mod directory;
mod portable;
mod tar;

pub use directory::{DirectoryExporter, DirectoryMode};
pub use tar::TarExporter;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use files::{FileTree, Match, Selection, select};
use image::Platform;

use crate::task::Cancel;
use crate::{ExportError, Trees};

/// A tree and the directory within the destination that it goes to.
type Placed = (PathBuf, Arc<dyn FileTree>);

/// The trees with the directory that each goes to: the top, or `linux_amd64` and so on.
fn placed(trees: &Trees) -> Result<Vec<Placed>, ExportError> {
    if trees.trees.is_empty() {
        return Err(ExportError::Empty);
    }
    let place = |platform: &Platform| if trees.split { folder(platform) } else { PathBuf::new() };
    Ok(trees.trees.iter().map(|(platform, tree)| (place(platform), tree.clone())).collect())
}

fn folder(platform: &Platform) -> PathBuf {
    PathBuf::from(platform.to_string().replace('/', "_"))
}

/// A path of a tree within the destination. (`Path::join` puts a slash behind a folder joined with nothing.)
fn below(folder: &Path, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { folder.to_owned() } else { folder.join(path) }
}

/// All of a tree, walked once.
fn whole(tree: &dyn FileTree, cancel: &Cancel) -> Result<Match, ExportError> {
    let mut selected = select(tree, &Selection::Whole, &|| cancel.is_set())?;
    selected.matches.pop().ok_or(ExportError::Empty)
}
