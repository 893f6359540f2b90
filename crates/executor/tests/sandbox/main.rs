//! Runs real processes in real sandboxes: as root, as an ordinary user with a range of ids, and as one with a single id.
//!
//! The binary is its own sandbox helper, so it has its own `main`. As root it runs every case, then starts itself as
//! an ordinary user in a mount namespace with files of its own in `/etc`, so that nothing of the machine changes.
//! Arguments are parts of the names of cases to run. For nextest each kind of user is one test ([`MODES`]).

mod beside;
mod binary;
mod calls;
mod endurance;
mod escapes;
mod isolation;
mod leaving;
mod limits;
mod network;
mod options;
mod owners;
mod process;
mod reference;
mod shared;
mod support;
mod traces;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::time::Instant;

use escapes::Victim;
use executor::Identity;
use support::{Case, Fixture, Needs};

/// Set for the copies that run as another user.
const MODE: &str = "EXECUTOR_TEST_MODE";

/// The process of such a user that is not in its user namespace.
const NEIGHBOUR: &str = "EXECUTOR_TEST_NEIGHBOUR";

/// The users as whom root runs the cases again.
const MODES: [&str; 4] = ["range", "single", "masked", "container"];

fn main() -> ExitCode {
    executor::sandbox_init();
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if has("--list") {
        // What nextest asks a test binary for; nothing here is ignored.
        let names = std::iter::once("root").chain(MODES).filter(|_| !has("--ignored"));
        names.for_each(|name| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let chosen = has("--exact")
        .then(|| arguments.iter().find(|argument| !argument.starts_with('-')).cloned())
        .flatten();
    if chosen.is_some() {
        arguments.clear();
    }
    match arguments.first().map(String::as_str) {
        Some("probe") => return isolation::probe(),
        Some("write-self") => return binary::write_self(),
        Some("run-replaced") => return binary::run_replaced(&arguments[1]),
        Some("run-private") => return network::run_private(&arguments[1]),
        Some("connect") => return isolation::connect(&arguments[1]),
        Some("run-spec") => return isolation::run_spec(&arguments[1]),
        Some("run-and-wait") => return leaving::run_and_wait(&arguments[1]),
        Some("inherit") => return process::run_inheriting(&arguments[1]),
        _ => {}
    }
    let identity = match executor::enter_user_namespace() {
        Ok(identity) => identity,
        Err(error) => {
            eprintln!("cannot test sandboxes here: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mode = std::env::var(MODE).ok();
    let expected = match mode.as_deref() {
        Some("range") => matches!(identity, Identity::Rootless { .. }),
        Some("single" | "masked") => matches!(identity, Identity::SingleId { .. }),
        // Root without CAP_SYS_ADMIN has all of its ids.
        Some("container") => identity.needs_userxattr() && identity.can_use(3_000_000_000, 70_000),
        _ => true,
    };
    if !expected {
        eprintln!("expected to be {mode:?}, but am {identity:?}");
        return ExitCode::FAILURE;
    }
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let is_chosen = |name: &str| chosen.as_deref().is_none_or(|chosen| chosen == name);
    let mut well = true;
    if mode.is_some() || is_chosen("root") {
        well &= run_cases(&identity, mode.as_deref(), &filters);
    }
    if mode.is_none() && identity == Identity::Root {
        for mode in MODES.into_iter().filter(|mode| is_chosen(mode)) {
            well &= run_as_user(mode, &arguments);
        }
    } else if mode.is_none() && !is_chosen("root") {
        eprintln!("only root can become another user");
        well = false;
    }
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_cases(identity: &Identity, mode: Option<&str>, filters: &[&String]) -> bool {
    let masked = mode == Some("masked");
    let label = mode.unwrap_or(match identity {
        Identity::Root => "root",
        Identity::Rootless { .. } => "range",
        Identity::SingleId { .. } => "single",
    });
    let cases: Vec<&Case> = [
        isolation::CASES,
        process::CASES,
        traces::CASES,
        shared::CASES,
        leaving::CASES,
        limits::CASES,
        network::CASES,
        owners::CASES,
        escapes::CASES,
        beside::CASES,
        binary::CASES,
        endurance::CASES,
        options::CASES,
    ]
    .into_iter()
    .flatten()
    .filter(|case| match case.needs {
        Needs::MaskedProc => masked,
        _ if masked => false,
        Needs::Nothing => true,
        Needs::Ids => identity.can_use(1000, 1001),
        Needs::Root => *identity == Identity::Root,
    })
    .filter(|case| filters.is_empty() || filters.iter().any(|filter| case.name.contains(filter.as_str())))
    .collect();
    let mut failed = Vec::new();
    for case in &cases {
        let begin = Instant::now();
        let fixture = Fixture::new(identity.clone());
        let well = catch_unwind(AssertUnwindSafe(|| (case.run)(&fixture))).is_ok();
        println!("{label} {} ... {} ({:?})", case.name, if well { "ok" } else { "FAILED" }, begin.elapsed());
        if !well {
            failed.push(case.name);
        }
    }
    println!("{label}: {} cases, {} failed {failed:?}\n", cases.len(), failed.len());
    failed.is_empty()
}

/// Runs the cases again as someone else: an ordinary user with or without a range of subordinate ids, or root of a
/// container.
fn run_as_user(mode: &str, arguments: &[String]) -> bool {
    const UID: &str = "23456";
    let dir = tempfile::Builder::new().prefix("executor-user-").tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    };
    // A part of /proc that is hidden keeps user namespaces from mounting another, as in a container.
    let (extra, user) = match mode {
        "masked" => ("mount -t tmpfs none /proc/tty", format!("--reuid {UID} --regid {UID} --clear-groups")),
        "container" => ("", "--bounding-set -sys_admin --inh-caps -all".to_owned()),
        _ => ("", format!("--reuid {UID} --regid {UID} --clear-groups")),
    };
    let ranges = if mode == "range" { "sandboxer:300000:65536\n" } else { "" };
    let passwd = format!("root:x:0:0:root:/root:/bin/sh\nsandboxer:x:{UID}:{UID}::/:/bin/sh\n");
    let script = format!(
        "set -e
         mount --bind {} /etc/subuid
         mount --bind {} /etc/subgid
         mount --bind {} /etc/passwd
         if [ -e /dev/net/tun ]; then
             mknod -m 666 {tun} c 10 200
             mount --bind {tun} /dev/net/tun
         fi
         {extra}
         exec setpriv {user} \"$@\"",
        write("subuid", ranges).display(),
        write("subgid", ranges).display(),
        write("passwd", &passwd).display(),
        // Anyone may use it on most machines.
        tun = dir.path().join("tun").display(),
    );
    // The user must be able to read the binary, wherever it was built.
    let binary = dir.path().join("sandbox");
    std::fs::copy("/proc/self/exe", &binary).expect("a copy of this binary");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("permissions");
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).expect("permissions");
    let own = dir.path().join("own");
    std::fs::create_dir(&own).expect("a directory");
    let uid = UID.parse().ok();
    std::os::unix::fs::chown(&own, uid, uid).expect("ownership");
    let mut neighbour = Command::new("setpriv");
    neighbour.args(user.split(' '));
    let neighbour = Victim::start(&mut neighbour, dir.path());
    let status = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script, "sh"])
        .arg(&binary)
        .args(arguments)
        .env(MODE, mode)
        .env(NEIGHBOUR, neighbour.pid().to_string())
        .env("TMPDIR", &own)
        .status();
    match status {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("unshare (package util-linux): {error}");
            false
        }
    }
}
