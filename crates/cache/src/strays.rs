//! What lies in the state directory and is nobody's: each place holds what its rows or its kind of names say, and nothing else.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use hash::CacheKey;

use crate::layout::{PROBE, mount_points, names_in};
use crate::{CacheError, Store};

/// Something that nothing leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stray {
    pub(crate) path: PathBuf,
    /// Whether it lies where only this program has something to write. At the top of the directory it may be the user's own.
    pub(crate) is_ours: bool,
}

/// Names at the top that do not end with a version.
const TOP: [&str; 3] = ["format", "blobs", "lost+found"];

impl Store {
    /// What is nobody's. `alone`: no build is running; else one may be about to write down what it has made, and only what cannot become
    /// anything is found.
    pub(crate) fn strays(&self, alone: bool) -> Result<Vec<Stray>, CacheError> {
        let layout = &self.inner.layout;
        let mut strays = Vec::new();
        for name in names_in(layout.root())? {
            let is_trial = name.starts_with(PROBE) || name.starts_with("trial-");
            if !TOP.contains(&&*name) && !is_trial && !has_version(&name) {
                strays.push(Stray { path: layout.root().join(name), is_ours: false });
            }
        }
        let mut ours = self.stray_layers()?;
        ours.extend(self.stray_blobs(alone)?);
        let mut misplaced = |dir: PathBuf, fits: &dyn Fn(&str, &Path) -> bool| -> Result<(), CacheError> {
            for name in names_in(&dir)? {
                let path = dir.join(&name);
                // What is gone by now was no stray.
                if path.symlink_metadata().is_ok() && !fits(&name, &path) {
                    ours.push(path);
                }
            }
            Ok(())
        };
        let is_key = |name: &str| name.parse::<CacheKey>().is_ok();
        misplaced(layout.empty_layer(), &|_, _| false)?;
        misplaced(layout.claims(), &|name, path| is_key(name) && is_file(path))?;
        misplaced(layout.stats(), &|name, path| is_key(name) && is_file(path))?;
        misplaced(layout.leases(), &|name, path| is_lease(name) && is_file(path))?;
        misplaced(layout.builds(), &|name, path| is_build(name) && is_file(path))?;
        for with_etc in [false, true] {
            let top = layout.mount_points(with_etc);
            let (dirs, files) = mount_points(with_etc);
            for dir in std::iter::once("").chain(dirs.iter().copied()) {
                misplaced(top.join(dir), &|name, path| {
                    let name = Path::new(dir).join(name);
                    let one_of = |names: &[&str]| names.iter().any(|one| Path::new(one) == name);
                    one_of(dirs) && is_dir(path) || one_of(files) && is_file(path)
                })?;
            }
        }
        misplaced(layout.scratch(), &is_scratch)?;
        misplaced(layout.partials(), &|name, path| is_digest(name) && is_file(path))?;
        for dir in [layout.mounts(), layout.remotes()] {
            for name in names_in(&dir)?.iter().filter(|name| is_key(name)) {
                let is_part = |name: &str, path: &Path| match name {
                    "name" | "lock" | "making" => is_file(path),
                    _ => name.parse::<u64>().is_ok() && is_dir(path),
                };
                if is_dir(&dir.join(name)) {
                    misplaced(dir.join(name), &is_part)?;
                }
            }
            misplaced(dir, &|name, path| is_key(name) && is_dir(path))?;
        }
        strays.extend(ours.into_iter().map(|path| Stray { path, is_ours: true }));
        Ok(strays)
    }

    /// Directories of layers, files beside them and logs that no layer has.
    fn stray_layers(&self) -> Result<Vec<PathBuf>, CacheError> {
        let layout = &self.inner.layout;
        let mut strays = Vec::new();
        for (dir, is_log) in [(layout.snapshots(), false), (layout.versions(), false), (layout.logs(), true)]
        {
            // Names first: a layer is known before it has a name, and builds may be running.
            let names = names_in(&dir)?;
            let known = self.known_snapshots()?;
            let fits = |name: &str, path: &Path| {
                let (stem, end) = name.split_once('.').unwrap_or((name, ""));
                let is_form = match (end, is_log) {
                    ("", false) => is_dir(path),
                    ("owners" | "files", false) | ("", true) => is_file(path),
                    _ => false,
                };
                is_form && stem.parse().is_ok_and(|id: i64| known.contains(&id) && id.to_string() == stem)
            };
            let paths = names.into_iter().map(|name| (dir.join(&name), name));
            strays.extend(paths.filter(|(path, name)| !fits(name, path)).map(|(path, _)| path));
        }
        Ok(strays)
    }

    /// What is no known blob.
    pub(crate) fn stray_blobs(&self, alone: bool) -> Result<Vec<PathBuf>, CacheError> {
        let dir = self.inner.layout.blobs();
        let mut strays = Vec::new();
        if let Some(parent) = dir.parent() {
            let others = names_in(parent)?.into_iter().filter(|name| !has_version(name));
            strays.extend(others.map(|name| parent.join(name)));
        }
        let known = if alone { self.known_blobs()? } else { HashSet::new() };
        for name in names_in(&dir)? {
            let folder = dir.join(&name);
            if name.len() != 2 || !is_hex(&name) || !is_dir(&folder) {
                strays.push(folder);
                continue;
            }
            for blob in names_in(&folder)? {
                let path = folder.join(&blob);
                let is_named = is_digest(&blob) && blob.starts_with(&name);
                if !is_named || (alone && !known.contains(&path)) {
                    strays.push(path);
                }
            }
        }
        Ok(strays)
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_digest(name: &str) -> bool {
    name.len() == 64 && is_hex(name)
}

fn is_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
}

fn is_dir(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}

/// `NAME-v1`, also of other versions, and what belongs to it: `cache-v1.db-wal`, `session-v1.lock`.
fn has_version(name: &str) -> bool {
    let Some((before, after)) = name.split_once("-v") else { return false };
    let end = after.trim_start_matches(|c: char| c.is_ascii_digit());
    !before.is_empty() && end.len() < after.len() && (end.is_empty() || end.starts_with('.'))
}

/// `PROCESS-NAME` and its lock. What a process left there that was killed is removed when nobody holds that.
fn is_scratch(name: &str, path: &Path) -> bool {
    let (stem, is_form) = match name.strip_suffix(".lock") {
        Some(stem) => (stem, is_file(path)),
        None => (name, is_dir(path)),
    };
    is_form && stem.split_once('-').is_some_and(|(process, _)| process.parse::<u32>().is_ok())
}

fn is_lease(name: &str) -> bool {
    let is_hex =
        |text: &str, length| text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.strip_prefix("layer-").is_some_and(|text| is_hex(text, 3))
        || name.strip_prefix("blob-").is_some_and(|text| is_hex(text, 2))
}

fn is_build(name: &str) -> bool {
    name.strip_suffix(".record").or_else(|| name.strip_suffix(".log")).is_some_and(|stem| {
        stem.split_once('-').is_some_and(|(time, id)| time.parse::<u64>().is_ok() && !id.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_versions_have_is_known_by_its_name() {
        for name in
            ["snapshots-v1", "snapshots-v2", "cache-v1.db-wal", "session-v1.lock", "cache-v1.db.damaged-17"]
        {
            assert!(has_version(name), "{name}");
        }
        for name in ["", "notes.txt", "-v1", "my-video.mp4", "a-v", "app-v1x", "core"] {
            assert!(!has_version(name), "{name}");
        }
    }
}
