//! Devices by name: the Container Device Interface (<https://github.com/cncf-tags/container-device-interface>).
//!
//! Vendors put descriptions into `/etc/cdi` and `/var/run/cdi`, each of one kind of device (`vendor.com/class`) with
//! nodes, mounts and variables for each device. Only those in JSON are read.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{Error, HostDevice, Mount, MountKind};

/// Where descriptions lie; what a later directory says of a device replaces what an earlier one says.
const PLACES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// BuildKit's annotation that groups devices under a word.
const CLASS: &str = "org.mobyproject.buildkit.device.class";

/// The devices that this machine describes.
#[derive(Clone, Debug, Default)]
pub struct Cdi {
    devices: Vec<Described>,
    /// Files in a form that is not read.
    unread: Vec<PathBuf>,
}

/// What a device brings into a process's surroundings.
#[derive(Clone, Debug, Default)]
pub struct DeviceEdits {
    /// For [`crate::ProcessSpec::devices`].
    pub devices: Vec<HostDevice>,
    /// For [`crate::ProcessSpec::mounts`].
    pub mounts: Vec<Mount>,
    /// For [`crate::ProcessSpec::env`], where no variable of that name is set.
    pub env: Vec<(OsString, OsString)>,
    /// For [`crate::User::additional_gids`].
    pub additional_gids: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Described {
    /// `vendor.com/class=name`.
    name: String,
    annotations: BTreeMap<String, String>,
    /// Those of all devices of the file, then its own.
    edits: Vec<Edits>,
}

#[derive(Clone, Debug, Deserialize)]
struct Document {
    kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    devices: Vec<Entry>,
    #[serde(default, rename = "containerEdits")]
    edits: Edits,
}

#[derive(Clone, Debug, Deserialize)]
struct Entry {
    name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default, rename = "containerEdits")]
    edits: Edits,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Edits {
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    device_nodes: Vec<Node>,
    #[serde(default)]
    mounts: Vec<Bind>,
    #[serde(default)]
    hooks: Vec<serde_json::Value>,
    #[serde(default)]
    additional_gids: Vec<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    path: PathBuf,
    host_path: Option<PathBuf>,
    permissions: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bind {
    host_path: PathBuf,
    container_path: PathBuf,
    #[serde(default)]
    options: Vec<String>,
    r#type: Option<String>,
}

impl Cdi {
    /// Reads what the machine describes. A directory that is missing is empty.
    ///
    /// # Errors
    /// For a file that cannot be read or understood, by name.
    pub fn load() -> Result<Self, Error> {
        Self::read(PLACES.map(Path::new))
    }

    /// As [`Self::load`], from other directories.
    ///
    /// # Errors
    /// Likewise.
    pub fn read<'a>(places: impl IntoIterator<Item = &'a Path>) -> Result<Self, Error> {
        let mut found = Self::default();
        for place in places {
            let entries = match std::fs::read_dir(place) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                other => other.map_err(|error| unreadable(place, &error))?,
            };
            let mut files = entries
                .map(|entry| Ok(entry.map_err(|error| unreadable(place, &error))?.path()))
                .collect::<Result<Vec<_>, Error>>()?;
            files.sort();
            for file in files {
                match file.extension().and_then(|extension| extension.to_str()) {
                    Some("json") => found.add(&file)?,
                    Some("yaml" | "yml") => found.unread.push(file),
                    _ => {}
                }
            }
        }
        Ok(found)
    }

    fn add(&mut self, file: &Path) -> Result<(), Error> {
        let text = std::fs::read(file).map_err(|error| unreadable(file, &error))?;
        let Document { kind, annotations, devices, edits } =
            serde_json::from_slice(&text).map_err(|error| unreadable(file, &error))?;
        for device in devices {
            let name = format!("{kind}={}", device.name);
            self.devices.retain(|known| known.name != name);
            let mut all = annotations.clone();
            all.extend(device.annotations);
            self.devices.push(Described { name, annotations: all, edits: vec![edits.clone(), device.edits] });
        }
        Ok(())
    }

    /// The names of all devices.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.devices.iter().map(|device| device.name.as_str())
    }

    /// The full names that a name stands for, as BuildKit has it: `vendor.com/class=name` is that device, with `*` as
    /// name all of the kind, without a name the first of the kind; any other word, and a kind without devices, all
    /// devices annotated with that class.
    pub fn find(&self, name: &str) -> Vec<&str> {
        let (kind, device) = name.split_once('=').unwrap_or((name, ""));
        let mut found: Vec<&str> = Vec::new();
        if kind.split_once('/').is_some_and(|(vendor, class)| !vendor.is_empty() && !class.is_empty()) {
            let of_kind = self.names().filter(|full| full.split_once('=').is_some_and(|(of, _)| of == kind));
            match device {
                "" => found.extend(of_kind.take(1)),
                "*" => found.extend(of_kind),
                _ => found.extend(of_kind.filter(|full| *full == name)),
            }
        }
        if found.is_empty() {
            let of_class = self
                .devices
                .iter()
                .filter(|device| device.annotations.get(CLASS).is_some_and(|class| class == name));
            found.extend(of_class.map(|device| device.name.as_str()));
        }
        found
    }

    /// What the devices of a name bring. A name that stands for none is an error when it is `required`, else nothing.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a device that is not there, or that needs programs to run outside of the sandbox.
    pub fn resolve(&self, name: &str, required: bool) -> Result<DeviceEdits, Error> {
        let found = self.find(name);
        if found.is_empty() && required {
            let unread = match self.unread.as_slice() {
                [] => String::new(),
                [file, ..] => format!(" (only descriptions in JSON are read, not {})", file.display()),
            };
            return Err(Error::Unsupported(format!(
                "the device {name} is not described in {}{unread}",
                PLACES.join(" or ")
            )));
        }
        let mut all = DeviceEdits::default();
        for device in self.devices.iter().filter(|device| found.contains(&device.name.as_str())) {
            for edits in &device.edits {
                all.add(edits, &device.name)?;
            }
        }
        Ok(all)
    }
}

