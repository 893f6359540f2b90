use std::fs::OpenOptions;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use rustix::fs::{FlockOperation, flock};

use crate::error::At;
use crate::layout::Layout;
use crate::lock::Lock;
use crate::upper::remove_file_if_there;
use crate::{CacheError, Opening, Replaced};

/// The tables. Their version is in the file's name; `user_version` only says that they are complete.
const SCHEMA: &str = include_str!("schema.sql");
const COMPLETE: i64 = 1;

/// Tables that older programs do not know, and its last one.
const ADDITIONS: &str = include_str!("additions.sql");
const TREES: &str = include_str!("trees.sql");
const ADDED: &str =
    "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'images' AND sql LIKE '%of_index%')
     AND EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'snapshots' AND sql LIKE '%seal%')
     AND EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'trees_gone')";

/// Columns that tables got later, with their types; older programs leave them empty, and are not disturbed by them. The last one of each name
/// is looked for by [`ADDED`].
const COLUMNS: [(&str, &str, &str); 6] = [
    ("chains", "seal", "BLOB"),
    ("versions", "seal", "BLOB"),
    ("packed", "seal", "BLOB"),
    ("snapshots", "seal", "BLOB"),
    ("images", "of_index", "TEXT"),
    ("records", "tree", "INTEGER REFERENCES trees (id)"),
];

/// How long to wait for a writer of another process. Transactions last milliseconds; a disk that stalls lasts longer.
const BUSY: Duration = Duration::from_secs(60);

/// Pages in the write-ahead log at which it is folded into the database: small, since the first process to open the
/// database reads the whole log.
const CHECKPOINT_PAGES: i64 = 256;

/// How much of the database a collection remembers: with SQLite's 2 MiB it would read most pages many times.
const CACHE_KIB: i64 = 64 << 10;

/// The database of the state directory: one connection, many threads, any number of processes.
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    connection: Mutex<Connection>,
    /// Which file it is: another one may get its name.
    identity: Option<Identity>,
    replaced: Option<Replaced>,
    /// What in it was found broken since.
    damaged: Mutex<Option<String>>,
}

impl Database {
    /// Opens the database, and creates it where nothing is known yet. One that is damaged is replaced by what can be read of it if that
    /// is wanted.
    ///
    /// # Errors
    /// [`CacheError::Damaged`] where it is not.
    pub(crate) fn open(layout: &Layout, boot: &str, opening: Opening) -> Result<Database, CacheError> {
        let path = layout.database();
        let failed = |action| move |error| database_error(action, &layout.database(), &error);
        let opened = |connection, identity, replaced| {
            let (path, connection) = (layout.database(), Mutex::new(connection));
            Database { path, connection, identity, replaced, damaged: Mutex::default() }
        };
        // Before, so that it is not taken for one that came meanwhile; of one that was not there then, nobody can say which it is.
        let before = identity(&path);
        match connect(&path, false) {
            Ok(Some(connection)) if before.is_some() && marked(&path).is_none() => {
                return Ok(opened(connection, before, None));
            }
            Ok(Some(connection)) => drop(connection),
            Ok(None) => {}
            Err(error) if is_broken(&error) || is_absent(&error) => {}
            Err(error) => return Err(failed("open")(error)),
        }
        // One process at a time makes the database: switching to the write-ahead log does not wait for others.
        let lock_path = layout.format();
        let lock = OpenOptions::new().read(true).write(true).open(&lock_path).at("open", &lock_path)?;
        flock(&lock, FlockOperation::LockExclusive).at("lock", &lock_path)?;
        let Some(why) = damage(layout).map_err(failed("open"))? else {
            let connection = connect(&path, true).map_err(failed("create"))?;
            let missing = || CacheError::Database {
                action: "create tables",
                path: layout.database(),
                message: "they are not there".into(),
            };
            return connection
                .map(|connection| opened(connection, identity(&path), None))
                .ok_or_else(missing);
        };
        if opening != Opening::Repair {
            return Err(CacheError::Damaged { path: layout.root().to_owned(), why });
        }
        let replaced = replace(layout, boot, &why)?;
        match connect(&path, false).map_err(failed("open"))? {
            Some(connection) => Ok(opened(connection, identity(&path), Some(replaced))),
            None => Err(CacheError::Damaged { path: layout.root().to_owned(), why }),
        }
    }

