//! The forms in which images are written: compressions, media types, annotations, several platforms, several outputs at once.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::{
    Context, Docker, Done, Home, Image, Registry, Reply, Repositories, Running, Server, base, eventually,
    json, need_root, run, tempdir, tool,
};
use rustix::process::Signal;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

fn app() -> Context {
    Context::new("FROM busybox\nCOPY big /big\nRUN echo made > /made\n")
        .file("big", "compress me. ".repeat(20_000))
}

/// `-o type=oci` into a layout of its own with further attributes.
fn layout(home: &Home, context: &Context, attributes: &str, arguments: &[&str]) -> Image {
    let dir = tempdir();
    let path = dir.path().join("layout");
    let output = format!("type=oci,tar=false,dest={},{attributes}", path.display());
    run(home.build(context).args(["-o", output.trim_end_matches(',')]).args(arguments)).ok();
    Image::open(path, Some(dir))
}

fn media_types(image: &Image) -> Vec<String> {
    let layers = image.manifest["layers"].as_array().expect("layers");
    layers.iter().map(|layer| layer["mediaType"].as_str().expect("a type").to_owned()).collect()
}

fn size_of_layers(image: &Image) -> u64 {
    let layers = image.manifest["layers"].as_array().expect("layers");
    layers.iter().map(|layer| layer["size"].as_u64().expect("a size")).sum()
}

const OCI: &str = "application/vnd.oci.image.layer.v1.tar";

#[test]
fn compressions() {
    let (home, context) = (Home::new(), app());
    let gzip = layout(&home, &context, "", &[]);
    let plain = layout(&home, &context, "compression=uncompressed", &[]);
    let zstd = layout(&home, &context, "compression=zstd,compression-level=19", &[]);
    let ids = [&gzip, &plain, &zstd].map(|image| image.id().to_owned());
    assert!(ids.iter().all(|id| *id == ids[0]), "the compression is no part of the image: {ids:?}");
    // The base's layer stays as it came, the others are as wanted.
    let base = format!("{OCI}+gzip");
    assert_eq!(media_types(&gzip), [base.as_str(), &base, &base]);
    assert_eq!(media_types(&plain), [base.as_str(), OCI, OCI]);
    assert_eq!(media_types(&zstd), [base.clone(), format!("{OCI}+zstd"), format!("{OCI}+zstd")]);
    let all = layout(&home, &context, "compression=zstd,force-compression=true", &[]);
    assert!(media_types(&all).iter().all(|kind| *kind == format!("{OCI}+zstd")));
    assert_eq!(all.id(), gzip.id());
    let again = layout(&home, &context, "compression=zstd,force-compression=true", &[]);
    assert_eq!(again.digest, all.digest, "what was compressed once is remembered");
    let none = layout(&home, &context, "compression=uncompressed,force-compression=true", &[]);
    assert!(media_types(&none).iter().all(|kind| *kind == OCI));
    none.layers();
    // Levels are heeded, and the same level gives the same bytes in another store.
    let fast = layout(&home, &context, "compression-level=1", &[]);
    assert!(size_of_layers(&fast) > size_of_layers(&gzip));
    let elsewhere = layout(
        &Home::new(),
        &context,
        "compression=zstd,force-compression=true",
        &["--build-arg=SOURCE_DATE_EPOCH=1"],
    );
    let again = layout(
        &Home::new(),
        &context,
        "compression=zstd,force-compression=true",
        &["--build-arg=SOURCE_DATE_EPOCH=1"],
    );
    assert_eq!(elsewhere.digest, again.digest);
    // Others read it: skopeo makes gzip of it, which umoci unpacks to the same tree.
    let dir = tempdir();
    let back = dir.path().join("gzip");
    let from = format!("oci:{}", all.layout.display());
    let to = format!("oci:{}:latest", back.display());
    run(tool("skopeo").args([
        "--insecure-policy",
        "copy",
        "--quiet",
        "--dest-compress-format=gzip",
        &from,
        &to,
    ]))
    .ok();
    let registry = Registry::start(None);
    let name = format!("{}/zstd:1", registry.address);
    let output = format!("type=registry,compression=zstd,force-compression=true,name={name}");
    run(home.build(&context).args(["-o", &output])).ok();
    let mut buildah = tool("buildah");
    buildah.arg("--root").arg(dir.path().join("root")).arg("--runroot").arg(dir.path().join("run"));
    run(buildah.args(["--storage-driver=vfs", "pull", "--quiet", "--tls-verify=false", &name])).ok();
    e2e::unpack(&gzip.layout).same(&e2e::unpack(&back), "the tree of the zstd image");
}

