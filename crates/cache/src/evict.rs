//! What of the cache can be done without, one by one: listed for people, and removed within limits.
//!
//! A layer can go when no result stands on it any more, so the ends of chains go first: of those, what took little time to make for its
//! bytes, and was not used for long.

use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};
use std::time::{Duration, SystemTime};

use hash::Digest;
use rusqlite::{Connection, Transaction};

use crate::collect::{Choice, ROUNDS, newest_and_layers};
use crate::database::{Database, bytes32};
use crate::error::At;
use crate::layers::{Layers, Places};
use crate::leases::{Bucket, Glance};
use crate::prune::Trash;
use crate::turn::Turn;
use crate::{CacheError, CacheMountInfo, KeptId, Pruned, SnapshotId, Store, evictions, partial, room};

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
    /// Bytes on their own, with those of the blobs that only it has.
    pub bytes: u64,
    /// Bytes that go with it: its own and those of all that stands on it. 0 while it is held.
    pub frees: u64,
    /// When it was made, where that is known.
    pub created: Option<SystemTime>,
    /// When a build last used it, to the minute.
    pub last_used: SystemTime,
    /// How long it took to make it.
    pub cost: Duration,
    /// The layers that it stands on, by number.
    pub parents: Vec<String>,
    /// Whether an image of the image store has this layer too.
    pub shared: bool,
    /// Whether it cannot go: somebody is using it now, or it is held.
    pub in_use: bool,
    /// The failed step that it stays for ([`Store::kept_step`]).
    pub held: Option<KeptId>,
    /// The instance of a mount or repository.
    pub(crate) instance: u64,
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

    /// Whether a cache of `used` bytes has to become smaller when `free` are free.
    pub(crate) fn are_over(&self, used: u64, free: u64) -> bool {
        let is_large = self.max_used_space > 0 && used > self.max_used_space;
        is_large || free < self.min_free_space && used > self.reserved_space
    }
}

/// Layers of images come back as fast as a disk or a network is.
pub(crate) const NANOS_A_BYTE: u64 = 10;

