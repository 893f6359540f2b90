use std::sync::Arc;

use cache::SnapshotId;
use files::FileTree;

use crate::sources::BaseImage;

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
}

/// A directory given on the command line, with its ignore file applied.
#[derive(Clone)]
pub struct Context {
    /// `context`, or the name of a named context.
    pub(crate) name: Arc<str>,
    pub(crate) tree: Arc<dyn FileTree>,
    pub(crate) stats: Arc<dyn files::StatCache>,
    /// What stands for its content in keys, where its files say too little (times) or too much (what git writes beside them).
    pub(crate) identity: Option<Arc<str>>,
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
