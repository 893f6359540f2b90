//! The figures as a table and as JSON.

use std::time::Duration;

use serde_json::json;

use crate::bench::{Figures, Row};
use crate::shell::{self, Result};

/// The middle of the times, the lower one of two.
fn median(figures: &Figures) -> Option<Duration> {
    let mut times = figures.times.clone();
    times.sort_unstable();
    times.get(times.len().checked_sub(1)? / 2).copied()
}

/// One scenario, as soon as it is measured.
pub(crate) fn row(row: &Row) {
    for figures in &row.figures {
        let name = figures.tool;
        match (median(figures), &figures.note) {
            (Some(median), None) => {
                let least = figures.times.iter().min().copied().unwrap_or_default();
                let most = figures.times.iter().max().copied().unwrap_or_default();
                let memory = figures.memory.map(|m| format!(", {} MB", m / 1_000_000)).unwrap_or_default();
                println!(
                    "{name:9} {} (of {}: {} to {}){memory}",
                    shell::seconds(median),
                    figures.times.len(),
                    shell::seconds(least),
                    shell::seconds(most)
                );
            }
            (_, note) => println!("{name:9} –  {}", note.as_deref().unwrap_or("not measured")),
        }
    }
}

/// All scenarios: medians, and how many times longer each peer took than builder.
pub(crate) fn table(rows: &[Row]) {
    shell::heading("medians");
    println!("| scenario | target | builder | memory | peers (time, ratio to builder, memory) |");
    println!("|---|---|---|---|---|");
    for row in rows {
        let Some((ours, peers)) = row.figures.split_first() else { continue };
        let time = median(ours);
        let peers: Vec<String> = peers
            .iter()
            .filter_map(|peer| {
                let theirs = median(peer)?;
                let ratio = theirs.as_secs_f64() / time?.as_secs_f64();
                Some(format!("{} {} ({ratio:.1}×, {})", peer.tool, shell::seconds(theirs), memory(peer)))
            })
            .collect();
        println!(
            "| {} {} | {} | {} | {} | {} |",
            row.scenario.id,
            row.scenario.what,
            row.scenario.target,
            time.map_or("–".to_owned(), shell::seconds),
            memory(ours),
            if peers.is_empty() { "–".to_owned() } else { peers.join(", ") },
        );
    }
}

fn memory(figures: &Figures) -> String {
    figures.memory.map_or("–".to_owned(), |bytes| format!("{} MB", bytes / 1_000_000))
}

/// Everything that was measured.
pub(crate) fn json(rows: &[Row]) -> Result<String> {
    let scenarios: Vec<_> = rows
        .iter()
        .map(|row| {
            let figures: Vec<_> = row
                .figures
                .iter()
                .map(|figures| {
                    json!({
                        "tool": figures.tool,
                        "seconds": figures.times.iter().map(Duration::as_secs_f64).collect::<Vec<_>>(),
                        "median": median(figures).map(|time| time.as_secs_f64()),
                        "memory": figures.memory,
                        "note": figures.note,
                    })
                })
                .collect();
            json!({ "id": row.scenario.id, "what": row.scenario.what, "tools": figures })
        })
        .collect();
    Ok(serde_json::to_string_pretty(&scenarios)? + "\n")
}
