//! What counts in a content digest and what does not.

mod common;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use common::{Watched, digest_of, make, never, path, selected};
use files::{
    DirectoryTree, Error, FileTree, MemoryStatCache, Metadata, NoCache, Owners, PathSelection, Selection,
    TreeError, digest, select,
};
use hash::ContentDigest;
use rustix::thread::CpuSet;

/// What is done, and how.
type Change<'a> = (&'a str, &'a dyn Fn(&Path));

fn tree(root: &Path) {
    make(
        root,
        &[
            "f d/a one",
            "f d/b two",
            "f d/sub/c three",
            "l d/link a",
            "h d/hard d/a",
            "p d/pipe",
            "d d/empty",
            "f other x",
        ],
    );
    common::device(&root.join("d/dev"), 1, 3);
    // Independent of the umask of whoever runs this.
    for path in ["d", "d/sub", "d/empty"] {
        common::mode(&root.join(path), 0o755);
    }
    for path in ["d/a", "d/b", "d/sub/c", "d/pipe", "d/dev", "other"] {
        common::mode(&root.join(path), 0o644);
    }
}

fn digest_after(change: impl Fn(&Path), pattern: &str) -> ContentDigest {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    change(dir.path());
    digest_of(dir.path(), pattern)
}

/// A change here is a change of every cache key made from files: give the domain in `digest.rs` a new version.
#[test]
fn golden() {
    for (pattern, expected) in [
        ("d", "698702670ae9093ef3e426eb08bc43246082e6b41436bd0a3e7c17d5f28437a0"),
        ("d/a", "6352d70ddb2cb120c5bfb13a9d32dad8a9e6dbbb1618ef6113fb0af48c4db088"),
        ("d/l*", "787e14138238d6d36e8bbbfb2bf2da1f34ed69b31e6ee89564f648fc80a47f24"),
        ("none*", "46c09378874dc685f2c0ca7549812d0951085624aac8ee76a3febacc99a92d57"),
    ] {
        assert_eq!(digest_after(|_| {}, pattern).to_string(), expected, "{pattern}");
    }
}

#[test]
fn what_counts() {
    let changes: &[Change<'_>] = &[
        ("bytes of the same length", &|root| fs::write(root.join("d/b"), "tw0").unwrap()),
        ("more bytes", &|root| fs::write(root.join("d/b"), "two!").unwrap()),
        ("bytes moved to the next file", &|root| {
            fs::write(root.join("d/b"), "twot").unwrap();
            fs::write(root.join("d/sub/c"), "hree").unwrap();
        }),
        ("a file renamed", &|root| fs::rename(root.join("d/b"), root.join("d/bb")).unwrap()),
        ("a file moved down", &|root| fs::rename(root.join("d/b"), root.join("d/sub/b")).unwrap()),
        ("two files swapped", &|root| {
            fs::write(root.join("d/b"), "one").unwrap();
            fs::write(root.join("d/a"), "two").unwrap();
        }),
        ("a file added", &|root| fs::write(root.join("d/z"), "").unwrap()),
        ("a file removed", &|root| fs::remove_file(root.join("d/b")).unwrap()),
        ("an empty directory removed", &|root| fs::remove_dir(root.join("d/empty")).unwrap()),
        ("an empty directory turned into a file", &|root| {
            fs::remove_dir(root.join("d/empty")).unwrap();
            fs::write(root.join("d/empty"), "").unwrap();
            common::mode(&root.join("d/empty"), 0o755);
        }),
        ("a mode", &|root| common::mode(&root.join("d/b"), 0o755)),
        ("a setuid bit", &|root| common::mode(&root.join("d/b"), 0o4644)),
        ("a directory's mode", &|root| common::mode(&root.join("d/sub"), 0o700)),
        ("the top directory's mode", &|root| common::mode(&root.join("d"), 0o700)),
        ("a user", &|root| chown(root.join("d/b"), Some(7), None).unwrap()),
        ("a group", &|root| chown(root.join("d/b"), None, Some(7)).unwrap()),
        ("a link's target", &|root| {
            fs::remove_file(root.join("d/link")).unwrap();
            symlink("b", root.join("d/link")).unwrap();
        }),
        ("an attribute", &|root| common::xattr(&root.join("d/b"), "user.x", b"1")),
        ("a directory's attribute", &|root| common::xattr(&root.join("d/sub"), "user.x", b"1")),
        ("a capability", &|root| {
            let value = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            common::xattr(&root.join("d/b"), "security.capability", &value);
        }),
        ("a device number", &|root| {
            fs::remove_file(root.join("d/dev")).unwrap();
            common::device(&root.join("d/dev"), 1, 5);
            common::mode(&root.join("d/dev"), 0o644);
        }),
        ("a pipe turned into a file", &|root| {
            fs::remove_file(root.join("d/pipe")).unwrap();
            fs::write(root.join("d/pipe"), "").unwrap();
            common::mode(&root.join("d/pipe"), 0o644);
        }),
        ("a hard link broken", &|root| {
            fs::remove_file(root.join("d/hard")).unwrap();
            fs::write(root.join("d/hard"), "one").unwrap();
            common::mode(&root.join("d/hard"), 0o644);
        }),
    ];
    let mut seen = vec![("nothing", digest_after(|_| {}, "d"))];
    for (what, change) in changes {
        let digest = digest_after(change, "d");
        for (other, known) in &seen {
            assert_ne!(digest, *known, "{what} against {other}");
        }
        seen.push((what, digest));
    }
}

