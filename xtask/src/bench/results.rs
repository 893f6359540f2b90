//! What is committed of measurements: benches/results/ with its table of limits, and the short table of README.md.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::bench::{limits, machine};
use crate::shell::{self, Result};

/// Around the table in README.md, and that of limits in benches/results/README.md.
const BEGIN: &str = "<!-- written by `cargo xtask bench --write` -->\n";
const END: &str = "<!-- end of the table -->";

fn figures_file() -> PathBuf {
    shell::root().join("benches/results/figures.json")
}

fn reasons_file() -> PathBuf {
    shell::root().join("benches/results/README.md")
}

/// A file that has a table, and what makes that of the figures.
type Table = (PathBuf, fn(&Value) -> String);

fn tables() -> [Table; 2] {
    [(shell::root().join("README.md"), table), (reasons_file(), limits::table)]
}

/// Writes the figures with the machine that they come from, and the tables.
pub(crate) fn write(mut figures: Value, machine: Value) -> Result {
    figures["machine"] = machine;
    fs::create_dir_all(figures_file().parent().unwrap_or(&shell::root()))?;
    fs::write(figures_file(), serde_json::to_string_pretty(&figures)? + "\n")?;
    println!("written to benches/results/figures.json");
    write_tables(&figures)
}

/// Writes the tables from the figures that are there.
pub(crate) fn rewrite() -> Result {
    write_tables(&committed()?)
}

fn committed() -> Result<Value> {
    Ok(serde_json::from_str(&fs::read_to_string(figures_file())?)?)
}

fn write_tables(figures: &Value) -> Result {
    for (file, table) in tables() {
        let text = fs::read_to_string(&file)?;
        let (before, _, after) = parts(&text)?;
        fs::write(&file, format!("{before}{}{after}", table(figures)))?;
    }
    println!("written to README.md and benches/results/README.md");
    for missed in missed(figures) {
        println!(
            "{missed}: target missed; benches/results/README.md must say why, under a heading of that name"
        );
    }
    for grown in grown(figures) {
        println!("{grown}; benches/results/README.md must say why, under the heading {GROWTH:?}");
    }
    Ok(())
}

/// Fails unless the tables are what the figures say, and each missed target has its reason.
pub(crate) fn check() -> Result {
    let figures = committed()?;
    for (file, table) in tables() {
        let text = fs::read_to_string(&file)?;
        if parts(&text)?.1 != table(&figures) {
            let name = file.strip_prefix(shell::root()).unwrap_or(&file).display();
            return Err(format!(
                "the table of {name} is not that of benches/results/figures.json: `cargo xtask bench --tables`"
            )
            .into());
        }
    }
    // An archive of the sources has no history.
    if let Some(revision) =
        figures["machine"]["revision"].as_str().filter(|_| shell::root().join(".git").exists())
    {
        machine::known(revision)?;
    }
    let reasons = fs::read_to_string(reasons_file())?;
    let unexplained: Vec<String> =
        missed(&figures).into_iter().filter(|id| section(&reasons, id).is_empty()).collect();
    if !unexplained.is_empty() {
        return Err(format!(
            "benches/results/README.md does not say why these miss their targets: {}",
            unexplained.join(", ")
        )
        .into());
    }
    let told = section(&reasons, GROWTH);
    let untold: Vec<String> = grown(&figures)
        .into_iter()
        .filter(|row| !told.iter().any(|line| line.starts_with(&format!("* {row}:"))))
        .collect();
    match untold.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "benches/results/README.md does not say under {GROWTH:?} why these take longer than their size says: {}",
            untold.join(", ")
        )
        .into()),
    }
}

/// The heading under which reasons for growth stand, each a point of a list that begins with the name of what [`grown`] finds.
const GROWTH: &str = "Growth";

/// What stands under the heading in which there is a word, without empty lines.
fn section<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    let of = |heading: &str| heading.split([' ', ',', ':']).any(|found| found == word);
    let lines = text.lines().skip_while(|line| !(line.starts_with('#') && of(line))).skip(1);
    lines.take_while(|line| !line.starts_with('#')).filter(|line| !line.trim().is_empty()).collect()
}

/// What may grow no faster than size, and how much more than that needs no reason that is written down. Wall times are those of the disk and of
/// what else the machine does, too. Processor time comes in hundredths of a second.
const PROPORTIONS: [(&str, f64, f64, &str); 3] =
    [("seconds", 1.8, 0.0, ""), ("processor", 1.3, 0.01, ""), ("memory", 1.3, 0.0, " memory")];

