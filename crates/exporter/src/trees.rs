mod directory;
mod portable;
mod tar;

pub use directory::{DirectoryExporter, DirectoryMode};
pub use tar::TarExporter;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use files::{FileTree, Kind, Match, Selection, select};
use image::Platform;

use crate::task::Cancel;
use crate::{ExportError, Trees};

/// A tree and the directory within the destination that it goes to.
type Placed = (PathBuf, Arc<dyn FileTree>);

/// The trees with the directory that each goes to: the top, or `linux_amd64` and so on.
fn placed(trees: &Trees, cancel: &Cancel) -> Result<Vec<Placed>, ExportError> {
    if trees.trees.is_empty() {
        return Err(ExportError::Empty);
    }
    if !trees.split && trees.trees.len() > 1 {
        check_apart(trees, cancel)?;
    }
    let place = |platform: &Platform| if trees.split { folder(platform) } else { PathBuf::new() };
    Ok(trees.trees.iter().map(|(platform, tree)| (place(platform), tree.clone())).collect())
}

/// Platforms that go to the same place may share directories, and nothing else: one would overwrite the other.
fn check_apart(trees: &Trees, cancel: &Cancel) -> Result<(), ExportError> {
    let mut seen: HashMap<PathBuf, (&Platform, bool)> = HashMap::new();
    for (platform, tree) in &trees.trees {
        let found = whole(&**tree, cancel)?;
        for entry in found.entries() {
            let is_directory = entry.metadata.kind == Kind::Directory;
            match seen.get(entry.path) {
                Some((_, true)) if is_directory => {}
                Some((other, _)) => {
                    return Err(ExportError::Collision {
                        path: entry.path.to_owned(),
                        one: other.to_string(),
                        other: platform.to_string(),
                    });
                }
                None => drop(seen.insert(entry.path.to_owned(), (platform, is_directory))),
            }
        }
    }
    Ok(())
}

fn folder(platform: &Platform) -> PathBuf {
    PathBuf::from(platform.to_string().replace('/', "_"))
}

/// A path of a tree within the destination. (`Path::join` puts a slash behind a folder joined with nothing.)
fn below(folder: &Path, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { folder.to_owned() } else { folder.join(path) }
}

/// All of a tree, walked once, with all names of everything.
fn whole(tree: &dyn FileTree, cancel: &Cancel) -> Result<Match, ExportError> {
    let mut selected = select(tree, &Selection::Whole, &|| cancel.is_set())?;
    selected.matches.pop().map(Match::with_hard_links_of_all_kinds).ok_or(ExportError::Empty)
}
