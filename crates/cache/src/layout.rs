use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hash::{CacheKey, Digest};
use rustix::fs::{getxattr, removexattr};
use rustix::io::Errno;

use crate::error::At;
use crate::upper::Marks;
use crate::{CacheError, Opening, SnapshotId, StoreOptions, room};

/// Version of the layout as a whole. A newer one is refused; older ones do not exist.
const FORMAT: u32 = 1;

/// How the names of files begin with which the file system is tried out.
pub(crate) const PROBE: &str = ".probe-";

/// Where everything lies in the state directory. The tree is drawn in the crate's documentation.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
    marks: Marks,
}

/// Whether there is a state directory, of whatever version.
pub(crate) fn is_state_directory(root: &Path) -> bool {
    root.join("format").exists()
}

/// The directories and files in [`Layout::mount_points`], each with nothing in it but others of them.
pub(crate) fn mount_points(layers_have_etc: bool) -> (&'static [&'static str], &'static [&'static str]) {
    match layers_have_etc {
        false => (&["dev", "proc", "sys"], &[]),
        true => (&["dev", "proc", "sys", "etc"], &["etc/hosts", "etc/resolv.conf"]),
    }
}

impl Layout {
    /// Creates what is missing, after checking that the directory can and may be used; the directory itself only where that is wanted.
    pub(crate) fn prepare(
        root: &Path,
        options: &StoreOptions,
        opening: Opening,
    ) -> Result<Layout, CacheError> {
        if matches!(opening, Opening::Existing | Opening::ToRemove) && !is_state_directory(root) {
            return Err(CacheError::Absent { path: root.to_owned() });
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .or_else(|error| refuse_read_only(root, error))
            .or_else(|error| refuse_place(root, error))?;
        let root = root.canonicalize().at("resolve", root)?;
        let block = check_file_system(&root)?;
        check_owner(&root)?;
        let marks = check_format(&root, options)?;
        let layout = Layout { root, marks };
        layout.drop_default_acls()?;
        if opening == Opening::ToRemove {
            room::use_reserve(&layout)?;
        }
        room::check(&layout, block)?;
        for dir in layout.directories() {
            match DirBuilder::new().recursive(true).mode(0o700).create(&dir) {
                Ok(()) => {}
                Err(error) => return refuse_read_only(&dir, error).map(|()| layout),
            }
        }
        create_dir(&layout.empty_layer(), 0o755)?;
        layout.make_mount_points()?;
        // A directory of before may have become read-only since.
        open_lock_file(&layout.session_lock())
            .map(drop)
            .or_else(|error| refuse_read_only(&layout.root, error))?;
        Ok(layout)
    }

    /// A default ACL (acl(5)) gives permissions to all that is made below a directory, whatever the umask says: to what steps make as well.
    /// A directory of before that was made under one has it too.
    fn drop_default_acls(&self) -> Result<(), CacheError> {
        if !drop_default_acl(&self.root).at("remove the default ACL of", &self.root)? {
            return Ok(());
        }
        for name in names_in(&self.root)? {
            let path = self.root.join(name);
            if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
                drop_default_acl(&path).at("remove the default ACL of", &path)?;
            }
        }
        Ok(())
    }

    /// How its layers say what they remove.
    pub(crate) fn marks(&self) -> Marks {
        self.marks
    }

