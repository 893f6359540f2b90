//! OCI layouts: made here, and made by skopeo.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::process::Command;
use std::task::{Context, Poll, Waker};

use hash::Digest;
use image::layer::{Entry, EntryKind};
use image::layout::{IMAGE_NAME, LayoutAddress, LayoutImage, OciLayout, REF_NAME};
use image::{
    Compression, ContentStore, Descriptor, Image, ImageConfig, Index, LayerPacker, MediaType, MediaTypes,
    MemoryStore, PackOptions, Platform, ResolveError, TransferProgress, manifest_of,
};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
}

struct Silent;
impl TransferProgress for Silent {
    fn transferred(&self, _: &Digest, _: u64, _: u64) {}
}

fn put(directory: &Path, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
    fs::write(directory.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
    digest
}

/// An image of one file, its blobs in `directory`; returns what an index says about it.
fn add_image(directory: &Path, platform: &str, content: &str) -> Descriptor {
    let store = MemoryStore::default();
    let options = PackOptions { compression: Compression::Gzip, level: None, epoch: Some(0) };
    let mut packer = LayerPacker::new(&store, options).unwrap();
    let kind = EntryKind::File { size: content.len() as u64 };
    packer
        .append(&Entry { kind, mode: 0o644, ..Entry::whiteout(&b"f"[..]) }, &mut content.as_bytes())
        .unwrap();
    let layer = packer.finish().unwrap();
    let blob = (&store as &dyn ContentStore).read(&layer.descriptor.digest, 1 << 20).unwrap().unwrap();
    put(directory, &blob);
    let platform: Platform = platform.parse().unwrap();
    let mut config = ImageConfig {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        ..ImageConfig::default()
    };
    config.rootfs.diff_ids = vec![layer.diff_id];
    let image = Image { config, layers: vec![layer], platform };
    let packed = manifest_of(&image, MediaTypes::Oci, &BTreeMap::new()).unwrap();
    put(directory, &packed.config);
    put(directory, &packed.manifest);
    packed.descriptor
}

fn add_index(directory: &Path, manifests: Vec<Descriptor>) -> Descriptor {
    let bytes = serde_json::to_vec(&index(manifests)).unwrap();
    Descriptor::new(MediaType::INDEX, put(directory, &bytes), bytes.len() as u64)
}

fn index(manifests: Vec<Descriptor>) -> Index {
    Index {
        schema_version: 2,
        media_type: Some(MediaType::INDEX.to_owned()),
        manifests,
        annotations: BTreeMap::new(),
    }
}

fn name(mut entry: Descriptor, annotations: &[(&str, &str)]) -> Descriptor {
    entry.annotations = annotations.iter().map(|(key, text)| (key.to_string(), text.to_string())).collect();
    entry
}

fn layout(directory: &Path, manifests: Vec<Descriptor>) -> OciLayout {
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(directory.join("index.json"), serde_json::to_vec(&index(manifests)).unwrap()).unwrap();
    OciLayout::open(directory).unwrap()
}

fn find(layout: &OciLayout, image: Option<&str>, platform: &str) -> Result<Digest, String> {
    let image = image.map(|text| match text.strip_prefix('@') {
        Some(digest) => LayoutImage::Digest(digest.parse().unwrap()),
        None => LayoutImage::Tag(text.to_owned()),
    });
    let found = layout.resolve(image.as_ref(), &platform.parse().unwrap());
    found.map(|image| image.manifest_digest).map_err(|error| error.to_string())
}

#[test]
fn addresses_are_split() {
    let split =
        |text: &str| text.parse::<LayoutAddress>().map(|one| (one.path.display().to_string(), one.image));
    let tag = |tag: &str| Some(LayoutImage::Tag(tag.to_owned()));
    assert_eq!(split("a/b"), Ok(("a/b".into(), None)));
    assert_eq!(split("/a:1/b"), Ok(("/a:1/b".into(), None)));
    assert_eq!(split("/a/b:1.2"), Ok(("/a/b".into(), tag("1.2"))));
    let digest = Digest::of(b"x");
    assert_eq!(split(&format!("b@{digest}")), Ok(("b".into(), Some(LayoutImage::Digest(digest)))));
    assert_eq!(split(&format!("b:tag@{digest}")), Ok(("b".into(), Some(LayoutImage::Digest(digest)))));
    assert!(split("b@sha256:12").is_err());
}

#[test]
fn images_are_found_by_name_tag_digest_and_platform() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let [one, two, amd, arm] =
        [("linux/amd64", "1"), ("linux/amd64", "2"), ("linux/amd64", "3"), ("linux/arm64", "4")]
            .map(|(platform, content)| add_image(path, platform, content));
    let list = add_index(path, vec![amd.clone(), arm.clone()]);
    let hidden = add_image(path, "linux/amd64", "not in the index");
    let layout = layout(
        path,
        vec![
            name(one.clone(), &[(REF_NAME, "1.0"), (IMAGE_NAME, "docker.io/library/app:1.0")]),
            name(two.clone(), &[(REF_NAME, "docker.io/library/tool:2.0")]),
            name(list.clone(), &[(REF_NAME, "multi")]),
        ],
    );
    assert_eq!(find(&layout, Some("1.0"), "linux/amd64"), Ok(one.digest));
    assert_eq!(find(&layout, Some("docker.io/library/app:1.0"), "linux/amd64"), Ok(one.digest));
    assert_eq!(find(&layout, Some("app:1.0"), "linux/amd64"), Ok(one.digest));
    assert_eq!(find(&layout, Some("2.0"), "linux/amd64"), Ok(two.digest));
    assert_eq!(find(&layout, Some("tool:2.0"), "linux/amd64"), Ok(two.digest));
    assert_eq!(find(&layout, Some("multi"), "linux/arm64"), Ok(arm.digest));
    assert_eq!(find(&layout, Some("multi"), "linux/amd64"), Ok(amd.digest));
    assert_eq!(find(&layout, Some(&format!("@{}", arm.digest)), "linux/amd64"), Ok(arm.digest));
    assert_eq!(find(&layout, Some(&format!("@{}", list.digest)), "linux/arm64"), Ok(arm.digest));
    assert_eq!(find(&layout, Some(&format!("@{}", hidden.digest)), "linux/amd64"), Ok(hidden.digest));
    let missing = find(&layout, Some("3.0"), "linux/amd64").unwrap_err();
    assert!(missing.contains("(the layout has 1.0, docker.io/library/tool:2.0, multi)"), "{missing}");
    let platform = find(&layout, Some("multi"), "linux/s390x").unwrap_err();
    assert!(platform.contains("linux/amd64, linux/arm64"), "{platform}");
    assert!(find(&layout, None, "linux/amd64").unwrap_err().contains("the layout has 1.0"));
    assert!(
        find(&layout, Some(&format!("@{}", Digest::of(b"no"))), "linux/amd64")
            .unwrap_err()
            .contains("not found")
    );
}

