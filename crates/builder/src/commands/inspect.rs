use std::collections::HashSet;

use cache::{Store, StoredImage};
use image::Platform;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::stored;
use crate::failure::Failure;
use crate::template::Template;
use crate::{Machine, terminal};

/// Show all that is known about images of the local store, as JSON.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  builder inspect app
  builder inspect -f '{{json .Config.Env}}' app
  builder inspect -f '{{range .RootFS.Layers}}{{println .}}{{end}}' app")]
pub(crate) struct Args {
    /// Images, by name or id
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,

    /// How it is shown: json, or a Go template
    #[arg(short, long, value_name = "FORMAT", conflicts_with = "json")]
    format: Option<String>,

    /// The same as --format=json: on one line
    #[arg(long)]
    json: bool,

    /// Platform, of an image of several [default: this machine's]
    #[arg(long, value_name = "PLATFORM", value_parser = stored::platform)]
    platform: Option<Platform>,
}

pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    let usage = |reason: String| Failure::usage(format!("--format: {reason}"));
    let template = match args.format.as_deref() {
        None | Some("json") => None,
        Some(text) => Some(Template::parse(text).map_err(usage)?),
    };
    let store = Machine::enter()?.existing_store()?;
    let mut values = Vec::new();
    for text in &args.images {
        let found = stored::find(&store, text)?;
        let image = stored::of_platform(&found, text, args.platform.as_ref())?;
        values.push(describe(&store, &image)?);
    }
    let text = match template {
        Some(template) => {
            let lines = values.iter().map(|value| template.fill(value).map(|line| line + "\n"));
            lines.collect::<Result<String, _>>().map_err(usage)?
        }
        None if args.json || args.format.is_some() => format!("{}\n", Value::Array(values)),
        None => format!("{:#}\n", Value::Array(values)),
    };
    terminal::print(&text)?;
    Ok(0)
}

/// Each text where it comes first.
fn once(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = HashSet::new();
    texts.filter(|text| seen.insert(text.clone())).collect()
}

/// Docker's fields, as far as they mean something here.
fn describe(store: &Store, image: &StoredImage) -> Result<Value, Failure> {
    let (manifest, config) = stored::documents(store, image)?;
    let same = |other: &&StoredImage| other.config == image.config;
    let all = store.list_images()?;
    let named: Vec<_> = all.iter().filter(same).filter(|image| !super::is_id_name(&image.name)).collect();
    let tags = named.iter().filter(|image| image.name.tag.is_some()).map(|image| image.name.familiar());
    let digests = named.iter().map(|image| {
        let (repository, _) = super::images::name_and_tag(&image.name);
        format!("{repository}@{}", stored::digest(image))
    });
    let stored = Timestamp::try_from(image.created).map(|time| time.to_string()).unwrap_or_default();
    let last = config.history.last();
    Ok(json!({
        "Id": image.config,
        "RepoTags": once(tags),
        "RepoDigests": once(digests),
        "Comment": last.and_then(|entry| entry.comment.clone()).unwrap_or_default(),
        "Created": config.created,
        "Author": config.author.clone().unwrap_or_default(),
        "Config": config.config,
        "Architecture": config.architecture,
        "Variant": config.variant.clone().unwrap_or_default(),
        "Os": config.os,
        "Size": image.size,
        "RootFS": { "Type": "layers", "Layers": config.rootfs.diff_ids },
        "Metadata": { "LastTagTime": stored },
        "Descriptor": image.manifest,
        "Annotations": manifest.annotations,
        "Layers": manifest.layers,
    }))
}
