use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::SystemTime;

use files::{Attributes, FileTree, Owners, TreeError};
use hash::ContentDigest;
use rusqlite::{OptionalExtension, Transaction, params};
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use crate::copying::FullCopy;
use crate::database::{from_millis, to_millis, to_sql};
use crate::error::At;
use crate::layout::{create_dir, owners_of};
use crate::leases::Bucket;
use crate::remove::remove_tree;
use crate::seals;
use crate::store::{Inner, Snapshotter};
use crate::upper::{Marks, UpperDir, remove_file_if_there};
use crate::versions::Version;
use crate::{CacheError, Changes, Entries, Holding, SnapshotId, Store, TreeView, sums};

/// A committed layer: a directory that never changes.
#[derive(Debug, Clone)]
pub struct Snapshot {
    id: SnapshotId,
    /// Top first: of a version of another layer its own, and that one's.
    dirs: Arc<[LayerDir]>,
    marks: Marks,
    describes_root: bool,
    changes: Changes,
    created: SystemTime,
}

/// One of its directories.
#[derive(Debug)]
struct LayerDir {
    path: PathBuf,
    owners: Owners,
    /// What stands in its root, whiteouts too, once that was asked for; `None` where it is too much to keep, or cannot be read.
    names: OnceLock<Option<HashSet<OsString>>>,
}

/// As many names are kept of a directory's root: most layers of long chains have one or two.
const MOST_NAMES: usize = 32;

impl LayerDir {
    fn names(&self) -> Option<&HashSet<OsString>> {
        let read = || {
            let listed: io::Result<HashSet<OsString>> = fs::read_dir(&self.path).and_then(|entries| {
                entries.take(MOST_NAMES + 1).map(|entry| Ok(entry?.file_name())).collect()
            });
            listed.ok().filter(|names| names.len() <= MOST_NAMES)
        };
        self.names.get_or_init(read).as_ref()
    }
}

/// The kernel mounts no overlay of more directories (`OVL_MAX_STACK`, fs/overlayfs/params.h): what has more is copied.
const MOST_LOWER: usize = 500;

impl Snapshot {
    /// Its name.
    pub fn id(&self) -> SnapshotId {
        self.id
    }

    /// The directories that make it up, top first, in the form of an overlay's upper directories: one, or two where it is a version of
    /// another layer.
    pub fn dirs(&self) -> impl Iterator<Item = &Path> {
        self.dirs.iter().map(|dir| dir.path.as_path())
    }

    /// What it amounts to, as the caller of [`ActiveSnapshot::commit`] said.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// When it was committed.
    pub fn created(&self) -> SystemTime {
        self.created
    }

    /// Reads what the layer says, for packing.
    pub fn entries(&self) -> Result<Entries, CacheError> {
        Entries::read(self.open()?, self.describes_root)
    }

    /// Top first.
    fn open(&self) -> Result<Vec<UpperDir>, TreeError> {
        (0..self.dirs.len()).map(|depth| self.open_dir(depth)).collect()
    }

    /// The directory that is the `depth`th from the top.
    pub(crate) fn dir(&self, depth: usize) -> &Path {
        &self.dirs[depth].path
    }

    /// The same, opened.
    pub(crate) fn open_dir(&self, depth: usize) -> Result<UpperDir, TreeError> {
        let LayerDir { path, owners, .. } = &self.dirs[depth];
        UpperDir::open(path, owners, self.marks)
    }

    /// Whether something may stand under `name` in the root of a directory: every look-up goes through all layers of a chain, so it should
    /// not take a system call each.
    pub(crate) fn may_have(&self, depth: usize, name: &OsStr) -> bool {
        self.dirs[depth].names().is_none_or(|names| names.contains(name))
    }

    /// Whether the root directory's mode, owner and attributes are the layer's own doing.
    pub(crate) fn describes_root(&self) -> bool {
        self.describes_root
    }
}

