//! The commands of the image store, against Docker's and skopeo's archives.

use std::fs;
use std::process::{Command, Stdio};

use e2e::{Context, Docker, Home, Registry, base, run, tempdir, tool};
use serde_json::{Value, json};

fn app() -> Context {
    Context::new(
        "FROM busybox\nCOPY message /message\nENV A=b\nLABEL kind=test\nRUN mkdir -p /d && ln /message /d/link\nCMD [\"cat\", \"/message\"]\n",
    )
    .file("message", "kept\n")
}

fn built(names: &[&str]) -> (Home, String) {
    let home = Home::new();
    let context = app();
    let mut build = home.build(&context);
    for name in names {
        build.args(["-t", name]);
    }
    let id = run(build.arg("-q")).ok().stdout.trim().to_owned();
    (home, id)
}

fn out(command: &mut Command) -> String {
    run(command).ok().stdout
}

#[test]
fn listed_and_named() {
    let (home, id) = built(&["app:1", "other/app:2"]);
    let table = out(&mut home.builder("images"));
    let title = table.lines().next().expect("a title");
    assert!(title.starts_with("REPOSITORY") && title.ends_with("SIZE"), "{table}");
    assert_eq!(table.lines().count(), 3, "{table}");
    assert_eq!(out(home.builder("images").args(["-q", "app"])).trim(), &id[7..19]);
    assert_eq!(out(home.builder("images").args(["-q", "--no-trunc", "app"])).trim(), id);
    // When it says that it was made, not when it came here.
    let old = home.build(&app()).args(["-q", "-t", "old"]).env("SOURCE_DATE_EPOCH", "86400").status();
    assert!(old.expect("start").success());
    let created = out(home.builder("images").args(["old", "--format", "{{.CreatedAt}}"]));
    assert_eq!(created, "1970-01-02 00:00:00 +0000 UTC\n");
    run(home.builder("rmi").arg("old")).ok();
    let line = out(home.builder("images").args(["--format", "{{.Repository}}:{{.Tag}} {{.ID}}", "app:1"]));
    assert_eq!(line, format!("app:1 {}\n", &id[7..19]));
    let line = out(home.builder("images").args(["--json", "--no-trunc", "--filter", "reference=other/*"]));
    let row: Value = serde_json::from_str(&line).expect("an object a line");
    assert_eq!((&row["Repository"], &row["Tag"], &row["ID"]), (&json!("other/app"), &json!("2"), &json!(id)));
    let tabular = out(home.builder("images").args(["--format", "table {{.Tag}}\\t{{.ID}}"]));
    assert!(tabular.starts_with("TAG   IMAGE ID\n1     "), "{tabular}");
    assert_eq!(out(home.builder("images").args(["-q", "-f", "label=kind=test"])).lines().count(), 2);
    assert_eq!(out(home.builder("images").args(["-q", "-f", "label=kind=x"])), "");
    // Without a name.
    let (nameless, id) = built(&[]);
    assert_eq!(out(nameless.builder("images").args(["-q", "-f", "dangling=true"])).trim(), &id[7..19]);
    assert_eq!(out(nameless.builder("images").args(["-q", "-f", "dangling=false"])), "");
    run(home.builder("images").args(["-f", "before=x"])).code_is(2).says("dangling");
    run(home.builder("images").args(["--format", "{{.Nothing}}"]))
        .code_is(2)
        .says("there is no field .Nothing");
}

