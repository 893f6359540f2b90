use image::{Platform, Reference};
use serde_json::json;

use super::told::Told;
use super::{pull, stored};
use crate::failure::Failure;
use crate::remotes::{self, Pushing};
use crate::{Machine, interrupt, terminal};

/// Push an image of the local store to the registry of its name.
///
/// Layers that the registry has are not sent. An image of several platforms is pushed as an index of all of them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Fields of --format: .Name .Tag .Digest .Size")]
pub(crate) struct Args {
    /// Image, as in `[registry/]name[:tag]`
    #[arg(value_name = "NAME")]
    name: String,

    /// Only this platform, of an image of several
    #[arg(long, value_name = "PLATFORM", value_parser = stored::platform)]
    platform: Option<Platform>,

    /// Every tag of the repository
    #[arg(short, long, conflicts_with = "platform")]
    all_tags: bool,

    /// Print nothing but the name
    #[arg(short, long, conflicts_with_all = ["format", "json"])]
    quiet: bool,

    #[command(flatten)]
    told: Told,
}

pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    let name: Reference = args.name.parse().map_err(|error| Failure::usage(format!("{error}")))?;
    if name.digest.is_some() {
        return Err(Failure::usage(format!(
            "{} cannot be pushed: a digest is no name to push to",
            args.name
        ))
        .hint(format!("`builder tag {0} NAME` gives it a name, `builder push NAME` pushes it", args.name)));
    }
    let form = args.told.form(&["Name", "Tag", "Digest", "Size"])?;
    let store = Machine::enter()?.existing_store()?;
    let session = store.session()?;
    let names = if args.all_tags { tags_of(&store.list_images()?, &name) } else { vec![name.clone()] };
    if names.is_empty() {
        return Err(Failure::build(format!("there is no image of {}", args.name))
            .hint("`builder images` lists those that are here"));
    }
    let progress = pull::shown("Pushing", args.quiet);
    let client = remotes::client(&[])?;
    let runtime = crate::runtime()?;
    let pushed = runtime.block_on(async {
        let push = async {
            let mut said = String::new();
            for name in &names {
                let found = stored::find(&store, &name.to_string())?;
                let prepared = match &args.platform {
                    None => stored::prepared(&store, &found)?,
                    wanted => {
                        let image = stored::of_platform(&found, &args.name, wanted.as_ref())?;
                        stored::one_by_one(&store, &[image])?
                    }
                };
                let task = progress.task(&format!("pushing {name}"));
                let mut pushing = Pushing::new(&client, &store, &prepared);
                let digest = match pushing.push(name, &task).await {
                    Ok(digest) => digest,
                    Err(failure) => {
                        // Why is said once, at the end.
                        task.failed("not pushed");
                        return Err(failure);
                    }
                };
                task.done();
                let tag = name.tag.as_deref().unwrap_or_default();
                let value = json!({
                    "Name": name.to_string(), "Tag": tag, "Digest": digest, "Size": prepared.top.size,
                });
                said += &form.tell(&value, || match args.quiet {
                    true => format!("{name}\n"),
                    false => format!("{tag}: digest: {digest} size: {}\n", prepared.top.size),
                })?;
            }
            Ok(said)
        };
        tokio::select! {
            pushed = push => pushed,
            () = interrupt::received() => Err(Failure::interrupted()),
        }
    });
    runtime.shutdown_background();
    progress.finish();
    let said = pushed?;
    session.finish()?;
    terminal::print(&said)?;
    Ok(0)
}

fn tags_of(images: &[cache::StoredImage], name: &Reference) -> Vec<Reference> {
    let same = |other: &&Reference| {
        (&other.registry, &other.repository) == (&name.registry, &name.repository) && other.tag.is_some()
    };
    let mut names: Vec<Reference> = images.iter().map(|image| &image.name).filter(same).cloned().collect();
    names.dedup();
    names
}