/// A layer of several frames of zstd is one stream to everybody who reads zstd; and what Buildah compresses so is read here.
#[test]
fn frames_are_one_stream_to_everybody() {
    need_root();
    let numbers: String = (0..2_900_000).map(|n| format!("{n}\n")).collect();
    assert!(numbers.len() > 20 << 20);
    let (home, dir, registry) = (Home::new(), tempdir(), Registry::start(None));
    let at = |name: &str| dir.path().join(name);
    let context = Context::new("FROM busybox\nCOPY numbers /\nCMD [\"md5sum\", \"/numbers\"]\n")
        .file("numbers", &numbers);
    let image = layout(&home, &context, "compression=zstd,force-compression=true", &[]);
    let layer = image.manifest["layers"][1]["digest"].as_str().expect("a digest");
    let blob = fs::read(image.layout.join("blobs").join(layer.replace(':', "/"))).expect("a blob");
    let (mut rest, mut frames) = (&blob[..], 0);
    while !rest.is_empty() {
        let mut one = zstd::Decoder::with_buffer(rest).expect("a frame").single_frame();
        std::io::copy(&mut one, &mut std::io::sink()).expect("a frame");
        rest = one.finish();
        frames += 1;
    }
    assert!(frames > 4, "{frames}");
    let name = format!("{}/zstd:1", registry.address);
    let output = format!("type=registry,compression=zstd,force-compression=true,name={name}");
    run(home.build(&context).args(["-o", &output])).ok();

    fs::write(at("auth.json"), "{}").expect("write an empty file of logins");
    let storage = |program: &str, arguments: &[&str]| {
        let mut command = tool(program);
        command.arg("--root").arg(at(program)).arg("--runroot").arg(at(&format!("{program}-run")));
        command.arg("--storage-driver=vfs").env("REGISTRY_AUTH_FILE", at("auth.json"));
        if program == "podman" {
            command
                .arg("--tmpdir")
                .arg(at("tmp"))
                .args(["--cgroup-manager=cgroupfs", "--events-backend=none"]);
        }
        run(command.args(arguments)).ok().stdout.trim().to_owned()
    };
    let same = |root: &Path, who: &str| {
        assert!(fs::read_to_string(root.join("numbers")).is_ok_and(|read| read == numbers), "{who}");
    };
    storage("podman", &["pull", "--quiet", "--tls-verify=false", &name]);
    same(Path::new(&storage("podman", &["image", "mount", &name])), "podman");
    storage("podman", &["image", "unmount", &name]);
    let pulled = storage("buildah", &["pull", "--quiet", "--tls-verify=false", &name]);
    let container = storage("buildah", &["from", &pulled]);
    same(Path::new(&storage("buildah", &["mount", &container])), "buildah");
    // skopeo unpacks it to compress it anew, and umoci what came of that.
    let from = format!("oci:{}", image.layout.display());
    let mut skopeo = tool("skopeo");
    skopeo.args(["--insecure-policy", "copy", "--quiet", "--dest-compress-format=gzip", &from]);
    run(skopeo.arg(format!("oci:{}:latest", at("gzip").display()))).ok();
    let rootfs = at("rootfs");
    let unpacked = format!("{}:latest", at("gzip").display());
    run(tool("umoci").args(["raw", "unpack", "--image", &unpacked]).arg(&rootfs)).ok();
    same(&rootfs, "skopeo and umoci");

    // The other way round.
    let theirs = format!("{}/theirs:1", registry.address);
    let made = storage("buildah", &["commit", "--quiet", &container, "theirs"]);
    let to = format!("docker://{theirs}");
    storage("buildah", &["push", "--quiet", "--tls-verify=false", "--compression-format=zstd", &made, &to]);
    let manifest = registry.manifest("theirs:1");
    assert!(manifest["layers"].to_string().contains("tar+zstd"), "{manifest:#}");
    let other = Home::new();
    run(other.builder("pull").args(["-q", &theirs])).ok();
    let sum = e2e::feed(&mut tool("md5sum"), numbers.as_bytes()).ok().stdout;
    let sum = sum.split(' ').next().expect("a sum");
    assert!(run(other.builder("run").arg(&theirs)).ok().stdout.starts_with(sum));
}

