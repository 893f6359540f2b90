//! The layers of the cache, and what stands on what.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use rusqlite::Connection;

use crate::database::{from_millis, from_sql};
use crate::evict::{CacheKind, CachePart, NANOS_A_BYTE, OWN_BLOBS};
use crate::{KeptId, SnapshotId};

/// Layers, and the results that are made of them.
pub(crate) struct Layers {
    layers: BTreeMap<i64, Layer>,
    records: Chains,
    /// What versions are over.
    bases: Ids<i64>,
}

/// The layers of each record, bottom first, one that is a version of another right above that. There are many times more of them than
/// records, so all lie in one piece.
#[derive(Default)]
struct Chains {
    /// The numbers of the records, ascending, and where the layers of each end.
    records: Vec<(i64, usize)>,
    layers: Vec<i64>,
}

impl Chains {
    fn read(db: &Connection, bases: &Ids<i64>) -> rusqlite::Result<Chains> {
        let (mut ids, mut trees) = (Vec::new(), Vec::new());
        let mut select = db.prepare_cached("SELECT id, parent, snapshot FROM trees ORDER BY id")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            ids.push((row.get(0)?, ids.len()));
            trees.push((row.get::<_, Option<i64>>(1)?, row.get(2)?));
        }
        let places = Places::new(&ids);
        let place = |id: Option<i64>| places.get(id?);
        let trees: Vec<(Option<usize>, i64)> =
            trees.into_iter().map(|(parent, layer)| (place(parent), layer)).collect();
        // What a tree lies on came before it.
        let down = |from: Option<usize>| {
            std::iter::successors(from, |place| trees[*place].0.filter(|parent| parent < place))
        };
        let mut chains = Chains::default();
        let mut select =
            db.prepare_cached("SELECT id, tree FROM records WHERE tree IS NOT NULL ORDER BY id")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let begin = chains.layers.len();
            for place in down(place(row.get(1)?)) {
                let layer = trees[place].1;
                chains.layers.push(layer);
                if !bases.is_empty() {
                    chains.layers.extend(bases.get(&layer));
                }
            }
            chains.layers[begin..].reverse();
            chains.end(row.get(0)?);
        }
        Ok(chains)
    }

    /// What was pushed since the last end is a record's.
    fn end(&mut self, record: i64) {
        self.records.push((record, self.layers.len()));
    }

    fn of(&self, place: usize) -> &[i64] {
        let begin = place.checked_sub(1).map_or(0, |before| self.records[before].1);
        &self.layers[begin..self.records[place].1]
    }

    /// The top layer of a record.
    fn top(&self, record: i64) -> Option<i64> {
        let place = self.records.binary_search_by_key(&record, |(record, _)| *record).ok()?;
        self.of(place).last().copied()
    }

    fn values(&self) -> impl Iterator<Item = &[i64]> {
        (0..self.records.len()).map(|place| self.of(place))
    }
}

/// By row numbers, which are asked for millions of times: nobody chooses them to collide.
pub(crate) type Ids<V> = HashMap<i64, V, BuildHasherDefault<IdHasher>>;

/// Multiplies by 2⁶⁴ divided by the golden ratio (Knuth, The Art of Computer Programming, volume 3, section 6.4).
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write_i64(&mut self, number: i64) {
        self.write_u64(number.cast_unsigned());
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(32)
    }
}

struct Layer {
    size: u64,
    created: i64,
    used: i64,
    is_image: bool,
    /// Whether a result has it on top.
    is_result: bool,
    shared: bool,
    /// The failed step that keeps it from being removed.
    held: Option<KeptId>,
    /// Of the step that made it.
    description: String,
    nanos: u64,
}

impl Layers {
    /// Those that can be removed.
    pub(crate) fn read(db: &Connection) -> rusqlite::Result<Layers> {
        let mut layers = Layers::read_all(db)?;
        layers.layers.retain(|_, layer| layer.held.is_none());
        Ok(layers)
    }