    /// One more connection, for long work: what others do with this one does not wait for it. It remembers more pages. References are not
    /// looked after: whoever removes a row here removes what refers to it, too.
    pub(crate) fn apart(&self) -> Result<Database, CacheError> {
        let identity = identity(&self.path);
        let opened = connect(&self.path, false).and_then(|connection| {
            let connection = connection.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
            connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
            connection.pragma_update(None, "foreign_keys", false)?;
            connection.pragma_update(None, "wal_autocheckpoint", 16 * CHECKPOINT_PAGES)?;
            Ok(connection)
        });
        let connection = Mutex::new(opened.map_err(|error| self.failed("open", &error))?);
        let path = self.path.clone();
        Ok(Database { path, connection, identity, replaced: None, damaged: Mutex::default() })
    }

    /// Whether this is still the database of the state directory, and not one that another process replaced since it was opened: both
    /// would give the same ids. For those who hold the session lock: while they do it is not replaced.
    ///
    /// # Errors
    /// [`CacheError::Replaced`] when it is not: the state directory has to be opened anew.
    pub(crate) fn check_in_place(&self) -> Result<(), CacheError> {
        match self.is_in_place() {
            true => Ok(()),
            false => Err(CacheError::Replaced { path: self.root() }),
        }
    }

    /// The same, and that nobody found it damaged.
    ///
    /// # Errors
    /// Also [`CacheError::Damaged`]: whoever opens it to repair it replaces it.
    pub(crate) fn check_usable(&self) -> Result<(), CacheError> {
        self.check_in_place()?;
        match marked(&self.path) {
            None => Ok(()),
            Some(why) => {
                self.note_damage(&why);
                Err(CacheError::Damaged { path: self.root(), why })
            }
        }
    }

    fn is_in_place(&self) -> bool {
        self.identity.is_some() && self.identity == identity(&self.path)
    }

    /// The state directory.
    fn root(&self) -> PathBuf {
        self.path.parent().unwrap_or(&self.path).to_owned()
    }

    /// Folds the log into the database, as far as nobody reads it.
    pub(crate) fn fold(&self) -> Result<(), CacheError> {
        self.read("fold the log of", |db| db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())))
    }

    /// What became of a damaged database when this one was opened.
    pub(crate) fn replaced(&self) -> Option<&Replaced> {
        self.replaced.as_ref()
    }

    /// What was found broken in it since it was opened. Whoever opens it next to repair it saves what can be read.
    pub(crate) fn damage(&self) -> Option<String> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that the database is not to be relied on.
    pub(crate) fn give_up(&self, why: &str) {
        self.note_damage(why);
        if self.is_in_place() {
            // Where even this cannot be written, the same will be found again.
            let _ = write_mark(&self.path, self.identity, why);
        }
    }

    fn note_damage(&self, why: &str) {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| why.to_owned());
    }

    /// The error in words. One that only a damaged file can have is noted, for this process and for those that open it later.
    fn failed(&self, action: &'static str, error: &rusqlite::Error) -> CacheError {
        if !is_broken(error) && !is_nonsense(error) {
            return database_error(action, &self.path, error);
        }
        let why = format!("{action}: {error}");
        self.give_up(&why);
        CacheError::Damaged { path: self.root(), why }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads. `action` is for error messages: "look up", "list images".
    pub(crate) fn read<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, CacheError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        work(&connection).map_err(|error| self.failed(action, &error))
    }

    /// The same with many statements, which all see one state: locks are taken once, and not for each.
    pub(crate) fn read_together<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, CacheError> {
        self.read(action, |db| {
            let state = db.unchecked_transaction()?;
            let result = work(&state)?;
            state.finish()?;
            Ok(result)
        })
    }

    /// Writes in one transaction, which takes effect as a whole or not at all.
    pub(crate) fn write<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, CacheError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        transact(&mut connection, work).map_err(|error| self.failed(action, &error))
    }

    /// The same; what was written is on the disk then, and nobody sees it before.
    pub(crate) fn write_durably<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, CacheError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let synchronous = |db: &Connection, level| db.pragma_update(None, "synchronous", level);
        let written = synchronous(&connection, "FULL").and_then(|()| transact(&mut connection, work));
        // Where it stays, later transactions only take longer.
        let _ = synchronous(&connection, "NORMAL");
        written.map_err(|error| self.failed(action, &error))
    }

    /// Gives freed pages back to the file system.
    pub(crate) fn vacuum(&self) -> Result<(), CacheError> {
        self.read("vacuum", |db| db.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE);"))
    }
}