impl Store {
    /// A committed layer, `None` when it is not, or no longer, here.
    pub fn snapshot(&self, id: SnapshotId) -> Result<Option<Snapshot>, CacheError> {
        let found = self.find_snapshot(id)?;
        match found {
            Some(_) => self.inner.leases.saw_layer(id),
            // Another process has thrown it away, and whoever counted on it has to begin again.
            None if self.inner.leases.has_lost_layer(id) => self.inner.damage.note(format!("layer {id}")),
            None => {}
        }
        Ok(found)
    }

    /// The same as this process found it before, if that is so and it still stands: what each step of a chain asks of all layers below it.
    pub(crate) fn known_snapshot(&self, id: SnapshotId) -> Result<Option<Snapshot>, CacheError> {
        let known = || self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known().get(&id).cloned();
        if found.is_some() && self.inner.is_there(id)? {
            return Ok(found);
        }
        let found = self.snapshot(id)?;
        match &found {
            Some(snapshot) => known().insert(id, snapshot.clone()),
            None => known().remove(&id),
        };
        Ok(found)
    }

    fn find_snapshot(&self, id: SnapshotId) -> Result<Option<Snapshot>, CacheError> {
        if !self.inner.is_there(id)? {
            return Ok(None);
        }
        let row = self.inner.database.read("look up a snapshot", |db| {
            db.prepare_cached(
                "SELECT changes, entries, size, root, created, used,
                        versions.base, versions.seal, snapshots.seal
                 FROM snapshots LEFT JOIN versions ON versions.snapshot = id WHERE id = ?1",
            )?
            .query_row([id.0], |row| {
                let (changes, root, created) = (seals::changes(row, 0)?, row.get(3)?, row.get(4)?);
                let base: Option<i64> = row.get(6)?;
                let is_intact = seals::is_intact(row.get_ref(7)?, seals::of_version(id.0, base))
                    && seals::is_intact(row.get_ref(8)?, seals::of_layer(id.0, &changes, root, created));
                Ok((changes, root, created, row.get(5)?, base.map(SnapshotId), is_intact))
            })
            .optional()
        })?;
        let Some((changes, describes_root, created, used, base, is_intact)) = row else { return Ok(None) };
        if !is_intact {
            self.inner.forget_lost(id, id)?;
            return Ok(None);
        }
        self.inner.touch(used, to_millis(SystemTime::now()), |touched| {
            touched.snapshots.insert(id.0);
        });
        Ok(Some(Snapshot {
            id,
            dirs: self.inner.dirs_of(id, base),
            marks: self.inner.marks(),
            describes_root,
            changes,
            created: from_millis(created),
        }))
    }

    /// The same without forgetting a layer whose files are gone.
    pub(crate) fn stored_snapshot(&self, id: SnapshotId) -> Result<Option<Snapshot>, CacheError> {
        if self.stands(id)? { self.snapshot(id) } else { Ok(None) }
    }

    /// Forgets a layer that is not what was written, and notes that; with it what it is a version of, since either may be damaged.
    pub fn throw_away(&self, layer: &Snapshot) -> Result<(), CacheError> {
        let base = self.inner.base_of(layer.id())?;
        self.inner.forget_lost(layer.id(), base.unwrap_or(layer.id()))
    }

    /// Whether a layer's directories are there.
    pub(crate) fn stands(&self, id: SnapshotId) -> Result<bool, CacheError> {
        let layout = &self.inner.layout;
        if layout.snapshot(id).is_dir() {
            return Ok(true);
        }
        Ok(layout.version(id).is_dir()
            && self.inner.base_of(id)?.is_some_and(|base| layout.snapshot(base).is_dir()))
    }

    /// Begins a layer over `parents` (bottom first; none when they do not matter). The caller writes it into
    /// [`ActiveSnapshot::dir`], whose root directory begins as the parents have it.
    pub fn begin(&self, parents: &[SnapshotId]) -> Result<ActiveSnapshot, CacheError> {
        let below = TreeView::new(self, parents)?;
        let folder = Folder::create(&self.inner)?;
        let upper = folder.0.join("upper");
        create_dir(&upper, 0o755)?;
        let root_before = below.root_attributes()?;
        let owners = self.inner.owners_beside(&folder.0.join("owners"));
        crate::copying::set_attributes(&upper, &root_before, &owners, self.inner.marks())?;
        Ok(ActiveSnapshot {
            store: self.clone(),
            folder,
            upper,
            owners,
            below,
            has_parents: !parents.is_empty(),
            root_before,
            version: None,
            origin: None,
            hashed: OnceLock::new(),
            holding: None,
        })
    }

