//! Images on their way to registries and daemons.

use std::fs;
use std::io::Write as _;

use e2e::{Context, Docker, Home, Image, Registry, base, json, need_root, run, tempdir, tool};
use serde_json::Value;

/// The digest of what a name means in the registry.
fn digest_of(registry: &Registry, name: &str) -> String {
    registry.inspect(&["--format={{.Digest}}"], name).trim().to_owned()
}

/// What a build told is what the store knows and what is pushed and saved of it, here and where it was pulled, as long as all of it is there.
#[test]
fn the_index_that_was_told_is_sent() {
    let registry = Registry::start(None);
    let context = Context::new("FROM scratch\nARG TARGETARCH\nCOPY f /$TARGETARCH\n").file("f", "f");
    let annotated = [
        "--platform=linux/s390x,linux/amd64",
        "--annotation=index:a=of-index",
        "--annotation=index-descriptor:b=of-descriptor",
        "--annotation=manifest,manifest-descriptor[linux/amd64]:c=d",
    ];
    let one = ["--platform=linux/amd64", "--build-arg=BUILDKIT_MULTI_PLATFORM=1"];
    for (tag, arguments, platforms) in
        [("several", &annotated[..], &["linux/amd64", "linux/s390x"][..]), ("one", &one, &["linux/amd64"])]
    {
        let (home, dir) = (Home::new(), tempdir());
        let (app, at) = (format!("{}/app", registry.address), |file: &str| dir.path().join(file));
        let name = format!("{app}:{tag}");
        let out = |home: &Home, command: &str, arguments: &[&str]| {
            run(home.builder(command).args(arguments)).ok().stdout.trim().to_owned()
        };
        let mut build = home.build(&context);
        build.args(["-q", "-t", &name]).args(arguments).arg("--metadata-file").arg(at("metadata"));
        let printed = run(build.arg("--iidfile").arg(at("id"))).ok().stdout;
        let told = json(&at("metadata"))["containerimage.digest"].as_str().expect("a digest").to_owned();
        assert_eq!((printed.trim(), &*fs::read_to_string(at("id")).expect("an id")), (&*told, &*told));
        // Nothing takes it away as long as it has its name.
        out(&home, "prune", &[]);
        let pushed = out(&home, "push", &[&name, "--format={{.Digest}}"]);
        assert_eq!((&pushed, digest_of(&registry, &format!("app:{tag}"))), (&told, told.clone()));
        // It is known by that.
        let listed = out(&home, "images", &["--format={{.Digest}}"]);
        assert!(listed.lines().all(|digest| digest == told), "{listed}");
        for by in [&told, &told[7..], &told[7..19], &format!("{app}@{told}")] {
            let format =
                ["-f", "{{.Architecture}} {{join .RepoDigests \" \"}}", "--platform=linux/amd64", by];
            assert_eq!(out(&home, "inspect", &format), format!("amd64 {app}@{told}"), "{by}");
            out(&home, "tag", &[by, &format!("{app}:tagged")]);
            out(&home, "push", &["-q", &format!("{app}:tagged")]);
            assert_eq!(digest_of(&registry, "app:tagged"), told, "{by}");
            assert!(out(&home, "rmi", &[&format!("{app}:tagged")]).contains("Untagged: "), "{by}");
        }
        // Where it is pulled, whole and in part.
        let (other, part) = (Home::new(), Home::new());
        for platform in platforms {
            let pulled = out(&other, "pull", &["--platform", platform, "--format={{.Digest}}", &name]);
            assert_eq!(pulled, told, "as docker tells it");
        }
        out(&part, "pull", &["--platform=linux/amd64", &name]);
        for (home, whole) in [(&home, true), (&other, true), (&part, platforms.len() == 1)] {
            out(home, "tag", &[&name, &format!("{app}:again")]);
            out(home, "push", &["-q", &format!("{app}:again")]);
            let there = registry.manifest(&format!("app:{tag}"));
            let amd64 = there["manifests"].as_array().expect("a list").last().expect("amd64").clone();
            let sent = if whole { told.as_str() } else { amd64["digest"].as_str().expect("a digest") };
            assert_eq!(digest_of(&registry, "app:again"), sent);
            out(home, "push", &["-q", "--platform=linux/amd64", &format!("{app}:again")]);
            assert_eq!(digest_of(&registry, "app:again"), amd64["digest"].as_str().expect("a digest"));
            // The same in archives.
            out(home, "save", &[&name, "-o", &at("archive").display().to_string()]);
            let from = format!("oci-archive:{}", at("archive").display());
            let to = format!("docker://{app}:saved");
            let mut copy = tool("skopeo");
            copy.args(["--insecure-policy", "copy", "--quiet", "--all", "--preserve-digests"]);
            run(copy.args(["--dest-tls-verify=false", &from, &to])).ok();
            assert_eq!(digest_of(&registry, "app:saved"), sent);
        }
        // Whoever loads one has the index, too.
        let loaded = Home::new();
        out(&home, "save", &[&name, "-o", &at("archive").display().to_string()]);
        out(&loaded, "load", &["-i", &at("archive").display().to_string()]);
        out(&loaded, "push", &["-q", &name]);
        assert_eq!(digest_of(&registry, &format!("app:{tag}")), told);
        out(&loaded, "save", &[&name, "-o", &at("again").display().to_string()]);
        assert!(fs::read(at("archive")).expect("read") == fs::read(at("again")).expect("read"));
        // An archive has what is said of the index, and Docker's list in it one image.
        let file = |name: &str| -> Value {
            out(&home, "save", &[&format!("{app}@{told}"), "-o", &at("archive").display().to_string()]);
            let text = run(tool("tar").arg("-xOf").arg(at("archive")).arg(name)).ok().stdout;
            serde_json::from_str(&text).expect("JSON")
        };
        let entry = &file("index.json")["manifests"][0];
        assert_eq!(entry["digest"], told.as_str());
        assert_eq!(entry["annotations"]["b"] == "of-descriptor", tag == "several", "{entry}");
        assert_eq!(file("manifest.json").as_array().map(Vec::len), Some(1));
        // And it goes.
        assert!(out(&home, "rmi", &["-f", &told]).contains("Untagged: "));
        assert_eq!(out(&home, "images", &["-q"]), "");
        run(home.builder("inspect").arg(&told)).code_is(1).says("there is no image");
    }
}

