//! Results that travel between machines: `--cache-to` and `--cache-from`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread::sleep;
use std::time::{Duration, Instant};

use e2e::{
    Context, Done, Home, Registry, Reply, Request, Running, Server, User, free_port, json, need_root, run,
    tempdir, tool,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// Two stages that the last one copies from, one of them with `--link`; a step that removes and one that changes the root.
const DOCKERFILE: &str = "\
FROM busybox AS left
COPY left.txt /in
RUN echo left-ran && tr a-z A-Z < /in > /out
FROM busybox AS right
WORKDIR /work
COPY right.txt .
RUN echo right-ran && rev right.txt > out && rm /etc/group && chmod 700 /
FROM right
COPY --from=left --link /out /left
RUN echo last-ran && cat /left out > both && ln both again && touch -d 2001-01-01 both
CMD [\"cat\", \"both\"]
";

fn context() -> Context {
    Context::new(DOCKERFILE).file("left.txt", "left\n").file("right.txt", "right\n")
}

/// A directory for a cache.
struct Dir(TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempdir())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("cache")
    }

    fn to(&self, more: &str) -> String {
        format!("--cache-to=type=local,dest={}{more}", self.path().display())
    }

    fn from(&self) -> String {
        format!("--cache-from=type=local,src={}", self.path().display())
    }

    fn blob(&self, digest: &Value) -> PathBuf {
        let hex = digest.as_str().and_then(|digest| digest.strip_prefix("sha256:")).expect("a digest");
        self.path().join("blobs/sha256").join(hex)
    }

    /// What `index.json` points to.
    fn manifest(&self) -> Value {
        json(&self.blob(&json(&self.path().join("index.json"))["manifests"][0]["digest"]))
    }

    fn document(&self) -> Value {
        json(&self.blob(&self.manifest()["config"]["digest"]))
    }

    fn put(&self, bytes: &[u8]) -> Value {
        let hex = hex(bytes);
        fs::write(self.path().join("blobs/sha256").join(&hex), bytes).expect("write a blob");
        json!(format!("sha256:{hex}"))
    }

    /// Replaces the document, with all that points to it.
    fn replace(&self, document: &[u8]) {
        let mut manifest = self.manifest();
        manifest["config"]["digest"] = self.put(document);
        manifest["config"]["size"] = json!(document.len());
        let manifest = manifest.to_string().into_bytes();
        let mut index = json(&self.path().join("index.json"));
        index["manifests"][0]["digest"] = self.put(&manifest);
        index["manifests"][0]["size"] = json!(manifest.len());
        fs::write(self.path().join("index.json"), index.to_string()).expect("write the index");
    }

    /// Changes the document.
    fn edit(&self, change: impl FnOnce(&mut Value)) {
        let mut document = self.document();
        change(&mut document);
        self.replace(document.to_string().as_bytes());
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A cache of the context's build with everything in it, and the image's digest.
fn filled(context: &Context) -> (Dir, String) {
    let (dir, home) = (Dir::new(), Home::new());
    let image = home.export(context, &[&dir.to(",mode=max")]);
    (dir, image.digest)
}

/// The layers and blobs in a state directory.
fn kept(home: &Home) -> usize {
    let count = |dir: PathBuf| fs::read_dir(dir).map_or(0, Iterator::count);
    count(home.path().join("snapshots-v1")) + count(home.path().join("blobs/sha256-v1"))
}

#[test]
fn another_machine_executes_nothing_and_makes_the_same_image() {
    let (dir, digest) = filled(&context());
    let home = Home::new();
    // Another directory, other modes of the directory itself, another time zone.
    let again = context();
    fs::set_permissions(again.path(), fs::Permissions::from_mode(0o711)).expect("chmod");
    let layout = tempdir();
    let output = format!("type=oci,tar=false,name=e2e:latest,dest={}", layout.path().join("o").display());
    let mut build = home.build(&again);
    build
        .args(["--progress=rawjson", "-o", &output, &dir.from()])
        .env("TZ", "Asia/Tokyo")
        .env("LC_ALL", "tr_TR.UTF-8");
    let done = run(&mut build).ok();
    done.steps().all_cached();
    assert!(done.stderr.contains("importing cache manifest from "), "{done}");
    let image = e2e::Image::open(layout.path().join("o"), None);
    assert_eq!(image.digest, digest, "the image of whoever executed it");
    // Everything is here now, for whoever names the cache: nobody asks it again.
    fs::remove_dir_all(dir.path()).expect("remove the cache");
    home.steps(&again, &[&dir.from()]).all_cached();
    assert_eq!(home.export(&again, &[&dir.from()]).digest, digest);
    // What was unpacked is what was packed: in another form, of which the cache said nothing.
    let executed = Home::new();
    executed.steps(&again, &[&dir.to(",mode=max")]);
    let brought = Home::new();
    brought.steps(&again, &["-t", "app", &dir.from()]).all_cached();
    fs::remove_dir_all(dir.path()).expect("remove the cache");
    let zstd = |home: &Home| {
        let layout = tempdir();
        let path = layout.path().join("o");
        let output = format!("type=oci,tar=false,name=e2e:latest,compression=zstd,dest={}", path.display());
        let done = run(home.build(&again).args(["--progress=rawjson", "-o", &output, &dir.from()])).ok();
        done.steps().all_cached();
        e2e::Image::open(path, None).digest
    };
    assert_eq!(zstd(&brought), zstd(&executed));
    // And it runs.
    run(home.build(&again).args(["-t", "app", &dir.from()])).ok();
    assert_eq!(run(home.builder("run").arg("app")).ok().stdout, "LEFT\nthgir\n");
}

#[test]
fn what_nobody_needs_stays_where_it_is() {
    let (dir, _) = filled(&context());
    let home = Home::new();
    let edited = context();
    home.steps(&edited, &[&dir.from()]).all_cached();
    assert_eq!(kept(&home), 0, "nobody wanted the result");
    // The last step runs: what it stands on is brought, and nothing else.
    edited.write("Dockerfile", DOCKERFILE.replace("last-ran", "again"));
    let done = run(home.build(&edited).args(["--progress=plain", &dir.from()])).ok();
    assert_eq!(
        (done.stderr.matches("-ran\n").count(), done.stderr.matches("not cached").count()),
        (0, 1),
        "{done}"
    );
    // Though it was never built here, it is known what is different.
    assert!(done.stderr.contains("not cached: command: "), "{done}");
    let (cached, brought) = (dir.document()["layers"].as_array().expect("layers").len(), kept(&home));
    assert_eq!(cached, 7);
    // Four layers of the result below it with their blobs, the new one, the base and its blob; not `/in` nor `/out` of the other stage.
    let layers = fs::read_dir(home.path().join("snapshots-v1")).expect("list").flatten();
    let layers = layers.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).count();
    assert_eq!(layers, 6, "{brought}");
}

#[test]
fn an_edit_reruns_what_it_must() {
    let (dir, _) = filled(&context());
    let edited = context().file("left.txt", "other\n");
    let home = Home::new();
    let steps = home.steps(&edited, &[&dir.from()]);
    let mut executed = steps.executed();
    executed.sort_unstable();
    assert_eq!(executed.len(), 5, "{executed:#?}");
    assert!(executed.iter().all(|step| !step.contains("right-ran")), "{executed:#?}");
    let clean = Home::new().export(&edited, &[]).tree();
    assert_eq!(home.export(&edited, &[]).tree(), clean);
    // A change that changes no content is caught where it is: early cutoff goes across machines.
    let commented = context();
    commented.write("Dockerfile", DOCKERFILE.replace("left-ran", "ran-left"));
    let steps = Home::new().steps(&commented, &[&dir.from()]);
    assert_eq!(steps.executed(), ["RUN echo ran-left && tr a-z A-Z < /in > /out"]);
}

/// What one machine made, a second one took and passed on without executing anything: a third one finds as much in it.
#[test]
fn what_was_brought_is_passed_on_with_all_that_is_known_of_it() {
    let context = context();
    let (first, digest) = filled(&context);
    let (second, third) = (Dir::new(), Dir::new());
    let home = Home::new();
    run(home.build(&context).args(["-t", "app", &first.from(), &second.to(",mode=max")])).ok();
    assert_eq!(second.document(), first.document());
    // Also by a machine that has some of it and asks for nothing.
    run(home.build(&context).args([&first.from(), &third.to("")])).ok();
    Home::new().steps(&context, &[&third.from()]).all_cached();
    assert_eq!(Home::new().export(&context, &[&second.from()]).digest, digest);
    let commented = e2e::Context::new(&DOCKERFILE.replace("left-ran", "ran-left"))
        .file("left.txt", "left\n")
        .file("right.txt", "right\n");
    let steps = Home::new().steps(&commented, &[&second.from()]);
    assert_eq!(steps.executed(), ["RUN echo ran-left && tr a-z A-Z < /in > /out"]);
}

/// How long steps took goes with their results, and is worth nothing where nobody would believe it.
#[test]
fn times_are_passed_on() {
    let context = Context::new(
        "FROM busybox\nRUN sleep 0.4 && echo slow > /slow\nRUN sleep 0.01 && echo quick > /quick\n",
    );
    let (dir, _) = filled(&context);
    let times = |dir: &Dir| -> Vec<Option<u64>> {
        let document = dir.document();
        let records = document["records"].as_array().expect("records").iter();
        let mut times: Vec<_> = records
            .map(|record| (record["layers"].as_array().map(Vec::len), record["took"].as_u64()))
            .collect();
        times.sort_unstable();
        times.into_iter().map(|(_, took)| took).collect()
    };
    let told = times(&dir);
    assert!(told.len() == 2 && told[0] >= Some(400) && told[1] >= Some(1), "{told:?}");
    let (home, passed) = (Home::new(), Dir::new());
    home.steps(&context, &["-t", "app", &dir.from(), &passed.to(",mode=max")]).all_cached();
    assert_eq!(times(&passed), told);
    // Also from here: the last step was brought, and nothing but that is known.
    let kept = Dir::new();
    home.steps(&context, &[&dir.from(), &kept.to("")]).all_cached();
    assert_eq!(times(&kept), told[1..]);
    dir.edit(|document| {
        let records = document["records"].as_array_mut().expect("records");
        records.iter_mut().for_each(|record| record["took"] = json!(u64::MAX));
    });
    let (home, passed) = (Home::new(), Dir::new());
    home.steps(&context, &["-t", "app", &dir.from(), &passed.to(",mode=max")]).all_cached();
    assert_eq!(times(&passed), [None, None]);
    // One without them is as good.
    dir.edit(|document| {
        let records = document["records"].as_array_mut().expect("records");
        records.iter_mut().for_each(|record| drop(record.as_object_mut().and_then(|it| it.remove("took"))));
    });
    Home::new().steps(&context, &[&dir.from()]).all_cached();
}

/// All that a layer can hold arrives as it was, also where owners cannot be set.
#[test]
fn layers_arrive_as_they_were() {
    need_root();
    let dockerfile = "\
FROM busybox
RUN mkdir -p /d/sub /gone/sub && cd /d && echo a > a && ln a b && ln -s a c && mkfifo f && chmod 4755 a && chmod 1777 sub \\
 && touch -d 1999-09-09 sub && touch \"/d/$(printf 'new\\nline')\" && truncate -s 300K hole && chown -R 5:7 sub && chown -h 8:9 c && chmod 711 /
RUN rm -r /gone && mkdir /gone && echo user > /gone/who && rm /d/b && chmod 755 /
COPY --chown=3:4 --chmod=640 file /gone/
COPY --link file /linked/file
";
    let context = Context::new(dockerfile).file("file", "text\n");
    let (dir, home) = (Dir::new(), Home::new());
    home.steps(&context, &[&dir.to(",mode=max")]);
    run(Command::new("chmod").args(["-R", "a+rwX"]).arg(dir.0.path())).ok();
    let image = |build: &mut Command, layout: PathBuf| {
        let output = format!("type=oci,tar=false,name=e2e:latest,compression=zstd,dest={}", layout.display());
        run(build.args(["--progress=rawjson", "-o", &output])).ok().steps().all_cached();
        e2e::Image::open(layout, None).digest
    };
    let out = tempdir();
    let expected = image(&mut home.build(&context), out.path().join("0"));
    let root = Home::new();
    assert_eq!(image(root.build(&context).arg(dir.from()), out.path().join("1")), expected);
    for user in [User::with_range(), User::with_one_id()] {
        assert_eq!(image(user.build(&context).arg(dir.from()), user.at("out").join("layout")), expected);
    }
    // A step on top sees it.
    let seen = Context::new(&format!(
        "{dockerfile}RUN stat -c '%a %u %g %F %n' / /d/* /gone/* /linked/file; ls /d\n"
    ));
    seen.write("file", "text\n");
    let log = |home: &Home, more: &[&str]| home.steps(&seen, more).named("RUN stat").log.clone();
    let (here, there) = (log(&home, &[]), log(&Home::new(), &[&dir.from()]));
    assert_eq!(there, here);
    assert!(here.starts_with("755 0 0 "), "{here}");
}

#[test]
fn min_has_the_result_alone() {
    let (min, max) = (Dir::new(), Dir::new());
    let first = Home::new();
    first.steps(&context(), &[&min.to(""), &max.to(",mode=max")]);
    let layers = |dir: &Dir| dir.document()["layers"].as_array().expect("layers").len();
    assert_eq!((layers(&min), layers(&max)), (5, 7));
    Home::new().steps(&context(), &[&min.from()]).all_cached();
    let edited = context().file("right.txt", "other\n");
    // The stage that did not change is not in the image.
    let executed = |from: &str| {
        Home::new().steps(&edited, &[from]).executed().iter().any(|step| step.contains("left-ran"))
    };
    assert!(!executed(&max.from()));
    assert!(!executed(&min.from()), "the copy of the stage is found, so that the stage is not needed");
    let edited = context();
    edited.write("Dockerfile", DOCKERFILE.replace("/out /left", "/in /left"));
    let executed = |from: &str| Home::new().steps(&edited, &[from]).executed().len();
    assert!(executed(&min.from()) > executed(&max.from()));
}

#[test]
fn forms_and_tags() {
    let (dir, home) = (Dir::new(), Home::new());
    let context = context();
    for (more, kind, config, suffix) in [
        (",tag=a", "manifest", "config", "tar+gzip"),
        (",tag=b,compression=zstd", "manifest", "config", "tar+zstd"),
        (",tag=c,compression=uncompressed", "manifest", "config", ".tar"),
        (",tag=d,image-manifest=false", "index", "manifests", "tar+gzip"),
        (",tag=e,oci-mediatypes=false", "list", "manifests", "tar.gzip"),
    ] {
        home.steps(&context, &[&dir.to(&format!("{more},mode=max"))]);
        let tag = &more[5..6];
        let index = json(&dir.path().join("index.json"));
        let entry = index["manifests"].as_array().expect("a list").iter();
        let mut entry =
            entry.filter(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == tag);
        let entry = entry.next().unwrap_or_else(|| panic!("{tag} in {index:#}"));
        assert!(entry["mediaType"].as_str().expect("a type").contains(kind), "{entry:#}");
        let manifest = json(&dir.blob(&entry["digest"]));
        assert!(manifest.get(config).is_some(), "{manifest:#}");
        let layer = manifest.get("layers").unwrap_or(&manifest["manifests"])[0]["mediaType"]
            .as_str()
            .expect("a type");
        assert!(layer.ends_with(suffix), "{layer}");
        let other = Home::new();
        other.steps(&context, &[&format!("{},tag={tag}", dir.from())]).all_cached();
        // Also by digest, and with the files.
        let by_digest = format!("{},digest={}", dir.from(), entry["digest"].as_str().expect("a digest"));
        let third = Home::new();
        run(third.build(&context).args(["-t", "app", &by_digest])).ok();
        assert_eq!(run(third.builder("run").arg("app")).ok().stdout, "LEFT\nthgir\n");
    }
}

#[test]
fn what_is_here_is_not_asked_for() {
    let (dir, home) = (Dir::new(), Home::new());
    let context = context();
    sleep(Duration::from_millis(2_100));
    home.steps(&context, &[&dir.to(",mode=max")]);
    // Nobody listens there, which nobody notices.
    let nobody = format!("--cache-from=type=registry,ref=127.0.0.1:{}/cache", free_port());
    let trace = tempdir();
    let file = trace.path().join("trace");
    let build = home.build(&context);
    let mut strace = tool("strace");
    strace.args(["-f", "-qq", "-e", "trace=connect,openat,open,execve", "-o"]).arg(&file);
    strace.arg(build.get_program()).args(build.get_args()).args(["--progress=plain", &nobody, &dir.from()]);
    strace.env("BUILDER_HOME", home.path());
    let done = run(&mut strace).ok();
    assert!(!done.stderr.contains("importing"), "{done}");
    let text = fs::read_to_string(&file).expect("the trace");
    let cache = dir.path().display().to_string();
    let touched: Vec<&str> = text
        .lines()
        .filter(|line| line.contains(" connect(") || (line.contains(" open") && line.contains(&cache)))
        .collect();
    assert_eq!(touched, [""; 0]);
    assert_eq!(text.lines().filter(|line| line.contains(" execve(")).count(), 1, "{text}");
}

#[test]
fn through_a_registry() {
    let registry = Registry::start(None);
    let name = format!("{}/team/cache:main", registry.address);
    let to = format!("--cache-to=type=registry,ref={name},mode=max");
    let from = format!("--cache-from=type=registry,ref={name}");
    let context = context();
    // The first build of all finds none yet.
    let first = Home::new();
    let done = run(first.build(&context).args(["--progress=plain", &from, &to, "-t", "app"])).ok();
    assert!(
        done.stderr.contains("there is none yet") && done.stderr.contains("exporting cache to registry"),
        "{done}"
    );
    let blobs = |registry: &Registry| registry.count("\"GET /v2/team/cache/blobs/");
    let (before, manifests) = (blobs(&registry), registry.count("\"GET /v2/team/cache/manifests/"));
    let home = Home::new();
    home.steps(&context, &[&from]).all_cached();
    assert_eq!(blobs(&registry) - before, 1, "the document, and no layer: {:#?}", registry.requests());
    assert_eq!(registry.count("\"GET /v2/team/cache/manifests/") - manifests, 1);
    assert_eq!(home.export(&context, &[&from]).digest, first.export(&context, &[]).digest);
    // What was found there goes back there without having been here.
    let third = Home::new();
    let (before, uploads) = (blobs(&registry), registry.count("\"PUT /v2/team/cache/blobs/"));
    third.steps(&context, &[&from, &to]).all_cached();
    assert_eq!((blobs(&registry) - before, registry.count("\"PUT /v2/team/cache/blobs/") - uploads), (1, 0));
    assert_eq!(kept(&third), 1, "the document");
    Home::new().steps(&context, &[&from]).all_cached();
    // Into another repository, and into a directory.
    let other = format!("{}/team/other:main", registry.address);
    let dir = Dir::new();
    Home::new().steps(
        &context,
        &[&from, &format!("--cache-to=type=registry,ref={other},mode=max"), &dir.to(",mode=max")],
    );
    Home::new().steps(&context, &[&format!("--cache-from={other}")]).all_cached();
    assert_eq!(Home::new().export(&context, &[&dir.from()]).digest, first.export(&context, &[]).digest);
    // As an index of layers.
    let old = format!("{}/team/old:main", registry.address);
    home.steps(&context, &[&format!("--cache-to=type=registry,ref={old},image-manifest=false")]);
    Home::new().steps(&context, &[&format!("--cache-from=type=registry,ref={old}")]).all_cached();
}

#[test]
fn images_carry_their_own() {
    let registry = Registry::start(None);
    let (app, plain) = (format!("{}/app:1", registry.address), format!("{}/plain:1", registry.address));
    let context = context();
    let first = Home::new();
    run(first.build(&context).args(["-t", &app, "--push", "--build-arg=BUILDKIT_INLINE_CACHE=1"])).ok();
    let config: Value =
        serde_json::from_str(&registry.inspect(&["--config", "--raw"], "app:1")).expect("JSON");
    assert_eq!(config["builder.cache.v1"]["version"], 1, "{config:#}");
    let from = format!("--cache-from={app}");
    let home = Home::new();
    home.steps(&context, &[&from]).all_cached();
    assert_eq!(kept(&home), 0);
    // The same image again, on a machine that executed nothing.
    let again = format!("{}/again:1", registry.address);
    run(home.build(&context).args(["-t", &again, "--push", "--cache-to=type=inline", &from])).ok();
    assert_eq!(registry.manifest("again:1"), registry.manifest("app:1"));
    // One whose times are all the same is as good.
    let fixed = format!("{}/fixed:1", registry.address);
    let mut build = first.build(&context);
    run(build.env("SOURCE_DATE_EPOCH", "1600000000").args([
        "-t",
        &fixed,
        "--push",
        "--cache-to=type=inline",
    ]))
    .ok();
    Home::new().steps(&context, &[&format!("--cache-from={fixed}")]).all_cached();
    // One that carries nothing is no help and no harm; nor does an image carry what its base did.
    run(first.build(&context).args(["-t", &plain, "--push"])).ok();
    let steps = Home::new().steps(&context, &[&format!("--cache-from={plain}")]);
    assert_eq!(steps.cached(), [""; 0]);
    let child = Context::new(&format!("FROM {app}\nRUN echo child > /child\n"));
    let child_name = format!("{}/child:1", registry.address);
    run(Home::new().build(&child).args(["-t", &child_name, "--push"])).ok();
    let config: Value =
        serde_json::from_str(&registry.inspect(&["--config", "--raw"], "child:1")).expect("JSON");
    assert!(config.get("builder.cache.v1").is_none(), "{config:#}");
}

/// Serves a cache like a registry, each answer changed as a test wants it.
fn fake(dir: &Dir, answer: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) -> Server {
    let index = json(&dir.path().join("index.json"));
    let entry = &index["manifests"][0];
    let top = fs::read(dir.blob(&entry["digest"])).expect("a manifest");
    let kind = entry["mediaType"].as_str().expect("a type").to_owned();
    let blobs = dir.path().join("blobs/sha256");
    Server::start(move |request| {
        let last = request.target.rsplit('/').next().unwrap_or_default();
        let reply = if request.target.contains("/manifests/") {
            Reply::new(200, top.clone()).with("Content-Type", &kind)
        } else if request.target.contains("/blobs/") {
            match fs::read(blobs.join(last.trim_start_matches("sha256:"))) {
                Ok(bytes) => Reply::new(200, bytes),
                Err(_) => Reply::new(404, "{}"),
            }
        } else {
            Reply::new(200, "{}")
        };
        answer(request, reply)
    })
}

/// Builds with a cache that is no good: it is told, everything is executed, and what is kept is right.
#[track_caller]
fn survives(from: &str, said: &str) -> Done {
    let context = context();
    let home = Home::new();
    let done = run(home.build(&context).args(["-t", "app", "--progress=plain", from])).ok();
    assert!(!done.stderr.contains("CACHED"), "{from}: {done}");
    assert!(done.stderr.contains(said), "{from} should say {said:?}: {done}");
    assert_eq!(run(home.builder("run").arg("app")).ok().stdout, "LEFT\nthgir\n", "{from}");
    home.steps(&context, &[]).all_cached();
    done
}

#[test]
fn documents_that_are_no_good() {
    let (dir, _) = filled(&context());
    let good = dir.document();
    survives(&format!("--cache-from=type=local,src={}/none", dir.path().display()), "there is none yet");
    survives(&format!("{},tag=none", dir.from()), "there is none yet");
    // A part that is missing is another thing.
    let config = dir.blob(&dir.manifest()["config"]["digest"]);
    let aside = config.with_extension("aside");
    fs::rename(&config, &aside).expect("take the document away");
    survives(&dir.from(), "it is incomplete");
    fs::rename(&aside, &config).expect("put the document back");
    let nobody = format!("--cache-from=type=registry,ref=127.0.0.1:{}/cache", free_port());
    survives(&nobody, "cannot reach registry");
    dir.replace(b"{\"version\":1,");
    survives(&dir.from(), "malformed");
    dir.replace(b"{\"version\":2}");
    survives(&dir.from(), "version 2");
    dir.replace(good.to_string().replace("\"layers\":[0", "\"layers\":[99,0").as_bytes());
    survives(&dir.from(), "a layer that is not there");
    let mut manifest = dir.manifest();
    manifest["config"]["size"] = json!(1_u64 << 40);
    let manifest = manifest.to_string().into_bytes();
    let digest = dir.put(&manifest);
    survives(&format!("{},digest={}", dir.from(), digest.as_str().expect("a digest")), "more than");
    let mut manifest = dir.manifest();
    manifest["config"]["mediaType"] = json!("application/vnd.buildkit.cacheconfig.v0");
    let digest = dir.put(manifest.to_string().as_bytes());
    survives(&format!("{},digest={}", dir.from(), digest.as_str().expect("a digest")), "cache of BuildKit");
}

#[test]
fn layers_that_are_no_good() {
    let (dir, _) = filled(&context());
    let layers = |change: &dyn Fn(&mut Value)| {
        dir.edit(|document| document["layers"].as_array_mut().expect("layers").iter_mut().for_each(change));
    };
    let good = dir.document();
    let restore = || dir.replace(good.to_string().as_bytes());
    // It unpacks to something else.
    let other = good["layers"][0]["digest"].clone();
    layers(&|layer| layer["diffId"] = other.clone());
    survives(&dir.from(), "the config says");
    restore();
    // It is no layer at all: the right digest of wrong bytes.
    let noise = dir.put(b"this is no tar and no gzip either");
    layers(&|layer| {
        layer["digest"] = noise.clone();
        layer["size"] = json!(33);
    });
    survives(&dir.from(), "has no use here");
    restore();
    // A layer that leads out of its directory.
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().expect("gnu").name[..15].copy_from_slice(b"../../../escape");
    header.set_size(0);
    header.set_mode(0o644);
    header.set_cksum();
    tar.append(&header, &[][..]).expect("append");
    let tar = tar.into_inner().expect("a tar");
    let (size, digest) = (tar.len(), dir.put(&tar));
    layers(&|layer| {
        layer["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar");
        layer["digest"] = digest.clone();
        layer["diffId"] = digest.clone();
        layer["size"] = json!(size);
    });
    survives(&dir.from(), "has no use here");
    restore();
    // Blobs that are damaged, and blobs that are gone.
    for layer in good["layers"].as_array().expect("layers") {
        let path = dir.blob(&layer["digest"]);
        let mut bytes = fs::read(&path).expect("a blob");
        bytes[20] ^= 1;
        fs::write(&path, bytes).expect("damage a blob");
    }
    survives(&dir.from(), "has no use here");
    for layer in good["layers"].as_array().expect("layers") {
        fs::remove_file(dir.blob(&layer["digest"])).expect("remove a blob");
    }
    let done = survives(&dir.from(), "has no use here");
    assert!(done.stderr.contains("not found"), "{done}");
}

#[test]
fn one_bad_layer_spoils_what_stands_on_it_alone() {
    let (dir, digest) = filled(&context());
    let document = dir.document();
    let longest =
        document["records"].as_array().expect("records").iter().map(|record| record["layers"].clone());
    let longest = longest.max_by_key(|layers| layers.as_array().map_or(0, Vec::len)).expect("a record");
    let last = longest.as_array().and_then(|layers| layers.last()).and_then(Value::as_u64).expect("a layer");
    let blob = dir.blob(&document["layers"][last as usize]["digest"]);
    let size = fs::metadata(&blob).expect("a blob").len();
    fs::write(&blob, vec![0; size as usize]).expect("damage a blob");
    let (home, context) = (Home::new(), context());
    // What runs again now has another time, in seconds.
    sleep(Duration::from_millis(1_100));
    let done = run(home.build(&context).args(["-t", "app", "--progress=plain", &dir.from()])).ok();
    assert!(done.stderr.contains("last-ran\n") && done.stderr.matches("-ran\n").count() == 1, "{done}");
    assert_eq!(done.stderr.matches("has no use here").count(), 1, "{done}");
    assert_eq!(run(home.builder("run").arg("app")).ok().stdout, "LEFT\nthgir\n");
    assert_ne!(home.export(&context, &[]).digest, digest, "the last step has its own time");
    // Whoever has it in good order as well serves.
    let (good, _) = filled(&context);
    Home::new().steps(&context, &["-t", "app", &dir.from(), &good.from()]).all_cached();
}

/// What stayed elsewhere and turns out to be no good when it is passed on is left out.
#[test]
fn damage_is_not_passed_on() {
    let context = context();
    let (dir, _) = filled(&context);
    let registry = Registry::start(None);
    let name = format!("{}/cache:1", registry.address);
    for layer in dir.document()["layers"].as_array().expect("layers").iter().skip(1) {
        let path = dir.blob(&layer["digest"]);
        let mut bytes = fs::read(&path).expect("a blob");
        bytes[20] ^= 1;
        fs::write(&path, bytes).expect("damage a blob");
    }
    let other = Dir::new();
    for to in
        [other.to(",mode=max"), format!("--cache-to=type=registry,ref={name},mode=max"), dir.to(",mode=max")]
    {
        let done = run(Home::new().build(&context).args(["--progress=plain", &dir.from(), &to])).ok();
        assert!(
            done.stderr.contains("not passed on") && done.stderr.matches("CACHED").count() > 5,
            "{to}: {done}"
        );
    }
    assert_eq!(other.document()["layers"].as_array().expect("layers").len(), 1);
    for from in [other.from(), format!("--cache-from={name}"), dir.from()] {
        assert_eq!(Home::new().steps(&context, &[&from]).cached().len(), 1);
    }
}

#[test]
fn servers_that_are_slow_or_broken() {
    let (dir, _) = filled(&context());
    let within = |server: &Server, time: &str| {
        format!("--cache-from=type=registry,ref={}/cache,timeout={time}", server.host())
    };
    // Where something is to come, a busy machine has time for it.
    let from = |server: &Server| within(server, "1m");
    let silent = fake(&dir, |_, reply| {
        sleep(Duration::from_secs(9));
        reply
    });
    let done = survives(&within(&silent, "1s"), "did not answer within 1 s");
    assert_eq!(done.stderr.matches("did not answer").count(), 1, "{done}");
    let config = hex_of(&dir.manifest()["config"]["digest"]);
    let wanted = config.clone();
    let slow = fake(&dir, move |request, reply| {
        if request.target.contains("/blobs/") && !request.target.contains(&wanted) {
            sleep(Duration::from_secs(20));
        }
        reply
    });
    survives(&within(&slow, "3s"), "is not used any more: it sends nothing");
    let wanted = config.clone();
    let broken = fake(&dir, move |request, reply| {
        let is_layer = request.target.contains("/blobs/") && !request.target.contains(&wanted);
        if is_layer { Reply::new(503, "{}") } else { reply }
    });
    survives(&from(&broken), "is not used any more");
    let cut = fake(&dir, |_, reply| reply.cut(10));
    survives(&from(&cut), "is not used");
    let lying = fake(&dir, move |request, reply| {
        let is_layer = request.target.contains("/blobs/") && !request.target.contains(&config);
        if is_layer { Reply::new(200, "other bytes") } else { reply }
    });
    survives(&from(&lying), "has no use here");
    let denied = fake(&dir, |_, _| Reply::new(403, "{}"));
    survives(&from(&denied), "denies access");
}

fn hex_of(digest: &Value) -> String {
    digest.as_str().expect("a digest").trim_start_matches("sha256:").to_owned()
}

/// What a build says of a cache that it could not write, with these words in it: by default nothing worse, and where `ignore-error=false` says that it
/// matters an error, with this exit code. The image is there either way, and so is another cache.
#[track_caller]
fn not_exported(to: &str, said: &str, code: i32, run_in: impl Fn(&Command) -> Command) {
    let (home, context, good) = (Home::new(), context(), Dir::new());
    let build = |tag: &str, to: &str| {
        let mut build = home.build(&context);
        build.args(["-t", tag, "--progress=plain", &format!("--cache-to={to}"), &good.to(",mode=max")]);
        let mut build = run_in(&build);
        run(build.env("BUILDER_HOME", home.path()))
    };
    let done = build("app:0", to).ok();
    let warned = "WARN: the cache was not exported: ";
    assert_eq!(done.stderr.matches(warned).count(), 1, "{to}: {done}");
    let warning = done.stderr.lines().find(|line| line.contains(warned)).unwrap_or_default();
    assert!(warning.contains(said) && warning.contains("ignore-error=false"), "{to}: {said}: {done}");
    assert!(!done.stderr.contains("ERROR"), "{to}: {done}");
    let strict = build("app:1", &format!("{to},ignore-error=false")).code_is(code);
    assert!(strict.stderr.contains(said) && strict.stderr.contains("built and delivered"), "{to}: {strict}");
    build("app:2", &format!("{to},ignore-error=true")).ok().says(warned);
    for tag in ["app:0", "app:1", "app:2"] {
        assert_eq!(run(home.builder("run").arg(tag)).ok().stdout, "LEFT\nthgir\n", "{to}");
    }
    Home::new().steps(&context, &[&good.from()]).all_cached();
}

/// As it is.
fn plainly(build: &Command) -> Command {
    let mut command = Command::new(build.get_program());
    command.args(build.get_args());
    command
}

#[test]
fn a_registry_that_takes_no_cache_fails_no_build() {
    let to = |server: &Server| format!("type=registry,ref={}/cache,mode=max,timeout=1m", server.host());
    let nobody = format!("type=registry,ref=127.0.0.1:{}/cache", free_port());
    not_exported(&nobody, "cannot reach registry", 1, plainly);
    let answering = |status: u16, body: &'static str| {
        Server::start(move |request| match &*request.method {
            "HEAD" => Reply::new(404, ""),
            "GET" => Reply::new(200, "{}"),
            _ => Reply::new(status, body),
        })
    };
    let full = answering(507, "{\"errors\":[{\"code\":\"FULL\",\"message\":\"no space left\"}]}");
    not_exported(&to(&full), "no space left", 1, plainly);
    let denied = answering(403, "{\"errors\":[{\"code\":\"DENIED\",\"message\":\"not for you\"}]}");
    not_exported(&to(&denied), "not for you", 1, plainly);
    // It says that it stored something else than it was given.
    let lying = Server::start(|request| match &*request.method {
        "PUT" => {
            Reply::new(201, "").with("Docker-Content-Digest", format!("sha256:{}", hex(b"something else")))
        }
        _ => Reply::new(200, "{}"),
    });
    not_exported(&to(&lying), "as another one", 1, plainly);
}

