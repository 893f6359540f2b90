//! What an image and its rebuilt twin differ in.

use std::ops::Range;

use cache::{Store, StoredImage};
use image::{
    ContentStore, Descriptor, EntryChange, EntryDiff, ImageConfig, LayerDiff, Manifest, Platform,
    compare_layers, decompress,
};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::difference::{Difference, differences};
use super::inputs::Inputs;
use crate::commands::stored;
use crate::failure::Failure;
use crate::format;
use crate::progress::harmless;

/// Files of one layer that the text names.
const SHOWN: usize = 20;
/// Longer values are cut, in characters.
const LONGEST: usize = 120;

/// What differs, by platform.
pub(super) struct Report {
    image: String,
    /// The build that was repeated.
    build: Option<String>,
    platforms: Vec<Compared>,
    /// Whether times count.
    with_times: bool,
    /// What they were made from.
    inputs: Inputs,
}

/// The image of one platform.
struct Compared {
    platform: Platform,
    manifest: Descriptor,
    /// `None` when it was not made.
    rebuilt: Option<Descriptor>,
    documents: Vec<(&'static str, Vec<Difference>)>,
    layers: Vec<LayerReport>,
}

/// A layer that is not the same.
struct LayerReport {
    /// From 0, bottom first.
    index: usize,
    /// The instruction.
    made_by: String,
    /// Blob and uncompressed digest of the image's.
    image: Option<Layer>,
    rebuilt: Option<Layer>,
    diff: LayerDiff,
}

#[derive(Clone, PartialEq, Eq)]
struct Layer {
    blob: Descriptor,
    diff_id: String,
}

impl Layer {
    fn json(&self) -> Value {
        json!({ "digest": self.blob.digest, "size": self.blob.size, "diff_id": self.diff_id })
    }
}

/// Images in their store.
type Side<'a> = (&'a Store, &'a [StoredImage]);

impl Report {
    /// Compares image by image.
    pub(super) fn new(
        image: String,
        build: Option<String>,
        (store, images): Side<'_>,
        (other, rebuilt): Side<'_>,
        ignore_times: bool,
    ) -> Result<Report, Failure> {
        let compared = |image: &StoredImage| {
            let twin = rebuilt.iter().find(|other| other.platform == image.platform);
            Compared::new((store, image), (other, twin), ignore_times)
        };
        let platforms = images.iter().map(compared).collect::<Result<_, _>>()?;
        Ok(Report { image, build, platforms, with_times: !ignore_times, inputs: Inputs::default() })
    }

    /// Tells as well what changed of what the image was made from.
    pub(super) fn made_from(self, inputs: Inputs) -> Report {
        Report { inputs, ..self }
    }

    pub(super) fn is_identical(&self) -> bool {
        self.platforms.iter().all(Compared::is_identical)
    }

    /// Whether nothing but times differs.
    fn is_a_matter_of_times(&self) -> bool {
        let time = |change: &EntryChange| matches!(change, EntryChange::Time { .. });
        let layer = |layer: &LayerReport| {
            layer.diff.tar_from.is_none()
                && !layer.diff.entries.is_empty()
                && layer.diff.entries.iter().flat_map(|entry| &entry.changes).all(time)
        };
        let document =
            |(_, found): &(&str, Vec<Difference>)| found.iter().all(|difference| is_time(&difference.place));
        self.platforms.iter().all(|one| {
            one.rebuilt.is_some() && one.layers.iter().all(layer) && one.documents.iter().all(document)
        })
    }

    pub(super) fn text(&self) -> String {
        let twin = match &self.build {
            Some(build) => format!("what build {build} makes"),
            None => "what is built".to_owned(),
        };
        // It comes first: whoever reads on knows why.
        let mut text = if self.is_identical() { String::new() } else { self.inputs.text() };
        for one in &self.platforms {
            let name = format!("{} ({})", harmless(&self.image), one.platform);
            match (&one.rebuilt, one.is_identical()) {
                (_, true) if self.with_times => {
                    text +=
                        &format!("{name} is {twin} from nothing, byte for byte: {}\n", one.manifest.digest);
                }
                (_, true) => text += &format!("{name} is {twin} from nothing, but for times\n"),
                (None, _) => text += &format!("{name} is no part of {twin} from nothing\n"),
                (Some(_), false) => {
                    text += &format!("{name} differs from {twin} from nothing\n{}", one.text())
                }
            }
        }
        if !self.is_identical() && self.is_a_matter_of_times() {
            text += "\nOnly times differ: with SOURCE_DATE_EPOCH they are fixed, with --ignore-times they do not count.\n";
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "image": self.image,
            "build": self.build,
            "identical": self.is_identical(),
            "times": if self.with_times { "compared" } else { "ignored" },
            "inputs": self.inputs.json(),
            "platforms": self.platforms.iter().map(Compared::json).collect::<Vec<_>>(),
        })
    }
}

