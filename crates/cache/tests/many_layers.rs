//! More layers than the kernel mounts.

mod common;

use std::fs;

use cache::{RootForm, TreeView};
use common::TestStore;

#[test]
fn a_root_of_more_layers_than_an_overlay_has_is_a_copy() {
    let test = TestStore::new();
    let mut layers = Vec::new();
    for number in 0..501 {
        let write =
            |dir: &std::path::Path| fs::write(dir.join(format!("f{number}")), number.to_string()).unwrap();
        layers.push(test.layer(&layers, write).id());
    }
    let form = |count: usize| test.store.begin_root(&layers[..count]).unwrap().form().clone();
    assert!(matches!(form(500), RootForm::Overlay { lower, .. } if lower.len() == 500));
    let root = test.store.begin_root(&layers).unwrap();
    let RootForm::Directory(dir) = root.form().clone() else { panic!("an overlay of 501") };
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 501);
    fs::write(dir.join("new"), "new").unwrap();
    fs::remove_file(dir.join("f7")).unwrap();
    let layer = root.finish([]).unwrap();
    let changes = layer.changes().unwrap();
    layers.push(layer.commit(&changes).unwrap().id());
    let view = TreeView::new(&test.store, &layers).unwrap();
    let names: Vec<_> = files::FileTree::list(&view, std::path::Path::new("")).unwrap();
    assert_eq!(names.len(), 501, "one is new, one is gone");
}
