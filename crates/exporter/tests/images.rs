//! Exported images: read back by this program, by skopeo and by umoci.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use exporter::{
    Annotations, ArchiveExporter, ArchiveImage, ExportError, Exported, Exporter, Images, LayoutExporter,
    Output, Prepared, Product,
};
use hash::Digest;
use image::layer::{Entry, EntryKind};
use image::layout::{LayoutImage, OciLayout};
use image::{
    BlobReader, BlobWriter, Compression, ContentStore, Image, ImageConfig, LayerPacker, MediaTypes,
    MemoryStore, PackOptions, Platform,
};

fn file(path: &str, content: &str) -> (Entry, String) {
    let kind = EntryKind::File { size: content.len() as u64 };
    (Entry { kind, mode: 0o644, mtime: 1_000_000_000, ..Entry::whiteout(path) }, content.to_owned())
}

fn other(path: &str, kind: EntryKind) -> (Entry, String) {
    (Entry { kind, mode: 0o755, mtime: 1_000_000_000, ..Entry::whiteout(path) }, String::new())
}

fn image(store: &MemoryStore, compression: Compression, architecture: &str, text: &str) -> Image {
    let mut setuid = file("bin/su", "su");
    (setuid.0.mode, setuid.0.uid, setuid.0.gid) = (0o4755, 7, 8);
    let hardlink = EntryKind::Hardlink { target: b"bin/su".to_vec() };
    let symlink = EntryKind::Symlink { target: b"bin/su".to_vec() };
    let below = vec![
        other("bin", EntryKind::Directory),
        setuid,
        other("bin/twin", hardlink),
        file("gone", "x"),
        other("link", symlink),
    ];
    let above = vec![(Entry::whiteout("gone"), String::new()), file("text", text)];
    let layers: Vec<_> = [below, above]
        .iter()
        .map(|entries| {
            let options = PackOptions { compression, level: None, epoch: None };
            let mut packer = LayerPacker::new(store, options).unwrap();
            for (entry, content) in entries {
                packer.append(entry, &mut content.as_bytes()).unwrap();
            }
            packer.finish().unwrap()
        })
        .collect();
    let mut config =
        ImageConfig { os: "linux".into(), architecture: architecture.into(), ..ImageConfig::default() };
    config.created = Some("2001-09-09T01:46:40Z".into());
    config.config.cmd = Some(vec!["/bin/su".into()]);
    config.config.labels = Some([("who".to_owned(), "me".to_owned())].into());
    config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id).collect();
    Image { config, layers, platform: Platform::new("linux", architecture, None) }
}

fn product(store: &MemoryStore, images: Vec<Image>, names: &[&str]) -> Product {
    let names = names.iter().map(|name| name.parse().unwrap()).collect();
    Product::Images(Images {
        images,
        names,
        annotations: Annotations::default(),
        with_index: false,
        store: Arc::new(store.clone()),
    })
}

fn amd64(store: &MemoryStore, text: &str, names: &[&str]) -> Product {
    product(store, vec![image(store, Compression::Gzip, "amd64", text)], names)
}

fn export(exporter: &dyn Exporter, product: Product) -> Result<Exported, ExportError> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(exporter.export(product))
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn to_file(path: &Path) -> Output {
    Output::File(path.to_owned())
}

fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn index(layout: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap()
}

/// Unpacks an image with umoci and compares the tree.
fn check_tree(layout: &Path, tag: &str, text: &str) {
    let bundle = tempfile::tempdir().unwrap();
    let bundle = bundle.path().join("b");
    run("umoci", &["unpack", "--image", &format!("{}:{tag}", layout.display()), bundle.to_str().unwrap()]);
    let root = bundle.join("rootfs");
    assert_eq!(names_in(&root), ["bin", "link", "text"]);
    assert_eq!(fs::read_to_string(root.join("text")).unwrap(), text);
    assert_eq!(fs::read_link(root.join("link")).unwrap(), Path::new("bin/su"));
    let su = fs::metadata(root.join("bin/su")).unwrap();
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid(), su.mtime()), (0o4755, 7, 8, 1_000_000_000));
    assert_eq!(su.ino(), fs::metadata(root.join("bin/twin")).unwrap().ino());
}

