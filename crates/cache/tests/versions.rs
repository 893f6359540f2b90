//! Layers that are written as what is different from an earlier version.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use cache::{
    CacheBackend, Changes, Limits, Listing, NewRecord, PruneOptions, Snapshot, SnapshotId, StepRun, Store,
    StoreOptions, TreeView, VersionName, Whys,
};
use common::{Lookup, TestStore, content, in_user_namespace, key};
use files::{Attributes, FileTree, Kind, TreeWriter, WriterOptions};
use hash::{ContentDigest, StableHasher};

/// Paths and what is in them.
type Files = BTreeMap<String, String>;

fn name(identity: u8, place: u8) -> VersionName {
    VersionName { identity: [identity; 32], place: [place; 32] }
}

/// Forty files, so that one more or less is a small change, and those that are given.
fn files(some: &[(&str, &str)]) -> Files {
    let many = (0..40).map(|n| (format!("many/f{n:02}"), format!("{n}")));
    many.chain(some.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))).collect()
}

fn attributes(mode: u32) -> Attributes {
    Attributes { mtime: Some((1_700_000_000, 5)), uid: 3, gid: 4, ..Attributes::with_mode(mode) }
}

/// Writes a layer as a COPY does, and says of how many files.
fn copy(store: &Store, parents: &[SnapshotId], name: &VersionName, files: &Files) -> (Snapshot, usize) {
    let mut active = store.begin(parents).unwrap();
    let mut all: BTreeMap<PathBuf, Option<&str>> = BTreeMap::new();
    for (path, text) in files {
        let above = Path::new(path).ancestors().skip(1).filter(|path| !path.as_os_str().is_empty());
        all.extend(above.map(|path| (path.to_owned(), None)));
        all.insert(path.into(), Some(text));
    }
    let mut ordered: Vec<_> = all.into_iter().collect();
    ordered.sort_by(|a, b| a.0.as_os_str().cmp(b.0.as_os_str()));
    let mut listing = Listing::new();
    for (path, text) in &ordered {
        let form = StableHasher::new("test").with(&text.map(str::to_owned)).finish();
        let kind = if text.is_some() { Kind::File } else { Kind::Directory };
        listing.push(path, kind, Some(form), text.map_or(0, |text| text.len() as u64), None);
    }
    let difference = active.difference(name, &listing).unwrap();
    let options = WriterOptions {
        owners: active.owners().clone(),
        opaque: active.opaque_mark(),
        parents: Attributes::with_mode(0o700),
    };
    let writer = TreeWriter::new(active.dir(), options).unwrap();
    let (mut written, mut own) = (0, 0);
    for (index, (path, text)) in ordered.iter().enumerate() {
        if difference.as_ref().is_some_and(|difference| difference.kept[index]) {
            continue;
        }
        match text {
            None => writer.directory(path, &attributes(0o750)).unwrap(),
            Some(text) => {
                own += writer.file(path, &mut text.as_bytes(), &attributes(0o640)).unwrap();
                written += 1;
            }
        }
    }
    for path in difference.iter().flat_map(|difference| &difference.removed) {
        writer.whiteout(path).unwrap();
    }
    writer.finish().unwrap();
    let digest = StableHasher::new("changes").with(files).finish();
    match &difference {
        Some(difference) => active.set_difference(difference, own),
        None => active.set_listing(*name, listing),
    }
    let size = files.values().map(|text| text.len() as u64).sum();
    let changes = Changes { digest: ContentDigest::from_bytes(digest), entries: ordered.len() as u64, size };
    (active.commit(&changes).unwrap(), written)
}