/// What is said of the manifest of an image without an index stands in an archive.
#[test]
fn what_is_said_of_a_manifest_is_saved() {
    let (home, dir) = (Home::new(), tempdir());
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    let annotation = "--annotation=manifest,manifest-descriptor:a=b";
    run(home.build(&context).args(["-t", "app", annotation])).ok();
    let archive = dir.path().join("archive");
    run(home.builder("save").args(["app", "-o"]).arg(&archive)).ok();
    let index = run(tool("tar").arg("-xOf").arg(&archive).arg("index.json")).ok().stdout;
    let index: Value = serde_json::from_str(&index).expect("JSON");
    assert_eq!(index["manifests"][0]["annotations"]["a"], "b", "{index}");
}

/// A program with a layer of its own.
fn app() -> Context {
    Context::new("FROM busybox\nCOPY message /message\nLABEL kind=test\nCMD [\"cat\", \"/message\"]\n")
        .file("message", "from afar\n")
}

/// Puts the busybox base into a registry.
fn seed(registry: &Registry, name: &str) {
    let from = format!("oci:{}:latest", base("busybox").display());
    let to = format!("docker://{}/{name}", registry.address);
    run(tool("skopeo").args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", &from, &to]))
        .ok();
}

#[test]
fn pushed_and_pulled_back() {
    let registry = Registry::start(None);
    let home = Home::new();
    let name = format!("{}/team/app:1", registry.address);
    let dir = tempdir();
    let metadata = dir.path().join("metadata.json");
    let context = app();
    let done =
        run(home.build(&context).args(["-t", &name, "--push"]).arg("--metadata-file").arg(&metadata)).ok();
    assert!(done.stderr.contains("pushing layers") && done.stderr.contains("pushing manifest for"), "{done}");
    let metadata = json(&metadata);
    assert_eq!(metadata["image.name"], name.as_str());
    let digest = registry.inspect(&["--format={{.Digest}}"], "team/app:1");
    assert_eq!(metadata["containerimage.digest"], digest.trim());
    assert_eq!(metadata["containerimage.descriptor"]["digest"], digest.trim());
    let config: Value = serde_json::from_str(&registry.inspect(&["--config"], "team/app:1")).expect("JSON");
    assert_eq!(config["config"]["Labels"]["kind"], "test");
    // `-t` keeps it here as well.
    assert_eq!(run(home.builder("run").arg(&name)).ok().stdout, "from afar\n");
    // Nothing refers to it: this registry does not know the question, and has no list under a tag.
    let referrers = run(home.builder("image").args(["referrers", &name])).ok().stdout;
    assert_eq!(referrers.split_whitespace().collect::<Vec<_>>(), ["TYPE", "DIGEST", "SIZE"]);
    refer(&registry, "team/app", metadata["containerimage.digest"].as_str().expect("a digest"));
    let referrers = |arguments: &[&str]| {
        run(home.builder("image").args(["referrers", &name]).args(arguments)).ok().stdout
    };
    assert!(referrers(&[]).contains("application/vnd.test.note"), "{}", referrers(&[]));
    assert_eq!(referrers(&["--artifact-type=application/vnd.other"]).lines().count(), 1);
    let listed: Value = serde_json::from_str(&referrers(&["--format=json"])).expect("JSON");
    assert!(
        listed.to_string().contains(metadata["containerimage.digest"].as_str().expect("a digest")),
        "{listed}"
    );
    // Nobody sends twice what is there.
    let before = registry.count("\"POST ");
    run(home.build(&context).args(["-t", &name, "--push"])).ok();
    assert_eq!(registry.count("\"POST "), before, "{:#?}", registry.requests());
    let other = Home::new();
    let pulled = run(other.builder("pull").arg(&name)).ok();
    assert!(pulled.stdout.contains(&name), "{pulled}");
    assert_eq!(run(other.builder("run").arg(&name)).ok().stdout, "from afar\n");
}

/// Lists the image itself as what refers to it, under the tag that is for registries that do not know the question (distribution-spec,
/// "Referrers Tag Schema").
fn refer(registry: &Registry, repository: &str, digest: &str) {
    let image = registry.manifest("team/app:1");
    let size = registry.inspect(&["--raw"], "team/app:1").len();
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": image["mediaType"], "digest": digest, "size": size, "artifactType": "application/vnd.test.note",
        }],
    });
    let index = index.to_string();
    let mut stream = std::net::TcpStream::connect(&registry.address).expect("connect");
    write!(
        stream,
        "PUT /v2/{repository}/manifests/{} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: \
         application/vnd.oci.image.index.v1+json\r\nContent-Length: {}\r\n\r\n{index}",
        digest.replace(':', "-"),
        registry.address,
        index.len()
    )
    .expect("send");
    let answer = std::io::read_to_string(stream).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}

