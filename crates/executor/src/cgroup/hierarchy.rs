//! Where groups can be made on this machine.

use std::path::{Path, PathBuf};

use crate::fault::{Fault, reason};

/// Version of a cgroup hierarchy (cgroups(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// One hierarchy for each controller or two.
    One,
    /// One for all.
    Two,
}

/// All hierarchies that are mounted.
#[derive(Debug, Default)]
pub(crate) struct Hierarchies(Vec<Hierarchy>);

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    /// Where its top is mounted.
    pub(super) top: PathBuf,
    /// The caller's own group in it.
    pub(super) own: PathBuf,
    pub(super) controllers: Vec<String>,
}

/// A group in which a step's can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    pub(crate) version: Version,
    /// A new group has no processors and memory nodes until it is told.
    cpuset: bool,
}

impl Hierarchies {
    /// Those of this machine, as this process sees them.
    pub(crate) fn find() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let mut found = Self::parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        for hierarchy in found.0.iter_mut().filter(|hierarchy| hierarchy.version == Version::Two) {
            let list = std::fs::read_to_string(hierarchy.top.join("cgroup.controllers")).unwrap_or_default();
            hierarchy.controllers = list.split_ascii_whitespace().map(str::to_owned).collect();
        }
        found
    }

    /// From the texts of proc_pid_mountinfo(5) and proc_pid_cgroup(5).
    fn parse(mounts: &str, groups: &str) -> Self {
        let mut found: Vec<Hierarchy> = Vec::new();
        for line in mounts.lines() {
            let Some((place, kind)) = line.split_once(" - ") else { continue };
            let place: Vec<&str> = place.split(' ').collect();
            let kind: Vec<&str> = kind.split(' ').collect();
            let (&[_, _, _, root, top, ..], &[kind, _, options, ..]) = (place.as_slice(), kind.as_slice())
            else {
                continue;
            };
            let names: Vec<&str> = options.split(',').collect();
            let own = groups.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':');
                let (_, of, path) = (fields.next()?, fields.next()?, fields.next()?);
                let ours = match kind {
                    "cgroup2" => of.is_empty(),
                    "cgroup" => !of.is_empty() && of.split(',').all(|controller| names.contains(&controller)),
                    _ => false,
                };
                ours.then_some((of, path))
            });
            let Some((controllers, own)) = own else { continue };
            // A part of the hierarchy may be mounted; what is above it is out of reach.
            let below = Path::new(own).strip_prefix(root).unwrap_or(Path::new(""));
            let hierarchy = Hierarchy {
                version: if kind == "cgroup2" { Version::Two } else { Version::One },
                top: PathBuf::from(top),
                own: Path::new(top).join(below),
                controllers: controllers
                    .split(',')
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned)
                    .collect(),
            };
            let known = found.iter().any(|known| {
                known.version == hierarchy.version && known.controllers == hierarchy.controllers
            });
            if !known {
                found.push(hierarchy);
            }
        }
        Self(found)
    }

    /// Where to make a group for a controller: below `parent`, counted from the top, else near the caller's own group. `with` are
    /// all the controllers that the step needs: in version 2 they have one place.
    pub(crate) fn place(
        &self,
        controller: &str,
        with: &[&str],
        parent: Option<&Path>,
    ) -> Result<Place, Fault> {
        let unified = |hierarchy: &&Hierarchy| hierarchy.version == Version::Two;
        let owner = self
            .owner(controller)
            // In version 2 devices are guarded by a program, not by a controller.
            .or_else(|| self.0.iter().find(unified).filter(|_| controller == "devices"));
        let Some(hierarchy) = owner else {
            return Err(Fault::Unsupported(format!(
                "limits cannot be enforced: this machine has no cgroup controller {controller}"
            )));
        };
        let parent = parent.map(|path| hierarchy.top.join(path.strip_prefix("/").unwrap_or(path)));
        if let Some(parent) = &parent {
            hierarchy.make_parent(parent, controller)?;
        }
        let here = |name: &&str| hierarchy.controllers.iter().any(|known| known == name);
        let with: Vec<&str> = with.iter().copied().filter(here).collect();
        let dir = match (hierarchy.version, parent) {
            (Version::One, parent) => parent.unwrap_or_else(|| hierarchy.own.clone()),
            (Version::Two, Some(parent)) => hierarchy.enable(&with, &parent).map(|()| parent)?,
            (Version::Two, None) => hierarchy.delegated(&with)?,
        };
        let cpuset = hierarchy.version == Version::One && controller == "cpuset";
        Ok(Place { dir, version: hierarchy.version, cpuset })
    }

    /// Whether [`Self::place`] would change groups for a controller, and may.
    pub(crate) fn could_enable(&self, controller: &str) -> bool {
        let owner = self.owner(controller).filter(|hierarchy| hierarchy.version == Version::Two);
        owner.is_some_and(|hierarchy| hierarchy.could_enable(&[controller]))
    }

    fn owner(&self, controller: &str) -> Option<&Hierarchy> {
        self.0.iter().find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller))
    }

    /// Where the hierarchy of version 2 is.
    pub(crate) fn unified(&self) -> Option<PathBuf> {
        let unified = self.0.iter().find(|hierarchy| hierarchy.version == Version::Two);
        unified.map(|hierarchy| hierarchy.top.clone())
    }

    /// A place in every hierarchy: below `parent`, else in the caller's own group.
    pub(crate) fn places(&self, parent: Option<&Path>) -> Vec<Place> {
        let place = |hierarchy: &Hierarchy| {
            let below = |path: &Path| hierarchy.top.join(path.strip_prefix("/").unwrap_or(path));
            Place {
                dir: parent.map_or_else(|| hierarchy.own.clone(), below),
                version: hierarchy.version,
                cpuset: hierarchy.version == Version::One
                    && hierarchy.controllers.iter().any(|name| name == "cpuset"),
            }
        };
        self.0.iter().map(place).collect()
    }

    /// What an OCI runtime calls groups of this name: with version 1 relative to its own groups, which may be others in each
    /// hierarchy; with version 2 from the top. `has` says where there is one.
    pub(crate) fn common_name(
        &self,
        name: &str,
        parent: Option<&Path>,
        has: impl Fn(&Path) -> bool,
    ) -> Option<String> {
        if let Some(parent) = parent {
            return Some(Path::new("/").join(parent).join(name).to_string_lossy().into_owned());
        }
        if self.0.iter().any(|hierarchy| hierarchy.version == Version::One) {
            return Some(name.to_owned());
        }
        let dir = self.0.iter().find_map(|hierarchy| {
            let mut above = hierarchy.own.ancestors().take_while(|dir| dir.starts_with(&hierarchy.top));
            let dir = above.find(|dir| has(dir))?;
            dir.strip_prefix(&hierarchy.top).ok()
        })?;
        Some(Path::new("/").join(dir).join(name).to_string_lossy().into_owned())
    }
}

