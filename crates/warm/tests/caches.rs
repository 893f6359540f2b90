//! What is found in caches, and what is made of those that are no good.

mod common;

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::Memory;
use hash::{CacheKey, ContentDigest, Digest};
use image::{Compression, Descriptor, ImageConfig, Index, Layer, Manifest, MediaType, MediaTypes};
use tokio::sync::Barrier;
use warm::{ArtifactForm, CachedLayer, Caches, Document, Import, Imported, PackedCache, Record, Watcher};

/// An origin that holds a cache.
fn holding(packed: &PackedCache) -> Memory {
    Memory {
        top: Some((packed.top.media_type.clone(), packed.manifest.clone())),
        blobs: HashMap::from([(packed.config.digest, packed.document.clone())]),
        ..Memory::default()
    }
}

/// Notes the problems.
#[derive(Default, Clone)]
struct Problems(Arc<Mutex<Vec<String>>>);

impl Watcher for Problems {
    fn importing(&self, _: &str) -> Box<dyn Imported> {
        Box::new(self.clone())
    }
}

impl Imported for Problems {
    fn done(self: Box<Self>, problem: Option<&str>) {
        self.0.lock().unwrap().extend(problem.map(str::to_owned));
    }
}

fn key(byte: u8) -> CacheKey {
    CacheKey::from_bytes([byte; 32])
}

fn layer(byte: u8) -> CachedLayer {
    let descriptor = Descriptor::new(Compression::Gzip.layer_media_type(), Digest::of(&[byte]), 1);
    CachedLayer {
        layer: Layer { descriptor, diff_id: Digest::of(&[byte, byte]) },
        form: "v3 gzip".to_owned(),
        changes: ContentDigest::from_bytes([byte; 32]),
        created: 5,
    }
}

/// One result of a key, with two layers.
fn document(byte: u8) -> Document {
    let record = Record { keys: vec![key(byte)], layers: vec![0, 1], took: None };
    Document { layers: vec![layer(100), layer(byte)], records: vec![record] }
}

const FORM: ArtifactForm = ArtifactForm { image_manifest: true, types: MediaTypes::Oci };

/// As long as a busy machine may take for what is in memory.
const PATIENCE: Duration = Duration::from_secs(2);

fn caches(origins: Vec<Arc<Memory>>) -> (Caches, Problems) {
    let problems = Problems::default();
    let imports = origins.into_iter().map(|origin| Import { origin, patience: PATIENCE });
    (Caches::new(imports.collect(), Arc::new(problems.clone())), problems)
}

/// The problem of a cache that has nothing.
async fn problem(origin: Memory) -> String {
    let (caches, problems) = caches(vec![Arc::new(origin)]);
    assert!(caches.find(&key(1)).await.is_none());
    let problems = problems.0.lock().unwrap();
    assert_eq!(problems.len(), 1);
    problems[0].clone()
}

#[tokio::test]
async fn every_form_is_found() {
    for (image_manifest, types) in
        [(true, MediaTypes::Oci), (false, MediaTypes::Oci), (false, MediaTypes::Docker)]
    {
        let packed = warm::pack(&document(1), ArtifactForm { image_manifest, types });
        assert_eq!(packed.top.digest, Digest::of(&packed.manifest));
        let (caches, problems) = caches(vec![Arc::new(holding(&packed))]);
        let found = caches.find(&key(1)).await.expect("it is there");
        assert_eq!(
            found.layers.iter().map(|layer| layer.layer.clone()).collect::<Vec<_>>(),
            document(1).layers
        );
        assert!(caches.find(&key(2)).await.is_none());
        assert_eq!(*problems.0.lock().unwrap(), [""; 0]);
    }
}

