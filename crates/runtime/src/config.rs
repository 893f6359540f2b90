//! `config.json` of a bundle (OCI runtime specification, config.md and config-linux.md): only what is written here.

use std::ffi::OsStr;

use executor::{Defaults, ProcessSpec, Security};
use serde::Serialize;
use serde_json::Value;

/// The version of the specification that is followed: all runtimes in use know it.
const VERSION: &str = "1.0.2";
/// What runc and crun use where nothing is said.
const UMASK: u32 = 0o022;
/// Where the machine's control groups are.
const CGROUPS: &str = "/sys/fs/cgroup";
/// `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const CGROUP2: i64 = 0x6367_7270;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Config {
    oci_version: &'static str,
    process: Process,
    hostname: String,
    mounts: Vec<Mount>,
    linux: Linux,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    terminal: bool,
    user: User,
    args: Vec<String>,
    env: Vec<String>,
    cwd: String,
    capabilities: Capabilities,
    rlimits: Vec<Rlimit>,
    no_new_privileges: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct User {
    uid: u32,
    gid: u32,
    umask: u32,
    additional_gids: Vec<u32>,
}

#[derive(Debug, Serialize)]
struct Capabilities {
    bounding: Vec<String>,
    effective: Vec<String>,
    permitted: Vec<String>,
    inheritable: Vec<String>,
    ambient: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Rlimit {
    #[serde(rename = "type")]
    kind: String,
    soft: u64,
    hard: u64,
}

#[derive(Debug, Serialize)]
struct Mount {
    destination: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    source: &'static str,
    options: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    namespaces: Vec<Namespace>,
    masked_paths: &'static [&'static str],
    readonly_paths: &'static [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    seccomp: Option<Value>,
}

#[derive(Debug, Serialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: &'static str,
}

impl Config {
    /// The configuration for a process. `Err` says what of it cannot be written down.
    pub(crate) fn new(spec: &ProcessSpec, defaults: Defaults) -> Result<Self, String> {
        let insecure = spec.security == Security::Insecure;
        let env = spec.env.iter().map(|(name, value)| Ok(format!("{}={}", text(name)?, text(value)?)));
        Ok(Self {
            oci_version: VERSION,
            process: Process {
                terminal: false,
                user: User {
                    uid: spec.user.uid,
                    gid: spec.user.gid,
                    umask: UMASK,
                    additional_gids: groups(spec),
                },
                args: spec.args.iter().map(|arg| text(arg).map(str::to_owned)).collect::<Result<_, _>>()?,
                env: env.collect::<Result<_, String>>()?,
                cwd: text(spec.cwd.as_os_str())?.to_owned(),
                capabilities: Capabilities::of(insecure, &defaults)?,
                rlimits: rlimits(spec, defaults.open_files),
                no_new_privileges: false,
            },
            hostname: spec.hostname.clone(),
            mounts: mounts(insecure),
            linux: Linux {
                // The others are the sandbox's own.
                namespaces: ["pid", "mount", "uts", "cgroup"].map(|kind| Namespace { kind }).into(),
                masked_paths: if insecure { &[] } else { defaults.masked },
                readonly_paths: if insecure { &[] } else { defaults.read_only },
                seccomp: (!insecure).then_some(defaults.seccomp),
            },
        })
    }
}

/// JSON has no other strings.
fn text(value: &OsStr) -> Result<&str, String> {
    value.to_str().ok_or_else(|| format!("{value:?}, which is no UTF-8"))
}

/// The primary group is one of them, so that a program cannot shed it (CVE-2022-2989).
fn groups(spec: &ProcessSpec) -> Vec<u32> {
    let others = spec.user.additional_gids.iter().copied().filter(|gid| *gid != spec.user.gid);
    std::iter::once(spec.user.gid).chain(others).collect()
}

impl Capabilities {
    fn of(insecure: bool, defaults: &Defaults) -> Result<Self, String> {
        let granted = match insecure {
            true => own_capabilities()?,
            false => defaults.capabilities.iter().map(|name| (*name).to_owned()).collect(),
        };
        let outlive = if insecure { granted.clone() } else { Vec::new() };
        Ok(Self {
            bounding: granted.clone(),
            effective: granted.clone(),
            permitted: granted,
            inheritable: outlive.clone(),
            ambient: outlive,
        })
    }
}

