//! Everything that comes from elsewhere, thrown at its reader for as long as `FUZZ_SECONDS` says (2 without it), from a seed that
//! `FUZZ_SEED` can repeat: layers, archives of images, layouts, manifests, indexes, configs, names.

use std::io::Read;
use std::time::{Duration, Instant, SystemTime};

use hash::Digest;
use image::layer::{Entry, EntryKind, LayerReader, LayerWriter};
use image::layout::{LayoutAddress, LayoutImage, OciLayout};
use image::{
    Compression, Compressor, Document, ImageConfig, MediaType, MemoryStore, Platform, Reference, decompress,
    parse_document, read_archive, select_manifest,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use serde_json::json;

/// Calls `throw` until the time is over.
fn for_a_while(mut throw: impl FnMut(&mut TestRunner)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let time = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(2));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number("FUZZ_SEED").unwrap_or(now.as_nanos() as u64);
    println!("FUZZ_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, rng);
    let (start, mut count) = (Instant::now(), 0);
    // Some also where the machine is busy.
    while start.elapsed() < time || count < 10 {
        throw(&mut runner);
        count += 1;
    }
    println!("{count} throws");
}

fn draw<S: Strategy>(strategy: &S, runner: &mut TestRunner) -> S::Value {
    strategy.new_tree(runner).unwrap().current()
}

/// Bytes with some of them changed, left out, doubled or replaced by words of the format.
fn damaged(bytes: Vec<u8>, words: &[&[u8]], runner: &mut TestRunner) -> Vec<u8> {
    let mut bytes = bytes;
    let mut below = |limit: usize| runner.rng().next_u32() as usize % limit.max(1);
    for _ in 0..=below(4) {
        let at = below(bytes.len() + 1);
        let end = (at + below(16)).min(bytes.len());
        let with = match below(4) {
            0 => Vec::new(),
            1 => vec![below(256) as u8],
            2 => bytes[at..end].repeat(2),
            _ => words[below(words.len())].to_vec(),
        };
        bytes.splice(at..end, with);
    }
    bytes
}

/// Makes the checksums of headers right again, so that damage gets further than the first check.
fn repaired(mut tar: Vec<u8>) -> Vec<u8> {
    for block in tar.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    tar
}

const TAR: [&[u8]; 20] = [
    b"../",
    b"/",
    b".wh.",
    b".wh..wh..opq",
    b"ustar\0",
    b"00000000000\0",
    b"77777777777\0",
    b"\x80\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"20 path=../../x\n",
    b"9 size=1\n",
    b"22 GNU.sparse.major=1\n",
    b"22 GNU.sparse.minor=0\n",
    b"26 GNU.sparse.map=0,1,5,1\n",
    b"25 GNU.sparse.size=99999\n",
    b"30 SCHILY.xattr.user.a=x\ny\n",
    b"x",
    b"L",
    b"S",
    b"g",
];

fn entries() -> impl Strategy<Value = Vec<(String, u8, Vec<u8>)>> {
    let name = prop_oneof!["[a-c]{1,3}(/[a-c]{1,2}){0,3}", "[a-z]{120,200}"];
    prop::collection::vec((name, 0..7u8, prop::collection::vec(any::<u8>(), 0..700)), 0..8)
}

fn tar(entries: &[(String, u8, Vec<u8>)]) -> Vec<u8> {
    let mut writer = LayerWriter::archive(Vec::new());
    for (name, kind, content) in entries {
        let kind = match kind {
            0 => EntryKind::Directory,
            1 => EntryKind::Symlink { target: b"../a".to_vec() },
            2 => EntryKind::Hardlink { target: b"a".to_vec() },
            3 => EntryKind::Fifo,
            4 => EntryKind::CharDevice { major: 1, minor: 3 },
            _ => EntryKind::File { size: content.len() as u64 },
        };
        let content = if matches!(kind, EntryKind::File { .. }) { &content[..] } else { &[] };
        let mut entry = Entry { kind, mode: 0o644, ..Entry::whiteout(name.as_str()) };
        entry.mtime_nanos = 5;
        writer.append(&entry, &mut &content[..]).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn readers_of_layers_for_a_while() {
    let entries = entries();
    for_a_while(|runner| {
        let whole = tar(&draw(&entries, runner));
        let mut bytes = repaired(damaged(whole, &TAR, runner));
        if runner.rng().next_u32() % 4 == 0 {
            let how = [Compression::Gzip, Compression::Zstd][runner.rng().next_u32() as usize % 2];
            let mut packed = Compressor::new(Vec::new(), how, None).unwrap();
            std::io::Write::write_all(&mut packed, &bytes).unwrap();
            bytes = damaged(
                packed.finish().unwrap(),
                &[b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"BZh91AY&SY", b"\0\0"],
                runner,
            );
        }
        let Ok(plain) = decompress(&bytes[..]) else { return };
        let mut reader = LayerReader::new(plain);
        while let Ok(Some(entry)) = reader.next_entry() {
            let clean = entry.path.split(|byte| *byte == b'/').all(|name| !matches!(name, b"." | b".."));
            assert!(clean && !entry.path.contains(&0) && entry.path.len() <= 4096, "{:?}", entry.path);
            // A sparse file may be large without taking room.
            let mut content = Vec::new();
            let read = reader.by_ref().take(1 << 20).read_to_end(&mut content);
            if let (EntryKind::File { size }, Ok(read)) = (&entry.kind, read) {
                assert!(read as u64 == (*size).min(1 << 20), "{} of {size}", read);
            }
        }
    });
}

const JSON: [&[u8]; 24] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"null",
    b"-1",
    b"0",
    b"1e400",
    b"18446744073709551616",
    b"\"sha256:00\"",
    b"\"sha512:00\"",
    b"\"layers\":[]",
    b"\"manifests\":[]",
    b"\"config\":{}",
    b"\"platform\":{\"os\":\"unknown\"}",
    b"[[[[[[[[[[[[[[[[",
    b"\"\\u0000\"",
    b"\"\\ud800\"",
    b"true",
    b"../..",
    b"\xff",
];

#[test]
fn readers_of_documents_for_a_while() {
    let digest = Digest::of(b"x");
    let descriptor = |media_type: &str| json!({ "mediaType": media_type, "digest": digest, "size": 5, "annotations": { "a": "b" } });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MediaType::MANIFEST, "config": descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip")], "annotations": { "a": "b" },
    });
    let mut entry = descriptor(MediaType::MANIFEST);
    entry["platform"] =
        json!({ "os": "linux", "architecture": "arm", "variant": "v7", "os.features": ["x"] });
    let index = json!({ "schemaVersion": 2, "mediaType": MediaType::INDEX, "manifests": [entry] });
    let config = json!({
        "os": "linux", "architecture": "amd64", "created": "2020-01-01T00:00:00Z", "author": "me",
        "config": {
            "Env": ["A=b"], "Cmd": ["x"], "ExposedPorts": { "80/tcp": {} }, "Labels": { "a": "b" }, "Volumes": { "/x": {} },
            "Healthcheck": { "Test": ["CMD", "x"], "Interval": 5 }, "OnBuild": ["RUN x"], "Shell": ["sh"], "ArgsEscaped": true,
        },
        "rootfs": { "type": "layers", "diff_ids": [digest] }, "history": [{ "created_by": "RUN x", "empty_layer": true }], "own": [1],
    });
    let documents = [manifest, index, config].map(|value| value.to_string().into_bytes());
    let platform: Platform = "linux/arm/v6".parse().unwrap();
    for_a_while(|runner| {
        let which = runner.rng().next_u32() as usize % 3;
        let bytes = damaged(documents[which].clone(), &JSON, runner);
        let types = [None, Some(MediaType::MANIFEST), Some(MediaType::INDEX), Some("text/html; charset=x")];
        let stated = types[runner.rng().next_u32() as usize % 4];
        if let Ok(Document::Index(index)) = parse_document("fuzz", stated, &bytes) {
            let _ = select_manifest(&index, &platform);
        }
        if let Ok(config) = serde_json::from_slice::<ImageConfig>(&bytes) {
            // What is read can be written, and means the same.
            let written = serde_json::to_vec(&config).unwrap();
            assert_eq!(serde_json::from_slice::<ImageConfig>(&written).unwrap(), config);
        }
        let text = String::from_utf8_lossy(&bytes[bytes.len() / 2..]).into_owned();
        for text in [text.as_str(), &text[..text.char_indices().nth(20).map_or(text.len(), |(at, _)| at)]] {
            if let Ok(name) = text.parse::<Reference>() {
                assert_eq!(name.to_string().parse::<Reference>().as_ref(), Ok(&name));
            }
            let _ = text.parse::<Platform>();
            let _ = text.parse::<Digest>();
        }
    });
}