impl DeviceEdits {
    fn add(&mut self, edits: &Edits, name: &str) -> Result<(), Error> {
        if !edits.hooks.is_empty() {
            return Err(Error::Unsupported(format!(
                "the device {name} needs hooks: programs that run outside of the sandbox, which are not run"
            )));
        }
        for node in &edits.device_nodes {
            let device = HostDevice {
                path: node.host_path.clone().unwrap_or_else(|| node.path.clone()),
                target: node.path.clone(),
                permissions: node.permissions.clone().unwrap_or_else(|| "rwm".to_owned()),
            };
            if !self.devices.contains(&device) {
                self.devices.push(device);
            }
        }
        for bind in &edits.mounts {
            if bind.r#type.as_deref().is_some_and(|kind| !matches!(kind, "" | "bind" | "none")) {
                return Err(Error::Unsupported(format!(
                    "the device {name} needs a mount of another type than bind at {}",
                    bind.container_path.display()
                )));
            }
            let known = self.mounts.iter().any(|mount| mount.target == bind.container_path);
            if !known {
                self.mounts.push(Mount {
                    target: bind.container_path.clone(),
                    kind: MountKind::Bind { source: bind.host_path.clone() },
                    read_only: bind.options.iter().any(|option| option == "ro"),
                });
            }
        }
        for variable in &edits.env {
            let (key, value) = variable.split_once('=').unwrap_or((variable, ""));
            let pair = (OsString::from(key), OsString::from(value));
            if !self.env.contains(&pair) {
                self.env.push(pair);
            }
        }
        let new =
            edits.additional_gids.iter().filter(|gid| **gid != 0 && !self.additional_gids.contains(gid));
        let new: Vec<u32> = new.copied().collect();
        self.additional_gids.extend(new);
        Ok(())
    }
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::Setup(format!("read the device description {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Cdi, Error>) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let read = Cdi::read([Path::new("/nonexistent"), dir.path()]);
        (dir, read)
    }

    const GPU: &str = r#"{"cdiVersion": "0.6.0", "kind": "vendor.com/gpu",
        "annotations": {"org.mobyproject.buildkit.device.class": "fast"},
        "containerEdits": {"env": ["ALL=1"], "mounts": [
            {"hostPath": "/lib/gpu.so", "containerPath": "/usr/lib/gpu.so", "options": ["ro", "nosuid"]}]},
        "devices": [
            {"name": "a", "containerEdits": {"env": ["WHICH=a"], "additionalGids": [44, 0],
                "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/real0", "permissions": "rw"}]}},
            {"name": "b", "containerEdits": {"deviceNodes": [{"path": "/dev/gpu1"}]}}]}"#;

    #[test]
    fn names_stand_for_devices() {
        let (_dir, cdi) = machine(&[("gpu.json", GPU), ("notes.txt", "not read")]);
        let cdi = cdi.unwrap();
        let (a, b) = ("vendor.com/gpu=a", "vendor.com/gpu=b");
        assert_eq!(cdi.find(a), [a]);
        assert_eq!(cdi.find("vendor.com/gpu"), [a], "the first");
        assert_eq!(cdi.find("vendor.com/gpu=*"), [a, b]);
        assert_eq!(cdi.find("fast"), [a, b]);
        assert_eq!(cdi.find("vendor.com/gpu=c"), [""; 0]);
        assert_eq!(cdi.find("slow"), [""; 0]);
    }

    #[test]
    fn devices_bring_nodes_mounts_and_variables() {
        let (_dir, cdi) = machine(&[("gpu.json", GPU)]);
        let edits = cdi.unwrap().resolve("vendor.com/gpu=*", true).unwrap();
        let node = |path: &str, target: &str, permissions: &str| HostDevice {
            path: path.into(),
            target: target.into(),
            permissions: permissions.to_owned(),
        };
        let nodes = [node("/dev/real0", "/dev/gpu0", "rw"), node("/dev/gpu1", "/dev/gpu1", "rwm")];
        assert_eq!(edits.devices, nodes);
        assert_eq!(edits.mounts.len(), 1, "those of all devices come once");
        assert!(edits.mounts[0].read_only);
        let pair = |key: &str, value: &str| (OsString::from(key), OsString::from(value));
        assert_eq!(edits.env, [pair("ALL", "1"), pair("WHICH", "a")]);
        assert_eq!(edits.additional_gids, [44]);
    }

    #[test]
    fn what_is_missing_or_impossible_is_said() {
        let hooked = r#"{"kind": "h.com/x", "devices": [{"name": "1", "containerEdits": {"hooks": [{"path": "/x"}]}}]}"#;
        let (_dir, cdi) = machine(&[("a.yaml", "kind: v.com/y"), ("b.json", hooked)]);
        let cdi = cdi.unwrap();
        assert!(cdi.resolve("v.com/y=1", false).unwrap().devices.is_empty());
        let error = cdi.resolve("v.com/y=1", true).unwrap_err().to_string();
        assert!(error.contains("v.com/y=1 is not described") && error.contains("a.yaml"), "{error}");
        let error = cdi.resolve("h.com/x=1", true).unwrap_err().to_string();
        assert!(error.contains("needs hooks"), "{error}");
        let (_dir, broken) = machine(&[("c.json", "{")]);
        assert!(broken.unwrap_err().to_string().contains("c.json"));
    }
}
