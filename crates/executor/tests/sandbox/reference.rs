//! The same process in another runtime, for comparison, with the options that Docker gives it.

use std::path::Path;
use std::process::{Command, Output};

use executor::{Defaults, MountKind, Network, ProcessSpec};
use serde_json::{Value, json};

use crate::support::Fixture;

/// Capabilities in the order of their numbers (linux/capability.h).
pub(crate) const CAPABILITIES: [&str; 41] = [
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

/// Runs it in runc.
pub(crate) fn runc(fixture: &Fixture, spec: ProcessSpec, edit: impl FnOnce(&mut Value)) -> Output {
    run(Path::new("runc"), fixture, spec, edit)
}

/// Runs it in runc or crun; `edit` changes what that is told. Its root is the fixture's lower directory.
pub(crate) fn run(
    runtime: &Path,
    fixture: &Fixture,
    spec: ProcessSpec,
    edit: impl FnOnce(&mut Value),
) -> Output {
    let dir = tempfile::Builder::new().prefix("bundle-").tempdir_in(fixture.dir.path()).unwrap();
    let bundle = dir.path();
    // Its own idea of mounts, devices and namespaces, which is Docker's.
    let made = Command::new(runtime).arg("spec").current_dir(bundle).status().expect("it is installed");
    assert!(made.success());
    let file = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let defaults = Defaults::new().unwrap();
    let text = |text: &std::ffi::OsString| text.to_str().unwrap().to_owned();
    let process = &mut config["process"];
    process["terminal"] = false.into();
    process["noNewPrivileges"] = false.into();
    process["args"] = spec.args.iter().map(text).collect();
    process["env"] = spec.env.iter().map(|(name, value)| format!("{}={}", text(name), text(value))).collect();
    // As containerd, Docker and BuildKit ask of it: the primary group is one of them.
    let others = spec.user.additional_gids.iter().filter(|gid| **gid != spec.user.gid);
    let groups: Vec<u32> = std::iter::once(&spec.user.gid).chain(others).copied().collect();
    process["user"] = json!({"uid": spec.user.uid, "gid": spec.user.gid, "additionalGids": groups});
    let capabilities = defaults.capabilities;
    process["capabilities"] =
        json!({"bounding": capabilities, "effective": capabilities, "permitted": capabilities});
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let mut limits = vec![json!({"type": "RLIMIT_NOFILE", "soft": defaults.open_files, "hard": hard})];
    limits.extend(spec.ulimits.iter().map(|limit| {
        json!({"type": format!("RLIMIT_{}", limit.name.to_uppercase()), "soft": limit.soft, "hard": limit.hard})
    }));
    process["rlimits"] = limits.into();
    config["hostname"] = spec.hostname.as_str().into();
    config["root"] = json!({"path": fixture.lower, "readonly": false});
    config["linux"]["seccomp"] = defaults.seccomp;
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    // There already where the machine has control groups of version 2 only.
    namespaces.retain(|namespace| namespace["type"] != "cgroup");
    namespaces.push(json!({"type": "cgroup"}));
    if spec.network == Network::Host {
        namespaces.retain(|namespace| namespace["type"] != "network");
    }
    for mount in &spec.mounts {
        let MountKind::Bind { source } = &mount.kind else { panic!("a runtime is given {mount:?}") };
        let bind =
            json!({"destination": mount.target, "type": "bind", "source": source, "options": ["bind", "ro"]});
        config["mounts"].as_array_mut().unwrap().push(bind);
    }
    edit(&mut config);
    std::fs::write(&file, config.to_string()).unwrap();
    let name = format!("executor-{}", bundle.file_name().unwrap().to_str().unwrap());
    let state = fixture.dir.path().join("state");
    let mut command = called(runtime);
    let ran = command.arg("--root").arg(state).args(["run", &name]).current_dir(bundle).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(!said.contains("runc run failed"), "{said}");
    ran
}

/// crun does not know machines that have both versions of control groups: it is shown the first.
fn called(runtime: &Path) -> Command {
    const UNIFIED: &str = "/sys/fs/cgroup/unified";
    if runtime.ends_with("runc") || !Path::new(UNIFIED).is_dir() {
        return Command::new(runtime);
    }
    let mut command = Command::new("unshare");
    let script = format!("umount {UNIFIED}; exec \"$@\"");
    command.args(["--mount", "sh", "-ec", &script, "sh"]).arg(runtime);
    command
}