#[test]
fn names_come_and_go() {
    let (home, id) = built(&["app:1"]);
    run(home.builder("tag").args(["app:1", "localhost:5000/copy"])).ok();
    run(home.builder("tag").args([&id[7..17], "by-id:3"])).ok();
    assert_eq!(
        out(home.builder("images").arg("-q")).lines().filter(|line| id[7..].starts_with(line)).count(),
        3
    );
    run(home.builder("tag").args(["nothing", "x"])).code_is(1).says("there is no image nothing:latest");
    run(home.builder("rmi").arg(&id)).code_is(1).says("has 3 names");
    assert_eq!(out(home.builder("rmi").arg("app:1")), "Untagged: app:1\n");
    let rest = out(home.builder("rmi").args(["-f", &id]));
    assert!(
        rest.contains("Untagged: by-id:3\n") && rest.contains("Untagged: localhost:5000/copy:latest\n"),
        "{rest}"
    );
    assert!(rest.ends_with(&format!("Deleted: {id}\n")), "{rest}");
    assert_eq!(out(home.builder("images").arg("-q")), "");
    run(home.builder("rmi").arg("app:1")).code_is(1).says("there is no image app:1");
    run(home.builder("rmi").args(["-f", "app:1"])).ok();
    run(home.builder("run").arg("by-id:3")).code_is(125);
}

/// One that was made or loaded without a name, and got one, is one image: Docker shows one row, and removes it by its id.
#[test]
fn a_name_takes_the_place_of_none() {
    let rows = |home: &Home| out(home.builder("images").args(["--format", "{{.Repository}}:{{.Tag}}"]));
    let (home, id) = built(&[]);
    run(home.build(&app()).args(["-q", "-t", "meta"])).ok();
    assert_eq!(rows(&home), "meta:latest\n");
    assert_eq!(out(home.builder("images").args(["-q", "-f", "dangling=true"])), "");
    run(home.build(&app()).args(["-q", "-t", "also"])).ok();
    run(home.builder("rmi").arg(&id)).code_is(1).says("has 2 names: also:latest, meta:latest");
    // It goes with its last name, whichever way.
    run(home.builder("rmi").args(["also", "meta"])).ok();
    assert_eq!(rows(&home), "");
    run(home.build(&app()).arg("-q")).ok();
    let archive = tempdir();
    let archive = archive.path().join("archive");
    run(home.builder("save").arg("-o").arg(&archive).arg(&id)).ok();
    for by in [&id, &id[7..19]] {
        run(home.builder("load").arg("-i").arg(&archive)).ok();
        run(home.builder("tag").args([&id, "meta"])).ok();
        assert_eq!(rows(&home), "meta:latest\n");
        let said = out(home.builder("rmi").arg(by));
        assert_eq!(said, format!("Untagged: meta:latest\nDeleted: {id}\n"));
        assert_eq!(rows(&home), "");
    }
    // A name that means another image leaves this one without; those stand behind all others.
    run(home.build(&app()).arg("-q")).ok();
    run(home.builder("tag").args([&id, "zebra"])).ok();
    let other = Context::new("FROM scratch\nLABEL a=b\n");
    run(home.build(&other).args(["-q", "-t", "zebra"])).ok();
    assert_eq!(rows(&home), "zebra:latest\n<none>:<none>\n");
    assert_eq!(out(home.builder("images").args(["-q", "-f", "dangling=true"])).trim(), &id[7..19]);
}

/// A name means what was built last, of no other platform either.
#[test]
fn a_name_is_given_to_one_image() {
    let home = Home::new();
    let context = Context::new("FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /$TARGETARCH\n");
    run(home.build(&context).args(["-t", "x", "--platform=linux/arm64,linux/amd64"])).ok();
    assert_eq!(out(home.builder("images").args(["--format", "{{.Platform}}"])), "linux/amd64\nlinux/arm64\n");
    run(home.build(&context).args(["-t", "x", "--platform=linux/amd64"])).ok();
    assert_eq!(out(home.builder("images").args(["--format", "{{.Platform}}"])), "linux/amd64\n");
}