    /// Begins a layer that a process writes by working in the whole tree of `parents` (bottom first).
    pub fn begin_root(&self, parents: &[SnapshotId]) -> Result<ActiveRoot, CacheError> {
        let snapshot = self.begin(parents)?;
        let mounts = match &self.inner.options.snapshotter {
            Snapshotter::Overlay => true,
            Snapshotter::Copying => false,
            Snapshotter::Tried(trial) => trial.succeeds(),
        };
        let is_overlay =
            mounts && snapshot.below.dirs().count() <= MOST_LOWER && self.inner.marks().are_overlays();
        let (form, copy) = match is_overlay {
            true => (snapshot.overlay_form()?, None),
            false => {
                let root = snapshot.folder.0.join("root");
                let copy = FullCopy::make(
                    &snapshot.below,
                    &root,
                    &snapshot.owners,
                    self.inner.marks(),
                    &snapshot.folder.0,
                )?;
                (RootForm::Directory(root), Some(copy))
            }
        };
        Ok(ActiveRoot { snapshot, form, copy })
    }

    /// Why the trees of RUN are copies, where overlay was tried for one and could not be mounted.
    pub fn overlay_refusal(&self) -> Option<&str> {
        match &self.inner.options.snapshotter {
            Snapshotter::Tried(trial) => trial.refusal(),
            Snapshotter::Overlay | Snapshotter::Copying => None,
        }
    }
}

impl Inner {
    pub(crate) fn marks(&self) -> Marks {
        self.layout.marks()
    }

