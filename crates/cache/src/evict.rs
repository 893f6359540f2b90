//! What of the cache can be done without, one by one: listed for people, and removed within limits.
//!
//! A layer can go when no result stands on it any more, so the ends of chains go first: of those, what took little time to make for its
//! bytes, and was not used for long.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::time::{Duration, SystemTime};

use rusqlite::Connection;

use crate::database::{from_millis, from_sql};
use crate::error::At;
use crate::{CacheError, CacheMountInfo, PruneOptions, Pruned, SnapshotId, Store, evictions};

/// What something in the cache is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CacheKind {
    /// The layer that a step made, with all results that have it on top.
    Step,
    /// A layer of an image, unpacked.
    Image,
    /// A cache mount.
    Mount,
    /// A git repository.
    Repository,
}

impl CacheKind {
    /// Upstream's word for it, as filters have it (BuildKit's `UsageRecordType`).
    pub fn upstream(self) -> &'static str {
        match self {
            CacheKind::Step | CacheKind::Image => "regular",
            CacheKind::Mount => "exec.cachemount",
            CacheKind::Repository => "source.git.checkout",
        }
    }
}

/// Something in the cache that can be removed by itself, once nothing stands on it.
#[derive(Debug, Clone, PartialEq)]
pub struct CachePart {
    /// What it is.
    pub kind: CacheKind,
    /// Its name among its kind: a layer's number, a mount's id, a repository's address.
    pub id: String,
    /// The step that made it; empty for a layer of an image.
    pub description: String,
    /// Bytes on their own.
    pub bytes: u64,
    /// Bytes that go with it: its own and those of all that stands on it.
    pub frees: u64,
    /// When it was made, where that is known.
    pub created: Option<SystemTime>,
    /// When a build last used it, to within ten minutes.
    pub last_used: SystemTime,
    /// How long it took to make it.
    pub cost: Duration,
    /// The layers that it stands on, by number.
    pub parents: Vec<String>,
    /// Whether an image of the image store has this layer too.
    pub shared: bool,
    /// Whether somebody is using it now.
    pub in_use: bool,
    /// The instance of a mount or repository.
    instance: u64,
}

/// How much may stay, in bytes; 0 is no limit. As upstream has them: with none of them, everything goes that is wanted gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// The cache is not made smaller than this.
    pub reserved_space: u64,
    /// The cache is made to fit into this.
    pub max_used_space: u64,
    /// So much of the file system is made free.
    pub min_free_space: u64,
}

impl Limits {
    /// How many of `total` bytes may stay when `free` are free (BuildKit's `calculateKeepBytes`).
    fn keep(&self, total: u64, free: u64) -> u64 {
        let mut keep = self.max_used_space;
        let lacking = self.min_free_space.saturating_sub(free);
        if lacking > 0 {
            let rest = total.saturating_sub(lacking);
            keep = if keep == 0 { rest } else { keep.min(rest) };
        } else if self.min_free_space != 0 && keep == 0 {
            keep = total;
        }
        keep.max(self.reserved_space)
    }
}

/// Layers of images come back as fast as a disk or a network is.
const NANOS_A_BYTE: u64 = 10;

impl Store {
    /// Everything that [`Store::evict`] could remove: layers oldest first, then mounts and repositories. Measures those.
    pub fn cache_parts(&self) -> Result<Vec<CachePart>, CacheError> {
        let layers = self.inner.database.read("list layers", Layers::read)?;
        self.with_mounts(layers.parts())
    }

    /// Adds cache mounts and repositories. Measures them.
    pub(crate) fn with_mounts(&self, mut parts: Vec<CachePart>) -> Result<Vec<CachePart>, CacheError> {
        for (kind, mounts) in
            [(CacheKind::Mount, self.cache_mounts()?), (CacheKind::Repository, self.remote_dirs()?)]
        {
            parts.extend(mounts.iter().map(|mount| mount_part(kind, mount)));
        }
        Ok(parts)
    }

    /// Removes what is `wanted` gone until the limits are kept, and then what is needed no more. `why` is told when a build misses
    /// something: `by builder prune`.
    ///
    /// # Errors
    /// [`CacheError::Busy`] while a build is running.
    pub fn evict(
        &self,
        wanted: &dyn Fn(&CachePart) -> bool,
        limits: Limits,
        why: &str,
    ) -> Result<Pruned, CacheError> {
        self.prune_after(PruneOptions::default(), || {
            let layers = self.inner.database.read("list layers", Layers::read)?;
            let parts = self.cache_parts()?;
            let chosen = choose(&layers, &parts, wanted, self.kept(limits, &parts)?);
            let mut pruned = self.remove_layers(&chosen, &layers, why)?;
            for (kind, repositories) in [(CacheKind::Mount, false), (CacheKind::Repository, true)] {
                let of_kind = chosen.iter().filter(|part| part.kind == kind);
                let named: BTreeSet<(String, u64)> = of_kind.map(|part| part.named()).collect();
                let removed = self.remove_mounts(repositories, &named)?;
                pruned.mounts += removed.count;
                pruned.bytes += removed.bytes;
            }
            Ok(pruned)
        })
    }

