//! The Docker archive in a real Docker daemon.

use std::fs;
use std::path::Path;
use std::time::Duration;

use e2e::{Context, Docker, Home, eventually, run, tempdir};

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
