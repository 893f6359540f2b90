//! The table of keys (ARCHITECTURE.md, "Keys"), row by row: what must change a step's key does, and what must not does not.
//!
//! The key is that of the last step, as the record of a build has it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Command;

use e2e::{Context, Home, Reply, Repositories, Server, User, base, json, need_root, run, ssh_key, tempdir};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// A state directory for builds whose keys are compared.
struct Keys(Home);

impl Keys {
    fn new() -> Self {
        Self(Home::new())
    }

    /// The key of the last step of a Dockerfile over `context`, with these arguments.
    #[track_caller]
    fn of(&self, context: &Context, dockerfile: &str, arguments: &[&str]) -> String {
        context.write("Dockerfile", dockerfile);
        run(self.0.build(context).args(arguments)).ok();
        last_key(&record(&self.0))
    }

    #[track_caller]
    fn plain(&self, dockerfile: &str) -> String {
        self.of(&context(), dockerfile, &[])
    }

    /// These steps have keys of their own, each.
    #[track_caller]
    fn differ(&self, dockerfiles: &[&str]) {
        let keys: Vec<String> = dockerfiles.iter().map(|dockerfile| self.plain(dockerfile)).collect();
        for (at, key) in keys.iter().enumerate() {
            if let Some(other) = keys[..at].iter().position(|other| other == key) {
                panic!("one key for\n{}\n{}", dockerfiles[other], dockerfiles[at]);
            }
        }
    }

    /// These have one.
    #[track_caller]
    fn agree(&self, dockerfiles: &[&str]) {
        let keys: Vec<String> = dockerfiles.iter().map(|dockerfile| self.plain(dockerfile)).collect();
        for (key, dockerfile) in keys.iter().zip(dockerfiles) {
            assert_eq!(*key, keys[0], "{dockerfile}\n{}", dockerfiles[0]);
        }
    }

    /// Whether an edit of the context changes the key of a step.
    #[track_caller]
    fn edited(&self, dockerfile: &str, edit: impl FnOnce(&Context)) -> bool {
        let context = context();
        let before = self.of(&context, dockerfile, &[]);
        edit(&context);
        before != self.of(&context, dockerfile, &[])
    }
}

fn record(home: &Home) -> Value {
    let told = run(home.builder("history").args(["inspect", "--format=json"])).ok().stdout;
    serde_json::from_str(&told).expect("JSON")
}

fn last_key(record: &Value) -> String {
    all_keys(record).pop().expect("a step with a key")
}

fn all_keys(record: &Value) -> Vec<String> {
    let steps = record["steps"].as_array().expect("a list").iter();
    steps.filter_map(|step| step["key"].as_str().map(str::to_owned)).collect()
}

fn context() -> Context {
    let context = Context::new("")
        .file("a", "one\n")
        .file("d/b", "two\n")
        .file("d/c.md", "three\n")
        .file(".dockerignore", "Dockerfile\n");
    for path in ["a", "d/b", "d/c.md"] {
        context.chmod(path, 0o644);
    }
    context
}

fn from_root(dockerfile: &str) -> String {
    format!("FROM busybox\n{dockerfile}\n")
}

#[test]
fn an_image_counts_by_digest_and_platform() {
    let keys = Keys::new();
    let dir = tempdir();
    let other = dir.path().join("other");
    let output = format!("type=oci,tar=false,dest={}", other.display());
    run(keys.0.build(&Context::new("FROM busybox\nRUN echo x > /x\n")).args(["-o", &output])).ok();
    let named =
        |name: &str, layout: &Path| format!("--build-context={name}=oci-layout://{}", layout.display());
    let with = |layout: &Path| keys.of(&context(), "FROM image\nRUN true\n", &[&named("image", layout)]);
    assert_eq!(with(&base("busybox")), keys.plain("FROM busybox\nRUN true\n"), "its name is none of it");
    assert_ne!(with(&base("busybox")), with(&other));
}

/// A base image is its layers, once it is here: another manifest of the same ones is another definition, and what stands on it is found by
/// content.
#[test]
fn an_image_counts_by_its_layers_once_it_is_here() {
    let dir = tempdir();
    // Packed at one time, the same bytes are the same layer.
    let image = |name: &str, content: &str, label: &str| {
        let layout = dir.path().join(name);
        let output = format!("type=oci,tar=false,dest={}", layout.display());
        let (home, base) = (Home::new(), Context::new(&from_root(&format!("RUN echo {content} > /file"))));
        let mut build = home.build(&base);
        run(build.env("SOURCE_DATE_EPOCH", "1600000000").args(["-o", &output, "--label", label])).ok();
        let manifest = json(&layout.join("index.json"))["manifests"][0]["digest"].clone();
        (format!("--build-context=image=oci-layout://{}", layout.display()), manifest)
    };
    let (one, first) = image("one", "file", "version=1");
    let (same, second) = image("two", "file", "version=2");
    let (other, third) = image("three", "other", "version=1");
    assert!(first != second && first != third && second != third);
    let context = context();
    context.write("Dockerfile", "FROM image\nRUN cat /file > /copy\nCOPY a /a\nRUN cat /copy /a > /b\n");
    let keys = Keys::new();
    assert_eq!(keys.0.steps(&context, &[&one]).cached(), [""; 0]);
    let by_definition = last_key(&record(&keys.0));
    keys.0.steps(&context, &[&same]).all_cached();
    assert_ne!(last_key(&record(&keys.0)), by_definition, "the definition names the manifest");
    assert_eq!(keys.0.steps(&context, &[&other]).cached(), [""; 0]);
}