    fn directories(&self) -> [PathBuf; 11] {
        [
            self.blobs(),
            self.snapshots(),
            self.scratch(),
            self.partials(),
            self.claims(),
            self.leases(),
            self.stats(),
            self.mounts(),
            self.remotes(),
            self.logs(),
            self.versions(),
        ]
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Held shared by sessions and by whoever removes what they do not use, exclusive by repairs.
    pub(crate) fn session_lock(&self) -> PathBuf {
        self.root.join("session-v1.lock")
    }

    pub(crate) fn reserve(&self) -> PathBuf {
        self.root.join("reserve-v1")
    }

    /// Held while the database is created or replaced.
    pub(crate) fn format(&self) -> PathBuf {
        self.root.join("format")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("cache-v1.db")
    }

    /// The names of images, once more.
    pub(crate) fn image_names(&self) -> PathBuf {
        self.root.join("images-v1")
    }

    /// Whether something was made here of which the database should know.
    pub(crate) fn holds_something(&self) -> bool {
        let is_full = |dir: PathBuf| fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
        self.image_names().exists() || is_full(self.snapshots()) || is_full(self.blobs())
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs").join("sha256-v1")
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.blobs().join(&hex[..2]).join(hex)
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots-v1")
    }

    pub(crate) fn snapshot(&self, id: SnapshotId) -> PathBuf {
        self.snapshots().join(id.to_string())
    }

    /// Apart from the others: what does not know that something belongs below them must not take them for layers.
    pub(crate) fn versions(&self) -> PathBuf {
        self.root.join("versions-v1")
    }

    /// Of a layer that lies over an earlier version of it.
    pub(crate) fn version(&self, id: SnapshotId) -> PathBuf {
        self.versions().join(id.to_string())
    }

    /// All that is in a full layer, which later versions of it are compared with.
    pub(crate) fn layer_files(&self, id: SnapshotId) -> PathBuf {
        self.snapshots().join(format!("{id}.files"))
    }

    /// What an overlay of no layers has below: overlayfs wants one lower directory.
    pub(crate) fn empty_layer(&self) -> PathBuf {
        self.root.join("empty-v1")
    }

    /// What lies below all layers where a process works in them: what every process has something mounted on, so that nothing has to
    /// be made for that in the layer that it writes. Only what is covered as a whole: what a process can reach of it could be copied up,
    /// and would be in the layer. A directory `/etc` that the layers have is theirs whatever lies below, so then the files that are
    /// covered in it may be here.
    pub(crate) fn mount_points(&self, layers_have_etc: bool) -> PathBuf {
        self.root.join(if layers_have_etc { "points-etc-v1" } else { "points-v2" })
    }

    fn make_mount_points(&self) -> Result<(), CacheError> {
        for with_etc in [false, true] {
            let top = self.mount_points(with_etc);
            let (dirs, files) = mount_points(with_etc);
            if dirs.iter().chain(files).all(|name| top.join(name).exists()) {
                continue;
            }
            create_dir(&top, 0o755)?;
            dirs.iter().try_for_each(|name| create_dir(&top.join(name), 0o755))?;
            for file in files.iter().map(|name| top.join(name)) {
                let made =
                    OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(&file);
                made.map(drop).or_else(|error| refuse_read_only(&file, error))?;
            }
        }
        Ok(())
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.root.join("tmp-v1")
    }

    /// Beginnings of blobs.
    pub(crate) fn partials(&self) -> PathBuf {
        self.root.join("partial-v1")
    }

    pub(crate) fn partial(&self, digest: &Digest) -> PathBuf {
        self.partials().join(digest.hex())
    }

    pub(crate) fn claims(&self) -> PathBuf {
        self.root.join("claims-v1")
    }

    /// Locks on what running builds use.
    pub(crate) fn leases(&self) -> PathBuf {
        self.root.join("leases-v1")
    }

    /// Held by the process that collects.
    pub(crate) fn collector_lock(&self) -> PathBuf {
        self.root.join("collector-v1.lock")
    }

    pub(crate) fn claim(&self, key: &CacheKey) -> PathBuf {
        self.claims().join(key.to_string())
    }

    pub(crate) fn stats(&self) -> PathBuf {
        self.root.join("stat-v1")
    }

    /// Random bytes that only this state directory has.
    pub(crate) fn secret(&self) -> PathBuf {
        self.root.join("secret-v1")
    }

    pub(crate) fn mounts(&self) -> PathBuf {
        self.root.join("mounts-v1")
    }

    pub(crate) fn remotes(&self) -> PathBuf {
        self.root.join("remotes-v1")
    }

    /// What is kept of builds.
    pub(crate) fn builds(&self) -> PathBuf {
        self.root.join("builds-v1")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs-v1")
    }

    /// Files that layers of older programs shared.
    pub(crate) fn shared_files(&self) -> PathBuf {
        self.root.join("objects-v1")
    }

    /// What the step printed that made the layer.
    pub(crate) fn log(&self, id: SnapshotId) -> PathBuf {
        self.logs().join(id.to_string())
    }
}

/// Whether there was one.
fn drop_default_acl(dir: &Path) -> rustix::io::Result<bool> {
    const NAME: &str = "system.posix_acl_default";
    match getxattr(dir, NAME, &mut [0_u8; 0]) {
        Ok(_) => removexattr(dir, NAME).map(|()| true),
        // Or a file system that knows none.
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) fn open_lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

pub(crate) fn create_dir(path: &Path, mode: u32) -> Result<(), CacheError> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.at("create", path),
    }
}

