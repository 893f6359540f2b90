//! The ignore file of a Dockerfile, and what it was at a commit.

use std::path::{Path, PathBuf};

use files::Ignore;

/// Which ignore file counts for a Dockerfile: its own beside it, else that of the context. For a context with a name its own alone.
pub(super) struct IgnoreFile {
    /// The main one, in which edits are.
    context: PathBuf,
    own: PathBuf,
    has_shared: bool,
}

const SHARED: &str = ".dockerignore";

impl IgnoreFile {
    pub(super) fn of(dockerfile: &Path, context: &Path) -> IgnoreFile {
        let dockerfile = match dockerfile.as_os_str() == "-" {
            true => context.join("Dockerfile"),
            false => dockerfile.to_owned(),
        };
        let mut own = dockerfile.into_os_string();
        own.push(SHARED);
        IgnoreFile { context: context.to_owned(), own: PathBuf::from(own), has_shared: true }
    }

    /// That of a directory with a name.
    pub(super) fn within(directory: &Path, context: &Path) -> IgnoreFile {
        IgnoreFile { context: context.to_owned(), own: directory.join(SHARED), has_shared: false }
    }

    /// Whether a path of the context is the file that counts, or would be if it came into being.
    pub(super) fn is(&self, path: &Path) -> bool {
        let is_own = self.own.file_name() == path.file_name()
            && place(&self.own).is_some_and(|own| Some(own) == place(&self.context.join(path)));
        is_own || (self.has_shared && path == Path::new(SHARED) && !self.own.exists())
    }

    /// The patterns that count now; none without either file. What cannot be read or understood fails a build, and says nothing here.
    pub(super) fn patterns(&self) -> Ignore {
        let shared = self.context.join(SHARED);
        let file = if self.own.exists() || !self.has_shared { &self.own } else { &shared };
        // Of a pipe nobody may write the other end.
        let bytes = if file.is_file() { std::fs::read(file).ok() } else { None };
        bytes.and_then(|bytes| Ignore::parse(&bytes).ok()).unwrap_or_default()
    }

    /// The patterns before and after a change of it; `None` where they cannot be told.
    pub(super) fn versions(&self, change: &remote::Change) -> Option<[Ignore; 2]> {
        let version = |version: Option<&remote::Version>| match version {
            Some(version) if version.mode & 0o170_000 == 0o100_000 => {
                remote::bytes_of(&self.context, version).ok()
            }
            // What a link leads to may have changed at other times.
            Some(_) => None,
            None if !self.has_shared || change.path == Path::new(SHARED) => Some(Vec::new()),
            // Without its own, that of the context counts.
            None => Some(std::fs::read(self.context.join(SHARED)).unwrap_or_default()),
        };
        let ignore = |bytes: Vec<u8>| Ignore::parse(&bytes).ok();
        Some([ignore(version(change.old.as_ref())?)?, ignore(version(change.new.as_ref())?)?])
    }
}

/// The directory that a path lies in, as it is really called.
fn place(path: &Path) -> Option<PathBuf> {
    let parent = path.parent()?;
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    parent.canonicalize().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_ignore_file_counts_for_a_dockerfile() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("docker")).unwrap();
        let file = IgnoreFile::of(&dir.path().join("docker/../docker/A"), dir.path());
        let is = |path: &str| file.is(Path::new(path));
        assert!(is(".dockerignore") && is("docker/A.dockerignore"), "it would count");
        std::fs::write(dir.path().join("docker/A.dockerignore"), "").unwrap();
        assert!(!is(".dockerignore") && is("docker/A.dockerignore"));
        assert!(!is("A.dockerignore") && !is("docker/.dockerignore") && !is("missing/A.dockerignore"));
        assert!(IgnoreFile::of(Path::new("-"), dir.path()).is(Path::new("Dockerfile.dockerignore")));
        let file = IgnoreFile::within(&dir.path().join("docker"), dir.path());
        let is = |path: &str| file.is(Path::new(path));
        assert!(is("docker/.dockerignore") && !is(".dockerignore") && !is("docker/A.dockerignore"));
    }
}
