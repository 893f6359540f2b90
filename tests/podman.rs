//! Images that go to Podman and come from it, and builds inside its containers.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::{Context, Home, Image, Registry, Running, base, binary, eventually, need_root, run, tempdir, tool};
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

/// What builds inside containers need: Debian's files as those of a container, of a user's namespace or not, and directories to write to.
struct Inside {
    podman: Podman,
    dir: TempDir,
}

impl Inside {
    fn new() -> Self {
        let inside = Self { podman: Podman::new(), dir: tempdir() };
        let root = inside.at("root");
        let debian = Context::new("FROM debian\n");
        let output = format!("type=local,dest={}", root.display());
        run(Home::new().build(&debian).args(["-o", &output])).ok();
        run(tool("chown").args(["-R", "100000:100000"]).arg(&root)).ok();
        fs::copy(binary(), inside.at("builder")).expect("copy the binary");
        run(tool("cp").arg("-r").arg(base("busybox")).arg(inside.at("busybox"))).ok();
        run(tool("chmod").args(["-R", "a+rX"]).args([inside.at("busybox"), inside.at("builder")])).ok();
        inside
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A directory that everybody in a container may write to, empty.
    fn volume(&self, name: &str) -> String {
        let path = self.at(name);
        let _none = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("make a directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("open a directory");
        format!("--volume={}:/{name}", path.display())
    }

    /// `builder build` in a new container, whose files are on an overlay. Its state goes to a path in there; `/volume` and `/out` are
    /// directories of the machine.
    fn build(&self, options: &[&str], state: &str, context: &Path) -> Command {
        let command = self.podman.command();
        // It leaves the overlay of a root directory mounted.
        let mut podman = tool("unshare");
        podman.args(["--mount", "--propagation=private"]).arg(command.get_program()).args(command.get_args());
        podman.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        podman.args(["--runtime=runc", "run", "--rm", "--network=none"]);
        // This process may be under limits that are lower than Podman's own.
        podman.args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096"]).args(options);
        for (name, path) in
            [("builder", self.at("builder")), ("busybox", self.at("busybox")), ("context", context.into())]
        {
            podman.arg(format!("--volume={}:/{name}:ro", path.display()));
        }
        podman.args([self.volume("volume"), self.volume("out")]);
        podman.args([
            &format!("--env=BUILDER_HOME={state}"),
            "--env=SOURCE_DATE_EPOCH=1600000000",
            "--rootfs",
        ]);
        podman.arg(format!("{}:O", self.at("root").display())).args([
            "/builder",
            "build",
            "--progress=plain",
        ]);
        podman.args([
            "--build-context=busybox=oci-layout:///busybox",
            "--output=type=oci,tar=false,dest=/out/layout",
        ]);
        podman.arg("/context");
        podman
    }
}

/// What is built there.
fn to_build_inside() -> Context {
    let text = "FROM busybox\n\
         RUN mkdir /d && echo 1 > /d/f && chmod 700 /d && ls /proc/self > /dev/null && chown 3:4 /d && chgrp 7 /d/f\n\
         COPY --chown=5:6 file /owned\nRUN rm -r /home && echo 2 > /d/g && cat /owned && [ $(stat -c %u:%g /d) = 3:4 ]\n";
    let context = Context::new(text).file("file", "text\n");
    ["file", "Dockerfile"].iter().for_each(|name| context.chmod(name, 0o644));
    context
}

/// Containers that are not privileged, of root and of a user namespace, and in each root and an ordinary user: the image is the one that
/// root of the machine makes, and what is slower or weaker is said.
#[test]
fn builds_inside_containers() {
    let inside = Inside::new();
    let context = to_build_inside();
    let layout = inside.at("layout");
    let output = format!("--output=type=oci,tar=false,dest={}", layout.display());
    run(Home::new().build(&context).arg(output).env("SOURCE_DATE_EPOCH", "1600000000")).ok();
    let digest = Image::open(layout, None).digest;
    let namespace = ["--uidmap=0:100000:65536", "--gidmap=0:100000:65536"];
    // Podman's own filter allows namespaces, but not their host names.
    for options in [
        &["--user=0"][..],
        &["--user=1000"],
        &["--user=0", "--security-opt=seccomp=unconfined"],
        &["--user=1000", "--security-opt=seccomp=unconfined", "--security-opt=unmask=ALL"],
        &["--user=0", namespace[0], namespace[1]],
        &["--user=1000", namespace[0], namespace[1]],
    ] {
        // On the container's own files no overlay can be; on a volume one can.
        for state in ["/tmp/state", "/volume/state"] {
            let done = run(&mut inside.build(options, state, context.path())).ok();
            let says = |text: &str| done.stdout.contains(text) || done.stderr.contains(text);
            let what = format!("{options:?} {state}\n{done}");
            assert_eq!(says("every RUN works in a full copy"), state == "/tmp/state", "{what}");
            assert_eq!(says("no new one can be mounted"), !options.concat().contains("unmask"), "{what}");
            assert_eq!(
                says("the host name cannot be set here"),
                !options.concat().contains("unconfined"),
                "{what}"
            );
            assert_eq!(Image::open(inside.at("out/layout"), None).digest, digest, "{what}");
        }
    }
    // One that is asked for is in the key: the container's would be a wrong result.
    let mut named = inside.build(&["--user=0"], "/tmp/state", context.path());
    let done = run(named.arg("--build-arg=BUILDKIT_SANDBOX_HOSTNAME=mine"));
    assert_ne!(done.code, Some(0), "{done}");
    drop(done.says("set the host name: Operation not permitted"));
    the_filter_is_named(&inside, &context);
}

/// In a container of Docker's defaults no user namespace can be made: what forbids that is named, and what to do.
fn the_filter_is_named(inside: &Inside, context: &Context) {
    let profile = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/executor/src/seccomp/default.json");
    let profile = format!("--security-opt=seccomp={}", profile.display());
    for user in ["--user=0", "--user=1000"] {
        let done = run(&mut inside.build(&[user, &profile], "/tmp/state", context.path())).code_is(3);
        drop(done.says(
            "create a user namespace: Operation not permitted (a seccomp filter is in force, as in a container: allow unshare and \
             mount there, for example with --security-opt seccomp=unconfined)",
        ));
    }
}
