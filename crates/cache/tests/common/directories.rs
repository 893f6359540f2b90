//! The directories that belong to a store of which only the rows were written.

use std::fs;
use std::path::Path;

/// The directories of so many layers.
pub(crate) fn directories(parent: &Path, count: u32) {
    for layer in 1..=count {
        let dir = parent.join(layer.to_string());
        fs::create_dir(&dir).expect("make a layer");
        fs::write(dir.join("file"), "").expect("write a file");
    }
}
