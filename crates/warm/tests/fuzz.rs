//! Caches written by somebody else, thrown at their readers for as long as `FUZZ_SECONDS` says (2 without it), from a seed that `FUZZ_SEED`
//! can repeat: manifests, indexes, documents that stand by themselves or in an image, layouts. What is read can be used: nothing in it
//! points to what is not there, it can be written again, a look-up finds what is filed and nothing else. What has not the digest that it
//! was asked for by is not read at all.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::Memory;
use hash::{CacheKey, ContentDigest, Digest};
use image::{Compression, Descriptor, ImageConfig, Layer, MediaType, MediaTypes};
use serde_json::{Value, json};
use warm::{
    ArtifactForm, CachedLayer, Caches, Document, Import, Imported, LayoutOrigin, Record, Watcher, find,
    inline, pack,
};

#[expect(dead_code, reason = "the tests of other crates have the rest of it")]
#[path = "../../registry/tests/it/dice.rs"]
mod dice;

use dice::Dice;

const WORDS: [&str; 34] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "null",
    "-1",
    "0",
    "1e400",
    "18446744073709551615",
    "18446744073709551616",
    "true",
    "\"sha256:00\"",
    "../../etc/passwd",
    "\"version\":1,",
    "\"version\":2,",
    "\"layers\":[]",
    "\"records\":[]",
    "\"keys\":[]",
    "\"took\":18446744073709551615",
    "\"created\":253402300800000",
    "\"manifests\":[]",
    "\"config\":{}",
    "application/vnd.buildkit.cacheconfig.v0",
    "application/vnd.builder.cache.config.v1+json",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "[[[[[[[[[[[[[[[[",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\n",
    "\u{1b}[2J",
    "é",
];

/// Is told of no import.
struct Unheard;

impl Watcher for Unheard {
    fn importing(&self, _: &str) -> Box<dyn Imported> {
        Box::new(Unheard)
    }
}

impl Imported for Unheard {
    fn done(self: Box<Self>, _: Option<&str>) {}
}

fn key(number: usize) -> CacheKey {
    CacheKey::from_bytes([number as u8; 32])
}

/// So many keys are drawn from.
const KEYS: usize = 12;

/// Results of some keys. No key has two, so that it is known which one is found.
fn document(dice: &mut Dice) -> Document {
    let layers = (0..=dice.below(5)).map(|number| {
        let kind = [Compression::Gzip, Compression::Zstd, Compression::None][dice.below(3)];
        let digest = Digest::of(&[number as u8]);
        CachedLayer {
            layer: Layer {
                descriptor: Descriptor::new(kind.layer_media_type(), digest, dice.next() >> 30),
                diff_id: Digest::of(&[number as u8, 1]),
            },
            form: "v3 gzip".to_owned(),
            changes: ContentDigest::from_bytes([number as u8; 32]),
            created: dice.next() >> 24,
        }
    });
    let layers: Vec<CachedLayer> = layers.collect();
    let mut free: Vec<CacheKey> = (0..KEYS).map(key).collect();
    let records = (0..dice.below(4)).map(|_| {
        let keys = (0..=dice.below(2)).map(|_| free.swap_remove(dice.below(free.len()))).collect();
        let used = (0..dice.below(4)).map(|_| dice.below(layers.len())).collect();
        let took = dice.one_in(2).then(|| Duration::from_millis(dice.next() >> 40));
        Record { keys, layers: used, took }
    });
    let records = records.collect();
    Document { layers, records }
}

/// By each key what it leads to.
fn filed(document: &Document) -> BTreeMap<[u8; 32], Vec<Digest>> {
    let digest = |place: &usize| document.layers[*place].layer.descriptor.digest;
    let of = |record: &Record| -> Vec<_> {
        let layers: Vec<Digest> = record.layers.iter().map(digest).collect();
        record.keys.iter().map(|key| (*key.as_bytes(), layers.clone())).collect()
    };
    document.records.iter().flat_map(of).collect()
}

/// In milliseconds since 1970.
const YEAR_10000: u64 = 253_402_300_800_000;

/// A document that was read, by whoever it was written.
fn check(document: &Document) {
    for record in &document.records {
        assert!(!record.keys.is_empty() && record.keys.len() <= 1000 && record.layers.len() <= 1000);
        assert!(record.layers.iter().all(|place| *place < document.layers.len()), "{record:?}");
    }
    for layer in &document.layers {
        assert!(Compression::of_layer(&layer.layer.descriptor.media_type).is_some(), "{layer:?}");
        assert!(layer.form.len() <= 100 && !layer.form.contains(|c: char| c.is_control()), "{layer:?}");
        // A time that can be written down.
        assert!(layer.created < YEAR_10000, "{layer:?}");
    }
    let bytes = document.to_bytes();
    let again = Document::from_bytes(&bytes).expect("what was read can be written and read");
    assert_eq!(again.to_bytes(), bytes);
    // What nothing needs is left out, what is filed stays. Of two results of one key either may be the first.
    let keys = |document: &Document| filed(document).into_keys().collect::<Vec<_>>();
    assert_eq!(keys(&again), keys(document));
}

