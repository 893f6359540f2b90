//! Whether a group of processes does anything at all.

use std::fs;
use std::time::{Duration, Instant};

/// How often it is looked at, in parts of the time that it may do nothing.
const LOOKS: u32 = 8;

/// Returns once the processes of a group neither ran nor read nor wrote anything for so long. Git and its helpers wait for each other without
/// end where a server's answer breaks off in the wrong place, and for servers that take a connection and say nothing.
pub(super) async fn none_for(time: Duration, group: u32) {
    let (mut last, mut since) = (Vec::new(), Instant::now());
    while since.elapsed() < time {
        tokio::time::sleep(time / LOOKS).await;
        let now = activity(group);
        // Where nothing can be seen, nothing is known.
        if now != last || now.is_empty() {
            (last, since) = (now, Instant::now());
        }
    }
}

/// What changes as long as something goes on: number, processor time, and bytes read and written, of each process.
fn activity(group: u32) -> Vec<(u32, u64)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut found: Vec<(u32, u64)> = processes.filter_map(|id| Some((id, used(id, group)?))).collect();
    found.sort_unstable();
    found
}

/// `None` of a process of another group, of one that is gone, and of ssh: that asks whether the server is alive every now and then, and what else
/// it does shows in the git that it talks to.
fn used(id: u32, group: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // proc_pid_stat(5): the name may hold blanks and brackets; behind it are state, parent, group, …, and 14 and 15 the times.
    let (name, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
    if number(2)? != u64::from(group) || name.ends_with("(ssh") {
        return None;
    }
    let bytes = fs::read_to_string(format!("/proc/{id}/io")).unwrap_or_default();
    let bytes = bytes.lines().take(2).filter_map(|line| line.split_once(' ')?.1.parse::<u64>().ok());
    Some(bytes.fold(number(11)?.wrapping_add(number(12)?), u64::wrapping_add))
}
