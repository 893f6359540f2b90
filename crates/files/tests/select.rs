//! What a selection names, compared with what BuildKit copies.

mod common;

use std::path::Path;

use common::{listing, make, selected};
use files::{
    DirectoryTree, Error, FileTree, Ignore, Ignoring, Kind, PathSelection, Selection, has_wildcards, select,
};

fn context(lines: &[&str]) -> (tempfile::TempDir, DirectoryTree) {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), lines);
    let tree = DirectoryTree::context(dir.path()).unwrap();
    (dir, tree)
}

#[test]
fn what_parents_and_exclude_leave() {
    let (_dir, tree) = context(&[
        "f a/x.txt x",
        "f a/b/y.txt y",
        "f a/b/c/z.log z",
        "f a/b-c/w.log w",
        "f a/n/m/deep.txt d",
        "d a/empty",
    ]);
    let listed = |pattern: &str, include: Option<&str>, exclude: &[&str]| {
        let selection = Selection::Path(PathSelection {
            wildcards: has_wildcards(pattern),
            include: include.map(str::to_owned),
            exclude: exclude.iter().map(|pattern| (*pattern).to_owned()).collect(),
            ..PathSelection::exact(pattern)
        });
        select(&tree, &selection, &common::never).map(|selected| listing(&selected))
    };
    for (pattern, include, exclude, expected) in [
        // Directories that lead to a match come along, others do not.
        ("", Some("a/b/y.txt"), &[][..], &[": a a/b a/b/y.txt"][..]),
        ("a", Some("**/*.log"), &[], &["a: b b-c b-c/w.log b/c b/c/z.log"]),
        ("a/b", Some("*.log"), &[], &["b:"]),
        ("", Some("a/*/c"), &[], &[": a a/b a/b/c a/b/c/z.log"]),
        ("", Some("a/b"), &["**/*.log"], &[": a a/b a/b/c a/b/y.txt"]),
        ("", Some("**/empty"), &[], &[": a a/empty"]),
        // A file has nothing below it.
        ("a/*", Some("*.log"), &[], &["b:", "b-c: w.log", "empty:", "n:"]),
        ("a/x.txt", Some("*"), &[], &[]),
        ("a", Some("."), &["b*"], &["a: empty n n/m n/m/deep.txt x.txt"]),
        ("a", None, &["b", "n"], &["a: b-c b-c/w.log empty x.txt"]),
        // An exception takes in again what is below an excluded directory.
        ("a", None, &["*", "!b/c"], &["a: b b/c b/c/z.log"]),
        ("a", None, &["**/*.log", "**/*.txt"], &["a: b b-c b/c empty n n/m"]),
        // The match itself is not judged, nor anything above it.
        ("a/x.txt", None, &["*.txt"], &["x.txt:"]),
        ("a/b", None, &["a/b/y.txt"], &["b: c c/z.log y.txt"]),
        ("a/*", None, &["*.txt"], &["b: c c/z.log", "b-c: w.log", "empty:", "n: m m/deep.txt", "x.txt:"]),
    ] {
        assert_eq!(listed(pattern, include, exclude).unwrap(), expected, "{pattern} {include:?} {exclude:?}");
    }
    for (pattern, include) in [("", "a/none"), ("a", "b/none"), ("none", "*")] {
        let error = listed(pattern, Some(include), &[]).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
    }
    assert_eq!(listed("", Some("a/none*"), &[]).unwrap(), [":"]);
    assert!(matches!(listed("a", None, &["[x"]), Err(Error::BadPattern { .. })));
}

