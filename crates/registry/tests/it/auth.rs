//! Logins against a registry and a token server that the test plays.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use image::ResolveError;
use registry::{Client, Config, Credentials};
use serde_json::json;

use crate::server::{Reply, Request, Server};
use crate::support::{MANIFEST, config, docker_config, make, noise, pull, resolve};

/// A registry that wants the token `t<n>`, where n counts the tokens given out; tokens are good for `uses` requests.
fn registry(tokens: &Arc<Server>, uses: usize) -> Server {
    let image = make(noise(1000), "amd64");
    let (realm, tokens) = (format!("http://{}/token", tokens.address), Arc::clone(tokens));
    let used = std::sync::Mutex::new((0, 0));
    Server::start(move |request, _| {
        let given = tokens.requests().len();
        let mut used = used.lock().unwrap();
        if used.0 != given {
            *used = (given, 0);
        }
        used.1 += 1;
        let good = given > 0 && request.header("authorization") == Some(&format!("Bearer t{given}"));
        if !good || used.1 > uses {
            let challenge = format!(r#"Bearer realm="{realm}",service="s",scope="repository:app:pull""#);
            let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
            return Reply::new(401, body).with("WWW-Authenticate", challenge);
        }
        serve(request, &image)
    })
}

fn serve(request: &Request, image: &crate::support::Made) -> Reply {
    let digest = |bytes: &[u8]| hash::Digest::of(bytes).to_string();
    match request.target.as_str() {
        "/v2/app/manifests/v1" => Reply::new(200, image.manifest.clone()).with("Content-Type", MANIFEST),
        target if target.ends_with(&digest(&image.config)) => Reply::new(200, image.config.clone()),
        target if target.ends_with(&digest(&image.layer)) => Reply::new(200, image.layer.clone()),
        _ => Reply::new(404, ""),
    }
}

fn name(server: &Server) -> String {
    format!("{}/app:v1", server.address)
}

fn token_server() -> Arc<Server> {
    Arc::new(Server::start(|_, number| {
        Reply::new(200, json!({"token": format!("t{}", number + 1)}).to_string())
    }))
}

#[tokio::test]
async fn an_anonymous_token_is_asked_for_once_and_kept() {
    let tokens = token_server();
    let registry = registry(&tokens, 100);
    let client = Client::new(config());
    let image = resolve(&client, &name(&registry)).await.unwrap();
    pull(&image).await.unwrap();
    assert_eq!(tokens.requests().len(), 1);
    assert!(tokens.requests()[0].header("authorization").is_none());
    assert_eq!(registry.requests().len(), 4, "one refused, then manifest, config, layer");
}

#[tokio::test]
async fn a_token_that_ran_out_is_replaced() {
    let tokens = token_server();
    let registry = registry(&tokens, 1);
    let image = resolve(&Client::new(config()), &name(&registry)).await.unwrap();
    pull(&image).await.unwrap();
    assert_eq!(tokens.requests().len(), 3, "one for each of manifest, config, layer");
}

#[tokio::test]
async fn a_registry_that_never_is_content_is_not_asked_for_ever() {
    let tokens = token_server();
    let registry = registry(&tokens, 0);
    let error = resolve(&Client::new(config()), &name(&registry)).await.unwrap_err();
    assert!(matches!(error, ResolveError::Denied { .. }), "{error}");
    assert!(error.to_string().contains("authentication required"), "{error}");
    assert_eq!(registry.requests().len(), 2);
}

/// Helpers are found on the PATH, which a test must not change under the others: it runs itself once more.
#[tokio::test]
async fn a_credential_helper_is_asked() {
    let Some(directory) = std::env::var_os("CREDENTIAL_HELPER_TEST").map(std::path::PathBuf::from) else {
        let directory = tempfile::tempdir().unwrap();
        let helper = directory.path().join("docker-credential-builder-test");
        let script = "#!/bin/sh\ncat >\"$0.asked\"\necho '{\"Username\":\"me\",\"Secret\":\"pass:word\"}'\n";
        fs::write(&helper, script).unwrap();
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "auth::a_credential_helper_is_asked"])
            .env("PATH", path)
            .env("CREDENTIAL_HELPER_TEST", directory.path())
            .status();
        assert!(status.unwrap().success());
        return;
    };
    let tokens = token_server();
    let registry = registry(&tokens, 100);
    let path = directory.join("config.json");
    fs::write(&path, json!({"credsStore": "builder-test"}).to_string()).unwrap();
    let client = Client::new(Config { credentials: Credentials::DockerConfig(path), ..config() });
    resolve(&client, &name(&registry)).await.unwrap();
    let asked = fs::read_to_string(directory.join("docker-credential-builder-test.asked")).unwrap();
    assert_eq!(asked, registry.address.to_string());
    assert_eq!(tokens.requests()[0].header("authorization"), Some("Basic bWU6cGFzczp3b3Jk"));
}

#[tokio::test]
async fn an_identity_token_is_exchanged() {
    let tokens = token_server();
    let registry = registry(&tokens, 100);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    let login = json!({"auths": {registry.address.to_string(): {"identitytoken": "re fresh"}}});
    fs::write(&path, login.to_string()).unwrap();
    let client = Client::new(Config { credentials: Credentials::DockerConfig(path), ..config() });
    resolve(&client, &name(&registry)).await.unwrap();
    let asked = &tokens.requests()[0];
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/token"));
    assert_eq!(
        String::from_utf8_lossy(&asked.body),
        "grant_type=refresh_token&service=s&client_id=builder&scope=repository%3Aapp%3Apull&refresh_token=re+fresh"
    );
}

#[tokio::test]
async fn the_login_is_read_only_when_a_registry_asks() {
    let image = make(noise(10), "amd64");
    let open = Server::start(move |request, _| serve(request, &image));
    let tokens = token_server();
    let closed = registry(&tokens, 100);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    fs::write(&path, "{ not JSON").unwrap();
    let client = Client::new(Config { credentials: Credentials::DockerConfig(path.clone()), ..config() });
    resolve(&client, &name(&open)).await.unwrap();
    let error = resolve(&client, &name(&closed)).await.unwrap_err();
    assert!(
        matches!(&error, ResolveError::Io { action, .. } if action.contains(path.to_str().unwrap())),
        "{error}"
    );
}

#[tokio::test]
async fn a_login_that_the_token_server_refuses_is_named() {
    let tokens =
        Arc::new(Server::start(|_, _| Reply::new(401, r#"{"details":"incorrect username or password"}"#)));
    let registry = registry(&tokens, 100);
    let directory = tempfile::tempdir().unwrap();
    let path = docker_config(directory.path(), &registry.address.to_string(), "me", "pass:word");
    let client = Client::new(Config { credentials: Credentials::DockerConfig(path.clone()), ..config() });
    let error = resolve(&client, &name(&registry)).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ResolveError::Denied { .. }), "{text}");
    assert!(text.contains(path.to_str().unwrap()) && text.contains("incorrect username"), "{text}");
    assert!(!text.contains("pass:word"), "{text}");
    assert_eq!(tokens.requests()[0].header("authorization"), Some("Basic bWU6cGFzczp3b3Jk"));
}
