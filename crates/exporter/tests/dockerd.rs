//! A Docker archive in a real Docker.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Output as Finished, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use exporter::{Annotations, ArchiveExporter, Exporter, Images, Output, Product};
use image::layer::{Entry, EntryKind};
use image::{Compression, Image, ImageConfig, LayerPacker, MemoryStore, PackOptions, Platform};

/// Debian's static busybox: a program that needs nothing else.
const BUSYBOX: &str = "/bin/busybox";

/// A daemon on a socket and a data root of its own, without any network set-up; gone when dropped.
struct Daemon {
    process: Child,
    directory: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Daemon {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let log = File::create(directory.path().join("log")).unwrap();
        fs::write(directory.path().join("none.json"), "{}").unwrap();
        let process = Command::new("dockerd")
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"])
            .args(["--storage-driver=vfs", "--config-file", &path("none.json")])
            .args(["--host", &format!("unix://{}", path("socket")), "--pidfile", &path("pid")])
            .args(["--data-root", &path("data"), "--exec-root", &path("exec")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("dockerd: {error}"));
        let mut daemon = Daemon { process, directory };
        let patience = Instant::now() + Duration::from_secs(180);
        while !daemon.docker(&["version"]).status.success() {
            let ended = daemon.process.try_wait().unwrap();
            if ended.is_some() || Instant::now() > patience {
                panic!("dockerd did not start: {}", daemon.log());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        daemon
    }

    fn docker(&self, arguments: &[&str]) -> Finished {
        let socket = format!("unix://{}", self.directory.path().join("socket").display());
        Command::new("docker")
            .args(["--host", &socket])
            .args(arguments)
            .env("DOCKER_CONFIG", self.directory.path())
            .output()
            .unwrap_or_else(|error| panic!("docker: {error}"))
    }

    fn succeed(&self, arguments: &[&str]) -> String {
        let finished = self.docker(arguments);
        let error = String::from_utf8_lossy(&finished.stderr);
        assert!(finished.status.success(), "docker {arguments:?}: {error}\n{}", self.log());
        String::from_utf8(finished.stdout).unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // SIGTERM, so that it ends its containerd and unmounts what it mounted.
        if let Some(pid) = rustix::process::Pid::from_raw(self.process.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.process.wait();
    }
}

fn image(store: &MemoryStore, compression: Compression) -> Image {
    let busybox = fs::read(BUSYBOX).unwrap();
    let file = |path: &str, size: usize| Entry {
        kind: EntryKind::File { size: size as u64 },
        mode: 0o755,
        ..Entry::whiteout(path)
    };
    let directory = |path: &str| Entry { kind: EntryKind::Directory, mode: 0o755, ..Entry::whiteout(path) };
    let options = PackOptions { compression, level: None, epoch: None };
    let mut below = LayerPacker::new(store, options).unwrap();
    below.append(&directory("bin"), &mut std::io::empty()).unwrap();
    below.append(&file("bin/busybox", busybox.len()), &mut &busybox[..]).unwrap();
    let twin = Entry { kind: EntryKind::Hardlink { target: b"bin/busybox".to_vec() }, ..file("bin/cat", 0) };
    below.append(&twin, &mut std::io::empty()).unwrap();
    below.append(&directory("data"), &mut std::io::empty()).unwrap();
    below.append(&file("data/hidden", 1), &mut &b"x"[..]).unwrap();
    below.append(&file("removed", 1), &mut &b"x"[..]).unwrap();
    let mut above = LayerPacker::new(store, options).unwrap();
    above.append(&Entry::whiteout("removed"), &mut std::io::empty()).unwrap();
    above.append(&directory("data"), &mut std::io::empty()).unwrap();
    above.append(&Entry::opaque("data"), &mut std::io::empty()).unwrap();
    above.append(&file("data/text", 6), &mut &b"hello\n"[..]).unwrap();
    let layers = vec![below.finish().unwrap(), above.finish().unwrap()];
    let platform = Platform::host();
    let mut config = ImageConfig {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        ..ImageConfig::default()
    };
    config.config.entrypoint = Some(vec!["/bin/busybox".into()]);
    config.config.cmd = Some(vec!["cat".into(), "/data/text".into()]);
    config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id).collect();
    Image { config, layers, platform }
}

#[test]
fn docker_loads_and_runs_what_is_exported() {
    let daemon = Daemon::start();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for (compression, name) in [(Compression::Gzip, "zipped:1"), (Compression::None, "plain:2")] {
        let store = MemoryStore::default();
        let built = image(&store, compression);
        let archive = daemon.directory.path().join("image.tar");
        let exporter = ArchiveExporter::docker(Output::File(archive.clone()));
        let images = Images {
            images: vec![built],
            names: vec![name.parse().unwrap()],
            annotations: Annotations::default(),
            with_index: false,
            store: Arc::new(store),
        };
        let exported = runtime.block_on(exporter.export(Product::Images(images))).unwrap();
        let loaded = daemon.succeed(&["load", "-i", path(&archive)]);
        assert!(loaded.contains(&format!("Loaded image: {name}")), "{loaded}");
        let id = daemon.succeed(&["image", "inspect", "--format", "{{.Id}}", name]);
        assert_eq!(Some(id.trim().parse().unwrap()), exported.config_digest);
        assert_eq!(daemon.succeed(&["run", "--rm", "--network=none", name]), "hello\n");
        let listed = daemon.succeed(&["run", "--rm", "--network=none", name, "ls", "-1", "/data", "/bin"]);
        assert_eq!(listed, "/bin:\nbusybox\ncat\n\n/data:\ntext\n");
        let missing = daemon.docker(&["run", "--rm", "--network=none", name, "ls", "/removed"]);
        assert!(!missing.status.success());
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