/// An id means one image, also where its name has others for other platforms.
#[test]
fn an_id_is_not_its_name() {
    let home = Home::new();
    let context = Context::new("FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\n");
    run(home.build(&context).args(["-t", "two", "--platform=linux/amd64,linux/arm64"])).ok();
    let ids = || out(home.builder("images").args(["--format", "{{.ID}} {{.Platform}}"]));
    let id = |platform: &str| {
        let lines = ids();
        let line = lines.lines().find(|line| line.ends_with(platform)).expect("the image");
        line.split(' ').next().expect("an id").to_owned()
    };
    let (amd64, arm64) = (id("linux/amd64"), id("linux/arm64"));
    let said = run(home.builder("rmi").arg(&arm64)).ok().stdout;
    assert!(said.contains("Deleted: sha256:") && said.contains(&arm64) && !said.contains(&amd64), "{said}");
    assert_eq!(ids().trim(), format!("{amd64} linux/amd64"));
    // The programs are this machine's, whatever the image says.
    let context = Context::new(
        "FROM --platform=$BUILDPLATFORM busybox\nARG TARGETARCH\nENV A=$TARGETARCH\nCMD [\"sh\", \"-c\", \"echo $A\"]\n",
    );
    run(home.build(&context).args(["-t", "two", "--platform=linux/amd64,linux/arm64"])).ok();
    for arch in ["amd64", "arm64"] {
        assert_eq!(out(home.builder("run").arg(id(&format!("linux/{arch}")))), format!("{arch}\n"));
    }
}

#[test]
fn inspected() {
    let (home, id) = built(&["app:1"]);
    let value: Value = serde_json::from_str(&out(home.builder("inspect").arg("app:1"))).expect("JSON");
    assert_eq!(value[0]["Id"], id.as_str());
    assert_eq!(value[0]["RepoTags"], json!(["app:1"]));
    assert_eq!(value[0]["Config"]["Labels"]["kind"], "test");
    assert_eq!(value[0]["Os"], "linux");
    assert_eq!(value[0]["RootFS"]["Layers"].as_array().map(Vec::len), Some(3));
    let filled = |format: &str| out(home.builder("inspect").args(["-f", format, &id[7..15]]));
    assert_eq!(filled("{{json .Config.Cmd}}"), "[\"cat\",\"/message\"]\n");
    assert_eq!(filled("{{range .Config.Env}}{{println .}}{{end}}").lines().last(), Some(""));
    assert!(filled("{{.Config.Env}}").contains("A=b"));
    let history = out(home.builder("image").args(["history", "--no-trunc", "app:1"]));
    let lines: Vec<&str> = history.lines().collect();
    assert!(lines[0].starts_with("IMAGE") && lines[1].starts_with(&id), "{history}");
    assert!(lines[1].contains("CMD [\"cat\" \"/message\"]") && history.contains("<missing>"), "{history}");
    let sizes = out(home.builder("image").args([
        "history",
        "-H=false",
        "--format",
        "{{.CreatedBy}}={{.Size}}",
        "app:1",
    ]));
    assert!(sizes.lines().any(|line| line.starts_with("LABEL") && line.ends_with("=0")), "{sizes}");
    assert!(sizes.lines().any(|line| line.starts_with("COPY") && !line.ends_with("=0")), "{sizes}");
}

