//! Archives of images, good and hostile.

use std::io::{Read, Write};

use hash::Digest;
use image::layer::{Entry, EntryKind, LayerWriter};
use image::{ContentStore, MemoryStore, read_archive};
use serde_json::{Value, json};

/// A tar of files and links.
#[derive(Default)]
struct Tar(Vec<(String, Item)>);

enum Item {
    File(Vec<u8>),
    Symlink(String),
}

impl Tar {
    fn file(mut self, path: &str, bytes: impl Into<Vec<u8>>) -> Tar {
        self.0.retain(|(other, _)| other != path);
        self.0.push((path.to_owned(), Item::File(bytes.into())));
        self
    }

    fn link(mut self, path: &str, target: &str) -> Tar {
        self.0.push((path.to_owned(), Item::Symlink(target.to_owned())));
        self
    }

    fn without(mut self, path: &str) -> Tar {
        self.0.retain(|(other, _)| other != path);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut writer = LayerWriter::archive(Vec::new());
        for (path, item) in &self.0 {
            let entry = |kind| Entry { kind, mode: 0o644, ..Entry::whiteout(path.as_str()) };
            match item {
                Item::File(bytes) => {
                    let kind = EntryKind::File { size: bytes.len() as u64 };
                    writer.append(&entry(kind), &mut &bytes[..]).unwrap();
                }
                Item::Symlink(target) => {
                    let kind = EntryKind::Symlink { target: target.clone().into_bytes() };
                    writer.append(&entry(kind), &mut std::io::empty()).unwrap();
                }
            }
        }
        writer.finish().unwrap()
    }

    /// Reads it: names and ids.
    fn read(&self) -> Result<Vec<(Vec<String>, Digest)>, String> {
        self.read_to(self.bytes().len())
    }

    /// Reads what there is before `end`.
    fn read_to(&self, end: usize) -> Result<Vec<(Vec<String>, Digest)>, String> {
        let store = MemoryStore::default();
        let images = read_archive(&self.bytes()[..end], &store).map_err(|error| error.to_string())?;
        for image in &images {
            assert!(store.size(&image.manifest.digest).unwrap() == Some(image.manifest.size));
        }
        let named = |image: image::ArchivedImage| {
            (image.names.iter().map(|name| name.familiar()).collect::<Vec<_>>(), image.id)
        };
        Ok(images.into_iter().map(named).collect())
    }
}

fn layer(text: &str) -> Vec<u8> {
    let mut writer = LayerWriter::new(Vec::new());
    let kind = EntryKind::File { size: text.len() as u64 };
    writer.append(&Entry { kind, mode: 0o644, ..Entry::whiteout("f") }, &mut text.as_bytes()).unwrap();
    writer.finish().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = image::Compressor::new(Vec::new(), image::Compression::Gzip, None).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn config(layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let value = json!({
        "architecture": "amd64", "os": "linux", "config": {}, "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    value.to_string().into_bytes()
}

/// What Docker before version 25 writes: a folder a layer, a link where two images share one.
fn docker() -> Tar {
    let layers = [layer("one"), layer("two")];
    let manifest = json!([{ "Config": "c.json", "RepoTags": ["app:1", "app:2"], "Layers": ["a/layer.tar", "b/layer.tar"] }]);
    Tar::default()
        .file("c.json", config(&layers))
        .file("a/layer.tar", layers[0].clone())
        .file("store/b.tar", layers[1].clone())
        .link("b/layer.tar", "../store/b.tar")
        .file("manifest.json", manifest.to_string())
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len() })
}

fn blob(tar: Tar, bytes: &[u8]) -> Tar {
    tar.file(&format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes)
}

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A layout with one image; `change` may spoil the manifest.
fn layout(change: impl FnOnce(&mut Value)) -> Tar {
    let plain = layer("one");
    let (packed, config) = (gzip(&plain), config(std::slice::from_ref(&plain)));
    let mut manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, &config), "layers": [descriptor(LAYER, &packed)],
    });
    change(&mut manifest);
    let manifest = manifest.to_string().into_bytes();
    let mut entry = descriptor(MANIFEST, &manifest);
    entry["annotations"] = json!({ "io.containerd.image.name": "docker.io/library/app:1" });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    let tar = Tar::default().file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    let tar = blob(blob(blob(tar, &packed), &config), &manifest);
    tar.file("index.json", index.to_string())
}

