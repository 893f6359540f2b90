use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::CacheError;
use crate::error::At;
use crate::upper::{LONGEST, open_stepwise};

/// A path to something below a directory that the kernel takes as one string, however deep that is: by way of its open parent.
pub(crate) struct Near {
    path: PathBuf,
    _parent: Option<OwnedFd>,
}

impl Near {
    pub(crate) fn of(root: &Path, path: &Path) -> Result<Near, CacheError> {
        let whole = root.join(path);
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(Near { path: root.to_owned(), _parent: None });
        };
        if whole.as_os_str().len() < LONGEST {
            return Ok(Near { path: whole, _parent: None });
        }
        let parent = open_stepwise(root, above).at("open", &whole)?;
        let path = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name);
        Ok(Near { path, _parent: Some(parent) })
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

    #[test]
    fn long_paths_lead_where_short_ones_do() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
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
        assert_eq!(&*Near::of(root, Path::new("")).unwrap(), root);
    }
}