/// One manifest stands for two platforms in this index: what is made of it is looked up for each.
#[test]
fn an_image_of_another_platform_is_another() {
    let keys = Keys::new();
    let dir = tempdir();
    let layout = dir.path().join("layout");
    run(Command::new("cp").arg("-r").arg(base("busybox")).arg(&layout)).ok();
    let mut index = json(&layout.join("index.json"));
    let mut manifest = index["manifests"][0].clone();
    manifest.as_object_mut().expect("a descriptor").remove("annotations");
    let of = |architecture: &str| {
        let mut manifest = manifest.clone();
        manifest["platform"] = json!({"os": "linux", "architecture": architecture});
        manifest
    };
    let both = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [of("amd64"), of("arm64")]
    });
    let both = both.to_string().into_bytes();
    let hex: String = Sha256::digest(&both).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(layout.join("blobs/sha256").join(&hex), &both).expect("write an index");
    index["manifests"] = json!([{
        "mediaType": "application/vnd.oci.image.index.v1+json", "digest": format!("sha256:{hex}"), "size": both.len(),
        "annotations": {"org.opencontainers.image.ref.name": "latest"}
    }]);
    fs::write(layout.join("index.json"), index.to_string()).expect("write the layout");
    let named = format!("--build-context=image=oci-layout://{}", layout.display());
    let with = |platform: &str| {
        keys.of(&context(), "FROM image\nCOPY a /\n", &[&named, &format!("--platform=linux/{platform}")])
    };
    assert_ne!(with("amd64"), with("arm64"));
    assert_eq!(with("amd64"), with("amd64"));
}

#[test]
fn a_context_counts_only_by_what_is_used() {
    let keys = Keys::new();
    assert!(!keys.edited(&from_root("COPY a /"), |context| context.write("d/b", "edited\n")));
    assert!(!keys.edited(&from_root("COPY d /"), |context| context.write("e", "new\n")));
    assert!(keys.edited(&from_root("COPY d /"), |context| context.write("d/e", "new\n")));
}

#[test]
fn all_that_a_process_can_see_counts() {
    let keys = Keys::new();
    let variants = [
        "RUN true",
        "RUN true #",
        "RUN [\"true\"]",
        "SHELL [\"/bin/sh\", \"-ec\"]\nRUN true",
        "ENV A=1\nRUN true",
        "ENV A=2\nRUN true",
        "ARG A\nRUN true",
        "ARG A=1\nARG B=2\nRUN true",
        "ARG A=1\nARG B=3\nRUN true",
        "WORKDIR /d\nRUN true",
        "USER 1\nRUN true",
        "USER 2\nRUN true",
        "RUN --network=none true",
    ];
    // An ARG without a value is no variable.
    let same = [variants[0], variants[6]].map(from_root);
    keys.agree(&[&same[0], &same[1]]);
    let variants: Vec<String> =
        variants.iter().filter(|text| **text != "ARG A\nRUN true").map(|text| from_root(text)).collect();
    keys.differ(&variants.iter().map(String::as_str).collect::<Vec<_>>());
    // A variable of the same name and value is one, wherever it comes from.
    keys.agree(&["FROM busybox\nENV A=1\nRUN true\n", "FROM busybox\nARG A=1\nRUN true\n"]);
    let given = keys.of(&context(), "FROM busybox\nARG A\nRUN true\n", &["--build-arg=A=1"]);
    assert_eq!(given, keys.plain("FROM busybox\nARG A=1\nRUN true\n"));
}

/// The rest of what a process sees: its host's name, its platform, its privileges, its devices.
#[test]
fn surroundings_and_privileges_count() {
    let keys = Keys::new();
    let with = |text: &str, arguments: &[&str]| keys.of(&context(), &from_root(text), arguments);
    let plain = with("RUN true", &[]);
    let named = |name: &str| with("RUN true", &[&format!("--build-arg=BUILDKIT_SANDBOX_HOSTNAME={name}")]);
    assert_ne!(named("one"), plain);
    assert_ne!(named("one"), named("two"));
    // What may be had and is not asked for does not count.
    let allowed = ["--allow=security.insecure", "--allow=device", "--allow=network.host"];
    assert_eq!(with("RUN true", &allowed), plain);
    let devices = [
        "RUN --device=e2e.example/none=a true",
        "RUN --device=e2e.example/none=b true",
        "RUN --device=e2e.example/none=a --device=e2e.example/none=b true",
    ];
    let mut found: Vec<String> = devices.iter().map(|text| with(text, &allowed)).collect();
    found.push(plain);
    if rustix::process::geteuid().is_root() {
        found.push(with("RUN --security=insecure true", &allowed));
        assert_eq!(with("RUN --security=sandbox true", &allowed), found[3]);
    }
    let each: BTreeSet<&String> = found.iter().collect();
    assert_eq!(each.len(), found.len(), "{found:#?}");
}