#[test]
fn good_ones() {
    let id = |layers: &[Vec<u8>]| Digest::of(&config(layers));
    let two = id(&[layer("one"), layer("two")]);
    assert_eq!(docker().read().unwrap(), [(vec!["app:1".to_owned(), "app:2".to_owned()], two)]);
    let one = id(&[layer("one")]);
    assert_eq!(layout(|_| ()).read().unwrap(), [(vec!["app:1".to_owned()], one)]);
    // Both in one file: the names of both count, the image is one.
    let path = format!("blobs/sha256/{}", one.hex());
    let packed = gzip(&layer("one"));
    let layers = format!("blobs/sha256/{}", Digest::of(&packed).hex());
    let manifest = json!([{ "Config": path, "RepoTags": ["other:2"], "Layers": [layers] }]);
    let both = layout(|_| ()).file("manifest.json", manifest.to_string());
    assert_eq!(both.read().unwrap(), [(vec!["app:1".to_owned(), "other:2".to_owned()], one)]);
    // Layers in a Docker archive may be compressed, each in its own way; so may the archive.
    let zipped = docker().without("a/layer.tar").file("a/layer.tar", gzip(&layer("one")));
    assert_eq!(zipped.read().unwrap()[0].1, two);
    let images = read_archive(&gzip(&docker().bytes())[..], &MemoryStore::default()).unwrap();
    assert_eq!(images[0].id, two);
    // Attestations are no images; of an index not every platform need be there.
    let attested = layout(|_| ());
    let index: Value = serde_json::from_slice(match &attested.0.last().unwrap().1 {
        Item::File(bytes) => bytes,
        Item::Symlink(_) => unreachable!("the index is a file"),
    })
    .unwrap();
    let mut image = index["manifests"][0].clone();
    image["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    let mut other = descriptor(MANIFEST, b"elsewhere");
    other["platform"] = json!({ "os": "linux", "architecture": "arm64" });
    let mut attestation = descriptor(MANIFEST, b"attestation");
    attestation["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
    let nested = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [image, other, attestation] });
    let nested = nested.to_string().into_bytes();
    let top = json!({ "schemaVersion": 2, "manifests": [descriptor(INDEX, &nested)] });
    let nested = blob(attested, &nested).file("index.json", top.to_string());
    assert_eq!(nested.read().unwrap(), [(vec![], one)]);
}

