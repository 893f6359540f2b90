//! What went into the keys of a step, in parts that can be compared and named.

use std::collections::BTreeMap;

use graph::{Exec, MissReason, MountKind, Op, Owner, OwnerId, PathChange, PathChangeKind, ValueChange};
use hash::{StableHash, StableHasher};
use serde::{Deserialize, Serialize};

use crate::SelectedPath;

/// So many changed paths are named in a reason.
const NAMED: usize = 20;
/// Longer values are cut when they are shown, in characters.
const LONGEST: usize = 80;

/// The parts of a definition key, as they are remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyParts {
    /// Of the operation as a whole: whatever the fields leave out shows here.
    op: String,
    fields: BTreeMap<String, Value>,
    inputs: Vec<InputPart>,
}

/// A value of the operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Value {
    /// Of the value; of a secret one together with the store's secret.
    digest: String,
    /// `None` when the name says that it is a secret.
    text: Option<String>,
}

/// What a step uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum InputPart {
    /// Another vertex.
    Vertex {
        /// For people.
        name: String,
        /// Its definition key with the selection.
        key: String,
    },
    /// Files by content.
    Content {
        /// For people: the selection.
        pattern: String,
        /// Of all of it.
        digest: String,
        /// One by one, where the worker knows them.
        paths: Option<BTreeMap<String, PathPart>>,
    },
}

/// A file: its mode, and a digest of everything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PathPart(Option<u32>, String);

/// By path.
pub(crate) fn path_parts(paths: Vec<SelectedPath>) -> BTreeMap<String, PathPart> {
    let part = |path: SelectedPath| (path.path, PathPart(path.mode, hex(&path.digest)));
    paths.into_iter().map(part).collect()
}

impl KeyParts {
    pub(crate) fn new(op: &Op, inputs: Vec<InputPart>, secret: &[u8; 32]) -> KeyParts {
        let mut fields = Fields { secret, found: BTreeMap::new() };
        fields.of(op);
        let op = short(StableHasher::new("key-parts-op-v1").with(op));
        KeyParts { op, fields: fields.found, inputs }
    }

    /// Why a step with these parts was not found, when one with the parts `old` was built before; `None` when they are the same.
    pub(crate) fn changed_since(&self, old: &KeyParts) -> Option<MissReason> {
        if self.op != old.op {
            return Some(self.changed_field(old));
        }
        // Files first: the user has just edited them.
        let pairs = || self.inputs.iter().zip(&old.inputs);
        if let Some(reason) = pairs().find_map(|(new, old)| changed_content(old, new)) {
            return Some(reason);
        }
        for (new, old) in pairs() {
            if new != old {
                return Some(MissReason::InputChanged { input: new.name().to_owned() });
            }
        }
        let longer = if self.inputs.len() > old.inputs.len() { &self.inputs } else { &old.inputs };
        let first = self.inputs.len().min(old.inputs.len());
        longer.get(first).map(|input| MissReason::InputChanged { input: input.name().to_owned() })
    }

    fn changed_field(&self, old: &KeyParts) -> MissReason {
        let names = self.fields.keys().chain(old.fields.keys());
        // The order of importance, then of names.
        let rank = |name: &String| (!name.starts_with(COMMAND), name.clone());
        let different = names.filter(|name| {
            let digest = |parts: &KeyParts| parts.fields.get(*name).map(|value| value.digest.clone());
            digest(self) != digest(old)
        });
        let Some(name) = different.min_by_key(|name| rank(name)) else {
            let change = ValueChange::Shown { old: None, new: None };
            return MissReason::OpChanged { field: "the operation".to_owned(), change };
        };
        let (new, old) = (self.fields.get(name), old.fields.get(name));
        let hidden = [new, old].iter().flatten().any(|value| value.text.is_none());
        let text = |value: Option<&Value>| value.and_then(|value| value.text.clone());
        let change =
            if hidden { ValueChange::Hidden } else { ValueChange::Shown { old: text(old), new: text(new) } };
        MissReason::OpChanged { field: name.clone(), change }
    }
}

impl InputPart {
    fn name(&self) -> &str {
        match self {
            InputPart::Vertex { name, .. } => name,
            InputPart::Content { pattern, .. } => pattern,
        }
    }
}