/// One that takes an upload and never says that it has it, and one that says nothing at all.
#[test]
fn a_registry_that_hangs_is_not_waited_for() {
    for hangs in ["PUT", "HEAD"] {
        let server = Server::start(move |request| match &*request.method {
            method if method == hangs => {
                sleep(Duration::from_secs(20));
                Reply::new(500, "")
            }
            "HEAD" => Reply::new(404, ""),
            "POST" => Reply::new(202, "").with("Location", format!("{}/upload", request.target)),
            "PATCH" => Reply::new(202, "").with("Location", &request.target),
            _ => Reply::new(200, "{}"),
        });
        let to = format!("type=registry,ref={}/cache,timeout=500ms", server.host());
        let began = Instant::now();
        not_exported(&to, "no answer in time", 1, plainly);
        // Three builds. Each would wait for several answers, which take twenty seconds.
        assert!(began.elapsed() < Duration::from_secs(200), "{hangs}: {:?}", began.elapsed());
    }
}

#[test]
fn a_directory_that_takes_no_cache_fails_no_build() {
    let dir = tempdir();
    fs::write(dir.path().join("file"), "").expect("a file");
    let below = format!("type=local,dest={}/file", dir.path().display());
    not_exported(&below, "file", 1, plainly);
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // A disk that is full: that is the machine's fault.
    let disk = dir.path().join("disk");
    fs::create_dir(&disk).expect("a directory");
    let to = format!("type=local,dest={}/cache,mode=max", disk.display());
    let on_a_small_disk = |build: &Command| {
        let script = "mount -t tmpfs -o size=8k none \"$0\" && exec \"$@\"";
        let mut command = tool("unshare");
        command.args(["--mount", "sh", "-ec", script]).arg(&disk);
        command.arg(build.get_program()).args(build.get_args());
        command
    };
    not_exported(&to, "No space left on device", 3, on_a_small_disk);
    // One that belongs to somebody else.
    let user = User::with_range();
    let cache = dir.path().join("closed");
    fs::create_dir(&cache).expect("a directory");
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let to = format!("--cache-to=type=local,dest={}", cache.display());
    let build = |to: &str| run(user.build(&context()).args(["--progress=plain", to]));
    let done = build(&to).ok().says("WARN: the cache was not exported: ");
    assert!(done.stderr.contains("Permission denied"), "{done}");
    build(&format!("{to},ignore-error=false")).code_is(1).says("Permission denied");
}

