//! Bases from a registry: Debian's docker-registry on the loopback.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine;
use e2e::{Context, Home, Registry, Running, base, eventually, run, tempdir, tool};

/// A registry that holds `library/tool:1`, a copy of the busybox base.
fn registry(login: Option<(&str, &str)>) -> Registry {
    let registry = Registry::start(login);
    let mut push = tool("skopeo");
    push.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
    if let Some((user, password)) = login {
        push.arg(format!("--dest-creds={user}:{password}"));
    }
    push.arg(format!("oci:{}:latest", base("busybox").display()));
    run(push.arg(format!("docker://{}/library/tool:1", registry.address))).ok();
    registry
}

fn dockerfile(registry: &Registry) -> Context {
    Context::new(&format!("FROM {}/library/tool:1\nRUN echo pulled > /f && cat /f\n", registry.address))
}

/// A Docker configuration with credentials for an address.
fn docker_config(dir: &Path, address: &str, login: &str) {
    let auth = base64::engine::general_purpose::STANDARD.encode(login);
    let config = serde_json::json!({ "auths": { address: { "auth": auth } } });
    fs::write(dir.join("config.json"), config.to_string()).expect("write the configuration");
}

#[test]
fn anonymous_pull() {
    let registry = registry(None);
    let home = Home::new();
    let context = dockerfile(&registry);
    assert_eq!(home.steps(&context, &[]).named("RUN").log, "pulled\n");
    home.steps(&context, &[]).all_cached();
    // By digest, and through a named context.
    let digest = registry.inspect(&["--format={{.Digest}}"], "library/tool:1");
    let by_digest = format!("FROM {}/library/tool@{}\nRUN true\n", registry.address, digest.trim());
    home.steps(&Context::new(&by_digest), &[]);
    let named = format!("--build-context=thing=docker-image://{}/library/tool:1", registry.address);
    home.steps(&Context::new("FROM thing\nRUN true\n"), &[&named]);
    // COPY --from an image.
    let copy = format!("FROM scratch\nCOPY --from={}/library/tool:1 /etc/passwd /passwd\n", registry.address);
    home.steps(&Context::new(&copy), &[]);
}

#[test]
fn what_was_pulled_is_not_asked_for_again() {
    let registry = registry(None);
    let home = Home::new();
    let context = dockerfile(&registry);
    home.steps(&context, &[]);
    drop(registry);
    home.steps(&context, &[]).all_cached();
    // --pull asks: and there is nobody to answer.
    run(home.build(&context).arg("--pull")).code_is(1).says("127.0.0.1");
}

