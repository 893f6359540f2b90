use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::FlockOperation;

use crate::collect::Collector;
use crate::damage::Damage;
use crate::database::Database;
use crate::error::At;
use crate::layout::Layout;
use crate::leases::Leases;
use crate::lock::Lock;
use crate::scratch::Scratch;
use crate::session::{Session, Touched, USED_GRAIN_MILLIS, open_lock};
use crate::trees::{self, Trees};
use crate::written::Written;
use crate::{BlobStore, CacheError, OverlayTrial, Records, Replaced, Snapshot, SnapshotId, images, names};

/// How the trees that RUN writes to are made. The layers that result have one form.
#[derive(Debug, Clone, Default)]
pub enum Snapshotter {
    /// Overlay mounts: nothing is copied.
    #[default]
    Overlay,
    /// A full copy of the tree, compared afterwards: slow, for where overlay cannot be mounted.
    Copying,
    /// Overlay mounts, or copies where a try shows that overlay cannot be mounted.
    Tried(OverlayTrial),
}

/// What a [`Store`] must be told about its surroundings.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    /// How RUN's trees are made.
    pub snapshotter: Snapshotter,
    /// Whether overlayfs keeps its marks in `user.overlay.*` attributes (its mount option `userxattr`): true inside a user
    /// namespace, where `trusted.*` cannot be written.
    pub userxattr: bool,
    /// Whether owners are recorded beside the files ([`files::Owners::Recorded`]): true in a user namespace with a single id.
    pub recorded_owners: bool,
    /// Each version of a layer is written in full.
    pub separate_versions: bool,
    /// All of a layer is compressed anew.
    pub forget_chunks: bool,
    /// Files of layers are read and written, not shared or left to the kernel to copy.
    pub plain_copies: bool,
}

/// What may be done to open a state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Nothing: it must be there.
    Existing,
    /// Nothing either, but on a full disk the reserve is removed: for who is about to remove more.
    ToRemove,
    /// It is made when it is missing.
    New,
    /// A database that is damaged is replaced as well, by what can be read of it.
    Repair,
}

/// The state directory. Cheap to clone; usable from many threads, and by many processes at once.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
    blobs: BlobStore,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) layout: Layout,
    pub(crate) options: StoreOptions,
    /// Which run of the kernel this is (`proc(5)`, `random/boot_id`).
    pub(crate) boot: String,
    pub(crate) database: Database,
    /// What it holds of layers that lie on one another.
    pub(crate) trees: Trees,
    pub(crate) damage: Damage,
    pub(crate) leases: Leases,
    pub(crate) collector: Collector,
    pub(crate) scratch: Scratch,
    pub(crate) touched: Mutex<Touched>,
    /// Whether something was made that is perhaps not on the disk yet.
    pub(crate) dirty: AtomicBool,
    pub(crate) written: Written,
    /// Layers that were looked up ([`Store::known_snapshot`]).
    pub(crate) known: Mutex<HashMap<SnapshotId, Snapshot>>,
    /// Layers that this process has written, all of them.
    pub(crate) mine: Mutex<HashSet<SnapshotId>>,
}

impl Store {
    /// Opens the state directory `root`, creating what is missing, and replacing a damaged database by what can be read of it. Nothing is
    /// scanned.
    ///
    /// # Errors
    /// [`CacheError::Unusable`] when the directory is on a network or read-only file system, belongs to somebody else, holds
    /// other things, or was made by a newer version.
    pub fn open(root: &Path, options: StoreOptions) -> Result<Store, CacheError> {
        Store::open_as(root, options, Opening::Repair)
    }

    /// The same for those who want less.
    ///
    /// # Errors
    /// Also [`CacheError::Absent`] and [`CacheError::Damaged`], where it is not to be made or repaired.
    pub fn open_as(root: &Path, options: StoreOptions, opening: Opening) -> Result<Store, CacheError> {
        let boot_path = Path::new("/proc/sys/kernel/random/boot_id");
        let boot = fs::read_to_string(boot_path).at("read", boot_path)?.trim().to_owned();
        let layout = Layout::prepare(root, &options, opening)?;
        let mut database = Database::open(&layout, &boot, opening)?;
        let settled = forget_unsynced(&database, &layout, &boot).and_then(|()| trees::adopt_older(&database));
        if let Err(error) = settled {
            let is_to_repair = database.damage().is_some() && opening == Opening::Repair;
            if !is_to_repair && !matches!(error, CacheError::Replaced { .. }) {
                return Err(error);
            }
            drop(database);
            database = Database::open(&layout, &boot, opening)?;
        }
        let damage = Damage::default();
        if let Some(replaced) = database.replaced() {
            damage.note_sentence(replaced.to_string());
        }
        let scratch = Scratch::new(layout.scratch());
        let inner = Arc::new(Inner {
            layout,
            options,
            boot,
            database,
            trees: Trees::default(),
            damage,
            leases: Leases::default(),
            collector: Collector::default(),
            scratch,
            touched: Mutex::default(),
            dirty: AtomicBool::new(false),
            written: Written::default(),
            known: Mutex::default(),
            mine: Mutex::default(),
        });
        Ok(Store::of(inner))
    }

