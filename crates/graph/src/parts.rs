use std::collections::{BTreeMap, BTreeSet};

use hash::{StableHash, StableHasher};
use serde::{Deserialize, Serialize};

use crate::secrets::{SecretValues, is_secret_like};
use crate::{
    Exec, InputPart, Listing, MissReason, MountKind, Op, Owner, OwnerId, PathChange, PathChangeKind,
    ValueChange,
};

/// Version of keys: of how operations are hashed, and of what is hashed with them. Whatever has a key of another version is not found, so it
/// changes with every change of an encoding, and what is remembered carries it: such a miss has this reason and no other.
pub const KEY_VERSION: &str = "key-v4";

/// So many changed paths are named in a reason.
const NAMED: usize = 20;
/// So much of a commit's id is shown, in characters, as git does.
const SHORT_COMMIT: usize = 7;
/// Longer values are cut when they are shown, in characters.
const LONGEST: usize = 80;

/// What went into the definition key of a step, in parts that can be compared and named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyParts {
    /// [`KEY_VERSION`] of who made them; the first ones did not say.
    #[serde(default)]
    version: String,
    /// Of the operation as a whole: whatever the fields leave out shows here.
    op: String,
    fields: BTreeMap<String, Value>,
    inputs: Vec<InputPart>,
    /// The cache elsewhere that had the result, where it was never made here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    found_in: Option<String>,
}

/// A value of the operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Value {
    /// Of the value; of a secret one together with the store's secret.
    digest: String,
    /// `None` when the name says that it is a secret, or a secret is in it.
    pub(crate) text: Option<String>,
}

impl Value {
    /// What tells it from others.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }
}

/// How the values of an operation are called and kept.
#[derive(Debug, Clone, Copy)]
pub struct Naming<'a> {
    /// Hashed together with values that nobody should read: whoever does not know it cannot guess them.
    pub secret: &'a [u8; 32],
    /// The variables that come from ARG, as opposed to ENV.
    pub args: &'a BTreeSet<String>,
    /// Values that may stand in others: whatever has one in it is kept as they are.
    pub hidden: &'a SecretValues,
}

impl KeyParts {
    /// Takes an operation with its inputs apart.
    pub fn new(op: &Op, inputs: Vec<InputPart>, naming: Naming<'_>) -> KeyParts {
        let mut fields = Fields { naming, found: BTreeMap::new() };
        fields.of(op);
        let hasher = StableHasher::new("key-parts-op-v2").with(op);
        let hidden = fields.found.values().any(|value| value.text.is_none());
        // A plain hash of what has a secret in it would tell whether a guess is right.
        let op = short(if hidden { hasher.with(naming.secret) } else { hasher });
        KeyParts { version: KEY_VERSION.to_owned(), op, fields: fields.found, inputs, found_in: None }
    }

    /// The same of a result that a cache elsewhere had, and nobody here made.
    #[must_use]
    pub fn found_in(mut self, cache: Option<String>) -> KeyParts {
        self.found_in = cache;
        self
    }

    /// The cache elsewhere that had the result.
    pub fn finder(&self) -> Option<&str> {
        self.found_in.as_deref()
    }

    /// Whether both are a process, both a copy, or both neither: one may then have become the other by an edit.
    pub fn is_of_one_kind_with(&self, other: &KeyParts) -> bool {
        [COMMAND, DESTINATION]
            .iter()
            .all(|field| self.fields.contains_key(*field) == other.fields.contains_key(*field))
    }

    /// What it uses, in the order of the step's inputs.
    pub fn inputs(&self) -> &[InputPart] {
        &self.inputs
    }

    /// The names of the listings of its files.
    pub fn listings(&self) -> impl Iterator<Item = &str> {
        self.inputs.iter().filter_map(|input| match input {
            InputPart::Content { listing, .. } => listing.as_deref(),
            _ => None,
        })
    }

    /// Whether values are among them that only this store can compare.
    pub fn has_hidden(&self) -> bool {
        let mut files = self.inputs.iter().filter_map(InputPart::files);
        self.fields.values().any(|value| value.text.is_none()) || files.any(|files| files.text().is_none())
    }