#[test]
fn media_types_of_docker() {
    let (home, context) = (Home::new(), app());
    let docker = layout(&home, &context, "oci-mediatypes=false", &[]);
    assert_eq!(docker.manifest["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    assert_eq!(docker.manifest["config"]["mediaType"], "application/vnd.docker.container.image.v1+json");
    assert!(
        media_types(&docker).iter().all(|kind| kind == "application/vnd.docker.image.rootfs.diff.tar.gzip")
    );
    let registry = Registry::start(None);
    let output = format!("type=registry,oci-mediatypes=false,name={}/app:1", registry.address);
    run(home.build(&context).args(["-o", &output])).ok();
    assert_eq!(registry.manifest("app:1")["mediaType"], docker.manifest["mediaType"]);
    // The same as a layout, in upstream's words.
    let dir = tempdir();
    let path = dir.path().join("layout");
    let output = format!("type=docker,tar=false,name=app:1,dest={}", path.display());
    run(home.build(&context).args(["-o", &output])).ok();
    assert_eq!(Image::open(path, Some(dir)).digest, docker.digest);
    // A base in zstd has no type among Docker's: it is compressed again.
    let zstd = layout(&home, &context, "compression=zstd,force-compression=true,name=base", &[]);
    let named = format!("--build-context=zipped=oci-layout://{}", zstd.layout.display());
    let on_top = Context::new("FROM zipped\nRUN echo x > /x\n");
    let dir = tempdir();
    let archive = dir.path().join("docker.tar");
    let output = format!("type=docker,name=on-zstd:1,dest={}", archive.display());
    run(home.build(&on_top).args([&named, "-o", &output])).ok();
    let docker = Docker::start();
    run(docker.command().arg("load").arg("-i").arg(&archive)).ok();
    let out =
        run(docker.command().args(["run", "--rm", "--network=none", "on-zstd:1", "cat", "/made", "/x"])).ok();
    assert_eq!(out.stdout, "made\nx\n");
}

#[test]
fn annotations_at_every_level() {
    let (home, context) =
        (Home::new(), Context::new("FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /$TARGETARCH\n"));
    let registry = Registry::start(None);
    let name = format!("{}/app:1", registry.address);
    run(home.build(&context).args(["-t", &name, "--push", "--platform=linux/amd64,linux/arm64"]).args([
        "--annotation=Any=all",
        "--annotation=manifest[linux/arm64]:own=arm",
        "--annotation=index,manifest-descriptor:where=both",
        "--annotation=index-descriptor:top=yes",
    ]))
    .ok();
    let index = registry.manifest("app:1");
    assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert_eq!(index["annotations"], serde_json::json!({ "where": "both" }));
    let entries = index["manifests"].as_array().expect("manifests");
    assert_eq!(entries[0]["platform"], serde_json::json!({ "architecture": "amd64", "os": "linux" }));
    assert_eq!(entries[1]["platform"]["architecture"], "arm64");
    let of =
        |entry: &Value| registry.manifest(&format!("app@{}", entry["digest"].as_str().expect("a digest")));
    assert_eq!(of(&entries[0])["annotations"], serde_json::json!({ "Any": "all" }));
    assert_eq!(of(&entries[1])["annotations"], serde_json::json!({ "Any": "all", "own": "arm" }));
    assert!(entries.iter().all(|entry| entry["annotations"] == serde_json::json!({ "where": "both" })));
    // As attributes, of one image, in a layout.
    let one = layout(
        &home,
        &context,
        "annotation.a=1,annotation-manifest-descriptor.b=2,annotation.org.x.Y=3",
        &[],
    );
    assert_eq!(one.manifest["annotations"], serde_json::json!({ "a": "1", "org.x.Y": "3" }));
    assert_eq!(json(&one.layout.join("index.json"))["manifests"][0]["annotations"]["b"], "2");
    // What has no place is refused.
    for (arguments, words) in [
        (vec!["--annotation=index:a=b"], "has no index"),
        (vec!["--annotation=manifest[linux/s390x]:a=b"], "no platform linux/s390x"),
        (vec!["--annotation=layer:a=b"], "annotation place `layer`"),
    ] {
        let done = run(home.build(&context).args(["-t", "x"]).args(&arguments));
        assert!(done.code != Some(0) && done.stderr.contains(words), "{done}");
    }
}

/// Upstream's layout of several platforms, read by others.
#[test]
fn several_platforms() {
    let home = Home::new();
    let context = Context::new(
        "FROM --platform=$BUILDPLATFORM busybox AS make\nARG TARGETARCH\nRUN echo for $TARGETARCH > /name\n\
         FROM scratch\nCOPY --from=make /name /name\n",
    );
    let dir = tempdir();
    let at = |name: &str| dir.path().join(name);
    let platforms = "--platform=linux/amd64,linux/arm64";
    let metadata = at("metadata.json");
    run(home
        .build(&context)
        .args([platforms, "--platform", "linux/arm/v7", "-t", "multi"])
        .args(["-o", &format!("type=oci,dest={}", at("multi.tar").display())])
        .args(["-o", &format!("type=local,dest={}", at("files").display())])
        .args(["-o", &format!("type=tar,dest={}", at("files.tar").display())])
        .arg("--metadata-file")
        .arg(&metadata))
    .ok();
    for (directory, name) in [("linux_amd64", "amd64"), ("linux_arm64", "arm64"), ("linux_arm_v7", "arm")] {
        let file = at("files").join(directory).join("name");
        assert_eq!(fs::read_to_string(file).expect("the file"), format!("for {name}\n"));
    }
    let list = run(tool("tar").arg("-tf").arg(at("files.tar"))).ok().stdout;
    assert!(list.contains("linux_amd64/name") && list.contains("linux_arm_v7/name"), "{list}");
    assert!(json(&metadata)["containerimage.config.digest"].is_null());
    assert_eq!(
        json(&metadata)["containerimage.descriptor"]["mediaType"],
        "application/vnd.oci.image.index.v1+json"
    );
    // skopeo takes all of them into a registry, and finds each.
    let registry = Registry::start(None);
    let from = format!("oci-archive:{}", at("multi.tar").display());
    let to = format!("docker://{}/multi:1", registry.address);
    run(tool("skopeo").args([
        "--insecure-policy",
        "copy",
        "--all",
        "--quiet",
        "--dest-tls-verify=false",
        &from,
        &to,
    ]))
    .ok();
    assert_eq!(registry.manifest("multi:1")["manifests"].as_array().map(Vec::len), Some(3));
    for architecture in ["amd64", "arm64"] {
        let chosen = format!("--override-arch={architecture}");
        let inspect = run(tool("skopeo")
            .args([
                "--insecure-policy",
                &chosen,
                "inspect",
                "--tls-verify=false",
                "--format={{.Architecture}}",
            ])
            .arg(&to))
        .ok();
        assert_eq!(inspect.stdout.trim(), architecture);
    }
    // The store's own push and load of the same.
    let name = format!("{}/own:1", registry.address);
    run(home.builder("tag").args(["multi", &name])).ok();
    run(home.builder("push").arg(&name)).ok();
    assert_eq!(registry.manifest("own:1")["manifests"].as_array().map(Vec::len), Some(3));
    let other = Home::new();
    run(other.builder("load").arg("-i").arg(at("multi.tar"))).ok();
    let rows = run(other.builder("images").args(["--format", "{{.Platform}}"])).ok().stdout;
    assert_eq!(rows, "linux/amd64\nlinux/arm/v7\nlinux/arm64\n");
    // Without directories of their own, files of the same name would be lost.
    run(home.build(&context).args([
        platforms,
        "-o",
        &format!("type=local,platform-split=false,dest={}", at("flat").display()),
    ]))
    .code_is(1)
    .says("name");
    run(home.build(&context).args([platforms, "-o", &format!("type=docker,dest={}", at("x.tar").display())]))
        .code_is(1)
        .says("one platform");
    // One platform alone can be an index too.
    let arguments = [
        "--build-arg=BUILDKIT_MULTI_PLATFORM=1",
        "-o",
        &format!("type=oci,tar=false,dest={}", at("one").display()),
    ];
    run(home.build(&context).args(arguments)).ok();
    let index = json(&at("one").join("index.json"));
    assert_eq!(index["manifests"][0]["mediaType"], "application/vnd.oci.image.index.v1+json");
}

#[test]
fn times() {
    let (home, context) = (Home::new(), app());
    let times = |attributes: &str| -> (Vec<i64>, Value) {
        let image = layout(&home, &context, attributes, &["--build-arg=SOURCE_DATE_EPOCH=1000"]);
        let tars = image.layers();
        let mut archive = tar::Archive::new(tars.last().expect("a layer").as_slice());
        let entries = archive.entries().expect("entries");
        let of = |entry: std::io::Result<tar::Entry<'_, _>>| {
            entry.expect("an entry").header().mtime().expect("a time") as i64
        };
        (entries.map(of).collect(), image.config["created"].clone())
    };
    let (layers, created) = times("");
    assert!(layers.iter().all(|time| *time == 1000), "{layers:?}");
    assert_eq!(created, "1970-01-01T00:16:40Z");
    let (layers, created) = times("rewrite-timestamp=false");
    assert!(layers.iter().any(|time| *time > 1_000_000_000), "{layers:?}");
    assert_eq!(created, "1970-01-01T00:16:40Z");
    let (layers, created) = times("source-date-epoch=60");
    assert!(layers.iter().all(|time| *time == 60), "{layers:?}");
    assert_eq!(created, "1970-01-01T00:01:00Z");
}

#[test]
fn several_outputs_of_one_build() {
    let (home, context) = (Home::new(), app());
    let registry = Registry::start(None);
    let dir = tempdir();
    let at = |name: &str| dir.path().join(name);
    let (metadata, iid) = (at("metadata.json"), at("iid"));
    let mut build = home.build(&context);
    build
        .args(["-o", &format!("type=registry,name={}/app:1", registry.address)])
        .args(["-o", &format!("type=oci,compression=zstd,dest={}", at("zstd.tar").display())])
        .args(["-o", &format!("type=local,dest={}", at("files").display())])
        .args(["-o", "-"])
        .arg("--metadata-file")
        .arg(&metadata)
        .arg("--iidfile")
        .arg(&iid)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let tar = build.output().expect("run builder");
    assert!(tar.status.success());
    let mut names = Vec::new();
    for entry in tar::Archive::new(tar.stdout.as_slice()).entries().expect("a tar on standard output") {
        names.push(entry.expect("an entry").path().expect("a path").into_owned());
    }
    assert!(names.iter().any(|name| name == Path::new("made")), "{names:?}");
    assert_eq!(fs::read_to_string(at("files/made")).expect("the file"), "made\n");
    let config = registry.manifest("app:1")["config"]["digest"].clone();
    assert_eq!(fs::read_to_string(&iid).expect("the iidfile"), config.as_str().expect("a digest"));
    assert_eq!(json(&metadata)["containerimage.config.digest"], config);
    // As upstream: the last image counts, whatever was put into the store.
    let zstd = run(tool("tar").arg("-xOf").arg(at("zstd.tar")).arg("index.json")).ok().stdout;
    let zstd: Value = serde_json::from_str(&zstd).expect("an index");
    assert_eq!(json(&metadata)["containerimage.digest"], zstd["manifests"][0]["digest"]);
    run(home.build(&context).args(["-o", "-", "-o", "type=oci,dest=-"])).code_is(2).says("standard output");
    // What was not in the tree goes.
    fs::write(at("files/stale"), "").expect("write");
    run(home.build(&context).args(["-o", &format!("type=local,mode=delete,dest={}", at("files").display())]))
        .ok();
    assert!(!at("files/stale").exists() && at("files/made").exists());
    // What is no layout is not made one, and that is said before anything is built.
    let output = format!("type=oci,tar=false,dest={}", at("files").display());
    let done = run(home.build(&context).args(["--progress=plain", "-o", &output])).code_is(2);
    assert!(done.says("not an OCI layout").stderr.lines().count() < 3);
    assert!(base("busybox").is_dir());
}

/// What upstream writes: the digest of the config, wherever the image goes; of an index, which has none, its own.
#[test]
fn ids_of_images_that_go_to_a_registry() {
    let (home, context) = (Home::new(), Context::new("FROM scratch\nCOPY Dockerfile /\n"));
    let (registry, dir) = (Registry::start(None), tempdir());
    let (iid, metadata) = (dir.path().join("iid"), dir.path().join("metadata.json"));
    let pushed = |tag: &str, arguments: &[&str]| {
        let name = format!("{}/app:{tag}", registry.address);
        let mut build = home.build(&context);
        build.args(["-o", &format!("type=registry,name={name}"), "-q"]).args(arguments);
        let done = run(build.arg("--iidfile").arg(&iid).arg("--metadata-file").arg(&metadata)).ok();
        let id = fs::read_to_string(&iid).expect("the iidfile");
        assert_eq!(done.stdout.trim(), id);
        (registry.manifest(&format!("app:{tag}")), id)
    };
    let (manifest, id) = pushed("one", &[]);
    assert_eq!(manifest["config"]["digest"], id);
    assert_eq!(json(&metadata)["containerimage.config.digest"], id);
    assert_ne!(json(&metadata)["containerimage.digest"], id);
    let (index, id) = pushed("two", &["--platform=linux/amd64,linux/arm64"]);
    assert_eq!(index["manifests"].as_array().map(Vec::len), Some(2));
    assert_eq!(json(&metadata)["containerimage.digest"], id);
    assert!(json(&metadata)["containerimage.config.digest"].is_null());
    // A build that fails leaves no id of an earlier one, and takes nothing away that is no file.
    context.write("Dockerfile", "FROM scratch\nCOPY missing /\n");
    run(home.build(&context).arg("--iidfile").arg(&iid)).code_is(1);
    assert!(!iid.exists());
    fs::write(&iid, "old").expect("write");
    context.write("Dockerfile", "FORM scratch\n");
    run(home.build(&context).arg("--iidfile").arg(&iid)).code_is(1);
    assert!(!iid.exists());
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&iid, &link).expect("make a link");
    run(home.build(&context).arg("--iidfile").arg(&link)).code_is(1);
    assert!(link.is_symlink());
}

