use std::path::PathBuf;
use std::sync::Arc;

use exporter::{Exporter as _, Product, TarExporter, Trees};
use files::FileTree;
use graph::{Event, ProgressSink};
use hash::SystemClock;
use image::Platform;
use serde_json::json;
use worker::{Cancel, LocalWorker};

use super::stored;
use super::told::Told;
use crate::failure::Failure;
use crate::{Machine, interrupt, terminal};

/// Write the files of an image of the local store as a tar.
#[derive(Debug, clap::Args)]
#[command(after_help = "Fields of --format: .Name .ID .Platform .File")]
pub(crate) struct Args {
    /// Image, by name or id
    #[arg(value_name = "IMAGE")]
    image: String,

    /// File that receives the tar [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Platform, of an image of several [default: this machine's]
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
    let found = stored::find(&store, &args.image)?;
    let image = stored::of_platform(&found, &args.image, args.platform.as_ref())?;
    let (name, platform) = (image.name.familiar(), image.platform.to_string());
    let value = json!({ "Name": name, "ID": image.config, "Platform": platform, "File": args.output });
    let said = form.tell(&value, String::new)?;
    let resolved = Arc::new(store.load_image(&image)?);
    let cancel = Cancel::new();
    let work = async {
        let tree =
            LocalWorker::image_files(&store, resolved, Arc::new(Silent), Arc::new(SystemClock), &cancel);
        let tree: Arc<dyn FileTree> = Arc::new(tree.await.map_err(|error| Failure::from(&error))?);
        let trees = Trees { trees: vec![(image.platform.clone(), tree)], split: false, epoch: None };
        Ok::<_, Failure>(TarExporter::new(output).export(Product::Trees(trees)).await?)
    };
    let runtime = crate::runtime()?;
    let done = runtime.block_on(async {
        tokio::select! {
            done = work => done,
            () = interrupt::received() => Err(Failure::interrupted()),
        }
    });
    cancel.cancel();
    runtime.shutdown_timeout(super::TIDY_TIME);
    done?;
    session.finish()?;
    terminal::print(&said)?;
    Ok(0)
}

/// Unpacking says nothing: standard error is for what goes wrong.
struct Silent;

impl ProgressSink for Silent {
    fn event(&self, _: Event) {}
}
