use image::Reference;

use super::stored;
use crate::failure::Failure;
use crate::{Machine, format, terminal};

/// Remove names of images, and with the last name the image, from the local store.
///
/// What the image consisted of stays as long as a cached step or another image uses it; `builder prune` frees the rest.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Images, by name or id
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,

    /// Remove an image by its id although it has several names; say nothing about images that are not there
    #[arg(short, long)]
    force: bool,
}

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    let store = Machine::enter()?.store()?;
    let mut failed = None;
    for text in &args.images {
        let found = match stored::find(&store, text) {
            Ok(found) => found,
            Err(_) if args.force && text.parse::<Reference>().is_ok() => continue,
            Err(failure) => {
                failed = Some(failure);
                continue;
            }
        };
        let mut names: Vec<Reference> = found.images.iter().map(|image| image.name.clone()).collect();
        names.dedup();
        if found.by_id && names.len() > 1 && !args.force {
            let list: Vec<String> = names.iter().map(Reference::familiar).collect();
            let count = format::count(names.len() as u64, "name");
            failed = Some(
                Failure::build(format!("{text} has {count}: {}", list.join(", ")))
                    .hint("remove it by one of them, or all with --force"),
            );
            continue;
        }
        let mut text = String::new();
        for name in &names {
            store.remove_image(name)?;
            if !super::is_id_name(name) {
                text += &format!("Untagged: {}\n", name.familiar());
            }
        }
        let left = store.list_images()?;
        let mut ids: Vec<_> = found.images.iter().map(|image| image.config).collect();
        ids.dedup();
        for id in ids.into_iter().filter(|id| !left.iter().any(|image| image.config == *id)) {
            text += &format!("Deleted: {id}\n");
        }
        terminal::print(&text)?;
    }
    failed.map_or(Ok(0), Err)
}
