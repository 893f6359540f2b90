//! Which layers lie on which: the table `trees`.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::database::Database;
use crate::{CacheError, SnapshotId};

/// All trees with the layer `?1`: `WITH RECURSIVE above (id)`.
pub(crate) const ABOVE: &str = "WITH RECURSIVE above (id) AS (
    SELECT id FROM trees WHERE snapshot = ?1
    UNION SELECT trees.id FROM above JOIN trees ON trees.parent = above.id
)";

/// The trees that results lead to, as a query: all, unless a row was damaged.
pub(crate) const BELOW_RESULTS: &str = "WITH RECURSIVE below (id) AS (
    SELECT tree FROM records WHERE tree IS NOT NULL
    UNION SELECT parent FROM below JOIN trees USING (id) WHERE parent IS NOT NULL
) SELECT id FROM below";

/// How many trees there are to which no result leads: none, unless a damaged row led elsewhere.
pub(crate) fn count_loose(db: &Connection) -> rusqlite::Result<i64> {
    let count = format!("SELECT count(*) FROM trees WHERE id NOT IN ({BELOW_RESULTS})");
    db.query_row(&count, [], |row| row.get(0))
}

/// Removes them: how many there were.
pub(crate) fn remove_loose(db: &Transaction<'_>) -> rusqlite::Result<usize> {
    db.execute(&format!("DELETE FROM trees WHERE id NOT IN ({BELOW_RESULTS})"), [])
}

/// Rows of the table that were read or written before. A row never changes, and its number is not given again; it may be removed.
#[derive(Debug, Default)]
pub(crate) struct Trees(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    rows: HashMap<i64, Tree>,
    ids: HashMap<Tree, i64>,
}

/// A row: a layer, and what it lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Tree {
    parent: Option<i64>,
    layer: i64,
}

/// Rows that count once they are committed.
#[must_use]
pub(crate) struct Written(Vec<(i64, Tree)>);

impl Known {
    fn note(&mut self, id: i64, tree: Tree) {
        self.rows.insert(id, tree);
        self.ids.insert(tree, id);
    }
}

impl Trees {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The layers of a tree, bottom first. Of rows that are damaged they are others, which the seals of results tell.
    pub(crate) fn layers(&self, db: &Connection, tree: Option<i64>) -> rusqlite::Result<Vec<SnapshotId>> {
        let mut known = self.known();
        let mut select = db.prepare_cached("SELECT parent, snapshot FROM trees WHERE id = ?1")?;
        let mut layers = Vec::new();
        let mut next = tree;
        while let Some(id) = next {
            let tree = match known.rows.get(&id) {
                Some(tree) => *tree,
                None => {
                    let row = |row: &rusqlite::Row<'_>| Ok(Tree { parent: row.get(0)?, layer: row.get(1)? });
                    let Some(tree) = select.query_row([id], row).optional()? else { break };
                    known.note(id, tree);
                    tree
                }
            };
            layers.push(SnapshotId(tree.layer));
            // What a tree lies on came before it: whatever the rows say, this ends.
            next = tree.parent.filter(|parent| *parent < id);
        }
        layers.reverse();
        Ok(layers)
    }

    /// The tree of these layers, bottom first, and rows of it that were not known, to be noted ([`Self::note`]) when they are committed.
    pub(crate) fn find_or_write(
        &self,
        db: &Transaction<'_>,
        layers: &[SnapshotId],
    ) -> rusqlite::Result<(Option<i64>, Written)> {
        let (mut parent, found) = self.find_known(db, layers)?;
        let mut find = db.prepare_cached("SELECT id FROM trees WHERE parent IS ?1 AND snapshot = ?2")?;
        let mut insert = db.prepare_cached("INSERT INTO trees (parent, snapshot) VALUES (?1, ?2)")?;
        let mut written = Vec::new();
        for SnapshotId(layer) in &layers[found..] {
            let id = match find.query_row(params![parent, layer], |row| row.get(0)).optional()? {
                Some(id) => id,
                None => insert.insert(params![parent, layer])?,
            };
            written.push((id, Tree { parent, layer: *layer }));
            parent = Some(id);
        }
        Ok((parent, Written(written)))
    }

    /// The tree of the first layers that is known, if it is still there, and how many these are.
    fn find_known(
        &self,
        db: &Transaction<'_>,
        layers: &[SnapshotId],
    ) -> rusqlite::Result<(Option<i64>, usize)> {
        let known = self.known();
        let (mut parent, mut found) = (None, 0);
        for SnapshotId(layer) in layers {
            let Some(id) = known.ids.get(&Tree { parent, layer: *layer }) else { break };
            (parent, found) = (Some(*id), found + 1);
        }
        // What it lies on is there as long as it is.
        let is_there = match parent {
            None => true,
            Some(id) => db.prepare_cached("SELECT 1 FROM trees WHERE id = ?1")?.exists([id])?,
        };
        Ok(if is_there { (parent, found) } else { (None, 0) })
    }

    /// Notes rows that are in the database.
    pub(crate) fn note(&self, Written(rows): Written) {
        let mut known = self.known();
        rows.into_iter().for_each(|(id, tree)| known.note(id, tree));
    }
}

/// Makes trees of the rows that an older program has written, where there are some. What does not work now is tried again by whoever opens
/// the database next: until then those results are not found.
///
/// # Errors
/// When the database is damaged.
pub(crate) fn adopt_older(database: &Database) -> Result<(), CacheError> {
    let are_there = "SELECT EXISTS (SELECT 1 FROM record_layers)";
    if !database.read("look for results", |db| db.query_row(are_there, [], |row| row.get(0)))? {
        return Ok(());
    }
    match database.write("take over results", adopt) {
        Err(error @ (CacheError::Damaged { .. } | CacheError::Replaced { .. })) => Err(error),
        _ => Ok(()),
    }
}

/// The same in a transaction. Results stay what they are, under the same keys; one with a row that is damaged is removed.
pub(crate) fn adopt(db: &Transaction<'_>) -> rusqlite::Result<()> {
    let is_damaged = "typeof(snapshot) <> 'integer' OR snapshot NOT IN (SELECT id FROM snapshots)";
    let remove =
        format!("DELETE FROM records WHERE id IN (SELECT record FROM record_layers WHERE {is_damaged})");
    db.execute(&remove, [])?;
    let trees = Trees::default();
    let mut set = db.prepare("UPDATE records SET tree = ?2 WHERE id = ?1")?;
    let mut end = |record: i64, layers: &mut Vec<SnapshotId>| {
        let (tree, written) = trees.find_or_write(db, layers)?;
        trees.note(written);
        layers.clear();
        set.execute(params![record, tree])
    };
    let mut select = db.prepare(
        "SELECT record, snapshot FROM record_layers WHERE record IN (SELECT id FROM records WHERE tree IS NULL)
         ORDER BY record, position",
    )?;
    let mut rows = select.query([])?;
    let (mut record, mut layers) = (None, Vec::new());
    while let Some(row) = rows.next()? {
        let next = row.get(0)?;
        if let Some(record) = record.replace(next).filter(|record| *record != next) {
            end(record, &mut layers)?;
        }
        layers.push(SnapshotId(row.get(1)?));
    }
    if let Some(record) = record {
        end(record, &mut layers)?;
    }
    drop(rows);
    db.execute("DELETE FROM record_layers", []).map(drop)
}
