//! What is written down of steps.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hash::{CacheKey, ContentDigest, Digest};
use image::{Compression, Descriptor, Layer};
use serde::{Deserialize, Serialize};

/// The version that is written, and the only one that is read. A change to the keys needs none: other keys are not found.
const VERSION: u32 = 1;

/// The largest document that is read, in bytes: some 100,000 records.
pub(crate) const LARGEST: u64 = 64 << 20;

/// No result has more layers than this, nor more keys.
const MOST_PARTS: usize = 1_000;

/// What took longer is not believed.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The last millisecond of the year 9998: whatever is later could not be written down.
const LAST_TIME: u64 = 253_370_764_799_999;

/// Results and the layers that they consist of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Document {
    /// All layers, each once.
    pub layers: Vec<CachedLayer>,
    /// The results.
    pub records: Vec<Record>,
}

/// A layer as it is kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedLayer {
    /// The blob, and what it unpacks to.
    pub layer: Layer,
    /// How it was packed: the packer's name for all that decides about the blob's bytes.
    pub form: String,
    /// What it changes, as content ids count it.
    pub changes: ContentDigest,
    /// When it was made, in milliseconds since 1970.
    pub created: u64,
}

/// A result of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The keys that it is found by.
    pub keys: Vec<CacheKey>,
    /// Its layers without those of the image below, bottom first: places in [`Document::layers`].
    pub layers: Vec<usize>,
    /// How long it took to make, in whole milliseconds; `None` where that is not known or not told.
    pub took: Option<Duration>,
}

/// A document that is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// The same as JSON.
#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    layers: Vec<WrittenLayer>,
    records: Vec<WrittenRecord>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenLayer {
    media_type: String,
    digest: Digest,
    size: u64,
    diff_id: Digest,
    form: String,
    changes: ContentDigest,
    created: u64,
}

#[derive(Serialize, Deserialize)]
struct WrittenRecord {
    keys: Vec<CacheKey>,
    layers: Vec<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    took: Option<u64>,
}

/// Read first: what follows may have any shape in another version.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Document {
    /// The bytes of the document. Equal content gives equal bytes, whatever order it came in.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.written()).unwrap_or_default()
    }

    /// The document as JSON within another one.
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self.written()).unwrap_or_default()
    }

    /// Reads a document.
    ///
    /// # Errors
    /// Another version, and whatever contradicts itself or could not be used: all of it is refused, not a part.
    pub fn from_bytes(bytes: &[u8]) -> Result<Document, Invalid> {
        if bytes.len() as u64 > LARGEST {
            return Err(Invalid(format!("it is larger than {LARGEST} bytes")));
        }
        let malformed = |error: serde_json::Error| Invalid(format!("it is malformed: {error}"));
        let Versioned { version } = serde_json::from_slice(bytes).map_err(malformed)?;
        if version != VERSION {
            return Err(Invalid(format!("it has version {version}, this program knows {VERSION}")));
        }
        let Written { layers, records, .. } = serde_json::from_slice(bytes).map_err(malformed)?;
        let layers = layers.into_iter().map(WrittenLayer::checked).collect::<Result<Vec<_>, _>>()?;
        let records = records.into_iter().map(|record| record.checked(layers.len()));
        let records = records.collect::<Result<_, _>>()?;
        Ok(Document { layers, records })
    }

    /// Records by their smallest key, layers in the order of their use; what no record has is left out.
    fn written(&self) -> Written {
        let mut records: BTreeMap<(BTreeSet<CacheKey>, &[usize]), Option<Duration>> = BTreeMap::new();
        for record in &self.records {
            let result = (record.keys.iter().copied().collect(), &record.layers[..]);
            let took = records.entry(result).or_default();
            *took = record.took.max(*took);
        }
        // One and the same layer may come from two sides.
        let mut places = BTreeMap::new();
        let mut layers = Vec::new();
        let mut written = Vec::with_capacity(records.len());
        for ((keys, used), took) in records {
            let mut place = |index: &usize| {
                let layer = self.layers.get(*index)?;
                let same = (layer.layer.descriptor.digest, layer.changes, layer.created);
                Some(*places.entry(same).or_insert_with(|| {
                    layers.push(WrittenLayer::of(layer));
                    layers.len() - 1
                }))
            };
            // A place that is none would make the document worthless.
            let Some(used) = used.iter().map(&mut place).collect() else { continue };
            let took = took.and_then(|took| u64::try_from(took.as_millis()).ok());
            written.push(WrittenRecord { keys: keys.into_iter().collect(), layers: used, took });
        }
        Written { version: VERSION, layers, records: written }
    }
}

impl WrittenLayer {
    fn of(layer: &CachedLayer) -> WrittenLayer {
        let Layer { descriptor, diff_id } = &layer.layer;
        WrittenLayer {
            media_type: descriptor.media_type.clone(),
            digest: descriptor.digest,
            size: descriptor.size,
            diff_id: *diff_id,
            form: layer.form.clone(),
            changes: layer.changes,
            created: layer.created,
        }
    }