/// What registries, `--metadata-file` and archives call an image finds it here as well, and an archive has each name once.
#[test]
fn found_by_the_digest_of_its_manifest() {
    let (home, id) = built(&["app:1"]);
    let digest = out(home.builder("inspect").args(["-f", "{{index .RepoDigests 0}}", "app:1"]));
    let digest = digest.trim().trim_start_matches("app@").to_owned();
    for name in [digest.as_str(), &digest[7..], &digest[7..19], &format!("app@{digest}"), &id, &id[7..]] {
        assert_eq!(out(home.builder("inspect").args(["-f", "{{.Id}}", name])).trim(), id, "{name}");
        assert_eq!(out(home.builder("run").arg(name)), "kept\n", "{name}");
    }
    // Of several platforms a build tells the digest of the index.
    let context = Context::new("FROM busybox\nCMD [\"echo\", \"several\"]\n");
    let both = ["-q", "-t", "several", "--platform=linux/amd64,linux/arm64"];
    let index = out(home.build(&context).args(both));
    for name in [index.trim(), &format!("several@{}", index.trim())] {
        let found = out(home.builder("inspect").args(["-f", "{{json .RepoTags}}", name]));
        assert_eq!(found.trim(), "[\"several:latest\"]", "{name}");
        assert_eq!(out(home.builder("run").arg(name)), "several\n", "{name}");
    }
    run(home.builder("inspect").arg(format!("app@{}", index.trim()))).code_is(1).says("there is no image");
    // One of its images alone, under names on either side of that of the index: each digest is told once.
    for name in ["several:a", "several:z"] {
        run(home.build(&context).args(["-q", "-t", name])).ok();
    }
    let digests = out(home.builder("inspect").args(["-f", "{{join .RepoDigests \" \"}}", "several:a"]));
    let digests: Vec<&str> = digests.split_whitespace().collect();
    assert_eq!((digests.len(), digests[1]), (2, &*format!("several@{}", index.trim())), "{digests:?}");
    run(home.builder("rmi").args(["several:a", "several:z"])).ok();
    assert!(out(home.builder("rmi").arg(index.trim())).contains("Untagged: several:latest"));
    run(home.builder("tag").args([&digest, "by-digest:1"])).ok();
    let dir = tempdir();
    let archive = dir.path().join("archive");
    run(home.builder("save").args(["app:1", "app:1", "by-digest:1", "-o"]).arg(&archive)).ok();
    let manifest = out(tool("tar").arg("-xOf").arg(&archive).arg("manifest.json"));
    let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
    assert_eq!(manifest[0]["RepoTags"], json!(["app:1", "by-digest:1"]));
    // A layout in a directory is loaded like one in a tar, links and pipes in it are not looked into.
    let layout = dir.path().join("layout");
    fs::create_dir(&layout).expect("make a directory");
    run(tool("tar").arg("-xf").arg(&archive).arg("-C").arg(&layout)).ok();
    let hex = |byte: u8| layout.join("blobs/sha256").join(format!("{byte:02x}").repeat(32));
    run(tool("mkfifo").arg(hex(1))).ok();
    std::os::unix::fs::symlink("/dev/zero", hex(2)).expect("make a link");
    fs::create_dir_all(layout.join("blobs/sha256/a/b/c")).expect("make directories");
    let other = Home::new();
    let said = out(other.builder("load").arg("-i").arg(&layout));
    assert_eq!(said, "Loaded image: app:1\nLoaded image: by-digest:1\n");
    assert_eq!(out(other.builder("run").arg("app:1")), "kept\n");
    fs::write(layout.join("blobs/sha256").join(&digest[7..]), "{}").expect("damage it");
    run(Home::new().builder("load").arg("-i").arg(&layout)).code_is(1).says("damaged");
    run(Home::new().builder("load").arg("-i").arg(dir.path().join("none"))).code_is(1).says("No such file");
    run(Home::new().builder("load").arg("-i").arg(layout.join("blobs"))).code_is(1).says("OCI layout");
}