#[test]
fn an_oci_archive_is_read_by_others() {
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("a.tar");
    for (compression, umoci) in
        [(Compression::Gzip, true), (Compression::None, true), (Compression::Zstd, false)]
    {
        let store = MemoryStore::default();
        let built = image(&store, compression, "amd64", "hello");
        let product = product(&store, vec![built.clone()], &["app:1.0", "r.io/team/tool:2"]);
        let exported = export(&ArchiveExporter::oci(to_file(&archive)), product).unwrap();

        let inspected = run("skopeo", &["inspect", &format!("oci-archive:{}:1.0", archive.display())]);
        let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
        assert_eq!(inspected["Digest"], exported.descriptor.unwrap().digest.to_string());
        assert_eq!(inspected["Labels"]["who"], "me");

        let copied = directory.path().join(format!("copied-{compression:?}"));
        let source = format!("oci-archive:{}:2", archive.display());
        run("skopeo", &["--insecure-policy", "copy", &source, &format!("oci:{}:again", copied.display())]);
        if umoci {
            check_tree(&copied, "again", "hello");
        }

        let unpacked = directory.path().join(format!("unpacked-{compression:?}"));
        fs::create_dir(&unpacked).unwrap();
        run("tar", &["-xf", archive.to_str().unwrap(), "-C", unpacked.to_str().unwrap()]);
        let layout = OciLayout::open(&unpacked).unwrap();
        for name in ["1.0", "app:1.0", "docker.io/library/app:1.0", "r.io/team/tool:2", "2"] {
            let found = layout.resolve(Some(&LayoutImage::Tag(name.into())), &built.platform).unwrap();
            assert_eq!((&found.config, &found.layers), (&built.config, &built.layers), "{name}");
            assert_eq!(Some(found.config_digest), exported.config_digest);
        }
        let entry = &index(&unpacked)["manifests"][0]["annotations"];
        assert_eq!(entry["io.containerd.image.name"], "docker.io/library/app:1.0");
        assert_eq!(entry["org.opencontainers.image.ref.name"], "1.0");
        assert_eq!(entry["org.opencontainers.image.created"], "2001-09-09T01:46:40Z");
    }
}

#[test]
fn a_docker_archive_is_read_by_others() {
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("a.tar");
    let store = MemoryStore::default();
    let exporter = ArchiveExporter::docker(to_file(&archive));
    let exported = export(&exporter, amd64(&store, "hello", &["app:1.0", "r.io/x:2"])).unwrap();
    assert_eq!(exported.descriptor.unwrap().media_type, image::MediaType::DOCKER_MANIFEST);
    let source = format!("docker-archive:{}", archive.display());
    let inspected: serde_json::Value =
        serde_json::from_str(&run("skopeo", &["inspect", &format!("{source}:app:1.0")])).unwrap();
    assert_eq!(inspected["Layers"].as_array().unwrap().len(), 2);
    let config = run("skopeo", &["inspect", "--raw", "--config", &format!("{source}:r.io/x:2")]);
    assert_eq!(Some(Digest::of(config.as_bytes())), exported.config_digest);
    let copied = directory.path().join("copied");
    run(
        "skopeo",
        &["--insecure-policy", "copy", &format!("{source}:app:1.0"), &format!("oci:{}:t", copied.display())],
    );
    check_tree(&copied, "t", "hello");

    let manifest = run("tar", &["-xOf", archive.to_str().unwrap(), "manifest.json"]);
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest[0]["RepoTags"], serde_json::json!(["app:1.0", "r.io/x:2"]));
    let listing = run("tar", &["-tf", archive.to_str().unwrap()]);
    for path in ["index.json", "oci-layout", manifest[0]["Config"].as_str().unwrap()] {
        assert!(listing.lines().any(|line| line == path), "{path}");
    }
}

#[test]
fn docker_archives_have_limits() {
    let store = MemoryStore::default();
    let exporter = ArchiveExporter::docker(Output::Stream(Arc::new(Mutex::new(Vec::new()))));
    let both = ["amd64", "arm64"].map(|one| image(&store, Compression::Gzip, one, "x")).to_vec();
    assert!(matches!(export(&exporter, product(&store, both, &[])), Err(ExportError::SeveralPlatforms(2))));
    let zstd = vec![image(&store, Compression::Zstd, "amd64", "x")];
    let error = export(&exporter, product(&store, zstd.clone(), &[])).unwrap_err().to_string();
    assert!(error.contains("zstd"), "{error}");
    assert!(export(&exporter.with_types(MediaTypes::Oci), product(&store, zstd, &[])).is_ok());
}