/// The regular files of a tree.
fn read(store: &Store, layers: &[SnapshotId]) -> Files {
    let view = TreeView::new(store, layers).unwrap();
    let mut found = Files::new();
    let mut left = vec![PathBuf::new()];
    while let Some(directory) = left.pop() {
        for (name, metadata) in view.list(&directory).unwrap() {
            let path = directory.join(name);
            match metadata.kind {
                Kind::Directory => left.push(path),
                _ => {
                    let mut text = String::new();
                    view.open(&path).unwrap().read_to_string(&mut text).unwrap();
                    assert_eq!(metadata.links, 1, "{}", path.display());
                    found.insert(path.display().to_string(), text);
                }
            }
        }
    }
    found
}

fn depth(snapshot: &Snapshot) -> usize {
    snapshot.dirs().count()
}

fn is_there(store: &Store, layer: &Snapshot) -> bool {
    store.snapshot(layer.id()).unwrap().is_some()
}

fn save(store: &Store, n: u64, layers: Vec<SnapshotId>) {
    let run = StepRun { started: UNIX_EPOCH, duration: Duration::ZERO };
    let record = NewRecord { content: content(n), layers, description: format!("COPY {n}"), run };
    store.records().save(&[key(n)], &record).unwrap();
}

#[test]
fn only_what_changed_is_written() {
    let test = TestStore::new();
    let base = test.layer(&[], |_| {}).id();
    let first = files(&[("a", "one"), ("d/b", "two"), ("gone/x", "x"), ("gone/y/z", "z")]);
    let (full, written) = copy(&test.store, &[base], &name(1, 1), &first);
    assert_eq!((depth(&full), written), (1, 44));
    let second = files(&[("a", "changed"), ("d/b", "two"), ("d/new", "new")]);
    let (version, written) = copy(&test.store, &[base], &name(1, 1), &second);
    assert_eq!((depth(&version), written), (2, 2));
    assert_eq!(read(&test.store, &[base, version.id()]), second);
    assert_eq!(read(&test.store, &[base, full.id()]), first);
    // Of what is gone only the topmost is marked, and nothing of it is in the layer.
    let own = version.dirs().next().unwrap();
    assert!(fs::symlink_metadata(own.join("gone")).unwrap().file_type().is_char_device());
    assert!(!own.join("many").exists());
    let entries = version.entries().unwrap();
    let paths: Vec<String> =
        entries.entries().iter().map(|entry| String::from_utf8(entry.path.clone()).unwrap()).collect();
    assert_eq!(paths.len(), second.len() + 2);
    assert!(!paths.iter().any(|path| path.starts_with("gone")));
    for entry in entries.entries().iter().filter(|entry| entry.kind != image::layer::EntryKind::Directory) {
        let mut text = String::new();
        entries.open(entry).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, second[std::str::from_utf8(&entry.path).unwrap()]);
    }
    // The third is compared with the first again, and written over it.
    let third = files(&[("a", "third"), ("d/b", "two"), ("gone/x", "x"), ("gone/y/z", "z")]);
    let (again, written) = copy(&test.store, &[base], &name(1, 1), &third);
    assert_eq!((depth(&again), written), (2, 1));
    assert_eq!(again.dirs().nth(1), full.dirs().next());
    assert_eq!(read(&test.store, &[base, again.id()]), third);
}

#[test]
fn what_is_too_different_is_written_in_full_and_compared_with_from_then_on() {
    let test = TestStore::new();
    let (first, _) = copy(&test.store, &[], &name(1, 1), &files(&[]));
    let other: Files = files(&[]).into_iter().map(|(path, text)| (path, text + " otherwise")).collect();
    let (full, written) = copy(&test.store, &[], &name(1, 1), &other);
    assert_eq!((depth(&full), written), (1, 40));
    let mut changed = other.clone();
    changed.insert("many/f07".to_owned(), "changed".to_owned());
    let (version, written) = copy(&test.store, &[], &name(1, 1), &changed);
    assert_eq!((depth(&version), written), (2, 1));
    assert_eq!(version.dirs().nth(1), full.dirs().next());
    // The older one is found, too: somebody goes back and forth, or another project is copied by the same words.
    let (back, written) = copy(&test.store, &[], &name(1, 1), &files(&[("many/f07", "changed")]));
    assert_eq!((back.dirs().nth(1), written), (first.dirs().next(), 1));
    let (elsewhere, written) = copy(&test.store, &[], &name(2, 1), &files(&[]));
    assert_eq!((depth(&elsewhere), written), (1, 40), "another copy");
    // A few files are not worth it.
    let few = |text: &str| Files::from([("a".to_owned(), text.to_owned()), ("b".to_owned(), "b".to_owned())]);
    copy(&test.store, &[], &name(3, 1), &few("one"));
    assert_eq!(depth(&copy(&test.store, &[], &name(3, 1), &few("two")).0), 1);
}