#[test]
fn what_does_not_count() {
    let same: &[Change<'_>] = &[
        ("times", &|root| {
            for path in ["d", "d/a", "d/sub"] {
                let file = fs::File::open(root.join(path)).unwrap();
                file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(5)).unwrap();
            }
        }),
        ("a file outside", &|root| fs::write(root.join("other"), "y").unwrap()),
        ("a new inode", &|root| {
            fs::copy(root.join("d/b"), root.join("copy")).unwrap();
            fs::rename(root.join("copy"), root.join("d/b")).unwrap();
        }),
        ("another order of making", &|root| {
            fs::create_dir(root.join("new")).unwrap();
            common::mode(&root.join("new"), 0o755);
            for name in ["pipe", "sub", "link", "hard", "empty", "dev", "b", "a"] {
                fs::rename(root.join("d").join(name), root.join("new").join(name)).unwrap();
            }
            fs::remove_dir(root.join("d")).unwrap();
            fs::rename(root.join("new"), root.join("d")).unwrap();
        }),
        ("a socket", &|root| make(root, &["s d/sock"])),
        ("a hard link to outside", &|root| fs::hard_link(root.join("d/b"), root.join("b")).unwrap()),
        ("a label of the machine", &|root| common::xattr(&root.join("d/b"), "trusted.x", b"1")),
    ];
    for (what, change) in same {
        assert_eq!(digest_after(change, "d"), digest_after(|_| {}, "d"), "{what}");
    }
    let dir = tempfile::tempdir().unwrap();
    let moved = dir.path().join("quite/another/place");
    fs::create_dir_all(&moved).unwrap();
    tree(&moved);
    assert_eq!(digest_of(&moved, "d"), digest_after(|_| {}, "d"));
}

#[test]
fn names_of_sources_count_where_they_are_copied() {
    let rename_file = |root: &Path| fs::rename(root.join("d/b"), root.join("d/x")).unwrap();
    assert_ne!(digest_after(|_| {}, "d/b"), digest_after(rename_file, "d/x"));
    let rename_directory = |root: &Path| fs::rename(root.join("d"), root.join("e")).unwrap();
    assert_eq!(digest_after(|_| {}, "d"), digest_after(rename_directory, "e"));
    // Two matches are not one.
    assert_ne!(digest_after(|_| {}, "d/[ab]"), digest_after(|_| {}, "d/a"));
    assert_ne!(digest_after(|_| {}, "d/[ab]"), digest_after(|_| {}, "d"));
}

