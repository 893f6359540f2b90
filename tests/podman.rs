//! Images that go to Podman and come from it.

use std::fs;
use std::process::Command;
use std::time::Duration;

use e2e::{Context, Home, Registry, Running, eventually, need_root, run, tempdir, tool};
use tempfile::TempDir;

/// Podman with storage of its own, which needs nothing of the machine.
struct Podman {
    dir: TempDir,
}

impl Podman {
    fn new() -> Self {
        need_root();
        let dir = tempdir();
        fs::write(dir.path().join("auth.json"), "{}").expect("write an empty file of logins");
        Self { dir }
    }

    fn command(&self) -> Command {
        let at = |name: &str| self.dir.path().join(name);
        let mut podman = tool("podman");
        podman.arg("--root").arg(at("root")).arg("--runroot").arg(at("run")).arg("--tmpdir").arg(at("tmp"));
        podman.args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none"]);
        podman.env("REGISTRY_AUTH_FILE", at("auth.json"));
        podman
    }

    fn id(&self, name: &str) -> String {
        run(self.command().args(["image", "inspect", "--format={{.Id}}", name])).ok().stdout.trim().to_owned()
    }

    /// A file of an image, as Podman has unpacked it.
    fn file(&self, name: &str, path: &str) -> String {
        let root = run(self.command().args(["image", "mount", name])).ok().stdout;
        let text = fs::read_to_string(format!("{}/{path}", root.trim())).expect("a file of the image");
        run(self.command().args(["image", "unmount", name])).ok();
        text
    }

    /// Its socket, and what answers there.
    fn service(&self) -> (String, Running) {
        let socket = self.dir.path().join("socket");
        let address = format!("unix://{}", socket.display());
        let log = fs::File::create(self.dir.path().join("log")).expect("a log");
        let mut service = self.command();
        service.args(["system", "service", "--time=0"]).arg(&address);
        let service = Running::start(service.stdout(log.try_clone().expect("a log")).stderr(log));
        eventually(Duration::from_secs(20), "podman to answer", || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
        (address, service)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.command().args(["system", "reset", "--force"]).output();
    }
}

fn numbers() -> String {
    (1..=400_000).map(|n| format!("{n}\n")).collect()
}

fn app() -> Context {
    Context::new(
        "FROM busybox\nCOPY message numbers /\nRUN mkdir /d && ln /message /d/link && rm /etc/group\nENV A=b\nCMD [\"cat\", \"/message\"]\n",
    )
    .file("message", "kept\n")
    // Several members of gzip.
    .file("numbers", numbers())
}

#[test]
fn podman_takes_what_is_made() {
    let (podman, home, context, dir) = (Podman::new(), Home::new(), app(), tempdir());
    let at = |name: &str| dir.path().join(name);
    let iid = at("iid");
    let outputs = [
        ("docker", "type=docker,name=ours/docker:1"),
        ("oci", "type=oci,name=ours/oci:1"),
        ("zstd", "type=oci,name=ours/zstd:1,compression=zstd,force-compression=true"),
    ];
    for (name, output) in outputs {
        let output = format!("{output},dest={}", at(name).display());
        run(home.build(&context).args(["-o", &output]).arg("--iidfile").arg(&iid)).ok();
        run(podman.command().args(["load", "--quiet", "--input"]).arg(at(name))).ok();
        let loaded = format!("ours/{name}:1");
        let id = fs::read_to_string(&iid).expect("the iidfile");
        assert_eq!(format!("sha256:{}", podman.id(&loaded)), id, "{name}");
        assert_eq!(podman.file(&loaded, "d/link"), "kept\n", "{name}");
        assert!(podman.file(&loaded, "numbers") == numbers(), "{name}");
    }
    // Of the store, and through its socket.
    run(home.build(&context).args(["-t", "saved:1"])).ok();
    run(home.builder("save").args(["saved:1", "-o"]).arg(at("saved"))).ok();
    run(podman.command().args(["load", "--quiet", "--input"]).arg(at("saved"))).ok();
    assert_eq!(podman.file("saved:1", "message"), "kept\n");
    let (address, _service) = podman.service();
    run(home.build(&context).args(["-t", "loaded:1", "--load"]).env("DOCKER_HOST", &address)).ok();
    assert_eq!(podman.file("loaded:1", "message"), "kept\n");
    // Only what is new of a changed one.
    let changed = app().file("Dockerfile", "FROM busybox\nCOPY message numbers /\nRUN echo new > /new\n");
    run(home.build(&changed).args(["-t", "loaded:1", "--load"]).env("DOCKER_HOST", &address))
        .ok()
        .says(", which has 2 of 3 layers");
    assert_eq!(podman.file("loaded:1", "message"), "kept\n");
    assert_eq!(podman.file("loaded:1", "new"), "new\n");
    assert!(podman.file("loaded:1", "numbers") == numbers());
    // It has the layers, but not these blobs: then it gets them.
    let other = "FROM busybox\nCOPY message numbers /\nRUN echo newer > /new\n";
    let other = app().file("Dockerfile", other);
    let output = "type=docker,name=loaded:1,compression=gzip,compression-level=1,force-compression=true";
    run(home.build(&other).args(["-o", output]).env("DOCKER_HOST", &address)).ok();
    assert_eq!(podman.file("loaded:1", "new"), "newer\n");
    // By way of a registry.
    let registry = Registry::start(None);
    let name = format!("{}/app:1", registry.address);
    run(home.build(&context).args(["-t", &name, "--push"])).ok();
    run(podman.command().args(["pull", "--quiet", "--tls-verify=false", &name])).ok();
    assert_eq!(podman.file(&name, "message"), "kept\n");
}

#[test]
fn what_podman_makes_is_taken() {
    let (podman, home, dir) = (Podman::new(), Home::new(), tempdir());
    let at = |name: &str| dir.path().join(name);
    let context = app();
    let output = format!("type=docker,name=app:1,dest={}", at("ours").display());
    run(home.build(&context).args(["-o", &output])).ok();
    run(podman.command().args(["load", "--quiet", "--input"]).arg(at("ours"))).ok();
    let id = podman.id("app:1");
    for format in ["docker-archive", "oci-archive"] {
        let archive = at(format);
        run(podman
            .command()
            .args(["save", "--quiet", "--format", format, "--output"])
            .arg(&archive)
            .arg("app:1"))
        .ok();
        let other = Home::new();
        let said = run(other.builder("load").arg("-i").arg(&archive)).ok().stdout;
        assert!(said.contains("app:1"), "{format}: {said}");
        let ids = run(other.builder("images").args(["-q", "--no-trunc"])).ok().stdout;
        // Podman writes another config for the other format.
        let same = ids.trim() == format!("sha256:{id}");
        assert_eq!((ids.lines().count(), same), (1, format == "docker-archive"), "{format}: {ids}");
        assert_eq!(run(other.builder("run").arg("app:1")).ok().stdout, "kept\n", "{format}");
    }
    // As a base image out of a registry.
    let registry = Registry::start(None);
    let name = format!("{}/theirs:1", registry.address);
    run(podman.command().args(["push", "--quiet", "--tls-verify=false", "app:1", &name])).ok();
    let on_top = Context::new(&format!("FROM {name}\nRUN cat /message /d/link > /both\n"));
    run(home.build(&on_top).args(["-t", "on-top"])).ok();
    let both = run(home.builder("run").args(["on-top", "cat", "/both"])).ok().stdout;
    assert_eq!(both, "kept\nkept\n");
}