/// Names of capabilities in the order of their numbers (linux/capability.h).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Those of this process.
fn own_capabilities() -> Result<Vec<String>, String> {
    let own = rustix::thread::capabilities(None).map_err(|error| format!("capabilities: {error}"))?;
    let has = |number: usize| own.permitted.bits() >> number & 1 == 1;
    let names = CAPABILITIES.iter().enumerate().filter(|(number, _)| has(*number));
    Ok(names.map(|(_, name)| format!("CAP_{name}")).collect())
}

fn rlimits(spec: &ProcessSpec, open_files: u64) -> Vec<Rlimit> {
    let mut limits: Vec<Rlimit> = spec
        .ulimits
        .iter()
        .map(|limit| Rlimit {
            kind: format!("RLIMIT_{}", limit.name.to_uppercase()),
            soft: limit.soft,
            hard: limit.hard,
        })
        .collect();
    if !limits.iter().any(|limit| limit.kind == "RLIMIT_NOFILE") {
        let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
        limits.push(Rlimit { kind: "RLIMIT_NOFILE".to_owned(), soft: open_files.min(hard), hard });
    }
    limits
}

/// Whether the machine has one hierarchy of control groups, version 2.
pub(crate) fn is_unified() -> bool {
    rustix::fs::statfs(CGROUPS).is_ok_and(|found| found.f_type == CGROUP2)
}

fn mounts(insecure: bool) -> Vec<Mount> {
    const INERT: [&str; 3] = ["nosuid", "noexec", "nodev"];
    let mut mounts =
        vec![Mount { destination: "/proc", kind: "proc", source: "proc", options: INERT.to_vec() }];
    if is_unified() {
        let mut options = INERT.to_vec();
        options.push(if insecure { "rw" } else { "ro" });
        mounts.push(Mount { destination: CGROUPS, kind: "cgroup", source: "cgroup", options });
    }
    mounts
}

#[cfg(test)]
mod tests {
    use super::*;
    use executor::{Rootfs, Ulimit};
    use std::ffi::OsString;

    fn spec(args: &[&str]) -> ProcessSpec {
        ProcessSpec::new(Rootfs::Directory("/".into()), args.iter().copied())
    }

    fn written(spec: &ProcessSpec) -> Value {
        serde_json::to_value(Config::new(spec, Defaults::new().unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn says_what_docker_says() {
        let mut spec = spec(&["sh", "-c", "x"]);
        spec.env.push(("A".into(), "b=c".into()));
        spec.user = executor::User { uid: 5, gid: 6, additional_gids: vec![7, 6] };
        spec.ulimits.push(Ulimit { name: "core".to_owned(), soft: 0, hard: 1 });
        let written = written(&spec);
        let process = &written["process"];
        assert_eq!(process["args"], serde_json::json!(["sh", "-c", "x"]));
        assert_eq!(process["env"], serde_json::json!(["A=b=c"]));
        assert_eq!(
            process["user"],
            serde_json::json!({"uid": 5, "gid": 6, "umask": 18, "additionalGids": [6, 7]})
        );
        assert_eq!(process["rlimits"][0], serde_json::json!({"type": "RLIMIT_CORE", "soft": 0, "hard": 1}));
        assert_eq!(process["rlimits"][1]["soft"], 1024);
        assert_eq!(process["capabilities"]["bounding"].as_array().unwrap().len(), 14);
        assert_eq!(process["capabilities"]["inheritable"], serde_json::json!([]));
        assert_eq!(process["noNewPrivileges"], false);
        assert_eq!(written["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
        assert!(written["linux"]["maskedPaths"].as_array().unwrap().iter().any(|path| path == "/proc/kcore"));
        assert_eq!(written["hostname"], "buildkitsandbox");
    }

    #[test]
    fn insecure_is_insecure() {
        let mut spec = spec(&["true"]);
        spec.security = Security::Insecure;
        let written = written(&spec);
        assert_eq!(written["linux"]["maskedPaths"], serde_json::json!([]));
        assert!(written["linux"].get("seccomp").is_none());
        let own = own_capabilities().unwrap();
        assert_eq!(written["process"]["capabilities"]["ambient"].as_array().unwrap().len(), own.len());
    }

    #[test]
    fn only_text_can_be_written() {
        use std::os::unix::ffi::OsStringExt as _;
        let mut spec = spec(&["true"]);
        spec.args.push(OsString::from_vec(vec![0xff]));
        let error = Config::new(&spec, Defaults::new().unwrap()).unwrap_err();
        assert_eq!(error, "\"\\xFF\", which is no UTF-8");
    }
}