    /// The position of the first input that is another vertex or image, or another result of it, than in `old`. `None` also where keys of
    /// inputs cannot be compared.
    pub fn changed_input(&self, old: &KeyParts) -> Option<usize> {
        if self.version != old.version {
            return None;
        }
        let changed = |(index, input): &(usize, &InputPart)| {
            // A key that has other files in it says nothing about what they are of.
            let differs = |old: &InputPart| input.differs(old) && !input.selects_others(old);
            !matches!(input, InputPart::Content { .. }) && old.inputs.get(*index).is_none_or(differs)
        };
        self.inputs.iter().enumerate().find(changed).map(|(index, _)| index)
    }

    /// Why a step with these parts was not found, when one with the parts `old` was built before: the most telling reason first, none when
    /// they are the same. `listing` knows listings by name.
    pub fn differences(&self, old: &KeyParts, listing: &dyn Fn(&str) -> Option<Listing>) -> Vec<MissReason> {
        let comparable = self.version == old.version;
        let sources = self.changed_sources(old);
        let mut reasons = match comparable && self.op == old.op {
            true => Vec::new(),
            false => self.changed_fields(old, comparable && sources.is_none()),
        };
        let by_files = sources.is_some();
        reasons.extend(sources);
        // Of what is used now as it was then. Files first: the user has just edited them.
        let pairs = || self.inputs.iter().zip(&old.inputs).filter(|(new, old)| !new.selects_others(old));
        reasons.extend(pairs().filter_map(|(new, old)| changed_content(old, new, listing)));
        for (new, old) in pairs().filter(|(new, old)| new.differs(old)) {
            match (new, old) {
                _ if !comparable && new.name() == old.name() => {}
                (InputPart::Content { .. }, InputPart::Content { .. }) => {}
                (InputPart::Image { name: new, .. }, InputPart::Image { name: old, .. }) => {
                    reasons.push(MissReason::ImageChanged { old: old.clone(), new: new.clone() });
                }
                _ => reasons.push(new.changed()),
            }
        }
        let longer = if self.inputs.len() > old.inputs.len() { &self.inputs } else { &old.inputs };
        let common = self.inputs.len().min(old.inputs.len());
        let left = longer.iter().skip(common).filter(|input| !by_files || input.files().is_none());
        reasons.extend(left.map(InputPart::changed));
        if !comparable && reasons.is_empty() {
            reasons.push(MissReason::OtherVersion);
        }
        reasons
    }

    /// The fields that differ; the operation as a whole where none does although it must.
    fn changed_fields(&self, old: &KeyParts, must: bool) -> Vec<MissReason> {
        let names: BTreeSet<&String> = self.fields.keys().chain(old.fields.keys()).collect();
        let digest =
            |parts: &KeyParts, name: &String| parts.fields.get(name).map(|value| value.digest.clone());
        let mut different: Vec<&String> =
            names.into_iter().filter(|name| digest(self, name) != digest(old, name)).collect();
        // The order of importance, then of names.
        different.sort_by_key(|name| (!name.starts_with(COMMAND), *name));
        if different.is_empty() && must {
            let change = ValueChange::Shown { old: None, new: None };
            return vec![MissReason::OpChanged { field: "the operation".to_owned(), change }];
        }
        different.into_iter().map(|name| self.changed_field(old, name)).collect()
    }

    fn changed_field(&self, old: &KeyParts, name: &str) -> MissReason {
        let (new, old) = (self.fields.get(name), old.fields.get(name));
        let hidden = [new, old].iter().flatten().any(|value| value.text.is_none());
        // What is empty (no user) is as good as none.
        let text = |value: Option<&Value>| {
            value.and_then(|value| value.text.clone()).filter(|text| !text.is_empty())
        };
        changed_value(name, hidden, text(old), text(new))
    }

    /// That other files are named, where both say which.
    fn changed_sources(&self, old: &KeyParts) -> Option<MissReason> {
        let with_contexts = self.inputs.iter().chain(&old.inputs).all(InputPart::tells_context);
        let sources = |parts: &KeyParts| -> Vec<_> {
            parts.inputs.iter().filter_map(|input| input.source(with_contexts)).collect()
        };
        let (new, old) = (sources(self), sources(old));
        if new.iter().map(|(identity, _)| identity).eq(old.iter().map(|(identity, _)| identity))
            || new.is_empty()
            || old.is_empty()
        {
            return None;
        }
        let text = |sources: Vec<(_, Option<String>)>| -> Option<String> {
            Some(sources.into_iter().map(|(_, text)| text).collect::<Option<Vec<_>>>()?.join(" "))
        };
        let (new, old) = (text(new), text(old));
        Some(changed_value("sources", new.is_none() || old.is_none(), old, new))
    }
}

