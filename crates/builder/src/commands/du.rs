use std::time::SystemTime;

use crate::failure::Failure;
use crate::{Machine, format, terminal};

/// Show what the state directory holds.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// List every layer with the step that made it
    #[arg(short, long)]
    verbose: bool,
}

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    let store = Machine::enter()?.store()?;
    let usage = store.usage()?;
    let cells = |row: [&str; 3]| row.map(str::to_owned).to_vec();
    let mut rows = vec![cells(["TYPE", "COUNT", "SIZE"])];
    for (kind, amount) in [
        ("layers", usage.snapshots),
        ("blobs", usage.blobs),
        ("images", usage.images),
        ("cached steps", usage.records),
        ("cache mounts", usage.cache_mounts),
        ("repositories", usage.remotes),
        ("shared files", usage.objects),
        ("failed steps", usage.kept),
        ("logs", usage.logs),
        ("file digests", usage.stat_caches),
        ("temporary", usage.temporary),
    ] {
        // The bytes of images and steps are those of blobs and layers.
        let size = if matches!(kind, "images" | "cached steps") {
            "-".to_owned()
        } else {
            format::bytes(amount.bytes)
        };
        rows.push(cells([kind, &amount.count.to_string(), &size]));
    }
    rows.push(cells(["database", "1", &format::bytes(usage.database.bytes)]));
    rows.push(cells(["Total", "", &format::bytes(usage.total())]));
    let mut text = format::table(&rows);
    if args.verbose {
        let now = SystemTime::now();
        let mut rows = vec![["LAYER", "SIZE", "LAST USED", "STEP"].map(str::to_owned).to_vec()];
        for layer in &usage.layers {
            let step = match (layer.description.as_str(), layer.referenced) {
                (_, false) => "(unused)",
                ("", true) => "(layer of an image)",
                (description, true) => description,
            };
            rows.push(vec![
                layer.id.to_string(),
                format::bytes(layer.size),
                format::ago(layer.last_used, now),
                step.lines().next().unwrap_or_default().to_owned(),
            ]);
        }
        text += &format!("\n{}", format::table(&rows));
    }
    terminal::print(&text)?;
    if terminal::is_watched() {
        terminal::tell(&format!(
            "\nIn {}. `builder prune` frees what nothing uses, `builder prune --all` everything.\n",
            store.root().display()
        ));
    }
    Ok(0)
}
