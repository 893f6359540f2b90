//! Files are copied beside each other, not one after another.

mod common;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use common::{never, selected};
use files::{
    Attributes, CopyOptions, DirectoryTree, FileTree, Metadata, OpaqueMark, Owners, TreeError, TreeWriter,
    WriterOptions, write_selected,
};

/// A tree of which no file is opened until another one is to be opened, too; or until nobody came for so long.
struct Meeting {
    inner: DirectoryTree,
    limit: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Who is inside.
    waiting: usize,
    have_met: bool,
    /// Nobody waits any longer.
    is_over: bool,
}

impl Meeting {
    fn meet(&self) {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        if state.waiting > 1 {
            (state.have_met, state.is_over) = (true, true);
            self.changed.notify_all();
        }
        let mut state = self.changed.wait_timeout_while(state, self.limit, |state| !state.is_over).unwrap().0;
        state.is_over = true;
        state.waiting -= 1;
    }
}

impl FileTree for Meeting {
    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, TreeError> {
        self.inner.metadata(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<(OsString, Metadata)>, TreeError> {
        self.inner.list(path)
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, TreeError> {
        self.inner.read_link(path)
    }

    fn open(&self, path: &Path) -> Result<File, TreeError> {
        self.meet();
        self.inner.open(path)
    }

    fn xattrs(&self, path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError> {
        self.inner.xattrs(path)
    }
}

/// Whether two files were ever being copied at once, by so many threads. Each waits at most that long.
fn two_at_once(threads: usize, limit: Duration) -> bool {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // A thread takes a few at a time.
    for number in 0..500 {
        fs::write(from.path().join(number.to_string()), "x").unwrap();
    }
    let tree = Meeting {
        inner: DirectoryTree::open(from.path(), &Owners::Real).unwrap(),
        limit,
        state: Mutex::default(),
        changed: Condvar::new(),
    };
    let options = WriterOptions {
        owners: Owners::Real,
        opaque: OpaqueMark::Trusted,
        parents: Attributes::with_mode(0o755),
    };
    let writer = TreeWriter::new(to.path(), options).unwrap();
    let found = selected(&tree, "").unwrap().matches.remove(0);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let copied =
        pool.install(|| write_selected(&tree, &found, &writer, &CopyOptions::default(), &never)).unwrap();
    assert_eq!((copied.entries, copied.bytes), (501, 500));
    tree.state.into_inner().unwrap().have_met
}

/// It depends on no clock and no number of processors: whoever opens a file first waits for the next.
#[test]
fn two_files_are_copied_at_once() {
    assert!(two_at_once(2, Duration::from_secs(30)), "one after another");
}

/// What a copy would be that did one after another.
#[test]
fn one_thread_never_copies_two_at_once() {
    assert!(!two_at_once(1, Duration::from_millis(50)));
}
