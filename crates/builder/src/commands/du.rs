use std::time::{SystemTime, UNIX_EPOCH};

use cache::{CachePart, KeptId, Store};
use serde_json::{Value, json};

use super::as_json::AsJson;
use super::du_by::{self, By};
use super::filter::{self, Filter};
use crate::failure::Failure;
use crate::progress::harmless;
use crate::{Machine, format, terminal};

/// Show what the state directory holds.
///
/// As JSON it is one object a layer, mount or repository.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// List every layer with the step that made it
    #[arg(short, long)]
    verbose: bool,

    /// List what matches, with what removing it would free: until=24h (not used since), type=regular|exec.cachemount|source.git.checkout,
    /// id=…, description=…, parents=…, inuse, shared, private, mutable, immutable; with != what does not; repeatable
    #[arg(long, value_name = "FILTER", value_parser = filter::parse)]
    filter: Vec<Filter>,

    /// What images, stages, steps or cache mounts take, and what would be free without them
    #[arg(long, value_name = "KIND", conflicts_with_all = ["verbose", "format", "json"])]
    by: Option<By>,

    #[command(flatten)]
    as_json: AsJson,
}

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    let store = Machine::enter()?.existing_store()?;
    if args.by == Some(By::Image) {
        if !args.filter.is_empty() {
            return Err(Failure::usage("filters choose parts of the cache, and images are none")
                .hint("`builder images --filter` chooses images"));
        }
        terminal::print(&du_by::images(&store)?)?;
        return Ok(0);
    }
    if args.as_json.is_wanted() || args.by.is_some() || !args.filter.is_empty() {
        return list(&store, &args);
    }
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
        ("failed steps", usage.kept),
        ("logs", usage.logs),
        ("builds", usage.builds),
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
        text += &format!("\n{}", format::table_within(&rows, &[3], terminal::columns()));
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

/// What can be removed one by one, as `prune --filter` would.
fn list(store: &Store, args: &Args) -> Result<u8, Failure> {
    let now = SystemTime::now();
    let mut parts = store.cache_parts()?;
    let is_mount = |part: &CachePart| part.layer().is_none();
    let wanted = |part: &CachePart| args.filter.iter().all(|filter| filter.matches(part, now));
    if args.by == Some(By::Stage) {
        terminal::print(&du_by::stages(&parts, &wanted))?;
        return Ok(0);
    }
    parts.retain(wanted);
    match args.by {
        Some(By::Step) => parts.retain(|part| !is_mount(part)),
        Some(By::Mount) => parts.retain(is_mount),
        Some(By::Image | By::Stage) | None => {}
    }
    if args.as_json.is_wanted() {
        let lines: String = parts.iter().map(|part| format!("{}\n", as_json(part))).collect();
        terminal::print(&lines)?;
        return Ok(0);
    }
    let mut rows = vec![["ID", "TYPE", "SIZE", "FREES", "LAST USED", "STEP"].map(str::to_owned).to_vec()];
    for part in &parts {
        rows.push(vec![
            harmless(&part.id),
            part.kind.upstream().to_owned(),
            format::bytes(part.bytes),
            match part.held {
                None => format::bytes(part.frees),
                Some(KeptId(id)) => format!("0B (debug {id})"),
            },
            format::ago(part.last_used, now),
            if part.description.is_empty() {
                "(layer of an image)".to_owned()
            } else {
                harmless(&part.description)
            },
        ]);
    }
    let total = |of: &dyn Fn(&CachePart) -> bool| {
        format::bytes(parts.iter().filter(|part| of(part)).map(|part| part.bytes).sum())
    };
    let text = format!(
        "{}\nShared:       {}\nPrivate:      {}\nReclaimable:  {}\nTotal:        {}\n",
        format::table_within(&rows, &[0, 5], terminal::columns()),
        total(&|part| part.shared),
        total(&|part| !part.shared),
        total(&|part| !part.in_use),
        total(&|_| true)
    );
    terminal::print(&text)?;
    if terminal::is_watched() && parts.iter().any(|part| part.held.is_some()) {
        terminal::tell(
            "\nWhat says (debug N) stays for the failed step that `builder debug N` opens, until its time is over.\n",
        );
    }
    Ok(0)
}

/// With upstream's names.
fn as_json(part: &CachePart) -> Value {
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    json!({
        "ID": part.id,
        "Parents": part.parents,
        "CreatedAt": part.created.map(seconds),
        "LastUsedAt": seconds(part.last_used),
        "InUse": part.in_use,
        "Reclaimable": !part.in_use,
        "Mutable": matches!(part.kind, cache::CacheKind::Mount | cache::CacheKind::Repository),
        "Shared": part.shared,
        "Size": part.bytes,
        "Frees": part.frees,
        "HeldBy": part.held.map(|KeptId(id)| id),
        "Description": part.description,
        "Type": part.kind.upstream(),
        "Milliseconds": u64::try_from(part.cost.as_millis()).unwrap_or(u64::MAX),
    })
}