#[tokio::test]
async fn images_carry_theirs() {
    let mut memory = Memory::default();
    let image = |memory: &mut Memory, document: Option<Document>| {
        let mut config = ImageConfig::default();
        config.extra.insert(warm::INLINE.to_owned(), serde_json::json!("of the base"));
        warm::inline(&mut config, document.as_ref());
        let config = memory.put(MediaType::CONFIG, serde_json::to_vec(&config).unwrap());
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MediaType::MANIFEST.to_owned()),
            config,
            layers: vec![],
            annotations: Default::default(),
        };
        serde_json::to_vec(&manifest).unwrap()
    };
    let plain = image(&mut memory, None);
    let manifests = [Some(document(1)), None, Some(document(2))].map(|document| image(&mut memory, document));
    let manifests = manifests.map(|manifest| memory.put(MediaType::MANIFEST, manifest));
    let index = Index {
        schema_version: 2,
        media_type: Some(MediaType::INDEX.to_owned()),
        manifests: manifests.to_vec(),
        annotations: Default::default(),
    };
    memory.top = Some((MediaType::INDEX.to_owned(), serde_json::to_vec(&index).unwrap()));
    let (found, problems) = caches(vec![Arc::new(memory)]);
    assert!(found.find(&key(1)).await.is_some() && found.find(&key(2)).await.is_some());
    assert_eq!(*problems.0.lock().unwrap(), [""; 0]);

    let mut memory = Memory { top: Some((MediaType::MANIFEST.to_owned(), plain)), ..Memory::default() };
    image(&mut memory, None);
    let (nothing, problems) = caches(vec![Arc::new(memory)]);
    assert!(nothing.find(&key(1)).await.is_none());
    assert_eq!(*problems.0.lock().unwrap(), [""; 0], "that is no problem");
}

#[tokio::test]
async fn each_is_asked_once_and_all_at_the_same_time() {
    // None answers before all are asked.
    let meeting = Arc::new(Barrier::new(3));
    let holding = |byte: u8| {
        let packed = warm::pack(&document(byte), FORM);
        Arc::new(Memory { meeting: Some(Arc::clone(&meeting)), ..holding(&packed) })
    };
    let origins = [holding(1), holding(2), holding(3)];
    let (caches, _) = caches(origins.to_vec());
    assert!(caches.known(&key(2)).is_none());
    assert_eq!(origins[0].asked.load(Ordering::SeqCst), 0, "nobody looked anything up");
    let keys = [key(2), key(3), key(4)];
    let (two, three, four) =
        tokio::join!(caches.find(&keys[0]), caches.find(&keys[1]), caches.find(&keys[2]));
    assert!(two.is_some() && three.is_some() && four.is_none());
    assert!(caches.known(&key(1)).is_some());
    assert!(origins.iter().all(|origin| origin.asked.load(Ordering::SeqCst) == 1));
}

#[tokio::test]
async fn what_was_no_good_is_not_found_again() {
    let packed = warm::pack(&document(1), FORM);
    let (caches, _) = caches(vec![Arc::new(holding(&packed)), Arc::new(holding(&packed))]);
    let first = caches.find(&key(1)).await.expect("in the first");
    caches.refuse(first.number, first.layers[1].layer.layer.descriptor.digest);
    let second = caches.find(&key(1)).await.expect("in the second");
    assert_ne!(first.number, second.number);
    assert_eq!(warm::Number::from_bits(second.number.to_bits()), second.number);
    assert!(caches.record(first.number).is_none());
    assert!(caches.give_up(second.number));
    assert!(!caches.give_up(second.number), "that is known");
    assert!(caches.find(&key(1)).await.is_none());
}

#[tokio::test]
async fn bad_ones_are_told_by_what_is_wrong() {
    assert_eq!(problem(Memory::default()).await, "there is none yet");
    let packed = || warm::pack(&document(2), FORM);
    let late = Memory { delay: Duration::from_secs(50), ..holding(&packed()) };
    assert_eq!(problem(late).await, "it did not answer within 2 s");
    let mut damaged = holding(&packed());
    damaged.blobs.values_mut().for_each(|bytes| bytes[9] ^= 1);
    assert!(problem(damaged).await.contains("is damaged"));
    let top =
        |bytes: Vec<u8>| Memory { top: Some((MediaType::MANIFEST.to_owned(), bytes)), ..holding(&packed()) };
    assert!(problem(top(b"<html>".to_vec())).await.contains("not valid JSON"));
    let changed = |from: &str, to: &str| {
        let text = String::from_utf8(packed().manifest).unwrap();
        assert!(text.contains(from), "{text}");
        top(text.replace(from, to).into_bytes())
    };
    let helm = changed(warm::CONFIG, "application/vnd.cncf.helm.config.v1+json");
    assert!(problem(helm).await.contains("it is no cache"));
    let other = changed(warm::CONFIG, "application/vnd.buildkit.cacheconfig.v0");
    assert!(problem(other).await.contains("a cache of BuildKit"));
    let size = packed().document.len();
    let large = changed(&format!("\"size\":{size}"), &format!("\"size\":{}", 1_u64 << 40));
    assert!(problem(large).await.contains("more than"));
    let short = changed(&format!("\"size\":{size}"), &format!("\"size\":{}", size - 1));
    assert!(problem(short).await.contains("is damaged"));
}