#[test]
fn equal_images_give_equal_archives() {
    let archive = |docker: bool| {
        let store = MemoryStore::default();
        let bytes: Arc<Mutex<Vec<u8>>> = Arc::default();
        let output = Output::Stream(bytes.clone());
        let exporter = if docker { ArchiveExporter::docker(output) } else { ArchiveExporter::oci(output) };
        export(&exporter, amd64(&store, "same", &["a:1"])).unwrap();
        std::mem::take(&mut *bytes.lock().unwrap())
    };
    assert!(archive(false) == archive(false) && archive(true) == archive(true));
    assert_ne!(Digest::of(&archive(false)), Digest::of(&archive(true)));
}

#[test]
fn several_platforms_are_an_index() {
    let directory = tempfile::tempdir().unwrap();
    let layout = directory.path().join("deep/er");
    let store = MemoryStore::default();
    let images = ["amd64", "arm64"].map(|one| image(&store, Compression::Gzip, one, one)).to_vec();
    let exported = export(&LayoutExporter::new(&layout), product(&store, images.clone(), &["m:1"])).unwrap();
    assert_eq!(exported.descriptor.unwrap().media_type, image::MediaType::INDEX);
    assert_eq!(exported.config_digest, None);
    let opened = OciLayout::open(&layout).unwrap();
    for built in &images {
        let found = opened.resolve(Some(&LayoutImage::Tag("1".into())), &built.platform).unwrap();
        assert_eq!(found.config, built.config);
    }
    let source = format!("oci:{}:1", layout.display());
    let raw = run("skopeo", &["inspect", "--override-arch=arm64", "--config", &source]);
    assert!(raw.contains(r#""architecture":"arm64""#) || raw.contains(r#""architecture": "arm64""#), "{raw}");
}

#[test]
fn a_layout_is_extended() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let store = MemoryStore::default();
    let exporter = LayoutExporter::new(path);
    export(&exporter, amd64(&store, "one", &["a:1"])).unwrap();
    // Something of somebody else's.
    let mut foreign = index(path);
    foreign["annotations"] = serde_json::json!({ "mine": "yes" });
    foreign["manifests"][0]["artifactType"] = serde_json::json!("x/y");
    fs::write(path.join("index.json"), foreign.to_string()).unwrap();

    export(&exporter, amd64(&store, "two", &["b:2"])).unwrap();
    export(&exporter, amd64(&store, "three", &[])).unwrap();
    let merged = index(path);
    assert_eq!(merged["annotations"]["mine"], "yes");
    assert_eq!(merged["manifests"][0], foreign["manifests"][0]);
    assert_eq!(OciLayout::open(path).unwrap().names().unwrap(), ["1", "2", "latest"]);
    for (tag, text) in [("1", "one"), ("2", "two"), ("latest", "three")] {
        check_tree(path, tag, text);
    }
    // The same name again replaces, twice the same changes nothing.
    export(&exporter, amd64(&store, "four", &["b:2"])).unwrap();
    export(&exporter, amd64(&store, "four", &["b:2"])).unwrap();
    assert_eq!(OciLayout::open(path).unwrap().names().unwrap(), ["1", "2", "latest"]);
    assert_eq!(index(path)["manifests"].as_array().unwrap().len(), 3);
    check_tree(path, "2", "four");
    run("skopeo", &["inspect", &format!("oci:{}:1", path.display())]);
    assert_eq!(names_in(path), ["blobs", "index.json", "oci-layout"]);
}

/// Whoever wrote the older one: a name and a tag are of the newest, for skopeo and umoci as for this program.
#[test]
fn the_newest_image_has_the_name() {
    let store = MemoryStore::default();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let skopeo = |tag: &str, text: &str| {
        let archive = path.join("of-skopeo.tar");
        export(&ArchiveExporter::oci(to_file(&archive)), amd64(&store, text, &[])).unwrap();
        let (from, to) =
            (format!("oci-archive:{}", archive.display()), format!("oci:{}:{tag}", path.display()));
        run("skopeo", &["--insecure-policy", "copy", "--quiet", &from, &to]);
        fs::remove_file(archive).unwrap();
    };
    let write = |text: &str, names: &[&str]| {
        export(&LayoutExporter::new(path), amd64(&store, text, names)).unwrap();
    };
    let text = |name: &str| {
        let asked = LayoutImage::Tag(name.to_owned());
        let found = OciLayout::open(path).unwrap().resolve(Some(&asked), &Platform::host()).unwrap();
        let known = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
        let is_it = |text: &&&str| found.layers == image(&store, Compression::Gzip, "amd64", text).layers;
        *known.iter().find(is_it).unwrap()
    };
    // With umoci, which refuses a tag that two have, and with skopeo, which takes the first.
    let is_latest = |expected: &str, entries: usize| {
        assert_eq!(text("latest"), expected);
        check_tree(path, "latest", expected);
        let digest =
            run("skopeo", &["inspect", "--format={{.Digest}}", &format!("oci:{}:latest", path.display())]);
        let named = OciLayout::open(path).unwrap().resolve(None, &Platform::host()).unwrap();
        assert_eq!(digest.trim(), named.manifest_digest.to_string());
        let index = index(path);
        assert_eq!(index["manifests"].as_array().unwrap().len(), entries, "{index:#}");
    };
    // Without a name, then with one: the tag is what both have.
    write("one", &[]);
    write("two", &["app"]);
    is_latest("two", 1);
    // Another spelling of it.
    write("three", &["docker.io/library/app:latest", "app:latest", "app"]);
    is_latest("three", 1);
    // Another image with the tag leaves the first its whole name; skopeo does the same.
    write("four", &["example.com/web"]);
    is_latest("four", 2);
    assert_eq!([text("app:latest"), text("example.com/web:latest")], ["three", "four"]);
    skopeo("latest", "five");
    is_latest("five", 3);
    assert_eq!([text("app:latest"), text("example.com/web:latest")], ["three", "four"]);
    write("six", &["app"]);
    is_latest("six", 2);
    assert_eq!([text("app:latest"), text("example.com/web:latest")], ["six", "four"]);
    // Whole names where the spec wants tags.
    skopeo("docker.io/library/app:latest", "seven");
    write("eight", &["app"]);
    is_latest("eight", 2);
    assert_eq!(text("app:latest"), "eight");
    // Of two names of one image the last has the tag; without a name it is the tag's.
    write("nine", &["app", "example.com/web"]);
    is_latest("nine", 2);
    assert_eq!([text("app:latest"), text("example.com/web:latest")], ["nine", "nine"]);
    write("ten", &[]);
    is_latest("ten", 3);
    assert_eq!([text("app:latest"), text("example.com/web:latest")], ["nine", "nine"]);
}

#[test]
fn a_name_that_is_given_twice_stands_in_an_archive_once() {
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("a.tar");
    let store = MemoryStore::default();
    let names = ["app", "docker.io/library/app:latest", "app:latest", "app:2", "web"];
    for docker in [false, true] {
        let output = to_file(&archive);
        let exporter = if docker { ArchiveExporter::docker(output) } else { ArchiveExporter::oci(output) };
        export(&exporter, amd64(&store, "x", &names)).unwrap();
        let read = |name: &str| -> serde_json::Value {
            serde_json::from_str(&run("tar", &["-xOf", archive.to_str().unwrap(), name])).unwrap()
        };
        let index = read("index.json");
        let names: Vec<&str> = index["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["annotations"]["io.containerd.image.name"].as_str().unwrap())
            .collect();
        assert_eq!(
            names,
            ["docker.io/library/app:latest", "docker.io/library/app:2", "docker.io/library/web:latest"]
        );
        if docker {
            let tags = serde_json::json!(["app:latest", "app:2", "web:latest"]);
            assert_eq!(read("manifest.json")[0]["RepoTags"], tags);
        }
    }
}

/// `docker load` knows one platform of an index: this machine's, however the index spells it, else one that runs here.
#[test]
fn a_docker_archive_names_the_image_of_this_machine() {
    let (dir, store) = (tempfile::tempdir().unwrap(), MemoryStore::default());
    let host = Platform::host();
    let spelt = match host.architecture.as_str() {
        "amd64" => Platform { architecture: "x86_64".into(), variant: Some("v1".into()), ..host.clone() },
        "arm64" => Platform { architecture: "aarch64".into(), variant: Some("v8".into()), ..host.clone() },
        _ => Platform { os: "Linux".into(), ..host.clone() },
    };
    let packed = |platform: &Platform| {
        let architecture = platform.architecture.as_str();
        let image = image(&store, Compression::Gzip, architecture, architecture);
        let mut packed = image::manifest_of(&image, MediaTypes::Oci, &BTreeMap::new()).unwrap();
        packed.descriptor.platform = Some(platform.clone());
        packed
    };
    let foreign = packed(&Platform::new("linux", "s390x", None));
    let other = packed(&Platform::new("linux", "riscv64", None));
    let own = packed(&spelt);
    let with_unknown = {
        let mut unknown = packed(&Platform::new("unknown", "unknown", None));
        unknown.descriptor.platform = None;
        vec![unknown, foreign.clone(), own.clone()]
    };
    for (manifests, wanted) in [
        (vec![foreign.clone(), own.clone()], &own),
        (with_unknown, &own),
        (vec![foreign.clone(), other.clone()], &foreign),
    ] {
        let archive = dir.path().join("archive");
        let exporter = ArchiveExporter::docker(to_file(&archive));
        let prepared = Prepared::of_manifests(manifests, None).unwrap();
        let images = vec![ArchiveImage { image: prepared, names: vec!["app:1".parse().unwrap()] }];
        let export = exporter.export_several(images, Arc::new(store.clone()));
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(export).unwrap();
        let listed = run("tar", &["-xOf", archive.to_str().unwrap(), "manifest.json"]);
        assert!(listed.contains(&wanted.config_descriptor.digest.hex()), "{listed}");
    }
}

#[test]
fn a_damaged_blob_of_a_layout_is_written_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = MemoryStore::default();
    let exporter = LayoutExporter::new(directory.path());
    export(&exporter, amd64(&store, "one", &["a:1"])).unwrap();
    let blobs = directory.path().join("blobs/sha256");
    for name in names_in(&blobs) {
        let mut bytes = fs::read(blobs.join(&name)).unwrap();
        bytes[3] ^= 1;
        fs::write(blobs.join(&name), bytes).unwrap();
    }
    export(&exporter, amd64(&store, "one", &["a:1"])).unwrap();
    check_tree(directory.path(), "1", "one");
}

#[test]
fn what_is_no_layout_is_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let store = MemoryStore::default();
    fs::write(directory.path().join("precious"), "x").unwrap();
    let error =
        export(&LayoutExporter::new(directory.path()), amd64(&store, "x", &[])).unwrap_err().to_string();
    assert!(error.contains("not an OCI layout"), "{error}");
    let file = directory.path().join("precious");
    let error = export(&LayoutExporter::new(&file), amd64(&store, "x", &[])).unwrap_err().to_string();
    assert!(error.contains("tar=false"), "{error}");
    assert_eq!(names_in(directory.path()), ["precious"]);
}

