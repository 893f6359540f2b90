use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use rustix::fs::{FlockOperation, flock};

use crate::CacheError;
use crate::error::At;
use crate::layout::Layout;

/// The tables. Their version is in the file's name; `user_version` only says that they are complete.
const SCHEMA: &str = include_str!("schema.sql");
const COMPLETE: i64 = 1;

/// Tables that older programs do not know, and its last one.
const ADDITIONS: &str = include_str!("additions.sql");
const ADDED: &str = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'sums')";

/// How long to wait for a writer of another process. Transactions last milliseconds; a disk that stalls lasts longer.
const BUSY: Duration = Duration::from_secs(60);

/// Pages in the write-ahead log at which it is folded into the database: small, since the first process to open the
/// database reads the whole log.
const CHECKPOINT_PAGES: i64 = 256;

/// The database of the state directory: one connection, many threads, any number of processes.
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    connection: Mutex<Connection>,
    replaced: bool,
    /// Whether something in it was found broken since.
    damaged: AtomicBool,
}

impl Database {
    /// Opens the database, creates it when it is not there, and replaces it when it is broken beyond reading.
    pub(crate) fn open(layout: &Layout) -> Result<Database, CacheError> {
        let path = layout.database();
        let failed = |action| move |error| database_error(action, &layout.database(), &error);
        let opened = |connection, replaced| {
            let (path, connection) = (layout.database(), Mutex::new(connection));
            Database { path, connection, replaced, damaged: AtomicBool::new(false) }
        };
        match connect(&path, false) {
            Ok(Some(connection)) if !mark(&path).exists() => return Ok(opened(connection, false)),
            Ok(Some(connection)) => drop(connection),
            Ok(None) => {}
            Err(error) if is_broken(&error) || is_absent(&error) => {}
            Err(error) => return Err(failed("open")(error)),
        }
        // One process at a time makes the database: switching to the write-ahead log does not wait for others.
        let lock_path = layout.format();
        let lock = OpenOptions::new().read(true).write(true).open(&lock_path).at("open", &lock_path)?;
        flock(&lock, FlockOperation::LockExclusive).at("lock", &lock_path)?;
        let (connection, replaced) = match mark(&path).exists() {
            true => (None, true),
            false => match connect(&path, true) {
                Ok(connection) => (connection, false),
                Err(error) if is_broken(&error) => (None, true),
                Err(error) => return Err(failed("create")(error)),
            },
        };
        let connection = match replaced {
            true => {
                set_aside(layout)?;
                connect(&path, true).map_err(failed("create"))?
            }
            false => connection,
        };
        match connection {
            Some(connection) => Ok(opened(connection, replaced)),
            None => Err(CacheError::Database {
                action: "create tables",
                path,
                message: "they are not there".into(),
            }),
        }
    }

    /// Whether a broken database was set aside when this one was opened.
    pub(crate) fn replaced(&self) -> bool {
        self.replaced
    }

    /// Whether it was found broken since it was opened. Whoever opens it next begins a new one.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }

    /// Notes that the database is not to be relied on: whoever opens it next begins a new one.
    pub(crate) fn give_up(&self, why: &str) {
        self.damaged.store(true, Ordering::Release);
        // Where even this cannot be written, the same will be found again.
        let _ = std::fs::write(mark(&self.path), format!("{why}\n"));
    }

    /// The error in words. One that only a damaged file can have is noted, for this process and for those that open it later.
    fn failed(&self, action: &'static str, error: &rusqlite::Error) -> CacheError {
        if is_broken(error) || is_nonsense(error) {
            self.give_up(&format!("{action}: {error}"));
        }
        database_error(action, &self.path, error)
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

    /// Writes in one transaction, which takes effect as a whole or not at all.
    pub(crate) fn write<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, CacheError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let run = || {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        run().map_err(|error| self.failed(action, &error))
    }

    /// Gives freed pages back to the file system.
    pub(crate) fn vacuum(&self) -> Result<(), CacheError> {
        self.read("vacuum", |db| db.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE);"))
    }
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
    transaction.execute_batch(ADDITIONS)?;
    transaction.commit()?;
    Ok(Some(db))
}

fn is_broken(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
}

/// Values that no program has written: their bytes changed on the disk.
fn is_nonsense(error: &rusqlite::Error) -> bool {
    use rusqlite::Error;
    matches!(
        error,
        Error::InvalidColumnType(..)
            | Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
    )
}

/// Where it is noted that a database is broken.
fn mark(database: &Path) -> PathBuf {
    let mut path = database.to_owned().into_os_string();
    path.push(".damaged");
    path.into()
}

fn is_absent(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen))
}

/// Moves a broken database out of the way. Nobody may be using it: two databases would give the same ids twice.
fn set_aside(layout: &Layout) -> Result<(), CacheError> {
    let lock = crate::session::open_lock(layout)?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        let reason = "its database is broken and a build is running; wait for it to end and try again";
        return Err(CacheError::Unusable { path: layout.root().to_owned(), reason: reason.to_owned() });
    }
    let path = layout.database();
    for suffix in ["-wal", "-shm", ""] {
        let mut from = path.clone().into_os_string();
        from.push(suffix);
        let mut to = path.clone().into_os_string();
        to.push(".broken");
        to.push(suffix);
        match std::fs::rename(&from, &to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).at("rename", Path::new(&from));
            }
            _ => {}
        }
    }
    match std::fs::remove_file(mark(&path)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).at("remove", &mark(&path)),
        _ => Ok(()),
    }
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
