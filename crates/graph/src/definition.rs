use std::collections::{BTreeSet, HashMap};

use files::Selection;
use hash::{StableHash, StableHasher, VertexDigest};

use crate::secrets::is_worth_hiding;
use crate::{Environment, Op};

/// Index of a vertex in its [`Definition`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VertexId(pub usize);

/// Vertices in topological order: inputs come before what uses them. Equal vertices (same operation, same inputs, same
/// cache setting) are one.
#[derive(Debug, Clone, Default)]
pub struct Definition {
    vertices: Vec<Vertex>,
    digests: Vec<VertexDigest>,
    by_digest: HashMap<VertexDigest, VertexId>,
    hidden: BTreeSet<String>,
    /// The newest process.
    newest: Option<VertexId>,
}

/// One operation with its inputs; exactly one output.
#[derive(Debug, Clone)]
pub struct Vertex {
    /// What is done.
    pub op: Op,
    /// For `Copy`, `Exec` and `Mkdir` the first is the tree that is worked on.
    pub inputs: Vec<Input>,
    /// For people, shown and kept: `[build 2/5] RUN make`, without values that nobody should read.
    pub name: String,
    /// First and last line in the Dockerfile, 1-based; `None` for what no instruction asked for.
    pub lines: Option<(u32, u32)>,
    /// From `--no-cache`: never looked up.
    pub no_cache: bool,
}

/// An edge: the whole tree of a vertex or a selection of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Whose output.
    pub vertex: VertexId,
    /// Which part of it.
    pub selection: Selection,
}

impl Input {
    /// The whole output of a vertex.
    pub fn whole(vertex: VertexId) -> Input {
        Input { vertex, selection: Selection::Whole }
    }
}

impl Definition {
    /// Adds a vertex and returns its id; an equal one that is there already is used again (the first name stays).
    ///
    /// # Panics
    /// When an input names a vertex that is not there yet: the order would not be topological.
    pub fn add(&mut self, vertex: Vertex) -> VertexId {
        assert!(
            vertex.inputs.iter().all(|input| input.vertex.0 < self.vertices.len()),
            "inputs come before the vertex that uses them"
        );
        let digest = self.digest_of(&vertex);
        let next = VertexId(self.vertices.len());
        let id = *self.by_digest.entry(digest).or_insert(next);
        if id == next {
            self.hide_what_is_given(&vertex.op);
            if matches!(vertex.op, Op::Exec(_)) {
                self.newest = Some(id);
            }
            self.vertices.push(vertex);
            self.digests.push(digest);
        }
        id
    }

    fn digest_of(&self, vertex: &Vertex) -> VertexDigest {
        let mut hasher = StableHasher::new("vertex-v2").with(&vertex.no_cache).with(&vertex.op);
        (vertex.inputs.len() as u64).stable_hash(&mut hasher);
        for input in &vertex.inputs {
            self.digests[input.vertex.0].stable_hash(&mut hasher);
            input.selection.stable_hash(&mut hasher);
        }
        VertexDigest::from_bytes(hasher.finish())
    }

    /// Notes the value of a variable that went into vertices, if its name is secret-like: messages and what is kept of vertices are to be
    /// without it.
    pub fn hide(&mut self, (name, value): (&str, &str)) {
        if is_worth_hiding(name, value) && !self.hidden.contains(value) {
            self.hidden.insert(value.to_owned());
        }
    }

    /// Does so with the variables that a process gets.
    fn hide_what_is_given(&mut self, op: &Op) {
        let Op::Exec(exec) = op else { return };
        let none = Environment::default();
        let before = match self.newest.map(|newest| &self.vertices[newest.0].op) {
            Some(Op::Exec(before)) => &before.env,
            _ => &none,
        };
        // Thousands of steps may share what they have of an environment, those that come one after the other most of it.
        let unseen = exec.env.unshared(before);
        let secret = unseen.filter(|(name, value)| is_worth_hiding(name, value));
        self.hidden.extend(secret.map(|(_, value)| value.clone()));
    }

    /// The operations, for changes that are in no key: what equal vertices are stays as it was.
    pub(crate) fn operations(&mut self) -> impl Iterator<Item = &mut Op> {
        self.vertices.iter_mut().map(|vertex| &mut vertex.op)
    }

    /// The values that [`Definition::hide`] noted, and those that processes get.
    pub(crate) fn hidden(&self) -> &BTreeSet<String> {
        &self.hidden
    }

    /// The vertex of an id.
    ///
    /// # Panics
    /// When the id is not of this definition.
    pub fn vertex(&self, id: VertexId) -> &Vertex {
        &self.vertices[id.0]
    }

    /// All vertices in order.
    pub fn iter(&self) -> impl Iterator<Item = (VertexId, &Vertex)> {
        self.vertices.iter().enumerate().map(|(index, vertex)| (VertexId(index), vertex))
    }

    /// The number of vertices.
    pub fn len(&self) -> usize {
        self.vertices.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.vertices.is_empty()
    }

    /// Identity of a vertex within this build: operation, cache setting and inputs' identities.
    ///
    /// # Panics
    /// When the id is not of this definition.
    pub fn digest(&self, id: VertexId) -> VertexDigest {
        self.digests[id.0]
    }

    /// The nearest ancestor along first inputs that satisfies `found`, the vertex itself included: the base image of a stage, say.
    pub fn find_root(&self, id: VertexId, found: impl Fn(&Op) -> bool) -> Option<VertexId> {
        let mut id = id;
        loop {
            let vertex = self.vertex(id);
            if found(&vertex.op) {
                return Some(id);
            }
            id = vertex.inputs.first()?.vertex;
        }
    }
}