/// The sizes that take more than the size before them says: `S9 1,000,000`, `S9 1,000,000 memory`.
fn grown(figures: &Value) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut grown = Vec::new();
    for row in list(&figures["growth"]) {
        let points = list(&row["points"]);
        for (before, after) in points.iter().zip(points.iter().skip(1)) {
            let words = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let size = |point: &Value| words(&point["size"]).replace(',', "").parse::<f64>().unwrap_or(0.0);
            for (figure, margin, blur, suffix) in PROPORTIONS {
                let of = |point: &Value| point[figure].as_f64().unwrap_or(0.0);
                if of(after) > (of(before) + blur) * size(after) / size(before) * margin {
                    grown.push(format!("{} {}{suffix}", words(&row["id"]), words(&after["size"])));
                }
            }
        }
    }
    grown.dedup();
    grown
}

/// What is before the table, the table, what is after it.
fn parts(text: &str) -> Result<(&str, &str, &str)> {
    let missing = || format!("there is no table between {BEGIN}and {END}");
    let begin = text.find(BEGIN).ok_or_else(missing)? + BEGIN.len();
    let end = begin + text[begin..].find(END).ok_or_else(missing)?;
    Ok((&text[..begin], &text[begin..end], &text[end..]))
}

pub(crate) fn scenarios(figures: &Value) -> &[Value] {
    figures["scenarios"].as_array().map_or(&[], Vec::as_slice)
}

pub(crate) fn tool<'a>(scenario: &'a Value, name: &str) -> &'a Value {
    let tools = scenario["tools"].as_array().map_or(&[][..], Vec::as_slice);
    tools.iter().find(|tool| tool["tool"] == name).unwrap_or(&Value::Null)
}

/// The names of scenarios that take longer, or more memory, than their targets.
fn missed(figures: &Value) -> Vec<String> {
    let mut missed = Vec::new();
    let mut memory = false;
    for scenario in scenarios(figures) {
        let ours = tool(scenario, "builder");
        let over = |figure: &Value, target: &Value| match (figure.as_f64(), target.as_f64()) {
            (Some(figure), Some(target)) => figure > target,
            _ => false,
        };
        let id = scenario["id"].as_str().unwrap_or_default();
        if over(&ours["median"], &scenario["target"]) {
            missed.push(id.to_owned());
        }
        if over(&ours["memory"], &scenario["target_memory"]) {
            memory = true;
        }
    }
    missed.extend(memory.then(|| "M1".to_owned()));
    missed
}

/// The short table: each scenario's median and spread, its target, and how many times longer peers took.
fn table(figures: &Value) -> String {
    let names = ["buildkit", "buildah"];
    let mut text = String::from("| | builder | target | BuildKit | Buildah |\n|---|---|---|---|---|\n");
    for scenario in scenarios(figures) {
        let ours = tool(scenario, "builder");
        let peers = names.map(|name| {
            let (theirs, ours) = (tool(scenario, name)["median"].as_f64(), ours["median"].as_f64());
            match (theirs, ours) {
                (Some(theirs), Some(ours)) if ours > 0.0 => {
                    format!("{} ({:.1} ×)", short(theirs), theirs / ours)
                }
                _ => "–".to_owned(),
            }
        });
        text.push_str(&format!(
            "| {} {} | **{}**{} | {} | {} | {} |\n",
            scenario["id"].as_str().unwrap_or_default(),
            scenario["what"].as_str().unwrap_or_default(),
            ours["median"].as_f64().map_or("–".to_owned(), short),
            spread(&ours["seconds"]),
            scenario["target"].as_f64().map_or("–".to_owned(), short),
            peers[0],
            peers[1],
        ));
    }
    for scenario in scenarios(figures).iter().filter(|scenario| scenario["target_memory"].is_number()) {
        let mega = |bytes: &Value| bytes.as_u64().map(|bytes| format!("{} MB", bytes.div_ceil(1_000_000)));
        let of = |name: &str| {
            let figures = tool(scenario, name);
            let daemon =
                mega(&figures["daemon"]).map(|daemon| format!(" + daemon {daemon}")).unwrap_or_default();
            mega(&figures["memory"]).map_or("–".to_owned(), |memory| memory + &daemon)
        };
        text.push_str(&format!(
            "| M1 peak memory of {} | **{}** | {} | {} | {} |\n",
            scenario["id"].as_str().unwrap_or_default(),
            of("builder"),
            mega(&scenario["target_memory"]).unwrap_or_default(),
            of(names[0]),
            of(names[1]),
        ));
    }
    let machine = &figures["machine"];
    let word = |name: &str| match &machine[name] {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => "?".to_owned(),
    };
    text.push_str(&format!(
        "\n{}: {} cores ({}), {} of memory, {}, Linux {}; {}BuildKit {}, Buildah {}.\n",
        word("date"),
        word("cores"),
        word("processor"),
        word("memory"),
        word("file_system"),
        word("kernel"),
        machine["revision"].as_str().map(|commit| format!("commit {commit:.12}, ")).unwrap_or_default(),
        machine["tools"]["buildkit"].as_str().unwrap_or("not measured"),
        machine["tools"]["buildah"].as_str().unwrap_or("not measured"),
    ));
    text
}