/// Looks everything up.
async fn look_up(origin: Memory, documents: &[Document]) {
    let import = Import { origin: Arc::new(origin), patience: Duration::from_secs(30) };
    let caches = Caches::new(vec![import], Arc::new(Unheard));
    for number in 0..=KEYS {
        let key = key(number);
        let wanted = documents.iter().flat_map(|document| {
            let has_it = |record: &&Record| record.keys.contains(&key);
            document.records.iter().find(has_it).map(|record| (document, record))
        });
        let wanted: Option<(&Document, &Record)> = wanted.into_iter().next();
        let found = caches.find(&key).await;
        assert_eq!(found.is_some(), wanted.is_some(), "{key:?}");
        let (Some(found), Some((document, record))) = (found, wanted) else { continue };
        assert_eq!((&found.keys, found.took), (&record.keys, record.took));
        let layers: Vec<&CachedLayer> = record.layers.iter().map(|place| &document.layers[*place]).collect();
        assert_eq!(found.layers.iter().map(|away| &away.layer).collect::<Vec<_>>(), layers);
        // What is no good is not found again.
        if let Some(layer) = layers.first() {
            let blob = layer.layer.descriptor.digest;
            caches.refuse(found.number, blob);
            let others = caches.find(&key).await;
            let has_blob = others.is_some_and(|other| {
                other.layers.iter().any(|away| away.layer.layer.descriptor.digest == blob)
                    && other.number == found.number
            });
            assert!(!has_blob && caches.record(found.number).is_none());
            return;
        }
    }
}

/// A document with some of its values replaced by others, left out or doubled: JSON still.
fn bent(dice: &mut Dice, bytes: Vec<u8>) -> Vec<u8> {
    fn bend(dice: &mut Dice, value: &mut Value) {
        match value {
            Value::Array(list) if !list.is_empty() && !dice.one_in(6) => {
                let at = dice.below(list.len());
                match dice.below(4) {
                    0 => drop(list.remove(at)),
                    1 => list.push(list[at].clone()),
                    _ => bend(dice, &mut list[at]),
                }
            }
            Value::Object(map) if !map.is_empty() && !dice.one_in(12) => {
                let names: Vec<String> = map.keys().cloned().collect();
                // What others hold is more of it.
                let dear =
                    names.iter().find(|name| ["records", "keys", warm::INLINE].contains(&name.as_str()));
                let name = dear.filter(|_| dice.one_in(2)).unwrap_or(&names[dice.below(names.len())]);
                match dice.below(16) {
                    0 => drop(map.remove(name)),
                    1 => drop(map.insert(name.to_uppercase(), map[name].clone())),
                    _ => bend(dice, map.get_mut(name).unwrap()),
                }
            }
            other => {
                *other = match dice.below(13) {
                    11 => json!([]),
                    0 => Value::Null,
                    1 => json!(-1),
                    2 => json!(u64::MAX),
                    3 => json!(dice.next() >> dice.below(64)),
                    4 => json!(dice.below(8)),
                    5 => json!(0.5),
                    6 => json!([0, 5, 1]),
                    7 => json!({}),
                    8 => json!("a\nb"),
                    9 => json!("x".repeat(dice.below(300))),
                    10 => json!(Digest::of(&[dice.below(8) as u8])),
                    _ => json!(dice.pick(&WORDS)),
                }
            }
        }
    }
    let Ok(mut value) = serde_json::from_slice(&bytes) else { return bytes };
    for _ in 0..=dice.below(2) {
        bend(dice, &mut value);
    }
    serde_json::to_vec(&value).unwrap()
}

/// The document as somebody might have written it: by itself in each form, or in an image, alone or among others.
fn written(dice: &mut Dice, document: &Document, is_damaged: bool) -> Memory {
    let mut memory = Memory::default();
    let damage = |dice: &mut Dice, bytes: Vec<u8>| match is_damaged && dice.one_in(2) {
        true if !dice.one_in(3) => bent(dice, bytes),
        true => dice.damaged(bytes, &WORDS),
        false => bytes,
    };
    let form = ArtifactForm {
        image_manifest: dice.one_in(2),
        types: [MediaTypes::Oci, MediaTypes::Docker][dice.below(2)],
    };
    let packed = pack(document, form);
    let (media_type, manifest) = if dice.one_in(2) {
        // The digests are those of what is there, so that damage gets further than the first check.
        let config = memory.put(warm::CONFIG, damage(dice, packed.document));
        let manifest = String::from_utf8(packed.manifest).unwrap();
        let manifest = manifest.replace(&packed.config.digest.to_string(), &config.digest.to_string());
        let size = |descriptor: &Descriptor| format!("\"size\":{}", descriptor.size);
        (packed.top.media_type, manifest.replace(&size(&packed.config), &size(&config)).into_bytes())
    } else {
        let mut config: ImageConfig = serde_json::from_value(json!({
            "os": "linux", "architecture": "amd64", "config": {}, "rootfs": { "type": "layers", "diff_ids": [] },
        }))
        .unwrap();
        inline(&mut config, Some(document));
        let config = damage(dice, serde_json::to_vec(&config).unwrap());
        let config = memory.put(MediaType::CONFIG, config);
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": MediaType::MANIFEST, "config": config, "layers": [] });
        (MediaType::MANIFEST.to_owned(), manifest.to_string().into_bytes())
    };
    let manifest = damage(dice, manifest);
    if dice.one_in(3) && media_type == MediaType::MANIFEST {
        let entry = memory.put(&media_type, manifest);
        let index = json!({ "schemaVersion": 2, "mediaType": MediaType::INDEX, "manifests": [entry] });
        let index = damage(dice, index.to_string().into_bytes());
        memory.top = Some((MediaType::INDEX.to_owned(), index));
    } else {
        memory.top = Some((media_type, manifest));
    }
    memory
}