#[test]
fn without_a_tag_it_is_the_only_one_or_the_latest() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let [one, two] = ["1", "2"].map(|content| add_image(path, "linux/amd64", content));
    let arm = add_image(path, "linux/arm64", "3");
    let tagged = |tag| name(one.clone(), &[(REF_NAME, tag)]);
    assert_eq!(find(&layout(path, vec![one.clone()]), None, "linux/amd64"), Ok(one.digest));
    // One image with two names is one image; a single one comes whatever its platform is.
    assert_eq!(find(&layout(path, vec![tagged("a"), tagged("b")]), None, "linux/arm64"), Ok(one.digest));
    let latest = name(two.clone(), &[(REF_NAME, "latest")]);
    assert_eq!(find(&layout(path, vec![tagged("a"), latest]), None, "linux/amd64"), Ok(two.digest));
    let platforms = layout(path, vec![one.clone(), arm.clone()]);
    assert_eq!(find(&platforms, None, "linux/arm64"), Ok(arm.digest));
    assert!(find(&layout(path, vec![]), None, "linux/amd64").unwrap_err().contains("has nothing"));
}

/// Of two images of one name nobody knows which is meant, and the older must not be taken for the newer.
#[test]
fn two_images_of_one_name_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let [mut one, mut two] = ["1", "2"].map(|content| add_image(path, "linux/amd64", content));
    let mut arm = add_image(path, "linux/arm64", "3");
    let platforms = ["linux/amd64", "linux/amd64", "linux/arm64/v8"];
    for (entry, platform) in [&mut one, &mut two, &mut arm].into_iter().zip(platforms) {
        entry.platform = Some(platform.parse().unwrap());
    }
    const APP: &str = "docker.io/library/app:latest";
    let tag = (REF_NAME, "latest");
    let dated = ("org.opencontainers.image.created", "2026-01-02T03:04:05Z");
    let refused = |entries: Vec<Descriptor>, asked: Option<&str>| {
        for platform in ["linux/amd64", "linux/arm64"] {
            let error = find(&layout(path, entries.clone()), asked, platform).unwrap_err();
            assert!(error.contains("several images have this name") && error.contains("@digest"), "{error}");
            assert!(entries.iter().all(|entry| error.contains(&entry.digest.to_string())), "{error}");
        }
    };
    for asked in [Some("latest"), None] {
        refused(vec![name(one.clone(), &[tag]), name(two.clone(), &[tag])], asked);
        // One of them with its whole name, as it comes about where different programs write.
        refused(vec![name(one.clone(), &[tag]), name(two.clone(), &[tag, (IMAGE_NAME, APP)])], asked);
        refused(vec![name(one.clone(), &[tag, (IMAGE_NAME, APP)]), name(arm.clone(), &[tag])], asked);
    }
    let dates = vec![name(one.clone(), &[tag, dated]), name(two.clone(), &[tag, (IMAGE_NAME, APP), dated])];
    let error = find(&layout(path, dates), Some("latest"), "linux/amd64").unwrap_err();
    assert!(error.contains(&format!("{} ({APP}, 2026-01-02T03:04:05Z)", two.digest)), "{error}");
    // However a whole name is spelt, and in whichever annotation.
    let spelt =
        vec![name(one.clone(), &[(REF_NAME, "app:latest")]), name(two.clone(), &[tag, (IMAGE_NAME, APP)])];
    for asked in ["app:latest", APP, "docker.io/app:latest"] {
        refused(spelt.clone(), Some(asked));
    }
    // What an entry of its own tag says is no whole name.
    let tags = vec![name(one.clone(), &[tag]), name(two.clone(), &[(REF_NAME, "1")])];
    assert_eq!(find(&layout(path, tags.clone()), Some("latest"), "linux/amd64"), Ok(one.digest));
    assert!(find(&layout(path, tags), Some("latest:latest"), "linux/amd64").is_err());
    // One image for two platforms is one, and so is one that stands there twice.
    let platforms = layout(path, vec![name(one.clone(), &[tag]), name(arm.clone(), &[tag])]);
    assert_eq!(find(&platforms, Some("latest"), "linux/arm64"), Ok(arm.digest));
    assert_eq!(find(&platforms, Some("latest"), "linux/amd64"), Ok(one.digest));
    let twice = layout(path, vec![name(two.clone(), &[tag]), name(two.clone(), &[tag, (IMAGE_NAME, APP)])]);
    assert_eq!(find(&twice, Some("latest"), "linux/amd64"), Ok(two.digest));
}

