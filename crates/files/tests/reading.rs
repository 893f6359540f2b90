//! What is read otherwise than by a copy is what was selected.

mod common;

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use common::{never, selected};
use files::{DirectoryTree, Error, NoCache, Reading, digest};

/// A context with one file, which was written a moment ago.
fn context() -> (tempfile::TempDir, DirectoryTree) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "first half, second half").unwrap();
    let tree = DirectoryTree::context(dir.path()).unwrap();
    (dir, tree)
}

#[test]
fn a_part_of_it_is_read_as_well_as_all() {
    let (_dir, tree) = context();
    let selected = selected(&tree, "f").unwrap();
    // Hashed, its times are doubted; before, nothing is known of it.
    for _ in 0..2 {
        let mut reading = Reading::open(&tree, &selected.matches[0]).unwrap();
        let mut half = [0; 10];
        reading.read_exact(&mut half).unwrap();
        reading.rewind().unwrap();
        reading.read_exact(&mut half).unwrap();
        assert_eq!(&half, b"first half");
        reading.finish(&never).unwrap();
        digest(&selected, &tree, &NoCache, &never).unwrap();
    }
}

#[test]
fn a_file_that_changed_is_told() {
    let is_changed = |result: Result<(), Error>| match result {
        Err(Error::Changed { path }) => assert_eq!(path, Path::new("f")),
        other => panic!("{other:?}"),
    };
    for change in ["second half, first half", "shorter", "gone"] {
        let (dir, tree) = context();
        let selected = selected(&tree, "f").unwrap();
        digest(&selected, &tree, &NoCache, &never).unwrap();
        let reading = Reading::open(&tree, &selected.matches[0]).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        match change {
            "gone" => fs::remove_file(dir.path().join("f")).unwrap(),
            text => fs::write(dir.path().join("f"), text).unwrap(),
        }
        is_changed(reading.finish(&never));
        is_changed(Reading::open(&tree, &selected.matches[0]).map(drop));
    }
}
