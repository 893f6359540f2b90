//! Results that were made elsewhere: found, left there, brought when they are needed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cache::{CacheRecord, NewRecord, Origins, StepRun};
use futures::future::try_join_all;
use graph::{Outcome, VertexId};
use hash::CacheKey;

use super::lookup::Found;
use super::{Answer, Keyed, Run, Solved, lock};
use crate::worker::{Arrived, Away, Worker};

/// The result of a vertex.
#[derive(Debug)]
pub(super) enum Placed<T> {
    /// It can be used.
    Here(Solved<T>),
    /// It was made elsewhere, and can be brought.
    Away {
        /// Its name.
        away: Away,
        /// The key that it was found by.
        key: CacheKey,
        /// On whose word it rests.
        origins: Origins,
    },
}

impl<T: Clone> Clone for Placed<T> {
    fn clone(&self) -> Self {
        match self {
            Placed::Here(solved) => Placed::Here(solved.clone()),
            Placed::Away { away, key, origins } => {
                Placed::Away { away: *away, key: *key, origins: origins.clone() }
            }
        }
    }
}

impl<T> Placed<T> {
    /// The tree, where it is here.
    pub(super) fn here(&self) -> Option<&T> {
        match self {
            Placed::Here(solved) => Some(&solved.tree),
            Placed::Away { .. } => None,
        }
    }

    /// On whose word it rests.
    pub(super) fn origins(&self) -> &Origins {
        match self {
            Placed::Here(solved) => &solved.origins,
            Placed::Away { origins, .. } => origins,
        }
    }
}

/// On whose word rests what is made of several.
pub(super) fn origins_of<'a>(inputs: impl Iterator<Item = &'a Origins>) -> Origins {
    inputs.flatten().cloned().collect()
}

pub(super) fn is_here<T>(placed: &[Placed<T>]) -> bool {
    placed.iter().all(|placed| matches!(placed, Placed::Here(_)))
}

impl<W: Worker> Run<W> {
    /// The result of a vertex, brought here when it is elsewhere. What cannot be brought is looked for again, and made when nobody else
    /// has it.
    pub(super) async fn solve_here(self: Arc<Self>, id: VertexId) -> Answer<Solved<W::Tree>, W::Error> {
        let mut placed = self.placement(id).await?;
        loop {
            let (away, key, origins) = match placed {
                Placed::Here(solved) => return Ok(solved),
                Placed::Away { away, key, origins } => (away, key, origins),
            };
            let brought = self.bring_here(id, &away, key, origins).await;
            if let Err(error) = &brought
                && error.vertex() == id
            {
                self.failed(error);
            }
            if let Some(solved) = brought? {
                return Ok(solved);
            }
            placed = self.clone().place(id).await?;
        }
    }

    /// Sees to it that a vertex has a result, wherever.
    pub(super) async fn ensured(self: &Arc<Self>, id: VertexId) -> Answer<(), W::Error> {
        if let Placed::Away { .. } = self.placed_input(id).await? {
            self.show_cached(id, Duration::ZERO);
        }
        Ok(())
    }

    /// The result of an input, wherever it is.
    pub(super) async fn placed_input(self: &Arc<Self>, id: VertexId) -> Answer<Placed<W::Tree>, W::Error> {
        let known = lock(&self.sources).get(&id).cloned();
        match known {
            Some(tree) => Ok(Placed::Here(Solved { tree, cached: true, origins: Origins::new() })),
            None => self.placement(id).await,
        }
    }

    /// The content key of a vertex whose inputs are all here.
    pub(super) async fn content_key_here(
        self: &Arc<Self>,
        id: VertexId,
        inputs: &[W::Tree],
    ) -> Answer<CacheKey, W::Error> {
        let here = |tree: &W::Tree| {
            Placed::Here(Solved { tree: tree.clone(), cached: false, origins: Origins::new() })
        };
        let placed: Vec<_> = inputs.iter().map(here).collect();
        match self.content_key(id, &placed).await? {
            Some(key) => Ok(key),
            None => Err(super::SolveError::Internal {
                vertex: id,
                message: "what is here has a content id".to_owned(),
            }),
        }
    }

    /// Where the result of a vertex is, when that is elsewhere.
    pub(super) fn known_away(&self, id: VertexId) -> Option<Away> {
        let placement = lock(&self.placements).get(&id).and_then(|placement| placement.peek().cloned());
        match placement?.ok()? {
            Placed::Away { away, .. } => Some(away),
            Placed::Here(_) => None,
        }
    }

    /// Brings a result and files it here, under the keys that were computed here and no others: somebody else's word is taken for what
    /// was asked, not for what other builds may ask. `None`: it cannot be had.
    async fn bring_here(
        self: &Arc<Self>,
        id: VertexId,
        away: &Away,
        key: CacheKey,
        origins: Origins,
    ) -> Answer<Option<Solved<W::Tree>>, W::Error> {
        let Keyed { definition, fresh } = self.keyed(id).await?;
        let _claim = self.claim(id, definition).await?;
        // Another build may have brought it, or made it.
        if !fresh && let Found::Hit(tree, record) = self.look_up(id, definition).await? {
            return Ok(Some(self.hit(id, tree, &record)));
        }
        self.started(id);
        let _timed = self.trace.step(id.0, trace::Work::Fetch, "bring the result from elsewhere");
        let Some(arrived) = self.worker.bring_away(id, away).await else { return Ok(None) };
        let Arrived { tree, layers, content, took } = arrived;
        let description = self.definition.vertex(id).name.clone();
        let run = StepRun { started: self.clock.now(), duration: took };
        let record = NewRecord { content, layers, description, run };
        let keys: Vec<CacheKey> = BTreeSet::from([definition, key]).into_iter().collect();
        let record: CacheRecord =
            self.blocking(id, move |cache| cache.save_from(&keys, &record, &origins)).await?;
        Ok(Some(self.hit(id, tree, &record)))
    }

    /// Shows a vertex and what nobody needed of what is below it as cached.
    pub(super) fn show_cached(&self, id: VertexId, saved: Duration) {
        for ancestor in self.untouched_ancestors(id) {
            self.finished(ancestor, Outcome::Cached { saved: Duration::ZERO });
        }
        self.finished(id, Outcome::Cached { saved });
    }

    /// The inputs of a vertex, all here, and on whose word they rest.
    pub(super) async fn inputs_here(
        self: &Arc<Self>,
        id: VertexId,
    ) -> Answer<(Vec<W::Tree>, Origins), W::Error> {
        let inputs = &self.definition.vertex(id).inputs;
        let inputs = try_join_all(inputs.iter().map(|input| self.input(input.vertex))).await?;
        let origins = origins_of(inputs.iter().map(|input| &input.origins));
        Ok((inputs.into_iter().map(|input| input.tree).collect(), origins))
    }
}