#[tokio::test]
async fn readers_of_caches_for_a_while() {
    let (mut dice, time) = (Dice::for_a_while(), dice::seconds());
    let (start, mut rounds, mut whole, mut read) = (Instant::now(), 0, 0, 0);
    // So many rounds also where the machine is busy: without a good one among them nothing is tested.
    while start.elapsed() < time || rounds < 50 {
        rounds += 1;
        let is_damaged = !dice.one_in(4);
        let wanted = document(&mut dice);
        let mut memory = written(&mut dice, &wanted, is_damaged);
        if is_damaged && dice.one_in(8) {
            // Other bytes than were asked for are never read, however good they are.
            let other = Document { records: Vec::new(), ..wanted.clone() }.to_bytes();
            let before: Vec<Digest> = memory.blobs.keys().copied().collect();
            memory.blobs.values_mut().for_each(|bytes| bytes.clone_from(&other));
            let is_other = |digest: &Digest| *digest != Digest::of(&other);
            if before.iter().all(is_other) {
                let found = find(&memory).await.unwrap_or_default();
                assert!(found.is_empty(), "bytes with another digest were read");
                continue;
            }
        }
        match find(&memory).await {
            Ok(documents) => {
                documents.iter().for_each(check);
                read += documents.len();
                if !is_damaged {
                    assert_eq!(documents.len(), 1);
                    assert_eq!(filed(&documents[0]), filed(&wanted));
                    whole += usize::from(!wanted.records.is_empty());
                }
                look_up(memory, &documents).await;
            }
            Err(error) => {
                assert!(is_damaged, "{error}");
                assert!(!error.to_string().is_empty());
            }
        }
    }
    println!("{rounds} rounds, {read} documents were read, {whole} as they were written");
    assert!(whole > 0 && read > whole, "nothing good came through, so this tests nothing");
}

/// Writes a cache as `--cache-to type=local` does, some of it damaged.
fn layout(dice: &mut Dice, at: &Path, is_damaged: bool, wanted: &Document) {
    let blobs = at.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let memory = written(dice, wanted, is_damaged);
    let (media_type, top) = memory.top.unwrap();
    let digest = Digest::of(&top);
    let entry: Value = json!({
        "mediaType": media_type, "digest": digest, "size": top.len(),
        "annotations": { "org.opencontainers.image.ref.name": "latest" },
    });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string().into_bytes();
    let mut files: Vec<_> = memory.blobs.into_iter().chain([(digest, top)]).collect();
    if is_damaged && dice.one_in(4) {
        let at = dice.below(files.len());
        files[at].1 = dice.damaged(files[at].1.clone(), &WORDS);
    }
    for (digest, bytes) in files {
        let path = blobs.join(digest.hex());
        match if is_damaged { dice.below(24) } else { 9 } {
            0 => {}
            1 => std::fs::create_dir(path).unwrap(),
            2 => std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
            3 => std::os::unix::fs::symlink(digest.hex(), path).unwrap(),
            _ => std::fs::write(path, bytes).unwrap(),
        }
    }
    let index = if is_damaged && dice.one_in(3) { dice.damaged(index, &WORDS) } else { index };
    std::fs::write(at.join("index.json"), index).unwrap();
}

#[tokio::test]
async fn readers_of_layouts_for_a_while() {
    let (mut dice, time) = (Dice::for_a_while(), dice::seconds());
    // In memory where that can be: a disk would be waited for most of the time.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let (start, mut rounds, mut whole) = (Instant::now(), 0, 0);
    while start.elapsed() < time || rounds < 50 {
        rounds += 1;
        let at = dir.path().join(rounds.to_string());
        let is_damaged = !dice.one_in(4);
        let wanted = document(&mut dice);
        layout(&mut dice, &at, is_damaged, &wanted);
        let origin = LayoutOrigin::new(&at, "latest", None);
        let found = tokio::time::timeout(Duration::from_secs(30), find(&origin)).await.expect("no end");
        match found {
            Ok(documents) => {
                documents.iter().for_each(check);
                if !is_damaged {
                    assert_eq!(documents.iter().map(filed).collect::<Vec<_>>(), [filed(&wanted)]);
                    whole += 1;
                }
            }
            Err(error) => assert!(is_damaged, "{error}"),
        }
        std::fs::remove_dir_all(at).unwrap();
    }
    println!("{rounds} rounds, {whole} documents were read as they were written");
    assert!(whole > 0, "nothing good came through, so this tests nothing");
}