    /// Whether there is a state directory at a path: what [`Opening::Existing`] and [`Opening::ToRemove`] want.
    pub fn is_at(root: &Path) -> bool {
        crate::layout::is_state_directory(root)
    }

    pub(crate) fn of(inner: Arc<Inner>) -> Store {
        Store { blobs: BlobStore::new(inner.clone()), inner }
    }

    /// The directory, absolute.
    pub fn root(&self) -> &Path {
        self.inner.layout.root()
    }

    /// What became of the database, if it was found damaged when this was opened.
    pub fn replaced(&self) -> Option<&Replaced> {
        self.inner.database.replaced()
    }

    /// Announces a build. Waits for nobody but a repair. What killed processes left is removed in the background, and
    /// what earlier builds made is written through to the disk.
    ///
    /// # Errors
    /// [`CacheError::Replaced`] and [`CacheError::Damaged`] when the database was found damaged since the store was opened: it has to be
    /// opened anew.
    pub fn session(&self) -> Result<Session, CacheError> {
        crate::shared::forget_shared(&self.inner)?;
        Session::begin(self.inner.clone())
    }

    /// A path for something of this process alone, at which nothing stands yet. It is removed with the value, and after a kill by a
    /// later session.
    ///
    /// # Errors
    /// When the folder above it cannot be made.
    pub fn scratch(&self) -> Result<PathBuf, CacheError> {
        self.inner.scratch.fresh()
    }

    /// Blobs by digest.
    pub fn blobs(&self) -> &BlobStore {
        &self.blobs
    }

    /// Results of vertices.
    pub fn records(&self) -> Records {
        Records::new(self.inner.clone())
    }
}

impl Inner {
    /// Whether the database is still the one that was opened, and sound as far as anybody knows. For those who hold the session lock.
    pub(crate) fn check_usable(&self) -> Result<(), CacheError> {
        let result = self.database.check_usable();
        if matches!(result, Err(CacheError::Replaced { .. })) {
            self.damage
                .note_sentence("the cache database was damaged, and was replaced meanwhile".to_owned());
        }
        result
    }

    /// Something was made that a power failure could still take.
    pub(crate) fn made_something(&self) {
        self.dirty.store(true, Ordering::Release);
    }

    /// Notes that rows are in use, when what the database says is out of date.
    pub(crate) fn touch(&self, used: i64, now: i64, note: impl FnOnce(&mut Touched)) {
        if now - used > USED_GRAIN_MILLIS {
            note(&mut self.touched.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// After an unclean end of another boot, what had not been synced may be there in part. Its rows go; its files are
/// overwritten or pruned later.
fn forget_unsynced(database: &Database, layout: &Layout, boot: &str) -> Result<(), CacheError> {
    // Before and behind: what is this boot's own may be many rows.
    let there = "SELECT EXISTS (SELECT 1 FROM snapshots WHERE boot < ?1) OR EXISTS (SELECT 1 FROM snapshots WHERE boot > ?1)
                     OR EXISTS (SELECT 1 FROM blobs WHERE boot < ?1) OR EXISTS (SELECT 1 FROM blobs WHERE boot > ?1)";
    if !database.read("look for unfinished rows", |db| db.query_row(there, [boot], |row| row.get(0)))? {
        return Ok(());
    }
    let path = layout.session_lock();
    let _lock = Lock::wait(open_lock(layout)?, FlockOperation::LockShared, &path)?;
    // Another process may have forgotten all of it meanwhile, in another database.
    database.check_usable()?;
    database.write("forget what was lost", |db| {
        db.execute("DELETE FROM snapshots WHERE boot IS NOT NULL AND boot <> ?1", [boot])?;
        db.execute("DELETE FROM blobs WHERE boot IS NOT NULL AND boot <> ?1", [boot])?;
        images::forget_lost_indexes(db)?;
        db.execute(
            "DELETE FROM images WHERE (name, platform) IN
                 (SELECT name, platform FROM image_blobs WHERE digest NOT IN (SELECT digest FROM blobs))",
            [],
        )?;
        names::write(db, layout)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_after_a_crash_is_forgotten_in_the_present_database() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Store::open(dir.path(), StoreOptions::default()).unwrap();
        let late = open();
        let active = late.begin(&[]).unwrap();
        let changes = active.changes().unwrap();
        active.commit(&changes).unwrap();
        late.inner.database.give_up("for a test");
        assert!(open().replaced().is_some());
        let Inner { database, layout, .. } = &*late.inner;
        fs::write(layout.image_names(), "the list of the new one").unwrap();
        let forgotten = forget_unsynced(database, layout, "another boot");
        assert!(matches!(forgotten, Err(CacheError::Replaced { .. })), "{forgotten:?}");
        assert_eq!(fs::read_to_string(layout.image_names()).unwrap(), "the list of the new one");
    }
}