impl Compared {
    fn new(
        (store, image): (&Store, &StoredImage),
        (other, twin): (&Store, Option<&StoredImage>),
        ignore_times: bool,
    ) -> Result<Compared, Failure> {
        let mut compared = Compared {
            platform: image.platform.clone(),
            manifest: image.manifest.clone(),
            rebuilt: twin.map(|twin| twin.manifest.clone()),
            documents: Vec::new(),
            layers: Vec::new(),
        };
        let Some(twin) = twin.filter(|twin| twin.manifest.digest != image.manifest.digest) else {
            return Ok(compared);
        };
        let (ours, theirs) = (Documents::of(store, image)?, Documents::of(other, twin)?);
        for (name, mut found) in [
            ("config", differences(&ours.config_json, &theirs.config_json)),
            ("manifest", differences(&ours.manifest_json, &theirs.manifest_json)),
        ] {
            found.retain(|difference| !ignore_times || !is_time(&difference.place));
            if !found.is_empty() {
                compared.documents.push((name, found));
            }
        }
        let (ours, theirs) = (ours.layers(), theirs.layers());
        for index in 0..ours.len().max(theirs.len()) {
            let (left, right) = (ours.get(index), theirs.get(index));
            if left.map(|(layer, _)| layer) == right.map(|(layer, _)| layer) {
                continue;
            }
            let mut report = LayerReport {
                index,
                made_by: left.or(right).map(|(_, made_by)| made_by.clone()).unwrap_or_default(),
                image: left.map(|(layer, _)| layer.clone()),
                rebuilt: right.map(|(layer, _)| layer.clone()),
                diff: LayerDiff::default(),
            };
            if let (Some(left), Some(right)) = (&report.image, &report.rebuilt)
                && left.diff_id != right.diff_id
            {
                let diff = compare_layers(&opener(store, &left.blob), &opener(other, &right.blob))
                    .map_err(|error| Failure::build(format!("compare layer {}: {error}", index + 1)))?;
                report.diff = if ignore_times { diff.without_times() } else { diff };
                if ignore_times && report.diff.is_empty() {
                    continue;
                }
            }
            compared.layers.push(report);
        }
        Ok(compared)
    }

    fn is_identical(&self) -> bool {
        self.rebuilt.is_some() && self.documents.is_empty() && self.layers.is_empty()
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (name, found) in &self.documents {
            text += &format!("\n{name}\n");
            for difference in found {
                let side = |value: &Option<Value>| value.as_ref().map_or("nothing".to_owned(), shown);
                let (image, rebuilt) = (side(&difference.image), side(&difference.rebuilt));
                text += &format!("  {}: {image}, rebuilt {rebuilt}\n", harmless(&difference.place));
            }
        }
        self.layers.iter().fold(text, |text, layer| text + &layer.text())
    }

    fn json(&self) -> Value {
        let documents = self.documents.iter().flat_map(|(name, found)| {
            found.iter().map(move |difference| {
                json!({
                    "document": name, "place": difference.place, "image": difference.image, "rebuilt": difference.rebuilt,
                })
            })
        });
        json!({
            "platform": self.platform.to_string(),
            "identical": self.is_identical(),
            "image": self.manifest.digest,
            "rebuilt": self.rebuilt.as_ref().map(|manifest| manifest.digest),
            "documents": documents.collect::<Vec<_>>(),
            "layers": self.layers.iter().map(LayerReport::json).collect::<Vec<_>>(),
        })
    }
}

/// Whether a place in a config holds a time of the build.
fn is_time(place: &str) -> bool {
    // Of the image, of an instruction, of a result in the cache that the image carries.
    place == "/created"
        || (place.ends_with("/created")
            && ["/history/", "/builder.cache."].iter().any(|list| place.starts_with(list)))
}