/// What has to be brought here is asked for at the same time, each blob once.
#[test]
fn layers_are_pulled_side_by_side() {
    let context = context();
    let (dir, digest) = filled(&context);
    let flights = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let (counted, config) = (Arc::clone(&flights), hex_of(&dir.manifest()["config"]["digest"]));
    let registry = fake(&dir, move |request, reply| {
        if request.method == "GET" && request.target.contains("/blobs/") {
            let flying = counted.0.fetch_add(1, SeqCst) + 1;
            counted.1.fetch_max(flying, SeqCst);
            // Each waits for others, which never come where they are asked for one after another. The document comes alone.
            let begin = Instant::now();
            while !request.target.contains(&config)
                && counted.1.load(SeqCst) < 3
                && begin.elapsed() < Duration::from_secs(10)
            {
                sleep(Duration::from_millis(10));
            }
            counted.0.fetch_sub(1, SeqCst);
        }
        reply
    });
    let home = Home::new();
    let from = format!("--cache-from=type=registry,ref={}/cache", registry.host());
    assert_eq!(home.export(&context, &[&from]).digest, digest);
    let blobs: Vec<String> = registry
        .take()
        .into_iter()
        .filter(|request| request.method == "GET" && request.target.contains("/blobs/"))
        .map(|request| request.target)
        .collect();
    let each: BTreeSet<&String> = blobs.iter().collect();
    assert_eq!(each.len(), blobs.len(), "{blobs:#?}");
    // The document of the cache is fetched before it is known which layers there are.
    let most = flights.1.load(SeqCst);
    assert!(blobs.len() > 3 && most >= 3, "{most} of {} at the same time", blobs.len());
}