#[test]
fn modes_and_owners_count_when_asked_for() {
    let digest = |change: &dyn Fn(&Path), modes, owners| {
        let dir = tempfile::tempdir().unwrap();
        tree(dir.path());
        change(dir.path());
        let tree = DirectoryTree::open(dir.path(), &Owners::Real).unwrap();
        let selection =
            Selection::Path(PathSelection { wildcards: true, modes, owners, ..PathSelection::exact("d") });
        let selected = select(&tree, &selection, &never).unwrap();
        files::digest(&selected, &tree, &NoCache, &never).unwrap().digest
    };
    let chmod = |root: &Path| common::mode(&root.join("d/b"), 0o600);
    let own = |root: &Path| chown(root.join("d/b"), Some(5), Some(5)).unwrap();
    assert_eq!(digest(&|_| {}, false, true), digest(&chmod, false, true));
    assert_ne!(digest(&|_| {}, true, false), digest(&chmod, true, false));
    assert_eq!(digest(&|_| {}, true, false), digest(&own, true, false));
    assert_ne!(digest(&|_| {}, false, true), digest(&own, false, true));
}

#[test]
fn an_unchanged_file_is_not_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    let watched = Watched::new(DirectoryTree::context(dir.path()).unwrap());
    let cache = MemoryStatCache::new();
    let digest = || {
        let selected = selected(&watched, "d").unwrap();
        digest(&selected, &watched, &cache, &never).unwrap()
    };
    let fresh = digest();
    assert!(cache.is_empty(), "files changed a moment ago are racy");
    // The times of inodes cannot be set back.
    std::thread::sleep(Duration::from_millis(2100));
    watched.opened();
    assert_eq!(digest(), fresh);
    assert!(!watched.opened().is_empty() && !cache.is_empty());
    assert_eq!(digest(), fresh);
    assert_eq!(watched.opened(), Vec::<std::path::PathBuf>::new());
    fs::write(dir.path().join("d/b"), "2wo").unwrap();
    let changed = digest();
    assert_ne!(changed.digest, fresh.digest);
    // Opened for its bytes and for its attributes.
    assert_eq!(watched.opened(), [Path::new("d/b"), Path::new("d/b")]);
    let differing =
        fresh.files[0].iter().zip(changed.files[0].iter()).filter(|(old, new)| old != new).count();
    assert_eq!(differing, 1);
}

#[test]
fn digests_of_files_stand_beside_their_entries() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    let tree = DirectoryTree::context(dir.path()).unwrap();
    let selected = selected(&tree, "d").unwrap();
    let hashed = digest(&selected, &tree, &NoCache, &never).unwrap();
    let found = &selected.matches[0];
    assert_eq!(hashed.files[0].len(), found.len());
    let of = |name: &str| {
        let index = found.entries().position(|entry| entry.path == Path::new(name)).unwrap();
        hashed.files[0][index]
    };
    assert_eq!(of("a"), of("hard"));
    assert_ne!(of("a"), of("b"));
    assert!(of("a").is_some() && of("link").is_none() && of("pipe").is_none());
}

