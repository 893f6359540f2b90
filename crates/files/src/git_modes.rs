use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::{FileTree, Kind, Metadata, TreeError};

/// A tree whose permissions are reduced to what git keeps of them: 0755 for directories and for files that their owner may execute, 0644
/// for all others. So a checkout is the same whatever the umask was, and whoever made it.
#[derive(Debug)]
pub struct GitModes<T>(T);

impl<T: FileTree> GitModes<T> {
    /// Shows `tree` so.
    pub fn new(tree: T) -> GitModes<T> {
        GitModes(tree)
    }
}

fn reduced(metadata: Metadata) -> Metadata {
    let mode = match metadata.kind {
        // A link's mode means nothing.
        Kind::Symlink => metadata.mode,
        Kind::Directory => 0o755,
        _ if metadata.mode & 0o100 != 0 => 0o755,
        _ => 0o644,
    };
    Metadata { mode, ..metadata }
}

impl<T: FileTree> FileTree for GitModes<T> {
    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, TreeError> {
        Ok(self.0.metadata(path)?.map(reduced))
    }

    fn list(&self, path: &Path) -> Result<Vec<(OsString, Metadata)>, TreeError> {
        let names = self.0.list(path)?;
        Ok(names.into_iter().map(|(name, metadata)| (name, reduced(metadata))).collect())
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, TreeError> {
        self.0.read_link(path)
    }

    fn open(&self, path: &Path) -> Result<File, TreeError> {
        self.0.open(path)
    }

    fn xattrs(&self, path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError> {
        self.0.xattrs(path)
    }

    fn xattrs_of(&self, path: &Path, file: &File) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError> {
        self.0.xattrs_of(path, file)
    }

    fn hidden_by(&self, path: &Path) -> Option<String> {
        self.0.hidden_by(path)
    }

    fn is_immutable(&self) -> bool {
        self.0.is_immutable()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::DirectoryTree;

    #[test]
    fn nothing_is_left_but_whether_the_owner_may_execute() {
        let dir = tempfile::tempdir().unwrap();
        let tree = || GitModes::new(DirectoryTree::context(dir.path()).unwrap());
        let file = dir.path().join("file");
        std::fs::write(&file, "text").unwrap();
        for (mode, expected) in
            [(0o600, 0o644), (0o666, 0o644), (0o645, 0o644), (0o700, 0o755), (0o775, 0o755), (0o4755, 0o755)]
        {
            std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            assert_eq!(tree().metadata(Path::new("file")).unwrap().unwrap().mode, expected, "{mode:o}");
            assert_eq!(tree().list(Path::new("")).unwrap()[0].1.mode, expected, "{mode:o}");
        }
        for mode in [0o700, 0o2775, 0o1777] {
            let sub = dir.path().join(format!("{mode:o}"));
            std::fs::create_dir(&sub).unwrap();
            std::fs::set_permissions(&sub, Permissions::from_mode(mode)).unwrap();
            assert_eq!(tree().metadata(Path::new(&format!("{mode:o}"))).unwrap().unwrap().mode, 0o755);
        }
    }
}
