//! Groups of version 2 whose children have controllers (cgroups(7), "Cgroups v2 delegation").

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::hierarchy::{Hierarchy, refused};
use super::write;
use crate::fault::{Fault, reason};

/// The group for processes that were in one which gives controllers to its children. Whoever makes a step's group beside it removes it
/// once it is empty.
const CALLERS: &str = "builder-callers";
/// Tries to move processes away, among which some may have started others meanwhile.
const TRIES: usize = 8;

impl Hierarchy {
    /// The nearest group, the caller's own or one above it, whose children have all these controllers, since a process is in one group only.
    /// Where there is none they are enabled: by the top, which takes root, or else in what was delegated to the caller, whose processes may have
    /// to move for that.
    pub(super) fn delegated(&self, controllers: &[&str]) -> Result<PathBuf, Fault> {
        let nearest = self.nearest(controllers);
        // Where nothing is limited, who makes the group finds out why it cannot.
        if let Some(dir) = nearest.or(controllers.is_empty().then_some(self.top.as_path())) {
            return Ok(dir.to_owned());
        }
        let describe = || format!("make a cgroup in {}", self.top.display());
        let by_top = self
            .enable(controllers, &self.top)
            .and_then(|()| may_enter(&self.top).map_err(|error| cannot(controllers, &describe(), &error)));
        let Err(refused) = by_top else { return Ok(self.top.clone()) };
        let offered = |dir: &&Path| is_offered(controllers, dir);
        let enables = |dir: &Path| controllers.iter().try_for_each(|controller| add(dir, controller));
        if let Some(dir) = self.above().filter(offered).find(|dir| enables(dir).is_ok()) {
            return Ok(dir.to_owned());
        }
        if offered(&self.own.as_path()) {
            for _ in 0..TRIES {
                if move_callers(&self.own).and_then(|()| enables(&self.own)).is_ok() {
                    return Ok(self.own.clone());
                }
            }
        }
        Err(refused)
    }

    /// Whether [`Self::delegated`] would change groups for these controllers, and may.
    pub(super) fn could_enable(&self, controllers: &[&str]) -> bool {
        let may_change = |dir: &Path| {
            let file = dir.join("cgroup.subtree_control");
            is_offered(controllers, dir) && rustix::fs::access(file, Access::WRITE_OK).is_ok()
        };
        self.nearest(controllers).is_none() && self.above().any(may_change)
    }

    fn above(&self) -> impl Iterator<Item = &Path> {
        self.own.ancestors().take_while(|dir| dir.starts_with(&self.top))
    }

    fn nearest(&self, controllers: &[&str]) -> Option<&Path> {
        let has = |dir: &&Path| controllers.iter().all(|controller| enabled(dir, controller));
        self.above().filter(has).find(|dir| may_enter(dir).is_ok())
    }

    /// Gives controllers to the children of a group, and to everything above.
    pub(super) fn enable(&self, controllers: &[&str], dir: &Path) -> Result<(), Fault> {
        let mut above: Vec<&Path> = dir.ancestors().take_while(|dir| dir.starts_with(&self.top)).collect();
        above.reverse();
        for dir in above {
            for controller in controllers {
                let describe = || format!("write +{controller} to {}/cgroup.subtree_control", dir.display());
                add(dir, controller).map_err(|error| cannot(&[controller], &describe(), &error))?;
            }
        }
        Ok(())
    }
}

fn add(dir: &Path, controller: &str) -> io::Result<()> {
    if enabled(dir, controller) {
        return Ok(());
    }
    write(&dir.join("cgroup.subtree_control"), &format!("+{controller}"))
}

/// A group with processes gives its children no controllers: moves all of them to a group below, as what starts containers within
/// containers does.
fn move_callers(own: &Path) -> io::Result<()> {
    let callers = own.join(CALLERS);
    match std::fs::create_dir(&callers) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for process in std::fs::read_to_string(own.join("cgroup.procs"))?.lines() {
        // It may have ended.
        let _gone = write(&callers.join("cgroup.procs"), process);
    }
    Ok(())
}

/// Whether a group has these controllers, and the caller may make groups in it.
fn is_offered(controllers: &[&str], dir: &Path) -> bool {
    let file = dir.join("cgroup.controllers");
    controllers.iter().all(|controller| lists(&file, controller)) && may_enter(dir).is_ok()
}

fn enabled(dir: &Path, controller: &str) -> bool {
    lists(&dir.join("cgroup.subtree_control"), controller)
}

fn lists(file: &Path, controller: &str) -> bool {
    let list = std::fs::read_to_string(file).unwrap_or_default();
    list.split_ascii_whitespace().any(|name| name == controller)
}

/// Whether the caller may make groups in one and move its processes there, from below.
fn may_enter(dir: &Path) -> io::Result<()> {
    rustix::fs::access(dir, Access::WRITE_OK)?;
    Ok(rustix::fs::access(dir.join("cgroup.procs"), Access::WRITE_OK)?)
}

fn cannot(controllers: &[&str], what: &str, error: &io::Error) -> Fault {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            " (only root may; for other users the controller must be delegated, as by systemd's Delegate=)"
        }
        _ => "",
    };
    refused(&controllers.join(", "), &format!("{what}: {}{hint}", reason(error)))
}

#[cfg(test)]
mod tests {
    use super::super::hierarchy::Version;
    use super::*;

    #[test]
    fn all_controllers_of_a_step_have_one_place() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path();
        // As systemd leaves them: the slice gives its children less than the manager above it.
        for (group, enabled) in [
            ("", "cpu memory pids"),
            ("manager", "cpu memory pids"),
            ("manager/slice", "memory pids"),
            ("manager/slice/own", ""),
        ] {
            let group = top.join(group);
            std::fs::create_dir_all(&group).unwrap();
            std::fs::write(group.join("cgroup.subtree_control"), enabled).unwrap();
            std::fs::write(group.join("cgroup.procs"), "").unwrap();
            std::fs::write(group.join("cgroup.controllers"), "cpu cpuset memory pids").unwrap();
        }
        let own = top.join("manager/slice/own");
        let controllers = ["cpu", "memory", "pids"].map(str::to_owned).to_vec();
        let hierarchy =
            Hierarchy { version: Version::Two, top: top.to_owned(), own: own.clone(), controllers };
        let place = |controllers: &[&str]| hierarchy.delegated(controllers).unwrap();
        assert_eq!(place(&[]), own, "devices need no controller");
        assert_eq!(place(&["memory"]), top.join("manager/slice"));
        assert_eq!(place(&["memory", "cpu"]), top.join("manager"));
        assert_eq!(place(&["cpu", "pids"]), top.join("manager"));
        let said = || std::fs::read_to_string(top.join("cgroup.subtree_control")).unwrap();
        let before = said();
        let could = [&["memory"][..], &["cpuset"], &["io"]].map(|asked| hierarchy.could_enable(asked));
        assert_eq!((could, said()), ([false, true, false], before), "it has, may have, cannot have");
        assert_eq!(place(&["cpuset"]), top, "which enables it");
        assert!(said().contains("+cpuset"), "{}", said());
    }
}
