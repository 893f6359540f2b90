use std::fmt::Write as _;

use cache::{Checked, Finding};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::format::count;
use crate::{Machine, terminal};

/// Look for what is damaged in the state directory.
///
/// Reads all blobs and layers and compares them with what is known about them; lists what is damaged, and what nothing leads to. With --repair it
/// removes that: a build makes or fetches again what it needs. Ends with 1 when something was found. Cache mounts belong to the programs that
/// use them and are not looked into.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Remove what is damaged; no build may be running
    #[arg(long)]
    repair: bool,

    /// Print JSON
    #[arg(long, value_name = "FORMAT", value_parser = ["json"])]
    format: Option<String>,
}

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    let store = Machine::enter()?.store()?;
    let mut checked = store.check(args.repair)?;
    // What was found broken when it was opened was set aside already.
    if store.was_broken() {
        checked.findings.insert(
            0,
            Finding {
                kind: cache::FindingKind::Database,
                name: store.root().display().to_string(),
                what: "it could not be read, and was begun anew".to_owned(),
                repaired: true,
            },
        );
    }
    terminal::print(&match args.format {
        Some(_) => format!("{:#}\n", as_json(&checked)),
        None => as_text(&checked, args.repair),
    })?;
    Ok(u8::from(!checked.findings.is_empty()))
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
        let then = if *repaired { "; removed" } else { "" };
        let _ = writeln!(text, "{} {}: {what}{then}", kind.name(), name.escape_debug());
    }
    let looked_at = [
        count(checked.blobs, "blob"),
        count(checked.layers, "layer"),
        count(checked.records, "record"),
        count(checked.images, "image"),
    ];
    let found = match checked.findings.len() {
        0 => "nothing is damaged".to_owned(),
        number => count(number as u64, "finding"),
    };
    let _ = writeln!(text, "Checked {}: {found}.", looked_at.join(", "));
    if checked.unknown > 0 {
        let _ = writeln!(
            text,
            "{} could be read, but not compared: a copy or an image brought them. From now on their digests are known.",
            count(checked.unknown, "layer")
        );
    }
    if !repair && !checked.findings.is_empty() {
        text += "`builder fsck --repair` removes what is damaged.\n";
    }
    text
}