#[test]
fn patterns_select_what_buildkit_copies() {
    let (_dir, tree) = context(&[
        "f a.txt a",
        "f b.txt b",
        "f .hidden h",
        "f dir/sub/x.c x",
        "f dir/y.c y",
        "f dir-2/z.c z",
        "f [odd] o",
        "f star* s",
        "l link a.txt",
        "l dirlink dir",
        "l abs /dir/sub",
        "l up ../../dir/y.c",
        "d empty",
    ]);
    for (pattern, expected) in [
        ("a.txt", &["a.txt:"][..]),
        ("/a.txt", &["a.txt:"]),
        ("*.txt", &["a.txt:", "b.txt:"]),
        ("?.txt", &["a.txt:", "b.txt:"]),
        ("[!b].txt", &["b.txt:"]),
        ("[^b].txt", &["a.txt:"]),
        ("*.none", &[]),
        ("dir/*.none", &[]),
        ("dir", &["dir: sub sub/x.c y.c"]),
        ("dir/", &["dir: sub sub/x.c y.c"]),
        ("dir/*", &["sub: x.c", "y.c:"]),
        ("dir*/*.c", &["y.c:", "z.c:"]),
        ("*/sub/x.c", &["x.c:"]),
        ("*/sub", &["sub: x.c"]),
        ("empty", &["empty:"]),
        (".*", &[".hidden:"]),
        ("[[]odd]", &["[odd]:"]),
        ("star\\*", &["star*:"]),
        ("link", &["link:"]),
        ("lin*", &["link:"]),
        ("dirlink", &["dirlink: sub sub/x.c y.c"]),
        ("dirlink/sub", &["sub: x.c"]),
        ("dirlink/*.c", &["y.c:"]),
        ("abs", &["abs: x.c"]),
        ("up", &["up:"]),
    ] {
        assert_eq!(listing(&selected(&tree, pattern).unwrap()), expected, "{pattern}");
    }
    let whole = selected(&tree, "").unwrap();
    assert_eq!(
        listing(&whole)[0],
        ": .hidden [odd] a.txt abs b.txt dir dir-2 dir-2/z.c dir/sub dir/sub/x.c dir/y.c dirlink empty link star* up"
    );
    assert_eq!(listing(&select(&tree, &Selection::Whole, &common::never).unwrap()), listing(&whole));
    let found = &whole.matches[0];
    let link = found.entries().find(|entry| entry.path == Path::new("link")).unwrap();
    assert_eq!((link.metadata.kind, link.link_target), (Kind::Symlink, Some(Path::new("a.txt"))));
    assert_eq!(selected(&tree, "up").unwrap().matches[0].source, Path::new("dir/y.c"));
}

#[test]
fn without_wildcards_the_path_is_taken_as_it_stands() {
    let (_dir, tree) = context(&["f star* s", "f starry s"]);
    let selection = Selection::Path(PathSelection::exact("star*"));
    assert_eq!(listing(&select(&tree, &selection, &common::never).unwrap()), ["star*:"]);
}

#[test]
fn what_is_missing_is_named() {
    let (_dir, tree) = context(&["f keep/a a", "f secret.key k", "l dangling nowhere", "l loop loop"]);
    let ignore = Ignore::parse(b"*.key\n").unwrap();
    let tree = Ignoring::new(tree, ignore);
    for (pattern, message) in [
        ("gone", "\"/gone\": not found"),
        ("gone/*.c", "\"/gone\": not found"),
        ("keep/a/b", "\"/keep/a/b\": not found"),
        ("secret.key", "\"/secret.key\": not found (excluded by the ignore pattern `*.key`)"),
        ("dangling", "\"/dangling\": not found"),
        ("loop", "resolve \"/loop\": too many symbolic links"),
        ("[", "invalid pattern `[`: a `[` is never closed"),
        ("keep/[a", "invalid pattern `[a`: a `[` is never closed"),
    ] {
        assert_eq!(selected(&tree, pattern).unwrap_err().to_string(), message, "{pattern}");
    }
    assert!(selected(&tree, "*.key").unwrap().matches.is_empty());
}

#[test]
fn nothing_outside_the_root_is_reached() {
    let outside = tempfile::tempdir().unwrap();
    make(outside.path(), &["f secret s"]);
    let (dir, tree) = context(&["d etc"]);
    std::os::unix::fs::symlink(outside.path(), dir.path().join("out")).unwrap();
    std::os::unix::fs::symlink("/proc/self/root", dir.path().join("magic")).unwrap();
    assert!(matches!(selected(&tree, "out/secret"), Err(Error::NotFound { .. })));
    assert!(matches!(selected(&tree, "magic/etc"), Err(Error::NotFound { .. })));
    assert!(tree.open(Path::new("out/secret")).is_err());
    assert!(tree.list(Path::new("out")).is_err());
    assert_eq!(tree.metadata(Path::new("out/secret")).unwrap(), None);
    assert!(tree.open(Path::new("../../etc/passwd")).is_err());
}

