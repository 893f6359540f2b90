//! The local image store, and layers of images by chain id and packed form.

mod common;

use std::fs;
use std::future::Future;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use cache::{PruneOptions, StoredImage};
use common::{TestStore, index_of, put_image};
use hash::Digest;
use image::{
    BlobSource, Compression, ContentStore, Descriptor, ImageResolver, Index, Layer, MediaType, MemoryStore,
    Platform, Reference, ResolveError, ResolvedImage, ResolvedIndex, TransferProgress,
};

/// Nothing here waits for anything.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits"),
    }
}

struct Silent;
impl TransferProgress for Silent {
    fn transferred(&self, _blob: &Digest, _current: u64, _total: u64) {}
}

#[test]
fn images_resolve_by_exact_name_and_platform() {
    let test = TestStore::new();
    let amd = put_image(&test, "app:1", "linux/amd64", b"amd").unwrap();
    let arm = put_image(&test, "app:1", "linux/arm64", b"arm").unwrap();
    let resolve = |name: &str, platform: &str| {
        let (name, platform): (Reference, Platform) = (name.parse().unwrap(), platform.parse().unwrap());
        now(test.store.resolve(&name, &platform))
    };
    assert_eq!(resolve("app:1", "linux/amd64").unwrap().manifest_digest, amd.digest);
    let found = resolve("docker.io/library/app:1", "linux/arm64").unwrap();
    assert_eq!((found.manifest_digest, found.layers[0].diff_id), (arm.digest, Digest::of(b"arm")));
    assert!(matches!(resolve("app", "linux/amd64"), Err(ResolveError::NotFound(_))));
    assert!(matches!(resolve("other.org/app:1", "linux/amd64"), Err(ResolveError::NotFound(_))));
    match resolve("app:1", "linux/riscv64") {
        Err(ResolveError::NoPlatform { available, .. }) => assert_eq!(available, "linux/amd64, linux/arm64"),
        other => panic!("{other:?}"),
    }
    let by_digest = format!("app@{}", amd.digest);
    assert_eq!(resolve(&by_digest, "linux/amd64").unwrap().manifest_digest, amd.digest);
    assert!(matches!(resolve(&format!("b@{}", amd.digest), "linux/amd64"), Err(ResolveError::NotFound(_))));

    // Named anew: the old image loses the name.
    let new = put_image(&test, "app:1", "linux/amd64", b"new").unwrap();
    assert_eq!(resolve("app:1", "linux/amd64").unwrap().manifest_digest, new.digest);
    assert_eq!(test.store.list_images().unwrap().len(), 2);

    let blobs = resolve("app:1", "linux/amd64").unwrap().blobs;
    let target = MemoryStore::default();
    let layer = Descriptor::new(MediaType::LAYER, Digest::of(b"new"), 3);
    now(blobs.fetch(&layer, &target, &Silent)).unwrap();
    assert_eq!(target.size(&layer.digest).unwrap(), Some(3));
    let missing = Descriptor::new(MediaType::LAYER, Digest::of(b"missing"), 3);
    assert!(matches!(
        now(test.store.blobs().fetch(&missing, &target, &Silent)),
        Err(ResolveError::NotFound(_))
    ));

    assert!(test.store.remove_image(&"app:1".parse().unwrap()).unwrap());
    assert!(!test.store.remove_image(&"app:1".parse().unwrap()).unwrap());
    assert!(matches!(resolve("app:1", "linux/amd64"), Err(ResolveError::NotFound(_))));
}

/// What stands in the file that each of an image's blobs is, and of the list of names: another file has another number.
fn files_of(test: &TestStore, manifest: &Descriptor) -> Vec<u64> {
    let bytes = |digest: &Digest| fs::read(blob(test, digest)).unwrap();
    let document: image::Manifest = serde_json::from_slice(&bytes(&manifest.digest)).unwrap();
    let mut files = vec![blob(test, &manifest.digest), blob(test, &document.config.digest)];
    files.push(test.dir.path().join("images-v1"));
    files.iter().map(|path| fs::metadata(path).unwrap().ino()).collect()
}

