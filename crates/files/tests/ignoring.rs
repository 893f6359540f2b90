//! A tree seen through an ignore file, compared with what BuildKit sends.

mod common;

use std::path::{Path, PathBuf};

use common::{Watched, listing, make, selected};
use files::{DirectoryTree, FileTree, Ignore, Ignoring};

fn tree(ignore: &str, lines: &[&str]) -> (tempfile::TempDir, Ignoring<DirectoryTree>) {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), lines);
    let tree = DirectoryTree::context(dir.path()).unwrap();
    (dir, Ignoring::new(tree, Ignore::parse(ignore.as_bytes()).unwrap()))
}

const PROJECT: &[&str] = &[
    "f Dockerfile x",
    "f src/main.c x",
    "f src/gen/a.c x",
    "f src/gen/deep/b.txt x",
    "f docs/guide/intro.md x",
    "f docs/guide/raw.bin x",
    "f node_modules/m/index.js x",
    "d void",
];

#[test]
fn shows_what_buildkit_sends() {
    for (ignore, expected) in [
        (
            "",
            ": Dockerfile docs docs/guide docs/guide/intro.md docs/guide/raw.bin node_modules node_modules/m node_modules/m/index.js src src/gen src/gen/a.c src/gen/deep src/gen/deep/b.txt src/main.c void",
        ),
        ("*\n!src/gen/a.c\n", ": src src/gen src/gen/a.c"),
        ("**\n!**/*.md\n", ": docs docs/guide docs/guide/intro.md"),
        (
            "node_modules\nsrc/gen\n!src/gen/deep\n",
            ": Dockerfile docs docs/guide docs/guide/intro.md docs/guide/raw.bin src src/gen src/gen/deep src/gen/deep/b.txt src/main.c void",
        ),
        ("*\n!void\n!docs/nothing\n", ": void"),
        ("/*/*\nDockerfile\n", ": docs node_modules src void"),
        ("*\n", ":"),
    ] {
        let (_dir, tree) = tree(ignore, PROJECT);
        assert_eq!(listing(&selected(&tree, "").unwrap()), [expected.trim_end()], "{ignore:?}");
    }
}

#[test]
fn single_look_ups_agree_with_listings() {
    let (_dir, tree) = tree("*\n!src/gen/a.c\n", PROJECT);
    for (path, visible) in [
        ("", true),
        ("src", true),
        ("src/gen", true),
        ("src/gen/a.c", true),
        ("src/main.c", false),
        ("src/gen/deep", false),
        ("docs", false),
        ("absent", false),
    ] {
        assert_eq!(tree.metadata(Path::new(path)).unwrap().is_some(), visible, "{path}");
    }
    assert!(tree.open(Path::new("src/gen/a.c")).is_ok());
    assert!(tree.open(Path::new("src/main.c")).is_err());
    assert!(tree.inner().open(Path::new("src/main.c")).is_ok());
    assert_eq!(tree.hidden_by(Path::new("src/main.c")).as_deref(), Some("*"));
    assert_eq!(tree.hidden_by(Path::new("src")), None);
    assert_eq!(tree.hidden_by(Path::new("absent")), None);
}

#[test]
fn an_ignored_directory_is_not_read_when_nothing_in_it_can_count() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), PROJECT);
    for (ignore, expected) in [
        ("*\n!src\n", &["", "src", "src/gen", "src/gen/deep"][..]),
        ("**/*\n!docs/guide/*.md\n", &["", "docs", "docs", "docs/guide", "docs/guide", "docs/guide"]),
        ("!**/*.c\nnode_modules\ndocs\nvoid\nsrc\n", &[""]),
    ] {
        let watched = Watched::new(DirectoryTree::context(dir.path()).unwrap());
        let tree = Ignoring::new(&watched, Ignore::parse(ignore.as_bytes()).unwrap());
        selected(&tree, "").unwrap();
        assert_eq!(watched.listed(), expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{ignore:?}");
    }
}
