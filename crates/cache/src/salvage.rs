//! What can be read of a database that is damaged, in a new one.
//!
//! Each table is read row by row, from its beginning and, where that comes to a page that is broken, from its end. A row counts when all
//! its columns are of the form that this program writes, and what it refers to was saved as well; a result only when its seal is right. What
//! decides about bytes without such a seal is not taken at its word (`LEFT_OUT`). Names of images come from the list that is kept of them
//! ([`crate::names`]), and count when their blobs are what they should be.

use std::fs;
use std::path::{Path, PathBuf};

use hash::CacheKey;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, Transaction, params_from_iter};

use crate::database::bytes32;
use crate::layout::Layout;
use crate::names;
use crate::trees::{self, Trees};

/// A database that was damaged, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// What was wrong with it.
    pub why: String,
    /// Where it lies now; `None` when there was nothing left of it.
    pub kept: Option<PathBuf>,
    /// Images whose names were saved.
    pub images: u64,
    /// Names of images whose manifest or layers are gone.
    pub lost: Vec<String>,
    /// Cached steps that were saved.
    pub records: u64,
}

impl std::fmt::Display for Replaced {
    /// A sentence without a full stop.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = |count: u64, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
        write!(
            f,
            "the cache database was damaged ({}): {} and {} were saved, what else it held was thrown away",
            self.why,
            number(self.images, "image"),
            number(self.records, "cached step")
        )?;
        if !self.lost.is_empty() {
            write!(f, "; lost with their blobs: {}", self.lost.join(", "))?;
        }
        match &self.kept {
            Some(path) => write!(f, "; it is kept as {}", path.display()),
            None => Ok(()),
        }
    }
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    Integer,
    Text,
    /// Of any length.
    Bytes,
    /// 32 bytes.
    Digest,
}

/// A column, and whether it may be empty.
type Column = (&'static str, Form, bool);

struct Table {
    name: &'static str,
    columns: &'static [Column],
    /// What its rows are sorted by on the disk.
    order: &'static [&'static str],
}

/// Indexes that hold all columns of a table: what cannot be read of that is perhaps there. The layers of a base image, on which all else
/// stands, have their rows on one page.
const COVERING: &[(&str, &str, &[&str])] = &[("trees", "trees_parent", &["parent", "snapshot"])];

const fn has(name: &'static str, form: Form) -> Column {
    (name, form, false)
}

const fn may_have(name: &'static str, form: Form) -> Column {
    (name, form, true)
}

use Form::{Bytes, Digest, Integer, Text};

/// Tables that are not copied, and why.
#[cfg(test)]
const LEFT_OUT: &[(&str, &str)] = &[
    ("images", "comes from the list of names"),
    ("image_blobs", "comes from the manifests of those"),
    ("chains", "another layer would be taken for an image's; it is unpacked and verified again"),
    ("packed", "another blob would be exported as a layer; it is packed again"),
    ("downloads", "another file would be taken for what a server has; it is asked for it again"),
];

/// All but those left out; those that others refer to first.
const TABLES: &[Table] = &[
    Table {
        name: "snapshots",
        columns: &[
            has("id", Integer),
            has("changes", Digest),
            has("entries", Integer),
            has("size", Integer),
            has("root", Integer),
            has("created", Integer),
            has("used", Integer),
            may_have("boot", Text),
            may_have("seal", Bytes),
        ],
        order: &["id"],
    },
    Table {
        name: "blobs",
        columns: &[
            has("id", Integer),
            has("digest", Digest),
            has("size", Integer),
            has("created", Integer),
            may_have("boot", Text),
        ],
        order: &["id"],
    },
    Table {
        name: "trees",
        columns: &[has("id", Integer), may_have("parent", Integer), has("snapshot", Integer)],
        order: &["id"],
    },
    Table {
        name: "records",
        columns: &[
            has("id", Integer),
            has("content", Digest),
            has("description", Text),
            has("started", Integer),
            has("duration", Integer),
            has("used", Integer),
            may_have("tree", Integer),
        ],
        order: &["id"],
    },
    Table {
        name: "record_layers",
        columns: &[has("record", Integer), has("position", Integer), has("snapshot", Integer)],
        order: &["record", "position"],
    },
    Table {
        name: "keys",
        columns: &[has("key", Digest), has("record", Integer), has("seal", Bytes)],
        order: &["key", "record"],
    },
    Table {
        name: "record_origins",
        columns: &[has("record", Integer), has("origin", Text)],
        order: &["record", "origin"],
    },
    Table {
        name: "kept",
        columns: &[
            has("id", Integer),
            has("snapshot", Integer),
            has("layers", Text),
            has("name", Text),
            has("spec", Text),
            has("created", Integer),
            has("expires", Integer),
        ],
        order: &["id"],
    },
    Table {
        name: "steps",
        columns: &[has("step", Digest), has("parts", Bytes), has("used", Integer)],
        order: &["step"],
    },
    Table {
        name: "chunks",
        columns: &[
            has("key", Digest),
            has("blob", Digest),
            has("start", Integer),
            has("length", Integer),
            has("seal", Bytes),
        ],
        order: &["key"],
    },
    Table {
        name: "versions",
        columns: &[
            has("snapshot", Integer),
            may_have("identity", Bytes),
            may_have("place", Bytes),
            may_have("base", Integer),
            may_have("own", Integer),
            may_have("seal", Bytes),
        ],
        order: &["snapshot"],
    },
    Table { name: "sums", columns: &[has("snapshot", Integer), has("digest", Digest)], order: &["snapshot"] },
    Table {
        name: "holdings",
        columns: &[has("snapshot", Integer), has("digest", Digest)],
        order: &["snapshot"],
    },
    Table {
        name: "pins",
        columns: &[has("kept", Integer), has("snapshot", Integer)],
        order: &["kept", "snapshot"],
    },
];