/// Where an image comes from, as SLSA provenance v0.2 has it, in the words of `docker buildx build --metadata-file`.
#[test]
fn metadata_says_where_an_image_comes_from() {
    let (home, registry, dir) = (Home::new(), Registry::start(None), tempdir());
    let at = |name: &str| dir.path().join(name);
    let metadata = at("metadata.json");
    let base = format!("{}/team/base:7", registry.address);
    run(home.build(&app()).args(["-t", &base, "--push", "-q"]).arg("--metadata-file").arg(&metadata)).ok();
    let digest = json(&metadata)["containerimage.digest"].as_str().expect("a digest").to_owned();
    let files = Server::start(|_| Reply::new(200, "from afar\n"));
    let repositories = Repositories::new();
    let (_daemon, git) = repositories.daemon();
    let dockerfile = format!(
        "FROM {base} AS base\nFROM busybox AS unused\nFROM base AS wanted\nARG API_TOKEN VERSION\n\
         ADD {} /file\nCOPY file /added\nCOPY --from=extra f /f\n\
         RUN --mount=type=secret,id=npmrc --mount=type=secret,id=must,required true\n",
        files.url("/file")
    );
    fs::write(repositories.app().join("Dockerfile"), dockerfile).expect("write");
    let commit = repositories.edit("changed\n");
    fs::create_dir(at("extra")).expect("make a directory");
    fs::write(at("extra/f"), "").expect("write");
    fs::write(at("must"), "a secret value").expect("write");
    let context = format!("{git}/app.git#main");
    let built = |mode: &str, arguments: &[&str]| -> (Value, String) {
        let mut build = home.build(arguments[0]);
        build.args(&arguments[1..]);
        build.env("BUILDX_METADATA_PROVENANCE", mode).arg("--metadata-file").arg(&metadata);
        run(&mut build).ok();
        (json(&metadata), fs::read_to_string(&metadata).expect("the file"))
    };
    let extra = format!("--build-context=extra={}", at("extra").display());
    let secret = format!("--secret=id=must,src={}", at("must").display());
    let arguments = [
        context.as_str(),
        "--target=wanted",
        &extra,
        &secret,
        "--build-arg=API_TOKEN=a-hidden-value",
        "--build-arg=VERSION=of a-hidden-value",
        "--label=a=b",
        "--network=none",
    ];
    let (metadata, text) = built("", &arguments);
    let architecture = std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64");
    let image = format!("pkg:docker/{}/team/base@7?platform=linux%2F{architecture}", registry.address);
    let mut provenance = metadata["buildx.build.provenance"].clone();
    // Where the tests' base images are.
    let given = provenance.pointer_mut("/invocation/parameters/args").and_then(Value::as_object_mut);
    given.expect("arguments").retain(|name, _| name != "context:busybox" && name != "context:debian");
    let expected = serde_json::json!({
        "builder": { "id": "" },
        "buildType": "https://mobyproject.org/buildkit@v1",
        "materials": [
            { "uri": context, "digest": { "sha1": commit } },
            { "uri": files.url("/file"), "digest": { "sha256": hex(b"from afar\n") } },
            { "uri": image, "digest": { "sha256": digest.trim_start_matches("sha256:") } },
        ],
        "invocation": {
            "configSource": { "uri": context, "digest": { "sha1": commit }, "entryPoint": "Dockerfile" },
            "parameters": {
                "frontend": "dockerfile.v0",
                "args": {
                    "build-arg:API_TOKEN": "***", "build-arg:VERSION": "of ***", "context:extra": "local:extra",
                    "force-network-mode": "none", "label:a": "b", "target": "wanted",
                },
                "secrets": [{ "id": "must" }, { "id": "npmrc", "optional": true }],
                "locals": [{ "name": "extra" }],
            },
            "environment": { "platform": format!("linux/{architecture}") },
        },
    });
    assert_eq!(provenance, expected, "{provenance:#}");
    assert!(!text.contains("a-hidden-value") && !text.contains("a secret value"), "{text}");
    // More, less, and one for each platform.
    let (metadata, text) = built("max", &arguments);
    let more = &metadata["buildx.build.provenance"]["metadata"];
    assert_eq!(more["buildInvocationID"], metadata["buildx.build.ref"]);
    assert!(more["buildStartedOn"].as_str() < more["buildFinishedOn"].as_str());
    let complete = serde_json::json!({ "parameters": false, "environment": true, "materials": false });
    assert_eq!(more["completeness"], complete);
    assert_eq!(more["https://mobyproject.org/buildkit@v1#hermetic"], false);
    assert!(!text.contains("a-hidden-value"), "{text}");
    for off in ["disabled", "false", "0"] {
        assert!(!built(off, &arguments).1.contains("provenance"));
    }
    let both = Context::new("FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /$TARGETARCH\n");
    run(home.build(&both).args(["-t", &base, "--push", "-q", "--platform=linux/amd64,linux/arm64"])).ok();
    let (metadata, _) =
        built("", &[&context, "--target=base", "--platform=linux/amd64,linux/arm64", "--pull"]);
    let of = |platform: &str| metadata[&format!("buildx.build.provenance/linux/{platform}")].clone();
    let image = |platform: &str| of(platform)["materials"][1].clone();
    assert_eq!(of("arm64")["invocation"]["configSource"]["digest"]["sha1"], commit, "{metadata:#}");
    for (platform, entry) in [("amd64", 0), ("arm64", 1)] {
        let digest = registry.manifest("team/base:7")["manifests"][entry]["digest"].clone();
        let told = image(platform)["digest"]["sha256"].as_str().expect("a digest").to_owned();
        assert_eq!(digest, format!("sha256:{told}"));
        assert!(image(platform)["uri"].as_str().is_some_and(|uri| uri.ends_with(platform)), "{metadata:#}");
    }
    assert!(metadata["buildx.build.provenance"].is_null());
}