    /// Whether this process wrote all of a layer.
    pub(crate) fn has_written(&self, id: SnapshotId) -> bool {
        self.mine.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    pub(crate) fn owners_beside(&self, sidecar: &Path) -> Owners {
        if self.options.recorded_owners {
            Owners::Recorded { sidecar: sidecar.to_owned() }
        } else if self.options.userxattr || !self.marks().are_overlays() {
            Owners::Mapped
        } else {
            Owners::Real
        }
    }

    /// The directories of a layer that lies over `base`, top first.
    fn dirs_of(&self, id: SnapshotId, base: Option<SnapshotId>) -> Arc<[LayerDir]> {
        let dirs = match base {
            None => vec![self.layout.snapshot(id)],
            Some(base) => vec![self.layout.version(id), self.layout.snapshot(base)],
        };
        let layer_dir = |path: PathBuf| {
            let owners = self.owners_beside(&owners_of(&path));
            LayerDir { path, owners, names: OnceLock::new() }
        };
        dirs.into_iter().map(layer_dir).collect()
    }

    /// Whether the layer's directories stand. A missing one is forgotten, and with it every record that has it.
    pub(crate) fn is_there(&self, id: SnapshotId) -> Result<bool, CacheError> {
        // Leased before anybody looks whether it is there: what is not leased may be removed meanwhile.
        self.leases.hold(&self.layout, Bucket::of_layer(id))?;
        if is_directory(&self.layout.snapshot(id))? {
            return Ok(true);
        }
        let mut lost = id;
        if is_directory(&self.layout.version(id))? {
            match self.base_of(id)? {
                Some(base) if self.is_base_there(base)? => return Ok(true),
                Some(base) => lost = base,
                None => {}
            }
        }
        self.forget_lost(id, lost)?;
        Ok(false)
    }

    /// Forgets the layer `id` because `lost` is not there, itself or what it lies over.
    fn forget_lost(&self, id: SnapshotId, lost: SnapshotId) -> Result<(), CacheError> {
        // With it go the versions over it.
        let rows = self.database.write("forget a lost snapshot", |db| {
            db.execute("DELETE FROM snapshots WHERE id = ?1", [lost.0])
        })?;
        // Without a row somebody has removed it in the meantime, as he may.
        if rows > 0 {
            self.damage.note(format!("layer {id}"));
        }
        Ok(())
    }

    pub(crate) fn is_base_there(&self, base: SnapshotId) -> Result<bool, CacheError> {
        self.leases.hold(&self.layout, Bucket::of_layer(base))?;
        is_directory(&self.layout.snapshot(base))
    }

    /// What a version lies over, if its row can be relied on.
    fn base_of(&self, id: SnapshotId) -> Result<Option<SnapshotId>, CacheError> {
        self.database.read("look up a version", |db| {
            let base: Option<Option<i64>> = db
                .prepare_cached("SELECT base, seal FROM versions WHERE snapshot = ?1")?
                .query_row([id.0], |row| {
                    let base: Option<i64> = row.get(0)?;
                    let is_intact = seals::is_intact(row.get_ref(1)?, seals::of_version(id.0, base));
                    Ok(base.filter(|_| is_intact))
                })
                .optional()?;
            Ok(base.flatten().map(SnapshotId))
        })
    }
}

/// The number that the next layer will have: none is given twice (<https://sqlite.org/autoinc.html>).
fn next_id(db: &Transaction<'_>) -> rusqlite::Result<SnapshotId> {
    let last = "SELECT seq FROM sqlite_sequence WHERE name = 'snapshots'";
    let last: Option<i64> = db.prepare_cached(last)?.query_row([], |row| row.get(0)).optional()?;
    Ok(SnapshotId(last.unwrap_or_default().saturating_add(1)))
}

fn is_directory(dir: &Path) -> Result<bool, CacheError> {
    match fs::symlink_metadata(dir) {
        Ok(metadata) => Ok(metadata.is_dir()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).at("examine", dir),
    }
}

/// A temporary folder that goes with the value.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    /// Has it removed while the caller goes on: a file system may take its time.
    fn discard(mut self, inner: &Inner) {
        inner.scratch.discard(std::mem::take(&mut self.0));
    }

    fn create(inner: &Arc<Inner>) -> Result<Folder, CacheError> {
        let path = inner.scratch.fresh()?;
        create_dir(&path, 0o700)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            let _ = remove_tree(&self.0);
        }
    }
}

/// What is known of a layer that was made elsewhere.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) created: SystemTime,
    pub(crate) describes_root: bool,
}

/// A layer being written. Dropping it removes it.
#[derive(Debug)]
pub struct ActiveSnapshot {
    store: Store,
    folder: Folder,
    upper: PathBuf,
    owners: Owners,
    below: TreeView,
    has_parents: bool,
    root_before: Attributes,
    /// Where it was written by a copy.
    pub(crate) version: Option<Version>,
    /// Where it was made elsewhere.
    pub(crate) origin: Option<Origin>,
    /// Digest of all that it holds, where that was computed.
    hashed: OnceLock<ContentDigest>,
    /// The same as [`crate::Holding`] has it.
    holding: Option<[u8; 32]>,
}

/// What came of entering a layer into the database.
enum Added {
    /// It has this id, and is leased.
    As(SnapshotId),
    /// Somebody removes what is in the bucket of its id: nothing was entered.
    NotYet(Bucket),
    /// It cannot be leased: nothing was entered.
    Failed(CacheError),
}

impl ActiveSnapshot {
    /// The directory to write to, in the form of an overlay's upper directory: removed names are character devices 0:0, directories
    /// that hide what is below carry [`ActiveSnapshot::opaque_mark`].
    pub fn dir(&self) -> &Path {
        &self.upper
    }

    /// How owners are to be written.
    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    /// Whether its files are to be read and written, not shared or left to the kernel to copy.
    pub fn has_plain_copies(&self) -> bool {
        self.store.inner.options.plain_copies
    }

    /// How directories are marked that hide what is below.
    pub fn opaque_mark(&self) -> files::OpaqueMark {
        self.store.inner.marks().opaque()
    }