/// What is asked for counts, by the RUN or for all of them, and not what the machine makes of it: keys are the same on a machine that has no
/// private network.
#[test]
fn the_network_that_is_asked_for_counts() {
    let keys = Keys::new();
    let with = |text: &str, arguments: &[&str]| {
        keys.of(&context(), &format!("FROM busybox\n{text} true\n"), arguments)
    };
    let host = "--allow=network.host";
    let [default, none, private, of_host] =
        ["default", "none", "private", "host"].map(|mode| with("RUN", &[&format!("--network={mode}"), host]));
    assert_eq!(with("RUN", &[]), default);
    assert_eq!(with("RUN --network=none", &[]), none);
    assert_eq!(with("RUN --network=host", &[host]), of_host);
    // Where the file asks for nothing special, the command line decides.
    assert_eq!(with("RUN --network=default", &["--network=none"]), none);
    assert_eq!(with("RUN --network=none", &["--network=private"]), none);
    let each = BTreeSet::from([&default, &none, &private, &of_host]);
    assert_eq!(each.len(), 4, "{each:#?}");
    // A proxy on the loopback takes the private network away, and the key stays.
    assert_eq!(with("RUN", &["--build-arg=HTTP_PROXY=http://127.0.0.1:9"]), default);
}

/// A repository is what its files are: a commit that changes others, another name of the commit, another address are the same, though they
/// have to be fetched.
#[test]
fn a_repository_counts_by_what_is_used_of_it() {
    let keys = Keys::new();
    let repositories = Repositories::new();
    let (server, other) = (repositories.serve(), repositories.serve());
    let with = |options: &str, server: &Server, destination: &str| {
        let add = format!("ADD {}{options} {destination}\nRUN true\n", server.url("/app.git"));
        keys.of(&context(), &format!("FROM busybox\n{add}"), &[])
    };
    let main = with("#main", &server, "/app/");
    assert_eq!(with(&format!("#{}", repositories.main), &server, "/app/"), main, "the commit by its id");
    assert_eq!(with("#main", &other, "/app/"), main, "another address");
    assert_eq!(with("?branch=main&submodules=false", &server, "/app/"), main, "there are none");
    let first = with("#v1", &server, "/app/");
    assert_ne!(first, main, "another content");
    assert_ne!(with("#main", &server, "/other/"), main);
    // A directory in which nothing changed from the one to the other.
    let below = with("#v1:dir", &server, "/app/");
    assert_ne!(below, first);
    assert_eq!(with("#main:dir", &server, "/app/"), below);
    assert_ne!(
        with("?branch=side", &server, "/app/"),
        with("?branch=side&submodules=false", &server, "/app/")
    );
    repositories.edit("later\n");
    assert_eq!(with("#main:dir", &server, "/app/"), below, "a commit elsewhere");
    assert_ne!(with("#main", &server, "/app/"), main);
    // What git keeps beside the files is theirs too, where it is asked for.
    let kept = |keys: &Keys| {
        let add = format!("ADD --keep-git-dir {}#v1 /app/\nRUN true\n", server.url("/app.git"));
        keys.of(&context(), &format!("FROM busybox\n{add}"), &[])
    };
    let with_git = kept(&keys);
    assert_ne!(with_git, first);
    assert_eq!(kept(&Keys::new()), with_git, "on another machine");
    // Times that are asked for are those of the commit.
    let timed = |tag: &str| with(&format!("?ref={tag}&subdir=dir&mtime=commit"), &server, "/app/");
    assert_ne!(timed("v1"), below);
    assert_ne!(timed("v1"), timed("main"));
}

/// What times a build shows of `file`: in the image and as its steps see them, each as `NAME=SECONDS`, sorted.
#[track_caller]
fn times(build: &mut Command) -> Vec<String> {
    let out = tempdir();
    run(build.arg("-o").arg(out.path().join("out"))).ok();
    let found =
        ["src/file", "taken"].map(|path| (path, fs::metadata(out.path().join("out").join(path)).ok()));
    let found = found.iter().filter_map(|(path, found)| Some(format!("{path}={}", found.as_ref()?.mtime())));
    let told = fs::read_to_string(out.path().join("out/told")).expect("what the steps saw");
    let mut all: Vec<String> = found.chain(told.lines().map(|line| format!("seen={line}"))).collect();
    all.sort();
    all
}

/// Each build shows the times of the commit that it is of, also what stands on it or takes from it; and what is there is found.
#[track_caller]
fn times_follow(repositories: &Repositories, build: &dyn Fn() -> Command, expected: &[&str]) {
    let of = |seconds: u64| expected.iter().map(|name| format!("{name}={seconds}")).collect::<Vec<_>>();
    assert_eq!(times(&mut build()), of(1_700_000_000));
    for seconds in [1_500_000_000, 1_600_000_000] {
        repositories.commit_at(seconds);
        assert_eq!(times(&mut build()), of(seconds));
        run(build().arg("--progress=rawjson")).ok().steps().all_cached();
    }
    // It is what a clean build gives.
    assert_eq!(times(build().arg("--no-cache")), of(1_600_000_000));
}

const STATS: &str = "RUN stat -c %Y /src/file >> /told\n";

