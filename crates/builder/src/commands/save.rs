use std::path::PathBuf;
use std::sync::Arc;

use exporter::{ArchiveExporter, ArchiveImage};
use image::{ContentStore, Platform, Reference};
use serde_json::json;

use super::stored;
use super::told::Told;
use crate::failure::Failure;
use crate::{Machine, interrupt, terminal};

/// Write images of the local store into one archive, for `builder load`, `docker load` and other tools.
///
/// The archive is a Docker archive and an OCI layout in one.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Fields of --format: .Name .ID .Platform .File; a line for each image, .Name is empty for one that was asked for by its id"
)]
pub(crate) struct Args {
    /// Images, by name or id
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,

    /// File that receives the archive [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Platform, of images of several [default: all, with their index, where all that it lists is here; else this machine's]
    #[arg(long, value_name = "PLATFORM", value_parser = stored::platform)]
    platform: Option<Platform>,

    #[command(flatten)]
    told: Told,
}

pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    let form = super::told_beside_archive(&args.told, args.output.as_deref())?;
    let output = super::archive_output(args.output.as_deref())?;
    let store = Machine::enter()?.existing_store()?;
    let session = store.session()?;
    let mut images: Vec<ArchiveImage> = Vec::new();
    let mut said = String::new();
    for text in &args.images {
        let found = stored::find(&store, text)?;
        let whole = if args.platform.is_none() { stored::whole(&store, &found)? } else { None };
        let (prepared, saved) = match whole {
            Some(prepared) => (prepared, found.one_a_platform()),
            None => {
                let image = stored::of_platform(&found, text, args.platform.as_ref())?;
                (stored::one_by_one(&store, std::slice::from_ref(&image))?, vec![image])
            }
        };
        let Some(first) = saved.first() else { return Err(stored::not_there(&store, text)) };
        let name = first.name.clone();
        for image in &saved {
            // An image that was asked for by its id has no name in the archive, as Docker has it.
            let name = if found.by_id { String::new() } else { image.name.familiar() };
            let platform = image.platform.to_string();
            let value =
                json!({ "Name": name, "ID": image.config, "Platform": platform, "File": args.output });
            said += &form.tell(&value, String::new)?;
        }
        let names = if found.by_id { Vec::new() } else { vec![name] };
        match images.iter_mut().find(|other| other.image.top.digest == prepared.top.digest) {
            Some(other) => {
                let is_new = |name: &Reference| !other.names.contains(name);
                let new: Vec<Reference> = names.into_iter().filter(is_new).collect();
                other.names.extend(new);
            }
            None => images.push(ArchiveImage { image: prepared, names }),
        }
    }
    let blobs: Arc<dyn ContentStore> = Arc::new(store.blobs().clone());
    let runtime = crate::runtime()?;
    let exporter = ArchiveExporter::docker(output);
    let written = runtime.block_on(async {
        tokio::select! {
            written = exporter.export_several(images, blobs) => written.map_err(Failure::from),
            () = interrupt::received() => Err(Failure::interrupted()),
        }
    });
    runtime.shutdown_timeout(super::TIDY_TIME);
    written?;
    session.finish()?;
    terminal::print(&said)?;
    Ok(0)
}