#[test]
fn saved_and_loaded_by_everybody() {
    let (home, id) = built(&["app:1", "app:2"]);
    let (dir, docker) = (tempdir(), Docker::start());
    let at = |name: &str| dir.path().join(name);
    run(home.builder("save").args(["app:1", "app:2", "-o"]).arg(at("ours.tar"))).ok();
    // Docker reads ours.
    let said = out(docker.command().arg("load").arg("-i").arg(at("ours.tar")));
    assert!(said.contains("app:1") && said.contains("app:2"), "{said}");
    assert_eq!(out(docker.command().args(["image", "inspect", "--format={{.Id}}", "app:2"])).trim(), id);
    assert_eq!(out(docker.command().args(["run", "--rm", "--network=none", "app:1"])), "kept\n");
    // Of several platforms it takes this machine's.
    let several = Context::new(
        "FROM --platform=$BUILDPLATFORM busybox\nARG TARGETARCH\nENV A=$TARGETARCH\nCMD [\"sh\", \"-c\", \"echo $A\"]\n",
    );
    run(home.build(&several).args(["-q", "-t", "several", "--platform=linux/arm64,linux/amd64"])).ok();
    let saved = out(home
        .builder("save")
        .args(["several", "--format={{.Name}} {{.Platform}}", "-o"])
        .arg(at("both.tar")));
    assert_eq!(saved, "several:latest linux/amd64\nseveral:latest linux/arm64\n");
    let said = out(docker.command().arg("load").arg("-i").arg(at("both.tar")));
    assert!(said.contains("several:latest"), "{said}");
    let host = out(home.builder("run").arg("several"));
    assert_eq!(out(docker.command().args(["run", "--rm", "--network=none", "several"])), host);
    let archive = format!("docker-archive:{}:several:latest", at("both.tar").display());
    out(tool("skopeo").args(["inspect", &archive]));
    // We read Docker's, plain and compressed, from a file and from standard input.
    run(docker.command().args(["save", "app:1", "-o"]).arg(at("docker.tar"))).ok();
    let other = Home::new();
    assert_eq!(out(other.builder("load").arg("-i").arg(at("docker.tar"))), "Loaded image: app:1\n");
    assert_eq!(
        out(other.builder("images").args(["-q", "--no-trunc"])).trim(),
        id,
        "the config is the same, so is the id"
    );
    assert_eq!(out(other.builder("run").arg("app:1")), "kept\n");
    run(tool("gzip").arg(at("docker.tar"))).ok();
    let third = Home::new();
    let archive = fs::File::open(at("docker.tar.gz")).expect("the archive");
    let loaded = third.builder("load").arg("-q").stdin(Stdio::from(archive)).output().expect("run builder");
    assert_eq!(String::from_utf8_lossy(&loaded.stdout), "app:1\n");
    // Ours again, with both names; and what went through skopeo, which has no name for it.
    let fourth = Home::new();
    assert_eq!(
        out(fourth.builder("load").arg("-i").arg(at("ours.tar"))),
        "Loaded image: app:1\nLoaded image: app:2\n"
    );
    let from = format!("docker-archive:{}:app:1", at("ours.tar").display());
    let to = format!("oci-archive:{}", at("layout.tar").display());
    run(tool("skopeo").args(["--insecure-policy", "copy", "--quiet", &from, &to])).ok();
    let said = out(fourth.builder("load").arg("-i").arg(at("layout.tar")));
    assert!(said.starts_with("Loaded image ID: sha256:"), "{said}");
    // By id there is no name in the archive; two images share one.
    run(home.builder("save").arg(&id).arg("-o").arg(at("nameless.tar"))).ok();
    assert_eq!(
        out(fourth.builder("load").arg("-i").arg(at("nameless.tar"))),
        format!("Loaded image ID: {id}\n")
    );
}

