//! The figures as a table and as JSON.

use std::time::Duration;

use serde_json::{Value, json};

use crate::bench::growth::{Grown, Point};
use crate::bench::scenarios::Scenario;
use crate::bench::{Figures, Row, results};
use crate::shell;

/// The middle of the times, or the mean of the two in the middle.
pub(crate) fn median(times: &[Duration]) -> Option<Duration> {
    let mut times = times.to_vec();
    times.sort_unstable();
    let last = times.len().checked_sub(1)?;
    Some((*times.get(last / 2)? + *times.get(last.div_ceil(2))?) / 2)
}

/// One scenario, as soon as it is measured.
pub(crate) fn row(row: &Row) {
    for figures in &row.figures {
        let name = figures.tool;
        match (median(&figures.times), &figures.note) {
            (Some(median), None) => {
                let least = figures.times.iter().min().copied().unwrap_or_default();
                let most = figures.times.iter().max().copied().unwrap_or_default();
                let memory = figures.memory.map(|m| format!(", {} MB", m / 1_000_000)).unwrap_or_default();
                let daemon =
                    figures.daemon.map(|m| format!(" + daemon {} MB", m / 1_000_000)).unwrap_or_default();
                let processor = figures
                    .processor
                    .map(|p| format!(", {} processor time", shell::seconds(p)))
                    .unwrap_or_default();
                println!(
                    "{name:9} {} (of {}: {} to {}){processor}{memory}{daemon}",
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
        let time = median(&ours.times);
        let peers: Vec<String> = peers
            .iter()
            .filter_map(|peer| {
                let theirs = median(&peer.times)?;
                let ratio = theirs.as_secs_f64() / time?.as_secs_f64();
                Some(format!("{} {} ({ratio:.1}×, {})", peer.tool, shell::seconds(theirs), memory(peer)))
            })
            .collect();
        println!(
            "| {} {} | {} | {} | {} | {} |",
            row.scenario.id,
            row.scenario.what,
            row.scenario
                .target
                .map_or("–".to_owned(), |target| shell::seconds(Duration::from_secs_f64(target))),
            time.map_or("–".to_owned(), shell::seconds),
            memory(ours),
            if peers.is_empty() { "–".to_owned() } else { peers.join(", ") },
        );
    }
}

fn memory(figures: &Figures) -> String {
    figures.memory.map_or("–".to_owned(), |bytes| format!("{} MB", bytes / 1_000_000))
}

/// How builder's costs grow.
pub(crate) fn growth(grown: &[Grown]) {
    if grown.is_empty() {
        return;
    }
    shell::heading("growth (time, memory)");
    for Grown { id, what, points } in grown {
        let points: Vec<String> = points
            .iter()
            .map(|Point { size, times, memory, .. }| {
                let time = median(times).unwrap_or_default();
                format!("{size}: {} ({} MB)", shell::seconds(time), memory / 1_000_000)
            })
            .collect();
        println!("{id:4} {what:31} {}", points.join("  "));
    }
}

/// Everything that was measured.
pub(crate) fn json(rows: &[Row], grown: &[Grown]) -> Value {
    let scenarios: Vec<Value> = rows
        .iter()
        .map(|row| {
            let tools: Vec<Value> = row
                .figures
                .iter()
                .map(|figures| {
                    json!({
                        "tool": figures.tool,
                        "seconds": figures.times.iter().map(|time| rounded(*time)).collect::<Vec<_>>(),
                        "median": median(&figures.times).map(rounded),
                        "memory": figures.memory,
                        "daemon": figures.daemon,
                        "processor": figures.processor.map(rounded),
                        "note": figures.note.as_deref().map(without_places),
                    })
                })
                .collect();
            let Scenario { id, what, target, target_memory, .. } = row.scenario;
            let mut scenario = results::scenario(id, what, *target, *target_memory);
            scenario["context"] = json!(row.context);
            scenario["tools"] = json!(tools);
            scenario
        })
        .collect();
    let grown: Vec<Value> = grown
        .iter()
        .map(|Grown { id, what, points }| {
            let points: Vec<Value> = points
                .iter()
                .map(|Point { size, times, processor, memory }| {
                    json!({
                        "size": size,
                        "seconds": median(times).map(rounded),
                        "processor": median(processor).map(rounded),
                        "runs": times.iter().map(|time| rounded(*time)).collect::<Vec<_>>(),
                        "memory": memory,
                    })
                })
                .collect();
            json!({ "id": id, "what": what, "points": points })
        })
        .collect();
    json!({ "scenarios": scenarios, "growth": grown })
}

/// Ten microseconds are less than any two runs have in common.
fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 1e5
}

/// What a tool says, without what only means something on this machine: paths, addresses.
fn without_places(note: &str) -> String {
    let has_dot =
        |word: &str| word.split_once('.').is_some_and(|(_, rest)| rest.starts_with(char::is_alphanumeric));
    let words = note.split(' ').map(|word| if word.contains('/') || has_dot(word) { "…" } else { word });
    let text: String = words.collect::<Vec<_>>().join(" ").chars().take(200).collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_two_is_between_them() {
        let of = |times: &[u64]| {
            median(&times.iter().copied().map(Duration::from_millis).collect::<Vec<_>>())
                .map(|median| median.as_millis())
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[7]), Some(7));
        assert_eq!(of(&[9, 3]), Some(6));
        assert_eq!(of(&[9, 1, 2]), Some(2));
        assert_eq!(of(&[9, 1, 2, 4]), Some(3));
    }

    #[test]
    fn a_note_keeps_its_words_and_loses_places() {
        let said =
            "buildah: exit status: 125: Error: writing to \"/home/x/archive.tar\" failed: no space left";
        assert_eq!(
            without_places(said),
            "buildah: exit status: 125: Error: writing to … failed: no space left"
        );
    }
}