    /// Bytes that may stay.
    pub(crate) fn kept(&self, limits: Limits, parts: &[CachePart]) -> Result<u64, CacheError> {
        let total = parts.iter().map(|part| part.bytes).sum();
        let disk = rustix::fs::statvfs(self.root()).at("examine the file system of", self.root())?;
        Ok(limits.keep(total, disk.f_bavail.saturating_mul(disk.f_frsize)))
    }

    /// Removes layers with all results that have them; their files go with the rest of the prune.
    pub(crate) fn remove_layers(
        &self,
        chosen: &[&CachePart],
        layers: &Layers,
        why: &str,
    ) -> Result<Pruned, CacheError> {
        let ids: Vec<i64> = chosen.iter().filter_map(|part| part.id.parse().ok()).collect();
        let ids: Vec<i64> = ids.into_iter().filter(|id| layers.layers.contains_key(id)).collect();
        self.inner.database.write("evict", |db| {
            let count = |db: &Connection| {
                db.query_row("SELECT count(*) FROM records", [], |row| row.get(0).map(from_sql))
            };
            let before: u64 = count(db)?;
            db.execute_batch("CREATE TEMP TABLE going (snapshot INTEGER PRIMARY KEY)")?;
            {
                let mut insert = db.prepare("INSERT INTO going VALUES (?1)")?;
                for id in &ids {
                    insert.execute([id])?;
                }
            }
            let which =
                "record IN (SELECT record FROM record_layers WHERE snapshot IN (SELECT snapshot FROM going))";
            evictions::note(db, which, why)?;
            db.execute_batch(
                "DELETE FROM records WHERE id IN
                     (SELECT record FROM record_layers WHERE snapshot IN (SELECT snapshot FROM going));
                 DELETE FROM snapshots WHERE id IN (SELECT snapshot FROM going);
                 DROP TABLE going",
            )?;
            Ok(Pruned { records: before - count(db)?, ..Pruned::default() })
        })
    }
}

impl CachePart {
    /// What names a mount or repository.
    pub(crate) fn named(&self) -> (String, u64) {
        (self.id.clone(), self.instance)
    }
}

fn mount_part(kind: CacheKind, mount: &CacheMountInfo) -> CachePart {
    CachePart {
        kind,
        id: mount.id.clone(),
        description: match kind {
            CacheKind::Mount => format!("cache mount {}", mount.id),
            _ => format!("git repository {}", mount.id),
        },
        bytes: mount.size.bytes,
        frees: mount.size.bytes,
        created: mount.created,
        last_used: mount.last_used.or(mount.created).unwrap_or(SystemTime::UNIX_EPOCH),
        // What fills a mount is a download or a compiler's work.
        cost: Duration::from_nanos(mount.size.bytes.saturating_mul(2 * NANOS_A_BYTE)),
        parents: Vec::new(),
        shared: false,
        in_use: mount.in_use,
        instance: mount.instance,
    }
}

/// Layers, and the results that are made of them.
pub(crate) struct Layers {
    layers: BTreeMap<i64, Layer>,
    /// The layers of each record, bottom first.
    records: HashMap<i64, Vec<i64>>,
}

struct Layer {
    size: u64,
    created: i64,
    used: i64,
    is_image: bool,
    /// Whether a result has it on top.
    is_result: bool,
    shared: bool,
    /// Of the step that made it.
    description: String,
    nanos: u64,
}

