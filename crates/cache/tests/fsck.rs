//! What a check finds, and what it takes away.

mod common;

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use cache::{CacheBackend, FindingKind, Limits, NewRecord, PruneOptions, StepRun, Whys};
use common::{Over, TestStore, content, index_of, key, put_image};
use image::{ContentStore, Descriptor, Layer, MediaType};

/// Files and directories where none belong, in every place.
const STRAYS: &[&str] = &[
    "snapshots-v1/file",
    "snapshots-v1/4711/",
    "snapshots-v1/1.other",
    "versions-v1/4711/",
    "versions-v1/x",
    "logs-v1/4711",
    "logs-v1/folder/",
    "blobs/other",
    "blobs/sha256-v1/file",
    "blobs/sha256-v1/zz/",
    "blobs/sha256-v1/ab/short",
    "claims-v1/file",
    "leases-v1/file",
    "leases-v1/layer-001x",
    "stat-v1/folder/",
    "mounts-v1/file",
    "mounts-v1/folder/",
    "remotes-v1/file",
    "builds-v1/file",
    "empty-v1/file",
    "partial-v1/file",
    "partial-v1/folder/",
    "points-v2/file",
    "points-v2/folder/",
    "tmp-v1/file",
    "tmp-v1/folder/",
    "tmp-v1/12-x",
];

fn scatter(test: &TestStore) {
    for stray in STRAYS {
        let path = test.dir.path().join(stray);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match stray.ends_with('/') {
            true => fs::create_dir_all(path.join("inner")).unwrap(),
            false => fs::write(path, "").unwrap(),
        }
    }
}

#[test]
fn strays_are_found_in_every_place() {
    let test = TestStore::new();
    put_image(&test, "app", "linux/amd64", b"layer").unwrap();
    test.layer(&[], |dir| fs::write(dir.join("f"), "").unwrap());
    let mount = test.store.import_cache_mount(&cache::CacheMountOptions::new("m"), &mut &tar()[..]);
    mount.unwrap();
    assert_eq!(test.store.check(false).unwrap().findings, []);
    scatter(&test);
    // Of another version, and the user's own.
    fs::create_dir(test.dir.path().join("snapshots-v2")).unwrap();
    fs::write(test.dir.path().join("notes.txt"), "mine").unwrap();
    let found = |repair| -> Vec<String> {
        let findings = test.store.check(repair).unwrap().findings;
        for finding in &findings {
            let is_mine = finding.name == "notes.txt";
            assert_eq!(finding.kind, if is_mine { FindingKind::Foreign } else { FindingKind::Stray });
            assert_eq!(finding.repaired, repair && !is_mine, "{finding:?}");
        }
        let mut names: Vec<String> = findings.into_iter().map(|finding| finding.name).collect();
        names.sort();
        names
    };
    let mut want: Vec<String> = STRAYS.iter().map(|stray| stray.trim_end_matches('/').to_owned()).collect();
    want.push("notes.txt".to_owned());
    want.sort();
    assert_eq!(found(false), want);
    assert_eq!(found(true), want);
    assert_eq!(found(false), ["notes.txt"]);
    assert!(test.dir.path().join("snapshots-v2").exists());
    assert_eq!(test.store.list_images().unwrap().len(), 1);
}

/// An archive of nothing: two blocks of zeroes.
fn tar() -> Vec<u8> {
    vec![0; 1024]
}

#[test]
fn prune_is_not_stopped_by_strays() {
    let test = TestStore::new();
    put_image(&test, "app", "linux/amd64", b"layer").unwrap();
    scatter(&test);
    let pruned = test.store.prune(PruneOptions { all: true }).unwrap();
    assert_eq!(pruned.images, 1);
    let found = test.store.check(false).unwrap().findings;
    assert!(!found.iter().any(|finding| finding.name.starts_with("blobs/sha256-v1")), "{found:#?}");
}

