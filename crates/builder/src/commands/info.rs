use std::path::{Path, PathBuf};

use executor::{Executor, Feature, Identity, Sandbox, SubordinateIds};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::{Machine, cli, external, format, machine, terminal};

/// Show what this machine offers, and what is used instead of what it lacks.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    let report = Report::make()?;
    let text = if args.json { format!("{:#}\n", report.json()) } else { report.text(terminal::columns()) };
    terminal::print(&text)?;
    Ok(0)
}

/// Everything there is to say about the machine.
struct Report {
    kernel: String,
    identity: &'static str,
    facts: Vec<Fact>,
    state: State,
}

/// One line.
struct Fact {
    name: String,
    rating: Rating,
    detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rating {
    Good,
    /// Not there, and builds do without it.
    Replaced,
    /// Not there, and builds need it.
    Bad,
}

/// Without these nothing can be built; what else is missing has a replacement.
const NEEDED: [&str; 3] = ["sandbox", "seccomp", "state directory"];

impl Report {
    /// Looks at the machine. The process must have one thread.
    fn make() -> Result<Report, Failure> {
        // Inside the user namespace everybody is root: ask before.
        let home = machine::home()?;
        let ids = SubordinateIds::of_caller();
        let is_root = rustix::process::geteuid().is_root();
        let namespace = executor::try_user_namespace();
        let identity = machine::enter_user_namespace()?;

        let machine = executor::probe(identity.as_ref());
        let mut facts: Vec<Fact> = machine.features.into_iter().map(Fact::from).collect();
        if let Err(error) = namespace {
            set(&mut facts, "user namespaces", Err(format!("{error}; only root can build")));
        }
        let subordinate = match is_root {
            true => Ok("not needed by root".to_owned()),
            false => subordinate(&ids),
        };
        set(&mut facts, "subordinate ids", subordinate);
        facts.push(Fact::new("OCI runtimes", runtimes()));
        if let Err(why) = external::from_env() {
            let detail = format!("{why}; steps cannot run: unset it, or name a runtime that is installed");
            facts.push(Fact { name: "runtime".to_owned(), rating: Rating::Bad, detail });
        }
        let state = State::of(&home);
        let usable = match &identity {
            Ok(identity) => {
                let trial = Trial::begin(&state.existing);
                if let Ok(trial) = &trial {
                    let tried = executor::try_overlay(&trial.0, identity.needs_userxattr());
                    set(&mut facts, "overlay", overlay(tried, &state));
                }
                state.usable(identity, trial.map(drop))
            }
            // Nothing can be tried, and what is wrong is told already.
            Err(_) => Ok(()),
        };
        set(&mut facts, "state directory", usable.map(|()| state.describe()));
        if identity.is_ok() {
            // Last: this starts threads. What is tried is gone when it is dropped.
            let network = crate::runtime()?.block_on(async { Sandbox::new().private_network().await });
            facts.push(executor::describe_network(network.as_ref()).into());
        }
        if identity.is_err() {
            facts
                .iter_mut()
                .filter(|fact| fact.name == "identity")
                .for_each(|fact| fact.rating = Rating::Bad);
        }
        let identity = match identity {
            Ok(Identity::Root) => "root",
            Ok(Identity::Rootless { .. }) => "rootless",
            Ok(Identity::SingleId { .. }) => "single-id",
            Err(_) => "none",
        };
        Ok(Report { kernel: machine.kernel, identity, facts, state })
    }

    fn is_usable(&self) -> bool {
        self.identity != "none" && self.facts.iter().all(|fact| fact.rating != Rating::Bad)
    }

    /// For people, in lines of at most so many columns where they can be cut.
    fn text(&self, columns: usize) -> String {
        let kernel = format!("{} {}", self.kernel, std::env::consts::ARCH);
        let mut lines = vec![("builder", "", cli::VERSION), ("kernel", "", kernel.as_str())];
        lines.extend(self.facts.iter().map(|fact| {
            let mark = match fact.rating {
                Rating::Good => "ok",
                Rating::Replaced => "-",
                Rating::Bad => "no",
            };
            (fact.name.as_str(), mark, fact.detail.as_str())
        }));
        let name_width = lines.iter().map(|(name, _, _)| name.len()).max().unwrap_or(0);
        // Two gaps of three columns, two for the mark.
        let width = columns.saturating_sub(name_width + 8).max(20);
        let mut rows = Vec::new();
        for (name, mark, detail) in lines {
            let (mut name, mut mark) = (name, mark);
            for line in format::wrapped(detail, width) {
                rows.push(vec![name.to_owned(), mark.to_owned(), line]);
                (name, mark) = ("", "");
            }
        }
        let verdict = match self.is_usable() {
            true => "Builds run on this machine.",
            false => "Builds cannot run on this machine: see what is marked `no`.",
        };
        format!("{}\n{verdict}\n", format::table(&rows))
    }

