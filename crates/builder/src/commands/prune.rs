use cache::{PruneOptions, Pruned, Store};

use crate::failure::Failure;
use crate::{Machine, format, terminal};

/// Remove what is not needed from the state directory.
///
/// Without --all, only what no cached step and no image uses.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Remove everything: cached steps, layers, images
    #[arg(short, long)]
    all: bool,

    /// Do not ask, on a terminal, before images are removed
    #[arg(short, long)]
    force: bool,
}

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    let store = Machine::enter()?.store()?;
    if args.all && !args.force && terminal::can_ask() && !agreed(&store)? {
        terminal::tell("Nothing was removed.\n");
        return Ok(0);
    }
    let pruned = store.prune(PruneOptions { all: args.all, wait: false })?;
    terminal::print(&summary(&pruned))?;
    Ok(0)
}

/// What is cached can be built again; a name that somebody gave to an image is gone for good.
fn agreed(store: &Store) -> Result<bool, Failure> {
    let images = store.list_images()?.into_iter().filter(|image| !super::is_id_name(&image.name)).count();
    if images == 0 {
        return Ok(true);
    }
    let images = format::count(images as u64, "image");
    Ok(terminal::confirm(&format!(
        "This removes the cache and {images} (`builder images` lists them). Continue?"
    )))
}

fn summary(pruned: &Pruned) -> String {
    let parts = [
        (pruned.records, "cached step"),
        (pruned.snapshots, "layer"),
        (pruned.images, "image"),
        (pruned.blobs, "blob"),
    ];
    let removed: Vec<String> = parts
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, noun)| format::count(number, noun))
        .collect();
    match removed.is_empty() {
        true if pruned.bytes == 0 => "There was nothing to remove.\n".to_owned(),
        true => format!("Freed {}.\n", format::bytes(pruned.bytes)),
        false => format!("Removed {}: freed {}.\n", removed.join(", "), format::bytes(pruned.bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_removed_is_told() {
        assert_eq!(summary(&Pruned::default()), "There was nothing to remove.\n");
        let pruned = Pruned { records: 2, snapshots: 1, bytes: 1_500_000, ..Pruned::default() };
        assert_eq!(summary(&pruned), "Removed 2 cached steps, 1 layer: freed 1.5MB.\n");
    }
}