/// The shortest and the longest of several runs, in parentheses.
fn spread(seconds: &Value) -> String {
    let all = seconds.as_array().into_iter().flatten().filter_map(Value::as_f64);
    let (least, most) = all.fold((f64::MAX, 0.0_f64), |(least, most), one| (least.min(one), most.max(one)));
    if least < most { format!(" ({} – {})", short(least), short(most)) } else { String::new() }
}

/// Seconds as a person reads them, three digits.
pub(crate) fn short(seconds: f64) -> String {
    match seconds {
        s if s < 0.01 => format!("{:.1} ms", s * 1e3),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 10.0 => format!("{s:.2} s"),
        s => format!("{s:.1} s"),
    }
}

/// A scenario as it is written down; [`crate::bench::report`] makes them.
pub(crate) fn scenario(id: &str, what: &str, target: Option<f64>, memory: Option<u64>) -> Value {
    json!({ "id": id, "what": what, "target": target, "target_memory": memory })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Value {
        let mut fast = scenario("S1", "same", Some(0.01), Some(15_000_000));
        fast["tools"] = json!([
            { "tool": "builder", "seconds": [0.006, 0.005, 0.004], "median": 0.005, "memory": 20_000_000 },
            { "tool": "buildkit", "median": 0.05, "memory": 30_000_000, "daemon": 100_000_000 },
        ]);
        let mut slow = scenario("S13", "export", Some(6.0), None);
        slow["tools"] = json!([{ "tool": "builder", "median": 9.0 }]);
        json!({ "scenarios": [fast, slow], "machine": { "cores": 2, "tools": {} } })
    }

    #[test]
    fn what_is_over_its_target_is_missed() {
        assert_eq!(missed(&figures()), ["S13", "M1"]);
    }

    #[test]
    fn the_table_has_ratios_and_memory() {
        let table = table(&figures());
        assert!(
            table.contains("| S1 same | **5.0 ms** (4.0 ms – 6.0 ms) | 10 ms | 50 ms (10.0 ×) | – |"),
            "{table}"
        );
        assert!(table.contains("| **20 MB** | 15 MB | 30 MB + daemon 100 MB | – |"), "{table}");
    }

    #[test]
    fn what_grows_faster_than_its_size_needs_a_reason() {
        let point = |size: &str, seconds: f64, processor: f64, memory: u64| json!({ "size": size, "seconds": seconds, "processor": processor, "memory": memory });
        let quick = [
            point("1,000", 0.1, 0.1, 10),
            point("10,000", 1.7, 1.4, 100),
            point("100,000", 17.0, 14.0, 1400),
        ];
        let slow = [point("2", 0.02, 0.0, 1), point("20", 0.37, 0.12, 1), point("200", 3.0, 2.0, 1)];
        let figures = json!({ "growth": [{ "id": "S9", "points": quick }, { "id": "S3", "points": slow }] });
        assert_eq!(grown(&figures), ["S9 100,000 memory", "S3 20", "S3 200"]);
    }

    #[test]
    fn a_section_ends_at_the_next_heading() {
        let text = "# A\n## S1, S2: x\n\none\ntwo\n## S3\n## S4\nfour\n";
        assert_eq!(section(text, "S2"), ["one", "two"]);
        assert!(section(text, "S3").is_empty() && section(text, "S9").is_empty());
        assert_eq!(section(text, "S4"), ["four"]);
    }

    #[test]
    fn the_table_is_found_between_its_marks() {
        let text = format!("a\n{BEGIN}old{END}\nb");
        let (before, table, after) = parts(&text).unwrap();
        assert_eq!((before.ends_with(BEGIN), table, after), (true, "old", format!("{END}\nb").as_str()));
        assert!(parts("nothing").is_err());
    }
}