#[test]
fn a_tag_that_moved_is_seen_with_pull() {
    let registry = registry(None);
    let home = Home::new();
    let context = dockerfile(&registry);
    home.steps(&context, &[]);
    let other = home.export(&Context::new("FROM busybox\nRUN echo new > /new\n"), &[]);
    let from = format!("oci:{}", other.layout.display());
    let to = format!("docker://{}/library/tool:1", registry.address);
    run(tool("skopeo").args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", &from, &to]))
        .ok();
    home.steps(&context, &[]).all_cached();
    assert_eq!(home.steps(&context, &["--pull"]).executed().len(), 1);
}

#[test]
fn credentials_from_dockers_configuration() {
    let registry = registry(Some(("ada", "lovelace")));
    let context = dockerfile(&registry);
    let dir = tempdir();
    let build = |home: &Home| run(home.build(&context).env("DOCKER_CONFIG", dir.path()));
    let done = build(&Home::new()).code_is(1);
    assert!(
        done.stderr.contains(&registry.address) && done.stderr.to_lowercase().contains("login"),
        "{done}"
    );
    docker_config(dir.path(), &registry.address, "ada:wrong");
    build(&Home::new()).code_is(1).says(&registry.address);
    docker_config(dir.path(), &registry.address, "ada:lovelace");
    let done = build(&Home::new()).ok();
    assert!(
        !done.stderr.contains("lovelace") && !done.stdout.contains("lovelace"),
        "passwords are not shown: {done}"
    );
}

/// An image of one platform is kept as what it is, also when another platform was asked for.
#[test]
fn a_wrong_platform_is_said() {
    let (registry, home) = (registry(None), Home::new());
    let name = format!("{}/library/tool:1", registry.address);
    let platforms =
        || run(home.builder("images").args(["--format", "{{.Platform}}"])).ok().stdout.trim().to_owned();
    run(home.builder("pull").arg(&name)).ok();
    let own = platforms();
    run(home.builder("pull").args(["--platform=linux/s390x", &name]))
        .ok()
        .says(&format!("is there for {own} alone, not for linux/s390x"));
    assert_eq!(platforms(), own);
    run(home.builder("run").args(["--platform=linux/s390x", &name, "true"])).code_is(125).says("linux/s390x");
}

#[test]
fn an_image_that_is_not_there() {
    let registry = registry(None);
    for name in ["library/tool:2", "nothing/here:1"] {
        let context = Context::new(&format!("FROM {}/{name}\nRUN true\n", registry.address));
        let done = run(&mut Home::new().build(&context)).code_is(1).says(name);
        assert!(done.stderr.contains("not found"), "{done}");
    }
}

/// Commands that change something say what in a form for programs, too.
#[test]
fn what_was_done_is_told() {
    let (home, context) = (Home::new(), Context::new("FROM busybox\nCOPY Dockerfile /\n"));
    let id =
        run(home.build(&context).args(["-q", "-t", "app:1", "-t", "app:2"])).ok().stdout.trim().to_owned();
    let out = |command: &mut Command| run(command).ok().stdout;
    let objects = |text: &str| -> Vec<serde_json::Value> {
        text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
    };
    let registry = Registry::start(None);
    let name = format!("{}/app:1", registry.address);
    out(home.builder("tag").args(["app:1", &name]));
    let pushed = objects(&out(home.builder("push").args([&name, "--json"])));
    let digest = pushed[0]["Digest"].as_str().expect("a digest");
    assert_eq!((pushed.len(), pushed[0]["Name"].as_str()), (1, Some(name.as_str())));
    registry.manifest(&format!("app@{digest}"));
    let other = Home::new();
    let format = "--format={{.Name}} {{.Digest}} {{.ID}} {{.Platform}}";
    let platform = out(home.builder("inspect").args(["app:1", "-f", "{{.Os}}/{{.Architecture}}"]));
    let platform = platform.trim();
    let pulled = out(other.builder("pull").args([&name, format]));
    assert_eq!(pulled, format!("{name} {digest} {id} {platform}\n"));
    let archive = home.path().join("archive");
    out(home.builder("save").args(["app:1", "-o"]).arg(&archive));
    let loaded = objects(&out(other.builder("load").arg("--json").arg("-i").arg(&archive)));
    assert_eq!((loaded[0]["Name"].as_str(), loaded[0]["ID"].as_str()), (Some("app:1"), Some(id.as_str())));
    let removed = objects(&out(other.builder("rmi").args(["--json", &name, "app:1"])));
    assert_eq!(removed.last().and_then(|last| last["Deleted"].as_str()), Some(id.as_str()));
    assert_eq!(removed.iter().filter(|one| one["Untagged"] != "").count(), 2);
    // Archives are told of where they do not go to standard output themselves.
    let tagged = objects(&out(home.builder("tag").args(["app:1", "app:3", "--json"])));
    assert_eq!(tagged, [serde_json::json!({ "Name": "app:3", "ID": id, "Platform": platform })]);
    for command in ["save", "export"] {
        let file = home.path().join(command);
        let mut written = home.builder(command);
        written.args(["app:1", "--format={{.Name}} {{.ID}} {{.Platform}} {{.File}}", "-o"]).arg(&file);
        assert_eq!(out(&mut written), format!("app:1 {id} {platform} {}\n", file.display()));
        assert!(file.is_file(), "{command}");
        let done = run(home.builder(command).args(["app:1", "--json"])).code_is(2).says("standard output");
        assert!(done.stdout.is_empty(), "{done}");
    }
    // Logins are told of without their password.
    let config = tempdir();
    let mut login = home.builder("login");
    login.env("DOCKER_CONFIG", config.path()).args([
        "--json",
        "-u",
        "ada",
        "-p",
        "lovelace",
        &registry.address,
    ]);
    let login = objects(&out(&mut login));
    let kept = format!("unencrypted in {}", config.path().join("config.json").display());
    let expected = serde_json::json!({ "Registry": registry.address, "User": "ada", "Kept": kept });
    assert_eq!(login, [expected]);
    for removed in ["true", "false"] {
        let mut logout = home.builder("logout");
        logout.env("DOCKER_CONFIG", config.path());
        logout.args(["--format={{.Registry}} {{.Removed}}", &registry.address]);
        assert_eq!(out(&mut logout), format!("{} {removed}\n", registry.address));
    }
    // What shows something has both forms as well.
    for command in [&["inspect", "app:1"][..], &["images"], &["image", "history", "app:1"]] {
        let mut shown = home.builder(command[0]);
        let of = |extra: &str| out(home.builder(command[0]).args(&command[1..]).arg(extra));
        assert_eq!(out(shown.args(&command[1..]).arg("--json")), of("--format=json"), "{command:?}");
        assert!(!of("--format={{json .}}").is_empty());
    }
    // A template that makes no sense is refused before anything is done.
    run(home.builder("rmi").args(["app:2", "--format={{"])).code_is(2).says("--format");
    run(home.builder("inspect").arg("app:2")).ok();
    run(home.builder("push").args([&name, "--json", "-q"])).code_is(2);
    run(home.builder("tag").args(["app:2", "app:4", "--format={{"])).code_is(2);
    run(home.builder("inspect").arg("app:4")).code_is(1);
}

/// So is one of fields that there are not, which names those that there are, as the help does.
#[test]
fn fields_that_there_are_not_are_told_before_anything_is_done() {
    let (home, dir, registry) = (Home::new(), tempdir(), Registry::start(None));
    let at = |name: &str| dir.path().join(name).display().to_string();
    let name = |tag: &str| format!("{}/app:{tag}", registry.address);
    for (number, tag) in ["one", "two"].into_iter().enumerate() {
        let context = Context::new(&format!("FROM scratch\nLABEL number={number}\nCOPY Dockerfile /\n"));
        run(home.build(&context).args(["--platform=linux/amd64,linux/arm64", "-t", tag])).ok();
    }
    let of = |name: &str| {
        let format = "--format={{.Platform}} {{.ID}}";
        let listed = run(home.builder("images").args(["--no-trunc", format, name])).ok().stdout;
        listed.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    let login = ["-u", "ada", "-p", "lovelace", &registry.address];
    let command = |words: &[&str]| {
        let mut command = home.builder(words[0]);
        command.args(&words[1..]).env("DOCKER_CONFIG", dir.path());
        command
    };
    for words in [&["tag", "one", "t:1"][..], &["tag", "one", &name("1")], &["push", &name("1")]] {
        run(&mut command(words)).ok();
    }
    run(&mut command(&["save", "one", "-o", &at("one.tar")])).ok();
    run(command(&["login"]).args(login)).ok();
    let config = fs::read(at("config.json")).expect("a login");
    assert_ne!(of("one"), of("two"));
    let asked = registry.requests().len();
    for words in [
        &["tag", "two", "t:1"][..],
        &["export", "one", "-o", &at("export")],
        &["save", "one", "-o", &at("save")],
        &["load", "-i", &at("one.tar")],
        &["push", &name("1")],
        &["pull", &name("1")],
        &["login", "-u", "eve", "-p", "secret", &registry.address],
        &["logout", &registry.address],
        &["rmi", "one"],
    ] {
        let help = run(home.builder(words[0]).arg("--help")).ok().stdout;
        let help = help.split("Fields of --format").nth(1).expect("the fields").split(';').next();
        let fields = help.into_iter().flat_map(str::split_whitespace).filter(|word| word.starts_with('.'));
        let fields = fields.collect::<Vec<_>>().join(", ");
        for format in ["{{.Nope}}", "{{if eq 1 2}}{{.Nope}}{{end}}"] {
            let mut refused = command(words);
            refused.arg(format!("--format={format}"));
            if words[0] == "load" {
                refused.env("BUILDER_HOME", at("elsewhere"));
            }
            run(&mut refused).code_is(2).says(&format!("there is no field .Nope; there are {fields}\n"));
        }
    }
    assert_eq!(registry.requests().len(), asked);
    // Both platforms of it.
    assert_eq!(of("t:1"), of("one"));
    assert_eq!(of("t:1").len(), 2);
    for none in ["export", "save", "elsewhere"] {
        assert!(!dir.path().join(none).exists(), "{none}");
    }
    assert_eq!(fs::read(at("config.json")).expect("a login"), config);
    // What a template cannot make of values is noticed before an image has half a name, too.
    run(home.builder("tag").args(["two", "t:1", "--format={{index .Name 9}}"])).code_is(2);
    assert_eq!(of("t:1"), of("one"));
}

/// A key and a certificate: of an authority, or by one for the registry's address or for a client.
fn certificate(dir: &Path, name: &str, by: Option<&str>) {
    let file = |name: &str, extension: &str| dir.join(format!("{name}.{extension}"));
    let mut openssl = tool("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj"]);
    openssl.arg(format!("/CN={name}"));
    if let Some(by) = by {
        openssl.args([
            "-addext",
            "subjectAltName=IP:192.0.2.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]);
        openssl.arg("-CA").arg(file(by, "crt")).arg("-CAkey").arg(file(by, "key"));
    }
    run(openssl.arg("-keyout").arg(file(name, "key")).arg("-out").arg(file(name, "crt"))).ok();
}

/// Registries with TLS, as the program itself meets them: an authority of one's own is named with `$SSL_CERT_FILE`, or lies where Docker looks for
/// it, beside the certificate by which a client is known. (A network of its own has an address that is not the loopback's, and a mount namespace an
/// /etc/docker.)
#[test]
fn certificates_of_ones_own() {
    e2e::need_root();
    let dir = tempdir();
    let at = |name: &str| dir.path().join(name);
    certificate(dir.path(), "authority", None);
    certificate(dir.path(), "registry", Some("authority"));
    certificate(dir.path(), "client", Some("authority"));
    for (port, clients) in [(5000, ""), (5001, "clientcas: [AUTHORITY], ")] {
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"192.0.2.1:{port}\", secret: test, tls: {{{}certificate: {}, key: {}}}}}\n",
            at("data").display(),
            clients.replace("AUTHORITY", &at("authority.crt").display().to_string()),
            at("registry.crt").display(),
            at("registry.key").display()
        );
        fs::write(at(&format!("{port}.yml")), config).expect("write the configuration");
    }
    let (home, context) = (Home::new(), Context::new("FROM scratch\nCOPY Dockerfile /\n"));
    let script = "\
cd \"$1\" && ip link set lo up && ip address add 192.0.2.1/32 dev lo || exit 99
mkdir work && mount -t tmpfs none work && mkdir work/upper work/work || exit 98
mount -t overlay overlay -o lowerdir=/etc,upperdir=work/upper,workdir=work/work /etc || exit 97
for port in 5000 5001; do docker-registry serve $port.yml >$port.log 2>&1 & all=\"$all $!\"; done
trap 'kill $all' EXIT
push() { \"$2\" build --progress=plain -o type=registry,name=192.0.2.1:$1/app:1 \"$3\" 2>&1; }
tries=0; until (export SSL_CERT_FILE=authority.crt; push 5000 \"$2\" \"$3\"); do tries=$((tries + 1)); [ $tries = 100 ] && exit 96; sleep 0.1; done
echo UNKNOWN; push 5000 \"$2\" \"$3\" && exit 95
echo OTHER; (export SSL_CERT_FILE=client.crt; push 5000 \"$2\" \"$3\") && exit 94
for port in 5000 5001; do mkdir -p /etc/docker/certs.d/192.0.2.1:$port; cp authority.crt /etc/docker/certs.d/192.0.2.1:$port/ca.crt; done
echo DOCKER; push 5000 \"$2\" \"$3\" || exit 93
\"$2\" pull -q 192.0.2.1:5000/app:1 || exit 92
echo CLIENT; push 5001 \"$2\" \"$3\" && exit 91
cp client.crt /etc/docker/certs.d/192.0.2.1:5001/client.cert; cp client.key /etc/docker/certs.d/192.0.2.1:5001/
push 5001 \"$2\" \"$3\" && \"$2\" pull -q 192.0.2.1:5001/app:1 && echo END";
    let mut all = tool("unshare");
    all.args(["--net", "--mount", "--propagation=private", "sh", "-c", script, "sh"]);
    all.arg(dir.path()).arg(e2e::binary()).arg(context.path());
    let done =
        run(all.env("BUILDER_HOME", home.path()).env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR")).ok();
    let part = |from: &str, to: &str| {
        let rest = done.stdout.split(&format!("{from}\n")).nth(1).unwrap_or_default();
        rest.split(&format!("{to}\n")).next().unwrap_or_default().to_owned()
    };
    for part in [part("UNKNOWN", "OTHER"), part("OTHER", "DOCKER")] {
        assert!(part.contains("authority that this machine does not know"), "{part}\n{done}");
        assert!(part.contains("/etc/docker/certs.d/192.0.2.1:5000"), "{part}\n{done}");
    }
    assert!(part("CLIENT", "END").contains("cannot push 192.0.2.1:5001/app:1"), "{done}");
    assert!(done.stdout.ends_with("192.0.2.1:5001/app:1\nEND\n"), "{done}");
}

/// A context whose image says for each of two platforms what it is given.
fn of_two_platforms(amd64: &str, arm64: &str) -> Context {
    Context::new("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /says\nCMD [\"/says\"]\n")
        .file("amd64", amd64)
        .file("arm64", arm64)
}

/// Builds it for both, always with the same times, and pushes it.
fn push_both(home: &Home, context: &Context, name: &str) {
    let mut build = home.build(context);
    build.env("SOURCE_DATE_EPOCH", "1600000000").args(["--platform=linux/amd64,linux/arm64", "--push"]);
    run(build.args(["-t", name])).ok();
}

/// What a name means is what its registry has now: images of platforms that were brought earlier and are no longer of it lose the name,
/// whether `pull` or a build brings the new one.
#[test]
fn a_name_is_no_mixture_of_two_indexes() {
    let (registry, maker) = (Registry::start(None), Home::new());
    let name = format!("{}/team/app:1", registry.address);
    let copy = format!("{}/team/copy:1", registry.address);
    let pull = |home: &Home, platform: &str| {
        run(home.builder("pull").args(["-q", "--platform", platform, &name])).ok();
    };
    let build = |home: &Home, platform: &str| {
        let context = Context::new(&format!("FROM {name}\nCOPY --from={name} /says /copy\n"));
        run(home.build(&context).args(["--pull", "--platform", platform])).ok();
    };
    let platforms = |home: &Home| {
        let listed = run(home.builder("images").args(["--format={{.Platform}}", &name])).ok().stdout;
        listed.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let both = ["linux/amd64", "linux/arm64"];
    for bring in [&pull as &dyn Fn(&Home, &str), &build] {
        let home = Home::new();
        push_both(&maker, &of_two_platforms("1", "1"), &name);
        bring(&home, "linux/amd64");
        bring(&home, "linux/arm64");
        assert_eq!(platforms(&home), both);
        // One changes, the other stays what it is.
        push_both(&maker, &of_two_platforms("2", "1"), &name);
        bring(&home, "linux/amd64");
        assert_eq!(platforms(&home), both);
        // Both change, and one of them is brought.
        push_both(&maker, &of_two_platforms("3", "3"), &name);
        bring(&home, "linux/amd64");
        assert_eq!(platforms(&home), both[..1]);
        run(home.builder("tag").args([&name, &copy])).ok();
        run(home.builder("push").arg(&copy)).ok();
        let (pushed, there) = (registry.manifest("team/copy:1"), registry.manifest("team/app:1"));
        let digest = registry.inspect(&["--format={{.Digest}}"], "team/copy:1");
        assert!(pushed["layers"].is_array(), "one platform is no index: {pushed}");
        assert_eq!(there["manifests"][0]["digest"], digest.trim());
        // No index any more.
        let one = of_two_platforms("4", "");
        run(maker.build(&one).args(["--platform=linux/amd64", "--push", "-t", &name])).ok();
        bring(&home, "linux/amd64");
        assert_eq!(platforms(&home), both[..1]);
    }
}

/// A build that finds its base for another platform takes no name from an image that may have been made here.
#[test]
fn a_name_that_was_given_here_stays() {
    let (registry, home) = (Registry::start(None), Home::new());
    let name = format!("{}/team/app:1", registry.address);
    push_both(&Home::new(), &of_two_platforms("there", "there"), &name);
    let here = of_two_platforms("here", "here");
    run(home.build(&here).args(["--platform=linux/arm64", "-t", &name])).ok();
    let context = Context::new(&format!("FROM {name}\nCOPY --from={name} /says /copy\n"));
    let platforms = || {
        let listed = run(home.builder("images").args(["--format={{.Platform}}", &name])).ok().stdout;
        listed.trim().to_owned()
    };
    run(home.build(&context).arg("--platform=linux/amd64")).ok();
    assert_eq!(platforms(), "linux/arm64");
    run(home.build(&context).args(["--platform=linux/amd64", "--pull"])).ok();
    assert_eq!(platforms(), "linux/amd64", "the registry's is wanted");
}

/// An image is patched under its own name; and one that somebody else names meanwhile keeps its name, though a build ends later that
/// found another under it.
#[test]
fn a_build_takes_no_name_from_what_is_newer() {
    let (registry, dir) = (Registry::start(None), tempdir());
    let name = format!("{}/base:1", registry.address);
    let base = Context::new("FROM busybox\nLABEL is=base\n");
    run(Home::new().build(&base).args(["-t", &name, "--push"])).ok();
    let label = |home: &Home| {
        run(home.builder("inspect").args(["-f", "{{.Config.Labels.is}}", &name]))
            .ok()
            .stdout
            .trim()
            .to_owned()
    };
    let patched = Context::new(&format!("FROM {name}\nRUN echo patched > /patched\nLABEL is=patched\n"));
    let home = Home::new();
    run(home.build(&patched).args(["-t", &name])).ok();
    assert_eq!(label(&home), "patched");
    assert_eq!(run(home.builder("run").args([&*name, "cat", "/patched"])).ok().stdout, "patched\n");

    let home = Home::new();
    // It waits in a step until the name is given to another image.
    let gate = dir.path().join("gate");
    let slow = Context::new(&format!(
        "FROM {name}\nRUN --mount=type=cache,target=/gate touch /gate/here; until test -e /gate/open; do sleep 0.1; done\n"
    ));
    let mut build = Running::start(
        home.build(&slow).stdout(Stdio::null()).stderr(fs::File::create(&gate).expect("a file")),
    );
    let look = Context::new("FROM busybox\nRUN --mount=type=cache,target=/gate test -e /gate/here\n");
    eventually(Duration::from_secs(60), "the step to run", || run(&mut home.build(&look)).code == Some(0));
    run(home.build(&Context::new("FROM scratch\nLABEL is=mine\n")).args(["-t", &name])).ok();
    let open = Context::new("FROM busybox\nRUN --mount=type=cache,target=/gate touch /gate/open\n");
    run(&mut home.build(&open)).ok();
    assert!(build.wait(Duration::from_secs(60)).success(), "{:?}", fs::read_to_string(&gate));
    assert_eq!(label(&home), "mine");
}