#[test]
fn the_same_place_comes_first() {
    let test = TestStore::new();
    let (mine, _) = copy(&test.store, &[], &name(1, 1), &files(&[("a", "mine")]));
    for place in 2..5 {
        copy(&test.store, &[], &name(1, place), &files(&[("a", "other")]));
    }
    let (version, _) = copy(&test.store, &[], &name(1, 1), &files(&[("a", "changed")]));
    assert_eq!(version.dirs().nth(1), mine.dirs().next());
}

#[test]
fn what_would_show_from_below_is_not_hidden() {
    let test = TestStore::new();
    let base = test.layer(&[], |dir| {
        fs::write(dir.join("a"), "of the base").unwrap();
        fs::create_dir(dir.join("d")).unwrap();
        fs::write(dir.join("d/b"), "of the base").unwrap();
    });
    let base = base.id();
    copy(&test.store, &[base], &name(1, 1), &files(&[("a", "copied"), ("c", "c")]));
    let (version, _) = copy(&test.store, &[base], &name(1, 1), &files(&[("a", "copied")]));
    assert_eq!(depth(&version), 2, "the base has no c");
    let (full, _) = copy(&test.store, &[base], &name(1, 1), &files(&[("c", "c")]));
    assert_eq!(depth(&full), 1);
    assert_eq!(read(&test.store, &[base, full.id()])["a"], "of the base");
    // A file becomes a directory, and the base has one there.
    let none = test.layer(&[], |_| {}).id();
    copy(&test.store, &[none], &name(2, 1), &files(&[("d", "a file")]));
    let directory = files(&[("d/c", "c")]);
    let (version, _) = copy(&test.store, &[none], &name(2, 1), &directory);
    assert_eq!((depth(&version), read(&test.store, &[none, version.id()])), (2, directory.clone()));
    let (full, _) = copy(&test.store, &[base], &name(2, 1), &directory);
    assert_eq!(depth(&full), 1);
    assert_eq!(read(&test.store, &[base, full.id()])["d/b"], "of the base");
    // What may come to lie over anything removes nothing.
    let (full, _) = copy(&test.store, &[], &name(3, 1), &files(&[("a", "a")]));
    assert_eq!((depth(&full), depth(&copy(&test.store, &[], &name(3, 1), &files(&[])).0)), (1, 1));
}

#[test]
fn versions_of_one_layer_in_one_chain() {
    let test = TestStore::new();
    let base = test.layer(&[], |dir| fs::write(dir.join("below"), "below").unwrap()).id();
    let (full, _) = copy(&test.store, &[base], &name(1, 1), &files(&[("a", "1")]));
    let (second, _) = copy(&test.store, &[base, full.id()], &name(1, 1), &files(&[("a", "2"), ("b", "2")]));
    let between = test.layer(&[base, full.id(), second.id()], |dir| {
        fs::write(dir.join("a"), "between").unwrap();
        fs::create_dir(dir.join("many")).unwrap();
        fs::write(dir.join("many/f01"), "between").unwrap();
    });
    let below = [base, full.id(), second.id(), between.id()];
    let (third, _) = copy(&test.store, &below, &name(1, 1), &files(&[("a", "3")]));
    assert_eq!([&second, &third].map(depth), [2, 2]);
    let mut expected = files(&[("a", "3"), ("b", "2"), ("below", "below")]);
    let chain = [&below[..], &[third.id()]].concat();
    assert_eq!(read(&test.store, &chain), expected);
    let root = test.store.begin_root(&chain).unwrap();
    let cache::RootForm::Overlay { lower, .. } = root.form() else { panic!("no overlay") };
    assert_eq!(lower.len(), 5, "a directory can be in a mount once: {lower:?}");
    expected.insert("many/f01".to_owned(), "between".to_owned());
    expected.insert("a".to_owned(), "between".to_owned());
    assert_eq!(read(&test.store, &below), expected);
}

