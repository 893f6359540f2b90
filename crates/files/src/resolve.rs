use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use crate::{Error, FileTree, Kind};

/// Symbolic links followed for one path before giving up; what container engines allow.
const MOST_LINKS: usize = 255;

/// Follows the symbolic links in `path` within the tree: an absolute target begins at its root, `..` stops there. The last
/// component is followed when `follow_last`. What does not exist is taken as it stands, so that the result may name nothing yet.
///
/// # Errors
/// When links lead in a circle or the tree cannot be read.
pub fn resolve(tree: &dyn FileTree, path: &Path, follow_last: bool) -> Result<PathBuf, Error> {
    let mut resolved = PathBuf::new();
    // Reversed: the next component is the last element.
    let mut pending = Vec::new();
    push(&mut pending, path);
    let mut links = 0;
    while let Some(name) = pending.pop() {
        if name == ".." {
            resolved.pop();
            continue;
        }
        resolved.push(&name);
        if pending.is_empty() && !follow_last {
            break;
        }
        if tree.metadata(&resolved)?.is_none_or(|metadata| metadata.kind != Kind::Symlink) {
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(Error::LinkLoop { path: path.to_owned() });
        }
        let target = tree.read_link(&resolved)?;
        if target.has_root() {
            resolved.clear();
        } else {
            resolved.pop();
        }
        push(&mut pending, &target);
    }
    Ok(resolved)
}

fn push(pending: &mut Vec<OsString>, path: &Path) {
    let names = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    pending.extend(names);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DirectoryTree;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("usr/lib")).unwrap();
        std::fs::write(root.join("usr/lib/file"), "").unwrap();
        for (target, link) in [
            ("usr/lib", "lib"),
            ("/usr", "abs"),
            ("../../../../etc", "out"),
            ("/etc", "host"),
            ("loop2", "loop"),
            ("loop", "loop2"),
            ("../lib/./file", "usr/up"),
            ("nothing/../here", "dangling"),
            ("file", "usr/lib/same"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        let tree = DirectoryTree::context(root).unwrap();
        let resolve = |path: &str, last: bool| {
            resolve(&tree, Path::new(path), last).map(|path| path.to_string_lossy().into_owned())
        };
        for (path, last, expected) in [
            ("", true, ""),
            ("lib/file", true, "usr/lib/file"),
            ("lib", false, "lib"),
            ("lib", true, "usr/lib"),
            ("abs/lib/file", true, "usr/lib/file"),
            ("out/passwd", true, "etc/passwd"),
            ("host/passwd", true, "etc/passwd"),
            ("usr/up", true, "usr/lib/file"),
            ("lib/same", true, "usr/lib/file"),
            ("lib/same", false, "usr/lib/same"),
            ("lib/../x", true, "usr/x"),
            ("../../lib", true, "usr/lib"),
            ("/lib", true, "usr/lib"),
            ("dangling", true, "here"),
            ("new/deep/path", true, "new/deep/path"),
            ("usr/lib/file/below", true, "usr/lib/file/below"),
            ("loop", false, "loop"),
        ] {
            assert_eq!(resolve(path, last).unwrap(), expected, "{path}");
        }
        assert!(matches!(resolve("loop", true), Err(Error::LinkLoop { .. })));
        assert!(matches!(resolve("loop/x", false), Err(Error::LinkLoop { .. })));
    }
}