/// What is said at the end of a build, in the shape of BuildKit's client; the Dockerfile is that of buildx's own test.
#[test]
fn metadata_has_the_warnings() {
    let (home, dir) = (Home::new(), tempdir());
    let context = Context::new(
        "\nfrOM busybox as base\ncOpy Dockerfile .\nfrom scratch\nCOPy --from=base \\\n  /Dockerfile \\\n  /\n\t",
    );
    let file = dir.path().join("metadata.json");
    let built = |mode: &str, arguments: &[&str]| {
        let mut build = home.build(&context);
        run(build.args(arguments).arg("--metadata-file").arg(&file).env("BUILDX_METADATA_WARNINGS", mode))
            .ok();
        json(&file)["buildx.build.warnings"].clone()
    };
    for off in ["", "false", "maybe"] {
        assert!(built(off, &[]).is_null());
    }
    let warnings = built("true", &[]);
    let text = |value: &Value| {
        let bytes = STANDARD.decode(value.as_str().expect("a text"));
        String::from_utf8(bytes.expect("base64")).expect("UTF-8")
    };
    let list = warnings.as_array().expect("a list");
    let shorts: Vec<String> = list.iter().map(|warning| text(&warning["short"])).collect();
    assert_eq!(shorts.len(), 3, "{shorts:?}");
    assert!(shorts.iter().all(|short| short.starts_with("ConsistentInstructionCasing: ")), "{shorts:?}");
    assert!(shorts[2].ends_with(" (line 5)"), "{shorts:?}");
    assert_eq!(list[2]["range"], serde_json::json!([{ "start": { "line": 5 }, "end": { "line": 5 } }]));
    assert_eq!(list[2]["url"], "https://docs.docker.com/go/dockerfile/rule/consistent-instruction-casing/");
    assert!(text(&list[2]["detail"][0]).starts_with("All commands within the Dockerfile"));
    assert_eq!(list[2]["level"], 1);
    let source = fs::read_to_string(context.path().join("Dockerfile")).expect("the Dockerfile");
    assert_eq!(text(&list[2]["sourceInfo"]["data"]), source);
    assert_eq!(list[2]["sourceInfo"]["language"], "Dockerfile");
    // The step's name in `--progress=rawjson`.
    let steps = run(home.build(&context).arg("--progress=rawjson")).ok().stderr;
    assert!(steps.contains(list[2]["vertex"].as_str().expect("a vertex")), "{warnings:#}\n{steps}");
    let unused = built("1", &["--build-arg=UNUSED=1"]);
    assert_eq!(text(&unused[3]["short"]), "One or more build-args [UNUSED] were not consumed");
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `dangling-name-prefix`: a name that stays, whatever is built later under the other one.
#[test]
fn names_by_digest() {
    let (home, context) = (Home::new(), Context::new("FROM scratch\nCOPY Dockerfile /\n"));
    let (registry, dir) = (Registry::start(None), tempdir());
    let metadata = dir.path().join("metadata.json");
    let built = |arguments: &[&str]| {
        run(home.build(&context).args(arguments).arg("--metadata-file").arg(&metadata)).ok();
        let metadata = json(&metadata);
        let text = |key: &str| metadata[key].as_str().unwrap_or_default().to_owned();
        (text("containerimage.digest"), text("image.name"))
    };
    let listed = || -> Vec<String> {
        let rows =
            run(home.builder("images").args(["--digests", "--format={{.Repository}}:{{.Tag}}@{{.Digest}}"]));
        let mut rows: Vec<String> = rows.ok().stdout.lines().map(str::to_owned).collect();
        rows.sort();
        rows
    };
    let only = "type=image,dangling-name-prefix=left/over,danging-name-empty-only=true";
    let (digest, name) = built(&["-o", only]);
    assert_eq!(name, format!("docker.io/left/over@{digest}"));
    assert_eq!(listed(), [format!("left/over:<none>@{digest}")]);
    run(home.builder("inspect").arg(format!("left/over@{digest}"))).ok();
    run(home.builder("rmi").arg(format!("left/over@{digest}"))).ok();
    // Who has a name does not get this one, unless it is for all.
    let (digest, name) = built(&["-t", "app", "-o", only]);
    assert_eq!(name, "docker.io/library/app:latest");
    assert_eq!(listed(), [format!("app:latest@{digest}")]);
    let (digest, name) = built(&["-t", "app", "-o", "type=image,dangling-name-prefix=left/over"]);
    assert_eq!(name, format!("docker.io/library/app:latest,docker.io/left/over@{digest}"));
    context.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /changed\n");
    let (changed, _) = built(&["-t", "app"]);
    assert_eq!(listed(), [format!("app:latest@{changed}"), format!("left/over:<none>@{digest}")]);
    // To a registry, where it is a push by digest.
    let output = format!("type=registry,dangling-name-prefix={}/left/over", registry.address);
    let (pushed, _) = built(&["-o", &output]);
    assert_eq!(registry.manifest(&format!("left/over@{pushed}"))["schemaVersion"], 2);
    assert_eq!(listed().len(), 2);
    // What nerdctl asks for where there is no name, and archives, of which upstream names none so.
    built(&["-o", "type=image,dangling-name-prefix=<none>"]);
    assert_eq!(listed().len(), 2, "it has a name yet");
    run(home.builder("tag").args([&format!("left/over@{digest}"), "app"])).ok();
    assert_eq!(listed()[0], format!("<none>:<none>@{changed}"));
    let archive = dir.path().join("archive");
    let output = format!("type=docker,dangling-name-prefix=<none>,dest={}", archive.display());
    let (_, name) = built(&["-o", &output]);
    assert_eq!(name, "");
    run(home.build(&context).args(["-o", "type=registry,dangling-name-prefix=<none>"]))
        .code_is(2)
        .says("needs to know where to");
}

/// `store`: whether the image is here as well, whatever else becomes of it.
#[test]
fn kept_here_or_not() {
    let (home, context) = (Home::new(), Context::new("FROM scratch\nCOPY Dockerfile /\n"));
    let registry = Registry::start(None);
    let names = ["a", "b", "c", "d", "e"].map(|tag| format!("{}/app:{tag}", registry.address));
    for (name, output) in names.iter().zip([
        "type=image,store=false",
        "type=image,store=false,push=true",
        "type=image,push=true",
        "type=registry",
        "type=registry,store=true",
    ]) {
        run(home.build(&context).args(["-o", &format!("{output},name={name}")])).ok();
    }
    let there = |name: &str| {
        let reference = format!("docker://{name}");
        let mut inspect = tool("skopeo");
        inspect.args(["--insecure-policy", "inspect", "--tls-verify=false", "--raw", &reference]);
        run(&mut inspect).code == Some(0)
    };
    assert_eq!(names.each_ref().map(|name| there(name)), [false, true, true, true, true]);
    let listed = run(home.builder("images").args(["--format={{.Repository}}:{{.Tag}}"])).ok().stdout;
    assert_eq!(names.each_ref().map(|name| listed.contains(name)), [false, false, true, false, true]);
}

/// Docker on containerd's store, of which there is none here: what it says of itself, and what buildx then takes for the id.
#[test]
fn ids_of_images_in_containerds_store() {
    let daemon = Server::start(|request| match request.target.split('?').next() {
        Some(path) if path.ends_with("/info") => Reply::new(
            200,
            r#"{"Driver":"overlayfs","DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]]}"#,
        ),
        Some(path) if path.ends_with("/images/load") => {
            Reply::new(200, r#"{"stream":"Loaded image: app:1"}"#)
        }
        _ => Reply::new(404, r#"{"message":"No such image"}"#),
    });
    let (home, dir) = (Home::new(), tempdir());
    let (iid, metadata) = (dir.path().join("iid"), dir.path().join("metadata.json"));
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    let mut build = home.build(&context);
    build.args(["-t", "app:1", "--load"]).env("DOCKER_HOST", format!("tcp://{}", daemon.host()));
    run(build.arg("--iidfile").arg(&iid).arg("--metadata-file").arg(&metadata)).ok();
    let sent = daemon.take().into_iter().find(|request| request.target.contains("/images/load"));
    let archive = dir.path().join("sent.tar");
    fs::write(&archive, sent.expect("an archive was sent").body).expect("write");
    let index = run(tool("tar").arg("-xOf").arg(&archive).arg("index.json")).ok().stdout;
    let index: Value = serde_json::from_str(&index).expect("an index");
    let id = fs::read_to_string(&iid).expect("the iidfile");
    assert_eq!(index["manifests"][0]["digest"], id, "such a daemon knows images by their manifests");
    assert_eq!(json(&metadata)["containerimage.digest"], id);
    assert!(json(&metadata)["containerimage.config.digest"].is_null());
}

/// Who is interrupted leaves no part of an archive.
#[test]
fn an_interrupted_archive_leaves_nothing() {
    let (home, dir) = (Home::new(), tempdir());
    // Nothing that compresses, so that it takes a while.
    let mut state = 1u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33).to_le_bytes()
    });
    let noise: Vec<u8> = noise.take(64 << 17).flatten().collect();
    let context = Context::new("FROM scratch\nCOPY large /\n").file("large", noise);
    run(home.build(&context).args(["-o", "type=image,name=app,compression=uncompressed"])).ok();
    let out = dir.path().join("out");
    fs::create_dir(&out).expect("make a directory");
    let files = || fs::read_dir(&out).expect("list").count();
    for command in ["save", "export"] {
        let mut running = Running::start(home.builder(command).arg("app").arg("-o").arg(out.join("tar")));
        eventually(Duration::from_secs(20), "it to begin", || files() > 0);
        running.signal(Signal::INT);
        running.wait(Duration::from_secs(20));
        let left: Vec<_> = fs::read_dir(&out).expect("list").flatten().map(|one| one.file_name()).collect();
        assert!(left.is_empty() || left == ["tar"], "{command}: {left:?}");
        let _ = fs::remove_file(out.join("tar"));
    }
}