fn transact<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let result = work(&transaction)?;
    transaction.commit()?;
    Ok(result)
}

/// A connection to a complete database; `None` when it has no tables and `create` is false.
fn connect(path: &Path, create: bool) -> rusqlite::Result<Option<Connection>> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if create {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    }
    let mut db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY)?;
    db.set_prepared_statement_cache_capacity(64);
    // Folding the log on every exit would cost two `fsync`s a command.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Otherwise a statement over a table with a partial index is compiled again for each value that it is given.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    db.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    let version = |db: &Connection| db.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
    if version(&db)? == COMPLETE && db.query_row(ADDED, [], |row| row.get(0))? {
        return Ok(Some(db));
    }
    if !create {
        return Ok(None);
    }
    db.pragma_update(None, "journal_mode", "WAL")?;
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if version(&transaction)? != COMPLETE {
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "user_version", COMPLETE)?;
    }
    add(&transaction)?;
    transaction.commit()?;
    Ok(Some(db))
}

/// Adds what came after version 1, as far as it is not there.
fn add(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(ADDITIONS)?;
    for (table, column, kind) in COLUMNS {
        let has_it = "SELECT EXISTS (SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2)";
        if !db.query_row(has_it, [table, column], |row| row.get(0))? {
            db.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {column} {kind}"))?;
        }
    }
    db.execute_batch(TREES)
}

#[cfg(test)]
pub(crate) fn create_tables(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(SCHEMA)?;
    add(db)
}

fn is_broken(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
        || is_ill_formed(error)
}

/// A statement that cannot be: all that this program has are right for its tables, so their description changed on the disk.
fn is_ill_formed(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqlInputError { .. } => true,
        rusqlite::Error::SqliteFailure(error, _) => error.extended_code == rusqlite::ffi::SQLITE_ERROR,
        _ => false,
    }
}

/// Values that no program has written: their bytes changed on the disk.
fn is_nonsense(error: &rusqlite::Error) -> bool {
    use rusqlite::Error;
    matches!(
        error,
        Error::InvalidColumnType(..)
            | Error::FromSqlConversionFailure(..)
            | Error::Utf8Error(..)
            | Error::IntegralValueOutOfRange(..)
    )
}

/// Where it is noted that a database is broken.
fn mark(database: &Path) -> PathBuf {
    with_suffix(database, ".damaged")
}

/// Notes what was found broken, and in which file: by the time that this is written another one may have taken its place, and nothing is
/// wrong with that.
fn write_mark(database: &Path, identity: Option<Identity>, why: &str) -> std::io::Result<()> {
    let why = why.lines().next().unwrap_or_default();
    // Not the device: its number may be another one after a start of the machine.
    let which = identity.map(|(_, inode)| format!("{INODE}{inode}\n")).unwrap_or_default();
    std::fs::write(mark(database), format!("{why}\n{which}"))
}

/// What stands before the number of the damaged file. Marks of older programs have none.
const INODE: &str = "inode ";

/// What was found broken in a database, by whomever.
fn marked(database: &Path) -> Option<String> {
    let mark = mark(database);
    if !mark.exists() {
        return None;
    }
    let text = std::fs::read_to_string(mark).unwrap_or_default();
    let mut lines = text.lines();
    let why = lines.next().unwrap_or_default();
    let which = lines.next().and_then(|line| line.strip_prefix(INODE)?.parse::<u64>().ok());
    if which.is_some() && which != identity(database).map(|(_, inode)| inode) {
        return None;
    }
    Some(if why.is_empty() { "it was found before" } else { why }.to_owned())
}

