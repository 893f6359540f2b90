use std::time::SystemTime;

use cache::{CachePart, Limits, PruneOptions, Pruned, Store};

use super::build::size;
use super::filter::{self, Filter};
use crate::failure::Failure;
use crate::{Machine, format, terminal};

/// Remove what is not needed from the state directory.
///
/// Without further options, only what no cached step and no image uses; with --all everything. With --filter, everything that all
/// filters match, and with limits (of which 0 is none) only so much of it as it takes to keep them: what was not used for long and is made
/// again in little time goes first. Images are left alone then. Builds and other commands may be running: what they use stays.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Remove everything that is not in use: cached steps, layers, images
    #[arg(short, long)]
    all: bool,

    /// Only what matches: until=24h (not used since, to the minute), type=regular|exec.cachemount|source.git.checkout, id=…, description=…, parents=…,
    /// inuse, shared, private, mutable, immutable; with != what does not; repeatable
    #[arg(long, value_name = "FILTER", value_parser = filter::parse)]
    filter: Vec<Filter>,

    /// Bytes of the cache that stay in any case, such as 5GB
    #[arg(long, value_name = "BYTES", value_parser = size, alias = "keep-storage", default_value = "0", hide_default_value = true)]
    reserved_space: u64,

    /// Bytes that the cache may have
    #[arg(long, value_name = "BYTES", value_parser = size, default_value = "0", hide_default_value = true)]
    max_used_space: u64,

    /// Bytes that are to be free on the file system
    #[arg(long, value_name = "BYTES", value_parser = size, default_value = "0", hide_default_value = true)]
    min_free_space: u64,

    /// With --all: do not ask before images are removed. Without a terminal, nobody can be asked: then --all needs it
    #[arg(short, long)]
    force: bool,
}

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    let store = Machine::enter()?.store_to_remove()?;
    if let Some(pruned) = evict(&store, &args)? {
        return tell(&pruned);
    }
    if args.all && !args.force {
        if !terminal::can_ask() {
            return Err(Failure::usage(
                "--all removes every image too, and there is no terminal on which to ask",
            )
            .hint("nothing was removed; `builder prune --all --force` does not ask"));
        }
        if !agreed(&store)? {
            terminal::tell("Nothing was removed.\n");
            return Ok(0);
        }
    }
    tell(&store.prune(PruneOptions { all: args.all })?)
}

fn tell(pruned: &Pruned) -> Result<u8, Failure> {
    terminal::print(&summary(pruned))?;
    if pruned.in_use > 0 {
        let parts = format::count(pruned.in_use, "part");
        terminal::tell(&format!(
            "{parts} of the cache stayed: builds or other commands are using them (`builder du --filter inuse`).\n"
        ));
    }
    Ok(0)
}

/// Removes what filters and limits say; `None` when there are none.
fn evict(store: &Store, args: &Args) -> Result<Option<Pruned>, Failure> {
    let limits = Limits {
        reserved_space: args.reserved_space,
        max_used_space: args.max_used_space,
        min_free_space: args.min_free_space,
    };
    if args.filter.is_empty() && limits == Limits::default() {
        return Ok(None);
    }
    let now = SystemTime::now();
    let wanted = |part: &CachePart| args.filter.iter().all(|filter| filter.matches(part, now));
    let why = match args.max_used_space {
        0 => "by builder prune".to_owned(),
        most => format!("to keep under {}", format::bytes(most)),
    };
    Ok(Some(store.evict(&wanted, limits, &why)?))
}

/// What is cached can be built again; a name that somebody gave to an image is gone for good.
fn agreed(store: &Store) -> Result<bool, Failure> {
    let images = super::stored::listed(store)?;
    let nameless = images.iter().filter(|image| super::is_id_name(&image.name)).count();
    if nameless == images.len() {
        return Ok(true);
    }
    let without = match nameless {
        0 => String::new(),
        some => format!(", {some} of them without a name"),
    };
    let images = format::count(images.len() as u64, "image");
    Ok(terminal::confirm(&format!(
        "This removes the cache and {images}{without} (`builder images` lists them). Continue?"
    )))
}

fn summary(pruned: &Pruned) -> String {
    let parts = [
        (pruned.records, "cached step"),
        (pruned.kept, "failed step"),
        (pruned.snapshots, "layer"),
        (pruned.images, "image"),
        (pruned.blobs, "blob"),
        (pruned.mounts, "cache mount"),
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