    fn json(&self) -> Value {
        let feature = |fact: &Fact| {
            let rating = match fact.rating {
                Rating::Good => "available",
                Rating::Replaced => "replaced",
                Rating::Bad => "missing",
            };
            (fact.name.clone(), json!({ "status": rating, "detail": fact.detail }))
        };
        let features: serde_json::Map<String, Value> = self.facts.iter().map(feature).collect();
        json!({
            "version": cli::VERSION,
            "kernel": self.kernel,
            "architecture": std::env::consts::ARCH,
            "identity": self.identity,
            "usable": self.is_usable(),
            "stateDirectory": {
                "path": self.state.path,
                "exists": self.state.exists(),
                "fileSystem": self.state.file_system,
                "freeBytes": self.state.free,
            },
            "features": features,
        })
    }
}

impl From<Feature> for Fact {
    fn from(feature: Feature) -> Fact {
        Fact::new(feature.name, if feature.available { Ok(feature.detail) } else { Err(feature.detail) })
    }
}

impl Fact {
    fn new(name: &str, detail: Result<String, String>) -> Fact {
        let rating = match &detail {
            Ok(_) => Rating::Good,
            Err(_) if NEEDED.contains(&name) => Rating::Bad,
            Err(_) => Rating::Replaced,
        };
        let detail = detail.unwrap_or_else(|reason| reason);
        Fact { name: name.to_owned(), rating, detail: format::without_error_numbers(&detail) }
    }
}

/// Says something of a feature, instead of what was said before.
fn set(facts: &mut Vec<Fact>, name: &str, detail: Result<String, String>) {
    let fact = Fact::new(name, detail);
    match facts.iter_mut().find(|fact| fact.name == name) {
        Some(existing) => *existing = fact,
        None => facts.push(fact),
    }
}

/// What `--runtime` finds by name.
fn runtimes() -> Result<String, String> {
    let found = runtime::installed();
    if found.is_empty() {
        return Err(
            "none is installed, and none is needed: `--runtime` takes crun, runc or a path".to_owned()
        );
    }
    let paths: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
    Ok(format!("{}, for `builder build --runtime`", paths.join(" and ")))
}

/// What an ordinary user needs for having more than one id.
fn subordinate(ids: &SubordinateIds) -> Result<String, String> {
    let count = |ranges: &[(u32, u32)]| ranges.iter().map(|(_, count)| u64::from(*count)).sum::<u64>();
    let mut missing = Vec::new();
    for (file, ranges) in [("/etc/subuid", &ids.uids), ("/etc/subgid", &ids.gids)] {
        if ranges.is_empty() {
            missing.push(format!("{file} has no range for {}", ids.user));
        }
    }
    for (tool, path) in [("newuidmap", &ids.newuidmap), ("newgidmap", &ids.newgidmap)] {
        if path.is_none() {
            missing.push(format!("{tool} is not installed"));
        }
    }
    match missing.is_empty() {
        true => Ok(format!("{} user and {} group ids for {}", count(&ids.uids), count(&ids.gids), ids.user)),
        false => Err(format!("{}; {}", missing.join(", "), how_to_get_ids(&ids.user))),
    }
}

/// What gives a user further ids (Debian's names).
pub(crate) fn how_to_get_ids(user: &str) -> String {
    format!(
        "as root: apt install uidmap; usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
    )
}

fn overlay(tried: Result<(), executor::Error>, state: &State) -> Result<String, String> {
    match tried {
        Ok(()) => Ok(format!("tried in {}", state.existing.display())),
        Err(error) => Err(format!(
            "{error}; every RUN works in a full copy of its file system, which is slow: set BUILDER_HOME to a directory on \
             ext4, xfs or btrfs"
        )),
    }
}

/// The state directory, or where it would be made.
struct State {
    path: PathBuf,
    /// The directory itself, or the nearest one above it that is there.
    existing: PathBuf,
    file_system: String,
    /// Bytes that this user may still write.
    free: Option<u64>,
}

impl State {
    fn of(path: &Path) -> State {
        let existing = path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned();
        let free = rustix::fs::statvfs(&existing).ok().map(|found| found.f_bavail * found.f_frsize);
        let kind = rustix::fs::statfs(&existing).ok().map(|found| found.f_type as u32);
        let file_system = kind.map_or_else(|| "unknown".to_owned(), file_system);
        State { path: path.to_owned(), existing, file_system, free }
    }