/// A file system and a file in it.
type Identity = (u64, u64);

fn identity(path: &Path) -> Option<Identity> {
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

fn is_absent(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen))
}

/// What is wrong with the database, if it is not just new.
fn damage(layout: &Layout) -> rusqlite::Result<Option<String>> {
    let path = layout.database();
    if let Some(why) = marked(&path) {
        return Ok(Some(why));
    }
    let missing = match connect(&path, false) {
        Ok(Some(_)) => return Ok(None),
        Ok(None) => "its tables are gone",
        Err(error) if is_absent(&error) => "it is gone",
        Err(error) if is_broken(&error) => return Ok(Some(error.to_string())),
        Err(error) => return Err(error),
    };
    // An older program has fewer tables, and before the first build there are none.
    Ok((!has_tables(&path) && layout.holds_something()).then(|| missing.to_owned()))
}

fn has_tables(path: &Path) -> bool {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags)
        .and_then(|db| db.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)))
        .is_ok_and(|version| version == COMPLETE)
}

/// How long to wait for builds that may be using the damaged database: they find the same and give it up.
const PATIENCE: Duration = Duration::from_secs(20);

/// So many damaged databases are kept.
const KEPT: usize = 2;

/// Makes a database of what can be read, puts it in the place of the damaged one, and keeps that beside it. Nobody may be using it: two
/// databases would give the same ids twice. A kill at any instant leaves one that is known to be damaged, or the new one.
fn replace(layout: &Layout, boot: &str, why: &str) -> Result<Replaced, CacheError> {
    let end = Instant::now() + PATIENCE;
    let exclusive = FlockOperation::NonBlockingLockExclusive;
    let alone = || Lock::attempt(crate::session::open_lock(layout)?, exclusive, &layout.session_lock());
    let _lock = loop {
        if let Some(lock) = alone()? {
            break lock;
        }
        if Instant::now() > end {
            let by = crate::holders::in_words(&layout.session_lock());
            let reason =
                format!("its database is damaged and in use by {by}; wait for that to end and try again");
            return Err(CacheError::Unusable { path: layout.root().to_owned(), reason });
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let path = layout.database();
    let (marked, fresh) = (mark(&path), with_suffix(&path, ".new"));
    write_mark(&path, identity(&path), why).at("write", &marked)?;
    for suffix in ["-wal", "-shm", ""] {
        let left = with_suffix(&fresh, suffix);
        remove_file_if_there(&left).at("remove", &left)?;
    }
    let begun = half_aside(layout)?;
    let source = begun.as_ref().filter(|aside| with_suffix(aside, "-wal").exists()).unwrap_or(&path).clone();
    let saved = || -> rusqlite::Result<Replaced> {
        let mut connection = connect(&fresh, true)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let saved = crate::salvage::copy(&source, &mut connection, layout, boot, why)?;
        // All of it is in one file then.
        connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE);")?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        Ok(saved)
    };
    let mut saved = saved().map_err(|error| database_error("save what can be read of", &path, &error))?;
    std::fs::File::open(&fresh).and_then(|file| file.sync_all()).at("write through", &fresh)?;
    saved.kept = set_aside(layout, begun)?;
    std::fs::rename(&fresh, &path).at("rename", &fresh)?;
    remove_file_if_there(&marked).at("remove", &marked)?;
    Ok(saved)
}

/// The other name that the damaged database has from a [`replace`] that was cut short. Its log may be there by now: what lies beside the
/// first name is then the log of whoever looked at it since, with nothing in it.
fn half_aside(layout: &Layout) -> Result<Option<PathBuf>, CacheError> {
    let Some(database) = identity(&layout.database()) else { return Ok(None) };
    Ok(damaged_databases(layout)?.into_iter().find(|path| identity(path) == Some(database)))
}

/// Gives the damaged files another name, where they stay until `prune --all`, or until more of them come. The database itself has both
/// names until the new one takes its place, so that it is found again with its log ([`half_aside`]), whatever name that has by then.
fn set_aside(layout: &Layout, begun: Option<PathBuf>) -> Result<Option<PathBuf>, CacheError> {
    let path = layout.database();
    let fresh = || with_suffix(&path, &format!("{DAMAGED}{:013}", to_millis(SystemTime::now())));
    let (aside, kept) = match begun {
        Some(aside) => (aside, true),
        None => {
            let aside = fresh();
            let kept = std::fs::hard_link(&path, &aside).is_ok();
            (aside, kept)
        }
    };
    let (log, log_aside) = (with_suffix(&path, "-wal"), with_suffix(&aside, "-wal"));
    if kept && !log_aside.exists() {
        match std::fs::rename(&log, &log_aside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).at("rename", &log);
            }
            _ => {}
        }
    }
    // The index of a log is made again from that.
    for left in [log, with_suffix(&path, "-shm")] {
        remove_file_if_there(&left).at("remove", &left)?;
    }
    let mut all = damaged_databases(layout)?;
    all.retain(|path| {
        !["-wal", "-shm"].iter().any(|end| path.as_os_str().as_encoded_bytes().ends_with(end.as_bytes()))
    });
    all.sort();
    for old in all.iter().rev().skip(KEPT) {
        for suffix in ["-wal", "-shm", ""] {
            let old = with_suffix(old, suffix);
            remove_file_if_there(&old).at("remove", &old)?;
        }
    }
    Ok(kept.then_some(aside))
}

