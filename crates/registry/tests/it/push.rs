//! Pushing: to Debian's `docker-registry`, and to one that breaks off, limits, forgets and lies.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hash::Digest;
use image::{ContentStore, Descriptor, MemoryStore, Reference};
use registry::{Client, Config, Credentials, Push, PushBlob, PushError, PushManifest};
use serde_json::{Value, json};

use crate::server::{Reply, Request, Server};
use crate::support::{
    DockerRegistry, INDEX, MANIFEST, Made, Told, config, descriptor, docker_config, make, noise, pull,
    resolve, run,
};

fn blob(bytes: &[u8]) -> PushBlob {
    let descriptor = Descriptor::new("application/octet-stream", Digest::of(bytes), bytes.len() as u64);
    PushBlob { descriptor, mount_from: None, source: None }
}

fn manifest(media_type: &str, bytes: &[u8]) -> PushManifest {
    PushManifest { media_type: media_type.to_owned(), bytes: bytes.to_vec().into() }
}

fn push_of(made: &Made, to: &str) -> Push {
    Push {
        to: to.parse().unwrap(),
        blobs: vec![blob(&made.layer), blob(&made.config)],
        manifests: vec![manifest(MANIFEST, &made.manifest)],
    }
}

fn store(blobs: &[&[u8]]) -> Arc<dyn ContentStore> {
    let store = MemoryStore::default();
    for bytes in blobs {
        (&store as &dyn ContentStore).put(bytes).unwrap();
    }
    Arc::new(store)
}

fn store_of(made: &Made) -> Arc<dyn ContentStore> {
    store(&[&made.layer, &made.config])
}

#[tokio::test]
async fn pushes_what_is_missing_and_mounts_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let passwords = directory.path().join("htpasswd");
    // bcrypt of `secret`.
    fs::write(&passwords, "me:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n").unwrap();
    let registry =
        DockerRegistry::start(json!({"htpasswd": {"realm": "test", "path": passwords}}), Value::Null);
    let path = docker_config(directory.path(), &registry.name, "me", "secret");
    let client = Client::new(Config { credentials: Credentials::DockerConfig(path), ..config() });
    let name = |name: &str| format!("{}/{name}", registry.name);
    let (amd64, arm64) = (make(noise(300_000), "amd64"), make(noise(1000), "arm64"));

    // Nobody in particular may not.
    let push = push_of(&amd64, &name("app:v1"));
    let error = Client::new(config()).push(&push, &store_of(&amd64), &Told::default()).await.unwrap_err();
    assert!(matches!(error, PushError::Denied { .. }), "{error}");

    // An index and its images.
    let mut entries = Vec::new();
    for (image, architecture) in [(&amd64, "amd64"), (&arm64, "arm64")] {
        let mut entry = descriptor(MANIFEST, &image.manifest);
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entries.push(entry);
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
    let all: Vec<&[u8]> = vec![&amd64.layer, &amd64.config, &arm64.layer, &arm64.config];
    let push = Push {
        to: name("app:v1").parse().unwrap(),
        blobs: all.iter().map(|bytes| blob(bytes)).collect(),
        manifests: vec![
            manifest(MANIFEST, &amd64.manifest),
            manifest(MANIFEST, &arm64.manifest),
            manifest(INDEX, index.as_bytes()),
        ],
    };
    let told = Told::default();
    let digest = client.push(&push, &store(&all), &told).await.unwrap();
    assert_eq!(digest, Digest::of(index.as_bytes()));
    // A slow machine may tell the end twice.
    let whole: HashMap<Digest, u64> =
        told.0.lock().unwrap().iter().filter(|(_, now, of)| now == of).map(|told| (told.0, told.1)).collect();
    assert_eq!(whole.values().sum::<u64>(), all.iter().map(|bytes| bytes.len() as u64).sum::<u64>());
    let image = resolve(&client, &name("app:v1")).await.unwrap();
    assert!(pull(&image).await.unwrap() == [amd64.layer.clone()]);
    let raw = run(
        "skopeo",
        &[
            "inspect",
            "--raw",
            "--tls-verify=false",
            "--creds=me:secret",
            &format!("docker://{}", name("app:v1")),
        ],
    );
    assert_eq!(raw, index.as_bytes());

    // All there: no byte is read.
    let told = Told::default();
    client.push(&push, &store(&[]), &told).await.unwrap();
    assert!(told.0.lock().unwrap().is_empty());

    // Into another repository, without having the bytes: mounted, or fetched where that cannot be.
    for (to, from) in [("mounted:v1", "app:v1"), ("fetched", "none:v1")] {
        let mut push = push_of(&amd64, &name(to));
        for blob in &mut push.blobs {
            blob.mount_from = Some(name(from).parse::<Reference>().unwrap());
            blob.source = (from == "none:v1").then(|| Arc::clone(&image.blobs));
        }
        client.push(&push, &store(&[]), &Told::default()).await.unwrap();
        let pushed = resolve(&client, &name(to)).await.unwrap();
        assert_eq!(pushed.manifest_digest, Digest::of(&amd64.manifest));
        assert!(pull(&pushed).await.unwrap() == [amd64.layer.clone()]);
    }
    let missing = client.push(&push_of(&arm64, &name("missing")), &store(&[]), &Told::default()).await;
    assert!(matches!(missing.unwrap_err(), PushError::Io { .. }));
}