    /// With those that stay for kept failed steps.
    pub(crate) fn read_all(db: &Connection) -> rusqlite::Result<Layers> {
        let held = held(db)?;
        let mut layers = BTreeMap::new();
        let mut select = db.prepare_cached(
            "SELECT id, coalesce((SELECT own FROM versions WHERE snapshot = snapshots.id), size), created, used,
                    EXISTS (SELECT 1 FROM chains WHERE snapshot = snapshots.id),
                    EXISTS (SELECT 1 FROM packed JOIN image_blobs ON image_blobs.digest = packed.digest
                            WHERE packed.snapshot = snapshots.id)
             FROM snapshots",
        )?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let layer = Layer {
                size: from_sql(row.get(1)?),
                created: row.get(2)?,
                used: row.get(3)?,
                is_image: row.get(4)?,
                is_result: false,
                shared: row.get(5)?,
                held: held.get(&id).copied(),
                description: String::new(),
                nanos: 0,
            };
            layers.insert(id, layer);
        }
        // What is packed of a layer goes with it.
        let mut select = db.prepare_cached(&format!("SELECT snapshot, size FROM {OWN_BLOBS}"))?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            if let Some(layer) = layers.get_mut(&row.get(0)?) {
                layer.size += from_sql(row.get(1)?);
            }
        }
        let bases: Ids<i64> = db
            .prepare_cached("SELECT snapshot, base FROM versions WHERE base IS NOT NULL")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let mut records = Chains::read(db, &bases)?;
        let is_version = |layer: &&i64| bases.contains_key(layer);
        let in_records: HashSet<i64> = match bases.is_empty() {
            true => HashSet::new(),
            false => records.layers.iter().filter(is_version).copied().collect(),
        };
        let mut select =
            db.prepare_cached("SELECT id, description, duration FROM records ORDER BY id DESC")?;
        let mut rows = select.query([])?;
        // The first that had the layer on top made it, so the oldest is the last word.
        while let Some(row) = rows.next()? {
            let top = records.top(row.get(0)?);
            if let Some(layer) = top.and_then(|top| layers.get_mut(&top)) {
                (layer.description, layer.nanos) = (row.get(1)?, from_sql(row.get(2)?));
                layer.is_result = true;
            }
        }
        for (layer, base) in bases.iter().filter(|(layer, _)| !in_records.contains(layer)) {
            // An image has it: all the same its base cannot go before it.
            records.layers.extend([*base, *layer]);
            records.end(i64::MAX);
        }
        // What has no result any more is there for the versions over it.
        for (layer, base) in &bases {
            let of_version = layers.get(layer).map(|layer| (layer.description.clone(), layer.nanos));
            if let (Some(base), Some(of_version)) = (layers.get_mut(base), of_version)
                && base.description.is_empty()
            {
                (base.description, base.nanos) = of_version;
            }
        }
        Ok(Layers { layers, records, bases })
    }

    /// The layers of each result, bottom first.
    pub(crate) fn chains(&self) -> impl Iterator<Item = &[i64]> {
        self.records.values()
    }

    /// The records of which a layer is the top one.
    pub(crate) fn results_on(&self, tops: &HashSet<SnapshotId>) -> Vec<i64> {
        let of = self.records.records.iter().zip(self.records.values());
        let is_on = |layers: &[i64]| layers.last().is_some_and(|top| tops.contains(&SnapshotId(*top)));
        of.filter(|(_, layers)| is_on(layers)).map(|((record, _), _)| *record).collect()
    }

    /// Whether a result or an image leads to a layer.
    pub(crate) fn is_referenced(&self, id: SnapshotId) -> bool {
        self.layers.get(&id.0).is_some_and(|layer| layer.is_image || layer.is_result)
    }

    /// The layers directly below each.
    fn parents(&self) -> BTreeMap<i64, BTreeSet<i64>> {
        let mut parents: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
        for layers in self.records.values() {
            let Some((top, mut below)) = layers.split_last() else { continue };
            let mut insert = |below: Option<&i64>| parents.entry(*top).or_default().extend(below);
            if let Some((base, rest)) = below.split_last()
                && self.bases.get(top) == Some(base)
            {
                insert(Some(base));
                below = rest;
            }
            insert(below.last());
        }
        parents.retain(|_, of| !of.is_empty());
        parents
    }

    /// With all that is told of them.
    pub(crate) fn parts(&self) -> Vec<CachePart> {
        let parents = self.parents();
        // All that stands on a layer, itself included.
        let mut above: HashMap<i64, BTreeSet<i64>> = HashMap::new();
        for layers in self.records.values() {
            let Some(top) = layers.last() else { continue };
            for layer in layers {
                above.entry(*layer).or_default().insert(*top);
            }
        }
        let size = |id: &i64| self.layers.get(id).map_or(0, |layer| layer.size);
        let mut parts = self.plain_parts();
        for (part, id) in parts.iter_mut().zip(self.layers.keys()) {
            if part.held.is_none() {
                part.frees = above.get(id).map_or(part.bytes, |above| above.iter().map(size).sum());
            }
            part.parents = parents.get(id).into_iter().flatten().map(i64::to_string).collect();
        }
        parts
    }

    /// Without what they stand on and what stands on them, which takes time to find out.
    pub(crate) fn plain_parts(&self) -> Vec<CachePart> {
        let part = |(id, layer): (&i64, &Layer)| {
            let nanos = if layer.is_image { layer.size.saturating_mul(NANOS_A_BYTE) } else { layer.nanos };
            CachePart {
                kind: if layer.is_image { CacheKind::Image } else { CacheKind::Step },
                id: id.to_string(),
                description: layer.description.clone(),
                bytes: layer.size,
                frees: if layer.held.is_some() { 0 } else { layer.size },
                created: Some(from_millis(layer.created)),
                last_used: from_millis(layer.used),
                cost: Duration::from_nanos(nanos),
                parents: Vec::new(),
                shared: layer.shared,
                in_use: layer.held.is_some(),
                held: layer.held,
                instance: 0,
            }
        };
        self.layers.iter().map(part).collect()
    }
}