/// Times that are asked for count wherever they go: into what stands on them, and through `COPY --from` and mounts.
#[test]
fn times_of_a_commit_count_for_what_stands_on_them() {
    let (home, repositories) = (Home::new(), Repositories::new());
    let (_daemon, url) = repositories.daemon();
    let add = format!("ADD {url}/app.git?mtime=commit /src/\n");
    let context = Context::new(&format!("FROM busybox\n{add}{STATS}"));
    times_follow(&repositories, &|| home.build(&context), &["seen", "src/file"]);

    let (home, repositories) = (Home::new(), Repositories::new());
    let (_daemon, url) = repositories.daemon();
    let add = format!("ADD {url}/app.git?mtime=commit /src/\n");
    let context = Context::new(&format!(
        "FROM busybox AS one\n{add}RUN cp /src/file /copied\nFROM busybox\nCOPY --from=one /copied /copied\n\
         RUN cat /copied\nCOPY --from=one /src/file /taken\nRUN stat -c %Y /taken >> /told\n\
         RUN --mount=from=one,source=/src,target=/m stat -c %Y /m/file >> /told\n"
    ));
    times_follow(&repositories, &|| home.build(&context), &["seen", "seen", "taken"]);
    // What does not have its time is found by what it holds, as ever.
    repositories.commit_at(1_400_000_000);
    let steps = home.steps(&context, &[]);
    assert_eq!(steps.cached(), ["COPY --from=one /copied /copied", "RUN cat /copied"], "{steps:#?}");
}

/// The same of contexts.
#[test]
fn times_of_a_commit_count_in_contexts() {
    let (home, repositories) = (Home::new(), Repositories::new());
    let (_daemon, url) = repositories.daemon();
    let source = format!("{url}/app.git?mtime=commit");
    fs::write(repositories.app().join("Steps"), format!("FROM busybox\nCOPY file /src/file\n{STATS}"))
        .expect("write");
    repositories.edit("steps\n");
    let build = || {
        let mut build = home.build(&source);
        build.args(["-f", "Steps"]);
        build
    };
    times_follow(&repositories, &build, &["seen", "src/file"]);

    let (home, repositories) = (Home::new(), Repositories::new());
    let (_daemon, url) = repositories.daemon();
    let named = format!("--build-context=x={url}/app.git?mtime=commit");
    let context = Context::new(&format!(
        "FROM busybox\nCOPY --from=x file /src/file\n{STATS}\
         RUN --mount=from=x,target=/m stat -c %Y /m/file >> /told\n"
    ));
    let build = || {
        let mut build = home.build(&context);
        build.arg(&named);
        build
    };
    times_follow(&repositories, &build, &["seen", "seen", "src/file"]);
}

/// No two checkouts have the same bytes there, so the commit counts; and with it what decides on what is seen of the checkout.
#[test]
fn a_context_with_its_git_directory_counts_by_commit() {
    let (home, repositories) = (Home::new(), Repositories::new());
    let server = repositories.serve();
    let all = "FROM busybox\nCOPY . /src/\nRUN true\n";
    for (file, text) in [("Steps", all), ("Less", all), ("Less.dockerignore", "dir\n")] {
        fs::write(repositories.app().join(file), text).expect("write");
    }
    fs::write(repositories.app().join("large"), vec![b'x'; 8 << 20]).expect("write");
    repositories.edit("steps\n");
    let source = server.url("/app.git?keep-git-dir=true");
    let context = Context::new("FROM busybox\nCOPY --from=x . /named/\nRUN true\n");
    let added = Context::new(&format!(
        "FROM busybox\nADD --keep-git-dir {} /added/\nRUN true\n",
        server.url("/app.git")
    ));
    let build = |which: &str| {
        let mut build = if which == "main" { home.build(&source) } else { home.build(&context) };
        match which {
            "main" => drop(build.args(["-f", "Steps"])),
            "named" => drop(build.arg(format!("--build-context=x={source}"))),
            _ => build = home.build(&added),
        }
        build
    };
    let timings = tempdir();
    let timings = timings.path().join("timings.json");
    for which in ["main", "named", "added"] {
        run(&mut build(which)).ok();
        let again =
            run(build(which).arg("--progress=rawjson").arg(format!("--timings={}", timings.display())));
        again.ok().steps().all_cached();
        // What is known by its commit is not read to be known.
        let hashed = json(&timings)["hashed"]["blake3"].as_u64().expect("bytes");
        assert!(hashed < 4 << 20, "{which}: {hashed} bytes hashed");
    }
    repositories.commit_at(1_700_000_000);
    for which in ["main", "named", "added"] {
        assert_eq!(run(build(which).arg("--progress=rawjson")).ok().steps().executed().len(), 2, "{which}");
    }
    // The same steps on the same commit, but for what is left out of it.
    let files = |file: &str| {
        let out = tempdir();
        run(home.build(&source).args(["-f", file, "-o"]).arg(out.path().join("out"))).ok();
        out.path().join("out/src/dir").exists()
    };
    assert!(files("Steps") && !files("Less"));
}