#[test]
fn readers_of_archives_for_a_while() {
    let layer = tar(&[("f".to_owned(), 6, b"content".to_vec())]);
    let config = json!({ "os": "linux", "architecture": "amd64", "config": {}, "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer)] } });
    let config = config.to_string().into_bytes();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    let describe = |media_type: &str, bytes: &[u8]| json!({ "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len() });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MediaType::MANIFEST, "config": describe("application/vnd.oci.image.config.v1+json", &config),
        "layers": [describe("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let index = json!({ "schemaVersion": 2, "manifests": [describe(MediaType::MANIFEST, &manifest)] });
    let docker = json!([{ "Config": blob(&config), "RepoTags": ["app:1"], "Layers": [blob(&layer)] }]);
    let file = |path: String, bytes: Vec<u8>| (path, 6, bytes);
    let whole = [
        file(blob(&layer), layer.clone()),
        file(blob(&config), config.clone()),
        file(blob(&manifest), manifest.clone()),
        file("index.json".to_owned(), index.to_string().into_bytes()),
        file("manifest.json".to_owned(), docker.to_string().into_bytes()),
    ];
    assert_eq!(read_archive(&tar(&whole)[..], &MemoryStore::default()).unwrap().len(), 1);
    for_a_while(|runner| {
        let mut files = whole.to_vec();
        for _ in 0..=runner.rng().next_u32() % 2 {
            let at = runner.rng().next_u32() as usize % files.len();
            files[at].2 = damaged(files[at].2.clone(), &JSON, runner);
        }
        let mut bytes = tar(&files);
        if runner.rng().next_u32() % 3 == 0 {
            bytes = repaired(damaged(bytes, &TAR, runner));
        }
        for image in read_archive(&bytes[..], &MemoryStore::default()).unwrap_or_default() {
            // An image that is there is the one that was put there: everything in it is named by its digest. Only what is not hashed
            // by anything above may be another: names, platform as the config has it.
            assert!(image.manifest.size > 0);
        }
    });
}

#[test]
fn readers_of_layouts_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = dir.path().join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let layer = tar(&[("f".to_owned(), 6, b"content".to_vec())]);
    let put = |bytes: &[u8], media_type: &str| {
        let digest = Digest::of(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    };
    let config = json!({ "os": "linux", "architecture": "amd64", "config": {}, "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer)] } });
    let config = put(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
    let layer = put(&layer, "application/vnd.oci.image.layer.v1.tar");
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": MediaType::MANIFEST, "config": config, "layers": [layer] });
    let manifest = manifest.to_string().into_bytes();
    let platform: Platform = "linux/amd64".parse().unwrap();
    let mut good = 0;
    for_a_while(|runner| {
        let one = match runner.rng().next_u32() % 2 {
            0 => manifest.clone(),
            _ => damaged(manifest.clone(), &JSON, runner),
        };
        let mut entry = put(&one, MediaType::MANIFEST);
        let digest = Digest::of(&one);
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "app:1" });
        let inner = json!({ "schemaVersion": 2, "mediaType": MediaType::INDEX, "manifests": [entry] });
        let inner = put(inner.to_string().as_bytes(), MediaType::INDEX);
        let index = json!({ "schemaVersion": 2, "manifests": [entry, inner] }).to_string().into_bytes();
        let index = if runner.rng().next_u32() % 4 == 0 { index } else { damaged(index, &JSON, runner) };
        std::fs::write(dir.path().join("index.json"), &index).unwrap();
        if let Ok(layout) = OciLayout::open(dir.path()) {
            let _ = layout.names();
            for image in [None, Some(LayoutImage::Tag("app:1".to_owned())), Some(LayoutImage::Digest(digest))]
            {
                good += u32::from(layout.resolve(image.as_ref(), &platform).is_ok());
            }
        }
        let _ = String::from_utf8_lossy(&index).parse::<LayoutAddress>();
        std::fs::remove_file(blobs.join(digest.hex())).unwrap();
        if one != manifest {
            put(&manifest, MediaType::MANIFEST);
        }
    });
    assert!(good > 0, "nothing good came through, so this tests nothing");
}
