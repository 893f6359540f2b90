#![expect(unreachable_pub, reason = "a module of several test programs")]
#![expect(dead_code, reason = "each test file uses a part")]

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use cache::{
    CacheBackend, CacheError, CacheRecord, Changes, NewRecord, Snapshot, SnapshotId, Snapshotter, StepRun,
    Store, StoreOptions,
};
use hash::{CacheKey, ContentDigest, ContentId};
use image::{ContentStore, Descriptor, ImageConfig, Index, Manifest, MediaType, Platform, RootFs};

/// A store in a directory that goes with the value.
pub struct TestStore {
    pub store: Store,
    pub dir: tempfile::TempDir,
}

impl TestStore {
    pub fn new() -> TestStore {
        TestStore::with(StoreOptions::default())
    }

    pub fn copying() -> TestStore {
        TestStore::with(StoreOptions { snapshotter: Snapshotter::Copying, ..StoreOptions::default() })
    }

    fn with(options: StoreOptions) -> TestStore {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), options).unwrap();
        TestStore { store, dir }
    }

    pub fn again(&self) -> Store {
        Store::open(self.dir.path(), StoreOptions::default()).unwrap()
    }

    pub fn database(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.dir.path().join("cache-v1.db")).unwrap()
    }

    /// A layer that `write` fills.
    pub fn layer(&self, parents: &[SnapshotId], write: impl FnOnce(&Path)) -> Snapshot {
        let active = self.store.begin(parents).unwrap();
        write(active.dir());
        let changes = active.changes().unwrap();
        active.commit(&changes).unwrap()
    }
}

/// What a build of so many steps makes: a record of each, over the layers before it.
pub fn build_steps(store: &Store, steps: u64) {
    let mut layers: Vec<SnapshotId> = Vec::new();
    for step in 0..steps {
        let active = store.begin(&layers).unwrap();
        std::fs::write(active.dir().join(step.to_string()), "").unwrap();
        let changes = active.changes().unwrap();
        layers.push(active.commit(&changes).unwrap().id());
        let run = StepRun { started: UNIX_EPOCH, duration: Duration::ZERO };
        let record = NewRecord {
            content: content(step),
            layers: layers.clone(),
            description: "RUN step".to_owned(),
            run,
        };
        store.records().save(&[key(step)], &record).unwrap();
    }
}

/// Looks records up as a build does.
pub trait Lookup {
    /// All results filed under `key` that are there, newest first, each as a build that uses it finds it.
    fn lookup(&self, key: &CacheKey) -> Result<Vec<CacheRecord>, CacheError>;
}

impl<C: CacheBackend> Lookup for C {
    fn lookup(&self, key: &CacheKey) -> Result<Vec<CacheRecord>, CacheError> {
        let mut found = Vec::new();
        for record in self.candidates(key)? {
            if self.hold(&record)? {
                found.push(record);
            }
        }
        Ok(found)
    }
}

/// An image of one layer, with a name.
pub fn put_image(
    test: &TestStore,
    name: &str,
    platform: &str,
    layer: &[u8],
) -> Result<Descriptor, cache::CacheError> {
    let store = test.store.blobs() as &dyn ContentStore;
    let layer_digest = store.put(layer).unwrap();
    let platform: Platform = platform.parse().unwrap();
    let config = ImageConfig {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        rootfs: RootFs { diff_ids: vec![layer_digest], ..RootFs::default() },
        ..ImageConfig::default()
    };
    let config = serde_json::to_vec(&config).unwrap();
    let manifest = Manifest {
        schema_version: 2,
        media_type: None,
        config: Descriptor::new(MediaType::CONFIG, store.put(&config).unwrap(), config.len() as u64),
        layers: vec![Descriptor::new(MediaType::LAYER, layer_digest, layer.len() as u64)],
        annotations: Default::default(),
    };
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let descriptor =
        Descriptor::new(MediaType::MANIFEST, store.put(&manifest).unwrap(), manifest.len() as u64);
    test.store.put_image(&name.parse().unwrap(), &platform, &descriptor)?;
    Ok(descriptor)
}

/// An index of manifests, in the store.
pub fn index_of(test: &TestStore, manifests: &[&Descriptor]) -> (Descriptor, Vec<u8>) {
    let manifests = manifests.iter().map(|manifest| (*manifest).clone()).collect();
    let index = Index { schema_version: 2, media_type: None, manifests, annotations: Default::default() };
    let bytes = serde_json::to_vec(&index).unwrap();
    let digest = (test.store.blobs() as &dyn ContentStore).put(&bytes).unwrap();
    (Descriptor::new(MediaType::INDEX, digest, bytes.len() as u64), bytes)
}

/// Tells threads of a scope to end, also when the test fails: the scope waits for them.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub fn key(n: u64) -> CacheKey {
    CacheKey::from_bytes(*blake(n))
}

pub fn content(n: u64) -> ContentId {
    ContentId::from_bytes(*blake(n))
}

pub fn changes() -> Changes {
    Changes { digest: ContentDigest::from_bytes([7; 32]), entries: 1, size: 1 }
}

fn blake(n: u64) -> Box<[u8; 32]> {
    Box::new(hash::StableHasher::new("test").with(&n).finish())
}

/// Runs `body` in a process of its own with a private mount namespace. Call it first thing in the test named `test`.
pub fn in_mount_namespace(test: &str, body: impl FnOnce()) {
    in_namespaces(&[], test, body);
}

/// Likewise, in a user namespace with a single id, in which the process is root.
pub fn in_user_namespace(test: &str, body: impl FnOnce()) {
    in_namespaces(&["--user", "--map-root-user"], test, body);
}

fn in_namespaces(flags: &[&str], test: &str, body: impl FnOnce()) {
    const INSIDE: &str = "CACHE_TEST_IN_NAMESPACE";
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let output = Command::new("unshare")
        .args(flags)
        .args(["--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare (util-linux) and permission to use it are needed");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

pub fn mount(kind: &str, at: &Path, options: &str) {
    let options = std::ffi::CString::new(options).unwrap();
    rustix::mount::mount(kind, at, kind, rustix::mount::MountFlags::empty(), Some(options.as_c_str()))
        .unwrap();
}

/// Numbers that look random, the same in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A path of one to three short names.
    pub fn path(&mut self) -> std::path::PathBuf {
        (0..=self.below(3)).map(|_| *self.pick(&["a", "b", "c", "d", "e"])).collect()
    }
}
