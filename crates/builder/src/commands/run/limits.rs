//! How much a program may use.

use executor::{Limits, Ulimit};

use crate::commands::build::{size, size_or_none, ulimit};

/// The limits of `docker run` that people type most.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What it may use")]
pub(crate) struct LimitArgs {
    /// Memory, such as 512m or 2g
    #[arg(short, long, value_name = "BYTES", value_parser = size)]
    memory: Option<u64>,

    /// Memory and swap together; -1 is no limit
    #[arg(long, value_name = "BYTES", value_parser = size_or_none, allow_hyphen_values = true)]
    memory_swap: Option<i64>,

    /// Processors' worth of time, such as 1.5
    #[arg(long, value_name = "NUMBER", value_parser = cpus)]
    cpus: Option<i64>,

    /// Processors that may be used: 0-3 or 0,1
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,

    /// Processes and threads; -1 is no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<i64>,

    /// Size of /dev/shm [default: 64m]
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub(super) shm_size: Option<u64>,

    /// Limit of each process, such as nofile=1024:2048; repeatable
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = ulimit)]
    pub(super) ulimit: Vec<Ulimit>,
}

/// A scheduling period, in microseconds: the kernel's default.
const PERIOD: u64 = 100_000;

/// The time in each period that so many processors have.
fn cpus(text: &str) -> Result<i64, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    // The kernel gives no less than a millisecond.
    match number {
        0.01..=1e6 => Ok((number * PERIOD as f64) as i64),
        _ => Err(format!("`{text}` is not a number of processors: at least 0.01 of one can be had")),
    }
}

impl LimitArgs {
    pub(super) fn of_all(&self) -> Limits {
        Limits {
            memory: self.memory,
            memory_swap: self.memory_swap,
            cpu_period: self.cpus.map(|_| PERIOD),
            cpu_quota: self.cpus,
            cpuset_cpus: self.cpuset_cpus.clone(),
            pids: self.pids_limit.and_then(|pids| u64::try_from(pids).ok()).filter(|pids| *pids > 0),
            ..Limits::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flag_has_its_place() {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            limits: LimitArgs,
        }
        use clap::Parser;
        let flags = ["--memory=1g", "--memory-swap=2g", "--cpus=0.03", "--cpuset-cpus=4", "--pids-limit=5"];
        let others = ["--shm-size=6", "--ulimit=nofile=7:8"];
        let typed = ["run"].into_iter().chain(flags).chain(others);
        let limits = Only::try_parse_from(typed).unwrap().limits;
        let wanted = Limits {
            memory: Some(1 << 30),
            memory_swap: Some(2 << 30),
            cpu_period: Some(PERIOD),
            cpu_quota: Some(3_000),
            cpuset_cpus: Some("4".to_owned()),
            pids: Some(5),
            ..Limits::default()
        };
        assert_eq!((limits.of_all(), limits.shm_size), (wanted, Some(6)));
        assert_eq!(limits.ulimit, [ulimit("nofile=7:8").unwrap()]);
    }

    #[test]
    fn processors() {
        assert_eq!([cpus("1.5"), cpus("2"), cpus("0.01")], [Ok(150_000), Ok(200_000), Ok(1_000)]);
        assert!(["0", "-1", "x", "NaN", "inf"].iter().all(|text| cpus(text).is_err()));
    }
}
