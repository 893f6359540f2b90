//! Times of commits. Times count in no key but where somebody asks for those of a commit: a checkout that has them is known by its commit
//! ([`crate::Identity`]), and of what is taken from layers that were made of one those entries count with their time that still have it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use files::Selected;
use graph::{Definition, Op, Source, VertexId};
use hash::{ContentDigest, StableHash as _, StableHasher};

/// Times in seconds since 1970.
pub(crate) type Times = Arc<BTreeSet<i64>>;

/// The checkouts of a build that have the times of their commits.
pub(crate) struct CommitTimes {
    /// Those that a vertex is made of, for vertices that are made of any.
    checkouts: HashMap<VertexId, Arc<BTreeSet<VertexId>>>,
    /// Of those that are here.
    known: Mutex<HashMap<VertexId, i64>>,
}

impl CommitTimes {
    /// `of_context` says it of contexts, by their names.
    pub(crate) fn new(definition: &Definition, of_context: impl Fn(&str) -> Option<i64>) -> CommitTimes {
        let mut checkouts: HashMap<VertexId, Arc<BTreeSet<VertexId>>> = HashMap::new();
        let mut known = HashMap::new();
        for (id, vertex) in definition.iter() {
            let is_checkout = match &vertex.op {
                Op::Source(Source::Git(git)) => git.commit_times,
                Op::Source(Source::Local { name }) => {
                    of_context(name).map(|time| known.insert(id, time)).is_some()
                }
                _ => false,
            };
            if is_checkout {
                checkouts.insert(id, Arc::new(BTreeSet::from([id])));
                continue;
            }
            let mut inputs = vertex.inputs.iter().filter_map(|input| checkouts.get(&input.vertex));
            let Some(first) = inputs.next() else { continue };
            // Most have no more than what they stand on.
            let mut all = first.clone();
            for more in inputs.filter(|more| !more.is_subset(first)) {
                Arc::make_mut(&mut all).extend(more.iter());
            }
            checkouts.insert(id, all);
        }
        CommitTimes { checkouts, known: Mutex::new(known) }
    }

    /// Of a checkout that is here now.
    pub(crate) fn note(&self, checkout: VertexId, time: i64) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(checkout, time);
    }

    /// Of all that a vertex is made of: its key was asked for, so they are here.
    pub(crate) fn of(&self, vertex: VertexId) -> Option<Times> {
        let checkouts = self.checkouts.get(&vertex)?;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::new(checkouts.iter().filter_map(|checkout| known.get(checkout).copied()).collect()))
    }
}

/// The digest of a selection with the times of those entries that have one of `times`; as it was where none has.
pub(crate) fn digest_with(digest: ContentDigest, selected: &Selected, times: &Times) -> ContentDigest {
    let mut hasher = StableHasher::new("commit-times-v1").with(&digest);
    let mut any = false;
    let entries = selected.matches.iter().flat_map(|found| found.entries());
    for (index, entry) in entries.enumerate() {
        let (seconds, nanos) = entry.metadata.mtime;
        if nanos == 0 && times.contains(&seconds) {
            any = true;
            (index as u64).stable_hash(&mut hasher);
            seconds.to_le_bytes().stable_hash(&mut hasher);
        }
    }
    if any { ContentDigest::from_bytes(hasher.finish()) } else { digest }
}

#[cfg(test)]
mod tests {
    use graph::{Git, Input, Vertex};

    use super::*;

    #[test]
    fn each_vertex_knows_the_checkouts_that_it_is_made_of() {
        let mut definition = Definition::default();
        let mut add = |op, inputs: &[VertexId]| {
            let inputs = inputs.iter().copied().map(Input::whole).collect();
            definition.add(Vertex { op, inputs, name: String::new(), lines: None, no_cache: false })
        };
        let git = |remote: &str, commit_times| {
            let remote = remote.to_owned();
            let (reference, directory, checksum) = (None, String::new(), None);
            let (keep_git_dir, submodules, fetch_by_commit) = (false, true, false);
            Op::Source(Source::Git(Git {
                remote,
                reference,
                directory,
                checksum,
                keep_git_dir,
                submodules,
                fetch_by_commit,
                commit_times,
            }))
        };
        let (one, other, plain) =
            (add(git("a", true), &[]), add(git("b", true), &[]), add(git("c", false), &[]));
        let context = add(Op::Source(Source::Local { name: "x".to_owned() }), &[]);
        let on_one = add(Op::Merge, &[plain, one]);
        let on_both = add(Op::Merge, &[on_one, other]);
        let on_all = add(Op::Merge, &[context, on_both]);
        let on_none = add(Op::Merge, &[plain]);
        let times = CommitTimes::new(&definition, |name| (name == "x").then_some(7));
        times.note(one, 1);
        times.note(other, 2);
        let of = |vertex| times.of(vertex).map(|times| times.iter().copied().collect::<Vec<_>>());
        assert_eq!([on_one, on_both, on_all].map(of), [Some(vec![1]), Some(vec![1, 2]), Some(vec![1, 2, 7])]);
        assert_eq!([on_none, plain].map(of), [None, None]);
    }
}