    fn exists(&self) -> bool {
        self.path == self.existing
    }

    fn describe(&self) -> String {
        let free = self.free.map(|free| format!(", {} free", format::bytes(free))).unwrap_or_default();
        let made = if self.exists() { "" } else { ", made by the first build" };
        format!("{} on {}{free}{made}", self.path.display(), self.file_system)
    }

    /// Whether builds can keep their state there. A directory that is not there is not made for that.
    fn usable(&self, identity: &Identity, writable: std::io::Result<()>) -> Result<(), String> {
        if self.exists() {
            let machine = Machine::of(identity.clone(), self.path.clone());
            return machine.store_or_new().map(drop).map_err(|failure| failure.message().to_owned());
        }
        writable.map_err(|error| {
            format!(
                "{} cannot be made in {}: {error}; set BUILDER_HOME to another directory",
                self.path.display(),
                self.existing.display()
            )
        })
    }
}

/// The names of statfs(2)'s magic numbers.
fn file_system(magic: u32) -> String {
    let name = match magic {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlay",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        0xca45_1a4e => "bcachefs",
        0x6969 => "nfs",
        0xff53_4d42 | 0xfe53_4d42 => "smb",
        0x6573_5546 => "fuse",
        0x0102_1997 => "9p",
        _ => return format!("file system {magic:#x}"),
    };
    name.to_owned()
}

/// An empty directory to try something in; it goes away with the value.
struct Trial(PathBuf);

impl Trial {
    fn begin(parent: &Path) -> std::io::Result<Trial> {
        let path = parent.join(format!(".builder-info-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Trial(path))
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "cannot remove what was tried");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> SubordinateIds {
        SubordinateIds {
            user: "ann".to_owned(),
            uids: vec![(100_000, 65536)],
            gids: vec![(100_000, 65536), (300_000, 10)],
            newuidmap: Some("/usr/bin/newuidmap".into()),
            newgidmap: Some("/usr/bin/newgidmap".into()),
        }
    }

    #[test]
    fn what_is_missing_for_ids_is_named() {
        assert_eq!(subordinate(&ids()), Ok("65536 user and 65546 group ids for ann".to_owned()));
        let lacking = SubordinateIds { uids: vec![], newgidmap: None, ..ids() };
        let reason = subordinate(&lacking).unwrap_err();
        assert!(reason.contains("/etc/subuid has no range for ann, newgidmap is not installed"), "{reason}");
        assert!(reason.contains("usermod --add-subuids"), "{reason}");
    }

    #[test]
    fn a_state_directory_that_is_not_there_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::of(&dir.path().join("a/b"));
        assert_eq!(state.existing, dir.path());
        assert!(!state.exists() && state.describe().contains("made by the first build"));
        let refused = state.usable(&Identity::Root, Err(std::io::ErrorKind::PermissionDenied.into()));
        assert!(refused.unwrap_err().contains("BUILDER_HOME"));
        assert_eq!(state.usable(&Identity::Root, Ok(())), Ok(()));
        assert!(!dir.path().join("a").exists());
    }

    #[test]
    fn only_what_builds_need_makes_a_machine_unusable() {
        let mut report = Report {
            kernel: "6.1".to_owned(),
            identity: "root",
            facts: vec![Fact::new("network", Err("none".to_owned()))],
            state: State::of(Path::new("/")),
        };
        assert!(report.is_usable() && report.text(200).contains("network   -"));
        set(&mut report.facts, "overlay", Err("no such device".to_owned()));
        assert!(report.is_usable());
        set(&mut report.facts, "seccomp", Err("no such device (os error 19)".to_owned()));
        assert!(
            !report.is_usable() && report.text(200).contains("no   no such device\n"),
            "{}",
            report.text(200)
        );
        assert_eq!(report.json()["features"]["overlay"]["status"], "replaced");
        assert_eq!(report.json()["features"]["seccomp"]["status"], "missing");
        set(&mut report.facts, "seccomp", Ok("tried".to_owned()));
        assert_eq!(report.json()["usable"], true);
    }
}