#[tokio::test]
async fn sends_large_blobs() {
    let registry = DockerRegistry::start(Value::Null, Value::Null);
    let made = make(noise(1 << 20).repeat(40), "amd64");
    let told = Told::default();
    let name = format!("{}/large:v1", registry.name);
    let client = Client::new(config());
    client.push(&push_of(&made, &name), &store_of(&made), &told).await.unwrap();
    assert!(pull(&resolve(&client, &name).await.unwrap()).await.unwrap() == [made.layer]);
}

/// A registry in memory: what it has, and uploads by number.
#[derive(Default)]
struct Memory {
    blobs: HashMap<String, Vec<u8>>,
    manifests: HashMap<String, Vec<u8>>,
    uploads: Vec<Vec<u8>>,
}

impl Memory {
    fn answer(&mut self, request: &Request) -> Reply {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let last = path.rsplit('/').next().unwrap().to_owned();
        let upload = path.contains("/uploads/").then(|| last.parse::<usize>().ok()).flatten();
        let at = |number: usize| format!("/v2/app/blobs/uploads/{number}");
        match (request.method.as_str(), upload) {
            ("HEAD", _) if self.blobs.contains_key(&last) => Reply::new(200, ""),
            ("HEAD", _) => Reply::new(404, ""),
            ("DELETE", Some(_)) => Reply::new(204, ""),
            ("POST", _) => {
                self.uploads.push(Vec::new());
                Reply::new(202, "").with("Location", at(self.uploads.len() - 1))
            }
            ("GET", Some(number)) => self.state(204, number),
            ("PATCH", Some(number)) => {
                let first = request.header("content-range").unwrap().split('-').next().unwrap();
                if first.parse() != Ok(self.uploads[number].len()) {
                    return self.state(416, number);
                }
                self.uploads[number].extend(&request.body);
                self.state(202, number)
            }
            ("PUT", Some(number)) => {
                self.uploads[number].extend(&request.body);
                let digest = Digest::of(&self.uploads[number]).to_string();
                if query != format!("digest={}", digest.replace(':', "%3A")) {
                    return Reply::new(
                        400,
                        r#"{"errors":[{"code":"DIGEST_INVALID","message":"not its digest"}]}"#,
                    );
                }
                self.blobs.insert(digest, self.uploads[number].clone());
                Reply::new(201, "")
            }
            ("PUT", None) => {
                self.manifests.insert(last, request.body.clone());
                Reply::new(201, "").with("Docker-Content-Digest", Digest::of(&request.body))
            }
            other => panic!("{other:?} {path}"),
        }
    }