fn blob(test: &TestStore, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    test.dir.path().join("blobs/sha256-v1").join(&hex[..2]).join(&hex)
}

/// Most builds change nothing, and nobody waits for the disk then.
#[test]
fn an_image_that_has_its_name_is_not_written_again() {
    let test = TestStore::new();
    let list = test.dir.path().join("images-v1");
    let is_on_disk = || fs::metadata(&list).unwrap().permissions().mode() & 0o222 == 0;
    let put = |name: &str| put_image(&test, name, "linux/amd64", b"layer").unwrap();
    let end = || test.store.session().unwrap().finish_durably().unwrap();
    let manifest = put("app");
    let before = (files_of(&test, &manifest), test.store.list_images().unwrap());
    assert!(!is_on_disk());
    // Also where another process was killed before it could wait.
    drop(put("app"));
    assert!(!is_on_disk());
    end();
    assert!(is_on_disk());
    assert_eq!(put("app"), manifest);
    end();
    assert_eq!((files_of(&test, &manifest), test.store.list_images().unwrap()), before);
    // A further name has no new blob, and is waited for all the same.
    put("other");
    assert!(!is_on_disk());
    end();
    assert!(is_on_disk());
    // Of what is damaged nothing stays.
    let path = blob(&test, &manifest.digest);
    let sound = fs::read(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, vec![b' '; sound.len()]).unwrap();
    put("app");
    assert_eq!(fs::read(&path).unwrap(), sound);
    fs::remove_file(&list).unwrap();
    put("app");
    assert!(list.exists());
    test.database().execute("DELETE FROM image_blobs", []).unwrap();
    put("app");
    let count = "SELECT count(*) FROM image_blobs";
    assert_eq!(test.database().query_row(count, [], |row| row.get::<_, i64>(0)).unwrap(), 3);
}

#[test]
fn an_image_without_its_blobs_is_refused() {
    let test = TestStore::new();
    let manifest = put_image(&test, "app", "linux/amd64", b"layer").unwrap();
    let layer = Digest::of(b"layer").hex();
    fs::remove_file(test.dir.path().join("blobs/sha256-v1").join(&layer[..2]).join(&layer)).unwrap();
    let name = "other".parse().unwrap();
    assert!(test.store.put_image(&name, &"linux/amd64".parse().unwrap(), &manifest).is_err());
    assert!(test.store.images_named(&name).unwrap().is_empty());
    let not_a_manifest = (test.store.blobs() as &dyn ContentStore).put(b"[]").unwrap();
    let descriptor = Descriptor::new(MediaType::MANIFEST, not_a_manifest, 2);
    assert!(test.store.put_image(&name, &Platform::host(), &descriptor).is_err());
}

#[test]
fn prune_keeps_what_images_and_packed_layers_need() {
    let test = TestStore::new();
    let store = test.store.blobs() as &dyn ContentStore;
    put_image(&test, "app", "linux/amd64", b"layer").unwrap();
    let stray = store.put(b"stray").unwrap();
    let snapshot = test.layer(&[], |_| {});
    let chain = Digest::of(b"chain");
    test.store.set_chain(&chain, snapshot.id()).unwrap();
    let packed = store.put(b"packed").unwrap();
    let layer = Layer {
        descriptor: Descriptor::new(Compression::Gzip.layer_media_type(), packed, 6),
        diff_id: Digest::of(b"tar"),
    };
    test.store.set_packed(snapshot.id(), "gzip:6", &layer).unwrap();
    let unnamed = test.layer(&[], |_| {});

    let pruned = test.store.prune(PruneOptions::default()).unwrap();
    assert_eq!((pruned.blobs, pruned.snapshots, pruned.images), (1, 1, 0));
    assert_eq!(store.size(&stray).unwrap(), None);
    assert!(test.store.snapshot(unnamed.id()).unwrap().is_none());
    assert_eq!(test.store.chain(&chain).unwrap(), Some(snapshot.id()));
    assert_eq!(test.store.packed(snapshot.id(), "gzip:6").unwrap(), Some(layer));
    assert_eq!(test.store.packed(snapshot.id(), "gzip:9").unwrap(), None);
    let image = &test.store.list_images().unwrap()[0];
    assert_eq!(test.store.load_image(image).unwrap().layers.len(), 1);

    // A packed layer whose blob is gone is none.
    let hex = packed.hex();
    fs::remove_file(test.dir.path().join("blobs/sha256-v1").join(&hex[..2]).join(&hex)).unwrap();
    assert_eq!(test.store.packed(snapshot.id(), "gzip:6").unwrap(), None);
    // A chain whose directory is gone too.
    fs::remove_dir_all(snapshot.dirs().next().unwrap()).unwrap();
    assert_eq!(test.store.chain(&chain).unwrap(), None);
}