/// Runs a command on a small disk mounted at `at`, in a mount namespace of its own. Then tells the files there, and what an old one holds.
fn on_small_disk(at: &Path, command: &Command) -> (Done, String) {
    need_root();
    let found = at.with_extension("found");
    let script = "mount -t tmpfs -o size=400k tmpfs \"$1\" || exit 99\necho old > \"$1/old\"\nat=$1 found=$2; shift 2\n\
                  \"$@\"; code=$?\n(cd \"$at\" && find . -type f ! -path './*/sha256/*' ! -name '[ab]' | sort && cat old) > \"$found\"\nexit $code";
    let mut all = tool("unshare");
    all.args(["--mount", "--propagation=private", "sh", "-c", script, "sh"]).arg(at).arg(&found);
    all.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => all.env(name, value),
            None => all.env_remove(name),
        };
    }
    (run(&mut all), fs::read_to_string(found).expect("what was found"))
}

/// What cannot be written is named, and neither half of it stays nor is what stood there lost.
#[test]
fn a_full_disk_is_named_and_leaves_no_half() {
    let (home, context) = (Home::new(), app());
    let dir = tempdir();
    let at = dir.path().join("small");
    fs::create_dir(&at).expect("make a directory");
    run(home.build(&context).args(["-t", "app"])).ok();
    for kind in ["type=tar", "type=oci", "type=docker", "type=oci,compression=zstd,force-compression=true"] {
        for name in ["old", "new"] {
            let dest = at.join(name);
            let output = format!("{kind},dest={}", dest.display());
            let (done, found) = on_small_disk(&at, home.build(&context).args(["-o", &output]));
            done.code_is(3).says(&format!("write {}: No space left on device", dest.display()));
            assert_eq!(found, "./old\nold\n", "{output}");
        }
    }
    for command in ["save", "export"] {
        let dest = at.join("old");
        let (done, found) = on_small_disk(&at, home.builder(command).arg("app").arg("-o").arg(&dest));
        done.code_is(3).says(&format!("write {}: No space left on device", dest.display()));
        assert_eq!(found, "./old\nold\n", "{command}");
    }
    // Of a directory, what is whole stays; half a file or blob does not, and a layout lists only what it has.
    let output = format!("type=local,dest={}", at.join("files").display());
    let (done, found) = on_small_disk(&at, home.build(&context).args(["-o", &output]));
    done.code_is(3).says(&format!("write {}/", at.join("files").display()));
    assert!(!found.contains("busybox"), "{found}");
    let output = format!("type=oci,tar=false,dest={}", at.join("layout").display());
    let (done, found) = on_small_disk(&at, home.build(&context).args(["-o", &output]));
    done.code_is(3).says(&format!("write {}/blobs/sha256/", at.join("layout").display()));
    assert_eq!(found, "./old\nold\n");
    // Nowhere to write at all.
    run(home.builder("save").arg("app").stdout(File::options().write(true).open("/dev/full").expect("open")))
        .code_is(1)
        .says("write to standard output: No space left on device");
}

