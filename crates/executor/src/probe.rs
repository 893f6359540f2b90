//! What this machine can give sandboxes, for people.

use std::path::Path;

use crate::cgroup;
use crate::lsm::SecurityModules;
use crate::mount::FileSystem;
use crate::seccomp::Filter;
use crate::system::CGROUP2;
use crate::userns::setting;
use crate::{Error, Identity, NetworkKind, PrivateNetwork, Sandbox};

/// One ability of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Short name, such as `overlay`.
    pub name: &'static str,
    /// Whether it is there in full.
    pub available: bool,
    /// What it is; where it is not available: why, and what is done instead.
    pub detail: String,
}

/// The machine as sandboxes see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Release of the kernel.
    pub kernel: String,
    /// Its abilities, in the order in which to show them.
    pub features: Vec<Feature>,
}

/// Looks at the machine. `identity` is what [`crate::enter_user_namespace`] returned, or its error.
pub fn probe(identity: Result<&Identity, &Error>) -> Machine {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let features = vec![
        sandboxes(),
        identity_feature(identity),
        user_namespaces(),
        overlay(),
        seccomp(),
        cgroups(),
        devices(),
        security_modules(),
    ];
    Machine { kernel, features }
}

fn available(name: &'static str, detail: impl Into<String>) -> Feature {
    Feature { name, available: true, detail: detail.into() }
}

fn missing(name: &'static str, detail: impl Into<String>) -> Feature {
    Feature { name, available: false, detail: detail.into() }
}

fn sandboxes() -> Feature {
    match Sandbox::new().prepare() {
        Ok(_) => available("sandbox", "own mount, pid, ipc, uts and cgroup namespaces"),
        Err(error) => missing("sandbox", format!("{error}; RUN cannot be executed")),
    }
}

fn identity_feature(identity: Result<&Identity, &Error>) -> Feature {
    const NAME: &str = "identity";
    match identity {
        Ok(Identity::Root) => available(NAME, "root: every owner can be used"),
        Ok(Identity::Rootless { uids, gids }) => {
            let count =
                |ranges: &[crate::IdRange]| ranges.iter().map(|range| u64::from(range.count)).sum::<u64>();
            available(NAME, format!("rootless with {} user and {} group ids", count(uids), count(gids)))
        }
        Ok(Identity::SingleId { reason }) => missing(
            NAME,
            format!(
                "rootless with a single id, since {reason}; other owners are recorded, and USER must be root"
            ),
        ),
        Err(error) => missing(NAME, error.to_string()),
    }
}