/// All platforms of a name change at once, whoever else gives it meanwhile.
#[test]
fn a_name_never_means_two_builds() {
    let test = TestStore::new();
    let name: Reference = "app:1".parse().unwrap();
    let of = |who: &str, platforms: &[&str]| -> Vec<(Platform, Descriptor)> {
        let image = |platform: &&str| {
            let scratch = format!("scratch:{who}-{}", platform.replace('/', "-"));
            let image = put_image(&test, &scratch, platform, format!("{who} {platform}").as_bytes());
            (platform.parse().unwrap(), image.unwrap())
        };
        platforms.iter().map(image).collect()
    };
    let builds = [
        of("a", &["linux/amd64", "linux/arm64", "linux/s390x"]),
        of("b", &["linux/amd64", "linux/arm64"]),
        of("c", &["linux/riscv64"]),
    ];
    let meanings = builds.each_ref().map(|build| {
        test.store.name_images(&name, build, None).unwrap();
        test.store.meaning(&name).unwrap()
    });
    std::thread::scope(|scope| {
        let named: Vec<_> = builds
            .iter()
            .map(|build| {
                let (store, name) = (test.again(), &name);
                scope.spawn(move || (0..50).for_each(|_| store.name_images(name, build, None).unwrap()))
            })
            .collect();
        while named.iter().any(|thread| !thread.is_finished()) {
            assert!(meanings.contains(&test.store.meaning(&name).unwrap()));
        }
    });
    // Whoever looked it up before the last change changes nothing any more.
    test.store.name_images(&name, &builds[0], None).unwrap();
    let looked_up = test.store.images_named(&name).unwrap();
    test.store.name_images(&name, &builds[2], None).unwrap();
    let (platform, manifest) = &builds[1][0];
    let found = found(&test, manifest, None);
    assert!(!test.store.put_image_of(&name, platform, &found, Some(&meanings[0])).unwrap());
    assert_eq!(test.store.remove_images(&looked_up).unwrap(), 0);
    assert_eq!(test.store.meaning(&name).unwrap(), meanings[2]);
    assert!(test.store.put_image_of(&name, platform, &found, Some(&meanings[2])).unwrap());
    let named = test.store.images_named(&name).unwrap();
    assert_eq!(named.iter().map(|image| &image.manifest).collect::<Vec<_>>(), [manifest]);
}

/// The image of a manifest as a registry has it, found through an index.
fn found(test: &TestStore, manifest: &Descriptor, index: Option<&(Descriptor, Vec<u8>)>) -> ResolvedImage {
    let all = test.store.list_images().unwrap();
    let stored = all.iter().find(|image| image.manifest.digest == manifest.digest).unwrap();
    let index = index.map(|(descriptor, bytes)| {
        let listed: Index = serde_json::from_slice(bytes).unwrap();
        let manifests = listed.manifests.iter().map(|entry| entry.digest).collect();
        ResolvedIndex { descriptor: descriptor.clone(), bytes: bytes.as_slice().into(), manifests }
    });
    ResolvedImage { index, ..test.store.load_image(stored).unwrap() }
}

/// Names, platforms, manifests and indexes of what has a name.
fn under(test: &TestStore, name: &str) -> Vec<(String, Digest, Option<Digest>)> {
    let images = test.again().images_named(&name.parse().unwrap()).unwrap();
    let row = |image: StoredImage| {
        let index = image.index.map(|index| index.digest);
        (image.platform.to_string(), image.manifest.digest, index)
    };
    images.into_iter().map(row).collect()
}

