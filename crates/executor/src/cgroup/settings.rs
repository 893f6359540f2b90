//! Which files of a group are given which values, for the limits asked for.

use crate::Limits;
use crate::cgroup::Version;
use crate::fault::Fault;

/// A value of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) file: &'static str,
    pub(crate) value: String,
    /// It was not asked for: a kernel may lack the file.
    pub(crate) optional: bool,
}

/// Refuses limits that contradict each other.
pub(crate) fn check(limits: &Limits) -> Result<(), Fault> {
    let fail = |text: &str| Err(Fault::Setup(text.to_owned()));
    match (limits.memory, limits.memory_swap) {
        (None, Some(_)) => fail("a limit of memory and swap needs a limit of memory"),
        (Some(memory), Some(swap)) if swap != -1 && u64::try_from(swap).is_ok_and(|swap| swap < memory) => {
            fail("the limit of memory and swap must not be below that of memory")
        }
        (_, Some(swap)) if swap < -1 => fail("the limit of memory and swap must be -1 or more"),
        _ => Ok(()),
    }
}

/// The controllers that limits ask for.
pub(crate) fn controllers(limits: &Limits) -> Vec<&'static str> {
    let asked = [
        ("memory", limits.memory.is_some()),
        ("cpu", limits.cpu_shares.is_some() || limits.cpu_period.is_some() || limits.cpu_quota.is_some()),
        ("cpuset", limits.cpuset_cpus.is_some() || limits.cpuset_mems.is_some()),
        ("pids", limits.pids.is_some()),
    ];
    asked.into_iter().filter(|(_, asked)| *asked).map(|(name, _)| name).collect()
}

/// What to write for one controller, in order.
pub(crate) fn of(limits: &Limits, controller: &str, version: Version) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut add = |file, value: Option<String>| {
        settings.extend(value.map(|value| Setting { file, value, optional: false }));
    };
    let text = |value: Option<u64>| value.map(|value| value.to_string());
    match (controller, version) {
        ("memory", _) => return memory(limits, version),
        ("cpu", Version::One) => {
            add("cpu.shares", text(limits.cpu_shares));
            add("cpu.cfs_period_us", text(limits.cpu_period));
            add("cpu.cfs_quota_us", limits.cpu_quota.map(|quota| quota.to_string()));
        }
        ("cpu", Version::Two) => {
            add("cpu.weight", limits.cpu_shares.map(|shares| weight(shares).to_string()));
            if limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
                let quota = limits.cpu_quota.filter(|quota| *quota >= 0);
                let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
                let period = limits.cpu_period.map(|period| format!(" {period}")).unwrap_or_default();
                add("cpu.max", Some(quota + &period));
            }
        }
        ("cpuset", _) => {
            add("cpuset.cpus", limits.cpuset_cpus.clone());
            add("cpuset.mems", limits.cpuset_mems.clone());
        }
        ("pids", _) => add("pids.max", text(limits.pids)),
        _ => {}
    }
    settings
}

fn memory(limits: &Limits, version: Version) -> Vec<Setting> {
    let Some(memory) = limits.memory else { return Vec::new() };
    // Docker's default: as much swap as memory.
    let both = match limits.memory_swap {
        None => Some(memory.saturating_mul(2)),
        Some(both) => u64::try_from(both).ok(),
    };
    let (file, swap_file) = match version {
        Version::One => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
        Version::Two => ("memory.max", "memory.swap.max"),
    };
    let swap = match (version, both) {
        (Version::One, Some(both)) => both.to_string(),
        (Version::One, None) => "-1".to_owned(),
        (Version::Two, Some(both)) => both.saturating_sub(memory).to_string(),
        (Version::Two, None) => "max".to_owned(),
    };
    vec![
        Setting { file, value: memory.to_string(), optional: false },
        // A kernel may not count swap.
        Setting { file: swap_file, value: swap, optional: limits.memory_swap.is_none() },
    ]
}

/// Shares of version 1 (2 to 262144) as weight of version 2 (1 to 10000), as runc has it.
fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + (shares - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(limits: &Limits, controller: &str, version: Version) -> Vec<String> {
        of(limits, controller, version).iter().map(|one| format!("{}={}", one.file, one.value)).collect()
    }

    #[test]
    fn both_versions_say_the_same() {
        let limits = Limits {
            memory: Some(1000),
            cpu_shares: Some(1024),
            cpu_period: Some(50_000),
            cpu_quota: Some(25_000),
            cpuset_cpus: Some("0-1".to_owned()),
            pids: Some(7),
            ..Limits::default()
        };
        assert_eq!(controllers(&limits), ["memory", "cpu", "cpuset", "pids"]);
        let (one, two) = (Version::One, Version::Two);
        assert_eq!(
            texts(&limits, "memory", one),
            ["memory.limit_in_bytes=1000", "memory.memsw.limit_in_bytes=2000"]
        );
        assert_eq!(texts(&limits, "memory", two), ["memory.max=1000", "memory.swap.max=1000"]);
        assert_eq!(
            texts(&limits, "cpu", one),
            ["cpu.shares=1024", "cpu.cfs_period_us=50000", "cpu.cfs_quota_us=25000"]
        );
        assert_eq!(texts(&limits, "cpu", two), ["cpu.weight=39", "cpu.max=25000 50000"]);
        assert_eq!(texts(&limits, "cpuset", two), ["cpuset.cpus=0-1"]);
        assert_eq!(texts(&limits, "pids", one), ["pids.max=7"]);
        let unlimited = Limits { memory_swap: Some(-1), cpu_quota: Some(-1), cpu_period: None, ..limits };
        assert_eq!(texts(&unlimited, "memory", two)[1], "memory.swap.max=max");
        assert_eq!(texts(&unlimited, "memory", one)[1], "memory.memsw.limit_in_bytes=-1");
        assert_eq!(texts(&unlimited, "cpu", two)[1], "cpu.max=max");
    }

    #[test]
    fn contradictions_are_refused() {
        let limits = |memory, memory_swap| Limits { memory, memory_swap, ..Limits::default() };
        assert!(check(&limits(Some(5), Some(5))).is_ok() && check(&limits(Some(5), Some(-1))).is_ok());
        assert!(check(&limits(Some(5), Some(4))).is_err());
        assert!(check(&limits(None, Some(4))).is_err());
        assert!(check(&limits(Some(5), Some(-2))).is_err());
    }

    #[test]
    fn weights_keep_to_their_range() {
        assert_eq!((weight(0), weight(2), weight(262_144), weight(u64::MAX)), (1, 1, 10_000, 10_000));
    }
}