/// Rows that lead nowhere, and first those that nothing vouches for: a version over another layer than its own would be another tree. One
/// whose row is gone is not found, since it does not lie where full layers do.
const LOOSE: &str = "
    DELETE FROM snapshots WHERE id IN (SELECT snapshot FROM versions WHERE base IS NOT NULL);
    DELETE FROM versions WHERE snapshot NOT IN (SELECT id FROM snapshots);
    DELETE FROM records WHERE tree IS NOT NULL AND tree NOT IN (
        WITH RECURSIVE whole (id) AS (
            SELECT id FROM trees WHERE parent IS NULL AND snapshot IN (SELECT id FROM snapshots)
            UNION SELECT trees.id FROM whole JOIN trees ON trees.parent = whole.id WHERE snapshot IN (SELECT id FROM snapshots)
        )
        SELECT id FROM whole
    );
    DELETE FROM keys WHERE record NOT IN (SELECT id FROM records);
    DELETE FROM records WHERE id NOT IN (SELECT record FROM keys);
    DELETE FROM record_origins WHERE record NOT IN (SELECT id FROM records);
    DELETE FROM kept WHERE snapshot NOT IN (SELECT id FROM snapshots) OR NOT json_valid(layers);
    DELETE FROM kept WHERE id IN (SELECT kept FROM pins WHERE snapshot NOT IN (SELECT id FROM snapshots))
        OR EXISTS (SELECT 1 FROM json_each(layers) WHERE value NOT IN (SELECT id FROM snapshots));
    DELETE FROM pins WHERE kept NOT IN (SELECT id FROM kept);
    DELETE FROM sums WHERE snapshot NOT IN (SELECT id FROM snapshots);
    DELETE FROM holdings WHERE snapshot NOT IN (SELECT id FROM snapshots);";

/// Copies what can be read of `old` into `new`, whose tables are there and empty.
pub(crate) fn copy(
    old: &Path,
    new: &mut Connection,
    layout: &Layout,
    boot: &str,
    why: &str,
) -> rusqlite::Result<Replaced> {
    let source =
        Connection::open_with_flags(old, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX);
    // Not even its first page can be read: then there are only the names of images.
    let source = source.ok().filter(|source| prepare(source).is_ok());
    new.pragma_update(None, "foreign_keys", false)?;
    let transaction = new.transaction()?;
    let mut listed = Vec::new();
    if let Some(source) = &source {
        for table in TABLES {
            copy_table(source, &transaction, table)?;
        }
        listed = names::in_table(source);
        keep_numbers(source, &transaction)?;
    }
    skip_numbers(&transaction, layout)?;
    trees::adopt(&transaction)?;
    drop_unsealed(&transaction)?;
    for broken in crate::seals::broken(&transaction)? {
        broken.remove.execute(&transaction)?;
    }
    transaction.execute_batch(LOOSE)?;
    trees::remove_loose(&transaction)?;
    let (images, lost) = names::restore(&transaction, layout, boot, listed)?;
    crate::evictions::note_loss(&transaction)?;
    let records = transaction.query_row("SELECT count(*) FROM records", [], |row| row.get::<_, i64>(0))?;
    transaction.commit()?;
    new.pragma_update(None, "foreign_keys", true)?;
    Ok(Replaced {
        why: why.to_owned(),
        kept: None,
        images,
        lost,
        records: crate::database::from_sql(records),
    })
}

