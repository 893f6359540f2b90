//! The Docker archive in a real Docker daemon.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use e2e::{Context, Home, Running, eventually, need_root, run, tempdir, tool};

/// A daemon with a socket, a data root and a mount namespace of its own. It makes no bridge and no firewall rules.
struct Docker {
    _daemon: Running,
    dir: tempfile::TempDir,
}

impl Docker {
    fn start() -> Self {
        need_root();
        let dir = tempdir();
        let at = |name: &str| dir.path().join(name);
        let log = fs::File::create(at("log")).expect("a log");
        let dockerd = tool("dockerd");
        let mut command = tool("unshare");
        command.args(["--mount", "--propagation=private"]).arg(dockerd.get_program());
        command
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"));
        command.arg("--host").arg(format!("unix://{}", at("socket").display()));
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]);
        // On a mounted overlay of one's own overlay may not work; this always does.
        command.arg("--storage-driver=vfs");
        let daemon = Running::start(command.stdout(log.try_clone().expect("a log")).stderr(log));
        let docker = Self { _daemon: daemon, dir };
        let answers = || docker.command().arg("version").output().is_ok_and(|output| output.status.success());
        let start = std::time::Instant::now();
        while !answers() {
            let log = fs::read_to_string(docker.dir.path().join("log")).unwrap_or_default();
            assert!(start.elapsed() < Duration::from_secs(60), "dockerd does not answer:\n{log}");
            std::thread::sleep(Duration::from_millis(100));
        }
        docker
    }

    fn command(&self) -> Command {
        let mut docker = tool("docker");
        docker.arg("--host").arg(format!("unix://{}", self.dir.path().join("socket").display()));
        docker.env("DOCKER_CONFIG", self.dir.path());
        docker
    }

    fn load(&self, archive: &PathBuf) -> String {
        run(self.command().args(["load", "--input"]).arg(archive)).ok().stdout
    }
}

#[test]
fn the_archive_loads_and_runs() {
    let docker = Docker::start();
    let home = Home::new();
    let context = Context::new(
        "FROM busybox\nCOPY message /message\nRUN mkdir /gone && echo x > /gone/x\nRUN rm -r /gone && echo me:x:1000:1000::/:/bin/sh >> /etc/passwd\n\
         WORKDIR /work\nUSER me\nENV WHO=docker\nLABEL kind=test\nENTRYPOINT [\"sh\", \"-c\"]\n\
         CMD [\"cat /message; echo $WHO; id -un; pwd; ls -d /gone 2>/dev/null || echo gone\"]\nHEALTHCHECK CMD true\n",
    )
    .file("message", "from the context\n");
    let dir = tempdir();
    let archive = dir.path().join("image.tar");
    let iid = dir.path().join("iid");
    run(home
        .build(&context)
        .args(["-t", "example:1"])
        .arg("--iidfile")
        .arg(&iid)
        .arg("-o")
        .arg(format!("type=docker,dest={}", archive.display())))
    .ok();
    let loaded = docker.load(&archive);
    assert!(loaded.contains("example:1"), "{loaded}");
    let inspect = run(docker.command().args(["image", "inspect", "example:1"])).ok().stdout;
    let inspect: serde_json::Value = serde_json::from_str(&inspect).expect("JSON");
    assert_eq!(inspect[0]["Id"], fs::read_to_string(&iid).expect("the iidfile").trim());
    assert_eq!(inspect[0]["Config"]["Labels"]["kind"], "test");
    assert_eq!(inspect[0]["Config"]["Healthcheck"]["Test"], serde_json::json!(["CMD-SHELL", "true"]));
    let out = run(docker.command().args(["run", "--rm", "--network=none", "example:1"])).ok().stdout;
    assert_eq!(out, "from the context\ndocker\nme\n/work\ngone\n");
    eventually(Duration::from_secs(5), "no container to be left", || {
        run(docker.command().args(["ps", "-aq"])).ok().stdout.is_empty()
    });
}

/// A program of one static file, as `Dockerfiles/c-scratch` makes it: an image without anything else.
#[test]
fn an_image_from_scratch_loads_and_runs() {
    let docker = Docker::start();
    let home = Home::new();
    let context = Context::new(
        "FROM busybox AS tool\nFROM scratch\nCOPY --from=tool /bin/busybox /sh\nENTRYPOINT [\"/sh\", \"-c\"]\nCMD [\"echo alone\"]\n",
    );
    let dir = tempdir();
    let archive = dir.path().join("image.tar");
    run(home
        .build(&context)
        .args(["-o", &format!("type=docker,name=alone:latest,dest={}", archive.display())]))
    .ok();
    docker.load(&archive);
    let out = run(docker.command().args(["run", "--rm", "--network=none", "alone"])).ok().stdout;
    assert_eq!(out, "alone\n");
}
