//! Links that lead to what a Dockerfile asks for: what is selected lies elsewhere, and they are no part of it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use files::{FileTree, Kind, PathSelection};

/// As many as are followed when files are selected.
const MOST: usize = 255;

/// The links that are followed on the way to what is selected; with wildcards, on the way to the first.
pub(super) fn on_the_way(tree: &dyn FileTree, wanted: &PathSelection) -> BTreeSet<PathBuf> {
    let is_plain = |part: &&str| !wanted.wildcards || !part.contains(['*', '?', '[', '\\']);
    let plain: PathBuf = wanted.pattern.split('/').take_while(is_plain).collect();
    let mut pending = names(&plain);
    let (mut at, mut links) = (PathBuf::new(), BTreeSet::new());
    while let Some(name) = pending.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        at.push(&name);
        let is_link = tree.metadata(&at).ok().flatten().is_some_and(|found| found.kind == Kind::Symlink);
        if !is_link || links.len() >= MOST {
            continue;
        }
        let Ok(target) = tree.read_link(&at) else { break };
        // One that leads in a circle fails the build.
        if !links.insert(at.clone()) {
            break;
        }
        if target.has_root() {
            at.clear();
        } else {
            at.pop();
        }
        pending.extend(names(&target));
    }
    links
}

/// The names of a path, the first one last.
fn names(path: &Path) -> Vec<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use files::DirectoryTree;

    use super::*;

    #[test]
    fn links_that_are_followed_and_others() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        std::fs::create_dir_all(at("releases/1")).unwrap();
        symlink("releases/latest", at("current")).unwrap();
        symlink("1", at("releases/latest")).unwrap();
        symlink("../loop", at("releases/1/loop")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let tree = DirectoryTree::context(dir.path()).unwrap();
        let of = |pattern: &str, wildcards: bool| {
            let links = on_the_way(&tree, &PathSelection { wildcards, ..PathSelection::exact(pattern) });
            links.into_iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of("current/a", false), ["current", "releases/latest"]);
        assert_eq!(of("current/*", true), ["current", "releases/latest"]);
        assert_eq!(of("releases/1", false), [""; 0]);
        assert_eq!(of("*", true), [""; 0]);
        assert_eq!(of("loop/x", false), ["loop"]);
    }
}