    /// The tree of the parents.
    pub fn below(&self) -> &TreeView {
        &self.below
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn has_parents(&self) -> bool {
        self.has_parents
    }

    pub(crate) fn entries(&self) -> Result<Entries, CacheError> {
        Entries::read(vec![self.open()?], self.describes_root()?)
    }

    /// Reads and hashes what was written; needed where the writer was a process. Marks that hide nothing are taken away first, so that
    /// every way of writing the same layer gives the same digest. Sockets are taken away: a layer has none, and a later step must not
    /// see what the image will not have.
    pub fn changes(&self) -> Result<Changes, CacheError> {
        let changes = self.read_changes()?;
        let _ = self.hashed.set(changes.digest);
        Ok(changes)
    }

    fn read_changes(&self) -> Result<Changes, CacheError> {
        self.resolve_opaque_root()?;
        let mut entries = self.entries()?;
        if !entries.sockets().is_empty() {
            self.remove_sockets(entries.sockets())?;
            entries = self.entries()?;
        }
        if !self.has_parents {
            return Changes::of(&entries);
        }
        let mut stale = false;
        for entry in entries.entries().iter().filter(|entry| entry.kind == image::layer::EntryKind::Opaque) {
            let path = Path::new(OsStr::from_bytes(&entry.path));
            let hides = self.below.metadata(path)?.is_some_and(|below| below.kind == files::Kind::Directory);
            if !hides {
                let dir = self.upper.join(path);
                self.store.inner.marks().clear_opaque(&dir).at("unmark", &dir)?;
                stale = true;
            }
        }
        if stale {
            return Changes::of(&self.entries()?);
        }
        Changes::of(&entries)
    }

    /// What it holds, as its writer knows: to be compared with what is read of it later.
    pub fn set_holding(&mut self, holding: Holding) {
        self.holding = Some(holding.finish());
    }

    /// Finds out what it holds, now that all is written. Of files that stand in `known` their hash ([`files::content_hasher`]) is that; others
    /// are read.
    pub fn look_at_holding(&mut self, known: &HashMap<Vec<u8>, [u8; 32]>) -> Result<(), CacheError> {
        self.resolve_opaque_root()?;
        self.holding = sums::holding_of(&self.entries()?, known)?;
        Ok(())
    }

    /// Makes it a snapshot. `changes` is what [`ActiveSnapshot::changes`] says, or what the writer knows.
    pub fn commit(self, changes: &Changes) -> Result<Snapshot, CacheError> {
        self.resolve_opaque_root()?;
        let now = to_millis(SystemTime::now());
        let (created, describes_root) = match &self.origin {
            Some(origin) => (to_millis(origin.created), origin.describes_root),
            None => (now, self.describes_root()?),
        };
        let inner = &self.store.inner;
        let insert = |db: &Transaction<'_>| {
            db.prepare_cached(
                "INSERT INTO snapshots (changes, entries, size, root, created, used, boot)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                changes.digest.as_bytes(),
                to_sql(changes.entries),
                to_sql(changes.size),
                describes_root,
                created,
                now,
                inner.boot
            ])?;
            let id = SnapshotId(db.last_insert_rowid());
            let seal = seals::of_layer(id.0, changes, describes_root, created);
            db.prepare_cached("UPDATE snapshots SET seal = ?2 WHERE id = ?1")?
                .execute(params![id.0, seal])?;
            if let Some(version) = &self.version {
                version.insert(db, id)?;
            }
            if let Some(digest) = self.hashed.get() {
                db.prepare_cached("INSERT OR REPLACE INTO sums (snapshot, digest) VALUES (?1, ?2)")?
                    .execute(params![id.0, digest.as_bytes()])?;
            }
            if let Some(digest) = self.holding {
                db.prepare_cached("INSERT OR REPLACE INTO holdings (snapshot, digest) VALUES (?1, ?2)")?
                    .execute(params![id.0, digest])?;
            }
            Ok(id)
        };
        let id = loop {
            // Leased before others can see it. Not waited for here: whoever is removing what is in the same bucket waits for this transaction.
            let added = inner.database.write("add a snapshot", |db| {
                let bucket = Bucket::of_layer(next_id(db)?);
                match inner.leases.try_hold(&inner.layout, bucket.clone()) {
                    Ok(true) => insert(db).map(Added::As),
                    Ok(false) => Ok(Added::NotYet(bucket)),
                    Err(error) => Ok(Added::Failed(error)),
                }
            })?;
            match added {
                Added::As(id) => break id,
                Added::NotYet(bucket) => inner.leases.hold(&inner.layout, bucket)?,
                Added::Failed(error) => return Err(error),
            }
        };
        // Until the rename the row names nothing, which readers take for a lost snapshot; nobody has the id yet.
        if let Err(error) = self.move_to(id, changes) {
            let _ = inner.database.write("take back a snapshot", |db| {
                db.execute("DELETE FROM snapshots WHERE id = ?1", [id.0])
            });
            return Err(error);
        }
        inner.made_something();
        inner.leases.saw_layer(id);
        if self.version.as_ref().and_then(Version::base).is_none() {
            inner.mine.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        }
        self.store.grew(self.version.as_ref().and_then(Version::own).unwrap_or(changes.size));
        self.folder.discard(inner);
        Ok(Snapshot {
            id,
            dirs: inner.dirs_of(id, self.version.as_ref().and_then(Version::base)),
            marks: inner.marks(),
            describes_root,
            changes: *changes,
            created: from_millis(created),
        })
    }

    fn move_to(&self, id: SnapshotId, changes: &Changes) -> Result<(), CacheError> {
        let inner = &self.store.inner;
        let (mut dir, mut other) = (inner.layout.snapshot(id), inner.layout.version(id));
        if matches!(self.version, Some(Version::Over { .. })) {
            std::mem::swap(&mut dir, &mut other);
        }
        // What stands where this goes, or would go if it were of the other kind, was left by a process whose row was lost with the power:
        // ids come from rows.
        if let Some(old) = inner.scratch.take_away(&other)? {
            remove_tree(&old)?;
        }
        let list = inner.layout.layer_files(id);
        remove_file_if_there(&list)?;
        if let Some(Version::Full { listing, .. }) = &self.version {
            let written = self.folder.0.join("files");
            fs::File::create(&written)
                .and_then(|mut file| listing.write(&changes.digest, &mut file))
                .at("write", &written)?;
            fs::rename(&written, &list).at("rename", &written)?;
        }
        let sidecar = owners_of(&dir);
        remove_file_if_there(&sidecar)?;
        if let Owners::Recorded { sidecar: written } = &self.owners {
            match fs::rename(written, &sidecar) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).at("rename", written);
                }
                _ => {}
            }
        }
        let rename = || {
            rustix::fs::renameat_with(
                rustix::fs::CWD,
                &self.upper,
                rustix::fs::CWD,
                &dir,
                RenameFlags::NOREPLACE,
            )
        };
        match rename() {
            Err(Errno::EXIST | Errno::NOTEMPTY) => {
                if let Some(old) = inner.scratch.take_away(&dir)? {
                    remove_tree(&old)?;
                }
                rename().at("rename", &self.upper)
            }
            other => other.at("rename", &self.upper),
        }
    }

    /// What a socket has replaced stays removed.
    fn remove_sockets(&self, sockets: &[PathBuf]) -> Result<(), CacheError> {
        let upper = self.open()?;
        for path in sockets {
            let socket = self.upper.join(path);
            let parent = path.parent().unwrap_or(Path::new(""));
            let time = upper.tree.metadata(parent)?.map(|metadata| metadata.mtime);
            fs::remove_file(&socket).at("remove", &socket)?;
            if self.below.metadata(path)?.is_some() {
                self.store.inner.marks().make_whiteout(&socket).at("create", &socket)?;
            }
            if let Some(time) = time {
                crate::upper::set_time(&self.upper.join(parent), time)?;
            }
        }
        Ok(())
    }

    fn open(&self) -> Result<UpperDir, TreeError> {
        UpperDir::open(&self.upper, &self.owners, self.store.inner.marks())
    }

    fn describes_root(&self) -> Result<bool, CacheError> {
        Ok(self.open()?.root_attributes()? != self.root_before)
    }

    /// Overlayfs does not look for an opaque mark on the root of a layer. A layer that removes all that is below it says so
    /// name by name instead.
    fn resolve_opaque_root(&self) -> Result<(), CacheError> {
        let upper = self.open()?;
        let root = Path::new("");
        if !upper.is_opaque(root)? {
            return Ok(());
        }
        let marks = self.store.inner.marks();
        for (name, below) in self.below.list(root)? {
            let path = self.upper.join(&name);
            match upper.tree.metadata(Path::new(&name))? {
                None => marks.make_whiteout(&path).at("create", &path)?,
                Some(here) if here.kind == files::Kind::Directory && below.kind == files::Kind::Directory => {
                    marks.set_opaque(&path).at("mark", &path)?;
                }
                Some(_) => {}
            }
        }
        marks.clear_opaque(&self.upper).at("unmark", &self.upper)
    }

    fn overlay_form(&self) -> Result<RootForm, CacheError> {
        let inner = &self.store.inner;
        let work = self.folder.0.join("work");
        create_dir(&work, 0o700)?;
        let mut lower: Vec<PathBuf> = self.below.dirs().map(Path::to_owned).collect();
        let has_etc = self.below.has_directory(Path::new("etc"))?;
        if lower.is_empty() {
            lower.push(inner.layout.empty_layer());
        }
        Ok(RootForm::Overlay {
            lower,
            upper: self.upper.clone(),
            work,
            userxattr: inner.options.userxattr,
            mount_points: inner.layout.mount_points(has_etc),
        })
    }
}