#[test]
fn destinations_fail_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let store = MemoryStore::default();
    let error = |path: &Path| {
        export(&ArchiveExporter::oci(to_file(path)), amd64(&store, "x", &[])).unwrap_err().to_string()
    };
    let missing = directory.path().join("no/such/a.tar");
    assert!(error(&missing).contains("no/such does not exist"), "{}", error(&missing));
    assert!(error(directory.path()).contains("is a directory"));
    let plain = directory.path().join("plain");
    fs::write(&plain, "x").unwrap();
    assert!(error(&plain.join("a.tar")).contains("Not a directory"), "{}", error(&plain.join("a.tar")));
    assert!(
        error(Path::new("/proc/a.tar")).starts_with("write /proc/a.tar: "),
        "{}",
        error(Path::new("/proc/a.tar"))
    );
    assert!(error(Path::new("/dev/full")).starts_with("write /dev/full: No space left"));
    assert_eq!(names_in(directory.path()), ["plain"]);
}

#[test]
fn a_link_stays_and_its_target_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let store = MemoryStore::default();
    let target = directory.path().join("target.tar");
    fs::write(&target, "old").unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o640)).unwrap();
    let link = directory.path().join("link.tar");
    std::os::unix::fs::symlink("target.tar", &link).unwrap();
    export(&ArchiveExporter::oci(to_file(&link)), amd64(&store, "x", &[])).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::metadata(&target).unwrap().len() > 1000);
    // A new file's mode follows the umask, not the secretive one of temporary files.
    let fresh = directory.path().join("fresh.tar");
    export(&ArchiveExporter::oci(to_file(&fresh)), amd64(&store, "x", &[])).unwrap();
    assert_eq!(fs::metadata(&fresh).unwrap().mode() & 0o600, 0o600);
    let plain = directory.path().join("plain");
    fs::write(&plain, "").unwrap();
    assert_eq!(fs::metadata(&fresh).unwrap().mode(), fs::metadata(&plain).unwrap().mode());
}

