//! The Docker archive in a real Docker daemon.

use std::fs;
use std::path::Path;
use std::time::Duration;

use e2e::{Context, Docker, Home, Registry, eventually, run, tempdir};

fn load(docker: &Docker, archive: &Path) -> String {
    run(docker.command().args(["load", "--input"]).arg(archive)).ok().stdout
}

#[test]
fn the_archive_loads_and_runs() {
    let docker = Docker::start();
    let home = Home::new();
    let context = Context::new(
        "FROM busybox\nCOPY message /message\nCOPY numbers /numbers\nRUN mkdir /gone && echo x > /gone/x\nRUN rm -r /gone && echo me:x:1000:1000::/:/bin/sh >> /etc/passwd\n\
         WORKDIR /work\nUSER me\nENV WHO=docker\nLABEL kind=test\nENTRYPOINT [\"sh\", \"-c\"]\n\
         CMD [\"cat /message; echo $WHO; id -un; pwd; ls -d /gone 2>/dev/null || echo gone; seq 400000 | cmp - /numbers && echo whole\"]\nHEALTHCHECK CMD true\n",
    )
    .file("message", "from the context\n")
    // Several members of gzip.
    .file("numbers", (1..=400_000).map(|n| format!("{n}\n")).collect::<String>());
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
    let loaded = load(&docker, &archive);
    assert!(loaded.contains("example:1"), "{loaded}");
    let inspect = run(docker.command().args(["image", "inspect", "example:1"])).ok().stdout;
    let inspect: serde_json::Value = serde_json::from_str(&inspect).expect("JSON");
    assert_eq!(inspect[0]["Id"], fs::read_to_string(&iid).expect("the iidfile").trim());
    assert_eq!(inspect[0]["Config"]["Labels"]["kind"], "test");
    assert_eq!(inspect[0]["Config"]["Healthcheck"]["Test"], serde_json::json!(["CMD-SHELL", "true"]));
    let out = run(docker.command().args(["run", "--rm", "--network=none", "example:1"])).ok().stdout;
    assert_eq!(out, "from the context\ndocker\nme\n/work\ngone\nwhole\n");
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
    load(&docker, &archive);
    let out = run(docker.command().args(["run", "--rm", "--network=none", "alone"])).ok().stdout;
    assert_eq!(out, "alone\n");
}

/// By way of a registry: the daemon pulls what is pushed here, and what it pushes is pulled here. The image stays the same one, and is pushed back
/// without a layer being sent.
#[test]
fn images_travel_through_a_registry() {
    let (docker, registry, home) = (Docker::start(), Registry::start(None), Home::new());
    let context = Context::new(
        "FROM busybox\nCOPY numbers /\nRUN mkdir /gone && chmod 4755 /numbers && ln /numbers /linked\nRUN rm -r /gone\n\
         CMD [\"sh\", \"-c\", \"stat -c '%a %h' /numbers; ls -d /gone; md5sum < /linked\"]\n",
    )
    .file("numbers", (1..=400_000).map(|n| format!("{n}\n")).collect::<String>());
    let at = |name: &str| format!("{}/{name}", registry.address);
    for (ours, output) in [
        ("gzip:1", "type=registry"),
        ("docker:1", "type=registry,oci-mediatypes=false"),
        ("plain:1", "type=registry,compression=uncompressed"),
    ] {
        let name = at(ours);
        run(home.build(&context).args(["-t", &name, "-o", &format!("{output},name={name}")])).ok();
        let id = run(home.builder("images").args(["-q", "--no-trunc", &name])).ok().stdout;
        run(docker.command().args(["pull", "--quiet", &name])).ok();
        let there = run(docker.command().args(["image", "inspect", "--format={{.Id}}", &name])).ok().stdout;
        assert_eq!(there, id, "{ours}");
        let shown = |command: &mut std::process::Command| run(command).ok().stdout;
        let said = shown(docker.command().args(["run", "--rm", "--network=none", &name]));
        assert!(said.starts_with("4755 2\n"), "{said}");
        assert_eq!(said.lines().count(), 2, "{said}");
        assert_eq!(shown(home.builder("run").arg(&name)), said, "{ours}");

        let theirs = at(&ours.replace(":1", ":theirs"));
        run(docker.command().args(["tag", &name, &theirs])).ok();
        run(docker.command().args(["push", "--quiet", &theirs])).ok();
        let other = Home::new();
        run(other.builder("pull").args(["-q", &theirs])).ok();
        assert_eq!(shown(other.builder("images").args(["-q", "--no-trunc", &theirs])), id, "{ours}");
        assert_eq!(shown(other.builder("run").arg(&theirs)), said, "{ours}");
        let sent = |registry: &Registry| registry.count("\"PATCH ") + registry.count("/blobs/uploads/?");
        let before = sent(&registry);
        run(other.builder("push").args(["-q", &theirs])).ok();
        assert_eq!(sent(&registry), before, "{ours}: {:#?}", registry.requests());
    }
}
