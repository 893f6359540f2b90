//! Rootless operation: the process moves into a user and a mount namespace of its own.
//!
//! The maps of ids must be written from outside: by `newuidmap` and `newgidmap`, which are setuid programs, or
//! directly by a privileged process. So a copy of the process stays outside for a moment and does that, while the
//! original, which keeps its id, terminal and parent, waits inside.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Pid, WaitOptions};
use rustix::thread::{CapabilitySet, UnshareFlags};

use crate::fault::reason;
use crate::mount;
use crate::{Error, IdRange, Identity, sys};

/// Inode of the machine's first user namespace (`PROC_USER_INIT_INO`).
const FIRST_NAMESPACE: u64 = 0xEFFF_FFFD;
/// The kernel's limit of lines in a map.
const LONGEST_MAP: usize = 340;
/// Who maps all ids that it has, line by line.
type Ranges = Vec<IdRange>;

/// How the namespace gets its ids.
enum Plan {
    /// Written directly: this process is root, perhaps of a container, and may.
    Direct { uids: Ranges, gids: Ranges },
    /// Through newuidmap and newgidmap, with the ranges of `/etc/subuid` and `/etc/subgid`.
    Tools { uids: Ranges, gids: Ranges },
    /// Only the own id, for this reason.
    Single(String),
}

/// Makes the calling process able to mount: root stays as it is, everyone else becomes root of a new user namespace.
/// Call it before any thread exists. Environment, directory, descriptors and process id stay the same.
///
/// # Errors
/// [`Error::Unsupported`] when user namespaces are forbidden; the text names the setting.
pub fn enter_user_namespace() -> Result<Identity, Error> {
    if is_privileged()? { privileged_identity() } else { enter_new_user_namespace() }
}

/// Makes the calling process root of a new user namespace also where it is root already: with all the ids that it had, but with
/// capabilities that count for nothing outside. Otherwise as [`enter_user_namespace`].
///
/// # Errors
/// As [`enter_user_namespace`].
pub fn enter_new_user_namespace() -> Result<Identity, Error> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let plan = plan(uid);
    let own = rustix::process::getpid();
    let failed = Error::io("prepare a user namespace");
    let (go_reader, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed)?;
    let (answer, answer_writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(Error::io("prepare a user namespace"))?;
    let outside = if matches!(plan, Plan::Single(_)) {
        None
    } else {
        // The copy must not hold the other ends, or neither side would see the other's end.
        let mut ends = Some((go, answer));
        let pid = sys::fork(|| {
            ends = None;
            write_from_outside(&plan, own, go_reader, answer_writer)
        })
        .map_err(Error::io("prepare a user namespace"))?;
        ends.map(|(go, answer)| (pid, go, answer))
    };
    sys::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS).map_err(|error| forbidden(&error))?;
    let identity = match (outside, plan) {
        (Some((pid, go, answer)), Plan::Direct { uids, gids } | Plan::Tools { uids, gids }) => {
            match written_outside(pid, go, answer)? {
                Ok(()) => Identity::Rootless { uids, gids },
                Err(why) => single(uid, gid, why)?,
            }
        }
        (_, Plan::Single(why)) => single(uid, gid, why)?,
        (None, _) => return Err(Error::Unsupported("the user namespace got no ids".to_owned())),
    };
    // Shows whether we may mount at all: AppArmor lets the namespace be made, and then forbids its use.
    mount::make_all_private().map_err(|fault| match fault {
        crate::fault::Fault::Setup(text) => Error::Unsupported(format!("{text}{}", restriction())),
        other => other.into(),
    })?;
    Ok(identity)
}