/// What became of a value. What looks the same is not shown: what is different in it is cut off, or not for people.
fn changed_value(name: &str, hidden: bool, old: Option<String>, new: Option<String>) -> MissReason {
    let change = match () {
        () if hidden => ValueChange::Hidden,
        () if old == new => ValueChange::Shown { old: None, new: None },
        () => ValueChange::Shown { old, new },
    };
    MissReason::OpChanged { field: name.to_owned(), change }
}

fn changed_content(
    old: &InputPart,
    new: &InputPart,
    listing: &dyn Fn(&str) -> Option<Listing>,
) -> Option<MissReason> {
    let InputPart::Content { digest: new_digest, listing: new, commit: new_commit, .. } = new else {
        return None;
    };
    let InputPart::Content { digest: old_digest, listing: old, commit: old_commit, .. } = old else {
        return None;
    };
    if new_digest == old_digest {
        return None;
    }
    // Where no file is known to have changed, another commit may be all that there is to say.
    let nothing_named = || match new_commit == old_commit {
        true => MissReason::ContentChanged { paths: Vec::new(), more: 0 },
        false => {
            let short = |commit: &Option<String>| Some(commit.as_ref()?.chars().take(SHORT_COMMIT).collect());
            changed_value("commit", false, short(old_commit), short(new_commit))
        }
    };
    let known = |name: &Option<String>| listing(name.as_deref()?);
    let (Some(new), Some(old)) = (known(new), known(old)) else { return Some(nothing_named()) };
    let mut paths: Vec<PathChange> = Vec::new();
    let change = |path: &String, kind| PathChange { path: path.clone(), kind };
    for (path, new) in &new {
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
    if paths.is_empty() {
        return Some(nothing_named());
    }
    let more = paths.len().saturating_sub(NAMED) as u64;
    paths.truncate(NAMED);
    Some(MissReason::ContentChanged { paths, more })
}

const COMMAND: &str = "command";
const DESTINATION: &str = "destination";

/// Collects what of an operation can be named.
struct Fields<'a> {
    naming: Naming<'a>,
    found: BTreeMap<String, Value>,
}

impl Fields<'_> {
    fn of(&mut self, op: &Op) {
        match op {
            Op::Exec(exec) => self.exec(exec),
            Op::Copy(copy) => {
                self.put(DESTINATION, &copy.destination);
                if let Some(owner) = &copy.owner {
                    self.put("owner", &show_owner(owner));
                }
                if let Some(mode) = &copy.mode {
                    let text = mode.fixed().map_or("symbolic".to_owned(), |mode| format!("{mode:04o}"));
                    self.put_hashed("mode", &text, mode);
                }
            }
            Op::Mkdir(mkdir) => {
                self.put("path", &mkdir.path);
                self.put("owner", &show_owner(&mkdir.owner));
            }
            Op::Inline(inline) => {
                for file in &inline.files {
                    let text = format!("{} bytes, mode {:04o}", file.content.len(), file.mode);
                    let content = String::from_utf8_lossy(&file.content);
                    let value = (&file.content, &file.mode);
                    self.put_saying(&format!("text of {}", file.name), &text, &[&content], &value);
                }
            }
            Op::Source(_) | Op::Merge => {}
        }
    }

    fn exec(&mut self, exec: &Exec) {
        self.put_hashed(COMMAND, &exec.args.join(" "), &exec.args);
        for (name, value) in exec.env.iter() {
            let field = format!("{} {name}", if self.naming.args.contains(name) { "ARG" } else { "ENV" });
            match is_secret_like(name) {
                true => self.put_hidden(&field, value),
                false => self.put(&field, value),
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
            let said = [&*secret.variable, secret.version.as_deref().unwrap_or_default()];
            self.put_saying(&format!("secret {}", secret.id), "added", &said, secret);
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
            let said = match &mount.kind {
                MountKind::Secret(file) | MountKind::Ssh(file) => {
                    [&*file.id, file.version.as_deref().unwrap_or_default()]
                }
                MountKind::Bind { .. } | MountKind::Cache(_) | MountKind::Tmpfs { .. } => [""; 2],
            };
            self.put_saying(&format!("mount {}", mount.target), &format!("{kind}, {access}"), &said, mount);
        }
    }

    fn put(&mut self, name: &str, value: &str) {
        self.put_hashed(name, value, value);
    }

    fn put_hidden(&mut self, name: &str, value: &(impl StableHash + ?Sized)) {
        self.found.insert(name.to_owned(), self.naming.hidden_value(value));
    }

    fn put_hashed(&mut self, name: &str, text: &str, value: &(impl StableHash + ?Sized)) {
        self.put_saying(name, text, &[], value);
    }

    /// What is shown as `text` may say more than that.
    fn put_saying(&mut self, name: &str, text: &str, said: &[&str], value: &(impl StableHash + ?Sized)) {
        // A name has paths in it.
        if said.iter().chain([&name]).any(|text| self.naming.hidden.are_in(text)) {
            return self.put_hidden(&self.naming.hidden.conceal(name), value);
        }
        self.found.insert(name.to_owned(), self.naming.value(text, value));
    }
}