fn changed_content(old: &InputPart, new: &InputPart) -> Option<MissReason> {
    let InputPart::Content { digest: new_digest, paths: new_paths, .. } = new else { return None };
    let InputPart::Content { digest: old_digest, paths: old_paths, .. } = old else { return None };
    if new_digest == old_digest {
        return None;
    }
    let (Some(new), Some(old)) = (new_paths, old_paths) else {
        return Some(MissReason::ContentChanged { paths: Vec::new(), more: 0 });
    };
    let mut paths: Vec<PathChange> = Vec::new();
    let change = |path: &String, kind| PathChange { path: path.clone(), kind };
    for (path, new) in new {
        match old.get(path) {
            None => paths.push(change(path, PathChangeKind::Added)),
            Some(old) if old.1 != new.1 => paths.push(change(path, PathChangeKind::Changed)),
            Some(old) if old.0 != new.0 => paths.push(change(
                path,
                match (old.0, new.0) {
                    (Some(old), Some(new)) => PathChangeKind::Mode { old, new },
                    _ => PathChangeKind::Changed,
                },
            )),
            Some(_) => {}
        }
    }
    let gone = old.keys().filter(|path| !new.contains_key(*path));
    paths.extend(gone.map(|path| change(path, PathChangeKind::Removed)));
    let more = paths.len().saturating_sub(NAMED) as u64;
    paths.truncate(NAMED);
    Some(MissReason::ContentChanged { paths, more })
}

const COMMAND: &str = "command";

/// Collects what of an operation can be named.
struct Fields<'a> {
    secret: &'a [u8; 32],
    found: BTreeMap<String, Value>,
}

impl Fields<'_> {
    fn of(&mut self, op: &Op) {
        match op {
            Op::Exec(exec) => self.exec(exec),
            Op::Copy(copy) => {
                self.put("destination", &copy.destination);
                if let Some(owner) = &copy.owner {
                    self.put("owner", &show_owner(owner));
                }
                if let Some(mode) = &copy.mode {
                    self.put_hashed("mode", &format!("{mode:?}"), mode);
                }
            }
            Op::Mkdir(mkdir) => {
                self.put("path", &mkdir.path);
                self.put("owner", &show_owner(&mkdir.owner));
            }
            Op::Inline(inline) => {
                for file in &inline.files {
                    let text = format!("{} bytes, mode {:04o}", file.content.len(), file.mode);
                    self.put_hashed(&format!("text of {}", file.name), &text, &(&file.content, &file.mode));
                }
            }
            Op::Source(_) | Op::Merge => {}
        }
    }

    fn exec(&mut self, exec: &Exec) {
        self.put_hashed(COMMAND, &exec.args.join(" "), &exec.args);
        for (name, value) in exec.env.iter() {
            let field = format!("variable {name}");
            if is_secret_like(name) {
                let hasher = StableHasher::new("secret-value-v1").with(self.secret).with(value);
                self.found.insert(field, Value { digest: short(hasher), text: None });
            } else {
                self.put(&field, value);
            }
        }
        self.put("directory", &exec.cwd);
        self.put("user", &exec.user);
        self.put("host name", &exec.hostname);
        self.put("network", &format!("{:?}", exec.network).to_lowercase());
        self.put("security", &format!("{:?}", exec.security).to_lowercase());
        self.put("platform", &exec.platform.to_string());
        for (name, _) in &exec.extra_hosts {
            self.put(&format!("host {name}"), "added");
        }
        for device in &exec.devices {
            self.put_hashed(&format!("device {}", device.name), "added", device);
        }
        for secret in &exec.secret_env {
            self.put_hashed(&format!("secret {}", secret.id), "added", secret);
        }
        for mount in &exec.mounts {
            let kind = match mount.kind {
                MountKind::Bind { .. } => "bind",
                MountKind::Cache(_) => "cache",
                MountKind::Tmpfs { .. } => "tmpfs",
                MountKind::Secret(_) => "secret",
                MountKind::Ssh(_) => "ssh",
            };
            let access = if mount.read_only { "read-only" } else { "writable" };
            self.put_hashed(&format!("mount {}", mount.target), &format!("{kind}, {access}"), mount);
        }
    }

    fn put(&mut self, name: &str, value: &str) {
        self.put_hashed(name, value, value);
    }

    fn put_hashed(&mut self, name: &str, text: &str, value: &(impl StableHash + ?Sized)) {
        let digest = short(StableHasher::new("key-part-v1").with(value));
        let mut shown: String = text.chars().flat_map(char::escape_debug).take(LONGEST).collect();
        if shown.len() < text.len() && shown.chars().count() == LONGEST {
            shown.push('…');
        }
        self.found.insert(name.to_owned(), Value { digest, text: Some(shown) });
    }
}