#[test]
fn hostile_ones() {
    let manifest = |value: Value| docker().file("manifest.json", value.to_string());
    let entry =
        |config: &str, layers: &[&str]| json!([{ "Config": config, "RepoTags": null, "Layers": layers }]);
    let huge = vec![b' '; 9 << 20];
    let endless = (0..20).fold(docker().without("b/layer.tar"), |tar, n| {
        tar.link(&format!("l{n}"), &format!("l{}", (n + 1) % 20))
    });
    let a_file = |tar: Tar, layer_path: &str| {
        tar.file("manifest.json", entry("c.json", &["a/layer.tar", layer_path]).to_string())
    };
    let cyclic = {
        let index =
            json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] }).to_string().into_bytes();
        let mut top = descriptor(INDEX, &index);
        let mut tar = blob(Tar::default(), &index);
        for _ in 0..8 {
            let next = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [top] })
                .to_string()
                .into_bytes();
            top = descriptor(INDEX, &next);
            tar = blob(tar, &next);
        }
        tar.file("index.json", json!({ "schemaVersion": 2, "manifests": [top] }).to_string())
    };
    let cases: Vec<(&str, Tar, &str)> = vec![
        ("a config outside", manifest(entry("../../etc/passwd", &[])), "there is no file"),
        ("an absolute config", manifest(entry("/etc/passwd", &[])), "there is no file"),
        (
            "a link that leads out",
            a_file(docker().link("out", "../../../../etc/passwd"), "out"),
            "there is no file",
        ),
        ("links without end", a_file(endless, "l0"), "there is no file"),
        ("a link to itself", a_file(docker().link("self", "self"), "self"), "there is no file"),
        ("layers in another order", manifest(entry("c.json", &["b/layer.tar", "a/layer.tar"])), "unpacks to"),
        ("too few layers", manifest(entry("c.json", &["a/layer.tar"])), "1 layers, its config 2"),
        ("one layer twice", manifest(entry("c.json", &["a/layer.tar", "a/layer.tar"])), "unpacks to"),
        ("a config that is none", docker().file("c.json", "[]"), "damaged"),
        ("a config without end", docker().file("c.json", huge.clone()), "larger than"),
        ("a manifest without end", docker().file("manifest.json", huge.clone()), "larger than"),
        ("a manifest that is none", docker().file("manifest.json", "{"), "manifest.json"),
        (
            "a name that is none",
            manifest(
                json!([{ "Config": "c.json", "RepoTags": ["A B"], "Layers": ["a/layer.tar", "b/layer.tar"] }]),
            ),
            "invalid image name",
        ),
        (
            "a layer in a strange form",
            docker().file("a/layer.tar", b"BZh91AY&SY....".to_vec()),
            "layers are tar",
        ),
        (
            "a layer that breaks off",
            docker().file("a/layer.tar", gzip(&layer("one"))[..40].to_vec()),
            "damaged",
        ),
        ("an index without end", layout(|_| ()).file("index.json", huge), "larger than"),
        ("an index that is none", layout(|_| ()).file("index.json", "x"), "index.json"),
        (
            "no manifest",
            layout(|_| ()).file(
                "index.json",
                json!({ "schemaVersion": 2, "manifests": [descriptor(MANIFEST, b"x")] }).to_string(),
            ),
            "there is no blob",
        ),
        ("indexes without end", cyclic, "indexes without end"),
        (
            "a wrong size of a layer",
            layout(|manifest| manifest["layers"][0]["size"] = json!(1)),
            "another size",
        ),
        (
            "another layer",
            layout(|manifest| manifest["layers"][0]["digest"] = json!(Digest::of(b"x"))),
            "not there",
        ),
        (
            "an unknown layer",
            layout(|manifest| manifest["layers"][0]["mediaType"] = json!("text/plain")),
            "text/plain",
        ),
        ("no layers", layout(|manifest| manifest["layers"] = json!([])), "0 layers, its config 1"),
        (
            "a chart",
            layout(|manifest| {
                manifest["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json")
            }),
            "not a container image",
        ),
        (
            "manifest and index in one",
            layout(|manifest| manifest["manifests"] = json!([])),
            "both a manifest and an index",
        ),
        ("another type inside", layout(|manifest| manifest["mediaType"] = json!(INDEX)), "announced as"),
    ];
    for (what, tar, words) in cases {
        let message = tar.read().expect_err(what);
        assert!(message.contains(words), "{what}: {message}");
    }
    // A blob whose bytes were changed under its name.
    let good = layout(|_| ());
    let (path, _) = good.0.iter().find(|(path, _)| path.starts_with("blobs/")).unwrap();
    let path = path.clone();
    assert!(good.file(&path, "others").read().unwrap_err().contains("damaged"));
    // Cut off anywhere: an error or nothing, never half an image. Within the padding of the last file nothing is missing.
    let whole = docker().bytes();
    let images = docker().read().unwrap();
    for end in (0..whole.len() - 1024).step_by(257) {
        if let Ok(cut) = docker().read_to(end) {
            assert!(cut.is_empty() || cut == images, "{end}");
        }
    }
    // Names that lead upwards are refused by the reader itself.
    let mut evil = docker().bytes();
    evil[..6].copy_from_slice(b"../c.x");
    let mut store = Vec::new();
    (&evil[..]).read_to_end(&mut store).unwrap();
    assert!(read_archive(&store[..], &MemoryStore::default()).is_err());
    assert!(Tar::default().read().unwrap().is_empty());
}
