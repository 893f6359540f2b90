//! What RUN steps may use: the flags of `docker build` and `docker run`, as typed and as resolved.

use std::path::PathBuf;
use std::time::Duration;

use executor::{Limits, Ulimit};

use crate::commands::dns::DnsArgs;
use crate::failure::Failure;

/// How long what a failed step left can be looked into.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Flags about the processes of RUN steps. None is part of a cache key.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "What RUN steps may use")]
pub(crate) struct LimitArgs {
    /// Memory of a step, such as 512m or 2g
    #[arg(short, long, value_name = "BYTES", value_parser = size)]
    memory: Option<u64>,

    /// Memory and swap of a step together; -1 is no limit
    #[arg(long, value_name = "BYTES", value_parser = size_or_none, allow_hyphen_values = true)]
    memory_swap: Option<i64>,

    /// Weight against other processes; 1024 is usual
    #[arg(short = 'c', long, value_name = "WEIGHT")]
    cpu_shares: Option<u64>,

    /// Length of a scheduling period, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,

    /// Processor time in a period, in microseconds
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,

    /// Processors that may be used: 0-3 or 0,1
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,

    /// Memory nodes that may be used: 0-3 or 0,1
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,

    /// Processes and threads of a step
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<i64>,

    /// Several of these at once: memory=1g,cpuset-cpus=0; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = ',')]
    resource: Vec<String>,

    /// Control group above those of the steps
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<PathBuf>,

    #[command(flatten)]
    dns: DnsArgs,

    /// Size of /dev/shm [default: 64m]
    #[arg(long, value_name = "BYTES", value_parser = size)]
    shm_size: Option<u64>,

    /// Limit of each process, such as nofile=1024:2048; repeatable
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = ulimit)]
    ulimit: Vec<Ulimit>,

    /// How long a RUN may take that says nothing itself, such as 90s or 10m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,

    /// How many further tries a RUN that fails is given
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    retry: u32,

    /// How much output of a step is shown, such as 2m; -1 is no limit. All of it is stored, up to 1 GiB
    #[arg(long, value_name = "BYTES", value_parser = size_or_none, allow_hyphen_values = true,
          env = "BUILDKIT_STEP_LOG_MAX_SIZE", hide_env = true, default_value = "64m")]
    log_size: i64,

    /// How much output of a step is shown in a second, on the average; -1 is no limit
    #[arg(long, value_name = "BYTES", value_parser = size_or_none, allow_hyphen_values = true,
          env = "BUILDKIT_STEP_LOG_MAX_SPEED", hide_env = true, default_value = "-1")]
    log_speed: i64,

    /// Show again what cached steps printed when they ran
    #[arg(long)]
    replay: bool,
}

impl LimitArgs {
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    pub(super) fn retries(&self) -> u32 {
        self.retry
    }

    pub(super) fn resolve(&self) -> Result<worker::RunOptions, Failure> {
        let mut limits = Limits {
            memory: self.memory,
            memory_swap: self.memory_swap,
            cpu_shares: self.cpu_shares,
            cpu_period: self.cpu_period,
            cpu_quota: self.cpu_quota,
            cpuset_cpus: self.cpuset_cpus.clone(),
            cpuset_mems: self.cpuset_mems.clone(),
            // As upstream: zero and less mean that there is no limit.
            pids: self.pids_limit.and_then(|pids| u64::try_from(pids).ok()).filter(|pids| *pids > 0),
            cgroup_parent: self.cgroup_parent.clone(),
        };
        for text in &self.resource {
            set_resource(&mut limits, text)
                .map_err(|reason| Failure::usage(format!("--resource {text}: {reason}")))?;
        }
        Ok(worker::RunOptions {
            shm_size: self.shm_size,
            names: self.dns.resolve(),
            ulimits: self.ulimit.clone(),
            limits,
            output: worker::OutputLimits {
                size: u64::try_from(self.log_size).ok(),
                rate: u64::try_from(self.log_speed).ok(),
            },
            keep_failed: Some(KEPT),
            replay: self.replay,
        })
    }
}

fn set_resource(limits: &mut Limits, text: &str) -> Result<(), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let number = || value.parse().map_err(|_| format!("`{value}` is not a number"));
    match name {
        "memory" => limits.memory = Some(size(value)?),
        "memory-swap" => limits.memory_swap = Some(size_or_none(value)?),
        "cpu-shares" => limits.cpu_shares = Some(number()?),
        "cpu-period" => limits.cpu_period = Some(number()?),
        "cpu-quota" => {
            limits.cpu_quota = Some(value.parse().map_err(|_| format!("`{value}` is not a number"))?);
        }
        "cpuset-cpus" => limits.cpuset_cpus = Some(value.to_owned()),
        "cpuset-mems" => limits.cpuset_mems = Some(value.to_owned()),
        _ => {
            return Err(format!(
                "there is no resource `{name}`; known are memory, memory-swap, cpu-shares, cpu-period, cpu-quota, \
                 cpuset-cpus and cpuset-mems"
            ));
        }
    }
    Ok(())
}

/// A number of bytes with Docker's suffixes (`b`, `k`, `m`, `g`, `t`, with `b` or `ib` behind), powers of 1024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
    let unit = lower[digits.len()..].trim_start();
    let power = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(unit) {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(format!("`{text}` is not a size; write 512m or 2g")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("`{text}` is not a size; write 512m or 2g"))?;
    let bytes = number * 1024f64.powi(power);
    if bytes.is_finite() && (0.0..9e18).contains(&bytes) {
        Ok(bytes as u64)
    } else {
        Err(format!("`{text}` is not a size that a machine could have"))
    }
}

/// The same, or -1 for none.
pub(crate) fn size_or_none(text: &str) -> Result<i64, String> {
    if text == "-1" {
        return Ok(-1);
    }
    i64::try_from(size(text)?).map_err(|error| error.to_string())
}