#[test]
fn several_names_send_each_layer_once() {
    let registry = Registry::start(None);
    let home = Home::new();
    let names = ["a/app:1", "a/app:2", "b/app:1"].map(|name| format!("{}/{name}", registry.address));
    let context = app();
    let mut build = home.build(&context);
    for name in &names {
        build.args(["-t", name]);
    }
    run(build.args(["-o", "type=image,push=true"])).ok();
    let digests =
        ["a/app:1", "a/app:2", "b/app:1"].map(|name| registry.inspect(&["--format={{.Digest}}"], name));
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    // Two layers and a config went to the first, none to the second; the third had them mounted.
    let sent = registry.requests();
    let puts = sent.iter().filter(|line| line.contains("\"PUT ") && line.contains("/blobs/uploads/")).count();
    assert_eq!(puts, 3, "{sent:#?}");
    assert_eq!(registry.count("\"POST /v2/b/app/blobs/uploads/?mount="), 3, "{sent:#?}");
}

#[test]
fn by_digest_there_is_no_tag() {
    let registry = Registry::start(None);
    let home = Home::new();
    let context = app();
    let output =
        format!("type=image,name={}/app,push-by-digest=true,name-canonical=true,push=true", registry.address);
    let dir = tempdir();
    let metadata = dir.path().join("metadata.json");
    run(home.build(&context).args(["-o", &output]).arg("--metadata-file").arg(&metadata)).ok();
    let digest = json(&metadata)["containerimage.digest"].as_str().expect("a digest").to_owned();
    registry.manifest(&format!("app@{digest}"));
    assert_eq!(registry.count("\"PUT /v2/app/manifests/latest"), 0);
    assert!(run(home.builder("images").arg("-q")).ok().stdout.is_empty(), "nothing is kept under a name");
}

