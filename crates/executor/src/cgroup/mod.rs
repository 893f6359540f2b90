//! Control groups of a step: which devices it may use, and its [`crate::Limits`].
//!
//! The guard makes a group for each step, in every hierarchy that something is asked of, and removes it when nothing of
//! the step is left; one that limits nothing and only guards devices serves the guard's next step. It holds a lock on the directory of each (flock(2)): a group without one is that of a guard that
//! was killed, and whoever makes the next group beside it removes it.

mod delegation;
mod devices;
mod hierarchy;
mod settings;

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub(crate) use hierarchy::{Hierarchies, Version};

use crate::fault::{Context, Fault, reason};
use crate::{HostDevice, Limits, ProcessSpec, Security, sys};
use settings::Setting;

/// How names of groups begin.
const PREFIX: &str = "builder-";
/// Tries to make a group that nobody removes in the same moment.
const TRIES: usize = 8;
/// Pauses between tries to remove a group, each twice as long as the one before.
const SHORTEST_PAUSE: Duration = Duration::from_micros(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What groups a step needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wanted {
    limits: Limits,
    devices: Vec<HostDevice>,
    security: Security,
    /// Whether an OCI runtime takes part.
    runtime: bool,
}

impl Wanted {
    pub(crate) fn of(spec: &ProcessSpec) -> Self {
        Self {
            limits: spec.limits.clone(),
            devices: spec.devices.clone(),
            security: spec.security,
            runtime: spec.external.as_ref().is_some_and(|external| external.enters_groups),
        }
    }

    /// Whether the groups of one step are as good as new for the next: they only say which devices can be used, and what was in them
    /// could not change that. Where something is limited, the kernel counts.
    pub(crate) fn lets_reuse(&self) -> bool {
        self.limits.is_empty() && self.security == Security::Default && !self.runtime
    }
}

/// The groups of one step.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: Vec<Group>,
    /// Whether they decide which devices can be used.
    pub(crate) devices: bool,
    memory: Option<u64>,
    /// One name for all, where an OCI runtime takes part.
    name: Option<String>,
    /// The groups by the name that such a runtime takes.
    pub(crate) common: Option<String>,
}

/// A group in one hierarchy.
#[derive(Debug)]
struct Group {
    path: PathBuf,
    version: Version,
    /// Controllers of the hierarchy that it was made for.
    memory: bool,
    /// Keeps others from removing it.
    _lock: OwnedFd,
}

impl Groups {
    /// Makes what a step needs. That devices cannot be guarded is no error; a limit that cannot be enforced is one.
    pub(crate) fn make(wanted: &Wanted) -> Result<Self, Fault> {
        let hierarchies = Hierarchies::find();
        let mut groups = Self { memory: wanted.limits.memory, ..Self::default() };
        groups.name = wanted.runtime.then(new_name);
        let made = groups.add_limits(wanted, &hierarchies);
        let made = made.map(|()| {
            if wanted.security == Security::Default {
                groups.devices = groups.guard_devices(wanted, &hierarchies).is_ok();
            }
            groups.widen(wanted, &hierarchies);
        });
        match made {
            Ok(()) => Ok(groups),
            Err(fault) => {
                groups.remove();
                Err(fault)
            }
        }
    }

    fn add_limits(&mut self, wanted: &Wanted, hierarchies: &Hierarchies) -> Result<(), Fault> {
        let limits = &wanted.limits;
        settings::check(limits)?;
        let asked = settings::controllers(limits);
        for controller in &asked {
            let place = hierarchies.place(controller, &asked, limits.cgroup_parent.as_deref())?;
            let group = self.group(&place).map_err(|fault| {
                let why = crate::Error::from(fault);
                Fault::Unsupported(format!(
                    "limits cannot be enforced: cgroup controller {controller}: {why}"
                ))
            })?;
            group.memory |= *controller == "memory";
            for Setting { file, value, optional } in settings::of(limits, controller, place.version) {
                let path = group.path.join(file);
                match write(&path, &value) {
                    Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => {}
                    other => other.map_err(|error| cannot_limit(controller, &path, &value, &error))?,
                }
            }
        }
        Ok(())
    }