/// A store whose layers are damaged, missing, or never end.
struct Bad(MemoryStore, Trouble);

#[derive(Clone, Copy)]
enum Trouble {
    Missing,
    Damaged,
    Endless,
}

impl ContentStore for Bad {
    fn open(&self, digest: &Digest) -> io::Result<Option<BlobReader>> {
        Ok(match self.1 {
            Trouble::Missing => None,
            Trouble::Damaged => {
                let good = self.0.open(digest)?.unwrap();
                let bad = Failing;
                Some(Box::new(good.take(10).chain(bad)))
            }
            Trouble::Endless => Some(Box::new(Endless)),
        })
    }

    fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        self.0.size(digest)
    }

    fn create(&self) -> io::Result<Box<dyn BlobWriter>> {
        self.0.create()
    }
}

struct Failing;
impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::new(io::ErrorKind::InvalidData, "not what it was"))
    }
}

struct Endless;
impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        std::thread::sleep(Duration::from_millis(1));
        buffer[0] = 0;
        Ok(1)
    }
}

fn bad(trouble: Trouble) -> Product {
    let store = MemoryStore::default();
    let mut built = image(&store, Compression::Gzip, "amd64", "x");
    if matches!(trouble, Trouble::Endless) {
        built.layers[0].descriptor.size = 1 << 40;
    }
    let store = Arc::new(Bad(store, trouble));
    Product::Images(Images {
        images: vec![built],
        names: vec![],
        annotations: Annotations::default(),
        with_index: false,
        store,
    })
}