/// Manifest and config of an image.
struct Documents {
    manifest: Manifest,
    config: ImageConfig,
    /// Without what follows from the layers and the config.
    manifest_json: Value,
    config_json: Value,
}

impl Documents {
    fn of(store: &Store, image: &StoredImage) -> Result<Documents, Failure> {
        let (manifest, config) = stored::documents(store, image)?;
        let mut manifest_json = stored::document(store, &image.manifest)?;
        let mut config_json = stored::document(store, &manifest.config)?;
        if let Some(rootfs) = config_json.get_mut("rootfs").and_then(Value::as_object_mut) {
            rootfs.remove("diff_ids");
        }
        let bare = |descriptor: &mut Value| {
            if let Some(descriptor) = descriptor.as_object_mut() {
                descriptor.remove("digest");
                descriptor.remove("size");
            }
        };
        manifest_json.get_mut("config").map(bare);
        let layers = manifest_json.get_mut("layers").and_then(Value::as_array_mut);
        layers.into_iter().flatten().for_each(bare);
        Ok(Documents { manifest, config, manifest_json, config_json })
    }

    /// The layers, each with the instruction that made it.
    fn layers(&self) -> Vec<(Layer, String)> {
        let mut history = self.config.history.iter().filter(|entry| !entry.empty_layer);
        let layers = self.manifest.layers.iter().zip(&self.config.rootfs.diff_ids);
        let layer = |(blob, diff_id): (&Descriptor, &hash::Digest)| {
            let made_by = history.next().and_then(|entry| entry.created_by.clone()).unwrap_or_default();
            (Layer { blob: blob.clone(), diff_id: diff_id.to_string() }, made_by)
        };
        layers.map(layer).collect()
    }
}

/// Opens a layer's tar.
fn opener<'a>(
    store: &'a Store,
    blob: &'a Descriptor,
) -> impl Fn() -> std::io::Result<Box<dyn std::io::Read + Send>> + use<'a> {
    move || {
        let opened = ContentStore::open(store.blobs(), &blob.digest)?;
        decompress(opened.ok_or(std::io::ErrorKind::NotFound)?)
    }
}

impl LayerReport {
    fn text(&self) -> String {
        let mut text = format!("\nlayer {}", self.index + 1);
        if !self.made_by.is_empty() {
            text += &format!(": {}", cut(&harmless(&self.made_by)));
        }
        text.push('\n');
        match (&self.image, &self.rebuilt) {
            (Some(_), None) => text += "  only the image has it\n",
            (None, _) => text += "  only the rebuilt image has it\n",
            (Some(left), Some(right)) if left.diff_id == right.diff_id => {
                text += "  its files are the same; the blobs differ, as another compression or program makes them\n";
            }
            _ => {}
        }
        for entry in self.diff.entries.iter().take(SHOWN) {
            let changes: Vec<String> = entry.changes.iter().map(in_words).collect();
            text += &format!("  {}  {}\n", path(entry), changes.join("; "));
        }
        let more = self.diff.entries.len().saturating_sub(SHOWN);
        if more > 0 {
            text +=
                &format!("  and {} more (--format=json has them all)\n", format::count(more as u64, "path"));
        }
        if let Some(from) = self.diff.tar_from {
            text += &format!(
                "  its files are the same; the tar differs from byte {from} on: order, or how it is written\n"
            );
        }
        text
    }

    fn json(&self) -> Value {
        let files = self.diff.entries.iter().map(|entry| {
            let changes: Vec<Value> = entry.changes.iter().map(as_json).collect();
            json!({ "path": path(entry), "changes": changes })
        });
        json!({
            "index": self.index,
            "made_by": self.made_by,
            "image": self.image.as_ref().map(Layer::json),
            "rebuilt": self.rebuilt.as_ref().map(Layer::json),
            "files": files.collect::<Vec<_>>(),
            "tar_from": self.diff.tar_from,
        })
    }
}