#[test]
fn several_at_once() {
    let (dir, digest) = filled(&context());
    let (home, context, out) = (Home::new(), context(), tempdir());
    let start = |number: usize| {
        let output = format!(
            "type=oci,tar=false,name=e2e:latest,dest={}",
            out.path().join(number.to_string()).display()
        );
        let mut build = home.build(&context);
        build.args([
            "--progress=rawjson",
            "-o",
            &output,
            &dir.from(),
            &dir.to(&format!(",mode=max,tag=t{number}")),
        ]);
        let log = fs::File::create(out.path().join(format!("{number}.log"))).expect("a log");
        Running::start(build.stderr(log))
    };
    let mut builds: Vec<Running> = (0..4).map(start).collect();
    for (number, build) in builds.iter_mut().enumerate() {
        let log = || fs::read_to_string(out.path().join(format!("{number}.log"))).unwrap_or_default();
        assert!(build.wait(Duration::from_secs(60)).success(), "{}", log());
        assert!(!log().contains("-ran\\n") && !log().contains("\"logs\""), "{}", log());
        assert_eq!(e2e::Image::open(out.path().join(number.to_string()), None).digest, digest);
    }
    for number in 0..4 {
        Home::new().steps(&context, &[&format!("{},tag=t{number}", dir.from())]).all_cached();
    }
}