/// What is folded into a damaged database is lost, so nothing is.
fn prepare(source: &Connection) -> rusqlite::Result<()> {
    source.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    source.pragma_update(None, "query_only", true)?;
    source.pragma_update(None, "cell_size_check", true)?;
    source.pragma_update(None, "trusted_schema", false)?;
    // Where the description of one table is nonsense, those before it can be read all the same: by the second statement that is tried.
    source.pragma_update(None, "writable_schema", true)?;
    let _ = source.query_row("SELECT count(*) FROM snapshots", [], |_| Ok(()));
    source.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
}

/// Copies the rows that can be read. One that cannot be written is an error; one that cannot be read ends the turn.
fn copy_table(source: &Connection, new: &Transaction<'_>, table: &Table) -> rusqlite::Result<()> {
    let known = columns_of(source, table.name);
    let columns: Vec<&str> = table.columns.iter().map(|(name, ..)| *name).collect();
    let selected = name_in(&known, table);
    let places: Vec<&str> = columns.iter().map(|_| "?").collect();
    let insert = format!(
        "INSERT OR IGNORE INTO {} ({}) VALUES ({})",
        table.name,
        columns.join(", "),
        places.join(", ")
    );
    let mut insert = new.prepare(&insert)?;
    let place = |name: &&str| columns.iter().position(|column| column == name);
    let covering = COVERING.iter().filter(|(of, ..)| *of == table.name);
    let ways = std::iter::once(("NOT INDEXED".to_owned(), table.order))
        .chain(covering.map(|(_, index, order)| (format!("INDEXED BY {index}"), *order)));
    for ((way, order), direction) in ways.flat_map(|way| [(way.clone(), "ASC"), (way, "DESC")]) {
        let ordered = order.iter().filter_map(place);
        let order: Vec<String> = ordered.map(|place| format!("{} {direction}", selected[place])).collect();
        let select =
            format!("SELECT {} FROM {} {way} ORDER BY {}", selected.join(", "), table.name, order.join(", "));
        // An older program knew fewer tables.
        let Ok(mut select) = source.prepare(&select) else { return Ok(()) };
        let Ok(mut rows) = select.query([]) else { return Ok(()) };
        loop {
            match rows.next() {
                Ok(Some(row)) => {
                    if let Some(values) = values(row, table.columns) {
                        insert.execute(params_from_iter(values))?;
                    }
                }
                Ok(None) => return Ok(()),
                Err(_) => break,
            }
        }
    }
    Ok(())
}

/// What the columns of a table are called in the damaged database. A name that changed on the disk is that of the column in this place; an
/// older program knew fewer columns, and left empty what it did not know.
fn name_in(known: &[String], table: &Table) -> Vec<String> {
    let name = |(place, (name, _, optional)): (usize, &Column)| {
        let is_known = |name: &str| known.iter().any(|known| known == name);
        let is_ours = |known: &String| table.columns.iter().any(|(name, ..)| name == known);
        match known.get(place) {
            _ if is_known(name) => (*name).to_owned(),
            Some(here) if !is_ours(here) => format!("\"{}\"", here.replace('"', "\"\"")),
            _ if *optional => "NULL".to_owned(),
            _ => (*name).to_owned(),
        }
    };
    table.columns.iter().enumerate().map(name).collect()
}

fn columns_of(db: &Connection, table: &str) -> Vec<String> {
    let columns = || -> rusqlite::Result<_> {
        db.prepare("SELECT name FROM pragma_table_info(?1)")?.query_map([table], |row| row.get(0))?.collect()
    };
    columns().unwrap_or_default()
}

/// The row, if it is one that this program could have written.
fn values(row: &rusqlite::Row<'_>, columns: &[Column]) -> Option<Vec<Value>> {
    let value = |(index, (_, form, optional)): (usize, &Column)| {
        let value: Value = row.get(index).ok()?;
        let fits = match (&value, form) {
            (Value::Null, _) => *optional,
            (Value::Integer(_), Form::Integer)
            | (Value::Text(_), Form::Text)
            | (Value::Blob(_), Form::Bytes) => true,
            (Value::Blob(bytes), Form::Digest) => bytes.len() == 32,
            _ => false,
        };
        fits.then_some(value)
    };
    columns.iter().enumerate().map(value).collect()
}