fn show_owner(owner: &Owner) -> String {
    let show = |id: &OwnerId| match id {
        OwnerId::Number(number) => number.to_string(),
        OwnerId::Name(name) => name.clone(),
    };
    match &owner.group {
        Some(group) => format!("{}:{}", show(&owner.user), show(group)),
        None => show(&owner.user),
    }
}

/// Whether a variable's name says that nobody should read its value.
pub fn is_secret_like(name: &str) -> bool {
    const WORDS: [&str; 8] =
        ["SECRET", "TOKEN", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "APIKEY", "PRIVATE"];
    let name = name.to_uppercase();
    WORDS.iter().any(|word| name.contains(word))
        || name.split('_').any(|word| matches!(word, "KEY" | "PASS" | "AUTH" | "PWD"))
}

/// Half a hash tells values apart.
fn short(hasher: StableHasher) -> String {
    hex(&hasher.finish()[..16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(files: &[(&str, u32, u8)]) -> InputPart {
        let paths = files.iter().map(|(path, mode, digest)| SelectedPath {
            path: (*path).to_owned(),
            mode: Some(*mode),
            digest: [*digest; 16],
        });
        let pattern = ".".to_owned();
        InputPart::Content { pattern, digest: format!("{files:?}"), paths: Some(path_parts(paths.collect())) }
    }

    fn parts(inputs: Vec<InputPart>) -> KeyParts {
        KeyParts::new(&Op::Merge, inputs, &[1; 32])
    }

    #[test]
    fn files_are_named_with_what_happened_to_them() {
        let old = parts(vec![content(&[("a", 0o644, 1), ("b", 0o644, 2), ("c", 0o644, 3)])]);
        let new = parts(vec![content(&[("a", 0o664, 1), ("b", 0o644, 9), ("d", 0o644, 3)])]);
        let reason = new.changed_since(&old).unwrap();
        assert_eq!(reason.to_string(), "mode of a 0644 → 0664, b changed, d added and 1 more");
        assert_eq!(old.changed_since(&old), None);
    }

    #[test]
    fn many_files_are_counted() {
        let names: Vec<String> = (0..100).map(|n| format!("f{n:03}")).collect();
        let files = |digest| names.iter().map(|name| (&**name, 0o644, digest)).collect::<Vec<_>>();
        let reason = parts(vec![content(&files(1))]).changed_since(&parts(vec![content(&files(2))])).unwrap();
        assert_eq!(reason.to_string(), "f000 changed, f001 changed, f002 changed and 97 more");
    }

    #[test]
    fn an_input_that_came_or_went_is_named() {
        let vertex = |name: &str| InputPart::Vertex { name: name.to_owned(), key: name.to_owned() };
        let (one, two) = (parts(vec![vertex("a")]), parts(vec![vertex("a"), vertex("b")]));
        for (new, old) in [(&one, &two), (&two, &one)] {
            assert_eq!(new.changed_since(old), Some(MissReason::InputChanged { input: "b".into() }));
        }
    }

    #[test]
    fn secret_names() {
        for name in ["NPM_TOKEN", "AWS_SECRET_ACCESS_KEY", "password", "API_KEY", "GH_PASS", "BASIC_AUTH"] {
            assert!(is_secret_like(name), "{name}");
        }
        for name in ["PATH", "MONKEY", "GIT_SHA", "COMPASS", "KEYBOARD", "AUTHOR"] {
            assert!(!is_secret_like(name), "{name}");
        }
    }

    #[test]
    fn what_is_remembered_reads_back() {
        let parts = parts(vec![content(&[("a", 0o644, 1)])]);
        let text = serde_json::to_vec(&parts).unwrap();
        assert_eq!(serde_json::from_slice::<KeyParts>(&text).unwrap(), parts);
    }
}