    fn state(&self, status: u16, number: usize) -> Reply {
        let reply = Reply::new(status, "").with("Location", format!("/v2/app/blobs/uploads/{number}"));
        reply.with("Range", format!("0-{}", self.uploads[number].len().saturating_sub(1)))
    }
}

/// A registry in memory, except where `fault` has another answer; it gets the registry, the request and the number of
/// requests of this method before.
fn faulty(
    fault: impl Fn(&mut Memory, &Request, usize) -> Option<Reply> + Send + Sync + 'static,
) -> (Server, Arc<Mutex<Memory>>) {
    let memory = Arc::new(Mutex::new(Memory::default()));
    let (own, counts) = (Arc::clone(&memory), Mutex::new(HashMap::<String, usize>::new()));
    let server = Server::start(move |request, _| {
        let count = {
            let mut counts = counts.lock().unwrap();
            let count = counts.entry(request.method.clone()).or_default();
            *count += 1;
            *count - 1
        };
        let mut memory = own.lock().unwrap();
        fault(&mut memory, request, count).unwrap_or_else(|| memory.answer(request))
    });
    (server, memory)
}

/// Three chunks.
fn large() -> Vec<u8> {
    noise(1 << 20).repeat(20)
}

async fn push_one(server: &Server, bytes: &[u8]) -> Result<Digest, PushError> {
    let push = Push {
        to: format!("{}/app:v1", server.address).parse().unwrap(),
        blobs: vec![blob(bytes)],
        manifests: vec![manifest(MANIFEST, b"{}")],
    };
    Client::new(config()).push(&push, &store(&[bytes]), &Told::default()).await
}

fn count(server: &Server, method: &str) -> usize {
    server.requests().iter().filter(|request| request.method == method).count()
}