#[test]
fn sockets_are_left_out_and_told() {
    let (_dir, tree) = context(&["s dir/sock", "f dir/a a", "s top"]);
    let all = selected(&tree, "").unwrap();
    assert_eq!(listing(&all), [": dir dir/a"]);
    assert_eq!(all.sockets, [Path::new("dir/sock"), Path::new("top")]);
    let top = selected(&tree, "top").unwrap();
    assert!(top.matches.is_empty() && top.sockets == [Path::new("top")]);
}

#[test]
fn names_of_one_file_are_a_group() {
    let (_dir, tree) = context(&["f d/b one", "h d/a d/b", "h outside d/b", "f d/c two", "h other d/c"]);
    let selected = selected(&tree, "d").unwrap();
    let links: Vec<_> = selected.matches[0].entries().map(|entry| entry.hard_link).collect();
    // c has its other name outside of the selection.
    assert_eq!(links, [None, Some(1), Some(1), None]);
}

#[test]
fn a_context_belongs_to_root_whoever_owns_it() {
    let (dir, tree) = context(&["f file x"]);
    std::os::unix::fs::chown(dir.path().join("file"), Some(1234), Some(99)).unwrap();
    common::mode(dir.path(), 0o700);
    let selected = selected(&tree, "").unwrap();
    let owners: Vec<_> =
        selected.matches[0].entries().map(|entry| (entry.metadata.uid, entry.metadata.gid)).collect();
    assert_eq!(owners, [(0, 0), (0, 0)]);
    assert_eq!(selected.matches[0].entry(0).metadata.mode, 0o755);
}

#[test]
fn a_deep_and_a_wide_tree_are_walked() {
    let dir = tempfile::tempdir().unwrap();
    let mut path = dir.path().to_owned();
    for _ in 0..900 {
        path.push("d");
    }
    std::fs::create_dir_all(&path).unwrap();
    for n in 0..2000 {
        std::fs::write(dir.path().join(format!("file{n}")), "").unwrap();
    }
    let tree = DirectoryTree::context(dir.path()).unwrap();
    let selected = selected(&tree, "").unwrap();
    let paths: Vec<_> =
        selected.matches[0].entries().map(|entry| entry.path.as_os_str().to_owned()).collect();
    assert_eq!(paths.len(), 2901);
    assert!(paths.is_sorted());
}

#[test]
fn a_cancelled_walk_stops() {
    let (_dir, tree) = context(&["f a a"]);
    assert!(matches!(select(&tree, &common::path(""), &|| true), Err(Error::Cancelled)));
}

/// Directories on the way need not be readable, only the last one.
#[test]
fn a_directory_is_opened_however_long_its_path_is() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    let tree = DirectoryTree::open(&root, &files::Owners::Real).unwrap();
    let mut path = std::path::PathBuf::new();
    for _ in 0..20 {
        let above = tree.open_directory(&path).unwrap();
        path.push("n".repeat(250));
        rustix::fs::mkdirat(&above, path.file_name().unwrap(), rustix::fs::Mode::RWXU).unwrap();
    }
    let name = path.file_name().unwrap();
    let first = root.join(name);
    let open = move || {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective = rustix::thread::CapabilitySet::empty();
        rustix::thread::set_capabilities(None, sets).unwrap();
        let tree = DirectoryTree::open(&root, &files::Owners::Real).unwrap();
        common::mode(&first, 0o300);
        let opened = tree.open_directory(&path);
        let unreadable = tree.open_directory(Path::new(first.file_name().unwrap()));
        common::mode(&first, 0o700);
        let opened = opened.unwrap();
        // As calls want it that `O_PATH` does not do for.
        assert_eq!(rustix::fs::flistxattr(&opened, &mut [0_u8; 0]).map(|_| ()), Ok(()));
        let refused = unreadable.unwrap_err().to_string();
        assert!(refused.contains("Permission denied"), "{refused}");
    };
    std::thread::spawn(open).join().unwrap();
}
