//! What is decided about an image when it is written: annotations, the index, the compression of its layers.

use std::sync::Arc;

use exporter::{Annotation, AnnotationPlace, Annotations, ExportError, Images, Prepared, recompressed};
use hash::Digest;
use image::layer::{Entry, EntryKind};
use image::{
    Compression, ContentStore, Image, ImageConfig, Index, Layer, LayerPacker, Manifest, MediaTypes,
    MemoryStore, PackOptions, Platform,
};

fn layer(store: &MemoryStore, compression: Compression) -> Layer {
    let options = PackOptions { compression, level: None, epoch: None };
    let mut packer = LayerPacker::new(store, options).unwrap();
    let text = "again and again ".repeat(10_000);
    let kind = EntryKind::File { size: text.len() as u64 };
    packer.append(&Entry { kind, mode: 0o644, ..Entry::whiteout("f") }, &mut text.as_bytes()).unwrap();
    packer.finish().unwrap()
}

fn images(
    store: &MemoryStore,
    platforms: &[&str],
    annotations: &[(AnnotationPlace, Option<&str>, &str)],
) -> Images {
    let layer = layer(store, Compression::Gzip);
    let image = |platform: &&str| {
        let platform: Platform = platform.parse().unwrap();
        let mut config = ImageConfig {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            created: Some("2020-01-01T00:00:00Z".to_owned()),
            ..ImageConfig::default()
        };
        config.rootfs.diff_ids = vec![layer.diff_id];
        Image { config, layers: vec![layer.clone()], platform }
    };
    let annotation = |(place, platform, value): &(AnnotationPlace, Option<&str>, &str)| Annotation {
        place: *place,
        platform: platform.map(|platform| platform.parse().unwrap()),
        key: "k".to_owned(),
        value: (*value).to_owned(),
    };
    Images {
        images: platforms.iter().map(image).collect(),
        names: Vec::new(),
        annotations: annotations.iter().map(annotation).collect::<Annotations>(),
        with_index: false,
        store: Arc::new(store.clone()),
    }
}

#[test]
fn annotations_stand_where_they_were_put() {
    use AnnotationPlace::{Index as OfIndex, IndexDescriptor, Manifest as OfManifest, ManifestDescriptor};
    let store = MemoryStore::default();
    let both = ["linux/amd64", "linux/arm64"];
    let given = [
        // The one for a platform counts more, whatever their order.
        (OfManifest, Some("linux/arm64"), "arm"),
        (OfManifest, None, "any"),
        (ManifestDescriptor, None, "entry"),
        (OfIndex, None, "index"),
        (IndexDescriptor, None, "top"),
    ];
    let prepared = Prepared::new(&images(&store, &both, &given), MediaTypes::Oci).unwrap();
    let of = |digest: &Digest| prepared.documents[digest].as_slice();
    let index: Index = serde_json::from_slice(of(&prepared.top.digest)).unwrap();
    assert_eq!((index.annotations["k"].as_str(), prepared.top.annotations["k"].as_str()), ("index", "top"));
    let values: Vec<String> = index
        .manifests
        .iter()
        .map(|entry| {
            assert_eq!(entry.annotations["k"], "entry");
            serde_json::from_slice::<Manifest>(of(&entry.digest)).unwrap().annotations["k"].clone()
        })
        .collect();
    assert_eq!(values, ["any", "arm"]);
    // The same again gives the same bytes.
    let again = Prepared::new(&images(&store, &both, &given), MediaTypes::Oci).unwrap();
    assert_eq!(again.top.digest, prepared.top.digest);
}

#[test]
fn annotations_without_a_place_are_refused() {
    use AnnotationPlace::{Index as OfIndex, Manifest as OfManifest};
    let store = MemoryStore::default();
    let refused = |platforms: &[&str], place, platform, types| {
        let images = images(&store, platforms, &[(place, platform, "v")]);
        Prepared::new(&images, types).unwrap_err().to_string()
    };
    let one = ["linux/amd64"];
    assert!(refused(&one, OfIndex, None, MediaTypes::Oci).contains("has no index"));
    assert!(
        refused(&one, OfManifest, Some("linux/s390x"), MediaTypes::Oci).contains("no platform linux/s390x")
    );
    assert!(refused(&one, OfManifest, None, MediaTypes::Docker).contains("no annotations"));
    // An index on top of a single image takes them.
    let mut alone = images(&store, &one, &[(OfIndex, None, "v")]);
    alone.with_index = true;
    assert_eq!(Prepared::new(&alone, MediaTypes::Oci).unwrap().documents.len(), 3);
}

#[tokio::test]
async fn layers_are_compressed_again_and_verified() {
    let store = MemoryStore::default();
    let shared: Arc<dyn ContentStore> = Arc::new(store.clone());
    let gzip = layer(&store, Compression::Gzip);
    let zstd = recompressed(gzip.clone(), shared.clone(), Compression::Zstd, None).await.unwrap();
    // What is packed so from the start has the same bytes.
    assert_eq!(zstd, layer(&store, Compression::Zstd));
    let back = recompressed(zstd, shared.clone(), Compression::Gzip, None).await.unwrap();
    assert_eq!(back, gzip);
    let plain = recompressed(gzip.clone(), shared.clone(), Compression::None, None).await.unwrap();
    assert_eq!(plain.descriptor.digest, plain.diff_id);
    // Nothing is done where nothing is to be done, and a config that lies is found out.
    let missing = Layer { diff_id: Digest::of(b"x"), ..gzip.clone() };
    assert_eq!(
        recompressed(missing.clone(), shared.clone(), Compression::Gzip, None).await.unwrap(),
        missing
    );
    let error = recompressed(missing, shared.clone(), Compression::Zstd, None).await.unwrap_err();
    assert!(matches!(error, ExportError::Blob { .. }) && error.to_string().contains("unpacks to"), "{error}");
    let error = recompressed(gzip, shared, Compression::Zstd, Some(23)).await.unwrap_err();
    assert!(error.to_string().contains("levels 0 to 22"), "{error}");
}
