use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use files::DirectoryTree;

use crate::CacheError;

/// Longer paths are refused by the kernel as one string (`PATH_MAX`).
const LONGEST: usize = 4000;

/// A path to something below a directory that the kernel takes as one string, however deep that is: by way of its open parent.
pub(crate) struct Near {
    path: PathBuf,
    whole: PathBuf,
    _parent: Option<OwnedFd>,
}

impl Near {
    pub(crate) fn of(tree: &DirectoryTree, path: &Path) -> Result<Near, CacheError> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(Near { path: tree.path().to_owned(), whole: tree.path().to_owned(), _parent: None });
        };
        let whole = tree.path().join(path);
        if whole.as_os_str().len() < LONGEST {
            return Ok(Near { path: whole.clone(), whole, _parent: None });
        }
        let parent = tree.open_directory(above)?;
        let path = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name);
        Ok(Near { path, whole, _parent: Some(parent) })
    }

    /// As people know it.
    pub(crate) fn whole(&self) -> &Path {
        &self.whole
    }

    /// What came of something that was done here: an error says where that is.
    pub(crate) fn named<T>(&self, result: Result<T, CacheError>) -> Result<T, CacheError> {
        result.map_err(|error| match error {
            CacheError::Io { action, path, source } if path == self.path => {
                CacheError::Io { action, path: self.whole.clone(), source }
            }
            other => other,
        })
    }
}

impl Deref for Near {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::At;

    #[test]
    fn long_paths_lead_where_short_ones_do() {
        let dir = tempfile::tempdir().unwrap();
        let root = &DirectoryTree::open(dir.path(), &files::Owners::Real).unwrap();
        let mut path = PathBuf::new();
        // Longer than two strings that the kernel takes.
        for depth in 0..40 {
            std::fs::create_dir(&*Near::of(root, &path.join("d")).unwrap()).unwrap();
            std::fs::write(&*Near::of(root, &path.join("file")).unwrap(), depth.to_string()).unwrap();
            path.push("n".repeat(250));
            std::fs::create_dir(&*Near::of(root, &path).unwrap()).unwrap();
            std::fs::remove_dir(&*Near::of(root, &path.with_file_name("d")).unwrap()).unwrap();
        }
        let mut above = path.as_path();
        for depth in (0..40).rev() {
            above = above.parent().unwrap();
            let file = Near::of(root, &above.join("file")).unwrap();
            assert_eq!(std::fs::read_to_string(&*file).unwrap(), depth.to_string());
        }
        assert_eq!(&*Near::of(root, Path::new("")).unwrap(), root.path());
        let gone = Near::of(root, &path.join("gone")).unwrap();
        for error in [
            gone.named(std::fs::read_dir(&*gone).at("list", &gone)).unwrap_err(),
            std::fs::read_dir(&*gone).at("list", gone.whole()).unwrap_err(),
        ] {
            assert!(error.to_string().starts_with(&format!("list {}/nnn", root.path().display())), "{error}");
        }
    }
}