#[test]
fn root_and_an_ordinary_user_share() {
    need_root();
    let context = context();
    let (dir, digest) = filled(&context);
    let open = |path: &Path| run(Command::new("chmod").args(["-R", "a+rwX"]).arg(path)).ok();
    open(dir.0.path());
    for user in [User::with_range(), User::with_one_id()] {
        let layout = user.at("out").join("layout");
        let output = format!("type=oci,tar=false,name=e2e:latest,dest={}", layout.display());
        let done = run(user.build(&context).args(["--progress=rawjson", "-o", &output, &dir.from()])).ok();
        done.steps().all_cached();
        assert_eq!(e2e::Image::open(layout, None).digest, digest);
    }
    // And the other way round.
    let user = User::with_range();
    let cache = user.at("out").join("cache");
    let to = format!("--cache-to=type=local,dest={},mode=max", cache.display());
    run(user.build(&context).arg(&to)).ok();
    let from = format!("--cache-from=type=local,src={}", cache.display());
    Home::new().steps(&context, &[&from]).all_cached();
}

/// A cache that lies: it gives one step the result of another. That is believed where the cache is named, and nowhere else.
#[test]
fn a_lie_reaches_nobody_who_does_not_name_the_liar() {
    let context = |word: &str| {
        Context::new(&format!(
            "FROM busybox\nRUN echo {word} > /word\nRUN cat /word /word > /twice\nCMD [\"cat\", \"/twice\"]\n"
        ))
    };
    let (good, evil) = (context("good"), context("evil"));
    let ((honest, _), (liar, _)) = (filled(&good), filled(&evil));
    let first = |dir: &Dir| {
        let document = dir.document();
        let records = document["records"].as_array().expect("records");
        let is_first = |record: &&Value| record["layers"].as_array().is_some_and(|layers| layers.len() == 1);
        records.iter().find(is_first).expect("the result of the first step").clone()
    };
    let (keys, layers) = (first(&honest)["keys"].clone(), first(&liar)["layers"].clone());
    liar.edit(|document| document["records"] = json!([{ "keys": keys, "layers": layers }]));
    let home = Home::new();
    let said = |more: &[&str]| {
        let done = run(home.build(&good).args(["-t", "app", "--progress=plain"]).args(more)).ok();
        (run(home.builder("run").arg("app")).ok().stdout, done)
    };
    let (text, done) = said(&[&liar.from()]);
    assert_eq!(
        (&*text, done.stderr.matches("CACHED").count()),
        ("evil\nevil\n", 2),
        "the base and the first step: {done}"
    );
    // Nor what was made of it. What another cache is named for does not matter.
    let other = Dir::new();
    let path = liar.path().display().to_string();
    for from in [&[&*honest.from()][..], &[]] {
        let (text, done) = said(from);
        assert_eq!(text, "good\ngood\n", "{done}");
        assert_eq!(done.stderr.contains("not cached: what is here came from"), from.is_empty(), "{done}");
    }
    home.steps(&good, &[&other.to(",mode=max")]).all_cached();
    assert_eq!(run(Home::new().build(&good).args(["-t", "app", &other.from()])).ok().code, Some(0));
    let home = Home::new();
    run(home.build(&good).args(["-t", "app", &other.from()])).ok();
    assert_eq!(run(home.builder("run").arg("app")).ok().stdout, "good\ngood\n");
    // A build that names nobody says why it runs what is there; what it makes then counts for everybody.
    let home = Home::new();
    run(home.build(&good).args(["-t", "app", &liar.from()])).ok();
    let done = run(home.build(&good).arg("--progress=plain")).ok();
    assert_eq!(done.stderr.matches("not cached: what is here came from the cache").count(), 2, "{done}");
    assert!(done.stderr.contains(&path), "{done}");
    home.steps(&good, &[]).all_cached();
    home.steps(&good, &[&liar.from()]).all_cached();
    // Nothing of it goes on to others by way of a build that does not name it, though its steps stand below what is found.
    let home = Home::new();
    run(home.build(&good).args(["-t", "app", &liar.from()])).ok();
    let twice = Dir::new();
    run(home.build(&good).args(["-t", "app", &honest.from(), &twice.to(",mode=max")])).ok();
    let bytes = twice.document().to_string();
    let lie = liar.document()["layers"][0]["diffId"].as_str().expect("a digest").to_owned();
    assert!(!bytes.contains(&lie), "{bytes}");
}