/// A download is its bytes, and its name where that is what it is called then; a context's file likewise.
#[test]
fn a_download_counts_by_its_bytes() {
    let keys = Keys::new();
    let server = |text: &'static str| Server::start(move |_| Reply::new(200, text));
    let (one, same, other) = (server("text\n"), server("text\n"), server("other\n"));
    let with = |server: &Server, path: &str, destination: &str| {
        keys.plain(&from_root(&format!("ADD {} {destination}", server.url(path))))
    };
    let key = with(&one, "/f", "/o/f");
    assert_eq!(with(&same, "/f", "/o/f"), key, "another address");
    assert_ne!(with(&other, "/f", "/o/f"), key);
    assert_ne!(with(&one, "/f", "/o/g"), key);
    assert_ne!(with(&one, "/f", "/o/"), with(&one, "/g", "/o/"), "another name");
    let context = context();
    context.write("b", "one\n");
    context.chmod("b", 0o644);
    let copied = |text: &str| keys.of(&context, &from_root(text), &[]);
    assert_ne!(copied("COPY a /o/"), copied("COPY b /o/"));
    // Text of the Dockerfile: what it is after variables were put in.
    let inline = |word: &str, name: &str| {
        keys.plain(&from_root(&format!("ARG A=x\nCOPY <<{name} /o/\n{word}\n{name}")))
    };
    assert_eq!(inline("x", "EOF"), inline("$A", "EOF"));
    assert_ne!(inline("x", "EOF"), inline("y", "EOF"));
    assert_ne!(inline("x", "EOF"), inline("x", "END"));
}

#[test]
fn limits_proxies_and_addresses_of_hosts_do_not() {
    let keys = Keys::new();
    let text = "FROM busybox\nRUN true\n";
    let with = |arguments: &[&str]| keys.of(&context(), text, arguments);
    let plain = with(&[]);
    for arguments in [
        &["--build-arg=HTTP_PROXY=http://127.0.0.1:9"][..],
        &["--ulimit=nofile=100:200"],
        &["--timeout=77s"],
        &["--retry=2"],
        &["--label=a=b", "--no-cache"],
    ] {
        assert_eq!(with(arguments), plain, "{arguments:?}");
    }
    assert_ne!(
        keys.of(&context(), "FROM busybox\nARG HTTP_PROXY\nRUN true\n", &["--build-arg=HTTP_PROXY=x"]),
        plain
    );
    let one = with(&["--add-host=h:10.0.0.1"]);
    assert_eq!(one, with(&["--add-host=h:10.0.0.2"]));
    assert_ne!(one, plain);
    assert_ne!(one, with(&["--add-host=i:10.0.0.1"]));
}

