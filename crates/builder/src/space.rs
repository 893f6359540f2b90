//! How much of the disk the cache may take. As upstream's default, unless variables say otherwise.

use std::path::Path;

use cache::{Limits, Whys};

use crate::commands::build::size;
use crate::failure::Failure;
use crate::format;

/// The limits that a build keeps the cache within, for the file system of the state directory.
///
/// `BUILDER_MAX_USED_SPACE`, `BUILDER_RESERVED_SPACE` and `BUILDER_MIN_FREE_SPACE` are what the options of `builder prune` of the same
/// names are; 0 is no limit.
pub(crate) fn limits(home: &Path) -> Result<Limits, Failure> {
    let disk = rustix::fs::statvfs(home).map_err(|error| Failure::io("examine", home, &error.into()))?;
    let default = defaults(disk.f_blocks.saturating_mul(disk.f_frsize));
    let given = |name: &str, default: u64| match std::env::var_os(name).filter(|value| !value.is_empty()) {
        None => Ok(default),
        Some(value) => size(&value.to_string_lossy())
            .map_err(|error| Failure::usage(format!("the variable {name}: {error}"))),
    };
    let max_used_space = given("BUILDER_MAX_USED_SPACE", default.max_used_space)?;
    // Who allows less than is usually reserved means it.
    let reserved = match max_used_space {
        0 => default.reserved_space,
        most => default.reserved_space.min(most),
    };
    Ok(Limits {
        reserved_space: given("BUILDER_RESERVED_SPACE", reserved)?,
        max_used_space,
        min_free_space: given("BUILDER_MIN_FREE_SPACE", default.min_free_space)?,
    })
}

/// What a later build is told that misses something.
pub(crate) fn whys(limits: &Limits) -> Whys {
    Whys {
        over: format!("to keep under {}", format::bytes(limits.max_used_space)),
        full: format!("to keep {} of the disk free", format::bytes(limits.min_free_space)),
    }
}

/// For a disk of so many bytes (BuildKit's `DetectDefaultGCCap`).
fn defaults(disk: u64) -> Limits {
    // Rounded up as it is there: from GiB to GB.
    let percent = |percent: u64| (disk / 100 * percent / (1 << 30) + 1) * 1_000_000_000;
    Limits {
        reserved_space: percent(10).min(10_000_000_000),
        max_used_space: percent(80).min(100_000_000_000),
        min_free_space: percent(20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_upstreams() {
        let limits = |gigabytes: u64| {
            let Limits { reserved_space, max_used_space, min_free_space } = defaults(gigabytes << 30);
            [reserved_space, max_used_space, min_free_space].map(|bytes| bytes / 1_000_000_000)
        };
        assert_eq!(limits(50), [6, 41, 11]);
        assert_eq!(limits(1000), [10, 100, 201]);
    }
}