/// `NAME=SOFT[:HARD]`.
pub(crate) fn ulimit(text: &str) -> Result<Ulimit, String> {
    let (name, values) = text.split_once('=').ok_or("expected NAME=SOFT[:HARD]")?;
    let value = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        _ => text.parse().map_err(|_| format!("`{text}` is not a number")),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let ulimit = Ulimit { name: name.to_owned(), soft: value(soft)?, hard: value(hard)? };
    ulimit.check().map_err(|error| error.to_string())?;
    Ok(ulimit)
}

/// A duration as Go writes them: `90s`, `1h30m`, `500ms`; a number alone is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration; write 90s, 10m or 1h30m");
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds)).and_then(positive);
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
        rest = &rest[end..];
        let (unit, seconds) = [("ms", 0.001), ("h", 3600.0), ("m", 60.0), ("s", 1.0)]
            .into_iter()
            .find(|(unit, _)| rest.starts_with(unit))
            .ok_or_else(wrong)?;
        total += number * seconds;
        rest = &rest[unit.len()..];
    }
    Duration::try_from_secs_f64(total).map_err(|_| wrong()).and_then(positive)
}

fn positive(duration: Duration) -> Result<Duration, String> {
    if duration.is_zero() { Err("a duration of nothing leaves no time".to_owned()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("1024", 1024), ("1k", 1024), ("512m", 512 << 20), ("2GB", 2 << 30)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        assert_eq!(size("1.5g"), Ok(3 << 29));
        assert_eq!(size("64MiB"), Ok(64 << 20));
        for text in ["", "m", "-1", "1x", "1e999", "9999999t"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, milliseconds) in
            [("90s", 90_000), ("1h30m", 5_400_000), ("500ms", 500), ("7", 7000), ("1.5s", 1500)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "0", "0s", "x", "1", "1y", "s"].into_iter().filter(|text| *text != "1") {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_of_processes() {
        let found = ulimit("nofile=10:20").unwrap();
        assert_eq!((found.name.as_str(), found.soft, found.hard), ("nofile", 10, 20));
        assert_eq!(ulimit("core=-1").unwrap().hard, u64::MAX);
        assert!(ulimit("files=1").unwrap_err().contains("no such limit"));
        assert!(ulimit("nofile=20:10").is_err());
    }

    /// No two are the same, so that none is taken for another.
    const FLAGS: [(&str, &str); 7] = [
        ("memory", "1g"),
        ("memory-swap", "2g"),
        ("cpu-shares", "3"),
        ("cpu-period", "4"),
        ("cpu-quota", "5"),
        ("cpuset-cpus", "6"),
        ("cpuset-mems", "7"),
    ];

    fn limits() -> Limits {
        Limits {
            memory: Some(1 << 30),
            memory_swap: Some(2 << 30),
            cpu_shares: Some(3),
            cpu_period: Some(4),
            cpu_quota: Some(5),
            cpuset_cpus: Some("6".to_owned()),
            cpuset_mems: Some("7".to_owned()),
            ..Limits::default()
        }
    }

    #[derive(clap::Parser)]
    struct Only {
        #[command(flatten)]
        limits: LimitArgs,
    }

    fn resolved(flags: impl IntoIterator<Item = String>) -> worker::RunOptions {
        use clap::Parser;
        let typed = std::iter::once("build".to_owned()).chain(flags);
        Only::try_parse_from(typed).unwrap().limits.resolve().unwrap()
    }

    #[test]
    fn each_flag_has_its_place() {
        let flags = FLAGS.map(|(name, value)| format!("--{name}={value}"));
        let others = ["--pids-limit=8", "--cgroup-parent=/9", "--shm-size=10", "--ulimit=nofile=11:12"];
        let options = resolved(flags.into_iter().chain(others.map(str::to_owned)));
        let wanted = Limits { pids: Some(8), cgroup_parent: Some("/9".into()), ..limits() };
        assert_eq!((options.limits, options.shm_size), (wanted, Some(10)));
        assert_eq!(options.ulimits, [ulimit("nofile=11:12").unwrap()]);
        let options = resolved(["--log-size=13", "--log-speed=14", "--replay"].map(str::to_owned));
        assert_eq!((options.output.size, options.output.rate, options.replay), (Some(13), Some(14), true));
        let options = resolved(["--log-size=-1", "--memory-swap=-1", "--pids-limit=-1"].map(str::to_owned));
        assert_eq!((options.output.size, options.output.rate, options.replay), (None, None, false));
        assert_eq!(options.limits, Limits { memory_swap: Some(-1), ..Limits::default() });
        let short = resolved(["-m1g", "-c3"].map(str::to_owned)).limits;
        assert_eq!((short.memory, short.cpu_shares), (Some(1 << 30), Some(3)));
    }

    #[test]
    fn each_resource_is_what_its_flag_is() {
        let several = FLAGS.map(|(name, value)| format!("{name}={value}")).join(",");
        assert_eq!(resolved([format!("--resource={several}")]).limits, limits());
        // What is said last counts, one by one.
        let both = ["--memory=5g".to_owned(), "--resource=memory=1g".to_owned()];
        assert_eq!(resolved(both).limits, Limits { memory: Some(1 << 30), ..Limits::default() });
    }

    #[test]
    fn resources() {
        let mut limits = Limits::default();
        set_resource(&mut limits, "memory=1g").unwrap();
        set_resource(&mut limits, "cpuset-cpus=0").unwrap();
        assert_eq!((limits.memory, limits.cpuset_cpus.as_deref()), (Some(1 << 30), Some("0")));
        assert!(set_resource(&mut limits, "disk=1").unwrap_err().contains("no resource"));
    }
}