/// Building on an image of the registry that is pushed to moves no layer of it, in neither direction, as long as no step looks into it.
#[test]
fn layers_of_the_base_stay_where_they_are() {
    let registry = Registry::start(None);
    seed(&registry, "library/tool:1");
    for (instructions, new, puts) in
        [("LABEL a=b\n", 0, 1), ("COPY --link --chown=5:6 data /in/\nLABEL c=d\nCOPY --link data /b\n", 2, 3)]
    {
        let before = registry.requests().len();
        let home = Home::new();
        let context = Context::new(&format!(
            "FROM {}/library/tool:1\n{instructions}CMD [\"true\"]\n",
            registry.address
        ))
        .file("data", "data\n");
        let output = format!("type=registry,name={}/mine/tool:2", registry.address);
        run(home.build(&context).args(["-o", &output])).ok();
        let manifest = registry.manifest("mine/tool:2");
        let layers = manifest["layers"].as_array().expect("a list");
        let layer = layers[0]["digest"].as_str().expect("a digest");
        let requests = registry.requests().split_off(before);
        let of_layer: Vec<&String> = requests
            .iter()
            .filter(|line| line.contains(&layer.replace(':', "%3A")) || line.contains(layer))
            .collect();
        assert!(!of_layer.iter().any(|line| line.contains("\"GET ")), "{instructions}{requests:#?}");
        let is_put = |line: &&String| line.contains("\"PUT ") && line.contains("/blobs/");
        assert_eq!(requests.iter().filter(is_put).count(), puts, "{instructions}{requests:#?}");
        assert_eq!(layers.len(), 1 + new, "{instructions}{manifest:#}");
        // It is found again without the image.
        let again = run(home.build(&context).args(["-o", &output, "--progress=plain"])).ok();
        assert!(!again.stderr.contains("not cached"), "{again}");
        assert!(again.stderr.matches("CACHED").count() >= new, "{again}");
        let (name, other) = (format!("{}/mine/tool:2", registry.address), Home::new());
        run(other.builder("pull").arg(&name)).ok();
        let pulled = run(other.builder("run").args([&name, "sh", "-c", "stat -c %u:%g /in/data /b; cat /b"]));
        assert_eq!(pulled.stdout, if new == 2 { "5:6\n0:0\ndata\n" } else { "" }, "{pulled}");
    }
}

/// An archive wants the bytes of the base and no step its files: each blob is fetched once, and nothing is unpacked.
#[test]
fn layers_that_only_an_export_wants_are_not_unpacked() {
    let registry = Registry::start(None);
    let (home, dir) = (Home::new(), tempdir());
    // Two layers, so that one of them alone would be noticed.
    let name = format!("{}/two:1", registry.address);
    run(Home::new().build(&app()).args(["-t", &name, "--push"])).ok();
    let layers = registry.manifest("two:1")["layers"].clone();
    let layers = layers.as_array().expect("a list");
    assert_eq!(layers.len(), 2);
    let before = registry.requests().len();
    let context = Context::new(&format!("FROM {name}\nLABEL a=b\n"));
    let (layout, timings) = (dir.path().join("layout"), dir.path().join("timings.json"));
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    run(home.build(&context).args(["-o", &output]).arg(format!("--timings={}", timings.display()))).ok();
    let requests = registry.requests().split_off(before);
    for layer in layers {
        let digest = layer["digest"].as_str().expect("a digest");
        let is_get = |line: &&String| line.contains("\"GET ") && line.contains(&format!("/blobs/{digest}"));
        assert_eq!(requests.iter().filter(is_get).count(), 1, "{digest}: {requests:#?}");
    }
    let image = Image::open(layout, None);
    assert_eq!(image.manifest["layers"].as_array().expect("a list")[..], layers[..]);
    assert!(!json(&timings)["spans"].to_string().contains("unpack"), "{:#}", json(&timings));
    let unpacked = std::fs::read_dir(home.path().join("snapshots-v1")).map_or(0, Iterator::count);
    assert_eq!(unpacked, 0, "directories of layers");
    // So that none means something.
    let files = format!("type=local,dest={}", dir.path().join("files").display());
    run(home.build(&context).args(["-o", &files])).ok();
    assert!(std::fs::read_dir(home.path().join("snapshots-v1")).expect("list").count() > 0);
    assert_eq!(
        registry.count("\"GET /v2/two/blobs/sha256:"),
        3,
        "nor again for that: {:#?}",
        registry.requests()
    );
}

/// `store=false`: what is pushed is not kept.
#[test]
fn what_is_not_to_be_kept_is_pushed_alone() {
    let registry = Registry::start(None);
    let (home, context) = (Home::new(), app());
    let name = format!("{}/app:1", registry.address);
    let output = format!("type=image,name={name},push=true,store=false");
    run(home.build(&context).args(["-o", &output])).ok();
    assert_eq!(registry.manifest("app:1")["layers"].as_array().map(Vec::len), Some(2));
    let images = |home: &Home| run(home.builder("images").arg("-q")).ok().stdout;
    assert_eq!(images(&home), "");
    run(home.build(&context).args(["-o", &output.replace("false", "true")])).ok();
    assert_eq!(images(&home).lines().count(), 1, "and otherwise it is");
}

#[test]
fn the_image_of_the_store_is_pushed_as_it_is() {
    let registry = Registry::start(None);
    let home = Home::new();
    let name = format!("{}/app:1", registry.address);
    let context = app();
    run(home.build(&context).args(["-t", &name])).ok();
    let done = run(home.builder("push").arg(&name)).ok();
    let digest = registry.inspect(&["--format={{.Digest}}"], "app:1");
    assert!(done.stdout.contains(digest.trim()), "{done}");
    run(home.builder("push").arg("127.0.0.1:1/none")).code_is(1).says("there is no image 127.0.0.1:1/none");
    // What was pulled goes on with the same bytes, whoever made it.
    seed(&registry, "foreign:1");
    let foreign = format!("{}/foreign:1", registry.address);
    let copy = format!("{}/copy:1", registry.address);
    run(home.builder("pull").arg(&foreign)).ok();
    run(home.builder("tag").args([&foreign, &copy])).ok();
    run(home.builder("push").args(["--quiet", &copy])).ok();
    let digest = |name| registry.inspect(&["--format={{.Digest}}"], name);
    assert_eq!(digest("foreign:1"), digest("copy:1"));
}