    fn guard_devices(&mut self, wanted: &Wanted, hierarchies: &Hierarchies) -> Result<(), Fault> {
        let asked = settings::controllers(&wanted.limits);
        let place = hierarchies.place("devices", &asked, wanted.limits.cgroup_parent.as_deref())?;
        let rules = devices::rules(&wanted.devices)?;
        let had = self.groups.len();
        let group = self.group(&place)?;
        let done = match place.version {
            Version::One => devices::write_rules(&group.path, &rules),
            Version::Two => sys::guard_devices(&group.path, &devices::program(&rules)),
        };
        let describe = || format!("guard devices with {}", place.dir.display());
        done.context(describe).inspect_err(|_| {
            // Nothing else is asked of this one.
            self.groups.drain(had..).for_each(Group::remove);
        })
    }

    /// An OCI runtime makes groups of one name in all hierarchies: they are made here, so that they are removed whatever
    /// happens to it. Where that is not allowed, the runtime has to do without.
    fn widen(&mut self, wanted: &Wanted, hierarchies: &Hierarchies) {
        let Some(name) = self.name.clone() else { return };
        for place in hierarchies.places(wanted.limits.cgroup_parent.as_deref()) {
            let _optional = self.group(&place);
        }
        if !self.groups.is_empty() {
            self.common = hierarchies.common_name(&name, wanted.limits.cgroup_parent.as_deref(), |dir| {
                self.groups.iter().any(|group| group.path.parent() == Some(dir))
            });
        }
    }

    /// The group at a place, made when it is not there yet. In version 2 a process is in one group: there the first one is meant.
    fn group(&mut self, place: &hierarchy::Place) -> Result<&mut Group, Fault> {
        let unified = place.version == Version::Two;
        let known = self.groups.iter().position(|group| {
            group.path.parent() == Some(&place.dir) || unified && group.version == Version::Two
        });
        let index = match known {
            Some(index) => index,
            None => {
                remove_abandoned(&place.dir);
                self.groups.push(Group::make(place, self.name.as_deref())?);
                self.groups.len() - 1
            }
        };
        Ok(&mut self.groups[index])
    }

    /// Files to which a process writes `0` to become a member.
    pub(crate) fn entrances(&self) -> Result<Vec<OwnedFd>, Fault> {
        let open = |group: &Group| {
            let path = group.path.join(match group.version {
                // Of the thread that writes: the kernel does that without waiting for all others.
                Version::One => "tasks",
                Version::Two => "cgroup.procs",
            });
            rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .context(|| format!("open {}", path.display()))
        };
        self.groups.iter().map(open).collect()
    }

    /// The memory limit, when the kernel killed something for it.
    pub(crate) fn out_of_memory(&self) -> Option<u64> {
        let limit = self.memory?;
        let group = self.groups.iter().find(|group| group.memory)?;
        let file = match group.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let text = std::fs::read_to_string(group.path.join(file)).ok()?;
        let killed = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
        (killed.trim() != "0").then_some(limit)
    }

    /// Removes them, once nothing of the step is left.
    pub(crate) fn remove(self) {
        self.groups.into_iter().for_each(Group::remove);
    }
}

impl Group {
    fn make(place: &hierarchy::Place, name: Option<&str>) -> Result<Self, Fault> {
        let describe = || format!("make a cgroup in {}", place.dir.display());
        for _ in 0..TRIES {
            let path = place.dir.join(name.map_or_else(new_name, str::to_owned));
            std::fs::create_dir(&path).context(describe)?;
            // Somebody may have taken it for an abandoned one before it was locked.
            let Ok(lock) = open_directory(&path) else { continue };
            rustix::fs::flock(&lock, FlockOperation::LockShared).context(describe)?;
            if path.is_dir() {
                let group = Self { path, version: place.version, memory: false, _lock: lock };
                if let Err(fault) = place.prepare(&group.path) {
                    group.remove();
                    return Err(fault);
                }
                return Ok(group);
            }
        }
        Err(Fault::Setup(format!("{}: others keep removing it", describe())))
    }