impl Hierarchy {
    fn make_parent(&self, parent: &Path, controller: &str) -> Result<(), Fault> {
        let inside = parent.components().all(|part| part != std::path::Component::ParentDir);
        let made = if inside {
            std::fs::create_dir_all(parent)
        } else {
            Err(std::io::ErrorKind::InvalidInput.into())
        };
        made.map_err(|error| refused(controller, &format!("make {}: {}", parent.display(), reason(&error))))?;
        if self.version == Version::One && controller == "cpuset" {
            fill_cpuset(parent)?;
        }
        Ok(())
    }
}

impl Place {
    /// What a new group needs before it can have members.
    pub(crate) fn prepare(&self, group: &Path) -> Result<(), Fault> {
        if self.cpuset { fill_cpuset(group) } else { Ok(()) }
    }
}

/// Gives a group of version 1 the processors and memory nodes of the one above, where it has none.
fn fill_cpuset(group: &Path) -> Result<(), Fault> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let file = group.join(name);
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        if read(&file).is_empty() {
            let above = group.parent().map(|parent| read(&parent.join(name))).unwrap_or_default();
            super::write(&file, &above).map_err(|error| {
                refused("cpuset", &format!("write {above} to {}: {}", file.display(), reason(&error)))
            })?;
        }
    }
    Ok(())
}

pub(super) fn refused(controller: &str, why: &str) -> Fault {
    Fault::Unsupported(format!("limits cannot be enforced: cgroup controller {controller}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 25 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
35 30 0:27 / /other/memory rw - cgroup cgroup rw,memory
";
    const OWN: &str = "4:memory:/a/b\n3:cpu,cpuacct:/c\n1:name=systemd:/x\n0::/u\n";

    #[test]
    fn finds_own_groups() {
        let found = Hierarchies::parse(HYBRID, OWN);
        let of = |controller: &str| {
            let one = found.0.iter().find(|one| one.controllers.iter().any(|name| name == controller));
            one.map(|one| (one.version, one.own.to_str().unwrap()))
        };
        assert_eq!(of("memory"), Some((Version::One, "/sys/fs/cgroup/memory/a/b")));
        assert_eq!(of("cpu"), Some((Version::One, "/sys/fs/cgroup/cpu,cpuacct/c")));
        assert_eq!(of("pids"), None);
        assert_eq!(
            found.0.iter().find(|one| one.version == Version::Two).unwrap().own,
            Path::new("/sys/fs/cgroup/unified/u")
        );
    }

    #[test]
    fn containers_see_a_part() {
        let mounts = "9 8 0:27 /docker/1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let found = Hierarchies::parse(mounts, "4:memory:/docker/1/sub\n");
        assert_eq!(found.0[0].own, Path::new("/sys/fs/cgroup/memory/sub"));
        let error = found.place("pids", &["pids"], None).unwrap_err();
        assert!(matches!(error, Fault::Unsupported(text) if text.ends_with("no cgroup controller pids")));
    }
}