#[test]
fn logins() {
    let registry = Registry::start(Some(("ada", "love:lace")));
    let home = Home::new();
    let config = tempdir();
    let builder = |command: &str| {
        let mut builder = home.builder(command);
        builder.env("DOCKER_CONFIG", config.path());
        builder
    };
    let name = format!("{}/app:1", registry.address);
    let context = app();
    let build = || {
        let mut build = home.build(&context);
        build.env("DOCKER_CONFIG", config.path()).args(["-t", &name, "--push"]);
        build
    };
    run(&mut build())
        .code_is(1)
        .says(&format!("cannot push {name}: it needs a login: there is none for {} in ", registry.address))
        .says(&format!("`builder login {}` stores a login", registry.address))
        .says("the right to write to the repository app");
    let login = |password: &str| {
        let mut login = tool("sh");
        login
            .arg("-c")
            .arg("printf '%s\\n' \"$PASSWORD\" | \"$BUILDER\" login -u ada --password-stdin \"$SERVER\"");
        login.env("PASSWORD", password).env("BUILDER", e2e::binary()).env("SERVER", &registry.address);
        login.env("DOCKER_CONFIG", config.path()).env("BUILDER_HOME", home.path());
        run(&mut login)
    };
    fs::write(config.path().join("config.json"), "{\n\t\"mine\": 1,\n\t\"auths\": {}\n}").expect("write");
    let wrong = login("wrong").code_is(1);
    assert!(!wrong.stderr.contains("wrong\n"), "{wrong}");
    assert_eq!(json(&config.path().join("config.json"))["auths"], serde_json::json!({}));
    let done = login("love:lace").ok();
    assert!(!done.stdout.contains("lace") && !done.stderr.contains("lace"), "{done}");
    let written = json(&config.path().join("config.json"));
    assert_eq!(written["mine"], 1, "what others wrote stays");
    assert!(written["auths"][&registry.address]["auth"].is_string(), "{written}");
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(config.path().join("config.json")).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    run(&mut build()).ok();
    // Docker's own clients read it.
    run(tool("skopeo")
        .args(["--insecure-policy", "inspect", "--tls-verify=false", "--authfile"])
        .arg(config.path().join("config.json"))
        .arg(format!("docker://{name}")))
    .ok();
    run(builder("logout").arg(&registry.address)).ok();
    assert!(json(&config.path().join("config.json"))["auths"][&registry.address].is_null());
    run(builder("push").arg(&name)).code_is(1).says("builder login");
}

#[test]
fn a_credential_helper_is_used() {
    use std::os::unix::fs::PermissionsExt;
    let registry = Registry::start(Some(("ada", "lovelace")));
    let dir = tempdir();
    // As Docker's helpers: the command is the argument, what it needs comes on standard input.
    let helper = dir.path().join("docker-credential-filed");
    let script = "#!/bin/sh\nf=\"$(dirname \"$0\")/stored\"\ncase $1 in\nstore) cat > \"$f\";;\n\
                  get) cat > /dev/null; if [ -e \"$f\" ]; then cat \"$f\"; else echo 'credentials not found in native keychain'; exit 1; fi;;\n\
                  erase) cat > /dev/null; rm -f \"$f\";;\nesac\n";
    fs::write(&helper, script).expect("write the helper");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("make it executable");
    fs::write(dir.path().join("config.json"), r#"{"credsStore": "filed"}"#).expect("write");
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap_or_default());
    let home = Home::new();
    let with = |command: &str| {
        let mut builder = home.builder(command);
        builder.env("DOCKER_CONFIG", dir.path()).env("PATH", &path);
        builder
    };
    run(with("login").args(["-u", "ada", "-p", "lovelace", &registry.address])).ok();
    let stored = json(&dir.path().join("stored"));
    assert_eq!((&stored["Username"], &stored["Secret"]), (&"ada".into(), &"lovelace".into()));
    let text = fs::read_to_string(dir.path().join("config.json")).expect("the configuration");
    assert!(!text.contains("\"auth\""), "the helper keeps it: {text}");
    let name = format!("{}/app:1", registry.address);
    let context = app();
    run(home
        .build(&context)
        .args(["-t", &name, "--push"])
        .env("DOCKER_CONFIG", dir.path())
        .env("PATH", &path))
    .ok();
    run(with("logout").arg(&registry.address)).ok();
    assert!(!dir.path().join("stored").exists());
}