/// All names that are text: others are none of ours. None when the directory is gone.
pub(crate) fn names_in(dir: &Path) -> Result<Vec<String>, CacheError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.at("list", dir)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.at("list", dir)?.file_name().into_string().ok());
    }
    Ok(names)
}

fn unusable<T>(path: &Path, reason: impl Into<String>) -> Result<T, CacheError> {
    Err(CacheError::Unusable { path: path.to_owned(), reason: reason.into() })
}

fn refuse_read_only(path: &Path, error: io::Error) -> Result<(), CacheError> {
    let reason = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => "it is on a read-only file system",
        io::ErrorKind::PermissionDenied => "no permission to write there",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => "it is not a directory",
        _ => return Err(error).at("create", path),
    };
    unusable(path, format!("{reason}; name another one"))
}

/// Where nothing can be made, whatever the reason is, another place helps. On a full disk more room does.
fn refuse_place(root: &Path, error: CacheError) -> Result<(), CacheError> {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    match error {
        CacheError::Io { source, .. } if !matches!(source.kind(), StorageFull | QuotaExceeded) => {
            unusable(root, format!("it cannot be made ({source}); name another one"))
        }
        other => Err(other),
    }
}

/// SQLite's write-ahead log and `flock` need one kernel that sees all of it; `statfs(2)` lists the magic numbers. Gives the size of a block, in bytes.
fn check_file_system(root: &Path) -> Result<u64, CacheError> {
    let found = rustix::fs::statfs(root).at("examine the file system of", root)?;
    // The field's type differs between architectures; the numbers are 32 bits wide.
    match network_file_system(found.f_type as u32) {
        None => Ok(found.f_bsize as u64),
        Some(name) => unusable(
            root,
            format!("it is on a network file system ({name}), which cannot hold it; name a local directory"),
        ),
    }
}

fn network_file_system(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517B | 0xFF53_4D42 | 0xFE53_4D42 => "SMB",
        0x5346_414F | 0x6B41_4653 => "AFS",
        0x00C3_6400 => "Ceph",
        0x7375_7245 => "Coda",
        0x564C => "NCP",
        0x7461_636F => "OCFS2",
        0x0116_1970 => "GFS2",
        0x0BD0_0BD0 => "Lustre",
        0x0102_1997 => "9P",
        0x786F_4256 => "VirtualBox shared folder",
        _ => return None,
    })
}

fn check_owner(root: &Path) -> Result<(), CacheError> {
    let metadata = root.metadata().at("examine", root)?;
    let me = rustix::process::geteuid().as_raw();
    if metadata.uid() != me {
        return unusable(root, "it belongs to another user; name another directory".to_owned());
    }
    if metadata.mode() & 0o002 != 0 {
        return unusable(root, "every user may write there; take that permission away (chmod o-w)");
    }
    Ok(())
}