/// A name keeps what the index lists that it means now, and its blob as long as it means it.
#[test]
fn a_name_means_one_index() {
    let test = TestStore::new();
    let [amd, arm, new] = [("a", "linux/amd64"), ("b", "linux/arm64"), ("c", "linux/amd64")]
        .map(|(name, platform)| put_image(&test, name, platform, name.as_bytes()).unwrap());
    let [first, second] = [[&amd, &arm], [&new, &arm]].map(|manifests| index_of(&test, &manifests));
    let put = |manifest: &Descriptor, platform: &str, index: Option<&(Descriptor, Vec<u8>)>| {
        let (name, platform) = ("app".parse().unwrap(), platform.parse().unwrap());
        assert!(test.store.put_image_of(&name, &platform, &found(&test, manifest, index), None).unwrap());
        under(&test, "app")
    };
    let row = |platform: &str, manifest: &Descriptor, index: Option<&(Descriptor, Vec<u8>)>| {
        (platform.to_owned(), manifest.digest, index.map(|(descriptor, _)| descriptor.digest))
    };
    put(&arm, "linux/arm64", Some(&first));
    let both = [row("linux/amd64", &amd, Some(&first)), row("linux/arm64", &arm, Some(&first))];
    assert_eq!(put(&amd, "linux/amd64", Some(&first)), both);
    // The other one is of the new index as well.
    let both = [row("linux/amd64", &new, Some(&second)), row("linux/arm64", &arm, Some(&second))];
    assert_eq!(put(&new, "linux/amd64", Some(&second)), both);
    let is_there =
        |index: &(Descriptor, Vec<u8>)| test.store.blobs().size(&index.0.digest).unwrap().is_some();
    assert!(is_there(&first) && is_there(&second));
    test.store.prune(PruneOptions::default()).unwrap();
    assert!(!is_there(&first) && is_there(&second), "what a name means stays, and nothing else");
    // Found by it.
    assert_eq!(under(&test, &format!("app@{}", second.0.digest)), both);
    assert_eq!(under(&test, &format!("b@{}", second.0.digest)), []);
    // It is not of the next one.
    let third = index_of(&test, &[&new, &amd]);
    assert_eq!(put(&new, "linux/amd64", Some(&third)), [row("linux/amd64", &new, Some(&third))]);
    // An image of one platform has none.
    assert_eq!(put(&amd, "linux/amd64", None), [row("linux/amd64", &amd, None)]);
    test.store.prune(PruneOptions::default()).unwrap();
    assert!(!is_there(&second));
}

/// Programs that do not know of indexes wrote the state directory, and write to it still.
#[test]
fn a_store_of_an_older_program_is_opened() {
    let test = TestStore::new();
    let [amd, arm] = ["linux/amd64", "linux/arm64"]
        .map(|platform| put_image(&test, "app", platform, platform.as_bytes()).unwrap());
    test.database().execute_batch("ALTER TABLE images DROP COLUMN of_index").unwrap();
    let plain = [("linux/amd64".to_owned(), amd.digest, None), ("linux/arm64".to_owned(), arm.digest, None)];
    assert_eq!(under(&test, "app"), plain);
    let index = index_of(&test, &[&amd, &arm]);
    let manifests =
        [("linux/amd64".parse().unwrap(), amd.clone()), ("linux/arm64".parse().unwrap(), arm.clone())];
    test.store.name_images(&"app".parse().unwrap(), &manifests, Some(&index.0)).unwrap();
    assert!(under(&test, "app").iter().all(|(.., of)| *of == Some(index.0.digest)));
    // As it puts an image of one platform in the place of another.
    test.database()
        .execute_batch(
            "CREATE TEMP TABLE row AS SELECT name, platform, manifest, config, size, created FROM images WHERE platform = 'linux/amd64';
             PRAGMA foreign_keys = on;
             DELETE FROM images WHERE platform = 'linux/amd64';
             INSERT INTO images (name, platform, manifest, config, size, created) SELECT * FROM row;",
        )
        .unwrap();
    let found: Vec<_> = under(&test, "app").into_iter().map(|(.., of)| of).collect();
    assert_eq!(found, [None, Some(index.0.digest)]);
}