#[test]
fn loaded_into_a_daemon() {
    let docker = Docker::start();
    let home = Home::new();
    let context = app();
    let dir = tempdir();
    let iid = dir.path().join("iid");
    run(home
        .build(&context)
        .args(["-t", "loaded:1", "-t", "loaded:2", "--load"])
        .arg("--iidfile")
        .arg(&iid)
        .env("DOCKER_HOST", docker.host()))
    .ok()
    .says("sending to unix://");
    for name in ["loaded:1", "loaded:2"] {
        let id = run(docker.command().args(["image", "inspect", "--format={{.Id}}", name])).ok().stdout;
        assert_eq!(id.trim(), fs::read_to_string(&iid).expect("the iidfile").trim());
    }
    let out = run(docker.command().args(["run", "--rm", "--network=none", "loaded:1"])).ok().stdout;
    assert_eq!(out, "from afar\n");
    // What is there is not sent again: it gets its names.
    let again = ["-t", "loaded:1", "-t", "again:4", "--load"];
    run(home.build(&context).args(again).env("DOCKER_HOST", docker.host())).ok();
    for name in ["loaded:1", "again:4"] {
        let id = run(docker.command().args(["image", "inspect", "--format={{.Id}}", name])).ok().stdout;
        assert_eq!(id.trim(), fs::read_to_string(&iid).expect("the iidfile").trim());
    }
    // Of a changed one only what is new is sent, also when it has a layer twice or has lost one.
    for (number, dockerfile) in [
        "FROM busybox\nCOPY message /message\nCOPY added /added\nCMD [\"cat\", \"/message\", \"/added\"]\n",
        "FROM busybox\nCOPY message /message\nCOPY added /added\nRUN rm /message && echo other > /message\nCMD [\"cat\", \"/message\", \"/added\"]\n",
    ]
    .iter()
    .enumerate()
    {
        let changed = Context::new(dockerfile).file("message", "from afar\n").file("added", "more\n");
        run(home.build(&changed).args(["-t", "loaded:1", "--load"]).env("DOCKER_HOST", docker.host()))
            .ok()
            .says(&format!(", which has {} of {} layers", number + 2, number + 3));
        let out = run(docker.command().args(["run", "--rm", "--network=none", "loaded:1"])).ok().stdout;
        assert_eq!(out, ["from afar\nmore\n", "other\nmore\n"][number]);
    }
    // Without any archive in between, and under a name of its own.
    run(home.build(&context).args(["-o", "type=docker,name=own:3"]).env("DOCKER_HOST", docker.host())).ok();
    run(docker.command().args(["image", "inspect", "own:3"])).ok();
}

/// A context, made by Docker's own client, says which daemon is meant: named in the output, in the environment, or chosen with `docker context use`.
#[test]
fn a_context_names_the_daemon() {
    let (docker, config, home) = (Docker::start(), tempdir(), Home::new());
    let client = |arguments: &[&str]| {
        run(tool("docker").args(arguments).env("DOCKER_CONFIG", config.path()).env_remove("DOCKER_HOST"))
            .ok();
    };
    client(&["context", "create", "near", "--docker", &format!("host={}", docker.host())]);
    let there = |name: &str| run(docker.command().args(["image", "inspect", name])).code == Some(0);
    let context = app();
    let build = |name: &str, output: &str| {
        let mut build = home.build(&context);
        build.args(["-t", name, "-o", output]).env("DOCKER_CONFIG", config.path());
        build.env_remove("DOCKER_HOST").env_remove("DOCKER_CONTEXT");
        build
    };
    run(&mut build("named:1", "type=docker,context=near")).ok();
    assert!(there("named:1"));
    run(build("chosen:1", "type=docker").env("DOCKER_CONTEXT", "near")).ok();
    assert!(there("chosen:1"));
    client(&["context", "use", "near"]);
    run(&mut build("used:1", "type=docker")).ok();
    assert!(there("used:1"));
    // The address itself counts more than what was chosen, as Docker has it.
    let nowhere = format!("unix://{}", config.path().join("nothing").display());
    run(build("x", "type=docker").env("DOCKER_HOST", &nowhere)).code_is(1).says(&nowhere);
    run(&mut build("x", "type=docker,context=far"))
        .code_is(2)
        .says("Docker context far: there is no such context");
}