#[test]
fn mounts_count_by_what_a_process_sees_of_them() {
    let keys = Keys::new();
    let mounts = [
        "type=tmpfs,target=/m",
        "type=tmpfs,target=/n",
        "type=tmpfs,target=/m,size=1m",
        "type=cache,target=/m",
        "type=cache,target=/m,ro",
        "type=bind,source=d,target=/m",
        "type=bind,source=d,target=/m,rw",
        "type=bind,source=a,target=/m",
        "type=secret,id=s,target=/m",
        "type=secret,id=s,target=/m,mode=0444",
        "type=secret,id=s,target=/m,uid=5",
        "type=secret,id=t,target=/m",
        "type=secret,id=s,env=S",
        "type=secret,id=s,env=T",
        "type=ssh",
        "type=ssh,id=other",
        "type=ssh,target=/agent",
        "type=ssh,mode=0644",
        "type=ssh,uid=5",
        "type=ssh,gid=5",
        // What a new cache begins with.
        "type=cache,target=/m,from=seeds",
        "type=cache,target=/m,from=seeds,source=/d",
        "type=cache,target=/m,from=others",
    ];
    let seeds = "FROM scratch AS seeds\nCOPY d /d\nFROM scratch AS others\nCOPY a /a\n";
    let texts: Vec<String> =
        mounts.iter().map(|mount| format!("{seeds}FROM busybox\nRUN --mount={mount} true\n")).collect();
    keys.differ(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    // A seed counts as everything else that a step uses: by its files, not by what they are called.
    let seeded = |stage: &str, file: &str| {
        format!(
            "FROM scratch AS {stage}\nCOPY {file} /f\nFROM busybox\nRUN --mount=type=cache,target=/m,from={stage} true\n"
        )
    };
    keys.agree(&[&seeded("one", "a"), &seeded("two", "a")]);
    assert!(keys.edited(&seeded("one", "a"), |context| context.write("a", "edited\n")));
    assert!(!keys.edited(&seeded("one", "a"), |context| context.write("d/b", "edited\n")));
}

/// Whether a step may do without a secret or an agent decides what it does where there is none.
#[test]
fn whether_secrets_and_agents_are_required_counts() {
    let keys = Keys::new();
    let dir = tempdir();
    fs::write(dir.path().join("s"), "secret").expect("write");
    let ssh = ssh_key();
    let (secret, key) = (
        format!("--secret=id=s,src={}", dir.path().join("s").display()),
        format!("--ssh=default={}", ssh.path().join("key").display()),
    );
    let with =
        |mount: &str| keys.of(&context(), &from_root(&format!("RUN --mount={mount} true")), &[&secret, &key]);
    for mount in ["type=secret,id=s", "type=secret,id=s,env=S", "type=ssh"] {
        let optional = with(mount);
        assert_eq!(with(&format!("{mount},required=false")), optional);
        assert_ne!(with(&format!("{mount},required")), optional, "{mount}");
        // That it is there is nothing that a key could know.
        assert_eq!(keys.plain(&from_root(&format!("RUN --mount={mount} true"))), optional);
    }
}

#[test]
fn secrets_and_what_is_in_cache_mounts_do_not_count() {
    let keys = Keys::new();
    let text = "FROM busybox\nRUN --mount=type=secret,id=s true\n";
    let dir = tempdir();
    let with = |value: &str, version: &str| {
        let path = dir.path().join("secret");
        fs::write(&path, value).expect("write");
        keys.of(&context(), text, &[&format!("--secret=id=s,src={}{version}", path.display())])
    };
    assert_eq!(with("one", ""), with("two", ""));
    assert_ne!(with("one", ",version=1"), with("one", ",version=2"));
    keys.agree(&[
        "FROM busybox\nRUN --mount=type=cache,id=x,target=/m echo >> /m/x\n",
        "FROM busybox\nRUN --mount=type=cache,id=y,sharing=locked,target=/m echo >> /m/x\n",
    ]);
}

#[test]
fn values_of_secret_like_names_count_and_are_not_written_down() {
    let keys = Keys::new();
    let text = "FROM scratch\nARG API_TOKEN\nCOPY a /to-$API_TOKEN\nWORKDIR /at/$API_TOKEN\n";
    let with = |value: &str| {
        let key = keys.of(&context(), text, &[&format!("--build-arg=API_TOKEN={value}")]);
        let written = record(&keys.0).to_string();
        assert!(!written.contains(value) && written.contains("WORKDIR /at/***"), "{written}");
        key
    };
    assert_ne!(with("hunter22"), with("hunter33"));
}

#[test]
fn bind_mounts_count_by_content() {
    let keys = Keys::new();
    let text = from_root("RUN --mount=type=bind,source=d,target=/m true");
    assert!(keys.edited(&text, |context| context.write("d/b", "edited\n")));
    assert!(!keys.edited(&text, |context| context.write("a", "edited\n")));
    let staged = |first: &str| {
        format!(
            "FROM busybox AS one\nRUN echo {first} > /f\nFROM busybox\nRUN --mount=type=bind,from=one,source=/f,target=/m true\n"
        )
    };
    keys.differ(&[&staged("1"), &staged("2")]);
}

#[test]
fn a_linked_copy_stands_on_nothing() {
    let keys = Keys::new();
    // The layer itself; what is put together of it has a key of its own, of all that is below.
    let layer = |text: &str| {
        keys.plain(text);
        let record = record(&keys.0);
        let steps = record["steps"].as_array().expect("a list").iter();
        let copy = steps
            .into_iter()
            .find(|step| step["name"].as_str().is_some_and(|name| name.contains("COPY --link")));
        copy.expect("the copy")["key"].as_str().expect("a key").to_owned()
    };
    for flags in ["", "--chmod=600 "] {
        let linked = |below: &str| layer(&format!("FROM busybox\n{below}COPY --link {flags}a /x/\n"));
        assert_eq!(linked(""), linked("RUN echo 1 > /1\n"), "{flags}");
    }
    keys.differ(&["FROM busybox\nCOPY a /x/\n", "FROM busybox\nRUN echo 1 > /1\nCOPY a /x/\n"]);
}

#[test]
fn selections_count_by_what_they_select() {
    let keys = Keys::new();
    let excluding = from_root("COPY --exclude=*.md d /d");
    assert!(!keys.edited(&excluding, |context| context.write("d/c.md", "edited\n")));
    assert!(keys.edited(&excluding, |context| context.write("d/b", "edited\n")));
    assert!(keys.edited(&excluding, |context| context.write("d/new", "new\n")));
    let parents = from_root("COPY --parents d/*.md /d");
    assert!(!keys.edited(&parents, |context| context.write("d/b", "edited\n")));
    assert!(keys.edited(&parents, |context| context.write("d/c.md", "edited\n")));
    assert!(!keys.edited(&from_root("COPY d /d"), |context| {
        context.write(".dockerignore", "Dockerfile\n**/*.log\n");
        context.write("d/x.log", "ignored\n");
    }));
}

/// By definition, and when that is not found, by content: nothing below changed what the step sees.
#[test]
fn the_root_of_a_step_counts_by_definition_then_by_content() {
    let keys = Keys::new();
    let text = |first: &str| format!("FROM busybox\nCOPY a /src\nRUN {first}\nRUN cat /out > /last\n");
    keys.differ(&[&text("head -c 1 /src > /out"), &text("head -c1 /src > /out")]);
    // The second was found by the content that both have.
    let context = context();
    context.write("Dockerfile", text("head -c 1  /src > /out"));
    let steps = keys.0.steps(&context, &[]);
    assert_eq!(steps.executed(), ["RUN head -c 1  /src > /out"]);
}

#[test]
fn a_copy_counts_with_all_its_options() {
    let keys = Keys::new();
    let copies = [
        "COPY a /x",
        "COPY a /y",
        "COPY --chmod=600 a /x",
        "COPY --chmod=640 a /x",
        "COPY --chown=1 a /x",
        "COPY --chown=1:2 a /x",
        "COPY d /x",
        "COPY a d/b /x/",
    ];
    let texts: Vec<String> = copies.iter().map(|copy| from_root(copy)).collect();
    keys.differ(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    // Of an archive: whether it is unpacked.
    let archive = |instruction: &str| {
        let context = context();
        run(Command::new("tar")
            .arg("-C")
            .arg(context.path())
            .args(["--mtime=@0", "-cf"])
            .arg(context.path().join("t.tar"))
            .arg("a"))
        .ok();
        keys.of(&context, &from_root(&format!("{instruction} t.tar /x/")), &[])
    };
    assert_ne!(archive("ADD"), archive("COPY"));
}

#[test]
fn what_is_copied_counts_with_all_that_it_is() {
    let keys = Keys::new();
    let text = from_root("COPY . /x/");
    let attribute = |context: &Context, value: &str| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(context.path().join("a"), "user.test", value.as_bytes(), flags).is_ok()
    };
    let at = |context: &Context, path: &str| context.path().join(path);
    type Edit<'a> = (&'a str, &'a dyn Fn(&Context));
    let edits: [Edit<'_>; 8] = [
        ("bytes", &|context| context.write("a", "eno\n")),
        ("size", &|context| context.write("a", "one\n\n")),
        ("mode", &|context| context.chmod("a", 0o755)),
        ("name", &|context| fs::rename(at(context, "a"), at(context, "b")).expect("rename")),
        ("kind", &|context| {
            fs::remove_file(at(context, "a")).expect("remove");
            symlink("d/b", at(context, "a")).expect("link");
        }),
        ("place", &|context| fs::rename(at(context, "a"), at(context, "d/a")).expect("rename")),
        ("a directory without files", &|context| fs::create_dir(at(context, "empty")).expect("make")),
        ("a hard link", &|context| {
            fs::remove_file(at(context, "d/b")).expect("remove");
            fs::write(at(context, "a"), "two\n").expect("write");
            fs::hard_link(at(context, "a"), at(context, "d/b")).expect("link");
        }),
    ];
    for (what, edit) in edits {
        assert!(keys.edited(&text, edit), "{what}");
    }
    let target = |target: &str| {
        let context = context();
        symlink(target, at(&context, "link")).expect("link");
        keys.of(&context, &text, &[])
    };
    assert_ne!(target("a"), target("d/b"));
    assert!(keys.edited(&text, |context| assert!(attribute(context, "1"))), "an attribute");
    // Times, and on which inode it lies.
    assert!(!keys.edited(&text, |context| {
        let file = fs::File::options().write(true).open(at(context, "a")).expect("open");
        file.set_modified(std::time::UNIX_EPOCH).expect("set a time");
    }));
    assert!(!keys.edited(&text, |context| {
        fs::copy(at(context, "a"), at(context, "new")).expect("copy");
        fs::rename(at(context, "new"), at(context, "a")).expect("rename");
    }));
    assert!(!keys.edited(&from_root("COPY --chmod=600 a /x"), |context| context.chmod("a", 0o755)));
    // Owners of a context are none; those of a stage are.
    if rustix::process::geteuid().is_root() {
        assert!(!keys.edited(&text, |context| {
            std::os::unix::fs::chown(at(context, "a"), Some(5), Some(6)).expect("chown");
        }));
    }
}

#[test]
fn a_copy_from_a_stage_counts_by_definition_then_by_content() {
    let keys = Keys::new();
    let text = |command: &str, copy: &str| {
        format!("FROM busybox AS one\nRUN {command}\nFROM busybox\nCOPY --from=one {copy}\n")
    };
    keys.differ(&[
        &text("echo 1 > /f", "/f /f"),
        &text("echo 2 > /f", "/f /f"),
        &text("echo 1 > /f", "/etc /f"),
    ]);
    keys.differ(&[&text("echo 1 > /g; :", "/g /f"), &text("echo 1 > /g", "/g /f")]);
    let context = context();
    context.write("Dockerfile", text("echo 1 > /g; : again", "/g /f"));
    assert_eq!(keys.0.steps(&context, &[]).executed(), ["RUN echo 1 > /g; : again"]);
    // With --chown the stage's owners do not count.
    let owned = |id: u8, chown: &str| text(&format!("echo 1 > /h; chown {id} /h"), &format!("{chown}/h /f"));
    keys.plain(&owned(1, "--chown=7 "));
    context.write("Dockerfile", owned(2, "--chown=7 "));
    assert_eq!(keys.0.steps(&context, &[]).executed(), ["RUN echo 1 > /h; chown 2 /h"]);
    keys.plain(&owned(1, ""));
    context.write("Dockerfile", owned(3, ""));
    assert_eq!(keys.0.steps(&context, &[]).executed().len(), 2);
}

#[test]
fn the_epoch_counts_where_it_is_declared() {
    let keys = Keys::new();
    let with = |text: &str, epoch: &str| {
        keys.of(&context(), text, &[&format!("--build-arg=SOURCE_DATE_EPOCH={epoch}")])
    };
    let (plain, declared) = ("FROM busybox\nRUN true\n", "FROM busybox\nARG SOURCE_DATE_EPOCH\nRUN true\n");
    assert_eq!(with(plain, "1"), with(plain, "2"));
    assert_ne!(with(declared, "1"), with(declared, "2"));
}

#[test]
fn labels_names_and_comments_are_no_part_of_it() {
    let keys = Keys::new();
    keys.agree(&[
        "FROM busybox\nRUN true\n",
        "FROM busybox AS named\nRUN true\n",
        "# a comment\n\n\nFROM busybox\n# another\nLABEL a=b\nEXPOSE 80\nCMD x\nRUN true\n",
        "FROM busybox\nRUN \\\n  true\n",
    ]);
}

#[test]
fn to_switch_the_cache_off_changes_no_key() {
    let keys = Keys::new();
    let text = "FROM busybox AS one\nRUN true\nFROM one\nRUN false || true\n";
    let plain = keys.plain(text);
    assert_eq!(plain, keys.of(&context(), text, &["--no-cache"]));
    assert_eq!(plain, keys.of(&context(), text, &["--no-cache-filter=one"]));
}

const EVERYTHING: &str = "\
FROM busybox AS one
ARG A=\u{e4}\u{f6}
WORKDIR /w
COPY --exclude=*.md . .
RUN --mount=type=bind,source=d,target=/m ls /m > list
FROM busybox
COPY --link a /a
COPY --from=one --chown=1:2 /w /w
COPY <<end /here
$A
end
RUN sort /w/list > /sorted
";

/// The keys of all steps.
fn keys_of(mut command: Command, home: &Home, context: &Context) -> Vec<String> {
    for variable in ["SOURCE_DATE_EPOCH", "BUILDER_DISABLE"] {
        command.env_remove(variable);
    }
    let build = home.build(context);
    command.arg(build.get_program()).args(build.get_args()).env("BUILDER_HOME", home.path());
    run(&mut command).ok();
    all_keys(&record(home))
}

/// Keys are the same in years to come: what is otherwise in `testdata/keys/golden` is a new version of the keys. Without the file it is made.
#[test]
#[cfg(target_arch = "x86_64")]
fn golden_keys_of_every_kind_of_step() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/keys");
    let dockerfile = fs::read(golden.join("Dockerfile")).expect("read the Dockerfile");
    let context = context().file("Dockerfile", dockerfile).file("archive.tar", vec![0; 1024]);
    context.chmod("archive.tar", 0o644);
    for directory in ["", "d"] {
        context.chmod(directory, 0o755);
    }
    let home = Home::new();
    let mut build = home.builder("build");
    build.arg(format!("--build-context=base=oci-layout://{}", golden.join("base").display()));
    run(build.arg(context.path())).ok();
    let record = record(&home);
    let steps = record["steps"].as_array().expect("a list").iter();
    let keyed = steps.filter_map(|step| Some((step["key"].as_str()?, step["name"].as_str()?)));
    // The steps of stages that do not depend on each other have no order.
    let mut lines: Vec<String> = keyed.map(|(key, name)| format!("{name}\n    {key}\n")).collect();
    lines.sort();
    assert!(lines.len() > 15, "{lines:#?}");
    let (found, file) = (lines.concat(), golden.join("golden"));
    match fs::read_to_string(&file) {
        Ok(want) => assert_eq!(found, want, "a change of keys is a new KEY_VERSION"),
        Err(_) => {
            fs::write(&file, &found).expect("write the golden keys");
            panic!("made {}: look at it, and commit it", file.display());
        }
    }
}