#[test]
fn a_list_that_is_damaged_or_gone_is_no_use() {
    let test = TestStore::new();
    let (full, _) = copy(&test.store, &[], &name(1, 1), &files(&[]));
    let list = test.dir.path().join(format!("snapshots-v1/{}.files", full.id()));
    let bytes = fs::read(&list).unwrap();
    let changed = files(&[("a", "new")]);
    assert_eq!(depth(&copy(&test.store, &[], &name(1, 1), &changed).0), 2);
    test.database().execute("DELETE FROM snapshots WHERE id > ?1", [full.id().0]).unwrap();
    let mut damaged = bytes.clone();
    damaged[100] ^= 1;
    fs::write(&list, damaged).unwrap();
    assert_eq!(depth(&copy(&test.store, &[], &name(1, 1), &changed).0), 1);
    test.database().execute("DELETE FROM snapshots WHERE id > ?1", [full.id().0]).unwrap();
    fs::remove_file(&list).unwrap();
    assert_eq!(depth(&copy(&test.store, &[], &name(1, 1), &changed).0), 1);
}

#[test]
fn versions_can_be_switched_off() {
    let test = TestStore::new();
    let (first, _) = copy(&test.store, &[], &name(1, 1), &files(&[]));
    let options = StoreOptions { separate_versions: true, ..StoreOptions::default() };
    let store = Store::open(test.dir.path(), options).unwrap();
    let (second, written) = copy(&store, &[], &name(1, 1), &files(&[("a", "new")]));
    assert_eq!((depth(&second), written), (1, 41));
    let (third, _) = copy(&test.store, &[], &name(1, 1), &files(&[("a", "newer")]));
    assert_eq!(third.dirs().nth(1), first.dirs().next(), "it is not taken for a version");
}

#[test]
fn what_a_version_lies_over_stays_and_is_counted_once() {
    let test = TestStore::new();
    let (full, _) = copy(&test.store, &[], &name(1, 1), &files(&[("a", &"x".repeat(10_000))]));
    let (version, _) =
        copy(&test.store, &[], &name(1, 1), &files(&[("a", &"x".repeat(10_000)), ("b", "12345")]));
    save(&test.store, 2, vec![version.id()]);
    let usage = test.store.usage().unwrap();
    let sizes: Vec<u64> = usage.layers.iter().map(|layer| layer.size).collect();
    let all = full.changes().size;
    assert_eq!((sizes, usage.snapshots.bytes), (vec![all, 5], all + 5));
    assert_eq!(version.changes().size, all + 5, "as a layer");
    assert!(usage.layers.iter().all(|layer| layer.referenced && layer.description == "COPY 2"));
    let pruned = test.store.prune(PruneOptions::default()).unwrap();
    assert_eq!(pruned.snapshots, 0, "no result has the first, but the second needs it");
    assert_eq!(read(&test.store, &[version.id()])["b"], "12345");
    test.database().execute("DELETE FROM records", []).unwrap();
    let pruned = test.store.prune(PruneOptions::default()).unwrap();
    assert_eq!(pruned.snapshots, 2);
    for dir in ["snapshots-v1", "versions-v1"] {
        assert_eq!(fs::read_dir(test.dir.path().join(dir)).unwrap().count(), 0, "{dir}");
    }
}