    fn checked(self) -> Result<CachedLayer, Invalid> {
        let refuse = |reason: &str| Err(Invalid(format!("layer {}: {reason}", self.digest)));
        if Compression::of_layer(&self.media_type).is_none() {
            return refuse("its media type is not that of a layer");
        }
        if self.form.len() > 100 || !self.form.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            return refuse("how it is packed has no valid name");
        }
        if self.created > LAST_TIME {
            return refuse("it was made in the far future");
        }
        let descriptor = Descriptor::new(self.media_type, self.digest, self.size);
        let layer = Layer { descriptor, diff_id: self.diff_id };
        Ok(CachedLayer { layer, form: self.form, changes: self.changes, created: self.created })
    }
}

impl WrittenRecord {
    fn checked(self, layers: usize) -> Result<Record, Invalid> {
        let refuse = |reason: &str| Err(Invalid(format!("a result {reason}")));
        if self.keys.is_empty() {
            return refuse("has no key");
        }
        if self.keys.len() > MOST_PARTS || self.layers.len() > MOST_PARTS {
            return refuse("has more layers or keys than any has");
        }
        if self.layers.iter().any(|place| *place >= layers) {
            return refuse("has a layer that is not there");
        }
        let took = self.took.map(Duration::from_millis).filter(|took| *took <= LONGEST);
        Ok(Record { keys: self.keys, layers: self.layers, took })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(byte: u8) -> CacheKey {
        CacheKey::from_bytes([byte; 32])
    }

    pub(crate) fn layer(byte: u8) -> CachedLayer {
        let digest = Digest::of(&[byte]);
        CachedLayer {
            layer: Layer {
                descriptor: Descriptor::new(Compression::Gzip.layer_media_type(), digest, 1),
                diff_id: Digest::of(&[byte, byte]),
            },
            form: "v3 gzip".to_owned(),
            changes: ContentDigest::from_bytes([byte; 32]),
            created: u64::from(byte),
        }
    }

    fn document() -> Document {
        Document {
            layers: vec![layer(1), layer(2)],
            records: vec![
                Record {
                    keys: vec![key(1), key(2)],
                    layers: vec![0],
                    took: Some(Duration::from_millis(1500)),
                },
                Record { keys: vec![key(3)], layers: vec![0, 1], took: None },
            ],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Document::from_bytes(&document().to_bytes()), Ok(document()));
    }

    #[test]
    fn the_order_does_not_matter() {
        let other = Document {
            layers: vec![layer(2), layer(9), layer(1), layer(1)],
            records: vec![
                Record { keys: vec![key(3)], layers: vec![3, 0], took: None },
                Record {
                    keys: vec![key(2), key(1), key(2)],
                    layers: vec![2],
                    took: Some(Duration::from_millis(1500)),
                },
                Record { keys: vec![key(1), key(2)], layers: vec![2], took: None },
            ],
        };
        assert_eq!(other.to_bytes(), document().to_bytes());
    }

    /// The document with one value replaced.
    fn with(pointer: &str, value: serde_json::Value) -> Result<Document, Invalid> {
        let mut json = document().to_value();
        *json.pointer_mut(pointer).expect(pointer) = value;
        Document::from_bytes(&serde_json::to_vec(&json).unwrap())
    }

    #[test]
    fn whatever_is_wrong_is_refused() {
        use serde_json::json;
        let wrong = [
            ("/version", json!(2)),
            ("/layers", json!({})),
            ("/layers/0/digest", json!("sha256:00")),
            ("/layers/0/digest", json!("../../etc/passwd")),
            ("/layers/0/size", json!(-1)),
            ("/layers/0/mediaType", json!("text/html")),
            ("/layers/0/form", json!("a\nb")),
            ("/layers/0/form", json!("x".repeat(101))),
            ("/layers/0/created", json!(u64::MAX)),
            ("/layers/0/changes", json!("zz")),
            ("/records/0/keys", json!([])),
            ("/records/0/keys/0", json!("0")),
            ("/records/1/layers", json!([2])),
            ("/records/1/layers", json!([-1])),
            ("/records/1/layers", json!(vec![0; 1001])),
            ("/records/0/took", json!(-1)),
            ("/records/0/took", json!("long")),
        ];
        for (pointer, value) in wrong {
            assert!(with(pointer, value.clone()).is_err(), "{pointer} = {value}");
        }
        assert!(with("/layers/0/created", json!(5)).is_ok());
        // It would be kept for longer than anything else.
        assert_eq!(with("/records/0/took", json!(u64::MAX)).map(|read| read.records[0].took), Ok(None));
        assert!(Document::from_bytes(b"").is_err());
        assert!(Document::from_bytes(&vec![b' '; LARGEST as usize + 1]).is_err());
        let deep = "[".repeat(100_000);
        assert!(Document::from_bytes(format!("{{\"version\":1,\"layers\":{deep}").as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(cut in 0usize..600, bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let mut text = document().to_bytes();
            let cut = cut.min(text.len());
            let end = (cut + bytes.len()).min(text.len());
            text.splice(cut..end, bytes);
            if let Ok(read) = Document::from_bytes(&text) {
                prop_assert!(read.records.iter().flat_map(|record| &record.layers).all(|place| *place < read.layers.len()));
                prop_assert_eq!(Document::from_bytes(&read.to_bytes()).map(|_| ()), Ok(()));
            }
        }
    }
}
