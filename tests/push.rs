//! Images on their way to registries and daemons.

use std::fs;

use e2e::{Context, Docker, Home, Registry, base, json, need_root, run, tempdir, tool};
use serde_json::Value;

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
    // Nobody sends twice what is there.
    let before = registry.count("\"POST ");
    run(home.build(&context).args(["-t", &name, "--push"])).ok();
    assert_eq!(registry.count("\"POST "), before, "{:#?}", registry.requests());
    let other = Home::new();
    let pulled = run(other.builder("pull").arg(&name)).ok();
    assert!(pulled.stdout.contains(&name), "{pulled}");
    assert_eq!(run(other.builder("run").arg(&name)).ok().stdout, "from afar\n");
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

/// Building on an image of the registry that is pushed to moves no layer of it, in neither direction.
#[test]
fn layers_of_the_base_stay_where_they_are() {
    let registry = Registry::start(None);
    seed(&registry, "library/tool:1");
    let before = registry.requests().len();
    let home = Home::new();
    let context =
        Context::new(&format!("FROM {}/library/tool:1\nLABEL a=b\nCMD [\"true\"]\n", registry.address));
    let output = format!("type=registry,name={}/mine/tool:2", registry.address);
    run(home.build(&context).args(["-o", &output])).ok();
    let manifest = registry.manifest("mine/tool:2");
    let layer = manifest["layers"][0]["digest"].as_str().expect("a digest");
    let requests = registry.requests().split_off(before);
    let of_layer: Vec<&String> = requests
        .iter()
        .filter(|line| line.contains(&layer.replace(':', "%3A")) || line.contains(layer))
        .collect();
    assert!(!of_layer.iter().any(|line| line.contains("\"GET ")), "{requests:#?}");
    let puts = requests.iter().filter(|line| line.contains("\"PUT ") && line.contains("/blobs/")).count();
    assert_eq!(puts, 1, "only the config is sent: {requests:#?}");
    assert_eq!(
        run(Home::new().builder("pull").arg(format!("{}/mine/tool:2", registry.address))).ok().code,
        Some(0)
    );
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
    run(&mut build()).code_is(1).says("builder login");
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
    // Without any archive in between, and under a name of its own.
    run(home.build(&context).args(["-o", "type=docker,name=own:3"]).env("DOCKER_HOST", docker.host())).ok();
    run(docker.command().args(["image", "inspect", "own:3"])).ok();
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

/// A registry that breaks off, and a daemon that does not take what it is sent.
#[test]
fn what_fails_is_said() {
    use std::io::{Read, Write};
    let home = Home::new();
    let context = app();
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    // Every connection is answered with an error of a daemon that has no room.
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut buffer = vec![0; 1 << 16];
        let mut all = Vec::new();
        while !all.ends_with(b"0\r\n\r\n") {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(read) => all.extend_from_slice(&buffer[..read]),
            }
        }
        let body = r#"{"errorDetail":{"message":"no room"},"error":"no room"}"#;
        let answer =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).expect("answer");
        all
    });
    let host = format!("tcp://127.0.0.1:{port}");
    run(home.build(&context).args(["-t", "x", "--load"]).env("DOCKER_HOST", &host))
        .code_is(1)
        .says("refuses the image: no room");
    let sent = server.join().expect("the server");
    assert!(sent.starts_with(b"POST /images/load?quiet=1 HTTP/1.1\r\n"));
    // Nobody there.
    run(home.build(&context).args(["-t", &format!("127.0.0.1:{port}/x"), "--push"]))
        .code_is(1)
        .says("cannot push");
}
