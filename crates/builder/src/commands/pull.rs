use futures::future::try_join_all;
use hash::Digest;
use image::{ImageResolver as _, Platform, Reference, ResolvedImage};
use serde_json::json;

use super::stored;
use super::told::Told;
use crate::failure::Failure;
use crate::progress::{Mode, Progress, Settings, Task};
use crate::{Machine, interrupt, remotes, terminal};

/// Pull an image from its registry into the local image store.
#[derive(Debug, clap::Args)]
#[command(after_help = "Fields of --format: .Name .Digest .ID .Platform")]
pub(crate) struct Args {
    /// Image, as in `[registry/]name[:tag|@digest]`
    #[arg(value_name = "NAME")]
    name: String,

    /// Platform [default: this machine's]
    #[arg(long, value_name = "PLATFORM", value_parser = stored::platform)]
    platform: Option<Platform>,

    /// Print nothing but the name
    #[arg(short, long, conflicts_with_all = ["format", "json"])]
    quiet: bool,

    #[command(flatten)]
    told: Told,
}

pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    let name: Reference = args.name.parse().map_err(|error| Failure::usage(format!("{error}")))?;
    let form = args.told.form(&["Name", "Digest", "ID", "Platform"])?;
    let store = Machine::enter()?.store_or_new()?;
    let session = store.session()?;
    let platform = args.platform.clone().unwrap_or_else(Platform::host);
    let progress = shown("Pulling", args.quiet);
    let runtime = crate::runtime()?;
    let pulled = runtime.block_on(async {
        let task = progress.task(&format!("pulling {name}"));
        let pull = async {
            let image = remotes::client(&[])?.resolve(&name, &platform).await?;
            bring(&image, store.blobs(), &task).await?;
            Ok::<_, Failure>(image)
        };
        let pulled = tokio::select! {
            pulled = pull => pulled,
            () = interrupt::received() => Err(Failure::interrupted()),
        };
        match &pulled {
            Ok(_) => task.done(),
            // Why is said once, at the end.
            Err(_) => task.failed("not pulled"),
        }
        pulled
    });
    runtime.shutdown_background();
    progress.finish();
    let image = pulled?;
    // An image without index is what it is, whatever was asked for. One that runs there is found under that platform.
    let platform = match platform.rank(&image.platform) {
        Some(_) => platform,
        None => {
            let found = &image.platform;
            terminal::tell(&format!("WARNING: {name} is there for {found} alone, not for {platform}\n"));
            found.clone()
        }
    };
    store.put_image_of(&name, &platform, &image, None)?;
    session.finish_durably()?;
    // What the name means there.
    let meant = image.index.as_ref().map_or(image.manifest_digest, |index| index.descriptor.digest);
    let digest = if args.quiet { String::new() } else { format!("Digest: {meant}\n") };
    let id = image.documents.as_ref().map(|documents| Digest::of(&documents.config));
    let value = json!({
        "Name": name.to_string(), "Digest": meant, "ID": id, "Platform": platform.to_string(),
    });
    terminal::print(&form.tell(&value, || format!("{digest}{name}\n"))?)?;
    Ok(0)
}

/// Fetches what is not here: several layers at once, the documents last.
async fn bring(image: &ResolvedImage, store: &cache::BlobStore, task: &Task) -> Result<(), Failure> {
    let layers = image.layers.iter().map(|layer| image.blobs.fetch(&layer.descriptor, store, task));
    try_join_all(layers).await?;
    remotes::put_resolved(image, store)
        .map_err(|error| Failure::build(format!("write to the store: {error}")))
}

/// Progress of something that is no build.
pub(super) fn shown(title: &'static str, quiet: bool) -> Progress {
    let mode = if quiet { Mode::Quiet } else { Mode::Auto };
    Progress::on_stderr(mode, &Settings::from_env(|name| std::env::var_os(name)).titled(title))
}