#[test]
fn a_version_goes_before_what_it_lies_over() {
    let test = TestStore::new();
    let base = test.layer(&[], |_| {}).id();
    let (full, _) = copy(&test.store, &[base], &name(1, 1), &files(&[("a", &"x".repeat(100_000))]));
    save(&test.store, 1, vec![base, full.id()]);
    let (version, _) =
        copy(&test.store, &[base], &name(1, 1), &files(&[("a", &"x".repeat(100_000)), ("b", "b")]));
    save(&test.store, 2, vec![base, version.id()]);
    let parts = test.store.cache_parts().unwrap();
    let part = |id: SnapshotId| parts.iter().find(|part| part.id == id.to_string()).unwrap();
    assert_eq!(part(version.id()).parents, [base, full.id()].map(|id| id.to_string()));
    assert_eq!(part(full.id()).parents, [base.to_string()]);
    assert_eq!((part(version.id()).bytes, part(full.id()).frees), (1, full.changes().size + 1));
    // The full one is larger, so it would be the first to go.
    let wanted = |part: &cache::CachePart| part.description != "COPY 2";
    assert_eq!(test.store.evict(&wanted, Limits::default(), "").unwrap().records, 0);
    assert!(is_there(&test.store, &version));
    let limits = Limits { max_used_space: full.changes().size, ..Limits::default() };
    test.store.evict(&|_| true, limits, "").unwrap();
    assert_eq!([&full, &version].map(|layer| is_there(&test.store, layer)), [true, false]);
    // Also one that only an image has.
    let (version, _) =
        copy(&test.store, &[base], &name(1, 1), &files(&[("c", "c"), ("a", &"x".repeat(100_000))]));
    test.store.set_chain(&hash::Digest::of(b"chain"), version.id()).unwrap();
    test.store.evict(&|part| part.id == full.id().to_string(), Limits::default(), "").unwrap();
    assert!(is_there(&test.store, &version) && is_there(&test.store, &full));
}

#[test]
fn a_kept_step_keeps_what_its_layers_lie_over() {
    let test = TestStore::new();
    copy(&test.store, &[], &name(1, 1), &files(&[]));
    let (version, _) = copy(&test.store, &[], &name(1, 1), &files(&[("b", "b")]));
    let active = test.store.begin(&[version.id()]).unwrap();
    let kept = active.keep(&[version.id()], &[], "RUN false", "{}", Duration::from_secs(60)).unwrap();
    test.store.evict(&|_| true, Limits::default(), "").unwrap();
    assert!(test.store.kept_step(kept.id).unwrap().is_some());
    assert_eq!(read(&test.store, &kept.layers), files(&[("b", "b")]));
}

/// Others may be collected while a build uses the version.
#[test]
fn who_uses_a_version_uses_what_it_lies_over() {
    let test = TestStore::new();
    let (full, _) = copy(&test.store, &[], &name(1, 1), &files(&[("a", &"x".repeat(100_000))]));
    save(&test.store, 1, vec![full.id()]);
    let (version, _) =
        copy(&test.store, &[], &name(1, 1), &files(&[("a", &"x".repeat(100_000)), ("b", "b")]));
    save(&test.store, 2, vec![version.id()]);
    let collector = test.again();
    let whys = Whys { over: String::new(), full: String::new() };
    let collect = || collector.collect(Limits { max_used_space: 1, ..Limits::default() }, &whys).unwrap();
    let session = test.store.session().unwrap();
    let used = test.store.snapshot(version.id()).unwrap().unwrap();
    assert_eq!(collect(), full.changes().size + 1, "each counted once");
    assert!(used.dirs().all(Path::exists));
    assert_eq!(read(&test.store, &[version.id()])["b"], "b");
    drop(session);
    // As the base of the next version, too.
    let session = test.store.session().unwrap();
    let (next, _) = copy(&test.store, &[], &name(1, 1), &files(&[("a", &"x".repeat(100_000)), ("c", "c")]));
    collect();
    assert_eq!((is_there(&test.store, &next), is_there(&test.store, &version)), (true, false));
    assert_eq!(read(&test.store, &[next.id()])["c"], "c");
    drop(session);
}