#[test]
fn blobs_are_verified() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let one = add_image(path, "linux/amd64", "1");
    let layout = layout(path, vec![one.clone()]);
    let image = layout.resolve(None, &Platform::host()).unwrap();
    let store = MemoryStore::default();
    let layer = &image.layers[0].descriptor;
    block_on(image.blobs.fetch(layer, &store, &Silent)).unwrap();
    assert_eq!(store.size(&layer.digest).unwrap(), Some(layer.size));

    let blob = |digest: &Digest| path.join("blobs/sha256").join(digest.hex());
    let original = fs::read(blob(&layer.digest)).unwrap();
    let mut damaged = original.clone();
    damaged[20] ^= 1;
    fs::write(blob(&layer.digest), damaged).unwrap();
    // What is there already is not fetched again.
    block_on(image.blobs.fetch(layer, &store, &Silent)).unwrap();
    let empty = MemoryStore::default();
    let fetch = |descriptor: &Descriptor| block_on(image.blobs.fetch(descriptor, &empty, &Silent));
    assert!(matches!(fetch(layer), Err(ResolveError::Invalid { .. })));
    fs::write(blob(&layer.digest), &original[1..]).unwrap();
    assert!(matches!(fetch(layer), Err(ResolveError::Invalid { .. })));
    fs::remove_file(blob(&layer.digest)).unwrap();
    assert!(matches!(fetch(layer), Err(ResolveError::NotFound(_))));
    assert_eq!(empty.size(&layer.digest).unwrap(), None);

    fs::write(blob(&one.digest), "{}").unwrap();
    assert!(find(&layout, None, "linux/amd64").unwrap_err().contains("damaged"));
}

#[test]
fn what_is_no_layout_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let open = |path: &Path| OciLayout::open(path).unwrap_err().to_string();
    assert!(open(&directory.path().join("none")).contains("not found"));
    assert!(open(directory.path()).contains("no file `oci-layout`"));
    fs::write(directory.path().join("oci-layout"), r#"{"imageLayoutVersion":"2.0"}"#).unwrap();
    assert!(open(directory.path()).contains("2.0"));
    let archive = directory.path().join("a.tar");
    fs::write(&archive, "").unwrap();
    assert!(open(&archive).contains("tar -xf"));
    // A cycle of indexes ends.
    let empty = add_index(directory.path(), vec![]);
    let mut nested = empty;
    for _ in 0..8 {
        nested = add_index(directory.path(), vec![nested]);
    }
    let layout = layout(directory.path(), vec![nested]);
    assert!(find(&layout, None, "linux/amd64").unwrap_err().contains("nested"));
}

#[test]
fn layouts_of_skopeo_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let ours = directory.path().join("ours");
    let one = add_image(&ours, "linux/amd64", "1");
    layout(&ours, vec![name(one, &[(REF_NAME, "v1")])]);
    let theirs = directory.path().join("theirs");
    let copy = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--dest-compress-format=zstd", "--dest-compress"])
        .arg(format!("oci:{}:v1", ours.display()))
        .arg(format!("oci:{}:second", theirs.display()))
        .output()
        .unwrap();
    assert!(copy.status.success(), "{}", String::from_utf8_lossy(&copy.stderr));
    let layout = OciLayout::open(&theirs).unwrap();
    let image = layout.resolve(Some(&LayoutImage::Tag("second".into())), &Platform::host()).unwrap();
    let store = MemoryStore::default();
    for layer in &image.layers {
        block_on(image.blobs.fetch(&layer.descriptor, &store, &Silent)).unwrap();
        let blob = store.open(&layer.descriptor.digest).unwrap().unwrap();
        let mut tar = hash::DigestReader::new(image::decompress(blob).unwrap());
        std::io::copy(&mut tar, &mut std::io::sink()).unwrap();
        assert_eq!(tar.finish().1, layer.diff_id);
    }
    assert_eq!(layout.names().unwrap(), ["second"]);
}