/// State directory and context are other ones each time.
#[test]
fn keys_are_the_same_everywhere() {
    let context = || {
        let context =
            context().file("Dockerfile", EVERYTHING).file("\u{e4}", "umlaut\n").file("Z", "").file("z", "");
        for path in ["\u{e4}", "Z", "z", "Dockerfile", ".dockerignore"] {
            context.chmod(path, 0o644);
        }
        context
    };
    let shell = |script: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{script}; exec \"$@\""), "sh"]);
        shell
    };
    let want = keys_of(shell("true"), &Home::new(), &context());
    assert!(want.len() >= 8, "{want:#?}");
    for script in [
        "umask 077",
        "umask 000",
        "export LC_ALL=C LANG=C",
        "export LC_ALL=tr_TR.UTF-8 LANG=de_DE.UTF-8",
        "export TZ=Pacific/Kiritimati",
        "export RAYON_NUM_THREADS=1 TOKIO_WORKER_THREADS=1",
        "export BUILDER_DISABLE=stat-cache,chunks",
        "cd /",
        "export HOME=/nonexistent USER=nobody",
    ] {
        assert_eq!(keys_of(shell(script), &Home::new(), &context()), want, "{script}");
    }
}

#[test]
fn keys_are_the_same_for_everyone() {
    need_root();
    let context = || {
        let context = context().file("Dockerfile", EVERYTHING);
        for path in ["Dockerfile", ".dockerignore"] {
            context.chmod(path, 0o644);
        }
        context
    };
    let want = keys_of(Command::new("env"), &Home::new(), &context());
    for user in [User::with_range(), User::with_one_id()] {
        let context = context();
        // A user with one id cannot give files away: what follows from it is another matter than keys.
        let built = run(&mut user.build(&context));
        assert!(matches!(built.code, Some(0)), "{built}");
        let told = run(user.builder("history").args(["inspect", "--format=json"])).ok().stdout;
        assert_eq!(all_keys(&serde_json::from_str(&told).expect("JSON")), want);
    }
}