impl Naming<'_> {
    fn hidden_value(self, value: &(impl StableHash + ?Sized)) -> Value {
        let hasher = StableHasher::new("secret-value-v1").with(self.secret).with(value);
        Value { digest: short(hasher), text: None }
    }

    /// A value that is shown as `text`, unless there is a secret in that.
    pub(crate) fn value(self, text: &str, value: &(impl StableHash + ?Sized)) -> Value {
        if self.hidden.are_in(text) {
            return self.hidden_value(value);
        }
        let digest = short(StableHasher::new("key-part-v1").with(value));
        let mut shown: String = text.chars().flat_map(char::escape_debug).take(LONGEST).collect();
        if shown.len() < text.len() && shown.chars().count() == LONGEST {
            shown.push('…');
        }
        Value { digest, text: Some(shown) }
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

/// Half a hash tells values apart.
pub(crate) fn short(hasher: StableHasher) -> String {
    hex(&hasher.finish()[..16])
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use files::{PathSelection, Selection};

    use super::*;
    use crate::{Files, PathPart};

    fn listing(files: &[(&str, u32, u8)]) -> Listing {
        let part = |mode: u32, digest: u8| PathPart::new(Some(mode), &[digest; 16]);
        files.iter().map(|(path, mode, digest)| ((*path).to_owned(), part(*mode, *digest))).collect()
    }

    fn content(digest: &str) -> InputPart {
        let listing = Some(digest.to_owned());
        InputPart::Content {
            pattern: ".".to_owned(),
            digest: digest.to_owned(),
            listing,
            files: None,
            commit: None,
        }
    }

    fn vertex(name: &str) -> InputPart {
        InputPart::Vertex { name: name.to_owned(), key: name.to_owned(), files: None, context: None }
    }

    fn parts(inputs: Vec<InputPart>) -> KeyParts {
        KeyParts::new(
            &Op::Merge,
            inputs,
            Naming { secret: &[1; 32], args: &BTreeSet::new(), hidden: &SecretValues::default() },
        )
    }

    /// What changed from one listing to another.
    fn change(old: Listing, new: Listing) -> String {
        let listings = BTreeMap::from([("old".to_owned(), old), ("new".to_owned(), new)]);
        let known = |digest: &str| listings.get(digest).cloned();
        let reasons = parts(vec![content("new")]).differences(&parts(vec![content("old")]), &known);
        assert_eq!(reasons.len(), 1);
        reasons[0].to_string()
    }

    #[test]
    fn files_are_named_with_what_happened_to_them() {
        let old = listing(&[("a", 0o644, 1), ("b", 0o644, 2), ("c", 0o644, 3)]);
        let new = listing(&[("a", 0o664, 1), ("b", 0o644, 9), ("d", 0o644, 3)]);
        assert_eq!(change(old, new), "mode of a 0644 → 0664, b changed, d added and 1 more");
        let same = parts(vec![content("x")]);
        assert_eq!(same.differences(&same, &|_| None), []);
    }

    #[test]
    fn many_files_are_counted() {
        let names: Vec<String> = (0..100).map(|n| format!("f{n:03}")).collect();
        let files = |digest| names.iter().map(|name| (&**name, 0o644, digest)).collect::<Vec<_>>();
        assert_eq!(
            change(listing(&files(1)), listing(&files(2))),
            "f000 changed, f001 changed, f002 changed and 97 more"
        );
    }

    #[test]
    fn files_that_nobody_listed_changed_all_the_same() {
        let reasons = parts(vec![content("b")]).differences(&parts(vec![content("a")]), &|_| None);
        assert_eq!(reasons[0].to_string(), "its files changed");
    }

    #[test]
    fn an_input_that_came_or_went_is_named() {
        let (one, two) = (parts(vec![vertex("a")]), parts(vec![vertex("a"), vertex("b")]));
        for (new, old) in [(&one, &two), (&two, &one)] {
            assert_eq!(new.differences(old, &|_| None)[0].to_string(), "b changed");
        }
        assert_eq!(two.changed_input(&one), Some(1));
        assert_eq!(two.changed_input(&two), None);
    }

    /// What is said of a step that uses `new` where it used `old`: each a path, what is left out of it, and the key that this gives.
    fn of_files(
        new: &[(&str, &str, &str)],
        old: &[(&str, &str, &str)],
        hidden: &SecretValues,
    ) -> Vec<String> {
        let args = BTreeSet::new();
        let naming = Naming { secret: &[1; 32], args: &args, hidden };
        let parts = |used: &[(&str, &str, &str)]| {
            let inputs = used.iter().map(|(path, without, key)| {
                let exclude = without.split_terminator(' ').map(str::to_owned).collect();
                let selection = Selection::Path(PathSelection { exclude, ..PathSelection::exact(*path) });
                let files = Files::of(&selection, naming);
                InputPart::Vertex {
                    name: "RUN make".to_owned(),
                    key: (*key).to_owned(),
                    files,
                    context: None,
                }
            });
            KeyParts::new(&Op::Merge, inputs.collect(), naming)
        };
        let (new, old) = (parts(new), parts(old));
        assert_eq!(new.changed_input(&new), None);
        new.differences(&old, &|_| None).iter().map(ToString::to_string).collect()
    }

    /// Other files of what is as it was: nobody says that it changed.
    #[test]
    fn other_sources_are_no_change_of_what_they_are_in() {
        let of = |new: &[_], old: &[_]| of_files(new, old, &SecretValues::default());
        let a = ("a", "", "1");
        assert_eq!(of(&[("b", "", "2")], &[a]), ["sources: a → b"]);
        assert_eq!(of(&[("a", "*.o", "2")], &[a]), ["sources: a → a --exclude=*.o"]);
        assert_eq!(of(&[a, ("b", "", "2")], &[a]), ["sources: a → a b"]);
        assert_eq!(of(&[a], &[a, ("b", "", "2")]), ["sources: a b → a"]);
        assert_eq!(of(&[("a", "", "2")], &[a]), ["RUN make changed"]);
        assert_eq!(of(&[a], &[a]), [""; 0]);
        // What is cut off is not shown as if nothing were different.
        let long = "long/".repeat(20);
        assert_eq!(
            of(&[(&format!("{long}a"), "", "1")], &[(&format!("{long}b"), "", "2")]),
            ["sources changed"]
        );
    }

    /// The step that brings them to a mount is another one then, which nobody has seen; that of the mount is not new.
    #[test]
    fn other_files_of_a_context_for_a_mount_are_other_sources() {
        let mounted_of = |context: Option<&str>, path: &str, key: &str| {
            let args = BTreeSet::new();
            let naming = Naming { secret: &[1; 32], args: &args, hidden: &SecretValues::default() };
            let files = Files::of(&Selection::Path(PathSelection::exact("mount")), naming);
            let name = format!("prepare mount of {path}");
            let context = context.map(str::to_owned);
            parts(vec![vertex("RUN a"), InputPart::Vertex { name, key: key.to_owned(), files, context }])
        };
        let mounted = |path: &str, key: &str| mounted_of(Some(""), path, key);
        let of = |new: &KeyParts, old: &KeyParts| {
            let reasons = new.differences(old, &|_| None);
            (reasons.iter().map(ToString::to_string).collect::<Vec<_>>(), new.changed_input(old))
        };
        let old = mounted("d", "1");
        assert_eq!(of(&mounted("e", "2"), &old), (vec!["sources: d → e".to_owned()], None));
        assert_eq!(of(&mounted("d", "2"), &old), (vec!["prepare mount of d changed".to_owned()], Some(1)));
        assert_eq!(of(&old, &old), (vec![], None));
        // The same path of another context.
        let (one, other) = (mounted_of(Some("x"), "d", "2"), mounted_of(Some("y"), "d", "3"));
        assert_eq!(of(&one, &old), (vec!["sources: d → d from x".to_owned()], None));
        assert_eq!(of(&other, &one), (vec!["sources: d from x → d from y".to_owned()], None));
        // The first ones did not say of which.
        let unsaid = mounted_of(None, "d", "1");
        let changed = (vec!["prepare mount of d changed".to_owned()], Some(1));
        assert_eq!(of(&one, &unsaid), changed);
        assert_eq!(of(&unsaid, &one), changed);
        assert_eq!(of(&mounted_of(Some("x"), "d", "1"), &unsaid), (vec![], None));
    }

    /// Nothing but the commit is another where that counts in place of what files hold.
    #[test]
    fn another_commit_is_named_where_no_file_is() {
        let of = |digest: &str, listing: &str, commit: Option<&str>| {
            let (listing, commit) = (Some(listing.to_owned()), commit.map(str::to_owned));
            let (pattern, digest) = (".".to_owned(), digest.to_owned());
            parts(vec![InputPart::Content { pattern, digest, listing, files: None, commit }])
        };
        let files = |name: &str| match name {
            "unknown" => None,
            name => Some(listing(&[(name, 0o644, 1)])),
        };
        let said = |new: &KeyParts, old: &KeyParts| new.differences(old, &files)[0].to_string();
        let old = of("1", "f", Some("0123456789"));
        assert_eq!(said(&of("2", "f", Some("abcdefghij")), &old), "commit: 0123456 → abcdefg");
        assert_eq!(said(&of("2", "unknown", Some("abcdefghij")), &old), "commit: 0123456 → abcdefg");
        assert_eq!(said(&of("2", "f", Some("01234567ij")), &old), "commit changed");
        assert_eq!(said(&of("2", "f", None), &old), "commit: no longer 0123456");
        assert_eq!(said(&of("2", "g", Some("abcdefghij")), &old), "g added, f removed");
        // Other options, say.
        assert_eq!(said(&of("2", "f", Some("0123456789")), &old), "its files changed");
    }

    #[test]
    fn secret_sources_are_not_shown() {
        let mut definition = crate::Definition::default();
        definition.hide(("API_TOKEN", "hunter22"));
        let hidden = &SecretValues::of(&definition);
        assert_eq!(of_files(&[("x-hunter22", "", "2")], &[("a", "", "1")], hidden), ["sources changed"]);
        let args = BTreeSet::new();
        let naming = Naming { secret: &[1; 32], args: &args, hidden };
        let files = Files::of(&Selection::Path(PathSelection::exact("x-hunter22")), naming);
        let parts = parts(vec![InputPart::Vertex {
            name: "RUN a".to_owned(),
            key: "1".to_owned(),
            files,
            context: None,
        }]);
        assert!(parts.has_hidden() && !serde_json::to_string(&parts).unwrap().contains("hunter22"));
    }

    /// The first ones did not say which files a step uses.
    #[test]
    fn sources_that_nobody_wrote_down_are_not_compared() {
        let written = r#"{"vertex":{"name":"RUN a","key":"1"}}"#;
        let old = parts(vec![serde_json::from_str(written).unwrap()]);
        let args = BTreeSet::new();
        let naming = Naming { secret: &[1; 32], args: &args, hidden: &SecretValues::default() };
        let files = Files::of(&Selection::Path(PathSelection::exact("a")), naming);
        let input = |key: &str| {
            parts(vec![InputPart::Vertex {
                name: "RUN a".to_owned(),
                key: key.to_owned(),
                files: files.clone(),
                context: None,
            }])
        };
        assert_eq!(input("2").differences(&old, &|_| None)[0].to_string(), "RUN a changed");
        assert_eq!(input("2").changed_input(&old), Some(0));
        // Nor are they a difference by themselves.
        assert_eq!(input("1").differences(&old, &|_| None), []);
        assert_eq!(input("1").changed_input(&old), None);
    }

    #[test]
    fn images_are_named() {
        let image = |name: &str, key: &str| InputPart::Image {
            name: name.to_owned(),
            key: key.to_owned(),
            files: None,
        };
        let change = |new, old| parts(vec![new]).differences(&parts(vec![old]), &|_| None)[0].to_string();
        assert_eq!(change(image("debian", "2"), image("debian", "1")), "base image debian: new digest");
        assert_eq!(
            change(image("debian:13", "2"), image("debian:12", "1")),
            "base image debian:12 → debian:13"
        );
        assert_eq!(change(vertex("RUN a"), image("debian:12", "1")), "RUN a changed");
    }

    #[test]
    fn variables_are_called_what_the_file_calls_them() {
        let exec = |values: [(&str, &str); 3]| {
            let env = values.map(|(name, value)| (name.to_owned(), value.to_owned()));
            Op::Exec(Exec {
                args: vec!["make".into()],
                env: env.into(),
                unkeyed_env: vec![],
                secret_env: vec![],
                cwd: "/".into(),
                user: String::new(),
                hostname: String::new(),
                network: crate::Network::None,
                security: crate::Security::Sandbox,
                devices: vec![],
                platform: image::Platform::host(),
                extra_hosts: vec![],
                mounts: vec![],
                timeout: None,
                retries: 0,
            })
        };
        let args = BTreeSet::from(["SHA".to_owned(), "NPM_TOKEN".to_owned()]);
        let parts = |values, secret| {
            KeyParts::new(
                &exec(values),
                vec![],
                Naming { secret, args: &args, hidden: &SecretValues::default() },
            )
        };
        let old = parts([("SHA", "a1"), ("NPM_TOKEN", "hush"), ("LANG", "C")], &[1; 32]);
        let new = parts([("SHA", "c3"), ("NPM_TOKEN", "shush"), ("LANG", "de")], &[1; 32]);
        let reasons = new.differences(&old, &|_| None);
        let words: Vec<String> = reasons.iter().map(ToString::to_string).collect();
        assert_eq!(words, ["ARG NPM_TOKEN changed", "ARG SHA: a1 → c3", "ENV LANG: C → de"]);
        let text = serde_json::to_string(&new).unwrap();
        assert!(!text.contains("shush") && text.contains("c3"), "{text}");
        let other = parts([("SHA", "c3"), ("NPM_TOKEN", "shush"), ("LANG", "de")], &[2; 32]);
        assert_ne!(new.op, other.op, "nobody can try whether a guess is right");
    }

    #[test]
    fn names_of_parts_have_no_secrets() {
        let mut definition = crate::Definition::default();
        definition.hide(("API_TOKEN", "hunter22"));
        let hidden = &SecretValues::of(&definition);
        let file = crate::InlineFile { name: "a-hunter22".to_owned(), content: b"x".to_vec(), mode: 0o644 };
        let op = Op::Inline(crate::Inline { files: vec![file] });
        let parts = KeyParts::new(&op, vec![], Naming { secret: &[1; 32], args: &BTreeSet::new(), hidden });
        let text = serde_json::to_string(&parts).unwrap();
        assert!(text.contains("text of a-***") && !text.contains("hunter22"), "{text}");
    }

    #[test]
    fn keys_of_another_version_are_not_compared() {
        let of_before = |parts: &KeyParts| {
            let mut written = serde_json::to_value(parts).unwrap();
            written.as_object_mut().unwrap().remove("version");
            written["op"] = "of another version".into();
            serde_json::from_value::<KeyParts>(written).unwrap()
        };
        let vertex = |key: &str| InputPart::Vertex {
            name: "RUN a".to_owned(),
            key: key.to_owned(),
            files: None,
            context: None,
        };
        let new = parts(vec![vertex("2"), content("same")]);
        let old = of_before(&parts(vec![vertex("1"), content("same")]));
        assert_eq!(new.differences(&old, &|_| None), [MissReason::OtherVersion]);
        assert_eq!(new.changed_input(&old), None);
        // What is known to be different is said all the same: it would have been a miss anyway.
        let old = of_before(&parts(vec![vertex("1"), content("other")]));
        assert_eq!(new.differences(&old, &|_| None)[0].to_string(), "its files changed");
        let image = |name: &str| {
            parts(vec![InputPart::Image { name: name.to_owned(), key: name.to_owned(), files: None }])
        };
        let reasons = image("debian:13").differences(&of_before(&image("debian:12")), &|_| None);
        assert_eq!(reasons[0].to_string(), "base image debian:12 → debian:13");
    }

    #[test]
    fn what_is_remembered_reads_back() {
        let parts = parts(vec![content("a"), vertex("b")]);
        let text = serde_json::to_vec(&parts).unwrap();
        assert_eq!(serde_json::from_slice::<KeyParts>(&text).unwrap(), parts);
    }
}
