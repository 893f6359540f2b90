use std::sync::Arc;
use std::time::SystemTime;

use cache::SnapshotId;
use files::{FileTree, Selection};
use hash::{ContentDigest, StableHasher};
use remote::{CheckedOut, Checkout, Resolved};

use crate::sources::BaseImage;
use crate::times::Times;

/// What a vertex yields.
#[derive(Clone)]
pub enum Tree {
    /// A chain of layers: an image's below, those made here above.
    Layers(LayerTree),
    /// A local context: never mounted; what a step sees of it is the selection that was hashed.
    Context(Context),
}

/// A chain of layers.
#[derive(Clone, Default)]
pub struct LayerTree {
    /// The image at the bottom; its layers are brought and unpacked only when somebody needs to look into the tree.
    pub(crate) base: Option<Arc<BaseImage>>,
    /// The layers made here, bottom first.
    pub(crate) layers: Vec<SnapshotId>,
    /// The times that count in keys where an entry has one of them: those of the commits that it was made of, where they were asked for.
    pub(crate) times: Option<Times>,
}

/// A directory given on the command line, with its ignore file applied.
#[derive(Clone)]
pub struct Context {
    /// `context`, or the name of a named context.
    pub(crate) name: Arc<str>,
    pub(crate) tree: Arc<dyn FileTree>,
    pub(crate) stats: Arc<dyn files::StatCache>,
    pub(crate) identity: Option<Identity>,
}

/// What stands for the content of a checkout in keys, where its files say too little (times) or too much (what git writes beside them).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// All that its content depends on.
    text: Arc<str>,
    commit: Arc<str>,
    /// The time that all its files have, in seconds since 1970, where they have that of the commit.
    times: Option<i64>,
}

impl Identity {
    /// That of a checkout; `None` where its files say all.
    ///
    /// No two checkouts have the same bytes in `.git`: packs, and an index with the numbers and times of files. And what has the times of its
    /// commit is asked for because of them, which no hash of files has.
    pub fn of(checkout: &Checkout, resolved: &Resolved, made: &CheckedOut) -> Option<Identity> {
        let by_commit = checkout.keep_git_dir && checkout.directory.is_empty() || checkout.commit_times;
        let since = made.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        by_commit.then(|| Identity {
            text: resolved.identity(checkout).into(),
            commit: made.commit.as_str().into(),
            times: checkout.commit_times.then(|| i64::try_from(since.as_secs()).unwrap_or_default()),
        })
    }

    /// That of what is seen of the checkout when other rules than its own decide on that, which `rules` tells apart from others.
    #[must_use]
    pub fn seen_by(self, rules: &[u8; 32]) -> Identity {
        let rules: String = rules.iter().map(|byte| format!("{byte:02x}")).collect();
        Identity { text: format!("{} seen by {rules}", self.text).into(), ..self }
    }

    /// The commit, in hexadecimal.
    pub(crate) fn commit(&self) -> &str {
        &self.commit
    }

    pub(crate) fn times(&self) -> Option<i64> {
        self.times
    }

    /// In place of the digest of a selection.
    pub(crate) fn digest(&self, selection: &Selection) -> ContentDigest {
        ContentDigest::from_bytes(StableHasher::new("checkout-v2").with(&*self.text).with(selection).finish())
    }
}

/// Identity of a tree within one build, for what is remembered of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum TreeId {
    Layers { base: Option<hash::Digest>, layers: Vec<SnapshotId> },
    Context(Arc<str>),
}

impl Tree {
    /// The name of a context.
    pub(crate) fn context_name(&self) -> Option<&str> {
        match self {
            Tree::Layers(_) => None,
            Tree::Context(context) => Some(&context.name),
        }
    }

    pub(crate) fn id(&self) -> TreeId {
        match self {
            Tree::Layers(tree) => TreeId::Layers {
                base: tree.base.as_ref().map(|base| base.image().manifest_digest),
                layers: tree.layers.clone(),
            },
            Tree::Context(context) => TreeId::Context(context.name.clone()),
        }
    }
}

impl LayerTree {
    /// The tree with one more layer on top.
    pub(crate) fn with(mut self, layer: SnapshotId) -> LayerTree {
        // As many lists as steps are kept to the end of the build: none with room for more.
        self.layers.reserve_exact(1);
        self.layers.push(layer);
        self
    }

    /// The image at the bottom.
    pub fn base(&self) -> Option<&image::ResolvedImage> {
        self.base.as_deref().map(BaseImage::image)
    }

    /// The layers made here, bottom first.
    pub fn layers(&self) -> &[SnapshotId] {
        &self.layers
    }
}