#[test]
fn without_what_it_lies_over_a_version_is_lost() {
    let lost = |lose: &dyn Fn(&TestStore, &Snapshot)| {
        let test = TestStore::new();
        let (full, _) = copy(&test.store, &[], &name(1, 1), &files(&[("a", "1")]));
        save(&test.store, 1, vec![full.id()]);
        let (version, _) = copy(&test.store, &[], &name(1, 1), &files(&[("a", "2")]));
        save(&test.store, 2, vec![version.id()]);
        lose(&test, &full);
        let store = test.again();
        assert_eq!(store.records().lookup(&key(2)).unwrap(), []);
        assert!(!is_there(&store, &version) && !is_there(&store, &full));
        assert_eq!(store.records().lookup(&key(1)).unwrap(), []);
        // And is built again.
        let (again, _) = copy(&store, &[], &name(1, 1), &files(&[("a", "2")]));
        assert_eq!(read(&store, &[again.id()]), files(&[("a", "2")]));
        store.prune(PruneOptions::default()).unwrap();
    };
    lost(&|_, full| fs::remove_dir_all(full.dirs().next().unwrap()).unwrap());
    // After a power failure.
    lost(&|test, full| {
        let update = "UPDATE snapshots SET boot = iif(id = ?1, 'another', NULL)";
        test.database().execute(update, [full.id().0]).unwrap();
    });
    // By a program that knows nothing of versions.
    lost(&|test, full| {
        test.database().execute("PRAGMA foreign_keys = ON", []).unwrap_or_default();
        test.database().execute("DELETE FROM snapshots WHERE id = ?1", [full.id().0]).unwrap();
    });
}

#[test]
fn what_is_left_of_a_lost_row_is_not_taken_for_the_next_one() {
    let test = TestStore::new();
    let (full, _) = copy(&test.store, &[], &name(1, 1), &files(&[("a", "1")]));
    let (version, _) = copy(&test.store, &[], &name(1, 1), &files(&[("a", "2")]));
    assert_eq!((depth(&full), depth(&version)), (1, 2));
    // The power fails before the rows are on the disk; the numbers are given again.
    let database = test.database();
    database.execute_batch("DELETE FROM snapshots; DELETE FROM sqlite_sequence").unwrap();
    let plain = test.layer(&[], |dir| fs::write(dir.join("f"), "f").unwrap());
    assert_eq!(plain.id(), full.id());
    assert!(!test.dir.path().join(format!("snapshots-v1/{}.files", plain.id())).exists());
    let second = test.layer(&[], |dir| fs::write(dir.join("g"), "g").unwrap());
    assert_eq!(second.id(), version.id());
    assert_eq!(read(&test.store, &[plain.id(), second.id()]).len(), 2);
    assert!(!version.dirs().next().unwrap().exists());
    // The other way round: a version where a layer was.
    let stale = test.dir.path().join(format!("snapshots-v1/{}", second.id().0 + 2));
    fs::create_dir(&stale).unwrap();
    copy(&test.store, &[], &name(2, 1), &files(&[("a", "1")]));
    let (version, _) = copy(&test.store, &[], &name(2, 1), &files(&[("a", "2")]));
    assert_eq!((depth(&version), stale.exists()), (2, false));
    fs::remove_dir_all(version.dirs().next().unwrap()).unwrap();
    assert!(!is_there(&test.store, &version));
}