fn is_privileged() -> Result<bool, Error> {
    let sets = rustix::thread::capabilities(None).map_err(Error::io("read capabilities"))?;
    Ok(rustix::process::geteuid().is_root() && sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Who a process with CAP_SYS_ADMIN is: root of the machine, or of a user namespace that someone else made.
fn privileged_identity() -> Result<Identity, Error> {
    let namespace = rustix::fs::stat("/proc/self/ns/user").map_err(Error::io("read the user namespace"))?;
    if namespace.st_ino == FIRST_NAMESPACE {
        return Ok(Identity::Root);
    }
    // The mounts may belong to another namespace; a copy is ours.
    sys::unshare(UnshareFlags::NEWNS).map_err(Error::io("create a mount namespace"))?;
    let (uids, gids) = (current_map("uid_map"), current_map("gid_map"));
    if uids.iter().map(|range| u64::from(range.count)).sum::<u64>() > 1 {
        return Ok(Identity::Rootless { uids, gids });
    }
    Ok(Identity::SingleId { reason: "the surrounding user namespace has a single id".to_owned() })
}

fn current_map(name: &str) -> Ranges {
    parse_map(&std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default())
}

fn parse_map(text: &str) -> Ranges {
    let mut ranges: Ranges = text
        .lines()
        .filter_map(|line| {
            let mut numbers = line.split_ascii_whitespace().map(str::parse);
            let mut next = || numbers.next()?.ok();
            Some(IdRange { inside: next()?, outside: next()?, count: next()? })
        })
        .collect();
    ranges.sort_by_key(|range| range.inside);
    ranges
}

fn plan(uid: u32) -> Plan {
    if uid == 0 {
        // Root that lacks CAP_SYS_ADMIN, as in a container, or wants to: all ids it has are mapped to themselves.
        let identical = |name: &str| -> Ranges {
            current_map(name).iter().map(|range| IdRange { outside: range.inside, ..*range }).collect()
        };
        return Plan::Direct { uids: identical("uid_map"), gids: identical("gid_map") };
    }
    let name = user_name(uid);
    let gid = rustix::process::getegid().as_raw();
    let with_ranges = |file: &str, own: u32| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let ranges = subordinate(&text, name.as_deref(), uid);
        if ranges.is_empty() {
            return Err(format!(
                "{file} has no range for {}",
                name.clone().unwrap_or_else(|| uid.to_string())
            ));
        }
        Ok(stack(own, &ranges))
    };
    let tools = ["newuidmap", "newgidmap"].into_iter().find(|tool| find_tool(tool).is_none());
    match (with_ranges("/etc/subuid", uid), with_ranges("/etc/subgid", gid), tools) {
        (Ok(uids), Ok(gids), None) => Plan::Tools { uids, gids },
        (Err(why), ..) | (_, Err(why), _) => Plan::Single(why),
        (.., Some(tool)) => Plan::Single(format!("{tool} is not installed (package uidmap)")),
    }
}

/// The user's name: from `/etc/passwd`, else the environment. newuidmap checks it again.
pub(crate) fn user_name(uid: u32) -> Option<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let listed = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    listed.or_else(|| std::env::var("USER").ok()).filter(|name| !name.is_empty())
}

/// The ranges of a user in a file of subuid(5): first id and number.
pub(crate) fn subordinate(text: &str, name: Option<&str>, uid: u32) -> Vec<(u32, u32)> {
    let uid = uid.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next().filter(|owner| Some(*owner) == name || *owner == uid)?;
            let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            (!owner.is_empty() && count > 0).then_some((first, count))
        })
        .collect()
}

/// 0 is the own id; the ranges follow from 1 on without a gap.
fn stack(own: u32, ranges: &[(u32, u32)]) -> Ranges {
    let mut stacked = vec![IdRange { inside: 0, outside: own, count: 1 }];
    let mut inside = 1_u32;
    for &(outside, count) in ranges.iter().take(LONGEST_MAP - 1) {
        let Some(next) = inside.checked_add(count) else { break };
        stacked.push(IdRange { inside, outside, count });
        inside = next;
    }
    stacked
}

/// A program of the machine, by its name in `PATH`.
pub fn find_tool(name: impl AsRef<std::path::Path>) -> Option<PathBuf> {
    let name = name.as_ref();
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// The copy's part: waits for the word, writes the maps, answers with nothing or with what went wrong.
fn write_from_outside(plan: &Plan, process: Pid, go: OwnedFd, answer: OwnedFd) -> i32 {
    let mut word = Vec::new();
    let told = std::fs::File::from(go).take(1).read_to_end(&mut word);
    if !matches!(told, Ok(1)) {
        return 1;
    }
    let result = match plan {
        Plan::Direct { uids, gids } => write_directly(process, uids, gids),
        // Groups first: when that fails nothing is lost.
        Plan::Tools { uids, gids } => {
            run_tool("newgidmap", process, gids).and_then(|()| run_tool("newuidmap", process, uids))
        }
        Plan::Single(_) => Ok(()),
    };
    match result {
        Ok(()) => 0,
        Err(why) => {
            let _lost = std::fs::File::from(answer).write_all(why.as_bytes());
            1
        }
    }
}

fn write_directly(process: Pid, uids: &[IdRange], gids: &[IdRange]) -> Result<(), String> {
    for (name, ranges) in [("gid_map", gids), ("uid_map", uids)] {
        let file = format!("/proc/{}/{name}", process.as_raw_nonzero());
        let lines: Vec<String> = ranges
            .iter()
            .map(|IdRange { inside, outside, count }| format!("{inside} {outside} {count}\n"))
            .collect();
        // A map is written in a single call (user_namespaces(7)).
        std::fs::write(&file, lines.concat()).map_err(|error| {
            format!("this root lacks CAP_SETUID, CAP_SETGID or CAP_SETFCAP: write {file}: {}", reason(&error))
        })?;
    }
    Ok(())
}

fn run_tool(tool: &str, process: Pid, ranges: &[IdRange]) -> Result<(), String> {
    let program = find_tool(tool).ok_or_else(|| format!("{tool} is not installed (package uidmap)"))?;
    let mut command = Command::new(program);
    command.arg(process.as_raw_nonzero().to_string());
    for IdRange { inside, outside, count } in ranges {
        command.args([inside.to_string(), outside.to_string(), count.to_string()]);
    }
    let output = command.output().map_err(|error| format!("run {tool}: {}", reason(&error)))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{tool} failed: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// The original's part: gives the word and hears how it went.
fn written_outside(copy: Pid, go: OwnedFd, answer: OwnedFd) -> Result<Result<(), String>, Error> {
    let _heard = std::fs::File::from(go).write_all(b"!");
    let mut why = String::new();
    std::fs::File::from(answer)
        .read_to_string(&mut why)
        .map_err(Error::io("write the user namespace's maps"))?;
    let ended = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(copy), WaitOptions::empty()))
        .map_err(Error::io("write the user namespace's maps"))?;
    let well = ended.is_some_and(|(_, status)| status.exit_status() == Some(0));
    Ok(if well { Ok(()) } else { Err(why) })
}