/// How the names of damaged databases go on.
const DAMAGED: &str = ".damaged-";

/// The files of damaged databases.
pub(crate) fn damaged_databases(layout: &Layout) -> Result<Vec<PathBuf>, CacheError> {
    let begins = format!("cache-v1.db{DAMAGED}");
    let names = crate::layout::names_in(layout.root())?.into_iter().filter(|name| name.starts_with(&begins));
    Ok(names.map(|name| layout.root().join(name)).collect())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.to_owned().into_os_string();
    path.push(suffix);
    path.into()
}

fn database_error(action: &'static str, path: &Path, error: &rusqlite::Error) -> CacheError {
    CacheError::Database { action, path: path.to_owned(), message: error.to_string() }
}

/// Milliseconds since 1970, as the tables hold times.
pub(crate) fn to_millis(time: SystemTime) -> i64 {
    let millis = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    i64::try_from(millis).unwrap_or(i64::MAX)
}

pub(crate) fn from_millis(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}

/// A column of 32 bytes; anything else is a broken row.
pub(crate) fn bytes32(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<[u8; 32]> {
    row.get(column)
}

/// A size as SQLite holds it: all its integers are signed.
pub(crate) fn to_sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn from_sql(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Store, StoreOptions};

    #[test]
    fn a_mark_is_that_of_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Store::open(dir.path(), StoreOptions::default()).unwrap();
        let late = open();
        let database = &late.inner.database;
        database.give_up("for a test");
        assert!(open().replaced().is_some());
        assert!(!mark(&database.path).exists());
        // It was still in its place when this process looked, and replaced before it wrote.
        write_mark(&database.path, database.identity, "for a test").unwrap();
        assert_eq!(open().replaced(), None);
        open().session().unwrap().finish().unwrap();
        // What an older program wrote.
        std::fs::write(mark(&database.path), "for a test\n").unwrap();
        assert_eq!(open().replaced().unwrap().why, "for a test");
    }

    #[test]
    fn values_do_not_make_statements_anew() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let compiled = store.inner.database.read("count", |db| {
            // `versions` has partial indexes.
            let join =
                "SELECT base FROM snapshots LEFT JOIN versions ON versions.snapshot = id WHERE id = ?1";
            let mut statement = db.prepare(join)?;
            for id in 0..10 {
                assert!(!statement.exists([id])?);
            }
            Ok(statement.get_status(rusqlite::StatementStatus::RePrepare))
        });
        assert_eq!(compiled.unwrap(), 0);
    }
}