/// What a process gets as its root directory. Nothing is mounted here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootForm {
    /// An overlay mount of these directories, with `redirect_dir=off,metacopy=off,index=off` where they can be said.
    Overlay {
        /// Top first; at least one.
        lower: Vec<PathBuf>,
        /// What the process writes.
        upper: PathBuf,
        /// For the kernel; empty.
        work: PathBuf,
        /// Whether the mount option `userxattr` is needed.
        userxattr: bool,
        /// A directory for the place below all others, where a process gets `/proc`, `/dev` and `/sys`, and where there is a directory
        /// `/etc` also `/etc/hosts` and `/etc/resolv.conf`, mounted on what is in it and cannot take them off. What is there is in no layer.
        mount_points: PathBuf,
    },
    /// A directory with all the files.
    Directory(PathBuf),
}

/// A tree in which a process works. Dropping it removes it.
#[derive(Debug)]
pub struct ActiveRoot {
    snapshot: ActiveSnapshot,
    form: RootForm,
    copy: Option<FullCopy>,
}

impl ActiveRoot {
    /// What to mount.
    pub fn form(&self) -> &RootForm {
        &self.form
    }

    /// The tree of the parents.
    pub fn below(&self) -> &TreeView {
        self.snapshot.below()
    }

    /// The process has ended and nothing is mounted any more: what it changed, as a layer that can be committed. `mount_points` are paths
    /// of the tree that may have been made for it, and are gone again.
    pub fn finish<'a>(
        self,
        mount_points: impl IntoIterator<Item = &'a Path>,
    ) -> Result<ActiveSnapshot, CacheError> {
        if let Some(copy) = self.copy {
            // Where the links of the tree lead. Of a circle nothing can have been made.
            let place = |path| files::resolve(self.snapshot.below(), path, true).unwrap_or_default();
            let places = mount_points.into_iter().map(place);
            let disturbed =
                places.flat_map(|path| path.ancestors().map(Path::to_owned).collect::<Vec<_>>()).collect();
            copy.split_off_changes(&self.snapshot.upper, self.snapshot.store.inner.marks(), &disturbed)?;
        }
        Ok(self.snapshot)
    }
}
