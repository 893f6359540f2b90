use std::time::Duration;

use async_trait::async_trait;
use cache::{CacheRecord, Origins, SnapshotId};
use files::Selection;
use graph::VertexId;
use hash::{CacheKey, ContentDigest, ContentId};

/// Gives operations their meaning. The worker knows the definition; vertices are named by id.
#[async_trait]
pub trait Worker: Send + Sync + 'static {
    /// What a vertex yields. Cheap to clone; while one lives, what it names is kept from garbage collection.
    type Tree: Clone + Send + Sync + 'static;
    /// Why an operation failed.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Hashes what a selection of a tree holds.
    async fn content_digest(
        &self,
        tree: &Self::Tree,
        selection: &Selection,
    ) -> Result<ContentDigest, Self::Error>;

    /// The same path by path, to say which file has changed; `None` where that is not known or there are too many. Asked for only when a
    /// step is executed, after [`Worker::content_digest`].
    async fn content_paths(
        &self,
        _tree: &Self::Tree,
        _selection: &Selection,
    ) -> Result<Option<Vec<SelectedPath>>, Self::Error> {
        Ok(None)
    }

    /// Where the parts of a selection stand in the tree: with the content digest, that says what [`Worker::content_paths`] would be.
    async fn content_sources(
        &self,
        _tree: &Self::Tree,
        _selection: &Selection,
    ) -> Result<Vec<Vec<u8>>, Self::Error> {
        Ok(Vec::new())
    }

    /// The commit that stands for what a tree holds, in [`Worker::content_digest`].
    fn commit(&self, _tree: &Self::Tree) -> Option<String> {
        None
    }

    /// The identity of a whole tree by what it holds. For an image that means that its layers were unpacked and verified.
    async fn content_id(&self, tree: &Self::Tree) -> Result<ContentId, Self::Error>;

    /// Whether an operation only puts its inputs together, and somebody would have to bring one of them here to know what it holds: then it is
    /// looked up by its definition only, since performing it costs less.
    async fn is_unseen(&self, _vertex: VertexId, _inputs: &[&Self::Tree]) -> Result<bool, Self::Error> {
        Ok(false)
    }

    /// The tree of a recorded result of this vertex; `None` when something that it needs is gone.
    async fn load(&self, vertex: VertexId, record: &CacheRecord) -> Result<Option<Self::Tree>, Self::Error>;

    /// Brings a source: a tree from outside, without inputs. Local contexts must be cheap: nothing is read before it is selected.
    async fn source(&self, vertex: VertexId) -> Result<SourceTree<Self::Tree>, Self::Error>;

    /// Performs an operation on the trees of its inputs, in their order.
    async fn execute(
        &self,
        vertex: VertexId,
        inputs: Vec<Self::Tree>,
    ) -> Result<Executed<Self::Tree>, Self::Error>;

    /// A result that was made elsewhere and is filed under a key there. Its files stay where they are. Never fails: whoever cannot be asked
    /// has nothing.
    async fn find_away(&self, _key: &CacheKey) -> Option<Away> {
        None
    }

    /// The caches elsewhere whose word counts in this build: what rests on that of others is not used.
    fn trusted(&self) -> Origins {
        Origins::new()
    }

    /// Which of them has a result that is away.
    fn origin(&self, _away: &Away) -> Option<String> {
        None
    }

    /// What [`Worker::content_id`] would say of a result of this vertex that is away.
    async fn away_content(&self, vertex: VertexId, _away: &Away) -> Result<Option<ContentId>, Self::Error> {
        let _ = vertex;
        Ok(None)
    }

    /// Brings a result of this vertex here. `None` when it cannot be had or is not what it should be, which was told: it is not found again.
    async fn bring_away(&self, _vertex: VertexId, _away: &Away) -> Option<Arrived<Self::Tree>> {
        None
    }
}

/// A result that was made elsewhere and has not been needed here: a name that the worker gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Away(pub u64);

/// What [`Worker::bring_away`] brought.
#[derive(Debug, Clone)]
pub struct Arrived<T> {
    /// The whole tree.
    pub tree: T,
    /// The layers of it that are not an image's, bottom first.
    pub layers: Vec<SnapshotId>,
    /// What the whole tree holds.
    pub content: ContentId,
    /// How long it took to make; zero where nobody said.
    pub took: Duration,
}

/// What [`Worker::source`] brought.
#[derive(Debug, Clone)]
pub struct SourceTree<T> {
    /// The tree.
    pub tree: T,
    /// Whether all of it was here already.
    pub cached: bool,
}

/// What [`Worker::execute`] made.
#[derive(Debug, Clone)]
pub struct Executed<T> {
    /// The whole tree.
    pub tree: T,
    /// The layers of it that were made here (not an image's), bottom first, inputs' included.
    pub layers: Vec<SnapshotId>,
    /// What [`Worker::content_id`] says of it. Where [`Worker::is_unseen`] said so, what it would say if the inputs hold what they claim:
    /// enough to tell results apart, and nothing to find them by.
    pub content: ContentId,
}

/// One path of a selection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectedPath {
    /// As a user knows it: relative to the context.
    pub path: String,
    /// Permissions, `0o7777`, where they count.
    pub mode: Option<u32>,
    /// Of all else that counts.
    pub digest: [u8; 16],
}
