//! Bases from a registry: Debian's docker-registry on the loopback.

use std::fs;
use std::path::Path;

use base64::Engine;
use e2e::{Context, Home, Registry, base, run, tempdir, tool};

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

#[test]
fn an_image_that_is_not_there() {
    let registry = registry(None);
    for name in ["library/tool:2", "nothing/here:1"] {
        let context = Context::new(&format!("FROM {}/{name}\nRUN true\n", registry.address));
        let done = run(&mut Home::new().build(&context)).code_is(1).says(name);
        assert!(done.stderr.contains("not found"), "{done}");
    }
}
