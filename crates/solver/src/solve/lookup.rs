//! Looking results up, and on whose word what is found counts.

use std::sync::Arc;

use cache::{CacheRecord, NewRecord, Origins};
use graph::VertexId;
use hash::CacheKey;
use trace::Work;

use super::{Answer, Run, Solved, lock, operation};
use crate::worker::Worker;

/// What a lookup brought.
pub(super) enum Found<T> {
    Hit(T, CacheRecord),
    /// Records, but nothing that they name.
    Gone,
    Nothing,
}

impl<W: Worker> Run<W> {
    /// Looks a key up; each candidate counts only if it rests on nobody's word but that of caches which this build names, and if the
    /// worker can load it.
    pub(super) async fn look_up(&self, id: VertexId, key: CacheKey) -> Answer<Found<W::Tree>, W::Error> {
        let _timed = self.trace.step(id.0, Work::Solve, "look up");
        let candidates = self.blocking(id, move |cache| cache.candidates(&key)).await?;
        let (mut candidates, distrusted): (Vec<_>, Vec<_>) =
            candidates.into_iter().partition(|record| record.origins.is_subset(&self.trusted));
        CacheRecord::prefer_fewest_origins(&mut candidates);
        let mut any = false;
        for record in candidates {
            if !self.hold(id, &record).await? {
                continue;
            }
            any = true;
            if let Some(tree) = self.worker.load(id, &record).await.map_err(|error| operation(id, error))? {
                return Ok(Found::Hit(tree, record));
            }
        }
        for record in distrusted {
            if let Some(cache) = record.origins.difference(&self.trusted).next()
                && self.hold(id, &record).await?
            {
                lock(&self.distrusted).insert(id, cache.clone());
                break;
            }
        }
        Ok(if any { Found::Gone } else { Found::Nothing })
    }

    /// Held one by one: builds with `--no-cache` leave many results of a key, and each has all the layers below it.
    async fn hold(&self, id: VertexId, record: &CacheRecord) -> Answer<bool, W::Error> {
        let record = record.clone();
        self.blocking(id, move |cache| cache.hold(&record)).await
    }

    /// Early cutoff: a result with the same inputs, however they came about. It is filed under the definition key too, unless somebody
    /// else vouches for what the inputs hold. That the definition leads to it rests on the word that the inputs rest on.
    pub(super) async fn look_up_content(
        self: &Arc<Self>,
        id: VertexId,
        [definition, content]: [CacheKey; 2],
        seen: bool,
        origins: &Origins,
    ) -> Answer<Option<Solved<W::Tree>>, W::Error> {
        let Found::Hit(tree, mut record) = self.look_up(id, content).await? else { return Ok(None) };
        let known = record.id;
        let origins: Origins = record.origins.union(origins).cloned().collect();
        if seen && origins == record.origins {
            self.blocking(id, move |cache| cache.alias(known, &definition)).await?;
        } else if seen {
            let (new, origins) = (self.new_record(id, &record), origins.clone());
            // Under both keys, and it is this build's from now on: what is told of a build names results with their definition.
            record = self
                .blocking(id, move |cache| cache.save_from(&[definition, content], &new, &origins))
                .await?;
        }
        let hit = self.hit(id, tree, &record);
        if seen {
            self.supersede(id, vec![definition]).await?;
        }
        Ok(Some(Solved { origins, ..hit }))
    }

    /// Where `--no-cache` has a step decided anew, the keys that its result is filed under lead to that: what it gave before must not come
    /// back beside what else is of now, neither because it is the newer record nor when this one is lost.
    pub(super) async fn supersede(
        self: &Arc<Self>,
        id: VertexId,
        keys: Vec<CacheKey>,
    ) -> Answer<(), W::Error> {
        let Some(record) = lock(&self.results).get(&id).cloned() else { return Ok(()) };
        if !self.keyed(id).await?.fresh {
            return Ok(());
        }
        let trusted = self.trusted.clone();
        self.blocking(id, move |cache| cache.supersede(&keys, &record, &trusted)).await
    }

    /// The same result, to be saved once more.
    fn new_record(&self, id: VertexId, record: &CacheRecord) -> NewRecord {
        let CacheRecord { content, layers, run, .. } = record.clone();
        let description = self.definition.vertex(id).name.clone();
        NewRecord { content, layers, description, run }
    }
}