/// Reads the file `format`, or writes it into an empty directory: the version, and how layers keep what an ordinary file system
/// cannot. Layers of one kind cannot be read as those of another.
fn check_format(root: &Path, options: &StoreOptions) -> Result<Marks, CacheError> {
    let path = root.join("format");
    let text = match read_format(&path)? {
        Some(text) => text,
        None => match refuse_foreign(root) {
            Ok(()) => String::new(),
            // Another process may have made all of it since.
            Err(refusal) => read_format(&path)?.ok_or(refusal)?,
        },
    };
    let overlay = Marks::new(options.userxattr);
    let owners = if options.recorded_owners { "recorded" } else { "real" };
    let with = |marks: Marks| {
        let own = if marks.are_overlays() { "" } else { ", recorded" };
        format!("builder state {FORMAT}\nmarks {overlay}{own}\nowners {owners}\n")
    };
    // Created, but not yet written: by a process that runs now or was killed.
    if text.is_empty() {
        let marks = match overlay.probe(root) {
            Ok(()) => overlay,
            Err(_) => Marks::RECORDED.probe(root).map(|()| Marks::RECORDED)?,
        };
        let ours = with(marks);
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(ours.as_bytes()));
        return written.or_else(|error| refuse_read_only(&path, error)).map(|()| marks);
    }
    if let Some(marks) = [overlay, Marks::RECORDED].into_iter().find(|marks| text == with(*marks)) {
        return Ok(marks);
    }
    let mut lines = text.lines();
    let version =
        lines.next().and_then(|line| line.strip_prefix("builder state ")).and_then(|v| v.parse::<u32>().ok());
    match version {
        Some(FORMAT) => unusable(
            root,
            format!(
                "it was made {}, and is opened {}; name another directory",
                circumstances(&lines.collect::<Vec<_>>().join(", ")),
                circumstances(&format!("marks {overlay}, owners {owners}")),
            ),
        ),
        Some(newer) if newer > FORMAT => {
            unusable(root, format!("a newer version made it (format {newer}, this one knows {FORMAT})"))
        }
        _ => unusable(root, format!("its file `format` says {:?}", text.trim())),
    }
}

/// Who makes a state directory with such marks and owners: those for whom overlays and owners of files are the same.
fn circumstances(format: &str) -> &'static str {
    let (marks, owners) = format.rsplit_once(", owners ").unwrap_or_default();
    match (marks, owners) {
        (_, "recorded") => "in a user namespace with a single user id",
        ("marks trusted" | "marks trusted, recorded", "real") => "by root, without a user namespace",
        _ => "in a user namespace (of an ordinary user, or of root with BUILDER_USERNS=1)",
    }
}

fn read_format(path: &Path) -> Result<Option<String>, CacheError> {
    let mut text = String::new();
    match File::open(path) {
        Ok(file) => file.take(256).read_to_string(&mut text).at("read", path).map(|_| Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("open", path),
    }
}

/// Somebody's home directory is not to be filled with blobs, nor pruned.
fn refuse_foreign(root: &Path) -> Result<(), CacheError> {
    let ours = |name: &OsStr| {
        name == "format" || name == "lost+found" || name.as_encoded_bytes().starts_with(PROBE.as_bytes())
    };
    let names: Vec<OsString> =
        fs::read_dir(root).at("list", root)?.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    match names.into_iter().find(|name| !ours(name)) {
        Some(name) => unusable(
            root,
            format!("it is no state directory and not empty (it has {name:?}); name an empty one"),
        ),
        None => Ok(()),
    }
}

/// Owners that the files of a layer cannot carry, for the layer's directory.
pub(crate) fn owners_of(layer: &Path) -> PathBuf {
    let mut path = layer.to_owned().into_os_string();
    path.push(".owners");
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known_by_their_numbers() {
        for magic in [0x6969, 0x517B, 0xFF53_4D42, 0xFE53_4D42, 0x0102_1997] {
            assert!(network_file_system(magic).is_some(), "{magic:x}");
        }
        // ext4, xfs, btrfs, tmpfs, ZFS.
        for magic in [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x2FC1_2FC1] {
            assert_eq!(network_file_system(magic), None, "{magic:x}");
        }
    }
}