#[test]
fn without_a_daemon_it_is_said() {
    need_root();
    let home = Home::new();
    let context = app();
    let dir = tempdir();
    let nowhere = format!("unix://{}", dir.path().join("socket").display());
    run(home.build(&context).args(["-t", "x", "--load"]).env("DOCKER_HOST", &nowhere))
        .code_is(1)
        .says(&nowhere);
    run(home.build(&context).args(["-t", "x", "--load"]).env("DOCKER_HOST", "ssh://h"))
        .code_is(2)
        .says("SSH");
    run(home.build(&context).arg("--push")).code_is(2).says("-t REGISTRY/NAME");
}

#[test]
fn a_mirror_is_asked_first() {
    let (mirror, origin) = (Registry::start(None), Registry::start(None));
    seed(&mirror, "tool:1");
    let name = format!("{}/tool:1", origin.address);
    let variable = ("BUILDER_REGISTRY_MIRRORS", format!("{}=http://{}", origin.address, mirror.address));
    let home = Home::new();
    let context = Context::new(&format!("FROM {name}\nRUN true\n"));
    run(home.build(&context).env(variable.0, &variable.1)).ok();
    assert_eq!(origin.requests().len(), 0, "{:#?}", origin.requests());
    let other = Home::new();
    run(other.builder("pull").arg(&name).env(variable.0, &variable.1)).ok();
    run(other.builder("run").args([&name, "true"])).ok();
    // Nothing is pushed to it.
    run(other.builder("push").arg(&name).env(variable.0, &variable.1)).ok();
    origin.manifest("tool:1");
    run(home.build(&context).env(variable.0, "nonsense").arg("--pull")).code_is(2).says("REGISTRY=MIRROR");
}

/// A daemon that answers requests that begin so, one connection each, and others with "not found"; how they began that came until `last`
/// came so many times, each with its length.
fn daemon_until(
    answers: &'static [(&'static str, &'static str)],
    last: &'static str,
    times: usize,
) -> (String, std::thread::JoinHandle<Vec<(String, usize)>>) {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let host = format!("tcp://127.0.0.1:{}", listener.local_addr().expect("an address").port());
    let serve = move || {
        let mut came = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().expect("a connection");
            let (mut all, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
            // What has no body ends with its head.
            let ends = |all: &[u8]| match all
                .windows(19)
                .any(|some| some.eq_ignore_ascii_case(b"transfer-encoding: "))
            {
                true => all.ends_with(b"0\r\n\r\n"),
                false => all.ends_with(b"\r\n\r\n"),
            };
            while !ends(&all) {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => all.extend_from_slice(&buffer[..read]),
                }
            }
            let line = String::from_utf8_lossy(&all).lines().next().unwrap_or_default().to_owned();
            let answer = answers.iter().find(|(start, _)| line.starts_with(start));
            let (status, body) = answer
                .map_or(("404 Not Found", ""), |(_, answer)| answer.split_once('|').unwrap_or((answer, "")));
            let length = body.len();
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).expect("answer");
            came.push((line, all.len()));
            if came.iter().filter(|(line, _)| line.contains(last)).count() == times {
                return came;
            }
        }
    };
    (host, std::thread::spawn(serve))
}

/// The same, until `last` came once; without the lengths.
fn daemon(
    answers: &'static [(&'static str, &'static str)],
    last: &'static str,
) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let (host, server) = daemon_until(answers, last, 1);
    let lines = move || server.join().expect("the server").into_iter().map(|(line, _)| line).collect();
    (host, std::thread::spawn(lines))
}