/// Also steps that were only found, and never brought, are said to be known by a cache that is not named; and no variable's secret value is
/// shown with them.
#[test]
fn every_step_says_that_its_cache_is_not_named() {
    let text = "FROM busybox\nARG API_TOKEN\nCOPY a /a\nRUN cat /a > /b\nRUN echo \"$API_TOKEN\" > /dev/null; cat /b > /c\n";
    let context = Context::new(text).file("a", "a");
    let given = "--build-arg=API_TOKEN=sesame-and-lilies";
    let cache = Dir::new();
    run(Home::new().build(&context).args([given, &cache.to(",mode=max")])).ok();
    let home = Home::new();
    home.steps(&context, &[given, &cache.from()]).all_cached();
    let done = run(home.build(&context).args([given, "--progress=plain"])).ok();
    assert_eq!(done.stderr.matches("which --cache-from does not name").count(), 3, "{done}");
    assert!(done.stderr.contains("RUN echo \"***\"") && !done.stderr.contains("sesame"), "{done}");
}

/// Values of arguments with secret-like names are in no document, nor is anything else of what steps say.
#[test]
fn documents_hold_hashes_and_numbers_alone() {
    let dir = Dir::new();
    let context =
        Context::new("FROM busybox\nARG API_TOKEN\nARG VISIBLE\nRUN echo $VISIBLE | wc -c > /length\n");
    let arguments = ["--build-arg=API_TOKEN=hunter2hunter2", "--build-arg=VISIBLE=see-me-here"];
    Home::new().steps(&context, &[arguments[0], arguments[1], &dir.to(",mode=max")]);
    let document = dir.document().to_string();
    for word in ["hunter2", "see-me-here", "API_TOKEN", "RUN", "echo", "length"] {
        assert!(!document.contains(word), "{word}: {document}");
    }
    Home::new().steps(&context, &[arguments[0], arguments[1], &dir.from()]).all_cached();
    // Another value is another step.
    let steps = Home::new().steps(&context, &["--build-arg=API_TOKEN=other", arguments[1], &dir.from()]);
    assert_eq!(steps.executed().len(), 1);
}

/// Every byte below a directory: files as they are, what is compressed in them, every cell of a database.
fn all_bytes(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let cells = "import sqlite3,sys\ndb = sqlite3.connect('file:%s?mode=ro' % sys.argv[1], uri=True)\n\
                 for (table,) in db.execute(\"SELECT name FROM sqlite_schema WHERE type = 'table'\").fetchall():\n\
                 \x20for row in db.execute('SELECT * FROM \"%s\"' % table):\n\
                 \x20 for cell in row: sys.stdout.buffer.write((cell if isinstance(cell, bytes) else str(cell).encode()) + b'\\n')";
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).expect("list").flatten() {
            let (path, kind) = (entry.path(), entry.file_type().expect("a type"));
            if kind.is_dir() {
                waiting.push(path);
            } else if kind.is_file() {
                let name = path.display().to_string();
                if name.ends_with(".db") {
                    let dump = tool("python3").args(["-c", cells]).arg(&path).output().expect("start Python");
                    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
                    found.push((format!("{name}: cells"), dump.stdout));
                }
                found.push((name, fs::read(&path).expect("read")));
            }
        }
    }
    let mut packed = Vec::new();
    for (name, bytes) in &found {
        for at in 0..bytes.len().saturating_sub(4) {
            let mut plain = Vec::new();
            let kind = match bytes[at..at + 4] {
                [0x28, 0xb5, 0x2f, 0xfd] => {
                    let decoder = zstd::Decoder::new(&bytes[at..]).expect("a decoder");
                    let _ = decoder.take(1 << 24).read_to_end(&mut plain);
                    "zstd"
                }
                [0x1f, 0x8b, 8, _] => {
                    let _ = flate2::read::GzDecoder::new(&bytes[at..]).take(1 << 24).read_to_end(&mut plain);
                    "gzip"
                }
                _ => continue,
            };
            packed.push((format!("{name}: {kind} at {at}"), plain));
        }
    }
    assert!(packed.iter().any(|(_, plain)| !plain.is_empty()), "something is compressed");
    found.extend(packed);
    found
}

/// Values of arguments with secret-like names, and secrets, are nowhere in what is kept or told: as they are, encoded or hashed in a way
/// that anybody could repeat.
#[test]
fn nothing_leaks() {
    let (token, password, secret) =
        ("hunter2-of-the-token", "swordfish-of-the-argument", "opensesame-of-the-file");
    let text = "FROM busybox AS one\nARG API_TOKEN\nARG VISIBLE\nRUN echo $VISIBLE | wc -c > /length\n\
                RUN --mount=type=secret,id=key cat /run/secrets/key; wc -c < /run/secrets/key > /secret\n\
                FROM one\nARG DB_PASSWORD\nARG FAIL\nRUN [ -z \"$FAIL\" ]\n";
    let context = Context::new(text);
    let (home, dir, out) = (Home::new(), Dir::new(), tempdir());
    fs::write(out.path().join("key"), secret).expect("write a secret");
    let key = format!("--secret=id=key,src={}", out.path().join("key").display());
    let arguments = |token: &str, password: &str| {
        [format!("--build-arg=API_TOKEN={token}"), format!("--build-arg=DB_PASSWORD={password}")]
    };
    let mut told = Vec::new();
    let mut build = |password: &str, more: &[&str]| {
        let mut build = home.build(&context);
        build.args(["--progress=plain", "--build-arg=VISIBLE=see-me", &key]).args(more);
        let done = run(build.args(arguments(token, password)));
        told.push(done.stderr.clone());
        done
    };
    build("before-the-argument", &[]).ok();
    let layout = format!("-otype=oci,tar=false,dest={}", out.path().join("layout").display());
    build(password, &["-t", "app", &layout, &dir.to(",mode=max"), "--cache-to=type=inline"]).ok();
    build(password, &[&dir.from(), "--build-arg=FAIL=1"]).code_is(1);
    let subcommands: [&[&str]; 8] = [
        &["history", "ls", "--format=json"],
        &["history", "inspect", "^0"],
        &["history", "export", "^0"],
        &["history", "export", "^1"],
        &["history", "logs", "^1"],
        &["explain", "^0", "--format=json"],
        &["explain", "^1", "--against", "^2"],
        &["inspect", "app"],
    ];
    for words in subcommands {
        let done = run(home.builder(words[0]).args(&words[1..])).ok();
        told.push(done.stdout);
    }
    let whole = told.concat();
    assert!(whole.contains("see-me") && whole.contains("ARG DB_PASSWORD changed"), "{whole}");
    let mut haystacks = all_bytes(&home.path());
    assert!(
        haystacks.iter().any(|(name, _)| name.ends_with("-wal")),
        "the log of the database is among them"
    );
    assert!(
        haystacks.iter().any(|(_, bytes)| String::from_utf8_lossy(bytes).contains("see-me")),
        "it looks well"
    );
    haystacks.extend(all_bytes(&dir.path()));
    haystacks.extend(all_bytes(&out.path().join("layout")));
    haystacks.push(("what was told".to_owned(), whole.into_bytes()));
    hold_none_of(&haystacks, &[token, password, secret, "before-the-argument"]);
}

