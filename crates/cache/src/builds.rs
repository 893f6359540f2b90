//! What is kept of builds for those who ask about them later: a record and a log each, as whoever built writes them.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hash::StableHasher;

use crate::error::At;
use crate::layout::{create_dir, names_in};
use crate::upper::remove_file_if_there;
use crate::usage::measure;
use crate::{Amount, CacheError, Store};

/// So many builds are kept; the oldest go first.
const MOST_BUILDS: usize = 200;
/// So many bytes of them are kept, on the disk.
const MOST_BYTES: u64 = 128 << 20;
/// What is larger than this when it is unpacked is damaged.
const LARGEST: u64 = 256 << 20;
const LEVEL: i32 = 1;
const RECORD: &str = "record";
const LOG: &str = "log";

/// A build of which something is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BuildId {
    /// When it began, to the millisecond.
    started: u64,
    /// Tells builds apart: ten hexadecimal digits.
    name: String,
}

impl BuildId {
    /// For a build that begins now.
    pub fn new(started: SystemTime) -> BuildId {
        let mut random = [0; 16];
        // Without random bytes time and process still tell builds of one machine apart.
        let _ = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random));
        let since = started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let hasher = StableHasher::new("build-id-v1").with(&random.as_slice()).with(&std::process::id());
        let hash = hasher.with(&(since.as_nanos() as u64)).finish();
        let name = hash[..5].iter().map(|byte| format!("{byte:02x}")).collect();
        BuildId { started: u64::try_from(since.as_millis()).unwrap_or_default(), name }
    }

    /// For a build of another machine; `None` when `name` is none of [`BuildId::name`].
    pub fn known(started: SystemTime, name: &str) -> Option<BuildId> {
        let since = started.duration_since(UNIX_EPOCH).ok()?;
        let id = BuildId { started: u64::try_from(since.as_millis()).ok()?, name: name.to_owned() };
        (BuildId::of_file(&id.file(RECORD))? == id).then_some(id)
    }

    /// What users call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When it began.
    pub fn started(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.started)
    }

    fn file(&self, kind: &str) -> String {
        format!("{:015}-{}.{kind}", self.started, self.name)
    }

    fn of_file(file: &str) -> Option<BuildId> {
        let (started, name) = file.strip_suffix(".record")?.split_once('-')?;
        let is_name = name.len() == 10 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_name.then_some(())?;
        Some(BuildId { started: started.parse().ok()?, name: name.to_owned() })
    }
}

impl Store {
    fn builds_dir(&self) -> PathBuf {
        self.inner.layout.builds()
    }

    /// Keeps what is to be known of a build, and forgets the oldest when there are too many.
    pub fn put_build(&self, id: &BuildId, record: &[u8], log: &[u8]) -> Result<(), CacheError> {
        let dir = self.builds_dir();
        create_dir(&dir, 0o700)?;
        // The record last: what has none is not there.
        for (kind, bytes) in [(LOG, log), (RECORD, record)] {
            let fresh = self.inner.scratch.fresh()?;
            let written = zstd::bulk::compress(bytes, LEVEL).and_then(|packed| {
                let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
                file.write_all(&packed)
            });
            written.at("write", &fresh)?;
            fs::rename(&fresh, dir.join(id.file(kind))).at("rename", &fresh)?;
        }
        let builds = self.builds()?;
        // As many as are kept, all of this size, fit: nothing needs to be measured.
        let is_small = (record.len() + log.len()) as u64 <= MOST_BYTES / MOST_BUILDS as u64;
        if is_small && builds.len() <= MOST_BUILDS { Ok(()) } else { self.forget_old_builds(&builds) }
    }

    fn forget_old_builds(&self, builds: &[BuildId]) -> Result<(), CacheError> {
        let dir = self.builds_dir();
        let mut kept = 0;
        for (count, id) in builds.iter().enumerate() {
            for kind in [LOG, RECORD] {
                kept += fs::symlink_metadata(dir.join(id.file(kind))).map_or(0, |file| file.len());
            }
            if count >= MOST_BUILDS || (count > 0 && kept > MOST_BYTES) {
                self.remove_build(id)?;
            }
        }
        Ok(())
    }

    /// The builds of which something is kept, newest first.
    pub fn builds(&self) -> Result<Vec<BuildId>, CacheError> {
        let names = names_in(&self.builds_dir())?;
        let mut builds: Vec<BuildId> = names.iter().filter_map(|name| BuildId::of_file(name)).collect();
        builds.sort_by(|a, b| b.cmp(a));
        Ok(builds)
    }

    /// The record of a build; `None` when it is not kept any more.
    pub fn build_record(&self, id: &BuildId) -> Result<Option<Vec<u8>>, CacheError> {
        read_packed(&self.builds_dir().join(id.file(RECORD)))
    }

    /// The log of a build, likewise.
    pub fn build_log(&self, id: &BuildId) -> Result<Option<Vec<u8>>, CacheError> {
        read_packed(&self.builds_dir().join(id.file(LOG)))
    }

    /// How many builds are kept, and their bytes on the disk.
    pub(crate) fn measure_builds(&self) -> Result<Amount, CacheError> {
        let bytes = measure(&self.builds_dir())?.bytes;
        Ok(Amount { count: self.builds()?.len() as u64, bytes })
    }

    /// Forgets a build. One that is not there is fine.
    pub fn remove_build(&self, id: &BuildId) -> Result<(), CacheError> {
        for kind in [RECORD, LOG] {
            let path = self.builds_dir().join(id.file(kind));
            remove_file_if_there(&path).at("remove", &path)?;
        }
        Ok(())
    }
}

fn read_packed(path: &Path) -> Result<Option<Vec<u8>>, CacheError> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.at("open", path)?,
    };
    let mut bytes = Vec::new();
    let read = zstd::Decoder::new(file).and_then(|file| file.take(LARGEST).read_to_end(&mut bytes));
    read.at("read", path)?;
    Ok(Some(bytes))
}
