//! Cache mounts: who gets which directory, in how many processes, and what is left of those that were killed.

mod common;

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use cache::{
    Anew, CacheError, CacheMount, CacheMountOptions, PruneOptions, RemoteKind, Sharing, Store, StoreOptions,
};
use common::{TestStore, in_user_namespace};
use files::{Attributes, FileTree, Owners, TreeWriter, WriterOptions};

fn options(sharing: Sharing) -> CacheMountOptions {
    CacheMountOptions { sharing, ..CacheMountOptions::new("npm") }
}

fn empty(_: &Path, _: &Owners) -> Result<(), CacheError> {
    Ok(())
}

fn get(store: &Store, sharing: Sharing) -> Option<CacheMount> {
    store.try_cache_mount(&options(sharing), empty).unwrap()
}

#[test]
fn what_is_written_stays() {
    let test = TestStore::new();
    let wanted = CacheMountOptions { mode: 0o1770, uid: 7, gid: 8, ..CacheMountOptions::new("npm") };
    let first = test.store.try_cache_mount(&wanted, empty).unwrap().unwrap();
    let metadata = fs::metadata(first.dir()).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o1770, 7, 8));
    fs::write(first.dir().join("f"), "text").unwrap();
    drop(first);
    // The mode is that of a new one.
    let again = test.again().try_cache_mount(&CacheMountOptions::new("npm"), empty).unwrap().unwrap();
    assert_eq!(fs::read_to_string(again.dir().join("f")).unwrap(), "text");
    assert_eq!(fs::metadata(again.dir()).unwrap().mode() & 0o7777, 0o1770);
    let other = test.store.try_cache_mount(&CacheMountOptions::new("cargo"), empty).unwrap().unwrap();
    assert_eq!(fs::read_dir(other.dir()).unwrap().count(), 0);
    let info = test.store.cache_mounts().unwrap();
    let known: Vec<_> = info.iter().map(|info| (&*info.id, info.uses, info.in_use, info.instance)).collect();
    assert_eq!(known, [("cargo", 1, true, 1), ("npm", 2, true, 1)]);
    assert!(info[1].size.bytes >= 4096 && info[1].last_used >= info[1].created);
    drop((again, other));
    assert!(test.store.cache_mounts().unwrap().iter().all(|info| !info.in_use));
}

#[test]
fn the_three_ways_of_sharing() {
    let test = TestStore::new();
    let store = &test.store;
    let a = get(store, Sharing::Shared).unwrap();
    assert_eq!(get(&test.again(), Sharing::Shared).unwrap().dir(), a.dir());
    assert!(get(store, Sharing::Locked).is_none(), "somebody shares it");
    let private = get(store, Sharing::Private).unwrap();
    assert_ne!(private.dir(), a.dir());
    drop(a);
    let locked = get(store, Sharing::Locked).unwrap();
    assert!(get(store, Sharing::Locked).is_none());
    assert!(get(&test.again(), Sharing::Locked).is_none());
    let shared = get(store, Sharing::Shared).unwrap();
    assert!(shared.dir() != locked.dir() && shared.dir() != private.dir());
    drop((private, shared));
    assert!(get(store, Sharing::Locked).is_none(), "never two at once, though others are free");
    // A private one takes what is free.
    let before = store.cache_mounts().unwrap().len();
    drop(get(store, Sharing::Private).unwrap());
    assert_eq!(store.cache_mounts().unwrap().len(), before);
}

#[test]
fn waiting_ends_with_the_holder_or_the_waiter() {
    let test = TestStore::new();
    let held = get(&test.store, Sharing::Locked).unwrap();
    let begin = Instant::now();
    let given_up = || begin.elapsed() > Duration::from_millis(80);
    assert!(test.store.cache_mount(&options(Sharing::Locked), empty, &given_up).unwrap().is_none());
    let store = test.again();
    let waiting =
        std::thread::spawn(move || store.cache_mount(&options(Sharing::Locked), empty, &|| false).unwrap());
    std::thread::sleep(Duration::from_millis(50));
    assert!(!waiting.is_finished());
    drop(held);
    assert!(waiting.join().unwrap().is_some());
}

