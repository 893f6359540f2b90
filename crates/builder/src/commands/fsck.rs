use std::fmt::Write as _;
use std::path::Path;

use cache::{CacheError, Checked, Finding, FindingKind, Store};
use serde_json::{Value, json};

use super::as_json::AsJson;
use crate::failure::Failure;
use crate::format::count;
use crate::{Machine, terminal};

/// Look for what is damaged in the state directory.
///
/// Reads all blobs and layers and compares them with what is known about them; lists what is damaged, and what nothing leads to. With --repair it
/// removes both: a build makes or fetches again what it needs. Ends with 1 when something is damaged. What nothing leads to, such as what a killed
/// build left, is no damage: it only takes room until prune or an automatic collection removes it. Files of yours at the top of the state directory
/// are only named. Cache mounts belong to the programs that use them and are not looked into.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Remove what is damaged; no other command may be using the state directory
    #[arg(long)]
    repair: bool,

    #[command(flatten)]
    as_json: AsJson,
}

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    let machine = Machine::enter()?;
    let checked = match machine.try_existing_store()? {
        Ok(store) => check(&machine, store, args.repair)?,
        Err(CacheError::Damaged { .. }) if args.repair => check(&machine, machine.store()?, true)?,
        // Nothing can be compared with a database that cannot be read.
        Err(CacheError::Damaged { path, why }) => damaged(&path, why, false),
        Err(error) => return Err(error.into()),
    };
    terminal::print(&match args.as_json.is_wanted() {
        true => format!("{:#}\n", as_json(&checked)),
        false => as_text(&checked, args.repair),
    })?;
    Ok(u8::from(damages(&checked) > 0))
}

/// Checks and repairs. A database that is found damaged is replaced by what can be read of it when it is opened again; then the rest is
/// compared with that.
fn check(machine: &Machine, store: Store, repair: bool) -> Result<Checked, Failure> {
    let mut replaced = store.replaced().cloned();
    let mut checked = store.check(repair)?;
    if repair && checked.findings.iter().any(|finding| finding.kind == FindingKind::Database) {
        drop(store);
        let store = machine.store()?;
        replaced = store.replaced().cloned();
        checked = store.check(true)?;
    }
    if let Some(replaced) = replaced {
        let mut all = damaged(&machine.home, replaced.to_string(), true);
        all.findings.append(&mut checked.findings);
        checked.findings = all.findings;
    }
    Ok(checked)
}

/// How much is wrong: what only lies about is not.
fn damages(checked: &Checked) -> usize {
    let is_damage = |kind| !matches!(kind, FindingKind::Foreign | FindingKind::Stray);
    checked.findings.iter().filter(|finding| is_damage(finding.kind)).count()
}

/// What nothing leads to, and still lies there.
fn leftovers(checked: &Checked) -> usize {
    let is_left = |finding: &&Finding| finding.kind == FindingKind::Stray && !finding.repaired;
    checked.findings.iter().filter(is_left).count()
}

fn damaged(path: &Path, what: String, repaired: bool) -> Checked {
    let kind = FindingKind::Database;
    let finding = Finding { kind, name: path.display().to_string(), what, repaired };
    Checked { findings: vec![finding], ..Checked::default() }
}

fn as_json(checked: &Checked) -> Value {
    let finding = |finding: &Finding| {
        json!({
            "kind": finding.kind.name(),
            "name": finding.name,
            "what": finding.what,
            "repaired": finding.repaired,
        })
    };
    json!({
        "blobs": checked.blobs,
        "layers": checked.layers,
        "layers_without_digest": checked.unknown,
        "records": checked.records,
        "images": checked.images,
        "findings": checked.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

fn as_text(checked: &Checked, repair: bool) -> String {
    let mut text = String::new();
    for Finding { kind, name, what, repaired } in &checked.findings {
        // What became of a database is told with it.
        let then = if *repaired && *kind != FindingKind::Database { "; removed" } else { "" };
        let _ = writeln!(text, "{} {}: {what}{then}", kind.name(), name.escape_debug());
    }
    let looked_at = [
        count(checked.blobs, "blob"),
        count(checked.layers, "layer"),
        count(checked.records, "record"),
        count(checked.images, "image"),
    ];
    let found = match damages(checked) {
        0 => "nothing is damaged".to_owned(),
        1 => "1 is damaged".to_owned(),
        number => format!("{number} are damaged"),
    };
    let _ = writeln!(text, "Checked {}: {found}.", looked_at.join(", "));
    if checked.unknown > 0 {
        let _ = writeln!(
            text,
            "{} could be read, but not compared: nothing was noted when they were made. From now on their digests are known.",
            count(checked.unknown, "layer")
        );
    }
    if !repair && damages(checked) > 0 {
        text += "`builder fsck --repair` removes what is damaged.\n";
    }
    if leftovers(checked) > 0 {
        let left = count(leftovers(checked) as u64, "leftover");
        let _ = writeln!(
            text,
            "{left} (stray) of what ended before it was done: no damage, and `builder fsck --repair` removes that."
        );
    }
    text
}
