//! Against Debian's `docker-registry`.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use hash::Digest;
use image::ResolveError;
use registry::{Client, Config, Credentials};
use serde_json::{Value, json};

use crate::server::{Reply, Request, Server};
use crate::support::{
    DockerRegistry, INDEX, config, docker_config, layout, over, platform, pull, resolve, run,
};

#[tokio::test]
async fn pulls_an_image_of_one_platform_out_of_an_index() {
    let registry = DockerRegistry::start(Value::Null, Value::Null);
    let directory = tempfile::tempdir().unwrap();
    let made = layout(directory.path());
    registry.push(directory.path(), &[]);

    let client = Client::new(config());
    let image = resolve(&client, &format!("{}/app:v1", registry.name)).await.unwrap();
    assert_eq!(image.manifest_digest, Digest::of(&made.manifest));
    assert_eq!(image.config_digest, Digest::of(&made.config));
    assert_eq!(image.platform, platform());
    assert_eq!(image.config.config.labels.as_ref().unwrap()["made"], "by a test");
    assert_eq!(image.layers[0].diff_id, Digest::of(&made.layer));
    assert!(pull(&image).await.unwrap() == [made.layer]);
    let index = image.index.as_ref().expect("the index that the name means");
    assert_eq!((index.descriptor.digest, &*index.descriptor.media_type), (Digest::of(&index.bytes), INDEX));
    assert_eq!((index.manifests.len(), index.manifests.contains(&image.manifest_digest)), (2, true));
    let by_index = format!("{}/app@{}", registry.name, index.descriptor.digest);
    assert_eq!(resolve(&client, &by_index).await.unwrap().index, image.index);

    let by_digest = format!("{}/app@{}", registry.name, image.manifest_digest);
    let plain = resolve(&client, &by_digest).await.unwrap();
    assert_eq!((plain.config, plain.index), (image.config.clone(), None));

    let error = resolve(&client, &format!("{}/app:v2", registry.name)).await.unwrap_err();
    assert!(matches!(&error, ResolveError::NotFound(name) if name.ends_with("/app:v2")), "{error}");
    let error = resolve(&client, &format!("{}/other", registry.name)).await.unwrap_err();
    assert!(matches!(error, ResolveError::NotFound(_)), "{error}");

    let reference = format!("{}/app:v1", registry.name).parse().unwrap();
    let windows = "windows/amd64".parse().unwrap();
    let error = image::ImageResolver::resolve(&client, &reference, &windows).await.unwrap_err();
    assert!(error.to_string().contains("it has linux/amd64, linux/arm64"), "{error}");
}

#[tokio::test]
async fn logs_in_with_a_password() {
    let directory = tempfile::tempdir().unwrap();
    let passwords = directory.path().join("htpasswd");
    // bcrypt of `secret`.
    fs::write(&passwords, "me:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n").unwrap();
    let registry =
        DockerRegistry::start(json!({"htpasswd": {"realm": "test", "path": passwords}}), Value::Null);
    let made = layout(directory.path());
    registry.push(directory.path(), &["--dest-creds", "me:secret"]);
    let name = format!("{}/app:v1", registry.name);

    let path = docker_config(directory.path(), &registry.name, "me", "secret");
    let client = Client::new(Config { credentials: Credentials::DockerConfig(path.clone()), ..config() });
    assert!(pull(&resolve(&client, &name).await.unwrap()).await.unwrap() == [made.layer]);

    docker_config(directory.path(), &registry.name, "me", "wrong");
    let client = Client::new(Config { credentials: Credentials::DockerConfig(path.clone()), ..config() });
    let error = resolve(&client, &name).await.unwrap_err();
    assert!(matches!(error, ResolveError::Denied { .. }), "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");

    fs::write(&path, "{}").unwrap();
    let client = Client::new(Config { credentials: Credentials::DockerConfig(path), ..config() });
    let error = resolve(&client, &name).await.unwrap_err().to_string();
    assert!(error.contains("needs a login") && error.contains("`builder login` writes it"), "{error}");
}

#[tokio::test]
async fn gets_tokens_that_the_registry_accepts() {
    let directory = tempfile::tempdir().unwrap();
    let (key, certificate) = certificate(directory.path(), "token", None);
    let der = directory.path().join("token.der");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    run("openssl", &["x509", "-in", &text(&certificate), "-outform", "DER", "-out", &text(&der)]);
    let der = fs::read(der).unwrap();
    let tokens = Server::start(move |request, _| token_for(request, &key, &der));
    let auth = json!({"token": {
        "realm": format!("http://{}/token", tokens.address), "service": "the registry", "issuer": "test",
        "rootcertbundle": certificate,
    }});
    let registry = DockerRegistry::start(auth, Value::Null);
    let made = layout(directory.path());
    registry.push(directory.path(), &["--dest-creds", "me:secret"]);
    let before = tokens.requests().len();

    let path = docker_config(directory.path(), &registry.name, "me", "secret");
    let client = Client::new(Config { credentials: Credentials::DockerConfig(path), ..config() });
    let image = resolve(&client, &format!("{}/app:v1", registry.name)).await.unwrap();
    assert!(pull(&image).await.unwrap() == [made.layer]);
    let asked = tokens.requests().split_off(before);
    assert_eq!(asked.len(), 1, "one token is enough for all requests: {asked:?}");
    assert_eq!(asked[0].target, "/token?account=me&service=the+registry&scope=repository%3Aapp%3Apull");

    let anonymous = Client::new(config());
    let error = resolve(&anonymous, &format!("{}/app:v1", registry.name)).await.unwrap_err();
    assert!(matches!(error, ResolveError::Denied { .. }), "{error}");
}

