//! Directories that come into being and go with the files in them, as git has it.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use super::lone::Surroundings;

/// What files were there after an earlier commit, unlike now.
#[derive(Debug, Default)]
pub(super) struct Since {
    came: HashSet<PathBuf>,
    gone: BTreeSet<PathBuf>,
}

impl Since {
    /// Goes back behind a commit with which a file came, or went.
    pub(super) fn undo(&mut self, path: &Path, was_there: bool) {
        if was_there {
            self.came.remove(path);
            self.gone.insert(path.to_owned());
        } else {
            self.gone.remove(path);
            self.came.insert(path.to_owned());
        }
    }

    /// Whether nothing was there then of what is there now.
    fn is_new(&self, path: &Path, around: &Surroundings) -> bool {
        let all_new = || {
            let names = around.names(path).unwrap_or_default();
            !names.is_empty() && names.iter().all(|name| self.is_new(&path.join(name), around))
        };
        self.came.contains(path) || (!self.came.is_empty() && all_new())
    }
}

/// Directories that hold nothing but files of one edit.
#[derive(Debug, Default)]
pub(super) struct Whole(HashSet<PathBuf>);

impl Whole {
    /// Those of an edit with which these files come, or go.
    pub(super) fn of(paths: &BTreeSet<PathBuf>, around: &Surroundings, since: &Since) -> Whole {
        let above = paths.iter().flat_map(|path| path.ancestors().skip(1));
        let above: BTreeSet<&Path> = above.filter(|directory| !directory.as_os_str().is_empty()).collect();
        let mut whole = HashSet::new();
        // What is in a directory comes before it.
        for directory in above.into_iter().rev() {
            let gone = since.gone.range(directory.to_owned()..);
            let mut gone = gone.take_while(|path| path.starts_with(directory));
            let held_more = gone.any(|path| !paths.contains(path));
            let is_of_edit =
                |path: &PathBuf| paths.contains(path) || whole.contains(path) || since.is_new(path, around);
            let holds = around.names(directory);
            if !held_more
                && holds.is_some_and(|names| names.iter().all(|name| is_of_edit(&directory.join(name))))
            {
                whole.insert(directory.to_owned());
            }
        }
        Whole(whole)
    }

    /// What comes into being or goes with a file of the edit: that, or the directory farthest up that holds nothing else.
    pub(super) fn with<'a>(&self, path: &'a Path) -> &'a Path {
        path.ancestors().skip(1).take_while(|directory| self.0.contains(*directory)).last().unwrap_or(path)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn around(dir: &Path) -> Surroundings {
        Surroundings::new(files::DirectoryTree::context(dir).unwrap())
    }

    fn with(paths: &str, around: &Surroundings, since: &Since) -> String {
        let paths: Vec<PathBuf> = paths.split(' ').map(PathBuf::from).collect();
        let whole = Whole::of(&paths.iter().cloned().collect(), around, since);
        let with: Vec<String> = paths.iter().map(|path| whole.with(path).display().to_string()).collect();
        with.join(" ")
    }

    #[test]
    fn what_comes_with_files() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/c"), "").unwrap();
        fs::create_dir_all(dir.path().join("d/e")).unwrap();
        fs::write(dir.path().join("d/f"), "").unwrap();
        let around = around(dir.path());
        for (paths, expected) in [
            ("a/b/c", "a"),
            ("a/b/x", "a/b/x"),
            ("d/e/x", "d/e"),
            ("d/f", "d/f"),
            ("n/m/o", "n"),
            ("x", "x"),
            ("a/b/c a/b/x a/y", "a a a"),
            ("d/f d/e/x", "d d"),
            ("d/f d/x", "d/f d/x"),
            ("n/m/o n/p a/b/x", "n n a/b/x"),
        ] {
            assert_eq!(with(paths, &around, &Since::default()), expected, "{paths}");
        }
    }

    #[test]
    fn what_came_with_files_then() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        for file in ["a/b/c", "a/d"] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        let around = around(dir.path());
        let mut since = Since::default();
        since.undo(Path::new("n/o"), true);
        assert_eq!(with("n/m", &around, &since), "n/m", "there was another file");
        assert_eq!(with("n/m/x", &around, &since), "n/m");
        assert_eq!(with("n/m n/o", &around, &since), "n n");
        since.undo(Path::new("n/o"), false);
        assert_eq!(with("n/m", &around, &since), "n", "that came even later");
        assert_eq!(with("a/x", &around, &since), "a/x");
        since.undo(Path::new("a/b/c"), false);
        assert_eq!(with("a/x a/b/x", &around, &since), "a/x a/b");
        since.undo(Path::new("a/d"), false);
        assert_eq!(with("a/x", &around, &since), "a", "all that is there came later");
    }
}