/// Layers that a daemon has are left out, but not of one that would take an image without them; what it then refuses it gets whole.
#[test]
fn layers_that_the_daemon_has_are_left_out() {
    let (home, context) = (Home::new(), app());
    run(home.build(&context).args(["-t", "x"])).ok();
    let inspect = run(home.builder("inspect").arg("x")).ok().stdout;
    let inspect: serde_json::Value = serde_json::from_str(&inspect).expect("JSON");
    let layers = inspect[0]["RootFS"]["Layers"].as_array().expect("layers").clone();
    let there =
        serde_json::json!({ "Id": "sha256:old", "RootFS": { "Type": "layers", "Layers": layers[..1] } });
    let there: &str = format!("200 OK|{there}").leak();
    let own = r#"200 OK|{"Driver":"overlay2","DriverStatus":[["Backing Filesystem","extfs"]]}"#;
    let containerd =
        r#"200 OK|{"Driver":"overlayfs","DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]]}"#;
    let load = |info: &'static str, answer: &'static str, times: usize| {
        let answers = [
            ("GET /info", info),
            ("GET /images/json", r#"200 OK|[{"Id":"sha256:old"}]"#),
            ("GET /images/sha256:old/json", there),
            ("POST /images/load", answer),
        ];
        let (host, server) = daemon_until(Vec::from(answers).leak(), "/images/load", times);
        let done = run(home.build(&context).args(["-t", "x", "--load"]).env("DOCKER_HOST", &host));
        let came = server.join().expect("the server");
        let sent: Vec<usize> =
            came.iter().filter(|(line, _)| line.contains("/load")).map(|(_, length)| *length).collect();
        (done, sent)
    };
    let (done, few) = load(own, "200 OK", 1);
    done.ok().says(&format!(", which has 1 of {} layers", layers.len()));
    let (done, all) = load(containerd, "200 OK", 1);
    done.ok();
    assert!(few[0] * 4 < all[0], "{few:?} {all:?}");
    let (done, both) = load(own, "500 No|{\"message\":\"no such file\"}", 2);
    done.code_is(1).says("refuses the image: no such file");
    assert!(both[0] * 4 < both[1], "{both:?}");
}

/// What a daemon has is not sent to it again: it gets its names.
#[test]
fn an_image_that_the_daemon_has_is_not_sent() {
    let (home, context) = (Home::new(), app());
    let answers = &[("GET /images/sha256:", "200 OK|{}"), ("POST /images/sha256:", "201 Created")];
    let (host, server) = daemon(answers, "tag=last");
    let names = ["-t", "x", "-t", "r.example:5000/team/y:last", "--load"];
    run(home.build(&context).args(names).env("DOCKER_HOST", &host)).ok();
    let came = server.join().expect("the server");
    let id = run(home.builder("images").args(["-q", "--no-trunc", "x"])).ok().stdout.trim().to_owned();
    let tag = |query: &str| format!("POST /images/{id}/tag?{query} HTTP/1.1");
    let wanted = [
        format!("GET /images/{id}/json HTTP/1.1"),
        tag("repo=x&tag=latest"),
        tag("repo=r.example%3A5000%2Fteam%2Fy&tag=last"),
    ];
    assert_eq!(came, wanted);
}

/// A registry that breaks off, and a daemon that does not take what it is sent.
#[test]
fn what_fails_is_said() {
    let (home, context) = (Home::new(), app());
    // An error of a daemon that has no room.
    let answers =
        &[("POST /images/load", r#"200 OK|{"errorDetail":{"message":"no room"},"error":"no room"}"#)];
    let (host, server) = daemon(answers, "/images/load");
    run(home.build(&context).args(["-t", "x", "--load"]).env("DOCKER_HOST", &host))
        .code_is(1)
        .says("refuses the image: no room");
    let came = server.join().expect("the server");
    assert_eq!(came.last().expect("a request"), "POST /images/load?quiet=1 HTTP/1.1");
    // Nobody there.
    let place = host.replace("tcp://", "");
    run(home.build(&context).args(["-t", &format!("{place}/x"), "--push"])).code_is(1).says("cannot push");
}

/// Plain HTTP is for this machine, and for those of which it is said. (A network of its own has an address that is not the loopback's.)
#[test]
fn a_registry_without_a_certificate_has_to_be_allowed() {
    need_root();
    let dir = tempdir();
    let at = |name: &str| dir.path().join(name);
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
         http: {{addr: \"192.0.2.1:5000\", secret: test}}\n",
        at("data").display()
    );
    fs::write(at("config.yml"), config).expect("write the configuration");
    let (home, context) = (Home::new(), Context::new("FROM scratch\nCOPY Dockerfile /\n"));
    let script = "\
ip link set lo up && ip address add 192.0.2.1/32 dev lo || exit 99
docker-registry serve \"$1\" >\"$1.log\" 2>&1 & registry=$!
trap 'kill $registry' EXIT
build() { \"$2\" build --progress=plain -o \"type=registry,name=192.0.2.1:5000/app:1$1\" \"$3\"; }
tries=0; until build ,registry.insecure=true \"$2\" \"$3\" 2>/dev/null; do tries=$((tries + 1)); [ $tries = 100 ] && exit 98; sleep 0.1; done
build '' \"$2\" \"$3\" 2>&1 && exit 97
\"$2\" pull 192.0.2.1:5000/app:1 2>/dev/null && exit 96
BUILDER_INSECURE_REGISTRIES=192.0.2.1:5000 \"$2\" pull -q 192.0.2.1:5000/app:1";
    let mut all = tool("unshare");
    all.args(["--net", "sh", "-c", script, "sh"]).arg(at("config.yml")).arg(e2e::binary());
    let done = run(all.arg(context.path()).env("BUILDER_HOME", home.path())).ok();
    assert!(done.stdout.ends_with("\n192.0.2.1:5000/app:1\n"), "{done}");
    assert!(done.stdout.contains("192.0.2.1:5000: ") && done.stdout.contains("ERROR"), "{done}");
}