/// Through pipes: what goes to standard output is what a file would hold.
#[test]
fn archives_go_to_standard_output() {
    let (home, id) = built(&["app:1"]);
    let context = app();
    let bytes = |command: &mut std::process::Command| {
        let output = command.stdin(Stdio::null()).output().expect("run builder");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let archives = [
        ("oci", bytes(home.build(&context).args(["-o", "type=oci,name=app:1,dest=-"]))),
        ("docker", bytes(home.build(&context).args(["-o", "type=docker,name=app:1,dest=-"]))),
        ("save", bytes(home.builder("save").arg("app:1"))),
        ("save -o -", bytes(home.builder("save").args(["app:1", "-o", "-"]))),
    ];
    let dir = tempdir();
    for (what, archive) in &archives {
        let other = Home::new();
        let loaded = e2e::feed(other.builder("load").args(["--format={{.Name}} {{.ID}}"]), archive).ok();
        assert_eq!(loaded.stdout, format!("app:1 {id}\n"), "{what}");
        assert_eq!(out(other.builder("run").arg("app:1")), "kept\n", "{what}");
        let file = dir.path().join(what.replace(' ', "-"));
        match *what {
            "save" | "save -o -" => {
                run(home.builder("save").args(["app:1", "-o"]).arg(&file)).ok();
            }
            kind => {
                let output = format!("type={kind},name=app:1,dest={}", file.display());
                run(home.build(&context).args(["-o", &output])).ok();
            }
        }
        assert!(fs::read(&file).expect("the file") == *archive, "{what}: other bytes in a file");
    }
}

#[test]
fn archives_that_lie_are_refused() {
    let (home, _) = built(&["app:1"]);
    let dir = tempdir();
    let at = |name: &str| dir.path().join(name);
    run(home.builder("save").args(["app:1", "-o"]).arg(at("good.tar"))).ok();
    let unpack = |name: &str| {
        fs::create_dir(at(name)).expect("a directory");
        run(tool("tar").arg("-xf").arg(at("good.tar")).arg("-C").arg(at(name))).ok();
        run(tool("chmod").args(["-R", "u+w"]).arg(at(name))).ok();
        at(name)
    };
    let refused = |name: &str, words: &str| {
        let archive = at(&format!("{name}.tar"));
        run(tool("tar").arg("-cf").arg(&archive).arg("-C").arg(at(name)).arg(".")).ok();
        let other = Home::new();
        run(other.builder("load").arg("-i").arg(&archive)).code_is(1).says(words);
        assert_eq!(out(other.builder("images").arg("-q")), "", "{name}");
    };
    let manifest_of = |dir: &std::path::Path| {
        let index: Value =
            serde_json::from_slice(&fs::read(dir.join("index.json")).expect("read")).expect("JSON");
        let hex = index["manifests"][0]["digest"].as_str().expect("a digest")[7..].to_owned();
        let bytes = fs::read(dir.join("blobs/sha256").join(&hex)).expect("the manifest");
        (hex, serde_json::from_slice::<Value>(&bytes).expect("JSON"))
    };
    // A layer with other bytes, a layer that is not there.
    let other = unpack("changed");
    let (_, manifest) = manifest_of(&other);
    let layer = manifest["layers"][1]["digest"].as_str().expect("a digest")[7..].to_owned();
    fs::write(other.join("blobs/sha256").join(&layer), "x").expect("write");
    refused("changed", "it is damaged");
    let other = unpack("missing");
    fs::remove_file(other.join("blobs/sha256").join(&layer)).expect("remove");
    refused("missing", "it is damaged");
    // A Docker archive whose layers are in another order than the config says.
    let other = unpack("order");
    fs::remove_file(other.join("index.json")).expect("remove");
    let mut docker: Value =
        serde_json::from_slice(&fs::read(other.join("manifest.json")).expect("read")).expect("JSON");
    docker[0]["Layers"].as_array_mut().expect("layers").reverse();
    fs::write(other.join("manifest.json"), docker.to_string()).expect("write");
    refused("order", "unpacks to");
    // Names that lead out, and files that are no archive.
    let other = unpack("outside");
    fs::remove_file(other.join("index.json")).expect("remove");
    docker[0]["Config"] = json!("../../../../etc/passwd");
    fs::write(other.join("manifest.json"), docker.to_string()).expect("write");
    refused("outside", "there is no file");
    fs::write(at("text"), "no archive at all").expect("write");
    let done = run(Home::new().builder("load").arg("-i").arg(at("text"))).code_is(1);
    assert!(done.stderr.contains("text: it is no tar archive") && done.stderr.contains("hint: "), "{done}");
    fs::write(at("empty"), "").expect("write");
    run(Home::new().builder("load").arg("-i").arg(at("empty"))).code_is(1).says("empty is empty");
    run(Home::new().builder("load").arg("-i").arg(dir.path())).code_is(1).says("no OCI layout");
    e2e::feed(&mut Home::new().builder("load"), b"text")
        .code_is(1)
        .says("standard input: it is no tar archive");
    run(Home::new().builder("load").arg("-i").arg(at("none"))).code_is(1).says("none");
    let cut = fs::read(at("good.tar")).expect("read");
    fs::write(at("cut"), &cut[..cut.len() / 2]).expect("write");
    run(Home::new().builder("load").arg("-i").arg(at("cut"))).code_is(1).says("archive");
}

#[test]
fn files_of_an_image() {
    let (home, _) = built(&["app:1"]);
    let dir = tempdir();
    let tar = dir.path().join("files.tar");
    run(home.builder("export").args(["app:1", "-o"]).arg(&tar)).ok();
    let list = out(tool("tar").arg("-tvf").arg(&tar));
    assert!(list.contains("d/link link to message") || list.contains("message link to d/link"), "{list}");
    assert!(list.contains(" bin/busybox") || list.contains(" bin/sh"), "{list}");
    // Each image is what its base had and more.
    let from_base = Home::new();
    run(from_base.build(&Context::new("FROM busybox\n")).args(["-t", "plain"])).ok();
    run(from_base.builder("export").args(["plain", "-o"]).arg(&tar)).ok();
    let plain = out(tool("tar").arg("-tf").arg(&tar));
    assert!(plain.lines().all(|path| list.contains(path.trim_end_matches('/'))), "{plain}");
    assert!(base("busybox").is_dir());
}

/// What was asked for by digest is not what a tag means.
#[test]
fn a_digest_gives_no_tag() {
    let registry = e2e::Registry::start(None);
    let home = Home::new();
    let name = format!("{}/app", registry.address);
    let context = app();
    run(home.build(&context).args(["-t", &format!("{name}:1"), "--push"])).ok();
    let digest = registry.inspect(&["--format={{.Digest}}"], "app:1").trim().to_owned();
    let other = Home::new();
    run(other.builder("pull").arg(format!("{name}@{digest}"))).ok();
    run(&mut other.build(&Context::new(&format!("FROM {name}\nRUN true\n")))).code_is(1).says("not found");
    run(&mut other.build(&Context::new(&format!("FROM {name}@{digest}\nRUN true\n")))).ok();
    let rows = out(other.builder("images").args(["--format", "{{.Repository}} {{.Tag}} {{.Digest}}"]));
    assert_eq!(rows, format!("{name} <none> {digest}\n"));
    assert_eq!(out(other.builder("run").arg(format!("{name}@{digest}"))), "kept\n");
    run(other.builder("rmi").arg(format!("{name}@{digest}"))).ok();
    assert_eq!(out(other.builder("images").arg("-q")), "");
}

#[test]
fn shells_and_readers_are_helped() {
    let home = Home::new();
    let dir = tempdir();
    let script = |shell: &str| out(home.builder("completion").arg(shell));
    // bash itself reads it, and completes by it a command, a flag, an image, a stage.
    let context = Context::new("FROM busybox AS first\nFROM busybox\n");
    run(home.build(&context).args(["-q", "-t", "app"])).ok();
    let bash = dir.path().join("bash");
    fs::write(&bash, script("bash")).expect("write the script");
    let complete = |words: &str, index: usize| {
        let program = format!(
            ". {}; COMP_WORDS=({words}); COMP_CWORD={index}; _clap_complete_builder builder \"${{COMP_WORDS[{index}]}}\"; echo \"${{COMPREPLY[@]}}\"",
            bash.display()
        );
        let path = format!("{}:/usr/bin:/bin", e2e::binary().parent().expect("a directory").display());
        out(tool("bash").args(["-c", &program]).env("PATH", path).env("BUILDER_HOME", home.path()))
    };
    assert_eq!(complete("builder bui", 1).trim(), "build");
    assert_eq!(complete("builder build --metad", 2).trim(), "--metadata-file");
    assert!(complete("builder rmi ''", 2).starts_with("app "));
    let stage = format!("builder build {} --target ''", context.path().display());
    assert_eq!(complete(&stage, 4).trim(), "first");
    assert!(
        script("zsh").starts_with("#compdef builder") && script("fish").contains("complete --keep-order")
    );
    run(home.builder("completion").arg("dos")).code_is(2);
    let pages = dir.path().join("man1");
    run(home.builder("man").arg(&pages)).ok();
    let page = fs::read_to_string(pages.join("builder-build.1")).expect("a page of build");
    assert!(page.contains(".SH OPTIONS") && page.contains("metadata\\-file"), "{page}");
    assert!(pages.join("builder.1").is_file() && pages.join("builder-image-history.1").is_file());
    // Whoever formats them has nothing to complain about.
    for page in fs::read_dir(&pages).expect("list the pages").flatten() {
        let mut man = tool("man");
        man.args(["--warnings", "--local-file"]).arg(page.path());
        let shown = run(man.env("LC_ALL", "C.UTF-8").env("MANWIDTH", "80").env("MANPAGER", "cat")).ok();
        assert_eq!(shown.stderr, "", "{:?}", page.file_name());
        assert!(shown.stdout.contains("NAME") && shown.stdout.contains("SYNOPSIS"), "{shown}");
    }
}

/// Images that umoci and Buildah made: as base images, as archives, out of a registry.
#[test]
fn images_of_umoci_and_buildah_are_taken() {
    let (home, dir) = (Home::new(), tempdir());
    let at = |name: &str| dir.path().join(name);
    let umoci = |arguments: &[&str]| run(tool("umoci").args(arguments).current_dir(dir.path())).ok();
    fs::write(at("file"), "of umoci\n").expect("write");
    run(tool("cp").arg("-r").arg(base("busybox")).arg(at("layout"))).ok();
    let tag =
        |index: &Value| index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"].clone();
    let index: Value =
        serde_json::from_slice(&fs::read(at("layout/index.json")).expect("read")).expect("JSON");
    let image = format!("layout:{}", tag(&index).as_str().expect("a tag of the base image"));
    umoci(&["insert", "--image", &image, "--tag", "more", "file", "/inserted"]);
    umoci(&["config", "--image", "layout:more", "--config.cmd", "cat", "--config.cmd", "/inserted"]);
    let context = Context::new(
        "FROM made\nRUN test \"$(cat /inserted)\" = 'of umoci' && rm /inserted && echo gone > /inserted\n",
    );
    let named = format!("--build-context=made=oci-layout://{}:more", at("layout").display());
    run(home.build(&context).args([&named, "-t", "on-umoci"])).ok();
    assert_eq!(out(home.builder("run").arg("on-umoci")), "gone\n");

    let buildah = |arguments: &[&str]| {
        let mut buildah = tool("buildah");
        buildah.arg("--root").arg(at("root")).arg("--runroot").arg(at("run")).arg("--storage-driver=vfs");
        run(buildah.args(arguments).current_dir(dir.path())).ok().stdout.trim().to_owned()
    };
    let base = buildah(&["pull", "--quiet", &format!("oci:{image}")]);
    let container = buildah(&["from", &base]);
    buildah(&["copy", &container, "file", "/copied"]);
    buildah(&["config", "--cmd", "cat /copied", &container]);
    let made = buildah(&["commit", "--quiet", &container, "of-buildah"]);
    let registry = Registry::start(None);
    let name = format!("{}/of-buildah:1", registry.address);
    buildah(&["push", "--quiet", "--tls-verify=false", &made, &format!("docker://{name}")]);
    assert_eq!(out(home.builder("pull").args(["-q", &name])).trim(), name);
    assert_eq!(out(home.builder("run").arg(&name)), "of umoci\n");
    for (form, archive) in [("oci-archive", "oci.tar"), ("docker-archive", "docker.tar")] {
        buildah(&["push", "--quiet", &made, &format!("{form}:{archive}:of-buildah:{form}")]);
        let other = Home::new();
        let said = out(other.builder("load").args(["-q", "-i"]).arg(at(archive)));
        assert_eq!(out(other.builder("run").arg(said.trim())), "of umoci\n", "{form}: {said}");
    }
}