#[test]
fn a_failed_export_leaves_what_was_there() {
    for trouble in [Trouble::Missing, Trouble::Damaged] {
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("a.tar");
        fs::write(&archive, "old").unwrap();
        let error = export(&ArchiveExporter::oci(to_file(&archive)), bad(trouble)).unwrap_err();
        match trouble {
            Trouble::Missing => assert!(matches!(error, ExportError::MissingBlob(_)), "{error}"),
            _ => assert!(matches!(error, ExportError::Blob { .. }), "{error}"),
        }
        assert_eq!(fs::read_to_string(&archive).unwrap(), "old");
        assert_eq!(names_in(directory.path()), ["a.tar"]);

        let layout = directory.path().join("layout");
        assert!(export(&LayoutExporter::new(&layout), bad(trouble)).is_err());
        assert!(!layout.join("index.json").exists());
        assert_eq!(names_in(&layout.join("blobs/sha256")), Vec::<String>::new());
    }
}

#[test]
fn a_dropped_export_ends_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("a.tar");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    runtime.block_on(async {
        let exporter = ArchiveExporter::oci(to_file(&archive));
        let export = exporter.export(bad(Trouble::Endless));
        assert!(tokio::time::timeout(Duration::from_millis(100), export).await.is_err());
    });
    // Waits for the blocking thread, which would never end by itself.
    runtime.shutdown_timeout(Duration::from_secs(120));
    assert_eq!(names_in(directory.path()), Vec::<String>::new());
}

#[test]
fn the_wrong_product_is_refused() {
    let store = MemoryStore::default();
    let exporter = exporter::TarExporter::new(Output::Stream(Arc::new(Mutex::new(io::sink()))));
    let error = export(&exporter, amd64(&store, "x", &[])).unwrap_err();
    assert!(matches!(error, ExportError::WrongProduct(exporter::Needs::Trees)));
}

#[test]
fn a_stream_that_breaks_is_an_error() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let store = MemoryStore::default();
    let output = Output::Stream(Arc::new(Mutex::new(Closed)));
    assert!(export(&ArchiveExporter::oci(output), amd64(&store, "x", &[])).is_err());
}