/// The layers that stay for a kept failed step, and for which.
fn held(db: &Connection) -> rusqlite::Result<Ids<KeptId>> {
    let mut select = db.prepare_cached(
        "SELECT snapshot, max(kept) FROM (
             SELECT value AS snapshot, kept.id AS kept FROM kept, json_each(kept.layers)
             UNION ALL SELECT snapshot, kept FROM pins
             UNION ALL SELECT base, kept.id FROM kept, json_each(kept.layers) JOIN versions ON versions.snapshot = value
                 WHERE base IS NOT NULL
             UNION ALL SELECT base, kept FROM pins JOIN versions ON versions.snapshot = pins.snapshot WHERE base IS NOT NULL
         ) GROUP BY snapshot",
    )?;
    select.query_map([], |row| Ok((row.get(0)?, KeptId(row.get(1)?))))?.collect()
}

/// Where things are, by row number.
pub(crate) enum Places {
    /// From a number on, one place each: numbers lie close together as long as most rows are still there.
    Dense(i64, Vec<u32>),
    Sparse(Ids<usize>),
}

impl Places {
    /// Of numbers, ascending or not, and their places.
    pub(crate) fn new(places: &[(i64, usize)]) -> Places {
        let (Some(first), Some(last)) =
            (places.iter().map(|(id, _)| *id).min(), places.iter().map(|(id, _)| *id).max())
        else {
            return Places::Sparse(Ids::default());
        };
        let span = last.abs_diff(first);
        let fits = span < 8 * places.len() as u64 + 1024 && places.len() < u32::MAX as usize;
        if !fits {
            return Places::Sparse(places.iter().copied().collect());
        }
        let mut dense = vec![u32::MAX; span as usize + 1];
        for (id, place) in places {
            dense[id.abs_diff(first) as usize] = *place as u32;
        }
        Places::Dense(first, dense)
    }

    pub(crate) fn get(&self, id: i64) -> Option<usize> {
        match self {
            Places::Dense(first, dense) => {
                let at = usize::try_from(id.checked_sub(*first)?).ok()?;
                dense.get(at).filter(|place| **place != u32::MAX).map(|place| *place as usize)
            }
            Places::Sparse(places) => places.get(&id).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_wherever_they_lie() {
        for numbers in [&[5, 6, 9][..], &[-3, 4, 1 << 40], &[i64::MIN, i64::MAX], &[7], &[]] {
            let places: Vec<(i64, usize)> = numbers.iter().copied().zip(0..).collect();
            let found = Places::new(&places);
            for (number, place) in places {
                assert_eq!(found.get(number), Some(place), "{number} of {numbers:?}");
            }
            for number in [0, 8, 10, i64::MIN + 1, i64::MAX - 1] {
                assert_eq!(found.get(number), None, "{number} of {numbers:?}");
            }
        }
    }
}