#[tokio::test]
async fn sends_several_at_once_up_to_the_limit() {
    let (busy, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    let server = Server::start(move |request, number| match request.method.as_str() {
        "HEAD" => Reply::new(404, ""),
        "POST" => Reply::new(202, "").with("Location", format!("/v2/app/blobs/uploads/{number}")),
        "PUT" if request.target.contains("/blobs/") => {
            seen.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // Until there are as many as may be, and then for more.
            let pause = |milliseconds| std::thread::sleep(Duration::from_millis(milliseconds));
            (0..1000).take_while(|_| seen.load(Ordering::SeqCst) < 3).for_each(|_| pause(10));
            pause(100);
            busy.fetch_sub(1, Ordering::SeqCst);
            Reply::new(201, "")
        }
        _ => Reply::new(201, ""),
    });
    let layers: Vec<Vec<u8>> = (1..=8).map(|length| noise(length * 100)).collect();
    let push = Push {
        to: format!("{}/app:v1", server.address).parse().unwrap(),
        blobs: layers.iter().map(|layer| blob(layer)).collect(),
        manifests: vec![manifest(MANIFEST, b"{}")],
    };
    let all: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let client = Client::new(Config { parallel: 3, ..config() });
    client.push(&push, &store(&all), &Told::default()).await.unwrap();
    assert_eq!(most.load(Ordering::SeqCst), 3);
    let requests = server.requests();
    let is_blob = |request: &&Request| request.method == "PUT" && request.target.contains("/blobs/");
    assert_eq!(requests.iter().filter(is_blob).count(), layers.len());
    assert!(requests.last().is_some_and(|last| last.target.contains("/manifests/")), "{requests:?}");
}

#[tokio::test]
async fn sends_chunks_when_the_whole_does_not_go() {
    let bytes = large();
    for (whole, waits) in [(Reply::new(503, ""), true), (Reply::new(413, "<html>"), false)] {
        let first = whole.clone();
        let (server, memory) = faulty(move |_, request, count| match (request.method.as_str(), count) {
            ("PUT", 0) => Some(first.clone()),
            // One is lost before it is stored, one after.
            ("PATCH", 1) => Some(Reply::new(500, "")),
            _ => None,
        });
        push_one(&server, &bytes).await.unwrap_or_else(|error| panic!("{error} {waits}"));
        let memory = memory.lock().unwrap();
        assert!(memory.blobs[&Digest::of(&bytes).to_string()] == bytes);
        assert_eq!(memory.manifests["v1"], b"{}");
        assert_eq!((count(&server, "PATCH"), count(&server, "GET")), (4, 1));
    }
}

#[tokio::test]
async fn goes_on_where_the_registry_has_it() {
    let bytes = large();
    let (server, memory) = faulty(|memory, request, count| match (request.method.as_str(), count) {
        ("PUT", 0) => Some(Reply::new(502, "")),
        // Stored, but the answer is lost.
        ("PATCH", 1) => {
            memory.answer(request);
            Some(Reply::new(504, ""))
        }
        // Stored in part.
        ("PATCH", 2) => {
            let mut half = request.clone();
            half.body.truncate(1000);
            memory.answer(&half);
            Some(Reply::new(500, ""))
        }
        _ => None,
    });
    push_one(&server, &bytes).await.unwrap();
    assert!(memory.lock().unwrap().blobs[&Digest::of(&bytes).to_string()] == bytes);
    assert_eq!(count(&server, "PATCH"), 4);
}

#[tokio::test]
async fn an_answer_that_was_lost_is_no_second_upload() {
    let bytes = noise(100_000);
    let (server, _) = faulty(|memory, request, count| match (request.method.as_str(), count) {
        ("PUT", 0) => {
            memory.answer(request);
            Some(Reply { length: Some(10), ..Reply::new(500, "") })
        }
        _ => None,
    });
    push_one(&server, &bytes).await.unwrap();
    assert_eq!(count(&server, "POST"), 1);
}

#[tokio::test]
async fn an_upload_that_was_forgotten_is_begun_anew() {
    let bytes = large();
    let (server, memory) = faulty(|_, request, count| match (request.method.as_str(), count) {
        ("PUT", 0) | ("PATCH", 1) => Some(Reply::new(503, "")),
        ("GET", 0) => Some(Reply::new(404, "")),
        _ => None,
    });
    push_one(&server, &bytes).await.unwrap();
    assert!(memory.lock().unwrap().blobs[&Digest::of(&bytes).to_string()] == bytes);
    assert_eq!(count(&server, "POST"), 3);
}

#[tokio::test]
async fn waits_as_long_as_the_registry_asks() {
    let (server, _) = faulty(|_, request, count| match (request.method.as_str(), count) {
        ("PUT", 1) => Some(Reply::new(429, "").with("Retry-After", 1)),
        _ => None,
    });
    let begin = Instant::now();
    push_one(&server, b"small").await.unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn gives_up_in_words() {
    let (server, _) = faulty(|_, request, _| {
        let denied = r#"{"errors":[{"code":"DENIED","message":"read only"}]}"#;
        (request.method == "POST").then(|| Reply::new(403, denied))
    });
    let error = push_one(&server, b"small").await.unwrap_err();
    assert!(matches!(error, PushError::Denied { .. }) && error.to_string().contains("read only"), "{error}");
    assert_eq!(count(&server, "PUT"), 0);

    let (server, _) = faulty(|_, request, _| (request.method == "PUT").then(|| Reply::new(500, "")));
    let error = push_one(&server, b"small").await.unwrap_err();
    assert!(matches!(error, PushError::Unreachable { .. }), "{error}");

    // Stored as something else.
    let (server, _) = faulty(|_, request, _| {
        let other = Reply::new(201, "").with("Docker-Content-Digest", Digest::of(b"other"));
        request.target.contains("/manifests/").then_some(other)
    });
    let error = push_one(&server, b"small").await.unwrap_err();
    assert!(error.to_string().contains("as another one"), "{error}");

    let (server, _) = faulty(|_, _, _| None);
    let wrong = format!("{}/app@{}", server.address, Digest::of(b"other"));
    let push =
        Push { to: wrong.parse().unwrap(), blobs: Vec::new(), manifests: vec![manifest(MANIFEST, b"{}")] };
    let error = Client::new(config()).push(&push, &store(&[]), &Told::default()).await.unwrap_err();
    assert!(error.to_string().contains("has the digest"), "{error}");
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn credentials_do_not_follow_an_upload_to_another_server() {
    let storage = Server::start(|_, _| Reply::new(201, ""));
    let there = format!("http://{}/upload?signed=yes", storage.address);
    let (server, _) = faulty(move |_, request, _| match request.header("authorization") {
        None => Some(Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\"")),
        Some(_) if request.method == "POST" => Some(Reply::new(202, "").with("Location", &there)),
        Some(_) => None,
    });
    let directory = tempfile::tempdir().unwrap();
    let path = docker_config(directory.path(), &server.address.to_string(), "me", "secret");
    let client = Client::new(Config { credentials: Credentials::DockerConfig(path), ..config() });
    let push = Push {
        to: format!("{}/app", server.address).parse().unwrap(),
        blobs: vec![blob(b"small")],
        manifests: vec![manifest(MANIFEST, b"{}")],
    };
    client.push(&push, &store(&[b"small"]), &Told::default()).await.unwrap();
    let stored = &storage.requests()[0];
    assert_eq!((stored.method.as_str(), stored.body.as_slice()), ("PUT", b"small".as_slice()));
    assert!(stored.target.starts_with("/upload?signed=yes&digest=sha256%3A"), "{}", stored.target);
    assert_eq!(stored.header("authorization"), None);
}

#[tokio::test]
async fn one_token_is_enough_for_a_push() {
    let tokens = Server::start(|request, _| {
        let query = request.target.split_once('?').unwrap().1.to_owned();
        Reply::new(200, json!({"token": query.replace("%3A", ":").replace("%2C", ",")}).to_string())
    });
    let realm = format!("http://{}/token", tokens.address);
    let (server, memory) = faulty(move |_, request, _| {
        let token = request.header("authorization").unwrap_or_default();
        let may =
            ["repository:app:pull,push", "repository:base:pull"].iter().all(|scope| token.contains(scope));
        // It names only what the request at hand needs.
        let challenge = format!("Bearer realm=\"{realm}\",scope=\"repository:app:pull\"");
        (!may).then(|| Reply::new(401, "").with("WWW-Authenticate", challenge))
    });
    let name = |name: &str| format!("{}/{name}", server.address).parse::<Reference>().unwrap();
    let push = Push {
        to: name("app:v1"),
        blobs: vec![PushBlob { mount_from: Some(name("base")), ..blob(b"small") }],
        manifests: vec![manifest(MANIFEST, b"{}")],
    };
    Client::new(config()).push(&push, &store(&[b"small"]), &Told::default()).await.unwrap();
    assert_eq!(memory.lock().unwrap().manifests["v1"], b"{}");
    assert_eq!(tokens.requests().len(), 1);
}

/// Some token servers give nothing at all when one of the repositories is not to be read.
#[tokio::test]
async fn what_may_not_be_mounted_is_sent() {
    let tokens = Server::start(|request, _| match request.target.contains("private") {
        true => Reply::new(403, ""),
        false => Reply::new(200, json!({"token": "good"}).to_string()),
    });
    let realm = format!("http://{}/token", tokens.address);
    let (server, memory) = faulty(move |_, request, _| {
        let challenge = format!("Bearer realm=\"{realm}\",scope=\"repository:app:pull,push\"");
        let may = request.header("authorization") == Some("Bearer good");
        (!may).then(|| Reply::new(401, "").with("WWW-Authenticate", challenge))
    });
    let name = |name: &str| format!("{}/{name}", server.address).parse::<Reference>().unwrap();
    let push = Push {
        to: name("app:v1"),
        blobs: vec![PushBlob { mount_from: Some(name("private")), ..blob(b"small") }],
        manifests: vec![manifest(MANIFEST, b"{}")],
    };
    Client::new(config()).push(&push, &store(&[b"small"]), &Told::default()).await.unwrap();
    assert_eq!(memory.lock().unwrap().manifests["v1"], b"{}");
    assert_eq!(count(&server, "PUT"), 2, "the blob and the manifest");
}