fn path(entry: &EntryDiff) -> String {
    format!("/{}", harmless(&String::from_utf8_lossy(&entry.path)))
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

fn shown(value: &Value) -> String {
    cut(&harmless(&value.to_string()))
}

fn time((seconds, nanos): (i64, u32)) -> String {
    let nanos = i32::try_from(nanos).unwrap_or(0);
    Timestamp::new(seconds, nanos).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

/// A range as the offsets of its first and last byte, which count from 0.
fn range(range: &Range<u64>) -> String {
    match range.end - range.start {
        1 => range.start.to_string(),
        _ => format!("{}-{}", range.start, range.end - 1),
    }
}

fn in_words(change: &EntryChange) -> String {
    let text = |bytes: &[u8]| harmless(&String::from_utf8_lossy(bytes));
    match change {
        EntryChange::OnlyLeft => "only in the image".to_owned(),
        EntryChange::OnlyRight => "only in the rebuilt image".to_owned(),
        EntryChange::Kind { left, right } => format!("{left}, rebuilt {right}"),
        EntryChange::Target { left, right } => format!("leads to {}, rebuilt to {}", text(left), text(right)),
        EntryChange::Device { left, right } => {
            format!("device {}:{}, rebuilt {}:{}", left.0, left.1, right.0, right.1)
        }
        EntryChange::Mode { left, right } => format!("mode {left:04o}, rebuilt {right:04o}"),
        EntryChange::Owner { left, right } => {
            format!("owner {}:{}, rebuilt {}:{}", left.0, left.1, right.0, right.1)
        }
        EntryChange::Time { left, right } => format!("time {}, rebuilt {}", time(*left), time(*right)),
        EntryChange::Xattr { name, .. } => format!("attribute {}", text(name)),
        EntryChange::Content { left, right, ranges, bytes, first } => {
            let sizes = match left == right {
                true => String::new(),
                false => format!("size {left}, rebuilt {right}; "),
            };
            let (Some(count), Some(from)) = (bytes, ranges.first().map(|range| range.start)) else {
                return format!("{sizes}content differs");
            };
            let which = match (left == right, count) {
                (true, 1) => format!("1 of its {left} bytes differs, at offset"),
                (true, _) => format!("{count} of its {left} bytes differ, at offsets"),
                (false, 1) => "1 byte differs, at offset".to_owned(),
                (false, _) => format!("{count} bytes differ, at offsets"),
            };
            let listed: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            let places: Vec<String> = ranges.iter().map(range).collect();
            let more = if listed < *count { ", …" } else { "" };
            let (ours, theirs) = (byte(first.0), byte(first.1));
            format!("{sizes}{which} {}{more}; offset {from}: {ours}, rebuilt {theirs}", places.join(", "))
        }
    }
}

/// A byte, and the character that it is, where it is one.
fn byte(byte: Option<u8>) -> String {
    match byte {
        Some(byte) if byte.is_ascii_graphic() => format!("0x{byte:02x} ({})", char::from(byte)),
        Some(byte) => format!("0x{byte:02x}"),
        None => "the end of the file".to_owned(),
    }
}

fn as_json(change: &EntryChange) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let pair =
        |what: &str, left: Value, right: Value| json!({ "what": what, "image": left, "rebuilt": right });
    match change {
        EntryChange::OnlyLeft => json!({ "what": "only in the image" }),
        EntryChange::OnlyRight => json!({ "what": "only in the rebuilt image" }),
        EntryChange::Kind { left, right } => pair("kind", (*left).into(), (*right).into()),
        EntryChange::Target { left, right } => pair("target", text(left).into(), text(right).into()),
        EntryChange::Device { left, right } => {
            pair("device", json!([left.0, left.1]), json!([right.0, right.1]))
        }
        EntryChange::Mode { left, right } => {
            pair("mode", format!("{left:04o}").into(), format!("{right:04o}").into())
        }
        EntryChange::Owner { left, right } => {
            pair("owner", json!([left.0, left.1]), json!([right.0, right.1]))
        }
        EntryChange::Time { left, right } => pair("time", time(*left).into(), time(*right).into()),
        EntryChange::Xattr { name, left, right } => {
            let side =
                |value: &Option<Vec<u8>>| value.as_deref().map(|value| value.escape_ascii().to_string());
            let mut found = pair("attribute", json!(side(left)), json!(side(right)));
            found["name"] = text(name).into();
            found
        }
        EntryChange::Content { left, right, ranges, bytes, first } => {
            let mut found = pair("content", json!({ "size": left }), json!({ "size": right }));
            let ranges =
                ranges.iter().map(|range| json!({ "from": range.start, "bytes": range.end - range.start }));
            found["ranges"] = ranges.collect::<Vec<_>>().into();
            found["bytes"] = json!(bytes);
            if bytes.is_some() {
                found["first"] = json!({ "image": first.0, "rebuilt": first.1 });
            }
            found
        }
    }
}
