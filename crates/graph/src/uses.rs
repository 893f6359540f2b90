//! What of a step's key comes from what it uses.

use std::collections::BTreeMap;

use files::{PathSelection, Selection};
use serde::{Deserialize, Serialize};

use crate::MissReason;
use crate::parts::{Naming, Value, hex};

/// What a step uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputPart {
    /// Another vertex.
    Vertex {
        /// For people.
        name: String,
        /// Its definition key with the selection.
        key: String,
        /// Which files of it; `None` for all of it, and where nobody wrote it down.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        files: Option<Files>,
        /// Of what a bind mount shows of a context, its name, which the main one has not; `None` where nobody wrote it down.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        context: Option<String>,
    },
    /// An image.
    Image {
        /// As the Dockerfile has it.
        name: String,
        /// Its definition key (manifest digest and platform) with the selection.
        key: String,
        /// Which files of it, likewise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        files: Option<Files>,
    },
    /// Files by content.
    Content {
        /// For people: the selection.
        pattern: String,
        /// Of all of it.
        digest: String,
        /// Names the [`Listing`] that has them one by one. Not the digest: the same content may stand at other paths.
        listing: Option<String>,
        /// Which files, likewise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        files: Option<Files>,
        /// The commit that is in the digest in place of what the files hold, where it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        commit: Option<String>,
    },
}

/// How steps are called that bring files of a context to where a mount finds them; the path follows.
pub const MOUNTED: &str = "prepare mount of ";

/// Which files of something are used: what stands in the Dockerfile, as opposed to what is found there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Files(Value);

impl Files {
    /// What a selection names; `None` when it is everything.
    pub fn of(selection: &Selection, naming: Naming<'_>) -> Option<Files> {
        let Selection::Path(path) = selection else { return None };
        // Whether modes and owners count goes with a mode and an owner of the operation.
        let named = ((&path.pattern, &path.wildcards), (&path.include, &path.exclude));
        Some(Files(naming.value(&shown(path), &named)))
    }

    /// As the Dockerfile has it, roughly; `None` when a secret is in it.
    pub fn text(&self) -> Option<&str> {
        self.0.text.as_deref()
    }
}

fn shown(path: &PathSelection) -> String {
    let mut text = match (&*path.pattern, &path.include) {
        ("", None) => ".".to_owned(),
        ("", Some(include)) => include.clone(),
        (pattern, None) => pattern.to_owned(),
        (pattern, Some(include)) => format!("{pattern}/./{include}"),
    };
    path.exclude.iter().for_each(|pattern| text += &format!(" --exclude={pattern}"));
    text
}

/// Selected files by path.
pub type Listing = BTreeMap<String, PathPart>;

/// A file: its mode where that counts, and a digest of everything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathPart(pub(crate) Option<u32>, pub(crate) String);

impl PathPart {
    /// Of permissions (`0o7777`) and a digest.
    pub fn new(mode: Option<u32>, digest: &[u8]) -> PathPart {
        PathPart(mode, hex(digest))
    }

    /// The permissions, where they count.
    pub fn mode(&self) -> Option<u32> {
        self.0
    }
}

impl InputPart {
    pub(crate) fn name(&self) -> &String {
        match self {
            InputPart::Vertex { name, .. }
            | InputPart::Image { name, .. }
            | InputPart::Content { pattern: name, .. } => name,
        }
    }

    pub(crate) fn files(&self) -> Option<&Files> {
        match self {
            InputPart::Vertex { files, .. }
            | InputPart::Image { files, .. }
            | InputPart::Content { files, .. } => files.as_ref(),
        }
    }

    /// Whether it is something else than `old`; not whether somebody wrote down which files of it are used.
    pub(crate) fn differs(&self, old: &InputPart) -> bool {
        match (self, old) {
            (
                InputPart::Vertex { name, key, files: _, context: _ },
                InputPart::Vertex { name: old_name, key: old_key, files: _, context: _ },
            )
            | (
                InputPart::Image { name, key, files: _ },
                InputPart::Image { name: old_name, key: old_key, files: _ },
            ) => (name, key) != (old_name, old_key),
            (
                InputPart::Content { pattern, digest, listing, files: _, commit: _ },
                InputPart::Content {
                    pattern: old_pattern,
                    digest: old_digest,
                    listing: old_listing,
                    files: _,
                    commit: _,
                },
            ) => (pattern, digest, listing) != (old_pattern, old_digest, old_listing),
            _ => true,
        }
    }

    /// Whether other files are used than by `old`, so that comparing what they hold says nothing.
    pub(crate) fn selects_others(&self, old: &InputPart) -> bool {
        let others = matches!((self.files(), old.files()), (Some(new), Some(old)) if new != old);
        let with_contexts = self.tells_context() && old.tells_context();
        let (new, old) = (self.mounted(with_contexts), old.mounted(with_contexts));
        others || matches!((new, old), (Some(new), Some(old)) if new != old)
    }

    /// What of which context a bind mount shows. A step of its own brings it to where the mount finds it, under a path that is always the
    /// same.
    fn mounted(&self, with_context: bool) -> Option<(&str, &str)> {
        let InputPart::Vertex { name, context, .. } = self else { return None };
        let context = context.as_deref().filter(|_| with_context);
        Some((name.strip_prefix(MOUNTED)?, context.unwrap_or_default()))
    }

    /// Whether it is known of which context a bind mount shows something, if it does.
    pub(crate) fn tells_context(&self) -> bool {
        self.mounted(false).is_none() || matches!(self, InputPart::Vertex { context: Some(_), .. })
    }

    /// Which files are used, as the Dockerfile has it: told apart by the first, shown as the second, which a secret has not. With the contexts
    /// that mounts show if `with_contexts`.
    pub(crate) fn source(&self, with_contexts: bool) -> Option<((String, String), Option<String>)> {
        let files = self.files()?;
        Some(match self.mounted(with_contexts) {
            Some((path, context)) => {
                let shown =
                    if context.is_empty() { path.to_owned() } else { format!("{path} from {context}") };
                ((path.to_owned(), context.to_owned()), Some(shown))
            }
            None => ((files.0.digest().to_owned(), String::new()), files.text().map(str::to_owned)),
        })
    }

    pub(crate) fn changed(&self) -> MissReason {
        MissReason::InputChanged { input: self.name().clone(), cause: None, first: None }
    }
}