fn user_namespaces() -> Feature {
    const NAME: &str = "user namespaces";
    let off = |name: &str, value: &str| setting(name).is_some_and(|found| found == value);
    if !Path::new("/proc/self/ns/user").exists() {
        return missing(NAME, "the kernel has none; builds need root");
    }
    for (name, value) in [
        ("kernel/unprivileged_userns_clone", "0"),
        ("user/max_user_namespaces", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
    ] {
        if off(name, value) {
            let name = name.replace('/', ".");
            return missing(NAME, format!("sysctl {name} is {value}; ordinary users cannot build"));
        }
    }
    available(NAME, "ordinary users can build")
}

fn overlay() -> Feature {
    const NAME: &str = "overlay";
    if let Err(refused) = FileSystem::open("overlay") {
        return missing(NAME, format!("{}; every RUN works in a full copy of its file system", refused.text));
    }
    if crate::rootfs::takes_layers_one_by_one() {
        available(NAME, "up to 500 layers, through the new mount API")
    } else {
        available(NAME, "up to 500 layers, through mount(2): the kernel is older than 6.7")
    }
}

fn seccomp() -> Feature {
    const NAME: &str = "seccomp";
    match Filter::default_profile() {
        Ok(filter) if Path::new("/proc/sys/kernel/seccomp").exists() => {
            available(NAME, format!("Docker's default profile, {} instructions", filter.program.len()))
        }
        Ok(_) => missing(NAME, "the kernel has none; RUN cannot be executed"),
        Err(why) => missing(NAME, format!("{why}; RUN cannot be executed")),
    }
}

fn cgroups() -> Feature {
    const NAME: &str = "cgroups";
    let is_v2 = |path: &str| rustix::fs::statfs(path).is_ok_and(|found| found.f_type == CGROUP2);
    let version = if is_v2("/sys/fs/cgroup") {
        "v2"
    } else if is_v2("/sys/fs/cgroup/unified") {
        "hybrid of v1 and v2"
    } else if Path::new("/sys/fs/cgroup").join("devices").exists() {
        "v1"
    } else {
        return missing(NAME, "not mounted; limits of memory, processors and processes cannot be enforced");
    };
    let (can, cannot) = cgroup::enforceable();
    if cannot.is_empty() {
        return available(NAME, format!("{version}; limits can be enforced: {}", can.join(", ")));
    }
    let can = if can.is_empty() { "none".to_owned() } else { can.join(", ") };
    let cannot: Vec<String> = cannot.into_iter().map(|(name, why)| format!("{name} ({why})")).collect();
    missing(
        NAME,
        format!("{version}; limits that can be enforced: {can}; those that cannot: {}", cannot.join(", ")),
    )
}

fn devices() -> Feature {
    const NAME: &str = "device nodes";
    match cgroup::try_devices() {
        Ok(version) => {
            let how = match version {
                cgroup::Version::One => "the devices controller of cgroups v1",
                cgroup::Version::Two => "a program in a group of cgroups v2",
            };
            available(
                NAME,
                format!("steps can make any, and use the harmless ones that Docker allows: {how}"),
            )
        }
        Err(why) => missing(NAME, format!("{why}; those that steps make do not work")),
    }
}

fn security_modules() -> Feature {
    const NAME: &str = "security modules";
    match SecurityModules::find(Path::new("/")).describe() {
        Ok(detail) => available(NAME, detail),
        Err(detail) => missing(NAME, detail),
    }
}

/// Which network a RUN gets, from what [`crate::Executor::private_network`] made.
pub fn describe_network(network: Result<&PrivateNetwork, &Error>) -> Feature {
    match network {
        Ok(network) => network_of(network.kind(), network.reason()),
        Err(error) => {
            missing(NETWORK, format!("{error}; RUN cannot be executed but with --network=host or none"))
        }
    }
}

const NETWORK: &str = "network";

fn network_of(kind: NetworkKind, reason: Option<&str>) -> Feature {
    let by = |program: &str| match reason {
        Some(why) => format!("private, others are reached through {program}, since {why}"),
        None => format!("private, others are reached through {program}"),
    };
    match kind {
        NetworkKind::Nat => {
            available(NETWORK, "private, others are reached through the kernel under this machine's address")
        }
        NetworkKind::Pasta => available(NETWORK, by("pasta")),
        NetworkKind::Slirp4netns => available(NETWORK, by("slirp4netns")),
        NetworkKind::Host => {
            missing(NETWORK, format!("the host's, since {}", reason.unwrap_or("there is no other")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_something_of_everything() {
        let reason = "/etc/subuid has no range".to_owned();
        let machine = probe(Ok(&Identity::SingleId { reason }));
        assert!(machine.kernel.contains('.'));
        assert!(machine.features.iter().all(|feature| !feature.detail.is_empty()));
        let identity = machine.features.iter().find(|feature| feature.name == "identity").unwrap();
        assert!(!identity.available && identity.detail.contains("/etc/subuid"));
    }

    #[test]
    fn the_network_is_told_with_its_reason() {
        let found = network_of(NetworkKind::Nat, None);
        assert!(found.available && found.detail.starts_with("private"), "{found:?}");
        let found = network_of(NetworkKind::Slirp4netns, Some("a firewall is in the way"));
        assert!(found.available && found.detail.ends_with("slirp4netns, since a firewall is in the way"));
        let found = network_of(NetworkKind::Host, Some("nothing is installed"));
        assert!(!found.available && found.detail == "the host's, since nothing is installed");
        let found = describe_network(Err(&Error::Setup("no".to_owned())));
        assert!(!found.available && found.detail.contains("--network=host"));
    }
}