/// Maps the own id alone, which needs nobody's help.
fn single(uid: u32, gid: u32, reason: String) -> Result<Identity, Error> {
    let write = |name: &str, text: String| {
        std::fs::write(format!("/proc/self/{name}"), text).map_err(|source| {
            let text = format!("map user {uid} in a user namespace: write {name}: {source}{}", restriction());
            Error::Unsupported(text)
        })
    };
    // newgidmap may have done its part before newuidmap failed; that map stays.
    if current_map("gid_map").is_empty() {
        write("setgroups", "deny".to_owned())?;
        write("gid_map", format!("0 {gid} 1\n"))?;
    }
    write("uid_map", format!("0 {uid} 1\n"))?;
    Ok(Identity::SingleId { reason })
}

/// Says which setting keeps user namespaces from being made.
pub(crate) fn forbidden(error: &io::Error) -> Error {
    let hint = match error.raw_os_error() {
        Some(libc::ENOSPC) => {
            let limit = setting("user/max_user_namespaces").unwrap_or_default();
            return Error::Unsupported(format!(
                "create a user namespace: there are as many as sysctl user.max_user_namespaces allows, {limit}: raise it, \
                 or run as root"
            ));
        }
        Some(libc::EUSERS) => " (they are nested too deep)".to_owned(),
        Some(libc::EINVAL) => " (the kernel has none, or the process has threads already)".to_owned(),
        _ => match restriction() {
            none if none.is_empty() => {
                " (inside a chroot the kernel allows none; elsewhere a security module may forbid them)"
                    .to_owned()
            }
            known => known,
        },
    };
    Error::Unsupported(format!("create a user namespace: {}{hint}", reason(error)))
}

/// What on this machine forbids the use of user namespaces, in parentheses, or nothing.
fn restriction() -> String {
    if setting("kernel/unprivileged_userns_clone").is_some_and(|value| value == "0") {
        return " (sysctl kernel.unprivileged_userns_clone is 0: set it to 1, or run as root)".to_owned();
    }
    if setting("user/max_user_namespaces").is_some_and(|value| value == "0") {
        return " (sysctl user.max_user_namespaces is 0: raise it, or run as root)".to_owned();
    }
    if setting("kernel/apparmor_restrict_unprivileged_userns").is_some_and(|value| value == "1") {
        return " (sysctl kernel.apparmor_restrict_unprivileged_userns is 1: set it to 0, give this program an AppArmor \
                profile with userns, or run as root)"
            .to_owned();
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if status.lines().any(|line| line.split_ascii_whitespace().eq(["Seccomp:", "2"])) {
        return " (a seccomp filter is in force, as in a container: allow unshare and mount there, for example with \
                --security-opt seccomp=unconfined)"
            .to_owned();
    }
    String::new()
}

/// The value of a sysctl, where the kernel has it.
pub(crate) fn setting(name: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/sys/{name}")).ok().map(|value| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_subordinate_ranges() {
        let text = "# none\nann:100000:65536\nbob:1:2\n1000:500000:10\nann:x:1\nann:7:0\nann\n:5:5\n";
        assert_eq!(subordinate(text, Some("ann"), 1000), [(100_000, 65536), (500_000, 10)]);
        assert_eq!(subordinate(text, None, 1000), [(500_000, 10)]);
        assert_eq!(subordinate(text, Some("eve"), 3), []);
    }

    #[test]
    fn stacks_ranges_without_gaps() {
        let range = |inside, outside, count| IdRange { inside, outside, count };
        let stacked = stack(1000, &[(100_000, 65536), (500_000, 10), (1, u32::MAX)]);
        assert_eq!(stacked, [range(0, 1000, 1), range(1, 100_000, 65536), range(65537, 500_000, 10)]);
        let identity = Identity::Rootless { uids: stacked.clone(), gids: stacked };
        assert!(identity.can_use(0, 65546) && !identity.can_use(65547, 0));
    }

    #[test]
    fn reads_maps() {
        let map = parse_map("         1     100000      65536\n         0       1000          1\nbad\n");
        assert_eq!(map[0], IdRange { inside: 0, outside: 1000, count: 1 });
        assert_eq!(map.len(), 2);
    }
}