/// Ids are never given twice, also not those of rows that are gone.
fn keep_numbers(source: &Connection, new: &Transaction<'_>) -> rusqlite::Result<()> {
    let Ok(mut select) = source.prepare("SELECT name, seq FROM sqlite_sequence") else { return Ok(()) };
    let Ok(mut rows) = select.query([]) else { return Ok(()) };
    while let Ok(Some(row)) = rows.next() {
        if let (Ok(name), Ok(last)) = (row.get::<_, String>(0), row.get::<_, i64>(1)) {
            raise(new, &name, last)?;
        }
    }
    Ok(())
}

/// A layer's number is not that of a directory or log that a row was lost for.
fn skip_numbers(new: &Transaction<'_>, layout: &Layout) -> rusqlite::Result<()> {
    for dir in [layout.snapshots(), layout.versions(), layout.logs()] {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        if let Some(last) = names.filter_map(|name| name.split('.').next()?.parse::<i64>().ok()).max() {
            raise(new, "snapshots", last)?;
        }
    }
    Ok(())
}

/// The largest number that a damaged page is believed.
const LARGEST_ID: i64 = 1 << 48;

fn raise(new: &Transaction<'_>, table: &str, last: i64) -> rusqlite::Result<()> {
    if !(1..LARGEST_ID).contains(&last) {
        return Ok(());
    }
    let raised =
        new.execute("UPDATE sqlite_sequence SET seq = max(seq, ?2) WHERE name = ?1", (table, last))?;
    if raised == 0 {
        let known = "INSERT INTO sqlite_sequence (name, seq)
                     SELECT ?1, ?2 WHERE ?1 IN (SELECT name FROM sqlite_schema WHERE sql LIKE '%AUTOINCREMENT%')";
        new.execute(known, (table, last))?;
    }
    Ok(())
}

fn drop_unsealed(new: &Transaction<'_>) -> rusqlite::Result<()> {
    let keys: Vec<[u8; 32]> = new
        .prepare("SELECT DISTINCT key FROM keys")?
        .query_map([], |row| bytes32(row, 0))?
        .collect::<Result<_, _>>()?;
    let trees = Trees::default();
    for key in keys {
        for id in crate::records::broken(new, &trees, &CacheKey::from_bytes(key))? {
            new.execute("DELETE FROM records WHERE id = ?1", [id])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_table_of_an_older_program_is_copied() {
        let tables = || {
            let db = Connection::open_in_memory().unwrap();
            crate::database::create_tables(&db).unwrap();
            db.pragma_update(None, "foreign_keys", false).unwrap();
            db
        };
        let (old, mut new) = (tables(), tables());
        old.execute_batch(
            "ALTER TABLE versions DROP COLUMN seal; INSERT INTO versions (snapshot, identity) VALUES (3, x'07')",
        )
        .unwrap();
        let copied = new.transaction().unwrap();
        for table in TABLES {
            copy_table(&old, &copied, table).unwrap();
        }
        let row = "SELECT snapshot, identity, seal FROM versions";
        let row = copied.query_row(row, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        assert_eq!(row, Ok((3, vec![7_u8], None::<Vec<u8>>)));
    }

    #[test]
    fn a_column_whose_name_changed_is_found_by_its_place() {
        let (keys, known) =
            (TABLES.iter().find(|table| table.name == "keys").unwrap(), ["key", "recorf", "se\"l"]);
        assert_eq!(name_in(&known.map(str::to_owned), keys), ["key", "\"recorf\"", "\"se\"\"l\""]);
        assert_eq!(name_in(&["key", "record", "seal"].map(str::to_owned), keys), ["key", "record", "seal"]);
    }

    /// A table that is forgotten here costs whatever rests on it.
    #[test]
    fn every_table_and_column_is_known() {
        let db = Connection::open_in_memory().unwrap();
        crate::database::create_tables(&db).unwrap();
        let list = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
        let all: BTreeSet<String> =
            db.prepare(list).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let left_out = LEFT_OUT.iter().map(|(name, why)| {
            assert!(!why.is_empty());
            *name
        });
        let known: Vec<&str> = TABLES.iter().map(|table| table.name).chain(left_out).collect();
        assert_eq!(known.len(), all.len(), "each in one place");
        assert_eq!(known.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(), all);
        for table in TABLES {
            let columns: BTreeSet<String> = columns_of(&db, table.name).into_iter().collect();
            let known: BTreeSet<String> = table.columns.iter().map(|(name, ..)| (*name).to_owned()).collect();
            assert_eq!(known, columns, "{}", table.name);
        }
    }
}