#[test]
fn owners_are_recorded_for_each_directory() {
    in_user_namespace("owners_are_recorded_for_each_directory", || {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { userxattr: true, recorded_owners: true, ..StoreOptions::default() };
        let store = Store::open(dir.path(), options).unwrap();
        copy(&store, &[], &name(1, 1), &files(&[("a", "1"), ("l", "old")]));
        let (version, written) = copy(&store, &[], &name(1, 1), &files(&[("a", "2"), ("l", "old")]));
        assert_eq!((depth(&version), written), (2, 1));
        let view = TreeView::new(&store, &[version.id()]).unwrap();
        for path in ["a", "l", "many", "many/f01"] {
            let metadata = view.metadata(Path::new(path)).unwrap().unwrap();
            assert_eq!((metadata.uid, metadata.gid), (3, 4), "{path}");
        }
        assert!(version.entries().unwrap().entries().iter().all(|entry| (entry.uid, entry.gid) == (3, 4)));
        let on_disk = fs::metadata(version.dirs().next().unwrap().join("a")).unwrap();
        assert_eq!(on_disk.uid(), 0);
    });
}

const CHILD: &str = "CACHE_TEST_VERSIONS_IN";

fn version(n: u64) -> Files {
    let text = n.to_string();
    let (here, there) = (format!("v{}", n % 3), format!("d{}/f", n % 2));
    files(&[("changing", &text), (&here, &text), (&there, "")])
}

#[test]
fn killed_at_random_every_version_is_whole() {
    if let Some(root) = std::env::var_os(CHILD) {
        let start: u64 = std::env::var("CACHE_TEST_START").unwrap().parse().unwrap();
        let store = Store::open(Path::new(&root), StoreOptions::default()).unwrap();
        for n in start.. {
            let session = store.session().unwrap();
            let base = store.begin(&[]).unwrap();
            let changes = base.changes().unwrap();
            let base = base.commit(&changes).unwrap().id();
            let (made, _) = copy(&store, &[base], &name(1, 1), &version(n));
            save(&store, n, vec![base, made.id()]);
            drop(session);
            if n % 7 == 0 {
                let _ = store.prune(PruneOptions { all: n % 3 == 0 });
            }
        }
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("state");
    let mut random = common::Random::new(3);
    let (mut found, mut over) = (0, 0);
    // On a busy machine a round may end before its children have done anything: more rounds, and longer ones.
    for round in 0..80u64 {
        if round >= 8 && found > 5 && over > 2 {
            break;
        }
        let start = |worker: u64| (round * 2 + worker) * 10_000;
        let mut children: Vec<_> = (0..2)
            .map(|worker| {
                Command::new(std::env::current_exe().unwrap())
                    .args(["killed_at_random_every_version_is_whole", "--exact"])
                    .env(CHILD, &root)
                    .env("CACHE_TEST_START", start(worker).to_string())
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        std::thread::sleep(Duration::from_millis((100 + random.below(200)) * (1 + round / 8)));
        for child in &mut children {
            child.kill().unwrap();
        }
        for child in children {
            let output = child.wait_with_output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.code().is_none(), "it failed before it was killed: {errors}");
        }
        let store = Store::open(&root, StoreOptions::default()).unwrap();
        for n in (0..2).flat_map(|worker| start(worker)..start(worker) + 200) {
            let Some(record) = store.records().lookup(&key(n)).unwrap().pop() else { continue };
            assert_eq!(read(&store, &record.layers), version(n));
            over += usize::from(depth(&store.snapshot(record.layers[1]).unwrap().unwrap()) == 2);
            found += 1;
        }
    }
    assert!(found > 5 && over > 2, "the children did too little: {found}, {over}");
    let store = Store::open(&root, StoreOptions::default()).unwrap();
    store.prune(PruneOptions { all: true }).unwrap();
    for dir in ["snapshots-v1", "versions-v1"] {
        assert_eq!(fs::read_dir(root.join(dir)).unwrap().count(), 0, "{dir}");
    }
}
