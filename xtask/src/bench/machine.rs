//! The machine that figures come from, in words that tell machines of a kind apart and not one from another.

use std::fs;

use serde_json::{Value, json};

use crate::shell;

/// Processor, memory, kernel, file system of the stores, versions of the tools, the day.
pub(crate) fn describe() -> Value {
    let cpu = first_value("/proc/cpuinfo", "model name").unwrap_or_default();
    let memory = first_value("/proc/meminfo", "MemTotal")
        .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .map(|kib| format!("{} GB", (kib * 1024) / 1_000_000_000));
    json!({
        "date": text("date", &["-u", "+%Y-%m-%d"]),
        "processor": cpu,
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "memory": memory,
        "kernel": text("uname", &["-rm"]),
        "file_system": file_system(),
        "load": fs::read_to_string("/proc/loadavg").ok().and_then(|load| load.split(' ').next().map(str::to_owned)),
        "tools": {
            "builder": text("git", &["describe", "--always", "--dirty"]),
            "buildah": text("buildah", &["--version"]),
            "buildkit": shell::find("buildctl").and_then(|_| text("buildctl", &["--version"])),
        },
    })
}

fn text(program: &str, args: &[&str]) -> Option<String> {
    let output = shell::output(shell::command(program).args(args)).ok()?;
    // Programs name the place of their source or their own path; the version is a word with a digit and a dot.
    let version = output.split_whitespace().find(|word| {
        word.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit()) && word.contains('.')
    });
    match (program, version) {
        ("buildah" | "buildctl", Some(version)) => Some(version.to_owned()),
        _ => Some(output.trim().to_owned()),
    }
}

fn file_system() -> Option<String> {
    let dir = shell::target();
    let output = shell::output(shell::command("stat").args(["-f", "-c", "%T"]).arg(dir)).ok()?;
    // stat(1) cannot tell them apart.
    Some(output.trim().replace("ext2/ext3", "ext4"))
}

fn first_value(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