impl Store {
    /// Everything that [`Store::evict`] could remove, and what stays for kept failed steps: layers oldest first, then mounts and
    /// repositories. Measures those.
    pub fn cache_parts(&self) -> Result<Vec<CachePart>, CacheError> {
        let layers = self.inner.database.read("list layers", Layers::read_all)?;
        let mut parts = self.with_mounts(layers.parts())?;
        self.mark_used(&mut parts);
        Ok(parts)
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

    /// Removes what is `wanted` gone and that nobody uses, and nothing else, until the limits are kept; builds may run. `why` is told when one
    /// misses something: `by builder prune`. Waits while others remove things.
    ///
    /// # Errors
    /// When the database or the file system fails; the store is sound all the same.
    pub fn evict(
        &self,
        wanted: &dyn Fn(&CachePart) -> bool,
        limits: Limits,
        why: &str,
    ) -> Result<Pruned, CacheError> {
        let turn = Turn::wait(&self.inner)?;
        let database = self.inner.database.apart()?;
        turn.begin()?;
        let (mut pruned, trash) = self.take_wanted(&database, wanted, limits, why)?;
        turn.leave()?;
        pruned.bytes += trash.empty()? + partial::remove_all(&self.inner.layout)?;
        Ok(pruned)
    }

    /// Takes what is wanted gone, and says what is still to be emptied.
    pub(crate) fn take_wanted(
        &self,
        database: &Database,
        wanted: &dyn Fn(&CachePart) -> bool,
        limits: Limits,
        why: &str,
    ) -> Result<(Pruned, Trash<'_>), CacheError> {
        let mut pruned = self.take_failed(database, wanted, limits)?;
        let mut rounds = ROUNDS;
        loop {
            rounds -= 1;
            let (newest_record, layers) = database.read("list layers", newest_and_layers)?;
            let mut parts = self.with_mounts(layers.parts())?;
            self.mark_used(&mut parts);
            let keep = self.kept(limits, &parts)?;
            let chosen = choose(&layers, &parts, wanted, keep);
            let choice = Choice::of(&layers, &chosen, why, newest_record);
            let left: u64 = parts.iter().map(|part| part.bytes).sum::<u64>()
                - chosen.iter().map(|part| part.bytes).sum::<u64>();
            let stays = |part: &&CachePart| part.in_use && part.held.is_none() && wanted(part);
            let fits = keep > 0 && left <= keep;
            pruned.in_use = if fits { 0 } else { parts.iter().filter(stays).count() as u64 };
            let mut trash = Trash::new(self);
            let (taken, all_went) = self.take_chosen(database, &mut trash, &choice)?;
            pruned += taken;
            let removed = self.remove_chosen_mounts(&choice)?;
            pruned.mounts += removed.count;
            pruned.bytes += removed.bytes;
            if all_went || rounds == 0 {
                return Ok((pruned, trash));
            }
            // How much of the disk is free decides about the next choice.
            pruned.bytes += trash.empty()?;
        }
    }

    /// Takes what failed steps left and is `wanted` gone, until the limits are kept.
    fn take_failed(
        &self,
        database: &Database,
        wanted: &dyn Fn(&CachePart) -> bool,
        limits: Limits,
    ) -> Result<Pruned, CacheError> {
        if limits == Limits::default() || self.kept_steps()?.is_empty() {
            return Ok(Pruned::default());
        }
        let layers = database.read("list layers", Layers::read_all)?;
        let parts = layers.plain_parts();
        let wanted: HashSet<SnapshotId> =
            parts.iter().filter(|part| wanted(part)).filter_map(CachePart::layer).collect();
        let used = parts.iter().map(|part| part.bytes).sum();
        let kept = self.forget_failed(limits, used, &|id| wanted.contains(&id))?;
        if kept == 0 {
            return Ok(Pruned::default());
        }
        let mut trash = Trash::new(self);
        let mut pruned = self.take_unreferenced(database, &mut trash)?;
        pruned.kept = kept;
        pruned.bytes += trash.empty()?;
        Ok(pruned)
    }

    /// Layers that a session uses cannot go now. Others whose leases are locks on the same file neither.
    fn mark_used(&self, parts: &mut [CachePart]) {
        let glance = Glance::new(&self.inner.layout);
        for part in parts {
            part.in_use |= part.layer().is_some_and(|id| !glance.was_free(Bucket::of_layer(id)));
        }
    }

    /// Bytes that are free on the file system.
    pub(crate) fn free(&self) -> Result<u64, CacheError> {
        let disk = rustix::fs::statvfs(self.root()).at("examine the file system of", self.root())?;
        Ok(room::free(&disk))
    }

    /// Bytes that may stay.
    pub(crate) fn kept(&self, limits: Limits, parts: &[CachePart]) -> Result<u64, CacheError> {
        let total = parts.iter().map(|part| part.bytes).sum();
        Ok(limits.keep(total, self.free()?))
    }

    /// Takes layers out of sight with all results that have them, their logs, and the blobs that only they have and that are `free`. Rows
    /// first: what has no row is found again, should this process be killed. Where there are many, [`evictions::forget_keys`] before makes this
    /// faster.
    pub(crate) fn take_layers(
        &self,
        database: &Database,
        trash: &mut Trash<'_>,
        ids: &[SnapshotId],
        why: &str,
        free: &dyn Fn(&Digest) -> bool,
    ) -> Result<Pruned, CacheError> {
        let mut pruned = Pruned::default();
        for ids in ids.chunks(BATCH) {
            let mut blobs = database.read_together("list packed layers", |db| blobs_of(db, ids))?;
            blobs.retain(free);
            let (records, gone, blobs) = database.write("evict", |db| {
                let (records, gone) = remove_layers(db, ids, why)?;
                Ok((records, gone, forget_blobs(db, blobs)?))
            })?;
            for (id, is_version) in &gone {
                trash.take_layer(*id, *is_version)?;
            }
            for digest in &blobs {
                trash.take(&self.inner.layout.blob(digest))?;
            }
            pruned.records += records;
            pruned.snapshots += gone.len() as u64;
            pruned.blobs += blobs.len() as u64;
            trash.begin_emptying();
        }
        Ok(pruned)
    }
}

/// So many layers go in one transaction: other writers wait for milliseconds.
pub(crate) const BATCH: usize = 500;

/// Removes the rows of layers, of versions over them, and the results that have them: the number of those, and all layers, each with whether it
/// is a version or has some. All that refers to either goes with them, table by table, which takes a third of the time that SQLite needs when
/// it looks after references row by row ([`Database::apart`]).
fn remove_layers(
    db: &Transaction<'_>,
    ids: &[SnapshotId],
    why: &str,
) -> rusqlite::Result<(u64, Vec<(SnapshotId, bool)>)> {
    db.execute_batch(
        "CREATE TEMP TABLE IF NOT EXISTS going (snapshot INTEGER PRIMARY KEY); DELETE FROM going;
         CREATE TEMP TABLE IF NOT EXISTS gone (record INTEGER PRIMARY KEY); DELETE FROM gone",
    )?;
    let mut insert = db.prepare_cached("INSERT OR IGNORE INTO going VALUES (?1)")?;
    for id in ids {
        insert.execute([id.0])?;
    }
    db.execute_batch(
        "INSERT OR IGNORE INTO going SELECT snapshot FROM versions WHERE base IN (SELECT snapshot FROM going);
         INSERT INTO gone SELECT id FROM records WHERE tree IN (
             WITH RECURSIVE above (id) AS (
                 SELECT id FROM trees WHERE snapshot IN (SELECT snapshot FROM going)
                 UNION SELECT trees.id FROM above JOIN trees ON trees.parent = above.id
             )
             SELECT id FROM above
         );
         DELETE FROM pins WHERE kept IN (SELECT id FROM kept WHERE snapshot IN (SELECT snapshot FROM going))",
    )?;
    evictions::note(db, "record IN (SELECT record FROM gone)", why)?;
    let gone: Vec<i64> = db
        .prepare_cached("SELECT record FROM gone")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    // One by one: SQLite removes the rows as it finds them then, and does not list them first.
    for (table, column) in OF_RECORDS {
        let mut delete = db.prepare_cached(&format!("DELETE FROM {table} WHERE {column} = ?1"))?;
        for record in &gone {
            delete.execute([record])?;
        }
    }
    let records = db.execute("DELETE FROM records WHERE id IN (SELECT record FROM gone)", [])?;
    let layers = db
        .prepare_cached("SELECT snapshot, EXISTS (SELECT 1 FROM versions WHERE versions.snapshot = going.snapshot) FROM going")?
        .query_map([], |row| Ok((SnapshotId(row.get(0)?), row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (table, column) in OF_LAYERS {
        db.execute(&format!("DELETE FROM {table} WHERE {column} IN (SELECT snapshot FROM going)"), [])?;
    }
    db.execute("DELETE FROM snapshots WHERE id IN (SELECT snapshot FROM going)", [])?;
    Ok((records as u64, layers))
}

/// Removes the row of a result, and all that refers to it: how many there were, none or one.
pub(crate) fn remove_record(db: &Transaction<'_>, record: i64) -> rusqlite::Result<u64> {
    for (table, column) in OF_RECORDS {
        db.prepare_cached(&format!("DELETE FROM {table} WHERE {column} = ?1"))?.execute([record])?;
    }
    Ok(db.prepare_cached("DELETE FROM records WHERE id = ?1")?.execute([record])? as u64)
}

/// What refers to a record, and what to a layer and goes with it. What versions are over goes with its versions.
pub(crate) const OF_RECORDS: [(&str, &str); 3] =
    [("record_layers", "record"), ("keys", "record"), ("record_origins", "record")];
const OF_LAYERS: [(&str, &str); 6] = [
    ("chains", "snapshot"),
    ("packed", "snapshot"),
    ("versions", "snapshot"),
    ("sums", "snapshot"),
    ("holdings", "snapshot"),
    ("kept", "snapshot"),
];

/// The blobs that these layers have, and neither an image nor a download.
fn blobs_of(db: &Connection, layers: &[SnapshotId]) -> rusqlite::Result<Vec<Digest>> {
    let mut select =
        db.prepare_cached(&format!("SELECT packed.digest FROM {OWN_BLOBS} AND packed.snapshot = ?1"))?;
    let mut found = BTreeSet::new();
    for id in layers {
        for digest in select.query_map([id.0], |row| bytes32(row, 0))? {
            found.insert(Digest::from_bytes(digest?));
        }
    }
    Ok(found.into_iter().collect())
}

/// Forgets those blobs that nothing has any more, and says which.
pub(crate) fn forget_blobs(db: &Transaction<'_>, blobs: Vec<Digest>) -> rusqlite::Result<Vec<Digest>> {
    let mut delete = db.prepare_cached(&format!("DELETE FROM blobs WHERE digest = ?1 AND {UNUSED_BLOB}"))?;
    db.execute_batch(
        "CREATE TEMP TABLE IF NOT EXISTS gone_blobs (digest BLOB PRIMARY KEY) WITHOUT ROWID; DELETE FROM gone_blobs",
    )?;
    let mut note = db.prepare_cached("INSERT INTO gone_blobs VALUES (?1)")?;
    let mut gone = Vec::with_capacity(blobs.len());
    for digest in blobs {
        if delete.execute([digest.as_bytes()])? > 0 {
            note.execute([digest.as_bytes()])?;
            gone.push(digest);
        }
    }
    if !gone.is_empty() {
        // All at once: there is no index by which they would be found one by one.
        db.execute("DELETE FROM chunks WHERE blob IN (SELECT digest FROM gone_blobs)", [])?;
    }
    Ok(gone)
}

/// A blob to which neither a layer, nor an image, nor a download leads.
pub(crate) const UNUSED_BLOB: &str = "NOT EXISTS (SELECT 1 FROM packed WHERE packed.digest = blobs.digest)
     AND NOT EXISTS (SELECT 1 FROM image_blobs WHERE image_blobs.digest = blobs.digest)
     AND NOT EXISTS (SELECT 1 FROM downloads WHERE downloads.digest = blobs.digest)";

/// Blobs made of layers, or that layers were made of, which neither an image nor a download has.
pub(crate) const OWN_BLOBS: &str = "packed JOIN blobs ON blobs.digest = packed.digest
     WHERE NOT EXISTS (SELECT 1 FROM image_blobs WHERE image_blobs.digest = packed.digest)
       AND NOT EXISTS (SELECT 1 FROM downloads WHERE downloads.digest = packed.digest)";

impl CachePart {
    /// Which layer it is, if it is one.
    pub fn layer(&self) -> Option<SnapshotId> {
        match self.kind {
            CacheKind::Step | CacheKind::Image => self.id.parse().ok().map(SnapshotId),
            CacheKind::Mount | CacheKind::Repository => None,
        }
    }

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
        held: None,
        instance: mount.instance,
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
    let numbered: Vec<(i64, usize)> = parts
        .iter()
        .enumerate()
        .filter_map(|(place, part)| part.layer().map(|layer| (layer.0, place)))
        .collect();
    let places = Places::new(&numbered);
    // How many results stand on each layer, and which have it on top.
    let mut standing = vec![0usize; parts.len()];
    let mut tops: Vec<Vec<&[i64]>> = vec![Vec::new(); parts.len()];
    for of in layers.chains() {
        let Some((top, below)) = of.split_last() else { continue };
        if let Some(top) = places.get(*top) {
            tops[top].push(below);
        }
        below.iter().filter_map(|layer| places.get(*layer)).for_each(|below| standing[below] += 1);
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
    let mut is_chosen = vec![false; parts.len()];
    let mut circles: Option<BinaryHeap<Next>> = None;
    loop {
        let of_circle = || {
            let find = || {
                let stays = parts.iter().map(|part| part.in_use || !wanted(part)).collect();
                in_circles(layers, &places, &tops, stays, &is_chosen).into_iter().map(next).collect()
            };
            circles.get_or_insert_with(find).pop()
        };
        let Some(Next { part: place, .. }) = waiting.pop().or_else(of_circle) else { break };
        // Nothing is to stay: then things without bytes go too.
        if keep > 0 && left <= keep {
            break;
        }
        let part = &parts[place];
        if part.in_use || is_chosen[place] || !wanted(part) {
            continue;
        }
        left -= part.bytes;
        chosen.push(place);
        is_chosen[place] = true;
        for below in &tops[place] {
            for layer in below.iter().filter_map(|layer| places.get(*layer)) {
                standing[layer] -= 1;
                if standing[layer] == 0 {
                    waiting.push(next(layer));
                }
            }
        }
    }
    let below = |place: usize| {
        tops[place].iter().flat_map(|below| below.iter()).filter_map(|layer| places.get(*layer))
    };
    together(&chosen, parts.len(), below).into_iter().map(|place| &parts[place]).collect()
}

/// Layers of which each stands on another one, in circles: of `COPY --link a` and `COPY --link b` each is below the other where they come in
/// both orders. All that stands on them is chosen or can go as well, but for what `stays`.
fn in_circles(
    layers: &Layers,
    places: &Places,
    tops: &[Vec<&[i64]>],
    mut stays: Vec<bool>,
    is_chosen: &[bool],
) -> Vec<usize> {
    // What lies below something that stays has to stay, too.
    let mut changed = stays.contains(&false);
    while changed {
        changed = false;
        for of in layers.chains() {
            let mut is_below = false;
            for layer in of.iter().rev() {
                match places.get(*layer) {
                    Some(place) if is_below => changed |= !std::mem::replace(&mut stays[place], true),
                    Some(place) => is_below = stays[place],
                    None => is_below = true,
                }
            }
        }
    }
    let mut left: Vec<bool> = stays.iter().zip(is_chosen).map(|(stays, chosen)| !stays && !chosen).collect();
    // What stands on none of them is below circles at most.
    loop {
        let stands = |place: usize| {
            let mut below = tops[place].iter().flat_map(|below| below.iter());
            below.any(|layer| places.get(*layer).is_some_and(|below| left[below]))
        };
        let lowest: Vec<usize> = (0..left.len()).filter(|place| left[*place] && !stands(*place)).collect();
        if lowest.is_empty() {
            return (0..left.len()).filter(|place| left[*place]).collect();
        }
        lowest.into_iter().for_each(|place| left[place] = false);
    }
}

/// Brings those together that stand on one another, in the order in which they came: their rows lie close together, and are removed in one
/// transaction then. `below` says of each what it stands on.
fn together<B: Iterator<Item = usize>>(
    chosen: &[usize],
    count: usize,
    below: impl Fn(usize) -> B,
) -> Vec<usize> {
    const NONE: usize = usize::MAX;
    // Trees, each thing with one nearer to the root (Tarjan's union-find with halved paths).
    let mut roots = vec![NONE; count];
    chosen.iter().for_each(|place| roots[*place] = *place);
    let root = |roots: &mut Vec<usize>, mut place: usize| {
        while roots[place] != place {
            roots[place] = roots[roots[place]];
            place = roots[place];
        }
        place
    };
    for place in chosen {
        for layer in below(*place) {
            if roots[layer] != NONE {
                let (above, below) = (root(&mut roots, *place), root(&mut roots, layer));
                roots[below] = above;
            }
        }
    }
    let mut order: HashMap<usize, usize> = HashMap::new();
    let mut keyed = Vec::with_capacity(chosen.len());
    for place in chosen {
        let next = order.len();
        keyed.push((*order.entry(root(&mut roots, *place)).or_insert(next), *place));
    }
    // Stable: within each the order stays.
    keyed.sort_by_key(|(group, _)| *group);
    keyed.into_iter().map(|(_, place)| place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table that is forgotten here keeps rows that lead nowhere.
    #[test]
    fn all_that_refers_to_layers_and_results_is_known() {
        let db = Connection::open_in_memory().unwrap();
        crate::database::create_tables(&db).unwrap();
        let list = "SELECT tables.name, keys.\"from\", keys.\"table\" FROM sqlite_schema AS tables, pragma_foreign_key_list(tables.name) AS keys
                    WHERE keys.\"table\" IN ('records', 'snapshots') ORDER BY 1, 2";
        let referring: Vec<(String, String, String)> = db
            .prepare(list)
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let known = |table: &str, column: &str, to: &str| match to {
            "records" => OF_RECORDS.contains(&(table, column)),
            // Those go with what they refer to before, by other columns.
            _ => {
                OF_LAYERS.contains(&(table, column))
                    || [("record_layers", "snapshot"), ("trees", "snapshot"), ("versions", "base")]
                        .contains(&(table, column))
            }
        };
        assert!(referring.len() >= 9, "{referring:?}");
        for (table, column, to) in &referring {
            assert!(known(table, column, to), "{table}.{column} refers to {to}");
        }
    }

    #[test]
    fn what_stands_on_one_another_goes_together() {
        // 5 and 3 on 1; 4 on 2; 0 on nothing, and 6 stays.
        let below = |place: usize| {
            let below: &[usize] = match place {
                5 => &[1, 6],
                3 => &[1],
                4 => &[2, 6],
                _ => &[],
            };
            below.iter().copied()
        };
        assert_eq!(together(&[5, 4, 0, 3, 2, 1], 7, below), [5, 3, 1, 4, 2, 0]);
        assert_eq!(together(&[], 7, below), [0; 0]);
    }

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