/// A token (distribution, `auth/jwt.md`) for whatever is asked for by `me`.
fn token_for(request: &Request, key: &Path, certificate: &[u8]) -> Reply {
    let basic = format!("Basic {}", BASE64_STANDARD.encode("me:secret"));
    if request.header("authorization") != Some(&basic) {
        return Reply::new(401, r#"{"details":"incorrect username or password"}"#);
    }
    let url = url::Url::parse(&format!("http://x{}", request.target)).unwrap();
    let access: Vec<Value> = url
        .query_pairs()
        .filter(|(name, _)| name == "scope")
        .map(|(_, scope)| {
            let parts: Vec<&str> = scope.splitn(3, ':').collect();
            json!({"type": parts[0], "name": parts[1], "actions": parts[2].split(',').collect::<Vec<_>>()})
        })
        .collect();
    let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [BASE64_STANDARD.encode(certificate)]});
    let claims = json!({
        "iss": "test", "sub": "me", "aud": "the registry", "jti": "1", "access": access,
        "nbf": 0, "iat": 0, "exp": 4_000_000_000u64,
    });
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let signed =
        format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &signed).unwrap();
    let signature =
        run("openssl", &["dgst", "-sha256", "-sign", key.to_str().unwrap(), file.path().to_str().unwrap()]);
    Reply::new(
        200,
        json!({"token": format!("{signed}.{}", encode(&signature)), "expires_in": 300}).to_string(),
    )
}

/// A key and a certificate for 127.0.0.1, signed by itself or by `issuer`.
fn certificate(directory: &Path, name: &str, issuer: Option<&str>) -> (PathBuf, PathBuf) {
    let file = |name: &str, extension: &str| directory.join(format!("{name}.{extension}"));
    let (key, certificate) = (file(name, "key"), file(name, "crt"));
    let subject = format!("/CN={name}");
    let signer = issuer.map(|issuer| (file(issuer, "crt"), file(issuer, "key")));
    let mut arguments =
        vec!["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", &subject];
    arguments.extend(["-addext", "subjectAltName=IP:127.0.0.1"]);
    if let Some((signer, signer_key)) = &signer {
        arguments.extend(["-addext", "basicConstraints=critical,CA:FALSE"]);
        arguments.extend(["-CA", signer.to_str().unwrap(), "-CAkey", signer_key.to_str().unwrap()]);
    }
    arguments.extend(["-keyout", key.to_str().unwrap(), "-out", certificate.to_str().unwrap()]);
    run("openssl", &arguments);
    (key, certificate)
}

#[tokio::test]
async fn trusts_and_identifies_itself_with_certificates_of_certs_d() {
    let directory = tempfile::tempdir().unwrap();
    let (_, authority) = certificate(directory.path(), "authority", None);
    let (key, signed) = certificate(directory.path(), "server", Some("authority"));
    let (client_key, client_certificate) = certificate(directory.path(), "client", None);
    let tls = json!({"certificate": signed, "key": key, "clientcas": [client_certificate]});
    let registry = DockerRegistry::start(Value::Null, tls);
    let made = layout(directory.path());

    let all = directory.path().join("certs.d");
    let own = all.join(&registry.name);
    fs::create_dir_all(&own).unwrap();
    fs::copy(&client_key, own.join("client.key")).unwrap();
    fs::copy(&client_certificate, own.join("client.cert")).unwrap();
    registry.push(directory.path(), &["--dest-cert-dir", own.to_str().unwrap()]);
    let name = format!("{}/app:v1", registry.name);
    let strict = || {
        over(|to| {
            to.loopback_is_insecure = false;
            to.certificates = vec![all.clone()];
        })
    };

    let error = resolve(&Client::new(strict()), &name).await.unwrap_err().to_string();
    assert!(error.contains("an authority that this machine does not know"), "{error}");

    // As Docker has it, certificates on loopback are not verified; the client's own is still shown.
    let lax = Client::new(over(|to| to.certificates = vec![all.clone()]));
    resolve(&lax, &name).await.unwrap();
    resolve(&Client::new(config()), &name).await.unwrap_err();

    fs::copy(&authority, own.join("ca.crt")).unwrap();
    let image = resolve(&Client::new(strict()), &name).await.unwrap();
    assert!(pull(&image).await.unwrap() == [made.layer]);

    fs::write(own.join("ca.crt"), "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n").unwrap();
    let error = resolve(&Client::new(strict()), &name).await.unwrap_err().to_string();
    assert!(error.contains(own.join("ca.crt").to_str().unwrap()), "{error}");
}

/// What `openssl req -x509` makes is an authority and a server in one.
#[tokio::test]
async fn trusts_a_self_signed_certificate_that_was_put_there() {
    let directory = tempfile::tempdir().unwrap();
    let (key, own) = certificate(directory.path(), "server", None);
    let (_, other) = certificate(directory.path(), "other", None);
    let registry = DockerRegistry::start(Value::Null, json!({"certificate": own, "key": key}));
    let trusting = directory.path().join(&registry.name);
    fs::create_dir(&trusting).unwrap();
    let certificates = vec![directory.path().to_owned()];
    let strict = || {
        over(|to| {
            to.loopback_is_insecure = false;
            to.certificates = certificates.clone();
        })
    };
    let name = format!("{}/app:v1", registry.name);

    fs::copy(&other, trusting.join("ca.crt")).unwrap();
    let error = resolve(&Client::new(strict()), &name).await.unwrap_err();
    assert!(matches!(error, ResolveError::Unreachable { .. }), "{error}");
    fs::copy(&own, trusting.join("ca.crt")).unwrap();
    let error = resolve(&Client::new(strict()), &name).await.unwrap_err();
    assert!(matches!(error, ResolveError::NotFound(_)), "{error}");
}
