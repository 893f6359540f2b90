//! Bases from a registry: Debian's docker-registry on the loopback.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use e2e::{Context, Home, Running, base, eventually, free_port, run, tempdir, tool};

/// A registry that holds `library/tool:1`, a copy of the busybox base.
struct Registry {
    _process: Running,
    dir: tempfile::TempDir,
    address: String,
}

impl Registry {
    fn start(login: Option<(&str, &str)>) -> Self {
        let dir = tempdir();
        let address = format!("127.0.0.1:{}", free_port());
        let auth = match login {
            Some((user, password)) => {
                let line = run(tool("htpasswd").args(["-Bbn", user, password])).ok().stdout;
                let file = dir.path().join("htpasswd");
                fs::write(&file, line).expect("write the passwords");
                format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", file.display())
            }
            None => String::new(),
        };
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"{address}\", secret: test}}\n{auth}",
            dir.path().join("data").display()
        );
        let file = dir.path().join("config.yml");
        fs::write(&file, config).expect("write the configuration");
        let log = fs::File::create(dir.path().join("log")).expect("a log");
        let process = Running::start(
            tool("docker-registry")
                .arg("serve")
                .arg(&file)
                .stdout(log.try_clone().expect("a log"))
                .stderr(log),
        );
        eventually(Duration::from_secs(20), "the registry to answer", || {
            TcpStream::connect(&address).is_ok()
        });
        let registry = Self { _process: process, dir, address };
        let mut push = tool("skopeo");
        push.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
        if let Some((user, password)) = login {
            push.arg(format!("--dest-creds={user}:{password}"));
        }
        push.arg(format!("oci:{}:latest", base("busybox").display()));
        run(push.arg(format!("docker://{}/library/tool:1", registry.address))).ok();
        registry
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn dockerfile(&self) -> Context {
        Context::new(&format!("FROM {}/library/tool:1\nRUN echo pulled > /f && cat /f\n", self.address))
    }
}

/// A Docker configuration with credentials for an address.
fn docker_config(dir: &Path, address: &str, login: &str) {
    let auth = base64::engine::general_purpose::STANDARD.encode(login);
    let config = serde_json::json!({ "auths": { address: { "auth": auth } } });
    fs::write(dir.join("config.json"), config.to_string()).expect("write the configuration");
}

#[test]
fn anonymous_pull() {
    let registry = Registry::start(None);
    let home = Home::new();
    let context = registry.dockerfile();
    assert_eq!(home.steps(&context, &[]).named("RUN").log, "pulled\n", "{}", registry.log());
    home.steps(&context, &[]).all_cached();
    // By digest, and through a named context.
    let inspect = run(tool("skopeo")
        .args(["--insecure-policy", "inspect", "--tls-verify=false", "--format={{.Digest}}"])
        .arg(format!("docker://{}/library/tool:1", registry.address)))
    .ok();
    let by_digest = format!("FROM {}/library/tool@{}\nRUN true\n", registry.address, inspect.stdout.trim());
    home.steps(&Context::new(&by_digest), &[]);
    let named = format!("--build-context=thing=docker-image://{}/library/tool:1", registry.address);
    home.steps(&Context::new("FROM thing\nRUN true\n"), &[&named]);
    // COPY --from an image.
    let copy = format!("FROM scratch\nCOPY --from={}/library/tool:1 /etc/passwd /passwd\n", registry.address);
    home.steps(&Context::new(&copy), &[]);
}

#[test]
fn what_was_pulled_is_not_asked_for_again() {
    let registry = Registry::start(None);
    let home = Home::new();
    let context = registry.dockerfile();
    home.steps(&context, &[]);
    drop(registry);
    home.steps(&context, &[]).all_cached();
    // --pull asks: and there is nobody to answer.
    run(home.build(&context).arg("--pull")).code_is(1).says("127.0.0.1");
}

#[test]
fn a_tag_that_moved_is_seen_with_pull() {
    let registry = Registry::start(None);
    let home = Home::new();
    let context = registry.dockerfile();
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
    let registry = Registry::start(Some(("ada", "lovelace")));
    let context = registry.dockerfile();
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

#[test]
fn an_image_that_is_not_there() {
    let registry = Registry::start(None);
    for name in ["library/tool:2", "nothing/here:1"] {
        let context = Context::new(&format!("FROM {}/{name}\nRUN true\n", registry.address));
        let done = run(&mut Home::new().build(&context)).code_is(1).says(name);
        assert!(done.stderr.contains("not found"), "{done}");
    }
}