/// A collector takes layers, their blobs, and all at once: none of it was damaged.
#[test]
fn what_is_collected_meanwhile_is_no_damage() {
    let test = TestStore::new();
    let over = AtomicBool::new(false);
    let collected = AtomicU64::new(0);
    let whys = Whys { over: "o".into(), full: "f".into() };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for n in 0..30u64 {
                    let layer = test.layer(&[], |dir| fs::write(dir.join("f"), [1; 1000]).unwrap()).id();
                    let record = NewRecord {
                        content: content(n),
                        layers: vec![layer],
                        description: "RUN".to_owned(),
                        run: StepRun { started: UNIX_EPOCH, duration: Duration::from_secs(1) },
                    };
                    test.store.records().save(&[key(n)], &record).unwrap();
                    let store: &dyn ContentStore = test.store.blobs();
                    let digest =
                        store.put(format!("{} {n}", collected.load(Ordering::Relaxed)).as_bytes()).unwrap();
                    let packed =
                        Layer { descriptor: Descriptor::new(MediaType::LAYER, digest, 1), diff_id: digest };
                    test.store.set_packed(layer, "tar", &packed).unwrap();
                }
                test.store.collect(Limits { max_used_space: 1, ..Limits::default() }, &whys).unwrap();
                collected.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _over = Over(&over);
        let store = test.again();
        let mut checks = 0;
        while checks < 60 || collected.load(Ordering::Relaxed) < 2 {
            checks += 1;
            assert_eq!(store.check(false).unwrap().findings, []);
        }
    });
}

#[test]
fn a_layer_that_was_never_finished_is_no_damage() {
    let test = TestStore::new();
    let layers = || {
        let count = "SELECT count(*) FROM snapshots";
        test.database().query_row(count, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let layer = test.layer(&[], |_| {}).id();
    // Its row comes first.
    fs::remove_dir_all(test.dir.path().join(format!("snapshots-v1/{layer}"))).unwrap();
    assert_eq!((test.store.check(false).unwrap().findings, layers()), (vec![], 1));
    assert_eq!((test.store.check(true).unwrap().findings, layers()), (vec![], 0));
}

#[test]
fn images_that_a_repair_takes_are_announced() {
    let test = TestStore::new();
    put_image(&test, "app:bad", "linux/amd64", b"damaged").unwrap();
    put_image(&test, "app:good", "linux/amd64", b"sound").unwrap();
    let hex = hash::Digest::of(b"damaged").hex();
    let blob = test.dir.path().join(format!("blobs/sha256-v1/{}/{hex}", &hex[..2]));
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, "DAMAGED").unwrap();
    let found = |repair| -> Vec<(FindingKind, String)> {
        let findings = test.store.check(repair).unwrap().findings;
        findings.into_iter().map(|finding| (finding.kind, finding.name)).collect()
    };
    let want = vec![(FindingKind::Blob, format!("sha256:{hex}")), (FindingKind::Image, "app:bad".to_owned())];
    assert_eq!(found(false), want);
    assert_eq!(test.store.list_images().unwrap().len(), 2);
    assert_eq!(found(true), want);
    assert_eq!(test.store.list_images().unwrap().len(), 1);
    assert_eq!(found(false), []);
}

#[test]
fn an_image_that_lost_its_index_alone_keeps_its_name() {
    let test = TestStore::new();
    let platforms = ["linux/amd64", "linux/arm64"];
    let manifests = platforms.map(|platform| {
        (platform.parse().unwrap(), put_image(&test, "app", platform, platform.as_bytes()).unwrap())
    });
    let (index, bytes) = index_of(&test, &[&manifests[0].1, &manifests[1].1]);
    test.store.name_images(&"app".parse().unwrap(), &manifests, Some(&index)).unwrap();
    let hex = index.digest.hex();
    let blob = test.dir.path().join(format!("blobs/sha256-v1/{}/{hex}", &hex[..2]));
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, vec![b' '; bytes.len()]).unwrap();
    let found = |repair| {
        let findings = test.store.check(repair).unwrap().findings;
        findings.into_iter().map(|finding| finding.what).collect::<Vec<_>>()
    };
    let lost = "its index is damaged or gone";
    let want = ["its bytes are not what its name says", lost, lost];
    assert_eq!((found(false), found(true)), (want.map(String::from).into(), want.map(String::from).into()));
    assert_eq!(found(false), Vec::<String>::new());
    let left = test.store.list_images().unwrap();
    let left: Vec<_> = left.into_iter().map(|image| (image.platform, image.manifest, image.index)).collect();
    assert_eq!(left, manifests.map(|(platform, manifest)| (platform, manifest, None)));
    assert_eq!(test.store.prune(PruneOptions::default()).unwrap().blobs, 0);
}