#[test]
fn a_file_that_changes_meanwhile_is_named() {
    let changes: &[&dyn Fn(&Path)] = &[
        &|file| fs::write(file, "other").unwrap(),
        &|file| fs::write(file, "tw0").unwrap(),
        &|file| fs::remove_file(file).unwrap(),
        &|file| {
            fs::write(file.with_extension("new"), "two").unwrap();
            fs::rename(file.with_extension("new"), file).unwrap();
        },
    ];
    for change in changes {
        let dir = tempfile::tempdir().unwrap();
        tree(dir.path());
        let tree = DirectoryTree::context(dir.path()).unwrap();
        let selected = selected(&tree, "d").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        change(&dir.path().join("d/b"));
        match digest(&selected, &tree, &NoCache, &never) {
            Err(Error::Changed { path }) => assert_eq!(path, Path::new("d/b")),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn cancelled_hashing_stops() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    let tree = DirectoryTree::context(dir.path()).unwrap();
    let selected = select(&tree, &path("d"), &never).unwrap();
    assert!(matches!(digest(&selected, &tree, &NoCache, &|| true), Err(Error::Cancelled)));
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    fn contents() -> impl Strategy<Value = BTreeMap<String, String>> {
        prop::collection::btree_map("[ab](/[ab]){0,2}x", "[01]{0,3}", 0..6)
    }

    fn digest_of_files(files: &BTreeMap<String, String>) -> ContentDigest {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in files {
            make(dir.path(), &[&format!("f d/{path} {content}")]);
        }
        make(dir.path(), &["d d"]);
        digest_of(dir.path(), "d")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]
        #[test]
        fn equal_trees_alone_have_equal_digests(a in contents(), b in contents()) {
            prop_assert_eq!(a == b, digest_of_files(&a) == digest_of_files(&b));
            prop_assert_eq!(digest_of_files(&a), digest_of_files(&a));
        }
    }
}

/// A call that writes sets the times of its file first. On one processor it is interrupted, and the file is read meanwhile: what is found is
/// what the file held before or holds afterwards, or that it changes.
#[test]
fn a_file_is_not_read_in_the_middle_of_a_write() {
    written_while_read(|root| Box::new(DirectoryTree::context(root).unwrap()));
}

/// The disk may be slow, and what is written much.
#[test]
fn a_file_is_not_read_in_the_middle_of_a_write_that_began_long_ago() {
    written_while_read(|root| Box::new(LongAgo(DirectoryTree::context(root).unwrap())));
}

/// A tree in which everything that changes began to do so an hour ago.
struct LongAgo(DirectoryTree);

impl LongAgo {
    fn aged(metadata: Metadata) -> Metadata {
        let hour_ago = |(seconds, nanoseconds): (i64, u32)| (seconds - 3600, nanoseconds);
        // What is opened stands elsewhere, so that its own times do not count.
        let inode = metadata.inode + 1;
        Metadata { mtime: hour_ago(metadata.mtime), ctime: hour_ago(metadata.ctime), inode, ..metadata }
    }
}

impl FileTree for LongAgo {
    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, TreeError> {
        Ok(self.0.metadata(path)?.map(LongAgo::aged))
    }

    fn list(&self, path: &Path) -> Result<Vec<(OsString, Metadata)>, TreeError> {
        let list = self.0.list(path)?.into_iter();
        Ok(list.map(|(name, metadata)| (name, LongAgo::aged(metadata))).collect())
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, TreeError> {
        self.0.read_link(path)
    }

    fn open(&self, path: &Path) -> Result<File, TreeError> {
        self.0.open(path)
    }

    fn xattrs(&self, path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>, TreeError> {
        self.0.xattrs(path)
    }
}

fn written_while_read(tree: impl FnOnce(&Path) -> Box<dyn FileTree>) {
    const SIZE: usize = 32 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let contents = [vec![b'a'; SIZE], vec![b'b'; SIZE]];
    let whole = contents.each_ref().map(|content| {
        fs::write(&path, content).unwrap();
        digest_of(dir.path(), "f")
    });
    let mut one = CpuSet::new();
    one.set(rustix::thread::sched_getcpu());
    rustix::thread::sched_setaffinity(None, &one).unwrap();
    // Its threads begin on the same processor.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&is_over);
        scope.spawn(|| {
            let file = File::options().write(true).open(&path).unwrap();
            for content in contents.iter().rev().cycle().take_while(|_| !is_over.load(Ordering::Relaxed)) {
                assert_eq!(file.write_at(content, 0).unwrap(), SIZE);
            }
        });
        let tree = tree(dir.path());
        let mut found = 0;
        let begin = Instant::now();
        while found < 20 && begin.elapsed() < Duration::from_secs(20) {
            let sum = pool.install(|| digest(&selected(&*tree, "f").unwrap(), &*tree, &NoCache, &never));
            match sum {
                Ok(sum) => {
                    found += 1;
                    assert!(whole.contains(&sum.digest), "a mix, after {found}");
                }
                Err(error) => assert!(matches!(error, Error::Changed { .. }), "{error}"),
            }
        }
        println!("{found} found");
        assert!(found > 0, "it was never read as it stands");
    });
}

/// Tells a thread of a scope to end, also when the test fails: the scope waits for it.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