    fn remove(self) {
        let mut pause = SHORTEST_PAUSE;
        // The kernel may not be done with its last processes.
        while rustix::fs::rmdir(&self.path) == Err(Errno::BUSY) && pause < LONGEST_PAUSE {
            std::thread::sleep(pause);
            pause *= 2;
        }
    }
}

/// A name that no other group has.
fn new_name() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{PREFIX}{}-{}", rustix::process::getpid().as_raw_nonzero(), now.as_nanos())
}

/// Removes groups whose guards were killed.
fn remove_abandoned(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let Ok(dir) = open_directory(&entry.path()) else { continue };
        if rustix::fs::flock(dir.as_fd(), FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Where processes are left in it, the next one tries again.
            let _later = rustix::fs::rmdir(entry.path());
        }
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Writes a value in a single call, as the kernel wants it.
fn write(path: &Path, value: &str) -> std::io::Result<()> {
    std::fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

fn cannot_limit(controller: &str, path: &Path, value: &str, error: &std::io::Error) -> Fault {
    let why = absent(path, value, error).unwrap_or_else(|| {
        format!("cgroup controller {controller}: write {value} to {}: {}", path.display(), reason(error))
    });
    Fault::Unsupported(format!("limits cannot be enforced: {why}"))
}

/// Says that processors or memory nodes of a list are not there, where that is what an error means: ERANGE says it of numbers that no machine
/// has, EINVAL and EACCES of those that this one, or the group above, has not.
fn absent(path: &Path, value: &str, error: &std::io::Error) -> Option<String> {
    let (what, kind) = match path.file_name()?.to_str()? {
        "cpuset.cpus" => ("processors", "cpus"),
        "cpuset.mems" => ("memory nodes", "mems"),
        _ => return None,
    };
    let is_list = value.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b',' | b'-'));
    let code = error.raw_os_error()?;
    if !is_list
        || ![Errno::RANGE, Errno::INVAL, Errno::ACCESS].iter().any(|errno| errno.raw_os_error() == code)
    {
        return None;
    }
    let above = path.parent()?.parent()?;
    let files = [format!("cpuset.{kind}.effective"), format!("cpuset.effective_{kind}")];
    let there = files.iter().find_map(|file| std::fs::read_to_string(above.join(file)).ok());
    let there = there.map_or(String::new(), |there| format!("; there are {}", there.trim()));
    Some(format!("{what} {value} are not all there to be used{there}"))
}

/// Docker's list of devices and those asked for, in the words of the OCI runtime specification.
pub(crate) fn device_rules(devices: &[crate::HostDevice]) -> Result<serde_json::Value, Fault> {
    let everything = serde_json::json!({"allow": false, "access": "rwm"});
    let rules = devices::rules(devices)?;
    Ok(std::iter::once(everything).chain(rules.iter().map(devices::Rule::in_json)).collect())
}

/// Controllers whose limits can be enforced here, and others with the reason, for people.
pub(crate) fn enforceable() -> (Vec<&'static str>, Vec<(&'static str, String)>) {
    let hierarchies = Hierarchies::find();
    let (mut can, mut cannot) = (Vec::new(), Vec::new());
    for controller in ["memory", "cpu", "cpuset", "pids"] {
        // Whoever only asks changes nothing.
        if hierarchies.could_enable(controller) {
            can.push(controller);
            continue;
        }
        let place = hierarchies.place(controller, &[controller], None);
        let tried = place.and_then(|place| Group::make(&place, None));
        match tried {
            Ok(group) => {
                group.remove();
                can.push(controller);
            }
            Err(fault) => cannot.push((controller, crate::Error::from(fault).to_string())),
        }
    }
    (can, cannot)
}

/// Whether steps get groups that guard devices here, for people: `Err` says why not.
pub(crate) fn try_devices() -> Result<Version, String> {
    let wanted = Wanted {
        limits: Limits::default(),
        devices: Vec::new(),
        security: Security::Default,
        runtime: false,
    };
    let hierarchies = Hierarchies::find();
    let mut groups = Groups::default();
    let tried = hierarchies.place("devices", &[], None).and_then(|place| {
        groups.guard_devices(&wanted, &hierarchies)?;
        Ok(place.version)
    });
    groups.remove();
    tried.map_err(|fault| crate::Error::from(fault).to_string())
}