#[test]
fn many_ask_at_once_and_one_seeds() {
    let test = TestStore::new();
    let seeded = AtomicUsize::new(0);
    let working = AtomicUsize::new(0);
    let dirs: HashSet<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let (store, seeded, working) = (test.again(), &seeded, &working);
                let sharing = if n % 2 == 0 { Sharing::Shared } else { Sharing::Locked };
                scope.spawn(move || {
                    let seed = |dir: &Path, _: &Owners| {
                        seeded.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(30));
                        fs::write(dir.join("seed"), "whole").unwrap();
                        Ok::<(), CacheError>(())
                    };
                    let options = CacheMountOptions { seed: Some("base".into()), ..options(sharing) };
                    let mount = store.cache_mount(&options, seed, &|| false).unwrap().unwrap();
                    assert_eq!(fs::read_to_string(mount.dir().join("seed")).unwrap(), "whole");
                    if sharing == Sharing::Locked {
                        assert_eq!(working.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::sleep(Duration::from_millis(10));
                        working.fetch_sub(1, Ordering::SeqCst);
                    }
                    mount.dir()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    // A sharer that comes while it is locked gets another.
    assert_eq!(seeded.load(Ordering::SeqCst), dirs.len());
    assert!(dirs.len() <= 2, "{dirs:?}");
    assert_eq!(fs::read_dir(get(&test.store, Sharing::Shared).unwrap().dir()).unwrap().count(), 0, "no seed");
}

#[test]
fn a_seed_that_failed_leaves_nothing() {
    let test = TestStore::new();
    let failing = |dir: &Path, _: &Owners| {
        fs::write(dir.join("half"), "").unwrap();
        Err(CacheError::NoSnapshot(cache::SnapshotId(1)))
    };
    assert!(test.store.try_cache_mount(&options(Sharing::Shared), failing).is_err());
    assert_eq!(test.store.cache_mounts().unwrap(), []);
    assert_eq!(fs::read_dir(get(&test.store, Sharing::Shared).unwrap().dir()).unwrap().count(), 0);
}

#[test]
fn no_cache_begins_anew_once_a_build() {
    let test = TestStore::new();
    let old = get(&test.store, Sharing::Shared).unwrap();
    fs::write(old.dir().join("old"), "").unwrap();
    let anew = CacheMountOptions { anew: Some(Anew::default()), ..options(Sharing::Shared) };
    let first = test.store.try_cache_mount(&anew, empty).unwrap().unwrap();
    assert_ne!(first.dir(), old.dir());
    // What clocks say does not matter: those of files are some milliseconds behind, and all of them jump.
    let lock = fs::File::open(first.dir().with_file_name("lock")).unwrap();
    lock.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    assert!(old.dir().join("old").exists(), "it is in use");
    let second = test.store.try_cache_mount(&anew, empty).unwrap().unwrap();
    assert_eq!(second.dir(), first.dir(), "the same build");
    let next = get(&test.store, Sharing::Shared).unwrap();
    assert_eq!(next.dir(), first.dir(), "the old one is given to nobody any more");
    let old_dir = old.dir();
    drop(old);
    drop(get(&test.store, Sharing::Shared).unwrap());
    assert!(!old_dir.exists());
}

#[test]
fn prune_and_rm_leave_what_is_used() {
    let test = TestStore::new();
    let used = get(&test.store, Sharing::Shared).unwrap();
    fs::write(used.dir().join("f"), vec![1; 50_000]).unwrap();
    drop(test.store.try_cache_mount(&CacheMountOptions::new("free"), empty).unwrap());
    let pruned = test.store.prune(PruneOptions { all: false }).unwrap();
    assert_eq!(pruned.mounts, 0, "they are worth something");
    assert!(test.store.usage().unwrap().cache_mounts.bytes > 50_000);
    assert_eq!(test.store.prune(PruneOptions { all: true }).unwrap().mounts, 1);
    let left = test.store.cache_mounts().unwrap();
    assert_eq!((left.len(), &*left[0].id), (1, "npm"));
    assert_eq!(test.store.remove_cache_mount("npm").unwrap(), (Default::default(), 1));
    assert!(used.dir().join("f").exists());
    // Removed by name: nobody gets it any more.
    assert_ne!(get(&test.store, Sharing::Shared).unwrap().dir(), used.dir());
    drop(used);
    let (removed, busy) = test.store.remove_cache_mount("npm").unwrap();
    assert_eq!((removed.count, busy), (2, 0));
    assert_eq!(test.store.cache_mounts().unwrap(), []);
    assert_eq!(fs::read_dir(test.dir.path().join("mounts-v1")).unwrap().count(), 0);
}

#[test]
fn export_and_import() {
    let test = TestStore::new();
    let mount = get(&test.store, Sharing::Shared).unwrap();
    fs::create_dir(mount.dir().join("d")).unwrap();
    fs::write(mount.dir().join("d/f"), "text").unwrap();
    fs::write(mount.dir().join("d/.wh.odd"), "not removed").unwrap();
    fs::hard_link(mount.dir().join("d/f"), mount.dir().join("d/g")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", mount.dir().join("l")).unwrap();
    std::os::unix::fs::chown(mount.dir().join("d/f"), Some(3), Some(4)).unwrap();
    fs::set_permissions(mount.dir().join("d/f"), fs::Permissions::from_mode(0o4711)).unwrap();
    let mut tar = Vec::new();
    test.store.open_cache_mount("npm", None).unwrap().unwrap().export(&mut tar).unwrap();
    // As another program reads it.
    let out = tempfile::tempdir().unwrap();
    let mut child = Command::new("tar")
        .args(["-xpf", "-", "--same-owner", "-C"])
        .arg(out.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &tar).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(fs::read_to_string(out.path().join("d/.wh.odd")).unwrap(), "not removed");
    let metadata = fs::metadata(out.path().join("d/f")).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.nlink()), (0o4711, 3, 2));

    // What cannot be taken in leaves things as they are.
    let damaged = &tar[..tar.len() / 1024 * 512 + 100];
    assert!(test.store.import_cache_mount(&options(Sharing::Shared), &mut &damaged[..]).is_err());
    assert!(mount.dir().join("d/.wh.odd").exists());
    assert_eq!(test.store.cache_mounts().unwrap().len(), 1);

    fs::remove_file(mount.dir().join("d/.wh.odd")).unwrap();
    let mut tar = Vec::new();
    test.store.open_cache_mount("npm", Some(1)).unwrap().unwrap().export(&mut tar).unwrap();
    fs::write(mount.dir().join("later"), "").unwrap();
    drop(mount);
    test.store.import_cache_mount(&options(Sharing::Shared), &mut &tar[..]).unwrap();
    let back = get(&test.store, Sharing::Shared).unwrap();
    assert!(!back.dir().join("later").exists());
    let mut text = String::new();
    back.tree().unwrap().open(Path::new("d/g")).unwrap().read_to_string(&mut text).unwrap();
    let metadata = back.tree().unwrap().metadata(Path::new("d/g")).unwrap().unwrap();
    assert_eq!((&*text, metadata.mode, metadata.uid, metadata.links), ("text", 0o4711, 3, 2));
    assert_eq!(test.store.cache_mounts().unwrap().len(), 1);
    assert!(test.store.open_cache_mount("other", None).unwrap().is_none());
}

#[test]
fn owners_of_a_single_id() {
    in_user_namespace("owners_of_a_single_id", || {
        let dir = tempfile::tempdir().unwrap();
        let store_options =
            StoreOptions { userxattr: true, recorded_owners: true, ..StoreOptions::default() };
        let store = Store::open(dir.path(), store_options).unwrap();
        let wanted = CacheMountOptions { mode: 0o750, uid: 5, gid: 6, ..CacheMountOptions::new("npm") };
        let mount = store
            .try_cache_mount(&wanted, |dir, owners| {
                let parents = Attributes::with_mode(0o755);
                let opaque = files::OpaqueMark::User;
                let writer = TreeWriter::new(dir, WriterOptions { owners: owners.clone(), opaque, parents })?;
                let owned = Attributes { uid: 7, gid: 8, ..Attributes::with_mode(0o644) };
                writer.symlink(Path::new("l"), Path::new("target"), &owned)?;
                writer.file(Path::new("f"), &mut &b"x"[..], &owned)?;
                Ok::<(), CacheError>(writer.finish()?)
            })
            .unwrap()
            .unwrap();
        let owner = |tree: &dyn FileTree, path: &str| {
            let found = tree.metadata(Path::new(path)).unwrap().unwrap();
            (found.uid, found.gid)
        };
        let tree = mount.tree().unwrap();
        assert_eq!([owner(&tree, ""), owner(&tree, "l"), owner(&tree, "f")], [(5, 6), (7, 8), (7, 8)]);
        let mut tar = Vec::new();
        store.open_cache_mount("npm", None).unwrap().unwrap().export(&mut tar).unwrap();
        drop(mount);
        store.import_cache_mount(&wanted, &mut &tar[..]).unwrap();
        let tree = store.open_cache_mount("npm", None).unwrap().unwrap().tree().unwrap();
        assert_eq!([owner(&tree, ""), owner(&tree, "l"), owner(&tree, "f")], [(5, 6), (7, 8), (7, 8)]);
    });
}

#[test]
fn repositories_are_kept_for_one_user_at_a_time() {
    let test = TestStore::new();
    let address = "https://example.com/a.git";
    let first = test.store.try_remote_dir(RemoteKind::Git, address).unwrap().unwrap();
    fs::write(first.dir().join("HEAD"), "").unwrap();
    assert!(test.again().try_remote_dir(RemoteKind::Git, address).unwrap().is_none());
    assert!(test.store.try_remote_dir(RemoteKind::Git, "other").unwrap().is_some());
    assert!(test.store.remote_dir(RemoteKind::Git, address, &|| true).unwrap().is_none());
    drop(first);
    let again = test.store.remote_dir(RemoteKind::Git, address, &|| false).unwrap().unwrap();
    assert!(again.dir().join("HEAD").exists());
    drop(again);
    assert_eq!(test.store.usage().unwrap().remotes.count, 2);
    // What was not used for long goes.
    for folder in fs::read_dir(test.dir.path().join("remotes-v1")).unwrap() {
        let folder = folder.unwrap().path();
        if fs::read_to_string(folder.join("name")).unwrap().contains("other") {
            let uses = fs::File::options().append(true).open(folder.join("1/uses")).unwrap();
            uses.set_modified(SystemTime::now() - Duration::from_secs(31 * 24 * 3600)).unwrap();
        }
    }
    assert_eq!(test.store.prune(PruneOptions::default()).unwrap().mounts, 1);
    let left: Vec<_> = test.store.remote_dirs().unwrap().into_iter().map(|info| info.id).collect();
    assert_eq!(left, [address]);
}

const CHILD: &str = "CACHE_TEST_MOUNTS_IN";

/// Takes and uses mounts for as long as it lives, and adds a byte to `progress` for each. A seeded mount holds what its
/// seed says; a locked one has one user.
fn work(root: &Path, progress: &Path, n: u64) {
    let mut progress = fs::OpenOptions::new().append(true).create(true).open(progress).unwrap();
    let store = Store::open(root, StoreOptions::default()).unwrap();
    let mut random = common::Random::new(n);
    loop {
        let sharing = *random.pick(&[Sharing::Shared, Sharing::Private, Sharing::Locked]);
        let id = format!("{sharing:?}-{}", random.below(2));
        let wanted = CacheMountOptions { id, sharing, ..CacheMountOptions::new("") };
        let anew = random.one_in(20).then(Anew::default);
        let seed = |dir: &Path, _: &Owners| {
            for file in 0..20 {
                fs::write(dir.join(format!("seed-{file}")), "whole").unwrap();
            }
            Ok::<(), CacheError>(())
        };
        let wanted = CacheMountOptions { anew, ..wanted };
        let mount = store.cache_mount(&wanted, seed, &|| false).unwrap().unwrap();
        for file in 0..20 {
            assert_eq!(fs::read_to_string(mount.dir().join(format!("seed-{file}"))).unwrap(), "whole");
        }
        if sharing != Sharing::Shared {
            let user = mount.dir().join("user");
            fs::write(&user, n.to_string()).unwrap();
            std::thread::sleep(Duration::from_millis(random.below(3)));
            assert_eq!(fs::read_to_string(&user).unwrap(), n.to_string(), "two users at once");
        }
        drop(mount);
        progress.write_all(b".").unwrap();
        if random.one_in(10) {
            store.remove_cache_mount(&format!("{sharing:?}-0")).unwrap();
        }
        if random.one_in(10) {
            store.prune(PruneOptions { all: random.one_in(2) }).unwrap();
        }
        store.cache_mounts().unwrap();
    }
}

#[test]
fn killed_users_and_makers_block_nobody() {
    if let Some(root) = std::env::var_os(CHILD) {
        let root = Path::new(&root);
        let progress = root.with_extension("progress");
        return work(root, &progress, std::env::var("CACHE_TEST_START").unwrap().parse().unwrap());
    }
    let parent = tempfile::tempdir().unwrap();
    let (dir, progress) = (parent.path().join("store"), parent.path().join("store.progress"));
    let done = || fs::metadata(&progress).map_or(0, |file| file.len());
    let mut random = common::Random::new(5);
    let mut round = 0;
    // On a busy machine a round may end before its children have begun.
    while round < 12 || done() < 40 {
        assert!(round < 200, "the children did too little: {}", done());
        let mut children: Vec<Child> = (0..3)
            .map(|worker| {
                Command::new(std::env::current_exe().unwrap())
                    .args(["killed_users_and_makers_block_nobody", "--exact"])
                    .env(CHILD, &dir)
                    .env("CACHE_TEST_START", (round * 3 + worker).to_string())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        std::thread::sleep(Duration::from_millis((30 + random.below(250)) * (1 + round / 12).min(10)));
        for child in &mut children {
            child.kill().unwrap();
        }
        for child in children {
            let output = child.wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let text = text + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code().is_none(), "it failed before it was killed: {text}");
        }
        round += 1;
    }
    let store = Store::open(&dir, StoreOptions::default()).unwrap();
    assert!(store.cache_mounts().unwrap().iter().all(|mount| !mount.in_use));
    for id in 0..2 {
        let wanted =
            CacheMountOptions { sharing: Sharing::Locked, ..CacheMountOptions::new(format!("Locked-{id}")) };
        assert!(store.try_cache_mount(&wanted, empty).unwrap().is_some(), "a dead process holds it");
    }
    store.prune(PruneOptions { all: true }).unwrap();
    drop(store);
    for folder in ["mounts-v1", "tmp-v1"] {
        assert_eq!(fs::read_dir(dir.join(folder)).unwrap().count(), 0, "{folder}");
    }
}
