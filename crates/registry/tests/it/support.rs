//! Images, stores and registries for the tests.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use hash::Digest;
use image::{ImageResolver, MemoryStore, Platform, Reference, ResolveError, ResolvedImage, TransferProgress};
use registry::{Client, Config};
use serde_json::{Value, json};
use tempfile::TempDir;
use transport::Retry;

/// No certificates of this machine, quick retries.
pub(crate) fn config() -> Config {
    Config {
        transport: transport::Config {
            certificates: Vec::new(),
            idle_timeout: Duration::from_secs(20),
            ..Config::default().transport
        },
        retry: Retry { first_delay: Duration::from_millis(5), attempts: 4, ..Retry::default() },
        ..Config::default()
    }
}

/// [`config`] with other trust, proxies or time-outs.
pub(crate) fn over(change: impl FnOnce(&mut transport::Config)) -> Config {
    let mut config = config();
    change(&mut config.transport);
    config
}

pub(crate) fn platform() -> Platform {
    "linux/amd64".parse().unwrap()
}

pub(crate) async fn resolve(client: &Client, name: &str) -> Result<ResolvedImage, ResolveError> {
    client.resolve(&name.parse::<Reference>().unwrap(), &platform()).await
}

/// Fetches all layers and gives their bytes.
pub(crate) async fn pull(image: &ResolvedImage) -> Result<Vec<Vec<u8>>, ResolveError> {
    let (store, progress) = (MemoryStore::default(), Told::default());
    let mut layers = Vec::new();
    for layer in &image.layers {
        image.blobs.fetch(&layer.descriptor, &store, &progress).await?;
        layers.push(read(&store, &layer.descriptor.digest).expect("the blob was fetched"));
        let last = progress.0.lock().unwrap().last().copied();
        assert_eq!(last, Some((layer.descriptor.digest, layer.descriptor.size, layer.descriptor.size)));
    }
    Ok(layers)
}

pub(crate) fn read(store: &MemoryStore, digest: &Digest) -> Option<Vec<u8>> {
    (store as &dyn image::ContentStore).read(digest, u64::MAX - 1).unwrap()
}

/// Keeps what progress said.
#[derive(Default)]
pub(crate) struct Told(pub(crate) Mutex<Vec<(Digest, u64, u64)>>);

impl TransferProgress for Told {
    fn transferred(&self, blob: &Digest, current: u64, total: u64) {
        self.0.lock().unwrap().push((*blob, current, total));
    }
}

/// The documents of an image made by a test.
pub(crate) struct Made {
    pub(crate) layer: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// One layer; its content does not matter to a registry.
pub(crate) fn make(layer: Vec<u8>, architecture: &str) -> Made {
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Labels": {"made": "by a test"}},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]},
    })
    .to_string()
    .into_bytes();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    })
    .to_string()
    .into_bytes();
    Made { layer, config, manifest }
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}

/// Bytes that no two offsets share.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Writes an OCI layout with an index of two platforms, tagged `v1`; gives the amd64 image.
pub(crate) fn layout(directory: &Path) -> Made {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes).to_string();
        fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes).unwrap();
    };
    let (amd64, arm64) = (make(noise(300_000), "amd64"), make(noise(1000), "arm64"));
    let mut entries = Vec::new();
    for (image, architecture) in [(&arm64, "arm64"), (&amd64, "amd64")] {
        for bytes in [&image.layer, &image.config, &image.manifest] {
            put(bytes);
        }
        let mut entry = descriptor(MANIFEST, &image.manifest);
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entries.push(entry);
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
    put(index.as_bytes());
    let mut entry = descriptor(INDEX, index.as_bytes());
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "v1"});
    fs::write(directory.join("index.json"), json!({"schemaVersion": 2, "manifests": [entry]}).to_string())
        .unwrap();
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    amd64
}

/// Runs a program to its end and panics with what it said unless it succeeds.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    output.stdout
}

/// Debian's `docker-registry` on a port of its own with its own storage; killed when dropped.
pub(crate) struct DockerRegistry {
    pub(crate) name: String,
    pub(crate) directory: TempDir,
    child: Child,
}

impl DockerRegistry {
    /// `auth` and `tls` are pieces of its configuration.
    pub(crate) fn start(auth: Value, tls: Value) -> DockerRegistry {
        let directory = tempfile::tempdir().unwrap();
        // The port is free until somebody else takes it in between; then the registry ends and another is tried.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let name = format!("127.0.0.1:{port}");
        let mut config = json!({
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": directory.path().join("storage")}},
            "http": {"addr": name, "secret": "test"},
        });
        if !auth.is_null() {
            config["auth"] = auth.clone();
        }
        if !tls.is_null() {
            config["http"]["tls"] = tls.clone();
        }
        let path = directory.path().join("config.yml");
        fs::write(&path, config.to_string()).unwrap();
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("docker-registry is installed");
        let mut registry = DockerRegistry { name, directory, child };
        if registry.is_up() {
            return registry;
        }
        let log = fs::read_to_string(registry.directory.path().join("log")).unwrap_or_default();
        assert!(log.contains("address already in use"), "docker-registry does not start: {log}");
        DockerRegistry::start(auth, tls)
    }

    fn is_up(&mut self) -> bool {
        let end = Instant::now() + Duration::from_secs(120);
        while Instant::now() < end {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect(&self.name).is_ok() {
                return true;
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("docker-registry does not listen");
    }

    /// Copies the image `v1` of a layout to `app:v1` with skopeo, all platforms.
    pub(crate) fn push(&self, layout: &Path, arguments: &[&str]) {
        let (from, to) = (format!("oci:{}:v1", layout.display()), format!("docker://{}/app:v1", self.name));
        let all = [
            &["copy", "--quiet", "--all", "--preserve-digests", "--dest-tls-verify=false"],
            arguments,
            &[&from, &to],
        ]
        .concat();
        run("skopeo", &all);
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Docker configuration with one login.
pub(crate) fn docker_config(directory: &Path, registry: &str, user: &str, password: &str) -> PathBuf {
    let auth = json!({"auths": {registry: {"username": user, "password": password}}});
    let path = directory.join("docker-config.json");
    fs::write(&path, auth.to_string()).unwrap();
    path
}