/// No value is anywhere there, in no form.
#[track_caller]
fn hold_none_of(haystacks: &[(String, Vec<u8>)], values: &[&str]) {
    let letters = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
    let needles = values.iter().flat_map(|value| forms(value).into_iter().map(move |form| (value, form)));
    let needles: Vec<_> = needles.map(|(value, form)| (value, letters(&form))).collect();
    for (name, bytes) in haystacks {
        let text = letters(bytes);
        for (value, needle) in &needles {
            assert!(!text.contains(needle), "{value} is in {name} as {needle:?}");
        }
    }
}

/// What a value could look like to somebody who knows how it is written down: as it is, encoded, and hashed with nothing else or as crate `hash`
/// does it, as bytes and in hexadecimal digits, whole and cut.
fn forms(value: &str) -> Vec<Vec<u8>> {
    use base64::Engine as _;
    let base64 = base64::engine::general_purpose::STANDARD.encode(value);
    let field = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let stable = |domain: &str| blake3::hash(&[field(domain), field(value)].concat());
    let hashes = [
        Sha256::digest(value).into(),
        *blake3::hash(value.as_bytes()).as_bytes(),
        *blake3::hash(&field(value)).as_bytes(),
        *stable("key-part-v1").as_bytes(),
        *stable("secret-value-v1").as_bytes(),
    ];
    let mut forms = vec![value.as_bytes().to_vec(), base64.as_bytes()[..base64.len() - 4].to_vec()];
    for hash in hashes {
        let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        forms.extend([hash[..16].to_vec(), digits.as_bytes()[..32].to_vec(), digits.to_uppercase().into()]);
    }
    forms
}

/// All in directories and in a text that may be a digest, each with where it is: words of hexadecimal digits, cells of databases.
fn digests(dirs: &[&Path], told: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut add = |text: &str, place: &str| {
        let words = text.split(|letter: char| !letter.is_ascii_hexdigit());
        // What is compressed is looked at as it was before.
        let words = words.filter(|word| word.len() >= 16 && !word.starts_with("28b52ffd"));
        found.extend(words.map(|word| (word.to_lowercase(), place.to_owned())));
    };
    add(told, "what was told");
    let cells = "import glob,sqlite3,sys\nfor path in glob.glob(sys.argv[1] + '/*.db'):\n\
                 \x20db = sqlite3.connect(path)\n\
                 \x20for (table,) in db.execute(\"SELECT name FROM sqlite_schema WHERE type = 'table'\").fetchall():\n\
                 \x20 rows = db.execute('SELECT * FROM \"%s\"' % table)\n\
                 \x20 for row in rows:\n\
                 \x20  for column, cell in zip(rows.description, row):\n\
                 \x20   if isinstance(cell, bytes): print(table, column[0], cell.hex())";
    for dir in dirs {
        for (name, bytes) in all_bytes(dir) {
            let below = name.strip_prefix(&dir.display().to_string()).unwrap_or(&name);
            add(below, "a name");
            add(&String::from_utf8_lossy(&bytes), below);
        }
        let told = run(tool("python3").args(["-c", cells]).arg(dir)).ok().stdout;
        told.lines().for_each(|line| add(line, line));
    }
    found
}

/// What two state directories have in common of a build and a third, with other values of its secrets, does not have, depends on the values alone:
/// whoever gets hold of it can try guesses. That are the keys of steps and nothing else, whatever it is hashed with and wherever it is kept.
#[test]
fn two_stores_have_only_keys_in_common() {
    let dockerfile = "FROM busybox\nARG FIRST_PASSWORD\nENV DB_PASSWORD=${FIRST_PASSWORD}-in-the-environment\n\
                      ARG API_TOKEN\nRUN echo one > /one\nWORKDIR /w\nUSER ${DB_PASSWORD:+0}\n\
                      RUN --mount=type=cache,id=c-$API_TOKEN,target=/c --mount=type=secret,id=s-$DB_PASSWORD,target=/s echo two > /two\n\
                      COPY --chown=0:0 <<end /three\n${API_TOKEN:+three}\nend\nRUN : $API_TOKEN; echo four\nRUN false\n";
    let context = Context::new(dockerfile);
    let built = |first: &str, token: &str| {
        let (home, cache) = (Home::new(), Dir::new());
        let arguments = [
            format!("--build-arg=FIRST_PASSWORD={first}"),
            format!("--build-arg=API_TOKEN={token}"),
            cache.to(",mode=max"),
        ];
        let mut told = run(home.build(&context).args(&arguments)).code_is(1).stderr;
        context.write("Dockerfile", dockerfile.replace("RUN false\n", ""));
        told += &run(home.build(&context).args(&arguments)).ok().stderr;
        context.write("Dockerfile", dockerfile);
        for words in [
            &["history", "export", "^0"][..],
            &["history", "export", "^1"],
            &["history", "inspect", "^0", "--format=json"],
            &["history", "logs", "^0"],
            &["explain", "^0", "--format=json"],
            &["explain", "^0", "--against", "^1", "--format=json"],
            &["cache", "ls"],
        ] {
            told += &run(home.builder(words[0]).args(&words[1..])).ok().stdout;
        }
        let document: Value =
            json!([cache.document()["records"], exported(&home, "^0"), exported(&home, "^1")]);
        let environment = format!("{first}-in-the-environment");
        let mut kept = [all_bytes(&home.path()), all_bytes(&cache.path())].concat();
        kept.push(("what was told".to_owned(), told.clone().into_bytes()));
        hold_none_of(&kept, &[first, token, &environment]);
        (digests(&[&home.path(), &cache.path()], &told), keys_in(&document, &home), told)
    };
    let (first, token) = ("hunter2-of-the-first", "swordfish-of-the-token");
    let (one, keys, told) = built(first, token);
    let (two, ..) = built(first, token);
    let (other, ..) = built("another-of-the-first", "and-another-token");
    let in_both = one.iter().filter(|(digest, _)| two.contains_key(*digest) && !other.contains_key(*digest));
    let (known, unknown): (Vec<_>, Vec<_>) = in_both.partition(|(digest, _)| keys.contains(*digest));
    assert!(known.len() > 3, "{known:#?}");
    assert!(unknown.is_empty(), "{unknown:#?}");
    assert!(told.contains("ENV DB_PASSWORD"), "{told}");
}

fn exported(home: &Home, build: &str) -> Value {
    let told = run(home.builder("history").args(["export", build])).ok().stdout;
    serde_json::from_str(&told).expect("JSON")
}

