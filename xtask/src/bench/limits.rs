//! What the machine can do at best: scenarios as sums of what their work costs where nothing is in its way.

use serde_json::Value;

use crate::bench::results::{scenarios, short, tool};

/// `statx` of a file, on one core.
const LOOK: f64 = 2e-6;
/// A small file made, on one core.
const MAKE: f64 = 50e-6;
/// A process in new namespaces on an overlay: 2 to 4 ms.
const STEP: f64 = 2e-3;
/// A byte through sha256, which no second core helps with.
const SHA256: f64 = 1.0 / 1.9e9;

/// What cannot be left out of a scenario.
#[derive(Clone, Copy)]
enum Work {
    Look(u32),
    Make(u32),
    Step(u32),
    /// So many MB.
    Sha256(u32),
    /// What another program takes, in seconds, and which one.
    Other(f64, &'static str),
}

use Work::{Look, Make, Other, Sha256, Step};

/// Not of S1, which does nothing that could be counted, nor of S12, whose copying and hashing were not measured alone. A tar has 0.8 kB more than
/// each file.
const OF: [(&str, &[Work]); 18] = [
    ("S2", &[Look(7_578)]),
    ("S3", &[Look(100_000)]),
    ("S4", &[Look(7_578), Step(1)]),
    ("S5", &[Look(7_578), Step(1), Sha256(69)]),
    ("S6", &[Look(100_000), Step(1)]),
    ("S7", &[Look(100_000), Step(1), Sha256(280)]),
    ("S8", &[Look(7_578), Make(7_578), Step(1)]),
    ("S9", &[Look(100_000), Make(100_000), Step(1)]),
    ("S10", &[Step(20)]),
    ("S10u", &[Step(20)]),
    ("S11", &[Step(20)]),
    ("S13", &[Sha256(1_100)]),
    ("S13z", &[Other(1.80, "`zstd -3 -T2` of the file")]),
    ("S13u", &[Sha256(1_100)]),
    ("S14", &[Make(6_768), Step(1)]),
    ("S15", &[Other(2.0, "`sleep 2`"), Step(1)]),
    ("S16", &[Other(1.0, "`sleep 1`"), Step(2)]),
    ("S16r", &[Step(1)]),
];

impl Work {
    fn seconds(self, cores: f64) -> f64 {
        match self {
            Look(files) => f64::from(files) * LOOK / cores,
            Make(files) => f64::from(files) * MAKE / cores,
            Step(steps) => f64::from(steps) * STEP,
            Sha256(megabytes) => f64::from(megabytes) * 1e6 * SHA256,
            Other(seconds, _) => seconds,
        }
    }

    fn name(self) -> String {
        match self {
            Look(files) => format!("{} × `statx`", thousands(files)),
            Make(files) => format!("{} files made", thousands(files)),
            Step(1) => "a process".to_owned(),
            Step(steps) => format!("{steps} processes"),
            Sha256(megabytes) => format!("sha256 of {} MB", thousands(megabytes)),
            Other(_, name) => name.to_owned(),
        }
    }
}

/// Each scenario's limit, what that is made of, and how many times as long the builder takes, and might take by its target.
pub(crate) fn table(figures: &Value) -> String {
    let cores = figures["machine"]["cores"].as_f64().unwrap_or(1.0).max(1.0);
    let mut text = String::from(
        "| | limit | made of | builder | times the limit | target, times the limit |\n|---|---|---|---|---|---|\n",
    );
    for scenario in scenarios(figures) {
        let id = scenario["id"].as_str().unwrap_or_default();
        let Some((_, work)) = OF.iter().find(|(of, _)| *of == id) else { continue };
        let limit: f64 = work.iter().map(|work| work.seconds(cores)).sum();
        let made_of: Vec<String> = work.iter().map(|work| work.name()).collect();
        let times = |seconds: &Value| match seconds.as_f64() {
            Some(seconds) => (short(seconds), format!("{:.2}", seconds / limit)),
            None => ("–".to_owned(), "–".to_owned()),
        };
        let ((ours, our_times), (_, targets)) =
            (times(&tool(scenario, "builder")["median"]), times(&scenario["target"]));
        let made_of = made_of.join(", ");
        text.push_str(&format!(
            "| {id} | {} | {made_of} | {ours} | **{our_times}** | {targets} |\n",
            short(limit)
        ));
    }
    text
}

fn thousands(number: u32) -> String {
    if number < 1_000 { number.to_string() } else { format!("{},{:03}", number / 1_000, number % 1_000) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bench::results::scenario;

    #[test]
    fn a_limit_is_the_sum_of_what_cannot_be_left_out() {
        let mut copied = scenario("S9", "copy", Some(3.0), None);
        copied["tools"] = json!([{ "tool": "builder", "median": 5.204 }]);
        let unknown = scenario("S1", "nothing", Some(0.01), None);
        let figures = |cores: u32| json!({ "scenarios": [unknown, copied], "machine": { "cores": cores } });
        let line = |cores| table(&figures(cores)).lines().skip(2).map(str::to_owned).collect::<Vec<_>>();
        let made_of = "100,000 × `statx`, 100,000 files made, a process";
        assert_eq!(line(2), [format!("| S9 | 2.60 s | {made_of} | 5.20 s | **2.00** | 1.15 |")]);
        assert_eq!(line(1), [format!("| S9 | 5.20 s | {made_of} | 5.20 s | **1.00** | 0.58 |")]);
    }

    #[test]
    fn what_was_not_measured_has_no_ratio() {
        let figures = json!({ "scenarios": [scenario("S15", "sleep", None, None)] });
        assert!(table(&figures).ends_with("| S15 | 2.00 s | `sleep 2`, a process | – | **–** | – |\n"));
    }

    #[test]
    fn limits_are_of_scenarios_that_there_are() {
        let names: Vec<String> = OF.iter().map(|(id, _)| (*id).to_owned()).collect();
        assert_eq!(crate::bench::scenarios::select(&names, true).map(|found| found.len()).unwrap(), OF.len());
    }
}