/// A file that was in the directory is there until the new one is complete: when the disk is full before that, and when somebody gives up.
#[test]
fn an_export_that_ends_early_leaves_the_old_file() {
    let home = Home::new();
    let dir = tempdir();
    let at = dir.path().join("small");
    fs::create_dir(&at).expect("make a directory");
    let context = Context::new("FROM scratch\nCOPY old /old\n").file("old", "n".repeat(600_000));
    let output = format!("type=local,dest={}", at.display());
    let (done, found) = on_small_disk(&at, home.build(&context).args(["-o", &output]));
    done.code_is(3).says(&format!("write {}: No space left on device", at.join("old").display()));
    assert_eq!(found, "./old\nold\n");

    let context = Context::new(
        "FROM busybox AS files\nRUN mkdir -p /out/way/below /out/link && head -c 400000000 /dev/zero > /out/old\nFROM scratch\nCOPY --from=files /out /\n",
    );
    run(home.build(&context).arg("--quiet")).ok();
    // On another file system nothing is cloned, so that it takes a while.
    let memory = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let at = memory.path().join("files");
    fs::create_dir(&at).expect("make a directory");
    for name in ["old", "way"] {
        fs::write(at.join(name), name).expect("write a file");
    }
    std::os::unix::fs::symlink("old", at.join("link")).expect("make a link");
    let names = || {
        let list = fs::read_dir(&at).expect("list").map(|item| item.expect("an entry").file_name());
        let mut names: Vec<String> = list.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    for signal in [Signal::INT, Signal::TERM] {
        let mut build = home.build(&context);
        build.arg("-o").arg(&at).stdout(Stdio::null()).stderr(Stdio::null());
        let mut build = Running::start(&mut build);
        // It is being written.
        let mut ended = || build.0.try_wait().expect("look at a build").is_some();
        eventually(Duration::from_secs(60), "something new in the directory", || {
            let length = |name: &String| fs::metadata(at.join(name)).map_or(0, |found| found.len());
            ended() || names().iter().any(|name| length(name) > 1_000)
        });
        assert!(
            !ended(),
            "{signal:?}: the export was over before it could be interrupted: it needs a larger file"
        );
        build.signal(signal);
        assert_eq!(build.wait(Duration::from_secs(60)).code(), Some(130), "{signal:?}");
        assert_eq!(names(), ["link", "old", "way"], "{signal:?}");
        for name in ["old", "way"] {
            assert_eq!(fs::read_to_string(at.join(name)).expect("the old file"), name, "{signal:?}");
        }
        assert_eq!(fs::read_link(at.join("link")).expect("the old link"), Path::new("old"), "{signal:?}");
    }
    // To the end, it takes their places.
    run(home.build(&context).arg("-o").arg(&at)).ok();
    assert_eq!(names(), ["link", "old", "way"]);
    assert_eq!(fs::metadata(at.join("old")).expect("the new file").len(), 400_000_000);
    assert!(at.join("way/below").is_dir() && !at.join("link").is_symlink());
}