impl Layers {
    pub(crate) fn read(db: &Connection) -> rusqlite::Result<Layers> {
        let mut layers = BTreeMap::new();
        let mut select = db.prepare_cached(
            "SELECT id, size, created, used, EXISTS (SELECT 1 FROM chains WHERE snapshot = snapshots.id),
                    EXISTS (SELECT 1 FROM packed JOIN image_blobs ON image_blobs.digest = packed.digest
                            WHERE packed.snapshot = snapshots.id)
             FROM snapshots WHERE id NOT IN (SELECT value FROM kept, json_each(kept.layers))",
        )?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let layer = Layer {
                size: from_sql(row.get(1)?),
                created: row.get(2)?,
                used: row.get(3)?,
                is_image: row.get(4)?,
                is_result: false,
                shared: row.get(5)?,
                description: String::new(),
                nanos: 0,
            };
            layers.insert(row.get(0)?, layer);
        }
        let mut records: HashMap<i64, Vec<i64>> = HashMap::new();
        let mut select =
            db.prepare_cached("SELECT record, snapshot FROM record_layers ORDER BY record, position")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            records.entry(row.get(0)?).or_default().push(row.get(1)?);
        }
        let mut select =
            db.prepare_cached("SELECT id, description, duration FROM records ORDER BY id DESC")?;
        let mut rows = select.query([])?;
        // The first that had the layer on top made it, so the oldest is the last word.
        while let Some(row) = rows.next()? {
            let top = records.get(&row.get(0)?).and_then(|of| of.last());
            if let Some(layer) = top.and_then(|top| layers.get_mut(top)) {
                (layer.description, layer.nanos) = (row.get(1)?, from_sql(row.get(2)?));
                layer.is_result = true;
            }
        }
        Ok(Layers { layers, records })
    }

    /// Whether a result or an image leads to a layer.
    pub(crate) fn is_referenced(&self, id: SnapshotId) -> bool {
        self.layers.get(&id.0).is_some_and(|layer| layer.is_image || layer.is_result)
    }

    /// The layers directly below each.
    fn parents(&self) -> BTreeMap<i64, BTreeSet<i64>> {
        let mut parents: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
        for layers in self.records.values() {
            if let [.., below, top] = layers.as_slice() {
                parents.entry(*top).or_default().insert(*below);
            }
        }
        parents
    }

    /// With all that is told of them.
    fn parts(&self) -> Vec<CachePart> {
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
            part.frees = above.get(id).map_or(part.bytes, |above| above.iter().map(size).sum());
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
                frees: layer.size,
                created: Some(from_millis(layer.created)),
                last_used: from_millis(layer.used),
                cost: Duration::from_nanos(nanos),
                parents: Vec::new(),
                shared: layer.shared,
                in_use: false,
                instance: 0,
            }
        };
        self.layers.iter().map(part).collect()
    }
}

/// A part that could go next. The largest goes first.
#[derive(PartialEq)]
struct Next {
    /// How little is lost: bytes times age for the time that it took.
    gain: f64,
    part: usize,
}

impl Eq for Next {}

impl Ord for Next {
    fn cmp(&self, other: &Next) -> std::cmp::Ordering {
        self.gain.total_cmp(&other.gain).then(other.part.cmp(&self.part))
    }
}

impl PartialOrd for Next {
    fn partial_cmp(&self, other: &Next) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// What goes so that no more than `keep` bytes stay.
pub(crate) fn choose<'a>(
    layers: &Layers,
    parts: &'a [CachePart],
    wanted: &dyn Fn(&CachePart) -> bool,
    keep: u64,
) -> Vec<&'a CachePart> {
    let mut left: u64 = parts.iter().map(|part| part.bytes).sum();
    let places: HashMap<i64, usize> = parts
        .iter()
        .enumerate()
        .filter(|(_, part)| matches!(part.kind, CacheKind::Step | CacheKind::Image))
        .filter_map(|(place, part)| Some((part.id.parse().ok()?, place)))
        .collect();
    // How many results stand on each layer, and which have it on top.
    let mut standing = vec![0usize; parts.len()];
    let mut tops: HashMap<usize, Vec<&[i64]>> = HashMap::new();
    for of in layers.records.values() {
        let Some((top, below)) = of.split_last() else { continue };
        if let Some(top) = places.get(top) {
            tops.entry(*top).or_default().push(below);
        }
        below.iter().filter_map(|layer| places.get(layer)).for_each(|below| standing[*below] += 1);
    }
    let now = SystemTime::now();
    let next = |place: usize| {
        let part = &parts[place];
        let age = now.duration_since(part.last_used).unwrap_or_default().as_secs_f64() + 60.0;
        let gain = (part.bytes as f64 + 4096.0) * age / (part.cost.as_secs_f64() + 0.001);
        Next { gain, part: place }
    };
    let mut waiting: BinaryHeap<Next> =
        (0..parts.len()).filter(|place| standing[*place] == 0).map(next).collect();
    let mut chosen = Vec::new();
    while let Some(Next { part: place, .. }) = waiting.pop() {
        // Nothing is to stay: then things without bytes go too.
        if keep > 0 && left <= keep {
            break;
        }
        let part = &parts[place];
        if part.in_use || !wanted(part) {
            continue;
        }
        left -= part.bytes;
        chosen.push(part);
        for below in tops.remove(&place).unwrap_or_default() {
            for layer in below.iter().filter_map(|layer| places.get(layer)) {
                standing[*layer] -= 1;
                if standing[*layer] == 0 {
                    waiting.push(next(*layer));
                }
            }
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_upstreams() {
        let limits = |reserved_space, max_used_space, min_free_space| Limits {
            reserved_space,
            max_used_space,
            min_free_space,
        };
        assert_eq!(limits(0, 0, 0).keep(100, 10), 0);
        assert_eq!(limits(0, 50, 0).keep(100, 10), 50);
        assert_eq!(limits(60, 50, 0).keep(100, 10), 60);
        assert_eq!(limits(0, 0, 30).keep(100, 10), 80);
        assert_eq!(limits(0, 70, 30).keep(100, 10), 70);
        assert_eq!(limits(0, 0, 5).keep(100, 10), 100);
        assert_eq!(limits(90, 0, 30).keep(100, 10), 90);
    }
}
