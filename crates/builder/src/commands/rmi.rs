use cache::{Store, StoredImage};
use image::Reference;
use serde_json::json;

use super::stored;
use super::told::Told;
use crate::failure::Failure;
use crate::{Machine, format, terminal};

/// Remove names of images, and with the last name the image, from the local store.
///
/// What the image consisted of stays as long as a cached step or another image uses it; `builder prune` frees the rest.
#[derive(Debug, clap::Args)]
#[command(after_help = "Fields of --format, one of which is empty in each line: .Untagged .Deleted")]
pub(crate) struct Args {
    /// Images, by name or id
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,

    /// Remove an image by its id although it has several names; say nothing about images that are not there
    #[arg(short, long)]
    force: bool,

    #[command(flatten)]
    told: Told,
}

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    let form = args.told.form(&["Untagged", "Deleted"])?;
    let store = Machine::enter()?.store_to_remove()?;
    let mut failed: Option<Failure> = None;
    // Each of the others is tried all the same; the last one to fail says the exit code.
    let mut fail = |failure: Failure| {
        if let Some(earlier) = failed.replace(failure) {
            earlier.print();
        }
    };
    for text in &args.images {
        let is_name = text.parse::<Reference>().is_ok();
        let found = match stored::look_for(&store, text) {
            Ok(None) if args.force && is_name => continue,
            Ok(Some(found)) => found,
            Ok(None) => {
                fail(stored::not_there(&store, text));
                continue;
            }
            Err(failure) => {
                fail(failure);
                continue;
            }
        };
        let mut names: Vec<Reference> = found.images.iter().map(|image| image.name.clone()).collect();
        names.dedup();
        let list: Vec<String> =
            names.iter().filter(|name| !super::is_id_name(name)).map(Reference::familiar).collect();
        if found.by_id && list.len() > 1 && !args.force {
            let count = format::count(list.len() as u64, "name");
            fail(
                Failure::build(format!("{text} has {count}: {}", list.join(", ")))
                    .hint("remove it by one of them, or all with --force"),
            );
            continue;
        }
        let mut text = String::new();
        let before = store.list_images()?;
        for name in &names {
            if !super::is_id_name(name) {
                let name = name.familiar();
                text += &form
                    .tell(&json!({ "Untagged": name, "Deleted": "" }), || format!("Untagged: {name}\n"))?;
            }
            let named: Vec<_> = found.images.iter().filter(|image| image.name == *name).cloned().collect();
            store.remove_images(&named)?;
        }
        forget_nameless(&store, &before)?;
        let left = store.list_images()?;
        let mut ids: Vec<_> = found.images.iter().map(|image| image.config).collect();
        ids.dedup();
        for id in ids.into_iter().filter(|id| !left.iter().any(|image| image.config == *id)) {
            text += &form.tell(&json!({ "Untagged": "", "Deleted": id }), || format!("Deleted: {id}\n"))?;
        }
        terminal::print(&text)?;
    }
    failed.map_or(Ok(0), Err)
}

/// An image goes with its last name, although it was made without one: nobody saw it twice, so nobody expects to see it now.
fn forget_nameless(store: &Store, before: &[StoredImage]) -> Result<(), Failure> {
    let left = store.list_images()?;
    let have_name = |name: &Reference, all: &[StoredImage]| {
        all.iter()
            .filter(|image| image.name == *name)
            .map(|image| stored::has_other_name(image, all))
            .collect::<Vec<_>>()
    };
    for image in left.iter().filter(|image| super::is_id_name(&image.name)) {
        let had = have_name(&image.name, before);
        if !had.is_empty() && !had.contains(&false) && !have_name(&image.name, &left).contains(&true) {
            store.remove_image(&image.name)?;
        }
    }
    Ok(())
}