/// Keys of steps: those in the database of a state directory, each with the checksum of its row, and what JSON calls `key` or `keys`.
fn keys_in(document: &Value, home: &Home) -> BTreeSet<String> {
    fn collect(value: &Value, is_key: bool, found: &mut BTreeSet<String>) {
        match value {
            Value::String(text) if is_key => drop(found.insert(text.clone())),
            Value::Array(all) => all.iter().for_each(|value| collect(value, is_key, found)),
            Value::Object(all) => {
                all.iter().for_each(|(name, value)| collect(value, matches!(&**name, "key" | "keys"), found));
            }
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    collect(document, false, &mut found);
    let query = "import glob,sqlite3,sys\nfor path in glob.glob(sys.argv[1] + '/*.db'):\n\
                 \x20for row in sqlite3.connect(path).execute('SELECT key, seal FROM keys'):\n\
                 \x20 for cell in row: print(cell.hex())";
    let known = run(tool("python3").args(["-c", query]).arg(home.path())).ok().stdout;
    found.extend(known.lines().map(str::to_owned));
    found
}

/// A checkout with another umask is the same to whoever says so, in the key and in the layer.
#[test]
fn a_umask_does_not_break_the_cache() {
    let checkout = |file: u32, script: u32, directory: u32| {
        let context = Context::new(
            "FROM busybox\nCOPY . /src\nRUN --mount=from=more,target=/m ls -lR /src /m > /list\n",
        );
        for (path, mode) in
            [("sub/file", file), ("sub/script", script), ("Dockerfile", file), ("sub", directory)]
        {
            if path.contains('/') {
                context.write(path, "text\n");
            }
            context.chmod(path, mode);
        }
        let more = Context::new("").file("other", "text\n");
        more.chmod("other", file);
        more.chmod("Dockerfile", file);
        (context, more)
    };
    let (ours, theirs) = (checkout(0o644, 0o755, 0o755), checkout(0o660, 0o770, 0o2770));
    let (dir, home) = (Dir::new(), Home::new());
    let named = |more: &Context| format!("--build-context=more={}", more.path().display());
    let image = home.export(&ours.0, &[&named(&ours.1), "--context-mode=git", &dir.to(",mode=max")]);
    let steps = Home::new().steps(&theirs.0, &[&named(&theirs.1), "--context-mode=git", &dir.from()]);
    steps.all_cached();
    let again = Home::new().export(&theirs.0, &[&named(&theirs.1), "--context-mode=git"]);
    assert_eq!(again.tree(), image.tree());
    // Without it modes are exact, and what is exact already is the same either way.
    let steps = Home::new().steps(&theirs.0, &[&named(&theirs.1), &dir.from()]);
    assert_eq!(steps.cached(), [""; 0]);
    Home::new().steps(&ours.0, &[&named(&ours.1), &dir.from()]).all_cached();
}

#[test]
fn no_cache_is_no_cache() {
    let (dir, _) = filled(&context());
    let context = context();
    assert_eq!(Home::new().steps(&context, &["--no-cache", &dir.from()]).cached(), [""; 0]);
    let steps = Home::new().steps(&context, &["--no-cache-filter=left", &dir.from()]);
    assert_eq!(steps.executed().len(), 2, "the stage runs again, what it gives is what it gave: {steps:#?}");
}

#[test]
fn a_cache_of_several_platforms_and_of_a_changed_base() {
    let dir = Dir::new();
    let context =
        Context::new("ARG BASE=busybox\nFROM ${BASE}\nCOPY f /f\nCOPY --link f /g\n").file("f", "text\n");
    let home = Home::new();
    home.steps(&context, &[&dir.to(",mode=max")]);
    // On another base the files that were copied are not found by what they stand on, the linked one is.
    let steps = Home::new().steps(&context, &["--build-arg=BASE=debian", &dir.from()]);
    assert!(steps.cached().iter().any(|step| step.contains("--link")), "{steps:#?}");
    assert!(steps.executed().iter().any(|step| step.starts_with("COPY f")), "{steps:#?}");
}

#[test]
fn wrong_usage_is_told_before_the_build() {
    let home = Home::new();
    let context = context();
    for (argument, said) in [
        ("--cache-to=type=gha", "type=gha is not supported yet"),
        ("--cache-from=type=s3,bucket=x", "type=s3 is not supported yet"),
        ("--cache-to=type=local", "needs dest="),
        ("--cache-from=type=local", "needs src="),
        ("--cache-to=type=registry,ref=UPPER CASE", "UPPER CASE"),
        ("--cache-to=type=local,dest=x,mode=most", "min or max"),
        ("--cache-to=type=local,dest=x,ignore-error=perhaps", "ignore-error"),
        ("--cache-to=type=local,dest=x,mdoe=max", "did you mean `mode`?"),
        ("--cache-from=./cache", "type=local,src=./cache"),
    ] {
        run(home.build(&context).arg(argument)).code_is(2).says(said);
    }
}

/// A cache and an image have the same tag where nobody says anything else. The image is what somebody keeps.
#[test]
fn a_cache_takes_no_tag_of_an_image() {
    let (home, context) = (Home::new(), context());
    let of_skopeo = |layout: &Path, tag: &str| {
        let from = format!("oci:{}", e2e::base("busybox").display());
        let to = format!("oci:{}:{tag}", layout.display());
        run(tool("skopeo").args(["--insecure-policy", "copy", "--quiet", &from, &to])).ok();
    };
    for written in ["with a name", "without", "as an index", "by skopeo", "by skopeo, an older cache there"] {
        let dir = Dir::new();
        let image = |more: &[&str]| {
            let output = format!("type=oci,tar=false,dest={}", dir.path().display());
            run(home.build(&context).args(["-o", &output]).args(more)).ok();
        };
        match written {
            "with a name" => image(&["-t", "app"]),
            "without" => image(&[]),
            "as an index" => image(&["--platform=linux/amd64,linux/386", "-t", "app"]),
            "by skopeo" => of_skopeo(&dir.path(), "latest"),
            _ => {
                home.steps(&context, &[&dir.to("")]);
                of_skopeo(&dir.path(), "latest");
            }
        }
        let index = || fs::read_to_string(dir.path().join("index.json")).expect("an index");
        let blobs = || fs::read_dir(dir.path().join("blobs/sha256")).expect("list").count();
        let before = (index(), blobs());
        let to = format!("type=local,dest={}", dir.path().display());
        not_exported(&to, "its tag `latest` is that of an image (", 1, plainly);
        assert_eq!((index(), blobs()), before, "{written}");
        let digest = |tag: &str| {
            let name = format!("oci:{}:{tag}", dir.path().display());
            run(tool("skopeo").args(["inspect", "--raw", &name])).ok().stdout
        };
        // As it says, another tag is something else; it is found by it, and written again.
        let image = digest("latest");
        for _ in 0..2 {
            home.steps(&context, &[&dir.to(",tag=cache,mode=max")]);
        }
        assert_eq!(digest("latest"), image, "{written}");
        assert!(digest("cache").contains("vnd.builder.cache.config"), "{written}");
        Home::new().steps(&context, &[&format!("{},tag=cache", dir.from())]).all_cached();
        // The other way round it is the same: who asks for the image gets no cache.
        of_skopeo(&dir.path(), "cache");
        not_exported(&format!("{to},tag=cache"), "its tag `cache` is that of an image (sha256:", 1, plainly);
    }
}

/// Of its own kind it takes the place, whoever wrote it and in whatever form, and that of what nobody can read.
#[test]
fn a_cache_takes_the_place_of_a_cache() {
    let (home, context, dir) = (Home::new(), context(), Dir::new());
    let entries = || json(&dir.path().join("index.json"))["manifests"].as_array().expect("a list").len();
    for form in ["", ",image-manifest=false", ",oci-mediatypes=false", ",mode=max"] {
        home.steps(&context, &[&dir.to(form)]);
        assert_eq!(entries(), 1, "{form}");
    }
    // As BuildKit writes it: a manifest with a config of its own kind, or an index that lists that.
    let config = json!({ "mediaType": "application/vnd.buildkit.cacheconfig.v0", "digest": dir.put(b"{}"), "size": 2 });
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let list = "application/vnd.oci.image.index.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": manifest, "config": config, "layers": [] });
    let list = json!({ "schemaVersion": 2, "mediaType": list, "manifests": [config] });
    let gone = json!({ "mediaType": manifest["mediaType"], "gone": true });
    for document in [manifest, list, gone] {
        let bytes = document.to_string().into_bytes();
        let mut index = json(&dir.path().join("index.json"));
        index["manifests"][0]["mediaType"] = document["mediaType"].clone();
        index["manifests"][0]["digest"] = dir.put(&bytes);
        if document["gone"] == true {
            index["manifests"][0]["digest"] = json!(format!("sha256:{}", hex(b"another")));
        }
        index["manifests"][0]["size"] = json!(bytes.len());
        fs::write(dir.path().join("index.json"), index.to_string()).expect("write the index");
        home.steps(&context, &[&dir.to(",mode=max")]);
        assert_eq!(entries(), 1, "{document}");
        Home::new().steps(&context, &[&dir.from()]).all_cached();
    }
}
